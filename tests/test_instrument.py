"""Notes and marks of the recorder → readings of health and bounds on figures."""

import msgspec
import numpy as np
import pytest
from record_samples import KEY, MS, sample
from test_summarise import run, window

from loadlib.health import Offered
from loadlib.histogram import Histogram
from loadlib.instrument import Bounds, lag_note, readings
from loadlib.recorder import NS, Recorder, Totals
from loadlib.sample import Outcome
from loadlib.summarise import stats
from loadlib.summary import Cost, Goodput, Group, Quality, Requests, Throughput, Tokens


def test_readings_come_from_notes_and_marks():
    recorder, totals = Recorder(0), Totals()
    recorder.scheduled(KEY)
    for lag_us in range(1, 101):
        recorder.note("hub_lag", lag_us * 10)
    for second in range(10):
        recorder.note("cpu_permille", 870 if second == 3 else 400 + second)
        recorder.note("cpu_wait_permille", 10 * second)
    recorder.note("gc_pause", 200)
    recorder.note("gc_pause", 43_000)
    recorder.note("reader_lag", 3_000)
    marks = {"ticks": 100, "ceiling_ticks": 25, "recorder_errors": 1, "reads": 200,
             "merged_reads": 20, "user_clock_reads": 50, "clock_steps": 2}  # fmt: skip
    for name, n in marks.items():
        recorder.mark(name, n)
    totals.merge(recorder.drain(NS))
    totals.ledger["local"].expect(2)
    found = readings(totals, (), recorder_errors=1, cpus=2)
    assert (found.hub_lag_p99_ms, found.reader_lag_p99_ms) == (0.99, 3.0)
    assert found.hub_lag_max_ms == 1.0
    assert (found.cpu_share_max, found.cpu_share_p90) == (0.87, 0.409)
    assert found.cpu_wait_share_p90 == 0.08
    assert found.gc_pause_max_ms == 43.0
    assert (found.merged_share, found.user_clock_share, found.clock_steps) == (0.1, 0.25, 2)
    assert (found.processes, found.cpus) == (1, 2)
    assert found.ceiling_share == 0.25
    assert (found.lost, found.recorder_errors, found.sequence_gaps) == (1, 2, 1)


def test_what_nobody_told_of_is_unknown():
    found = readings(Totals(), ())
    unknown = (
        found.hub_lag_p99_ms, found.reader_lag_p99_ms, found.merged_share, found.clock_steps,
        found.user_clock_share, found.gc_pause_max_ms, found.cpu_share_max, found.processes,
        found.cpu_share_p90, found.cpu_wait_share_p90, found.delivered_share, found.ceiling_share,
    )  # fmt: skip
    assert unknown == (None,) * len(unknown)


def test_arrival_lag_is_read_from_open_measure_groups_only():
    warm = sample(key=("m", "chat", "warmup"), sent_ns=50 * MS)
    samples = [warm, sample(sent_ns=2 * MS)]
    windows = (window(0, 1, phase="warmup", kind="warmup"), window(0, 1))
    groups, totals = run(samples, windows)
    found = readings(totals, groups)
    assert (found.arrival_lag_p99_ms, found.closed_loop) == (2.0, False)
    closed = (windows[0], window(0, 1, closed=True))
    groups, totals = run(samples, closed)
    assert readings(totals, groups).closed_loop


def test_waiting_at_the_ceiling_is_no_lag_of_ours():
    groups, totals = run([sample(sent_ns=900 * MS)], (window(0, 1),))
    totals.notes[lag_note(*KEY)] = Histogram([3_000])
    totals.notes[lag_note("m", "chat", "warmup")] = Histogram([80_000])
    assert readings(totals, groups).arrival_lag_p99_ms == 3.0


def test_delivered_is_that_of_the_worst_model_over_all_its_workloads():
    windows = (window(0, 10),)
    late = 10_300
    samples = [
        *(sample(key=("a", "chat", "measure")) for _ in range(20)),
        *(sample(key=("b", "chat", "measure")) for _ in range(18)),
        sample(key=("b", "long", "measure"), at=late),
        sample(Outcome.DROPPED, key=("b", "long", "measure"), cause="ceiling"),
    ]
    groups, totals = run(samples, windows)
    found = readings(totals, groups)
    assert found.delivered_share == 0.9
    # Of two missing one was dropped. 100 ms to the first token, 9 gaps of 10, 1 ms to the end,
    # of which 1 ms came before it was sent; the late one was "sent" at its intended start + 1 ms.
    assert found.offered == Offered(
        model="b", phase="measure", rps=2.0, at_ceiling=0.5, e2e_s=pytest.approx(0.19, rel=0.01)
    )
    closed, totals = run(samples, (window(0, 10, closed=True),))
    assert readings(totals, closed).delivered_share is None


# — bounds —————————————————————————————————————————————————————————————————————

KERNEL = {"reads": 1000, "merged_reads": 0, "user_clock_reads": 0}
USER = KERNEL | {"user_clock_reads": 1000}
MERGED = KERNEL | {"merged_reads": 100}
HUB, READER, LAG = (1_000, 64_000), (500, 4_000), (2_000, 30_000)


def totals(marks, *, hub=HUB, reader=READER, lag=LAG):
    """Each lag: so many µs in 95 % of the readings, so many in the other 5 %."""
    found = Totals()
    for name, values in (("hub_lag", hub), ("reader_lag", reader), (lag_note(*KEY), lag)):
        if values:
            found.notes[name] = Histogram(np.repeat(values, (95, 5)))
    found.marks.update(marks)
    return found


def group(*, closed=False, output=650):
    return Group(
        model="m", workload="chat", phase="measure", requests=Requests(ok=10), outcomes={},
        metrics={"e2e": stats(Histogram([1_000_000]), "ms")}, tokens=Tokens(output=output),
        throughput=Throughput(), goodput=Goodput(), cost_usd=Cost(), quality=Quality(),
        closed_loop=closed, duration_s=10.0,
    )  # fmt: skip


def bounds(found, metric, mine):
    return Bounds(found, readings(found, (mine,)))(metric, mine)


@pytest.mark.parametrize(
    ("metric", "marks", "closed", "over", "under", "why"),
    [
        ("ttft", KERNEL, False, 30, 0, "it left late, and can only have seemed longer for it"),
        ("e2e", KERNEL, False, 30, 0, "likewise"),
        ("ttft", KERNEL, True, 0, 0, "a closed loop has no time to leave at"),
        ("sent_ttft", KERNEL, False, 0, 0, "the kernel's stamps are exact"),
        ("icl", KERNEL, False, 0, 0, "likewise"),
        ("sent_ttft", MERGED, False, 4, 0, "merged, the first of them seems as late as the read"),
        ("icl", MERGED, False, 4, 4, "a gap begins or ends with such a stamp"),
        ("sent_ttft", USER, False, 64, 0, "stamps as late as the event loop"),
        ("ttft", USER, False, 94, 0, "both: left late, stamped late"),
        ("ttft", {}, True, 64, 0, "who does not tell of its clock is taken to have none"),
        ("tpot", USER, False, 1, 1, "64 ms over the 64 gaps between two stamps"),
        ("connect", KERNEL, False, 64, 0, "the process itself sees a connection open"),
        ("arrival_lag", USER, False, 0, 0, "stamped before sending: the lag itself is the truth"),
    ],
)
def test_the_error_of_a_p99(metric, marks, closed, over, under, why):
    found = bounds(totals(marks), metric, group(closed=closed))
    assert found.over.at(0.99) == pytest.approx(over, rel=2e-3), why
    assert found.under.at(0.99) == pytest.approx(under, rel=2e-3), why


@pytest.mark.parametrize(
    ("coalesced", "p90", "p999", "why"),
    [
        (0, 0, 0, "no event was read with a later one"),
        (100, 0, 4, "1 % of the events are late: 2 % of the gaps may be off"),
        (1000, 4, 4, "10 %: a fifth of the gaps"),
    ],
)
def test_gaps_are_off_where_events_were_read_together(coalesced, p90, p999, why):
    mine = msgspec.structs.replace(group(), events=10_000, coalesced=coalesced)
    found = bounds(totals(MERGED), "icl", mine)
    for errors in (found.over, found.under):
        assert errors.at(0.9) == pytest.approx(p90, rel=2e-3), why
        assert errors.at(0.999) == pytest.approx(p999, rel=2e-3), why
    assert bounds(totals(MERGED), "ttft", mine).over.at(0.9) > 0, "first tokens may be among them"


@pytest.mark.parametrize(
    ("metric", "closed", "low", "high", "why"),
    [
        ("achieved_rps", False, 100, 100.3, "30 ms of 10 s are lost at the end: more, not less"),
        ("achieved_rps", True, 100, 100.415, "each turn of 1 s takes 4.15 ms more (mean hub lag)"),
    ],
)
def test_rates_can_only_have_been_slowed_down(metric, closed, low, high, why):
    found = bounds(totals(KERNEL), metric, group(closed=closed))
    assert found.around(100.0) == pytest.approx((low, high), rel=1e-5), why


def test_without_readings_no_error_is_made_up():
    nothing = totals({}, hub=None, reader=None, lag=None)
    for metric in ("ttft", "sent_ttft", "icl", "tpot", "output_tok_s_user", "connect",
                   "achieved_rps", "output_tok_s", "error_rate", "quality"):  # fmt: skip
        assert not bounds(nothing, metric, group()), metric
        assert not bounds(nothing, metric, group(closed=True)), metric


def test_unknown_token_counts_do_not_shrink_the_error():
    found = bounds(totals(USER), "tpot", group(output=None))
    assert found.over.at(0.99) == pytest.approx(64, rel=2e-3)


def test_a_bound_names_its_cause_and_its_remedy():
    found = totals(KERNEL)
    found.notes["cpu_permille"] = Histogram([970] * 10)
    bound = bounds(found, "ttft", group())
    assert bound.cause == (
        "arrival lag 30.0 ms at p99: the load generator was out of CPU (97 % of a core a process)"
    )
    assert bound.remedy == "1 more process (--processes 2)"
