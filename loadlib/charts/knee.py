"""Where a latency begins to run away from the load. Pure.

Two straight lines that meet, the logarithm of the latency against the load, by least squares over
all places to meet (Muggeo 2003, *Estimating regression models with unknown break-points*). That is
a knee where the second is much steeper than the first and leads somewhere; else there is none, and
why is said.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

LEAST = 4  # loads
STEEPER = 3.0  # times the slope before
RISE = 1.5  # times, at the highest load, what the first line says
FALL = 1.25  # times: a latency that falls so far as the load rises is not of one kind
CLIFF = 3.0  # times within one step of the load
_PLACES = 200  # at which the lines may meet


@dataclass(frozen=True, slots=True)
class Knee:
    """`at` is a load, None unless `status` is found; `reason` says why there is none."""

    status: Literal["found", "none", "unknown"]
    reason: str = ""
    at: float | None = None
    boundary: Literal["smooth", "cliff", "non-monotone", ""] = ""


def knee(points: Sequence[tuple[float, float]]) -> Knee:
    """The knee of (load, latency) points, both positive, one point a load, in any order."""
    ordered = sorted(points)
    if len(ordered) < LEAST:
        return Knee("unknown", f"a knee needs {LEAST} loads, there are {len(ordered)}")
    if any(after[1] * FALL < before[1] for before, after in itertools.pairwise(ordered)):
        return Knee("unknown", "latency falls where the load rises", boundary="non-monotone")
    x = np.array([load for load, _ in ordered])
    y = np.log([latency for _, latency in ordered])
    steps = np.diff(y)
    at, before, after = _broken(x, y)
    expected = y[0] + before * (x[-1] - x[0])
    if after < STEEPER * max(before, 0.0) or y[-1] - expected < np.log(RISE):
        return Knee("none", "latency grows evenly with the load")
    boundary: Literal["smooth", "cliff"] = "cliff" if steps.max() >= np.log(CLIFF) else "smooth"
    return Knee("found", at=at, boundary=boundary)


def _broken(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]
) -> tuple[float, float, float]:  # fmt: skip
    """(where two lines meet, the slope before, the slope after); two points on either side."""
    best: tuple[float, float, float, float] | None = None
    for at in np.linspace(x[1], x[-2], _PLACES):
        terms = np.stack([np.ones(len(x)), x, np.maximum(x - at, 0.0)], axis=1)
        found = np.linalg.lstsq(terms, y, rcond=None)[0]
        left = float(((terms @ found - y) ** 2).sum())
        if best is None or left < best[0] - 1e-12:
            best = (left, float(at), float(found[1]), float(found[1] + found[2]))
    assert best is not None
    return best[1:]
