"""The short cut through plain streams: what it takes, and that nobody can tell it was taken."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loadlib import answer as answer_module
from loadlib import sse
from loadlib.answer import Answer, decode
from loadlib.sse import EventDecoder, plain_stream
from loadlib.tape import Tape

Decode = Callable[[Tape], Answer]


def chunk(finish: str | None = None, **delta: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return json.dumps({"id": "c", "created": 1, "choices": [choice]}).encode()


def lf(*values: bytes) -> bytes:
    return b"".join(b"data: " + value + b"\n\n" for value in values)


A, B = chunk(content="a"), chunk(content="} \n\n{ data: [DONE]\r\n é")
ROLE, STOP, DONE = chunk(role="assistant", content=""), chunk("stop"), b"[DONE]"
USAGE = b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}'
REASONED, REFUSED = chunk(reasoning_content="r", content=None), chunk(refusal="no")
CALL = chunk(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": "{"}}])
ERROR = b'{"error":{"message":"x"},"choices":[{"delta":{"content":"lost"}}]}'
TWO_CHOICES = b'{"choices":[{"delta":{"content":"x"}},{"delta":{"content":"y"}}]}'

# Each could hide among others if only the number of values were compared.
TWO_VALUES = b"{} {}"
HALVES = [b'{"x":[{"y":1}', b'{"z":2}]}']
KEY_AND_VALUE = [b'{"x":', b'"}{"}']
HALVES_OF_A_STRING = [b'{"x":"}', b'{"}']


def tape_of(stream: bytes, cuts: list[int], coding: str = "") -> Tape:
    """The n-th read arrived at 10·n ns; two cuts at one place make an empty read."""
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    reads = [(10 * n, stream[a:b]) for n, (a, b) in enumerate(pairwise(edges), 1)]
    headers = {"content-type": "text/event-stream", "content-encoding": coding}
    return Tape.of(reads, status=200, headers=headers)


def short_cut(tape: Tape) -> Answer | None:
    return answer_module._read_plain(tape, None)


def event_by_event(tape: Tape) -> Answer:
    return answer_module._read_any(tape, tape.is_stream)


def fields(answer: Answer) -> dict[str, Any]:
    """All an answer says, the order in which kinds of text came included."""
    found = {field.name: getattr(answer, field.name) for field in dataclasses.fields(answer)}
    assert answer.event_ns.dtype == "int64"
    return found | {"event_ns": answer.event_ns.tolist(), "kinds": list(answer.parts)}


# stream, whether the short cut takes it, reason
FORMS: list[tuple[bytes, bool, str]] = [
    (lf(ROLE, A, B, STOP, USAGE, DONE), True, "what servers send"),
    (lf(ROLE, A, B, STOP), True, "without [DONE]"),
    (lf(ROLE, A).replace(b"\n", b"\r\n"), True, "CRLF"),
    (lf(A, DONE).replace(b"\n", b"\r\n"), True, "CRLF and [DONE]"),
    (lf(A, B, DONE).replace(b"data: ", b"data:"), True, "no space after the colon"),
    (lf(REASONED, CALL, REFUSED, TWO_CHOICES, ERROR, A), True, "chunks of any other shape"),
    (lf(b"{}"), True, "an object that says nothing"),
    (lf(), False, "nothing"),
    (lf(DONE), False, "no event but the end"),
    (lf(A, DONE, B), False, "data after [DONE]"),
    (lf(A, DONE, DONE), False, "a second [DONE]"),
    (lf(A)[:-1], False, "an unterminated last event"),
    (lf(A)[:-9], False, "a truncated last event"),
    (lf(A, DONE)[:-1], False, "an unterminated [DONE]"),
    (lf(A).replace(b"\n", b"\r"), False, "CR alone"),
    (lf(A) + lf(B).replace(b"\n", b"\r\n"), False, "two kinds of line end"),
    (lf(A, B, DONE).replace(b"\n\n", b"\r\n\n", 1), False, "two kinds in one event"),
    (lf(A) + lf(B).replace(b"data: ", b"data:"), False, "with a space and without"),
    (b": ping\n\n" + lf(A), False, "a comment before"),
    (lf(A) + b": ping\n\n" + lf(A), False, "a comment between"),
    (lf(A) + b": ping\n\n", False, "a comment after"),
    (lf(A) + b"\n\n" + lf(B), False, "blank lines between"),
    (lf(A) + b"\n\n", False, "blank lines after"),
    (b"event: error\n" + lf(A), False, "a named event"),
    (lf(A) + b"event:" + A + b"\n\n" + lf(B), False, "a name as long as `data: `"),
    (lf(A)[:-1] + b":\n" + lf(B), False, "a comment where a blank line should be"),
    (lf(A, b'{"x":\r1}', B), False, "a CR where JSON has room for one"),
    (lf(A, b'{"x":\r1}', B).replace(b"\n", b"\r\n"), False, "the same among CRLF"),
    (lf(A) + b"id: 1\n" + lf(A), False, "an id"),
    (b'data: {"x":\ndata: 1}\n\n' + lf(A), False, "two lines of data in one event"),
    (b"\xef\xbb\xbf" + lf(A), False, "byte order mark"),
    (lf(A, b"", B), False, "blank data"),
    (lf(A, b"{broken", B), False, "no JSON"),
    (lf(A, b"{broken}", B), False, "no JSON between braces"),
    (lf(A, b"[]", B), False, "another type"),
    (lf(A, b'{"choices":7}', B), False, "another schema"),
    (lf(A.replace(b"a\"}", b"\xff\"}"), B), False, "not UTF-8"),
    (lf(b'{"x":' + b"[" * 9000 + b"]" * 9000 + b"}", A), False, "nested too deeply"),
    (lf(TWO_VALUES, A), False, "two values in one event"),
    (lf(*HALVES, A), False, "one value in two events"),
    (lf(TWO_VALUES, *HALVES, A), False, "both, and the number of values is right"),
    (lf(TWO_VALUES, *KEY_AND_VALUE, A), False, "the same, cut behind a key"),
    (lf(TWO_VALUES, *HALVES_OF_A_STRING, A), False, "the same, cut inside a string"),
]  # fmt: skip


@pytest.mark.parametrize("batch", [1, 2, 500])
@pytest.mark.parametrize(("stream", "taken", "reason"), FORMS, ids=[row[2] for row in FORMS])
def test_which_streams_are_plain(
    stream: bytes, taken: bool, reason: str, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_module, "BATCH", batch)
    for size in (1, 7, 400):
        tape = tape_of(stream, list(range(0, len(stream), size)))
        assert (short_cut(tape) is not None) is taken, reason
        assert fields(decode(tape)) == fields(event_by_event(tape)), reason


@pytest.mark.parametrize(
    "also",
    [{}, {"finish": "stop"}, {"refusal": "no"}, {"reasoning": "r"}, {"reasoning_content": "r"},
     {"refusal": ""}, {"tool_calls": []}, {"tool_calls": [{"function": {"arguments": "{"}}]}],
    ids=str,
)  # fmt: skip
def test_text_beside_something_else(also: dict[str, Any]) -> None:
    for stream in (lf(chunk(content="x", **also), A), lf(A, chunk(content="x", **also))):
        tape = tape_of(stream, [])
        assert fields(short_cut(tape) or Answer()) == fields(event_by_event(tape))


def test_every_split_in_two() -> None:
    stream = lf(ROLE, A, REASONED, B, STOP, DONE)
    for form in (stream, stream.replace(b"\n", b"\r\n")):
        for cut in range(len(form) + 1):
            tape = tape_of(form, [cut])
            assert fields(short_cut(tape) or Answer()) == fields(event_by_event(tape))


VALUES = st.sampled_from(
    [ROLE, A, A, A, B, REASONED, CALL, REFUSED, TWO_CHOICES, STOP, USAGE, ERROR, b"{}",
     chunk("stop", content="z"), chunk(content="x", refusal=""), chunk(content="x", tool_calls=[]),
     chunk(content=7), b'{"choices":[{"message":{"content":"m"}}]}', b'{"choices":[{}]}']
)  # fmt: skip
ODD = st.sampled_from(
    [DONE, b"", b"{broken}", b"[]", b"{} ", TWO_VALUES, *HALVES, *KEY_AND_VALUE,
     *HALVES_OF_A_STRING, b"{\n}", b'{"x":\ndata: 1}', b"{}\n: ping", b"{}\nevent: error", b"{}\r"]
)  # fmt: skip
ENDS = st.sampled_from([b"\n", b"\n", b"\r\n"])


def spelled(values: list[bytes], end: bytes, space: bytes, around: tuple[bytes, bytes]) -> bytes:
    before, after = around
    events = b"".join(b"data:" + space + value + b"\n\n" for value in values)
    return (before + events + after).replace(b"\n", end)


PLAIN = st.builds(
    spelled,
    st.lists(VALUES, min_size=1, max_size=8),
    ENDS,
    st.just(b" "),
    st.sampled_from([(b"", lf(DONE)), (b"", b"")]),
)
AROUND = st.tuples(
    st.sampled_from([b"", b"", b"\xef\xbb\xbf", b": ping\n\n", b"\n", b"event: x\n"]),
    st.sampled_from([b"", lf(DONE), lf(DONE)[:-1], lf(DONE)[:-2], lf(A)[:9], lf(A)[:-1]])
    | st.sampled_from([b"\n", b"data:[DONE]\n\n", b"data: [DONE]\r\n\r\n", lf(DONE, A)]),
)
MIXED = st.builds(
    spelled,
    st.lists(VALUES | VALUES | ODD, max_size=8),
    ENDS | st.just(b"\r"),
    st.sampled_from([b" ", b" ", b"", b"  "]),
    AROUND,
)
STREAMS = PLAIN | MIXED
CUTS = st.lists(st.integers(0, 900), max_size=12)


@given(STREAMS, CUTS, st.sampled_from(["", "", "identity", "br"]))
@example(lf(A, B, DONE), [], "gzip")
def test_the_answer_does_not_tell_how_it_was_read(
    stream: bytes, cuts: list[int], coding: str
) -> None:
    tape = tape_of(stream, cuts, coding)
    assert fields(decode(tape)) == fields(event_by_event(tape))


@given(STREAMS)
def test_lines_and_ends_are_those_of_the_decoder(stream: bytes) -> None:
    found = plain_stream(stream)
    lines = None if found is None else found.lines(0, len(found.stops))
    if found is None or lines is None:
        return
    decoder, events, ends = EventDecoder(), [], []
    for at in range(len(stream)):
        for event in decoder.feed(stream[at : at + 1]):
            events.append(event.data.strip())
            ends.append(at + 1)
    if found.done:
        assert events.pop() == DONE
        ends.pop()
    assert [line.strip() for line in lines.split(b"\n")] == events
    assert found.ends.tolist() == ends


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 6, 7])
def test_batches_change_nothing_and_let_others_run(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_module, "BATCH", batch)
    for stream in (lf(ROLE, A, REASONED, B, A, STOP), lf(ROLE, A, A, A, TWO_VALUES, A)):
        for form in (stream, stream.replace(b"\n", b"\r\n")):
            tape, pauses = tape_of(form, [100, 300]), list[int]()
            found = decode(tape, lambda pauses=pauses: pauses.append(1))
            assert fields(found) == fields(event_by_event(tape))
            if found.malformed is None:
                assert len(pauses) == -(-6 // batch) - 1, "between batches, not around them"


def test_others_run_while_an_odd_stream_is_read_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_module, "BATCH", 10)
    tape = tape_of(b": ping\n\n" + lf(A) * 50, [8 + len(lf(A)) * n for n in range(50)])
    pauses = list[int]()
    assert fields(decode(tape, lambda: pauses.append(1))) == fields(decode(tape))
    assert len(pauses) == 9, "before every fifth read or so: it and its event are two steps"


def test_a_body_of_more_than_one_event_may_be_is_read_event_by_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 200)
    for stream in (lf(A, A, A, DONE), lf(chunk(content="x" * 200))):
        tape = tape_of(stream, [])
        assert short_cut(tape) is None
        assert fields(decode(tape)) == fields(event_by_event(tape))


def test_the_short_cut_is_one() -> None:
    """It is three times as fast; half of that must show on any machine."""
    stream = lf(ROLE, *[chunk(content=f" word{n}") for n in range(400)], STOP, USAGE, DONE)
    tape = tape_of(stream, [at + 2 for at in range(len(stream)) if stream.startswith(b"\n\n", at)])

    def best(read: Decode) -> float:
        times = []
        for _ in range(15):
            start = time.perf_counter()
            read(tape)
            times.append(time.perf_counter() - start)
        return min(times)

    assert best(event_by_event) > 1.5 * best(decode)
