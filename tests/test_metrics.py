"""Known-answer timelines: a fake clock, one table, and the reason on each row."""

import msgspec
import numpy as np
import pytest

from loadlib.metrics import CATALOGUE, FLOORS, QUANTILES
from loadlib.sample import INSTANTS, Outcome, Sample

MS = 1_000_000


def sample(**fields):
    at = {
        name: None if value is None else round(value * MS)
        for name, value in fields.items()
        if name in INSTANTS
    }
    plain = {
        "index": 0,
        "phase": "measure",
        "model": "m",
        "workload": "w",
        "outcome": Outcome.OK,
        "intended_ns": 0,
        "end_ns": 0,
    }
    return Sample(**plain | fields | at)


STREAM = {
    "intended_ns": 0,
    "sent_ns": 3,
    "flushed_ns": 4,
    "first_byte_ns": 90,
    "first_token_ns": 100,
    "first_output_ns": 100,
    "second_token_ns": 120,
    "last_token_ns": 480,
    "end_ns": 485,
    "output_tokens": 20,
}


@pytest.mark.parametrize(
    ("metric", "fields", "events_ms", "expected", "why"),
    [
        ("ttfb", STREAM, [], [90_000], "the headers count as first byte, from intended"),
        ("ttft", STREAM, [], [100_000], "from the intended start: what a user feels"),
        ("sent_ttft", STREAM, [], [97_000], "from the first byte sent: what other tools say"),
        ("sent_ttfb", STREAM, [], [87_000], "likewise"),
        ("ttst", STREAM, [], [20_000], "second token minus first"),
        (
            "stall",
            STREAM | {"longest_gap_ns": 45 * MS},
            [],
            [45_000],
            "the longest silence of a stream",
        ),
        ("stall", STREAM, [100, 120], [], "of one token, or in one piece: none, not 0"),
        ("e2e", STREAM, [], [485_000], "the end of the body, not the last token"),
        ("sent_e2e", STREAM, [], [482_000], "from sent"),
        ("arrival_lag", STREAM, [], [3_000], "sent minus intended"),
        ("tpot", STREAM, [], [20_000], "380 ms over 19 gaps, the first token is no gap"),
        ("output_tok_s_user", STREAM, [], [50_000], "19 tokens in 0.38 s, in milli-tok/s"),
        (
            "ttft",
            STREAM | {"sent_ns": 900, "first_token_ns": 1000},
            [],
            [1_000_000],
            "a request that waited for a free slot has waited: no coordinated omission",
        ),
        (
            "sent_ttft",
            STREAM | {"sent_ns": 900, "first_token_ns": 1000},
            [],
            [100_000],
            "while its sent clock says the server was quick",
        ),
        (
            "ttfo",
            STREAM | {"first_output_ns": 300},
            [],
            [300_000],
            "reasoning came first: the answer proper began later",
        ),
        ("ttft", STREAM | {"first_output_ns": 300}, [], [100_000], "reasoning is a token too"),
        ("ttfo", STREAM | {"first_output_ns": None}, [], [], "no answer proper: unknown, not 0"),
        ("sent_ttfo", STREAM | {"first_output_ns": 300}, [], [297_000], "from sent"),
        ("ttfc", STREAM, [], [], "no call: unknown, not 0"),
        ("ttfc", STREAM | {"first_call_ns": 200}, [], [200_000], "something was said before it"),
        ("sent_ttfc", STREAM | {"first_call_ns": 200}, [], [197_000], "from sent"),
        (
            "tpot",
            STREAM | {"output_tokens": 1, "last_token_ns": 100},
            [],
            [],
            "a single token has no gap to divide",
        ),
        (
            "e2e",
            STREAM | {"output_tokens": 1, "last_token_ns": 100},
            [],
            [485_000],
            "but that does not drop the sample",
        ),
        ("tpot", STREAM | {"output_tokens": None}, [], [], "no usage, no count: unknown"),
        (
            "tpot",
            STREAM | {"output_tokens": 2, "last_token_ns": 100},
            [],
            [0],
            "two tokens in one read: no time between them that anyone saw",
        ),
        (
            "output_tok_s_user",
            STREAM | {"output_tokens": 2, "last_token_ns": 100},
            [],
            [],
            "which is no infinite rate",
        ),
        (
            "tpot",
            STREAM | {"output_tokens": 4, "last_token_ns": 120},
            [],
            [6_667],
            "20 ms over 3, rounded half up to the µs",
        ),
        ("ttft", STREAM | {"first_token_ns": None}, [], [], "an empty answer has no first token"),
        (
            "ttft",
            STREAM | {"intended_ns": 101},
            [],
            [0],
            "a clock that stepped gives 0, never a negative latency",
        ),
        ("icl", STREAM, [100, 120, 140], [20_000, 20_000], "gaps between events"),
        ("icl", STREAM, [100, 120, 120, 140], [20_000, 0, 20_000], "one read, one instant"),
        ("icl", STREAM, [100], [], "one event has no gap"),
        ("icl", STREAM, [], [], "none neither"),
        ("connect", STREAM | {"connect_ns": 1_234_567}, [], [1_235], "a duration, rounded to µs"),
        ("connect", STREAM, [], [], "a reused connection was not connected"),
        ("ttfb", {"first_byte_ns": 0.0004}, [], [0], "400 ns round down"),
        ("ttfb", {"first_byte_ns": 0.0005}, [], [1], "500 ns round up"),
    ],
)
def test_known_answers(metric, fields, events_ms, expected, why):
    events = np.array([round(at * MS) for at in events_ms], np.int64)
    assert list(CATALOGUE[metric].read(sample(**fields), events)) == expected, why


def test_every_metric_says_what_it_is():
    for name, row in CATALOGUE.items():
        assert row.name == name
        assert row.unit in ("ms", "tok/s")
        assert row.better == ("lower" if row.unit == "ms" else "higher")
        assert row.title
        assert row.formula
    assert [name for name, row in CATALOGUE.items() if row.read is None] == ["output_tok_s"]


def test_every_quantile_has_a_floor_that_leaves_five_beyond_it():
    for name, p in QUANTILES.items():
        assert FLOORS[name] * (1 - p) == pytest.approx(5)


def test_a_sample_is_moved_whole():
    moved = sample(**STREAM).shifted(10**18)
    assert moved.intended_ns == 10**18
    assert moved.last_token_ns - moved.first_token_ns == 380 * MS
    assert moved.model == "m"
    dropped = sample(outcome=Outcome.DROPPED, end_ns=5).shifted(10**18)
    assert dropped.sent_ns is None, "what never happened has no instant"
    instants = [f for f in Sample.__struct_fields__ if f.endswith("_ns")]
    assert set(instants) - set(INSTANTS) == {"connect_ns", "tls_ns", "longest_gap_ns"}, (
        "durations stay"
    )


def test_a_line_of_the_file_is_a_sample():
    one = sample(**STREAM, status=200, error="„quoted“\n", quality=True)
    line = msgspec.json.encode(one)
    assert msgspec.json.decode(line, type=Sample) == one
    assert b"\n" not in line
    assert set(msgspec.json.decode(line)) == set(Sample.__struct_fields__)


@pytest.mark.parametrize(
    ("outcome", "sent", "failed", "why"),
    [
        (Outcome.OK, True, False, "the one success"),
        (Outcome.THROTTLED, True, True, "429 is a failure to serve"),
        (Outcome.REJECTED, True, True, "so is any 4xx"),
        (Outcome.SERVER_ERROR, True, True, "and 5xx"),
        (Outcome.TIMEOUT, True, True, "an answer too late is none"),
        (Outcome.DISCONNECTED, True, True, "cut off"),
        (Outcome.MALFORMED, True, True, "not understood"),
        (Outcome.TRUNCATED, True, True, "half an answer"),
        (Outcome.CANCELLED, True, False, "our own doing"),
        (Outcome.DROPPED, False, False, "never sent; counted as dropped"),
    ],
)
def test_how_outcomes_count(outcome, sent, failed, why):
    assert (outcome.sent, outcome.failed) == (sent, failed), why


def test_no_outcome_is_forgotten():
    assert len(Outcome) == 10
