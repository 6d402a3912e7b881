"""Server-sent events: bytes in, events out, whatever way the network split them.

Follows the WHATWG "event stream" grammar: lines end in LF, CRLF or CR; `:` starts a comment;
`data` lines of one event are joined by LF; a blank line dispatches; unknown fields are ignored.
One departure: `close()` gives the event a server left unterminated at the end of its body,
because several do.
"""

from __future__ import annotations

from typing import NamedTuple

MAX_EVENT_BYTES = 16 * 1024 * 1024


class EventTooLongError(ValueError):
    """A single event grew past `MAX_EVENT_BYTES`: the server is broken or hostile."""


class Event(NamedTuple):
    """One dispatched event; `name` is empty for the default type."""

    name: bytes
    data: bytes


class EventDecoder:
    """Incremental decoder; the events of a byte sequence do not depend on how it is split."""

    __slots__ = ("_after_cr", "_data", "_name", "_rest", "_size", "_started")

    def __init__(self) -> None:
        self._rest = b""
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
            if chunk[:1] == b"\n":
                chunk = chunk[1:]
            self._after_cr = False
        text = self._rest + chunk
        if not self._started:
            if len(text) < 3 and b"\xef\xbb\xbf".startswith(text):
                self._rest = text
                return []
            text = text.removeprefix(b"\xef\xbb\xbf")
            self._started = True
        if text.endswith(b"\r"):
            self._after_cr = True
        lines = text.splitlines() if b"\r" in text else text.split(b"\n")
        if text[-1:] in (b"\r", b"\n"):
            # `split` leaves an empty rest behind a final LF, `splitlines` does not.
            self._rest = b"" if b"\r" in text else lines.pop()
        else:
            self._rest = lines.pop() if lines else b""
        if len(self._rest) > MAX_EVENT_BYTES:
            raise EventTooLongError(f"an event is longer than {MAX_EVENT_BYTES} bytes")
        return self._lines(lines)

    def close(self) -> list[Event]:
        """The event that was left without its blank line, if there is one."""
        lines = [self._rest] if self._rest else []
        self._rest = b""
        return self._lines([*lines, b""])

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
                self._data.append(value[1:] if value[:1] == b" " else value)
                self._size += len(line)
                if self._size > MAX_EVENT_BYTES:
                    raise EventTooLongError(f"an event is longer than {MAX_EVENT_BYTES} bytes")
            elif field == b"event":
                self._name = value.strip()
        return events
