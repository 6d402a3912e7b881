"""A finished load → its summary: groups, health, gates, verdict. Pure, and the only place where
these meet, so that a live run and a re-judged one cannot differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from loadlib import gates, health, ratelimits
from loadlib.brevity import across_phases
from loadlib.errorbound import Bound
from loadlib.health import Readings
from loadlib.instrument import Bounds, readings
from loadlib.recorder import NS, Totals
from loadlib.sample import Sample
from loadlib.server_record import Scrape
from loadlib.server_summary import server_notices, summarise_servers
from loadlib.session import Session
from loadlib.summarise import Measured, Window, summarise
from loadlib.summary import Gate, Group, Health, Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How the run came to its end, as far as the samples do not say."""

    aborted: str | None = None
    signal: int | None = None
    stopped: bool = False  # by neither, and before its plan was over
    recorder_errors: int = 0
    allow_unhealthy: bool = False
    regressions: Sequence[str] = ()

    @property
    def cut_short(self) -> bool:
        """Whether less was sent than planned because the run was stopped."""
        return self.signal is not None or self.aborted is not None or self.stopped


def conclude(
    session: Session,
    totals: Totals,
    samples: Iterable[Sample],
    windows: Sequence[Window],
    ending: Ending,
    *,
    environment: Mapping[str, Any],
    started_ns: int,
    scrapes: Iterable[Scrape] = (),
) -> Summary:
    """Everything `summary.json` says. `started_ns` is Unix epoch; `scrapes` are of the servers'
    own metrics."""
    scenario = session.scenario
    pairs = [pair for pair in scenario.groups if session.serves(*pair)]
    watch = ratelimits.Watch()
    groups = summarise(totals, watch.passing(samples), windows, scenario.objectives, pairs)
    allowed = {name: model.limits for name, model in session.models.items()}
    limits = watch.conclude(totals, allowed)
    cpus = environment.get("environment", {}).get("cpus")
    read = readings(totals, groups, ending.recorder_errors, cpus)
    if ending.cut_short:  # the stop is the reason, and named already
        read = replace(read, delivered_share=None, offered=None)
    condition, found = judge(
        session, totals, groups, windows, read, allow_unhealthy=ending.allow_unhealthy
    )
    verdict = gates.verdict(
        found,
        condition,
        groups,
        aborted=ending.aborted,
        signal=ending.signal,
        stopped=ending.stopped and not session.free,
        regressions=ending.regressions,
        allow_unhealthy=ending.allow_unhealthy,
    )
    end_ns = max((window.end_ns for window in windows), default=started_ns)
    servers = summarise_servers(session.servers, scrapes, windows, totals.seconds)
    return Summary(
        name=scenario.name,
        verdict=verdict,
        groups=groups,
        gates=found,
        brackets=gates.brackets(groups, found),
        health=condition,
        environment=dict(environment),
        scenario=scenario.effective(),
        rate_limits=limits,
        servers=servers,
        models={name: model.describe() for name, model in session.models.items()},
        skipped=tuple(session.skipped),
        notices=(
            *_notices(session, windows, ending, totals.marks),
            *across_phases(groups),
            *ratelimits.notices(limits),
            *server_notices(servers, groups),
        ),
        started_at=_utc(started_ns),
        duration_s=round((end_ns - started_ns) / NS, 3),
        state="interrupted" if ending.cut_short else "complete",
    )


def judge(
    session: Session,
    totals: Totals,
    groups: Sequence[Group],
    windows: Sequence[Window],
    read: Readings,
    *,
    allow_unhealthy: bool,
    pause: Callable[[], object] = lambda: None,
) -> tuple[Health, tuple[Gate, ...]]:
    """The condition of the instrument, and every gate of the scenario: of a run that is over, or
    of what is there so far. `pause` is called before each gate, which takes a millisecond or so.
    """
    condition = health.judge(read, overridden=allow_unhealthy)
    if session.free:  # nobody asked for gates: Locust's own exit code stands
        return condition, ()
    known = _no_doubt if allow_unhealthy else Bounds(totals, read)

    def bound(metric: str, group: Group) -> Bound:
        pause()
        return known(metric, group)

    source = Measured(totals, windows)
    return condition, gates.evaluate(groups, session.scenario.objectives, source, bound=bound)


def _no_doubt(_metric: str, _group: Group) -> Bound:
    """The gates decide whatever the instrument's error."""
    return Bound()


def _notices(
    session: Session, windows: Sequence[Window], ending: Ending, marks: Mapping[str, int]
) -> Iterable[str]:
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
    if cut := marks.get("conversations_cut"):
        yield f"{cut:,} conversations were cut short by the end of their phase or of the run"
    if session.free and not ending.cut_short:
        yield "no gates: Locust's own exit code stands"
    if ending.allow_unhealthy:
        yield "--allow-unhealthy: the gates decide whatever health says"


def _utc(instant_ns: int) -> str:
    moment = datetime.fromtimestamp(instant_ns / NS, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
