"""Time to first token against prompt length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from loadlib.charts import numerals, parts
from loadlib.charts.parts import Drawn, Figure, Key, Panel, RunLike
from loadlib.summary import Group, LengthBucket, Summary

HEIGHT = 180
WIDE = 4  # a range of lengths at least this many times its start says something


def ttft_by_length(run: RunLike) -> Figure | None:
    """TTFT p50 and p90 per bucket of prompt tokens, both axes log."""
    summary = run.summary
    shown, legend = parts.panels(summary)
    buckets = [b for p in shown for _, group in p.groups for b in group.prompt_lengths]
    y_domain = parts.span(v for b in buckets for v in (b.ttft_p50, b.ttft_p90) if v is not None)
    x_domain = parts.span((_x(b) for b in buckets), least=8)
    if x_domain is None or y_domain is None:
        return None
    columns, width = parts.grid(len(shown))
    made = [
        _panel(
            panel,
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
        takeaway=_sentence(summary),
        spec=parts.finished(
            parts.together("concat", *made, columns=columns, spacing={"row": 34, "column": 18})
        ),
        columns=("model", "workload", "prompt tokens", "n", "failed", "TTFT p50", "TTFT p90",
                 "TTFT p99", "quality"),
        rows=tuple(_rows(shown)),
        legend=(*legend, Key("p50", None, "dot"), Key("p90", None, "dashed"),
                *([Key("requests failed", None, "cross")] if failures else [])),
        note="Buckets are doublings of the prompt tokens that the server counted, drawn at their "
        "median; response clock.",
    )  # fmt: skip


def _x(bucket: LengthBucket) -> float:
    if bucket.tokens_p50:
        return float(bucket.tokens_p50)
    return float((max(1, bucket.low) * max(1, bucket.high)) ** 0.5)


def _panel(
    panel: Panel,
    x_domain: tuple[float, float],
    y_domain: tuple[float, float],
    width: int,
    *,
    left: bool,
    foot: bool,
) -> Drawn:
    ticks = [2.0**e for e in range(31) if x_domain[0] <= 2.0**e <= x_domain[1]]
    ticks = ticks[:: max(1, -(-len(ticks) // 6))]
    label = "datum.value >= 1024 ? format(datum.value / 1024, '~g') + 'Ki' : datum.value"
    x_axis = parts.axis(ticks, label, "prompt tokens (log₂)") if foot else parts.hidden()
    y_axis = parts.axis(
        parts.log_ticks(*y_domain), parts.MS_LABEL,
        "TTFT (log) — lower is better" if left else None,
        labels=left, ticks=left, domain=False, **(parts.GUTTER_EXTENT if left else {}),
    )  # fmt: skip
    if not foot:
        x_axis.values = ticks
    frame = (
        alt.Chart(parts.data([{"x": x_domain[0], "y": y_domain[0]}]))
        .mark_point(opacity=0)
        .encode(
            x=alt.X("x:Q", scale=parts.log_scale(x_domain), axis=x_axis),
            y=alt.Y("y:Q", scale=parts.log_scale(y_domain), axis=y_axis),
        )
    )
    layers: list[Any] = []
    for series, group in panel.groups:
        layers += _series(group, parts.colour(series))
    name = parts.caption(panel.label, width)
    return parts.together("layer", frame, *layers, name, width=width, height=HEIGHT)


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


def _rows(shown: Sequence[Panel]) -> list[tuple[str, ...]]:
    return [
        (
            panel.label,
            parts.short(group.workload),
            f"{b.low:,} – {b.high - 1:,}",
            numerals.count(b.n),
            numerals.count(b.failed),
            numerals.ms(b.ttft_p50),
            numerals.ms(b.ttft_p90),
            numerals.ms(b.ttft_p99),
            numerals.share(b.quality),
        )
        for panel in shown
        for _, group in panel.groups
        for b in group.prompt_lengths
    ]
