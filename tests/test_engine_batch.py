"""Continuous batching against schedules worked out by hand, and against the naive reference."""

from __future__ import annotations

import math

import pytest
from engine_reference import Reference, Row
from hypothesis import given, settings
from hypothesis import strategies as st

from loadlib.engine import Batch, Speed, Step, Work, replica, simulate

MS = 1_000_000


def batch(places: int | None = None, delay_ms: int = 0, **step: float) -> Batch:
    engine = replica(
        Speed(first_token_delay_ns=delay_ms * MS, max_running=places, step=Step(**step))
    )
    assert isinstance(engine, Batch)
    return engine


def serve(engine: Batch, arrivals: list[tuple[float, Work]]) -> list[tuple[float, float]]:
    """(first, last) token in ms, in the order of arrival."""
    sequences = [engine.submit(work, round(at * MS)) for at, work in arrivals]
    engine.advance(10**18)
    assert all(s.finished for s in sequences)
    return [(s.first_ns / MS, s.last_ns / MS) for s in sequences]


# Each row: the engine, arrivals (ms, prompt, output), and (first, last) token of each in ms.
KNOWN = {
    # 10 ms + 100 tokens · 0.1 ms = 20 ms; then four steps of 10 ms.
    "alone": (
        {"base_ns": 10 * MS, "prefill_token_ns": 0.1 * MS},
        [(0, 100, 5)],
        [(20, 60)],
    ),
    # As above, and 1 ms for each sequence in the step: 21 for the first; both in the next (12 + 10
    # of prefill at 0.1 for 100 tokens = 22, done at 43), then together at 12 each.
    "one joins at the next step": (
        {"base_ns": 10 * MS, "prefill_token_ns": 0.1 * MS, "sequence_ns": MS},
        [(0, 100, 4), (5, 100, 3)],
        [(21, 67), (43, 67)],
    ),
    # Both stand there when the engine is idle: one step for both prompts, 10 + 20 + 2 = 32.
    "two at once share a step": (
        {"base_ns": 10 * MS, "prefill_token_ns": 0.1 * MS, "sequence_ns": MS},
        [(0, 100, 1), (0, 100, 1)],
        [(32, 32), (32, 32)],
    ),
    # Budget 40: 100 prompt tokens in chunks 40, 40, 20; steps of 10 + 4, 4, 2 = 14, 14, 12.
    "a prompt in chunks": (
        {"base_ns": 10 * MS, "prefill_token_ns": 0.1 * MS, "token_budget": 40, "places": 8},
        [(0, 100, 2)],
        [(40, 50)],
    ),
    # The decoding one takes 1 of the budget of 11: the other's 25 tokens go 10, 10, 5 while a
    # token comes every step (cost 1 ms a prefill token: 11 + 11 + 6).
    "chunks leave room for who decodes": (
        {"base_ns": MS, "prefill_token_ns": MS, "token_budget": 11, "places": 8},
        [(0, 4, 5), (1, 25, 1)],
        [(5, 5 + 11 + 11 + 6 + 1), (33, 33)],
    ),
    # 1 ns a token of context: the step after the first token has 1001 to read, then 1002.
    "context makes steps longer": (
        {"base_ns": MS, "context_token_ns": 1000},
        [(0, 1000, 3)],
        [(1, 1 + 2.001 + 2.002)],
    ),
    # One place: the second starts where the first ends, at 30.
    "no place": (
        {"base_ns": 10 * MS, "places": 1},
        [(0, 1, 3), (1, 1, 2)],
        [(10, 30), (40, 50)],
    ),
    # The delay is spent before the queue: 5 ms later, nothing else changes.
    "delay": (
        {"base_ns": 10 * MS, "delay_ms": 5},
        [(0, 1, 2)],
        [(15, 25)],
    ),
    # 4 blocks of 4. The first holds 8 tokens = 2 blocks, the second 5 = 2: full. At 10 both have
    # a token; the first needs a third block at once (8 full): the second, which came later, goes.
    # The first: 20, 30, 40 (9, 10, 11 tokens held: 3 blocks). The second must recompute 5 + 1
    # tokens: 2 blocks, free only when the first ends at 40; its second token at 50, third at 60.
    "blocks run out: the last to come is preempted": (
        {"base_ns": 10 * MS, "kv_blocks": 4, "block_tokens": 4},
        [(0, 8, 4), (0, 5, 3)],
        [(10, 40), (10, 60)],
    ),
    # 4 blocks of 4; 12 tokens = 3 blocks, then 8 tokens = 2 blocks do not fit; the small one
    # behind it would, but nobody overtakes. The first ends at 20, both go on together.
    "nobody overtakes": (
        {"base_ns": 10 * MS, "kv_blocks": 4, "block_tokens": 4},
        [(0, 12, 1), (1, 8, 1), (2, 1, 1)],
        [(10, 10), (20, 20), (20, 20)],
    ),
}


@pytest.mark.parametrize("case", KNOWN)
def test_schedules_worked_out_by_hand(case):
    options, arrivals, expected = KNOWN[case]
    got = serve(batch(**options), [(at, Work(p, o)) for at, p, o in arrivals])
    assert got == [pytest.approx(row, abs=2e-6) for row in expected]


def test_a_preempted_sequence_keeps_its_first_token_and_is_counted():
    engine = batch(base_ns=10 * MS, kv_blocks=4, block_tokens=4)
    _, second = (engine.submit(Work(p, o), 0) for p, o in ((8, 4), (5, 3)))
    engine.advance(15 * MS)
    assert (engine.load.preemptions, engine.load.running, engine.load.waiting) == (1, 1, 1)
    assert engine.tokens_due(second, 15 * MS) == second.done == 1
    assert engine.token_ns(second, 1) is None
    assert second.first_ns == 10 * MS
    assert engine.load.kv_usage == 0.5  # the third block is taken at the end of the segment


def test_a_shared_prefix_is_computed_once():
    # 3 of 4 blocks are shared: 4 of 16 tokens are left to compute, at 1 ms each.
    step = {"base_ns": MS, "prefill_token_ns": MS, "kv_blocks": 100, "block_tokens": 4}
    engine = batch(prefix_cache=True, **step)
    first, second = (Work(16, 1, prefix=(1, 2, 3, tail)) for tail in (4, 5))
    assert serve(engine, [(0, first), (100, second)]) == [(17, 17), (105, 105)]
    assert (engine.load.prefix_queries, engine.load.prefix_hits) == (32, 12)
    # The very same prompt: its last block is computed again, a token must come from somewhere.
    assert serve(engine, [(200, first)]) == [(205, 205)]
    assert engine.load.kv_usage == 0


def test_the_prefix_idle_longest_is_given_up_first():
    # 4 blocks in all. a: 2 blocks, b: 2 blocks, then a again (hit; now b is older), then c takes
    # 2: b's go. a still hits its first block (its last is always computed), b nothing.
    engine = batch(base_ns=MS, prefill_token_ns=MS, kv_blocks=4, block_tokens=4, prefix_cache=True)
    a, b, c = (Work(8, 1, prefix=(10 * i, 10 * i + 1)) for i in (1, 2, 3))
    order = [a, b, a, c, a, b]
    waits = [
        first - 100 * i
        for i, (first, _) in enumerate(
            serve(engine, [(100 * i, work) for i, work in enumerate(order)])
        )
    ]
    assert waits == [9, 9, 5, 9, 5, 9]


def test_a_request_too_large_for_the_cache_is_refused():
    engine = batch(base_ns=MS, kv_blocks=4, block_tokens=4)
    engine.submit(Work(10, 7), 0)  # the 17th token need not be kept
    with pytest.raises(ValueError, match="4 KV blocks"):
        engine.submit(Work(10, 8), 0)
    with pytest.raises(ValueError, match="prefix"):
        engine.submit(Work(7, 1, prefix=(1, 2)), 0)


def test_who_leaves_makes_room():
    engine = batch(places=1, base_ns=10 * MS)
    first, second, third = (engine.submit(Work(1, 100), i) for i in range(3))
    engine.cancel(second, 5 * MS)  # only waited
    engine.cancel(first, 25 * MS)  # runs: leaves with its step, at 30
    engine.cancel(first, 26 * MS)  # twice does nothing
    assert first.cancelled
    assert second.cancelled
    engine.advance(10**12)
    assert (first.done, second.done, third.admitted_ns) == (3, 0, 30 * MS)
    assert engine.ended == [third]
    engine.cancel(third, 10**12)
    assert third.finished


def test_a_head_that_leaves_lets_the_next_one_in():
    # The second needs 3 blocks and there are 2; the third needs 1 and comes in once it leads.
    engine = batch(base_ns=10 * MS, kv_blocks=4, block_tokens=4)
    engine.submit(Work(5, 3), 0)
    second, third = engine.submit(Work(12, 1), 1), engine.submit(Work(1, 1), 2)
    engine.cancel(second, 12 * MS)
    engine.advance(10**12)
    assert (third.admitted_ns, third.first_ns) == (20 * MS, 30 * MS)


def test_nothing_costs_nothing():
    engine = batch()
    assert serve(engine, [(1, Work(1000, 500)), (1, Work(10, 3)), (2, Work(5, 0))]) == [
        (1, 1), (1, 1), (2, 2)
    ]  # fmt: skip


def test_without_a_crowd_the_first_token_is_delay_plus_prefill():
    engine = batch(prefill_token_ns=50_000, delay_ms=250)  # 20,000 tokens/s
    crowd = [engine.submit(Work(1000, 1), i * 10**9) for i in range(5)]
    engine.advance(10**12)
    assert [s.first_ns - s.arrival_ns for s in crowd] == [300 * MS] * 5


def test_long_work_is_a_few_jumps():
    # 2·10⁸ prompt tokens and as many output tokens: stepping through them would take minutes.
    engine = batch(places=8, base_ns=MS, context_token_ns=0.05, token_budget=512, kv_blocks=10**5)
    trace = ((i * MS, Work(100_000, 100_000)) for i in range(2000))
    assert sum(1 for _ in simulate(engine, trace)) == 2000


@pytest.mark.parametrize(
    "wrong",
    [
        {"base_ns": -1},
        {"context_token_ns": math.inf},
        {"token_budget": 0},
        {"block_tokens": 0},
        {"prefix_cache": True},
    ],
    ids=str,
)
def test_steps_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Step(**wrong)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"output_tok_s": 10, "step": Step()}, "of a sequence's own"),
        ({"prefill_lanes": 1, "step": Step()}, "of a sequence's own"),
        ({"max_running": 9, "step": Step(token_budget=8)}, "token_budget"),
        ({"step": Step(token_budget=8)}, "token_budget"),
    ],
    ids=str,
)
def test_speeds_that_contradict_themselves_are_refused(wrong, match):
    with pytest.raises(ValueError, match=match):
        Speed(**wrong)


# --- against the reference -----------------------------------------------------------------------

SIZE = 4
CHAINS = [(), (1,), (1, 2), (1, 2, 3), (1, 4), (5, 6)]


@st.composite
def works(draw):
    prompt = draw(st.integers(1, 30))
    chain = draw(st.sampled_from(CHAINS))[: prompt // SIZE]
    return Work(prompt, draw(st.integers(1, 25)), delay_factor=draw(st.sampled_from((1, 2.5))),
                prefix=chain)  # fmt: skip


@st.composite
def speeds(draw):
    places = draw(st.none() | st.integers(1, 5))
    budget = draw(st.integers(places, 40)) if places and draw(st.booleans()) else None
    blocks = draw(st.none() | st.integers(14, 40))
    return Speed(
        first_token_delay_ns=draw(st.sampled_from((0, 30))),
        max_running=places,
        step=Step(
            base_ns=draw(st.sampled_from((1, 7.5, 100))),
            prefill_token_ns=draw(st.sampled_from((0, 0.3, 4))),
            sequence_ns=draw(st.sampled_from((0, 2))),
            context_token_ns=draw(st.sampled_from((0, 0.07, 3))),
            token_budget=budget,
            kv_blocks=blocks,
            block_tokens=SIZE,
            prefix_cache=blocks is not None and draw(st.booleans()),
        ),
    )


@st.composite
def traffic(draw):
    """Rows of (arrival, work, cancelled so much later or never), by arrival."""
    rows = draw(
        st.lists(
            st.tuples(st.integers(0, 800), works(), st.none() | st.integers(0, 600)),
            min_size=1,
            max_size=14,
        )
    )
    return sorted(rows, key=lambda row: row[0])


def played(speed, rows, looks=()):
    """All sequences after everything; `looks` are instants at which somebody asks in between."""
    engine = replica(speed)
    events = [(at, 1, i) for i, (at, _, _) in enumerate(rows)]
    events += [(at + after, 2, i) for i, (at, _, after) in enumerate(rows) if after is not None]
    events += [(at, 0, -1) for at in looks]
    sequences = {}
    for at, kind, i in sorted(events):
        if kind == 0:
            engine.advance(at)
        elif kind == 1:
            sequences[i] = engine.submit(rows[i][1], at)
        else:
            engine.cancel(sequences[i], at)
    engine.advance(10**12)
    return engine, [sequences[i] for i in range(len(rows))]


def instants(sequences):
    return [
        (s.admitted_ns, s.first_ns, s.last_ns, s.done, s.cached, s.cancelled) for s in sequences
    ]


@settings(max_examples=300, deadline=None)
@given(speed=speeds(), rows=traffic())
def test_jumping_equals_stepping(speed, rows):
    engine, sequences = played(speed, rows)
    expected = [Row(w, at, None if c is None else at + c) for at, w, c in rows]
    reference = Reference(speed, expected).run()
    assert engine.load.preemptions == reference.preemptions
    for sequence, row in zip(sequences, expected, strict=True):
        assert (sequence.admitted_ns, sequence.cached) == (row.admitted_ns, row.cached)
        assert sequence.first_ns == (row.tokens[0] if row.tokens else None)
        assert sequence.done == len(row.tokens)
        if sequence.finished:
            assert sequence.last_ns == row.tokens[-1]
            assert len(row.tokens) == row.work.output_tokens
        else:  # its last step may have been the one in which its client went
            assert row.cancel_ns is not None


@settings(max_examples=150, deadline=None)
@given(speed=speeds(), rows=traffic(), looks=st.lists(st.integers(0, 5000), max_size=200))
def test_both_clocks_give_the_same_instants(speed, rows, looks):
    """Real time asks again and again what is due; virtual time jumps. Nothing may depend on it."""
    _, jumped = played(speed, rows)
    engine, looked = played(speed, rows, looks)
    assert instants(looked) == instants(jumped)
    assert engine.load.waiting == engine.load.running == 0


@settings(max_examples=150, deadline=None)
@given(speed=speeds(), rows=traffic())
def test_whoever_comes_leaves_and_the_cache_is_empty_again(speed, rows):
    engine, sequences = played(speed, rows)
    assert all(s.finished != s.cancelled for s in sequences)
    load = engine.load
    assert (load.running, load.waiting, engine.next_ns) == (0, 0, None)
    assert load.kv_usage in (None, 0)
    assert [s for s in engine.ended if s.cancelled] == []
    assert len(engine.ended) == sum(s.finished for s in sequences)


@settings(max_examples=100, deadline=None)
@given(speed=speeds(), rows=traffic())
def test_the_limits_hold_at_every_event_and_first_come_is_first_served(speed, rows):
    engine = replica(speed)
    sequences = []

    def check():
        load = engine.load
        assert load.running <= (speed.max_running or math.inf)
        assert load.kv_usage is None or 0 <= load.kv_usage <= 1

    for at, work, _ in rows:
        while (due := engine.next_ns) is not None and due <= at:
            engine.advance(due)
            check()
        sequences.append(engine.submit(work, at))
        check()
    while (due := engine.next_ns) is not None:
        engine.advance(due)
        check()
    delays = {work.delay_factor for _, work, _ in rows}
    if len(delays) == 1:  # else the queue is entered in another order
        firsts = [s.first_ns for s in sequences]
        assert firsts == sorted(firsts)


@settings(max_examples=150, deadline=None)
@given(speed=speeds(), rows=traffic(), ask=st.integers(0, 3000))
def test_tokens_due_at_any_instant_are_those_of_the_reference(speed, rows, ask):
    rows = [(at, work, None) for at, work, _ in rows]
    expected = [Row(work, at) for at, work, _ in rows]
    Reference(speed, expected).run()
    engine = replica(speed)
    sequences = [engine.submit(work, at) for at, work, _ in rows]
    ask += rows[-1][0]
    engine.advance(ask)
    for sequence, row in zip(sequences, expected, strict=True):
        due = engine.tokens_due(sequence, ask)
        assert due == sum(instant <= ask for instant in row.tokens)
        planned = engine.token_ns(sequence, due)
        if planned is not None and not sequence.finished:
            # Nobody comes any more, so only a segment's end can make it later than planned.
            assert ask < planned <= row.tokens[due]


@given(
    arrivals=st.lists(st.tuples(st.integers(0, 500), st.integers(1, 40), st.integers(1, 20)),
                      min_size=1, max_size=20),
    faster=st.integers(2, 10),
)  # fmt: skip
def test_the_same_arrivals_in_less_time_wait_no_less(arrivals, faster):
    """Held where it must: one place, so that every request is served alone and in order."""
    speed = Speed(max_running=1, step=Step(base_ns=3, prefill_token_ns=1, context_token_ns=0.5))
    arrivals = sorted(arrivals, key=lambda row: row[0])
    rows = [(at * faster, Work(p, o)) for at, p, o in arrivals]

    def mean(scale):
        done = simulate(replica(speed), [(at // scale, work) for at, work in rows])
        return sum(s.last_ns - s.arrival_ns for s in done)

    assert mean(faster) >= mean(1)
