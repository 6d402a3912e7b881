"""The numbers in large type at the head of the page, each with what the page can narrow it to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from loadlib.metrics import FLOORS
from loadlib.report import format as f
from loadlib.report import view
from loadlib.summary import Group, Summary


@dataclass(frozen=True, slots=True)
class Reading:
    """One group's value of a tile, as number and as text; `group` is its place on the page."""

    group: int | None
    value: float
    text: str
    where: str


@dataclass(frozen=True, slots=True)
class Tile:
    """One number worth a large font, what it is of, and the section that says more.

    `of` holds what the page's script narrows it by (`kind` says how): readings of groups, of
    which `worst` (a high or a low one) is shown first; counts; or costs.
    """

    label: str
    value: str
    detail: str
    section: str = "models"
    kind: Literal["extreme", "system", "requests", "cost"] = "extreme"
    worst: Literal["high", "low"] = "high"
    say: str = "worst"
    other: str = "best"
    what: str = "a value"
    every: str = "in every group"
    of: tuple[Any, ...] = ()

    def payload(self) -> dict[str, Any]:
        """For the script."""
        of = [
            {"g": r.group, "v": r.value, "t": r.text, "w": r.where} if isinstance(r, Reading) else r
            for r in self.of
            if not isinstance(r, Reading) or r.group is not None
        ]
        return {
            name: getattr(self, name)
            for name in ("value", "detail", "kind", "worst", "say", "other", "what", "every")
        } | {"of": of}


def tiles(summary: Summary) -> list[Tile]:
    """Eight numbers; over several groups the worst and the best, never a pooled percentile."""
    return [
        _requests(summary),
        _extreme(summary, "Goodput", lambda g: g.goodput.share, "share", worst="low",
                 section="gates", what="objectives"),
        _latency(summary, "p50"),
        _latency(summary, "p99"),
        _extreme(summary, "Tokens/s per user", lambda g: _stat(g, "output_tok_s_user", "p50"), "",
                 worst="low", section="throughput"),
        _system(summary),
        _extreme(summary, "Cost per 1,000 requests", lambda g: g.cost_usd.per_1k_requests, "usd",
                 say="most", other="least", section="cost", what="a list price"),
        _spent(summary),
    ]  # fmt: skip


def _stat(group: Group, metric: str, stat: str) -> float | None:
    stats = group.metrics.get(metric)
    value: float | None = getattr(stats, stat) if stats is not None else None
    return value


def _requests(summary: Summary) -> Tile:
    rows = [_counts(group) for group in view.measured(summary)]
    ok, total, bad, dropped = (sum(row[i] for row in rows) for i in range(4))
    more = f", {f.count(dropped)} dropped" if dropped else ""
    detail = f"of {f.count(total)}; {f.count(bad)} failed{more}"
    return Tile("Requests ok", f.count(ok), detail, "outcomes", "requests",
                of=tuple(map(_counts, view.shown(summary))))  # fmt: skip


def _counts(group: Group) -> tuple[int, int, int, int]:
    found = group.requests
    return found.ok, found.scheduled, found.failed + found.lost, found.dropped


def _latency(summary: Summary, stat: str) -> Tile:
    def mark(group: Group) -> str:
        return " †" if group.metrics["ttft"].n < FLOORS[stat] else ""

    return _extreme(summary, f"TTFT {stat}", lambda g: _stat(g, "ttft", stat), "ms", mark=mark,
                    section="latency")  # fmt: skip


def _extreme(
    summary: Summary,
    label: str,
    read: Callable[[Group], float | None],
    unit: str,
    *,
    mark: Callable[[Group], str] = lambda _: "",
    **more: Any,
) -> Tile:
    groups, places = view.measured(summary), view.numbers(summary)
    found = [
        Reading(
            places.get(view.key(group)),
            value,
            f.value(value, unit) + mark(group),
            view.where(summary, group),
        )
        for group in groups
        if (value := read(group)) is not None
    ]
    return _of_readings(Tile(label, "", "", **more), found, len(groups))


def _of_readings(tile: Tile, found: Sequence[Reading], groups: int) -> Tile:
    """The worst reading in large type, and the best beside it."""
    if not found:
        return replace(tile, value=f.UNKNOWN, detail="not measured")
    ranked = sorted(found, key=lambda r: -r.value if tile.worst == "high" else r.value)
    first, last = ranked[0], ranked[-1]
    if len(ranked) == 1:
        detail = first.where
    elif first.value != last.value:
        detail = f"{tile.say}, {first.where}; {tile.other} {last.text.removesuffix(' †')}"
    else:
        detail = tile.every + (f" that has {tile.what}" if len(ranked) < groups else "")
    return replace(tile, value=first.text, detail=detail, of=tuple(ranked))


def _system(summary: Summary) -> Tile:
    """Workloads of a model run together, so their tokens add up; models may have taken turns."""
    several, sums = view.several_phases(summary), dict[str, float]()

    def row(group: Group) -> tuple[float | None, str]:
        names = (group.model, *([group.phase] if several else []))
        return group.throughput.output_tok_s, " · ".join(map(f.name, names))

    for rate, where in map(row, view.measured(summary)):
        if rate is not None:
            sums[where] = sums.get(where, 0.0) + rate
    found = [Reading(None, rate, f.number(rate), where) for where, rate in sums.items()]
    tile = Tile("Tokens/s, system", "", "", "throughput", say="most", other="least",
                every="of every model")  # fmt: skip
    of = tuple(map(row, view.shown(summary)))
    return replace(_of_readings(tile, found, len(found)), kind="system", of=of)


def _spent(summary: Summary) -> Tile:
    found = spent(summary)
    costs = tuple(group.cost_usd.total for group in view.shown(summary))
    if found is None:
        return Tile("Cost", f.UNKNOWN, "no list price known", "cost", "cost", of=costs)
    return Tile("Cost", *found, "cost", "cost", of=costs)


def spent(summary: Summary) -> tuple[str, str] | None:
    """What the whole run cost, and how that is counted; None where no list price is known."""
    known = [(g.cost_usd.total, g) for g in summary.groups if g.cost_usd.total is not None]
    if not known:
        return None
    warm = any(cost and group.kind == "warmup" for cost, group in known)
    total = f.usd(sum(cost for cost, _ in known))
    counted = "at list price, incl. warm-up" if warm else "at list price"
    unknown = sum(group.cost_usd.unknown for group in summary.groups)
    return total, f"{counted}, {f.count(unknown)} of unknown cost left out" if unknown else counted
