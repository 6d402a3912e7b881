"""Server-sent events: bytes in, events out, whatever way the network split them.

Follows the WHATWG "event stream" grammar: lines end in LF, CRLF or CR; `:` starts a comment;
`data` lines of one event are joined by LF; a blank line dispatches; unknown fields are ignored.
One departure: `close()` gives the event a server left unterminated at the end of its body,
because several do.
"""

from __future__ import annotations

from typing import NamedTuple

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
