"""A TCP proxy that a test can cut: what passes is copied, and kept to be looked through."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import suppress


class CutProxy:
    """Between a worker and its master; `cut` drops every connection and refuses new ones."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._open, self._lock, self._closed = True, threading.Lock(), False
        self.seen = bytearray()
        self.connections = 0
        self._wake, self._waker = socket.socketpair()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """The network is gone: both ends are reset, nobody is let in."""
        with self._lock:
            self._open = False
            self._drop()
        self._waker.send(b"!")

    def mend(self) -> None:
        """It is back."""
        with self._lock:
            self._open = True

    def close(self) -> None:
        self._closed = True
        self._waker.send(b"!")
        self._thread.join(5)
        for one in (self._listener, self._wake, self._waker):
            one.close()

    def _drop(self) -> None:
        for one in list(self._pairs):
            with suppress(OSError):
                # A reset, not a farewell.
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            one.close()
        self._pairs.clear()

    def _run(self) -> None:
        while not self._closed:
            with self._lock:
                watched = [self._listener, self._wake, *self._pairs]
            try:
                ready, _, _ = select.select(watched, [], [], 0.5)
            except (OSError, ValueError):
                continue  # one of them was cut meanwhile
            for one in ready:
                with self._lock:
                    self._serve(one)
        self._drop()

    def _serve(self, one: socket.socket) -> None:
        if one is self._wake:
            one.recv(64)
        elif one is self._listener:
            self._let_in()
        elif one in self._pairs:
            self._copy(one)

    def _let_in(self) -> None:
        inner, _ = self._listener.accept()
        if not self._open:
            inner.close()
            return
        try:
            outer = socket.create_connection(("127.0.0.1", self._target), 5)
        except OSError:
            inner.close()
            return
        self.connections += 1
        self._pairs[inner], self._pairs[outer] = outer, inner

    def _copy(self, one: socket.socket) -> None:
        other = self._pairs[one]
        try:
            data = one.recv(1 << 16)
            if data:
                self.seen += data
                other.sendall(data)
                return
        except OSError:
            pass
        for end in (one, other):
            self._pairs.pop(end, None)
            end.close()
