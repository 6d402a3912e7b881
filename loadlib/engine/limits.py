"""Provider-style rate limits: requests and tokens per minute, as two token buckets.

A bucket of size `limit` fills at `limit` per minute and is full at the start, so a minute's worth
may come at once and the long-run rate is the limit. Levels are integers in units of 1/(60·10⁹):
one nanosecond adds exactly `limit` of them, nothing is ever rounded away. A request takes one
from the first bucket and its tokens (prompt + asked output, as OpenAI counts before the answer
exists) from the second, from both or from neither; one that is refused takes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

_MINUTE = 60 * 1_000_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """What an account may do per minute; `None`: as much as it likes."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "tokens_per_minute"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise ValueError(f"{name} must be at least 1")


@dataclass(frozen=True, slots=True)
class Quota:
    """One bucket after a request: what `x-ratelimit-*` headers say.

    `limit` per minute, `remaining` whole ones, `reset_ns` until it is full again.
    """

    limit: int
    remaining: int
    reset_ns: int


@dataclass(frozen=True, slots=True)
class Permit:
    """The decision on one request. `refused_by`: `requests` or `tokens`, None where it may pass.

    `retry_after_ns`: when it would pass if nothing else came; None where it never would, because
    it is larger than the whole bucket (and 0 where it passes).
    """

    refused_by: str | None
    retry_after_ns: int | None
    requests: Quota | None
    tokens: Quota | None


class RateLimiter:
    """The buckets of one account; an instant before the latest counts as the latest."""

    def __init__(self, limits: Limits) -> None:
        self._requests = _bucket(limits.requests_per_minute)
        self._tokens = _bucket(limits.tokens_per_minute)

    def take(self, tokens: int, now_ns: int) -> Permit:
        """Ask for one request of `tokens` tokens at `now_ns`."""
        asked = (("requests", self._requests, 1), ("tokens", self._tokens, tokens))
        waits: list[tuple[str, int | None]] = []
        for name, bucket, amount in asked:
            if bucket is not None:
                wait_ns = bucket.wait_ns(amount, now_ns)
                if wait_ns != 0:
                    waits.append((name, wait_ns))
        if not waits:
            for _, bucket, amount in asked:
                if bucket is not None:
                    bucket.take(amount)
        refused_by, retry_ns = max(waits, key=_longest, default=(None, 0))
        return Permit(refused_by, retry_ns, _quota(self._requests), _quota(self._tokens))


class _Bucket:
    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._full = limit * _MINUTE
        self._level = self._full
        self._at_ns: int | None = None

    def wait_ns(self, amount: int, now_ns: int) -> int | None:
        """Nanoseconds until `amount` is there; 0 if it is, None if it never will be."""
        if self._at_ns is None:
            self._at_ns = now_ns
        if now_ns > self._at_ns:  # who was long on the way finds what there is now
            self._level = min(self._full, self._level + (now_ns - self._at_ns) * self.limit)
            self._at_ns = now_ns
        missing = amount * _MINUTE - self._level
        if missing <= 0:
            return 0
        return -(-missing // self.limit) if amount <= self.limit else None

    def take(self, amount: int) -> None:
        self._level -= amount * _MINUTE

    def quota(self) -> Quota:
        missing = self._full - self._level
        return Quota(self.limit, self._level // _MINUTE, -(-missing // self.limit))


def _bucket(limit: int | None) -> _Bucket | None:
    return None if limit is None else _Bucket(limit)


def _quota(bucket: _Bucket | None) -> Quota | None:
    return None if bucket is None else bucket.quota()


def _longest(wait: tuple[str, int | None]) -> float:
    return float("inf") if wait[1] is None else wait[1]
