"""Exchanges against a server thread, in a process of their own: the wire imports gevent.

`python reel_child.py NAME`: prints one JSON object. The event loop is this process's main thread;
the server is a real thread, so it goes on sending while the loop is held up.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import gevent
from gevent.monkey import get_original

from loadlib.wire import Deadlines, Exchange, Origin, Pool, Reel, clock, connection

REQUEST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
TOKEN = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
END = b"data: [DONE]\n\n"
wait = get_original("time", "sleep")  # blocks the thread, the event loop with it


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class Server(threading.Thread):
    """Answers each request with HEAD, then a token after each of `gaps_s`, then the end."""

    def __init__(self, gaps_s: Sequence[float], tls: Any = None) -> None:
        super().__init__(daemon=True)
        self.gaps_s, self.tls = gaps_s, tls
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.sent_ns: list[int] = []  # instants before each token was sent
        self.start()

    @property
    def origin(self) -> Origin:
        scheme = "http" if self.tls is None else "https"
        return Origin(scheme, "127.0.0.1", self.listener.getsockname()[1])

    def run(self) -> None:
        while True:
            peer, _ = self.listener.accept()
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls is not None:
                peer = self.tls.wrap_socket(peer, server_side=True)
            threading.Thread(target=self.serve, args=(peer,), daemon=True).start()

    def serve(self, peer: socket.socket) -> None:
        while b"\r\n\r\n" in peer.recv(65536):
            peer.sendall(HEAD)
            for gap_s in self.gaps_s:
                wait(gap_s)
                self.sent_ns.append(time.monotonic_ns())
                peer.sendall(chunk(TOKEN))
            peer.sendall(chunk(END) + chunk(b""))


def exchange(server: Server, pool: Pool, during: Callable[[], object] = int) -> Any:
    """One exchange; `during` runs in the event loop's thread while it is under way."""
    one = Exchange(pool, Deadlines(), streams=True)
    one.send(server.origin, REQUEST)
    reading = gevent.spawn(one.finish)
    gevent.sleep(0)
    during()
    reading.join()
    assert one.tape.fault is None, one.tape.fault
    return one.tape


def tokens(tape: Any) -> list[int]:
    """The instants of the tape's tokens."""
    return [at_ns for at_ns, data in tape.reads for _ in range(data.count(b"content"))]


def errors_ms(server: Server, tape: Any) -> list[float]:
    found = tokens(tape)
    assert len(found) == len(server.sent_ns) == len(server.gaps_s)
    return [(at - sent) / 1e6 for at, sent in zip(found, server.sent_ns, strict=True)]


def _tls() -> tuple[Any, Callable[[], Any]]:
    import ssl

    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(sys.argv[2], sys.argv[3])
    client = ssl.create_default_context(cafile=sys.argv[2])
    return server, lambda: client


def late_reader(tls: Any = None, context: Callable[[], Any] = lambda: None) -> object:
    """The loop is held up for 300 ms, the token comes after 100: who says when it came?"""
    server = Server([0.1], tls)
    tape = exchange(server, Pool(context), lambda: wait(0.3))
    readings = Reel.here().take_readings()
    return {
        "errors_ms": errors_ms(server, tape),
        "lag_ms": max(readings.lags_ns) / 1e6,
        "kernel": Reel.here().kernel_clock,
        "in_order": tape.sent_ns <= tape.flushed_ns <= tape.first_byte_ns <= tape.end_ns,
    }


def late_reader_over_tls() -> object:
    return late_reader(*_tls())


def merged() -> object:
    """Three tokens wait together: the kernel keeps the time of the last one."""
    server = Server([0.1, 0.05, 0.05])
    tape = exchange(server, Pool(lambda: None), lambda: wait(0.5))
    return {"reads": len(set(tokens(tape))), "errors_ms": errors_ms(server, tape)}


def slow_consumer() -> object:
    """Own code that reads along and takes its time over each piece."""
    server = Server([0.02] * 8)
    one = Exchange(Pool(lambda: None), Deadlines(), streams=True)
    one.send(server.origin, REQUEST)
    began_ns = time.monotonic_ns()
    for _ in one.bodies():
        gevent.sleep(0.06)
    took_ms = (time.monotonic_ns() - began_ns) / 1e6
    return {"errors_ms": errors_ms(server, one.tape), "took_ms": took_ms}


def user_clock() -> object:
    """A kernel without receive times: each read is stamped as it happens, and counted."""
    connection.stamps = lambda _sock: False
    clock.stamps = lambda _sock: False
    server = Server([0.02] * 10)
    tape = exchange(server, Pool(lambda: None))
    readings = Reel.here().take_readings()
    return {
        "kernel": Reel.here().kernel_clock,
        "reads": len(set(tokens(tape))),
        "errors_ms": errors_ms(server, tape),
        "user_clock_reads": readings.user_clock_reads,
        "lags": len(readings.lags_ns),
    }


def broken_promise() -> object:
    """A kernel that takes the option and stamps nothing."""
    connection.stamps = lambda _sock: True
    server = Server([0.01] * 40)
    tape = exchange(server, Pool(lambda: None))
    return {
        "errors_ms": errors_ms(server, tape),
        "user_clock_reads": Reel.here().take_readings().user_clock_reads,
        "watched": len(Reel.here()._watched),
    }


def clock_step() -> object:
    """Somebody sets the wall clock forward by an hour between two tokens."""
    server = Server([0.05] * 6)
    reel = Reel.here()

    def step() -> None:
        gevent.sleep(0.12)
        # What the kernel stamps stays as it is, so the other side of the difference moves.
        reel.clock._offset_ns += 3_600_000_000_000

    tape = exchange(server, Pool(lambda: None), step)
    readings = reel.take_readings()
    return {
        "errors_ms": errors_ms(server, tape),
        "in_order": tokens(tape) == sorted(tokens(tape)),
        "steps": readings.clock_steps,
    }


def idle_connections() -> object:
    """Two exchanges on one connection; the reel keeps it, and forgets it when it is closed."""
    server, pool = Server([0.001]), Pool(lambda: None)
    kept = []
    for _ in range(3):
        tape = exchange(server, pool)
        server.sent_ns.clear()
        kept.append([tape.conn_reused, len(Reel.here()._readable)])
    pool.close()
    return {"kept": kept, "left": len(Reel.here()._readable)}


def tick() -> object:
    """How the tick follows the gaps that reads report."""
    reel = Reel.here()

    def after(gaps_ms: Sequence[float]) -> float:
        for gap_ms in gaps_ms:
            now_ns = time.monotonic_ns()
            since_ns = now_ns - int(gap_ms * 1e6)
            stamp = struct.pack("=qq", *divmod(now_ns + reel.clock._offset_ns, 1_000_000_000))
            assert reel.stamped(stamp, since_ns, now_ns) == now_ns
        reel._set_tick()
        return reel._tick_ns / 1e6

    stream = [20.0] * 97 + [0.05] * 3  # finish reason, usage and [DONE] close together
    return {
        "steady": after(stream * 5),
        "fast": after([2.0] * 500),
        "faster": after([0.5] * 500),
        "back": after([20.0] * 2000),
    }


sys.stdout.write(json.dumps(globals()[sys.argv[1]]()))
