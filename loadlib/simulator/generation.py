"""One answer under way: the engine says when a token is due, this writes it then."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from loadlib.engine import Load, RateLimiter, Sequence, Work, replica
from loadlib.simulator import wire
from loadlib.simulator.answers import Answer
from loadlib.simulator.connection import Connection
from loadlib.simulator.pacer import Pacer
from loadlib.simulator.profiles import ModelProfile
from loadlib.simulator.prometheus import Meter
from loadlib.simulator.spoiled import Spoiled

BURST = 256  # pieces written in one go before other streams get their turn
MAX_BACKLOG_BYTES = 512 * 1024  # a client that does not read is not written to
RETRY_NS = 5_000_000

Outlet = Connection | Spoiled
"""Where an answer is written; what goes wrong behind it is no matter of the answer's."""


class Served:
    """One model in service: its engine, its limits, its counters, and who waits for a token.

    A `pacer.Job` as long as somebody waits: it wakes with the engine's next event, and tells
    those who have got their instants. Everybody else asks the engine when their token is due.
    """

    def __init__(self, profile: ModelProfile) -> None:
        self.profile = profile
        self.engine = replica(profile.speed)
        self.limiter = RateLimiter(profile.limits)
        self.meter = Meter(self._load)
        self.now_ns = -1  # the instant up to which the engine has been advanced
        self._waiting: dict[Sequence, Generation] = {}
        self._pacer: Pacer | None = None
        self._wake_ns: int | None = None  # the instant of our job in the pacer

    def enter(self, work: Work, arrival_ns: int, pacer: Pacer) -> Sequence:
        """Hand work to the engine. Raises `ValueError` for what it could never complete."""
        self._pacer = pacer
        sequence = self.engine.submit(work, arrival_ns)
        self._announce()
        return sequence

    def wait(self, sequence: Sequence, generation: Generation) -> None:
        """Have `generation.admitted` called when the next token of `sequence` has an instant."""
        self._waiting[sequence] = generation
        self._arm()

    def advance(self, now_ns: int) -> None:
        """Let the engine do what is due, and tell who waits for it."""
        self.now_ns = now_ns
        self.engine.advance(now_ns)
        self._announce()

    def leave(self, sequence: Sequence, now_ns: int) -> None:
        """The answer is complete, or nobody wants it any more."""
        self._waiting.pop(sequence, None)
        self.engine.cancel(sequence, now_ns)
        self._announce()
        self._arm()

    def fire(self, now_ns: int) -> None:
        """An event of the engine is due; see `pacer.Job`."""
        if self._wake_ns is not None and self._wake_ns <= now_ns:
            self.advance(now_ns)

    def ready(self, now_ns: int) -> int | None:
        """The engine's next event; see `pacer.Job`."""
        if self._wake_ns is None or self._wake_ns > now_ns:
            return None  # another wake-up has been asked for since
        self._wake_ns = self.engine.next_ns if self._waiting else None
        return self._wake_ns

    def _announce(self) -> None:
        engine = self.engine
        if engine.begun:
            begun = engine.begun[:]
            engine.begun.clear()
            for sequence in begun:
                generation = self._waiting.pop(sequence, None)
                if generation is not None:
                    generation.admitted()
        engine.ended.clear()

    def _arm(self) -> None:
        next_ns = self.engine.next_ns if self._waiting else None
        if next_ns is None or self._pacer is None:
            return
        if self._wake_ns is None or next_ns < self._wake_ns:
            self._wake_ns = next_ns
            self._pacer.at(next_ns, self)

    def _load(self) -> Load:
        self.advance(time.monotonic_ns())
        return self.engine.load


@dataclass(frozen=True, slots=True)
class Order:
    """Everything known about an answer before its first token."""

    identity: wire.Identity
    answer: Answer
    work: Work
    arrival_ns: int
    headers: Mapping[str, str]
    streamed: bool
    include_usage: bool


class Generation:
    """A `pacer.Job` that writes one answer to one connection."""

    def __init__(self, order: Order, connection: Outlet, served: Served, pacer: Pacer) -> None:
        self._order, self._connection = order, connection
        self._served, self._pacer = served, pacer
        self._events = wire.Events(
            order.identity,
            order.answer,
            include_usage=order.include_usage,
            chunked=connection.chunked,
        )
        self._total = len(order.answer.pieces)
        self._written = 0
        self._first_ns = 0
        self._next_piece = b""  # the next token as it goes over the wire, where it is not the last
        self._over = False
        self._sequence = served.enter(order.work, order.arrival_ns, pacer)
        connection.on_gone = self._gone
        if order.streamed:
            head = connection.start_stream(wire.EVENT_STREAM, order.headers)
            connection.write(head + self._events.opening())
        self.admitted()

    def admitted(self) -> None:
        """Be there when the next token is due, or when the engine can tell when that is."""
        due_ns = None if self._over else self._next_ns()
        if due_ns is not None:
            self._pacer.at(due_ns, self)

    def fire(self, now_ns: int) -> None:
        """Write all that is due; see `pacer.Job`."""
        if self._over or self._connection.backlog > MAX_BACKLOG_BYTES:
            return
        served, start = self._served, self._written
        if served.now_ns != now_ns:
            served.advance(now_ns)
        due = served.engine.tokens_due(self._sequence, now_ns)
        piece, self._next_piece = self._next_piece, b""
        if due == start + 1 and piece:
            self._connection.write(piece)
            self._count(due, now_ns)
            return
        ready = min(due, start + BURST)
        if ready <= start:
            return
        data = self._events.tokens(start, ready) if self._order.streamed else b""
        self._count(ready, now_ns)
        if ready == self._total:
            self._complete(data, now_ns)
        else:
            self._connection.write(data)

    def ready(self, now_ns: int) -> int | None:
        """Have the bytes of the next token at hand; see `pacer.Job`."""
        if self._over:
            return None
        if self._connection.backlog > MAX_BACKLOG_BYTES:
            return now_ns + RETRY_NS
        due_ns = self._next_ns()
        start = self._written
        ahead = due_ns is None or due_ns > now_ns
        more = ahead and self._order.streamed and start + 1 < self._total
        self._next_piece = self._events.tokens(start, start + 1) if more else b""
        return due_ns

    # --- instants ----------------------------------------------------------------------------

    def _next_ns(self) -> int | None:
        """When there is something to write next; None: the engine will tell."""
        index = self._written if self._order.streamed else self._total - 1
        due_ns = self._served.engine.token_ns(self._sequence, index)
        if due_ns is None:
            self._served.wait(self._sequence, self)
        return due_ns

    # --- writing -----------------------------------------------------------------------------

    def _count(self, upto: int, now_ns: int) -> None:
        """Enter the tokens up to `upto` in the books."""
        meter, order, start = self._served.meter, self._order, self._written
        if start == 0:
            self._first_ns = now_ns
            meter.prompt_tokens += order.work.prompt_tokens
            meter.ttft.observe(now_ns - order.arrival_ns)
        meter.generation_tokens += upto - start
        self._written = upto

    def _complete(self, data: bytes, now_ns: int) -> None:
        """The last token: whatever belongs behind it, and the books."""
        order, meter = self._order, self._served.meter
        reasoning, cached = order.answer.reasoning, self._sequence.cached
        counts = wire.usage(order.work.prompt_tokens, self._total, reasoning, cached)
        finish = order.answer.finish
        meter.e2e.observe(now_ns - order.arrival_ns)
        if self._total > 1:
            meter.tpot.observe((now_ns - self._first_ns) // (self._total - 1))
        self._leave("length" if finish == "length" else "stop", now_ns)
        if order.streamed:
            self._connection.write(data + self._events.closing(finish, counts))
            self._connection.finish()
        else:
            self._respond(finish, counts)

    def _respond(self, finish: str, counts: Mapping[str, object]) -> None:
        order = self._order
        body = wire.completion(order.identity, order.answer, finish, counts)
        self._connection.respond(200, body, headers=order.headers)

    # --- the end -----------------------------------------------------------------------------

    def _gone(self) -> None:
        self._leave("abort", time.monotonic_ns())

    def _leave(self, reason: str, now_ns: int) -> None:
        if self._over:
            return
        self._over = True
        self._served.meter.finished[reason] += 1
        self._served.leave(self._sequence, now_ns)
