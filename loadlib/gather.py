"""Shard files → a run folder: what workers reported, merged and judged without their master."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from loadlib import scenario as scenarios
from loadlib import shards
from loadlib.catalog import resolve
from loadlib.conclude import Ending, conclude
from loadlib.errors import DataError, UsageError
from loadlib.folder import SHARDS, write_atomically
from loadlib.foreign import check_extent
from loadlib.lastword import LastWord, Timetable, as_it_was, cut_short
from loadlib.recorder import NS, SECOND_FIELDS, Interval, Totals
from loadlib.redact import one_line
from loadlib.run import SCENARIO, SERVER, RunWriter, read_scrapes
from loadlib.sample import Count, Ns
from loadlib.server_targets import targets
from loadlib.session import Limits, Session

_Row = (Count,) * len(SECOND_FIELDS)
MOST_WORKERS = 100_000
PHANTOM = "shard {} of {}"  # what stands for a worker whose file is not there


class _Interval(msgspec.Struct, frozen=True):
    """`recorder.Interval`, as far as a file from elsewhere must be of its form."""

    seq: Count
    start_ns: Ns
    end_ns: Ns
    hist: list[tuple[str, str, str, str, bytes]]
    counts: list[tuple[str, str, str, Count, dict[str, Count]]]
    attempts: list[tuple[str, str, str, Count, Count]]
    seconds: list[tuple[Count, str, str, str, *_Row]]  # type: ignore[valid-type]
    rows: bytes
    notes: list[tuple[str, bytes]]
    marks: dict[str, Count]


class Begin(msgspec.Struct, frozen=True, kw_only=True):
    """What a shard file says of its run. `rates` as `Plan.rates`, by phase."""

    run: str
    worker: str
    shard: tuple[int, int]  # index, count
    started_ns: Ns
    scenario: str
    free: bool
    rates: dict[str, dict[str, float]]
    unserved: list[tuple[str, str]]
    notices: list[str]
    skipped: list[str]
    allow_unhealthy: bool
    argv: list[str]
    base_url: str | None  # of the simulator, where that was the target


@dataclass(frozen=True, slots=True)
class Gathered:
    """The new run folder, and what was found."""

    folder: Path
    workers: int
    requests: int
    missing: tuple[str, ...]  # what is known to be lost, in words


@dataclass(slots=True)
class _Shard:
    """One shard file while it is read; `word` is there when it has been read to its end."""

    path: Path
    about: Begin
    reports: Iterator[dict[str, Any]]
    word: LastWord | None = None
    _groups: set[tuple[str, ...]] = field(default_factory=set)

    def intervals(self) -> Iterator[tuple[int, _Shard, Interval]]:
        """(end, shard, interval), in the order of time."""
        for report in self.reports:
            if report.get("kind") == "interval":
                interval: Interval = report.get("interval") or {}
                known = _converted(interval, _Interval, self.path)
                self._check(known)
                yield known.end_ns, self, interval
            elif report.get("kind") == "end":
                self.word = _converted(report.get("word"), LastWord, self.path)
                ends = [at for span in self.word.spans for at in (span.start_ns, span.end_ns)]
                ends += [self.about.started_ns]
                check_extent(1, min(ends) // NS, max(ends) // NS, str(self.path))

    def _check(self, interval: _Interval) -> None:
        """Raises DataError where these are not the seconds and groups of one run."""
        instants = (self.about.started_ns, interval.start_ns, interval.end_ns)
        seconds = [row[0] for row in interval.seconds] or [interval.end_ns // NS]
        self._groups.update(row[:3] for row in interval.counts)
        first, last = min(*instants) // NS, max(*instants) // NS
        check_extent(len(self._groups), min(first, *seconds), max(last, *seconds), str(self.path))


def gather(paths: Sequence[Path], out: Path | None = None) -> Gathered:
    """Merge shard files (or those in folders) into a new run folder in `out`.

    Where `out` is None the folder is made beside the run folder they lie in. A worker whose file
    is not there, or ends before its last word, is a gap, named and counted; nothing is counted
    twice, whatever is given twice. What stopped the run, if something did, is judged as it would
    have been by the master.

    Raises:
        UsageError: there are no shard files.
        DataError: one that is none, or of another run.
        PreflightError: the folder cannot be written.
    """
    files = _files(paths)
    found = [one for path in files if (one := _open(path)) is not None]
    if not found:
        raise DataError("does not begin with what its run is", file=str(files[0]))
    first, places = found[0].about, dict[str, tuple[int, int]]()
    for one in found:
        if one.about.run != first.run:
            why = f"of run {one.about.run}, {found[0].path.name} of {first.run}"
            raise DataError(why, file=str(one.path))
        # Reports are told apart by their worker: those of a namesake would pass for duplicates.
        if places.setdefault(one.about.worker, one.about.shard) != one.about.shard:
            raise DataError("its worker has another shard in another file", file=str(one.path))
    read = {one.path for one in found}
    merging = _Merging(found, first, [path for path in files if path not in read])
    writer = RunWriter.create(
        _beside(found[0].path) if out is None else out,
        first.scenario,
        merging.session.scenario.name,
        first.argv,
        extra={"gathered_from": first.run, "shards": [one.path.name for one in found]},
    )
    return merging.into(writer)


@dataclass(slots=True)
class _Merging:
    shards: Sequence[_Shard]
    about: Begin
    torn: Sequence[Path]  # files that do not even say what their run is
    totals: Totals = field(default_factory=Totals)
    session: Session = field(init=False)

    def __post_init__(self) -> None:
        about = self.about
        scenario = scenarios.parse(about.scenario, "<shard>")
        self.session = Session(
            scenario,
            {model.name: model for model in map(resolve, scenario.models)},
            {},
            Limits(),
            free=about.free,
            notices=list(about.notices),
            skipped=list(about.skipped),
            unserved=frozenset(about.unserved),
        )
        if about.base_url is not None:
            self.session.redirect(about.base_url)

    def into(self, writer: RunWriter) -> Gathered:
        """Merge, judge and write."""
        for _, shard, interval in heapq.merge(
            *(one.intervals() for one in self.shards), key=lambda item: item[0]
        ):
            self._take(shard, interval, writer)
        self._take_scrapes(writer)
        said = self._said()
        words = [word for word in said.values() if word is not None]
        if self.about.free:
            self.session.scenario = self._with_edits(words)
        self._check_phases(said)
        ending = self._ending(words)
        missing = tuple(map(one_line, self._losses(said, ending)))
        self.session.notices += [f"made of {len(self.shards)} shard files", *missing]
        scenario, session = self.session.scenario, self.session
        timetable = Timetable(scenario.load, frozenset(session.models), self.about.rates)
        windows = timetable.windows(words, self.totals)
        if self.about.free:
            session.scenario = as_it_was(scenario, windows)
            text = scenarios.to_yaml(session.scenario).encode()
            write_atomically(writer.folder / SCENARIO, text)
        summary = conclude(
            session,
            self.totals,
            writer.samples(),
            windows,
            ending,
            environment=writer.environment,
            started_ns=self.about.started_ns,
            scrapes=writer.scrapes(),
        )
        writer.finish(summary, summary.state, self.totals, windows)
        return Gathered(writer.folder, len(said), self.totals.done, missing)

    def _take(self, shard: _Shard, interval: Interval, writer: RunWriter) -> None:
        try:
            if self.totals.merge(interval, shard.about.worker):
                writer.append(interval, shard.about.worker)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"not of this loadlib: {error!r}", file=str(shard.path)) from None

    def _said(self) -> dict[str, LastWord | None]:
        """Worker → its last word, from whichever of its files has it."""
        found: dict[str, LastWord | None] = {}
        for one in self.shards:
            found[one.about.worker] = one.word or found.get(one.about.worker)
        return found

    def _ending(self, words: Sequence[LastWord]) -> Ending:
        """Who left before the end takes a share away; if all did, it was the run that ended."""
        aborted = next((word.aborted for word in words if word.aborted is not None), None)
        signal = next((word.signal for word in words if word.signal is not None), None)
        deserted = bool(words) and all(word.left for word in words)
        return Ending(
            aborted=aborted,
            signal=signal,
            stopped=aborted is None and signal is None and (deserted or cut_short(words)),
            allow_unhealthy=self.about.allow_unhealthy,
        )

    def _take_scrapes(self, writer: RunWriter) -> None:
        """What the master had read of the servers' own metrics, where its folder is at hand."""
        folders = dict.fromkeys(one.path.parent.parent for one in self.shards)
        found = [scrape for folder in folders for scrape in read_scrapes(folder / SERVER)]
        if not found:
            self.session.servers = ()
            return
        self.session.servers = targets(self.session.scenario, self.session.models.values())
        writer.watch(self.session.servers)
        for scrape in found:
            writer.append_scrape(scrape)

    def _with_edits(self, words: Sequence[LastWord]) -> scenarios.Scenario:
        """Where Locust decided the load, every Edit opened a phase that no file knew of before."""
        scenario = self.session.scenario
        titles = dict.fromkeys(span.phase for word in words for span in word.spans)
        titles |= dict.fromkeys(phase for _, _, phase in self.totals.counts)
        known = {phase.title for phase in scenario.load}
        first = scenario.load[0]
        more = [first.model_copy(update={"name": name}) for name in titles if name not in known]
        return scenario.model_copy(update={"load": (*scenario.load, *more)})

    def _check_phases(self, said: Mapping[str, LastWord | None]) -> None:
        """Raises DataError where a last word tells of a phase that the scenario has not."""
        known = {phase.title for phase in self.session.scenario.load}
        for name, word in said.items():
            if word is not None and not known.issuperset(span.phase for span in word.spans):
                raise DataError(f"worker {name}: its last word has a phase of another scenario")

    def _losses(self, said: Mapping[str, LastWord | None], ending: Ending) -> Iterator[str]:
        """What is known to be missing, each also a gap in the ledger."""
        ledger = self.totals.ledger
        for name, word in said.items():
            account = ledger[name]
            try:
                account.expect(account.last + 1 if word is None else word.seq)
            except ValueError as error:
                raise DataError(f"worker {name}: {error}") from None
            if word is None:
                yield f"worker {name} ended without a last word; what came after is lost"
            elif account.missing:
                yield f"worker {name}: {len(account.missing)} reports are damaged or missing"
            elif account.requests != word.requests:
                account.expect(account.last + 1)
                told = f"told of {word.requests:,} requests, {account.requests:,} are here"
                yield f"worker {name} {told}"
            elif word.left and not ending.cut_short:
                account.expect(account.last + 1)
                yield f"worker {name} left before the end; its share is missing"
        yield from self._absent()

    def _absent(self) -> Iterator[str]:
        """Workers of whom there is no file, or none that can be read."""
        ledger = self.totals.ledger
        count = max(one.about.shard[1] for one in self.shards)
        here = {one.about.shard[0] for one in self.shards}
        absent = sorted(set(range(count)) - here)
        for index in absent:
            name = PHANTOM.format(index + 1, count)
            ledger[name].expect(1)
            yield f"{name} is not there: what its worker sent is missing"
        read = {one.path.stem for one in self.shards}
        for path in self.torn:
            if path.stem in read:
                continue  # of which there is a better copy
            if not absent:
                ledger[path.stem].expect(1)
            yield f"{path.name} is damaged where it says what its run is: nothing of it is here"


def _files(paths: Sequence[Path]) -> list[Path]:
    found: dict[Path, None] = {}
    for path in paths:
        # Who names a link means where it leads; one that lies in a folder may be a stranger's.
        inside = [one.parent.resolve() / one.name for one in shards.find(path)]
        mine = inside if path.is_dir() else [path.resolve()]
        if not mine:
            raise UsageError(
                f"{path} holds no shard files (*{shards.SUFFIX}): a run of one process keeps none,"
                f" `loadlib report {path}` reads what it wrote"
            )
        found |= dict.fromkeys(mine)
    if not found:
        raise UsageError("no shard files: give a run folder, or the files")
    return list(found)


def _open(path: Path) -> _Shard | None:
    """None where what its run is, which a file begins with, is torn or damaged."""
    reports = shards.read(path)
    begin = next(reports, {})
    if begin.pop("kind", None) != "begin":
        return None
    about = _converted(begin, Begin, path)
    index, count = about.shard
    if not 0 <= index < count <= MOST_WORKERS:
        raise DataError(f"not of this loadlib: shard {index} of {count}", file=str(path))
    return _Shard(path, about, reports)


def _converted(value: Any, kind: Any, path: Path) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise DataError(f"not of this loadlib: {error}", file=str(path)) from None


def _beside(path: Path) -> Path:
    """reports/ of reports/<run>/shards/<worker>.shard."""
    return path.parent.parent.parent if path.parent.name == SHARDS else Path("reports")
