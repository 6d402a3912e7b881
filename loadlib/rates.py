"""How many arrivals are due by when: a rate over time, its integral, and the inverse of that.

A rate is a number, or points `(ns, per second)` with straight lines between them. Its integral
Λ(t) is then a chain of parabolas, and the instant at which a given count is reached is the root of
one of them: a closed form, computed for each arrival by itself, so that nothing adds up. Any
process of rate 1 becomes one of this rate when its instants are sent through Λ⁻¹ (the time change
of a point process; Çinlar, Introduction to Stochastic Processes, 1975, ch. 4.7).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Points = tuple[tuple[int, float], ...]
"""(ns from the start of the phase, arrivals per second), the first at 0, in order of time.

Straight between two points, constant after the last. Two points at one instant are a step.
"""

Rate = float | Points
"""Arrivals per second, or how they change."""

Floats = NDArray[np.float64]
Instants = NDArray[np.int64]

S = 1_000_000_000
"""Nanoseconds in a second."""

NEVER = 2**62
"""The instant (ns, in 146 years) of a count that is not reached: the rate ends at 0."""


def refusal(points: Points) -> tuple[str, int] | None:
    """What is wrong with points, and with which of them; None if nothing is."""
    if not points:
        return "no point at all: write [[0s, 2/s], [60s, 20/s]]", 0
    for at, (instant, rate) in enumerate(points):
        if not (math.isfinite(rate) and 0 <= rate <= 1e6):
            return "a rate is 0 to 1,000,000/s", at
        if at == 0 and instant != 0:
            return "the first point stands at 0s: say at which rate the phase begins", at
        if at and instant < points[at - 1][0]:
            return "points stand in order of time, this one is earlier than the one before it", at
        if at > 1 and instant == points[at - 2][0]:
            return "a third point at one instant: a step has two, before and after", at
    if not any(rate for _, rate in points):
        return "the rate is 0 at every point: nothing would ever arrive", 0
    return None


class Line:
    """Λ and Λ⁻¹ of one rate."""

    def __init__(self, rate: Rate) -> None:
        """Raises `ValueError` for a rate of 0 or less, and for points that `refusal` refuses."""
        points = ((0, rate),) if isinstance(rate, int | float) else tuple(rate)
        wrong = refusal(points)
        if wrong is not None:
            raise ValueError(f"point {wrong[1] + 1} of the rate: {wrong[0]}")
        ends = [*(instant for instant, _ in points[1:]), None]
        rates = [*(rate for _, rate in points[1:]), points[-1][1]]
        begin, count, first, slope = [], [0.0], [], []
        for (at, low), end, high in zip(points, ends, rates, strict=True):
            if end == at:
                continue  # a step
            seconds = math.inf if end is None else (end - at) / S
            begin.append(at)
            first.append(low)
            slope.append((high - low) / seconds)
            if end is not None:
                count.append(count[-1] + (low + high) / 2 * seconds)
        self._begin = np.array(begin, np.int64)
        self._length = np.append(np.diff(self._begin).astype(np.float64), float(NEVER))
        self._count = np.array(count)
        self._first, self._slope = np.array(first), np.array(slope)
        self.ends_at_zero = points[-1][1] == 0

    def count(self, at_ns: int) -> float:
        """Λ: arrivals due in the first `at_ns` nanoseconds, on average."""
        k = int(np.searchsorted(self._begin, at_ns, side="right")) - 1
        seconds = (at_ns - int(self._begin[k])) / S
        return float(self._count[k] + (self._first[k] + self._slope[k] * seconds / 2) * seconds)

    def instants(self, counts: Floats) -> Instants:
        """Λ⁻¹: the nanosecond at which each of `counts` is reached, `NEVER` if it is not.

        Where the rate is 0 for a while, the end of that while: nothing arrives during it.
        """
        k = np.searchsorted(self._count, counts, side="right") - 1
        missing, first, slope = counts - self._count[k], self._first[k], self._slope[k]
        root = np.sqrt(np.maximum(first * first + 2 * slope * missing, 0.0))
        # Of the two forms of the root, the one in which nothing cancels.
        divisor = first + root
        at_rest = np.where(slope > 0, 0.0, float(NEVER))  # at the foot of a ramp, or for good
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            since = np.where(divisor > 0, 2 * (missing * S) / divisor, at_rest)
        since = np.minimum(since, self._length[k])
        found: Instants = np.minimum(self._begin[k] + np.rint(since).astype(np.int64), NEVER)
        return found

    def instant(self, count: float) -> int:
        """`instants` of a single count."""
        return int(self.instants(np.array([count]))[0])


def mean(rate: Rate, *, duration_ns: int | None = None, requests: int | None = None) -> float:
    """Arrivals per second over a phase that ends by `duration_ns` or by `requests`."""
    if isinstance(rate, int | float):
        return rate
    line = Line(rate)
    if duration_ns is not None:
        return line.count(duration_ns) / duration_ns * S
    assert requests is not None
    return requests / line.instant(requests) * S


def shown(rate: Rate) -> str:
    """`5/s`, `2/s to 20/s` or, of more points, `0/s … 20/s`: the least and the most."""
    if isinstance(rate, int | float):
        return f"{rate:g}/s"
    values: list[Any] = [value for _, value in rate]
    if len(values) == 1:
        return f"{values[0]:g}/s"
    if len(values) == 2:
        return f"{values[0]:g}/s to {values[1]:g}/s"
    return f"{min(values):g}/s … {max(values):g}/s"
