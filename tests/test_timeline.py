"""The run over time: one axis, one cursor, gaps that stay gaps, and figures that do not grow."""

from __future__ import annotations

import json

import numpy as np
import pytest
import vl_convert
from altair.utils.schemapi import debug_mode
from msgspec.structs import replace
from record_samples import sample
from report_fixtures import FIXTURES, SPEEDS, build, judged
from test_scan import row, run_of

from loadlib.charts.drift import drift_sentence, drifts
from loadlib.charts.overtime import KINDS, MODELS, kinds_of
from loadlib.charts.reading import Reading
from loadlib.charts.timeline import CURSOR, run_over_time
from loadlib.report.slim import slim
from loadlib.sample import Outcome


@pytest.fixture(autouse=True)
def _unchecked():
    with debug_mode(False):
        yield


def plots(figure) -> list[dict]:
    return figure.spec["vconcat"][0]["vconcat"]


def captions(figure) -> list[str]:
    data = figure.spec["datasets"]
    return [
        data[layer["data"]["name"]][0]["label"]
        for plot in plots(figure)
        for layer in plot["layer"]
        if layer["mark"].get("fontWeight") == 600
    ]


def domain(plot, channel="x"):
    return plot["layer"][0]["encoding"][channel]["scale"]["domain"]


def test_rows_of_a_run():
    figure = run_over_time(FIXTURES["full"]())
    assert captions(figure) == [
        "requests", "in flight", *SPEEDS, "output tokens", "not ok", "arrival lag"
    ]  # fmt: skip
    assert [key.label for key in figure.legend][-2:] == ["throttled", "timeout"]


def test_all_rows_share_one_axis_and_one_cursor():
    figure = run_over_time(FIXTURES["steps"]())
    assert len({json.dumps(domain(plot)) for plot in plots(figure)}) == 1
    (param,) = figure.spec["params"]
    catchers = [plot["layer"][-1] for plot in plots(figure)]
    assert param["views"] == [layer["name"] for layer in catchers]
    assert len({layer["data"]["name"] for layer in catchers}) == 1, "the same bins in every row"
    rules = [
        layer
        for plot in plots(figure)
        for layer in plot["layer"]
        if {"filter": {"param": CURSOR, "empty": False}} in layer.get("transform", ())
    ]
    assert len(rules) == len(catchers) + 1, "a rule in every row, and the time at the foot"


def test_a_page_without_scripts_has_nothing_of_the_cursor():
    figure = run_over_time(FIXTURES["small"]())
    raw = vl_convert.vegalite_to_svg(json.dumps(figure.spec), allowed_base_urls=[])
    _, body = slim(raw, figure.id)
    assert 'opacity="0"' not in body
    assert len(body) < len(raw) / 3


def test_a_day_is_drawn_with_as_many_points_as_an_hour():
    def run_over(width):
        run = FIXTURES["small"]()
        start = min(r["second"] for r in run.rows)
        run.rows = [r | {"second": start + (r["second"] - start) * width} for r in run.rows]
        return run_over_time(run)

    hour, day = run_over(30), run_over(720)
    sizes = [len(json.dumps(figure.spec)) for figure in (hour, day)]
    assert sizes[1] < sizes[0] * 1.2
    for figure in (hour, day):
        assert max(len(rows) for rows in figure.spec["datasets"].values()) <= 161
        assert len(figure.rows) <= 20


def test_many_models_get_rows_as_far_as_the_picture_reaches():
    speeds = list(SPEEDS.values())
    models = {f"m{i:02d}": speeds[i % 6] for i in range(30)}
    figure = run_over_time(judged(build("many", models=models, seconds=30, fail_share=0.05)))
    assert len(captions(figure)) == MODELS + 5
    assert len(json.dumps(figure.spec)) < 120_000


def test_rates_are_means_of_their_bins_and_load_is_the_most_of_them():
    run = run_of([sample()], [row(s, scheduled=4, sent=4, ended=4) for s in range(320)]
                 + [row(320, scheduled=1, sent=100, ended=0), row(321, ended=100)])  # fmt: skip
    figure = run_over_time(run)
    bins = next(rows for rows in figure.spec["datasets"].values() if "flying" in rows[0])
    assert [r["b"] - r["a"] for r in bins[:3]] == [3, 3, 3]
    assert bins[0]["scheduled"] == 4
    assert max(r["flying"] for r in bins) == 100
    assert figure.takeaway.startswith("At most 100 requests were in flight")


def test_the_table_counts_what_the_rows_show():
    run = FIXTURES["full"]()
    figure = run_over_time(run)
    heads = list(figure.columns)
    throttled = sum(int(cells[heads.index("throttled")]) for cells in figure.rows)
    assert throttled == sum(g.requests.throttled for g in run.summary.groups)
    assert figure.rows[0][1] == "warmup, measure"
    assert figure.rows[-1][1] == "drain"


def test_where_nothing_succeeds_there_is_no_line():
    samples = [
        sample(Outcome.OK if not 30 <= s < 60 else Outcome.SERVER_ERROR, at=s * 1000 + 10 * i)
        for s in range(90)
        for i in range(4)
    ]
    seconds = [row(s, scheduled=4, sent=4, ended=4) for s in range(90)]
    figure = run_over_time(run_of(samples, seconds))
    (line,) = [rows for rows in figure.spec["datasets"].values() if "p" in rows[0]]
    parts = {part: [r["x"] for r in line if r["s"] == part] for part in {r["s"] for r in line}}
    ends = sorted((min(xs), max(xs)) for xs in parts.values())
    assert len(ends) == 2
    assert ends[0][1] <= 30
    assert ends[1][0] >= 59


def test_rare_kinds_of_failure_share_a_colour():
    outcomes = [o for o in Outcome if o is not Outcome.OK]
    samples = [sample(o, at=i) for i, o in enumerate(outcomes) for _ in range(10 - i)]
    reading = Reading.of(run_of(samples, [row(0, scheduled=1, sent=1), row(3, ended=1)]))
    kinds = kinds_of(reading)
    assert list(kinds) == [*(o.value for o in outcomes[: KINDS - 1]), "other"]
    assert sum(map(len, kinds.values())) == len(outcomes)


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        ([], "all that ended, ended ok"),
        ([3], "the one that did not end ok ended after 3 s"),
        ([3, 4, 4], "3 did not end ok, all within 2 s, from second 3 on"),
        ([3, 40, 88], "3 did not end ok, spread over 86 s"),
    ],
)
def test_whether_failures_came_together_is_said(ended, said):
    samples = [sample(at=0)]
    samples += [replace(sample(Outcome.TIMEOUT), end_ns=s * 10**9 + 1) for s in ended]
    seconds = [row(s, scheduled=1, sent=1, ended=1) for s in range(90)]
    assert said in run_over_time(run_of(samples, seconds)).takeaway


def test_a_run_of_nothing_has_no_time():
    assert run_over_time(FIXTURES["nothing"]()) is None


# — drift —————————————————————————————————————————————————————————————————————


def drifting(last_ms):
    """300 requests in 90 s; those of the last third wait `last_ms`, all others 100."""
    samples = [sample(at=i * 300, ttft=(100 if i < 200 else last_ms) + i % 5) for i in range(300)]
    return Reading.of(run_of(samples, [row(s, scheduled=3, sent=3, ended=3) for s in range(90)]))


def test_a_phase_that_ends_slower_than_it_began_drifts():
    (found,) = drifts(drifting(300))
    assert found.sure
    assert found.ratio == pytest.approx(3, rel=0.05)
    assert "went from" in drift_sentence(drifting(300))
    assert drift_sentence(drifting(105)).startswith("No median TTFT surely changes")


def test_chance_is_no_drift():
    rng = np.random.default_rng(2)
    waits = np.r_[rng.lognormal(5, 1, 60), rng.lognormal(5.4, 1, 30)]
    samples = [sample(at=i * 1000, ttft=int(wait)) for i, wait in enumerate(waits)]
    reading = Reading.of(run_of(samples, [row(s, scheduled=1, sent=1, ended=1) for s in range(90)]))
    (found,) = drifts(reading)
    assert found.ratio > 1.2, "the medians differ"
    assert not found.sure, "and may do so by chance"
