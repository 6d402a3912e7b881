"""Time per output token against the number of requests in flight: what batching costs a user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from loadlib.charts import compose, numerals, parts
from loadlib.charts.compose import Drawn
from loadlib.charts.fits import Line
from loadlib.charts.parts import Figure, Key, RunLike
from loadlib.charts.reading import Reading
from loadlib.charts.scan import LEVELS, Pair, Scan

HEIGHT = 170
LEAST = 20  # streams a bin needs
TAIL = 100  # … to show its p99
BINS = 14
VISIBLE = 0.1  # of the spread a line must explain to be spoken of


@dataclass(frozen=True, slots=True)
class Bin:
    """Streams of like load: the mean of it, and the tpot of the streams, ms."""

    load: float
    n: int
    p50: float
    p99: float | None


@dataclass(frozen=True, slots=True)
class Loaded:
    """One (model, workload) over all measure phases."""

    pair: Pair
    series: int
    bins: tuple[Bin, ...]
    line: Line | None

    @property
    def shown(self) -> bool:
        """Whether the line says anything."""
        return self.line is not None and self.line.r2 >= VISIBLE


def tpot_by_load(run: RunLike) -> Figure | None:
    """tpot p50 and p99 at each number of requests in flight, and a line through all streams."""
    scan = Reading.of(run).scan
    shown, legend = parts.pairs(run.summary)
    panels = [(label, [_loaded(scan, pair, series) for series, pair in pairs])
              for label, pairs in shown]  # fmt: skip
    panels = [panel for panel in panels if any(one.bins for one in panel[1])]
    bins = [found for _, members in panels for one in members for found in one.bins]
    if not bins:
        return None
    top = max(value for found in bins for value in (found.p50, found.p99 or 0.0)) * 1.25
    columns, width = parts.grid(len(panels))
    made = [
        _panel(label, members, top or 1.0, width, left=i % columns == 0)
        for i, (label, members) in enumerate(panels)
    ]
    every = [one for _, members in panels for one in members if one.bins]
    fitted = any(one.shown for one in every)
    return Figure(
        id="tpot-by-load",
        title="Time per token against requests in flight",
        takeaway=_sentence(every),
        spec=compose.finished(compose.tiles(made, columns)),
        columns=("model", "workload", "in flight", "streams", "tpot p50", "tpot p99", "on the line",
                 "line"),
        rows=tuple(_rows(every)),
        legend=(*legend, Key("p50", None, "dot"), Key("p99", None, "dashed"),
                *([Key("line through all streams", None, "dotted")] if fitted else [])),
        note="In flight: the model's requests, all workloads, on average over the seconds in which "
        f"a stream spoke. A bin has at least {LEAST} streams ({TAIL} for a p99), which are counted "
        "in steps of 2 %; the line is by least squares, over all measure phases, and is drawn "
        "where it explains a tenth of the spread (R²).",
    )  # fmt: skip


def _loaded(scan: Scan, pair: Pair, series: int) -> Loaded:
    found = scan.tpot(pair)
    if found is None:
        return Loaded(pair, series, (), None)
    cells, loads, line = found
    n = cells.n()
    total = int(n.sum())
    least = max(LEAST, total // BINS)
    bins, first = [], 0
    for level in range(LEVELS):
        here, left = int(n[first : level + 1].sum()), int(n[level + 1 :].sum())
        if here < least or 0 < left < least:
            continue
        stats = cells.quantiles((0.5, 0.99), first, level + 1)
        assert stats is not None
        load = float((loads * n)[first : level + 1].sum()) / here
        bins.append(Bin(load, here, stats[0], stats[1] if here >= TAIL else None))
        first = level + 1
    return Loaded(pair, series, tuple(bins), line if bins else None)


def _panel(
    label: str, members: Sequence[Loaded], top: float, width: int, *, left: bool
) -> Drawn:  # fmt: skip
    right = max(found.load for one in members for found in one.bins) * 1.08
    ticks = parts.linear_ticks(right, 4)
    x_axis = parts.axis(ticks, parts.PLAIN_LABEL, "requests of the model in flight")
    y_axis = parts.axis(
        parts.linear_ticks(top, 4), parts.MS_LABEL, "tpot — lower is better" if left else None,
        labels=left, ticks=left, domain=False, **(parts.GUTTER_EXTENT if left else {}),
    )  # fmt: skip
    layers: list[Any] = [
        parts.frame(
            x=alt.X("x:Q", scale=parts.linear_scale(right), axis=x_axis),
            y=alt.Y("y:Q", scale=parts.linear_scale(top), axis=y_axis),
        )
    ]
    said = 0
    for one in members:
        layers += _marks(one, top)
        if one.line is not None and one.shown:
            layers.append(_formula(one.line, parts.colour(one.series), 13 + 13 * said))
            said += 1
    return compose.plot(*layers, parts.caption(label, width), width=width, height=HEIGHT)


def _marks(one: Loaded, top: float) -> list[Drawn]:
    paint, layers = parts.colour(one.series), []
    tails = [{"x": found.load, "y": found.p99} for found in one.bins if found.p99 is not None]
    for rows, dash, size in ((tails, [4, 3], 16), (_medians(one), [1, 0], 34)):
        if not rows:
            continue
        base = alt.Chart(parts.data(rows)).encode(x=alt.X("x:Q"), y=alt.Y("y:Q"))
        layers += [
            base.mark_line(stroke=paint, strokeWidth=1.5, strokeDash=dash),
            base.mark_point(shape="circle", size=size, fill=paint, fillOpacity=1, opacity=1,
                            stroke="var(--page, #fff)", strokeWidth=0.8),
        ]  # fmt: skip
    if one.line is not None and one.shown:
        ends = [
            {"x": x, "y": y}
            for x in (one.bins[0].load, one.bins[-1].load)
            if 0 <= (y := one.line.at(x)) <= top
        ]
        if len(ends) == 2:
            layers.append(
                alt.Chart(parts.data(ends))
                .mark_line(stroke=paint, strokeWidth=1.6, strokeDash=[1.5, 2.5])
                .encode(x=alt.X("x:Q"), y=alt.Y("y:Q"))
            )
    return layers


def _medians(one: Loaded) -> list[dict[str, float | None]]:
    return [{"x": found.load, "y": found.p50} for found in one.bins]


def _formula(line: Line, paint: str, y: int) -> Drawn:
    return (
        alt.Chart(parts.data([{"t": _said(line)}]))
        .mark_text(align="left", fontSize=10.5, fill=paint, baseline="bottom")
        .encode(x=parts.pixel_x(6), y=parts.pixel_y(y), text=alt.Text("t:N"))
    )


def formula(line: Line) -> str:
    """`8.10 ms + 0.24 ms per request`."""
    sign = "+" if line.slope >= 0 else "−"
    return f"{numerals.ms(line.intercept)} {sign} {numerals.ms(abs(line.slope))} per request"


def _said(line: Line) -> str:
    return f"{formula(line)}, R² {line.r2:.2f}"


def _label(pair: Pair) -> str:
    return " · ".join(parts.short(name) for name in pair)


def _sentence(every: Sequence[Loaded]) -> str:
    lines = [(one.line, one.pair) for one in every if one.line is not None]
    visible = [(line.slope, pair, line) for line, pair in lines if line.r2 >= VISIBLE]
    if not lines:
        return "The load was always the same, so its effect on the time per token cannot be seen."
    if not visible:
        return (
            "Time per token hardly depends on the load here: in no group does a line through it "
            "explain a tenth of the spread."
        )
    slope, pair, line = max(visible, key=lambda row: row[0])
    if slope <= 0:
        return "Time per token does not grow with the load in any group."
    share = f"a line explains {numerals.share(line.r2)} of the spread"
    text = f"A token of {_label(pair)} takes {numerals.ms(slope)} longer with each further request in flight"  # noqa: E501
    if len(visible) == 1:
        return f"{text} ({share})."
    slope, pair, _ = min(visible, key=lambda row: row[0])
    least = numerals.ms(slope) if slope > 0 else "no time"
    return f"{text}, the most ({share}); one of {_label(pair)} {least}, the least."


def _rows(every: Sequence[Loaded]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for one in every:
        model, workload = (parts.short(name) for name in one.pair)
        said = numerals.UNKNOWN if one.line is None else _said(one.line)
        for place, found in enumerate(one.bins):
            on = None if one.line is None else one.line.at(found.load)
            rows.append((
                model, workload, numerals.number(found.load), numerals.count(found.n),
                numerals.ms(found.p50), numerals.ms(found.p99), numerals.ms(on),
                said if place == 0 else "",
            ))  # fmt: skip
    return rows
