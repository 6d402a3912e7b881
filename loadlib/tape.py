"""The tape: what one exchange put on the wire and when, decoded only after it is over.

A transport fills a `Tape` with pairs (arrival instant, body bytes) and instants of its own;
nothing here does I/O or reads a clock. Instants are monotonic nanoseconds.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from loadlib.sample import Outcome
from loadlib.sse import BOM

MAX_BODY_BYTES = 64 * 1024 * 1024
"""A response larger than this is cut off: memory of a stream is bounded."""

PLAIN = ("", "identity")
"""Content codings that change nothing."""

_HEAD_BYTES = 16
_STREAM_STARTS = (b"data:", b"event:", b"id:", b"retry:", b":")  # no JSON or HTML starts so


@dataclass(frozen=True, slots=True)
class Fault:
    """Why an exchange ended other than by a complete HTTP response."""

    outcome: Outcome
    cause: str
    message: str


@dataclass(slots=True)
class Tape:
    """One HTTP exchange. `pieces` are its body after HTTP framing, before decompression, and
    `arrived_ns` says when each came; two columns, so that an event leaves no object behind that
    the garbage collector would have to walk through.
    """

    sent_ns: int | None = None
    flushed_ns: int | None = None
    first_byte_ns: int | None = None
    end_ns: int | None = None
    connect_ns: int | None = None
    tls_ns: int | None = None
    conn_reused: bool | None = None
    resent: bool = False  # an idle connection closed under it: sent once more, on a new one
    status: int | None = None
    http: str | None = None  # the version the server answered in
    headers: dict[str, str] = field(default_factory=dict)  # names in lower case
    arrived_ns: array[int] = field(default_factory=lambda: array("q"))
    pieces: list[bytes] = field(default_factory=list)
    body_bytes: int = 0
    let_go: bool = False  # the caller stopped reading before the end
    fault: Fault | None = None

    @classmethod
    def of(cls, reads: Iterable[tuple[int, bytes]], **fields: Any) -> Tape:
        """A tape that holds these reads."""
        tape = cls(**fields)
        for at_ns, piece in reads:
            tape.add(at_ns, piece)
        return tape

    def add(self, at_ns: int, piece: bytes) -> None:
        """A read of the body."""
        self.arrived_ns.append(at_ns)
        self.pieces.append(piece)
        self.body_bytes += len(piece)

    @property
    def reads(self) -> list[tuple[int, bytes]]:
        """(instant, piece) of every read."""
        return list(zip(self.arrived_ns, self.pieces, strict=True))

    @property
    def body(self) -> bytes:
        """All body bytes, decompressed."""
        return b"".join(data for _, data in self.plain_reads())

    @property
    def is_stream(self) -> bool:
        """Whether the server declared an event stream, or sent something that starts like one."""
        kind = self.headers.get("content-type", "").split(";")[0].strip().lower()
        return kind == "text/event-stream" or self._head().startswith(_STREAM_STARTS)

    def _head(self) -> bytes:
        """The first bytes that say something, however they were split; empty where coded."""
        head = b""
        for data in self.pieces:
            head = (head + data[:_HEAD_BYTES]).removeprefix(BOM).lstrip(b"\r\n")
            if len(head) >= _HEAD_BYTES:
                break
        return head

    @property
    def coded(self) -> bool:
        """Whether the body is compressed, readably or not (we refuse it, some send it)."""
        return _coding(self.headers) not in PLAIN

    def plain_reads(self) -> Iterable[tuple[int, bytes]]:
        """The reads with a `gzip` or `deflate` coding undone.

        Raises:
            zlib.error: the compressed data is broken, or inflates past `MAX_BODY_BYTES`.
        """
        return self._inflated() if self.coded else self.reads

    def _inflated(self) -> Iterator[tuple[int, bytes]]:
        plain = inflater(self.headers)
        for at_ns, data in self.reads:
            if text := plain(data):
                yield at_ns, text


def _coding(headers: Mapping[str, str]) -> str:
    return headers.get("content-encoding", "").strip().lower()


def inflater(headers: Mapping[str, str]) -> Callable[[bytes], bytes]:
    """A function that undoes the content coding `headers` declare, piece after piece.

    It raises zlib.error where the data is broken, inflates past `MAX_BODY_BYTES`, or is coded
    in a way that was refused and that we cannot read.
    """
    coding = _coding(headers)
    if coding in PLAIN:
        return bytes
    stream, room = zlib.decompressobj(zlib.MAX_WBITS | 32), MAX_BODY_BYTES

    def inflate(data: bytes) -> bytes:
        nonlocal room
        if coding not in ("gzip", "x-gzip", "deflate"):
            raise zlib.error(f"content-encoding {coding[:40]!r}, which was refused")
        if stream.eof:
            return b""  # whatever follows the end of the coded data is not ours to guess
        # Room for one byte more than is allowed: a limit of 0 would mean none at all.
        plain = stream.decompress(data, room + 1)
        room -= len(plain)
        if room < 0:
            raise zlib.error(f"inflates past {MAX_BODY_BYTES} bytes")
        return plain

    return inflate
