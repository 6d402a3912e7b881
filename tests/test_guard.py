"""The budget is never overshot, and the breakers open when they must and only then."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle as HypothesisBundle
from hypothesis.stateful import RuleBasedStateMachine, consumes, invariant, rule

from loadlib.catalog import resolve
from loadlib.guard import GONE_AFTER, Breakers, Spending, answers, output_cap
from loadlib.prompt import Prompt
from loadlib.reserve import most_output, most_usd
from loadlib.sample import Outcome, Sample
from loadlib.scenario_spec import ModelSpec, Price

S = 10**9


def sample(outcome: Outcome = Outcome.OK, *, at_s: float = 0, **fields: Any) -> Sample:
    end_ns = int(at_s * S)
    fields.setdefault("sent_ns", end_ns)
    return Sample(
        index=0, phase="p", model="m", workload="w", outcome=outcome, intended_ns=end_ns,
        end_ns=end_ns, **fields,
    )  # fmt: skip


# -- spending -----------------------------------------------------------------------------------


def test_each_limit_by_itself_and_what_it_says() -> None:
    assert "max_usd 1" in str(Spending(max_usd=1).reserve(1.01, 5))
    assert "max_output_tokens 2,000" in str(Spending(max_output_tokens=2000).reserve(None, 2001))
    assert "max_requests 0" in str(Spending(max_requests=0).reserve(None, 0))
    assert Spending().reserve(10**6, 10**9) == 1
    assert Spending(max_usd=1, max_output_tokens=5, max_requests=1).reserve(1, 5) == 1


def test_in_flight_requests_count_with_the_most_they_can_cost() -> None:
    spending = Spending(max_usd=1.0)
    first = spending.reserve(0.75, 100)
    assert isinstance(spending.reserve(0.5, 100), str)
    assert isinstance(first, int)
    spending.settle(first, sample(cost_usd=0.25, output_tokens=10, first_token_ns=0))
    assert isinstance(spending.reserve(0.5, 100), int)


@pytest.mark.parametrize(
    ("ended", "usd", "tokens", "reason"),
    [
        (sample(cost_usd=0.1, output_tokens=7), 0.1, 7, "what it cost"),
        (sample(cost_usd=0.0, output_tokens=0), 0.0, 0, "nothing is a price"),
        (sample(), 0.5, 100, "nobody knows: all of it"),
        (sample(Outcome.CANCELLED), 0.5, 100, "cancelled, but sent"),
        (sample(Outcome.CANCELLED, sent_ns=None), 0, 0, "cancelled before it was sent"),
        (sample(Outcome.THROTTLED, status=429), 0, 0, "refused"),
        (sample(Outcome.REJECTED, status=400), 0, 0, "refused"),
        (sample(Outcome.SERVER_ERROR, status=500), 0, 0, "refused"),
        (sample(Outcome.SERVER_ERROR, first_token_ns=1), 0.5, 100, "an error in the stream"),
        (sample(Outcome.TIMEOUT, cause="first_token"), 0.5, 100, "it may be generating still"),
        (sample(Outcome.TIMEOUT, cause="connect", sent_ns=None), 0, 0, "never sent"),
        (sample(Outcome.DISCONNECTED, first_token_ns=1), 0.5, 100, "cut off"),
        (sample(Outcome.TRUNCATED), 0.5, 100, "cut short"),
    ],
)
def test_what_a_finished_request_counts_as(
    ended: Sample, usd: float, tokens: int, reason: str
) -> None:
    spending = Spending()
    ticket = spending.reserve(0.5, 100)
    assert isinstance(ticket, int)
    spending.settle(ticket, ended)
    assert (spending.usd, spending.output_tokens, spending.requests) == (usd, tokens, 1), reason


class Budget(RuleBasedStateMachine):
    """Requests begin and end in any order; none costs more than was reserved for it."""

    tickets = HypothesisBundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.spending = Spending(max_usd=10, max_output_tokens=1000, max_requests=30)
        self.usd, self.tokens, self.sent = 0.0, 0, 0

    @rule(target=tickets, usd=st.integers(0, 5), tokens=st.integers(0, 400))
    def begin(self, usd: int, tokens: int) -> tuple[int, int, int] | None:
        ticket = self.spending.reserve(float(usd), tokens)
        if isinstance(ticket, str):
            return None
        self.sent += 1
        return ticket, usd, tokens

    @rule(open_one=consumes(tickets), share=st.sampled_from([0, 0.5, 1]), known=st.booleans())
    def end(self, open_one: tuple[int, int, int] | None, share: float, known: bool) -> None:
        if open_one is None:
            return
        ticket, usd, tokens = open_one
        cost, got = (usd * share, int(tokens * share)) if known else (float(usd), tokens)
        self.usd, self.tokens = self.usd + cost, self.tokens + got
        fields = {"cost_usd": cost, "output_tokens": got} if known else {}
        self.spending.settle(ticket, sample(**fields))

    @invariant()
    def within(self) -> None:
        assert self.usd <= 10
        assert self.tokens <= 1000
        assert self.sent <= 30
        assert (self.spending.usd, self.spending.output_tokens) == (self.usd, self.tokens)


TestBudget = Budget.TestCase


@given(st.lists(st.integers(0, 5), max_size=50))
def test_even_if_nothing_ever_ends(costs: list[int]) -> None:
    spending = Spending(max_usd=20)
    granted = [cost for cost in costs if isinstance(spending.reserve(float(cost), 0), int)]
    assert sum(granted) <= 20


# -- breakers -----------------------------------------------------------------------------------


def observe(*samples: Sample) -> list[str]:
    breakers = Breakers()
    return [reason for one in samples if (reason := breakers.observe(one)) is not None]


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_stops_at_once(status: int) -> None:
    (reason,) = observe(sample(Outcome.REJECTED, status=status, cause="auth"))
    assert str(status) in reason


def test_an_exhausted_quota_stops_at_once_and_a_plain_429_does_not() -> None:
    assert not observe(sample(Outcome.THROTTLED, status=429, cause="429"))
    (reason,) = observe(sample(Outcome.THROTTLED, status=429, cause="quota"))
    assert "quota" in reason


@pytest.mark.parametrize("word", ["auth", "quota", "connect", "dns", "tls"])
def test_a_server_cannot_pull_a_breaker_with_an_error_code_of_that_name(word: str) -> None:
    many = [sample(Outcome.REJECTED, status=400, cause=word, at_s=n) for n in range(60)]
    assert not observe(*many)


def throttled(at_s: float) -> Sample:
    return sample(Outcome.THROTTLED, status=429, cause="429", at_s=at_s)


def test_throttling_must_last() -> None:
    assert not observe(*(throttled(n) for n in range(30)))
    assert observe(*(throttled(n) for n in range(31)))


def test_half_is_not_more_than_half() -> None:
    half = [throttled(n) if n % 2 else sample(at_s=n) for n in range(100)]
    assert not observe(*half)
    more = [sample(at_s=n) if n % 3 == 0 else throttled(n) for n in range(100)]
    assert observe(*more)


def test_what_is_older_than_the_window_is_forgotten() -> None:
    good = [sample(at_s=n) for n in range(1000)]
    late = [throttled(1000 + n) for n in range(14)]
    assert not observe(*good, *late)
    old = [throttled(n / 10) for n in range(100)]
    assert not observe(*old, *(sample(at_s=10 + n / 5) for n in range(100)), throttled(40))


def test_a_single_429_after_a_pause_is_no_throttling_for_30_s() -> None:
    assert not observe(sample(at_s=0), throttled(60), throttled(90.5))


def test_dropped_and_cancelled_say_nothing_about_the_server() -> None:
    ours = [sample(Outcome.DROPPED, sent_ns=None), sample(Outcome.CANCELLED)]
    breakers = Breakers()
    for n in range(31):
        reason = breakers.observe(throttled(n))
        for one in ours * 10:
            assert breakers.observe(one) is None
    assert reason


def unreached(at_s: float, cause: str = "connect") -> Sample:
    return sample(
        Outcome.DISCONNECTED, cause=cause, at_s=at_s, sent_ns=None, error="connection refused"
    )


@pytest.mark.parametrize("cause", ["connect", "dns", "tls"])
def test_a_target_that_is_gone(cause: str) -> None:
    (reason,) = observe(*(unreached(n, cause) for n in range(GONE_AFTER)))
    assert "gone: connection refused" in reason


def test_a_target_that_is_gone_for_a_moment_or_now_and_then() -> None:
    assert not observe(*(unreached(n / 10) for n in range(99))), "a restart"
    one_good = [unreached(n) if n % 10 else sample(at_s=n, status=200) for n in range(100)]
    assert not observe(*one_good)
    timeouts = [sample(Outcome.TIMEOUT, cause="first_token", at_s=n) for n in range(100)]
    assert not observe(*timeouts), "slow is not gone"


@pytest.mark.parametrize(
    ("body", "cap"),
    [
        ({}, None),
        ({"max_tokens": None}, None),
        ({"max_tokens": True}, None),
        ({"max_tokens": "many"}, None),
        ({"max_tokens": -1}, None),
        ({"max_tokens": float("nan")}, None),
        ({"max_tokens": 0}, 0),
        ({"max_tokens": "12"}, 12),
        ({"max_tokens": 12.0, "max_completion_tokens": None}, 12),
        ({"max_tokens": 5, "max_completion_tokens": 50}, 50),
        ({"max_tokens": 10**400}, None),
    ],
)
def test_the_output_cap_of_a_request_body(body, cap):
    assert output_cap(body) == cap


@pytest.mark.parametrize(
    ("n", "most"), [(None, 1), (1, 1), (5, 5), ("5", 5), (2.5, 3), (0, 1), (-3, 1), ([], 1)]
)
def test_every_answer_that_is_asked_for_is_billed(n, most):
    assert answers({"n": n}) == most
    assert answers({}) == 1


def prompt(tokens: int | None, *, exact: bool = True, **more: Any) -> Prompt:
    messages = more.pop("messages", [{"role": "user", "content": "word " * 100}])
    return Prompt("m", "w", messages, 50, tokens=tokens, exact=exact, **more)


TOOLS = {"tools": ["x" * 296]}  # 300 bytes of JSON
SOUND = [{"role": "user", "content": [{"type": "input_audio", "data": "A" * 10}]}]  # 72
PRICED = resolve(
    ModelSpec(
        name="m", base_url="http://127.0.0.1:1/v1",
        price=Price(input_usd_per_mtok=1, output_usd_per_mtok=10, cached_usd_per_mtok=0),
    )
)  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "written", "tokens", "reason"),
    [
        (prompt(1000), 0, 1000, "as counted; a cache may serve none of it"),
        (prompt(1000, exact=False), 0, 1500, "another tokenizer may make more of it"),
        (prompt(1001, exact=False), 0, 1502, "rounded up"),
        (prompt(None), 0, 108, "a task's own words are counted"),
        (prompt(None), 9000, 3000, "or measured, where the body says more"),
        (prompt(1000, extra_body=TOOLS), 0, 1100, "tools are part of the prompt, as they are long"),
        (prompt(1000, exact=False, extra_body=TOOLS), 0, 1600, "and measured, not estimated"),
        (prompt(1000, extra_body=TOOLS, counted=["tools"]), 0, 1000, "who counted them says so"),
        (
            prompt(1000, extra_body={**TOOLS, "response_format": {"a": 1}}, counted=["tools"]),
            0,
            1003,
            "a schema is, too",
        ),
        (prompt(1000, extra_body={"functions": ["x" * 296]}), 0, 1100, "and the older functions"),
        (prompt(1000, extra_body={"user": "x" * 300}), 0, 1000, "what else is in a body is not"),
        (prompt(None, extra_body=TOOLS), 0, 208, "beside a task's own words"),
        (prompt(None, extra_body=TOOLS), 900, 300, "the whole body holds them already"),
        (prompt(None, extra_body=TOOLS, messages=SOUND), 0, 124, "where words cannot be counted"),
    ],
)
def test_the_most_an_attempt_can_cost(
    asked: Prompt, written: int, tokens: int, reason: str
) -> None:
    usd = most_usd(PRICED, asked, written)
    assert usd == pytest.approx((tokens + 500) / 1e6), reason


def test_several_answers_and_reasoning_are_within_what_is_held_back() -> None:
    assert most_output(prompt(1, extra_body={"n": 3})) == 150
    assert most_output(prompt(1, extra_body={"reasoning_effort": "high"})) == 50, "of the same cap"
    unpriced = resolve(ModelSpec(name="m", base_url="http://127.0.0.1:1/v1"))
    assert most_usd(unpriced, prompt(1)) is None
