"""Letting others run: what `gevent.sleep(0)` does not quite do."""

from __future__ import annotations

import time

import gevent

TURN_NS = 500_000


def look() -> None:
    """One turn of the event loop without sleeping: sockets and timers get theirs, then we go on.

    At the highest priority, so that a stream of input cannot keep us waiting.
    """
    gevent.idle(gevent.get_hub().loop.MAXPRI)


class Turns:
    """For long work in small pieces: gives way whenever half a millisecond was used up."""

    def __init__(self) -> None:
        self._since_ns = time.monotonic_ns()

    def fresh(self) -> None:
        """Someone else has just had a turn."""
        self._since_ns = time.monotonic_ns()

    def give(self) -> None:
        """Between two pieces: `look`, where this turn has lasted long enough."""
        if time.monotonic_ns() - self._since_ns >= TURN_NS:
            look()
            self.fresh()
