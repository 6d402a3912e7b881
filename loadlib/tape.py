"""The tape: what one exchange put on the wire and when, decoded only after it is over.

A transport fills a `Tape` with pairs (arrival instant, body bytes) and instants of its own;
nothing here does I/O or reads a clock. Instants are monotonic nanoseconds.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from loadlib.sample import Outcome

MAX_BODY_BYTES = 64 * 1024 * 1024
"""A response larger than this is cut off: memory of a stream is bounded."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why an exchange ended other than by a complete HTTP response."""

    outcome: Outcome
    cause: str
    message: str


@dataclass(slots=True)
class Tape:
    """One HTTP exchange. `reads` holds body bytes after HTTP framing, before decompression."""

    sent_ns: int | None = None
    flushed_ns: int | None = None
    first_byte_ns: int | None = None
    end_ns: int | None = None
    connect_ns: int | None = None
    tls_ns: int | None = None
    conn_reused: bool | None = None
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)  # names in lower case
    reads: list[tuple[int, bytes]] = field(default_factory=list)
    body_bytes: int = 0
    fault: Fault | None = None

    @property
    def body(self) -> bytes:
        """All body bytes, decompressed."""
        return b"".join(data for _, data in self.plain_reads())

    @property
    def is_stream(self) -> bool:
        """Whether the server declared an event stream, or sent something that starts like one."""
        kind = self.headers.get("content-type", "")
        if kind:
            return kind.split(";")[0].strip().lower() == "text/event-stream"
        return bool(self.reads) and self.reads[0][1].lstrip()[:5] in (b"data:", b"event")

    def plain_reads(self) -> Iterator[tuple[int, bytes]]:
        """The reads with a `gzip` or `deflate` coding undone (we refuse it, some send it).

        Raises:
            zlib.error: the compressed data is broken, or inflates past `MAX_BODY_BYTES`.
        """
        coding = self.headers.get("content-encoding", "identity").strip().lower()
        if coding in ("", "identity"):
            yield from self.reads
            return
        if coding not in ("gzip", "x-gzip", "deflate"):
            raise zlib.error(f"content-encoding {coding[:40]!r}, which was refused")
        inflater, room = zlib.decompressobj(zlib.MAX_WBITS | 32), MAX_BODY_BYTES
        for at_ns, data in self.reads:
            plain = inflater.decompress(data, room)
            room -= len(plain)
            if inflater.unconsumed_tail:
                raise zlib.error(f"inflates past {MAX_BODY_BYTES} bytes")
            if plain:
                yield at_ns, plain
