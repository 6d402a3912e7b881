"""One TCP (and TLS) connection on the reel, and the pool of those that are idle."""

from __future__ import annotations

import contextlib
import socket as sockets
import ssl
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import gevent.socket
from gevent.monkey import get_original

from loadlib.sample import Outcome
from loadlib.tape import Fault, Tape
from loadlib.wire.clock import STAMP_BYTES, stamps
from loadlib.wire.reel import Reel

READ_BYTES = 65536
UNSTAMPED_READS = 8  # after so many without a stamp no kernel time can be expected

_Socket: type[sockets.socket] = get_original("socket", "socket")  # gevent's would wait for us


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


class Sink(Protocol):
    """Who gets what a connection reads; called from the event loop."""

    def received(self, data: bytes, at_ns: int) -> None:
        """Bytes, and when they arrived."""

    def ended(self, at_ns: int, message: str | None) -> None:
        """No more will come: the server closed, or the connection broke (`message`)."""


class Connection:
    """An open connection; `connect_ns` and `tls_ns` are durations. Reads go to `sink`.

    Without a sink it is idle, and whatever comes then (mostly its end) makes it unusable.
    """

    __slots__ = (
        "_fd", "_last_ns", "_recvmsg", "_stamped", "_tls", "_unstamped", "broken", "connect_ns",
        "origin", "reel", "sink", "sock", "tls_ns",
    )  # fmt: skip

    def __init__(self, origin: Origin, context: Callable[[], ssl.SSLContext], timeout_s: float):
        self.origin, self.reel = origin, Reel.here()
        self.sink: Sink | None = None
        self.broken = False
        self.tls_ns: int | None = None
        self._tls: _Tls | None = None
        self._unstamped = 0
        start = time.monotonic_ns()
        self.sock = _connected(origin, timeout_s)
        self._last_ns = time.monotonic_ns()
        self.connect_ns = self._last_ns - start
        self._fd, self._recvmsg = self.sock.fileno(), self.sock.recvmsg
        self._stamped = self.reel.kernel_clock and stamps(self.sock)
        try:
            if origin.scheme == "https":
                self._start_tls(context, timeout_s)
        except BaseException:
            self.sock.close()
            raise
        self.reel.add(self._fd, self.readable, stamped=self._stamped)

    def _start_tls(self, context: Callable[[], ssl.SSLContext], timeout_s: float) -> None:
        start = time.monotonic_ns()
        try:
            self._tls = _Tls(context(), self.origin.host)
            with gevent.Timeout(timeout_s, TimeoutError()):
                self._tls.shake_hands(self.sock)
        except TimeoutError:
            raise Failed(Fault(Outcome.TIMEOUT, "connect", "TLS handshake timed out")) from None
        except (OSError, ValueError) as error:  # SSLError is an OSError; a bad name a ValueError
            reason = getattr(error, "verify_message", None) or getattr(error, "reason", None)
            message = f"TLS with {self.origin.host} failed: {reason or error}"
            raise Failed(Fault(Outcome.DISCONNECTED, "tls", message)) from None
        self.tls_ns = time.monotonic_ns() - start

    # -- reading: called by the reel -----------------------------------------------------------

    def readable(self) -> bool:
        """One read, handed to the sink; False where there was nothing to read."""
        try:
            data, ancillary, _, _ = self._recvmsg(READ_BYTES, STAMP_BYTES)
        except BlockingIOError:
            return False
        except OSError as error:
            self._ended(error.strerror or str(error))
            return True
        now_ns = time.monotonic_ns()
        if ancillary:
            at_ns = self.reel.stamped(ancillary[0][2], self._last_ns, now_ns)
        else:
            at_ns = now_ns
            self._no_stamp()
        self._last_ns = at_ns
        if not data:
            self._ended(None)
            return True
        if len(data) == READ_BYTES:
            self.reel.behind = True
        if self._tls is not None:
            return self._decrypted(data, at_ns)
        if self.sink is not None:
            self.sink.received(data, at_ns)
        else:
            self._ended(None)
        return True

    def _decrypted(self, data: bytes, at_ns: int) -> bool:
        assert self._tls is not None
        try:
            plain, over = self._tls.decrypt(data)
            if reply := self._tls.outgoing.read():
                self.sock.send(reply)  # a key update wants one; it is a few bytes
        except OSError as error:
            self._ended(getattr(error, "reason", None) or str(error))
            return True
        if plain and self.sink is not None:
            self.sink.received(plain, at_ns)
        if over or (plain and self.sink is None):
            self._ended(None)
        return True

    def _no_stamp(self) -> None:
        self.reel.readings.user_clock_reads += 1
        self._unstamped += 1
        if self._stamped and self._unstamped == UNSTAMPED_READS:
            # The kernel promised and does not keep it: from now on be there for each read.
            self._stamped = False
            self.reel.remove(self._fd)
            self.reel.add(self._fd, self.readable, stamped=False)

    def _ended(self, message: str | None) -> None:
        self.broken = True
        self.reel.remove(self._fd)
        if self.sink is not None:
            self.sink.ended(time.monotonic_ns(), message)
        else:
            self.sock.close()

    # -- writing and the end -------------------------------------------------------------------

    def encode(self, data: bytes) -> bytes:
        """What goes on the wire for `data`."""
        return data if self._tls is None else self._tls.encrypt(data)

    def stale(self) -> bool:
        """Whether an idle connection was closed, or says what nobody asked."""
        if not self.broken:
            self._last_ns = time.monotonic_ns()  # a silence is not a gap between reads
            self.readable()
        return self.broken

    def close(self) -> None:
        """Close the socket; never raises."""
        if not self.broken:
            self.broken = True
            self.reel.remove(self._fd)
        self.sink = None
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
        tape.conn_reused = False
        connection = Connection(origin, self._context, connect_s)
        tape.connect_ns, tape.tls_ns = connection.connect_ns, connection.tls_ns
        return connection

    def give_back(self, connection: Connection) -> None:
        """Keep a connection whose response was read to its end."""
        connection.sink = None
        self._idle[connection.origin].append(connection)

    def close(self) -> None:
        """Close every idle connection."""
        for idle in self._idle.values():
            while idle:
                idle.pop().close()


class _Tls:
    """TLS between two buffers in memory, so that the socket stays ours to read and stamp."""

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self._incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self.outgoing, server_hostname=host)

    def shake_hands(self, sock: sockets.socket) -> None:
        """Raises OSError (ssl.SSLError) where it fails."""
        while True:
            try:
                self._object.do_handshake()
            except ssl.SSLWantReadError:
                _send_all(sock, self.outgoing.read())
                gevent.socket.wait_read(sock.fileno())
                data = sock.recv(READ_BYTES)
                if not data:
                    raise ConnectionResetError("closed by the server") from None
                self._incoming.write(data)
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    sock.send(self.outgoing.read())  # the alert that tells the server why
                raise
            else:
                return _send_all(sock, self.outgoing.read())

    def encrypt(self, data: bytes) -> bytes:
        self._object.write(data)
        return self.outgoing.read()

    def decrypt(self, data: bytes) -> tuple[bytes, bool]:
        """(what is in `data`, whether the server said that this is the end)."""
        self._incoming.write(data)
        plain: list[bytes] = []
        try:
            while piece := self._object.read(READ_BYTES):
                plain.append(piece)
        except ssl.SSLWantReadError:
            return b"".join(plain), False
        except ssl.SSLZeroReturnError:
            pass
        return b"".join(plain), True


def _send_all(sock: sockets.socket, data: bytes) -> None:
    while data:
        try:
            data = data[sock.send(data) :]
        except BlockingIOError:
            gevent.socket.wait_write(sock.fileno())


def _connected(origin: Origin, timeout_s: float) -> sockets.socket:
    """A connected, non-blocking socket of the standard library's."""
    try:
        ours = gevent.socket.create_connection((origin.host, origin.port), timeout=timeout_s)
    except TimeoutError as error:
        raise Failed(Fault(Outcome.TIMEOUT, "connect", f"connect: {error}")) from None
    except (sockets.gaierror, UnicodeError) as error:  # no such name, or none that could be
        reason = getattr(error, "strerror", None) or error
        message = f"cannot resolve {origin.host}: {reason}"
        raise Failed(Fault(Outcome.DISCONNECTED, "dns", message)) from None
    except OSError as error:
        message = f"cannot connect to {origin.host}:{origin.port}: {error.strerror or error}"
        raise Failed(Fault(Outcome.DISCONNECTED, "connect", message)) from None
    ours.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
    sock = _Socket(fileno=ours.detach())
    sock.setblocking(False)
    return sock
