"""What a response said: known answers, hostile input, and one idea of what a token is."""

from __future__ import annotations

import gzip
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadlib import tape as tape_module
from loadlib.answer import Answer, FirstToken, decode
from loadlib.tape import Tape

DONE = b"data: [DONE]\n\n"


def sse(*events: object) -> bytes:
    """Events as a server sends them; bytes are sent as they are."""
    return b"".join(
        event if isinstance(event, bytes) else b"data: " + json.dumps(event).encode() + b"\n\n"
        for event in events
    )


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}], "usage": None}


def call(index: object = 0, name: str | None = None, arguments: object = None) -> dict[str, Any]:
    return delta(tool_calls=[{"index": index, "function": {"name": name, "arguments": arguments}}])


def usage(sent: object, got: object, **more: Any) -> dict[str, Any]:
    return {"choices": [], "usage": {"prompt_tokens": sent, "completion_tokens": got, **more}}


def read(*reads: bytes, **headers: str) -> Answer:
    """Decode a stream whose n-th read arrived at n·10 ns."""
    named = {"content-type": "text/event-stream"}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    return decode(Tape.of([(10 * n, r) for n, r in enumerate(reads, 1)], status=200, headers=named))


def first_token_at(*reads: bytes) -> int | None:
    first = FirstToken()
    for number, data in enumerate(reads, 1):
        if first.feed(data):
            return 10 * number
    return None


ROLE = delta(role="assistant", content="")
A, B = delta(content="a"), delta(content="b")
STOP = delta(finish="stop")

# reads, (token instants, first output), reason
TIMES: list[tuple[list[bytes], tuple[list[int], int | None], str]] = [
    ([sse(ROLE), sse(A), sse(B), sse(STOP, DONE)], ([20, 30], 20), "the role chunk is no token"),
    ([sse(delta(role="assistant", content=None)), sse(A)], ([20], 20), "nor with null content"),
    ([b": keep-alive\n\n", sse(A)], ([20], 20), "a comment is no token"),
    ([sse({"choices": []}), sse(A)], ([20], 20), "no choices, no token"),
    ([sse(delta()), sse(delta(content="")), sse(A)], ([30], 30), "nor is anything empty"),
    ([b"data:\n\n", sse(A)], ([20], 20), "blank data says nothing"),
    ([sse(ROLE, A), sse(B)], ([10, 20], 10), "role chunk and token in one read"),
    ([sse(A, B), sse(A)], ([10, 10, 20], 10), "two events in one read share its instant"),
    (
        [sse(delta(reasoning_content="r")), sse(delta(reasoning="s")), sse(A)],
        ([10, 20, 30], 30),
        "reasoning is a token, but not of the answer",
    ),
    (
        [sse(delta(reasoning_content="", content="a"))],
        ([10], 10),
        "an empty reasoning field beside content",
    ),
    (
        [sse(delta(reasoning_content="", reasoning="r")), sse(A)],
        ([10, 20], 20),
        "both spellings, one of them empty",
    ),
    (
        [sse(call(0, "look", "")), sse(call(0, None, '{"a":')), sse(call(0, None, "1}"))],
        ([10, 20, 30], 10),
        "tool calls are the answer",
    ),
    ([sse(call(0, None, "")), sse(call(0, "", ""))], ([], None), "empty tool-call deltas"),
    ([sse(delta(tool_calls=[])), sse(delta(tool_calls=None))], ([], None), "no tool calls"),
    ([sse(delta(refusal="no"))], ([10], 10), "a refusal is an answer"),
    ([sse(STOP), sse(usage(3, 0)), DONE], ([], None), "no token at all"),
    ([sse(A), sse(usage(3, 1)), DONE], ([10], 10), "the usage chunk is no token"),
    ([sse(A), DONE, sse(B)], ([10], 10), "what follows [DONE] does not count"),
    ([DONE, sse(A)], ([], None), "even if there was nothing before"),
    ([sse({"error": {"message": "x"}, **A}), sse(B)], ([20], 20), "an error object is no token"),
    ([b"event: error\n" + sse(A), sse(B)], ([20], 20), "nor is an event named error"),
    ([b"data: {broken\n\n", sse(A)], ([20], 20), "nor what is no JSON"),
    ([sse(A)[:9], sse(A)[9:-1], b"\n"], ([30], 30), "a token is there when its event ends"),
]


@pytest.mark.parametrize(("reads", "expected", "reason"), TIMES, ids=[row[2] for row in TIMES])
def test_when_tokens_came(
    reads: list[bytes], expected: tuple[list[int], int | None], reason: str
) -> None:
    answer = read(*reads)
    assert (answer.event_ns.tolist(), answer.first_output_ns) == expected
    assert first_token_at(*reads) == (expected[0][0] if expected[0] else None)


def test_when_the_first_call_began() -> None:
    named, arguments = sse(call(0, "look", "")), sse(call(0, None, "{}"))
    silent = read(sse(ROLE), named, arguments)
    assert silent.first_call_ns == silent.first_output_ns == 20, "nothing before it: it is ttfo"
    spoken = read(sse(ROLE), sse(delta(reasoning="hm")), sse(A), sse(call(0, "", "")), named)
    assert (spoken.first_output_ns, spoken.first_call_ns) == (30, 50), "said first, then called"
    assert read(sse(A), sse(B)).first_call_ns is None


def test_events_of_one_read_are_counted_as_coalesced() -> None:
    answer = read(sse(ROLE, A), sse(A, B, A), sse(B), sse(A, STOP, DONE))
    assert answer.event_ns.tolist() == [10, 20, 20, 20, 30, 40]
    assert answer.coalesced == 2


def test_the_longest_silence_of_a_stream() -> None:
    assert read(sse(ROLE, A), sse(B), sse(ROLE), sse(A, B), sse(STOP)).longest_gap_ns == 20
    assert read(sse(A, B)).longest_gap_ns == 0, "two in one read: none that anyone saw"
    assert read(sse(ROLE, A), sse(DONE)).longest_gap_ns is None, "one event has no gap"
    assert read().longest_gap_ns is None


def test_texts_by_kind() -> None:
    answer = read(
        sse(delta(reasoning_content="hm ")), sse(delta(reasoning="ok")), sse(A, B),
        sse(delta(refusal="no")), sse(call(0, "f", '{"x"')), sse(call(1, "g", "{}")),
        sse(call(0, None, ":1}")), sse(delta(finish="tool_calls"), DONE),
    )  # fmt: skip
    assert answer.text == "ab"
    assert {kind: "".join(parts) for kind, parts in answer.parts.items()} == {
        "reasoning": "hm ok", "text": "ab", "refusal": "no",
    }  # fmt: skip
    assert answer.tool_calls == {0: ["f", '{"x":1}'], 1: ["g", "{}"]}
    assert answer.generated == 'hm okabnof{"x":1}g{}'
    assert answer.finish_reason == "tool_calls"
    assert answer.done
    assert answer.malformed is None
    assert answer.error is None


@pytest.mark.parametrize(
    ("reads", "complete", "reason"),
    [
        ([sse(A, STOP, DONE)], True, "both ends"),
        ([sse(A, STOP)], True, "no [DONE]"),
        ([sse(A, DONE)], True, "no finish_reason"),
        ([sse(A), b"data: [DONE]"], True, "an unterminated [DONE]"),
        ([sse(A), sse(STOP)[:-2]], True, "an unterminated last event"),
        ([sse(A)], False, "neither"),
        ([sse(delta(finish="", content="a"))], False, "some servers write an empty finish_reason"),
        ([sse(A), sse(STOP)[:-9]], False, "cut inside an event: not malformed, but not over"),
        ([sse(A), b"data: [DON"], False, "cut inside [DONE]"),
        ([], False, "nothing"),
    ],
)
def test_whether_it_has_an_end(reads: list[bytes], complete: bool, reason: str) -> None:
    answer = read(*reads)
    assert answer.complete is complete, reason
    assert answer.malformed is None, reason


DETAILS = {
    "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


@pytest.mark.parametrize(
    ("events", "counts", "reason"),
    [
        ([usage(9, 5, **DETAILS)], (9, 5, 4, 2), "all of them"),
        ([usage(9, 5)], (9, 5, None, None), "unknown stays unknown"),
        ([usage(9, 0)], (9, 0, None, None), "0 is a number"),
        ([usage(9, 1), usage(9, 2), usage(9, 3)], (9, 3, None, None), "running totals: the last"),
        ([{**A, **usage(9, 1), "choices": A["choices"]}], (9, 1, None, None), "beside content"),
        ([usage(9, 5), {"choices": [], "usage": None}], (9, 5, None, None), "null afterwards"),
        ([usage(9, 5), usage(None, None)], (9, 5, None, None), "nulls afterwards"),
        ([usage(9, 5, prompt_tokens_details=None)], (9, 5, None, None), "details null"),
        ([usage(9.0, 5.0)], (9, 5, None, None), "whole numbers written with a point"),
        ([usage(9.5, "5")], (None, None, None, None), "neither of them a count"),
        ([usage(-1, 5)], (None, 5, None, None), "negative"),
        ([usage(True, 5)], (None, 5, None, None), "a truth value"),
        ([usage(10**30, 5)], (None, 5, None, None), "beyond belief"),
        ([], (None, None, None, None), "no usage"),
    ],
)  # fmt: skip
def test_usage(events: list[object], counts: tuple[int | None, ...], reason: str) -> None:
    answer = read(sse(A), sse(*events), DONE)
    found = (
        answer.input_tokens, answer.output_tokens, answer.cached_tokens, answer.reasoning_tokens,
    )  # fmt: skip
    assert found == counts, reason
    assert answer.malformed is None
    assert len(answer.event_ns) == 1 + ("content" in str(events))


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ({"error": {"message": "overloaded", "code": 500}}, "overloaded"),
        ({"error": {"code": "oom"}}, "oom"),
        ({"error": "plain words"}, "plain words"),
        ({"error": ["a", "list"]}, "['a', 'list']"),
        (b"event: error\ndata: {}\n\n", "error event"),
        (b'event: error\ndata: {"error": {"message": "x"}}\n\n', "x"),
    ],
)
def test_an_error_in_the_stream(event: object, words: str) -> None:
    assert read(sse(A, event), sse({"error": "a second one"}), DONE).error == words


@pytest.mark.parametrize("value", [None, "", {}, []])
def test_an_empty_error_is_none(value: object) -> None:
    answer = read(sse({**A, "error": value}, STOP, DONE))
    assert answer.error is None
    assert answer.text == "a"


DEEP = b"[" * 100_000 + b"]" * 100_000
HOSTILE = [
    b"data: {broken\n\n",
    b"data: []\n\n",
    b"data: null\n\n",
    b"data: 1e999\n\n",
    b'data: {"choices": {}}\n\n',
    b'data: {"choices": [null]}\n\n',
    b'data: {"choices": [{"delta": {"content": "\xff\xfe"}}]}\n\n',
    b'data: {"choices": [{"delta": {"content": "\\ud800"}}]}\n\n',
    b'data: {"choices": [{"delta": {"tool_calls": [1]}}]}\n\n',
    b'data: {"x": ' + DEEP + b"}\n\n",
    b'data: {"usage": {"prompt_tokens": ' + b"9" * 5000 + b"}}\n\n",
]


@pytest.mark.parametrize("event", HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_no_chunk_is_malformed_and_the_rest_is_still_read(event: bytes) -> None:
    answer = read(sse(A), event, sse(B, STOP, DONE))
    assert answer.malformed is not None
    assert answer.malformed.startswith("not a chat completion chunk: ")
    assert len(answer.malformed) < 5000
    assert answer.text == "ab"
    assert answer.complete


@pytest.mark.parametrize(
    "event",
    [
        delta(content=["a", "list"]),
        delta(content=7),
        delta(content={"a": 1}),
        delta(reasoning_content=True),
        call([1], 7, {"a": 1}),
        {"choices": None},
        {"choices": [{}]},
        {"choices": [{"delta": None, "finish_reason": 7}]},
        {"object": "ping"},
    ],
    ids=str,
)
def test_fields_of_another_type_do_not_break_anything(event: object) -> None:
    answer = read(sse(event, A, STOP, DONE))
    assert answer.malformed is None
    assert answer.text == "a"


def test_an_error_nested_deeply_is_only_words() -> None:
    for depth in (10, 500, 900, 5000):
        answer = read(b'data: {"error": ' + b"[" * depth + b"]" * depth + b"}\n\n")
        assert answer.error or answer.malformed


def test_many_small_pieces_of_a_tool_call_are_joined_once() -> None:
    """Added to one string they would be half a terabyte of copies."""
    piece = sse(call(0, None, "x" * 50))
    answer = read(sse(call(0, "f", "")), piece * 20_000, DONE)
    assert answer.tool_calls == {0: ["f", "x" * 1_000_000]}
    assert len(answer.event_ns) == 20_001


# -- responses that are no stream ---------------------------------------------------------------


def whole(body: object, **headers: str) -> Answer:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {"content-type": "application/json"}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    half = len(data) // 2
    return decode(Tape.of([(10, data[:half]), (20, data[half:])], status=200, headers=named))


COMPLETION = {
    "choices": [{"message": {"role": "assistant", "content": "hi"}, "finish_reason": "length"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 1},
}


def test_one_json_object() -> None:
    answer = whole(COMPLETION)
    assert (answer.text, answer.finish_reason, answer.done) == ("hi", "length", True)
    assert (answer.input_tokens, answer.output_tokens) == (9, 1)
    assert answer.event_ns.size == 0, "it has no first token of its own"
    assert answer.first_output_ns is None
    assert answer.first_call_ns is None


def test_one_json_object_with_a_tool_call() -> None:
    function = {"name": "f", "arguments": "{}"}
    answer = whole({"choices": [{"message": {"content": None, "tool_calls": [
        {"id": "x", "type": "function", "function": function}]}}]})  # fmt: skip
    assert answer.tool_calls == {0: ["f", "{}"]}


@pytest.mark.parametrize(
    "body",
    [b"<!doctype html><h1>Bad gateway</h1>", b"", b"{}", b"[1]", b"\xff\xfe", DEEP, b'{"error":0}'],
    ids=["html", "empty", "object", "array", "bytes", "deep", "error 0"],
)
def test_other_pages_are_malformed(body: bytes) -> None:
    answer = whole(body)
    assert answer.malformed
    assert answer.malformed.startswith("not a chat completion: ")
    assert not answer.complete


def test_an_error_object_with_status_200() -> None:
    assert whole({"error": {"message": "no"}}).error == "no"


def test_a_stream_where_json_was_promised() -> None:
    assert whole(sse(ROLE, A, STOP, DONE)).text == "a"


# -- content codings ----------------------------------------------------------------------------


def test_a_gzipped_stream_is_read_and_its_first_token_found() -> None:
    packed = gzip.compress(sse(ROLE, A, STOP, DONE))
    reads = [packed[at : at + 9] for at in range(0, len(packed), 9)]
    answer = read(*reads, content_encoding="gzip")
    assert answer.text == "a"
    first = FirstToken({"content-encoding": "gzip"})
    seen = [first.feed(data) for data in reads]
    assert answer.event_ns.tolist() == [10 * (seen.index(True) + 1)]


def test_a_bomb_is_malformed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tape_module, "MAX_BODY_BYTES", 1000)
    bomb = gzip.compress(b"\0" * 100_000)
    assert "inflates past" in (whole(bomb, content_encoding="gzip").malformed or "")
    assert "inflates past" in (read(bomb, content_encoding="gzip").malformed or "")
    first = FirstToken({"content-encoding": "gzip"})
    assert not first.feed(bomb)
    assert not first.feed(sse(A)), "nothing can follow"


def test_brotli_is_malformed() -> None:
    assert "refused" in (whole(b"\x0b\x02", content_encoding="br").malformed or "")


# -- one idea of a token ------------------------------------------------------------------------

EVENTS = st.sampled_from(
    [ROLE, A, B, STOP, delta(content=None), delta(reasoning="r"), delta(refusal="no"),
     call(0, "f", ""), call(0, None, ""), usage(3, 1), {"error": {"message": "x"}}, {**A, "error":
     "x"}, b"event: error\n" + sse(A), b": comment\n\n", b"data:\n\n", b"data: {broken\n\n", DONE]
)  # fmt: skip


@given(st.lists(EVENTS, max_size=8), st.lists(st.integers(1, 400), max_size=6))
def test_the_running_view_and_the_decoded_one_agree(events: list[object], cuts: list[int]) -> None:
    stream = sse(*events)
    edges = sorted({0, len(stream), *(min(cut, len(stream)) for cut in cuts)})
    reads = [stream[a:b] for a, b in pairwise(edges)]
    instants = read(*reads).event_ns.tolist()
    assert first_token_at(*reads) == (instants[0] if instants else None)


@given(st.binary(max_size=300), st.integers(1, 50))
def test_nothing_a_server_sends_raises(body: bytes, step: int) -> None:
    reads = [body[at : at + step] for at in range(0, len(body), step)]
    for kind in ("text/event-stream", "application/json", ""):
        for coding in ("identity", "gzip", "br"):
            read(*reads, content_type=kind, content_encoding=coding)
            first = FirstToken({"content-encoding": coding})
            assert not [data for data in reads if first.feed(data)]
