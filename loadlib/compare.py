"""Two runs side by side: ratios with both intervals. One run a side is indicative, no proof.

Two runs of the same thing differ by more than their own intervals say: machine, time of day and
neighbours are in neither. So this tells where to look, and gates nothing by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Protocol

from loadlib import binomial
from loadlib.gates import goodput_interval
from loadlib.metrics import CATALOGUE
from loadlib.summary import Comparison, Group, Summary

INDICATIVE = "indicative: one run a side, intervals hold what varied within each run only"
SAME = 0.05  # a ratio surely within ± this is no difference

_STATS = (
    *((metric, stat) for metric in ("ttft", "tpot", "e2e") for stat in ("p50", "p90", "p99")),
    ("output_tok_s_user", "p50"),
    ("output_tok_s", "p50"),
)
Direction = Literal["better", "worse", "same", "unclear"]
_Interval = tuple[float, float] | None
_Figure = tuple[str, str, str, Literal["lower", "higher"], float | None, _Interval]


class Compared(Protocol):
    """A `Run`: what it measured."""

    @property
    def summary(self) -> Summary:
        """The run's summary."""


def compare(before: Compared, after: Compared) -> tuple[Comparison, ...]:
    """Rows for every measure group that both runs have, in the order of `after`."""
    old = {_key(group): group for group in before.summary.groups if group.kind == "measure"}
    rows: list[Comparison] = []
    for group in after.summary.groups:
        if group.kind == "measure" and _key(group) in old:
            rows += _rows(old[_key(group)], group)
    return tuple(rows)


def unmatched(before: Compared, after: Compared) -> tuple[str, ...]:
    """`model/workload phase` of the measure groups that only one of the runs has."""
    old, new = (
        {_key(group): None for group in run.summary.groups if group.kind == "measure"}
        for run in (before, after)
    )
    return tuple(
        f"{model}/{workload} {phase}: only in the {which} run"
        for mine, other, which in ((old, new, "first"), (new, old, "second"))
        for model, workload, phase in mine
        if (model, workload, phase) not in other
    )


def _key(group: Group) -> tuple[str, str, str]:
    return group.model, group.workload, group.phase


def _rows(before: Group, after: Group) -> Iterator[Comparison]:
    for old, new in zip(_figures(before), _figures(after), strict=True):
        metric, stat, unit, better, a, a_ci = old
        b, b_ci = new[4], new[5]
        if a is None and b is None:
            continue
        yield Comparison(
            model=after.model,
            workload=after.workload,
            phase=after.phase,
            metric=metric,
            stat=stat,
            unit=unit,
            better=better,
            before=a,
            after=b,
            before_ci95=a_ci,
            after_ci95=b_ci,
            ratio=b / a if a and b is not None else None,
            direction=direction(better, a_ci, b_ci),
        )


def _figures(group: Group) -> Iterator[_Figure]:
    """(metric, stat, unit, better, value, 95 % interval), always the same ones."""
    for metric, stat in _STATS:
        row, stats = CATALOGUE[metric], group.metrics.get(metric)
        value = None if stats is None else getattr(stats, stat)
        interval = None if stats is None else stats.ci95.get(stat)
        yield metric, stat, row.unit, row.better, value, interval
    requests = group.requests
    errors = binomial.wilson(requests.failed + requests.lost, requests.sent)
    yield "error_rate", "", "share", "lower", requests.error_rate, errors
    yield "goodput", "", "share", "higher", group.goodput.share, goodput_interval(group)
    # A mean over the phase, with no interval of its own: seconds depend on each other.
    throughput = group.throughput.output_tok_s
    yield "output_tok_s", "mean", "tok/s", "higher", throughput, None
    yield "achieved_rps", "mean", "rps", "higher", group.throughput.achieved_rps, None


def direction(better: Literal["lower", "higher"], before: _Interval, after: _Interval) -> Direction:
    """What two intervals say: apart is a change, surely within 5 % is none, else unclear."""
    if before is None or after is None:
        return "unclear"
    if after[0] > before[1]:
        return "better" if better == "higher" else "worse"
    if after[1] < before[0]:
        return "better" if better == "lower" else "worse"
    if before == after and before[0] == before[1]:
        return "same"
    if before[0] > 0 and after[0] / before[1] >= 1 - SAME and after[1] / before[0] <= 1 + SAME:
        return "same"
    return "unclear"
