"""Commands of loadlib and Locust as child processes that need not import anything first.

Imports are two thirds of what a short command costs. A child is forked from a process that has
them already (`warm_server.py`); otherwise it is what a shell would have started. `cold=True`, and
`pytest --cold` for all, start the program itself.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

BIN = Path(sys.executable).parent
SERVER = Path(__file__).with_name("warm_server.py")
KINDS = {
    "loadlib": "commands",
    "locust": "commands",
    "python": "commands",
    "simulator": "simulators",
}
SIMULATOR = [sys.executable, "-m", "loadlib.simulator"]
START_S = 60.0

Stream = int | IO[str]

always_cold = sys.platform != "linux"  # elsewhere a fork of what has imported so much is not safe
_servers: dict[str, _Server] = {}
_starting = threading.Lock()


def start(
    program: str,
    *arguments: str,
    env: Mapping[str, str],
    cwd: Path | None = None,
    stdout: Stream = subprocess.PIPE,
    stderr: Stream = subprocess.PIPE,
    session: bool = False,
    cold: bool = False,
) -> Process:
    """Start `loadlib`, `locust` or `simulator` (`python -m loadlib.simulator`) without stdin.

    `python` with `-c CODE` has imported `loadlib.swarm`; any other program is started cold.
    `session`: in a process group of its own.
    """
    kind = KINDS.get(program)
    if kind is None or cold or always_cold:
        own = [sys.executable] if program == "python" else [str(BIN / program)]
        command = SIMULATOR if program == "simulator" else own if kind else [program]
        return subprocess.Popen(
            [*command, *arguments],
            cwd=cwd, env=dict(env), stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
            text=True, encoding="utf-8", start_new_session=session,
        )  # fmt: skip
    with _starting:
        if kind not in _servers:
            _servers[kind] = _Server(kind)
    order = {
        "program": program,
        "argv": [str(BIN / program), *arguments],
        "cwd": str(cwd or Path.cwd()),
        "env": dict(env),
        "session": session,
    }
    return Warm(_servers[kind], order, stdout, stderr)


def printed(code: str, *arguments: object, limit_s: float = 60.0) -> str:
    """What Python code prints, which may import `loadlib.swarm`: the pytest process never does."""
    process = start("python", "-c", code, *map(str, arguments), env=os.environ)
    out, err = process.communicate(limit_s)
    assert process.returncode == 0, err
    return out


def close() -> None:
    """End the servers; their children go on."""
    while _servers:
        _servers.popitem()[1].close()


class _Server:
    """A process that forks; it ends when its socket closes."""

    def __init__(self, kind: str) -> None:
        self._control, theirs = socket.socketpair()
        self._asking = threading.Lock()  # threads do, and an order is two sends
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, str(SERVER), kind, str(theirs.fileno())],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
                start_new_session=True,
            )  # fmt: skip

    def start(self, order: dict[str, Any], streams: Sequence[int]) -> socket.socket:
        """Where it is told what the child's number is, and then how it ended."""
        mine, theirs = socket.socketpair()
        body = json.dumps(order).encode()
        head = b"%8d" % len(body)
        with theirs, self._asking:
            socket.send_fds(self._control, [head], [*streams, theirs.fileno()])
            self._control.sendall(body)
        return mine

    def close(self) -> None:
        self._control.close()
        self._process.wait()


class Warm:
    """A child as `subprocess.Popen` would show it; what tests use of that."""

    def __init__(
        self, server: _Server, order: dict[str, Any], stdout: Stream, stderr: Stream
    ) -> None:
        self.returncode: int | None = None
        self._heard = b""
        self._readers: list[_Reader] = []
        with Path(os.devnull).open("rb") as nothing:
            theirs = [nothing.fileno()]
            pipes = [self._pipe(stream) for stream in (stdout, stderr)]
            theirs += [writing for _, writing in pipes]
            self._told = server.start(order, theirs)
        self.stdout, self.stderr = (reading for reading, _ in pipes)
        for reading, writing in pipes:
            if reading is not None:
                os.close(writing)
        self.pid = int(self._hear(START_S))

    @staticmethod
    def _pipe(stream: Stream) -> tuple[IO[str] | None, int]:
        if not isinstance(stream, int):
            return None, stream.fileno()
        if stream != subprocess.PIPE:
            return None, stream
        reading, writing = os.pipe()
        return os.fdopen(reading, encoding="utf-8"), writing

    def _hear(self, limit_s: float | None) -> str:
        """The next line from the server: two may come at once. Raises TimeoutError."""
        while b"\n" not in self._heard:
            if not select.select([self._told], [], [], limit_s)[0]:
                raise TimeoutError
            more = self._told.recv(64)
            if not more:
                raise RuntimeError("the process that starts commands has died; see its stderr")
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode()

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        if self.returncode is None:
            with suppress(TimeoutError):
                self.returncode = int(self._hear(0))
                self._told.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            try:
                self.returncode = int(self._hear(timeout))
            except TimeoutError:
                raise subprocess.TimeoutExpired("", timeout or 0.0) from None
            self._told.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What is left of its output, at its end. Raises subprocess.TimeoutExpired."""
        if not self._readers:
            self._readers = [_Reader(stream) for stream in (self.stdout, self.stderr)]
        deadline = None if timeout is None else time.monotonic() + timeout
        for reader in self._readers:
            reader.join(_left(deadline))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        self.wait(_left(deadline))
        out, err = self._readers
        return out.text, err.text


class _Reader(threading.Thread):
    """Reads a stream to its end, and closes it."""

    def __init__(self, stream: IO[str] | None) -> None:
        super().__init__(daemon=True)
        self._stream, self.text = stream, ""
        self.start()

    def run(self) -> None:
        if self._stream is not None:
            with self._stream:
                self.text = self._stream.read()


Process = subprocess.Popen[str] | Warm


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
