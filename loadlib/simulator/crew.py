"""Several processes behind one port: the kernel spreads connections, a parent looks after them.

Each process is a server of its own, with its own engines, counters and `/metrics`; all they share
is the port and the instant of the first completion request.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import FrameType

from loadlib.errors import LoadlibError

_INSTANT = struct.Struct("@q")
_LOOK_S = 0.1  # between looks at the children
_END_S = 5.0  # how long children may take to end before they are killed


class _Instant:
    """Nanoseconds in memory that children share; 0 for not yet."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _INSTANT.size)

    def first(self, now_ns: int) -> int:
        """The first instant anybody named. Two that race differ by microseconds."""
        (known,) = _INSTANT.unpack_from(self._memory)
        if not known:
            _INSTANT.pack_into(self._memory, 0, now_ns)
        return int(known) or now_ns


@dataclass(frozen=True, slots=True)
class Crew:
    """One process among `size`, counted from 1."""

    number: int = 1
    size: int = 1
    _first: _Instant = field(default_factory=_Instant)

    def since_first_ns(self, arrival_ns: int) -> int:
        """Time since the first completion request that any of them got."""
        return max(0, arrival_ns - self._first.first(arrival_ns))

    @property
    def headers(self) -> Mapping[str, str]:
        """What a response says about it; nothing where there is one process only."""
        return {"x-simulator-process": f"{self.number}/{self.size}"} if self.size > 1 else {}

    @property
    def remark(self) -> str:
        """The first line of a metrics page; nothing where there is one process only."""
        if self.size == 1:
            return ""
        return (
            f"# process {self.number} of {self.size}: these are its own numbers only, "
            "and another connection may reach another process\n"
        )


Work = Callable[["Crew", Callable[[], None]], None]


def run(size: int, work: Work, ready: str, *, exit_with_parent: bool = False) -> None:
    """Run `work` in `size` child processes until SIGINT or SIGTERM; then end them all.

    `work(crew, say)` calls `say()` once it takes requests; after all have, `ready` is printed.
    Raises `LoadlibError` when a child ends by itself: fewer processes than were asked for would
    be another server.
    """
    members = [Crew(number + 1, size, first) for first in [_Instant()] for number in range(size)]
    before = {name: signal.signal(name, _stop) for name in (signal.SIGINT, signal.SIGTERM)}
    children: dict[int, Crew] = {}
    inner, outer = os.pipe()
    try:
        for crew in members:
            children[_fork(crew, work, inner, outer)] = crew
        os.close(outer)
        said = b""
        while len(said) < size and (part := os.read(inner, size)):
            said += part
        if len(said) == size:
            print(ready, flush=True)  # noqa: T201
        parent = os.getppid()
        while (ended := os.waitpid(-1, os.WNOHANG)) == (0, 0):
            if exit_with_parent and os.getppid() != parent:
                return
            time.sleep(_LOOK_S)
        pid, status = ended
        crew = children.pop(pid)
        code = os.waitstatus_to_exitcode(status)
        raise LoadlibError(f"process {crew.number} of {size} ended by itself (exit code {code})")
    except _Stopped:
        pass
    finally:
        for name in before:
            signal.signal(name, signal.SIG_IGN)
        _end(children)
        for name, handler in before.items():
            signal.signal(name, handler)


def _fork(crew: Crew, work: Work, inner: int, outer: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.close(inner)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C: the parent decides
        work(crew, lambda: _say(outer))
        code = 0
    except _Stopped:
        code = 0
    except LoadlibError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)  # noqa: T201
        code = int(error.exit_code)
    except BaseException:  # noqa: BLE001 - a bug of ours; nobody above would print it
        traceback.print_exc()
    finally:
        os._exit(code)


def _say(outer: int) -> None:
    os.write(outer, b".")
    os.close(outer)


def _end(children: Mapping[int, Crew]) -> None:
    left = set(children)
    for sign, patience_s in ((signal.SIGTERM, _END_S), (signal.SIGKILL, _END_S)):
        for pid in left:
            os.kill(pid, sign)
        deadline = time.monotonic() + patience_s
        while left and time.monotonic() < deadline:
            left = {pid for pid in left if os.waitpid(pid, os.WNOHANG) == (0, 0)}
            time.sleep(0.005)


class _Stopped(SystemExit):
    """A signal arrived."""


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise _Stopped
