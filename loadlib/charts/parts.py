"""What every chart is made of: the figure, its panels, scales, colours and marks.

Three conventions hold on the whole page, so that a reader learns them once:
a *panel* is a model, a *colour* is a workload, a *dash* is a clock or a percentile.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import altair as alt
import numpy as np
import numpy.typing as npt

from loadlib.charts import numerals
from loadlib.charts.compose import Drawn
from loadlib.sample import Brief
from loadlib.server_record import Scrape
from loadlib.summary import Gate, Group, Summary

WIDTH = 1120
"""Drawn width of a figure in CSS pixels; the page scales it down where there is less room."""

GUTTER = 66  # room for a labelled and titled y axis, px
GUTTER_EXTENT = {"minExtent": 48, "maxExtent": 48}
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
"""Okabe and Ito's colours, the fallbacks of the page's variables `--s1` … `--s7`."""

Row = Mapping[str, Any]
Dash = Literal["solid", "dashed", "dotted", "dot", "diamond", "bar", "cross", "area", "span"]


class HistogramLike(Protocol):
    """The part of `histogram.Histogram` that charts read."""

    def counts(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Recorded values, ascending, and how often each occurred."""
        ...


class RunLike(Protocol):
    """The part of `run.Run` that charts read."""

    @property
    def summary(self) -> Summary:
        """The judged run."""
        ...

    def histogram(self, model: str, workload: str, phase: str, metric: str) -> HistogramLike:
        """One metric of one group."""
        ...

    def seconds(self) -> Iterable[Row]:
        """Counters of every second, phase, model and workload; may be read once only."""
        ...

    def brief(self) -> Iterable[Brief]:
        """Every attempt, in the order in which they ended; instants in Unix epoch ns."""
        ...

    def server(self) -> Iterable[Scrape]:
        """What servers said of themselves meanwhile."""
        ...


@dataclass(frozen=True, slots=True)
class Key:
    """One entry of a legend: what a colour (0, 1, …; None for any) and a stroke stand for."""

    label: str
    series: int | None
    stroke: Dash


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart and everything that makes it readable without the picture.

    `spec` is complete Vega-Lite with inline data; `columns` and `rows` are its data as text.
    """

    id: str
    title: str
    takeaway: str
    spec: dict[str, Any]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    legend: tuple[Key, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One small multiple: the groups of one model and phase, one colour per workload."""

    label: str
    groups: tuple[tuple[int, Group], ...]


def colour(series: int) -> str:
    """CSS colour of the n-th series; a page may set the variable, a bare SVG falls back."""
    slot = series % len(PALETTE)
    return f"var(--s{slot + 1}, {PALETTE[slot]})"


def measured(summary: Summary) -> list[Group]:
    """The groups of the measure phases: by model, workload, phase, in the scenario's order."""
    found = [group for group in summary.groups if group.kind == "measure"]
    places = [
        {name: i for i, name in reversed(list(enumerate(names)))}
        for names in (
            [group.model for group in found],
            [group.workload for group in found],
            [group.phase for group in found],
        )
    ]
    return sorted(
        found, key=lambda g: (places[0][g.model], places[1][g.workload], places[2][g.phase])
    )


def ladder(summary: Summary) -> bool:
    """Whether several measure phases ran."""
    return len({group.phase for group in measured(summary)}) > 1


def workloads(groups: Iterable[Group]) -> list[str]:
    """Workload names in order of appearance."""
    return list(dict.fromkeys(group.workload for group in groups))


def short(text: str, limit: int = 34) -> str:
    """One printable line of at most `limit` characters, cut in the middle."""
    line = "".join(c if c.isprintable() else " " for c in text).strip()
    if len(line) > limit:
        line = f"{line[: limit - limit // 3 - 1]}…{line[-(limit // 3) :]}"
    return isolated(line)


def isolated(text: str) -> str:
    """`text` so that right-to-left letters in it do not turn round what stands beside it."""
    if any(unicodedata.bidirectional(c) in ("R", "AL", "AN") for c in text):
        return f"\u2068{text}\u2069"
    return text


def group_label(group: Group, *, phase: bool = False) -> str:
    """`gpt-4o · chat`, and the phase where there are several."""
    parts = [group.model, group.workload, *([group.phase] if phase else [])]
    return " · ".join(short(part) for part in parts)


def panels(summary: Summary, limit: int = 24) -> tuple[list[Panel], list[Key]]:
    """Small multiples in the scenario's order and the legend of their colours.

    Up to three workloads share the panel of their model; with more, each group has its own.
    Beyond `limit` panels the busiest are kept: the tables of the page hold all of them.
    """
    groups, several = measured(summary), ladder(summary)
    names = workloads(groups)
    shared = len(names) <= 3
    found: dict[tuple[str, ...], list[tuple[int, Group]]] = {}
    for group in groups:
        key = (group.model, group.phase) if shared else (group.model, group.phase, group.workload)
        found.setdefault(key, []).append((names.index(group.workload) if shared else 0, group))
    made = [Panel(_panel_label(members, several, shared), tuple(members)) for members in
            found.values()]  # fmt: skip
    if len(made) > limit:
        busiest = sorted(made, key=lambda p: -sum(g.requests.scheduled for _, g in p.groups))
        kept = {id(panel) for panel in busiest[:limit]}
        made = [panel for panel in made if id(panel) in kept]
    keys = [Key(short(name), index, "area") for index, name in enumerate(names)] if shared else []
    return made, keys


def pairs(
    summary: Summary, limit: int = 24
) -> tuple[list[tuple[str, list[tuple[int, tuple[str, str]]]]], list[Key]]:
    """As `panels`, of (model, workload) pairs: all measure phases of one together."""
    groups = measured(summary)
    names = workloads(groups)
    shared = len(names) <= 3
    found: dict[tuple[str, ...], dict[tuple[str, str], int]] = {}
    busy: dict[tuple[str, ...], int] = {}
    for group in groups:
        key = (group.model,) if shared else (group.model, group.workload)
        series = names.index(group.workload) if shared else 0
        found.setdefault(key, {})[group.model, group.workload] = series
        busy[key] = busy.get(key, 0) + group.requests.scheduled
    kept = sorted(found, key=lambda key: -busy[key])[:limit]
    made = [
        (" · ".join(short(name) for name in key), [(n, pair) for pair, n in members.items()])
        for key, members in found.items()
        if key in kept
    ]
    keys = [Key(short(name), index, "area") for index, name in enumerate(names)] if shared else []
    return made, keys


def _panel_label(members: Sequence[tuple[int, Group]], several: bool, shared: bool) -> str:
    group = members[0][1]
    parts = [short(group.model)]
    if not shared:
        parts.append(short(group.workload))
    if several:
        parts.append(short(group.phase))
    return " · ".join(parts)


def gates_on(summary: Summary, group: Group, metric: str) -> list[tuple[str, Gate]]:
    """Percentile gates of one metric on one group as (statistic, gate)."""
    found = []
    for gate in summary.gates:
        head = gate.expression.split("<")[0].split(">")[0].strip()
        name, _, stat = head.partition(".")
        here = (gate.model, gate.workload, gate.phase) == (group.model, group.workload, group.phase)
        if here and name == metric:
            found.append((stat, gate))
    return found


def with_limits(
    summary: Summary, shown: Sequence[Panel], metric: str, domain: tuple[float, float]
) -> tuple[float, float]:
    """The domain widened to the gate limits that lie near it; far ones would flatten the rest."""
    low, high = domain
    for panel in shown:
        for _, group in panel.groups:
            for _, gate in gates_on(summary, group, metric):
                if low / 4 <= gate.limit <= high * 4:
                    low, high = min(low, gate.limit * 0.94), max(high, gate.limit * 1.06)
    return low, high


def scaled_counts(
    run: RunLike, group: Group, metric: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Values in the metric's own unit (ms, tok/s) and their counts; empty when unknown."""
    stats = group.metrics.get(metric)
    if stats is None or stats.n == 0:
        return np.empty(0), np.empty(0, dtype=np.int64)
    values, counts = run.histogram(group.model, group.workload, group.phase, metric).counts()
    kept = np.asarray(counts) > 0
    return np.asarray(values, dtype=float)[kept] / 1000, np.asarray(counts, dtype=np.int64)[kept]


def quantile(values: npt.NDArray[Any], counts: npt.NDArray[Any], p: float) -> float:
    """Nearest rank ⌈p·n⌉ over counted values, which must not be empty."""
    below = np.cumsum(counts)
    rank = max(1, math.ceil(p * int(below[-1]) - 1e-9))
    return float(values[int(np.searchsorted(below, rank))])


def data(rows: Iterable[Row]) -> alt.InlineData:
    """Inline data; numbers keep four digits, which is finer than a pixel.

    Text until `compose.finished` unpacks it: altair copies and hashes every value many times over.
    """
    thin = [{k: _thin(v) if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    return alt.InlineData(values=json.dumps(thin))


def _thin(number: float) -> float:
    return float(f"{number:.4g}")


def log_ticks(low: float, high: float) -> list[float]:
    """1-2-5 ticks in [low, high], thinned to decades where there are many."""
    exponents = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low <= 2000 else (1, 3) if high / low < 50_000 else (1,)
    return [s * 10.0**e for e in exponents for s in steps if low <= s * 10.0**e <= high]


def linear_ticks(high: float, wanted: int = 3) -> list[float]:
    """Round values from 0 to at most `high`."""
    if high <= 0:
        return [0.0]
    raw = high / wanted
    base = 10.0 ** math.floor(math.log10(raw))
    step = next(s * base for s in (1, 2, 2.5, 5, 10) if s * base >= raw * 0.999)
    return [round(i * step, 12) for i in range(int(high / step + 1e-9) + 1)]


MS_LABEL = "datum.value >= 1000 ? format(datum.value / 1000, '~g') + ' s' : format(datum.value, '~g') + ' ms'"  # noqa: E501
PLAIN_LABEL = "format(datum.value, ',~r')"
TOKENS_LABEL = (
    "datum.value >= 1000 ? format(datum.value / 1000, '~g') + 'k' : format(datum.value, '~g')"
)


def span(values: Iterable[float], *, least: float = 4.0) -> tuple[float, float] | None:
    """A log domain around positive values, at least a factor of `least` wide."""
    kept = [v for v in values if v > 0 and math.isfinite(v)]
    if not kept:
        return None
    low, high = min(kept) * 0.94, max(kept) * 1.06
    grow = math.sqrt(max(1.0, least / (high / low)))
    return low / grow, high * grow


def log_scale(domain: tuple[float, float]) -> alt.Scale:
    """A log scale that shows exactly `domain`."""
    return alt.Scale(type="log", domain=list(domain), nice=False)


def linear_scale(high: float, low: float = 0.0) -> alt.Scale:
    """A linear scale that shows exactly [low, high]."""
    return alt.Scale(domain=[low, high], nice=False)


def axis(
    values: Sequence[float], label: str, title: str | list[str] | None = None, **more: Any
) -> alt.Axis:
    """An axis with ticks where we say, labelled by a Vega expression."""
    return alt.Axis(values=list(values), labelExpr=label, title=title, **more)


def frame(x: alt.X, y: alt.Y, rows: Iterable[Row] = ({"x": 0, "y": 0},)) -> Drawn:
    """What holds the axes of a plot, whatever else it shows: marks at `rows` that nobody sees."""
    return alt.Chart(data(rows)).mark_point(opacity=0).encode(x=x, y=y)


def grid(count: int) -> tuple[int, int]:
    """(columns, width of one panel) for `count` small multiples."""
    columns = {1: 1, 2: 2, 4: 2}.get(count, 3)
    return columns, (WIDTH - GUTTER - 34 - (columns - 1) * 18) // columns


def hidden() -> alt.Axis:
    """The axis of a row whose ticks stand elsewhere: grid only."""
    return alt.Axis(labels=False, ticks=False, title=None, domain=False)


def pixel_x(place: float) -> Drawn:
    """A fixed place, px from the panel's left."""
    return alt.XValue(place)  # type: ignore[no-untyped-call]


def pixel_y(place: float) -> Drawn:
    """A fixed place, px from the panel's top."""
    return alt.YValue(place)  # type: ignore[no-untyped-call]


def caption(text: str, width: int, x: int = 0) -> Drawn:
    """The name of a panel, above its left edge (a negative x: over the axis)."""
    return (
        alt.Chart(data([{"label": text}]))
        .mark_text(align="left", baseline="bottom", fontWeight=600, fontSize=12,
                   fill="currentColor", limit=width)
        .encode(x=pixel_x(x), y=pixel_y(-5), text=alt.Text("label:N"))
    )  # fmt: skip


def nothing(width: int, height: int, text: str = "no successful request") -> Drawn:
    """What an empty panel says."""
    return (
        alt.Chart(data([{"t": text}]))
        .mark_text(opacity=0.6, fontSize=11, fill="currentColor")
        .encode(x=pixel_x(width / 2), y=pixel_y(height / 2), text=alt.Text("t:N"))
    )


def extremes(
    found: Sequence[tuple[float, Group]], *, phase: bool
) -> tuple[tuple[float, str], tuple[float, str]] | None:
    """(lowest, its group) and (highest, its group)."""
    if not found:
        return None
    low, high = min(found, key=lambda f: f[0]), max(found, key=lambda f: f[0])
    return (
        (low[0], group_label(low[1], phase=phase)),
        (high[0], group_label(high[1], phase=phase)),
    )


def stat_range(summary: Summary, metric: str, stat: str) -> str:
    """`chat 213 ms (gpt-4o-mini) to 1,020 ms (gpt-4); long …`: a sentence's middle part."""
    groups, parts = measured(summary), []
    for name in workloads(groups):
        found = [
            (value, group)
            for group in groups
            if group.workload == name
            and (stats := group.metrics.get(metric)) is not None
            and (value := getattr(stats, stat)) is not None
        ]
        if not found:
            continue
        unit = found[0][1].metrics[metric].unit
        low, high = min(found, key=lambda f: f[0]), max(found, key=lambda f: f[0])
        text = f"{short(name)} {numerals.value(low[0], unit)}"
        if low[1] is not high[1]:
            where = [_place(group, ladder(summary)) for group in (low[1], high[1])]
            text += f" ({where[0]}) to {numerals.value(high[0], unit)} ({where[1]})"
        parts.append(text)
    return "; ".join(parts)


def _place(group: Group, phase: bool) -> str:
    return f"{short(group.model)}, {short(group.phase)}" if phase else short(group.model)
