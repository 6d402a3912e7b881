"""HTTP/1.1 over sockets, recorded: connections, their reuse, and one exchange on a tape.

The sockets are the standard library's; under Locust gevent has patched them, so a wait here
lets other users run. Timestamps are taken in user space, once per read, before parsing.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn

import httptools

from loadlib.answer import FirstToken
from loadlib.sample import Outcome
from loadlib.tape import MAX_BODY_BYTES, Fault, Tape

READ_BYTES = 65536
MAX_HEADER_BYTES = 256 * 1024
MAX_READS = 1_000_000  # of one response: byte by byte, 64 MB would be gigabytes of tape
DRAIN_BYTES = 64 * 1024  # what an abandoned response may still send before we hang up
DRAIN_S = 0.05
HUNG_UP_NS = 1_000_000_000  # an idle connection that was closed is found out a round trip later
HUNG_UP_NS = 1_000_000_000  # an idle connection that was closed is found out a round trip later

try:  # the blocking original: this poll never waits, so it need not go through the hub
    from gevent.monkey import get_original

    _poll = get_original("select", "poll")
except ImportError:  # pragma: no cover - gevent comes with locust
    _poll = select.poll


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long the parts of an exchange may take, in seconds (`timeouts:` of a scenario)."""

    connect_s: float = 5.0
    first_token_s: float = 60.0
    idle_s: float = 30.0
    total_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Origin:
    """Where to connect."""

    scheme: str
    host: str
    port: int


class Failed(Exception):  # noqa: N818 - not an error of ours: it carries what the server did
    """The exchange ended with `tape.fault` set."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


class Connection:
    """One TCP (and TLS) connection; `connect_ns` and `tls_ns` are durations."""

    __slots__ = ("connect_ns", "origin", "sock", "tls_ns")

    def __init__(self, origin: Origin, context: Callable[[], ssl.SSLContext], timeout_s: float):
        self.origin = origin
        self.tls_ns: int | None = None
        start = time.monotonic_ns()
        try:
            sock = socket.create_connection((origin.host, origin.port), timeout=timeout_s)
        except TimeoutError as error:
            raise Failed(Fault(Outcome.TIMEOUT, "connect", f"connect: {error}")) from None
        except (socket.gaierror, UnicodeError) as error:  # no such name, or none that could be
            reason = getattr(error, "strerror", None) or error
            message = f"cannot resolve {origin.host}: {reason}"
            raise Failed(Fault(Outcome.DISCONNECTED, "dns", message)) from None
        except OSError as error:
            message = f"cannot connect to {origin.host}:{origin.port}: {error.strerror or error}"
            raise Failed(Fault(Outcome.DISCONNECTED, "connect", message)) from None
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connect_ns = time.monotonic_ns() - start
        self.sock: socket.socket = sock
        if origin.scheme == "https":
            try:
                self._start_tls(context)
            except BaseException:
                self.close()
                raise

    def _start_tls(self, context: Callable[[], ssl.SSLContext]) -> None:
        start = time.monotonic_ns()
        try:
            self.sock = context().wrap_socket(self.sock, server_hostname=self.origin.host)
        except TimeoutError:
            raise Failed(Fault(Outcome.TIMEOUT, "connect", "TLS handshake timed out")) from None
        except (OSError, ValueError) as error:  # SSLError is an OSError; a bad name a ValueError
            reason = getattr(error, "verify_message", None) or getattr(error, "reason", None)
            message = f"TLS with {self.origin.host} failed: {reason or error}"
            raise Failed(Fault(Outcome.DISCONNECTED, "tls", message)) from None
        self.tls_ns = time.monotonic_ns() - start

    def stale(self) -> bool:
        """Whether an idle connection has become readable: closed, or saying what nobody asked."""
        poller = _poll()
        poller.register(self.sock.fileno(), select.POLLIN | select.POLLHUP | select.POLLERR)
        return bool(poller.poll(0))

    def close(self) -> None:
        """Close the socket; never raises."""
        with contextlib.suppress(OSError):
            self.sock.close()


class Pool:
    """Idle connections by origin, the most recently used first; safe between greenlets."""

    def __init__(self, context: Callable[[], ssl.SSLContext]) -> None:
        self._context = context
        self._idle: defaultdict[Origin, list[Connection]] = defaultdict(list)

    def take(
        self, origin: Origin, connect_s: float, tape: Tape, *, reuse: bool = True
    ) -> Connection:
        """A connection to `origin`, reused where one is idle and alive.

        Raises:
            Failed: it could not be established.
        """
        idle = self._idle[origin]
        while idle and reuse:
            connection = idle.pop()
            if not connection.stale():
                tape.conn_reused = True
                return connection
            connection.close()
        tape.conn_reused = False
        connection = Connection(origin, self._context, connect_s)
        tape.connect_ns, tape.tls_ns = connection.connect_ns, connection.tls_ns
        return connection

    def give_back(self, connection: Connection) -> None:
        """Keep a connection whose response was read to its end."""
        self._idle[connection.origin].append(connection)

    def close(self) -> None:
        """Close every idle connection."""
        for idle in self._idle.values():
            while idle:
                idle.pop().close()


class Exchange:
    """One request and its response on one connection, recorded on `tape`.

    `streams` says that the request asked for a stream, so the first-token deadline applies.
    """

    def __init__(self, pool: Pool, deadlines: Deadlines, *, streams: bool) -> None:
        self.tape = Tape()
        self.complete = False
        self.headers_done = False
        self._pool, self._deadlines, self._streams = pool, deadlines, streams
        self._connection: Connection | None = None
        self._first = FirstToken()
        self._pieces: list[bytes] = []  # the body's pieces in the read at hand
        self._now_ns = 0
        self._last_read_ns = 0
        self._header_bytes = 0
        self._give_up_ns: int | None = None  # set once the caller has let go
        self._until_close = False
        self._reusable = True
        self._send_error: str | None = None
        self._request: tuple[Origin, bytes] | None = None  # until the server says something
        self._parser = httptools.HttpResponseParser(self)

    # -- the steps ---------------------------------------------------------------------------

    def send(self, origin: Origin, request: bytes) -> None:
        """Connect and write the whole request.

        A server may close an idle connection while the next request is on its way: llama.cpp's
        does so after every stream, although it promises to keep it. That is no failure of the
        request, which is sent once more, on a new connection; its response clock runs on.

        Raises:
            Failed: as recorded in `tape.fault`.
        """
        self._request = origin, request
        self._send(origin, request)

    def _send(self, origin: Origin, request: bytes, *, reuse: bool = True) -> None:
        connect_s = self._deadlines.connect_s
        try:
            self._connection = self._pool.take(origin, connect_s, self.tape, reuse=reuse)
            sock = self._connection.sock
            self.tape.sent_ns = self._last_read_ns = time.monotonic_ns()
            deadline_ns, which = self._deadline()
            sock.settimeout((deadline_ns - self.tape.sent_ns) / 1e9)
            sock.sendall(request)
            self.tape.flushed_ns = time.monotonic_ns()
        except Failed as failed:
            self._fail(failed.fault)
        except TimeoutError:
            self._fail(Fault(Outcome.TIMEOUT, which, "the request could not be written in time"))
        except OSError as error:
            # A server may refuse a long body before it has read it: what it said may be there.
            self._reusable = False
            self._send_error = f"connection lost while sending: {error.strerror or error}"
        except BaseException:
            self.cancel()
            raise

    def pump(self) -> None:
        """Wait for one read of the response and record it.

        Raises:
            Failed: as recorded in `tape.fault`.
        """
        assert self._connection is not None
        sock = self._connection.sock
        deadline = deadline_ns, which = self._deadline()
        timeout = Fault(Outcome.TIMEOUT, which, f"{which.replace('_', ' ')} timeout")
        try:
            # At least one look, however late we are: what has come in time must not time out.
            sock.settimeout(max((deadline_ns - time.monotonic_ns()) / 1e9, 1e-3))
            data = sock.recv(READ_BYTES)
            self._now_ns = time.monotonic_ns()
        except TimeoutError:
            self._fail(timeout)
        except OSError as error:
            if self._resent():
                return
            self._lost(error.strerror or str(error))
        except BaseException:
            self.cancel()
            raise
        if data:
            self._record(data)
        elif self._resent():
            return
        else:
            self._closed()
        if not self.complete and self._now_ns > deadline_ns and self._deadline() == deadline:
            self._fail(timeout)  # bytes keep coming, but not those that were due

    def finish(self) -> None:
        """Read the response to its end; a `Failed` stays in `tape.fault`."""
        try:
            while not self.complete:
                self.pump()
        except Failed:
            pass

    def bodies(self) -> Iterator[bytes]:
        """The body as it comes, for a caller that wants to read while it streams.

        Raises:
            Failed: as recorded in `tape.fault`.
        """
        given = 0
        while True:
            while given < len(self.tape.reads):
                given += 1
                yield self.tape.reads[given - 1][1]
            if self.complete:
                return
            self.pump()

    def abandon(self, *, wait: bool = True) -> None:
        """The caller wants no more: keep the connection if the rest comes at once."""
        if self.complete or self.tape.fault is not None:
            return
        self._give_up_ns = time.monotonic_ns() + int(DRAIN_S * 1e9)
        enough = self.tape.body_bytes + DRAIN_BYTES
        try:
            while wait and not self.complete and self.tape.body_bytes <= enough:
                self.pump()
        except Failed:
            self.tape.fault = None  # what the caller did not wait for is not a fault
        self.tape.let_go = not self.complete
        self._hang_up()

    def cancel(self) -> None:
        """Stop at once: the run ends, or the user is killed."""
        if not self.complete:
            self.tape.fault = Fault(Outcome.CANCELLED, "cancelled", "stopped by the load generator")
            self._hang_up()

    # -- httptools callbacks -----------------------------------------------------------------

    def on_message_begin(self) -> None:
        """The first byte of a response; a second response is one nobody asked for."""
        if self.complete:
            self._reusable = False
        elif self.tape.first_byte_ns is None:
            self.tape.first_byte_ns = self._now_ns

    def on_header(self, name: bytes, value: bytes) -> None:
        """One response header; trailers are of no use."""
        if not self.headers_done:
            self.tape.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """The status line and headers are in."""
        if self.complete:
            return
        self.tape.status = self._parser.get_status_code()
        headers = self.tape.headers
        chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        self._until_close = "content-length" not in headers and not chunked
        self.headers_done = self.tape.status >= 200
        self._first = FirstToken(headers)

    def on_body(self, data: bytes) -> None:
        """A piece of the body, freed of chunk framing."""
        if not self.complete:
            self._pieces.append(data)

    def on_message_complete(self) -> None:
        """The response is over, unless it was an interim one (1xx)."""
        if self.complete:
            return
        if self.headers_done:
            self.complete = True
            self.tape.end_ns = self._now_ns
            self._reusable = self._reusable and self._parser.should_keep_alive()
            return
        self.tape.status = self.tape.first_byte_ns = None
        self.tape.headers.clear()

    # -- inside ------------------------------------------------------------------------------

    def _deadline(self) -> tuple[int, str]:
        """The next instant at which waiting must end, and which timeout that is."""
        limits, tape = self._deadlines, self.tape
        assert tape.sent_ns is not None
        total = (tape.sent_ns + int(limits.total_s * 1e9), "total")
        if self._give_up_ns is not None:
            return self._give_up_ns, "drain"
        if self._streams and not self._first.seen and tape.status in (None, 200):
            return min((tape.sent_ns + int(limits.first_token_s * 1e9), "first_token"), total)
        if tape.first_byte_ns is None:
            return total  # an answer that is not streamed is silent until it is ready
        return min((self._last_read_ns + int(limits.idle_s * 1e9), "idle"), total)

    def _record(self, data: bytes) -> None:
        tape = self.tape
        self._last_read_ns = self._now_ns
        self._request = None
        if tape.first_byte_ns is None:
            tape.first_byte_ns = self._now_ns
        if not self.headers_done:
            self._header_bytes += len(data)
        problem = self._parse(data)
        self._take_body()
        if self.complete:
            self._reusable = self._reusable and problem is None
            self._release()
        elif problem is not None:
            self._fail(Fault(Outcome.MALFORMED, "http", f"not HTTP: {problem}"))
        elif not self.headers_done and self._header_bytes > MAX_HEADER_BYTES:
            self._fail(Fault(Outcome.MALFORMED, "http", "response headers without end"))
        elif tape.body_bytes > MAX_BODY_BYTES or len(tape.reads) > MAX_READS:
            message = f"response larger than {MAX_BODY_BYTES} bytes or {MAX_READS} reads"
            self._fail(Fault(Outcome.MALFORMED, "too_large", message))

    def _parse(self, data: bytes) -> str | None:
        """Let the parser call back; what is wrong with `data`, if anything."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            return "it switches to a protocol nobody asked for"
        except httptools.HttpParserError as error:
            return str(error)
        return None

    def _take_body(self) -> None:
        """Put what one read held of the body on the tape, as one piece."""
        if not self._pieces:
            return
        tape, data = self.tape, b"".join(self._pieces)
        self._pieces.clear()
        tape.reads.append((self._now_ns, data))
        tape.body_bytes += len(data)
        if not self._first.seen and tape.status == 200:
            self._first.feed(data)

    def _closed(self) -> None:
        """The server has sent its last byte; for some responses that is the proper end."""
        self._now_ns = time.monotonic_ns()
        if self.headers_done and self._until_close:
            self.complete = True
            self.tape.end_ns = self._now_ns
            self._hang_up()
        else:
            self._lost("connection closed by the server")

    def _resent(self) -> bool:
        """Whether an idle connection was closed under the request, which then is sent again."""
        tape = self.tape
        if self._request is None or not tape.conn_reused or self._give_up_ns is not None:
            return False
        if tape.sent_ns is None or time.monotonic_ns() - tape.sent_ns > HUNG_UP_NS:
            return False
        assert self._connection is not None
        self._connection.close()
        self._connection = None
        tape.resent = True
        self._reusable, self._send_error = True, None
        self._send(*self._request, reuse=False)
        return True

    def _lost(self, message: str) -> NoReturn:
        cause = "after_first_token" if self._first.seen else "before_first_token"
        self._fail(Fault(Outcome.DISCONNECTED, cause, self._send_error or message))

    def _release(self) -> None:
        """The response is over: keep the connection if nothing else was on it."""
        if self._reusable and self._connection is not None:
            self._pool.give_back(self._connection)
            self._connection = None
        self._hang_up()

    def _fail(self, fault: Fault) -> NoReturn:
        self.tape.fault = fault
        self._hang_up()
        raise Failed(fault)

    def _hang_up(self) -> None:
        if self.tape.end_ns is None:
            self.tape.end_ns = time.monotonic_ns()
        if self._connection is not None:
            self._connection.close()
            self._connection = None
