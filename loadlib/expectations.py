"""Before a run: which gates its plan has too few requests for, and what would help. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from loadlib.metrics import CATALOGUE, FLOORS
from loadlib.rates import NEVER, Line, Points, S
from loadlib.scenario_spec import Reach, Scenario
from loadlib.slo import Objective


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """Requests that one phase plans for one group; None where the server's speed decides."""

    model: str
    workload: str
    phase: str
    requests: float | None
    duration_s: float | None = None  # of a phase that ends by duration
    phase_requests: int | None = None  # of a phase that ends by requests
    points: Points | None = None  # of a rate that changes within the phase
    trace: bool = False  # whether a trace says when requests come


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """One percentile gate of one group, and whether its plan suffices."""

    model: str
    workload: str
    phase: str
    expression: str
    needs: int
    plans: float | None
    remedy: str  # empty where the plan suffices, or nobody can know

    @property
    def text(self) -> str:
        """`m/chat measure: ttft.p99 < 800ms needs 500, plans 135: use p90 or duration 9m20s`."""
        plans = "an unknown number" if self.plans is None else f"{math.floor(self.plans)}"
        where = f"{self.model}/{self.workload} {self.phase}"
        remedy = f": {self.remedy}" if self.remedy else ""
        return f"{where}: {self.expression} needs {self.needs}, plans {plans}{remedy}"


def planned(scenario: Scenario, reach: Reach | None = None) -> tuple[Planned, ...]:
    """What the scenario's measure phases plan for each (model, workload) that is reached."""
    return tuple(
        Planned(
            model=model,
            workload=workload,
            phase=phase.name or phase.kind,
            requests=requests,
            duration_s=None if phase.duration_ns is None else phase.duration_ns / 1e9,
            phase_requests=phase.requests,
            points=phase.rate if isinstance(phase.rate, tuple) else None,
            trace=phase.arrival == "trace",
        )
        for phase in scenario.load
        if phase.kind == "measure"
        for (model, workload), requests in scenario.expected(phase, reach).items()
    )


def expectations(
    objectives: Iterable[Objective], plan: Sequence[Planned]
) -> tuple[Expectation, ...]:
    """Every percentile gate on requests, with the number it needs and the number planned."""
    return tuple(
        _expectation(objective, objective.stat, item)
        for objective in objectives
        if objective.stat in FLOORS and CATALOGUE[objective.metric].per_request
        for item in plan
        if objective.covers(item.model, item.workload)
    )


def remedies(objectives: Iterable[Objective], plan: Sequence[Planned]) -> tuple[str, ...]:
    """One line per gate that its plan cannot decide: what it needs, plans, and what helps."""
    return tuple(
        expectation.text for expectation in expectations(objectives, plan) if expectation.remedy
    )


def _expectation(objective: Objective, stat: str, item: Planned) -> Expectation:
    needs = FLOORS[stat]
    short = item.requests is not None and item.requests < needs
    return Expectation(
        model=item.model,
        workload=item.workload,
        phase=item.phase,
        expression=objective.text,
        needs=needs,
        plans=item.requests,
        remedy=_remedy(needs, item) if short else "",
    )


def _remedy(needs: int, item: Planned) -> str:
    assert item.requests is not None
    decidable = [name for name, floor in FLOORS.items() if floor <= item.requests]
    ways = [decidable[-1]] if decidable else []
    factor = needs / item.requests if item.requests else math.inf
    if item.trace:
        ways.append("a longer stretch of the trace")
    elif item.duration_s is not None and math.isfinite(factor):
        seconds = _stretched(item.duration_s, factor, item.points)
        ways += [f"duration {_duration(seconds)}"] if math.isfinite(seconds) else []
    elif item.phase_requests is not None and math.isfinite(factor):
        ways.append(f"requests {math.ceil(item.phase_requests * factor)}")
    return f"use {' or '.join(ways)}" if ways else "plan some requests for it"


def _stretched(seconds: float, factor: float, points: Points | None) -> float:
    """How long a phase must last for `factor` times its requests; infinite: it never does."""
    if points is None:
        return seconds * factor
    line = Line(points)
    instant = line.instant(line.count(round(seconds * S)) * factor)
    return math.inf if instant >= NEVER else instant / S


def _duration(seconds: float) -> str:
    """Rounded up to whole seconds, ten of them from two minutes on: `95s`, `9m20s`."""
    step = 10 if seconds > 120 else 1
    whole = math.ceil(round(seconds / step, 6)) * step
    if whole <= 120:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}m{rest}s" if rest else f"{minutes}m"
