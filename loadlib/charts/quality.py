"""What answers were worth at each load."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from loadlib.charts import compose, numerals, parts
from loadlib.charts.compose import Drawn
from loadlib.charts.ladder import offered
from loadlib.charts.parts import Figure, Key, RunLike
from loadlib.summary import Group

HEIGHT = 130


def quality_by_load(run: RunLike) -> Figure | None:
    """Share of answers that pass their check at each rate, with 95 % intervals; None unless
    several phases have a rate and a check."""
    rungs = [g for g in parts.measured(run.summary) if offered(g) and g.quality.checked]
    if len({group.phase for group in rungs}) < 2:
        return None
    models = list(dict.fromkeys(group.model for group in rungs))[:24]
    names = parts.workloads(parts.measured(run.summary))
    columns, width = parts.grid(len(models))
    low = min(_low(group) for group in rungs)
    made = [
        _model([g for g in rungs if g.model == model], names, low, width, left=i % columns == 0)
        for i, model in enumerate(models)
    ]
    return Figure(
        id="quality-by-load",
        title="Quality of answers against load",
        takeaway=_sentence(rungs),
        spec=compose.finished(compose.tiles(made, columns, row=30)),
        columns=("model", "workload", "phase", "rate", "checked", "passed", "95 % interval"),
        rows=tuple(_row(group) for group in rungs),
        legend=(
            *[Key(parts.short(name), i, "dot") for i, name in enumerate(names)],
            Key("95 % interval (Wilson)", None, "bar"),
        ),
    )


def _low(group: Group) -> float:
    return group.quality.ci95[0] if group.quality.ci95 else group.quality.share or 0.0


def _sentence(rungs: Sequence[Group]) -> str:
    """Whether quality surely falls with load anywhere: intervals apart."""
    fallen = []
    for key in dict.fromkeys((group.model, group.workload) for group in rungs):
        mine = sorted((g for g in rungs if (g.model, g.workload) == key), key=_rate)
        first, last = mine[0].quality, mine[-1].quality
        if first.ci95 and last.ci95 and last.ci95[1] < first.ci95[0]:
            name = parts.short(f"{key[0]} {key[1]}")
            shares = f"{numerals.share(first.share)} to {numerals.share(last.share)}"
            fallen.append(f"{name} falls from {shares} at {numerals.rps(offered(mine[-1]))}")
    if fallen:
        more = f", and {len(fallen) - 3} more" if len(fallen) > 3 else ""
        return f"{'; '.join(fallen[:3])}{more}."
    return "Nothing falls with load by more than the intervals allow."


def _rate(group: Group) -> float:
    return offered(group) or 0.0


def _model(
    rungs: Sequence[Group], names: list[str], low: float, width: int, *, left: bool
) -> Drawn:
    right = max(map(_rate, rungs)) * 1.08
    floor = max(0.0, min(0.9, low - 0.05))
    extent = parts.GUTTER_EXTENT if left else {}
    y_axis = parts.axis([floor, (1 + floor) / 2, 1], "format(datum.value, '.0%')",
                        ["quality,", "higher is better"] if left else None, labels=left,
                        ticks=False, domain=False, **extent)  # fmt: skip
    x_axis = parts.axis(parts.linear_ticks(right, 4), parts.PLAIN_LABEL, "requests/s")
    top = 1 + (1 - floor) * 0.15  # the model's name stands there
    corners = [{"x": 0, "y": floor}, {"x": right, "y": top}]
    y_scale = alt.Scale(domain=[floor, top], nice=False, clamp=True)
    layers = [
        parts.frame(
            x=alt.X("x:Q", scale=parts.linear_scale(right), axis=x_axis),
            y=alt.Y("y:Q", scale=y_scale, axis=y_axis),
            rows=corners,
        )
    ]
    for index, name in enumerate(names):
        mine = sorted((g for g in rungs if g.workload == name), key=_rate)
        if mine:
            layers += _line(mine, parts.colour(index))
    title = parts.caption(parts.short(rungs[0].model), width)
    return compose.plot(*layers, title, width=width, height=HEIGHT)


def _line(rungs: Sequence[Group], paint: str) -> list[Drawn]:
    rows = []
    for group in rungs:
        share = group.quality.share or 0.0
        low, high = group.quality.ci95 or (share, share)
        rows.append({"x": _rate(group), "y": share, "low": low, "high": high})
    base = alt.Chart(parts.data(rows)).encode(x=alt.X("x:Q"))
    return [
        base.mark_rule(stroke=paint, strokeWidth=1.6, strokeOpacity=0.6)
        .encode(y=alt.Y("low:Q"), y2=alt.Y2("high")),
        base.mark_line(stroke=paint, strokeWidth=1.8).encode(y=alt.Y("y:Q")),
        base.mark_point(shape="circle", size=42, fill=paint, fillOpacity=1, opacity=1,
                        stroke="var(--page, #fff)", strokeWidth=1).encode(y=alt.Y("y:Q")),
    ]  # fmt: skip


def _row(group: Group) -> tuple[str, ...]:
    found = group.quality
    low, high = found.ci95 or (None, None)
    return (
        parts.short(group.model),
        parts.short(group.workload),
        parts.short(group.phase),
        numerals.rps(offered(group)),
        numerals.count(found.checked),
        numerals.share(found.share),
        f"{numerals.share(low)} to {numerals.share(high)}",
    )
