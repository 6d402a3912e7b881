import base64
import contextlib
import math
import zlib

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given
from hypothesis import strategies as st

from loadlib.histogram import HIGHEST, Histogram, bounds_of, index_of, nearest_rank

VALUE = st.one_of(
    st.integers(0, 5000),
    st.integers(0, HIGHEST),
    st.sampled_from([0, 1, 2047, 2048, 2049, 4095, 4096, HIGHEST - 1, HIGHEST]),
)
VALUES = st.lists(VALUE, max_size=60)
ANY = st.lists(st.one_of(VALUE, st.integers(-10, -1), st.integers(HIGHEST + 1, 2**60)), max_size=40)


@given(ANY, ANY, ANY)
def test_merge_is_associative_and_commutative_and_equals_recording_everything(a, b, c):
    left = Histogram(a).merge(Histogram(b)).merge(Histogram(c))
    right = Histogram(a).merge(Histogram(b).merge(Histogram(c)))
    assert left == right == Histogram(c).merge(Histogram(a)).merge(Histogram(b))
    assert left == Histogram([*a, *b, *c])


@given(ANY)
def test_merging_empties_changes_nothing(values):
    hist = Histogram(values)
    assert Histogram().merge(hist) == hist == hist.copy().merge(Histogram())
    assert hist.copy().merge(Histogram.decode(Histogram().encode())) == hist


def test_an_empty_histogram_knows_nothing():
    empty = Histogram()
    assert (empty.n, empty.min, empty.max, empty.mean) == (0, None, None, None)
    assert empty.quantile(0.5) is None
    assert empty.interval(0.5) is None
    assert empty.at_or_over(0) == 0
    values, counts = empty.counts()
    assert len(values) == len(counts) == 0


@given(VALUES.filter(bool), st.sampled_from([0.0, 0.01, 0.07, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0]))
def test_quantiles_are_nearest_rank_within_a_thousandth(values, p):
    truth = sorted(values)[max(1, math.ceil(round(p * len(values), 9))) - 1]
    found = Histogram(values).quantile(p)
    assert abs(found - truth) <= 0.001 * truth
    assert min(values) <= found <= max(values)


@given(ANY)
def test_what_is_encoded_comes_back(values):
    hist = Histogram(values)
    assert Histogram.decode(hist.encode()) == hist


@given(VALUES)
def test_the_payload_is_the_library_s_own(values):
    theirs = HdrHistogram(1, HIGHEST, 3)
    for value in values:
        assert theirs.record_value(value)
    decoded = HdrHistogram.decode(Histogram(values).payload())
    assert list(decoded.counts) == list(theirs.counts)
    assert Histogram.decode(theirs.encode()).n == len(values)


@given(VALUE)
def test_buckets_are_the_library_s(value):
    theirs = HdrHistogram(1, HIGHEST, 3)
    index = index_of(np.array([value]))
    assert index[0] == theirs.get_counts_array_index(value)
    low, size = bounds_of(index)
    assert low[0] == theirs.get_lowest_equivalent_value(value)
    assert low[0] + size[0] - 1 == theirs.get_highest_equivalent_value(value)


def test_minimum_maximum_and_mean_are_exact():
    hist = Histogram([123_457, 200_001, 3_000_003])
    assert (hist.min, hist.max, hist.mean) == (123_457, 3_000_003, 3_323_461 / 3)


def test_merging_an_empty_one_keeps_the_minimum():
    # the library's own `add` sets it to 0
    assert Histogram([500]).merge(Histogram()).min == 500


@pytest.mark.parametrize(
    ("value", "kept", "overflow", "why"),
    [
        (0, 0, 0, "zero is a value"),
        (HIGHEST, HIGHEST, 0, "the last one that fits"),
        (HIGHEST + 1, HIGHEST, 1, "clipped, and said so: a tail must not lose its end"),
        (2**62, HIGHEST, 1, "however large"),
        (-1, 0, 1, "a clock stepped back"),
    ],
)
def test_the_range(value, kept, overflow, why):
    hist = Histogram([value])
    assert (hist.n, hist.min, hist.max, hist.overflow) == (1, kept, kept, overflow), why
    assert Histogram.decode(hist.encode()).overflow == overflow, why


@pytest.mark.parametrize(
    ("p", "n", "rank", "why"),
    [
        (0.5, 10, 5, "⌈5⌉, the lower middle, never between two"),
        (0.5, 11, 6, "the middle one"),
        (0.99, 100, 99, "1 of 100 lies beyond"),
        (0.99, 101, 100, "⌈99.99⌉"),
        (0.07, 100, 7, "in doubles 0.07 · 100 is 7.000000000000001, whose ceiling is 8"),
        (0.999, 1000, 999, "and 0.999 · 1000 is 999"),
        (0.0, 10, 1, "the minimum"),
        (1.0, 10, 10, "the maximum"),
    ],
)
def test_nearest_rank(p, n, rank, why):
    assert nearest_rank(p, n) == rank, why


@given(VALUES.filter(bool), VALUE)
def test_at_or_over_agrees_with_the_quantile(values, limit):
    # p99 < L exactly when at most ⌊1 %⌋ lie at or over L
    hist = Histogram(values)
    allowed = hist.n - nearest_rank(0.99, hist.n)
    assert (hist.quantile(0.99) < limit) == (hist.at_or_over(limit) <= allowed)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=300))
def test_intervals_enclose_their_quantile(values):
    hist = Histogram(values)
    for p in (0.5, 0.9, 0.99):
        interval = hist.interval(p)
        if interval is not None:
            assert interval[0] <= hist.quantile(p) <= interval[1]


def test_recording_one_by_one_in_arrays_or_from_a_generator_is_the_same():
    one = Histogram()
    for value in range(5000):
        one.record(value)
    many = Histogram()
    many.record_many(np.arange(5000))
    assert one == many == Histogram(range(5000)) == Histogram(v for v in range(5000))


@pytest.mark.parametrize("data", [b"", b"nonsense", b"1,2:HISTFAAA", b"\xff\xfe", b"x,y,z,w:"])
def test_damage_is_a_value_error(data):
    with pytest.raises(ValueError, match="not an"):
        Histogram.decode(data)


@given(st.lists(st.integers(1, HIGHEST), max_size=20), st.data())
def test_damage_inside_the_payload_raises_nothing_else(values, data):
    wire = base64.b64decode(Histogram(values).payload())
    inner = bytearray(zlib.decompress(wire[8:]))
    inner[data.draw(st.integers(0, len(inner) - 1))] = data.draw(st.integers(0, 255))
    packed = zlib.compress(bytes(inner))
    broken = base64.b64encode(wire[:4] + len(packed).to_bytes(4, "big") + packed)
    with contextlib.suppress(ValueError):  # some damage only makes other numbers
        Histogram.decode(broken)
    assert Histogram.decode(Histogram(values).encode()) == Histogram(values)


def test_another_layout_is_refused():
    other = HdrHistogram(1, 1000, 2)
    other.record_value(5)
    with pytest.raises(ValueError, match="layout"):
        Histogram.decode(other.encode())


def test_a_quantile_lies_between_0_and_1():
    with pytest.raises(ValueError, match="between 0 and 1"):
        Histogram([1]).quantile(99)


@given(st.lists(st.integers(0, HIGHEST + 10), max_size=30), st.lists(st.integers(0, HIGHEST)))
def test_merging_what_is_encoded_is_merging(before, values):
    other = Histogram(values)
    found = Histogram(before).merge_encoded(other.encode())
    assert found == Histogram(before).merge(other)


@pytest.mark.parametrize("data", [b"", b"x", b"1,2,3:", b"0,1,2,3:AAAA", b"0,1,5,5:" + b"A" * 40])
def test_what_cannot_be_decoded_leaves_a_histogram_as_it_was(data):
    found = Histogram([5, 7])
    with pytest.raises(ValueError, match=r"not an"):
        found.merge_encoded(data)
    assert found == Histogram([5, 7])


def test_a_maximum_that_is_too_small_for_its_payload_is_refused():
    payload = Histogram([1_000_000]).payload()
    with pytest.raises(ValueError, match="not an HDR"):
        Histogram().merge_encoded(b"0,1,1,1:" + payload)
