"""How long streams stood still: the longest gap of each, and how many had one a reader notices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt

from loadlib.charts import compose, numerals, parts
from loadlib.charts.compose import Drawn
from loadlib.charts.parts import Figure, Key, Panel, RunLike
from loadlib.summary import Group, Summary

NOTICED_MS = (500.0, 1000.0, 5000.0)
"""Gaps that people notice: a hesitation, an interruption, a breakdown."""

HEADS = tuple(f"≥ {limit / 1000:g} s" for limit in NOTICED_MS)
ROW = 20  # px a workload
COLUMNS = 92  # px of a column of text
_FAR_MS = 2000.0  # a longest gap from which on the axis reaches to the last of NOTICED_MS


@dataclass(frozen=True, slots=True)
class Stalls:
    """The longest gaps of a group's streams, ms; `over`: how many are at least NOTICED_MS."""

    n: int
    p50: float
    p99: float
    longest: float
    over: tuple[int, ...]

    def share(self, place: int) -> float:
        """Of the streams, those with a gap of at least the `place`-th of NOTICED_MS."""
        return self.over[place] / self.n


def longest_gaps(run: RunLike) -> Figure | None:
    """The longest gap within a stream of every group; None for runs that did not record it."""
    summary = run.summary
    shown, legend = parts.panels(summary)
    found = {
        id(group): one
        for panel in shown
        for _, group in panel.groups
        if (one := counted(run, group)) is not None
    }
    longest = max((one.longest for one in found.values()), default=0.0)
    low = min((one.p50 for one in found.values() if one.p50 > 0), default=longest)
    domain = parts.span([low, longest, NOTICED_MS[0] * (10 if longest >= _FAR_MS else 1)])
    if not found or not longest or domain is None:
        return None
    rows = [
        _panel(panel, found, domain, first=panel is shown[0], last=panel is shown[-1])
        for panel in shown
        if any(id(group) in found for _, group in panel.groups)
    ]
    return Figure(
        id="stalls",
        title="Stalls: the longest gap within a stream",
        takeaway=_sentence(summary, found),
        spec=compose.finished(compose.column(*rows, spacing=24)),
        columns=("model", "workload", "streams", "p50", "p99", "longest",
                 *[f"gap {head}" for head in HEADS]),
        rows=tuple(_rows(shown, found)),
        legend=(*legend, Key("p50", None, "dot"), Key("p99", None, "diamond"),
                Key("longest", None, "bar")),
        note="Of every stream that ended ok, the longest time between two events; the columns at "
        "the right are shares of those streams.",
    )  # fmt: skip


def counted(run: RunLike, group: Group) -> Stalls | None:
    """The stalls of a group; None where no stream had two events."""
    values, counts = parts.scaled_counts(run, group, "stall")
    if not len(values):
        return None
    return Stalls(
        n=int(counts.sum()),
        p50=parts.quantile(values, counts, 0.5),
        p99=parts.quantile(values, counts, 0.99),
        longest=float(values[-1]),
        over=tuple(int(counts[values >= limit].sum()) for limit in NOTICED_MS),
    )


def _panel(
    panel: Panel,
    found: dict[int, Stalls],
    domain: tuple[float, float],
    *,
    first: bool,
    last: bool,
) -> Drawn:
    width = parts.WIDTH - parts.GUTTER - 40 - (len(NOTICED_MS) + 1) * COLUMNS
    height = ROW * len(panel.groups)
    ticks = parts.log_ticks(*domain)
    x_axis = parts.hidden()
    if last:
        title = "longest gap within a stream, ms (log) — lower is better"
        x_axis = parts.axis(ticks, parts.MS_LABEL, title)
    x_axis.values = ticks
    layers = [
        parts.frame(
            x=alt.X("x:Q", scale=parts.log_scale(domain), axis=x_axis),
            y=alt.Y("y:Q", scale=parts.linear_scale(0.0, float(len(panel.groups))), axis=None),
            rows=[{"x": domain[0], "y": 0}],
        ),
        _noticed(domain),
    ]
    texts: list[tuple[float, int, str]] = []
    for place, (series, group) in enumerate(panel.groups):
        one = found.get(id(group))
        if one is None:
            continue
        layers += _marks(one, domain, place + 0.5, parts.colour(series))
        shares = [numerals.share(one.share(i)) for i in range(len(NOTICED_MS))]
        texts += [
            (place + 0.5, column, text)
            for column, text in enumerate((*shares, numerals.ms(one.longest)))
        ]
    for column, head in enumerate((*HEADS, "longest")):
        layers.append(_texts([(y, text) for y, c, text in texts if c == column], width, column))
        if first:
            layers.append(_head(head, width, column))
    name = parts.caption(panel.label, width)
    return compose.plot(*layers, name, width=width, height=height)


def _noticed(domain: tuple[float, float]) -> Drawn:
    rows = [{"x": limit} for limit in NOTICED_MS if domain[0] < limit < domain[1]]
    return (
        alt.Chart(parts.data(rows))
        .mark_rule(stroke="currentColor", opacity=0.45, strokeDash=[2, 2])
        .encode(x=alt.X("x:Q"))
    )


def _marks(one: Stalls, domain: tuple[float, float], y: float, paint: str) -> list[Drawn]:
    """A line from the median to the longest, p50 and p99 upon it."""
    low, p99, high = (max(domain[0], v) for v in (one.p50, one.p99, one.longest))
    line, end = (
        alt.Chart(parts.data([row]))
        .mark_rule(stroke=paint, strokeWidth=width, opacity=opacity)
        .encode(x=alt.X("x:Q"), y=alt.Y("y:Q"), **more)
        for row, width, opacity, more in (
            ({"x": low, "x2": high, "y": y}, 1.6, 0.7, {"x2": alt.X2("x2")}),
            ({"x": high, "y": y - 0.22, "y2": y + 0.22}, 3, 1, {"y2": alt.Y2("y2")}),
        )
    )
    points = [
        alt.Chart(parts.data([{"x": x, "y": y}]))
        .mark_point(shape=shape, size=size, fill=paint, fillOpacity=1, opacity=1,
                    stroke="var(--page, #fff)", strokeWidth=1)
        .encode(x=alt.X("x:Q"), y=alt.Y("y:Q"))
        for x, shape, size in ((low, "circle", 44), (p99, "diamond", 80))
    ]  # fmt: skip
    return [line, end, *points]


def _texts(found: Sequence[tuple[float, str]], width: int, column: int) -> Drawn:
    return (
        alt.Chart(parts.data([{"y": y, "t": text} for y, text in found]))
        .mark_text(align="right", fontSize=11.5, fill="currentColor")
        .encode(x=parts.pixel_x(width + (column + 1) * COLUMNS), y=alt.Y("y:Q"),
                text=alt.Text("t:N"))
    )  # fmt: skip


def _head(text: str, width: int, column: int) -> Drawn:
    return (
        alt.Chart(parts.data([{"t": text}]))
        .mark_text(align="right", baseline="bottom", fontSize=11, opacity=0.75,
                   fill="currentColor")
        .encode(x=parts.pixel_x(width + (column + 1) * COLUMNS), y=parts.pixel_y(-6),
                text=alt.Text("t:N"))
    )  # fmt: skip


def _sentence(summary: Summary, found: dict[int, Stalls]) -> str:
    several = parts.ladder(summary)
    known = [(found[id(g)], g) for g in parts.measured(summary) if id(g) in found]
    one, where = max(known, key=lambda pair: pair[0].longest)
    there = parts.group_label(where, phase=several)
    longest = f"the longest gap was {numerals.ms(one.longest)} ({there})"
    for place in reversed(range(len(NOTICED_MS))):
        hit = [pair for pair in known if pair[0].over[place]]
        if not hit:
            continue
        most, group = max(hit, key=lambda pair: pair[0].share(place))
        some = f"{numerals.count(most.over[place])} of {numerals.count(most.n)}"
        label = parts.group_label(group, phase=several)
        which = ", the most of any group" if len(known) > 1 else ""
        return (
            f"{numerals.share(most.share(place))} of the streams of {label} ({some}) stood still "
            f"for {NOTICED_MS[place] / 1000:g} s or longer{which}; {longest}."
        )
    total = sum(stalls_.n for stalls_, _ in known)
    none = (
        "The one stream did not stand"
        if total == 1
        else f"None of {numerals.count(total)} streams stood"
    )
    return f"{none} still for {NOTICED_MS[0] / 1000:g} s; {longest}."


def _rows(shown: Sequence[Panel], found: dict[int, Stalls]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for panel in shown:
        for _, group in panel.groups:
            head = (panel.label, parts.short(group.workload))
            one = found.get(id(group))
            if one is None:
                rows.append((*head, "0", *[numerals.UNKNOWN] * (3 + len(NOTICED_MS))))
                continue
            stats = [numerals.ms(value) for value in (one.p50, one.p99, one.longest)]
            shares = [numerals.share(one.share(i)) for i in range(len(NOTICED_MS))]
            rows.append((*head, numerals.count(one.n), *stats, *shares))
    return rows
