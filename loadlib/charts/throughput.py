"""System throughput: tokens when they arrived, over time and as a histogram beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import altair as alt
import numpy as np

from loadlib.charts import numerals, parts
from loadlib.charts.parts import Drawn, Figure, Key, Row, RunLike
from loadlib.summary import Summary

BUCKETS = 260  # at most this many points a curve; longer runs show means
ROW_HEIGHT = 76
SIDE = 190
ROWS = 24


@dataclass(frozen=True, slots=True)
class Window:
    """Seconds [start, end) of one phase, counted from the first of the run."""

    phase: str
    kind: str
    start: int
    end: int


@dataclass(slots=True)
class Lane:
    """Output tokens of one model in every second of the run, by workload, and its phases."""

    model: str
    by_workload: dict[str, Any] = field(default_factory=dict)
    windows: list[Window] = field(default_factory=list)

    def total(self) -> Any:
        """All workloads together."""
        return sum(self.by_workload.values())

    def measured(self) -> Any:
        """The totals of the measure phases' seconds, the first and last (mostly cut) left out."""
        total = self.total()
        parts_of = [
            total[w.start + 1 : w.end - 1] if w.end - w.start > 3 else total[w.start : w.end]
            for w in self.windows
            if w.kind == "measure"
        ]
        return np.concatenate(parts_of) if parts_of else np.empty(0)


def system_throughput(run: RunLike) -> Figure | None:
    """Output tokens per second of each model: curve over time, histogram of the seconds."""
    summary = run.summary
    lanes = _lanes(summary, run.seconds())
    if not any(lane.total().sum() for lane in lanes):
        return None
    if len(lanes) > ROWS:
        lanes = sorted(lanes, key=lambda lane: -float(lane.total().sum()))[:ROWS]
    names = parts.workloads(parts.measured(summary))
    rows = [_row(lane, names, first=lane is lanes[0], last=lane is lanes[-1]) for lane in lanes]
    return Figure(
        id="system-throughput",
        title="System throughput",
        takeaway=_sentence(lanes),
        spec=parts.finished(
            alt.vconcat(*rows, spacing=26).resolve_scale(x="independent", y="independent")
        ),
        columns=("model", "seconds", "mean", "p10", "p50", "p90", "busiest second"),
        rows=tuple(_table(lanes)),
        legend=(
            *[Key(parts.short(name), i, "area") for i, name in enumerate(names)],
            Key("mean of the measure phases", None, "dashed"),
        ),
        note="Output tokens count in the second they arrive. Left: over time, warm-up shaded. "
        "Right: how many measured seconds ran at that rate.",
    )


def _lanes(summary: Summary, seconds: Iterable[Row]) -> list[Lane]:
    rows = list(seconds)
    if not rows:
        return []
    start = min(int(row["second"]) for row in rows)
    length = max(int(row["second"]) for row in rows) - start + 1
    order = list(dict.fromkeys(group.model for group in summary.groups))
    lanes = {model: Lane(model) for model in order}
    spans: dict[tuple[str, str], tuple[int, int]] = {}
    for row in rows:
        model, phase, at = str(row["model"]), str(row["phase"]), int(row["second"]) - start
        if row.get("scheduled") or row.get("sent"):
            low, high = spans.get((model, phase), (at, at))
            spans[model, phase] = (min(low, at), max(high, at))
        lane = lanes.setdefault(model, Lane(model))
        series = lane.by_workload.setdefault(str(row["workload"]), np.zeros(length))
        series[at] += float(row.get("output_tokens") or 0)
    kinds = {group.phase: group.kind for group in summary.groups}
    for (model, phase), (low, high) in sorted(spans.items(), key=lambda item: item[1]):
        window = Window(phase, kinds.get(phase, "warmup"), low, high + 1)
        lanes[model].windows.append(window)
    return [lane for lane in lanes.values() if lane.by_workload]


def _row(lane: Lane, names: list[str], *, first: bool, last: bool) -> Drawn:
    total, inside = lane.total(), lane.measured()
    width = max(1, math.ceil(len(total) / BUCKETS))
    high = max(1.0, float(_means(total, width).max()) * 1.05)
    mean = float(inside.mean()) if len(inside) else None
    time = _time_panel(lane, names, width, high, mean, first=first, last=last)
    side = _side_panel(inside, high, last=last)
    return alt.hconcat(time, side, spacing=22).resolve_scale(y="independent")


def _means(series: Any, width: int) -> Any:
    full = len(series) // width * width
    head = series[:full].reshape(-1, width).mean(axis=1)
    return np.append(head, series[full:].mean()) if full < len(series) else head


def _time_panel(
    lane: Lane,
    names: list[str],
    width: int,
    high: float,
    mean: float | None,
    *,
    first: bool,
    last: bool,
) -> Drawn:
    windows, seconds = lane.windows, len(lane.total())
    drawn = parts.WIDTH - parts.GUTTER - 18 - SIDE - 22 - 30
    ticks = parts.linear_ticks(seconds, 6)
    x_axis = (
        parts.axis(ticks, parts.PLAIN_LABEL, "seconds since the first request")
        if last
        else parts.hidden()
    )
    if not last:
        x_axis.values = ticks
    frame = (
        alt.Chart(parts.data([{"x": 0, "y": 0}]))
        .mark_point(opacity=0)
        .encode(
            x=alt.X("x:Q", scale=parts.linear_scale(seconds), axis=x_axis),
            y=alt.Y("y:Q", scale=parts.linear_scale(high), axis=parts.axis(
                parts.linear_ticks(high, 2), parts.PLAIN_LABEL,
                ["tok/s,", "higher is better"] if last else None,
                **parts.GUTTER_EXTENT, domain=False, ticks=False)),
        )
    )  # fmt: skip
    layers: list[Any] = shades(windows, high)
    floor = np.zeros(-(-seconds // width))
    for name, series in lane.by_workload.items():
        top = floor + _means(series, width)
        layers.append(_area(floor, top, width, seconds, names.index(name) if name in names else 6))
        floor = top
    if mean is not None:
        layers += _mean_rule(windows, mean)
    labels = phase_names(windows, drawn, seconds) if first else []
    return alt.layer(
        frame, *layers, *labels, parts.caption(parts.short(lane.model), drawn, -56)
    ).properties(width=drawn, height=ROW_HEIGHT)


def _area(floor: Any, top: Any, width: int, seconds: int, series: int) -> Drawn:
    paint = parts.colour(series)
    rows = [
        {"x": float(min(seconds, i * width)), "y": float(a), "y2": float(b)}
        for i, (a, b) in enumerate(zip(floor, top, strict=True))
    ]
    rows.append({**rows[-1], "x": float(seconds)})
    return (
        alt.Chart(parts.data(rows))
        .mark_area(interpolate="step-after", fill=paint, fillOpacity=0.45, stroke=paint,
                   strokeWidth=0.6)
        .encode(x=alt.X("x:Q"), y=alt.Y("y:Q", stack=None), y2=alt.Y2("y2"))
    )  # fmt: skip


def shades(windows: list[Window], high: float) -> list[Drawn]:
    """The warm-up phases, shaded."""
    rows = [{"x": w.start, "x2": w.end, "y": 0, "y2": high} for w in windows if w.kind == "warmup"]
    if not rows:
        return []
    return [
        alt.Chart(parts.data(rows))
        .mark_rect(fill="currentColor", fillOpacity=0.12)
        .encode(x=alt.X("x:Q"), x2=alt.X2("x2"), y=alt.Y("y:Q"), y2=alt.Y2("y2"))
    ]


def _mean_rule(windows: list[Window], mean: float) -> list[Drawn]:
    inside = [w for w in windows if w.kind == "measure"]
    if not inside:
        return []
    row = {"x": min(w.start for w in inside), "x2": max(w.end for w in inside), "y": mean}
    return [
        alt.Chart(parts.data([row]))
        .mark_rule(stroke="currentColor", strokeDash=[4, 3], strokeWidth=1, opacity=0.8)
        .encode(x=alt.X("x:Q"), x2=alt.X2("x2"), y=alt.Y("y:Q"))
    ]


def phase_names(windows: list[Window], drawn: int, seconds: int) -> list[Drawn]:
    """Names of the phases above the first row, right of the model's name, where they fit."""
    rows = []
    for window in windows:
        room = (window.end - window.start) / seconds * drawn
        name = parts.short(window.phase, 18)
        at = max(window.start / seconds * drawn, 0.0)
        if len(name) * 6.2 < room and at + room > 150:
            rows.append({"label": name, "x": (max(at, 150.0) + at + room) / 2 / drawn * seconds})
    if not rows:
        return []
    return [
        alt.Chart(parts.data(rows))
        .mark_text(fontSize=11, baseline="bottom", fill="currentColor", opacity=0.7)
        .encode(x=alt.X("x:Q"), y=parts.pixel_y(-5), text=alt.Text("label:N"))
    ]


def _side_panel(inside: Any, high: float, *, last: bool) -> Drawn:
    edges = np.linspace(0, high, 17)
    found = np.histogram(np.minimum(inside, high), bins=edges)[0] if len(inside) else np.zeros(16)
    most = max(1.0, float(found.max()))
    step = high / 16
    rows = [
        {"x": 0.0, "x2": float(c), "y": float(e + step * 0.06), "y2": float(e + step * 0.94)}
        for c, e in zip(found, edges[:-1], strict=True)
        if c
    ]
    ticks = [0.0, most]
    frame = (
        alt.Chart(parts.data([{"x": 0, "y": 0}]))
        .mark_point(opacity=0)
        .encode(
            x=alt.X("x:Q", scale=parts.linear_scale(most), axis=parts.axis(
                ticks, parts.PLAIN_LABEL, "measured seconds" if last else None, grid=False,
                ticks=False, domain=False, labelFlush=True)),
            y=alt.Y("y:Q", scale=parts.linear_scale(high), axis=parts.axis(
                parts.linear_ticks(high, 2), parts.PLAIN_LABEL, labels=False, ticks=False,
                domain=False)),
        )
    )  # fmt: skip
    bars = (
        [
            alt.Chart(parts.data(rows))
            .mark_rect(fill="currentColor", fillOpacity=0.4)
            .encode(x=alt.X("x:Q"), x2=alt.X2("x2"), y=alt.Y("y:Q"), y2=alt.Y2("y2"))
        ]
        if rows
        else []
    )
    return alt.layer(frame, *bars).properties(width=SIDE, height=ROW_HEIGHT)


def _sentence(lanes: list[Lane]) -> str:
    means = [(float(inside.mean()), lane) for lane in lanes if len(inside := lane.measured())]
    if not means:
        return "No second of a measure phase was recorded."
    top_mean, top = max(means, key=lambda m: m[0])
    peak = float(top.measured().max())
    if len(means) == 1:
        return (
            f"{parts.short(top.model)} delivered {numerals.tok_s(top_mean)} on average over the "
            f"measure phases, {numerals.tok_s(peak)} in its busiest second."
        )
    low_mean, low = min(means, key=lambda m: m[0])
    return (
        f"{parts.short(top.model)} delivered most: {numerals.tok_s(top_mean)} on average over the "
        f"measure phases, {numerals.tok_s(peak)} in its busiest second; {parts.short(low.model)} "
        f"least: {numerals.tok_s(low_mean)}."
    )


def _table(lanes: list[Lane]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for lane in lanes:
        inside = np.sort(lane.measured())
        if not len(inside):
            continue
        ones = np.ones(len(inside), dtype=np.int64)
        stats = [float(inside.mean())]
        stats += [parts.quantile(inside, ones, p) for p in (0.1, 0.5, 0.9)]
        texts = [numerals.tok_s(stat) for stat in (*stats, float(inside[-1]))]
        rows.append((parts.short(lane.model), numerals.count(len(inside)), *texts))
    return rows
