"""Continuous batching step by step, as slow and as plain as can be: what `Batch` must equal.

Written from the rules in `loadlib/engine/batch.py`, without its shortcuts: every step is a turn
of one loop, every count is taken afresh from a list, and the instants are added up.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from loadlib.engine import Speed, Work

FS = 1_000_000


@dataclass
class Row:
    """One request: what was asked, and what came of it (instants in ns, rounded up)."""

    work: Work
    arrival_ns: int
    cancel_ns: int | None = None
    tokens: list[int] = field(default_factory=list)  # the instant of each
    admitted_ns: int | None = None
    computed: int = 0  # prompt (and lost) tokens that are in the KV cache
    cached: int = 0
    lost: int = 0  # tokens it must recompute, after a preemption
    gone: bool = False

    @property
    def target(self) -> int:
        return self.work.prompt_tokens + self.lost

    @property
    def decoding(self) -> bool:
        return self.computed >= self.target

    @property
    def context(self) -> int:
        """Tokens it holds when a step begins."""
        return self.work.prompt_tokens + len(self.tokens) if self.decoding else self.computed


class Reference:
    def __init__(self, speed: Speed, rows: list[Row]) -> None:
        assert speed.step is not None
        self.step, self.speed, self.rows = speed.step, speed, rows
        self.running: list[Row] = []
        self.waiting: list[Row] = []
        self.idle: list[int] = []  # block hashes, the next to go first
        self.preemptions = 0
        self.most_blocks = 0

    def ready_fs(self, row: Row) -> int:
        delay = round(self.speed.first_token_delay_ns * row.work.delay_factor)
        return (row.arrival_ns + delay) * FS

    def run(self) -> Reference:
        coming = [
            row
            for row in sorted(self.rows, key=self.ready_fs)
            if row.cancel_ns is None or row.cancel_ns * FS >= self.ready_fs(row)
        ]
        now = 0
        while coming or self.running or self.waiting:
            if not self.running and not self.waiting:
                now = max(now, self.ready_fs(coming[0]))
            while coming and self.ready_fs(coming[0]) <= now:
                self.waiting.append(coming.pop(0))
            self._cancel(now)
            chunks = self._schedule(now)
            if self.running:
                now += self._cost(chunks)
                self._end_of_step(chunks, now)
        return self

    # --- one step ----------------------------------------------------------------------------

    def _cancel(self, now: int) -> None:
        for row in [*self.running, *self.waiting]:
            if row.cancel_ns is not None and row.cancel_ns * FS < now:
                row.gone = True
                if row in self.running:
                    self._leave(row, keep=row.decoding)
                else:
                    self.waiting.remove(row)

    def _schedule(self, now: int) -> list[tuple[Row, int]]:
        self._evict()
        while self._blocks() > self._capacity():
            victim = self.running[-1]
            self._leave(victim, keep=victim.decoding)
            victim.lost, victim.computed = len(victim.tokens), 0
            self.waiting.insert(0, victim)
            self.preemptions += 1
        self._evict()
        chunks = [(row, 0) for row in self.running if row.decoding]
        budget = (self.step.token_budget or 10**12) - len(chunks)
        for row in self.running:
            if not row.decoding:
                take = min(budget, row.target - row.computed)
                chunks.append((row, take))
                budget -= take
        places = self.speed.max_running or 10**12
        while self.waiting and budget > 0 and len(self.running) < places:
            row = self.waiting[0]
            cached = self._hits(row)
            self.running.append(row)
            if self._blocks() > self._capacity():
                self.running.pop()
                break
            self.waiting.pop(0)
            row.computed = cached
            self.idle = [block for block in self.idle if block not in self._chain(row)]
            if row.admitted_ns is None:
                row.admitted_ns, row.cached = -(-now // FS), cached
            take = min(budget, row.target - cached)
            chunks.append((row, take))
            budget -= take
            self._evict()
        self.most_blocks = max(self.most_blocks, self._blocks())
        return chunks

    def _cost(self, chunks: list[tuple[Row, int]]) -> int:
        step = self.step
        return (
            round(step.base_ns * FS)
            + round(step.prefill_token_ns * FS) * sum(take for _, take in chunks)
            + round(step.sequence_ns * FS) * len(chunks)
            + round(step.context_token_ns * FS) * sum(row.context for row, _ in chunks)
        )

    def _end_of_step(self, chunks: list[tuple[Row, int]], now: int) -> None:
        for row, take in chunks:
            row.computed += take
            if row.decoding:
                row.tokens.append(-(-now // FS))
        ended = [row for row in self.running if len(row.tokens) >= max(1, row.work.output_tokens)]
        # The order in which blocks become idle: sequences by arrival, as the heap of ends has it.
        for row in ended:
            self._leave(row, keep=True)

    # --- blocks ------------------------------------------------------------------------------

    def _capacity(self) -> int:
        return self.step.kv_blocks or 10**12

    def _blocks(self) -> int:
        """Blocks in use in the coming step: private ones, and shared ones once."""
        size, total, shared = self.step.block_tokens, 0, set()
        for row in self.running:
            held = row.work.prompt_tokens + len(row.tokens) if row.decoding else row.target
            total += -(-held // size) - len(self._chain(row))
            shared.update(self._chain(row))
        return total + len(shared)

    def _chain(self, row: Row) -> tuple[int, ...]:
        return row.work.prefix if self.step.prefix_cache else ()

    def _hits(self, row: Row) -> int:
        size = self.step.block_tokens
        here = {*self.idle, *(b for other in self.running for b in self._chain(other))}
        count = 0
        for block in self._chain(row)[: (row.target - 1) // size]:
            if block not in here:
                break
            count += 1
        return count * size

    def _leave(self, row: Row, *, keep: bool) -> None:
        self.running.remove(row)
        held = {b for other in self.running for b in self._chain(other)}
        if keep:
            self.idle += [b for b in reversed(self._chain(row)) if b not in held]

    def _evict(self) -> None:
        space = self._capacity() - self._blocks()
        while self.idle and len(self.idle) > space:
            self.idle.pop(0)
