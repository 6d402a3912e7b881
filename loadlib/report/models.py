"""The comparison of models as text: a row per group, the best of each column, ratios to one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loadlib import ranking
from loadlib.report import format as f
from loadlib.report import view
from loadlib.summary import Group, Stats, Summary

COLUMNS = ranking.COLUMNS


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One measured group of the per-model table; TTFT p50, p90, p99 as (response, sent clock)."""

    model: str
    workload: str
    phase: str
    load: str
    ok: str
    failed: str
    failures: bool
    offered: str
    achieved: str
    ttft: tuple[tuple[str, str], ...]
    tpot_p50: str
    tpot_p99: str
    user_rate: str
    system_rate: str
    goodput: str
    cost: str
    quality: str
    best: frozenset[str] = frozenset()  # of `ranking.COLUMNS`
    values: tuple[float | None, ...] = ()  # to sort by, in the order of the page's columns


def rows(summary: Summary) -> list[ModelRow]:
    """One row per measured group, in the order of the scenario."""
    groups = view.measured(summary)
    return [_row(summary, group, groups) for group in groups]


def shown(summary: Summary) -> list[ModelRow]:
    """Those that the page has room for."""
    groups = view.measured(summary)
    return [_row(summary, group, groups) for group in view.shown(summary)]


def _row(summary: Summary, group: Group, groups: Sequence[Group]) -> ModelRow:
    response, sent = group.metrics.get("ttft"), group.metrics.get("sent_ttft")
    tpot, cost = group.metrics.get("tpot"), group.cost_usd.per_1k_requests
    return ModelRow(
        model=f.name(group.model),
        workload=f.name(group.workload),
        phase=f.name(group.phase) if view.several_phases(summary) else "",
        load=f.line(group.load),
        ok=f.count(group.requests.ok),
        failed=f.count(group.requests.failed + group.requests.lost),
        failures=bool(group.requests.failed + group.requests.lost),
        offered=f.rps(group.throughput.offered_rps),
        achieved=f.rps(group.throughput.achieved_rps),
        ttft=tuple(_clocks(response, sent, stat) for stat in ("p50", "p90", "p99")),
        tpot_p50=view.percentile(tpot, "p50"),
        tpot_p99=view.percentile(tpot, "p99"),
        user_rate=f.number(_stat(group, "output_tok_s_user", "p50")),
        system_rate=f.number(group.throughput.output_tok_s),
        goodput=f.share(group.goodput.share),
        cost=f.usd(cost),
        quality=f.share(group.quality.share),
        best=ranking.best(groups, group),
        values=_values(group),
    )


def _values(group: Group) -> tuple[float | None, ...]:
    return (
        float(group.requests.ok),
        group.throughput.achieved_rps,
        *(_stat(group, "ttft", stat) for stat in ("p50", "p90", "p99")),
        *(_stat(group, "tpot", stat) for stat in ("p50", "p99")),
        _stat(group, "output_tok_s_user", "p50"),
        group.throughput.output_tok_s,
        group.goodput.share,
        group.cost_usd.per_1k_requests,
        group.quality.share,
    )


def _stat(group: Group, metric: str, stat: str) -> float | None:
    stats = group.metrics.get(metric)
    value: float | None = getattr(stats, stat) if stats is not None else None
    return value


def _clocks(response: Stats | None, sent: Stats | None, stat: str) -> tuple[str, str]:
    """Response clock; sent clock and what waiting before sent added."""
    a = getattr(response, stat) if response else None
    b = getattr(sent, stat) if sent else None
    added = None if a is None or b is None else a - b
    return view.percentile(response, stat), f.sum_ms(b, added)


# — against a reference ——————————————————————————————————————————————————————————


@dataclass(frozen=True, slots=True)
class RatioCell:
    """`1.42×`, what the two intervals say of it, and the ratio itself."""

    text: str
    word: str
    value: float | None


def names(summary: Summary) -> list[str]:
    """The models of the measured groups in the order of the scenario; the first is the reference
    unless another is chosen."""
    return list(dict.fromkeys(group.model for group in view.shown(summary)))


def comparable(summary: Summary) -> bool:
    """Whether there is anything to compare: two models or more."""
    return len(names(summary)) > 1


def against(summary: Summary, model: str) -> list[list[RatioCell]]:
    """For every shown group a cell per column; empty ones where `model` has nothing to compare."""
    groups = view.shown(summary)
    return [_cells(ranking.reference_of(groups, model, group), group) for group in groups]


def _cells(reference: Group | None, group: Group) -> list[RatioCell]:
    if reference is None:
        return [RatioCell(f.UNKNOWN, "", None)] * len(COLUMNS)
    found = ranking.ratios(reference, group).values()
    if reference is group:
        return [RatioCell("1×", "", 1.0) for _ in found]
    return [
        RatioCell(f.times(r.value), r.direction if r.value is not None else "", r.value)
        for r in found
    ]
