"""HTTP/1.1 over plain sockets: requests in with their time of arrival, bytes out at once.

Not uvicorn, because the instants of this server are the truth that clients are compared with:
the arrival of a request is taken from the kernel, so that the server's own queueing is no part
of it, and a token is one `send` at its instant. Measured with 100 and 400 streams of 50 tokens/s,
sharing two cores with the client: tokens late by 0.1 ms (p50) and 0.4 to 0.5 ms (p99) for 2.1 to
2.9 CPU s per 100,000; a bare starlette stream on uvicorn 1.0 and 2.0 to 3.0 ms for 2.3 to 3.3;
without pacing 1,150,000 against 180,000 tokens/s. And a server that must misbehave on the wire
needs the wire.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import httptools

READ_BYTES = 256 * 1024
MAX_BODY_BYTES = 64 * 1024 * 1024
LINGER_S = 1.0  # how long a refused client may go on sending before the door is shut

# <asm-generic/socket.h>; Python has no name for it. Inherited by accepted sockets.
_SO_TIMESTAMPNS = 35 if sys.platform == "linux" else None
_TIMESPEC = struct.Struct("@ll")
_ANCILLARY_BYTES = socket.CMSG_SPACE(_TIMESPEC.size) if _SO_TIMESTAMPNS else 0

_REASONS = {
    200: b"OK",
    400: b"Bad Request",
    401: b"Unauthorized",
    404: b"Not Found",
    405: b"Method Not Allowed",
    413: b"Content Too Large",
    429: b"Too Many Requests",
    500: b"Internal Server Error",
    503: b"Service Unavailable",
}


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


Handler = Callable[["Connection", Request], None]


class _Parser:
    """Bytes → requests, by httptools; `done` holds those that are complete."""

    def __init__(self) -> None:
        self._http = httptools.HttpRequestParser(self)
        self.done: deque[Request] = deque()
        self.expects = False  # the client waits for our word before it sends a body
        self.size = 0
        self._arrival_ns = 0
        self.on_message_begin()

    def feed(self, data: bytes, arrival_ns: int) -> None:
        self._arrival_ns = arrival_ns
        self._http.feed_data(data)

    def on_message_begin(self) -> None:
        self._url = bytearray()
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self.size = 0

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.expects = self._headers.get("expect", "").lower() == "100-continue"

    def on_body(self, body: bytes) -> None:
        self.size += len(body)
        if self.size <= MAX_BODY_BYTES:
            self._body.append(body)

    def on_message_complete(self) -> None:
        self.expects = False
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


class Connection:
    """One client connection. Responses go out in the order of requests, one at a time.

    `on_gone` is called (once) when the client leaves while a response is under way.
    """

    def __init__(
        self, sock: socket.socket, loop: asyncio.AbstractEventLoop, handler: Handler
    ) -> None:
        self._sock, self._loop, self._handler = sock, loop, handler
        self._parser = _Parser()
        self._queue = self._parser.done
        self._current: Request | None = None
        self._serving = False
        self._out = bytearray()
        self._open = True
        self._deaf = False  # the response to come is the last: discard what is still sent
        self.on_gone: Callable[[], None] | None = None
        loop.add_reader(sock, self._readable)

    # --- towards the handler -----------------------------------------------------------------

    @property
    def backlog(self) -> int:
        """Bytes the client has not taken yet."""
        return len(self._out)

    def respond(
        self,
        status: int,
        body: bytes,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send a whole response to the current request."""
        head = self._head(status, content_type, headers or {})
        self.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))
        self.finish()

    def start_stream(self, content_type: str, headers: Mapping[str, str]) -> bytes:
        """The head of a streamed response, to be written together with its first bytes."""
        framing = b"transfer-encoding: chunked\r\n" if self.chunked else b""
        return b"%bcache-control: no-cache\r\n%b\r\n" % (
            self._head(200, content_type, headers),
            framing,
        )

    @property
    def chunked(self) -> bool:
        """Whether stream data to the current client is framed in HTTP chunks."""
        return self._current is not None and self._current.chunked

    def write(self, data: bytes) -> None:
        """Send now what the kernel takes, the rest when it can."""
        if not self._open:
            return
        if self._out:
            self._out += data
            return
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        if sent < len(data):
            self._out += data[sent:]
            self._loop.add_writer(self._sock, self._writable)

    def finish(self) -> None:
        """The current response is complete: go on with the next request, or hang up."""
        current, self._current, self.on_gone = self._current, None, None
        if current is not None and not current.keep_alive:
            self._hang_up()
        else:
            self._serve()

    def close(self) -> None:
        """Leave at once, whatever was not sent."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        gone, self.on_gone = self.on_gone, None
        if gone is not None:
            gone()

    # --- sockets -----------------------------------------------------------------------------

    def _readable(self) -> None:
        try:
            data, ancillary, _, _ = self._sock.recvmsg(READ_BYTES, _ANCILLARY_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not data:
            self.close()
        elif not self._deaf:
            self._feed(data, _arrival_ns(ancillary))

    def _feed(self, data: bytes, arrival_ns: int) -> None:
        try:
            self._parser.feed(data, arrival_ns)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refuse(400, b"this is not an HTTP/1.1 request the simulator understands\n")
            return
        if self._parser.size > MAX_BODY_BYTES:
            self._refuse(413, b"the request body is larger than 64 MiB\n")
            return
        if self._parser.expects and self._current is None and not self._queue:
            self._parser.expects = False
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._serve()

    def _refuse(self, status: int, text: bytes) -> None:
        """Answer what never became a request, and hang up."""
        self._queue.clear()
        if self._current is None:
            head = b"HTTP/1.1 %d %b\r\n" % (status, _REASONS[status])
            kind = b"content-type: text/plain\r\nconnection: close\r\n"
            self.write(b"%b%bcontent-length: %d\r\n\r\n%b" % (head, kind, len(text), text))
            self._hang_up()
        else:
            self.close()

    def _serve(self) -> None:
        if self._serving:
            return  # the handler answered at once: the loop below goes on
        self._serving = True
        try:
            while self._queue and self._current is None and self._open and not self._deaf:
                self._current = self._queue.popleft()
                self._handler(self, self._current)
        finally:
            self._serving = False

    def _writable(self) -> None:
        try:
            del self._out[: self._sock.send(self._out)]
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not self._out:
            self._loop.remove_writer(self._sock)
            if self._deaf:
                self._shut()

    def _hang_up(self) -> None:
        """Close after everything was sent; reading on, lest a reset eats the response."""
        self._deaf = True
        self._loop.call_later(LINGER_S, self.close)
        if not self._out:
            self._shut()

    def _shut(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()

    def _head(self, status: int, content_type: str, headers: Mapping[str, str]) -> bytes:
        keep = self._current is not None and self._current.keep_alive
        lines = [
            f"content-type: {content_type}",
            *(f"{name}: {value}" for name, value in headers.items()),
            f"connection: {'keep-alive' if keep else 'close'}",
        ]
        text = "\r\n".join(lines).encode("latin-1", "replace")
        return b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, _REASONS.get(status, b"Unknown"), text)


def listen(
    host: str, port: int, loop: asyncio.AbstractEventLoop, handler: Handler
) -> socket.socket:
    """Accept connections on `host:port` (0: any free port). Raises `OSError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=4096)
    listener.setblocking(False)
    if _SO_TIMESTAMPNS is not None:
        listener.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:  # nobody is waiting (any more), or we are out of descriptors
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            Connection(sock, loop, handler)

    loop.add_reader(listener, accept)
    return listener


def _arrival_ns(ancillary: list[tuple[int, int, bytes]]) -> int:
    """When the kernel received what was just read, on the monotonic clock.

    The kernel stamps with the wall clock; only its age is used, so a step of that clock can
    spoil a single request at most. Without a stamp: now.
    """
    now_ns = time.monotonic_ns()
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
            seconds, nanoseconds = _TIMESPEC.unpack_from(data)
            age_ns: int = time.time_ns() - (seconds * 1_000_000_000 + nanoseconds)
            return now_ns - max(0, age_ns)
    return now_ns
