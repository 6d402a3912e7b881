"""Server-sent events: bytes in, events out, whatever way the network split them.

Follows the WHATWG "event stream" grammar: lines end in LF, CRLF or CR; `:` starts a comment;
`data` lines of one event are joined by LF; a blank line dispatches; unknown fields are ignored.
One departure: `close()` gives the event a server left unterminated at the end of its body,
because several do.

`plain_stream` reads the stream most servers send, one JSON object on one `data` line each event,
a whole body at a time and without a step per event; it declines everything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

MAX_EVENT_BYTES = 16 * 1024 * 1024
BOM = b"\xef\xbb\xbf"


class EventTooLongError(ValueError):
    """A single event grew past `MAX_EVENT_BYTES`: the server is broken or hostile."""


class Event(NamedTuple):
    """One dispatched event; `name` is empty for the default type."""

    name: bytes
    data: bytes


class EventDecoder:
    """Incremental decoder; the events of a byte sequence do not depend on how it is split."""

    __slots__ = ("_after_cr", "_data", "_name", "_rest", "_rest_size", "_size", "_started")

    def __init__(self) -> None:
        self._rest: list[bytes] = []  # the line begun, in the pieces it came in
        self._rest_size = 0
        self._data: list[bytes] = []
        self._size = 0
        self._name = b""
        self._after_cr = False
        self._started = False

    def feed(self, chunk: bytes) -> list[Event]:
        """Decode `chunk`; returns the events it completed.

        Raises:
            EventTooLongError: one event is larger than `MAX_EVENT_BYTES`.
        """
        if self._after_cr and chunk:
            # A CR ended the last line at once; an LF that follows belongs to it.
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        if chunk.endswith(b"\n\n") and (events := self._whole(chunk)):
            return events
        if self._started and b"\n" not in chunk and b"\r" not in chunk:
            self._keep(chunk)
            return []
        text = b"".join((*self._rest, chunk))
        self._rest, self._rest_size = [], 0
        if not self._started:
            if BOM.startswith(text):
                self._keep(text)
                return []
            text = text.removeprefix(BOM)
            self._started = True
        self._after_cr = text.endswith(b"\r")
        lines = text.splitlines() if b"\r" in text else text.split(b"\n")
        # `split` leaves an empty rest behind a final LF, `splitlines` does not.
        if lines and not (b"\r" in text and text.endswith((b"\r", b"\n"))):
            self._keep(lines.pop())
        return self._lines(lines)

    def close(self) -> list[Event]:
        """The event that was left without its blank line, if there is one."""
        rest, self._rest, self._rest_size = b"".join(self._rest), [], 0
        return self._lines([rest, b""] if rest else [b""])

    def _whole(self, chunk: bytes) -> list[Event] | None:
        """The usual read, decoded in one step: whole one-line events, begun where one may begin."""
        if self._rest or self._data or self._name or not chunk.startswith(b"data:"):
            return None
        values = chunk[5:-2].split(b"\n\ndata:")
        lines_end_otherwise = b"\r" in chunk or chunk.count(b"\n") != 2 * len(values)
        if lines_end_otherwise or len(chunk) > MAX_EVENT_BYTES:
            return None
        self._started = True
        return [Event(b"", value.removeprefix(b" ")) for value in values]

    def _keep(self, piece: bytes) -> None:
        if piece:
            self._rest.append(piece)
            self._rest_size += len(piece)
            _check_size(self._rest_size)

    def _lines(self, lines: list[bytes]) -> list[Event]:
        events: list[Event] = []
        for line in lines:
            if not line:
                if self._data:
                    events.append(Event(self._name, b"\n".join(self._data)))
                self._data, self._name, self._size = [], b"", 0
                continue
            field, _, value = line.partition(b":")
            if field == b"data":
                self._data.append(value.removeprefix(b" "))
                self._size += len(line)
                _check_size(self._size)
            elif field == b"event":
                self._name = value.strip()
        return events


def _check_size(size: int) -> None:
    if size > MAX_EVENT_BYTES:
        raise EventTooLongError(f"an event is longer than {MAX_EVENT_BYTES} bytes")


@dataclass(frozen=True, slots=True)
class PlainStream:
    """A body in which every event is one line, `data: {…}`; but for the braces, see `lines`."""

    body: bytes
    head: bytes  # what stands before each object: `data:` with or without a space
    blank: bytes  # what ends an event: two line ends of one kind
    stops: npt.NDArray[np.int64]  # offset after each event's blank line
    done: bool  # `[DONE]` follows the last of them

    @property
    def ends(self) -> npt.NDArray[np.int64]:
        """How many bytes had to come until each event was complete."""
        # The second CR is a line end already; the LF behind it only belongs to it.
        return self.stops - 1 if self.blank == b"\r\n\r\n" else self.stops

    def lines(self, first: int, last: int) -> bytes | None:
        """Events `first` … `last` − 1 as JSON values, one a line; None if one is no `{…}`.

        Each line then starts with `{` and ends with `}`. Nowhere inside a JSON value may `}`,
        a line end and `{` follow each other, so if a decoder that takes values one after
        another finds as many as there are lines, each line is exactly one of them.
        """
        stops = self.stops[first:last]
        start = int(self.stops[first - 1]) if first else 0
        stop, count = int(stops[-1]), len(stops)
        head, tail = self.head + b"{", b"}" + self.blank
        if not (self.body.startswith(head, start) and self.body.endswith(tail, start, stop)):
            return None
        cut = self.body[start + len(self.head) : stop - len(self.blank)]
        lines = cut.replace(tail + head, b"}\n{")
        shorter = (len(tail + head) - 3) * (count - 1)  # if every line end was replaced
        return lines if len(cut) - len(lines) == shorter else None


def plain_stream(body: bytes) -> PlainStream | None:
    """The events of a whole body, if they have the plain form and the last one is complete."""
    blank = b"\r\n\r\n" if body.endswith(b"\r\n") else b"\n\n"
    head = b"data: " if body.startswith(b"data: ") else b"data:"
    if len(body) > MAX_EVENT_BYTES or not body.startswith(head):
        return None
    finish = head + b"[DONE]" + blank
    done = body.endswith(finish)
    size = len(body) - len(finish) if done else len(body)
    feeds = np.flatnonzero(np.frombuffer(body, np.uint8, size) == 0x0A)
    returns = body.count(b"\r", 0, size)
    if not len(feeds) or len(feeds) % 2 or returns != (0 if blank == b"\n\n" else len(feeds)):
        return None
    if int(feeds[-1]) != size - 1:
        return None
    return PlainStream(body, head, blank, feeds[1::2] + 1, done)
