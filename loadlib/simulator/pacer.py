"""The one clock hand of the simulator: a heap of due instants, and a loop that wakes in time."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import select
import selectors
import time
from collections import deque
from pathlib import Path
from typing import Protocol

NS_PER_S = 1_000_000_000


class Job(Protocol):
    """Something that is due, and knows when it is due next."""

    def fire(self, now_ns: int) -> None:
        """Do what is due by `now_ns` (monotonic) and cannot wait; the rest is for `ready`."""

    def ready(self, now_ns: int) -> int | None:
        """Get ready for what is due next, after `fire`; its instant, None for never."""


class Pacer:
    """Fires jobs at their instants (monotonic ns), all that are due from one wake-up.

    One timer serves any number of streams, and what is due at a wake-up is written in the order
    in which it was due: no task, no sleep and no queue per token. Fifty streams of one batch have
    a token at the same instant, and the last is late by what the others cost: so all of them
    write first, and get the next token ready after that.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._heap: list[int] = []  # the instants in `_due`, each once
        self._due: dict[int, list[Job]] = {}  # equal instants fire in the order they were asked for
        self._firing: deque[Job] = deque()  # due now
        self._fired: deque[Job] = deque()  # and not ready for what comes next yet
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = 0

    def at(self, due_ns: int, job: Job) -> None:
        """Fire `job` at `due_ns`, or as soon as possible if that has passed."""
        self._put(due_ns, job)
        if self._timer is None or due_ns < self._timer_ns:
            self._arm()

    def _put(self, due_ns: int, job: Job) -> None:
        jobs = self._due.get(due_ns)
        if jobs is None:
            self._due[due_ns] = [job]
            heapq.heappush(self._heap, due_ns)
        else:
            jobs.append(job)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ns = 0 if self._firing or self._fired else self._heap[0]
        self._timer = self._loop.call_at(self._timer_ns / NS_PER_S, self._tick)

    def _tick(self) -> None:
        # `now_ns` stands still during a tick: a job that wants to go on at once gets its turn
        # after the loop has looked at the sockets.
        now_ns = time.monotonic_ns()
        firing, fired = self._firing, self._fired
        self._timer_ns = 0  # a job that calls `at` meanwhile need not arm
        try:
            while self._collect(now_ns):
                job = firing.popleft()
                fired.append(job)
                job.fire(now_ns)
            while fired:
                job = fired.popleft()
                next_ns = job.ready(now_ns)
                if next_ns is not None:
                    self._put(max(next_ns, now_ns + 1), job)
        finally:
            self._timer = None
            if self._heap or firing or fired:
                self._arm()

    def _collect(self, now_ns: int) -> bool:
        """Bring together what is due; whether there is anything to fire."""
        heap = self._heap
        while heap and heap[0] <= now_ns:
            self._firing.extend(self._due.pop(heapq.heappop(heap)))
        return bool(self._firing)


class _PreciseSelector(selectors.DefaultSelector):
    """epoll with sub-millisecond timeouts: the standard selector rounds them up to whole ms.

    The wait is done by `select` on the epoll descriptor itself, which takes microseconds.
    """

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout > 0:
            ready, _, _ = select.select([self.fileno()], [], [], timeout)
            if not ready:
                return []
            timeout = 0
        return super().select(timeout)


def new_loop() -> asyncio.AbstractEventLoop:
    """An event loop whose timers are good to about 0.05 ms, in the thread that asks for it."""
    # By default Linux wakes a thread up to 0.05 ms late, lest it wake the core twice.
    with contextlib.suppress(OSError):
        Path("/proc/self/timerslack_ns").write_text("1000")
    return asyncio.SelectorEventLoop(_PreciseSelector())
