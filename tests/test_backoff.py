"""When a throttled request is tried again: known answers, and how the waits spread."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_samples import sample

from loadlib.backoff import FIRST_NS, Backoff
from loadlib.sample import Outcome

S = 10**9
RULE = Backoff(attempts=5, max_wait_ns=60 * S)


@pytest.mark.parametrize(
    ("fields", "wait_ns", "reason"),
    [
        ({"status": 429, "retry_after_ms": 8000}, 8 * S, "as long as the server asks"),
        ({"status": 529, "cause": "529", "retry_after_ms": 0}, 0, "at once, if it says so"),
        ({"status": 429, "retry_after_ms": 60_000}, 60 * S, "as long as the scenario allows"),
        ({"status": 429, "retry_after_ms": 60_001}, None, "earlier would fail, later may not be"),
        ({"status": 429, "retry_after_ms": 5, "attempt": 4}, 5_000_000, "the fifth attempt"),
        ({"status": 429, "retry_after_ms": 5, "attempt": 5}, None, "not the sixth"),
        ({"status": 429, "cause": "quota"}, None, "an exhausted quota stops the run"),
        ({"outcome": Outcome.SERVER_ERROR, "status": 503, "retry_after_ms": 20}, 20_000_000, "503"),
        ({"outcome": Outcome.SERVER_ERROR, "status": 503}, None, "which does not say when"),
        ({"outcome": Outcome.SERVER_ERROR, "status": 500, "retry_after_ms": 9}, None, "a failure"),
        ({"outcome": Outcome.REJECTED, "status": 401, "retry_after_ms": 9}, None, "a refused key"),
        ({"outcome": Outcome.REJECTED, "status": 403}, None, "and another"),
        ({"outcome": Outcome.TIMEOUT}, None, "no rate limit"),
        ({"outcome": Outcome.OK, "status": 200}, None, "nothing to repeat"),
    ],
)
def test_what_is_tried_again(fields, wait_ns, reason):
    assert RULE.wait_ns(sample(**{"outcome": Outcome.THROTTLED, **fields})) == wait_ns, reason


def throttled(index=0, attempt=1, **fields):
    return sample(Outcome.THROTTLED, index=index, attempt=attempt, status=429, **fields)


@pytest.mark.parametrize("attempt", [1, 2, 3, 4])
def test_without_a_word_waits_double_and_are_spread_evenly(attempt):
    waits = [RULE.wait_ns(throttled(index, attempt)) for index in range(4000)]
    most = FIRST_NS * 2 ** (attempt - 1)
    assert min(waits) >= 0
    assert max(waits) < most
    assert statistics.mean(waits) / most == pytest.approx(0.5, abs=0.02)
    assert statistics.stdev(waits) / most == pytest.approx(12**-0.5, abs=0.01)


@given(st.integers(1, 19), st.integers(1, 10**12), st.integers(0, 2**63 - 1))
def test_no_wait_is_longer_than_allowed(attempt, most, seed):
    wait = Backoff(20, most, seed).wait_ns(throttled(7, attempt))
    assert 0 <= wait <= most


def test_equal_seeds_wait_equally_and_others_do_not():
    def waits(seed):
        rule = Backoff(5, 60 * S, seed)
        return [rule.wait_ns(throttled(index, attempt)) for index in range(9) for attempt in (1, 2)]

    assert waits(1) == waits(1)
    assert not set(waits(1)) & set(waits(2))
    turns = {RULE.wait_ns(throttled(turn=turn)) for turn in range(20)}
    assert len(turns) == 20, "turns of a conversation share their index"
