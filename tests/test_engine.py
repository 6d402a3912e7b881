"""A pace of one's own, against schedules worked out by hand and its own equations."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadlib.engine import NS_PER_S, Speed, Work, replica, simulate

MS = 1_000_000


def test_without_limits_the_instants_are_exactly_the_documented_ones():
    speed = Speed(first_token_delay_ns=250 * MS, prefill_tok_s=20_000, output_tok_s=100)
    engine = replica(speed)
    sequence = engine.submit(Work(prompt_tokens=1000, output_tokens=5), now_ns=7 * NS_PER_S)
    assert sequence.first_ns == 7 * NS_PER_S + 300 * MS
    assert [engine.token_ns(sequence, i) - sequence.first_ns for i in range(5)] == [
        i * 10 * MS for i in range(5)
    ]
    assert sequence.last_ns == sequence.first_ns + 40 * MS


def test_without_limits_requests_do_not_see_each_other():
    speed = Speed(first_token_delay_ns=MS, prefill_tok_s=1000, output_tok_s=10)
    engine = replica(speed)
    alone = replica(speed).submit(Work(100, 10), 0)
    crowd = [engine.submit(Work(100, 10), 0) for _ in range(500)]
    assert {s.first_ns for s in crowd} == {alone.first_ns}
    assert {s.last_ns for s in crowd} == {alone.last_ns}
    assert (engine.load.running, engine.load.waiting) == (500, 0)


def test_one_prefill_lane_is_first_come_first_served():
    engine = replica(Speed(first_token_delay_ns=5 * MS, prefill_tok_s=1000, prefill_lanes=1))
    # 100 tokens = 100 ms of prefill each; the third comes when the lane is idle again.
    first, second, third = (engine.submit(Work(100, 1), at * MS) for at in (0, 30, 500))
    assert [s.first_ns for s in (first, second, third)] == [105 * MS, 205 * MS, 605 * MS]


def test_several_lanes_serve_several_prompts_at_once():
    engine = replica(Speed(prefill_tok_s=1000, prefill_lanes=2))
    long, short, behind = (engine.submit(Work(n, 1), 0) for n in (1000, 100, 100))
    assert [s.first_ns for s in (long, short, behind)] == [1000 * MS, 100 * MS, 200 * MS]


def test_a_request_over_the_limit_waits_for_a_place():
    engine = replica(Speed(output_tok_s=100, max_running=1))
    first = engine.submit(Work(10, 11), 0)
    second = engine.submit(Work(10, 2), 20 * MS)
    assert (engine.load.running, engine.load.waiting) == (1, 1)
    assert second.first_ns is engine.token_ns(second, 0) is None
    assert engine.tokens_due(second, 10**18) == 0
    assert engine.next_ns == first.last_ns
    engine.advance(first.last_ns)
    assert (engine.begun, engine.ended) == ([second], [first])
    assert second.admitted_ns == second.first_ns == 100 * MS
    assert (engine.load.running, engine.load.waiting) == (1, 0)


def test_a_client_that_leaves_gives_its_place_to_the_next():
    engine = replica(Speed(output_tok_s=1, max_running=1))
    first, second, third = (engine.submit(Work(1, 100), at) for at in (0, 1, 2))
    engine.cancel(second, 5)  # it only waited
    engine.cancel(first, 10)
    assert engine.begun == [third]
    assert third.first_ns == 10
    engine.cancel(first, 20)  # twice does nothing
    assert (engine.load.running, engine.load.waiting) == (1, 0)
    assert (first.done, engine.tokens_due(first, 10**18)) == (1, 1)
    assert engine.next_ns == third.last_ns


def test_a_place_is_taken_when_it_is_free_not_when_somebody_looks():
    engine = replica(Speed(output_tok_s=10, max_running=1))
    sequences = [engine.submit(Work(1, 11), 0) for _ in range(3)]
    engine.advance(10 * NS_PER_S)
    assert [s.admitted_ns for s in sequences] == [0, NS_PER_S, 2 * NS_PER_S]
    assert engine.ended == sequences


def test_factors_stretch_the_delay_and_the_pace():
    speed = Speed(first_token_delay_ns=100 * MS, prefill_tok_s=1000, output_tok_s=100)
    engine = replica(speed)
    sequence = engine.submit(Work(10, 3, delay_factor=2.0, pace_factor=0.5), 0)
    assert sequence.first_ns == 210 * MS
    assert engine.token_ns(sequence, 2) - sequence.first_ns == 10 * MS


@pytest.mark.parametrize(
    "wrong",
    [
        {"prefill_tok_s": 0},
        {"output_tok_s": -1},
        {"prefill_tok_s": math.nan},
        {"max_running": 0},
        {"prefill_lanes": 0},
        {"first_token_delay_ns": -1},
    ],
    ids=str,
)
def test_speeds_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Speed(**wrong)


@given(
    rate=st.floats(0.5, 1e7),
    tokens=st.integers(1, 5000),
    first=st.integers(0, 10**15),
    offset=st.integers(-(10**9), 10**13),
)
def test_tokens_due_counts_the_instants_that_have_passed(rate, tokens, first, offset):
    engine = replica(Speed(output_tok_s=rate))
    sequence = engine.submit(Work(0, tokens), first)
    now = first + offset
    due = engine.tokens_due(sequence, now)
    assert 0 <= due <= tokens
    assert due == 0 or engine.token_ns(sequence, due - 1) <= now
    assert due == tokens or engine.token_ns(sequence, due) > now
    assert engine.tokens_due(sequence, sequence.last_ns) == tokens


@given(
    arrivals=st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 500)), max_size=60),
    places=st.integers(1, 5),
    lanes=st.integers(1, 3),
)
def test_places_and_lanes_are_never_overbooked_and_first_come_is_first_served(
    arrivals, places, lanes
):
    speed = Speed(prefill_tok_s=1000, output_tok_s=50, max_running=places, prefill_lanes=lanes)
    trace = [(at, Work(tokens, 4)) for at, tokens in sorted(arrivals)]
    done = sorted(simulate(replica(speed), trace), key=lambda s: s.order)
    assert [s.arrival_ns for s in done] == sorted(at for at, _ in arrivals)
    assert all(s.finished for s in done)
    admitted = [s.admitted_ns for s in done]
    assert admitted == sorted(admitted)
    assert all(s.admitted_ns >= s.arrival_ns for s in done)
    for at in admitted:
        assert sum(s.admitted_ns <= at < s.last_ns for s in done) <= places
    prefills = [(s.first_ns - s.work.prompt_tokens * MS, s.first_ns) for s in done]
    for at, _ in prefills:
        assert sum(start <= at < end for start, end in prefills) <= lanes


def test_virtual_time_jumps_over_tokens():
    # 2·10⁸ prompt tokens and as many output tokens: stepping through them would take minutes.
    speed = Speed(prefill_tok_s=1e6, output_tok_s=1e4, max_running=8, prefill_lanes=2)
    trace = ((i * MS, Work(100_000, 100_000)) for i in range(2000))
    assert sum(1 for _ in simulate(replica(speed), trace)) == 2000
