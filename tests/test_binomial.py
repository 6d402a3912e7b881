import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadlib import binomial


def exact_cdf(k: int, n: int, p: Fraction) -> Fraction:
    return sum(
        (math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(min(k, n) + 1)), Fraction(0)
    )


@given(n=st.integers(0, 80), k=st.integers(-2, 82), percent=st.integers(0, 1000))
def test_cdf_equals_the_sum_of_exact_fractions(n, k, percent):
    p = Fraction(percent, 1000)
    assert binomial.cdf(k, n, float(p)) == pytest.approx(float(exact_cdf(k, n, p)), abs=1e-12)


@pytest.mark.parametrize("m", [50, 50_000, 5_000_000])
def test_cdf_at_the_middle_of_a_fair_coin_up_to_ten_million(m):
    # P(X = m) of 2m tosses is C(2m, m) / 4^m = (1 − 1/8m + 1/128m² + 5/1024m³ …) / √(πm)
    tie = (1 - 1 / (8 * m) + 1 / (128 * m**2) + 5 / (1024 * m**3)) / math.sqrt(math.pi * m)
    assert binomial.cdf(m - 1, 2 * m, 0.5) == pytest.approx((1 - tie) / 2, rel=1e-9)


@pytest.mark.parametrize(("n", "p"), [(10**4, 0.001), (10**6, 0.99), (10**7, 0.999), (10**7, 0.01)])
def test_counting_hits_or_misses_is_the_same(n, p):
    for offset in (-3, 0, 2):
        k = round(n * p + offset * math.sqrt(n * p * (1 - p)))
        misses = binomial.cdf(n - k - 1, n, 1 - p)
        assert binomial.cdf(k, n, p) == pytest.approx(1 - misses, abs=1e-9)


@pytest.mark.parametrize(
    ("n", "p", "ranks", "why"),
    [
        (100, 0.5, (40, 61), "the textbook interval of a median of 100"),
        (6, 0.5, (1, 6), "2 · 0.5⁶ = 3.1 % is left outside: the smallest n for a median"),
        (5, 0.5, None, "2 · 0.5⁵ = 6.3 % is too much"),
        (367, 0.99, None, "0.99³⁶⁷ = 2.501 % may lie above the largest"),
        (368, 0.99, (360, 368), "0.99³⁶⁸ = 2.476 %: the smallest n for a p99"),
        (0, 0.5, None, "nothing is known of nothing"),
        (10, 1.0, None, "the end of a distribution has no order-statistic interval"),
    ],
)
def test_order_ranks(n, p, ranks, why):
    assert binomial.order_ranks(n, p) == ranks, why


@given(n=st.integers(1, 300), percent=st.integers(1, 99))
def test_order_ranks_cover_and_are_as_tight_as_the_tails_allow(n, percent):
    p = Fraction(percent, 100)
    ranks = binomial.order_ranks(n, float(p))
    if ranks is None:
        assert p**n > Fraction(25, 1000) or (1 - p) ** n > Fraction(25, 1000)
        return
    low, high = ranks
    assert exact_cdf(low - 1, n, p) <= Fraction(25, 1000) < exact_cdf(low, n, p)
    assert exact_cdf(high - 2, n, p) < Fraction(975, 1000) <= exact_cdf(high - 1, n, p)


def test_order_ranks_of_ten_million_straddle_the_rank():
    low, high = binomial.order_ranks(10**7, 0.99)
    half = 1.959964 * math.sqrt(10**7 * 0.99 * 0.01)
    assert low == pytest.approx(9_900_000 - half, abs=2)
    assert high == pytest.approx(9_900_000 + half, abs=3)


@pytest.mark.parametrize(
    ("hits", "n", "interval", "why"),
    [
        (0, 10, (0.0, 0.27753), "no hit is not impossible"),
        (10, 10, (0.72247, 1.0), "and no miss not certain"),
        (81, 263, (0.25529, 0.36621), "Newcombe 1998, table I, method 3"),
        (15, 148, (0.06239, 0.16050), "the same table's second example: 0.0624 to 0.1605"),
    ],
)
def test_wilson(hits, n, interval, why):
    assert binomial.wilson(hits, n) == pytest.approx(interval, abs=1e-4), why


def test_wilson_of_nothing_is_unknown():
    assert binomial.wilson(0, 0) is None


def test_what_is_no_distribution_is_refused():
    with pytest.raises(ValueError, match="no binomial"):
        binomial.cdf(1, 10, 1.5)
    with pytest.raises(ValueError, match="no binomial"):
        binomial.cdf(1, -1, 0.5)
