"""Who may start now: a concurrency ceiling with a waiting line, as a pure state machine.

One `Gate` per model (or one for all, `per: total`). At the ceiling an arrival waits, and its
wait is in its response time; one that waited longer than `patience_ns` is dropped. Time is an
argument.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class Gate(Generic[T]):
    """`ceiling` may change while requests are in flight; none is ever interrupted for it."""

    ceiling: int
    patience_ns: int
    when_full: Literal["wait", "drop"] = "wait"
    in_flight: int = 0
    _waiting: deque[tuple[int, T]] = field(default_factory=deque)  # (since, arrival)

    @property
    def waiting(self) -> int:
        """Arrivals in the line."""
        return len(self._waiting)

    @property
    def waiting_line(self) -> list[T]:
        """Those arrivals, first come first."""
        return [arrival for _, arrival in self._waiting]

    @property
    def is_full(self) -> bool:
        """Whether the next arrival would have to wait."""
        return self.in_flight >= self.ceiling

    def offer(self, arrival: T, now_ns: int) -> Literal["go", "wait", "drop"]:
        """What becomes of a new arrival; `go` has already taken its place."""
        if not self.is_full and not self._waiting:
            self.in_flight += 1
            return "go"
        if self.when_full == "drop":
            return "drop"
        self._waiting.append((now_ns, arrival))
        return "wait"

    def enter(self) -> None:
        """Take a place without asking: closed loops look at `is_full` first."""
        self.in_flight += 1

    def leave(self) -> None:
        """A request is over."""
        self.in_flight -= 1

    def admit(self) -> list[T]:
        """The arrivals whose turn has come, each with its place taken."""
        going = []
        while self._waiting and not self.is_full:
            going.append(self._waiting.popleft()[1])
            self.in_flight += 1
        return going

    def expire(self, now_ns: int) -> list[T]:
        """The arrivals that waited too long, out of the line."""
        gone = []
        while self._waiting and now_ns - self._waiting[0][0] >= self.patience_ns:
            gone.append(self._waiting.popleft()[1])
        return gone

    def clear(self) -> list[T]:
        """Everyone in the line, out of it: the run stops."""
        gone = [arrival for _, arrival in self._waiting]
        self._waiting.clear()
        return gone
