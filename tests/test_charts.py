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
from msgspec.structs import replace
from report_fixtures import FIXTURES, START, FakeRun, Speed, build

from loadlib.charts import (
    CHARTS,
    figures,
    ladder,
    latency,
    lengths,
    numerals,
    parts,
    quality,
    throughput,
)
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


@pytest.mark.parametrize("name", ["steps", "small"])
def test_charts_made_quickly_are_the_same_charts(drawn, name):
    run = FIXTURES[name]()
    carefully = [figure for chart in CHARTS.values() if (figure := chart(run)) is not None]
    assert drawn[name] == carefully


def test_a_run_without_requests_has_no_charts(drawn):
    assert drawn["nothing"] == []


def test_ladder_only_with_several_rates(drawn):
    ids = {name: [figure.id for figure in found] for name, found in drawn.items()}
    several = {"steps", "replicas"}
    assert {name for name, found in ids.items() if "load-ladder" in found} == several


# — percentiles ————————————————————————————————————————————————————————————————


def one_metric(values_ms: list[float]) -> FakeRun:
    run = build("t", models={"m": Speed(100, 1000, 50, None, None)}, workloads=("chat",))
    group = run.summary.groups[0]
    key = (group.model, group.workload, group.phase)
    for metric in ("ttft", "sent_ttft"):
        run.recorded[*key, metric] = np.array(values_ms) * 1000
    return run


@pytest.mark.parametrize(
    ("values", "corners"),
    [
        ([5.0], [(1, 5.0), (1, 5.0)]),  # one sample is every percentile
        ([1.0, 2.0], [(1, 1.0), (2, 2.0), (2, 2.0)]),  # the larger one begins at 50 %
        ([1.0, 1.0, 1.0, 9.0], [(1, 1.0), (4, 9.0), (4, 9.0)]),  # … at 75 %
    ],
)
def test_percentile_curve_has_the_corners_of_the_nearest_rank(values, corners):
    run = one_metric(values)
    curve = latency._curve(run, run.summary.groups[0], "ttft")
    assert [(row["x"], row["y"]) for row in curve] == corners


def test_percentile_curve_ends_at_the_slowest_of_n():
    run = one_metric([float(v) for v in range(1, 1001)])
    curve = latency._curve(run, run.summary.groups[0], "ttft")
    assert curve[-1] == {"x": 1000.0, "y": 1000.0}
    assert len(curve) <= 100
    assert all(a["y"] <= b["y"] and a["x"] <= b["x"] for a, b in itertools.pairwise(curve))


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
    figure = latency.ttft_histogram(FIXTURES[name]())
    found = list(shares_of(figure.spec))
    assert found
    for heights in found:
        assert sum(heights) == pytest.approx(1.0, abs=0.002)


def test_the_table_of_a_histogram_adds_up_too():
    figure = latency.ttft_histogram(FIXTURES["full"]())
    for row in figure.rows:
        total = sum(float(cell.split()[0].strip("<>")) for cell in row[3:])
        assert total == pytest.approx(100, abs=0.5)


def test_bins_of_a_row_are_one_width_and_cover_the_domain():
    for n in (3, 60, 5000):
        edges = latency._edges((128.0, 4096.0), n)
        ratios = np.diff(np.log2(edges))
        assert ratios == pytest.approx(ratios[0])
        assert (edges[0], edges[-1]) == pytest.approx((128.0, 4096.0))


def test_latencies_of_constant_delay_are_drawn_too():
    run = one_metric([200.0] * 600)
    assert latency.ttft_histogram(run) is not None
    assert latency.ttft_percentiles(run) is not None


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
    assert figure.rows == ((model, "8", *["10 tok/s"] * 5),)  # the cut seconds at the ends left out


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
    assert [row[1:3] for row in figure.rows] == [("8", "7 tok/s")] * 2  # no idle second counts


def test_long_runs_are_drawn_with_a_bounded_number_of_points():
    series = np.arange(10_007.0)
    width = math.ceil(len(series) / throughput.BUCKETS)
    means = throughput._means(series, width)
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
