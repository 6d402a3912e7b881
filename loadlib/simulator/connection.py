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
from collections.abc import Callable, Mapping

from loadlib.simulator.chat import Refusal
from loadlib.simulator.parsing import MAX_HEAD_BYTES, Parser, Request
from loadlib.simulator.tls import TlsSocket

READ_BYTES = 256 * 1024
LINGER_S = 1.0  # how long a refused client may go on sending before the door is shut
REQUEST_S = 30.0  # how long a request may take to come in, from its first byte
BREATHER_S = 0.1  # without accepting, after we ran out of descriptors

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
    408: b"Request Timeout",
    413: b"Content Too Large",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
}


Handler = Callable[["Connection", Request], None]


Sock = socket.socket | TlsSocket


class Connection:
    """One client connection. Responses go out in the order of requests, one at a time.

    `on_gone` is called (once) when the client leaves while a response is under way.
    """

    def __init__(
        self,
        sock: Sock,
        loop: asyncio.AbstractEventLoop,
        handler: Handler,
        request_s: float = REQUEST_S,
    ) -> None:
        self._sock, self._loop, self._handler = sock, loop, handler
        self._request_s = request_s
        self._parser = Parser()
        self._queue = self._parser.done
        self._head_bytes = 0  # read of headers that are not complete yet
        self._patience: asyncio.TimerHandle | None = None
        self.fresh = True  # whether no completion was asked for yet
        self._current: Request | None = None
        self._serving = False
        self._out = bytearray()
        self._open = True
        self._deaf = False  # the response to come is the last: discard what is still sent
        self._lingers = False  # … and close a while after it was sent
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
        self.write(self.response(status, body, content_type, headers or {}))
        self.finish()

    def response(
        self, status: int, body: bytes, content_type: str, headers: Mapping[str, str]
    ) -> bytes:
        """A whole response as it goes over the wire."""
        head = self._head(status, content_type, headers)
        return b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body)

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
            self.hang_up()
        else:
            self._serve()

    def hang_up(self) -> None:
        """Close after everything was sent; reading on, lest a reset eats the response."""
        self._lingers = True
        self.half_close()

    def half_close(self) -> None:
        """Say that nothing more will come, after everything was sent, and leave it at that."""
        self._deaf = True
        if not self._out:
            self._shut()

    def reset(self) -> None:
        """Leave at once, with RST instead of FIN."""
        if self._open:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close()

    def close(self) -> None:
        """Leave at once, whatever was not sent."""
        if not self._open:
            return
        self._open = False
        self._stop_watching()
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
        parser = self._parser
        try:
            parser.feed(data, arrival_ns)
        except Refusal as refusal:
            self._refuse(refusal)
            return
        self._head_bytes = self._head_bytes + len(data) if parser.in_head else 0
        if self._head_bytes > MAX_HEAD_BYTES + READ_BYTES:  # one header that never ends
            self._refuse(Refusal(431, "The request's headers are too large."))
            return
        if parser.expects and self._current is None and not self._queue:
            parser.expects = False
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._watch()
        self._serve()

    def _watch(self) -> None:
        """Give a request that has begun its time, and no more."""
        if not self._parser.unfinished:
            self._stop_watching()
        elif self._patience is None:
            self._patience = self._loop.call_later(self._request_s, self._too_slow)

    def _stop_watching(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _too_slow(self) -> None:
        self._patience = None
        if not self._deaf:
            self._refuse(Refusal(408, f"The request took longer than {self._request_s:g} s."))

    def _refuse(self, refusal: Refusal) -> None:
        """Answer what never became a request, and hang up."""
        self._queue.clear()
        self._stop_watching()
        if self._current is None:
            body, status = refusal.body, refusal.status
            head = b"HTTP/1.1 %d %b\r\n" % (status, _REASONS[status])
            kind = b"content-type: application/json\r\nconnection: close\r\n"
            self.write(b"%b%bcontent-length: %d\r\n\r\n%b" % (head, kind, len(body), body))
            self.hang_up()
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

    def _shut(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
        if self._lingers:
            self._loop.call_later(LINGER_S, self.close)

    def _head(self, status: int, content_type: str, headers: Mapping[str, str]) -> bytes:
        keep = self._current is not None and self._current.keep_alive
        lines = [
            f"content-type: {content_type}",
            *(f"{name}: {value}" for name, value in headers.items()),
            f"connection: {'keep-alive' if keep else 'close'}",
        ]
        text = "\r\n".join(lines).encode("latin-1", "replace")
        return b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, _REASONS.get(status, b"Unknown"), text)


Wrap = Callable[[socket.socket], Sock]


def listen(
    listener: socket.socket,
    loop: asyncio.AbstractEventLoop,
    handler: Handler,
    *,
    wrap: Wrap | None = None,
    request_s: float = REQUEST_S,
) -> socket.socket:
    """Accept connections on a socket from `reserve`, which is given back.

    `wrap` makes of an accepted socket what is read and written (TLS). A request that takes
    longer than `request_s` to come in is refused.
    """
    listener.listen(4096)
    if _SO_TIMESTAMPNS is not None:
        listener.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except BlockingIOError:  # nobody is waiting (any more)
                return
            except OSError:  # out of descriptors: trying again at once would burn a core
                loop.remove_reader(listener)
                loop.call_later(BREATHER_S, resume)
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            Connection(sock if wrap is None else wrap(sock), loop, handler, request_s)

    def resume() -> None:
        if listener.fileno() >= 0:
            loop.add_reader(listener, accept)

    resume()
    return listener


def reserve(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A socket bound to `host:port` (0: any free port) that does not listen yet.

    `shared`: other processes may bind and listen there too. Raises `OSError`.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
    except (OSError, OverflowError):
        sock.close()
        raise
    return sock


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
