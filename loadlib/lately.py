"""The last ten seconds of every group, as the reports of all processes tell them. Pure.

Kept by whole seconds, all processes together: what was counted, and the exact latencies of the
requests that ended. Rates are per second of what the processes have reported on, so that one
which is a second behind the others bends none.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from loadlib.gathered import values_of
from loadlib.histogram import nearest_rank
from loadlib.metrics import CATALOGUE, SCALE
from loadlib.recorder import NS, Interval, Key
from loadlib.sample import Outcome, Sample

LOOK_BACK_S = 10
_TTFT, _TPOT = CATALOGUE["ttft"], CATALOGUE["tpot"]
_TOKENS = 5  # column of recorder.SECOND_FIELDS


@dataclass(slots=True)
class Tally:
    """What happened to one group in some seconds."""

    scheduled: int = 0
    begun: int = 0
    tokens: int = 0  # output tokens of the requests that ended
    ttft: array[int] = field(default_factory=lambda: array("q"))  # µs, of the ok ones
    tpot: array[int] = field(default_factory=lambda: array("q"))

    def add(self, other: Tally) -> None:
        """Both together."""
        self.scheduled += other.scheduled
        self.begun += other.begun
        self.tokens += other.tokens
        self.ttft.extend(other.ttft)
        self.tpot.extend(other.tpot)

    def see(self, sample: Sample) -> None:
        """The latencies of one request that ended."""
        if sample.outcome is Outcome.OK:
            self.ttft.extend(values_of(_TTFT, sample))
            self.tpot.extend(values_of(_TPOT, sample))


@dataclass(slots=True)
class _Second:
    tallies: dict[Key, Tally] = field(default_factory=dict)
    covered_ns: Counter[str] = field(default_factory=Counter)  # source → time it reported on

    def tally(self, key: Key) -> Tally:
        found = self.tallies.get(key)
        if found is None:
            found = self.tallies[key] = Tally()
        return found


class Lately:
    """`add` what one interval counted, then `see` its samples."""

    def __init__(self, look_back_s: int = LOOK_BACK_S) -> None:
        self.latest_ns = 0  # the newest instant anybody reported on
        self._look_back_s = look_back_s
        self._seconds: dict[int, _Second] = {}

    def add(self, source: str, interval: Interval) -> None:
        """Take the counts of one interval of one process into account."""
        end_ns = interval["end_ns"]
        second = self._at(end_ns)
        second.covered_ns[source] += max(0, end_ns - interval["start_ns"])
        for model, workload, phase, scheduled, _outcomes in interval["counts"]:
            second.tally((model, workload, phase)).scheduled += scheduled
        for model, workload, phase, begun in interval["begun"]:
            second.tally((model, workload, phase)).begun += begun
        for _second, model, workload, phase, *row in interval["seconds"]:
            second.tally((model, workload, phase)).tokens += row[_TOKENS]

    def see(self, sample: Sample, end_ns: int) -> None:
        """A sample of an interval that ended at `end_ns`."""
        self._at(end_ns).tally((sample.model, sample.workload, sample.phase)).see(sample)

    @property
    def span_s(self) -> float:
        """How long what is kept lasted: the mean over the processes that reported."""
        covered: Counter[str] = Counter()
        for second in self._seconds.values():
            covered.update(second.covered_ns)
        return sum(covered.values()) / len(covered) / NS if covered else 0.0

    def tallies(self) -> dict[Key, Tally]:
        """What the seconds kept add up to, for each group in them."""
        found: dict[Key, Tally] = {}
        for second in self._seconds.values():
            for key, tally in second.tallies.items():
                found.setdefault(key, Tally()).add(tally)
        return found

    def _at(self, end_ns: int) -> _Second:
        """The second that ends with `end_ns`; one that is long over is kept nowhere."""
        number = -(-end_ns // NS)
        if end_ns > self.latest_ns:
            self.latest_ns = end_ns
            oldest = number - self._look_back_s
            for gone in [one for one in self._seconds if one <= oldest]:
                del self._seconds[gone]
        if number <= -(-self.latest_ns // NS) - self._look_back_s:
            return _Second()
        found = self._seconds.get(number)
        if found is None:
            found = self._seconds[number] = _Second()
        return found


def by_pair(tallies: Mapping[Key, Tally]) -> dict[tuple[str, str], Tally]:
    """Phases put together: (model, workload) → what happened to it."""
    found: dict[tuple[str, str], Tally] = {}
    for (model, workload, _phase), tally in tallies.items():
        found.setdefault((model, workload), Tally()).add(tally)
    return found


def quantiles_ms(values: Sequence[int], ps: Iterable[float]) -> list[float | None]:
    """Nearest-rank quantiles of exact values (µs), in ms; None of none."""
    ranks = [nearest_rank(p, len(values)) - 1 for p in ps]
    if not values:
        return [None] * len(ranks)
    ordered = np.partition(np.asarray(values, np.int64), sorted(set(ranks)))
    return [int(ordered[rank]) / SCALE for rank in ranks]
