"""A serving engine as a discrete-event model: when each token of each request is due.

Pure: no clock, no I/O, no randomness. Instants are integer nanoseconds on any one clock, handed
in by the caller, so the simulator runs the model in real time and planning in virtual time.

The first, small engine. Requests wait in one queue (first come, first served) for one of
`max_running` places; an admitted request waits for one of `prefill_lanes` lanes, in the same
order; then its tokens come at a steady pace of its own:

    admitted(r)  a_r = max(arrival_r, the instant a place became free)                       [ns]
    prefill from s_r = max(a_r, the instant the earliest lane became free)                   [ns]
    prefill to   d_r = s_r + 1e9 · prompt_tokens_r / prefill_tok_s                           [ns]
    first token  f_r = d_r + delay_factor_r · first_token_delay_ns                           [ns]
    token i ≥ 0  t_r(i) = f_r + i · g_r,   g_r = 1e9 · pace_factor_r / output_tok_s          [ns]

A place is given back when the caller says so: at `t_r(output_tokens − 1)`, or earlier if the
client has gone. Nothing is ever computed step by step, so a request costs O(log lanes).

Without `max_running` and `prefill_lanes` requests do not see each other, and time to first
token is exactly `first_token_delay + prompt_tokens / prefill_tok_s`: the truth that tests
compare measurements with. What the model leaves out: batches slowing one another down, KV-cache
capacity, prefix caching, rate limits; and prefill under way is not undone when its client goes.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass

NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast one model is served. Infinite rates and `None` limits mean: no limit.

    `prefill_tok_s` is the rate of *one* lane, in prompt tokens per second; `output_tok_s` is the
    rate of one sequence, in generated tokens per second. Raises `ValueError` where a number makes
    no sense.
    """

    first_token_delay_ns: int = 0
    prefill_tok_s: float = math.inf
    output_tok_s: float = math.inf
    prefill_lanes: int | None = None
    max_running: int | None = None

    def __post_init__(self) -> None:
        if self.first_token_delay_ns < 0:
            raise ValueError("first_token_delay_ns must not be negative")
        for name in ("prefill_tok_s", "output_tok_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be greater than zero")
        for name in ("prefill_lanes", "max_running"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise ValueError(f"{name} must be at least 1")


@dataclass(frozen=True, slots=True)
class Work:
    """What one request asks of the engine.

    The two factors are the request's own luck (1.0: none), drawn by the caller so that the
    engine stays a function: `delay_factor` stretches the first-token delay, `pace_factor` the
    gap between tokens.
    """

    prompt_tokens: int
    output_tokens: int
    delay_factor: float = 1.0
    pace_factor: float = 1.0


@dataclass(slots=True, eq=False)
class Sequence:
    """A request inside the engine. `first_ns` is None as long as it waits for a place."""

    work: Work
    arrival_ns: int
    admitted_ns: int | None = None
    first_ns: int | None = None
    gap_ns: float = 0.0
    released: bool = False

    def token_ns(self, index: int) -> int:
        """The instant token `index` (from 0) is due. Raises `ValueError` before admission."""
        if self.first_ns is None:
            raise ValueError("a sequence that still waits for a place has no instants")
        return self.first_ns + round(index * self.gap_ns)

    @property
    def end_ns(self) -> int:
        """The instant the last token is due. Raises `ValueError` before admission."""
        return self.token_ns(max(0, self.work.output_tokens - 1))

    def tokens_due(self, now_ns: int) -> int:
        """How many tokens are due by `now_ns`, that instant included."""
        total = self.work.output_tokens
        if self.first_ns is None or now_ns < self.first_ns:
            return 0
        if self.gap_ns <= 0:
            return total
        count = min(total, int((now_ns - self.first_ns) / self.gap_ns) + 1)
        # Division and `token_ns` may round differently; `token_ns` is the definition.
        while count < total and self.token_ns(count) <= now_ns:
            count += 1
        while self.token_ns(count - 1) > now_ns:
            count -= 1
        return count


class Engine:
    """One serving engine: a queue in front of places, lanes and a token rate."""

    def __init__(self, speed: Speed) -> None:
        self.speed = speed
        self.running = 0
        self._waiting: deque[Sequence] = deque()
        self._lanes = [0] * (speed.prefill_lanes or 0)  # heap of the instants they become free

    @property
    def waiting(self) -> int:
        """Requests that have no place yet."""
        return len(self._waiting)

    def submit(self, work: Work, now_ns: int) -> Sequence:
        """Take a request that arrived at `now_ns`; its instants are known once it is admitted."""
        sequence = Sequence(work, now_ns)
        limit = self.speed.max_running
        if limit is not None and self.running >= limit:
            self._waiting.append(sequence)
        else:
            self._admit(sequence, now_ns)
        return sequence

    def release(self, sequence: Sequence, now_ns: int) -> Sequence | None:
        """Give back what `sequence` holds: it is complete at `now_ns`, or its client has gone.

        Returns the sequence that got its place, if one was waiting. Releasing twice does nothing.
        """
        if sequence.released:
            return None
        sequence.released = True
        if sequence.admitted_ns is None:
            self._waiting.remove(sequence)
            return None
        self.running -= 1
        if not self._waiting:
            return None
        heir = self._waiting.popleft()
        self._admit(heir, max(heir.arrival_ns, now_ns))
        return heir

    def _admit(self, sequence: Sequence, now_ns: int) -> None:
        speed, work = self.speed, sequence.work
        prefill_ns = round(NS_PER_S * work.prompt_tokens / speed.prefill_tok_s)
        if self._lanes:
            start_ns = max(now_ns, self._lanes[0])
            heapq.heapreplace(self._lanes, start_ns + prefill_ns)
        else:
            start_ns = now_ns
        self.running += 1
        sequence.admitted_ns = now_ns
        delay_ns = round(work.delay_factor * speed.first_token_delay_ns)
        sequence.first_ns = start_ns + prefill_ns + delay_ns
        sequence.gap_ns = NS_PER_S * work.pace_factor / speed.output_tok_s
