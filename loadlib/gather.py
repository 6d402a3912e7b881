"""Shard files → a run folder: what workers reported, merged and judged without their master."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from loadlib import scenario as scenarios
from loadlib import shards
from loadlib.catalog import resolve
from loadlib.conclude import Ending, conclude
from loadlib.errors import DataError, UsageError
from loadlib.folder import SHARDS
from loadlib.lastword import LastWord, Timetable
from loadlib.recorder import Interval, Totals
from loadlib.run import RunWriter
from loadlib.session import Limits, Session

T = TypeVar("T")

PHANTOM = "shard {} of {}"  # what stands for a worker whose file is not there


class Begin(msgspec.Struct, frozen=True, kw_only=True):
    """What a shard file says of its run. `rates` as `Plan.rates`, by phase."""

    run: str
    worker: str
    shard: tuple[int, int]  # index, count
    started_ns: int
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
    checksum: int = 0
    word: LastWord | None = None

    def intervals(self) -> Iterator[tuple[int, str, Interval]]:
        """(end, worker, interval), in the order of time."""
        for report in self.reports:
            if report.get("kind") == "interval":
                interval = report["interval"]
                yield interval["end_ns"], self.about.worker, interval
            elif report.get("kind") == "end":
                self.word = _converted(report["word"], LastWord, self.path)


def gather(paths: Sequence[Path], out: Path | None = None) -> Gathered:
    """Merge shard files (or those in folders) into a new run folder in `out`.

    Where `out` is None the folder is made beside the run folder they lie in. A worker whose file
    is not there, or ends before its last word, is a gap, named and counted; nothing is counted
    twice, whatever is given twice.

    Raises:
        UsageError: there are no shard files.
        DataError: one that is none, or of another run.
        PreflightError: the folder cannot be written.
    """
    found = [_open(path) for path in _files(paths)]
    first = found[0].about
    for one in found:
        if one.about.run != first.run:
            why = f"of run {one.about.run}, {found[0].path.name} of {first.run}"
            raise DataError(why, file=str(one.path))
    merging = _Merging(found, first)
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
        for _, worker, interval in heapq.merge(
            *(one.intervals() for one in self.shards), key=lambda item: item[0]
        ):
            if self.totals.merge(interval, worker):
                writer.append(interval, worker)
        if self.about.free:
            self.session.scenario = self._as_it_was()
        missing = tuple(self._losses())
        self.session.notices += [f"made of {len(self.shards)} shard files", *missing]
        scenario = self.session.scenario
        timetable = Timetable(scenario.load, frozenset(self.session.models), self.about.rates)
        words = [one.word for one in self.shards if one.word is not None]
        windows = timetable.windows(words, self.totals)
        summary = conclude(
            self.session,
            self.totals,
            writer.samples(),
            windows,
            Ending(allow_unhealthy=self.about.allow_unhealthy),
            environment=writer.environment,
            started_ns=self.about.started_ns,
        )
        writer.finish(summary, summary.state, self.totals, windows)
        workers = {one.about.worker for one in self.shards}
        return Gathered(writer.folder, len(workers), self.totals.done, missing)

    def _as_it_was(self) -> scenarios.Scenario:
        """Where Locust decided the load, every Edit opened a phase that no file knew of before."""
        scenario = self.session.scenario
        known = [phase.title for phase in scenario.load]
        first, titles = scenario.load[0], {phase for _, _, phase in self.totals.counts}
        more = [first.model_copy(update={"name": title}) for title in sorted(titles - set(known))]
        return scenario.model_copy(update={"load": (*scenario.load, *more)})

    def _losses(self) -> Iterator[str]:
        """What is known to be missing, each also a gap in the ledger."""
        ledger = self.totals.ledger
        for one in self.shards:
            name, account = one.about.worker, ledger[one.about.worker]
            account.expect(account.last + 1 if one.word is None else one.word.seq)
            if one.word is None:
                yield f"worker {name} ended without a last word; what came after is lost"
            elif account.missing:
                yield f"worker {name}: {len(account.missing)} reports are damaged or missing"
            elif account.requests != one.word.requests:
                account.expect(account.last + 1)
                told = f"told of {one.word.requests:,} requests, {account.requests:,} are here"
                yield f"worker {name} {told}"
        count = max(one.about.shard[1] for one in self.shards)
        here = {one.about.shard[0] for one in self.shards}
        for index in sorted(set(range(count)) - here):
            name = PHANTOM.format(index + 1, count)
            ledger[name].expect(1)
            yield f"{name} is not there: what its worker sent is missing"


def _files(paths: Sequence[Path]) -> list[Path]:
    found: dict[Path, None] = {}
    for path in paths:
        mine = shards.find(path) if path.is_dir() else [path]
        if not mine:
            raise UsageError(
                f"{path} holds no shard files (*{shards.SUFFIX}): a run of one process keeps none,"
                f" `loadlib report {path}` reads what it wrote"
            )
        found |= dict.fromkeys(one.resolve() for one in mine)
    if not found:
        raise UsageError("no shard files: give a run folder, or the files")
    return list(found)


def _open(path: Path) -> _Shard:
    reports = shards.read(path)
    begin = next(reports, {})
    if begin.pop("kind", None) != "begin":
        raise DataError("does not begin with what its run is", file=str(path))
    return _Shard(path, _converted(begin, Begin, path), reports)


def _converted(value: Any, kind: type[T], path: Path) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise DataError(f"not of this loadlib: {error}", file=str(path)) from None


def _beside(path: Path) -> Path:
    """reports/ of reports/<run>/shards/<worker>.shard."""
    return path.parent.parent.parent if path.parent.name == SHARDS else Path("reports")
