"""Distributions of a latency or a rate, and latency against prompt length."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from loadlib.charts import numerals, parts
from loadlib.charts.parts import Drawn, Figure, Key, Panel, RunLike
from loadlib.metrics import CATALOGUE
from loadlib.summary import Group, Summary

ROW_HEIGHT = 58
TAIL = 50  # samples from which on a p99 is worth a sentence
PERCENTS = (0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999)


def ttft_histogram(run: RunLike) -> Figure | None:
    """Time to first token of every model, log bins, on one axis."""
    return _ridge(run, "ttft", "Time to first token: distribution", "ttft-histogram")


def user_rate_histogram(run: RunLike) -> Figure | None:
    """Output tokens per second as one user sees them, log bins."""
    return _ridge(
        run, "output_tok_s_user", "Tokens per second per user: distribution", "user-rate-histogram"
    )


# — histograms, one row a panel ————————————————————————————————————————————————


def _ridge(run: RunLike, metric: str, title: str, figure_id: str) -> Figure | None:
    summary = run.summary
    shown, legend = parts.panels(summary)
    counted = {
        id(group): parts.scaled_counts(run, group, metric) for p in shown for _, group in p.groups
    }
    domain = parts.span(
        v for values, _ in counted.values() for v in values[:: max(1, len(values) - 1)]
    )
    if domain is None:
        return None
    domain = _to_octave(_with_limits(summary, shown, metric, domain))
    rows = [
        _ridge_row(
            summary,
            panel,
            metric,
            counted,
            domain,
            first=panel is shown[0],
            last=panel is shown[-1],
        )
        for panel in shown
    ]
    middle = parts.stat_range(summary, metric, "p50")
    row = CATALOGUE[metric]
    gated = any(parts.gates_on(summary, g, metric) for p in shown for _, g in p.groups)
    columns, table = _ridge_table(shown, counted, domain)
    return Figure(
        id=figure_id,
        title=title,
        takeaway=f"Median {row.title}: {middle}.",
        spec=parts.finished(parts.together("vconcat", *rows, spacing=26)),
        columns=columns,
        rows=table,
        legend=(
            *legend,
            Key("p50", None, "dot"),
            Key("p99", None, "diamond"),
            *([Key("gate limit", None, "dashed")] if gated else []),
        ),
        note="Height is the share of requests in a bin; every row is scaled to its own peak.",
    )


def _with_limits(
    summary: Summary, shown: Sequence[Panel], metric: str, domain: tuple[float, float]
) -> tuple[float, float]:
    """The domain widened to the gate limits that lie near it; far ones would flatten the rest."""
    low, high = domain
    for panel in shown:
        for _, group in panel.groups:
            for _, gate in parts.gates_on(summary, group, metric):
                if low / 4 <= gate.limit <= high * 4:
                    low, high = min(low, gate.limit * 0.94), max(high, gate.limit * 1.06)
    return low, high


def _to_octave(domain: tuple[float, float]) -> tuple[float, float]:
    """The domain widened to whole halves of an octave, where bins of every width meet."""
    first, last = math.floor(math.log2(domain[0]) * 2), math.ceil(math.log2(domain[1]) * 2)
    return 2 ** (first / 2), 2 ** (last / 2)


def _edges(domain: tuple[float, float], n: int) -> list[float]:
    """Bin edges at whole fractions of an octave; coarser where samples are few.

    One width in a row, or its workloads could not be compared by height.
    """
    octaves = math.log2(domain[1] / domain[0])
    per_octave = 4 if n < 50 else 6 if n < 200 else 8
    while octaves * per_octave > 120 and per_octave > 1:
        per_octave //= 2
    first = math.floor(math.log2(domain[0]) * per_octave + 1e-6)
    last = math.ceil(math.log2(domain[1]) * per_octave - 1e-6)
    return [2 ** (i / per_octave) for i in range(first, last + 1)]


def _ridge_row(
    summary: Summary,
    panel: Panel,
    metric: str,
    counted: dict[int, Any],
    domain: tuple[float, float],
    *,
    first: bool,
    last: bool,
) -> Drawn:
    row = CATALOGUE[metric]
    label = parts.MS_LABEL if row.unit == "ms" else parts.PLAIN_LABEL
    title = f"{row.title}, {row.unit} (log) — {row.better} is better"
    layers: list[Any] = []
    marks: list[Any] = []
    peak = 0.0
    sizes = [int(counted[id(group)][1].sum()) for _, group in panel.groups]
    edges = _edges(domain, min((n for n in sizes if n), default=0))
    for series, group in panel.groups:
        values, counts = counted[id(group)]
        if not len(values):
            continue
        found, _ = np.histogram(values, bins=edges, weights=counts)
        shares = found / counts.sum()
        peak = max(peak, float(shares.max()))
        layers.append(_ridge_area(parts.colour(series), edges, shares))
        marks += _stat_marks(parts.colour(series), group, metric)
        for stat, gate in parts.gates_on(summary, group, metric):
            if domain[0] <= gate.limit <= domain[1]:
                layers += _limit(series, gate.limit, stat if first else "")
    x_axis = parts.axis(parts.log_ticks(*domain), label, title) if last else parts.hidden()
    if not last:
        x_axis.values = parts.log_ticks(*domain)
    top = peak or 1.0
    frame = (
        alt.Chart(parts.data([{"x": domain[0], "y": 0}]))
        .mark_point(opacity=0)
        .encode(
            x=alt.X("x:Q", scale=parts.log_scale(domain), axis=x_axis),
            y=alt.Y(
                "y:Q",
                scale=parts.linear_scale(top * 1.02),
                axis=parts.axis([0, top], "format(datum.value, '.0%')", "share" if last else None,
                                grid=False, **parts.GUTTER_EXTENT, domain=False, ticks=False),
            ),
        )
    )  # fmt: skip
    width = parts.WIDTH - parts.GUTTER - 18
    empty = [] if layers else [_nothing(width)]
    name = parts.caption(panel.label, width, -46)
    return parts.together(
        "layer", frame, *layers, *marks, *empty, name, width=width, height=ROW_HEIGHT
    )


def _nothing(width: int, text: str = "no successful request") -> Drawn:
    return (
        alt.Chart(parts.data([{"t": text}]))
        .mark_text(opacity=0.6, fontSize=11, fill="currentColor")
        .encode(x=parts.pixel_x(width / 2), y=parts.pixel_y(ROW_HEIGHT / 2), text=alt.Text("t:N"))
    )


def _ridge_area(paint: str, edges: list[float], shares: Any) -> Drawn:
    used = np.flatnonzero(shares)
    first, last = int(used[0]), int(used[-1])
    outline = [{"x": edges[i], "y": float(shares[i])} for i in range(first, last + 1)]
    outline = [{"x": edges[first], "y": 0.0}, *outline, {"x": edges[last + 1], "y": 0.0}]
    return (
        alt.Chart(parts.data(outline))
        .mark_area(interpolate="step-after", fill=paint, fillOpacity=0.28, stroke=paint,
                   strokeWidth=1.2, line=False)
        .encode(x=alt.X("x:Q"), y=alt.Y("y:Q", stack=None))
    )  # fmt: skip


def _stat_marks(paint: str, group: Group, metric: str) -> list[Drawn]:
    """The median as a dot and p99 as a diamond, on the baseline."""
    stats = group.metrics[metric]
    return [
        alt.Chart(parts.data([{"x": value, "y": 0.0}]))
        .mark_point(shape=shape, size=size, fill=paint, fillOpacity=1, stroke="var(--page, #fff)",
                    strokeWidth=1, opacity=1)
        .encode(x=alt.X("x:Q"), y=alt.Y("y:Q"))
        for value, shape, size in ((stats.p50, "circle", 44), (stats.p99, "diamond", 80))
        if value
    ]  # fmt: skip


def _limit(series: int, limit: float, label: str) -> list[Drawn]:
    """The limit of a gate, named above the first row."""
    paint = parts.colour(series)
    base = alt.Chart(parts.data([{"x": limit, "label": f"gate {label}".replace("_", ".")}]))
    rule = base.mark_rule(stroke=paint, strokeDash=[5, 3], strokeWidth=1.4).encode(x=alt.X("x:Q"))
    if not label:
        return [rule]
    name = base.mark_text(fill=paint, fontSize=10.5, baseline="bottom").encode(
        x=alt.X("x:Q"), y=parts.pixel_y(-4), text=alt.Text("label:N")
    )
    return [rule, name]


def _ridge_table(
    shown: Sequence[Panel], counted: dict[int, Any], domain: tuple[float, float]
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Shares per doubling (or wider, at most twelve columns), so that no picture is needed."""
    first, last = math.floor(math.log2(domain[0])), math.ceil(math.log2(domain[1]))
    step = max(1, math.ceil((last - first) / 12))
    edges = [2.0**e for e in range(first, last + step, step)]
    heads = [f"{numerals.number(a)}–{numerals.number(b)}" for a, b in itertools.pairwise(edges)]
    rows = []
    for panel in shown:
        for _, group in panel.groups:
            values, counts = counted[id(group)]
            total = int(counts.sum()) if len(counts) else 0
            found = np.histogram(values, bins=edges, weights=counts)[0] if total else ()
            cells = [numerals.share(float(c) / total) for c in found] or [numerals.UNKNOWN] * len(
                heads
            )
            rows.append((panel.label, parts.short(group.workload), numerals.count(total), *cells))
    return ("model", "workload", "n", *heads), tuple(rows)


# — percentiles on the 1/(1 − p) axis ——————————————————————————————————————————


def ttft_percentiles(run: RunLike) -> Figure | None:
    """TTFT at every percentile, both clocks, on HDR's axis; lines end where the data ends."""
    summary = run.summary
    shown, legend = parts.panels(summary)
    curves = {
        (id(group), clock): _curve(run, group, clock)
        for panel in shown
        for _, group in panel.groups
        for clock in ("ttft", "sent_ttft")
    }
    domain = parts.span(row["y"] for curve in curves.values() for row in curve)
    if domain is None:
        return None
    domain = _with_limits(summary, shown, "ttft", domain)
    reach = max(row["x"] for curve in curves.values() for row in curve)
    right = max(150.0, reach * 1.25)
    columns, width = parts.grid(len(shown))
    made = [
        _percentile_panel(
            summary,
            panel,
            curves,
            domain,
            right,
            width,
            left=i % columns == 0,
            foot=i + columns >= len(shown),
        )
        for i, panel in enumerate(shown)
    ]
    gated = any(parts.gates_on(summary, g, "ttft") for p in shown for _, g in p.groups)
    return Figure(
        id="ttft-percentiles",
        title="Time to first token: percentiles",
        takeaway=_tail_sentence(summary),
        spec=parts.finished(
            parts.together("concat", *made, columns=columns, spacing={"row": 34, "column": 18})
        ),
        columns=("model", "workload", "clock", "n", *[f"p{p * 100:g}" for p in PERCENTS], "max"),
        rows=tuple(_percentile_rows(run, shown)),
        legend=(
            *legend,
            Key("response clock (from the intended start)", None, "solid"),
            Key("sent clock", None, "dashed"),
            *([Key("gate limit at its percentile", None, "bar")] if gated else []),
        ),
        note="Only successful requests have a first token; a line ends at the slowest of them.",
    )


def _curve(run: RunLike, group: Group, metric: str, points: int = 90) -> list[dict[str, float]]:
    """(1/(1 − p), value) corners of the empirical quantile function, the largest at x = n."""
    values, counts = parts.scaled_counts(run, group, metric)
    if not len(values):
        return []
    below = np.cumsum(counts)
    n = int(below[-1])
    left = n / (n - (below - counts))  # where a value becomes the quantile
    keep = np.unique(
        np.searchsorted(left, np.geomspace(1, n, min(points, len(values)))).clip(0, len(left) - 1)
    )
    rows = [{"x": float(left[i]), "y": float(values[i])} for i in keep]
    return [*rows, {"x": float(n), "y": float(values[-1])}]


def _percentile_panel(
    summary: Summary,
    panel: Panel,
    curves: dict[tuple[int, str], list[dict[str, float]]],
    domain: tuple[float, float],
    right: float,
    width: int,
    *,
    left: bool,
    foot: bool,
) -> Drawn:
    ticks = [x for x in (1, 2, 10, 100, 1000, 10_000, 100_000, 1_000_000) if x <= right]
    label = "datum.value < 1.5 ? '0' : format(100 - 100 / datum.value, '~r') + ' %'"
    x_axis = parts.axis(ticks, label, "percentile, axis log 1/(1 − p)") if foot else parts.hidden()
    y_axis = parts.axis(
        parts.log_ticks(*domain), parts.MS_LABEL, "TTFT (log) — lower is better" if left else None,
        labels=left, ticks=left, domain=False, **(parts.GUTTER_EXTENT if left else {}),
    )  # fmt: skip
    if not foot:
        x_axis.values = ticks
    frame = (
        alt.Chart(parts.data([{"x": 1, "y": domain[0]}]))
        .mark_point(opacity=0)
        .encode(
            x=alt.X("x:Q", scale=parts.log_scale((1, right)), axis=x_axis),
            y=alt.Y("y:Q", scale=parts.log_scale(domain), axis=y_axis),
        )
    )
    layers: list[Any] = []
    for series, group in panel.groups:
        for clock, dash in (("sent_ttft", [4, 3]), ("ttft", [1, 0])):
            if curve := curves[id(group), clock]:
                layers += _percentile_line(curve, parts.colour(series), dash)
        layers += _gate_ticks(summary, group, series, right)
    empty = [] if layers else [_nothing(width)]
    name = parts.caption(panel.label, width)
    return parts.together("layer", frame, *layers, *empty, name, width=width, height=190)


def _percentile_line(curve: list[dict[str, float]], paint: str, dash: list[int]) -> list[Drawn]:
    line = (
        alt.Chart(parts.data(curve))
        .mark_line(interpolate="step-after", stroke=paint, strokeWidth=1.8, strokeDash=dash)
        .encode(x=alt.X("x:Q"), y=alt.Y("y:Q"))
    )
    end = (
        alt.Chart(parts.data(curve[-1:]))
        .mark_point(shape="circle", size=18, fill=paint, fillOpacity=1, strokeOpacity=0, opacity=1)
        .encode(x=alt.X("x:Q"), y=alt.Y("y:Q"))
    )
    return [line, end]


def _gate_ticks(summary: Summary, group: Group, series: int, right: float) -> list[Drawn]:
    """A gate `ttft.p99 < L` is a bar at (99 %, L) the line has to pass below."""
    at = {"p50": 2, "p90": 10, "p95": 20, "p99": 100, "p99_9": 1000}
    rows = [
        {"x": at[stat] / 1.5, "x2": min(right, at[stat] * 1.5), "y": gate.limit}
        for stat, gate in parts.gates_on(summary, group, "ttft")
        if stat in at and at[stat] < right
    ]
    if not rows:
        return []
    return [
        alt.Chart(parts.data(rows))
        .mark_rule(stroke=parts.colour(series), strokeWidth=3.5, strokeCap="butt", clip=True)
        .encode(x=alt.X("x:Q"), x2=alt.X2("x2"), y=alt.Y("y:Q"))
    ]


def _tail_sentence(summary: Summary) -> str:
    several = parts.ladder(summary)
    tails, waits = [], []
    for group in parts.measured(summary):
        stats, sent = group.metrics.get("ttft"), group.metrics.get("sent_ttft")
        if stats and stats.p50 and stats.p99 and stats.n >= TAIL:
            tails.append((stats.p99 / stats.p50, group))
            if sent and sent.p99 is not None:
                waits.append((stats.p99 - sent.p99, group))
    worst = parts.extremes(tails, phase=several)
    if worst is None:
        return "Too few requests succeeded to speak of a tail."
    text = f"The longest tail is {worst[1][1]}: p99 is {numerals.times(worst[1][0])} the median."
    if all(group.closed_loop for group in parts.measured(summary)):
        return f"{text} The loop is closed, so both clocks are one and queueing is not visible."
    most = parts.extremes(waits, phase=several)
    if most is None:
        return text
    return f"{text} Waiting to be sent adds {numerals.ms(max(0.0, most[1][0]))} to p99 at most ({most[1][1]})."  # noqa: E501


def _percentile_rows(run: RunLike, shown: Sequence[Panel]) -> list[tuple[str, ...]]:
    rows = []
    for panel in shown:
        for _, group in panel.groups:
            for clock, name in (("ttft", "response"), ("sent_ttft", "sent")):
                values, counts = parts.scaled_counts(run, group, clock)
                if len(values):
                    cells = [numerals.ms(parts.quantile(values, counts, p)) for p in PERCENTS]
                    cells.append(numerals.ms(float(values[-1])))
                else:
                    cells = [numerals.UNKNOWN] * (len(PERCENTS) + 1)
                total = numerals.count(int(counts.sum()))
                rows.append((panel.label, parts.short(group.workload), name, total, *cells))
    return rows
