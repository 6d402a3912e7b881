"""The load up to which this machine's figures can be believed, and whether a plan exceeds it.

`loadlib calibrate` measures the steps; what it found is kept in the user's cache folder, one
entry per machine and number of processes, and is read again before a run.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import msgspec

from loadlib import __version__, lengths, provenance
from loadlib.folder import cache_home, encode_json, write_atomically
from loadlib.scenario import Phase, Scenario
from loadlib.summary import CheckStatus
from loadlib.workloads import CappedSpec

SCHEMA_VERSION = 1
FILE = "calibration.json"
EVENTS_PER_S = 50  # of one stream of a calibration
KEPT = 32  # calibrations in the file, the newest ones

ERROR_LIMIT_MS = 1.0  # of a quantile of TTFT or icl; a quiet machine shows 0.02 …
ERROR_LIMIT_SHARE = 0.01  # … or this share of the quantile, whichever is larger
DELIVERED_LIMIT = 0.99  # of the offered events
SERVER_LATE_LIMIT_MS = 5.0  # p99; a server that falls behind makes bursts of its own


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What a calibration holds for."""

    cpu_model: str | None
    cpus: int | None
    python: str
    loadlib: str


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One load and what came of it. Errors are client − truth; None is unknown."""

    streams: int
    events_per_s: float  # that the client recorded
    requests: int  # compared with the truth
    ttft_p50_error_ms: float | None
    ttft_p99_error_ms: float | None
    icl_p99_error_ms: float | None
    ttft_p50_ms: float | None  # the truth
    ttft_p99_ms: float | None
    icl_p99_ms: float | None
    ttft_each_p99_ms: float | None  # p99 of the absolute error of each request
    delivered: float | None  # share of the offered events
    cpu_s_per_100k: float | None  # CPU of all processes per 100,000 events, without start-up
    server_late_p99_ms: float | None
    health: CheckStatus
    health_reasons: tuple[str, ...] = ()

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why the figures of such a load cannot be believed, worst first; empty if they can."""
        return doubts(self)

    @property
    def server_limited(self) -> bool:
        """Whether the truth itself was not what was asked for."""
        return (self.server_late_p99_ms or 0.0) > SERVER_LATE_LIMIT_MS


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """The steps of one ladder, at rising load, up to the first that cannot be believed."""

    machine: Machine
    processes: int
    calibrated_at: str  # ISO 8601, UTC
    steps: tuple[Step, ...]

    @property
    def believed(self) -> Step | None:
        """The highest step below all doubt; None if there is none."""
        return next(reversed(list(takewhile(lambda step: not step.doubts, self.steps))), None)

    @property
    def doubted(self) -> Step | None:
        """The first step that cannot be believed; None if the ladder ended before."""
        return next((step for step in self.steps if step.doubts), None)


def doubts(step: Step) -> tuple[str, ...]:
    """Everything about a step that lies beyond the limits, worst first."""
    if not step.requests:
        return ("no request could be compared with the truth",)
    rows = (
        ("TTFT p99", step.ttft_p99_error_ms, step.ttft_p99_ms),
        ("TTFT p50", step.ttft_p50_error_ms, step.ttft_p50_ms),
        ("icl p99", step.icl_p99_error_ms, step.icl_p99_ms),
    )
    found: list[tuple[float, str]] = []
    for name, error, truth in rows:
        limit = max(ERROR_LIMIT_MS, ERROR_LIMIT_SHARE * (truth or 0.0))
        if error is None:
            found.append((1.0, f"{name} could not be compared"))
        elif abs(error) > limit:
            found.append((abs(error) / limit, f"{name} is off by {abs(error):.1f} ms"))
    found.sort(key=lambda row: -row[0])
    reasons = [text for _, text in found]
    if step.delivered is None or step.delivered < DELIVERED_LIMIT:
        share = "an unknown share" if step.delivered is None else f"{step.delivered:.1%}"
        reasons.append(f"{share} of the events were delivered")
    if step.health == "bad":
        reasons.append("health is bad: " + ", ".join(step.health_reasons or ("no reason given",)))
    return tuple(reasons)


def machine() -> Machine:
    """This one, as this process may use it."""
    model, cpus = provenance.processor()
    return Machine(
        cpu_model=model, cpus=cpus, python=platform.python_version(), loadlib=__version__
    )


# -- the file ------------------------------------------------------------------------------------


class _File(msgspec.Struct, frozen=True, kw_only=True):
    schema_version: int
    calibrations: tuple[Calibration, ...] = ()


def default_path() -> Path:
    """`$XDG_CACHE_HOME/loadlib/calibration.json`, by default in `~/.cache`."""
    return cache_home() / FILE


def read(path: Path | None = None) -> tuple[Calibration, ...]:
    """What was found on this and other machines; nothing where the file cannot be understood."""
    try:
        found = msgspec.json.decode((path or default_path()).read_bytes(), type=_File)
    except (OSError, RuntimeError, msgspec.MsgspecError, UnicodeError):
        return ()
    return found.calibrations if found.schema_version == SCHEMA_VERSION else ()


def save(calibration: Calibration, path: Path | None = None) -> Path:
    """Keep it, in place of an older one for the same machine and processes. Raises OSError."""
    path = path or default_path()
    key = (calibration.machine, calibration.processes)
    others = [old for old in read(path) if (old.machine, old.processes) != key]
    kept = (*others[-(KEPT - 1) :], calibration)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, encode_json(_File(schema_version=SCHEMA_VERSION, calibrations=kept)))
    return path


def find(processes: int, here: Machine, known: Iterable[Calibration]) -> Calibration | None:
    """The calibration of this very machine with so many processes; None: nothing is known."""
    fitting = (c for c in known if c.machine == here and c.processes == processes)
    return next(fitting, None)


# -- a plan --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Demand:
    """The most a plan can ask of the instrument at once."""

    streams: int
    events_per_s: float = 0.0  # 0 for closed loops: there the server decides


def demand(
    stages: Iterable[tuple[Phase, Sequence[str]]],
    scenario: Scenario,
    serves: Callable[[str, str], bool] = lambda _model, _workload: True,
) -> Demand:
    """The most streams and events per second that any of the stages can lead to.

    Closed loops: the users. Open ones: `max_in_flight`, and the highest rate × output cap.
    """
    streams, events = 1, 0.0
    for phase, names in stages:
        mixes = [
            {group: weight for group, weight in mix.items() if group[0] in names}
            for mix in scenario.mixes(serves).values()
        ]
        busy = [mix for mix in mixes if sum(mix.values())]
        ceiling = (phase.users if phase.closed else phase.max_in_flight) or 1
        streams = max(streams, ceiling * len(busy))
        rate = peak_rate(phase)
        events = max(events, sum(rate * _mean_tokens(scenario, mix) for mix in busy))
    return Demand(streams, events)


def peak_rate(phase: Phase) -> float:
    """The highest rate of arrivals per second that the phase configures; 0 where it has none."""
    rate: object = phase.rate
    if isinstance(rate, tuple):
        return max((float(per_s) for _instant, per_s in rate), default=0.0)
    return float(rate) if isinstance(rate, (int, float)) else 0.0


def _mean_tokens(scenario: Scenario, mix: dict[tuple[str, str], float]) -> float:
    """Mean output cap of an arrival. What user classes of one's own or a trace bring counts as 0:
    of those only the streams are compared."""
    total = 0.0
    for (_, workload), weight in mix.items():
        spec = scenario.workloads[workload]
        if isinstance(spec, CappedSpec):
            total += weight * lengths.mean(spec.output_tokens)
    return total / sum(mix.values())


def excess(plan: Demand, calibration: Calibration | None) -> tuple[str, ...]:
    """One line if the plan asks for more than was found good here; none without a calibration."""
    if calibration is None:
        return ()
    good, bad = calibration.believed, calibration.doubted
    if good is not None and plan.streams <= good.streams and plan.events_per_s <= good.events_per_s:
        return ()
    if bad is not None:
        seen = f"{bad.doubts[0]} at {bad.streams:,} streams"
    else:
        seen = "more was not tried"
    upto = "at no load" if good is None else f"up to {load(good)}"
    asked = f"{plan.streams:,} streams"
    if plan.events_per_s:
        asked += f" and {plan.events_per_s:,.0f} events/s"
    found = f"on this machine figures were found good {upto} ({seen})"
    remedy = "loadlib calibrate with more --processes, or a larger machine"
    return (f"the plan can reach {asked}; {found}: {remedy}",)


def load(step: Step) -> str:
    """`400 streams × 50 events/s = 18.2k events/s`."""
    total = step.events_per_s
    shown = f"{total / 1000:.1f}k" if total >= 1000 else f"{total:.0f}"
    return f"{step.streams:,} streams × {EVENTS_PER_S} events/s = {shown} events/s"


def notices(
    stages: Iterable[tuple[Phase, Sequence[str]]],
    scenario: Scenario,
    processes: int | None,
    serves: Callable[[str, str], bool] = lambda _model, _workload: True,
) -> tuple[str, ...]:
    """What is to be said before a run on this machine; `processes` as given to `--processes`."""
    known = read()
    if not known:
        return ()
    here = machine()
    count = (here.cpus or 1) if processes == -1 else (processes or 1)
    return excess(demand(stages, scenario, serves), find(count, here, known))
