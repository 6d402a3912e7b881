"""SSE decoding: the grammar as a table, and the same events under every split of the bytes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadlib import sse
from loadlib.sse import Event, EventDecoder, EventTooLongError


def decode(*chunks: bytes) -> list[Event]:
    decoder = EventDecoder()
    events = [event for chunk in chunks for event in decoder.feed(chunk)]
    return events + decoder.close()


def data(*texts: bytes) -> list[Event]:
    return [Event(b"", text) for text in texts]


@pytest.mark.parametrize(
    ("stream", "events", "reason"),
    [
        (b"data: a\n\ndata: b\n\n", data(b"a", b"b"), "LF"),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", data(b"a", b"b"), "CRLF"),
        (b"data: a\r\rdata: b\r\r", data(b"a", b"b"), "CR"),
        (b"data: a\r\n\rdata: b\n\r\n", data(b"a", b"b"), "all three"),
        (b"\xef\xbb\xbfdata: a\n\n", data(b"a"), "one byte order mark is skipped"),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", [], "a second one is part of a field name"),
        (b": hello\n\n:\n\ndata: a\n\n", data(b"a"), "comments are no events"),
        (b"data: a\n: in between\ndata: b\n\n", data(b"a\nb"), "lines of data are joined by LF"),
        (b"data:a\ndata:  b\n\n", data(b"a\n b"), "one space after the colon is dropped"),
        (b"data\n\n", data(b""), "a field without a colon has an empty value"),
        (b"data:\n\n", data(b""), "empty data is an event"),
        (b"event: error\ndata: a\n\ndata: b\n\n", [Event(b"error", b"a"), *data(b"b")], "names"),
        (b"event: ping\n\ndata: a\n\n", data(b"a"), "no data, no event; the name does not stay"),
        (b"id: 7\nretry: 5\nfoo: bar\nfoo\ndata: a\n\n", data(b"a"), "unknown fields"),
        (b"Data: a\n data: b\n\n", [], "names are exact"),
        (b"data: a", data(b"a"), "unterminated line at the end"),
        (b"data: a\n", data(b"a"), "unterminated event at the end"),
        (b"data: a\r", data(b"a"), "the same, CR"),
        (b"data: a\rb: c\n\n", data(b"a"), "a CR inside what looks like one line"),
        (b"data: a\ndata: b\n\n", data(b"a\nb"), "an event in two lines, whole"),
        (b"\n\n\n", [], "blank lines"),
        (b"", [], "nothing"),
        (b"data: a\x0b\x0c\x1c\x85b\n\n", data(b"a\x0b\x0c\x1c\x85b"), "only CR and LF end a line"),
        ("data: a\u2028b\n\n".encode(), data("a\u2028b".encode()), "no Unicode line ends"),
    ],
)
def test_known_answers(stream: bytes, events: list[Event], reason: str) -> None:
    assert decode(stream) == events, reason
    assert decode(*(stream[i : i + 1] for i in range(len(stream)))) == events, reason


def test_every_split_in_two() -> None:
    stream = b"\xef\xbb\xbf: hi\r\n\r\nevent: x\rdata: a\r\ndata: b\n\r\ndata: [DONE]\r\r\ndata: z"
    whole = decode(stream)
    assert len(whole) == 3
    for cut in range(len(stream) + 1):
        assert decode(stream[:cut], stream[cut:]) == whole


# cut before, where the rest looks like whole events by itself
@pytest.mark.parametrize(
    ("first", "rest", "events", "reason"),
    [
        (b"event: x\n", b"data: a\n\n", [Event(b"x", b"a")], "a name has come"),
        (b"data: a\n", b"data: b\n\n", data(b"a\nb"), "a line of data has come"),
        (b"foo", b"data: a\n\n", [], "half a field name has come"),
        (b": c\r", b"\ndata: a\n\n", data(b"a"), "half a line end has come"),
        (b": c\r", b"data: a\n\n", data(b"a"), "a whole one"),
        (b"data: a\n\n", b"\xef\xbb\xbfdata: b\n\n", data(b"a"), "no byte order mark so late"),
    ],
)
def test_the_rest_depends_on_what_came_before(
    first: bytes, rest: bytes, events: list[Event], reason: str
) -> None:
    assert decode(first, rest) == events, reason


LINES = st.sampled_from(
    [b"data: a", b"data:", b"data", b":", b": c", b"event: error", b"id: 1", b"", b"", b"x", b" "]
) | st.binary(max_size=6)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r", b""])
STREAMS = st.tuples(
    st.sampled_from([b"", b"\xef\xbb\xbf", b"\xef", b"\xef\xbb"]),
    st.lists(st.tuples(LINES, ENDS).map(b"".join), max_size=15),
).map(lambda parts: parts[0] + b"".join(parts[1]))


@given(STREAMS, st.lists(st.integers(0, 150), max_size=12))
def test_the_split_changes_nothing(stream: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    chunks = [stream[a:b] for a, b in pairwise(edges)]
    assert decode(*chunks) == decode(stream)


@given(STREAMS)
def test_byte_by_byte_too(stream: bytes) -> None:
    assert decode(*(bytes([byte]) for byte in stream)) == decode(stream)


@pytest.mark.parametrize(
    "stream",
    [b"data: " + b"x" * 200, b":" + b"x" * 200, b"x" * 200, b"data: xxxxxxxxx\n" * 20],
    ids=["data", "comment", "no line end", "many lines of one event"],
)
def test_an_event_without_end_is_refused(stream: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    for size in (1, 7, len(stream)):
        chunks = [stream[at : at + size] for at in range(0, len(stream), size)]
        with pytest.raises(EventTooLongError):
            decode(*chunks)


def test_a_whole_event_may_be_too_long_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    for stream in (b"data: " + b"x" * 95 + b"\n\n", b"data: a\n\ndata: " + b"x" * 95 + b"\n\n"):
        with pytest.raises(EventTooLongError):
            EventDecoder().feed(stream)


def test_many_events_are_not_one_long_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    assert decode(b"data: xxxxxxxxxx\n\n" * 100) == data(*[b"x" * 10] * 100)


def test_a_long_line_in_tiny_pieces_costs_no_more_than_its_length() -> None:
    """A million pieces: joined again for each of them they would be half a terabyte of copies."""
    decoder = EventDecoder()
    decoder.feed(b"data: ")
    for _ in range(1_000_000):
        assert not decoder.feed(b"x")
    assert decoder.feed(b"\n\n") == data(b"x" * 1_000_000)
