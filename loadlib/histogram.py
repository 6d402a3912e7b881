"""HDR histograms of recorded integers, all with one layout: 1 … 3.6e9 at 3 digits.

The layout and the V2 encoding are HdrHistogram's own; the counts live in a numpy array that is
only as long as the largest value needs. Values are what `metrics` records: µs or milli-tok/s.
Out-of-range values are clipped to the range *and* counted in `overflow`, so that a tail cannot
lose its end in silence. Exact minimum, maximum and sum travel along; quantiles are nearest
rank ⌈p·n⌉, a bucket standing for its middle (at most 0.05 % away).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from hdrh.codec import HdrHistogramEncoder
from hdrh.histogram import HdrHistogram

from loadlib import binomial

LOWEST, HIGHEST, DIGITS = 1, 3_600_000_000, 3
_LAYOUT = (LOWEST, HIGHEST, DIGITS)
_HALF_BITS = 10  # HdrHistogram's sub_bucket_half_count_magnitude for 3 digits
_HALF = 1 << _HALF_BITS
_NEVER = HIGHEST + 1  # minimum of nothing

Ints = npt.NDArray[np.int64]


class Histogram:
    """A mutable distribution of non-negative integers. Equality compares all that is kept."""

    __slots__ = ("_counts", "_max", "_min", "_sum", "n", "overflow")
    __hash__ = None  # type: ignore[assignment]  # mutable

    def __init__(self, values: Iterable[int] | Ints = ()) -> None:
        self._counts: Ints = np.zeros(0, np.int64)
        self._min, self._max, self._sum = _NEVER, 0, 0
        self.n = 0  # values recorded, the clipped ones included
        self.overflow = 0  # values that were clipped to 0 or HIGHEST
        self.record_many(values)

    def record(self, value: int) -> None:
        """Count one value (recorded integer)."""
        self.record_many(np.array([value], np.int64))

    def record_many(self, values: Ints | Iterable[int]) -> None:
        """Count an array of recorded integers in one go."""
        if not isinstance(values, np.ndarray):
            values = np.fromiter(values, np.int64)
        array = values.astype(np.int64, copy=False)
        if not array.size:
            return
        low, high = int(array.min()), int(array.max())
        if low < 0 or high > HIGHEST:
            self.overflow += int(np.count_nonzero((array < 0) | (array > HIGHEST)))
            array = np.clip(array, 0, HIGHEST)
            low, high = int(array.min()), int(array.max())
        indices = index_of(array)
        self._reach(int(indices.max()) + 1)
        np.add.at(self._counts, indices, 1)
        self.n += array.size
        self._sum += int(array.sum())
        self._min, self._max = min(self._min, low), max(self._max, high)

    def merge(self, other: Histogram) -> Histogram:
        """Add all of `other` to this one, and return it. Merging an empty one changes nothing."""
        if other.n:
            self._reach(len(other._counts))
            self._counts[: len(other._counts)] += other._counts
            self.n += other.n
            self.overflow += other.overflow
            self._sum += other._sum
            self._min = min(self._min, other._min)
            self._max = max(self._max, other._max)
        return self

    def copy(self) -> Histogram:
        """An independent histogram with the same content."""
        return Histogram().merge(self)

    @property
    def min(self) -> int | None:
        """Smallest value, exact; None when empty."""
        return self._min if self.n else None

    @property
    def max(self) -> int | None:
        """Largest value, exact; None when empty."""
        return self._max if self.n else None

    @property
    def mean(self) -> float | None:
        """Arithmetic mean, exact; None when empty."""
        return self._sum / self.n if self.n else None

    def counts(self) -> tuple[Ints, Ints]:
        """(values, counts) of the buckets in use, ascending.

        A bucket's value is its middle; alone in theirs, minimum and maximum are exact.
        """
        used = np.flatnonzero(self._counts)
        low, size = bounds_of(used)
        values = np.clip(low + (size - 1) // 2, self._min, self._max).astype(np.int64)
        counts = self._counts[used]
        if used.size and counts[0] == 1:
            values[0] = self._min
        if used.size and counts[-1] == 1:
            values[-1] = self._max
        return values, counts

    def at_or_over(self, value: float) -> int:
        """How many values are ≥ `value`, a bucket standing for its middle as in `quantile`."""
        values, counts = self.counts()
        return int(counts[values >= value].sum())

    def at_rank(self, rank: int) -> int | None:
        """The `rank`-th smallest value (1-based); None outside 1 … n."""
        return self._at_ranks((rank,))[0]

    def quantile(self, p: float) -> int | None:
        """Nearest-rank quantile, 0 ≤ p ≤ 1; None when empty."""
        return self.quantiles((p,))[0]

    def quantiles(self, ps: Iterable[float]) -> list[int | None]:
        """Several quantiles for the price of one."""
        return self._at_ranks([nearest_rank(p, self.n) for p in ps])

    def interval(self, p: float, conf: float = 0.95) -> tuple[int, int] | None:
        """Order-statistic confidence interval of a quantile; None where n is too small."""
        ranks = binomial.order_ranks(self.n, p, conf)
        if ranks is None:
            return None
        low, high = self._at_ranks(ranks)
        assert low is not None
        assert high is not None
        return low, high

    def encode(self) -> bytes:
        """`overflow,min,max,sum:` and the base64 V2 payload, all ASCII."""
        head = f"{self.overflow},{self._min},{self._max},{self._sum}:"
        return head.encode() + self.payload()

    def payload(self) -> bytes:
        """The standard base64 V2 payload alone, as in `.hlog` files."""
        used = np.flatnonzero(self._counts)
        with _scratch_lock:
            _scratch.total_count = self.n
            _scratch.max_value = int(bounds_of(used[-1:])[0][0]) if used.size else 0
            _scratch_counts[used] = self._counts[used]
            encoded: bytes = _scratch.encode()
            _scratch_counts[used] = 0
        return encoded

    @classmethod
    def decode(cls, data: bytes) -> Histogram:
        """The inverse of `encode`; also takes a bare V2 payload of the same layout.

        From a bare payload minimum, maximum and sum are those of the buckets' middles, and
        `overflow` is unknown (0). Raises ValueError for anything else.
        """
        return cls().merge_encoded(data)

    def merge_encoded(self, data: bytes) -> Histogram:
        """`merge` of an encoded histogram, without one in between: a third of the time, which a
        master needs that adds up hundreds of them a second. Takes and raises what `decode` does,
        and is unchanged then.
        """
        head, mark, payload = data.rpartition(b":")
        try:
            overflow, low, high, total = (
                (int(part) for part in head.split(b",")) if mark else (0,) * 4
            )
        except ValueError:
            raise ValueError("not an encoded histogram") from None
        counts, first, n = _counts_of(payload, min(max(high, 0), HIGHEST) if mark else HIGHEST)
        if not n:
            self.overflow += overflow
            return self
        if not mark:
            used = first + np.flatnonzero(counts)
            starts, sizes = bounds_of(used)
            middles = starts + (sizes - 1) // 2
            low, high = int(middles[0]), int(middles[-1])
            total = int((middles * counts[used - first]).sum())
        self._reach(first + len(counts))
        self._counts[first : first + len(counts)] += counts
        self.n += n
        self.overflow += overflow
        self._sum += total
        self._min, self._max = min(self._min, low), max(self._max, high)
        return self

    def _at_ranks(self, ranks: Iterable[int]) -> list[int | None]:
        wanted = list(ranks)
        if not self.n:
            return [None] * len(wanted)
        values, counts = self.counts()
        places = np.searchsorted(np.cumsum(counts), wanted, side="left")
        return [
            int(values[place]) if 1 <= rank <= self.n else None
            for rank, place in zip(wanted, places, strict=True)
        ]

    def _reach(self, length: int) -> None:
        if length > len(self._counts):
            rounded = -(-length // _HALF) * _HALF
            self._counts = np.concatenate(
                (self._counts, np.zeros(rounded - len(self._counts), np.int64))
            )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        return self._state() == other._state()

    def _state(self) -> tuple[Any, ...]:
        used = np.flatnonzero(self._counts)
        return (
            self.overflow,
            self._min,
            self._max,
            self._sum,
            used.tolist(),
            self._counts[used].tolist(),
        )

    def __repr__(self) -> str:
        return f"<Histogram n={self.n} min={self.min} max={self.max}>"


def _counts_of(payload: bytes, highest: int) -> tuple[Ints, int, int]:
    """(counters from the first in use to the last, index of the first, their sum) of a payload
    whose values are at most `highest`. Raises ValueError for what is none."""
    try:
        coded = HdrHistogramEncoder.decode(payload)
        head = coded.payload
        layout = (
            head.lowest_trackable_value,
            head.highest_trackable_value,
            head.significant_figures,
        )
        # Without the library's own histogram around it, which takes longer to build.
        bucket = max((highest | (2 * _HALF - 1)).bit_length() - (_HALF_BITS + 1), 0)
        length = ((bucket + 1) << _HALF_BITS) + _HALF  # to the end of its power of two
        found = coded.init_counts(length) if layout == _LAYOUT else {}
    except Exception as error:  # zlib, base64, and the library's own, unrelated classes
        raise ValueError(f"not an HDR V2 payload: {error}") from error
    if layout != _LAYOUT:
        raise ValueError(f"HDR layout {layout}, expected {_LAYOUT}")
    if found["max_nonzero_index"] < 0:
        return np.zeros(0, np.int64), 0, 0
    first, last = found["min_nonzero_index"], found["max_nonzero_index"]
    counts = np.frombuffer(coded.get_counts(), np.int64, last + 1)[first:]
    return counts, first, int(found["total"])


def index_of(values: Ints) -> Ints:
    """HdrHistogram's bucket index of each value (array of non-negative integers)."""
    bits = np.frexp((values | (2 * _HALF - 1)).astype(np.float64))[1].astype(np.int64)
    bucket = bits - (_HALF_BITS + 1)
    return ((bucket + 1) << _HALF_BITS) + (values >> bucket) - _HALF


def bounds_of(indices: Ints) -> tuple[Ints, Ints]:
    """(lowest value, number of values) of each bucket index."""
    shift = np.maximum((indices >> _HALF_BITS) - 1, 0)
    sub = np.where(indices < _HALF, indices, (indices & (_HALF - 1)) + _HALF)
    return sub << shift, np.left_shift(np.int64(1), shift)


def nearest_rank(p: float, n: int) -> int:
    """⌈p·n⌉, at least 1, without the error of binary fractions (0.07 · 100 is 7, not 8)."""
    exact = _exactly(p)
    return max(1, -(-exact.numerator * n // exact.denominator))


@lru_cache(maxsize=256)
def _exactly(p: float) -> Fraction:
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"a quantile lies between 0 and 1, not at {p}")
    return Fraction(repr(float(p)))


_scratch: Any = HdrHistogram(LOWEST, HIGHEST, DIGITS)
_scratch_counts = np.ctypeslib.as_array(_scratch.counts)
_scratch_lock = threading.Lock()  # building one costs 80 µs, encoding 20
