"""Traces: what a file says, what is made of it, and which requests a window holds."""

from __future__ import annotations

import gzip
import json
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workload_stand_ins import Model, says

from loadlib import scenario, tokens
from loadlib.errors import DataError, UsageError
from loadlib.schedule import S
from loadlib.session import Choice, estimate_usd, open_session
from loadlib.workloads import build, traces
from loadlib.workloads.replay import ReplaySpec

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
DAY = "2023-11-16 18:17:0"
AZURE = HEADER + f"{DAY}3.9799600,4808,10\n{DAY}4.0319600,3180,8\n{DAY}4,7000,0\n"
MOONCAKE = "".join(
    json.dumps({"timestamp": at, "input_length": 10 * n, "output_length": n, "hash_ids": [1, 2]})
    + "\n"
    for n, at in enumerate((0, 0, 3000, 3000, 6000), 20)
)


@dataclass(frozen=True)
class Phase:
    speed: float = 1.0
    duration_ns: int | None = None
    requests: int | None = None


@pytest.fixture
def file(tmp_path):
    def write(content, name="trace"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


@pytest.fixture
def replay(file):
    def make(content, seed=1, **more):
        return build("prod", ReplaySpec(kind="replay", data=file(content), **more), seed)

    return make


# -- files -----------------------------------------------------------------------------------------


def test_azure(file):
    found = traces.load(file(AZURE))
    assert found.instants.tolist() == [0, 20_040_000, 52_000_000], "ns from the first in time"
    assert found.prompts.tolist() == [4808, 7000, 3180], "put in order of time"
    assert found.outputs.tolist() == [10, 0, 8]
    assert (found.moved, found.invalid) == (1, 0)


def test_mooncake(file):
    found = traces.load(file(MOONCAKE))
    assert found.instants.tolist() == [0, 0, 3 * S, 3 * S, 6 * S], "milliseconds"
    assert found.prompts.tolist() == [200, 210, 220, 230, 240], "same instant: order of the file"
    assert found.outputs.tolist() == [20, 21, 22, 23, 24]
    assert found.moved == 0


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (gzip.compress(AZURE.encode()), "gzipped"),
        (b"\xef\xbb\xbf" + AZURE.replace("\n", "\r\n").encode(), "BOM and CRLF"),
        (AZURE.replace("\n", "\n\n"), "blank lines"),
        (AZURE.rstrip("\n"), "no end to the last line"),
        (AZURE.replace(",", " , "), "spaces"),
        (AZURE.replace(DAY, "2023-11-16T18:17:0"), "a T"),
        (AZURE.replace("3.9799600", "3.9799600+00:00").replace(DAY + "4,", DAY + "4Z,"), "zones"),
        (HEADER.replace("TIME", "x,TIME")
         + "".join(f"1,{row}\n" for row in AZURE.splitlines()[1:]), "a further column"),
    ],
)  # fmt: skip
def test_one_trace_in_many_dresses(file, content, why):
    found, plain = traces.load(file(content)), traces.load(file(AZURE, "plain"))
    assert found.instants.tolist() == plain.instants.tolist(), why
    assert found.prompts.tolist() == plain.prompts.tolist(), why


def test_zones_are_told_apart(file):
    found = traces.load(file(HEADER + f"{DAY}0+02:00,1,1\n{DAY}0Z,1,1\n{DAY}0,1,1\n"))
    assert found.instants.tolist() == [0, 7200 * S, 7200 * S], "without a zone it is UTC"


BROKEN = [
    ("", None, "is empty", "nothing"),
    ("\n\n", None, "is empty", "blank"),
    (HEADER, None, "no request in it", "a header alone"),
    ("a,b\n1,2\n", 1, "not a known trace: expected the header TIMESTAMP,ContextTokens", "header"),
    ('{"timestamp": 1}\n', 1, "not a known trace", "other JSON"),
    ("[" * 100_000, 1, "not a known trace", "nesting"),
    ("\xff\n", 1, "not a known trace", "no text"),
    (AZURE + "x,1,1\n", 5, "TIMESTAMP: expected a time such as 2023-11-16", "no time"),
    (AZURE + "2023-02-30 00:00:00,1,1\n", 5, "no such day", "no such day"),
    (AZURE + f"{DAY}5,1\n", 5, "2 columns: expected 3 as in the header", "a cut line"),
    (AZURE + f"{DAY}5,-1,1\n", 5, "ContextTokens: expected a whole number of tokens", "negative"),
    (AZURE + f"{DAY}5,1.5,1\n", 5, "ContextTokens: expected a whole number", "a fraction"),
    (AZURE + f"{DAY}5,1,\n", 5, "GeneratedTokens: expected a whole number", "empty"),
    (AZURE + f"{DAY}5,999999999999,1\n", 5, "expected 0 to 100,000,000 tokens", "too many"),
    (AZURE + "2026-11-16 18:17:03,1,1\n", 5, "more than a year from the first", "three years"),
    (AZURE + HEADER, 5, "TIMESTAMP: expected a time", "two files in one"),
    (MOONCAKE + "{\n", 6, "not JSON: expected an object", "cut JSON"),
    (MOONCAKE + '{"timestamp": 1, "input_length": "x", "output_length": 1}\n', 6,
     "Expected `int`, got `str` - at `$.input_length`", "text for a number"),
    (MOONCAKE + '{"timestamp": 1, "input_length": 1}\n', 6, "output_length", "a missing key"),
    (MOONCAKE + '{"timestamp": 1, "input_length": -1, "output_length": 1}\n', 6, "0 to", "minus"),
    (MOONCAKE + '{"timestamp": 1e300, "input_length": 1, "output_length": 1}\n', 6,
     "timestamp: expected milliseconds", "the end of time"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "line", "message", "why"), BROKEN)
def test_broken_files_are_errors_at_their_line(file, content, line, message, why):
    path = file(content.encode("latin-1"), "t.csv")
    with pytest.raises(DataError) as caught:
        traces.load(path)
    text = str(caught.value)
    assert message in text, why
    assert text.startswith(f"{path}:{line}: " if line else f"{path}: "), why
    assert "\n" not in text


@pytest.mark.parametrize(
    ("content", "line", "message", "why"), [row for row in BROKEN if row[1] and row[1] > 1]
)
def test_broken_lines_can_be_left_out_and_are_counted(file, content, line, message, why):
    found = traces.load(file(content.encode("latin-1")), skip_invalid=True)
    assert found.invalid == 1, why
    assert len(found.instants) == line - (2 if "TIME" in content else 1)


def test_files_that_end_the_patience(file, tmp_path, monkeypatch):
    monkeypatch.setattr(traces, "MAX_LINE_BYTES", 200)
    with pytest.raises(DataError, match=r":2: a line of more than"):
        traces.load(file(HEADER + "x" * 300))
    monkeypatch.setattr(traces, "MAX_REQUESTS", 2)
    with pytest.raises(DataError, match=r":4: more than 2 requests: cut it"):
        traces.load(file(AZURE))
    monkeypatch.setattr(traces, "MAX_FILE_BYTES", 60)
    with pytest.raises(DataError, match="larger than"):
        traces.load(file(AZURE))
    with pytest.raises(DataError, match="gzip data is damaged"):
        traces.load(file(gzip.compress(AZURE.encode())[:40]))
    with pytest.raises(DataError, match="cannot be read"):
        traces.load(tmp_path / "nowhere")


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_any_bytes_are_a_trace_or_a_data_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any"
    for head in (b"", HEADER.encode(), MOONCAKE.encode()):
        path.write_bytes(head + content)
        with suppress(DataError):
            assert len(traces.load(path, skip_invalid=True).instants)


# -- prompts ---------------------------------------------------------------------------------------


@given(
    lengths=st.lists(st.integers(0, 3000), min_size=1, max_size=5),
    encoding=st.sampled_from(sorted(tokens.VOCABULARIES)),
    system=st.sampled_from([None, "Be brief.", "Réponds en français. 🙂\n"]),
    ordinal=st.integers(0, 10**6),
)
@settings(max_examples=80, deadline=None)
def test_prompts_are_exactly_as_long_as_recorded(
    tmp_path_factory, lengths, encoding, system, ordinal
):
    path = tmp_path_factory.getbasetemp() / "lengths.csv"
    path.write_text(HEADER + "".join(f"{DAY}1,{n},{n + 1}\n" for n in lengths))
    workload = build("prod", ReplaySpec(kind="replay", data=str(path), system=system), 3)
    prompt = workload.prompt(Model(encoding=encoding), ordinal)
    asked = lengths[ordinal % len(lengths)]
    bare = [{"role": "user", "content": ""}]
    if system:
        bare.insert(0, {"role": "system", "content": system})
    least = tokens.chat_tokens(bare, encoding) + 2
    assert prompt.tokens == tokens.chat_tokens(prompt.messages, encoding) == max(asked, least)
    assert (prompt.asked_tokens, prompt.max_tokens) == (asked, asked + 1)
    assert prompt.cut_tokens == (None if asked >= least else least)
    assert prompt.messages[-1]["content"].strip()


def test_no_two_requests_start_alike(replay):
    workload = replay(MOONCAKE)
    texts = [workload.prompt(Model(), n).messages[0]["content"] for n in range(50)]
    texts += [workload.prompt(Model(name="other"), n).messages[0]["content"] for n in range(5)]
    assert len({text[:18] for text in texts}) == 55
    again = replay(MOONCAKE).prompt(Model(), 7).messages[0]["content"]
    assert again == texts[7], "the same for the same seed"
    assert replay(MOONCAKE, seed=2).prompt(Model(), 7).messages[0]["content"] != again


def test_settings_of_every_kind_hold(replay):
    workload = replay(MOONCAKE, extra_body={"temperature": 0})
    prompt = workload.prompt(Model(encoding=None, exact=False), 0)
    assert prompt.extra_body == {"temperature": 0}
    assert not prompt.exact, "an estimate says so"
    assert prompt.check is not None
    assert says(prompt, "yes")
    assert not says(prompt, " \n")
    assert replay(MOONCAKE, check=False).prompt(Model(), 0).check is None


# -- windows ---------------------------------------------------------------------------------------

SMALL = Model(context_window=241)
"""Holds prompts of 200 and 210 with their answers of 20 and 21, and of 220 and more without."""


def test_what_a_window_holds(replay):
    workload = replay(MOONCAKE.replace('"input_length": 240', '"input_length": 242'))
    sent = [workload.prompt(SMALL, n) for n in range(6)]
    assert [p.asked_tokens for p in sent] == [200, 210, 220, 230, 200, 210], "242 is left out"
    assert [p.tokens for p in sent] == [200, 210, 219, 218, 200, 210], "window − output"
    assert [p.cut_tokens for p in sent] == [None, None, 219, 218, None, None]
    assert workload.skipped(SMALL) == (
        "prod: 1 of 5 requests skipped for m (its window is 241 tokens)",
        "prod: 2 of 5 requests cut for m to what their answers leave (its window is 241 tokens)",
    )
    assert workload.expected_tokens(SMALL) == ((200 + 210 + 219 + 218) / 4, 21.5)
    assert workload.skipped(Model()) == ()
    assert workload.expected_tokens(Model()) == (220.4, 22)


def test_a_window_that_holds_nothing(replay):
    tiny = Model(context_window=25)
    workload = replay(MOONCAKE)
    assert not workload.serves(tiny)
    assert workload.expected_tokens(tiny) == (0, 0)
    assert workload.skipped(tiny) == (
        "prod: 5 of 5 requests skipped for m (its window is 25 tokens)",
    )
    with pytest.raises(ValueError, match="no request of the trace fits"):
        workload.prompt(tiny, 0)


def test_an_answer_alone_can_be_too_long(replay):
    workload = replay(HEADER + f"{DAY}1,10,500\n{DAY}2,10,5\n")
    assert [workload.prompt(Model(context_window=100), n).max_tokens for n in (0, 1)] == [5, 5]


def test_short_requests_are_said(replay):
    assert replay(HEADER + f"{DAY}1,3,0\n{DAY}2,50,1\n").skipped(Model()) == (
        "prod: 1 of 2 requests are shorter than a message for m: sent with 9",
    )


# -- streams ---------------------------------------------------------------------------------------


def test_an_arrival_gets_the_lengths_of_its_row(replay):
    workload = replay(MOONCAKE)
    small = Model(name="s", context_window=225)  # holds 200, 210 and 220
    alone, both = workload.stream([Model()], 7), workload.stream([Model(), small], 7)
    assert alone.instants.tolist() == [0, 0, 3 * S, 3 * S, 6 * S]
    assert both.instants.tolist() == [0, 0, 3 * S], "what one of them cannot take is left out"
    for stream, models in ((alone, [Model()]), (both, [Model(), small])):
        for index in range(len(stream.instants)):
            for model in models:
                prompt = workload.prompt(model, stream.ordinal(model, index))
                assert prompt.asked_tokens == 200 + 10 * index
    assert workload.stream([], 7).instants.tolist() == alone.instants.tolist()


def test_a_second_phase_sends_other_words_of_the_same_lengths(replay):
    workload = replay(MOONCAKE)
    first, second = (
        workload.prompt(Model(), workload.stream([Model()], lap).ordinal(Model(), 3))
        for lap in (1, 2)
    )
    assert first.tokens == second.tokens
    assert first.messages != second.messages


@pytest.mark.parametrize(
    ("phase", "requests", "rate", "error", "notice", "why"),
    [
        (Phase(duration_ns=3 * S), 2, 2 / 3, "", "", "the end is not in it"),
        (Phase(duration_ns=3 * S, speed=2), 4, 4 / 3, "", "", "twice as fast"),
        (Phase(duration_ns=10 * S), 5, 0.5, "", "its trace ends after 6s", "a quiet tail"),
        (Phase(duration_ns=4 * S, speed=2), 5, 1.25, "", "its trace ends after 3s", "and its end"),
        (Phase(requests=4), 4, 1, "", "", "three gaps in three seconds"),
        (Phase(requests=2), 2, None, "", "", "two at one instant have no rate"),
        (Phase(requests=6), 5, 4 / 6, "asks for 6 requests, its trace has 5", "", "too many"),
    ],
)
def test_what_a_phase_plays(replay, phase, requests, rate, error, notice, why):
    stream = replay(MOONCAKE).stream([Model()], 1)
    assert stream.requests(phase) == requests, why
    assert stream.rate(phase) == (None if rate is None else pytest.approx(rate)), why
    found = stream.shortfall(phase)
    assert (found[0].startswith(error), found[1].startswith(notice)) == (True, True), why
    assert tuple(map(bool, found)) == (bool(error), bool(notice)), why


def test_a_phase_before_the_first_request_that_fits(replay):
    late = Model(context_window=100)
    stream = replay(HEADER + f"{DAY}0,900,1\n{DAY}8,50,1\n").stream([late], 1)
    assert stream.shortfall(Phase(duration_ns=4 * S))[0] == (
        "no request of the trace falls into it; the first that fits comes after 8s"
    )
    assert stream.shortfall(Phase(duration_ns=4 * S, speed=4))[0] == ""


# -- a whole scenario ------------------------------------------------------------------------------

SCENARIO = """\
version: 1
target: simulator
models: [gpt-4o-mini, gpt-4]
workloads:
  prod: {kind: replay, data: trace}
load:
  - {phase: measure, duration: 5s, arrival: trace}
  - {phase: measure, requests: 4, arrival: trace, speed: 2}
"""


def opened(tmp_path, *changes, content=MOONCAKE):
    (tmp_path / "trace").write_text(content)
    text = SCENARIO
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    (tmp_path / "s.yaml").write_text(text)
    return open_session(Choice(file=str(tmp_path / "s.yaml")))


def test_a_session_knows_what_its_trace_holds(tmp_path):
    session = opened(tmp_path)
    counted = [session.scenario.expected(phase, session.reach) for phase in session.scenario.load]
    assert [found["gpt-4", "prod"] for found in counted] == [4, 4]
    plan = session.plan([])
    assert [plan.rates(phase) for phase in session.scenario.load] == [
        {"gpt-4o-mini": 0.8, "gpt-4": 0.8},
        {"gpt-4o-mini": pytest.approx(2), "gpt-4": pytest.approx(2)},
    ]
    mini = session.models["gpt-4o-mini"].cost_usd(220, 22)
    four = session.models["gpt-4"].cost_usd(220, 22)
    assert estimate_usd(session).usd == pytest.approx(8 * (mini + four))
    assert scenario.parse(scenario.to_yaml(session.scenario)) == session.scenario


def test_per_total_deals_one_trace_out(tmp_path):
    session = opened(tmp_path, ("workloads:", "per: total\nworkloads:"))
    phase = session.scenario.load[0]
    counted = session.scenario.expected(phase, session.reach)
    assert counted == {("gpt-4o-mini", "prod"): 2, ("gpt-4", "prod"): 2}
    assert session.plan([]).rates(phase) == {"gpt-4o-mini": 0.4, "gpt-4": 0.4}


def test_each_phase_has_words_of_its_own(tmp_path):
    session = opened(tmp_path)
    plan, replayed = session.plan([]), session.workloads["prod"]
    model = session.models["gpt-4"]
    laps = [plan.stream(phase, [("gpt-4", "prod")]) for phase in session.scenario.load]
    texts = {str(replayed.prompt(model, lap.ordinal(model, 1)).messages) for lap in laps}
    texts.add(str(replayed.prompt(model, 1).messages))
    assert len(texts) == 3


def test_notices_of_a_trace(tmp_path):
    late = MOONCAKE + '{"timestamp": 1000, "input_length": 9, "output_length": 1}\n'
    session = opened(tmp_path, ("duration: 5s", "duration: 9s"), content=late)
    moved = "workload prod: 1 of its trace stood out of order, put in order of time"
    assert moved in session.notices
    tail = "phase measure: its trace ends after 6s, nothing arrives from then on"
    assert session.notices.count(tail) == 1, "once, not once a model"


@pytest.mark.parametrize(
    ("old", "new", "kind", "message"),
    [
        ("requests: 4", "requests: 40", UsageError, "phase measure-2: asks for 40 requests, its"),
        ("data: trace", "data: nowhere", DataError, "nowhere: cannot be read"),
    ],
)
def test_a_plan_that_its_trace_cannot_fill(tmp_path, old, new, kind, message):
    with pytest.raises(kind, match=message):
        opened(tmp_path, (old, new))


def test_a_trace_of_real_size_is_read_in_bounded_memory(file):
    """16 bytes a request: 100,000 rows of Python numbers alone would be 10 MB."""
    rows = "".join(f"2023-11-16 18:{n // 60 % 60:02d}:{n % 60:02d},{n % 5000},7\n" for n in
                   range(100_000))  # fmt: skip
    found = traces.load(file(HEADER + rows))
    held = sum(one.nbytes for one in (found.instants, found.prompts, found.outputs))
    assert held == 16 * 100_000
    assert found.prompts.dtype == np.int32
