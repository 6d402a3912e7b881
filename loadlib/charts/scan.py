"""The rows of a run, read once for every chart that needs them, in a memory that stays the same.

Rows are taken in chunks of arrays: a million of them cost a few seconds, most of which is reading
the file. What a chart wants to know is counted on the way (`Cells`, sums), never kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from loadlib.charts.cells import Cells
from loadlib.charts.fits import Line, Sums
from loadlib.charts.series import Series
from loadlib.sample import Brief, Outcome
from loadlib.summary import Summary

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Pair = tuple[str, str]
"""(model, workload)."""

NS = 1_000_000_000
MS = 1_000_000
CHUNK = 8192
BINS = 160  # of time, at most
PAIRS = 24  # of which latencies over time and load are kept: the busiest
LEVELS = 64  # of load, a quarter of an octave each
KEPT = 4096  # requests of a group that a fit is made from
CACHED = 0.05  # of a prompt: from there on it was not read as if it were new
OUTCOMES = tuple(Outcome)
_UNKNOWN = -1
_PLACES = {outcome: place for place, outcome in enumerate(OUTCOMES)}


@dataclass(frozen=True, slots=True)
class Grid:
    """Bins of `width` whole seconds; the first begins at `start`, Unix epoch seconds."""

    start: int
    width: int
    bins: int

    @classmethod
    def over(cls, series: Series, most: int = BINS) -> Grid:
        """As fine as `most` bins allow."""
        width = max(1, -(-series.length // most))
        return cls(series.start, width, max(1, -(-series.length // width)))

    def of(self, instants_ns: Ints) -> Ints:
        """The bin of each instant; what lies outside counts in the nearest."""
        return np.clip((instants_ns // NS - self.start) // self.width, 0, self.bins - 1)


@dataclass(slots=True)
class Chunk:
    """Some rows as arrays. Instants in ns; -1 is unknown."""

    group: Ints  # place in `Scan.keys`, -1 for a group the summary does not know
    outcome: Ints  # place in OUTCOMES
    final: Bools  # the last attempt of its request
    intended: Ints
    sent: Ints
    first: Ints
    last: Ints
    end: Ints
    output: Ints
    length: Ints
    cached: Ints

    @property
    def ok(self) -> Bools:
        """Rows of the groups that are known, and that ended ok."""
        found: Bools = (self.outcome == OUTCOMES.index(Outcome.OK)) & (self.group >= 0)
        return found


@dataclass(slots=True)
class Lengths:
    """Uncached requests of one group: prompt tokens and TTFT on the sent clock, ms.

    At most `KEPT`, chosen by a hash of their place among the rows, all of them alike.
    """

    n: int = 0
    hashes: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    tokens: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    ttft: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    def add(
        self, hashes: npt.NDArray[np.uint64], tokens: Ints, ttft: npt.NDArray[np.float64]
    ) -> None:
        """Take rows; of more than `KEPT` those with the smallest hashes stay."""
        self.n += len(tokens)
        self.hashes = np.concatenate((self.hashes, hashes))
        self.tokens = np.concatenate((self.tokens, tokens))
        self.ttft = np.concatenate((self.ttft, ttft))
        if len(self.hashes) > KEPT:
            kept = np.argpartition(self.hashes, KEPT)[:KEPT]
            self.hashes, self.tokens, self.ttft = (
                self.hashes[kept], self.tokens[kept], self.ttft[kept]
            )  # fmt: skip


class Scan:
    """What one pass over the rows found.

    Latencies over time are by (model, workload), all phases; against load and length those of the
    measure phases only.
    """

    def __init__(self, summary: Summary, series: Series) -> None:
        groups = summary.groups
        self.keys = {(g.model, g.workload, g.phase): i for i, g in enumerate(groups)}
        self.grid = Grid.over(series)
        busy: dict[Pair, int] = {}
        for group in groups:
            pair = (group.model, group.workload)
            busy[pair] = busy.get(pair, 0) + group.requests.scheduled
        kept = sorted(busy, key=lambda pair: -busy[pair])[:PAIRS]
        self.pairs = {pair: i for i, pair in enumerate(pair for pair in busy if pair in kept)}
        places = [self.pairs.get((g.model, g.workload), _UNKNOWN) for g in groups]
        self._pair = np.array([*places, _UNKNOWN], np.int64)  # the last is group -1
        self._measured = np.array([*(g.kind == "measure" for g in groups), False])
        models = list(dict.fromkeys(g.model for g in groups))
        self._model = np.array([*(models.index(g.model) for g in groups), 0], np.int64)
        flying = [np.concatenate(([0], np.cumsum(series.in_flight(m)))) for m in models]
        self._flying = np.array(flying) if flying else np.zeros((1, 1), np.int64)
        self._start, self._seconds = series.start, series.length
        self._ttft = Cells(len(self.pairs) * self.grid.bins)
        self._tpot = Cells(len(self.pairs) * LEVELS)
        self._loads = np.zeros((len(self.pairs), LEVELS))
        self._lines = np.zeros((len(self.pairs), len(Sums._fields)))
        self.lag = Cells(self.grid.bins)
        self.ends = np.zeros((len(OUTCOMES), self.grid.bins), np.int64)
        self.lengths: dict[tuple[str, str, str], Lengths] = {}
        self.rows = 0

    # — taking rows ————————————————————————————————————————————————————————————

    def take(self, samples: Iterable[Brief]) -> Scan:
        """Read all rows."""
        left = iter(samples)
        while some := list(islice(left, CHUNK)):
            chunk = self._chunk(some)
            self._take_ends(chunk)
            self._take_ttft(chunk)
            self._take_lag(chunk)
            self._take_tpot(chunk)
            self._take_lengths(chunk)
            self.rows += len(some)
        return self

    def _chunk(self, rows: Sequence[Brief]) -> Chunk:
        keys, places = self.keys, _PLACES
        group = [keys.get((s.model, s.workload, s.phase), _UNKNOWN) for s in rows]
        return Chunk(
            group=np.array(group, np.int64),
            outcome=np.array([places[s.outcome] for s in rows], np.int64),
            final=np.array([not s.retried for s in rows], np.bool_),
            intended=np.array([s.intended_ns for s in rows], np.int64),
            sent=_known([s.sent_ns for s in rows]),
            first=_known([s.first_token_ns for s in rows]),
            last=_known([s.last_token_ns for s in rows]),
            end=np.array([s.end_ns for s in rows], np.int64),
            output=_known([s.output_tokens for s in rows]),
            length=_known([s.input_tokens for s in rows]),
            cached=_known([s.cached_tokens for s in rows]),
        )

    def _take_ends(self, chunk: Chunk) -> None:
        counted = chunk.final & (chunk.group >= 0)
        np.add.at(self.ends, (chunk.outcome[counted], self.grid.of(chunk.end[counted])), 1)

    def _take_ttft(self, chunk: Chunk) -> None:
        pair = self._pair[chunk.group]
        seen = chunk.ok & (chunk.first >= 0) & (pair >= 0)
        columns = pair[seen] * self.grid.bins + self.grid.of(chunk.intended[seen])
        self._ttft.add(columns, (chunk.first[seen] - chunk.intended[seen]) / MS)

    def _take_lag(self, chunk: Chunk) -> None:
        sent = (chunk.sent >= 0) & (chunk.group >= 0)
        lag = (chunk.sent[sent] - chunk.intended[sent]) / MS
        self.lag.add(self.grid.of(chunk.intended[sent]), lag)

    def _take_tpot(self, chunk: Chunk) -> None:
        pair = self._pair[chunk.group]
        seen = chunk.ok & self._measured[chunk.group] & (pair >= 0) & (chunk.output > 1)
        seen &= (chunk.first >= 0) & (chunk.last >= chunk.first)
        if not seen.any() or not self._seconds:
            return
        pair, first, last = pair[seen], chunk.first[seen], chunk.last[seen]
        tpot = (last - first) / (chunk.output[seen] - 1) / MS
        load = self._load(self._model[chunk.group[seen]], first, last)
        level = np.clip(np.floor(4 * np.log2(load)), 0, LEVELS - 1).astype(np.int64)
        self._tpot.add(pair * LEVELS + level, tpot)
        np.add.at(self._loads, (pair, level), load)
        np.add.at(self._lines, pair, Sums.of(load, tpot))

    def _load(self, model: Ints, first: Ints, last: Ints) -> npt.NDArray[np.float64]:
        """Mean number of the model's requests in flight over the seconds of each stream, ≥ 1."""
        begin = np.clip(first // NS - self._start, 0, self._seconds - 1)
        end = np.clip(last // NS - self._start, begin, self._seconds - 1) + 1
        total = self._flying[model, end] - self._flying[model, begin]
        mean: npt.NDArray[np.float64] = np.maximum(total / (end - begin), 1.0)
        return mean

    def _take_lengths(self, chunk: Chunk) -> None:
        seen = chunk.ok & self._measured[chunk.group] & (chunk.first >= 0) & (chunk.sent >= 0)
        seen &= (chunk.length > 0) & (chunk.cached <= CACHED * chunk.length)
        if not seen.any():
            return
        place = np.flatnonzero(seen)
        hashes = _mixed(place.astype(np.uint64) + np.uint64(self.rows))
        ttft = (chunk.first[place] - chunk.sent[place]) / MS
        group = chunk.group[place]
        names = list(self.keys)
        for code in np.unique(group):
            mine = group == code
            kept = self.lengths.setdefault(names[code], Lengths())
            kept.add(hashes[mine], chunk.length[place][mine], ttft[mine])

    # — what was found —————————————————————————————————————————————————————————

    def ttft(self, pair: Pair) -> Cells | None:
        """TTFT on the response clock, ms, in each bin of `grid` by intended start."""
        place = self.pairs.get(pair)
        return None if place is None else _part(self._ttft, place, self.grid.bins)

    def tpot(self, pair: Pair) -> tuple[Cells, npt.NDArray[np.float64], Line | None] | None:
        """(tpot in ms at each level of load, mean load of each level, the line through all)."""
        place = self.pairs.get(pair)
        if place is None:
            return None
        cells = _part(self._tpot, place, LEVELS)
        loads = self._loads[place] / np.maximum(cells.n(), 1)
        return cells, loads, Sums(*self._lines[place]).line()


def _known(values: Sequence[int | None]) -> Ints:
    return np.array([_UNKNOWN if value is None else value for value in values], np.int64)


def _part(cells: Cells, place: int, columns: int) -> Cells:
    part = Cells(0)
    part.counts = cells.counts[place * columns : (place + 1) * columns]
    return part


def _mixed(ordinals: npt.NDArray[np.uint64]) -> npt.NDArray[Any]:
    """SplitMix64 (Steele, Lea and Flood 2014): numbers in a row, no longer in order."""
    mixed = ordinals * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
