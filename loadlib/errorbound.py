"""By how much the instrument may be wrong → between which values a figure of its lies. Pure.

Stamps are late, never early, so each reading has an error of one sign, known as a distribution:
all but a share d of the readings are wrong by at most E(d). The quantile of rank r of n readings
is then at least x(r - dn) - E(d) for every d, whichever readings the errors fell on: no
independence is assumed. The best d wins; a widened error can only widen the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from loadlib.histogram import Histogram

SHARES = (0.0, *sorted([2.0**-k for k in range(1, 13)] + [1.5 * 2.0**-k for k in range(2, 13)]))
"""The shares d looked at: none, 1/4096 … 1/2. Halves of them are among them, but the smallest's."""

_HALVES = tuple(SHARES.index(share / 2) if share / 2 in SHARES else 0 for share in SHARES)

Interval = tuple[float, float]
Case = tuple[float, Callable[[float], float]]
"""(share of the readings that are left out, what is made of each other one)."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How large errors are, ms: `at_most[i]` or less but for a share `SHARES[i]` of them."""

    at_most: tuple[float, ...] = (0.0,) * len(SHARES)
    mean: float = 0.0

    @classmethod
    def of(cls, hist: Histogram | None, scale: float = 1000.0) -> Spread:
        """From readings in µs; none read, none known: no error is made up."""
        if hist is None or not hist.n:
            return cls()
        found = hist.quantiles([1.0 - share for share in SHARES])
        assert hist.mean is not None
        return cls(tuple((value or 0) / scale for value in found), hist.mean / scale)

    def plus(self, other: Spread) -> Spread:
        """The sum of two errors, wherever they coincide: each may be off for half the share."""
        if not self or not other:
            return self if self else other
        pairs = zip(self._halved(), other._halved(), strict=True)
        return Spread(tuple(a + b for a, b in pairs), self.mean + other.mean)

    def twice(self) -> Spread:
        """Of the difference of two stamps: one is late while the other is not, or both are."""
        return Spread(tuple(self._halved()), self.mean)

    def _halved(self) -> list[float]:
        """At half of each share; none, where that is too small."""
        return [self.at_most[half] for half in _HALVES]

    def scaled(self, factor: float) -> Spread:
        """Every error times `factor`."""
        return Spread(tuple(factor * ms for ms in self.at_most), factor * self.mean)

    def rare(self, share: float) -> Spread:
        """Where all but a share of the readings are known to be free of this error."""
        kept = [ms if d < share else 0.0 for d, ms in zip(SHARES, self.at_most, strict=True)]
        return Spread(tuple(kept), min(self.mean, share * self.at_most[0]))

    def at(self, p: float) -> float:
        """The error that a share `p` of the readings does not exceed, ms."""
        within = [ms for share, ms in zip(SHARES, self.at_most, strict=True) if 1 - share >= p]
        return min(within)

    def __bool__(self) -> bool:
        return any(self.at_most)


NONE = Spread()

Kind = Literal["time", "speed", "share"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """The error of one metric's readings: too high by `over`, too low by `under`.

    What an error e in ms does to a reading: of a `time`, it is e. Of a `speed` in tokens a
    second, the `gaps` tokens took e longer or shorter. Of a rate as a `share`, e is the share
    of it in thousandths. `cause` and `remedy` say it in words.
    """

    over: Spread = NONE
    under: Spread = NONE
    kind: Kind = "time"
    gaps: float = 1.0
    cause: str = ""
    remedy: str = ""

    def __bool__(self) -> bool:
        return bool(self.over) or bool(self.under)

    def lowest(self, value: float, error: float) -> float:
        """What may be true where `value` was read, too high by `error`."""
        if self.kind == "time":
            return value - error
        if self.kind == "share":
            return value * (1 - min(1.0, error / 1000))
        return value / (1 + value * error / (1000 * self.gaps))

    def highest(self, value: float, error: float) -> float:
        """What may be true where `value` was read, too low by `error`."""
        if self.kind == "time":
            return value + error
        if self.kind == "share":
            return value * (1 + error / 1000)
        left = 1 - value * error / (1000 * self.gaps)
        return value / left if left > 0 else math.inf

    def around(self, value: float) -> Interval:
        """Between which values one figure lies: a mean, or a rate of the whole phase."""
        return self.lowest(value, self.over.mean), self.highest(value, self.under.mean)

    def of_rank(self, at_rank: Callable[[int], float], rank: int, n: int) -> Interval:
        """Between which values the `rank`-th smallest of `n` readings lies.

        `at_rank` gives the reading of a rank from 1 to n.
        """
        low, high = -math.inf, math.inf
        for share, over, under in zip(SHARES, self.over.at_most, self.under.at_most, strict=True):
            wild = math.floor(share * n)  # readings that may be anything
            if rank - wild >= 1:
                low = max(low, self.lowest(at_rank(rank - wild), over))
            if rank + wild <= n:
                high = min(high, self.highest(at_rank(rank + wild), under))
        return low, high

    def at_best(self, *, lower: bool) -> Iterator[Case]:
        """Each reading as good as it may truly be, but for a share that may be anything.

        `lower` says whether lower values are the better ones.
        """
        return self._cases(
            self.lowest if lower else self.highest, self.over if lower else self.under
        )

    def at_worst(self, *, lower: bool) -> Iterator[Case]:
        """Each reading as bad as it may truly be, likewise."""
        return self._cases(
            self.highest if lower else self.lowest, self.under if lower else self.over
        )

    @staticmethod
    def _cases(move: Callable[[float, float], float], errors: Spread) -> Iterator[Case]:
        for share, error in zip(SHARES, errors.at_most, strict=True):
            yield share, partial(_moved, move, error)


def _moved(move: Callable[[float, float], float], error: float, value: float) -> float:
    return move(value, error)
