"""The join of a run folder with what its server did: known answers."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_samples import KEY, MS, events, sample

from loadlib import health
from loadlib.calibrate import truth as truths
from loadlib.calibrate.protocol import Served, weighted_quantile
from loadlib.calibrate.truth import Truth, errors
from loadlib.errors import DataError, PreflightError, UsageError
from loadlib.health import Readings
from loadlib.recorder import NS, Recorder, Totals
from loadlib.run import REQUESTS, SUMMARY, RunWriter
from loadlib.sample import Outcome
from loadlib.summarise import Window, summarise
from loadlib.summary import Summary, Verdict

EPOCH = 1_700_000_000
WARMUP = (KEY[0], KEY[1], "warmup")
SCENARIO = "load:\n- {phase: warmup, arrival: constant}\n- {phase: measure, arrival: constant}\n"
WINDOWS = [
    Window(phase="warmup", kind="warmup", start_ns=EPOCH * NS, end_ns=(EPOCH + 2) * NS),
    Window(phase="measure", start_ns=(EPOCH + 2) * NS, end_ns=(EPOCH + 10) * NS),
]


def write(root, samples):
    """A finished run folder of these requests."""
    recorder, totals = Recorder(EPOCH * NS), Totals()
    writer = RunWriter.create(root, SCENARIO, "calibrate", [])
    for one in samples:
        recorder.scheduled((one.model, one.workload, one.phase))
        recorder.add(one, events(one) if one.outcome is Outcome.OK else ())
    interval = recorder.drain(12 * NS)
    totals.merge(interval)
    writer.append(interval)
    summary = Summary(
        verdict=Verdict(status="pass"),
        groups=summarise(totals, writer.samples(), WINDOWS),
        health=health.judge(Readings()),
    )
    writer.finish(summary, "complete", totals, WINDOWS)
    return writer.folder


def asked(number, ttft, **fields):
    """A request of the client whose sent_ttft is `ttft`: it left 1 ms late."""
    return sample(at=2000 + number * 50, ttft=ttft + 1, request_id=f"t-{number}", **fields)


def served(number, ttft, sent=10):
    """What the server says of it, on a clock of its own."""
    start = 77 * NS + number
    return Served(
        id=f"t-{number}", arrival_ns=start, received_ns=start + 5,
        first_ns=start + round(ttft * MS), last_ns=start + NS, events=sent,
    )  # fmt: skip


def test_quantiles_and_differences_of_joined_requests(tmp_path):
    # Client 101 … 200 ms; truth 0.25 ms less, but the slowest only 195 ms.
    folder = write(tmp_path, [asked(n, 100 + n) for n in range(1, 101)])
    theirs = [served(n, 99.75 + n) for n in range(1, 100)] + [served(100, 195)]
    found = errors(folder, Truth(requests=tuple(theirs), gaps=((10_000, 900),), events=1000))
    assert (found.n, found.unmatched) == (100, 0)
    assert found.ttft_p50_ms == 149.75, "rank 50 of 100"
    assert found.ttft_p50_error_ms == pytest.approx(0.25)
    # truth sorted: … 194.75, 195, 195.75, …: rank 99 is the 98th of the others
    assert found.ttft_p99_ms == 197.75
    assert found.ttft_p99_error_ms == pytest.approx(199 - 197.75)
    assert found.ttft_each_p50_ms == pytest.approx(0.25)
    assert found.ttft_each_p99_ms == pytest.approx(0.25), "one of 100 lies beyond p99"
    assert found.icl_p50_error_ms == pytest.approx(0, abs=0.01), "10 ms a token on both sides"
    assert (found.events, found.truth_events, found.delivered) == (1000, 1000, 1.0)


def test_a_quantile_of_the_wrong_request_is_no_error_of_the_quantile(tmp_path):
    """Swapped requests: the distributions agree, each request does not. Both are said."""
    folder = write(tmp_path, [asked(1, 100), asked(2, 200)])
    found = errors(folder, Truth(requests=(served(1, 200), served(2, 100))))
    assert (found.ttft_p50_error_ms, found.ttft_p99_error_ms) == (0, 0)
    assert (found.ttft_each_p50_ms, found.ttft_each_p99_ms) == (100, 100)
    assert found.icl_p99_error_ms is None, "an empty table is unknown, not 0"


UNJOINED = {
    "the server does not know it": ([asked(1, 100), asked(2, 100)], [served(1, 99)], 1),
    "no id came back": (
        [asked(1, 100), sample(at=2100, ttft=500)],
        [served(1, 99), served(2, 99)],
        1,
    ),
    "an id twice in the truth": (
        [asked(1, 100), asked(2, 300)],
        [served(1, 99), served(2, 99), served(2, 98)],
        1,
    ),
    "an id twice in the rows": (
        [asked(1, 100), asked(2, 300), asked(2, 350)],
        [served(1, 99), served(2, 99)],
        2,
    ),
    "served, but the client never counted it": ([asked(1, 100)], [served(1, 99), served(9, 5)], 0),
    "of another phase": (
        [asked(1, 100), sample(key=WARMUP, ttft=901, request_id="t-2")],
        [served(1, 99), served(2, 99)],
        0,
    ),
}


@pytest.mark.parametrize("case", UNJOINED)
def test_what_cannot_be_joined_takes_no_part(tmp_path, case):
    samples, requests, unmatched = UNJOINED[case]
    found = errors(write(tmp_path, samples), Truth(requests=tuple(requests)))
    assert (found.n, found.unmatched) == (1, unmatched)
    assert found.ttft_p99_error_ms == pytest.approx(1.0)
    assert found.delivered == 1.0


def test_a_request_that_failed_counts_as_undelivered_only(tmp_path):
    lost = asked(2, 400, outcome=Outcome.DISCONNECTED, events=4, first_token_ns=2_100_000_000)
    folder = write(tmp_path, [asked(1, 100), lost])
    found = errors(folder, Truth(requests=(served(1, 100), served(2, 100))))
    assert (found.n, found.ttft_p99_error_ms) == (1, 0)
    assert (found.events, found.truth_events, found.delivered) == (14, 20, 0.7)


def test_nothing_to_compare_is_unknown(tmp_path):
    found = errors(write(tmp_path, [asked(1, 100)]), Truth())
    assert (found.n, found.unmatched, found.events) == (0, 1, 0)
    assert found.ttft_p50_error_ms is found.ttft_each_p99_ms is found.delivered is None


def test_a_phase_by_name_and_by_default_those_that_measure(tmp_path):
    folder = write(tmp_path, [asked(1, 100), sample(key=WARMUP, ttft=51, request_id="t-2")])
    both = Truth(requests=(served(1, 98), served(2, 45)))
    assert errors(folder, both).ttft_p50_error_ms == pytest.approx(2.0)
    assert errors(folder, both, "warmup").ttft_p50_error_ms == pytest.approx(5.0)
    with pytest.raises(UsageError, match="no phase 'measur': there are measure, warmup"):
        errors(folder, both, "measur")


def test_a_run_that_was_killed_is_compared_as_far_as_it_got(tmp_path):
    folder = write(tmp_path, [asked(n, 100) for n in range(50)])
    (folder / SUMMARY).unlink()
    with gzip.open(folder / REQUESTS) as file:
        lines = file.read().splitlines(keepends=True)
    torn = gzip.compress(b"".join(lines[:30]) + lines[30][:40])
    (folder / REQUESTS).write_bytes(torn[:-9])  # killed in the middle of a row and of a member
    found = errors(folder, Truth(requests=tuple(served(n, 99) for n in range(50))))
    assert 0 < found.n <= 30
    assert found.ttft_p99_error_ms == pytest.approx(1.0)


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(UsageError, match="not a run folder"):
        errors(tmp_path, Truth())


# -- what a truth server answers -------------------------------------------------------------------

LINE = {"id": "t-5", "arrival_ns": 1, "received_ns": 2, "first_ns": 3, "last_ns": 4, "events": 9}
LAST = {"gap_us": [[20_000, 8]], "events": 9, "late_us_p99": 12}


def text(*lines):
    return "\n".join(json.dumps(line) for line in lines).encode() + b"\n"


def test_requests_then_totals():
    found = truths.parse(text(LINE, LAST))
    assert found.requests[0].ttft_ns == 2
    assert (found.gaps, found.events, found.late_us_p99) == (((20_000, 8),), 9, 12)
    assert truths.parse(text({"gap_us": [], "events": 0})).late_us_p99 is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "is empty"),
        (text(LINE), ":1: .*gap_us"),
        (text(LINE, LAST)[:-20], ":2: "),
        (text({**LINE, "events": "9"}, LAST), ":1: .*int"),
        (text(LAST, LINE, LAST), ":1: .*id"),
        (b"<html>", ":1: "),
    ],
    ids=["nothing", "cut after the requests", "torn", "a text", "totals twice", "another page"],
)
def test_anything_else_is_an_error_at_its_line(body, message):
    with pytest.raises(DataError, match=f"^http://x/truth.*{message}"):
        truths.parse(body, "http://x/truth")


def test_only_this_machine_is_asked():
    for url in ("http://example.org:80", "https://127.0.0.1:1", "127.0.0.1:80"):
        with pytest.raises(UsageError, match="of this machine"):
            truths.fetch(url)
    with pytest.raises(PreflightError, match=r"no truth server at http://127\.0\.0\.1:1"):
        truths.fetch("http://127.0.0.1:1/v1")


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 4)), max_size=30), st.floats(0, 1))
def test_the_quantile_of_a_table_is_that_of_its_values(table, p):
    values = [value for value, count in table for _ in range(count)]
    expected = truths.quantile(np.array(values, np.int64), p)
    assert weighted_quantile(table, p) == expected
