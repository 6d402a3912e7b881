"""A ladder of loads: configured rate against TTFT p99 and goodput, with the bracket it gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from loadlib.charts import numerals, parts
from loadlib.charts.parts import Drawn, Figure, Key, RunLike
from loadlib.summary import Bracket, Group


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
    columns, width = parts.grid(len(models))
    made = []
    for i, model in enumerate(models):
        mine = [group for group in rungs if group.model == model]
        made.append(
            _model(mine, names, brackets.get(model), y_domain, width, left=i % columns == 0)
        )
    return Figure(
        id="load-ladder",
        title=f"{named.capitalize()} against TTFT p99 and goodput",
        takeaway=" ".join(sentence(bracket) for bracket in summary.brackets)
        or "No gate was declared, so no load can be called too much.",
        spec=parts.finished(
            parts.together("concat", *made, columns=columns, spacing={"row": 30, "column": 18})
        ),
        columns=("model", "workload", "phase", named, "achieved", "n", "TTFT p99", "goodput"),
        rows=tuple(_rows(rungs)),
        legend=(
            *[Key(parts.short(name), i, "dot") for i, name in enumerate(names)],
            Key("bracket: last rate that passes, first that fails", None, "span"),
        ),
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


def _model(
    rungs: Sequence[Group],
    names: list[str],
    bracket: Bracket | None,
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
    name = parts.caption(parts.short(rungs[0].model), width)
    upper = parts.together("layer", *latency, name, width=width, height=140)
    lower = parts.together("layer", *share, width=width, height=100)
    return parts.together("vconcat", upper, lower, spacing=12)


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
        alt.Chart(parts.data([{"x": 0, "y": y_domain[0]}]))
        .mark_point(opacity=0)
        .encode(x=alt.X("x:Q", scale=parts.linear_scale(right), axis=x_axis), y=y),
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


def _rows(rungs: Sequence[Group]) -> list[tuple[str, ...]]:
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
            )
        )
    return rows
