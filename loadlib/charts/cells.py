"""Counts of values in columns, in a memory that does not grow with them.

A column is a stretch of time, of load or of length; in it, values are counted in cells a
thirty-second of an octave wide. A quantile is the middle of its cell, at most 1.1 % away from the
value: less than the width of a line on any axis here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

PER_OCTAVE = 32
FIRST, OCTAVES = -4, 26  # from 1/16 of a unit to four million of them: 60 µs to an hour in ms
CELLS = PER_OCTAVE * OCTAVES


class Cells:
    """`columns` histograms side by side. Values beyond the range count in its last cells."""

    __slots__ = ("counts",)

    def __init__(self, columns: int) -> None:
        self.counts = np.zeros((columns, CELLS), np.int32)

    def add(self, columns: npt.NDArray[Any], values: npt.NDArray[Any]) -> None:
        """Count values (finite, in units such as ms), each in its column."""
        with np.errstate(divide="ignore"):
            octaves = np.log2(np.maximum(values, 0.0)) - FIRST
        cells = np.clip(np.floor(octaves * PER_OCTAVE), 0, CELLS - 1).astype(np.int64)
        np.add.at(self.counts, (columns, cells), 1)

    def n(self) -> npt.NDArray[np.int64]:
        """How many values each column has."""
        found: npt.NDArray[np.int64] = self.counts.sum(axis=1, dtype=np.int64)
        return found

    def quantiles(
        self, ps: tuple[float, ...], first: int = 0, end: int | None = None
    ) -> tuple[float, ...] | None:
        """Nearest-rank quantiles of columns [first, end) together; None where they are empty."""
        below = np.cumsum(self.counts[first:end].sum(axis=0, dtype=np.int64))
        n = int(below[-1])
        if not n:
            return None
        ranks = [max(1, math.ceil(p * n - 1e-9)) for p in ps]
        return tuple(middle(int(np.searchsorted(below, rank))) for rank in ranks)


def middle(cell: int) -> float:
    """The geometric middle of a cell."""
    return float(2 ** ((cell + 0.5) / PER_OCTAVE + FIRST))
