"""Bytes of a connection → HTTP requests, within limits."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import httptools

from loadlib.simulator.chat import Refusal

MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_HEAD_BYTES = 128 * 1024  # request line and headers together: an answer to echo is one of them
MAX_HEADERS = 256
MAX_WAITING = 1000  # pipelined requests of one connection; their bodies share MAX_BODY_BYTES


@dataclass(slots=True)
class Request:
    """One HTTP request; header names in lower case. `arrival_ns`: its last byte, monotonic."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    arrival_ns: int
    keep_alive: bool
    chunked: bool  # whether the client understands chunked responses (HTTP/1.1)


class Parser:
    """Bytes → requests, by httptools; `done` holds those that are complete."""

    def __init__(self) -> None:
        self._http = httptools.HttpRequestParser(self)
        self.done: deque[Request] = deque()
        self.expects = False  # the client waits for our word before it sends a body
        self.unfinished = False  # a request has begun and is not complete
        self._arrival_ns = 0
        self._refusal: Refusal | None = None
        self._begin()

    def feed(self, data: bytes, arrival_ns: int) -> None:
        """Take what was read at `arrival_ns`. Raises `Refusal` for what is wrong or too much."""
        self._arrival_ns = arrival_ns
        try:
            self._http.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            raise self._refusal or _NOT_HTTP from None
        if self._refusal is not None:
            raise self._refusal
        if len(self.done) > MAX_WAITING or sum(map(_size, self.done)) > MAX_BODY_BYTES:
            raise Refusal(429, "Too many requests wait on this connection.")

    # --- called by httptools -----------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins."""
        self.unfinished = True
        self._begin()

    def on_url(self, url: bytes) -> None:
        """Some of the request's target."""
        self._url += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")
        self._count_head(len(name) + len(value))
        self._header_count += 1
        if self._header_count > MAX_HEADERS:
            self._refusal = Refusal(431, f"The request has more than {MAX_HEADERS} headers.")

    def on_headers_complete(self) -> None:
        """The body comes next."""
        self.expects = self._headers.get("expect", "").lower() == "100-continue"
        self._in_body = True
        length = self._headers.get("content-length", "")
        if length.isdecimal() and (len(length) > 15 or int(length) > MAX_BODY_BYTES):
            self._refusal = _TOO_LARGE

    def on_body(self, body: bytes) -> None:
        """Some of the body."""
        self._size += len(body)
        if self._size <= MAX_BODY_BYTES:
            self._body.append(body)
        else:
            self._refusal = _TOO_LARGE

    def on_message_complete(self) -> None:
        """A request is complete."""
        self.expects = self.unfinished = False
        if self._refusal is not None:
            return
        self.done.append(
            Request(
                method=self._http.get_method().decode("latin-1"),
                path=bytes(self._url).decode("latin-1").partition("?")[0],
                headers=self._headers,
                body=b"".join(self._body),
                arrival_ns=self._arrival_ns,
                keep_alive=self._http.should_keep_alive(),
                chunked=self._http.get_http_version() != "1.0",
            )
        )

    # --- limits ------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._url = bytearray()
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._size = self._head_size = self._header_count = 0
        self._in_body = False

    def _count_head(self, size: int) -> None:
        self._head_size += size
        if self._head_size > MAX_HEAD_BYTES:
            self._refusal = _HEAD_TOO_LARGE

    @property
    def in_head(self) -> bool:
        """Whether a request has begun whose headers are not complete."""
        return self.unfinished and not self._in_body


def _size(request: Request) -> int:
    return len(request.body)


_NOT_HTTP = Refusal(400, "This is not an HTTP/1.1 request the simulator understands.")
_TOO_LARGE = Refusal(413, "The request body is larger than 64 MiB.", code="request_too_large")
_HEAD_TOO_LARGE = Refusal(431, "The request's headers are larger than 128 KiB.")
