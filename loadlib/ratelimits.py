"""What each model's account was asked for within a minute, against what it may. Pure.

A limit is on the account of a model, so all its workloads and phases count together. Minutes are
any 60 whole seconds one after the other. `requests` are attempts that were sent, refused ones too:
providers count them. Tokens are counted twice: as they were used (the prompt when its answer
begins, the answer as it comes), and `reserved`, prompt and output cap when they were sent, which
is what a provider can know when it lets a request in or not. Tokens that nobody could count are
in neither: both are the least that it can have been.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from loadlib.recorder import SECOND_FIELDS, Totals
from loadlib.sample import Outcome, Sample
from loadlib.summary import Pace, RateLimits, SeenLimit

MINUTE = 60
NOT_A_MINUTE_MS = 120_000  # a limit that needs longer to be full again is one per hour or day
_SENT, _OUTPUT, _INPUT, _RESERVED = (
    SECOND_FIELDS.index(name)
    for name in ("sent", "output_tokens", "input_tokens", "reserved_tokens")
)
_WHAT = ("requests", "tokens", "input_tokens", "output_tokens")


class Allowed(Protocol):
    """The limits a scenario states for a model."""

    @property
    def rpm(self) -> int | None:
        """Requests per minute."""

    @property
    def tpm(self) -> int | None:
        """Tokens per minute."""


@dataclass(slots=True)
class _Seen:
    """One limit as responses told it."""

    at_ns: int = -1
    limit: int | None = None
    remaining: int | None = None
    least: int | None = None
    reset_ms: int | None = None  # the longest

    def add(self, at_ns: int, found: Mapping[str, int], what: str) -> None:
        left, reset = found.get(f"{what}_remaining"), found.get(f"{what}_reset_ms")
        if left is not None:
            self.least = left if self.least is None else min(self.least, left)
        if reset is not None:
            self.reset_ms = reset if self.reset_ms is None else max(self.reset_ms, reset)
        if at_ns >= self.at_ns:
            self.at_ns = at_ns
            self.limit = found.get(f"{what}_limit", self.limit)
            self.remaining = left if left is not None else self.remaining


@dataclass(slots=True)
class _Told:
    """What the responses of one model said."""

    seen: dict[str, _Seen] = field(default_factory=dict)
    throttled: int = 0
    retry_after_ms: int | None = None


class Watch:
    """Reads what responses said as their samples go by; memory does not grow with them."""

    def __init__(self) -> None:
        self._told: dict[str, _Told] = {}

    def passing(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """The same samples."""
        for sample in samples:
            self.add(sample)
            yield sample

    def add(self, sample: Sample) -> None:
        """Take one attempt into account."""
        told = self._told.get(sample.model)
        if told is None:
            told = self._told[sample.model] = _Told()
        told.throttled += sample.made and sample.outcome is Outcome.THROTTLED
        if sample.retry_after_ms is not None:
            told.retry_after_ms = max(told.retry_after_ms or 0, sample.retry_after_ms)
        if sample.rate_limit is None:
            return
        for what in _WHAT:
            if any(f"{what}_{which}" in sample.rate_limit for which in ("limit", "remaining")):
                seen = told.seen.setdefault(what, _Seen())
                seen.add(sample.end_ns, sample.rate_limit, what)

    def conclude(
        self, totals: Totals, allowed: Mapping[str, Allowed | None]
    ) -> dict[str, RateLimits]:
        """One row per model that sent anything; `allowed` as the scenario says."""
        by_second = _by_second(totals)
        return {
            model: self._model(seconds, self._told.get(model, _Told()), allowed.get(model))
            for model, seconds in by_second.items()
        }

    def _model(
        self, seconds: Mapping[int, tuple[int, int, int]], told: _Told, allowed: Allowed | None
    ) -> RateLimits:
        requests, used, reserved = (
            most_in_a_minute({second: row[column] for second, row in seconds.items()})
            for column in range(3)
        )
        rpm, tpm = (None, None) if allowed is None else (allowed.rpm, allowed.tpm)
        return RateLimits(
            requests=_pace(requests, None, rpm, told.seen.get("requests")),
            tokens=_pace(used or None, reserved or None, tpm, told.seen.get("tokens")),
            headers={
                what: SeenLimit(
                    limit=seen.limit, remaining=seen.remaining, remaining_min=seen.least,
                    reset_ms_max=seen.reset_ms,
                )
                for what, seen in told.seen.items()
            },
            throttled=told.throttled,
            retry_after_ms=told.retry_after_ms,
        )  # fmt: skip


def _pace(most: int | None, reserved: int | None, own: int | None, seen: _Seen | None) -> Pace:
    limit, source = own, "scenario" if own is not None else None
    if limit is None and seen is not None and (seen.reset_ms or 0) <= NOT_A_MINUTE_MS:
        limit = seen.limit
        source = "headers" if limit is not None else None
    return Pace(most=most, reserved=reserved, limit=limit, source=source)  # type: ignore[arg-type]


def _by_second(totals: Totals) -> dict[str, dict[int, tuple[int, int, int]]]:
    """model → second → (requests sent, tokens used, tokens reserved), all its groups together."""
    found: dict[str, dict[int, tuple[int, int, int]]] = {}
    for (second, (model, _workload, _phase)), row in totals.seconds.items():
        mine = found.setdefault(model, {})
        sent, used, reserved = mine.get(second, (0, 0, 0))
        mine[second] = (
            sent + row[_SENT], used + row[_INPUT] + row[_OUTPUT], reserved + row[_RESERVED],
        )  # fmt: skip
    return found


def most_in_a_minute(seconds: Mapping[int, int]) -> int:
    """The largest sum over any 60 consecutive whole seconds."""
    window: deque[tuple[int, int]] = deque()
    total = most = 0
    for second in sorted(seconds):
        window.append((second, seconds[second]))
        total += seconds[second]
        while window[0][0] <= second - MINUTE:
            total -= window.popleft()[1]
        most = max(most, total)
    return most


def notices(found: Mapping[str, RateLimits]) -> Iterator[str]:
    """Models of which more was asked within a minute than they may."""
    for model, row in found.items():
        for what, pace in (("requests", row.requests), ("tokens", row.tokens)):
            asked = max(pace.most or 0, pace.reserved or 0)
            if pace.limit is not None and asked > pace.limit:
                yield (
                    f"{model}: up to {asked:,} {what} within a minute, its limit is {pace.limit:,}"
                    f" ({'the scenario' if pace.source == 'scenario' else 'its headers'})"
                )
