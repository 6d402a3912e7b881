import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_samples import KEY, MS, events, sample

from loadlib import rows, shards
from loadlib.histogram import Histogram
from loadlib.recorder import NS, SECOND_FIELDS, Recorder, Totals, spread_tokens
from loadlib.sample import Outcome

OFFSET = 1_700_000_000 * NS


def wire(interval):
    """As it arrives at the master."""
    return shards.unpack(shards.pack({"interval": interval}))["interval"]


def merged(*samples, key=KEY):
    recorder, totals = Recorder(OFFSET), Totals()
    for one in samples:
        recorder.scheduled(key)
        recorder.add(one, events(one) if one.outcome is Outcome.OK else ())
    totals.merge(wire(recorder.drain(60 * NS)))
    return totals


def test_an_interval_goes_over_the_wire_and_back():
    recorder = Recorder(OFFSET)
    recorder.scheduled(KEY, intended_ns=5 * MS)
    recorder.add(sample(at=5), events(sample(at=5)))
    recorder.note("hub_lag", 1500)
    recorder.mark("ticks", 3)
    interval = recorder.drain(2 * NS)
    assert wire(interval) == interval
    assert (interval["start_ns"], interval["end_ns"]) == (OFFSET + 5 * MS, OFFSET + 2 * NS)
    totals = Totals()
    assert totals.merge(wire(interval))
    assert totals.histogram(*KEY, "ttft") == Histogram([100_000])
    assert totals.histogram(*KEY, "icl").n == 9
    assert totals.notes["hub_lag"].max == 1500
    assert totals.marks == {"ticks": 3}
    (row,) = rows.decode(interval["rows"])
    assert row == sample(at=5).shifted(OFFSET)


def test_the_next_interval_begins_where_the_last_ended_and_is_empty():
    recorder = Recorder(OFFSET)
    recorder.add(sample())
    first, second = recorder.drain(NS), recorder.drain(2 * NS)
    assert second["start_ns"] == first["end_ns"]
    assert (first["seq"], second["seq"]) == (1, 2)
    assert not any(second[name] for name in ("hist", "counts", "seconds", "rows", "notes", "marks"))


def test_what_is_added_while_draining_belongs_to_the_next_interval():
    recorder, totals = Recorder(0), Totals()
    for number in range(40):
        recorder.add(sample(key=(f"m{number}", "w", "p")))
    pauses = []

    def pause():
        pauses.append(1)
        recorder.add(sample())

    totals.merge(recorder.drain(NS, pause))
    totals.merge(recorder.drain(2 * NS))
    assert pauses
    assert totals.done == 40 + len(pauses)
    assert totals.histogram(*KEY, "ttft").n == len(pauses)


@pytest.mark.parametrize(
    ("outcomes", "unanswered", "expected", "why"),
    [
        (["ok"], 0, {"scheduled": 1, "sent": 1, "ok": 1, "attempts": 1}, "the simplest"),
        (["dropped"], 0, {"scheduled": 1, "dropped": 1}, "never sent"),
        (
            ["throttled", "timeout"],
            0,
            {"scheduled": 2, "sent": 2, "failed": 2, "throttled": 1, "attempts": 2,
             "throttled_attempts": 1},
            "throttled is within failed",
        ),
        (["cancelled"], 0, {"scheduled": 1, "sent": 1, "cancelled": 1, "attempts": 1},
         "sent, neither ok nor not"),
        (["ok"], 2, {"scheduled": 3, "sent": 3, "ok": 1, "lost": 2, "attempts": 3},
         "nobody knows: sent and lost"),
        ([], 0, {}, "nothing"),
    ],
)  # fmt: skip
def test_counting(outcomes, unanswered, expected, why):
    recorder, totals = Recorder(0), Totals()
    for outcome in outcomes:
        recorder.scheduled(KEY)
        recorder.add(sample(Outcome(outcome)))
    for _ in range(unanswered):
        recorder.scheduled(KEY)
    totals.merge(recorder.drain(NS))
    found = {}
    if KEY in totals.counts:
        found = {k: v for k, v in msgspec.to_builtins(totals.counts[KEY].requests()).items() if v}
    assert found == expected, why
    assert totals.lost == unanswered == sum(recorder.in_flight.values()), why


REFUSED = {"outcome": Outcome.THROTTLED, "retried": True}


@pytest.mark.parametrize(
    ("attempts", "expected", "why"),
    [
        ([REFUSED, REFUSED, {}], {"ok": 1, "attempts": 3, "throttled_attempts": 2}, "ok"),
        ([REFUSED, {"outcome": Outcome.THROTTLED}],
         {"failed": 1, "throttled": 1, "attempts": 2, "throttled_attempts": 2}, "not"),
        ([REFUSED, {"outcome": Outcome.CANCELLED, "sent_ns": None}],
         {"cancelled": 1, "attempts": 1, "throttled_attempts": 1}, "the run ended in the wait"),
        ([REFUSED, {"outcome": Outcome.THROTTLED, "sent_ns": None, "cause": "ceiling"}],
         {"failed": 1, "throttled": 1, "attempts": 1, "throttled_attempts": 1}, "no place again"),
        ([REFUSED, {"outcome": Outcome.DISCONNECTED, "sent_ns": None, "cause": "connect"}],
         {"failed": 1, "attempts": 2, "throttled_attempts": 1}, "tried, and not connected"),
        ([REFUSED], {"lost": 1, "attempts": 2, "throttled_attempts": 1}, "nobody knows"),
    ],
)  # fmt: skip
def test_a_request_counts_once_by_its_last_attempt(attempts, expected, why):
    recorder, totals = Recorder(0), Totals()
    recorder.scheduled(KEY, 0)
    for number, fields in enumerate(attempts, 1):
        recorder.add(sample(attempt=number, **fields))
    totals.merge(recorder.drain(NS))
    requests = totals.counts[KEY].requests()
    found = {k: v for k, v in msgspec.to_builtins(requests).items() if v}
    assert {"sent": 1, "scheduled": 1} | expected == {"sent": 0} | found, why
    column = [sum(row[at] for row in totals.seconds.values()) for at in (0, 3, 4)]
    assert column == [1 - requests.lost, requests.ok, requests.failed], "by the second, too"
    assert totals.histogram(*KEY, "e2e").n == requests.ok


@settings(max_examples=60)
@given(
    arrivals=st.lists(st.tuples(st.sampled_from(list(Outcome)), st.booleans()), max_size=30),
    cuts=st.sets(st.integers(0, 30)),
    order=st.randoms(use_true_random=False),
)
def test_identities_hold_however_intervals_are_cut_and_ordered(arrivals, cuts, order):
    recorder, intervals = Recorder(OFFSET), []
    for number, (outcome, answered) in enumerate(arrivals):
        recorder.scheduled(KEY)
        if answered:
            recorder.add(sample(outcome, at=number))
        if number in cuts:
            intervals.append(recorder.drain(number * NS))
    intervals.append(recorder.drain(100 * NS))
    order.shuffle(intervals)
    totals = Totals()
    for interval in intervals:
        totals.merge(interval)
    assert (totals.ledger.gaps, totals.ledger.duplicates) == (0, 0)
    if arrivals:
        r = totals.counts[KEY].requests()
        assert r.scheduled == r.sent + r.dropped == len(arrivals)
        assert r.sent == r.ok + r.failed + r.cancelled + r.lost
        assert r.lost == sum(not answered for _, answered in arrivals)
        assert r.throttled <= r.failed
        assert sum(row[0] for row in totals.seconds.values()) == totals.done
        assert sum(row[1] for row in totals.seconds.values()) == r.sent - r.lost


def test_lost_and_double_intervals_are_told_apart():
    recorder, totals = Recorder(0), Totals()
    intervals = []
    for _ in range(5):
        recorder.scheduled(KEY)
        recorder.add(sample())
        intervals.append(recorder.drain(NS))
    assert totals.merge(intervals[1], "w1"), "the first one may still be under way"
    assert totals.ledger.gaps == 1
    assert not totals.merge(intervals[1], "w1"), "twice is once"
    assert totals.merge(intervals[0], "w1")
    assert (totals.ledger.gaps, totals.ledger.duplicates, totals.done) == (0, 1, 2)
    assert totals.merge(intervals[0], "w2"), "each process counts for itself"
    totals.ledger["w1"].expect(4)
    assert totals.ledger.gaps == 2, "the worker says there were four"
    assert totals.merge(intervals[3], "w1")
    totals.ledger["w1"].expect(4)
    assert totals.ledger.gaps == 1


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 500)), max_size=40))
def test_workers_merged_are_one_process(work):
    workers = [Recorder(OFFSET) for _ in range(4)]
    alone, totals, single = Recorder(OFFSET), Totals(), Totals()
    for worker, ttft in work:
        for recorder in (workers[worker], alone):
            recorder.scheduled(KEY)
            recorder.add(sample(ttft=ttft), events(sample(ttft=ttft)))
    for number, recorder in enumerate(workers):
        totals.merge(recorder.drain(NS), f"worker-{number}")
    single.merge(alone.drain(NS))
    assert totals.histograms == single.histograms
    assert totals.seconds == single.seconds
    assert totals.counts == single.counts


def test_only_ok_samples_are_measured_but_all_are_rows():
    totals = merged(sample(), sample(Outcome.TIMEOUT, first_token_ns=50 * MS, output_tokens=3))
    assert totals.histogram(*KEY, "ttft") == Histogram([100_000])
    assert totals.histogram(*KEY, "e2e").n == 1


@pytest.mark.parametrize(
    ("instants_s", "tokens", "expected", "why"),
    [
        ([0.2, 0.5, 1.5, 1.7], 8, {0: 4, 1: 4}, "evenly over the events"),
        ([0.2, 0.5, 1.5], 10, {0: 6, 1: 4}, "whole tokens that still add up to ten"),
        ([0.2, 2.5], 1, {2: 1}, "fewer tokens than events"),
        ([0.9, 1.0], 2, {0: 1, 1: 1}, "a second begins at its instant"),
        ([], 5, {3: 5}, "no events: with the last token"),
        ([0.2], 0, {}, "no tokens"),
        ([0.2], None, {}, "unknown is not 0, and not made up"),
    ],
)
def test_tokens_count_when_they_arrive(instants_s, tokens, expected, why):
    one = sample(last_token_ns=int(3.5 * NS), end_ns=4 * NS, output_tokens=tokens)
    instants = np.array([int(at * NS) for at in instants_s], np.int64)
    assert dict(spread_tokens(one, instants)) == expected, why


@given(gaps=st.lists(st.integers(0, 3 * NS), min_size=1, max_size=50), tokens=st.integers(0, 10**6))
def test_no_token_is_lost_or_made(gaps, tokens):
    one = sample(output_tokens=tokens)
    assert sum(n for _, n in spread_tokens(one, np.cumsum(gaps))) == tokens


def test_seconds_are_those_of_the_wall_clock():
    # due at 0.9 s, sent at 0.901, first token at 1.0, last at 1.09, over at 1.091
    totals = merged(sample(at=900))
    base = OFFSET // NS
    named = {
        second - base: dict(zip(SECOND_FIELDS, row, strict=True))
        for (second, _), row in totals.seconds.items()
    }
    assert named[0] == dict.fromkeys(SECOND_FIELDS, 0) | {"scheduled": 1, "sent": 1}
    assert named[1] == dict.fromkeys(SECOND_FIELDS, 0) | {
        "ended": 1,
        "ok": 1,
        "output_tokens": 10,
        "input_tokens": 7,
    }


def test_a_burst_has_no_upper_bound_but_a_latency_has():
    burst = sample(tokens=1000, last_token_ns=100 * MS + 1)
    assert merged(burst).overflow == 0
    late = sample(at=-4_000_000)  # 4,000 s before …
    late = msgspec.structs.replace(late, first_token_ns=100 * MS, end_ns=100 * MS)
    assert merged(late).overflow > 0
