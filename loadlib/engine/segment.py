"""A run of steps in closed form: how long k of them take, and how many fit into a time.

While the same sequences run, each step costs the same but for their contexts, which grow by the
same number of tokens every step. With `cost` the first step and `slope` what each is dearer than
the one before, k steps take

    E(k) = k · cost + slope · k(k − 1)/2

Femtoseconds, all integers, so a sum of steps is exactly the sum. To invert it, the positive root
of the quadratic is computed in floating point (in the form that does not cancel) and then put
right by comparing integers: the answer is exact, whatever the root was.
"""

from __future__ import annotations

from math import sqrt


def elapsed(k: int, cost: int, slope: int) -> int:
    """E(k): the duration of the first `k` steps."""
    return k * cost + slope * (k * (k - 1) // 2)


def steps_within(time: int, cost: int, slope: int) -> int:
    """The largest k ≥ 0 with E(k) ≤ `time`; `time` ≥ 0, and not both cost and slope are 0."""
    if not slope:
        return time // cost
    half = cost - slope / 2
    k = int(2 * time / (half + sqrt(half * half + 2.0 * slope * time))) if time else 0
    while elapsed(k, cost, slope) > time:
        k -= 1
    while elapsed(k + 1, cost, slope) <= time:
        k += 1
    return k


def steps_to_reach(time: int, cost: int, slope: int) -> int:
    """The smallest k ≥ 1 with E(k) ≥ `time`; not both cost and slope are 0."""
    if time <= cost:
        return 1
    return steps_within(time - 1, cost, slope) + 1
