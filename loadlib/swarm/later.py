"""What is due at an instant that only an answer could tell: the next turn, another attempt."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable
from typing import Generic, TypeVar

import gevent
from gevent.event import Event

from loadlib.swarm.alarm import Alarm, alarm

T = TypeVar("T")


class Later(Generic[T]):
    """Hands each item to `due` at its instant (monotonic ns), in order; one greenlet for all."""

    def __init__(self, due: Callable[[T], None]) -> None:
        self._due = due
        self._heap: list[tuple[int, int, T]] = []
        self._numbers = itertools.count()  # items of one instant keep their order
        self._some = Event()
        self._alarm: Alarm | None = None
        self._greenlet: gevent.Greenlet[..., None] | None = None

    def __len__(self) -> int:
        return len(self._heap)

    def put(self, at_ns: int, item: T) -> None:
        """Keep `item` until `at_ns`; one whose instant has passed is handed on at once."""
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._run)
        heapq.heappush(self._heap, (at_ns, next(self._numbers), item))
        self._some.set()
        if self._heap[0][2] is item and self._alarm is not None:
            self._alarm.ring()

    def clear(self) -> list[T]:
        """All that waits, out of it."""
        items = [item for _, _, item in self._heap]
        self._heap.clear()
        return items

    def close(self) -> None:
        """Nothing is handed on any more."""
        if self._greenlet is not None:
            self._greenlet.kill()

    def _run(self) -> None:
        self._alarm = alarm()
        try:
            while True:
                if not self._heap:
                    self._some.clear()
                    self._some.wait()
                elif (at_ns := self._heap[0][0]) > time.monotonic_ns():
                    self._alarm.wait_until(at_ns)
                else:
                    self._due(heapq.heappop(self._heap)[2])
        finally:
            self._alarm.close()
            self._alarm = None
