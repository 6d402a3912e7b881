"""Groups and objectives → gates, brackets and a verdict. Pure.

A percentile gate is a count: `p99 < L` allows at most 1 % of the requests at or over L, and the
requests that failed or were dropped are among those, so that shedding load never looks fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from loadlib import binomial, slo
from loadlib.errors import UsageError
from loadlib.expectations import Expectation, expectations, planned, remedies
from loadlib.histogram import Histogram, nearest_rank
from loadlib.metrics import CATALOGUE, FLOORS, QUANTILES, SCALE
from loadlib.slo import DEFAULT_ERROR_RATE, Objective
from loadlib.summary import Gate, GateStatus, Group, Requests
from loadlib.verdict import brackets, describe, margin, verdict

__all__ = [
    "Expectation",
    "brackets",
    "check_objectives",
    "describe",
    "evaluate",
    "expectations",
    "margin",
    "planned",
    "remedies",
    "tail",
    "verdict",
]

CERTAIN = 0.05  # a breach less likely than this under the objective is a breach

_RANKED = QUANTILES | {"min": 0.0, "max": 1.0}
_ALWAYS_THERE = frozenset({"arrival_lag", "connect"})  # say nothing about how a request ended


class Histograms(Protocol):
    """Where the distributions come from: a `Run`, or `summarise.Measured`."""

    def histogram(self, model: str, workload: str, phase: str, metric: str) -> Histogram:
        """The merged histogram, empty where nothing was recorded."""


def check_objectives(objectives: Sequence[Objective], pairs: Iterable[tuple[str, str]]) -> None:
    """Raise `UsageError` for a goodput gate over a (model, workload) without per-request limits."""
    for _objective, sentence in slo.undecidable(objectives, pairs):
        raise UsageError(sentence)


def evaluate(
    groups: Iterable[Group],
    objectives: Sequence[Objective],
    source: Histograms,
    *,
    error_ms: Callable[[Objective, Group], float] = lambda _objective, _group: 0.0,
) -> tuple[Gate, ...]:
    """One gate per objective and matching measure group, in the order of the objectives.

    An objective that matches nothing gives one inconclusive gate. Per-request objectives are no
    gates: they make goodput. The default error_rate gate applies to every group that no
    error_rate gate covers: a model that answers nothing must not pass unseen. A latency gate
    that an error of `error_ms` could flip is inconclusive.
    """
    measured = [group for group in groups if group.kind == "measure"]
    wanted = [(objective, False) for objective in objectives if not objective.per_request]
    unguarded = [group for group in measured if not _is_guarded(group, objectives)]
    if unguarded or not measured:
        wanted.append((DEFAULT_ERROR_RATE, True))
    gates = []
    for objective, default in wanted:
        among = unguarded if default else measured
        matching = [group for group in among if objective.covers(group.model, group.workload)]
        for group in matching:
            finding = _judge(objective, group, source, error_ms(objective, group))
            gates.append(_gate(objective, group, finding, default=default))
        if not matching:
            nothing = _nothing("no measured group in this scope")
            gates.append(_gate(objective, None, nothing, default=default))
    return tuple(gates)


def _is_guarded(group: Group, objectives: Iterable[Objective]) -> bool:
    return any(
        objective.metric == "error_rate" and objective.covers(group.model, group.workload)
        for objective in objectives
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finding:
    """What became of one objective in one group; values in the objective's unit."""

    status: GateStatus
    observed: float | None
    n: int
    reason: str = ""
    ci95: tuple[float, float] | None = None


def _gate(
    objective: Objective, group: Group | None, finding: _Finding, *, default: bool = False
) -> Gate:
    return Gate(
        scope=objective.scope,
        model="" if group is None else group.model,
        workload="" if group is None else group.workload,
        phase="" if group is None else group.phase,
        expression=objective.text,
        observed=finding.observed,
        limit=objective.limit,
        unit=objective.unit,
        n=finding.n,
        status=finding.status,
        default=default,
        reason=finding.reason,
        ci95=finding.ci95,
    )


def _nothing(reason: str, n: int = 0) -> _Finding:
    return _Finding(status="inconclusive", observed=None, n=n, reason=reason)


def _judge(objective: Objective, group: Group, source: Histograms, error_ms: float) -> _Finding:
    if objective.stat is None:
        return _scalar(objective, group)
    if objective.stat == "mean":
        return _mean(objective, group, error_ms)
    hist = source.histogram(group.model, group.workload, group.phase, objective.metric)
    return _ranked(objective, hist, tail(objective.metric, group.requests), error_ms)


def tail(metric: str, requests: Requests) -> int:
    """How many requests have no value of the metric because they failed: they count as worst.

    From the sent clock a dropped request does not exist. Gaps and seconds belong to no single
    request, arrival lag and connect time to no outcome.
    """
    if not CATALOGUE[metric].per_request or metric in _ALWAYS_THERE:
        return 0
    unsent = 0 if metric.startswith("sent_") else requests.dropped
    return requests.failed + requests.lost + unsent


def _ranked(objective: Objective, hist: Histogram, missing: int, error_ms: float) -> _Finding:
    """A percentile, minimum or maximum; `missing` requests lie beyond any limit."""
    stat = objective.stat
    assert stat is not None
    n, p, floor = hist.n + missing, _RANKED[stat], FLOORS.get(stat, 1)
    if not n:
        return _nothing("no data")
    shift = missing if objective.op.startswith(">") else 0  # the worst ones come first there
    value = _at(hist, nearest_rank(p, n) - shift)
    observed = None if value is None else value / SCALE
    reason = "" if observed is not None else f"{missing} of {n} requests gave no value"
    status: GateStatus
    if n < floor:
        hits = _violations(objective, hist) + missing
        status = "fail" if _is_breach(objective, p, hits, n) else "inconclusive"
        needs = f"{stat} needs {floor} samples, has {n}"
        few = f"{hits} of {n} violate it" if status == "fail" else needs
        reason = f"{few}; {reason}" if reason else few
    else:
        status = "pass" if observed is not None and objective.meets(observed) else "fail"
        if _could_flip(objective, observed, error_ms):
            status, reason = "inconclusive", _flip_reason(error_ms)
    interval = _interval(hist, n, p, shift)
    return _Finding(status=status, observed=observed, n=n, reason=reason, ci95=interval)


def _at(hist: Histogram, rank: int) -> int | None:
    """The value at a rank; the last and the first one exactly, however full their buckets."""
    if rank == hist.n:
        return hist.max
    return hist.min if rank == 1 else hist.at_rank(rank)


def _violations(objective: Objective, hist: Histogram) -> int:
    values, counts = hist.counts()
    met = np.array([objective.meets(value / SCALE) for value in values.tolist()], bool)
    return int(counts[~met].sum())


def _is_breach(objective: Objective, p: float, hits: int, n: int) -> bool:
    """Whether so many violations are too many to be chance, were the objective met."""
    allowed = 1.0 - p if objective.op.startswith("<") else p
    return binomial.at_least(hits, n, allowed) <= CERTAIN


def _interval(hist: Histogram, n: int, p: float, shift: int) -> tuple[float, float] | None:
    ranks = binomial.order_ranks(n, p)
    if ranks is None:
        return None
    low, high = (hist.at_rank(rank - shift) for rank in ranks)
    return None if low is None or high is None else (low / SCALE, high / SCALE)


def _mean(objective: Objective, group: Group, error_ms: float) -> _Finding:
    stats = group.metrics.get(objective.metric)
    if stats is None or stats.mean is None:
        return _nothing("no data")
    missing = tail(objective.metric, group.requests)
    reason = f"of the ok requests; {missing} gave no value" if missing else ""
    status: GateStatus = "pass" if objective.meets(stats.mean) else "fail"
    if _could_flip(objective, stats.mean, error_ms):
        status, reason = "inconclusive", _flip_reason(error_ms)
    return _Finding(status=status, observed=stats.mean, n=stats.n, reason=reason)


def _could_flip(objective: Objective, observed: float | None, error_ms: float) -> bool:
    if observed is None or objective.unit != "ms" or error_ms <= 0:
        return False
    return objective.meets(observed - error_ms) != objective.meets(observed + error_ms)


def _flip_reason(error_ms: float) -> str:
    return f"closer to the limit than the instrument's own error of {error_ms:.1f} ms"


def _scalar(objective: Objective, group: Group) -> _Finding:
    observed, n, interval = _reading(objective.metric, group)
    if observed is None:
        return _nothing(_WHY_NOT.get(objective.metric, "no request was sent"), n)
    status: GateStatus = "pass" if objective.meets(observed) else "fail"
    return _Finding(status=status, observed=observed, n=n, ci95=interval)


_WHY_NOT = {
    "quality": "no answer was checked",
    "cost_usd": "the price is not known",
    "output_tok_s": "the number of tokens is not known",
    "achieved_rps": "the phase's duration is not known",
}

_Reading = tuple[float | None, int, tuple[float, float] | None]


def _reading(metric: str, group: Group) -> _Reading:
    """(value, n, 95 % interval) of a figure that a group has once."""
    requests = group.requests
    n = requests.sent
    match metric:
        case "error_rate":
            interval = binomial.wilson(requests.failed + requests.lost, n)
            return requests.error_rate, n, interval
        case "throttled_rate":
            share = requests.throttled / n if n else None
            return share, n, binomial.wilson(requests.throttled, n)
        case "goodput":
            return group.goodput.share, *_goodput_interval(group)
        case "quality":
            return group.quality.share, group.quality.checked, group.quality.ci95
        case "output_tok_s":
            return group.throughput.output_tok_s, n, None
        case "achieved_rps":
            return group.throughput.achieved_rps, n, None
        case "cost_usd":
            return group.cost_usd.total, n, None
    raise ValueError(f"{metric} is not a figure of a group")


def _goodput_interval(group: Group) -> tuple[int, tuple[float, float] | None]:
    arrivals = group.requests.scheduled - group.requests.cancelled
    if group.goodput.share is None:
        return arrivals, None
    return arrivals, binomial.wilson(round(group.goodput.share * arrivals), arrivals)


def goodput_interval(group: Group) -> tuple[float, float] | None:
    """Wilson's 95 % interval of the goodput share."""
    return _goodput_interval(group)[1]
