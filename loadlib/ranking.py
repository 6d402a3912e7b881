"""Models side by side within one run: which is surely the best, and how others compare to one.

Only what ran the same workload in the same phase is set side by side. The best is named only where
its 95 % interval is apart from everybody else's: models whose intervals overlap are not told apart
by this run, and a figure without interval (too few samples) says nothing of who is best.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from loadlib.compare import Direction, direction
from loadlib.gates import goodput_interval
from loadlib.metrics import CATALOGUE
from loadlib.summary import Group

Interval = tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Column:
    """One figure that models are compared by; `read` gives its value and its 95 % interval."""

    title: str
    better: Literal["lower", "higher"]
    read: Callable[[Group], tuple[float | None, Interval]]


def _stat(metric: str, stat: str, title: str) -> Column:
    def read(group: Group) -> tuple[float | None, Interval]:
        stats = group.metrics.get(metric)
        return (None, None) if stats is None else (getattr(stats, stat), stats.ci95.get(stat))

    return Column(title, CATALOGUE[metric].better, read)


def _goodput(group: Group) -> tuple[float | None, Interval]:
    return group.goodput.share, goodput_interval(group)


def _cost(group: Group) -> tuple[float | None, Interval]:
    """Price lists are exact: two costs are the same, or apart."""
    cost = group.cost_usd.per_1k_requests
    return cost, None if cost is None else (cost, cost)


COLUMNS: dict[str, Column] = {
    "ttft.p50": _stat("ttft", "p50", "TTFT p50"),
    "ttft.p99": _stat("ttft", "p99", "TTFT p99"),
    "tpot.p50": _stat("tpot", "p50", "TPOT p50"),
    "tpot.p99": _stat("tpot", "p99", "TPOT p99"),
    "output_tok_s_user.p50": _stat("output_tok_s_user", "p50", "tokens/s, user p50"),
    "goodput": Column("goodput", "higher", _goodput),
    "cost": Column("$ per 1k", "lower", _cost),
}
"""What models are compared by. System throughput is left out: it is what was offered."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """A group's figure over that of the reference; None where either is unknown."""

    value: float | None
    direction: Direction


def rivals(groups: Sequence[Group], group: Group) -> list[Group]:
    """The groups that can be compared with `group`, itself included: same workload and phase."""
    return [g for g in groups if (g.workload, g.phase) == (group.workload, group.phase)]


def best(groups: Sequence[Group], group: Group) -> frozenset[str]:
    """The columns in which `group` is surely better than each of its rivals; none without any."""
    others = [g for g in rivals(groups, group) if g is not group]
    return frozenset(
        name for name, column in COLUMNS.items() if _surely_first(column, group, others)
    )


def _surely_first(column: Column, group: Group, others: Sequence[Group]) -> bool:
    value, interval = column.read(group)
    known = [found for other in others if (found := column.read(other))[0] is not None]
    return (
        value is not None
        and bool(known)
        and all(direction(column.better, theirs, interval) == "better" for _, theirs in known)
    )


def ratios(reference: Group, group: Group) -> dict[str, Ratio]:
    """Every column of `group` over that of `reference`."""
    found = {}
    for name, column in COLUMNS.items():
        before, before_ci = column.read(reference)
        after, after_ci = column.read(group)
        value = after / before if before and after is not None else None
        found[name] = Ratio(value, direction(column.better, before_ci, after_ci))
    return found


def reference_of(groups: Sequence[Group], model: str, group: Group) -> Group | None:
    """The group of `model` that `group` can be compared with."""
    return next((g for g in rivals(groups, group) if g.model == model), None)
