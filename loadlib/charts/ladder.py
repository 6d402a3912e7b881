"""A ladder of loads: configured rate against TTFT p99 and goodput, its bracket and its knees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from loadlib.charts import compose, numerals, parts
from loadlib.charts.compose import Drawn
from loadlib.charts.knee import Knee, knee
from loadlib.charts.parts import Figure, Key, RunLike
from loadlib.summary import Bracket, Group, Summary

Pair = tuple[str, str]
"""(model, workload)."""


def load_ladder(run: RunLike) -> Figure | None:
    """TTFT p99 and goodput at each configured rate; None unless several phases have a rate."""
    summary = run.summary
    rungs = [group for group in parts.measured(summary) if offered(group)]
    if len({group.phase for group in rungs}) < 2:
        return None
    y_domain = parts.span(s.p99 for g in rungs if (s := g.metrics.get("ttft")) and s.p99)
    if y_domain is None:
        return None
    models = list(dict.fromkeys(group.model for group in rungs))[:24]
    names = parts.workloads(parts.measured(summary))
    brackets = {bracket.model: bracket for bracket in summary.brackets}
    named = _named(rungs)
    knees = {pair: knee(points) for pair, points in _latencies(rungs).items()}
    limits = _limits(summary, rungs)
    columns, width = parts.grid(len(models))
    made = []
    for i, model in enumerate(models):
        mine = [group for group in rungs if group.model == model]
        made.append(
            _model(
                mine,
                names,
                brackets.get(model),
                (knees, limits),
                y_domain,
                width,
                left=i % columns == 0,
            )
        )
    return Figure(
        id="load-ladder",
        title=f"{named.capitalize()} against TTFT p99 and goodput",
        takeaway=" ".join(
            (
                *(
                    [sentence(bracket) for bracket in summary.brackets]
                    or ["No gate was declared, so no load can be called too much."]
                ),
                *filter(None, [knee_sentence(knees)]),
            )
        ),
        spec=compose.finished(compose.tiles(made, columns, row=30)),
        columns=(
            "model",
            "workload",
            "phase",
            named,
            "achieved",
            "n",
            "TTFT p99",
            "goodput",
            "knee",
        ),
        rows=tuple(_rows(rungs, knees)),
        legend=(
            *[Key(parts.short(name), i, "dot") for i, name in enumerate(names)],
            Key("bracket: last rate that passes, first that fails", None, "span"),
            *([Key("limit of a gate on TTFT p99", None, "dashed")] if limits else []),
            *([Key("knee", None, "dotted")] if any(k.at for k in knees.values()) else []),
        ),
        note="Lines join the loads that were tried and claim nothing between them. A knee is where "
        "two lines meet that fit log TTFT p99 best, the second at least three times as steep.",
    )


def offered(group: Group) -> float | None:
    """Steady requests per second offered to the model: as configured, else as scheduled."""
    if group.closed_loop or group.varying:
        return None
    return group.rate_rps or group.throughput.offered_rps


def _named(rungs: Sequence[Group]) -> str:
    """What `offered` is: a rebuilt run does not know what was configured."""
    return "configured rate" if all(group.rate_rps for group in rungs) else "offered rate"


def sentence(bracket: Bracket) -> str:
    """The bracket in words."""
    name, low, high = parts.short(bracket.model), bracket.last_pass_rps, bracket.first_fail_rps
    why = f" (limited by {parts.short(bracket.limited_by, 80)})" if bracket.limited_by else ""
    if low is not None and high is not None:
        return f"{name} passes at {numerals.rps(low)} and fails at {numerals.rps(high)}{why}."
    if low is not None:
        return f"{name} passes at every load up to {numerals.rps(low)}: its limit lies above."
    if high is not None:
        return f"{name} fails already at {numerals.rps(high)}{why}: its limit lies below."
    return f"{name}: no load could be decided."


def _latencies(rungs: Sequence[Group]) -> dict[Pair, list[tuple[float, float]]]:
    """(rate, TTFT p99) of each (model, workload)."""
    found: dict[Pair, list[tuple[float, float]]] = {}
    for group in rungs:
        rate, p99 = offered(group), _value(group, "p99")
        if rate and p99:
            found.setdefault((group.model, group.workload), []).append((rate, p99))
    return found


def _limits(summary: Summary, rungs: Sequence[Group]) -> dict[Pair, float]:
    """The limit of a TTFT p99 gate of each (model, workload), where all its loads have the same."""
    found: dict[Pair, set[float]] = {}
    for group in rungs:
        for stat, gate in parts.gates_on(summary, group, "ttft"):
            if stat == "p99":
                found.setdefault((group.model, group.workload), set()).add(gate.limit)
    return {pair: limits.pop() for pair, limits in found.items() if len(limits) == 1}


def knee_sentence(knees: Mapping[Pair, Knee]) -> str:
    """The lowest knee, or why there is none."""
    found = [(one.at, one, pair) for pair, one in knees.items() if one.at is not None]
    if found:
        at, one, pair = min(found, key=lambda row: row[0])
        how = "at a cliff" if one.boundary == "cliff" else "smoothly"
        where = " · ".join(map(parts.short, pair))
        first = "The first knee" if len(found) > 1 else "The knee"
        return f"{first} is that of {where}: above {numerals.rps(at)} TTFT p99 runs away, {how}."
    reasons = Counter(one.reason for one in knees.values())
    return f"No knee: {reasons.most_common(1)[0][0]}." if reasons else ""


def _model(
    rungs: Sequence[Group],
    names: list[str],
    bracket: Bracket | None,
    marks: tuple[Mapping[Pair, Knee], Mapping[Pair, float]],
    y_domain: tuple[float, float],
    width: int,
    *,
    left: bool,
) -> Drawn:
    right = max(offered(g) or 0.0 for g in rungs) * 1.08
    if bracket is not None:
        right = max(right, *[r * 1.08 for r in (bracket.last_pass_rps, bracket.first_fail_rps) if r], 0.0)  # fmt: skip # noqa: E501
    ticks = parts.linear_ticks(right, 4)
    latency_axis = parts.axis(parts.log_ticks(*y_domain), parts.MS_LABEL,
                              ["TTFT p99 (log),", "lower is better"] if left else None, labels=left,
                              ticks=False, domain=False, **_extent(left))  # fmt: skip
    share_axis = parts.axis([0, 0.5, 1], "format(datum.value, '.0%')",
                            ["goodput,", "higher is better"] if left else None, labels=left,
                            ticks=False, domain=False, **_extent(left))  # fmt: skip
    hidden = parts.hidden()
    hidden.values = ticks
    latency = _half(
        rungs, names, bracket, "p99", alt.Y("y:Q", scale=parts.log_scale(y_domain),
        axis=latency_axis), y_domain, right, hidden,
    )  # fmt: skip
    share = _half(
        rungs, names, bracket, "goodput", alt.Y("y:Q", scale=parts.linear_scale(1.0),
        axis=share_axis), (0.0, 1.0), right,
        parts.axis(ticks, parts.PLAIN_LABEL, f"{_named(rungs)}, requests/s"),
    )  # fmt: skip
    latency += _marks(rungs[0].model, names, marks, y_domain)
    name = parts.caption(parts.short(rungs[0].model), width)
    return compose.column(
        compose.plot(*latency, name, width=width, height=140),
        compose.plot(*share, width=width, height=100),
        spacing=12,
    )


def _extent(left: bool) -> dict[str, Any]:
    return parts.GUTTER_EXTENT if left else {}


def _half(
    rungs: Sequence[Group],
    names: list[str],
    bracket: Bracket | None,
    what: str,
    y: alt.Y,
    y_domain: tuple[float, float],
    right: float,
    x_axis: alt.Axis,
) -> list[Drawn]:
    layers = [
        parts.frame(
            x=alt.X("x:Q", scale=parts.linear_scale(right), axis=x_axis),
            y=y,
            rows=[{"x": 0, "y": y_domain[0]}],
        ),
        *_bracket(bracket, y_domain, right),
    ]
    for index, name in enumerate(names):
        rows = sorted(
            (
                {"x": x, "y": value}
                for group in rungs
                if group.workload == name
                and (x := offered(group)) is not None
                and (value := _value(group, what)) is not None
            ),
            key=lambda row: row["x"],
        )
        if rows:
            layers += _line(rows, parts.colour(index))
    return layers


def _value(group: Group, what: str) -> float | None:
    if what == "goodput":
        return group.goodput.share
    stats = group.metrics.get("ttft")
    return stats.p99 if stats else None


def _line(rows: list[dict[str, float]], paint: str) -> list[Drawn]:
    base = alt.Chart(parts.data(rows)).encode(x=alt.X("x:Q"), y=alt.Y("y:Q"))
    return [
        base.mark_line(stroke=paint, strokeWidth=1.8),
        base.mark_point(shape="circle", size=42, fill=paint, fillOpacity=1, opacity=1,
                        stroke="var(--page, #fff)", strokeWidth=1),
    ]  # fmt: skip


def _bracket(bracket: Bracket | None, y_domain: tuple[float, float], right: float) -> list[Drawn]:
    if bracket is None or bracket.first_fail_rps is None:
        return []
    row = {
        "x": bracket.last_pass_rps or 0.0,
        "x2": min(right, bracket.first_fail_rps),
        "y": y_domain[0],
        "y2": y_domain[1],
    }
    return [
        alt.Chart(parts.data([row]))
        .mark_rect(fill="var(--bad, #b3261e)", fillOpacity=0.12)
        .encode(x=alt.X("x:Q"), x2=alt.X2("x2"), y=alt.Y("y:Q"), y2=alt.Y2("y2"))
    ]


def _marks(
    model: str,
    names: list[str],
    marks: tuple[Mapping[Pair, Knee], Mapping[Pair, float]],
    y_domain: tuple[float, float],
) -> list[Drawn]:
    """The limits and knees of a model's workloads, in their colours."""
    knees, limits = marks
    layers = []
    for index, name in enumerate(names):
        paint = parts.colour(index)
        limit, one = limits.get((model, name)), knees.get((model, name))
        if limit is not None and y_domain[0] <= limit <= y_domain[1]:
            layers.append(
                alt.Chart(parts.data([{"y": limit}]))
                .mark_rule(stroke=paint, strokeDash=[5, 3], strokeWidth=1.2)
                .encode(y=alt.Y("y:Q"))
            )
        if one is not None and one.at is not None:
            layers.append(
                alt.Chart(parts.data([{"x": one.at}]))
                .mark_rule(stroke=paint, strokeDash=[1.5, 2.5], strokeWidth=1.6)
                .encode(x=alt.X("x:Q"))
            )
    return layers


def _rows(rungs: Sequence[Group], knees: Mapping[Pair, Knee]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for group in rungs:
        stats = group.metrics.get("ttft")
        rows.append(
            (
                parts.short(group.model),
                parts.short(group.workload),
                parts.short(group.phase),
                numerals.rps(offered(group)),
                numerals.rps(group.throughput.achieved_rps),
                numerals.count(stats.n if stats else 0),
                numerals.ms(stats.p99 if stats else None),
                numerals.share(group.goodput.share),
                _knee_text(knees.get((group.model, group.workload))),
            )
        )
    return rows


def _knee_text(one: Knee | None) -> str:
    if one is None:
        return numerals.UNKNOWN
    return f"{numerals.rps(one.at)}, {one.boundary}" if one.at is not None else one.reason
