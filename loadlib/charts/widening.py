"""Bins of time widened until they say something, and never across a time that says nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loadlib.charts.cells import Cells

LEAST = 20  # values a bin needs, and requests in a row without any that make a gap

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Point:
    """Quantiles of columns [start, end), which hold `n` values; `part` numbers unbroken parts.

    A bin that could not be filled has the first quantile only.
    """

    start: int
    end: int
    n: int
    values: tuple[float, ...]
    part: int


def points(
    cells: Cells,
    shares: tuple[float, ...],
    windows: Sequence[tuple[int, int]],
    *,
    most: int,
    due: Counts | None = None,
) -> list[Point]:
    """Quantiles of each bin of `widened`, at most about `most` of them."""
    n = cells.n()
    fine = max(1, -(-len(n) // most))
    found = []
    for part, bins in enumerate(widened(n, windows, fine=fine, due=due)):
        for start, end in bins:
            total = int(n[start:end].sum())
            values = cells.quantiles(shares if total >= LEAST else shares[:1], start, end)
            if values is not None:
                found.append(Point(start, end, total, values, part))
    return found


def widened(
    n: Counts, windows: Sequence[tuple[int, int]], *, fine: int = 1, due: Counts | None = None
) -> list[list[tuple[int, int]]]:
    """Bins [start, end) of columns in unbroken parts, each bin with at least `LEAST` values.

    Every value of a window is in a bin. A part ends where its window does, and before `LEAST`
    requests that were `due` one after the other and have no value. What cannot be filled joins the
    bin before it, or stands alone where there is none.
    """
    parts: list[list[tuple[int, int]]] = []
    done = 0
    for first, last in sorted(windows):
        for start, end in _heard(n, due, max(first, done), min(last, len(n))):
            parts.append(_filled(n, start, end, fine))
        done = max(done, last)
    return [bins for bins in parts if bins]


def _heard(n: Counts, due: Counts | None, first: int, last: int) -> list[tuple[int, int]]:
    """The stretches of [first, last) without a gap, each from one value to another."""
    found: list[tuple[int, int]] = []
    silent = 0
    for column in range(first, last):
        if not n[column]:
            silent += 0 if due is None else int(due[column])
        elif found and silent < LEAST:
            found[-1] = (found[-1][0], column + 1)
            silent = 0
        else:
            found.append((column, column + 1))
            silent = 0
    return found


def _filled(n: Counts, start: int, end: int, fine: int) -> list[tuple[int, int]]:
    bins: list[tuple[int, int]] = []
    begin, held = start, 0
    for column in range(start, end):
        held += int(n[column])
        if held >= LEAST and column + 1 - begin >= fine:
            bins.append((begin, column + 1))
            begin, held = column + 1, 0
    if held:
        begin = bins.pop()[0] if bins else begin
        bins.append((begin, end))
    return bins
