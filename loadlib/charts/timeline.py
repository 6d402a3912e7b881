"""The run over time: aligned rows on one axis, phases shaded, one cursor through all of them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np

from loadlib.charts import compose, numerals, parts, widening
from loadlib.charts.compose import Drawn
from loadlib.charts.drift import drift_sentence
from loadlib.charts.overtime import Kinds, Time, ends, kinds_of, ttft
from loadlib.charts.parts import Figure, Key, RunLike
from loadlib.charts.reading import Reading
from loadlib.charts.scan import Pair
from loadlib.charts.series import Window
from loadlib.charts.throughput import phase_names
from loadlib.charts.widening import Point

ROW_HEIGHT = 60
WIDTH = parts.WIDTH - parts.GUTTER - 30
TABLE = 20  # rows
TOGETHER = 0.5  # of the run: failures within less of it came together
FIRST_KIND = 3  # colour of the first kind of failure: behind those of the workloads
SOLID: list[float] = [1, 0]
DASHED: list[float] = [4, 3]
DOTTED: list[float] = [1.5, 2.5]
CURSOR = "at"


@dataclass(frozen=True, slots=True)
class Row:
    """One plot of the stack: its name, its y axis, and its marks."""

    name: str
    title: list[str]
    y: tuple[float, float]
    marks: tuple[Drawn, ...]
    log: bool = False
    label: str = parts.PLAIN_LABEL


# — the figure —————————————————————————————————————————————————————————————————


def run_over_time(run: RunLike) -> Figure | None:
    """Offered, sent and done, in flight, TTFT, tokens, failures and the wait to be sent."""
    reading = Reading.of(run)
    series = reading.series
    if not series.length or not (series.total("scheduled").any() or series.total("sent").any()):
        return None
    names = parts.workloads(parts.measured(run.summary))
    coloured = names if len(names) <= FIRST_KIND else []
    kinds = kinds_of(reading)
    time = Time(reading, coloured, kinds)
    latency = ttft(reading)
    rows = [
        _load_row(time),
        _flight_row(time),
        *_latency_rows(time, latency, coloured),
        _tokens_row(time),
        _failures_row(time),
        _wait_row(time),
    ]
    drawn = [row for row in rows if row is not None]
    phases, data = series.phases(), time.data()
    made = [
        _plot(time, data, phases, row, first=row is drawn[0], last=row is drawn[-1])
        for row in drawn
    ]
    spec = compose.finished(compose.column(compose.column(*made, spacing=22), spacing=0))
    _let_point(spec)
    columns, table = _table(time, latency, kinds)
    return Figure(
        id="timeline",
        title="The run over time",
        takeaway=" ".join(filter(None, (_sentence(time, kinds), drift_sentence(reading)))),
        spec=spec,
        columns=columns,
        rows=table,
        legend=(
            *[Key(parts.short(name), i, "area") for i, name in enumerate(coloured)],
            Key("sent; p50", None, "solid"),
            Key("ended ok; p90", None, "dashed"),
            Key("offered; p99", None, "dotted"),
            *[Key(name, FIRST_KIND + i, "bar") for i, name in enumerate(kinds)],
        ),
        note=f"One axis for all rows. A bin is {_of_seconds(time.width)}: rates are its mean, in "
        "flight is the most in it. TTFT is of the requests due then, on the response clock, in "
        f"bins widened until {widening.LEAST} of them ended ok; where none does, there is no line. "
        "Arrival lag is sent − due, waits for a place below max_in_flight included (the health "
        "check leaves those out). Shaded: warm-up, and fainter the drain.",
    )


def _of_seconds(width: int) -> str:
    return "a second" if width == 1 else f"{numerals.count(width)} seconds"


# — rows ———————————————————————————————————————————————————————————————————————


def _load_row(time: Time) -> Row:
    names = (("scheduled", DOTTED, 1.0), ("ok", DASHED, 1.0), ("sent", SOLID, 0.6))
    top = max(float(time.told[name].max()) for name, _, _ in names) or 1.0
    marks = [_stairs(name, dash, opacity) for name, dash, opacity in names]
    return Row("requests", ["req/s, higher", "is better"], (0.0, top * 1.08), tuple(marks))


def _flight_row(time: Time) -> Row | None:
    top = float(time.told["flying"].max())
    if not top:
        return None
    mark = _area("none", "flying", "currentColor", 0.25)
    return Row("in flight", ["requests,", "lower is better"], (0.0, top * 1.08), (mark,))


def _latency_rows(
    time: Time, latency: Mapping[Pair, Sequence[Point]], coloured: Sequence[str]
) -> list[Row]:
    """One row a model: TTFT p50, p90 and p99 of each of its workloads."""
    domain = parts.span(v for some in latency.values() for point in some for v in point.values)
    if domain is None:
        return []
    rows = []
    for model in dict.fromkeys(pair[0] for pair in latency):
        marks: list[Drawn] = []
        for pair, points in latency.items():
            if pair[0] == model and points:
                place = coloured.index(pair[1]) if pair[1] in coloured else None
                paint = "currentColor" if place is None else parts.colour(place)
                marks += _quantiles(time, points, paint, "pqr")
        if marks:
            rows.append(Row(parts.short(model), ["TTFT (log),", "lower is better"], domain,
                            tuple(marks), log=True, label=parts.MS_LABEL))  # fmt: skip
    return rows


def _tokens_row(time: Time) -> Row | None:
    whole = time.told["tokens"]
    if not whole.any():
        return None
    floors = ["none", *time.tokens]
    marks = [
        _area(floor, top, parts.colour(place), 0.45)
        for place, (floor, top) in enumerate(itertools.pairwise(floors))
    ]
    if (whole > time.told[floors[-1]] + 1e-6).any():  # of a warm-up's own workload
        marks.append(_area(floors[-1], "tokens", "currentColor", 0.25))
    return Row("output tokens", ["tok/s,", "higher is better"], (0.0, float(whole.max()) * 1.08),
               tuple(marks))  # fmt: skip


def _failures_row(time: Time) -> Row | None:
    if not time.failures:
        return None
    marks = [
        _bars(time, floor, top, parts.colour(FIRST_KIND + place))
        for place, (floor, top) in enumerate(itertools.pairwise(["none", *time.failures]))
    ]
    high = float(time.told[time.failures[-1]].max()) * 1.08
    return Row("not ok", ["req/s,", "lower is better"], (0.0, high), tuple(marks))


def _wait_row(time: Time) -> Row | None:
    """The p99 of sent − intended start: what waiting in the load generator added."""
    lag = time.reading.scan.lag
    windows = [(0, len(time.begins))]
    points = widening.points(lag, (0.99,), windows, most=len(time.begins))
    high = max((point.values[0] for point in points), default=0.0)
    if not high:
        return None
    marks = _quantiles(time, points, "currentColor", "r")
    return Row("arrival lag", ["p99,", "lower is better"], (0.0, high * 1.08), tuple(marks),
               label=parts.MS_LABEL)  # fmt: skip


# — drawing ————————————————————————————————————————————————————————————————————


def _plot(
    time: Time,
    data: alt.InlineData,
    phases: Sequence[Window],
    row: Row,
    *,
    first: bool,
    last: bool,
) -> Drawn:
    ticks = parts.linear_ticks(time.seconds, 8)
    x_axis = (
        parts.axis(ticks, parts.PLAIN_LABEL, "seconds since the first request")
        if last
        else parts.hidden()
    )
    x_axis.values = ticks
    y_ticks = parts.log_ticks(*row.y) if row.log else parts.linear_ticks(row.y[1], 2)
    frame = parts.frame(
        x=alt.X("x:Q", scale=parts.linear_scale(time.seconds), axis=x_axis),
        y=alt.Y(
            "y:Q",
            scale=parts.log_scale(row.y) if row.log else parts.linear_scale(row.y[1]),
            axis=parts.axis(
                y_ticks, row.label, row.title, **parts.GUTTER_EXTENT, domain=False, ticks=False
            ),
        ),
        rows=[{"x": 0, "y": row.y[0]}],
    )
    names = phase_names(phases, WIDTH, time.seconds) if first else []
    own = [
        mark if mark.data is not alt.Undefined else mark.properties(data=data) for mark in row.marks
    ]
    return compose.plot(
        frame, *_shades(time, phases), *own, *names,
        parts.caption(row.name, WIDTH, -46), *_cursor(data, named=last),
        width=WIDTH, height=ROW_HEIGHT,
    )  # fmt: skip


def _shades(time: Time, phases: Sequence[Window]) -> list[Drawn]:
    """Warm-ups and the drain as grounds, and a line where a phase begins."""
    warm = [(w.start, w.end) for w in phases if w.kind == "warmup"]
    drain = [(max((w.end for w in phases), default=time.seconds), time.seconds)]
    found = []
    for spans, opacity in ((warm, 0.12), (drain, 0.06)):
        rows = [{"x": a, "x2": b} for a, b in spans if b > a]
        if rows:
            found.append(
                alt.Chart(parts.data(rows))
                .mark_rect(fill="currentColor", fillOpacity=opacity)
                .encode(x=alt.X("x:Q"), x2=alt.X2("x2"), y=parts.pixel_y(0),
                        y2=alt.value(ROW_HEIGHT))
            )  # fmt: skip
    starts = [{"x": w.start} for w in phases if w.start > 0]
    if starts:
        found.append(
            alt.Chart(parts.data(starts))
            .mark_rule(stroke="currentColor", opacity=0.35)
            .encode(x=alt.X("x:Q"))
        )
    return found


def _stairs(name: str, dash: Sequence[float], opacity: float) -> Drawn:
    return (
        alt.Chart()
        .mark_line(interpolate="step-after", stroke="currentColor", strokeWidth=1.3,
                   strokeDash=list(dash), opacity=opacity)
        .encode(x=alt.X("a:Q"), y=alt.Y(f"{name}:Q"))
    )  # fmt: skip


def _area(floor: str, top: str, paint: str, opacity: float) -> Drawn:
    return (
        alt.Chart()
        .mark_area(interpolate="step-after", fill=paint, fillOpacity=opacity, stroke=paint,
                   strokeWidth=0.6)
        .encode(x=alt.X("a:Q"), y=alt.Y(f"{floor}:Q", stack=None), y2=alt.Y2(top))
    )  # fmt: skip


def _bars(time: Time, floor: str, top: str, paint: str) -> Drawn:
    """Bars of the bins in which there is something; at least a pixel and a half wide."""
    least = 1.5 * time.seconds / WIDTH
    ends = itertools.pairwise(time.edges)
    rows = [
        {"a": float(a), "b": float(max(b, a + least)), "y": float(low), "y2": float(high)}
        for (a, b), low, high in zip(ends, time.told[floor], time.told[top], strict=True)
        if high > low
    ]
    return (
        alt.Chart(parts.data(rows))
        .mark_rect(fill=paint, fillOpacity=0.9)
        .encode(x=alt.X("a:Q"), x2=alt.X2("b"), y=alt.Y("y:Q"), y2=alt.Y2("y2"))
    )


def _quantiles(time: Time, points: Sequence[Point], paint: str, names: str) -> list[Drawn]:
    """A line through the middles of the bins for each quantile, broken where parts end."""
    rows: list[dict[str, float]] = []
    for part, run in itertools.groupby(points, key=lambda point: point.part):
        bins = list(run)
        at = [(point.start + point.end) / 2 * time.width for point in bins]
        at[0] = float(bins[0].start * time.width)  # to the ends of the part
        end = float(min(time.seconds, bins[-1].end * time.width))
        at, bins = ([*at[:-1], end], bins) if len(bins) > 1 else ([at[0], end], bins * 2)
        rows += [
            {"x": x, **dict(zip(names, point.values, strict=False)), "s": part}
            for x, point in zip(at, bins, strict=True)
        ]
    dashes = {"p": SOLID, "q": DASHED, "r": DOTTED}
    data = parts.data(rows)
    return [
        alt.Chart(data)
        .mark_line(stroke=paint, strokeWidth=1.3, strokeDash=dashes[name])
        .encode(x=alt.X("x:Q"), y=alt.Y(f"{name}:Q"), detail="s:N")
        for name in reversed(names)
    ]


# — the cursor —————————————————————————————————————————————————————————————————


def _cursor(data: alt.InlineData, *, named: bool) -> list[Drawn]:
    """What shows the bin that is pointed at, in every row; a page without scripts has none.

    Invisible rects, one a bin, take the pointer, and lie above all marks.
    """
    chosen = alt.Chart(data).transform_filter({"param": CURSOR, "empty": False})
    layers = [
        chosen.mark_rule(stroke="currentColor", strokeWidth=1, opacity=0.7).encode(
            x=alt.X("m:Q"), tooltip=alt.value("")
        )
    ]
    if named:
        layers.append(
            chosen.transform_calculate(t="format(datum.a, ',d') + ' s'")
            .mark_text(fontSize=11, baseline="bottom", fill="currentColor")
            .encode(x=alt.X("m:Q"), y=parts.pixel_y(-5), text=alt.Text("t:N"))
        )
    catch = (
        alt.Chart(data)
        .mark_rect(opacity=0, fill="currentColor")
        .encode(x=alt.X("a:Q"), x2=alt.X2("b"), y=parts.pixel_y(0), y2=alt.value(ROW_HEIGHT))
    )
    return [*layers, catch]


def _let_point(spec: dict[str, Any]) -> None:
    """One selection for all rows: pointing at a bin of one chooses it in each."""
    names = []
    for place, row in enumerate(spec["vconcat"][0]["vconcat"]):
        catch = row["layer"][-1]
        catch["name"] = f"{CURSOR}-{place}"
        names.append(catch["name"])
    select = {"type": "point", "on": "pointerover", "clear": "pointerout", "fields": ["m"]}
    spec["params"] = [{"name": CURSOR, "select": select, "views": names}]


# — words ——————————————————————————————————————————————————————————————————————


def _sentence(time: Time, kinds: Kinds) -> str:
    """How much was in flight at the most, and whether failures came together."""
    most = int(time.told["flying"].max())
    were = "request was" if most == 1 else "requests were"
    text = f"At most {numerals.count(most)} {were} in flight"
    counts = ends(time.reading, [o for outcomes in kinds.values() for o in outcomes])
    total = int(counts.sum())
    if not total:
        return f"{text}; all that ended, ended ok." if time.reading.scan.rows else f"{text}."
    busy = np.flatnonzero(counts)
    first, last = int(busy[0]) * time.width, min(time.seconds, (int(busy[-1]) + 1) * time.width)
    if total == 1:
        return f"{text}; the one that did not end ok ended after {numerals.duration(float(first))}."
    share = (last - first) / time.seconds
    when = (
        f"all within {numerals.duration(float(last - first))}, from second {first} on"
        if share <= TOGETHER
        else f"spread over {numerals.duration(float(last - first))}"
    )
    return f"{text}; {numerals.count(total)} did not end ok, {when}."


def _table(
    time: Time, latency: Mapping[Pair, Sequence[Point]], kinds: Kinds
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """The rows over at most `TABLE` stretches of the run; latencies of the first six groups."""
    step = max(1, -(-len(time.begins) // TABLE))
    reading, edges = time.reading, time.edges
    series = reading.series
    told = [pair for pair, points in latency.items() if points][:6]
    rows = []
    for a in range(0, len(time.begins), step):
        b = min(a + step, len(time.begins))
        begin, end = int(edges[a]), int(edges[b])
        counts = [series.total(name)[begin:end].sum() / (end - begin) for name in
                  ("scheduled", "sent", "ok", "output_tokens")]  # fmt: skip
        failed = [ends(reading, outcomes)[a:b].sum() for outcomes in kinds.values()]
        cells = []
        for pair in told:
            columns = reading.scan.ttft(pair)
            found = columns.quantiles((0.5, 0.99), a, b) if columns is not None else None
            cells += [numerals.ms(v) for v in found] if found else [numerals.UNKNOWN] * 2
        rows.append((
            f"{begin:,} – {end:,}",
            ", ".join(w.phase for w in series.phases() if w.start < end and w.end > begin)
            or "drain",
            *[numerals.rps(float(rate)) for rate in counts[:3]],
            numerals.count(int(series.in_flight()[begin:end].max())),
            numerals.tok_s(float(counts[3])), *[numerals.count(int(n)) for n in failed], *cells,
        ))  # fmt: skip
    heads = [f"{' · '.join(map(parts.short, pair))} TTFT {stat}" for pair in told
             for stat in ("p50", "p99")]  # fmt: skip
    first = ("seconds", "phase", "offered", "sent", "ended ok", "most in flight", "output tokens")
    return (*first, *kinds, *heads), tuple(rows)
