"""When requests begin: pure, seeded, shardable arrival iterators.

An arrival is `(index, offset)`: its ordinal in the whole schedule and nanoseconds from the start
of the phase. A worker iterates its own `Shard` without talking to anyone; the shards together are
the schedule, each index exactly once. Offsets are absolute, so a late arrival delays no other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, lcm
from typing import Protocol, TypeVar

import numpy as np

S = 1_000_000_000
"""Nanoseconds in a second."""

_BATCH = 256  # gaps drawn at once: a draw costs 1 µs alone and 10 ns in a batch
_BURN_IN = 1024

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `index` of `count` equal parts of a schedule."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"shard {self.index} of {self.count}")


WHOLE = Shard()


def share(total: int, shard: Shard = WHOLE) -> int:
    """How many of `total` belong to `shard`; the shares of all shards sum to `total`."""
    return (total - shard.index + shard.count - 1) // shard.count


def seed_for(seed: int, *names: str | int) -> int:
    """A seed of its own for each use (`seed_for(seed, phase, model)`), the same everywhere."""
    text = "\0".join([str(seed), *(f"{type(name).__name__}:{name}" for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def constant(
    rate: float,
    *,
    duration_ns: int | None = None,
    requests: int | None = None,
    seed: int = 0,  # noqa: ARG001 — the arrival kinds share one signature; this one draws nothing
    shard: Shard = WHOLE,
) -> Iterator[tuple[int, int]]:
    """Evenly spaced arrivals at `rate` per second, the first at 0.

    Ends before `duration_ns` or after `requests` arrivals, whichever is given. An offset is
    computed from its index, never from its predecessor: there is nothing to drift.
    """
    _bounded(rate, duration_ns, requests)
    index = shard.index
    while requests is None or index < requests:
        offset = round(index * S / rate)
        if duration_ns is not None and offset >= duration_ns:
            return
        yield index, offset
        index += shard.count


def poisson(
    rate: float,
    *,
    duration_ns: int | None = None,
    requests: int | None = None,
    seed: int = 0,
    shard: Shard = WHOLE,
) -> Iterator[tuple[int, int]]:
    """Memoryless arrivals at `rate` per second on average.

    Every shard draws at `rate / count` from its own child of the seed: sums of independent
    Poisson processes are Poisson, while workers that share a stream fire in volleys. With
    `requests` the number is exact, split over the shards like `share`; with `duration_ns` it is
    random, and the indices of a shard are spaced by `count`.
    """
    _bounded(rate, duration_ns, requests)
    rng = np.random.Generator(
        np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(shard.index,)))
    )
    mean_gap_ns = S * shard.count / rate
    left = None if requests is None else share(requests, shard)
    index, elapsed = shard.index, 0.0
    while left is None or left > 0:
        for gap in rng.exponential(mean_gap_ns, _BATCH).tolist():
            elapsed += gap
            offset = round(elapsed)
            if left == 0 or (duration_ns is not None and offset >= duration_ns):
                return
            yield index, offset
            index += shard.count
            left = None if left is None else left - 1


ARRIVALS: dict[str, Callable[..., Iterator[tuple[int, int]]]] = {
    "constant": constant,
    "poisson": poisson,
}
"""The open kinds. `closed` has no instants: a user sends when it is free (see `share`)."""


def _bounded(rate: float, duration_ns: int | None, requests: int | None) -> None:
    if rate <= 0:
        raise ValueError(f"a rate is more than 0, not {rate}")
    if (duration_ns is None) == (requests is None):
        raise ValueError("a schedule ends by a duration or by a number of requests, one of them")


class Timed(Protocol):
    """What of a phase decides how many requests it plans."""

    @property
    def rate(self) -> float | None:
        """Arrivals per second; None in a closed loop."""

    @property
    def duration_ns(self) -> int | None:
        """Length, or None where `requests` ends the phase."""

    @property
    def requests(self) -> int | None:
        """Number of requests, or None where `duration_ns` ends the phase."""


def expected_requests(phase: Timed) -> float | None:
    """Requests the phase plans; None for a closed loop by duration: the server decides."""
    if phase.requests is not None:
        return float(phase.requests)
    if phase.rate is None or phase.duration_ns is None:
        return None
    return phase.rate * phase.duration_ns / S


def mix(weights: Mapping[K, float], seed: int) -> Iterator[K]:
    """Seeded smooth weighted round-robin over the keys, endless.

    Any window as long as the weights' common period holds every key exactly in proportion, and
    a rare key is spread out instead of clumped. The seed decides the order of ties and where in
    the period it begins. Raises `ValueError` where no weight is positive.
    """
    steps = _whole_weights(weights)
    total = sum(steps.values())
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
    keys = list(steps)
    order = [keys[i] for i in rng.permutation(len(keys)).tolist()]
    current = dict.fromkeys(order, 0)
    skip = int(rng.integers(0, min(total, _BURN_IN)))
    while True:
        for key in order:
            current[key] += steps[key]
        best = max(order, key=current.__getitem__)
        current[best] -= total
        if skip:
            skip -= 1
        else:
            yield best


def _whole_weights(weights: Mapping[K, float]) -> dict[K, int]:
    """The same proportions in the smallest whole numbers, so that nothing is rounded away."""
    parts = {key: Fraction(str(weight)) for key, weight in weights.items() if weight > 0}
    if not parts:
        raise ValueError("no weight is more than 0")
    scale = lcm(*(part.denominator for part in parts.values()))
    whole = {key: int(part * scale) for key, part in parts.items()}
    common = gcd(*whole.values())
    return {key: value // common for key, value in whole.items()}
