"""Lines and curves through measurements, and how well they fit. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

CELLS_PER_OCTAVE = 8  # of length: what lies within 9 % of each other is one place of a curve
PLACES = 3  # of them that a curve needs
SPREAD = 4.0  # times the shortest that the longest must be


@dataclass(frozen=True, slots=True)
class Line:
    """y = intercept + slope · x by least squares, on `n` points; `r2` is the share explained."""

    intercept: float
    slope: float
    r2: float
    n: int

    def at(self, x: float) -> float:
        """The line's value."""
        return self.intercept + self.slope * x


class Sums(NamedTuple):
    """Of (x, y) points, everything that a line through them needs; sums of sums are sums."""

    n: float = 0.0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0
    yy: float = 0.0

    @classmethod
    def of(cls, x: Floats, y: Floats) -> Floats:
        """One row of sums per point, to be added up."""
        return np.stack([np.ones(len(x)), x, y, x * x, x * y, y * y], axis=1)

    def line(self, least: int = 20) -> Line | None:
        """None for fewer than `least` points, and where all have one x."""
        if self.n < least:
            return None
        xx, xy = self.xx - self.x * self.x / self.n, self.xy - self.x * self.y / self.n
        yy = self.yy - self.y * self.y / self.n
        if xx <= 1e-9 * max(self.xx, 1e-300):
            return None
        slope = xy / xx
        r2 = xy * xy / (xx * yy) if yy > 1e-12 * max(self.yy, 1e-300) else 1.0
        return Line((self.y - slope * self.x) / self.n, slope, min(1.0, r2), int(self.n))


@dataclass(frozen=True, slots=True)
class Growth:
    """TTFT = a + b·L + c·L², in ms over prompt tokens, none of them negative.

    `r2` is the share of the requests' spread that it explains; `n` of them, at `places` lengths.
    """

    a: float
    b: float
    c: float
    r2: float
    n: int
    places: int

    def at(self, length: float) -> float:
        """The curve's value, ms."""
        return self.a + self.b * length + self.c * length * length

    def prefill(self, length: float, ttft: float) -> float | None:
        """Prompt tokens read per second, L / (TTFT − a); None where reading is less than a fifth
        of the TTFT, and the quotient says nothing."""
        reading = ttft - self.a
        return 1000 * length / reading if reading >= 0.2 * ttft and reading > 0 else None


@dataclass(frozen=True, slots=True)
class Place:
    """Requests of one length, within 9 %: the mean of it and the median of their TTFT, ms."""

    length: float
    ttft: float
    n: int


def places(
    lengths: npt.NDArray[np.int64], ttft: Floats, per_octave: int = CELLS_PER_OCTAVE
) -> list[Place]:
    """The requests gathered by length."""
    cell = np.floor(np.log2(np.maximum(lengths, 1)) * per_octave + 0.5).astype(np.int64)
    found = []
    for one in np.unique(cell):
        mine = cell == one
        middle = np.sort(ttft[mine])[(int(mine.sum()) - 1) // 2]
        found.append(Place(float(lengths[mine].mean()), float(middle), int(mine.sum())))
    return found


def growth(lengths: npt.NDArray[np.int64], ttft: Floats) -> Growth | None:
    """The curve through the medians of every length, by least squares of the relative error.

    Medians, because a request that met a queue says nothing of reading; relative, because 10 ms
    are much at a thousand tokens and nothing at a hundred thousand. With three lengths c is 0.
    None for fewer, and where they are too near each other.
    """
    found = places(lengths, ttft)
    known = [place for place in found if place.ttft > 0]
    if len(known) < PLACES or known[-1].length < SPREAD * known[0].length:
        return None
    x = np.array([place.length for place in known])
    y = np.array([place.ttft for place in known])
    weight = np.sqrt([place.n for place in known]) / y
    terms = np.stack([np.ones(len(x)), x, x * x], axis=1)[:, : 3 if len(known) > PLACES else 2]
    a, b, c = _not_negative(terms * weight[:, None], y * weight)
    fitted = a + b * lengths + c * lengths.astype(float) ** 2
    spread = float(((ttft - ttft.mean()) ** 2).sum())
    left = float(((ttft - fitted) ** 2).sum())
    r2 = 1 - left / spread if spread > 0 else 1.0
    return Growth(a, b, c, r2, len(lengths), len(known))


def _not_negative(terms: Floats, y: Floats) -> tuple[float, float, float]:
    """Least squares with no negative coefficient: the best of all choices of terms."""
    scale = np.abs(terms).max(axis=0)
    best, least = np.zeros(terms.shape[1]), float((y**2).sum())
    columns = range(terms.shape[1])
    for size in range(1, terms.shape[1] + 1):
        for chosen in combinations(columns, size):
            some = list(chosen)
            found = np.linalg.lstsq(terms[:, some] / scale[some], y, rcond=None)[0]
            if (found < 0).any():
                continue
            left = float(((terms[:, some] / scale[some] @ found - y) ** 2).sum())
            if left < least * (1 - 1e-9):
                best, least = np.zeros(terms.shape[1]), left
                best[some] = found / scale[some]
    a, b, c = (*best, 0.0)[:3]
    return float(a), float(b), float(c)
