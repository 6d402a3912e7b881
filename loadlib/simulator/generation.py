"""One answer under way: the engine says when a token is due, this writes it then."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from loadlib.engine import Engine, Sequence, Work
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
    """One model in service: its engine, its counters, and who waits for a place."""

    def __init__(self, profile: ModelProfile) -> None:
        self.profile = profile
        self.engine = Engine(profile.speed)
        self.meter = Meter(lambda: (self.engine.running, self.engine.waiting))
        self._waiting: dict[Sequence, Generation] = {}

    def enter(self, generation: Generation, work: Work, arrival_ns: int) -> Sequence:
        """Hand work to the engine; `generation.admitted` is called once it has a place."""
        sequence = self.engine.submit(work, arrival_ns)
        if sequence.admitted_ns is None:
            self._waiting[sequence] = generation
        return sequence

    def leave(self, sequence: Sequence, now_ns: int) -> None:
        """Free what `sequence` held, and start whoever waited for it."""
        self._waiting.pop(sequence, None)
        heir = self.engine.release(sequence, now_ns)
        if heir is not None:
            self._waiting.pop(heir).admitted()


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
        self._over = False
        self._sequence = served.enter(self, order.work, order.arrival_ns)
        connection.on_gone = self._gone
        if order.streamed:
            head = connection.start_stream(wire.EVENT_STREAM, order.headers)
            connection.write(head + self._events.opening())
        if self._sequence.admitted_ns is not None:
            self.admitted()

    def admitted(self) -> None:
        """The engine has a place: the instants are known."""
        if not self._over:
            self._pacer.at(self._due_ns(0), self)

    def fire(self, now_ns: int) -> int | None:
        """Write all that is due; see `pacer.Job`."""
        if self._over:
            return None
        if self._connection.backlog > MAX_BACKLOG_BYTES:
            return now_ns + RETRY_NS
        ready = min(self._due(now_ns), self._written + BURST)
        data = self._advance(ready, now_ns)
        if self._written == self._total:
            self._complete(data, now_ns)
            return None
        if data:
            self._connection.write(data)
        return self._due_ns(self._written if self._order.streamed else self._total - 1)

    # --- instants ----------------------------------------------------------------------------

    def _due_ns(self, index: int) -> int:
        return self._sequence.token_ns(index)

    def _due(self, now_ns: int) -> int:
        return self._sequence.tokens_due(now_ns)

    # --- writing -----------------------------------------------------------------------------

    def _advance(self, upto: int, now_ns: int) -> bytes:
        """Count the tokens up to `upto`, and give their events."""
        start = self._written
        if upto <= start:
            return b""
        meter, order = self._served.meter, self._order
        if start == 0:
            self._first_ns = now_ns
            meter.prompt_tokens += order.work.prompt_tokens
            meter.ttft.observe(now_ns - order.arrival_ns)
        meter.generation_tokens += upto - start
        self._written = upto
        if not order.streamed:
            return b""
        return self._events.tokens(start, upto)

    def _complete(self, data: bytes, now_ns: int) -> None:
        """The last token: whatever belongs behind it, and the books."""
        order, meter = self._order, self._served.meter
        counts = wire.usage(order.work.prompt_tokens, self._total, order.answer.reasoning)
        finish = order.answer.finish
        meter.e2e.observe(now_ns - order.arrival_ns)
        if self._total > 1:
            meter.tpot.observe((now_ns - self._first_ns) // (self._total - 1))
        self._leave("length" if finish == "length" else "stop", self._due_ns(self._total - 1))
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
