"""System throughput: tokens when they arrived, over time and as a histogram beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import numpy.typing as npt

from loadlib.charts import compose, numerals, parts
from loadlib.charts.compose import Drawn
from loadlib.charts.parts import Figure, Key, RunLike
from loadlib.charts.reading import Reading
from loadlib.charts.series import FIELDS, Series, Window
from loadlib.charts.steady import Steady, steady

POINTS = 1700  # of all curves of the figure together
BUCKETS = 240  # of one of them, at most; longer runs show means
ROW_HEIGHT = 76
SIDE = 190
ROWS = 24
STACKED = 8  # models up to which their workloads are told apart
_OUTPUT = FIELDS.index("output_tokens")

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Stretch:
    """One phase of one model and the steady part of it, in seconds of the run."""

    window: Window
    steady: Steady

    @property
    def start(self) -> int:
        """First steady second."""
        return self.window.start + self.steady.start

    @property
    def end(self) -> int:
        """Behind the last."""
        return self.window.start + self.steady.end


@dataclass(frozen=True, slots=True)
class Lane:
    """Output tokens of one model in every second of the run, by workload, and its phases."""

    model: str
    by_workload: dict[str, Floats]
    windows: tuple[Window, ...]
    stretches: tuple[Stretch, ...]  # of its measure phases

    def total(self) -> Floats:
        """All workloads together."""
        found: Floats = np.sum(list(self.by_workload.values()), axis=0)
        return found

    def measured(self) -> Floats:
        """The totals of all steady seconds."""
        total = self.total()
        found = [total[one.start : one.end] for one in self.stretches]
        return np.concatenate(found) if found else np.empty(0)

    def best(self) -> Stretch | None:
        """The phase in which it delivered most."""
        return max(self.stretches, key=lambda one: one.steady.mean, default=None)


def system_throughput(run: RunLike) -> Figure | None:
    """Output tokens per second of each model: curve over time, histogram of the seconds."""
    series = Reading.of(run).series
    lanes = lanes_of(series)
    if not any(lane.total().sum() for lane in lanes):
        return None
    if len(lanes) > ROWS:
        lanes = sorted(lanes, key=lambda lane: -float(lane.total().sum()))[:ROWS]
    names = parts.workloads(parts.measured(run.summary))
    stacked = len(lanes) <= STACKED
    curves = sum(len(lane.by_workload) if stacked else 1 for lane in lanes)
    buckets = max(40, min(BUCKETS, POINTS // curves))
    told = names if stacked else []
    rows = [
        _row(lane, told, buckets, first=lane is lanes[0], last=lane is lanes[-1]) for lane in lanes
    ]
    colours = [Key(parts.short(name), i, "area") for i, name in enumerate(names)]
    return Figure(
        id="system-throughput",
        title="System throughput",
        takeaway=_sentence(lanes),
        spec=compose.finished(compose.column(*rows, spacing=26)),
        columns=("model", "phase", "steady seconds", "of", "mean", "95 % interval", "p10", "p50",
                 "p90", "busiest second"),
        rows=tuple(_table(lanes)),
        legend=(*(colours if stacked else ()), Key("mean of the steady stretch", None, "dashed"),
                Key("its 95 % interval; shaded: warm-up, ramp and drain", None, "area")),
        note="Output tokens count in the second they arrive. Steady is what is left of a measure "
        "phase from the end of its ramp, as long as it takes for the error of the rest to be near "
        "the least (MSER-5), to its last arrival; the 95 % interval is that of ten batch means. "
        "Right: how many steady seconds ran at that rate.",
    )  # fmt: skip


def lanes_of(series: Series) -> list[Lane]:
    """One lane a model, in the order of the summary."""
    found: dict[str, dict[str, Floats]] = {}
    for (model, workload, _), counts in series.groups.items():
        mine = found.setdefault(model, {})
        mine[workload] = mine.get(workload, 0.0) + counts[_OUTPUT].astype(float)
    lanes = []
    for model, by_workload in found.items():
        windows = tuple(window for window in series.windows if window.model == model)
        total = np.sum(list(by_workload.values()), axis=0)
        stretches = tuple(
            Stretch(window, one)
            for window in windows
            if window.kind == "measure"
            and (one := steady(total[window.start : window.end])) is not None
        )
        lanes.append(Lane(model, by_workload, windows, stretches))
    return lanes


# — drawing ————————————————————————————————————————————————————————————————————


def _row(lane: Lane, names: list[str], buckets: int, *, first: bool, last: bool) -> Drawn:
    total, inside = lane.total(), lane.measured()
    width = max(1, math.ceil(len(total) / buckets))
    high = max(1.0, float(means(total, width).max()) * 1.05)
    time = _time_panel(lane, names, width, high, first=first, last=last)
    side = _side_panel(inside, high, last=last)
    return compose.row(time, side, spacing=22)


def means(series: Floats, width: int) -> Floats:
    """The mean of every `width` values; the last of what is left."""
    full = len(series) // width * width
    head: Floats = series[:full].reshape(-1, width).mean(axis=1)
    return np.append(head, series[full:].mean()) if full < len(series) else head


def _time_panel(
    lane: Lane, names: list[str], width: int, high: float, *, first: bool, last: bool
) -> Drawn:
    seconds = len(lane.total())
    drawn = parts.WIDTH - parts.GUTTER - 18 - SIDE - 22 - 30
    ticks = parts.linear_ticks(seconds, 6)
    x_axis = (
        parts.axis(ticks, parts.PLAIN_LABEL, "seconds since the first request")
        if last
        else parts.hidden()
    )
    x_axis.values = ticks
    frame = parts.frame(
        x=alt.X("x:Q", scale=parts.linear_scale(seconds), axis=x_axis),
        y=alt.Y(
            "y:Q",
            scale=parts.linear_scale(high),
            axis=parts.axis(
                parts.linear_ticks(high, 2),
                parts.PLAIN_LABEL,
                ["tok/s,", "higher is better"] if last else None,
                **parts.GUTTER_EXTENT,
                domain=False,
                ticks=False,
            ),
        ),
    )
    layers: list[Any] = [*_shades(lane, seconds, high)]
    floor = np.zeros(-(-seconds // width))
    shown = lane.by_workload if names else {"": lane.total()}
    for name, series in shown.items():
        top = floor + means(series, width)
        paint = parts.colour(names.index(name) if name in names else 6)
        layers.append(_area(floor, top, width, seconds, paint))
        floor = top
    layers += _steady_marks(lane.stretches)
    labels = phase_names(lane.windows, drawn, seconds) if first else []
    name = parts.caption(parts.short(lane.model), drawn, -56)
    return compose.plot(frame, *layers, *labels, name, width=drawn, height=ROW_HEIGHT)


def _area(floor: Floats, top: Floats, width: int, seconds: int, paint: str) -> Drawn:
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


def _shades(lane: Lane, seconds: int, high: float) -> list[Drawn]:
    """What no mean is taken of: warm-up, then ramp and drain, fainter."""
    warm = [(w.start, w.end) for w in lane.windows if w.kind == "warmup"]
    faint = [(one.window.start, one.start) for one in lane.stretches]
    last = max((one.window.end for one in lane.stretches), default=seconds)
    faint.append((last, seconds))
    found = []
    for spans, opacity in ((warm, 0.12), (faint, 0.06)):
        rows = [{"x": a, "x2": b, "y": 0, "y2": high} for a, b in spans if b > a]
        if rows:
            found.append(
                alt.Chart(parts.data(rows))
                .mark_rect(fill="currentColor", fillOpacity=opacity)
                .encode(x=alt.X("x:Q"), x2=alt.X2("x2"), y=alt.Y("y:Q"), y2=alt.Y2("y2"))
            )
    return found


def _steady_marks(stretches: Sequence[Stretch]) -> list[Drawn]:
    """The mean of every steady stretch, and its interval."""
    if not stretches:
        return []
    rows: list[dict[str, float]] = [
        {"x": one.start, "x2": one.end, "y": one.steady.mean} for one in stretches
    ]
    bands = [
        {"x": one.start, "x2": one.end, "y": one.steady.interval[0], "y2": one.steady.interval[1]}
        for one in stretches
        if one.steady.interval
    ]
    rule = (
        alt.Chart(parts.data(rows))
        .mark_rule(stroke="currentColor", strokeDash=[4, 3], strokeWidth=1, opacity=0.8)
        .encode(x=alt.X("x:Q"), x2=alt.X2("x2"), y=alt.Y("y:Q"))
    )
    if not bands:
        return [rule]
    band = (
        alt.Chart(parts.data(bands))
        .mark_rect(fill="currentColor", fillOpacity=0.22)
        .encode(x=alt.X("x:Q"), x2=alt.X2("x2"), y=alt.Y("y:Q"), y2=alt.Y2("y2"))
    )
    return [band, rule]


def phase_names(
    windows: Sequence[Window], drawn: int, seconds: int, clear: int = 150
) -> list[Drawn]:
    """Names of the phases above a row, right of its own name, where they fit."""
    rows = []
    for window in windows:
        room = (window.end - window.start) / seconds * drawn
        name = parts.short(window.phase, 18)
        at = max(window.start / seconds * drawn, 0.0)
        begin = max(at, float(clear))
        if len(name) * 6.2 < at + room - begin:
            rows.append({"label": name, "x": (begin + at + room) / 2 / drawn * seconds})
    if not rows:
        return []
    return [
        alt.Chart(parts.data(rows))
        .mark_text(fontSize=11, baseline="bottom", fill="currentColor", opacity=0.7)
        .encode(x=alt.X("x:Q"), y=parts.pixel_y(-5), text=alt.Text("label:N"))
    ]


def _side_panel(inside: Floats, high: float, *, last: bool) -> Drawn:
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
    frame = parts.frame(
        x=alt.X(
            "x:Q",
            scale=parts.linear_scale(most),
            axis=parts.axis(
                ticks,
                parts.PLAIN_LABEL,
                "steady seconds" if last else None,
                grid=False,
                ticks=False,
                domain=False,
                labelFlush=True,
            ),
        ),
        y=alt.Y(
            "y:Q",
            scale=parts.linear_scale(high),
            axis=parts.axis(
                parts.linear_ticks(high, 2),
                parts.PLAIN_LABEL,
                labels=False,
                ticks=False,
                domain=False,
            ),
        ),
    )
    bars = (
        [
            alt.Chart(parts.data(rows))
            .mark_rect(fill="currentColor", fillOpacity=0.4)
            .encode(x=alt.X("x:Q"), x2=alt.X2("x2"), y=alt.Y("y:Q"), y2=alt.Y2("y2"))
        ]
        if rows
        else []
    )
    return compose.plot(frame, *bars, width=SIDE, height=ROW_HEIGHT)


# — words ——————————————————————————————————————————————————————————————————————


def _sentence(lanes: Sequence[Lane]) -> str:
    best = [(one, lane) for lane in lanes if (one := lane.best()) is not None]
    if not best:
        return "No second of a measure phase was recorded."
    several = any(len(lane.stretches) > 1 for lane in lanes)
    top, lane = max(best, key=lambda pair: pair[0].steady.mean)
    if not top.steady.mean:
        return "No output token arrived in a measure phase."
    text = f"{parts.short(lane.model)} delivered {_rate(top, phase=several)} on average"
    text += " once it ran steadily" if top.steady.settled else "; no steady stretch was found there"
    low, other = min(best, key=lambda pair: pair[0].steady.mean)
    if len(best) == 1 or low.steady.mean == top.steady.mean:
        return f"{text}."
    least = f"{parts.short(other.model)} {_rate(low, phase=several)}, the least"
    return f"{text}, the most; {least}." if top.steady.settled else f"{text}; {least}."


def _rate(one: Stretch, *, phase: bool) -> str:
    text = numerals.tok_s(one.steady.mean)
    if one.steady.interval:
        low, high = map(numerals.number, one.steady.interval)
        text = f"{numerals.number(one.steady.mean)} [{low}, {high}] tok/s"
    return f"{text} in phase {parts.short(one.window.phase)}" if phase else text


def _table(lanes: Sequence[Lane]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for lane in lanes:
        total = lane.total()
        for one in lane.stretches:
            inside = np.sort(total[one.start : one.end])
            ones = np.ones(len(inside), dtype=np.int64)
            stats = [parts.quantile(inside, ones, p) for p in (0.1, 0.5, 0.9)]
            rows.append((
                parts.short(lane.model), parts.short(one.window.phase),
                numerals.count(len(inside)), numerals.count(one.window.end - one.window.start),
                numerals.tok_s(one.steady.mean),
                numerals.interval(one.steady.interval, "tok/s") or numerals.UNKNOWN,
                *[numerals.tok_s(stat) for stat in (*stats, float(inside[-1]))],
            ))  # fmt: skip
    return rows
