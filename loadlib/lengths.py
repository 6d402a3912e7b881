"""How long a prompt or an answer is to be: a list to go round, or a distribution. Pure.

A distribution is its quantile function: `at(u)` is the whole number of tokens below which a share
`u` of all requests lies. It is monotone in `u`, so that a condition on the length (what a window
holds) is a condition on `u`, and a draw is one hash: request n has the same length whoever asks.

    Uniform      low + u · (high − low + 1), whole numbers with equal chances
    LogNormal    exp(μ + σ·z(u)),  μ = ln p50,  σ = ln(p99 / p50) / z(0.99)
    Table        quantiles as published; between two of them ln(tokens) is a straight line in u
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

_NORMAL = NormalDist()
_Z99 = _NORMAL.inv_cdf(0.99)

# A lognormal has no end: what lies beyond one in ten thousand is drawn as that one.
_FAR = 1e-4

# Of what lies above the last quantile of a table, this share is its `max` itself; up to there it
# is a power law, as tails of lengths are. A straight line to `max` makes the mean too large: of
# Azure's code answers by 17 %, of ServeGen's R1 prompts by 10 %; this way by 3 % and 2 %.
_AT_MAX = 0.01

_CELLS = 1000  # of u, where a mean is taken over a distribution


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every whole number from `low` to `high`, both included."""

    low: int
    high: int

    def at(self, u: float) -> int:
        """The u-quantile, tokens; 0 < u < 1."""
        return min(self.low + int(u * (self.high - self.low + 1)), self.high)


@dataclass(frozen=True, slots=True)
class LogNormal:
    """By its median and its p99 (at least as large); ends at its quantiles 0.0001 and 0.9999."""

    p50: int
    p99: int

    def at(self, u: float) -> int:
        """The u-quantile, tokens; 0 < u < 1."""
        z = _NORMAL.inv_cdf(min(max(u, _FAR), 1 - _FAR))
        return max(1, round(self.p50 * math.exp(z * math.log(self.p99 / self.p50) / _Z99)))


@dataclass(frozen=True, slots=True)
class Table:
    """Empirical quantiles: (share, tokens) pairs rising in both, shares from 0 (min) to 1 (max).

    Below the first quantile the line to the second goes on, down to 1 token at most; above the
    last one nothing is longer than that. `name`: of a built-in table.
    """

    points: tuple[tuple[float, int], ...]
    name: str | None = None

    def at(self, u: float) -> int:
        """The u-quantile, tokens; 0 < u < 1."""
        points = self.points
        above = bisect_left(points, (u, 0))
        if above == len(points):
            return points[-1][1]
        (p, low), (q, high) = points[max(above, 1) - 1], points[max(above, 1)]
        if q == 1 and p > 0:
            rank = math.log((1 - p) / (1 - u)) / -math.log(_AT_MAX)
        else:
            rank = (u - p) / (q - p)
        line = low * math.exp(min(rank, 1.0) * math.log(high / low))
        return max(1, round(line)) if rank < 0 else min(max(low, round(line)), high)


Distribution = Uniform | LogNormal | Table

Length = tuple[int, ...] | Distribution
"""Numbers to go round, or a distribution to draw from."""


def chance(*key: object) -> float:
    """A number in (0, 1) that depends on nothing but `key`, the same in every process."""
    raw = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return ((int.from_bytes(raw, "big") >> 11) + 0.5) / (1 << 53)


def nth(lengths: Length, ordinal: int, *key: object) -> int:
    """The length of request `ordinal`; for a distribution a draw that `key` and `ordinal` make."""
    if isinstance(lengths, tuple):
        return lengths[ordinal % len(lengths)]
    return lengths.at(chance(*key, ordinal))


@lru_cache(maxsize=256)
def share_upto(lengths: Distribution, tokens: int) -> float:
    """The share of lengths that are at most `tokens`: the least upper bound of such u."""
    if lengths.at(_LAST) <= tokens:
        return 1.0
    low, high = 0.0, _LAST  # of u: at most `tokens`; more
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if lengths.at(middle) <= tokens else (low, middle)
    return low


_FIRST, _LAST = 2.0**-54, 1 - 2.0**-53


def least(lengths: Length) -> int:
    """The shortest there can be."""
    return min(lengths) if isinstance(lengths, tuple) else lengths.at(_FIRST)


def most(lengths: Length) -> int:
    """The longest there can be."""
    return max(lengths) if isinstance(lengths, tuple) else lengths.at(_LAST)


@lru_cache(maxsize=256)
def grid(lengths: Length, upto: float = 1.0, cells: int = _CELLS) -> tuple[int, ...]:
    """Lengths of equal weight that stand for all, or for the shortest share `upto` of them."""
    if isinstance(lengths, tuple):
        return lengths
    return tuple(lengths.at(upto * (i + 0.5) / cells) for i in range(cells))


def mean(lengths: Length) -> float:
    """The mean length, tokens; of a distribution over 1,000 equal shares."""
    every = grid(lengths)
    return sum(every) / len(every)


# -- published tables ------------------------------------------------------------------------------

_SHARES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)

_Row = tuple[int, int, int, int, int, int, int, int, int, int, int]

# Quantiles, rounded to whole tokens, an answer of 0 tokens as 1: min, p1, p5, p10, p25, p50, p75,
# p90, p95, p99, max of prompts and of answers.
_PUBLISHED: dict[str, tuple[_Row, _Row]] = {
    # Azure/AzurePublicDataset, AzureLLMInferenceTrace_conv.csv (2023, an hour, 19,366 requests)
    "azure-conv": (
        (2, 29, 181, 207, 396, 1020, 1189, 2734, 4083, 4142, 14050),
        (7, 16, 41, 54, 85, 129, 395, 424, 451, 601, 1000),
    ),
    # Azure/AzurePublicDataset, AzureLLMInferenceTrace_code.csv (2023, an hour, 8,819 requests)
    "azure-code": (
        (3, 17, 75, 147, 578, 1469, 2744, 5188, 7303, 7436, 7437),
        (6, 6, 6, 7, 9, 13, 24, 55, 90, 251, 1899),
    ),
    # kvcache-ai/Mooncake, FAST25-release, conversation_trace.jsonl (an hour, 12,031 requests)
    "mooncake-conv": (
        (891, 894, 901, 964, 2306, 6909, 15367, 27367, 39550, 85400, 126195),
        (1, 3, 10, 24, 156, 350, 472, 597, 698, 1118, 2000),
    ),
    # kvcache-ai/Mooncake, FAST25-release, synthetic_trace.jsonl (3,993 requests)
    "mooncake-synthetic": (
        (13, 16, 22, 30, 277, 11587, 23175, 38611, 48905, 66456, 191378),
        (1, 2, 2, 4, 11, 69, 250, 389, 519, 768, 893),
    ),
    # flashserve/RAGPulse, data/0_trace.jsonl (a week, 7,106 requests)
    "ragpulse": (
        (1052, 1052, 1055, 1110, 2754, 3140, 3437, 3958, 4425, 5438, 7712),
        (7, 36, 66, 83, 131, 234, 385, 563, 670, 891, 2183),
    ),
    # ServeGen, DeepSeek-R1 (Alibaba; reasoning, its tokens counted as answer)
    "servegen-r1": (
        (4, 9, 13, 18, 41, 208, 482, 2092, 6714, 23423, 57284),
        (9, 141, 225, 287, 427, 792, 1499, 3432, 5701, 12607, 32768),
    ),
    # microsoft/vidur, arXiv summarisation (28,257 requests, prompt and answer up to 4k together)
    "arxiv-summary": (
        (1, 73, 749, 1242, 1986, 2730, 3370, 3702, 3813, 3933, 4054),
        (5, 36, 60, 78, 115, 167, 242, 372, 736, 3271, 4056),
    ),
}

TABLES: Mapping[str, tuple[Table, Table]] = {
    name: (
        Table(tuple(zip(_SHARES, prompts, strict=True)), name),
        Table(tuple(zip(_SHARES, outputs, strict=True)), name),
    )
    for name, (prompts, outputs) in _PUBLISHED.items()
}
"""Name → lengths of prompts, lengths of answers."""


def refusal(points: Sequence[tuple[float, int]]) -> str:
    """What is wrong with the points of a table, in order of share; empty where nothing is."""
    if sum(0 < share < 1 for share, _ in points) < 1 or len(points) < 2:
        return "should have two points or more, such as {p50: 1020, p99: 4142}"
    falling = next((i for i in range(1, len(points)) if points[i][1] < points[i - 1][1]), None)
    if falling is None:
        return ""
    return f"should not fall: {points[falling][1]:,} comes after {points[falling - 1][1]:,}"
