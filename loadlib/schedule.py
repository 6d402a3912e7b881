"""When requests begin: pure, seeded, shardable arrival iterators.

An arrival is `(index, offset)`: its ordinal in the whole schedule and nanoseconds from the start
of the phase. A worker iterates its own `Shard` without talking to anyone; the shards together are
the schedule, each index exactly once. Offsets are absolute, so a late arrival delays no other.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, lcm
from typing import Protocol, TypeVar

import numpy as np

from loadlib.rates import Floats, Instants, Line, Rate, S

__all__ = [
    "ARRIVALS",
    "SHAPES",
    "WHOLE",
    "Arrival",
    "S",
    "Shard",
    "arrivals",
    "constant",
    "expected_requests",
    "gamma",
    "mix",
    "poisson",
    "seed_for",
    "share",
    "trace",
    "traced",
]

Arrival = tuple[int, int]
"""(index in the whole schedule, ns from the start of the phase)."""

SHAPES = 0.01, 1000.0
"""The shapes a gamma schedule may have: gaps that vary by ten times their mean to by 3 %."""

_BATCH = 1024  # arrivals computed at once: 1 µs each alone, 40 ns in a batch
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
    rate: Rate,
    *,
    duration_ns: int | None = None,
    requests: int | None = None,
    seed: int = 0,  # noqa: ARG001 — the arrival kinds share one signature; this one draws nothing
    shard: Shard = WHOLE,
) -> Iterator[Arrival]:
    """Evenly spaced arrivals: the i-th when i are due, the first at 0 (or when the rate is not 0).

    Ends before `duration_ns` or after `requests` arrivals, whichever is given. An offset is
    computed from its index, never from its predecessor: there is nothing to drift.
    """
    line = _bounded(rate, duration_ns, requests)

    def counts() -> Iterator[Floats]:
        mine = (np.arange(_BATCH) * shard.count + shard.index).astype(np.float64)
        while True:
            yield mine
            mine = mine + float(shard.count * _BATCH)

    yield from _walk(line, counts(), duration_ns, requests, shard)


def poisson(
    rate: Rate,
    *,
    duration_ns: int | None = None,
    requests: int | None = None,
    seed: int = 0,
    shard: Shard = WHOLE,
) -> Iterator[Arrival]:
    """Memoryless arrivals at `rate`.

    Every shard draws its part of the rate from its own child of the seed: sums of independent
    Poisson processes are Poisson, while workers that share a stream fire in volleys. With
    `requests` the number is exact, split over the shards like `share`; with `duration_ns` it is
    random, and the indices of a shard are spaced by `count`.
    """
    line = _bounded(rate, duration_ns, requests)
    rng = _generator(seed, shard.index)

    def counts() -> Iterator[Floats]:
        elapsed = 0.0
        while True:
            gaps = rng.standard_exponential(_BATCH) * shard.count
            yield (mine := _running(gaps, elapsed))
            elapsed = float(mine[-1])

    yield from _walk(line, counts(), duration_ns, requests, shard)


def gamma(
    rate: Rate,
    *,
    shape: float,
    duration_ns: int | None = None,
    requests: int | None = None,
    seed: int = 0,
    shard: Shard = WHOLE,
) -> Iterator[Arrival]:
    """Arrivals with gamma gaps: bursty with `shape` below 1, Poisson at 1, regular above.

    The coefficient of variation of a gap is 1/√shape, and the index of dispersion of counts in
    long windows 1/shape (Cox, Renewal Theory, 1962). The first gap is a random part of one met
    at a random moment (its equilibrium: uniform × gamma(shape + 1)), so that the rate holds from
    the first second on. Many independent gamma processes together are nearly Poisson: therefore
    every shard draws the whole sequence (30 ns an arrival) and keeps its own places in it.
    """
    line = _bounded(rate, duration_ns, requests)
    if not SHAPES[0] <= shape <= SHAPES[1]:
        raise ValueError(f"a shape is from {SHAPES[0]:g} to {SHAPES[1]:,g}, not {shape}")
    rng = _generator(seed)

    def counts() -> Iterator[Floats]:
        elapsed, drawn = rng.random() * rng.standard_gamma(shape + 1) / shape, 0
        ahead = np.array([elapsed])
        while True:
            yield ahead[(shard.index - drawn) % shard.count :: shard.count]
            drawn += len(ahead)
            ahead = _running(rng.standard_gamma(shape, _BATCH) / shape, elapsed)
            elapsed = float(ahead[-1])

    yield from _walk(line, counts(), duration_ns, requests, shard)


def trace(
    instants: Instants,
    *,
    speed: float = 1.0,
    duration_ns: int | None = None,
    requests: int | None = None,
    shard: Shard = WHOLE,
) -> Iterator[Arrival]:
    """Recorded arrivals: `instants` (ns, in order), `speed` times as fast.

    Ends with the recording, before `duration_ns` of wall time, or after `requests` arrivals.
    """
    last = traced(instants, speed=speed, duration_ns=duration_ns, requests=requests)
    for begin in range(shard.index, last, shard.count * _BATCH):
        part = instants[begin : min(last, begin + shard.count * _BATCH) : shard.count]
        offsets = _played(part, speed)
        indices = range(begin, begin + len(part) * shard.count, shard.count)
        yield from zip(indices, offsets.tolist(), strict=True)


def traced(
    instants: Instants,
    *,
    speed: float = 1.0,
    duration_ns: int | None = None,
    requests: int | None = None,
) -> int:
    """How many arrivals `trace` makes of a recording."""
    _one_end(duration_ns, requests)
    if speed <= 0:
        raise ValueError(f"a speed is more than 0, not {speed}")
    if requests is not None:
        return min(requests, len(instants))
    assert duration_ns is not None

    def offset(index: int) -> int:
        return int(_played(instants[index : index + 1], speed)[0])

    return bisect_left(range(len(instants)), duration_ns, key=offset)


def _played(instants: Instants, speed: float) -> Instants:
    return instants if speed == 1 else np.rint(instants / speed).astype(np.int64)


ARRIVALS: dict[str, Callable[..., Iterator[Arrival]]] = {
    "constant": constant,
    "poisson": poisson,
    "gamma": gamma,
}
"""The open kinds with a rate. A `trace` has instants instead, and a closed loop neither: a user
sends when it is free (see `share`)."""


def _generator(seed: int, *child: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=child)))


def _running(gaps: Floats, elapsed: float) -> Floats:
    """Running sums from `elapsed` on; in one chain, however the gaps are cut into batches."""
    gaps[0] += elapsed
    return np.cumsum(gaps)


def _walk(
    line: Line,
    counts: Iterator[Floats],
    duration_ns: int | None,
    requests: int | None,
    shard: Shard,
) -> Iterator[Arrival]:
    """A shard's arrivals from the counts at which they are due, batch by batch."""
    left = None if requests is None else share(requests, shard)
    index, before = shard.index, 0
    while left is None or left > 0:
        # Roundings may swap two arrivals of the same nanosecond.
        offsets = np.maximum.accumulate(np.maximum(line.instants(next(counts)), before))[:left]
        size = len(offsets)
        if duration_ns is not None:
            offsets = offsets[: int(np.searchsorted(offsets, duration_ns))]
        indices = range(index, index + len(offsets) * shard.count, shard.count)
        yield from zip(indices, offsets.tolist(), strict=True)
        if len(offsets) < size:
            return
        index += size * shard.count
        before = int(offsets[-1]) if size else before
        left = None if left is None else left - size


def _bounded(rate: Rate, duration_ns: int | None, requests: int | None) -> Line:
    if isinstance(rate, int | float) and rate <= 0:
        raise ValueError(f"a rate is more than 0, not {rate}")
    _one_end(duration_ns, requests)
    line = Line(rate)
    if requests is not None and line.ends_at_zero:
        raise ValueError("a number of requests needs a rate that does not end at 0")
    return line


def _one_end(duration_ns: int | None, requests: int | None) -> None:
    if (duration_ns is None) == (requests is None):
        raise ValueError("a schedule ends by a duration or by a number of requests, one of them")


class Timed(Protocol):
    """What of a phase decides how many requests it plans."""

    @property
    def rate(self) -> Rate | None:
        """Arrivals per second; None in a closed loop and with a trace."""

    @property
    def duration_ns(self) -> int | None:
        """Length, or None where `requests` ends the phase."""

    @property
    def requests(self) -> int | None:
        """Number of requests, or None where `duration_ns` ends the phase."""


class Open(Timed, Protocol):
    """What of an open phase decides when its requests begin."""

    @property
    def arrival(self) -> str:
        """`trace`, or one of `ARRIVALS`."""

    @property
    def shape(self) -> float | None:
        """Of gamma gaps."""

    @property
    def speed(self) -> float:
        """Of a trace."""


def arrivals(
    phase: Open, *, seed: int, shard: Shard = WHOLE, recorded: Instants | None = None
) -> Iterator[Arrival]:
    """The schedule of an open phase; `recorded` are the instants of its trace, if it has one."""
    ends = {"duration_ns": phase.duration_ns, "requests": phase.requests}
    if phase.arrival == "trace":
        if recorded is None:
            raise ValueError("a trace needs its recorded instants")
        return trace(recorded, speed=phase.speed, shard=shard, **ends)
    more = {"shape": phase.shape} if phase.arrival == "gamma" else {}
    return ARRIVALS[phase.arrival](phase.rate, seed=seed, shard=shard, **ends, **more)


def expected_requests(phase: Timed) -> float | None:
    """Requests the phase plans; None for a closed loop by duration: the server decides.

    None for a trace by duration as well: see `traced`.
    """
    if phase.requests is not None:
        return float(phase.requests)
    if phase.rate is None or phase.duration_ns is None:
        return None
    if isinstance(phase.rate, int | float):
        return phase.rate * phase.duration_ns / S
    return Line(phase.rate).count(phase.duration_ns)


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
