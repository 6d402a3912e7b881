"""The binomial distribution, exactly, as far as confidence intervals and gates need it.

Probabilities follow from each other by P(k+1) / P(k) = (n − k) / (k + 1) · p / (1 − p)
(Johnson, Kemp and Kotz, *Univariate Discrete Distributions*, ch. 3), taken from the mode
outwards over a window of twelve standard deviations a side, which leaves out less than 1e-30;
so their sum is 1 and they need no other anchor. The window grows with √n: 38,000 terms at
n = 1e7, so no approximation by a normal or beta distribution is ever needed.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

_Window = tuple[int, npt.NDArray[np.float64]]


def cdf(k: int, n: int, p: float) -> float:
    """P(X ≤ k) for X ~ Binomial(n, p). Raises ValueError unless n ≥ 0 and 0 ≤ p ≤ 1."""
    _check(n, p)
    if k < 0:
        return 0.0
    if k >= n:
        return 1.0
    first, below = _window(n, p)
    if k < first:
        return 0.0
    return float(below[min(k - first, len(below) - 1)])


def at_least(k: int, n: int, p: float) -> float:
    """P(X ≥ k) for X ~ Binomial(n, p): how surprising `k` or more hits would be."""
    return max(0.0, 1.0 - cdf(k - 1, n, p))


@lru_cache(maxsize=4096)
def order_ranks(n: int, p: float, conf: float = 0.95) -> tuple[int, int] | None:
    """Ranks (1-based) of the order statistics that enclose the p-quantile at `conf`.

    The number of values below the quantile is Binomial(n, p), so [x₍l₎, x₍u₎] covers it with
    probability P(l ≤ X < u). Each tail gets at most (1 − conf) / 2. None where n is too small
    for such a pair of ranks to exist.
    """
    _check(n, p)
    if n == 0 or not 0.0 < p < 1.0:
        return None
    tail = (1.0 - conf) / 2.0
    first, below = _window(n, p)
    low = first + int(np.searchsorted(below, tail, side="right"))
    high = first + int(np.searchsorted(below, 1.0 - tail, side="left")) + 1
    return (low, high) if low >= 1 and high <= n else None


def wilson(hits: int, n: int, conf: float = 0.95) -> tuple[float, float] | None:
    """Wilson's score interval of the share hits / n (Wilson 1927); None for n = 0."""
    if n <= 0:
        return None
    z = NormalDist().inv_cdf(0.5 + conf / 2.0)
    share, spread = hits / n, z * z / n
    middle = share + spread / 2.0
    half = z * math.sqrt(share * (1.0 - share) / n + spread / (4.0 * n))
    low = 0.0 if hits <= 0 else max(0.0, (middle - half) / (1.0 + spread))
    high = 1.0 if hits >= n else min(1.0, (middle + half) / (1.0 + spread))
    return low, high


def _check(n: int, p: float) -> None:
    if n < 0 or not 0.0 <= p <= 1.0:
        raise ValueError(f"no binomial distribution has n={n}, p={p}")


@lru_cache(maxsize=256)
def _window(n: int, p: float) -> _Window:
    """(first k, P(X ≤ k) for k from there): the part of the distribution that has any weight."""
    if p in (0.0, 1.0):
        return (0 if p == 0.0 else n), np.ones(1)
    mode = min(n, int((n + 1) * p))
    reach = int(12.0 * math.sqrt(n * p * (1.0 - p))) + 40
    first, last = max(0, mode - reach), min(n, mode + reach)
    odds = math.log(p) - math.log1p(-p)
    k = np.arange(first, last, dtype=np.float64)
    steps = np.log(n - k) - np.log(k + 1.0) + odds
    logs = np.concatenate(([0.0], np.cumsum(steps)))
    weights = np.exp(logs - logs[mode - first])
    below = np.cumsum(weights)
    below /= below[-1]
    below.flags.writeable = False
    return first, below
