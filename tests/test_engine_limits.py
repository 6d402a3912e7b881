"""Rate limits against figures worked out by hand, and against what they promise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadlib.engine import NS_PER_S, Limits, Quota, RateLimiter

MINUTE = 60 * NS_PER_S


def test_no_limits_refuse_nothing_and_say_nothing():
    permit = RateLimiter(Limits()).take(10**9, 0)
    assert (permit.refused_by, permit.retry_after_ns) == (None, 0)
    assert permit.requests is permit.tokens is None


def test_a_minute_is_there_at_once_and_then_one_at_a_time():
    limiter = RateLimiter(Limits(requests_per_minute=60))
    permits = [limiter.take(5, 0) for _ in range(61)]
    assert [p.refused_by for p in permits] == [None] * 60 + ["requests"]
    assert permits[0].requests == Quota(60, 59, NS_PER_S)
    assert permits[-1].requests == Quota(60, 0, MINUTE)
    assert permits[-1].retry_after_ns == NS_PER_S
    # A quarter of a second before that it is still not there, and says what is left to wait.
    assert limiter.take(5, 3 * NS_PER_S // 4).retry_after_ns == NS_PER_S // 4
    assert limiter.take(5, NS_PER_S).refused_by is None


def test_tokens_are_counted_too_and_a_refusal_takes_nothing():
    limiter = RateLimiter(Limits(requests_per_minute=10, tokens_per_minute=6000))
    assert limiter.take(5000, 0).tokens == Quota(6000, 1000, 50 * NS_PER_S)
    refused = limiter.take(1500, 0)
    # 500 are missing at 100 a second; the request that was refused is not counted.
    assert (refused.refused_by, refused.retry_after_ns) == ("tokens", 5 * NS_PER_S)
    assert (refused.requests.remaining, refused.tokens.remaining) == (9, 1000)


def test_what_is_larger_than_the_bucket_never_passes():
    permit = RateLimiter(Limits(tokens_per_minute=100)).take(101, 0)
    assert (permit.refused_by, permit.retry_after_ns) == ("tokens", None)


@pytest.mark.parametrize("wrong", [{"requests_per_minute": 0}, {"tokens_per_minute": -1}], ids=str)
def test_limits_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Limits(**wrong)


@given(
    limit=st.integers(1, 10_000),
    requests=st.lists(
        st.tuples(st.integers(0, 5 * NS_PER_S), st.integers(1, 3000)), min_size=1, max_size=80
    ),
)
def test_no_window_passes_more_than_a_bucket_and_its_refill(limit, requests):
    limiter = RateLimiter(Limits(tokens_per_minute=limit))
    passed, now = [], 0
    for gap, tokens in requests:
        now += gap
        if limiter.take(tokens, now).refused_by is None:
            passed.append((now, tokens))
    for i, (start, _) in enumerate(passed):
        for j in range(i, len(passed)):
            window = passed[j][0] - start
            total = sum(tokens for _, tokens in passed[i : j + 1])
            assert total * MINUTE <= limit * (MINUTE + window)


@given(limit=st.integers(1, 1000), tokens=st.integers(1, 1000), late=st.integers(0, MINUTE))
def test_a_refused_request_passes_when_it_was_told_to_and_not_before(limit, tokens, late):
    limiter = RateLimiter(Limits(tokens_per_minute=limit))
    limiter.take(limit, 0)
    permit = limiter.take(tokens, late)
    if permit.retry_after_ns:
        at = late + permit.retry_after_ns
        assert limiter.take(tokens, at - 1).refused_by == "tokens"
        assert limiter.take(tokens, at).refused_by is None
