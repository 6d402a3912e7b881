"""Numbers behind charts, known beforehand: curves, lines, knees, ramps, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadlib.charts import fits
from loadlib.charts.fits import Growth, Sums, growth, places
from loadlib.charts.knee import knee
from loadlib.charts.steady import interval, ramp, steady

LENGTHS = np.array([1000, 4000, 16_000, 64_000, 128_000] * 40)


def curve(a: float, b: float, c: float, lengths: np.ndarray = LENGTHS) -> np.ndarray:
    return a + b * lengths + c * lengths.astype(float) ** 2


# — the curve of TTFT against length ———————————————————————————————————————————


@pytest.mark.parametrize(
    ("a", "b", "c", "why"),
    [
        (140.0, 0.02, 3e-8, "all three terms"),
        (140.0, 0.02, 0.0, "reading is linear"),
        (0.0, 0.02, 1e-7, "nothing but reading"),
        (200.0, 0.0, 2e-7, "attention alone"),
        (300.0, 0.0, 0.0, "length does not matter"),
    ],
)
def test_coefficients_that_made_the_data_come_back(a, b, c, why):
    found = growth(LENGTHS, curve(a, b, c))
    assert (found.a, found.b, found.c) == pytest.approx((a, b, c), rel=1e-6, abs=1e-9), why
    assert found.r2 == pytest.approx(1.0)
    assert (found.n, found.places) == (200, 5)


@given(st.floats(0, 2000), st.floats(0, 0.5), st.floats(0, 1e-6), st.integers(0, 2**32 - 1))
def test_no_coefficient_is_ever_negative(a, b, c, seed):
    noise = np.exp(np.random.default_rng(seed).normal(0, 0.4, len(LENGTHS)))
    found = growth(LENGTHS, (curve(a, b, c) + 1) * noise)
    assert min(found.a, found.b, found.c) >= 0


def test_a_few_requests_that_met_a_queue_do_not_move_the_curve():
    ttft = curve(140.0, 0.02, 0.0)
    ttft[::10] *= 20
    found = growth(LENGTHS, ttft)
    assert (found.a, found.b) == pytest.approx((140.0, 0.02), rel=1e-6), "medians"
    assert found.r2 < 0.9, "and that it does not explain them is said"


def test_ten_milliseconds_count_where_the_ttft_is_short():
    rng = np.random.default_rng(1)
    found = growth(LENGTHS, curve(140.0, 0.02, 0.0) * np.exp(rng.normal(0, 0.1, 200)))
    assert found.a == pytest.approx(140, rel=0.1), "though 128k prompts are off by 250 ms"


@pytest.mark.parametrize(
    ("lengths", "why"),
    [
        ([1000] * 50, "one length"),
        ([1000, 8000] * 50, "two: any curve goes through them"),
        ([1000, 1500, 2000] * 50, "three, but near each other"),
        ([], "none"),
    ],
)
def test_where_there_is_no_curve(lengths, why):
    found = np.array(lengths, np.int64)
    assert growth(found, curve(100.0, 0.1, 0.0, found)) is None, why


def test_three_lengths_make_a_line_and_no_curve():
    lengths = np.array([1000, 8000, 64_000] * 20)
    found = growth(lengths, curve(100.0, 0.01, 5e-8, lengths))
    assert found.c == 0


def test_lengths_within_nine_percent_are_one_place():
    lengths = np.array([1000, 1020, 1040, 2000])
    found = places(lengths, np.array([5.0, 1.0, 3.0, 9.0]))
    assert [(place.length, place.ttft, place.n) for place in found] == [
        (1020, 3.0, 3),
        (2000, 9.0, 1),
    ]


@pytest.mark.parametrize(
    ("length", "ttft", "rate", "why"),
    [
        (10_000, 600, 20_000, "500 ms of reading for 10,000 tokens"),
        (100, 105, None, "reading is a twentieth of it: the quotient says nothing"),
        (1000, 90, None, "faster than a prompt of no length"),
    ],
)
def test_effective_prefill(length, ttft, rate, why):
    assert Growth(100, 0.05, 0, 1, 9, 9).prefill(length, ttft) == rate, why


# — lines —————————————————————————————————————————————————————————————————————

POINT = st.tuples(st.floats(1, 500), st.floats(1, 500))


@given(st.lists(POINT, min_size=20, max_size=60), st.integers(0, 60))
def test_a_line_of_sums_is_the_line_of_the_points_wherever_they_were_cut(points, cut):
    x, y = np.array(points).T
    rows = Sums.of(x, y)
    whole = Sums(*(rows[:cut].sum(axis=0) + rows[cut:].sum(axis=0))).line()
    if x.std() < 1e-3:
        return
    slope, intercept = np.polyfit(x, y, 1)
    assert whole.slope == pytest.approx(slope, abs=1e-5, rel=1e-5)
    assert whole.intercept == pytest.approx(intercept, abs=1e-3, rel=1e-4)
    assert 0 <= whole.r2 <= 1


@pytest.mark.parametrize(
    ("x", "y", "why"),
    [
        (np.arange(19.0), np.arange(19.0), "too few"),
        (np.full(50, 3.0), np.arange(50.0), "one x"),
        (np.empty(0), np.empty(0), "none"),
    ],
)
def test_where_there_is_no_line(x, y, why):
    assert Sums(*Sums.of(x, y).sum(axis=0)).line() is None, why


def test_a_line_explains_what_it_explains():
    x = np.arange(100.0)
    line = Sums(*Sums.of(x, 3 + 2 * x).sum(axis=0)).line()
    assert (line.intercept, line.slope, line.r2) == pytest.approx((3, 2, 1))
    flat = Sums(*Sums.of(x, np.full(100, 7.0)).sum(axis=0)).line()
    assert (flat.slope, flat.r2) == pytest.approx((0, 1)), "all of nothing"


# — knees —————————————————————————————————————————————————————————————————————

QUIET = [(2, 100), (4, 104), (8, 110)]


@pytest.mark.parametrize(
    ("points", "status", "boundary", "between", "why"),
    [
        ([*QUIET, (16, 125), (20, 2000), (24, 9000)], "found", "cliff", (15, 20), "a queue"),
        ([*QUIET, (12, 180), (16, 300), (20, 500)], "found", "smooth", (6, 12), "batching"),
        ([(2, 100), (4, 141), (8, 282), (16, 2260)], "none", "", None, "exponential throughout"),
        ([(2, 100), (8, 100), (16, 101), (32, 102)], "none", "", None, "never loaded"),
        ([(2, 100), (8, 130), (16, 140), (32, 150)], "none", "", None, "it flattens"),
        ([*QUIET, (16, 60)], "unknown", "non-monotone", None, "something else changed"),
        (QUIET, "unknown", "", None, "three loads fit any two lines"),
        ([], "unknown", "", None, "none"),
    ],
)
def test_knees(points, status, boundary, between, why):
    found = knee(points[::-1])
    assert (found.status, found.boundary) == (status, boundary), why
    assert (found.at is not None) == (status == "found")
    assert bool(found.reason) == (status != "found")
    if between:
        assert between[0] <= found.at <= between[1]


@given(st.floats(0.01, 1000), st.floats(0.01, 1000))
def test_a_knee_does_not_depend_on_units(rate, latency):
    points = [*QUIET, (16, 125), (20, 2000), (24, 9000)]
    moved = knee([(x * rate, y * latency) for x, y in points])
    assert moved.at == pytest.approx(knee(points).at * rate, rel=1e-6)


# — the steady stretch —————————————————————————————————————————————————————————


def noise(n: int, seed: int = 3) -> np.ndarray:
    return 500 + np.random.default_rng(seed).normal(0, 60, n)


@pytest.mark.parametrize(
    ("values", "least", "most", "settled", "why"),
    [
        (noise(200), 0, 0, True, "nothing ramps, so nothing is left out"),
        (np.r_[np.linspace(0, 480, 30), noise(170)], 20, 35, True, "half a minute of ramp"),
        (np.r_[np.zeros(10), noise(190)], 10, 10, True, "the first answers took ten seconds"),
        (np.linspace(0, 500, 200), 0, 105, False, "it never settles"),
        (noise(3), 0, 0, False, "too short to tell"),
        (np.full(60, 7.0), 0, 0, True, "no spread at all"),
    ],
)
def test_ramps(values, least, most, settled, why):
    found, steady_after = ramp(values)
    assert least <= found <= most, why
    assert steady_after is settled, why


def test_the_cut_seconds_at_the_ends_are_no_part_of_it():
    found = steady(np.r_[1.0, np.full(40, 50.0), 2.0])
    assert (found.start, found.end, found.mean) == (1, 41, 50.0)
    assert found.interval == (50.0, 50.0)
    assert steady(np.empty(0)) is None
    assert steady(np.array([5.0])).mean == 5.0


def test_the_interval_holds_the_mean_as_often_as_it_says():
    """Seconds that depend on each other, as throughput's do: an AR(1) process, φ = 0.5."""
    rng, held = np.random.default_rng(5), 0
    for _ in range(300):
        values, last = [], 0.0
        for shock in rng.normal(0, 50, 300):
            last = 0.5 * last + shock
            values.append(500 + last)
        low, high = interval(np.array(values))
        held += low <= 500 <= high
    assert held / 300 == pytest.approx(0.95, abs=0.035)


def test_too_few_seconds_have_no_interval():
    assert interval(noise(19)) is None
    low, high = interval(noise(20))
    assert low < 500 < high or math.isclose(low, high)


def test_a_share_of_reading_is_all_that_decides():
    assert fits.Growth(0, 0.1, 0, 1, 1, 3).prefill(1000, 100) == 10_000
