"""Groups and objectives → gates, brackets and a verdict. Pure.

A percentile gate is a count: `p99 < L` allows at most 1 % of the requests at or over L, and the
requests that failed or were dropped are among those, so that shedding load never looks fast.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from loadlib import binomial, slo
from loadlib.errorbound import Bound, Interval
from loadlib.errors import UsageError
from loadlib.expectations import Expectation, expectations, planned, remedies
from loadlib.histogram import Histogram, nearest_rank
from loadlib.metrics import CATALOGUE, FLOORS, QUANTILES, SCALE
from loadlib.slo import DEFAULT_ERROR_RATE, Objective
from loadlib.summary import Gate, GateStatus, Group, Requests
from loadlib.verdict import brackets, describe, margin, shown, verdict

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


Bounds = Callable[[str, Group], Bound]
"""How far the readings of a metric (by name) of a group may be off."""


def check_objectives(objectives: Sequence[Objective], pairs: Iterable[tuple[str, str]]) -> None:
    """Raise `UsageError` for a goodput gate over a (model, workload) without per-request limits."""
    for _objective, sentence in slo.undecidable(objectives, pairs):
        raise UsageError(sentence)


def evaluate(
    groups: Iterable[Group],
    objectives: Sequence[Objective],
    source: Histograms,
    *,
    bound: Bounds = lambda _metric, _group: Bound(),
) -> tuple[Gate, ...]:
    """One gate per objective and matching measure group, in the order of the objectives.

    An objective that matches nothing gives one inconclusive gate. Per-request objectives are no
    gates: they make goodput. The default error_rate gate applies to every group that no
    error_rate gate covers: a model that answers nothing must not pass unseen. A gate that the
    instrument's own error, as far as `bound` knows it, could flip is inconclusive.
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
            finding = _judge(objective, group, source, bound, objectives)
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
    truth: Interval | None = None


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
        truth=None if finding.truth is None else _ends(finding.truth),
    )


def _ends(found: Interval) -> tuple[float | None, float | None]:
    low, high = (round(end, 6) if math.isfinite(end) else None for end in found)
    return low, high


def _nothing(reason: str, n: int = 0) -> _Finding:
    return _Finding(status="inconclusive", observed=None, n=n, reason=reason)


def _judge(
    objective: Objective,
    group: Group,
    source: Histograms,
    bounds: Bounds,
    objectives: Sequence[Objective],
) -> _Finding:
    metric = objective.metric
    if metric == "goodput":
        return _goodput(objective, group, source, bounds, objectives)
    bound = bounds(metric, group)
    if objective.stat is None:
        return _scalar(objective, group, bound)
    if objective.stat == "mean":
        return _mean(objective, group, bound)
    hist = source.histogram(group.model, group.workload, group.phase, metric)
    return _ranked(objective, hist, tail(metric, group.requests), bound)


def tail(metric: str, requests: Requests) -> int:
    """How many requests have no value of the metric because they failed: they count as worst.

    From the sent clock a dropped request does not exist. Gaps and seconds belong to no single
    request, arrival lag and connect time to no outcome.
    """
    if not CATALOGUE[metric].per_request or metric in _ALWAYS_THERE:
        return 0
    unsent = 0 if metric.startswith("sent_") else requests.dropped
    return requests.failed + requests.lost + unsent


def _ranked(objective: Objective, hist: Histogram, missing: int, bound: Bound) -> _Finding:
    """A percentile, minimum or maximum; `missing` requests lie beyond any limit."""
    stat = objective.stat
    assert stat is not None
    n, p = hist.n + missing, _RANKED[stat]
    if not n:
        return _nothing("no data")
    shift = missing if objective.op.startswith(">") else 0  # the worst ones come first there
    rank = nearest_rank(p, n)
    value = _at(hist, rank - shift)
    observed = None if value is None else value / SCALE
    truth = bound.of_rank(_readings(hist, shift), rank, n) if bound else None
    judged = _few if n < FLOORS.get(stat, 1) else _enough
    status, reason = judged(objective, hist, missing, observed, truth, bound)
    interval = _interval(hist, n, p, shift)
    return _Finding(
        status=status, observed=observed, n=n, reason=reason, ci95=interval, truth=truth
    )


def _enough(
    objective: Objective,
    hist: Histogram,
    missing: int,
    observed: float | None,
    truth: Interval | None,
    bound: Bound,
) -> tuple[GateStatus, str]:
    """From the floor on the observed value decides, unless the truth may say otherwise."""
    if truth is not None and objective.meets(truth[0]) != objective.meets(truth[1]):
        return "inconclusive", _doubt(objective, truth, bound)
    if observed is None:
        return "fail", _no_value(hist, missing)
    return "pass" if objective.meets(observed) else "fail", ""


def _few(
    objective: Objective,
    hist: Histogram,
    missing: int,
    observed: float | None,
    truth: Interval | None,
    bound: Bound,
) -> tuple[GateStatus, str]:
    """Below the floor only a certain breach decides, one that is certain whatever the error."""
    stat = objective.stat
    assert stat is not None
    n, p = hist.n + missing, _RANKED[stat]
    least, read, _most = violations(objective, hist, bound)
    why = "" if observed is not None else f"; {_no_value(hist, missing)}"
    if _is_breach(objective, p, least + missing, n):
        return "fail", f"{read + missing} of {n} violate it{why}"
    if truth is not None and _is_breach(objective, p, read + missing, n):
        return "inconclusive", _doubt(objective, truth, bound)
    return "inconclusive", f"{stat} needs {FLOORS[stat]} samples, has {n}{why}"


def _no_value(hist: Histogram, missing: int) -> str:
    return f"{missing} of {hist.n + missing} requests gave no value"


def _readings(hist: Histogram, shift: int) -> Callable[[int], float]:
    """Rank → reading; the ones without a value lie beyond: first where high is good, else last."""

    def at_rank(rank: int) -> float:
        if rank <= shift:
            return 0.0
        value = _at(hist, rank - shift)
        return math.inf if value is None else value / SCALE

    return at_rank


def _at(hist: Histogram, rank: int) -> int | None:
    """The value at a rank; the last and the first one exactly, however full their buckets."""
    if rank == hist.n:
        return hist.max
    return hist.min if rank == 1 else hist.at_rank(rank)


def violations(objective: Objective, hist: Histogram, bound: Bound) -> tuple[int, int, int]:
    """(least, as read, most) readings that violate an objective, given the instrument's error."""
    values, counts = hist.counts()
    pairs = [(value / SCALE, int(n)) for value, n in zip(values.tolist(), counts, strict=True)]
    lower, n = objective.op.startswith("<"), hist.n

    def count(move: Callable[[float], float]) -> int:
        return sum(times for value, times in pairs if not objective.meets(move(value)))

    read = count(lambda value: value)
    if not bound:
        return read, read, read
    least = (count(move) - math.floor(d * n) for d, move in bound.at_best(lower=lower))
    most = (count(move) + math.floor(d * n) for d, move in bound.at_worst(lower=lower))
    return max(0, *least), read, min(n, *most)


def _doubt(objective: Objective, truth: Interval, bound: Bound) -> str:
    """Why the instrument cannot tell, and what would help."""
    low, high = (shown(end, objective.unit) if math.isfinite(end) else None for end in truth)
    if high is None:
        between = f"is {low} or more"
    else:
        between = f"lies between {low} and {high}" if low else f"is {high} or less"
    why = f" ({bound.cause})" if bound.cause else ""
    remedy = f"; {bound.remedy}" if bound.remedy else ""
    return f"the truth {between}, given the instrument's error{why}{remedy}"


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


def _mean(objective: Objective, group: Group, bound: Bound) -> _Finding:
    stats = group.metrics.get(objective.metric)
    if stats is None or stats.mean is None:
        return _nothing("no data")
    missing = tail(objective.metric, group.requests)
    reason = f"of the ok requests; {missing} gave no value" if missing else ""
    return _figure(objective, stats.mean, stats.n, bound, reason=reason)


def _figure(
    objective: Objective,
    observed: float,
    n: int,
    bound: Bound,
    *,
    reason: str = "",
    ci95: Interval | None = None,
    truth: Interval | None = None,
) -> _Finding:
    """One value that stands for the whole group."""
    status: GateStatus = "pass" if objective.meets(observed) else "fail"
    if bound and truth is None:
        truth = bound.around(observed)
    if truth is not None and objective.meets(truth[0]) != objective.meets(truth[1]):
        status, reason = "inconclusive", _doubt(objective, truth, bound)
    return _Finding(status=status, observed=observed, n=n, reason=reason, ci95=ci95, truth=truth)


def _scalar(objective: Objective, group: Group, bound: Bound) -> _Finding:
    observed, n, interval = _reading(objective.metric, group)
    if observed is None:
        return _nothing(_WHY_NOT.get(objective.metric, "no request was sent"), n)
    return _figure(objective, observed, n, bound, ci95=interval)


def _goodput(
    objective: Objective,
    group: Group,
    source: Histograms,
    bounds: Bounds,
    objectives: Sequence[Objective],
) -> _Finding:
    """A request changes sides only where one of its readings does: those are counted."""
    n, interval = _goodput_interval(group)
    observed = group.goodput.share
    if observed is None:
        return _nothing("no request was sent", n)
    better = worse = 0
    doubtful = Bound()
    for limit in slo.bounds(objectives, group.model, group.workload):
        bound = bounds(limit.metric, group)
        if not bound:
            continue
        hist = source.histogram(group.model, group.workload, group.phase, limit.metric)
        least, read, most = violations(limit, hist, bound)
        better, worse = better + read - least, worse + most - read
        if most > least and not doubtful.cause:
            doubtful = bound
    truth = None
    if better or worse:
        truth = max(0.0, observed - worse / n), min(1.0, observed + better / n)
    return _figure(objective, observed, n, doubtful, ci95=interval, truth=truth)


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
