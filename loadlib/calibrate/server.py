"""`python -m loadlib.calibrate.server`: a server whose behaviour is trivial and on record.

An OpenAI-compatible stream per `POST`: headers and role chunk at once, the first token at
arrival + TTFT, token k at first + k · gap (absolute instants, one `send` each), then the end.
`GET /truth` drains what it did. One process, one loop, one heap of instants; arrivals carry the
kernel's receive time, so that a server that wakes late still knows when a request came.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import heapq
import json
import os
import selectors
import signal
import socket
import struct
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from select import select
from typing import Any

from loadlib.calibrate.protocol import (
    MODELS,
    NS_PER_MS,
    Pace,
    Served,
    closing,
    opening,
    request_line,
    token,
    weighted_quantile,
)

SO_TIMESTAMPNS = 35  # <asm-generic/socket.h>; the socket module does not name it
_TIMESPEC = struct.Struct("@qq")
_PR_SET_TIMERSLACK = 29  # <linux/prctl.h>
BUFFER_BYTES = 1 << 18
HEADER_BYTES = 1 << 16
BATCH = 64  # tokens between two looks at the sockets, and tokens of one send without pace
LOOK_S = 0.5  # how often an idle server looks for its parent


class Stream:
    """One answer on its way."""

    __slots__ = (
        "arrival_ns", "chunk", "connection", "first_ns", "id", "last_ns", "received_ns", "sent",
    )  # fmt: skip

    def __init__(self, number: int, connection: Connection) -> None:
        self.id = f"t-{number}"
        self.connection = connection
        self.arrival_ns, self.received_ns = connection.arrival_ns, connection.received_ns
        self.chunk = token(self.id)
        self.sent = 0  # tokens
        self.first_ns = self.last_ns = 0


class Connection:
    """A client's socket: the request being read, the answer being written."""

    __slots__ = (
        "arrival_ns", "body_left", "head", "line", "received_ns", "sock", "stream", "unsent",
    )  # fmt: skip

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.head = b""  # of the request, as far as it has come
        self.line = b""  # its first line, once the headers are complete
        self.body_left = 0
        self.arrival_ns = self.received_ns = 0  # first and last segment, monotonic
        self.stream: Stream | None = None
        self.unsent = b""  # what the socket had no room for

    def feed(self, data: bytes, at_ns: int) -> bool:
        """Take what came at `at_ns`; whether a request is complete.

        Raises ValueError for what is no HTTP request with a Content-Length.
        """
        if not self.head and not self.line:
            self.arrival_ns = at_ns
        self.received_ns = at_ns
        if self.line:
            self.body_left -= len(data)
        else:
            self.head += data
            end = self.head.find(b"\r\n\r\n")
            if end < 0:
                if len(self.head) > HEADER_BYTES:
                    raise ValueError("headers without end")
                return False
            self.line, self.body_left = request_line(self.head[:end])
            self.body_left -= len(self.head) - end - 4
            self.head = b""
        if self.body_left < 0:
            raise ValueError("a request before the answer to the last one")
        return self.body_left == 0


class Record:
    """What was done since it was last drained."""

    def __init__(self) -> None:
        self._encode = json.JSONEncoder(separators=(",", ":")).encode
        self._new()

    def _new(self) -> None:
        self.finished: list[Served] = []
        self.gap_us: dict[int, int] = defaultdict(int)
        self.late_us: dict[int, int] = defaultdict(int)
        self.events = 0

    def finish(self, stream: Stream) -> None:
        """A stream has ended well."""
        self.finished.append(
            Served(
                id=stream.id, arrival_ns=stream.arrival_ns, received_ns=stream.received_ns,
                first_ns=stream.first_ns, last_ns=stream.last_ns, events=stream.sent,
            )
        )  # fmt: skip

    def drain(self) -> bytes:
        """JSON lines: one per finished request, then the totals."""
        lines = [
            self._encode({name: getattr(served, name) for name in Served.__struct_fields__})
            for served in self.finished
        ]
        totals = {
            "gap_us": sorted(self.gap_us.items()),
            "events": self.events,
            "late_us_p99": weighted_quantile(self.late_us.items(), 0.99),
        }
        lines.append(self._encode(totals))
        self._new()
        return ("\n".join(lines) + "\n").encode()


class Server:
    """The loop. `address` is (host, port) with port 0 for any free one."""

    def __init__(self, pace: Pace, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self.pace = pace
        self.record = Record()
        self._count = 0
        self._ties = 0
        self._heap: list[tuple[int, int, Stream]] = []
        self._buffer = bytearray(BUFFER_BYTES)
        self._listener = socket.create_server(address, backlog=4096)
        self._listener.setblocking(False)
        _stamp(self._listener)  # inherited, so that what comes before `accept` has its time too
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self.port: int = self._listener.getsockname()[1]

    def run(self, *, parent: int | None = None) -> None:
        """Serve until a signal's handler raises, or `parent` is no longer our parent."""
        heap, look_ns, clock = self._heap, int(LOOK_S * 1e9), time.monotonic_ns
        wake = [self._selector]
        while True:
            now_ns = clock()
            due_ns = heap[0][0] if heap else now_ns + look_ns
            wait_ns = min(due_ns - now_ns, look_ns)
            # The selector's own timeout is rounded up to whole milliseconds; select's is not.
            if select(wake, (), (), max(0, wait_ns) / 1e9)[0]:
                self._look()
            elif parent is not None and os.getppid() != parent:
                return
            self._send_due()

    def _send_due(self) -> None:
        """Send what is due, at most a batch."""
        heap, gap_ns = self._heap, self.pace.gap_ns
        tokens = self.pace.tokens
        for _ in range(BATCH):
            if not heap or heap[0][0] > time.monotonic_ns():
                return
            due_ns, tie, stream = heap[0]
            if stream.connection.stream is not stream:  # the client has gone
                heapq.heappop(heap)
            elif stream.sent == tokens:
                heapq.heappop(heap)
                self._end(stream)
            elif gap_ns == 0 and stream.connection.unsent:  # not even the headers have left
                heapq.heapreplace(heap, (due_ns + NS_PER_MS, tie, stream))
            elif gap_ns == 0:
                heapq.heappop(heap)
                self._pour(stream, due_ns)
            else:
                heapq.heapreplace(heap, (due_ns + gap_ns, tie, stream))
                self._token(stream, due_ns)

    def _token(self, stream: Stream, due_ns: int) -> None:
        connection, record = stream.connection, self.record
        now_ns = time.monotonic_ns()
        if connection.unsent:
            connection.unsent += stream.chunk
        else:
            try:
                sent = connection.sock.send(stream.chunk)
                if sent < len(stream.chunk):
                    self._wait_for_room(connection, stream.chunk[sent:])
            except BlockingIOError:
                self._wait_for_room(connection, stream.chunk)
            except OSError:
                self._close(connection)
                return
        if stream.sent:
            record.gap_us[(now_ns - stream.last_ns + 500) // 1000] += 1
        else:
            stream.first_ns = now_ns
        stream.last_ns = now_ns
        stream.sent += 1
        record.events += 1
        record.late_us[(now_ns - due_ns) // 1000] += 1

    def _pour(self, stream: Stream, due_ns: int | None = None) -> None:
        """Without pace: as many tokens at once as the socket has room for, then the end."""
        connection, record = stream.connection, self.record
        while not connection.unsent and stream.sent < self.pace.tokens:
            n = min(BATCH, self.pace.tokens - stream.sent)
            now_ns = time.monotonic_ns()
            if stream.sent:
                record.gap_us[(now_ns - stream.last_ns + 500) // 1000] += 1
            else:
                stream.first_ns = now_ns
                record.late_us[(now_ns - (due_ns or now_ns)) // 1000] += 1
            record.gap_us[0] += n - 1
            stream.last_ns = now_ns
            stream.sent += n
            record.events += n
            self._write(connection, stream.chunk * n)
        if not connection.unsent and connection.stream is stream:
            self._end(stream)

    def _end(self, stream: Stream) -> None:
        connection = stream.connection
        self._write(connection, closing(stream.id, stream.sent))
        if connection.stream is stream:
            self.record.finish(stream)
            connection.stream = None
            connection.line = b""

    # -- sockets -----------------------------------------------------------------------------

    def _look(self) -> None:
        for key, mask in self._selector.select(0):
            if key.data is None:
                self._accept()
                continue
            connection: Connection = key.data
            if mask & selectors.EVENT_WRITE:
                self._flush(connection)
            if mask & selectors.EVENT_READ:
                self._read(connection)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return  # nobody else waits, or the one who did has gone
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _stamp(sock)
            self._selector.register(sock, selectors.EVENT_READ, Connection(sock))

    def _read(self, connection: Connection) -> None:
        try:
            n, ancillary, _flags, _ = connection.sock.recvmsg_into([self._buffer], 64)
        except BlockingIOError:
            return
        except OSError:
            n, ancillary = 0, []
        if n == 0:
            self._close(connection)
            return
        try:
            if connection.stream is not None:
                raise ValueError("a request before the answer to the last one")
            if connection.feed(bytes(self._buffer[:n]), _kernel_ns(ancillary)):
                self._answer(connection)
        except ValueError as error:
            self._reply(connection, b"400 Bad Request", f"{error}\n".encode())
            self._close(connection)

    def _answer(self, connection: Connection) -> None:
        line = connection.line
        if line.startswith(b"POST ") and line.endswith(b"/chat/completions"):
            self._begin(connection)
            return
        connection.line = b""
        if line == b"GET /truth":
            self._reply(connection, b"200 OK", self.record.drain(), b"application/x-ndjson")
        elif line == b"GET /v1/models":
            self._reply(connection, b"200 OK", MODELS, b"application/json")
        else:
            self._reply(connection, b"404 Not Found", b"no such place\n")

    def _begin(self, connection: Connection) -> None:
        self._count += 1
        stream = connection.stream = Stream(self._count, connection)
        self._write(connection, opening(stream.id))
        self._ties += 1
        due_ns = stream.arrival_ns + self.pace.first_ns(self._count)
        heapq.heappush(self._heap, (due_ns, self._ties, stream))

    def _reply(
        self, connection: Connection, status: bytes, body: bytes, kind: bytes = b"text/plain"
    ) -> None:
        head = b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n"
        self._write(connection, head % (status, kind, len(body)) + body)

    def _write(self, connection: Connection, data: bytes) -> None:
        if connection.unsent:
            connection.unsent += data
            return
        try:
            sent = connection.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._close(connection)
            return
        if sent < len(data):
            self._wait_for_room(connection, data[sent:])

    def _wait_for_room(self, connection: Connection, rest: bytes) -> None:
        connection.unsent = rest
        both = selectors.EVENT_READ | selectors.EVENT_WRITE
        self._selector.modify(connection.sock, both, connection)

    def _flush(self, connection: Connection) -> None:
        rest, connection.unsent = connection.unsent, b""
        self._selector.modify(connection.sock, selectors.EVENT_READ, connection)
        self._write(connection, rest)
        stream = connection.stream
        if self.pace.gap_ns == 0 and stream is not None and stream.sent:
            self._pour(stream)

    def _close(self, connection: Connection) -> None:
        if connection.sock.fileno() >= 0:
            self._selector.unregister(connection.sock)
            connection.sock.close()
        connection.stream = None
        connection.unsent = b""


def _stamp(sock: socket.socket) -> None:
    if sys.platform == "linux":
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)


def _kernel_ns(ancillary: Sequence[tuple[int, int, bytes]]) -> int:
    """When the kernel received it, as monotonic ns; now, where it does not say."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
            seconds, ns = _TIMESPEC.unpack(data[: _TIMESPEC.size])
            return int(seconds * 1_000_000_000 + ns - _epoch_ns())
    return time.monotonic_ns()


def _epoch_ns() -> int:
    """Realtime − monotonic at this moment: the best of three readings, good to about 0.1 µs."""
    best, offset = 1 << 62, 0
    for _ in range(3):
        before, real, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        if after - before < best:
            best, offset = after - before, real - (before + after) // 2
    return offset


def _wake_precisely() -> None:
    """Timers of this thread fire when they are due; Linux grants itself 50 µs otherwise."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)


def _positive_ms(text: str) -> int:
    value = round(float(text) * NS_PER_MS)
    if not 0 <= value < 3_600_000 * NS_PER_MS:
        raise ValueError(text)
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise ValueError(text)
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadlib.calibrate.server")
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to bind")
    add("--port", type=int, default=0, help="0, the default, takes any free port")
    add("--ttft-ms", type=_positive_ms, default="200", help="from arrival to first token")
    add("--gap-ms", type=_positive_ms, default="20", help="between tokens; 0: no pace")
    add("--tokens", type=_count, default=100, help="of every answer")
    add("--spread", type=_share, default=0.0, help="of the TTFT: ttft · (1 ± spread)")
    add("--exit-with-parent", action="store_true", help="end when the starting process has ended")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM; the first line of stdout is `{"port": N}`."""
    parent = os.getppid()  # at once: it may end as soon as it has read the port
    given: Any = _parser().parse_args(argv)
    pace = Pace(
        ttft_ns=given.ttft_ms, gap_ns=given.gap_ms, tokens=given.tokens, spread=given.spread
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    _wake_precisely()
    server = Server(pace, (given.host, given.port))
    gc.disable()  # nothing here goes in circles
    print(json.dumps({"port": server.port}), flush=True)  # noqa: T201
    with contextlib.suppress(KeyboardInterrupt):
        server.run(parent=parent if given.exit_with_parent else None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
