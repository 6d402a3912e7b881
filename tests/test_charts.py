"""Charts: valid specifications, their sentences and tables, and the numbers in them."""

from __future__ import annotations

import itertools
import json
import math

import altair as alt
import msgspec
import numpy as np
import pytest
from altair.utils.schemapi import debug_mode
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from report_fixtures import FIXTURES, START, FakeRun, Speed, build

from loadlib.charts import (
    CHARTS,
    decoding,
    figures,
    histograms,
    ladder,
    lengths,
    needles,
    numerals,
    pareto,
    parts,
    percentiles,
    quality,
    stalls,
    throughput,
)
from loadlib.histogram import Histogram
from loadlib.summary import Bracket, Quality

NAMES = sorted(FIXTURES)


@pytest.fixture(autouse=True)
def _unchecked():
    with debug_mode(False):  # one test below checks whole specifications
        yield


@pytest.fixture(scope="module")
def drawn():
    return {name: figures(make()) for name, make in FIXTURES.items()}


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_complete_without_its_picture(drawn, name):
    for figure in drawn[name]:
        assert figure.id in CHARTS
        assert figure.title
        assert figure.takeaway.endswith((".", "!"))
        assert figure.rows, figure.id
        assert {len(row) for row in figure.rows} == {len(figure.columns)}, figure.id


@pytest.mark.parametrize("name", NAMES)
def test_figures_are_small_and_panels_few(drawn, name):
    for figure in drawn[name]:
        size = len(json.dumps(figure.spec, separators=(",", ":")))
        assert size < 120_000, (figure.id, size)
        inner = next((figure.spec[how] for how in ("concat", "vconcat") if how in figure.spec), [1])
        assert len(inner) <= 24, figure.id
        assert len(figure.rows) <= 200, figure.id
        assert numerals.UNKNOWN not in figure.takeaway, figure.takeaway


@pytest.mark.parametrize("chart", sorted(CHARTS))
def test_specifications_are_valid_and_hold_their_own_data(drawn, chart):
    few = (*drawn["replicas"], *drawn["steps"], *drawn["small"])
    spec = {figure.id: figure for figure in few}[chart].spec
    alt.Chart.from_dict(spec, validate=True)
    text = json.dumps(spec)
    assert '"url"' not in text
    assert text.count("http") == 1  # $schema


def test_axes_say_unit_and_which_way_is_better(drawn):
    for figure in drawn["steps"]:
        text = json.dumps(figure.spec, ensure_ascii=False)
        assert "lower is better" in text or "higher is better" in text, figure.id


def test_a_run_without_requests_has_no_charts(drawn):
    assert drawn["nothing"] == []


def test_every_run_with_requests_has_a_timeline(drawn):
    for name, found in drawn.items():
        assert ("timeline" in [figure.id for figure in found]) == (name != "nothing")


def test_ladder_only_with_several_rates(drawn):
    ids = {name: [figure.id for figure in found] for name, found in drawn.items()}
    several = {"steps", "replicas"}
    for chart in ("load-ladder", "pareto"):
        assert {name for name, found in ids.items() if chart in found} == several


# — percentiles ————————————————————————————————————————————————————————————————


def one_metric(values_ms: list[float]) -> FakeRun:
    run = build("t", models={"m": Speed(100, 1000, 50, None, None)}, workloads=("chat",))
    group = run.summary.groups[0]
    key = (group.model, group.workload, group.phase)
    for metric in ("ttft", "sent_ttft"):
        run.recorded[*key, metric] = np.array(values_ms) * 1000
    return run


def counted(values):
    return np.unique(np.array(values, float), return_counts=True)


@pytest.mark.parametrize(
    ("values", "corners"),
    [
        ([5.0], [(1, 5.0)]),  # one sample is every percentile
        ([1.0, 2.0], [(1, 1.0), (2, 1.0), (2, 2.0)]),  # the larger one begins at 50 %
        ([1.0, 1.0, 1.0, 9.0], [(1, 1.0), (4, 1.0), (4, 9.0)]),  # … at 75 %
    ],
)
def test_percentile_curve_has_the_corners_of_the_nearest_rank(values, corners):
    assert list(percentiles.curve(counted(values), 60).points) == corners


def test_percentile_curve_ends_at_the_slowest_of_n():
    curve = percentiles.curve(counted(range(1, 1001)), 60)
    assert curve.points[-1] == (1000.0, 1000.0)
    assert len(curve.points) <= 70
    assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in itertools.pairwise(curve.points))
    assert curve.thin == 200, "from there on fewer than five samples lie beyond"


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=400), st.integers(2, 60))
def test_a_percentile_curve_never_leaves_the_quantile_function(values, points):
    """Every corner lies on it, read at its left or right limit."""
    ordered, n = sorted(values), len(values)
    for x, y in percentiles.curve(counted(values), points).points:
        rank = n * (1 - 1 / x)
        allowed = {ordered[max(0, min(n - 1, i))] for i in
                   (math.ceil(rank - 1e-6) - 1, math.floor(rank + 1e-6))}  # fmt: skip
        assert y in allowed


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=200), st.integers(2, 60))
def test_of_what_is_better_higher_the_tail_is_the_slow_end(values, points):
    """A curve of rates is that of their negatives, turned round."""
    slow = percentiles.curve(counted(values), points, rising=False)
    turned = percentiles.curve(counted([20_000 - v for v in values]), points)
    assert [(x, 20_000 - y) for x, y in turned.points] == list(slow.points)


def test_a_band_is_the_interval_of_its_percentiles_and_ends_where_there_is_none():
    values = np.arange(1.0, 201)
    band = percentiles.curve(counted(values), 60, band=True).band
    hist = Histogram(range(1, 201))
    at = {round(1 - 1 / x, 6): (low, high) for x, low, high in band}
    assert at[0.5] == hist.interval(0.5) == (86, 115)
    assert at[0.9] == hist.interval(0.9)
    assert hist.interval(0.995) is None
    assert max(at) < 0.995
    assert percentiles.curve(counted([1, 2, 3]), 60, band=True).band == ()


def test_the_table_of_percentiles_is_the_nearest_rank():
    run = one_metric([float(v) for v in range(1, 1001)])
    figure = percentiles.ttft_percentiles(run)
    (response, sent) = figure.rows
    assert response[4:] == ("500 ms", "750 ms", "900 ms", "950 ms", "990 ms", "995 ms", "999 ms",
                            "1,000 ms")  # fmt: skip
    assert sent[2] == "sent"


def test_a_long_line_is_thin_where_the_next_run_would_differ():
    spec = percentiles.ttft_percentiles(one_metric([float(v) for v in range(1, 1001)])).spec
    (panel,) = spec["concat"]
    lines = [layer for layer in panel["layer"] if layer["mark"]["type"] == "line"]
    reach = {
        (layer["mark"]["strokeWidth"], tuple(layer["mark"]["strokeDash"])): [
            row["x"] for row in spec["datasets"][layer["data"]["name"]]
        ]
        for layer in lines
    }
    assert max(reach[1.8, (1, 0)]) <= 200 <= max(reach[0.9, (1, 0)])
    assert max(reach[0.9, (4, 3)]) == 1000


def test_what_an_event_carries_is_said_where_it_is_not_one_token():
    run = FIXTURES["small"]()
    assert "carries" not in percentiles.token_percentiles(run).note
    groups = tuple(replace(g, events=(g.tokens.output or 0) // 4) for g in run.summary.groups)
    run.summary = replace(run.summary, groups=groups)
    assert "An event carries 4 to 4 tokens" in percentiles.token_percentiles(run).note


def test_the_slowest_tenth_is_that_of_the_table():
    run = FIXTURES["passing"]()
    figure = percentiles.user_rate_percentiles(run)
    p10 = figure.columns.index("p10")
    assert figure.rows[0][p10] in figure.takeaway


@pytest.mark.parametrize("p", [0.0, 0.01, 0.5, 0.9, 0.99, 0.999, 1.0])
@pytest.mark.parametrize("n", [1, 2, 10, 99, 100, 101, 1000])
def test_quantile_is_the_nearest_rank(p, n):
    values = np.arange(1, n + 1)
    expected = max(1, math.ceil(round(p * n, 9)))
    assert parts.quantile(values, np.ones(n, int), p) == expected


# — histograms —————————————————————————————————————————————————————————————————


def shares_of(spec):
    """Heights of every histogram area in a ridge, by row and layer."""
    for row in spec["vconcat"]:
        for layer in row["layer"]:
            if layer["mark"]["type"] == "area":
                yield [point["y"] for point in spec["datasets"][layer["data"]["name"]]]


@pytest.mark.parametrize("name", ["full", "single", "hostile"])
def test_shares_of_a_histogram_add_up_to_all_requests(name):
    figure = histograms.ttft_histogram(FIXTURES[name]())
    found = list(shares_of(figure.spec))
    assert found
    for heights in found:
        assert sum(heights) == pytest.approx(1.0, abs=0.002)


def test_the_table_of_a_histogram_adds_up_too():
    figure = histograms.ttft_histogram(FIXTURES["full"]())
    for row in figure.rows:
        total = sum(float(cell.split()[0].strip("<>")) for cell in row[3:])
        assert total == pytest.approx(100, abs=0.5)


def test_bins_of_a_row_are_one_width_and_cover_the_domain():
    for n in (3, 60, 5000):
        edges = histograms._edges((128.0, 4096.0), n)
        ratios = np.diff(np.log2(edges))
        assert ratios == pytest.approx(ratios[0])
        assert (edges[0], edges[-1]) == pytest.approx((128.0, 4096.0))


def test_latencies_of_constant_delay_are_drawn_too():
    run = one_metric([200.0] * 600)
    assert histograms.ttft_histogram(run) is not None
    assert percentiles.ttft_percentiles(run) is not None


# — panels —————————————————————————————————————————————————————————————————————


def test_a_panel_is_a_model_and_a_colour_a_workload():
    made, keys = parts.panels(FIXTURES["full"]().summary)
    assert [panel.label for panel in made][:2] == ["gpt-4o-mini", "gpt-4o"]
    assert [[series for series, _ in panel.groups] for panel in made] == [[0, 1]] * 6
    assert [key.label for key in keys] == ["chat", "long"]


def test_more_than_three_workloads_get_panels_of_their_own():
    run = build("w", models={"m": Speed(100, 1000, 50, None, None)}, workloads=tuple("abcde"))
    made, keys = parts.panels(run.summary)
    assert [panel.label for panel in made] == [f"m · {name}" for name in "abcde"]
    assert keys == []


def test_the_busiest_panels_are_kept_and_stay_in_order():
    run = FIXTURES["many"]()
    made, _ = parts.panels(run.summary, limit=5)
    assert len(made) == 5
    order = [panel.label for panel in parts.panels(run.summary)[0]]
    assert [panel.label for panel in made] == [x for x in order if x in {p.label for p in made}]


def test_long_names_are_cut_in_the_middle_and_controls_removed():
    assert parts.short("a" * 100) == f"{'a' * 22}…{'a' * 11}"
    assert parts.short("a\u202eb\x07c\n") == "a b c"
    assert parts.short("שלום") == "\u2068שלום\u2069"


# — prompt length, throughput, ladder ——————————————————————————————————————————


def test_the_length_sentence_names_the_steepest_and_the_flattest():
    text = lengths.ttft_by_length(FIXTURES["full"]()).takeaway
    assert text.startswith("gpt-4 · long")  # slowest prefill
    assert "gemini-1.5-flash" in text.split("flattest")[1]


def test_seconds_of_the_warm_up_are_not_measured_ones():
    run = FakeRun(FIXTURES["passing"]().summary)
    model, phase = run.summary.groups[0].model, run.summary.groups[0].phase
    base = {"model": model, "workload": "chat", "sent": 1}
    run.rows = [
        {**base, "second": START + i, "phase": "warmup", "scheduled": 1, "output_tokens": 999}
        for i in range(5)
    ] + [
        {**base, "second": START + 5 + i, "phase": phase, "scheduled": 1, "output_tokens": 10}
        for i in range(10)
    ]
    figure = throughput.system_throughput(run)
    ((*names, seconds, of, mean, ends, p10, p50, p90, busiest),) = figure.rows
    assert (names, seconds, of) == ([model, phase], "8", "10"), "cut seconds at the ends left out"
    assert {mean, p10, p50, p90, busiest} == {"10 tok/s"}
    assert ends == numerals.UNKNOWN, "eight seconds are too few for an interval"


def test_quality_against_load_needs_several_rates_and_a_check():
    run = FIXTURES["steps"]()
    drawn = quality.quality_by_load(run)
    assert len(drawn.rows) == len(run.summary.groups)
    assert quality.quality_by_load(FIXTURES["full"]()) is None, "one load"
    bare = [replace(group, quality=Quality()) for group in run.summary.groups]
    run.summary = replace(run.summary, groups=tuple(bare))
    assert quality.quality_by_load(run) is None, "nothing was checked"


def test_quality_falls_only_where_intervals_are_apart():
    run = FIXTURES["steps"]()
    wide = [
        replace(group, quality=replace(group.quality, ci95=(0.5, 1.0)))
        for group in run.summary.groups
    ]
    run.summary = replace(run.summary, groups=tuple(wide))
    assert quality.quality_by_load(run).takeaway.startswith("Nothing falls with load")


def test_models_one_after_the_other_have_windows_of_their_own():
    run = FakeRun(FIXTURES["passing"]().summary)
    models = [group.model for group in run.summary.groups]
    run.rows = [
        {"model": model, "workload": "chat", "phase": "measure", "second": START + 20 * i + s,
         "scheduled": 1, "sent": 1, "output_tokens": 7}
        for i, model in enumerate(models) for s in range(10)
    ]  # fmt: skip
    figure = throughput.system_throughput(run)
    assert [(row[2], row[4]) for row in figure.rows] == [("8", "7 tok/s")] * 2  # no idle second


def test_long_runs_are_drawn_with_a_bounded_number_of_points():
    series = np.arange(10_007.0)
    width = math.ceil(len(series) / throughput.BUCKETS)
    means = throughput.means(series, width)
    assert len(means) <= throughput.BUCKETS
    assert means[0] == pytest.approx(np.arange(width).mean())


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (6, 12, "m passes at 6/s and fails at 12/s (limited by chat: x)."),
        (20, None, "m passes at every load up to 20/s: its limit lies above."),
        (None, 2, "m fails already at 2/s (limited by chat: x): its limit lies below."),
        (None, None, "m: no load could be decided."),
    ],
)
def test_a_bracket_in_words(low, high, text):
    bracket = Bracket(model="m", last_pass_rps=low, first_fail_rps=high, limited_by="chat: x")
    assert ladder.sentence(bracket) == text


def test_ladder_table_has_a_row_per_group():
    run = FIXTURES["steps"]()
    assert len(ladder.load_ladder(run).rows) == len(run.summary.groups)


def test_ladder_names_the_rate_it_shows():
    run = FIXTURES["steps"]()
    drawn = ladder.load_ladder(run)
    assert drawn.columns[3] == "configured rate"
    assert drawn.title == "Configured rate against TTFT p99 and goodput"
    assert "configured rate, requests/s" in str(drawn.spec)
    groups = tuple(msgspec.structs.replace(g, rate_rps=None) for g in run.summary.groups)
    run.summary = msgspec.structs.replace(run.summary, groups=groups)
    assert ladder.load_ladder(run).columns[3] == "offered rate"  # a rebuilt run knows no other


@pytest.mark.parametrize("change", [{"closed_loop": True}, {"varying": True}])
def test_closed_loops_and_ramps_make_no_ladder(change):
    run = FIXTURES["steps"]()
    groups = tuple(msgspec.structs.replace(g, **change) for g in run.summary.groups)
    run.summary = msgspec.structs.replace(run.summary, groups=groups)
    assert ladder.load_ladder(run) is None


# — stalls ————————————————————————————————————————————————————————————————————


def stalling(*longest_ms: float) -> FakeRun:
    run = build("t", models={"m": Speed(100, 1000, 50, None, None)}, workloads=("chat",))
    (group,) = run.summary.groups
    run.recorded[group.model, group.workload, group.phase, "stall"] = np.array(longest_ms) * 1000
    return run


@pytest.mark.parametrize(
    ("gaps", "over", "said"),
    [
        (
            [40] * 98 + [600, 1200],
            (2, 1, 0),
            "1 % of the streams of m · chat (1 of 100) stood still for 1 s or longer; the longest",
        ),
        (
            [40] * 3 + [500],
            (1, 0, 0),
            "25 % of the streams of m · chat (1 of 4) stood still for 0.5 s or longer",
        ),
        ([6000], (1, 1, 1), "100 % of the streams of m · chat (1 of 1) stood still for 5 s or"),
        ([499.9] * 2, (0, 0, 0), "None of 2 streams stood still for 0.5 s; the longest gap was"),
        ([12], (0, 0, 0), "The one stream did not stand still for 0.5 s"),
    ],
)
def test_streams_that_stood_still(gaps, over, said):
    run = stalling(*gaps)
    found = stalls.counted(run, run.summary.groups[0])
    assert (found.n, found.over) == (len(gaps), over)
    figure = stalls.longest_gaps(run)
    assert figure.takeaway.startswith(said)
    shares = [numerals.share(n / len(gaps)) for n in over]
    assert list(figure.rows[0][-3:]) == shares


def test_a_run_of_before_stalls_were_recorded_has_none():
    run = FIXTURES["small"]()
    groups = tuple(
        replace(g, metrics={k: v for k, v in g.metrics.items() if k != "stall"})
        for g in run.summary.groups
    )
    run.summary = replace(run.summary, groups=groups)
    assert stalls.longest_gaps(run) is None


# — load ——————————————————————————————————————————————————————————————————————


def test_the_table_of_tpot_counts_every_stream_once():
    run = FIXTURES["steps"]()
    figure = decoding.tpot_by_load(run)
    streams = sum(int(row[3].replace(",", "")) for row in figure.rows)
    assert streams == sum(g.requests.ok for g in run.summary.groups)


def test_tpot_of_one_load_cannot_be_told_from_another():
    assert decoding.tpot_by_load(FIXTURES["single"]()) is None
    figure = decoding.tpot_by_load(FIXTURES["passing"]())
    assert figure.takeaway.startswith("Time per token hardly depends on the load")


# — lengths ———————————————————————————————————————————————————————————————————


def test_the_curve_of_a_model_is_the_one_it_was_made_with():
    """The fixture's TTFT is its floor and its prefill: gpt-4o-mini 140 ms and 48,000 tok/s."""
    run = FIXTURES["full"]()
    curves = lengths.fitted(run)
    growth = next(
        curves[id(g)].growth for g in parts.measured(run.summary)
        if (g.model, g.workload) == ("gpt-4o-mini", "long")
    )  # fmt: skip
    assert growth.at(0) == pytest.approx(140 * (1 + (4 / 12) ** 2), rel=0.05)
    assert growth.at(64_000) - growth.at(0) == pytest.approx(64_000 / 48, rel=0.03)
    assert growth.r2 > 0.95
    rates = lengths.prefill_by_length(run)
    assert "64k: 48," in next(row[-1] for row in rates.rows if row[0] == "gpt-4o-mini")


def with_buckets(*failed):
    """One group, its length buckets with 10 requests each, so many of them failed."""
    run = FIXTURES["small"]()
    group = run.summary.groups[1]
    first = group.prompt_lengths[0]
    buckets = tuple(
        replace(first, low=1024 << i, high=2048 << i, n=10, failed=bad)
        for i, bad in enumerate(failed)
    )
    run.summary = replace(run.summary, groups=(replace(group, prompt_lengths=buckets),))
    return run.summary


@pytest.mark.parametrize(
    ("failed", "said"),
    [
        ((0, 0, 0), ""),
        ((0, 0, 3), "begin at 4,096 tokens with {}: 3 of 10 failed from there on, none of the 20"),
        ((1, 0, 3), "begin with the shortest prompts of {}, from 1,024 tokens: 4 of 30 failed."),
        ((0, 2, 0), "begin at 2,048 tokens with {}: 2 of 20 failed from there on, none of the 10"),
    ],
)
def test_the_length_where_errors_begin(failed, said):
    found = lengths.onset(with_buckets(*failed))
    assert found.startswith(f"Errors {said.format('gpt-4o-mini · long')}") if said else not found


# — needles ———————————————————————————————————————————————————————————————————


def recalled(**variants) -> FakeRun:
    run = FIXTURES["small"]()
    found = {
        name: Quality(checked=n, passed=round(n * share), share=share, score=share)
        for name, (n, share) in variants.items()
    }
    group = replace(run.summary.groups[1], quality=Quality(checked=9, variants=found))
    run.summary = replace(run.summary, groups=(group,))
    return run


def test_recall_is_laid_out_by_depth_and_length():
    figure = needles.needle_recall(recalled(**{
        "8k depth 0 %": (4, 1.0), "32k depth 0 %": (4, 0.75), "8k depth 50 %": (2, 1.0),
        "4Ki-8Ki depth 20-40 %": (1, 1.0),
    }))  # fmt: skip
    assert figure.columns == ("group", "depth", "4Ki-8Ki", "8k", "32k")
    assert [row[1:] for row in figure.rows] == [
        ("0 %", "–", "100 % of 4", "75 % of 4"),
        ("20-40 %", "100 % of 1", "–", "–"),
        ("50 %", "–", "100 % of 2", "–"),
    ]
    assert "at 32k and depth 0 %: 75 % in 4 documents" in figure.takeaway
    assert figure.takeaway.startswith("90.9 % of the facts were found")


def test_cold_and_warm_documents_are_one_cell_and_other_variants_none():
    figure = needles.needle_recall(recalled(**{
        "8k depth 25 % cold": (1, 0.0), "8k depth 25 % warm": (3, 1.0), "zh-en": (5, 0.2),
        "32k 3 needles": (5, 0.4),
    }))  # fmt: skip
    assert [row[1:] for row in figure.rows] == [("25 %", "75 % of 4")]
    assert needles.needle_recall(recalled(**{"zh-en": (5, 0.2)})) is None


def test_all_that_is_found_is_said():
    figure = needles.needle_recall(recalled(**{"8k depth 25 %": (4, 1.0)}))
    assert figure.takeaway == "Every fact was found, in 4 documents of every length and depth."


# — several loads ——————————————————————————————————————————————————————————————


def point(user, system, meets="pass"):
    return pareto.Point(FIXTURES["single"]().summary.groups[0], "1/s", user, system, meets)


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=1, max_size=12))
def test_the_edge_is_what_nothing_beats_in_both(pairs):
    points = [point(u, s) for u, s in pairs]
    edge = {(p.user, p.system) for p in pareto.edge(points)}
    beaten = {
        (u, s) for u, s in pairs
        if any(a >= u and b >= s and (a, b) != (u, s) for a, b in pairs)
    }  # fmt: skip
    assert edge == set(pairs) - beaten


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50), st.booleans()), min_size=1,
                max_size=10))  # fmt: skip
def test_the_area_that_only_failing_loads_reach(found):
    points = [point(u, s, "fail" if bad else "pass") for u, s, bad in found]
    rects = []
    for layer in pareto._infeasible(points):
        rects += json.loads(layer.data.values)
    for x, y in itertools.product(range(50), repeat=2):
        x, y = x + 0.5, y + 0.5
        reached = [bad for u, s, bad in found if x < u and y < s]
        inside = sum(r["x"] < x < r["x2"] and r["y"] < y < r["y2"] for r in rects)
        assert inside == bool(reached and all(reached))


def test_loads_of_a_ladder_by_name():
    figure = pareto.tokens_by_load(FIXTURES["steps"]())
    assert [row[2] for row in figure.rows[:4]] == ["2/s", "6/s", "12/s", "20/s"]
    assert figure.takeaway.startswith("Most tokens without a failed gate: gpt-4o-mini · chat at 12")
    assert pareto.tokens_by_load(FIXTURES["full"]()) is None, "one load"
    closed = replace(FIXTURES["interrupted"]().summary.groups[0], rate_rps=None)
    assert pareto.load_name(closed) == "10 users"


def test_a_knee_of_a_ladder_is_drawn_and_said():
    run = FIXTURES["steps"]()
    slow = {"2/s": 100, "6/s": 104, "12/s": 130, "20/s": 4000}
    groups = tuple(
        replace(g, metrics=g.metrics | {"ttft": replace(g.metrics["ttft"], p99=slow[g.phase])})
        for g in run.summary.groups
    )
    run.summary = replace(run.summary, groups=groups)
    figure = ladder.load_ladder(run)
    assert "The first knee is that of gpt-4o-mini · chat: above" in figure.takeaway
    assert "at a cliff" in figure.takeaway
    assert "knee" in [key.label for key in figure.legend]
    assert "No knee: latency grows evenly" in ladder.load_ladder(FIXTURES["steps"]()).takeaway


# — scales and numbers —————————————————————————————————————————————————————————


@pytest.mark.parametrize("domain", [(0.9, 1.1), (80, 5000), (1, 3.6e6), (999, 1001)])
def test_log_ticks_lie_inside_and_are_few(domain):
    ticks = parts.log_ticks(*domain)
    assert all(domain[0] <= tick <= domain[1] for tick in ticks)
    assert len(ticks) <= 12


@pytest.mark.parametrize("high", [0.0, 0.4, 1, 7, 460, 98_000])
def test_linear_ticks_begin_at_zero_and_stay_below(high):
    ticks = parts.linear_ticks(high)
    assert ticks[0] == 0
    assert ticks[-1] <= high
    assert len(ticks) <= 6


def test_spans_are_never_degenerate():
    low, high = parts.span([200.0, 200.0])
    assert high / low == pytest.approx(4)
    assert parts.span([]) is None
    assert parts.span([0.0, -1.0, math.inf]) is None


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (numerals.number(2310.4), "2,310"),
        (numerals.number(0.01234), "0.0123"),
        (numerals.number(-31.26), "−31.3"),
        (numerals.number(5.0), "5"),
        (numerals.number(None), "–"),
        (numerals.number(math.inf), "∞"),
        (numerals.ms(812.44), "812 ms"),
        (numerals.ms(9_999.0), "9,999 ms"),
        (numerals.ms(28_412.0), "28.4 s"),
        (numerals.ms(0.0), "0 ms"),
        (numerals.sum_ms(164.2, 1.62), "164 +1.6 ms"),
        (numerals.sum_ms(28_400, 12.0), "28.4 +0.012 s"),
        (numerals.sum_ms(164.2, -0.04), "164 −0.0 ms"),
        (numerals.share(0.968), "96.8 %"),
        (numerals.share(1.0), "100 %"),
        (numerals.share(0.99996), ">99.9 %"),  # never 100 % unless it is all of it
        (numerals.share(0.00001), "<0.1 %"),  # never 0 % unless it is nothing
        (numerals.share(0.0), "0 %"),
        (numerals.usd(12.406), "$12.41"),
        (numerals.usd(0.15), "$0.15"),
        (numerals.usd(0.07521), "$0.0752"),
        (numerals.rps(0.4), "0.4/s"),
        (numerals.rps(20.0), "20/s"),
        (numerals.times(1.0812), "1.08×"),
        (numerals.duration(45.2), "45.2 s"),
        (numerals.duration(125.0), "2 min 05 s"),
        (numerals.duration(3_720.0), "1 h 02 min"),
        (numerals.interval((2180.0, 2470.0), "ms"), "[2,180, 2,470] ms"),
        (numerals.interval((2180.0, 12_470.0), "ms"), "[2.18, 12.5] s"),
        (numerals.interval((0.9, 1.0), "share"), "[90 %, 100 %]"),
        (numerals.interval((69.0, 74.9), "tok/s"), "[69, 74.9] tok/s"),
        (numerals.interval(None, "ms"), ""),
        (numerals.value(5.0, "rps"), "5/s"),
        (numerals.value(0.02, "usd"), "$0.02"),
        (numerals.value(12.0, "tok/s"), "12 tok/s"),
        (numerals.tokens(512), "512"),
        (numerals.tokens(8000), "8k"),
        (numerals.tokens(131_072), "131k"),
    ],
)  # fmt: skip
def test_numbers_as_text(made, text):
    assert made == text
