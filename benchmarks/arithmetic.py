"""What is computed from counts and instants; pure, so that its tests can be tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from loadlib.calibrate.truth import Served

NS = 1_000_000_000
EVENTS = 100_000  # costs are given per so many


@dataclass(frozen=True, slots=True)
class Shape:
    """What the truth server does with each request, and how many streams ask for it."""

    streams: int
    ttft_ms: float = 200.0
    gap_ms: float = 20.0
    tokens: int = 100
    spread: float = 0.5  # ttft of a request is ttft_ms · (1 ± spread)

    @property
    def cycle_s(self) -> float:
        """Mean time from a request to the end of its answer: the tail is a gap after the last."""
        return (self.ttft_ms + self.tokens * self.gap_ms) / 1000

    @property
    def events_per_s(self) -> float:
        """Of all streams when each asks again the moment it was answered."""
        return self.streams * self.tokens / self.cycle_s


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure measured several times."""

    values: tuple[float, ...]

    @property
    def middle(self) -> float:
        return median(self.values)

    @property
    def range(self) -> tuple[float, float] | None:
        """Least and most; None of a single one."""
        return (min(self.values), max(self.values)) if len(self.values) > 1 else None


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds of a run, and how much it got done for them."""

    cpu_s: float
    done: int  # events, or requests


def slope(short: Usage, long: Usage, per: int = 1) -> float:
    """CPU seconds per `per` of what was done, what every run costs subtracted.

    Two runs alike but for their length differ by the work alone: starting, stopping and the
    pages are in both. ValueError unless the long one did more.
    """
    more = long.done - short.done
    if more <= 0:
        raise ValueError(f"{long.done} done in the long run, {short.done} in the short one")
    return per * (long.cpu_s - short.cpu_s) / more


def delivered(requests: Sequence[Served], shape: Shape, received: int) -> float | None:
    """Events received / events offered, in the window in which all streams should be busy.

    A stream offers its tokens as long as its server is busy with it, which by its schedule is
    ttft + tokens · gap from the request's arrival. The window is from the arrival by which
    every stream had asked once to the last arrival; offered is every stream all of that time.
    Asking late, reading slowly and losing events all lower it. `received` are the client's
    events of these requests. None without a window: no more requests than streams.
    """
    arrivals = sorted(request.arrival_ns for request in requests)
    if len(arrivals) <= shape.streams:
        return None
    begin, end = arrivals[shape.streams - 1], arrivals[-1]
    answer_ns = int(shape.tokens * shape.gap_ms * 1e6)
    busy_ns = sum(
        overlap(request.arrival_ns, request.first_ns + answer_ns, begin, end)
        for request in requests
    )
    sent = sum(request.events for request in requests)
    return busy_ns / (shape.streams * (end - begin)) * (received / sent)


def overlap(begin: int, end: int, low: int, high: int) -> int:
    """How much of [begin, end] lies in [low, high]."""
    return max(0, min(end, high) - max(begin, low))


def rate_per_s(spans: Iterable[tuple[int, int, int]]) -> float:
    """Events per second from the first instant to the last of (begin ns, end ns, events)."""
    rows = list(spans)
    wall_ns = max(end for _, end, _ in rows) - min(begin for begin, _, _ in rows)
    return sum(events for *_, events in rows) * NS / wall_ns
