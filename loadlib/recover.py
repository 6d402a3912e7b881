"""What a killed run left behind → totals, windows and a summary. Pure but for reading a log."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
from pydantic import ValidationError

from loadlib import health, hlog, slo
from loadlib.errors import DataError, ExitCode, UsageError
from loadlib.foreign import check_extent, opened
from loadlib.histogram import Histogram
from loadlib.instrument import readings
from loadlib.metrics import Instants
from loadlib.ratelimits import Watch
from loadlib.recorder import NS, Key, Recorder, Totals
from loadlib.redact import redact
from loadlib.sample import INSTANTS, Sample
from loadlib.scenario_spec import ModelLimits
from loadlib.server_record import Scrape
from loadlib.server_summary import summarise_servers
from loadlib.server_targets import Target
from loadlib.slo import Objective
from loadlib.summarise import SYSTEM_RATE, Window, summarise, system_rate
from loadlib.summary import Summary, Verdict

NOTICE = (
    "rebuilt from requests.jsonl.gz and hdr/: requests in flight at the end are unknown, "
    "and phases last from their first arrival to their last end"
)
UNFINISHED = "the run ended without a summary"
SO_FAR = "the run goes on"
_EVERY = 10_000  # rows per merge, to keep memory flat
_POINTS = 1_000  # instants of one answer: its tokens are spread over seconds, no finer
MAX_ATTEMPT_NS = 86_400 * 10**9  # from the intended start to the last instant of one attempt
MAX_LOG_LINE = 2**20  # characters; a histogram of every bucket is 60,000


@dataclass(slots=True)
class Recovered:
    """Totals of all rows, and the windows they span."""

    totals: Totals
    windows: tuple[Window, ...]

    def take_gaps(self, entries: Iterable[hlog.Entry]) -> None:
        """Inter-chunk latencies stand in no row: take them from their log."""
        for entry in entries:
            mine = self.totals.histograms.setdefault((entry.key, "icl"), Histogram())
            mine.merge(entry.histogram)

    def histograms(self, metric: str) -> dict[Key, Histogram]:
        """The metric's histogram of every group."""
        if metric == SYSTEM_RATE:
            return {
                key: system_rate(self.totals, key, window)
                for window in self.windows
                for key in self.totals.counts
                if window.covers(key)
            }
        return {key: hist for (key, name), hist in self.totals.histograms.items() if name == metric}

    def summary(
        self,
        samples: Iterable[Sample],
        scenario: Mapping[str, Any],
        manifest: Mapping[str, Any],
        why: str = UNFINISHED,
        scrapes: Iterable[Scrape] = (),
    ) -> Summary:
        """The summary the run did not live to write: groups and health, no gates.

        `why` there is none becomes the verdict's reason, and a notice where the run wrote one.
        """
        pairs = tuple(dict.fromkeys((key[0], key[1]) for key in self.totals.counts))
        watch = Watch()
        passing = watch.passing(samples)
        groups = summarise(self.totals, passing, self.windows, _objectives(scenario, pairs), pairs)
        reason = f"{why}; {self.totals.done} requests were found"
        start = min((window.start_ns for window in self.windows), default=0)
        end = max((window.end_ns for window in self.windows), default=0)
        names = ("argv", "versions", "git", "environment")
        return Summary(
            name=str(manifest.get("name", "")),
            verdict=Verdict(
                status="interrupted", reasons=(reason,), exit_code=int(ExitCode.SIGTERM)
            ),
            groups=groups,
            health=health.judge(readings(self.totals, groups)),
            environment={name: manifest[name] for name in names if name in manifest},
            scenario=dict(scenario),
            rate_limits=watch.conclude(self.totals, _allowed(scenario)),
            servers=summarise_servers(
                _targets(manifest), scrapes, self.windows, self.totals.seconds
            ),
            notices=(NOTICE,) if why in (UNFINISHED, SO_FAR) else (NOTICE, why),
            started_at=str(manifest.get("started_at", "")),
            duration_s=(end - start) / NS if end else None,
            state="interrupted",
        )


def recover(
    samples: Iterable[Sample], scenario: Mapping[str, Any], file: str = "<rows>"
) -> Recovered:
    """Add all rows up again, as the recorder did when they were made.

    Raises `DataError`, naming the file, for what no run can have recorded.
    """
    recorder, totals = Recorder(0, rows=False), Totals()
    spans: dict[tuple[str, str], tuple[int, int]] = {}
    groups: set[Key] = set()
    first_ns, last_ns = sys.maxsize, 0
    for number, sample in enumerate(samples, 1):
        begin_ns, end_ns = _extent(sample, file, number)
        first_ns, last_ns = min(first_ns, begin_ns), max(last_ns, end_ns)
        groups.add((sample.model, sample.workload, sample.phase))
        check_extent(len(groups), first_ns / NS, last_ns / NS, file)
        if sample.attempt == 1:  # of a request that was to be tried again, the rest may be lost
            recorder.scheduled((sample.model, sample.workload, sample.phase))
        recorder.add(sample, _events(sample))
        where = (sample.phase, sample.model)
        start, end = spans.get(where, (sample.intended_ns, sample.end_ns))
        spans[where] = min(start, sample.intended_ns), max(end, sample.end_ns)
        if number % _EVERY == 0:
            totals.merge(recorder.drain(sample.end_ns))
    totals.merge(recorder.drain(max((end for _, end in spans.values()), default=0)))
    for place in [place for place in totals.histograms if place[1] == "icl"]:
        del totals.histograms[place]  # made of made-up events
    return Recovered(totals, tuple(_windows(spans, scenario)))


def _extent(sample: Sample, file: str, number: int) -> tuple[int, int]:
    """First and last instant of an attempt."""
    instants = [at for name in INSTANTS if (at := getattr(sample, name)) is not None]
    begin_ns, end_ns = min(instants), max(instants)
    if end_ns - begin_ns > MAX_ATTEMPT_NS:
        raise DataError("an attempt of more than a day", file=file, line=number)
    return begin_ns, end_ns


def read_log(folder: Path, name: str) -> Iterator[hlog.Entry]:
    """The intervals of a log file. Raises `DataError` with file and line for a damaged one."""
    keys: set[Key] = set()
    with opened(folder, name) as raw:
        try:
            for entry in hlog.parse(_log_lines(raw)):
                keys.add(entry.key)
                check_extent(len(keys), 0, 0, str(folder / name))
                yield entry
        except ValueError as error:
            raise DataError(redact(str(error)), file=str(folder / name)) from None


def sum_log(folder: Path, name: str) -> dict[Key, Histogram]:
    """All intervals of each group of a log file as one. Raises as `read_log` does."""
    sums: dict[Key, Histogram] = {}
    with opened(folder, name) as raw:
        try:
            for sums in hlog.add_up(_log_lines(raw)):
                check_extent(len(sums), 0, 0, str(folder / name))
        except ValueError as error:
            raise DataError(redact(str(error)), file=str(folder / name)) from None
    return sums


def _log_lines(file: BinaryIO) -> Iterator[str]:
    while line := file.readline(MAX_LOG_LINE):
        if len(line) == MAX_LOG_LINE:
            raise ValueError(f"a line of more than {MAX_LOG_LINE:,} bytes")
        yield line.decode()


def _events(sample: Sample) -> Instants:
    """Instants that are near enough to say in which seconds the tokens came."""
    first, last = sample.first_token_ns, sample.last_token_ns
    if first is None or last is None or not sample.events:
        return np.zeros(0, np.int64)
    return np.linspace(first, last, min(sample.events, _POINTS)).astype(np.int64)


def _windows(
    spans: Mapping[tuple[str, str], tuple[int, int]], scenario: Mapping[str, Any]
) -> Iterator[Window]:
    asked = {}
    for phase in scenario.get("load") or ():
        if isinstance(phase, Mapping):
            asked[phase.get("name") or phase.get("phase")] = phase
    for (name, model), (start, end) in spans.items():
        phase = asked.get(name, {})
        yield Window(
            phase=name,
            model=model,
            start_ns=start,
            end_ns=end,
            kind="warmup" if phase.get("phase", name) == "warmup" else "measure",
            closed=phase.get("arrival") == "closed",
            varying=phase.get("arrival") == "trace" or isinstance(phase.get("rate"), list),
        )


def _targets(manifest: Mapping[str, Any]) -> list[Target]:
    """The servers the run looked at, as far as the manifest tells."""
    try:
        return msgspec.convert(manifest.get("servers", ()), type=list[Target], strict=False)
    except msgspec.ValidationError:
        return []


def _allowed(scenario: Mapping[str, Any]) -> dict[str, ModelLimits | None]:
    """The `limits` of the scenario's models, as far as they can be understood now."""
    found: dict[str, ModelLimits | None] = {}
    for model in scenario.get("models") or ():
        if isinstance(model, Mapping) and isinstance(model.get("limits"), Mapping):
            try:
                found[str(model.get("name"))] = ModelLimits.model_validate(dict(model["limits"]))
            except ValidationError:
                continue
    return found


def _objectives(
    scenario: Mapping[str, Any], pairs: Iterable[tuple[str, str]]
) -> tuple[Objective, ...]:
    """The scenario's objectives, as far as they can be understood now."""
    scopes = {name for model, load in pairs for name in (model, load, f"{model}/{load}")}
    found: list[Objective] = []
    for line in scenario.get("slo") or ():
        try:
            found.extend(slo.parse(str(line), scopes))
        except UsageError:
            continue
    return tuple(found)
