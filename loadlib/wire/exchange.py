"""One request and its response on one connection, recorded on a tape.

The greenlet that sends sleeps until the response is over (or, for code that reads along, until
something came). Meanwhile the reel calls `received` from the event loop, once a read.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httptools
from gevent.hub import Waiter

from loadlib.answer import FirstToken
from loadlib.sample import Outcome
from loadlib.tape import MAX_BODY_BYTES, Fault, Tape
from loadlib.wire.connection import Connection, Failed, Origin, Pool
from loadlib.wire.reel import Reel

MAX_HEADER_BYTES = 256 * 1024
MAX_PIECES = 1_000_000  # of one response: byte by byte, 64 MB would be gigabytes of tape
DRAIN_BYTES = 64 * 1024  # what an abandoned response may still send before we hang up
DRAIN_S = 0.05
HUNG_UP_NS = 1_000_000_000  # an idle connection that was closed is found out a round trip later

_WRITE = 2  # of libev


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long the parts of an exchange may take, in seconds (`timeouts:` of a scenario)."""

    connect_s: float = 5.0
    first_token_s: float = 60.0
    idle_s: float = 30.0
    total_s: float = 300.0


class Exchange:
    """`streams` says that the request asked for a stream, so the first-token deadline applies."""

    def __init__(self, pool: Pool, deadlines: Deadlines, *, streams: bool) -> None:
        self.tape = Tape()
        self.complete = False
        self.headers_done = False
        self._pool, self._deadlines, self._streams = pool, deadlines, streams
        self._connection: Connection | None = None
        self._first = FirstToken()
        self._awaits_token = False  # the headers of a stream are in, a token is not
        self._now_ns = 0
        self._last_send_ns = 0  # when the last part of the request was handed to the kernel
        self._header_bytes = 0
        self._give_up_ns: int | None = None  # set once the caller has let go
        self._until_close = False
        self._reusable = True
        self._send_error: str | None = None
        self._request: tuple[Origin, bytes] | None = None  # until the server says something
        self._over = False  # complete, or a fault is on the tape
        self._hung_up = False  # an idle connection was closed under the request: send it again
        self._heard = False  # something came since the caller last waited
        self._along = False  # the caller wants to be woken for each read
        self._waiter: Any = None
        self._waits_until_ns = 0
        self._parser: Any = httptools.HttpResponseParser(self)  # until all is over

    # -- the steps: called by the greenlet that owns the exchange ------------------------------

    def send(self, origin: Origin, request: bytes) -> None:
        """Connect and write the whole request.

        A server may close an idle connection while the next request is on its way: llama.cpp's
        does so after every stream, although it promises to keep it. That is no failure of the
        request, which is sent once more, on a new connection; its response clock runs on.

        Raises:
            Failed: as recorded in `tape.fault`.
        """
        self._request = origin, request
        try:
            self._send(origin, request)
        except BaseException:
            self.cancel()
            raise

    def pump(self) -> None:
        """Wait until something came and is recorded.

        Raises:
            Failed: as recorded in `tape.fault`.
        """
        self._along = True
        self._wait()
        self._heard = False
        if self.tape.fault is not None:
            raise Failed(self.tape.fault)

    def finish(self) -> None:
        """Read the response to its end; a fault stays on the tape."""
        self._along = False
        with contextlib.suppress(Failed):  # it was sent again, and that failed
            self._wait()

    def bodies(self) -> Iterator[bytes]:
        """The body as it comes, for a caller that wants to read while it streams.

        Raises:
            Failed: as recorded in `tape.fault`.
        """
        given = 0
        while True:
            while given < len(self.tape.pieces):
                given += 1
                yield self.tape.pieces[given - 1]
            if self.complete:
                return
            self.pump()

    def abandon(self, *, wait: bool = True) -> None:
        """The caller wants no more: keep the connection if the rest comes at once."""
        if self._over:
            return
        self._give_up_ns = time.monotonic_ns() + int(DRAIN_S * 1e9)
        enough = self.tape.body_bytes + DRAIN_BYTES
        try:
            while wait and not self.complete and self.tape.body_bytes <= enough:
                self.pump()
        except Failed:
            self.tape.fault = None  # what the caller did not wait for is not a fault
        self.tape.let_go, self._over = not self.complete, True
        self._hang_up()

    def cancel(self) -> None:
        """Stop at once: the run ends, or the user is killed."""
        if not self._over:
            self._fault(Fault(Outcome.CANCELLED, "cancelled", "stopped by the load generator"))
        self._hang_up()

    # -- from the event loop -------------------------------------------------------------------

    def received(self, data: bytes, at_ns: int) -> None:
        """One read of the connection, which arrived at `at_ns`."""
        if self._over:
            self._reusable = False  # nobody asked for more
            return
        self._now_ns = at_ns
        self._heard = True
        problem = None
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            problem = _said(error)
        if self._request is not None:
            self._answered(at_ns)
        if self.complete:
            self._reusable = self._reusable and problem is None
            self._wake()
        elif problem is not None:
            self._fault(Fault(Outcome.MALFORMED, "http", f"not HTTP: {problem}"))
        elif not self.headers_done:
            self._wait_for_headers(len(data))
        elif self.tape.body_bytes > MAX_BODY_BYTES or len(self.tape.pieces) > MAX_PIECES:
            message = f"response larger than {MAX_BODY_BYTES} bytes or {MAX_PIECES} pieces"
            self._fault(Fault(Outcome.MALFORMED, "too_large", message))
        elif self._along:
            self._wake()

    def ended(self, at_ns: int, message: str | None) -> None:
        """The server has sent its last byte; for some responses that is the proper end."""
        self._now_ns = at_ns
        if self._over:
            self._reusable = False
        elif message is None and self.headers_done and self._until_close:
            self.complete = self._over = True
            self.tape.end_ns = at_ns
            self._reusable = False
            self._wake()
        elif self._closed_while_idle(at_ns):
            self._hung_up = True
            self._wake()
        else:
            message = self._send_error or message or "connection closed by the server"
            cause = "after_first_token" if self._first.seen else "before_first_token"
            self._fault(Fault(Outcome.DISCONNECTED, cause, message))

    # -- httptools callbacks -------------------------------------------------------------------

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
        self.tape.http = self._parser.get_http_version()
        headers = self.tape.headers
        chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        self._until_close = "content-length" not in headers and not chunked
        self.headers_done = self.tape.status >= 200
        self._first = FirstToken(headers)
        self._awaits_token = self.tape.status == 200
        self._hurry()

    def on_body(self, data: bytes) -> None:
        """A piece of the body, freed of chunk framing. Pieces of one read share its instant."""
        if self.complete:
            return
        self.tape.add(self._now_ns, data)
        if self._awaits_token and self._first.feed(data):
            self._awaits_token = False
            self._hurry()

    def on_message_complete(self) -> None:
        """The response is over, unless it was an interim one (1xx)."""
        if self.complete:
            return
        if self.headers_done:
            self.complete = self._over = True
            self.tape.end_ns = self._now_ns
            self._reusable = self._reusable and self._parser.should_keep_alive()
            return
        self.tape.status = self.tape.first_byte_ns = None
        self.tape.headers.clear()

    # -- inside: recording ---------------------------------------------------------------------

    def _answered(self, at_ns: int) -> None:
        """The first bytes are here: from now on the request cannot be sent again."""
        tape = self.tape
        self._request = None
        if tape.first_byte_ns is None:
            tape.first_byte_ns = at_ns
        if tape.flushed_ns is not None and self._last_send_ns <= at_ns < tape.flushed_ns:
            tape.flushed_ns = at_ns  # the answer came before the system call had returned

    def _wait_for_headers(self, more_bytes: int) -> None:
        self._header_bytes += more_bytes
        if self._header_bytes > MAX_HEADER_BYTES:
            self._fault(Fault(Outcome.MALFORMED, "http", "response headers without end"))

    def _closed_while_idle(self, at_ns: int) -> bool:
        """Whether an idle connection was closed under the request, which then is sent again."""
        tape = self.tape
        if self._request is None or not tape.conn_reused or self._give_up_ns is not None:
            return False
        return tape.sent_ns is not None and at_ns - tape.sent_ns <= HUNG_UP_NS

    def _fault(self, fault: Fault) -> None:
        self.tape.fault, self._over = fault, True
        self._wake()

    # -- inside: waiting -----------------------------------------------------------------------

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
        return min((self._now_ns + int(limits.idle_s * 1e9), "idle"), total)

    def _wait(self) -> None:
        """Until the exchange is over, or (for a caller that reads along) something came.

        Raises:
            Failed: it had to be sent again, and that failed.
        """
        try:
            while not self._over and not (self._along and self._heard):
                if self._hung_up:
                    self._send_again()
                    continue
                due_ns, _ = self._deadline()
                if time.monotonic_ns() < due_ns:
                    self._park(due_ns)
                else:
                    self._late()
        except BaseException:
            self.cancel()
            raise
        if self._over:
            self._settle()

    def _late(self) -> None:
        """The deadline has passed; what had come in time must not time out."""
        due_ns, which = self._deadline()
        connection = self._connection
        if connection is not None and not connection.broken and connection.readable():
            in_time = self._now_ns <= due_ns
            if self._over or self._hung_up or in_time or self._deadline() != (due_ns, which):
                return
        self._fault(Fault(Outcome.TIMEOUT, which, f"{which.replace('_', ' ')} timeout"))

    def _park(self, due_ns: int, *, writable: int | None = None) -> None:
        """Sleep until woken, `due_ns`, or until the socket `writable` takes bytes again."""
        hub = Reel.here().hub
        waiter = self._waiter = Waiter(hub)
        self._waits_until_ns = due_ns
        timer = hub.loop.timer(max(0.0, (due_ns - time.monotonic_ns()) / 1e9))
        watcher = None if writable is None else hub.loop.io(writable, _WRITE)
        try:
            timer.start(waiter.switch, None)
            if watcher is not None:
                watcher.start(waiter.switch, None)
            waiter.get()
        finally:
            self._waiter = None
            timer.stop()
            timer.close()
            if watcher is not None:
                watcher.stop()
                watcher.close()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            Reel.here().soon(waiter.switch, None)

    def _hurry(self) -> None:
        """Another deadline applies now; whoever sleeps past it is woken."""
        if self._waiter is not None and self._deadline()[0] < self._waits_until_ns:
            self._wake()

    # -- inside: sending and the end -----------------------------------------------------------

    def _send(self, origin: Origin, request: bytes, *, reuse: bool = True) -> None:
        connect_s = self._deadlines.connect_s
        try:
            connection = self._pool.take(origin, connect_s, self.tape, reuse=reuse)
        except Failed as failed:
            self._fault(failed.fault)
            raise
        self._connection = connection
        connection.sink = self
        data = connection.encode(request)
        self.tape.sent_ns = self._last_send_ns = self._now_ns = time.monotonic_ns()
        try:
            sent = connection.sock.send(data)
            if sent < len(data):
                self._send_rest(connection, memoryview(data)[sent:])
        except BlockingIOError:
            self._send_rest(connection, memoryview(data))
        except OSError as error:
            self._cannot_send(error)
        if self.tape.fault is not None and self.tape.fault.outcome is Outcome.TIMEOUT:
            raise Failed(self.tape.fault)
        if self._send_error is None and not self._over:
            self.tape.flushed_ns = time.monotonic_ns()

    def _send_rest(self, connection: Connection, rest: memoryview) -> None:
        """What the socket did not take at once."""
        try:
            while rest and not self._over:
                due_ns, which = self._deadline()
                if time.monotonic_ns() >= due_ns:
                    message = "the request could not be written in time"
                    return self._fault(Fault(Outcome.TIMEOUT, which, message))
                self._park(due_ns, writable=connection.sock.fileno())
                self._last_send_ns = time.monotonic_ns()
                try:
                    rest = rest[connection.sock.send(rest) :]
                except BlockingIOError:
                    continue
        except OSError as error:
            self._cannot_send(error)

    def _cannot_send(self, error: OSError) -> None:
        """A server may refuse a long body before it has read it: what it said may be there."""
        self._reusable = False
        self._send_error = f"connection lost while sending: {error.strerror or error}"

    def _send_again(self) -> None:
        assert self._request is not None
        self._drop_connection()
        self._hung_up = False
        self._reusable, self._send_error = True, None
        self.tape.resent = True
        self._send(*self._request, reuse=False)

    def _settle(self) -> None:
        """The response is over: keep the connection if nothing else was on it."""
        connection = self._connection
        if self.complete and self._reusable and connection is not None and not connection.broken:
            self._pool.give_back(connection)
            self._connection = None
        self._hang_up()

    def _hang_up(self) -> None:
        if self.tape.end_ns is None:
            self.tape.end_ns = time.monotonic_ns()
        # It holds our methods and we hold it: whole tapes would wait for the garbage collector,
        # which stops everything for 20 ms at 400 streams.
        self._parser = None
        self._drop_connection()

    def _drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _said(error: Exception) -> str:
    if isinstance(error, httptools.HttpParserUpgrade):
        return "it switches to a protocol nobody asked for"
    return str(error)
