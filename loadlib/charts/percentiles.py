"""Every percentile of a metric on HDR's axis, log 1/(1 − p): the tail gets the room it needs.

A line is the empirical quantile function. Where fewer than five samples lie beyond it, it is drawn
thin: the next run would draw it elsewhere; it ends at the last sample. The band is the 95 %
order-statistic interval of each percentile, and ends where there are too few samples for one.

Of a metric that is better higher the tail is the slow end, and the axis is log 1/p.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import numpy.typing as npt

from loadlib import binomial
from loadlib.charts import compose, numerals, parts
from loadlib.charts.compose import Drawn
from loadlib.charts.parts import Figure, Key, Panel, RunLike
from loadlib.metrics import CATALOGUE
from loadlib.summary import Group, Summary

HEIGHT = 190
TAIL = 50  # samples from which on a p99 is worth a sentence
PERCENTS = (0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999)
BEYOND = 5  # samples that a percentile should have beyond it
POINTS = 1500  # of all lines of a figure together
BAND = (0.01, 0.03, 0.08, 0.15, 0.25, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998,
        0.999, 0.9995, 0.9999, 0.99999)  # fmt: skip
TAKEN = 0.9  # of the samples, the far ones, are drawn whole: the axis need not reach the rest

_Counted = tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Trace:
    """One line a group: a metric, its dash, and what a table calls it."""

    metric: str
    name: str
    dashed: bool = False
    band: bool = False


@dataclass(frozen=True, slots=True)
class Curve:
    """The corners of a quantile function, x = 1/(1 − p), and of the interval around it.

    `thin` is the x from which on fewer than `BEYOND` samples lie beyond.
    """

    points: tuple[tuple[float, float], ...]
    band: tuple[tuple[float, float, float], ...]
    thin: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What is drawn, of which groups, on which axes."""

    summary: Summary
    shown: Sequence[Panel]
    traces: Sequence[Trace]
    curves: dict[tuple[int, str], Curve]
    low: float
    high: float
    right: float
    y_title: str

    @property
    def metric(self) -> str:
        """The one that gates are looked up for."""
        return self.traces[0].metric

    @property
    def rising(self) -> bool:
        """Whether the tail is the high end."""
        return CATALOGUE[self.metric].better == "lower"


# — the figures ————————————————————————————————————————————————————————————————


def ttft_percentiles(run: RunLike) -> Figure | None:
    """TTFT at every percentile, both clocks."""
    traces = (
        Trace("ttft", "response", band=True),
        Trace("sent_ttft", "sent", dashed=True),
    )
    return _figure(
        run, traces, "ttft-percentiles", "Time to first token: percentiles", "TTFT (log)",
        _tail_sentence,
        (Key("response clock (from the intended start)", None, "solid"),
         Key("sent clock", None, "dashed")),
        "Only successful requests have a first token.",
    )  # fmt: skip


def token_percentiles(run: RunLike) -> Figure | None:
    """Gaps between events of a stream, and time per token, at every percentile."""
    traces = (Trace("tpot", "tpot", band=True), Trace("icl", "icl", dashed=True))
    return _figure(
        run, traces, "token-percentiles", "Between tokens: percentiles", "tpot and icl (log)",
        _jitter_sentence,
        (Key("tpot: mean of one stream, per token", None, "solid"),
         Key("icl: single gap between two events", None, "dashed")),
        _events_note(run.summary),
    )  # fmt: skip


def user_rate_percentiles(run: RunLike) -> Figure | None:
    """Tokens per second of one stream, from the fastest to the slowest."""
    traces = (Trace("output_tok_s_user", "tokens/s", band=True),)
    return _figure(
        run, traces, "user-rate-percentiles", "Tokens per second per user: percentiles",
        "tok/s (log)", lambda summary: _slow_sentence(run, summary), (),
        "Read off it how many of the streams are slower than a speed.",
    )  # fmt: skip


def _figure(
    run: RunLike,
    traces: Sequence[Trace],
    figure_id: str,
    title: str,
    y_title: str,
    takeaway: Callable[[Summary], str],
    legend: tuple[Key, ...],
    note: str,
) -> Figure | None:
    plan = _planned(run, traces, y_title)
    if plan is None:
        return None
    columns, width = parts.grid(len(plan.shown))
    made = [
        _panel(plan, panel, width, left=i % columns == 0, foot=i + columns >= len(plan.shown))
        for i, panel in enumerate(plan.shown)
    ]
    gated = any(_gate_ticks(plan, g, s) for p in plan.shown for s, g in p.groups)
    said = f" A line is thin where fewer than {BEYOND} samples lie beyond, and ends at the last one; the band is the 95 % interval."  # noqa: E501
    worst = ("max",) if plan.rising else ("min",)
    heads = [f"p{(p if plan.rising else 1 - p) * 100:.4g}" for p in PERCENTS]
    _, workloads = parts.panels(run.summary)
    return Figure(
        id=figure_id,
        title=title,
        takeaway=takeaway(run.summary),
        spec=compose.finished(compose.tiles(made, columns)),
        columns=("model", "workload", "clock" if len(traces) > 1 and traces[1].metric == "sent_ttft"
                 else "metric", "n", *heads, *worst),
        rows=tuple(_rows(run, plan)),
        legend=(*workloads, *legend,
                *([Key("gate limit at its percentile", None, "bar")] if gated else [])),
        note=note + said,
    )  # fmt: skip


# — curves —————————————————————————————————————————————————————————————————————


def _planned(run: RunLike, traces: Sequence[Trace], y_title: str) -> Plan | None:
    summary = run.summary
    shown, _ = parts.panels(summary)
    groups = [group for panel in shown for _, group in panel.groups]
    rising = CATALOGUE[traces[0].metric].better == "lower"
    counted = {
        (id(group), trace.metric): parts.scaled_counts(run, group, trace.metric)
        for group in groups
        for trace in traces
    }
    lines = sum(len(values) > 0 for values, _ in counted.values())
    if not lines:
        return None
    points = max(14, min(60, POINTS // lines))
    curves = {
        (id(group), trace.metric): curve(
            counted[id(group), trace.metric], points, rising=rising, band=trace.band
        )
        for group in groups
        for trace in traces
    }
    domain = parts.span(
        y for c in curves.values() for x, y in c.points if x >= 1 / TAKEN or len(c.points) < 3
    )
    if domain is None:
        return None
    domain = parts.with_limits(summary, shown, traces[0].metric, domain)
    reach = max(c.points[-1][0] for c in curves.values() if c.points)
    return Plan(summary, shown, traces, curves, *domain, max(150.0, reach * 1.25), y_title)


def curve(counted: _Counted, points: int, *, rising: bool = True, band: bool = False) -> Curve:
    """The quantile function of counted values, at most about `points` corners; empty for none.

    Corners that are neighbours in the data make a step; where some between them were left out, the
    line goes straight from one to the next.
    """
    values, counts = counted if rising else (counted[0][::-1], counted[1][::-1])
    if not len(values):
        return Curve((), (), 1.0)
    below = np.cumsum(counts)
    n = int(below[-1])
    starts = n / (n - (below - counts))  # where a value becomes the quantile
    wanted = np.geomspace(1, n, min(points, len(values)))
    kept = np.unique(np.searchsorted(starts, wanted).clip(0, len(starts) - 1))
    corners: list[tuple[float, float]] = []
    for place, i in enumerate(kept):
        if place and kept[place - 1] == i - 1:
            corners.append((float(starts[i]), float(values[i - 1])))
        corners.append((float(starts[i]), float(values[i])))
    corners.append((float(n), float(values[-1])))
    edges = _band(values, below, n) if band else ()
    return Curve(tuple(dict.fromkeys(corners)), edges, max(1.0, n / BEYOND))


def _band(
    values: npt.NDArray[np.float64], below: npt.NDArray[np.int64], n: int
) -> tuple[tuple[float, float, float], ...]:
    """(x, low, high) of the 95 % order-statistic intervals, where they exist."""
    edges = []
    for p in BAND:
        ranks = binomial.order_ranks(n, p)
        if ranks is not None:
            a, b = (float(values[np.searchsorted(below, rank)]) for rank in ranks)
            edges.append((1 / (1 - p), min(a, b), max(a, b)))
    return tuple(edges) if len(edges) > 1 else ()


# — drawing ————————————————————————————————————————————————————————————————————


def _panel(plan: Plan, panel: Panel, width: int, *, left: bool, foot: bool) -> Drawn:
    ticks = [x for x in (1, 2, 10, 100, 1000, 10_000, 100_000, 1_000_000) if x <= plan.right]
    if plan.rising:
        label = "datum.value < 1.5 ? '0' : format(100 - 100 / datum.value, '~r') + ' %'"
        x_title = "percentile, axis log 1/(1 − p)"
    else:
        label = "datum.value < 1.5 ? 'all' : format(100 / datum.value, '~r') + ' %'"
        x_title = "share of streams that are slower, axis log 1/p"
    x_axis = parts.axis(ticks, label, x_title) if foot else parts.hidden()
    x_axis.values = ticks
    row = CATALOGUE[plan.metric]
    y_axis = parts.axis(
        parts.log_ticks(plan.low, plan.high),
        parts.MS_LABEL if row.unit == "ms" else parts.PLAIN_LABEL,
        f"{plan.y_title} — {row.better} is better" if left else None,
        labels=left, ticks=left, domain=False, **(parts.GUTTER_EXTENT if left else {}),
    )  # fmt: skip
    frame = parts.frame(
        x=alt.X("x:Q", scale=parts.log_scale((1, plan.right)), axis=x_axis),
        y=alt.Y("y:Q", scale=parts.log_scale((plan.low, plan.high)), axis=y_axis),
        rows=[{"x": 1, "y": plan.low}],
    )
    layers: list[Any] = []
    for series, group in panel.groups:
        paint = parts.colour(series)
        found = [(plan.curves[id(group), trace.metric], trace) for trace in plan.traces]
        layers += [_area(plan, c, paint) for c, _ in found if c.band]
        for one, trace in reversed(found):
            layers += _line(plan, one, paint, [4, 3] if trace.dashed else [1, 0])
        layers += _gate_ticks(plan, group, series)
    empty = [] if layers else [parts.nothing(width, HEIGHT)]
    name = parts.caption(panel.label, width)
    return compose.plot(frame, *layers, *empty, name, width=width, height=HEIGHT)


def _inside(plan: Plan, y: float) -> float:
    return min(max(y, plan.low), plan.high)


def _area(plan: Plan, one: Curve, paint: str) -> Drawn:
    rows = [{"x": x, "y": _inside(plan, a), "y2": _inside(plan, b)} for x, a, b in one.band]
    return (
        alt.Chart(parts.data(rows))
        .mark_area(fill=paint, fillOpacity=0.16)
        .encode(x=alt.X("x:Q"), y=alt.Y("y:Q", stack=None), y2=alt.Y2("y2"))
    )


def _line(plan: Plan, one: Curve, paint: str, dash: list[int]) -> list[Drawn]:
    """The line, thin from where it is unsure, and a dot at its end."""
    if not one.points:
        return []
    rows = [{"x": x, "y": _inside(plan, y)} for x, y in one.points]
    sure = [row for row in rows if row["x"] <= one.thin]
    rest = [*sure[-1:], *rows[len(sure) :]]
    layers = []
    for some, stroke in ((sure, 1.8), (rest, 0.9)):
        if len(some) > 1:
            layers.append(
                alt.Chart(parts.data(some))
                .mark_line(stroke=paint, strokeWidth=stroke, strokeDash=dash)
                .encode(x=alt.X("x:Q"), y=alt.Y("y:Q"))
            )
    end = (
        alt.Chart(parts.data(rows[-1:]))
        .mark_point(shape="circle", size=18, fill=paint, fillOpacity=1, strokeOpacity=0, opacity=1)
        .encode(x=alt.X("x:Q"), y=alt.Y("y:Q"))
    )
    return [*layers, end]


def _gate_ticks(plan: Plan, group: Group, series: int) -> list[Drawn]:
    """A gate `ttft.p99 < L` is a bar at (99 %, L) the line has to pass below."""
    at = {"p50": 2, "p90": 10, "p95": 20, "p99": 100, "p99_9": 1000} if plan.rising else {"p50": 2}
    rows = [
        {"x": at[stat] / 1.5, "x2": min(plan.right, at[stat] * 1.5), "y": gate.limit}
        for stat, gate in parts.gates_on(plan.summary, group, plan.metric)
        if stat in at and at[stat] < plan.right and plan.low <= gate.limit <= plan.high
    ]
    if not rows:
        return []
    return [
        alt.Chart(parts.data(rows))
        .mark_rule(stroke=parts.colour(series), strokeWidth=3.5, strokeCap="butt", clip=True)
        .encode(x=alt.X("x:Q"), x2=alt.X2("x2"), y=alt.Y("y:Q"))
    ]


# — words ——————————————————————————————————————————————————————————————————————


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


def _jitter_sentence(summary: Summary) -> str:
    """Where gaps are least even, and where tokens are slowest."""
    several = parts.ladder(summary)
    uneven, slow = [], []
    for group in parts.measured(summary):
        gaps, pace = group.metrics.get("icl"), group.metrics.get("tpot")
        if gaps and gaps.p50 and gaps.p99 and gaps.n >= TAIL:
            uneven.append((gaps.p99 / gaps.p50, group))
        if pace and pace.p50:
            slow.append((pace.p50, group))
    found = []
    if (pace_ends := parts.extremes(slow, phase=several)) is not None:
        (low, where), (high, there) = pace_ends
        range_ = f"{numerals.ms(low)} ({where}) to {numerals.ms(high)} ({there})"
        found.append(f"Median time per token: {range_ if where != there else numerals.ms(low)}.")
    if (worst := parts.extremes(uneven, phase=several)) is not None:
        ratio, where = worst[1]
        times = numerals.times(ratio)
        found.append(f"Least even is {where}: one gap in 100 is {times} the median or longer.")
    return " ".join(found) or "Too few gaps were seen to speak of how even they are."


def _events_note(summary: Summary) -> str:
    """How many tokens an event carries: icl and tpot agree only at one."""
    text = "icl is a gap between two events, whatever they carry; those that came in one network read have none between them."  # noqa: E501
    packed = [
        (group.tokens.output / group.events, group)
        for group in parts.measured(summary)
        if group.events and group.tokens.output
    ]
    ends = parts.extremes(packed, phase=parts.ladder(summary))
    if ends is None or 0.95 <= ends[0][0] <= ends[1][0] <= 1.05:
        return text
    (low, _), (high, where) = ends
    return f"{text} An event carries {numerals.number(low)} to {numerals.number(high)} tokens on average (most: {where})."  # noqa: E501


def _slow_sentence(run: RunLike, summary: Summary) -> str:
    several = parts.ladder(summary)
    tenths = []
    for group in parts.measured(summary):
        values, counts = parts.scaled_counts(run, group, "output_tok_s_user")
        if counts.sum() >= 10:
            tenths.append((parts.quantile(values, counts, 0.1), group))
    ends = parts.extremes(tenths, phase=several)
    if ends is None:
        return "Too few streams ended to say how fast the slowest tenth of them is."
    (low, where), (high, there) = ends
    text = f"One stream in ten of {where} gets {numerals.tok_s(low)} or less"
    return (
        f"{text}."
        if where == there
        else f"{text}, the fewest; of {there} {numerals.tok_s(high)} or less, the most."
    )


def _rows(run: RunLike, plan: Plan) -> list[tuple[str, ...]]:
    unit = CATALOGUE[plan.metric].unit
    rows = []
    for panel in plan.shown:
        for _, group in panel.groups:
            for trace in plan.traces:
                values, counts = parts.scaled_counts(run, group, trace.metric)
                cells = [numerals.UNKNOWN] * (len(PERCENTS) + 1)
                if len(values):
                    shares = PERCENTS if plan.rising else [1 - p for p in PERCENTS]
                    found = [parts.quantile(values, counts, p) for p in shares]
                    found.append(float(values[-1 if plan.rising else 0]))
                    cells = [numerals.value(value, unit) for value in found]
                total = numerals.count(int(counts.sum()))
                rows.append((panel.label, parts.short(group.workload), trace.name, total, *cells))
    return rows
