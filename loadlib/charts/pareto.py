"""What each load gives: tokens to a user against tokens in all, and the best of both."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import altair as alt

from loadlib.charts import compose, numerals, parts
from loadlib.charts.compose import Drawn
from loadlib.charts.parts import Figure, Key, RunLike
from loadlib.summary import Group, Summary

HEIGHT = 190
SLOW = 0.1  # of the streams are slower than the speed that is shown
_LINE = 12  # px of a line of text
_LABELS = 14  # characters of a load's name


@dataclass(frozen=True, slots=True)
class Point:
    """One load of one (model, workload): tok/s to nine users of ten, tok/s of the group."""

    group: Group
    load: str
    user: float
    system: float
    meets: Literal["pass", "fail", "inconclusive"]


def tokens_by_load(run: RunLike) -> Figure | None:
    """System tokens/s against tokens/s per user at every load; None with a single load."""
    summary = run.summary
    found: dict[tuple[str, str], list[Point]] = {}
    for group in parts.measured(summary):
        point = _point(run, group)
        if point is not None:
            found.setdefault((group.model, group.workload), []).append(point)
    found = {pair: points for pair, points in found.items() if len(points) > 1}
    if not found:
        return None
    shown, legend = parts.pairs(summary)
    panels = [(label, [(series, found[pair]) for series, pair in members if pair in found])
              for label, members in shown]  # fmt: skip
    panels = [panel for panel in panels if panel[1]]
    columns, width = parts.grid(len(panels))
    made = [
        _panel(label, members, width, left=i % columns == 0)
        for i, (label, members) in enumerate(panels)
    ]
    every = [point for points in found.values() for point in points]
    bad = any(point.meets == "fail" for point in every)
    unsure = any(point.meets == "inconclusive" for point in every)
    return Figure(
        id="pareto",
        title="Tokens to a user against tokens in all, by load",
        takeaway=_sentence(summary, every),
        spec=compose.finished(compose.tiles(made, columns)),
        columns=("model", "workload", "load", "phase", "tok/s per user, p10", "system tok/s",
                 "gates", "on the edge"),
        rows=tuple(_rows(found)),
        legend=(*legend, Key("a load, named", None, "dot"),
                *([Key("a gate fails", None, "cross")] if bad else []),
                *([Key("a gate cannot be decided", None, "diamond")] if unsure else []),
                Key("edge of what the loads reached", None, "solid"),
                *([Key("reached only where a gate fails", None, "span")] if bad else [])),
        note="A user's speed is what nine streams of ten have at least; a system's tokens are "
        "those that arrived per second of the phase. Nothing is claimed between the loads: the "
        "edge is a staircase.",
    )  # fmt: skip


def _point(run: RunLike, group: Group) -> Point | None:
    values, counts = parts.scaled_counts(run, group, "output_tok_s_user")
    system = group.throughput.output_tok_s
    if group.varying or not len(values) or not system:
        return None
    return Point(group, load_name(group), parts.quantile(values, counts, SLOW), system,
                 _meets(run.summary, group))  # fmt: skip


def load_name(group: Group) -> str:
    """`12/s`, `10 users`, or the phase."""
    if group.rate_rps:
        return numerals.rps(group.rate_rps)
    named = group.load.removeprefix("closed, ") if group.closed_loop else ""
    return parts.short(named or group.phase, _LABELS)


def _meets(summary: Summary, group: Group) -> Literal["pass", "fail", "inconclusive"]:
    here = (group.model, group.workload, group.phase)
    found = {g.status for g in summary.gates if (g.model, g.workload, g.phase) == here}
    return "fail" if "fail" in found else "inconclusive" if "inconclusive" in found else "pass"


def edge(points: Sequence[Point]) -> list[Point]:
    """Those that no other beats in both: from the most for a user to the most in all."""
    best, found = 0.0, []
    for point in sorted(points, key=lambda p: (-p.user, -p.system)):
        if point.system > best:
            best = point.system
            found.append(point)
    return found


# — drawing ————————————————————————————————————————————————————————————————————


def _panel(
    label: str, members: Sequence[tuple[int, Sequence[Point]]], width: int, *, left: bool
) -> Drawn:
    every = [point for _, points in members for point in points]
    right = max(point.user for point in every) * 1.18
    top = max(point.system for point in every) * 1.15
    x_axis = parts.axis(parts.linear_ticks(right, 4), parts.PLAIN_LABEL,
                        "tok/s to nine users of ten — higher is better")  # fmt: skip
    y_axis = parts.axis(
        parts.linear_ticks(top, 4), parts.PLAIN_LABEL,
        ["system tok/s,", "higher is better"] if left else None, ticks=False, domain=False,
        **parts.GUTTER_EXTENT,
    )  # fmt: skip
    layers: list[Any] = [
        parts.frame(
            x=alt.X("x:Q", scale=parts.linear_scale(right), axis=x_axis),
            y=alt.Y("y:Q", scale=parts.linear_scale(top), axis=y_axis),
        )
    ]
    for _, points in members:
        layers += _infeasible(points)
    for series, points in members:
        layers += _edge(points, parts.colour(series))
    for series, points in members:
        layers += _points(points, parts.colour(series))
    layers += _names(every, right, top, width)
    inner = width if left else width - parts.GUTTER + 8
    return compose.plot(*layers, parts.caption(label, width), width=inner, height=HEIGHT)


def _stairs(points: Sequence[Point]) -> list[tuple[float, float]]:
    """Corners of the region below and left of the edge, from the x axis up to the y axis."""
    corners = [(edge_point.user, edge_point.system) for edge_point in edge(points)]
    found, floor = [], 0.0
    for x, y in corners:
        found += [(x, floor), (x, y)]
        floor = y
    return [*found, (0.0, floor)] if found else []


def _infeasible(points: Sequence[Point]) -> list[Drawn]:
    """What was reached by loads that fail only: the region without that of the others."""
    fine = [point for point in points if point.meets != "fail"]
    if len(fine) == len(points):
        return []
    rows, inner = [], _steps(fine)
    for x, x2, y2 in _steps(points):
        cuts = sorted({x, x2, *(c for a, b, _ in inner for c in (a, b) if x < c < x2)})
        for a, b in itertools.pairwise(cuts):
            y = next((h for s, e, h in inner if s <= a and b <= e), 0.0)
            if y2 > y:
                rows.append({"x": a, "x2": b, "y": y, "y2": y2})
    if not rows:
        return []
    return [
        alt.Chart(parts.data(rows))
        .mark_rect(fill="var(--bad, #b3261e)", fillOpacity=0.12)
        .encode(x=alt.X("x:Q"), x2=alt.X2("x2"), y=alt.Y("y:Q"), y2=alt.Y2("y2"))
    ]


def _steps(points: Sequence[Point]) -> list[tuple[float, float, float]]:
    """(from, to, height) of the region's columns, from the y axis to the right."""
    found, start = [], 0.0
    for point in reversed(edge(points)):
        found.append((start, point.user, point.system))
        start = point.user
    return found


def _edge(points: Sequence[Point], paint: str) -> list[Drawn]:
    rows = [{"x": x, "y": y, "i": i} for i, (x, y) in enumerate(_stairs(points))]
    return [
        alt.Chart(parts.data(rows))
        .mark_line(stroke=paint, strokeWidth=1.4)
        .encode(x=alt.X("x:Q"), y=alt.Y("y:Q"), order="i:Q")
    ]


def _points(points: Sequence[Point], paint: str) -> list[Drawn]:
    layers = []
    for meets, shape in (("pass", "circle"), ("inconclusive", "diamond")):
        rows = [_row(point) for point in points if point.meets == meets]
        if rows:
            layers.append(
                alt.Chart(parts.data(rows))
                .mark_point(shape=shape, size=46, fill=paint, fillOpacity=1, opacity=1,
                            stroke="var(--page, #fff)", strokeWidth=1)
                .encode(x=alt.X("x:Q"), y=alt.Y("y:Q"))
            )  # fmt: skip
    failed = [_row(point) for point in points if point.meets == "fail"]
    if failed:
        layers.append(
            alt.Chart(parts.data(failed))
            .mark_text(text="✕", fill=paint, fontSize=12, fontWeight=700)
            .encode(x=alt.X("x:Q"), y=alt.Y("y:Q"))
        )
    return layers


def _names(every: Sequence[Point], right: float, top: float, width: int) -> list[Drawn]:
    """The loads beside their points, as far as they do not cover each other."""
    placed: list[tuple[float, float]] = []
    rows = []
    for point in sorted(every, key=lambda p: -p.system):
        x, y = point.user / right * width, point.system / top * HEIGHT
        room = 6.2 * len(point.load) + 6
        if all(abs(x - a) > room or abs(y - b) > _LINE for a, b in placed):
            placed.append((x, y))
            rows.append({**_row(point), "t": point.load})
    return [
        alt.Chart(parts.data(rows))
        .mark_text(align="left", dx=7, dy=-6, fontSize=10.5, fill="currentColor", opacity=0.85)
        .encode(x=alt.X("x:Q"), y=alt.Y("y:Q"), text=alt.Text("t:N"))
    ]


def _row(point: Point) -> dict[str, float]:
    return {"x": point.user, "y": point.system}


# — words ——————————————————————————————————————————————————————————————————————


def _sentence(summary: Summary, every: Sequence[Point]) -> str:
    fine = [point for point in every if point.meets != "fail"]
    most = max(fine or every, key=lambda point: point.system)
    start = "" if fine else "No load meets its gates. "
    without = " without a failed gate" if fine and summary.gates else ""
    text = (
        f"{start}Most tokens{without}: {_place(most)}, {numerals.tok_s(most.system)} in all and at "
        f"least {numerals.tok_s(most.user)} to nine users of ten"
    )
    fastest = max(fine or every, key=lambda point: point.user)
    if fastest is most:
        return f"{text}, the fastest too."
    return f"{text}. Fastest: {_place(fastest)}, at least {numerals.tok_s(fastest.user)}."


def _place(point: Point) -> str:
    return f"{parts.group_label(point.group)} at {point.load}"


def _rows(found: dict[tuple[str, str], list[Point]]) -> list[tuple[str, ...]]:
    return [
        (
            parts.short(point.group.model),
            parts.short(point.group.workload),
            point.load,
            parts.short(point.group.phase),
            numerals.tok_s(point.user),
            numerals.tok_s(point.system),
            point.meets,
            "yes" if point in edge(points) else "no",
        )
        for points in found.values()
        for point in points
    ]
