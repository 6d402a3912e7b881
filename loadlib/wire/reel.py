"""The one epoll that all streaming sockets sit in, and when it is looked at.

Like a network driver under load (Linux calls it NAPI), the reel is woken by the first bytes and
then polls on a tick until nothing comes any more. Stamps are the kernel's, so a tick costs no
accuracy, as long as each socket is read at least once per event: the kernel merges what waits.
The tick therefore follows the gaps between reads. A connection without kernel stamps is
watched on its own and read at once, on the user-space clock.
"""

from __future__ import annotations

import select
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gevent
from gevent.monkey import get_original

from loadlib.wire.clock import Clock

_epoll = get_original("select", "epoll") if hasattr(select, "EPOLLIN") else None

READ = 1  # of libev
LONGEST_TICK_NS = 4_000_000
SHORTEST_TICK_NS = 500_000
LOOKS_PER_GAP = 4
# A stochastic estimate of the gap that one read in ten falls short of: the ends of streams
# (finish reason, usage, [DONE]) come in quick succession and must not set the pace.
_SHORTER, _LONGER = 0.95, 1.0057  # 0.95^0.1 · 1.0057^0.9 = 1
_BRIEF_NS, _LONG_NS = SHORTEST_TICK_NS, LONGEST_TICK_NS * 2 * LOOKS_PER_GAP

Readable = Callable[[], object]


@dataclass(slots=True)
class Readings:
    """What the reel saw of itself since it was last asked."""

    lags_ns: array[int] = field(default_factory=lambda: array("q"))  # read − kernel time, per read
    user_clock_reads: int = 0  # reads that had no kernel time
    clock_steps: int = 0


class Reel:
    """Of one event loop (see `here`). Its methods are for that loop's thread."""

    def __init__(self) -> None:
        self.hub = gevent.get_hub()
        self.clock = Clock()
        self.gap_ns = float(_LONG_NS)
        self.readings = Readings()
        self.behind = False  # a read left bytes behind: look again at once
        self._steps = 0
        self._readable: dict[int, Readable] = {}
        self._watched: dict[int, Any] = {}
        self._epoll = _epoll() if _epoll is not None and self.clock.kernel else None
        self._tick_ns = 0
        self._timer: Any = None
        if self._epoll is not None:
            self._woken = self.hub.loop.io(self._epoll.fileno(), READ)
            self._woken.start(self._begin)

    @classmethod
    def here(cls) -> Reel:
        """The reel of this thread's event loop."""
        hub = gevent.get_hub()
        reel = _REELS.get(hub)
        if reel is None:
            reel = _REELS[hub] = cls()
        return reel

    @property
    def kernel_clock(self) -> bool:
        """Whether reads are stamped by the kernel on this machine."""
        return self._epoll is not None

    def add(self, fd: int, readable: Readable, *, stamped: bool) -> None:
        """Call `readable` (from the event loop) whenever there is something to read."""
        if stamped and self._epoll is not None:
            self._readable[fd] = readable
            self._epoll.register(fd, select.POLLIN)
        else:
            watcher = self._watched[fd] = self.hub.loop.io(fd, READ)
            watcher.start(readable)

    def remove(self, fd: int) -> None:
        """Before `fd` is closed."""
        watcher = self._watched.pop(fd, None)
        if watcher is not None:
            watcher.stop()
            watcher.close()
        elif self._readable.pop(fd, None) is not None and self._epoll is not None:
            self._epoll.unregister(fd)

    def soon(self, callback: Callable[..., object], *arguments: object) -> None:
        """Call from the event loop, once it is through with what it is doing."""
        self.hub.loop.run_callback(callback, *arguments)

    def stamped(self, stamp: bytes, since_ns: int, now_ns: int) -> int:
        """The instant of a read that the kernel stamped. `since_ns`: of the read before it."""
        at_ns = self.clock.at_ns(stamp, since_ns, now_ns)
        if at_ns is None:
            self.readings.user_clock_reads += 1
            return now_ns
        self.readings.lags_ns.append(now_ns - at_ns)
        gap = self.gap_ns
        if at_ns - since_ns < gap:
            if gap > _BRIEF_NS:
                self.gap_ns = gap * _SHORTER
        elif gap < _LONG_NS:
            self.gap_ns = gap * _LONGER
        return at_ns

    def take_readings(self) -> Readings:
        """The readings so far; new ones begin."""
        taken, self.readings = self.readings, Readings()
        taken.clock_steps = self.clock.steps - self._steps
        self._steps = self.clock.steps
        return taken

    # -- the tick ------------------------------------------------------------------------------

    def _begin(self) -> None:
        """The first bytes after a silence: from now on poll on the tick."""
        self._woken.stop()
        self._set_tick()
        self._poll()

    def _set_tick(self) -> None:
        tick_ns = min(LONGEST_TICK_NS, max(SHORTEST_TICK_NS, int(self.gap_ns / LOOKS_PER_GAP)))
        if self._timer is not None and 0.8 < tick_ns / self._tick_ns < 1.25:
            return
        self._drop_timer()
        self._tick_ns = tick_ns
        self._timer = self.hub.loop.timer(tick_ns / 1e9, tick_ns / 1e9)
        self._timer.start(self._poll)

    def _drop_timer(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None

    def _poll(self) -> None:
        assert self._epoll is not None
        ready = self._epoll.poll(0)
        if not ready:
            self._drop_timer()
            self._woken.start(self._begin)
            return
        readable = self._readable
        for fd, _ in ready:
            read = readable.get(fd)  # one read may close another connection
            if read is not None:
                read()
        self.clock.look(time.monotonic_ns())
        self._set_tick()
        if self.behind:
            self.behind = False
            self.soon(self._poll_again)

    def _poll_again(self) -> None:
        if self._timer is not None:
            self._poll()


_REELS: dict[Any, Reel] = {}  # by the hub of their thread
