"""Where a phase runs steadily, and what it delivers there: the ramp found, the mean with a doubt.

A mean over all of a phase mixes in its ramp, in which the first requests have not answered yet.
How long that lasts is judged by MSER-5 (White 1997): the standard error of the mean of what is left
when the beginning is left out, in batches of five seconds. MSER-5 leaves out what makes it least,
and with it, where nothing ramps, any odd beginning; here it is the least that brings the error
within a quarter of that, and never more than half. The drain begins with the last arrival and is
left out too.

Seconds depend on each other, so the mean's interval comes from the means of ten batches, each long
enough to hardly depend on its neighbours (Law and Kelton, *Simulation Modeling and Analysis*, 9.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

BATCH_S = 5  # seconds a batch of MSER-5
NEAR = 1.25  # times the least error
BATCHES = 10
_T9 = 2.2622  # Student's t of 9 degrees of freedom, two-sided 95 %
_LEAST_S = 2 * BATCHES  # seconds that an interval needs


@dataclass(frozen=True, slots=True)
class Steady:
    """Seconds [start, end) of the values given; `interval` is the 95 % one of their mean."""

    start: int
    end: int
    mean: float
    interval: tuple[float, float] | None
    settled: bool  # False: no ramp of less than half of the phase leaves a steady rest


def steady(values: npt.NDArray[Any]) -> Steady | None:
    """The steady stretch of one phase, a value a second, first and last being cut; None of none."""
    whole = np.asarray(values, dtype=float)
    first = 1 if len(whole) > 3 else 0
    end = len(whole) - first
    inside = whole[first:end]
    if not len(inside):
        return None
    left_out, settled = ramp(inside)
    rest = inside[left_out:]
    return Steady(first + left_out, end, float(rest.mean()), interval(rest), settled)


def ramp(values: npt.NDArray[np.float64]) -> tuple[int, bool]:
    """(values at the beginning to leave out, whether what is left is steady)."""
    size = BATCH_S if len(values) >= 8 * BATCH_S else 1
    batches = len(values) // size
    if batches < 4:
        return 0, False
    means = values[len(values) - batches * size :].reshape(batches, size).mean(axis=1)
    errors = [
        float(((means[cut:] - means[cut:].mean()) ** 2).sum()) / (batches - cut) ** 2
        for cut in range(batches // 2 + 1)
    ]
    best = next(cut for cut, error in enumerate(errors) if error <= NEAR * min(errors) + 1e-9)
    settled = int(np.argmin(np.round(errors, 9))) < batches // 2  # or more would be better still
    spare = len(values) - batches * size
    return (spare + best * size if best else 0), settled


def interval(values: npt.NDArray[np.float64]) -> tuple[float, float] | None:
    """95 % interval of the mean by batch means; None where there are too few values."""
    if len(values) < _LEAST_S:
        return None
    size = len(values) // BATCHES
    means = values[len(values) - size * BATCHES :].reshape(BATCHES, size).mean(axis=1)
    half = _T9 * float(means.std(ddof=1)) / BATCHES**0.5
    middle = float(values.mean())
    return max(0.0, middle - half), middle + half
