"""Time to first token against prompt length, its curve, and how fast prompts are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np

from loadlib.charts import compose, fits, numerals, parts
from loadlib.charts.compose import Drawn
from loadlib.charts.fits import Growth, Place
from loadlib.charts.parts import Figure, Key, Panel, RunLike
from loadlib.charts.reading import Reading
from loadlib.charts.scan import KEPT
from loadlib.summary import Group, LengthBucket, Summary

HEIGHT = 180
RATE_HEIGHT = 110
FORMULA = 13  # px of a line that says one
WIDE = 4  # a range of lengths at least this many times its start says something
CURVE = 20  # points of a fitted curve
EXPLAINED = 0.5  # of the spread: a curve that explains less is not shown
_LENGTH_LABEL = "datum.value >= 1024 ? format(datum.value / 1024, '~g') + 'Ki' : datum.value"


@dataclass(frozen=True, slots=True)
class Fitted:
    """The curve of one group, and its requests by doublings of their length."""

    growth: Growth
    places: tuple[Place, ...]
    seen: int  # uncached requests; more than the curve is made from where there are very many

    def rates(self) -> list[tuple[float, float]]:
        """(prompt tokens, tokens read per second) where that can be told."""
        found = []
        for place in self.places:
            rate = self.growth.prefill(place.length, place.ttft)
            if rate is not None:
                found.append((place.length, rate))
        return found


def fitted(run: RunLike) -> dict[int, Fitted]:
    """The curve of every measured group whose lengths explain its TTFT, by `id`."""
    reading = Reading.of(run)
    found = {}
    for group in parts.measured(run.summary):
        rows = reading.scan.lengths.get((group.model, group.workload, group.phase))
        growth = None if rows is None else fits.growth(rows.tokens, rows.ttft)
        if rows is not None and growth is not None and growth.r2 >= EXPLAINED:
            doublings = fits.places(rows.tokens, rows.ttft, per_octave=1)
            found[id(group)] = Fitted(growth, tuple(doublings), rows.n)
    return found


def ttft_by_length(run: RunLike) -> Figure | None:
    """TTFT p50 and p90 per bucket of prompt tokens, both axes log, and the curve through them."""
    summary = run.summary
    shown, legend = parts.panels(summary)
    buckets = [b for p in shown for _, group in p.groups for b in group.prompt_lengths]
    y_domain = parts.span(v for b in buckets for v in (b.ttft_p50, b.ttft_p90) if v is not None)
    x_domain = parts.span((_x(b) for b in buckets), least=8)
    if x_domain is None or y_domain is None:
        return None
    curves = fitted(run)
    said = max(sum(id(group) in curves for _, group in panel.groups) for panel in shown)
    y_domain = _with_foot(y_domain, FORMULA * said + 6 if said else 0)
    columns, width = parts.grid(len(shown))
    made = [
        _panel(
            panel,
            curves,
            x_domain,
            y_domain,
            width,
            left=i % columns == 0,
            foot=i + columns >= len(shown),
        )
        for i, panel in enumerate(shown)
    ]
    failures = any(b.failed for b in buckets)
    return Figure(
        id="ttft-by-length",
        title="Time to first token against prompt length",
        takeaway=" ".join(filter(None, (_sentence(summary), onset(summary)))),
        spec=compose.finished(compose.tiles(made, columns)),
        columns=("model", "workload", "prompt tokens", "n", "failed", "TTFT p50", "TTFT p90",
                 "TTFT p99", "fitted", "quality"),
        rows=tuple(_rows(shown, curves)),
        legend=(*legend, Key("p50", None, "dot"), Key("p90", None, "dashed"),
                *([Key("fit a + b·L + c·L²", None, "dotted")] if curves else []),
                *([Key("requests failed", None, "cross")] if failures else [])),
        note="Buckets are doublings of the prompt tokens that the server counted, drawn at their "
        "median; response clock." + _fit_note(curves),
    )  # fmt: skip


def prefill_by_length(run: RunLike) -> Figure | None:
    """How many prompt tokens a second are read, at each length where that can be told."""
    shown, legend = parts.panels(run.summary)
    curves = fitted(run)
    rates = {key: found for key, one in curves.items() if (found := one.rates())}
    shown = [panel for panel in shown if any(id(group) in rates for _, group in panel.groups)]
    points = [point for found in rates.values() for point in found]
    x_domain = parts.span((x for x, _ in points), least=8)
    y_domain = parts.span(y for _, y in points)
    if not shown or x_domain is None or y_domain is None:
        return None
    columns, width = parts.grid(len(shown))
    made = [
        _rate_panel(
            panel, rates, x_domain, y_domain, width, left=i % columns == 0,
            foot=i + columns >= len(shown),
        )
        for i, panel in enumerate(shown)
    ]  # fmt: skip
    return Figure(
        id="prefill-by-length",
        title="Prompt tokens read per second",
        takeaway=_rate_sentence(run.summary, rates),
        spec=compose.finished(compose.tiles(made, columns)),
        columns=("model", "workload", "a", "b per 1k tokens", "c per 1k² tokens", "R²", "requests",
                 "lengths", "prefill at"),
        rows=tuple(_rate_rows(shown, curves, rates)),
        legend=tuple(legend),
        note="Effective prefill: prompt tokens / (median TTFT on the sent clock − a), a being what "
        "the fit says a prompt of no length takes. Left out where reading is less than a fifth of "
        "the TTFT.",
    )  # fmt: skip


def _x(bucket: LengthBucket) -> float:
    if bucket.tokens_p50:
        return float(bucket.tokens_p50)
    return float((max(1, bucket.low) * max(1, bucket.high)) ** 0.5)


# — drawing ————————————————————————————————————————————————————————————————————


def _frame(
    x_domain: tuple[float, float],
    y_domain: tuple[float, float],
    y_axis: alt.Axis,
    *,
    foot: bool,
) -> Drawn:
    ticks = [2.0**e for e in range(31) if x_domain[0] <= 2.0**e <= x_domain[1]]
    ticks = ticks[:: max(1, -(-len(ticks) // 6))]
    x_axis = parts.axis(ticks, _LENGTH_LABEL, "prompt tokens (log₂)") if foot else parts.hidden()
    x_axis.values = ticks
    return parts.frame(
        x=alt.X("x:Q", scale=parts.log_scale(x_domain), axis=x_axis),
        y=alt.Y("y:Q", scale=parts.log_scale(y_domain), axis=y_axis),
        rows=[{"x": x_domain[0], "y": y_domain[0]}],
    )


def _y_axis(
    domain: tuple[float, float], label: str, title: str | list[str], *, left: bool
) -> alt.Axis:
    return parts.axis(
        parts.log_ticks(*domain), label, title if left else None, labels=left, ticks=left,
        domain=False, **(parts.GUTTER_EXTENT if left else {}),
    )  # fmt: skip


def _with_foot(domain: tuple[float, float], room: int) -> tuple[float, float]:
    """A logarithmic domain with so many px below what it holds."""
    low, high = domain
    return low / (high / low) ** (room / (HEIGHT - room)), high


def _panel(
    panel: Panel,
    curves: Mapping[int, Fitted],
    x_domain: tuple[float, float],
    y_domain: tuple[float, float],
    width: int,
    *,
    left: bool,
    foot: bool,
) -> Drawn:
    y_axis = _y_axis(y_domain, parts.MS_LABEL, "TTFT (log) — lower is better", left=left)
    layers: list[Any] = [_frame(x_domain, y_domain, y_axis, foot=foot)]
    said = 0
    for series, group in panel.groups:
        layers += _series(group, parts.colour(series))
        one = curves.get(id(group))
        if one is not None:
            layers.append(_curve(one, parts.colour(series), y_domain))
            layers.append(_formula(one.growth, parts.colour(series), width, said))
            said += 1
    name = parts.caption(panel.label, width)
    return compose.plot(*layers, name, width=width, height=HEIGHT)


def _series(group: Group, paint: str) -> list[Drawn]:
    found = [
        {"x": _x(b), "y": b.ttft_p50, "y2": b.ttft_p90 or b.ttft_p50}
        for b in group.prompt_lengths
        if b.ttft_p50
    ]
    failed = [{"x": _x(b)} for b in group.prompt_lengths if b.failed]
    layers = []
    if found:
        base = alt.Chart(parts.data(found))
        layers += [
            base.mark_area(fill=paint, fillOpacity=0.14).encode(
                x=alt.X("x:Q"), y=alt.Y("y:Q", stack=None), y2=alt.Y2("y2")
            ),
            base.mark_line(stroke=paint, strokeWidth=1.4, strokeDash=[4, 3]).encode(
                x=alt.X("x:Q"), y=alt.Y("y2:Q")
            ),
            base.mark_line(stroke=paint, strokeWidth=1.8).encode(x=alt.X("x:Q"), y=alt.Y("y:Q")),
            base.mark_point(
                shape="circle", size=34, fill=paint, fillOpacity=1, opacity=1,
                stroke="var(--page, #fff)", strokeWidth=1,
            ).encode(x=alt.X("x:Q"), y=alt.Y("y:Q")),
        ]  # fmt: skip
    if failed:
        layers.append(
            alt.Chart(parts.data(failed))
            .mark_text(text="✕", fill=paint, fontSize=11, baseline="top")
            .encode(x=alt.X("x:Q"), y=parts.pixel_y(2))
        )
    return layers


def _curve(one: Fitted, paint: str, y_domain: tuple[float, float]) -> Drawn:
    ends = one.places[0].length, one.places[-1].length
    rows = [
        {"x": float(x), "y": y}
        for x in np.geomspace(*ends, CURVE)
        if y_domain[0] <= (y := one.growth.at(float(x))) <= y_domain[1]
    ]
    return (
        alt.Chart(parts.data(rows))
        .mark_line(stroke=paint, strokeWidth=1.6, strokeDash=[1.5, 2.5])
        .encode(x=alt.X("x:Q"), y=alt.Y("y:Q"))
    )


def _formula(growth: Growth, paint: str, width: int, place: int) -> Drawn:
    """At the foot on the right: what grows is not there."""
    return (
        alt.Chart(parts.data([{"t": f"{formula(growth)}, R² {growth.r2:.2f}"}]))
        .mark_text(align="right", fontSize=10.5, fill=paint, baseline="bottom")
        .encode(x=parts.pixel_x(width - 4), y=parts.pixel_y(HEIGHT - 4 - FORMULA * place),
                text=alt.Text("t:N"))
    )  # fmt: skip


def formula(growth: Growth) -> str:
    """`142 ms + 20.1 ms/k + 0.03 ms/k²`, k being a thousand tokens; terms of 0 left out."""
    terms = [
        numerals.ms(growth.a) if growth.a else "",
        f"{numerals.number(growth.b * 1e3)} ms/k" if growth.b else "",
        f"{numerals.number(growth.c * 1e6)} ms/k²" if growth.c else "",
    ]
    return " + ".join(filter(None, terms)) or "0 ms"


def _rate_panel(
    panel: Panel,
    rates: Mapping[int, Sequence[tuple[float, float]]],
    x_domain: tuple[float, float],
    y_domain: tuple[float, float],
    width: int,
    *,
    left: bool,
    foot: bool,
) -> Drawn:
    title = ["prompt tok/s (log),", "higher is better"]
    y_axis = _y_axis(y_domain, parts.TOKENS_LABEL, title, left=left)
    layers: list[Any] = [_frame(x_domain, y_domain, y_axis, foot=foot)]
    for series, group in panel.groups:
        points = [{"x": x, "y": y} for x, y in rates.get(id(group), ())]
        if points:
            paint = parts.colour(series)
            base = alt.Chart(parts.data(points)).encode(x=alt.X("x:Q"), y=alt.Y("y:Q"))
            layers += [
                base.mark_line(stroke=paint, strokeWidth=1.6),
                base.mark_point(shape="circle", size=34, fill=paint, fillOpacity=1, opacity=1,
                                stroke="var(--page, #fff)", strokeWidth=1),
            ]  # fmt: skip
    name = parts.caption(panel.label, width)
    return compose.plot(*layers, name, width=width, height=RATE_HEIGHT)


# — words ——————————————————————————————————————————————————————————————————————


def _sentence(summary: Summary) -> str:
    """How much longer the longest prompts wait than the shortest, at both extremes."""
    growth = []
    for group in parts.measured(summary):
        known = [b for b in group.prompt_lengths if b.ttft_p50 and b.tokens_p50]
        if len(known) < 2:
            continue
        first, last = known[0], known[-1]
        if (last.tokens_p50 or 0) < max(WIDE * (first.tokens_p50 or 0), 1000):
            continue
        added = ((last.ttft_p50 or 0) - (first.ttft_p50 or 0)) / (
            ((last.tokens_p50 or 0) - (first.tokens_p50 or 0)) / 1000
        )
        growth.append((added, group, first, last))
    if not growth:
        return "Prompt lengths differ too little for their effect to be seen."
    several = parts.ladder(summary)
    worst = max(growth, key=lambda g: g[0])
    _, group, first, last = worst
    ends = [
        f"{numerals.ms(b.ttft_p50)} at {numerals.tokens(b.tokens_p50 or 0)} tokens"
        for b in (first, last)
    ]
    text = (
        f"{parts.group_label(group, phase=several)}: median TTFT goes from {ends[0]} to {ends[1]}, "
        f"{numerals.ms(worst[0])} per thousand tokens"
    )
    best = min(growth, key=lambda g: g[0])
    if len(growth) == 1:
        return f"{text}."
    return (
        f"{text}, the steepest; the flattest is {parts.group_label(best[1], phase=several)} "
        f"with {numerals.ms(best[0])}."
    )


def onset(summary: Summary) -> str:
    """From which length on requests fail, of the group that fails most; empty where none does."""
    failing = [g for g in parts.measured(summary) if any(b.failed for b in g.prompt_lengths)]
    if not failing:
        return ""
    group = max(failing, key=lambda g: sum(b.failed for b in g.prompt_lengths))
    label = parts.group_label(group, phase=parts.ladder(summary))
    place = next(i for i, b in enumerate(group.prompt_lengths) if b.failed)
    shorter, longer = group.prompt_lengths[:place], group.prompt_lengths[place:]
    failed, tried = sum(b.failed for b in longer), sum(b.n for b in longer)
    share = f"{numerals.count(failed)} of {numerals.count(tried)} failed"
    start = f"{numerals.count(longer[0].low)} tokens"
    if not shorter:
        return f"Errors begin with the shortest prompts of {label}, from {start}: {share}."
    fine = numerals.count(sum(b.n for b in shorter))
    return f"Errors begin at {start} with {label}: {share} from there on, none of the {fine} shorter ones."  # noqa: E501


def _fit_note(curves: Mapping[int, Fitted]) -> str:
    if not curves:
        return ""
    sampled = f" (a sample of {KEPT:,} where there are more)" if any(
        one.seen > one.growth.n for one in curves.values()
    ) else ""  # fmt: skip
    return (
        " The fit goes through the median of every length of the requests that ended ok and whose "
        f"prompt was not cached{sampled}, on the sent clock and under this load, by least squares "
        "of the relative error with no term below 0, and is shown where it explains half the "
        "spread of the single requests (R²); k is 1,000 tokens."
    )


def _rate_sentence(
    summary: Summary, rates: Mapping[int, Sequence[tuple[float, float]]]
) -> str:  # fmt: skip
    several = parts.ladder(summary)
    last = [(rates[id(g)][-1], g) for g in parts.measured(summary) if id(g) in rates]
    (length, rate), best = max(last, key=lambda row: row[0][1])
    fastest = f"{parts.group_label(best, phase=several)} reads {numerals.tok_s(rate)} of prompt at {numerals.tokens(length)} tokens"  # noqa: E501
    if len(last) == 1:
        return f"{fastest}."
    (length, rate), worst = min(last, key=lambda row: row[0][1])
    slowest = f"{parts.group_label(worst, phase=several)} {numerals.tok_s(rate)} at {numerals.tokens(length)}"  # noqa: E501
    return f"At their longest prompts {fastest}, the most; {slowest}, the least."


def _rows(shown: Sequence[Panel], curves: Mapping[int, Fitted]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for panel in shown:
        for _, group in panel.groups:
            one = curves.get(id(group))
            for b in group.prompt_lengths:
                expected = None if one is None else one.growth.at(_x(b))
                rows.append((
                    panel.label, parts.short(group.workload), f"{b.low:,} – {b.high - 1:,}",
                    numerals.count(b.n), numerals.count(b.failed), numerals.ms(b.ttft_p50),
                    numerals.ms(b.ttft_p90), numerals.ms(b.ttft_p99), numerals.ms(expected),
                    numerals.share(b.quality),
                ))  # fmt: skip
    return rows


def _rate_rows(
    shown: Sequence[Panel],
    curves: Mapping[int, Fitted],
    rates: Mapping[int, Sequence[tuple[float, float]]],
) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for panel in shown:
        for _, group in panel.groups:
            if id(group) not in rates:
                continue
            growth = curves[id(group)].growth
            at = "; ".join(
                f"{numerals.tokens(x)}: {numerals.tok_s(y)}" for x, y in rates[id(group)]
            )
            rows.append((
                panel.label, parts.short(group.workload), numerals.ms(growth.a),
                f"{numerals.number(growth.b * 1e3)} ms", f"{numerals.number(growth.c * 1e6)} ms",
                f"{growth.r2:.3f}", numerals.count(growth.n), numerals.count(growth.places), at,
            ))  # fmt: skip
    return rows
