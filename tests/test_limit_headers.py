"""Rate-limit headers as providers write them, and as nobody should."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadlib.limit_headers import LONGEST_MS, MOST, read, retry_after_ms

DATE = "Sat, 28 Nov 2026 03:00:00 GMT"

OPENAI = {
    "x-ratelimit-limit-requests": "60",
    "x-ratelimit-limit-tokens": "150000",
    "x-ratelimit-remaining-requests": "59",
    "x-ratelimit-remaining-tokens": "149984",
    "x-ratelimit-reset-requests": "1s",
    "x-ratelimit-reset-tokens": "6m0s",
}
CLAUDE = {
    "date": DATE,
    "anthropic-ratelimit-requests-limit": "50",
    "anthropic-ratelimit-requests-remaining": "49",
    "anthropic-ratelimit-requests-reset": "2026-11-28T03:00:01Z",
    "anthropic-ratelimit-input-tokens-limit": "40000",
    "anthropic-ratelimit-input-tokens-remaining": "39000",
    "anthropic-ratelimit-input-tokens-reset": "2026-11-28T03:00:01.5+00:00",
    "anthropic-ratelimit-output-tokens-remaining": "8000",
    "anthropic-ratelimit-tokens-limit": "48000",
    "anthropic-priority-input-tokens-limit": "1",
}


@pytest.mark.parametrize(
    ("headers", "found", "reason"),
    [
        (OPENAI, {"requests_limit": 60, "tokens_limit": 150_000, "requests_remaining": 59,
                  "tokens_remaining": 149_984, "requests_reset_ms": 1000,
                  "tokens_reset_ms": 360_000}, "OpenAI's guide on rate limits"),
        (CLAUDE, {"requests_limit": 50, "requests_remaining": 49, "requests_reset_ms": 1000,
                  "input_tokens_limit": 40_000, "input_tokens_remaining": 39_000,
                  "input_tokens_reset_ms": 1500, "output_tokens_remaining": 8000,
                  "tokens_limit": 48_000}, "Claude's rate limits: instants, not durations"),
        ({"x-ratelimit-limit-req-minute": "60", "x-ratelimit-remaining-tokens-minute": "7"},
         {"requests_limit": 60, "tokens_remaining": 7}, "Mistral, Cerebras"),
        ({"x-ratelimit-reset-tokens": "7.66s"}, {"tokens_reset_ms": 7660}, "Groq"),
        ({"x-ratelimit-reset-requests": "17ms"}, {"requests_reset_ms": 17}, "milliseconds"),
        ({"x-ratelimit-reset-requests": "1h2m3.5s"}, {"requests_reset_ms": 3_723_500}, "hours"),
        ({"x-ratelimit-reset-requests": "1d"}, {"requests_reset_ms": 86_400_000}, "a day"),
        ({"x-ratelimit-reset-requests": "59.7"}, {"requests_reset_ms": 59_700}, "plain seconds"),
        ({"x-ratelimit-limit-requests": " 5 "}, {"requests_limit": 5}, "blanks around it"),
        ({"x-ratelimit-remaining-requests": "0"}, {"requests_remaining": 0}, "0 is a number"),
        ({}, None, "nothing said"),
        ({"content-type": "x", "x-ratelimit-limit": "5"}, None, "of what, it does not say"),
        ({"x-ratelimit-limit-requests-day": "5"}, None, "per day is not per minute"),
        ({"x-ratelimit-limit-requests": "5, 10;w=60"}, None, "a list"),
        ({"x-ratelimit-limit-requests": "-1"}, None, "negative"),
        ({"x-ratelimit-limit-requests": "1.5"}, None, "no whole number"),
        ({"x-ratelimit-limit-requests": str(MOST + 1)}, None, "beyond belief"),
        ({"x-ratelimit-limit-requests": "9" * 5000}, None, "far beyond"),
        ({"x-ratelimit-limit-requests": "\u0661"}, None, "a digit of another script"),
        ({"x-ratelimit-reset-requests": "9" * 30 + "s"}, None, "longer than time"),
        ({"x-ratelimit-reset-requests": "99999999d"}, None, "longer than a month"),
        ({"x-ratelimit-reset-requests": "soon"}, None, "a word"),
        ({"anthropic-ratelimit-requests-reset": "2026-11-28T03:00:01Z"}, None, "since when?"),
        ({"date": DATE, "anthropic-ratelimit-requests-reset": "2026-11-28T02:00:00Z"},
         {"requests_reset_ms": 0}, "past already"),
        ({"date": DATE, "anthropic-ratelimit-requests-reset": "9999-01-01T00:00:00Z"}, None, ""),
    ],
)  # fmt: skip
def test_what_headers_say(headers: dict[str, str], found: dict[str, int], reason: str) -> None:
    assert read(headers) == found, reason


def google(delay: object) -> dict:
    return {"code": 429, "details": [{"@type": "x.QuotaFailure"}, {"retryDelay": delay}]}


@pytest.mark.parametrize(
    ("headers", "said", "ms", "reason"),
    [
        ({"retry-after": "8"}, None, 8000, "seconds"),
        ({"retry-after": "0.5"}, None, 500, "and parts of them"),
        ({"retry-after": "8", "retry-after-ms": "7250"}, None, 7250, "the finer one"),
        ({"retry-after-ms": "12.7"}, None, 13, "rounded"),
        ({"date": DATE, "retry-after": "Sat, 28 Nov 2026 03:01:30 GMT"}, None, 90_000, "a date"),
        ({"date": DATE, "retry-after": "Sat, 28 Nov 2026 02:00:00 GMT"}, None, 0, "a date past"),
        ({"retry-after": "Sat, 28 Nov 2026 03:01:30 GMT"}, None, None, "whose clock?"),
        ({}, google("53s"), 53_000, "Google says it in the body"),
        ({}, google("45.837906927s"), 45_838, "to the nanosecond"),
        ({"retry-after": "2"}, google("53s"), 2000, "the header goes first"),
        ({}, google(53), None, "no text"),
        ({}, {"details": {}}, None, "no list"),
        ({}, {"details": [None, 1, "x"]}, None, "of nothing"),
        ({}, None, None, "nothing said"),
        ({"retry-after": "-3"}, None, None, "negative"),
        ({"retry-after": "nan"}, None, None, "not a number"),
        ({"retry-after": "1e9"}, None, None, "written as nobody does"),
        ({"retry-after": "99999999999"}, None, None, "for longer than a month"),
        ({"retry-after-ms": "x", "retry-after": "1"}, None, 1000, "the next best"),
    ],
)
def test_how_long_to_wait(headers: dict, said: dict | None, ms: int | None, reason: str) -> None:
    assert retry_after_ms(headers, said) == ms, reason


NAMES = [*OPENAI, *CLAUDE, "retry-after", "retry-after-ms"]


@given(
    st.dictionaries(
        st.sampled_from([*OPENAI, *CLAUDE, "retry-after", "retry-after-ms"]), st.text()
    ),
    st.recursive(st.none() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)),
)
def test_nothing_a_server_writes_raises_or_grows(headers: dict[str, str], details: object) -> None:
    found = read(headers) or {}
    assert all(0 <= value <= MOST for value in found.values())
    assert len(found) <= 12
    wait = retry_after_ms(headers, {"details": details})
    assert wait is None or 0 <= wait <= LONGEST_MS
