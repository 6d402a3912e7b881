"""What a run did over time, in the bins that all rows of the timeline share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import numpy.typing as npt

from loadlib.charts import parts, widening
from loadlib.charts.reading import Reading
from loadlib.charts.scan import OUTCOMES, Pair
from loadlib.charts.series import Window
from loadlib.charts.widening import Point
from loadlib.sample import Outcome

LINES = 2000  # points of all latency lines together
MODELS = 16  # that get a row of their own: the busiest
KINDS = 4  # of failure that are told apart
SHARES = (0.5, 0.9, 0.99)

Floats = npt.NDArray[np.float64]
Kinds = dict[str, tuple[Outcome, ...]]


class Time:
    """The bins that all rows share, as `Scan.grid` has them, and what is told of each.

    `told` holds one number a bin by name; all of it is one table of data for all rows.
    """

    def __init__(self, reading: Reading, coloured: Sequence[str], kinds: Kinds) -> None:
        self.reading = reading
        self.seconds = reading.series.length
        self.width = reading.scan.grid.width
        self.begins = np.arange(0, self.seconds, self.width)
        self.edges = np.append(self.begins, self.seconds).astype(float)
        self.told: dict[str, Floats] = {
            name: self._rate(reading.series.total(name)) for name in ("scheduled", "sent", "ok")
        }
        flying = reading.series.in_flight().astype(float)
        self.told["flying"] = np.maximum.reduceat(flying, self.begins)
        self.told["none"] = np.zeros(len(self.begins))
        self.tokens = self._stacked(
            "tokens", [reading.series.total("output_tokens", workload=w) for w in coloured]
        )
        self.told["tokens"] = self._rate(reading.series.total("output_tokens"))
        self.failures = self._stacked("failed", [ends(reading, k) for k in kinds.values()], 1)

    def _rate(self, counts: npt.NDArray[Any], each: int = 0) -> Floats:
        """Counts of every second (or, with `each`, of every bin) as the mean rate of each bin."""
        sums = counts if each else np.add.reduceat(counts, self.begins)
        found: Floats = sums.astype(float) / np.diff(self.edges)
        return found

    def _stacked(self, name: str, counts: Sequence[npt.NDArray[Any]], each: int = 0) -> list[str]:
        """Columns that stand on each other: the names of their tops, the first on `none`."""
        names, floor = [], np.zeros(len(self.begins))
        for place, one in enumerate(counts):
            floor = floor + self._rate(one, each)
            names.append(f"{name}{place}")
            self.told[names[-1]] = floor
        return names

    def data(self) -> alt.InlineData:
        """Bins from `a` to `b` around `m`; a last row ends the stairs."""
        names = list(self.told)
        columns = [self.edges[:-1], self.edges[1:], (self.edges[:-1] + self.edges[1:]) / 2,
                   *self.told.values()]  # fmt: skip
        rows = [
            dict(zip(("a", "b", "m", *names), map(float, values), strict=True))
            for values in zip(*columns, strict=True)
        ]
        end = float(self.seconds)
        return parts.data([*rows, {**rows[-1], "a": end, "b": end, "m": end}])


def ends(reading: Reading, outcomes: Sequence[Outcome]) -> npt.NDArray[np.int64]:
    """Requests that ended so, in every bin."""
    places = [OUTCOMES.index(outcome) for outcome in outcomes]
    found: npt.NDArray[np.int64] = reading.scan.ends[places].sum(axis=0)
    return found


def kinds_of(reading: Reading) -> Kinds:
    """What became of requests that did not end ok: the frequent by name, the rest together."""
    counts = reading.scan.ends.sum(axis=1)
    ranked = sorted(
        (o for i, o in enumerate(OUTCOMES) if counts[i] and o is not Outcome.OK),
        key=lambda o: -counts[OUTCOMES.index(o)],
    )
    if len(ranked) <= KINDS:
        return {o.value: (o,) for o in ranked}
    named: Kinds = {o.value: (o,) for o in ranked[: KINDS - 1]}
    return named | {"other": tuple(ranked[KINDS - 1 :])}


def ttft(reading: Reading) -> dict[Pair, list[Point]]:
    """TTFT over time of the busiest models' workloads, in the order of the summary."""
    busy: dict[str, int] = {}
    for group in reading.summary.groups:
        busy[group.model] = busy.get(group.model, 0) + group.requests.scheduled
    kept = sorted(busy, key=lambda model: -busy[model])[:MODELS]
    scan, series = reading.scan, reading.series
    pairs = [pair for pair in scan.pairs if pair[0] in kept]
    most = max(12, min(scan.grid.bins, LINES // (3 * max(1, len(pairs)))))
    begins = np.arange(0, series.length, scan.grid.width)
    found = {}
    for pair in pairs:
        cells = scan.ttft(pair)
        windows = _columns([w for w in series.windows if w.model == pair[0]], scan.grid.width)
        if cells is None or not windows:
            continue
        due = np.add.reduceat(series.total("scheduled", *pair), begins)
        found[pair] = widening.points(cells, SHARES, windows, most=most, due=due)
    return found


def _columns(windows: Sequence[Window], width: int) -> list[tuple[int, int]]:
    """The bins of each window; one that holds seconds of two belongs to the one with more."""
    found: list[tuple[int, int]] = []
    for window in sorted(windows, key=lambda window: window.start):
        first, last = window.start // width, -(-window.end // width)
        if found and found[-1][1] > first:
            first += (window.start % width) * 2 > width
            found[-1] = (found[-1][0], first)
        found.append((first, max(last, first)))
    return found
