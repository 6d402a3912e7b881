"""This machine's wall clock: the one place where a worker and its master read it."""

from __future__ import annotations

import time


def wall_ns() -> int:
    """Unix epoch ns."""
    return time.time_ns()


def own_offset_ns() -> int:
    """Unix epoch − monotonic clock, ns."""
    return wall_ns() - time.monotonic_ns()
