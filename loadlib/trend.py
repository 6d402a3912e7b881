"""A bounded time series of several figures of several groups, sampled at a steady pace.

When it is full every second point goes and the pace halves, so that an hour takes no more room
than ten minutes. A figure that is unknown at an instant is None there, and a stretch in which
nothing was sampled is marked by one point at which all are: gaps stay gaps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

NS = 1_000_000_000
STEP_NS = 2 * NS
MOST = 300  # points; a multiple of two
_GAP = 2.5  # steps without a point that are a gap

Pair = tuple[str, str]
"""(model, workload)."""

Values = Sequence[float | None]


@dataclass(slots=True)
class Trend:
    """`columns` names the figures; instants are Unix epoch ns, `start_ns` is second 0."""

    columns: tuple[str, ...]
    start_ns: int
    step_ns: int = STEP_NS
    most: int = MOST
    generation: int = 0  # how often it was thinned out
    seconds: list[float] = field(default_factory=list)  # since the start, of each point
    rows: dict[Pair, list[Values]] = field(default_factory=dict)  # one per point
    _next_ns: int = 0

    def is_due(self, now_ns: int) -> bool:
        """Whether it is time for another point."""
        return now_ns >= self._next_ns

    def add(self, now_ns: int, found: Mapping[Pair, Values]) -> None:
        """A point at `now_ns`: what each group shows then. One that is left out shows nothing."""
        at = round((now_ns - self.start_ns) / NS, 1)
        step = self.step_ns / NS
        if self.seconds and at - self.seconds[-1] > _GAP * step:
            self._put(round(self.seconds[-1] + step, 1), {})
        self._put(at, found)
        if len(self.seconds) >= self.most:
            self._thin()
        self._next_ns = (now_ns // self.step_ns + 1) * self.step_ns

    def since(self, generation: int | None, count: int) -> dict[str, Any]:
        """What a reader lacks who has seen `count` points of a `generation`; all, to another.

        `from` is the number of the first point given; `values` are, for each group, one list per
        column.
        """
        first = min(count, len(self.seconds)) if generation == self.generation else 0
        return {
            "generation": self.generation,
            "from": first,
            "step_s": self.step_ns / NS,
            "seconds": self.seconds[first:],
            "columns": self.columns,
            "groups": [
                {"model": pair[0], "workload": pair[1], "values": self._columns(rows[first:])}
                for pair, rows in self.rows.items()
            ],
        }

    def _columns(self, rows: list[Values]) -> list[list[float | None]]:
        return [[row[i] for row in rows] for i in range(len(self.columns))]

    def _put(self, at: float, found: Mapping[Pair, Values]) -> None:
        nothing = (None,) * len(self.columns)
        for pair in found:
            if pair not in self.rows:
                self.rows[pair] = [nothing] * len(self.seconds)
        for pair, rows in self.rows.items():
            rows.append(found.get(pair, nothing))
        self.seconds.append(at)

    def _thin(self) -> None:
        self.seconds = self.seconds[::2]
        self.rows = {pair: rows[::2] for pair, rows in self.rows.items()}
        self.step_ns *= 2
        self.generation += 1
