"""Requests and tokens per minute against limits: known answers, and a slow way to the same sums."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_samples import events, sample

from loadlib import limits_planned
from loadlib.ratelimits import Watch, most_in_a_minute, notices
from loadlib.recorder import Recorder, Totals
from loadlib.sample import Outcome, Sample
from loadlib.scenario import parse
from loadlib.scenario_spec import ModelLimits
from loadlib.session import Choice, open_session
from loadlib.summary import Pace, RateLimits, SeenLimit


def judged(*rows: Sample, **allowed: ModelLimits) -> dict[str, RateLimits]:
    recorder, totals, watch = Recorder(0), Totals(), Watch()
    for one in watch.passing(rows):
        recorder.add(one, events(one) if one.first_token_ns is not None else ())
    totals.merge(recorder.drain(10**12))
    return watch.conclude(totals, allowed)


@pytest.mark.parametrize(
    ("seconds", "most", "reason"),
    [
        ({}, 0, "nothing"),
        ({5: 3}, 3, "one second"),
        ({0: 1, 59: 1}, 2, "59 seconds later is the same minute"),
        ({0: 1, 60: 1}, 1, "60 seconds later is the next"),
        ({0: 5, 30: 1, 61: 5, 89: 1, 90: 1}, 7, "30 … 89, or 31 … 90: never both ends"),
        ({-3: 2, 56: 2, 57: 1}, 4, "any instants"),
    ],
)
def test_the_busiest_minute(seconds: dict[int, int], most: int, reason: str) -> None:
    assert most_in_a_minute(seconds) == most, reason


@given(st.dictionaries(st.integers(0, 300), st.integers(0, 9)))
def test_any_sixty_seconds(seconds: dict[int, int]) -> None:
    slow = max(
        (sum(n for second, n in seconds.items() if start <= second < start + 60)
         for start in seconds), default=0,
    )  # fmt: skip
    assert most_in_a_minute(seconds) == slow


def test_workloads_and_phases_of_a_model_count_together_and_others_do_not() -> None:
    other = ("m", "long", "warmup")
    rows = [
        sample(at=0, reserved_tokens=50),
        sample(at=100, key=other, reserved_tokens=50),
        sample(Outcome.THROTTLED, at=200, reserved_tokens=50, status=429),
        sample(Outcome.DROPPED, at=300, reserved_tokens=50),
        sample(at=61_000, reserved_tokens=50),
        sample(at=0, key=("n", "chat", "measure")),
    ]
    found = judged(*rows)
    assert list(found) == ["m", "n"]
    assert found["m"].requests == Pace(most=3), "what was refused was asked for, a drop was not"
    assert found["m"].tokens == Pace(most=2 * 17, reserved=150), "refused: reserved, not used"
    assert found["m"].throttled == 1
    assert found["n"].tokens == Pace(most=17, reserved=None), "unknown is not 0"


def told(at_s: int, wait_ms: int | None = None, **limits: int) -> Sample:
    return sample(at=at_s * 1000, rate_limit=limits or None, retry_after_ms=wait_ms)


def test_the_last_words_of_headers_and_the_least_that_was_left() -> None:
    rows = [
        told(2, requests_limit=500, requests_remaining=7, requests_reset_ms=900),
        told(9, 2000, requests_limit=600, requests_remaining=400, input_tokens_remaining=5),
        told(4, 8000, requests_limit=500, requests_remaining=3, requests_reset_ms=1200),
        told(5, tokens_reset_ms=5),
        told(10),
    ]
    found = judged(*rows)["m"]
    assert found.headers == {
        "requests": SeenLimit(limit=600, remaining=400, remaining_min=3, reset_ms_max=1200),
        "input_tokens": SeenLimit(remaining=5, remaining_min=5),
    }
    assert found.retry_after_ms == 8000
    assert found.requests == Pace(most=5, limit=600, source="headers")
    assert found.tokens.limit is None


def test_a_limit_of_the_scenario_goes_first_and_one_per_day_is_none() -> None:
    day = told(0, requests_limit=14_400, requests_remaining=9, requests_reset_ms=86_400_000)
    assert judged(day)["m"].requests == Pace(most=1)
    assert judged(day)["m"].headers["requests"].limit == 14_400, "but it is shown"
    own = judged(told(0, requests_limit=500), m=ModelLimits(rpm=60))["m"]
    assert own.requests == Pace(most=1, limit=60, source="scenario")
    assert own.tokens.limit is None


def test_who_asked_for_more_than_they_may_is_named() -> None:
    rows = {
        "fine": RateLimits(requests=Pace(most=60, limit=60), tokens=Pace(most=9)),
        "a": RateLimits(requests=Pace(most=61, limit=60, source="scenario"), tokens=Pace()),
        "b": RateLimits(requests=Pace(), tokens=Pace(most=5, reserved=1200, limit=1000,
                                                     source="headers")),
    }  # fmt: skip
    assert list(notices(rows)) == [
        "a: up to 61 requests within a minute, its limit is 60 (the scenario)",
        "b: up to 1,200 tokens within a minute, its limit is 1,000 (its headers)",
    ]


def test_memory_does_not_grow_with_the_samples() -> None:
    watch = Watch()
    for n in range(5000):
        watch.add(told(n % 7, requests_limit=n + 1, requests_remaining=n))
    assert len(watch._told) == 1
    assert len(watch._told["m"].seen) == 1


PLAN = """
version: 1
models: [{{name: m, base_url: "http://127.0.0.1:1/v1", limits: {limits}}}]
workloads: {{chat: {{kind: chat, prompt_tokens: 100, output_tokens: 20}}}}
load: [{{{phase}}}]
"""


@pytest.mark.parametrize(
    ("limits", "phase", "said", "reason"),
    [
        ("{rpm: 120}", "phase: measure, duration: 2m, arrival: poisson, rate: 2/s", [], "as much"),
        ("{rpm: 119}", "phase: measure, duration: 2m, arrival: poisson, rate: 2/s",
         ["asks m for 120 requests within a minute, its limit is 119"], "one more"),
        ("{rpm: 119}", "phase: measure, duration: 30s, arrival: poisson, rate: 2/s", [],
         "half a minute"),
        ("{rpm: 19}", "phase: measure, requests: 20, arrival: constant, rate: 2/s",
         ["asks m for 20 requests within a minute, its limit is 19"], "ten seconds of them"),
        ("{tpm: 14k}", "phase: measure, duration: 2m, arrival: poisson, rate: 2/s",
         ["asks m for 14,400 tokens within a minute, its limit is 14,000"], "120 · 120 tokens"),
        ("{rpm: 1}", "phase: measure, duration: 2m, arrival: closed, users: 9", [],
         "the server decides"),
    ],
)  # fmt: skip
def test_a_plan_beyond_the_limits_is_said_before_it_starts(
    tmp_path, limits: str, phase: str, said: list[str], reason: str
) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(PLAN.format(limits=limits, phase=phase), "utf-8")
    session = open_session(Choice(file=str(file)))
    found = [line for line in session.notices if "within a minute" in line]
    assert found == [f"phase measure: {line}" for line in said], reason
    assert parse(file.read_text("utf-8")).models[0].limits is not None
    assert list(limits_planned.notices(session.scenario, {}, {}, lambda _phase: {})) == []
