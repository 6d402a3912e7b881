"""A pace of one's own: sequences that do not slow each other down, in front of shared limits.

What a large hosted service looks like from outside: so many replicas behind one name that a
request feels its own luck, and the crowd only as a queue. Requests wait in one queue (first come,
first served) for one of `max_running` places; an admitted request waits for one of
`prefill_lanes` lanes, in the same order; then its tokens come at a steady pace:

    admitted(r)  a_r = max(arrival_r, the instant a place became free)                       [ns]
    prefill from s_r = max(a_r, the instant the earliest lane became free)                   [ns]
    prefill to   d_r = s_r + 1e9 · prompt_tokens_r / prefill_tok_s                           [ns]
    first token  f_r = d_r + delay_factor_r · first_token_delay_ns                           [ns]
    token i ≥ 0  t_r(i) = f_r + i · g_r,   g_r = 1e9 · pace_factor_r / output_tok_s          [ns]

A place is free again at the last token, or when the client has gone. Without `max_running` and
`prefill_lanes` requests do not see each other, and time to first token is exactly
`first_token_delay + prompt_tokens / prefill_tok_s`: the truth that tests compare measurements
with. Prefill under way is not undone when its client goes.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush, heapreplace

from loadlib.engine.words import (
    CANCELLED,
    FINISHED,
    NS_PER_S,
    RUNNING,
    WAITING,
    Load,
    Sequence,
    Speed,
    Work,
)


class Steady:
    """One engine without a batch. `begun` collects sequences that had to wait and now know their
    instants, `ended` those that are complete, in that order; the caller empties them.
    """

    def __init__(self, speed: Speed) -> None:
        self.begun: list[Sequence] = []
        self.ended: list[Sequence] = []
        self._speed = speed
        self._running = 0
        self._submitted = 0
        self._waiting: deque[Sequence] = deque()
        self._lanes = [0] * (speed.prefill_lanes or 0)  # heap of the instants they become free
        self._ends: list[tuple[int, int, Sequence]] = []  # heap; may hold ghosts

    def submit(self, work: Work, now_ns: int) -> Sequence:
        """Take a request that arrives at `now_ns`; its instants are known once it is admitted."""
        self.advance(now_ns)
        self._submitted = order = self._submitted + 1
        sequence = Sequence(work, now_ns, order, WAITING)
        limit = self._speed.max_running
        if limit is not None and self._running >= limit:
            self._waiting.append(sequence)
        else:
            self._admit(sequence, now_ns)
        return sequence

    def cancel(self, sequence: Sequence, now_ns: int) -> None:
        """The client has gone: its place is the next one's, at once."""
        self.advance(now_ns)
        state = sequence.state
        if state == WAITING:
            sequence.state = CANCELLED
            self._waiting.remove(sequence)
        elif state == RUNNING:
            sequence.done = self.tokens_due(sequence, now_ns)
            sequence.state = CANCELLED
            self._leave(now_ns)

    def advance(self, now_ns: int) -> None:
        """Do everything that happens up to `now_ns`, that instant included."""
        ends = self._ends
        while ends and ends[0][0] <= now_ns:
            end_ns, _, sequence = heappop(ends)
            if sequence.state == RUNNING:
                sequence.state = FINISHED
                sequence.done = sequence.work.output_tokens
                self.ended.append(sequence)
                self._leave(end_ns)

    @property
    def next_ns(self) -> int | None:
        """When a sequence is complete next if nobody comes or goes; None: none is there."""
        ends = self._ends
        while ends and ends[0][2].state != RUNNING:
            heappop(ends)
        return ends[0][0] if ends else None

    @property
    def load(self) -> Load:
        """Running and waiting, as of the last call."""
        return Load(running=self._running, waiting=len(self._waiting))

    def tokens_due(self, sequence: Sequence, now_ns: int) -> int:
        """How many tokens are due by `now_ns`, that instant included."""
        total, first_ns = sequence.work.output_tokens, sequence.first_ns
        if sequence.state == CANCELLED:
            return sequence.done
        if first_ns is None or now_ns < first_ns:
            return 0
        gap_ns = sequence.gap_ns
        if gap_ns <= 0:
            return total
        count = min(total, int((now_ns - first_ns) / gap_ns) + 1)
        # Division and `token_ns` may round differently; `token_ns` is the definition.
        while count < total and first_ns + round(count * gap_ns) <= now_ns:
            count += 1
        while first_ns + round((count - 1) * gap_ns) > now_ns:
            count -= 1
        return count

    def token_ns(self, sequence: Sequence, index: int) -> int | None:
        """The instant token `index` (from 0) is due; None before admission."""
        if sequence.first_ns is None:
            return None
        return sequence.first_ns + round(index * sequence.gap_ns)

    def _leave(self, now_ns: int) -> None:
        self._running -= 1
        if self._waiting:
            heir = self._waiting.popleft()
            self._admit(heir, now_ns)
            self.begun.append(heir)

    def _admit(self, sequence: Sequence, now_ns: int) -> None:
        speed, work = self._speed, sequence.work
        prefill_ns = round(NS_PER_S * work.prompt_tokens / speed.prefill_tok_s)
        if self._lanes:
            start_ns = max(now_ns, self._lanes[0])
            heapreplace(self._lanes, start_ns + prefill_ns)
        else:
            start_ns = now_ns
        self._running += 1
        sequence.state = RUNNING
        sequence.admitted_ns = now_ns
        delay_ns = round(work.delay_factor * speed.first_token_delay_ns)
        first_ns = start_ns + prefill_ns + delay_ns
        gap_ns = NS_PER_S * work.pace_factor / speed.output_tok_s
        last_ns = first_ns + round((sequence.output_tokens - 1) * gap_ns)
        sequence.first_ns, sequence.gap_ns, sequence.last_ns = first_ns, gap_ns, last_ns
        heappush(self._ends, (last_ns, sequence.order, sequence))
