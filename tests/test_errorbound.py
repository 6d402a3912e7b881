"""What an instrument's error leaves of a figure: known answers, and that no doubt is lost."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadlib.errorbound import NONE, SHARES, Bound, Spread
from loadlib.histogram import Histogram, nearest_rank


def spread(*ms):
    return Spread.of(Histogram(round(1000 * value) for value in ms))


def flat(ms):
    """The same error of every reading."""
    return Spread((ms,) * len(SHARES), ms)


@pytest.mark.parametrize(
    ("ms", "p", "at", "why"),
    [
        ([1] * 95 + [64] * 5, 0.5, 1, "mostly 1 ms late"),
        ([1] * 95 + [64] * 5, 0.99, 64, "rarely 64"),
        ([1] * 95 + [64] * 5, 1.0, 64, "never more"),
        ([1] * 99 + [64], 0.9, 1, "one in a hundred is not one in ten"),
        ([], 0.99, 0, "nothing read, nothing made up"),
    ],
)
def test_an_error_at_a_share(ms, p, at, why):
    assert spread(*ms).at(p) == pytest.approx(at, rel=1e-3), why


def test_sums_hold_wherever_the_errors_fall():
    a, b = spread(*[1] * 96, *[50] * 4), spread(*[2] * 96, *[30] * 4)
    both = a.plus(b)
    assert both.at(0.5) == pytest.approx(3, rel=1e-3)
    assert both.at(0.93) == pytest.approx(80, rel=1e-3), "8 % may be hit by one of them"
    assert both.mean == pytest.approx(a.mean + b.mean)
    assert a.plus(NONE) == a == NONE.plus(a)
    assert not NONE
    assert a.twice().at(0.93) == pytest.approx(50, rel=1e-3), "either of two stamps is late"


@pytest.mark.parametrize(
    ("bound", "value", "interval", "why"),
    [
        (Bound(over=flat(5)), 100, (95, 100), "late stamps only lengthen"),
        (Bound(over=flat(5), under=flat(5)), 100, (95, 105), "a gap has two ends"),
        (
            Bound(over=flat(100), under=flat(100), kind="speed", gaps=10),
            20,
            (20 / 1.2, 25),
            "10 tokens in 500 ms, which were 400 or 600",
        ),
        (
            Bound(under=flat(600), kind="speed", gaps=10),
            20,
            (20, math.inf),
            "10 tokens in 500 ms, less 600: at once, perhaps",
        ),
        (Bound(over=flat(10), under=flat(20), kind="share"), 50, (49.5, 51), "1 % and 2 % of it"),
        (Bound(), 100, (100, 100), "a perfect instrument"),
    ],
)
def test_around_one_figure(bound, value, interval, why):
    assert bound.around(value) == pytest.approx(interval), why
    assert bound.of_rank(lambda _rank: value, 1, 1) == pytest.approx(interval), why


def ranks(values):
    ordered = sorted(values)
    return lambda rank: ordered[rank - 1]


def test_a_rare_error_moves_a_median_little_and_a_maximum_by_all_of_it():
    rare = Bound(over=spread(*[0] * 999, 500))
    values = list(range(1000, 2000))
    low, high = rare.of_rank(ranks(values), 500, 1000)
    assert high == values[499], "never too low"
    assert values[499] - 2 <= low <= values[499] - 1, "one value may be gone from above it"
    assert rare.of_rank(ranks(values), 1000, 1000)[0] == pytest.approx(1998, abs=1)


latencies = st.lists(st.integers(0, 2000), min_size=1, max_size=120)
lags = st.lists(st.integers(0, 400), min_size=1, max_size=120)


@given(
    latencies, lags, st.randoms(use_true_random=False), st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0])
)
def test_the_truth_lies_inside_whichever_readings_the_errors_fell_on(truth, pool, random, p):
    """Adversary: any assignment of errors with this distribution to these readings."""
    errors = [pool[i % len(pool)] for i in range(len(truth))]
    random.shuffle(errors)
    read = [value + error for value, error in zip(truth, errors, strict=True)]
    rank = nearest_rank(p, len(truth))
    low, high = Bound(over=spread(*errors)).of_rank(ranks(read), rank, len(read))
    real = sorted(truth)[rank - 1]
    assert low - 0.5 <= real <= high, "half a bucket of the histogram"


@given(latencies, lags, lags, st.floats(0.0, 1.0))
def test_a_wider_error_only_widens(values, first, second, p):
    rank, n = nearest_rank(p, len(values)), len(values)
    narrow = Bound(over=spread(*first), under=spread(*second))
    for wide in (
        Bound(over=narrow.over.scaled(1.5), under=narrow.under),
        Bound(over=narrow.over, under=narrow.under.plus(narrow.over)),
    ):
        inner = narrow.of_rank(ranks(values), rank, n)
        outer = wide.of_rank(ranks(values), rank, n)
        assert outer[0] <= inner[0] <= inner[1] <= outer[1]


@given(lags)
def test_shares_are_what_they_say(ms):
    found, readings = spread(*ms), np.array(ms)
    for share, error in zip(SHARES, found.at_most, strict=True):
        assert np.count_nonzero(readings > error + 0.5) <= share * len(ms)
