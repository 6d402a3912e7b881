"""The one clock hand of the simulator: a heap of due instants, and a loop that wakes in time."""

from __future__ import annotations

import asyncio
import heapq
import select
import selectors
import time
from itertools import count
from typing import Protocol

NS_PER_S = 1_000_000_000


class Job(Protocol):
    """Something that is due, and knows when it is due next."""

    def fire(self, now_ns: int) -> int | None:
        """Do all that is due by `now_ns` (monotonic); the next due instant, None for never."""


class Pacer:
    """Fires jobs at their instants (monotonic ns), all that are due from one wake-up.

    One timer serves any number of streams, and what is due at a wake-up is written in the order
    in which it was due: no task, no sleep and no queue per token.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._heap: list[tuple[int, int, Job]] = []
        self._ties = count()  # equal instants fire in the order they were asked for
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = 0

    def at(self, due_ns: int, job: Job) -> None:
        """Fire `job` at `due_ns`, or as soon as possible if that has passed."""
        heapq.heappush(self._heap, (due_ns, next(self._ties), job))
        if self._timer is None or due_ns < self._timer_ns:
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ns = self._heap[0][0]
        self._timer = self._loop.call_at(self._timer_ns / NS_PER_S, self._tick)

    def _tick(self) -> None:
        # `now_ns` stands still during a tick: a job that wants to go on at once gets its turn
        # after the loop has looked at the sockets.
        now_ns = time.monotonic_ns()
        heap = self._heap
        self._timer_ns = 0  # a job that calls `at` meanwhile need not arm
        try:
            while heap and heap[0][0] <= now_ns:
                job = heapq.heappop(heap)[2]
                next_ns = job.fire(now_ns)
                if next_ns is not None:
                    heapq.heappush(heap, (max(next_ns, now_ns + 1), next(self._ties), job))
        finally:
            self._timer = None
            if heap:
                self._arm()


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
    """An event loop whose timers are good to about 0.1 ms."""
    return asyncio.SelectorEventLoop(_PreciseSelector())
