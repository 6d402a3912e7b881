"""What a killed run left behind → totals, windows and a summary. Pure but for reading a log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from pydantic import ValidationError

from loadlib import health, hlog, slo
from loadlib.errors import DataError, ExitCode, UsageError
from loadlib.histogram import Histogram
from loadlib.instrument import readings
from loadlib.metrics import Instants
from loadlib.ratelimits import Watch
from loadlib.recorder import NS, Key, Recorder, Totals
from loadlib.sample import Sample
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
_EVERY = 10_000  # rows per merge, to keep memory flat


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
            notices=(NOTICE,) if why == UNFINISHED else (NOTICE, why),
            started_at=str(manifest.get("started_at", "")),
            duration_s=(end - start) / NS if end else None,
            state="interrupted",
        )


def recover(samples: Iterable[Sample], scenario: Mapping[str, Any]) -> Recovered:
    """Add all rows up again, as the recorder did when they were made."""
    recorder, totals = Recorder(0, rows=False), Totals()
    spans: dict[tuple[str, str], tuple[int, int]] = {}
    for number, sample in enumerate(samples, 1):
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


def read_log(path: Path) -> Iterator[hlog.Entry]:
    """The intervals of a log file. Raises `DataError` with file and line for a damaged one."""
    with path.open(encoding="utf-8", newline="\n") as file:
        try:
            yield from hlog.parse(file)
        except ValueError as error:
            raise DataError(str(error), file=str(path)) from None


def _events(sample: Sample) -> Instants:
    """Instants that are near enough to say in which seconds the tokens came."""
    first, last = sample.first_token_ns, sample.last_token_ns
    if first is None or last is None or not sample.events:
        return np.zeros(0, np.int64)
    return np.linspace(first, last, sample.events).astype(np.int64)


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
