"""Whether a plan asks more of a model within a minute than its `limits` let it have. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from loadlib.catalog import Model
from loadlib.scenario import Group, Phase, Scenario
from loadlib.workloads import Workload

MINUTE_S = 60.0

Expected = Callable[[Phase], Mapping[Group, float | None]]


def notices(
    scenario: Scenario,
    models: Mapping[str, Model],
    workloads: Mapping[str, Workload],
    expected: Expected,
) -> Iterator[str]:
    """One line per open phase, model and limit; `expected` says how many requests are planned.

    Where the rate changes within a phase its mean counts.
    """
    for phase in scenario.load:
        if phase.closed:
            continue
        for name, (requests, tokens) in _asked(phase, models, workloads, expected).items():
            own = models[name].limits
            for what, number, limit in (
                ("requests", requests, own.rpm if own else None),
                ("tokens", tokens, own.tpm if own else None),
            ):
                if limit is not None and number > limit:
                    yield (
                        f"phase {phase.title}: asks {name} for {number:,.0f} {what} within a"
                        f" minute, its limit is {limit:,}"
                    )


def _asked(
    phase: Phase,
    models: Mapping[str, Model],
    workloads: Mapping[str, Workload],
    expected: Expected,
) -> dict[str, tuple[float, float]]:
    """model → (requests, tokens) within a minute of the phase."""
    asked: dict[str, tuple[float, float]] = {}
    for (name, workload), n in expected(phase).items():
        length_s = _length_s(phase)
        if n is None or not length_s:
            continue
        per_minute = n / length_s * min(MINUTE_S, length_s)
        source = workloads.get(workload)
        size = sum(source.expected_tokens(models[name])) if source else 0.0
        requests, tokens = asked.get(name, (0.0, 0.0))
        asked[name] = requests + per_minute, tokens + per_minute * size
    return asked


def _length_s(phase: Phase) -> float | None:
    if phase.duration_ns is not None:
        return phase.duration_ns / 1e9
    rate = phase.mean_rate
    return phase.requests / rate if phase.requests is not None and rate else None
