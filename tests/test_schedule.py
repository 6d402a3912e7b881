"""Arrival schedules: what they promise is arithmetic, so it is tested without a clock."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadlib.schedule import (
    ARRIVALS,
    S,
    Shard,
    constant,
    expected_requests,
    mix,
    poisson,
    seed_for,
    share,
)

RATES = st.floats(0.05, 500, allow_nan=False)
SHARDS = st.integers(1, 12)
SEEDS = st.integers(0, 2**63 - 1)


def shards(count):
    return [Shard(index, count) for index in range(count)]


@pytest.mark.parametrize(
    ("rate", "ends", "offsets_ms", "why"),
    [
        (2, {"duration_ns": 2 * S}, [0, 500, 1000, 1500], "the first at 0, none at the end"),
        (2, {"requests": 3}, [0, 500, 1000], "a number of requests is exact"),
        (3, {"duration_ns": S}, [0, 333.333333, 666.666667], "rounded each, never summed up"),
        (0.5, {"duration_ns": S}, [0], "slower than the phase: still the first one"),
    ],
)
def test_constant_schedules_by_hand(rate, ends, offsets_ms, why):
    got = list(constant(rate, **ends))
    assert got == [(i, round(ms * 1e6)) for i, ms in enumerate(offsets_ms)], why


@given(rate=RATES, requests=st.integers(0, 300), count=SHARDS)
def test_shards_of_a_constant_schedule_partition_it(rate, requests, count):
    whole = list(constant(rate, requests=requests))
    parts = [list(constant(rate, requests=requests, shard=shard)) for shard in shards(count)]
    assert sorted(chain.from_iterable(parts)) == whole
    assert [len(part) for part in parts] == [share(requests, shard) for shard in shards(count)]


@given(rate=RATES, index=st.integers(0, 10**7))
def test_a_constant_schedule_does_not_drift(rate, index):
    """Any arrival, however late, stands within a nanosecond of index / rate."""
    _, offset = next(constant(rate, requests=index + 1, shard=Shard(index, index + 1)))
    assert abs(offset - index * S / rate) <= 1


@given(total=st.integers(0, 10**6), count=SHARDS)
def test_requests_are_split_exactly_and_evenly(total, count):
    parts = [share(total, shard) for shard in shards(count)]
    assert sum(parts) == total
    assert max(parts) - min(parts) <= 1


@given(rate=RATES, requests=st.integers(0, 600), count=SHARDS, seed=SEEDS)
def test_poisson_shards_hold_every_index_once(rate, requests, count, seed):
    parts = [
        list(poisson(rate, requests=requests, seed=seed, shard=shard)) for shard in shards(count)
    ]
    assert sorted(index for part in parts for index, _ in part) == list(range(requests))
    for part in parts:
        offsets = [offset for _, offset in part]
        assert offsets == sorted(offsets)
        assert all(offset >= 0 for offset in offsets)


@given(seed=SEEDS, count=SHARDS)
def test_poisson_is_decided_by_seed_and_shard(seed, count):
    def first(seed, index):
        return list(poisson(10, requests=20 * count, seed=seed, shard=Shard(index, count)))

    assert first(seed, 0) == first(seed, 0)
    assert first(seed, 0) != first(seed + 1, 0)
    if count > 1:
        gaps = [np.diff([offset for _, offset in first(seed, index)]).tolist() for index in (0, 1)]
        assert gaps[0] != gaps[1], "shards that share a stream fire in volleys"


@pytest.mark.parametrize("count", [1, 10])
@pytest.mark.parametrize("seed", [1, 42, 2026])
def test_poisson_has_the_dispersion_of_poisson(count, seed):
    """Variance ÷ mean of arrivals per second is 1 however many workers draw them.

    With one seed for all, ten shards give about 9. Over 2,000 s the index has a standard error of
    √(2/2000) = 0.032: 0.13 is four of them.
    """
    seconds = 2000
    per_second = Counter(
        offset // S
        for shard in shards(count)
        for _, offset in poisson(20, duration_ns=seconds * S, seed=seed, shard=shard)
    )
    counts = np.array([per_second[second] for second in range(seconds)])
    assert abs(counts.var() / counts.mean() - 1) < 0.13
    assert abs(counts.mean() - 20) < 4 * (20 / seconds) ** 0.5


def test_poisson_by_duration_ends_before_it():
    offsets = [offset for _, offset in poisson(50, duration_ns=10 * S, seed=3)]
    assert 400 < len(offsets) < 600
    assert max(offsets) < 10 * S


def test_poisson_gaps_are_exponential():
    offsets = [offset for _, offset in poisson(100, requests=20_000, seed=7)]
    gaps = np.diff(offsets) / 1e9 * 100  # mean 1
    # the share of gaps beyond x is e^-x; the standard error is at most 0.0035
    for x in (0.25, 1, 2, 3):
        assert abs((gaps > x).mean() - np.exp(-x)) < 0.015


@pytest.mark.parametrize("kind", sorted(ARRIVALS))
@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"rate": 0, "requests": 1}, "no rate, no schedule"),
        ({"rate": -1, "requests": 1}, "negative"),
        ({"rate": 1}, "endless"),
        ({"rate": 1, "requests": 1, "duration_ns": S}, "two ends"),
    ],
)
def test_nonsense_is_refused(kind, arguments, why):
    arrivals = ARRIVALS[kind](**arguments)
    with pytest.raises(ValueError):
        next(arrivals)
    assert why


@pytest.mark.parametrize(("index", "count"), [(1, 1), (-1, 2), (0, 0)])
def test_a_shard_is_one_of_its_count(index, count):
    with pytest.raises(ValueError):
        Shard(index, count)


def test_seeds_are_stable_and_told_apart():
    assert seed_for(42, "measure", "gpt-4") == seed_for(42, "measure", "gpt-4")
    uses = [("a", "b"), ("ab",), ("a", "b", ""), ("b", "a"), ("a", 1), ("a", "1"), ()]
    seeds = {seed_for(seed, *use) for use in uses for seed in (1, 2)}
    assert len(seeds) == 2 * len(uses)
    # written down: a new version must not silently change every schedule
    assert seed_for(42, "measure", "gpt-4") == 296386132340345969


@dataclass
class Plan:
    rate: float | None = None
    duration_ns: int | None = None
    requests: int | None = None


@pytest.mark.parametrize(
    ("phase", "expected", "why"),
    [
        (Plan(rate=5, duration_ns=150 * S), 750, "rate × time"),
        (Plan(rate=5, requests=30), 30, "a number is a number"),
        (Plan(requests=30), 30, "in a closed loop too"),
        (Plan(duration_ns=S), None, "closed, by time: the server's speed decides"),
    ],
)
def test_expected_requests(phase, expected, why):
    assert expected_requests(phase) == expected, why


WEIGHTS = st.dictionaries(st.text(max_size=3), st.integers(0, 40), min_size=1, max_size=6).filter(
    lambda weights: any(weights.values())
)


@given(weights=WEIGHTS, seed=SEEDS)
def test_a_mix_is_exact_over_its_period(weights, seed):
    common = int(np.gcd.reduce(list(weights.values())))
    period = sum(weights.values()) // common
    drawn = Counter(islice(mix(weights, seed), 2 * period))
    expected = {key: 2 * weight // common for key, weight in weights.items() if weight}
    assert drawn == Counter(expected)


@given(weights=WEIGHTS, seed=SEEDS, n=st.integers(1, 200))
def test_a_mix_is_near_its_proportions_at_any_time(weights, seed, n):
    total = sum(weights.values())
    drawn = Counter(islice(mix(weights, seed), n))
    assert all(abs(drawn[key] - n * w / total) < len(weights) for key, w in weights.items())


def test_a_mix_spreads_the_rare_key():
    drawn = list(islice(mix({"chat": 90, "long": 10}, 42), 100))
    places = [i for i, key in enumerate(drawn) if key == "long"]
    assert set(np.diff(places).tolist()) == {10}


def test_a_mix_takes_any_positive_weights_and_a_seed():
    drawn = Counter(islice(mix({"a": 0.1, "b": 0.2, "c": 0}, 1), 300))
    assert drawn == {"a": 100, "b": 200}
    weights = dict.fromkeys("abcdef", 1)
    assert [next(mix(weights, seed)) for seed in range(9)] != [next(mix(weights, 0))] * 9
    with pytest.raises(ValueError, match="no weight"):
        next(mix({"a": 0}, 1))
