"""What servers said of themselves, on the run's time axis and beside what was in flight here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np

from loadlib.charts import compose, numerals, parts
from loadlib.charts.compose import Drawn
from loadlib.charts.parts import Figure, Key, RunLike
from loadlib.charts.reading import Reading
from loadlib.charts.series import Counts, Series, Window
from loadlib.charts.throughput import BUCKETS, phase_names
from loadlib.server_record import Scrape
from loadlib.summary import Level, Server, ServerPhase

HEIGHT = 96
SHARE_HEIGHT = 34
ROWS = 8  # servers that are drawn
TABLE_ROWS = 40  # … and instants of each in the table
GAP = 1.6  # periods: scrapes further apart than this are not joined by a line
NS = 1_000_000_000

NOTE = (
    "As the server says, warm-up shaded; where a scrape failed there is a gap. What is in flight "
    "here and neither runs nor waits there is under way, or in front of the server."
)
SHARED = " Several servers serve the same models: in flight here is what all of them have."

Point = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Lane:
    """One server: its scrapes, what was in flight here meanwhile, and its models' phases."""

    server: Server
    points: list[Point]  # x, running, waiting, kv, part (joined points share it)
    in_flight: list[Point]  # x, y
    windows: list[Window]


def server_load(run: RunLike) -> Figure | None:
    """Running and waiting requests of each server with ours in flight, and its KV cache."""
    servers = [server for server in run.summary.servers if server.scrapes > server.failed]
    if not servers:
        return None
    reading = Reading.of(run)
    series, scrapes = reading.series, list(reading.server())
    if not scrapes or not series.length:
        return None
    lanes = [_lane(server, scrapes, series) for server in servers[:ROWS]]
    panels = [
        panel
        for lane in lanes
        for panel in _panels(lane, series.length, first=lane is lanes[0], last=lane is lanes[-1])
    ]
    return Figure(
        id="server-load",
        title="Inside the server",
        takeaway=_sentence(servers),
        spec=compose.finished(compose.column(*panels, spacing=26)),
        columns=("server", "second", "running", "waiting", "KV cache", "in flight here"),
        rows=tuple(row for lane in lanes for row in _table(lane)),
        legend=(
            Key("running", 0, "area"),
            Key("waiting, on top of them", 1, "area"),
            Key("in flight here", None, "dashed"),
            *([Key("KV cache in use", 2, "area")] if any(map(_has_kv, lanes)) else []),
        ),
        note=NOTE + (SHARED if _share(servers) else ""),
    )


def _share(servers: Sequence[Server]) -> bool:
    return len({frozenset(server.models) for server in servers}) < len(servers)


def _lane(server: Server, scrapes: Sequence[Scrape], series: Series) -> Lane:
    told = [s for s in scrapes if s.server == server.name and s.error is None]
    width = max(1, math.ceil(len(told) / BUCKETS))
    points = [_point(told[i : i + width], series.start) for i in range(0, len(told), width)]
    inside = [point for point in points if 0 <= point["x"] <= series.length]
    flying = np.zeros(series.length, np.int64)
    for model in server.models:
        flying += series.in_flight(model)
    return Lane(
        server=server,
        points=list(_parted(inside, server.every_s * width)),
        in_flight=_in_flight(flying),
        windows=series.phases(server.models),
    )


def _point(together: Sequence[Scrape], start: int) -> Point:
    """The mean of scrapes that share a place; None is unknown."""
    point: Point = {"x": sum(s.at_ns / NS - start for s in together) / len(together)}
    for name, series in (("running", "running"), ("waiting", "waiting"), ("kv", "kv_usage")):
        known = [s.values[series] for s in together if series in s.values]
        point[name] = sum(known) / len(known) if known else None
    return point


def _parted(points: Iterable[Point], every_s: float) -> Iterator[Point]:
    """The points with the number of the piece of line they belong to."""
    part, before = 0, None
    for point in points:
        if before is not None and point["x"] - before > GAP * every_s:
            part += 1
        before = point["x"]
        yield {**point, "part": part}


def _in_flight(flying: Counts) -> list[Point]:
    """Ours at the end of each second; of long runs the most within a bucket."""
    found: list[Point] = [{"x": float(i + 1), "y": float(y)} for i, y in enumerate(flying)]
    width = max(1, math.ceil(len(found) / BUCKETS))
    return [max(found[i : i + width], key=lambda p: p["y"]) for i in range(0, len(found), width)]


def _has_kv(lane: Lane) -> bool:
    return any(point["kv"] is not None for point in lane.points)


def _panels(lane: Lane, length: int, *, first: bool, last: bool) -> list[Drawn]:
    drawn = parts.WIDTH - parts.GUTTER - 40
    title = parts.short(lane.server.name)
    if lane.server.kind and lane.server.name not in lane.server.kind:
        title = f"{title} · {parts.short(lane.server.kind)}"
    has_kv = _has_kv(lane)
    floor, top = [], []
    for point in lane.points:
        if point["running"] is None and point["waiting"] is None:
            continue
        running = point["running"] or 0.0
        place = {"x": point["x"], "part": point["part"]}
        floor.append({**place, "y": 0.0, "y2": running})
        if point["waiting"] is not None:
            top.append({**place, "y": running, "y2": running + point["waiting"]})
    ours = [point["y"] for point in lane.in_flight]
    high = max(1.0, *ours, *(point["y2"] for point in (*floor, *top))) * 1.05
    upper = compose.plot(
        _frame(length, high, parts.linear_ticks(high, 2), parts.PLAIN_LABEL, "requests",
               bare=has_kv or not last),
        *_shades(lane.windows, high),
        *_areas(floor, 0),
        *_areas(top if any(point["y2"] > point["y"] for point in top) else [], 1),
        _line(lane.in_flight),
        *(phase_names(lane.windows, drawn, length) if first else []),
        parts.caption(title, drawn, -56),
        width=drawn,
        height=HEIGHT,
    )  # fmt: skip
    if not has_kv:
        return [upper]
    used = [
        {"x": point["x"], "part": point["part"], "y": 0.0, "y2": point["kv"]}
        for point in lane.points
        if point["kv"] is not None
    ]
    lower = compose.plot(
        _frame(length, 1.0, [0.0, 1.0], "format(datum.value, '.0%')", "KV", bare=not last),
        *_shades(lane.windows, 1.0),
        *_areas(used, 2),
        width=drawn,
        height=SHARE_HEIGHT,
    )
    return [compose.column(upper, lower, spacing=10)]


def _frame(
    length: int, high: float, ticks: list[float], label: str, title: str, *, bare: bool
) -> Drawn:
    x_ticks = parts.linear_ticks(length, 6)
    axis = parts.axis(x_ticks, parts.PLAIN_LABEL, "seconds since the first request")
    if bare:
        axis = parts.hidden()
        axis.values = x_ticks
    return parts.frame(
        x=alt.X("x:Q", scale=parts.linear_scale(length), axis=axis),
        y=alt.Y(
            "y:Q",
            scale=parts.linear_scale(high),
            axis=parts.axis(ticks, label, title, **parts.GUTTER_EXTENT, domain=False, ticks=False),
        ),
    )


def _shades(windows: Sequence[Window], high: float) -> list[Drawn]:
    """The warm-up phases, shaded."""
    rows = [{"x": w.start, "x2": w.end, "y": 0, "y2": high} for w in windows if w.kind == "warmup"]
    if not rows:
        return []
    return [
        alt.Chart(parts.data(rows))
        .mark_rect(fill="currentColor", fillOpacity=0.12)
        .encode(x=alt.X("x:Q"), x2=alt.X2("x2"), y=alt.Y("y:Q"), y2=alt.Y2("y2"))
    ]


def _areas(points: Sequence[Point], series: int) -> list[Drawn]:
    if not points:
        return []
    paint = parts.colour(series)
    return [
        alt.Chart(parts.data(points))
        .mark_area(fill=paint, fillOpacity=0.45, stroke=paint, strokeWidth=0.6)
        .encode(x=alt.X("x:Q"), y=alt.Y("y:Q", stack=None), y2=alt.Y2("y2"),
                detail=alt.Detail("part:N"))
    ]  # fmt: skip


def _line(points: Sequence[Point]) -> Drawn:
    return (
        alt.Chart(parts.data(points))
        .mark_line(stroke="currentColor", strokeDash=[4, 3], strokeWidth=1.2, opacity=0.85)
        .encode(x=alt.X("x:Q"), y=alt.Y("y:Q"))
    )


# -- words -----------------------------------------------------------------------------------------


def _sentence(servers: Sequence[Server]) -> str:
    """Of the server and measure phase in which most requests ran and waited."""
    known = [
        (server, phase)
        for server in servers
        for phase in server.phases
        if phase.kind == "measure" and phase.scrapes
    ]
    if not known:
        return "No scrape told anything within a measure phase."
    server, phase = max(known, key=lambda one: _held(one[1]))
    text = f"{parts.short(server.name)} worked on {_said(phase.running, ' requests')}"
    if phase.waiting.max is not None:
        text += f"; {_said(phase.waiting)} waited" if phase.waiting.max else "; none waited"
    if phase.kv_usage.max is not None:
        text += f"; its KV cache was {numerals.share(phase.kv_usage.max)} full at most"
    if len(known) == 1:
        return f"{text}."
    phases = len({phase.phase for _, phase in known})
    where = f"In {parts.short(phase.phase)} " if phases > 1 else "Busiest: "
    return f"{where}{text}."


def _held(phase: ServerPhase) -> float:
    return (phase.running.mean or 0.0) + (phase.waiting.mean or 0.0)


def _said(level: Level, noun: str = "") -> str:
    """`9.3 requests on average and 15 at most`."""
    if level.mean is None:
        return f"an unknown number of{noun}"
    return f"{numerals.number(level.mean)}{noun} on average and {whole(level.max)} at most"


def whole(value: float | None) -> str:
    """The most of what is counted: between two seconds there are parts of a request."""
    return numerals.number(None if value is None else float(round(value)))


def _table(lane: Lane) -> Iterator[tuple[str, ...]]:
    """What is drawn, and what was in flight here at the same instants."""
    edges = [0.0, *(point["x"] for point in lane.in_flight)]
    flying = [0.0, *(point["y"] for point in lane.in_flight)]
    for point in lane.points[:: max(1, math.ceil(len(lane.points) / TABLE_ROWS))]:
        yield (
            parts.short(lane.server.name),
            f"{point['x']:.1f}",
            numerals.number(point["running"]),
            numerals.number(point["waiting"]),
            numerals.share(point["kv"]),
            numerals.number(round(float(np.interp(point["x"], edges, flying)), 1)),
        )
