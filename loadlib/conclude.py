"""A finished load → its summary: groups, health, gates, verdict. Pure, and the only place where
these meet, so that a live run and a re-judged one cannot differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from loadlib import gates, health
from loadlib.metrics import QUANTILES, SCALE
from loadlib.recorder import NS, Totals
from loadlib.sample import Sample
from loadlib.session import Session
from loadlib.slo import Objective
from loadlib.summarise import Measured, Window, readings, summarise
from loadlib.summary import Group, Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How the run came to its end, as far as the samples do not say."""

    aborted: str | None = None
    signal: int | None = None
    recorder_errors: int = 0
    allow_unhealthy: bool = False
    regressions: Sequence[str] = ()

    @property
    def cut_short(self) -> bool:
        """Whether less was sent than planned because the run was stopped."""
        return self.signal is not None or self.aborted is not None


def conclude(
    session: Session,
    totals: Totals,
    samples: Iterable[Sample],
    windows: Sequence[Window],
    ending: Ending,
    *,
    environment: Mapping[str, Any],
    started_ns: int,
) -> Summary:
    """Everything `summary.json` says. `started_ns` is Unix epoch."""
    scenario = session.scenario
    pairs = [pair for pair in scenario.groups if session.serves(*pair)]
    groups = summarise(totals, samples, windows, scenario.objectives, pairs)
    read = readings(totals, groups, ending.recorder_errors)
    if ending.cut_short:
        read = replace(read, delivered_share=None)  # the stop is the reason, and named already
    condition = health.judge(read)
    found = gates.evaluate(
        groups, scenario.objectives, Measured(totals, windows), error_ms=_stamp_error(totals)
    )
    if session.free:
        found = ()  # nobody asked for gates: Locust's own exit code stands
    verdict = gates.verdict(
        found,
        condition,
        groups,
        aborted=ending.aborted,
        signal=ending.signal,
        regressions=ending.regressions,
        allow_unhealthy=ending.allow_unhealthy,
    )
    end_ns = max((window.end_ns for window in windows), default=started_ns)
    return Summary(
        name=scenario.name,
        verdict=verdict,
        groups=groups,
        gates=found,
        brackets=gates.brackets(groups, found),
        health=condition,
        environment=dict(environment),
        scenario=scenario.effective(),
        models={name: model.describe() for name, model in session.models.items()},
        skipped=tuple(session.skipped),
        notices=tuple(_notices(session, windows, ending)),
        started_at=_utc(started_ns),
        duration_s=round((end_ns - started_ns) / NS, 3),
        state="interrupted" if ending.cut_short else "complete",
    )


def _stamp_error(totals: Totals) -> Callable[[Objective, Group], float]:
    """By how much a latency statistic may be off, ms: stamps are late when the event loop is.

    Compared at the same quantile: a median is as wrong as stamps usually are, a p99 as wrong as
    they rarely are. `tpot` spreads the error of its two stamps over the tokens between them.
    Waiting at the ceiling is part of the response clock and no error of it.
    """
    lag = totals.notes.get("hub_lag")

    def bound(objective: Objective, group: Group) -> float:
        p = QUANTILES.get(objective.stat or "", 1.0 if objective.stat == "max" else 0.5)
        late = lag.quantile(p) if lag is not None else None
        if late is None:
            return 0.0
        gaps = 1.0
        if objective.metric == "tpot" and group.tokens.output and group.requests.ok:
            gaps = max(1.0, group.tokens.output / group.requests.ok - 1)
        return late / SCALE / gaps

    return bound


def _notices(session: Session, windows: Sequence[Window], ending: Ending) -> Iterable[str]:
    yield from session.notices
    if session.scenario.target == "simulator":
        yield "measured against the simulator: speeds are profiles, not providers'"
    if any(window.closed and window.kind == "measure" for window in windows):
        yield "closed loop: both clocks are equal and queueing is not visible; do not size from it"
    phases = {window.phase for window in windows if window.kind == "measure" and not window.closed}
    if len(phases) > 1:
        yield (
            "measure phases follow each other without a pause: a later one may start with the "
            "backlog of an earlier"
        )
    if session.free and not ending.cut_short:
        yield "no gates: Locust's own exit code stands"
    if ending.allow_unhealthy:
        yield "--allow-unhealthy: the gates decide whatever health says"


def _utc(instant_ns: int) -> str:
    moment = datetime.fromtimestamp(instant_ns / NS, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
