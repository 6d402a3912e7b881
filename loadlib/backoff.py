"""When a throttled request is tried again, and after how long. Pure, and the same for equal seeds.

What the server asks to wait is waited, to the millisecond, and no longer than the scenario allows:
who asks for more is not asked again, since "earlier retries will fail". Where it does not say, the
wait is exponential with full jitter: uniform between 0 and 1 s · 2ⁿ⁻¹ after the n-th attempt
(M. Brooker, "Exponential Backoff And Jitter", 2015).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from loadlib.sample import Outcome, Sample

FIRST_NS = 10**9
MS = 10**6


@dataclass(frozen=True, slots=True)
class Backoff:
    """What a scenario allows: so many attempts in all, and so long a wait before each."""

    attempts: int
    max_wait_ns: int
    seed: int = 0

    def wait_ns(self, sample: Sample) -> int | None:
        """How long after the end of this attempt the next one is due; None: there is none.

        Throttled means 429, 529, or a 503 that says when to come back. An exhausted quota and a
        refused key are no matter of waiting.
        """
        if sample.attempt >= self.attempts or not _is_throttled(sample):
            return None
        if sample.retry_after_ms is not None:
            asked_ns = sample.retry_after_ms * MS
            return asked_ns if asked_ns <= self.max_wait_ns else None
        most_ns = min(self.max_wait_ns, FIRST_NS << min(sample.attempt - 1, 40))
        return int(most_ns * _share(self.seed, sample))


def _is_throttled(sample: Sample) -> bool:
    if sample.outcome is Outcome.THROTTLED:
        return sample.cause != "quota"
    return sample.status == 503 and sample.retry_after_ms is not None


def _share(seed: int, sample: Sample) -> float:
    """A number from 0 to 1 that is this attempt's own."""
    who = (seed, sample.phase, sample.model, sample.workload, sample.index, sample.turn,
           sample.attempt)  # fmt: skip
    digest = hashlib.blake2b(repr(who).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
