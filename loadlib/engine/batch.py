"""Continuous batching: all sequences move together, one token each per step.

At the end of every step the next one is put together, the way vLLM's scheduler does it:

1. Each decoding sequence takes one token of the budget, and a KV block when its last one is full.
   Where blocks run out, the sequence that arrived last loses its place and its blocks, and goes
   back to the head of the queue; it will recompute its prompt and the tokens it had.
2. The prompt that did not fit into the last step goes on with what is left of the budget.
3. While budget and places last, the head of the queue is admitted if the blocks of its whole
   prompt are free (nobody overtakes it); blocks it shares with others need not be computed. Only
   the last one admitted can be left unfinished, so at most one prompt is in pieces at any time.

A prompt that is complete gives its first token at the end of the step. Between two events (a
prompt complete, a sequence complete, an arrival that can be admitted, blocks run out) the same
happens in every step, so time jumps over all of them at once (`loadlib.engine.segment`): a
request costs a few jumps, however many tokens it has.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush

from loadlib.engine.cache import PrefixCache
from loadlib.engine.segment import elapsed, steps_to_reach, steps_within
from loadlib.engine.words import (
    CANCELLED,
    COMING,
    FINISHED,
    FS_PER_NS,
    RUNNING,
    WAITING,
    Load,
    Sequence,
    Speed,
    Step,
    Work,
)

NEVER = 1 << 200  # later than any femtosecond
_NO_LIMIT = 1 << 60


class Batch:
    """One replica. `begun` collects sequences that have begun to decode (again, if they had been
    preempted), `ended` those that are complete, in that order; the caller empties them.
    """

    def __init__(self, speed: Speed, step: Step) -> None:
        self.begun: list[Sequence] = []
        self.ended: list[Sequence] = []
        self._delay_ns = speed.first_token_delay_ns
        self._base_fs = round(step.base_ns * FS_PER_NS)
        self._prefill_fs = round(step.prefill_token_ns * FS_PER_NS)
        self._sequence_fs = round(step.sequence_ns * FS_PER_NS)
        self._context_fs = round(step.context_token_ns * FS_PER_NS)
        self._budget = step.token_budget or _NO_LIMIT
        self._places = speed.max_running or _NO_LIMIT
        # The queue, and what has not got that far.
        self._queue: deque[Sequence] = deque()
        self._coming: list[tuple[int, int, Sequence]] = []
        self._submitted = 0
        # What runs: decoding sequences, those whose prompt the next step completes, and the one
        # whose prompt it does not.
        self._decoding = 0
        self._ends: list[tuple[int, int, Sequence]] = []  # heap by end_step; may hold ghosts
        self._fresh: list[Sequence] = []
        self._fresh_tokens = 0
        self._partial: Sequence | None = None
        self._chunk = 0
        self._leaving: list[Sequence] = []
        self._context = 0  # tokens held by all that run
        # The segment under way: `_k` steps from `_t` to `_end`, as `_step` was at `_t`.
        self._step = 0
        self._t = 0
        self._k = 0
        self._cost = 0
        self._slope = 0
        self._end = NEVER
        # The KV cache. `_phase[s mod size]`: decoding sequences that need a block in step s;
        # written out twice, so that any window of it is one slice.
        self._blocks = step.kv_blocks
        self._size = step.block_tokens
        self._free = step.kv_blocks or 0
        self._phase = [0] * (2 * step.block_tokens)
        self._order: list[Sequence] = []  # running, by arrival; may hold ghosts
        self._sharing = step.prefix_cache
        self._prefix = PrefixCache()
        self._idle = self._prefix.idle
        self._preemptions = self._queries = self._hits = 0

    # --- the interface -----------------------------------------------------------------------

    def submit(self, work: Work, now_ns: int) -> Sequence:
        """Take a request that arrives at `now_ns`; in the past, it joins as soon as it still can.

        Raises `ValueError` for one that could not be completed if it were alone.
        """
        if self._blocks is not None:
            self._check_fits(work)
        if self._end <= now_ns * FS_PER_NS or self._coming:
            self.advance(now_ns)
        self._submitted = order = self._submitted + 1
        if self._delay_ns:
            ready_ns = now_ns + round(self._delay_ns * work.delay_factor)
            sequence = Sequence(work, now_ns, order, COMING)
            heappush(self._coming, (ready_ns * FS_PER_NS, order, sequence))
        else:
            sequence = Sequence(work, now_ns, order, WAITING)
            self._enter(sequence, now_ns * FS_PER_NS)
        return sequence

    def cancel(self, sequence: Sequence, now_ns: int) -> None:
        """The client has gone: leave the queue at once, a running batch after its step."""
        self.advance(now_ns)
        state = sequence.state
        if state in (FINISHED, CANCELLED):
            return
        sequence.state = CANCELLED
        if state == WAITING:
            was_head = self._queue[0] is sequence
            self._queue.remove(sequence)
            if was_head and self._queue:
                self._cut(now_ns * FS_PER_NS + 1)  # the next one may fit where this one did not
        elif state == RUNNING:
            self._leaving.append(sequence)
            self._cut(now_ns * FS_PER_NS + 1)  # a step that begins now does not know yet

    def advance(self, now_ns: int) -> None:
        """Do everything that happens up to `now_ns`, that instant included."""
        until = now_ns * FS_PER_NS
        coming = self._coming
        while True:
            if coming and coming[0][0] <= until and coming[0][0] <= self._end:
                ready, _, sequence = heappop(coming)
                if sequence.state == COMING:
                    sequence.state = WAITING
                    self._enter(sequence, ready)
            elif self._end <= until:
                self._commit()
                self._plan()
            else:
                return

    @property
    def next_ns(self) -> int | None:
        """When something happens next if nobody comes or goes; None: nothing will."""
        end = min(self._end, self._coming[0][0]) if self._coming else self._end
        return None if end == NEVER else -(-end // FS_PER_NS)

    @property
    def load(self) -> Load:
        """Running, waiting and what was counted, as of the last call."""
        usage = None if self._blocks is None else 1 - self._free / self._blocks
        return Load(
            running=self._running(),
            waiting=len(self._queue),
            kv_usage=usage,
            preemptions=self._preemptions,
            prefix_queries=self._queries,
            prefix_hits=self._hits,
        )

    def tokens_due(self, sequence: Sequence, now_ns: int) -> int:
        """How many tokens are due by `now_ns`, to which the engine has been advanced."""
        if sequence.state == FINISHED:
            return sequence.work.output_tokens
        if sequence.end_step < 0:
            return sequence.done
        step, past = self._step, now_ns * FS_PER_NS - self._t
        if past > 0:  # then the segment takes time, or it would be over
            step += min(steps_within(past, self._cost, self._slope), self._k)
        return min(sequence.work.output_tokens, step - sequence.base_step)

    def token_ns(self, sequence: Sequence, index: int) -> int | None:
        """When token `index` (from 0) comes at the earliest, as far as can be told now.

        Exact if nobody comes or goes; None for a sequence that is not decoding, whose next token
        no step is planned for. For a token that is already out: some instant that has passed.
        """
        if sequence.state == FINISHED:
            return sequence.last_ns
        if sequence.end_step < 0:
            return None
        ahead = min(max(0, sequence.base_step + index + 1 - self._step), self._k)
        return -(-(self._t + elapsed(ahead, self._cost, self._slope)) // FS_PER_NS)

    # --- arrivals ----------------------------------------------------------------------------

    def _check_fits(self, work: Work) -> None:
        size, blocks = self._size, self._blocks or 0
        if -(-(work.prompt_tokens + max(1, work.output_tokens) - 1) // size) > blocks:
            raise ValueError(
                f"{work.prompt_tokens} + {work.output_tokens} tokens need more than the "
                f"{blocks} KV blocks of {size} tokens there are"
            )
        if work.prefix and len(work.prefix) > work.prompt_tokens // size:
            raise ValueError("prefix has more hashes than the prompt has full blocks")

    def _enter(self, sequence: Sequence, t: int) -> None:
        queue = self._queue
        queue.append(sequence)
        if len(queue) > 1:
            return  # whoever waits does so for an event that ends the segment anyway
        if self._end == NEVER:
            self._t = max(t, self._t)
            self._admit()
            self._shape()
        elif self._t == t:
            if self._partial is None:
                self._admit()
                self._shape()
        elif not self._fresh and self._partial is None and self._decoding < self._places:
            self._cut(t)

    def _cut(self, t: int) -> None:
        """End the segment with its first step that ends at `t` or later."""
        if self._k > 1:
            k = steps_to_reach(t - self._t, self._cost, self._slope)
            if k < self._k:
                self._k = k
                self._end = self._t + elapsed(k, self._cost, self._slope)

    # --- the next segment --------------------------------------------------------------------

    def _plan(self) -> None:
        """Put together the step that begins at `_t`, and see how long it stays the same."""
        if self._blocks is not None and self._phase[self._step % self._size] > self._free:
            self._make_room()
        partial = self._partial
        if partial is not None:
            room = self._budget - self._decoding
            if partial.left <= room:
                self._fresh.append(partial)
                self._fresh_tokens = partial.left
                self._partial = None
            else:
                self._chunk = room
        if self._queue and self._partial is None:
            self._admit()
        self._shape()

    def _admit(self) -> None:
        """Take from the head of the queue what the step has room for."""
        queue, fresh, places = self._queue, self._fresh, self._places
        room = self._budget - self._decoding - self._fresh_tokens
        while queue and room > 0 and self._decoding + len(fresh) < places:
            sequence = queue[0]
            work = sequence.work
            tokens = left = work.prompt_tokens + sequence.done
            if self._blocks is not None:
                cached = self._reserve(sequence, tokens)
                if cached is None:
                    return
                left -= cached
                self._context += cached
            queue.popleft()
            sequence.state = RUNNING
            if sequence.admitted_ns is None:
                sequence.admitted_ns = -(-self._t // FS_PER_NS)
            sequence.left = left
            if left > room:
                self._partial = sequence
                self._chunk = room
                return
            fresh.append(sequence)
            self._fresh_tokens += left
            room -= left

    def _shape(self) -> None:
        """The segment from `_t` on: its steps, their cost, its end."""
        decoding, fresh, partial = self._decoding, self._fresh, self._partial
        members, prefill, growth = decoding, 0, decoding
        if partial is not None:
            members += 1
            prefill = self._chunk
            growth += prefill
        if fresh:
            members += len(fresh)
            prefill += self._fresh_tokens
            k = 1
        elif self._leaving:
            k = 1
        elif decoding:
            k = self._steps_to_an_end()
            if partial is not None:
                k = min(k, (partial.left - 1) // prefill)
            if k > 1 and self._blocks is not None:
                k = self._steps_with_blocks(k)
        elif partial is not None:
            k = (partial.left - 1) // prefill
        else:
            self._end = NEVER
            self._k = self._cost = self._slope = 0
            return
        self._k = k
        self._cost = cost = (
            self._base_fs
            + self._prefill_fs * prefill
            + self._sequence_fs * members
            + self._context_fs * self._context
        )
        self._slope = slope = self._context_fs * growth
        self._end = self._t + k * cost + slope * (k * (k - 1) // 2)

    def _steps_to_an_end(self) -> int:
        ends = self._ends
        while ends[0][2].end_step != ends[0][0]:
            heappop(ends)
        return ends[0][0] - self._step

    def _steps_with_blocks(self, k: int) -> int:
        """At most `k` steps, fewer if the free blocks do not last that long."""
        decoding, size, free = self._decoding, self._size, self._free
        if decoding * (k // size + 1) <= free:
            return k
        rounds = free // decoding
        free -= rounds * decoding
        steps = rounds * size
        at = self._step % size
        while steps < k and self._phase[at] <= free:
            free -= self._phase[at]
            steps += 1
            at = (at + 1) % size
        return min(k, steps)

    # --- the end of a segment ----------------------------------------------------------------

    def _commit(self) -> None:
        """The steps of the segment are done: hand out their tokens, move to its end."""
        k, before = self._k, self._step
        self._t = self._end
        self._step = step = before + k
        context = self._context + k * self._decoding
        if self._blocks is not None and self._decoding:
            size = self._size
            at = before % size
            used = self._decoding * (k // size) + sum(self._phase[at : at + k % size])
            self._free -= used
            if self._idle:
                self._prefix.fit(self._free)
        if self._partial is not None:
            self._partial.left -= k * self._chunk
            context += k * self._chunk
        if self._fresh:
            self._context = context + self._fresh_tokens + len(self._fresh)
            self._begin()
        else:
            self._context = context
        if self._leaving:
            for sequence in self._leaving:
                self._remove(sequence)
            self._leaving.clear()
        ends = self._ends
        if ends and ends[0][0] <= step:
            self._finish()
        if self._idle:
            # The next step's own blocks come first, before anybody looks for hits.
            self._prefix.fit(max(0, self._free - self._phase[step % self._size]))

    def _begin(self) -> None:
        """The prompts of `_fresh` are computed: one token each, and decoding from here on."""
        now_ns = -(-self._t // FS_PER_NS)
        step, ends = self._step, self._ends
        for sequence in self._fresh:
            if sequence.first_ns is None:
                sequence.first_ns = now_ns
            self.begun.append(sequence)
            sequence.base_step = base = step - sequence.done - 1
            sequence.end_step = end = base + sequence.output_tokens
            heappush(ends, (end, sequence.order, sequence))
            if self._blocks is not None:
                self._mark(sequence, 1)
        self._decoding += len(self._fresh)
        self._fresh.clear()
        self._fresh_tokens = 0

    def _finish(self) -> None:
        now_ns = -(-self._t // FS_PER_NS)
        step, ends = self._step, self._ends
        while ends and ends[0][0] <= step:
            end, _, sequence = heappop(ends)
            if sequence.end_step != end:
                continue
            sequence.end_step = -1
            sequence.state = FINISHED
            sequence.done = sequence.output_tokens
            sequence.last_ns = now_ns
            self._decoding -= 1
            self._context -= sequence.work.prompt_tokens + sequence.output_tokens
            if self._blocks is not None:
                self._mark(sequence, -1)
                self._give_back(sequence, computed=True)
            self.ended.append(sequence)

    def _remove(self, sequence: Sequence) -> None:
        """Take a running sequence out of the batch, its tokens so far noted in `done`."""
        held = sequence.work.prompt_tokens
        decoding = sequence.end_step >= 0
        if decoding:
            sequence.end_step = -1
            sequence.done = self._step - sequence.base_step
            self._decoding -= 1
            held += sequence.done
            if self._blocks is not None:
                self._mark(sequence, -1)
        else:
            self._partial = None
            held += sequence.done - sequence.left
        self._context -= held
        if self._blocks is not None:
            self._give_back(sequence, computed=decoding)

    # --- KV blocks ---------------------------------------------------------------------------

    def _reserve(self, sequence: Sequence, tokens: int) -> int | None:
        """Take the blocks of `tokens` tokens. Tokens found in the cache; None: no room."""
        size, prefix = self._size, self._prefix
        blocks = need = -(-tokens // size)
        chain = sequence.work.prefix
        if self._sharing and chain:
            need += prefix.needs(chain) - len(chain)
        free = self._free - self._phase[self._step % size]  # the batch's own step comes first
        if need > free:
            return None
        cached = 0
        if self._sharing:
            if chain:
                cached = size * prefix.hits(chain, (tokens - 1) // size)
                prefix.hold(chain)
            self._queries += tokens
            self._hits += cached
            if self._idle:
                prefix.fit(free - need)
        if sequence.admitted_ns is None:
            sequence.cached = cached
        self._free -= need
        sequence.blocks = blocks
        if len(self._order) > 64 + 2 * (self._decoding + len(self._fresh)):
            self._order = [s for s in self._order if s.state == RUNNING]
        self._order.append(sequence)
        return cached

    def _give_back(self, sequence: Sequence, *, computed: bool) -> None:
        """Free the blocks of a sequence that has just left."""
        blocks = sequence.blocks
        if computed:  # it was decoding: its last token is not in the cache, all others are
            blocks = -(-(sequence.work.prompt_tokens + sequence.done - 1) // self._size)
        chain = sequence.work.prefix
        if self._sharing and chain:
            blocks += self._prefix.release(chain, computed=computed) - len(chain)
        self._free += blocks

    def _mark(self, sequence: Sequence, by: int) -> None:
        """Enter in `_phase`, or strike out, when a decoding sequence needs blocks.

        In step s it holds prompt + s − base_step tokens; a block is due when that is one more
        than a whole number of blocks.
        """
        slot = (sequence.base_step + 1 - sequence.work.prompt_tokens) % self._size
        self._phase[slot] += by
        self._phase[slot + self._size] += by

    def _make_room(self) -> None:
        """Preempt until the blocks that the next step needs are free."""
        at = self._step % self._size
        while self._phase[at] > self._free:
            self._preempt()
        self._prefix.fit(self._free - self._phase[at])

    def _preempt(self) -> None:
        """Send the running sequence that arrived last back to the head of the queue."""
        while (sequence := self._order.pop()).state != RUNNING:
            pass
        self._remove(sequence)
        sequence.state = WAITING
        self._queue.appendleft(sequence)
        self._preemptions += 1

    def _running(self) -> int:
        return self._decoding + len(self._fresh) + (self._partial is not None)
