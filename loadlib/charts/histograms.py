"""Distributions of a latency or a rate as histograms, one row a panel."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from loadlib.charts import compose, numerals, parts
from loadlib.charts.compose import Drawn
from loadlib.charts.parts import Figure, Key, Panel, RunLike
from loadlib.metrics import CATALOGUE
from loadlib.summary import Summary

ROW_HEIGHT = 58


def ttft_histogram(run: RunLike) -> Figure | None:
    """Time to first token of every model, log bins, on one axis."""
    return _ridge(run, "ttft", "Time to first token: distribution", "ttft-histogram")


def user_rate_histogram(run: RunLike) -> Figure | None:
    """Output tokens per second as one user sees them, log bins."""
    return _ridge(
        run, "output_tok_s_user", "Tokens per second per user: distribution", "user-rate-histogram"
    )


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
    domain = _to_octave(parts.with_limits(summary, shown, metric, domain))
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
    limits = [
        gate.limit for p in shown for _, g in p.groups
        for _, gate in parts.gates_on(summary, g, metric)
    ]  # fmt: skip
    gated = any(domain[0] <= limit <= domain[1] for limit in limits)
    tail = "p99" if row.better == "lower" else "p10"
    columns, table = _ridge_table(shown, counted, domain)
    said = [f"Median {row.title}: {middle}.", _beyond(summary, shown, metric, counted)]
    return Figure(
        id=figure_id,
        title=title,
        takeaway=" ".join(filter(None, said)),
        spec=compose.finished(compose.column(*rows, spacing=26)),
        columns=columns,
        rows=table,
        legend=(
            *legend,
            Key("p50", None, "dot"),
            Key(tail, None, "diamond"),
            *([Key("gate limit", None, "dashed")] if gated else []),
        ),
        note="Height is the share of requests in a bin; every row is scaled to its own peak.",
    )


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
        tail = 0.99 if row.better == "lower" else 0.1
        marks += _stat_marks(parts.colour(series), values, counts, tail)
        for stat, gate in parts.gates_on(summary, group, metric):
            if domain[0] <= gate.limit <= domain[1]:
                layers += _limit(series, gate.limit, stat if first else "")
    x_axis = parts.axis(parts.log_ticks(*domain), label, title) if last else parts.hidden()
    if not last:
        x_axis.values = parts.log_ticks(*domain)
    top = peak or 1.0
    frame = parts.frame(
        x=alt.X("x:Q", scale=parts.log_scale(domain), axis=x_axis),
        y=alt.Y(
            "y:Q",
            scale=parts.linear_scale(top * 1.02),
            axis=parts.axis(
                [0, top],
                "format(datum.value, '.0%')",
                "share" if last else None,
                grid=False,
                **parts.GUTTER_EXTENT,
                domain=False,
                ticks=False,
            ),
        ),
        rows=[{"x": domain[0], "y": 0}],
    )
    width = parts.WIDTH - parts.GUTTER - 18
    empty = [] if layers else [parts.nothing(width, ROW_HEIGHT)]
    name = parts.caption(panel.label, width, -46)
    return compose.plot(frame, *layers, *marks, *empty, name, width=width, height=ROW_HEIGHT)


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


def _stat_marks(paint: str, values: Any, counts: Any, tail: float) -> list[Drawn]:
    """The median as a dot and the slow end as a diamond, on the baseline."""
    found = [parts.quantile(values, counts, p) for p in (0.5, tail)]
    return [
        alt.Chart(parts.data([{"x": value, "y": 0.0}]))
        .mark_point(shape=shape, size=size, fill=paint, fillOpacity=1, stroke="var(--page, #fff)",
                    strokeWidth=1, opacity=1)
        .encode(x=alt.X("x:Q"), y=alt.Y("y:Q"))
        for value, shape, size in zip(found, ("circle", "diamond"), (44, 80), strict=True)
        if value
    ]  # fmt: skip


def _beyond(
    summary: Summary, shown: Sequence[Panel], metric: str, counted: dict[int, Any]
) -> str:  # fmt: skip
    """Of which group most requests lie beyond the limit of a gate; empty where there is none."""
    better = CATALOGUE[metric].better
    found = []
    for panel in shown:
        for _, group in panel.groups:
            values, counts = counted[id(group)]
            for _, gate in parts.gates_on(summary, group, metric):
                over = values >= gate.limit if better == "lower" else values <= gate.limit
                if len(values):
                    share = float(counts[over].sum() / counts.sum())
                    found.append((share, gate.limit, gate.unit, group))
    if not found:
        return ""
    share, limit, unit, group = max(found, key=lambda row: row[0])
    if not share:
        return "None lies beyond the limit of its gate."
    label = parts.group_label(group, phase=parts.ladder(summary))
    which = ", the most" if len(found) > 1 else ""
    way = "or more" if better == "lower" else "or less"
    verb = "take" if better == "lower" else "get"
    return f"{numerals.share(share)} of {label} {verb} {numerals.value(limit, unit)} {way}{which}."


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
