"""One load-generating process: its client, its recorder, its arrivals, and its own health.

Users ask it for work (`begin`, `send`); once a second it hands what was recorded to the
coordinator, in the same form whether that sits in this process or behind ZeroMQ.
"""

from __future__ import annotations

import gc
import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gevent
import msgspec
import numpy as np
from gevent.event import Event

from loadlib import instrument, reserve
from loadlib.answer import Answer
from loadlib.client import Begin, Call, Client, Prepared, Sdk
from loadlib.guard import Breakers, Spending
from loadlib.lastword import Course, LastWord, moved
from loadlib.prompt import Prompt
from loadlib.quality import Flaw
from loadlib.recorder import Recorder, merged_reads
from loadlib.redact import redact
from loadlib.sample import Outcome, Sample
from loadlib.schedule import Shard
from loadlib.session import Plan, Session
from loadlib.swarm.dispatch import Arrival, Closed, Dispatcher
from loadlib.swarm.limits import deadlines
from loadlib.swarm.onward import Onward
from loadlib.swarm.outbox import Outbox, Send
from loadlib.swarm.tell import tell
from loadlib.swarm.watch import watch
from loadlib.swarm.yielding import Turns, look

log = logging.getLogger(__name__)

DRAIN_EVERY_S = 1.0
# Full collections five times as seldom as by default: each walks through what 400 streams hold,
# which takes 5 ms. Young ones, 0.1 ms each, find nearly all there is to find.
GC_THRESHOLDS = (700, 10, 50)
CUT_S = 2.0  # so long may requests take to be cut off
NUMBERS = 1 << 32  # so many requests of one process have numbers of their own
FREE_PHASE = "measure"  # the one phase of a run whose load Locust decides
MEET_AGAIN_S = 2.0  # a worker that waits for the others says so this often
_Request = tuple[str, str, int, int]


class Ticket:
    """One request that may be sent now, and what must be settled when it is over."""

    __slots__ = ("arrival", "call", "held", "hold", "prompt", "reserved", "sender")

    def __init__(
        self, call: Call, arrival: Arrival | None, prompt: Prompt | None, *, hold: bool
    ) -> None:
        self.call, self.arrival, self.prompt, self.hold = call, arrival, prompt, hold
        self.sender = gevent.getcurrent()
        self.reserved: int | None = None
        self.held: tuple[Sample, Answer] | None = None


class Worker:
    """Lives from Start to Stop. `send` carries messages to the coordinator, `outbox` reports.

    `offset_ns` is Unix epoch − monotonic clock; `alone` says that no coordinator can be heard.
    """

    def __init__(
        self,
        session: Session,
        plan: Plan,
        shard: Shard,
        environment: Any,
        send: Send,
        outbox: Outbox,
        *,
        offset_ns: int,
        alone: Callable[[], bool] = lambda: False,
    ) -> None:
        self.session, self._environment, self._send = session, environment, send
        self.outbox, self._alone = outbox, alone
        scenario = session.scenario
        self.offset_ns = offset_ns
        self.recorder = Recorder(self.offset_ns)
        self.client = Client(
            session.models,
            deadlines(scenario),
            self._deliver,
            mode=scenario.client,
            simulated=scenario.target == "simulator",
            pause=look,
        )
        self.dispatcher = (
            None
            if session.free
            else Dispatcher(
                plan,
                session.stages,
                shard,
                self.recorder,
                self.client.prepare,
                self._dropped,
                self._meet,
            )
        )
        self.plan, self._shard = plan, shard
        self._spending = Spending(**session.budget_share(shard))
        self._breakers = Breakers()
        self._onward = (
            None
            if self.dispatcher is None
            else Onward(self.dispatcher, self.client.prepare, scenario.backoff)
        )
        self._open_phases = frozenset(
            phase.title
            for phase in scenario.load
            if phase.kind == "measure" and not phase.closed and not session.free
        )
        self._tickets: dict[Call, Ticket] = {}
        self._refused: dict[_Request, Outcome] = {}  # while they wait to be tried again
        # Without a schedule to divide: a range of numbers each, which no later worker shares.
        self._numbers = itertools.count(shard.index * NUMBERS)
        self._ordinals: dict[tuple[str, str], itertools.count[int]] = {}
        self._course = Course()
        self._left = False  # its own process was told to end, not the run
        self._signal: int | None = None  # what stopped the run …
        self._aborted: str | None = None  # … as far as is known here
        self._live: dict[str, Sdk] = {}
        self._stopping = Event()
        self._warm = Event()  # requests may begin, or never will
        self._stage = 0  # that may begin …
        self._staged = Event()  # … as the coordinator says
        self._greenlets: list[gevent.Greenlet[..., Any]] = []
        self.finished = Event()
        self._reported = Event()

    # -- the run -------------------------------------------------------------------------------

    def start(self) -> None:
        """Warm every code path, then begin: arrivals, reports and self-observation."""
        try:
            self.client.warm()
            # Vocabularies and paragraphs are loaded and counted on first use (0.4 s), pictures
            # drawn (2 s): beside the hub, so that the master goes on hearing of this process.
            gevent.get_hub().threadpool.apply(self._warm_workloads)
        except Exception as error:  # the others would wait for this one
            log.exception("cannot begin")
            self.abort(f"a process cannot begin: {error}")
        if self._stopping.is_set():
            return
        # What exists now lives as long as the process: a full collection that walks through all
        # modules stops the hub for 75 ms, without them for less than one.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        self.client.take_readings()  # what preflight read is not the run's
        if self.dispatcher is None:  # who joins after an Edit is in the row that it opened
            self.open_phase(self.session.scenario.load[-1].title)
        self._greenlets = [
            gevent.spawn(watch, self.recorder, self.finished),
            gevent.spawn(self._report),
        ]
        if self.dispatcher is not None:
            gevent.spawn(self._run).link_exception(  # or the master waits for a last word
                lambda run: self.abort(f"a process cannot go on: {run.exception}")
            )
        self._warm.set()

    def _warm_workloads(self) -> None:
        for model, workload in self.session.scenario.groups:
            if workload in self.plan.workloads and self.session.serves(model, workload):
                self.plan.workloads[workload].prompt(self.session.models[model], 0)

    def _run(self) -> None:
        assert self.dispatcher is not None
        self.dispatcher.run()
        self.finish()

    def _meet(self, stage: int) -> None:
        """Wait until every process is ready for a stage of the schedule, or nobody says so."""
        while self._stage < stage + 1 and not self._stopping.is_set() and not self._alone():
            self._send("loadlib_ready", {"stage": stage})
            if self._stage < stage + 1:
                self._staged.wait(MEET_AGAIN_S)

    def open_stage(self, stage: int) -> None:
        """Everyone is ready for this stage."""
        self._stage = max(self._stage, stage + 1)
        self._staged.set()
        self._staged.clear()

    def open_phase(self, title: str) -> None:
        """Without a scenario: what begins from now on belongs to this row."""
        self._course.open(title, time.monotonic_ns())

    def leave(self, grace_s: float) -> None:
        """Like `stop`, when only this process ends: the run goes on without its share."""
        self._left = self._left or not self._stopping.is_set()
        self.stop(grace_s)

    def stop(
        self, grace_s: float, *, signal: int | None = None, aborted: str | None = None
    ) -> None:
        """No new requests; those in flight get `grace_s` to finish; then `finish`.

        `signal` or `aborted` is what stopped the whole run, for whoever has only our record.
        """
        self._signal, self._aborted = self._signal or signal, self._aborted or aborted
        self._stopping.set()
        self._staged.set()
        self._warm.set()
        if self.dispatcher is not None:
            self.dispatcher.stop()
        deadline = time.monotonic() + grace_s
        while self._tickets_in_flight() and time.monotonic() < deadline:
            gevent.sleep(0.02)
        self.finish()

    def finish(self) -> None:
        """Account for everything that is still open, report it, and say that this was all."""
        if self.finished.is_set():
            self._reported.wait()  # whoever ends the process next must not be faster
            return
        self.finished.set()
        try:
            self._settle()
            self.outbox.last_word(self._last_word())
        finally:
            self._reported.set()
        self.client.close()

    def _settle(self) -> None:
        # What was sent and is not over is cut off here, so that its tape tells what came of it.
        here = gevent.getcurrent()
        senders = {t.sender for t in self._tickets.values() if t.held is None} - {here}
        gevent.killall([one for one in senders if isinstance(one, gevent.Greenlet)], timeout=CUT_S)
        for ticket in list(self._tickets.values()):
            if ticket.held is not None:
                self.commit(ticket)
            else:
                self._never_ended(ticket)
        if self.dispatcher is not None:
            for arrival in list(self.dispatcher.outstanding):
                self._dropped(arrival.call, "stopped")
                self.dispatcher.finish(arrival)
        # Joined, not killed: an interval that is being encoded must not be lost.
        gevent.joinall(self._greenlets)
        self._drain()

    def _never_ended(self, ticket: Ticket) -> None:
        """A request whose greenlet will not come back in time is cancelled, not forgotten."""
        call = ticket.call
        now_ns = time.monotonic_ns()
        self._finish_ticket(
            ticket,
            Sample(
                index=call.index, phase=call.phase, model=call.model, workload=call.workload,
                intended_ns=call.intended_ns, sent_ns=None, end_ns=now_ns,
                outcome=Outcome.CANCELLED, cause="cancelled", error="the run ended first",
                attempt=call.attempt, turn=call.turn,
            ),
            Answer(),
        )  # fmt: skip

    def _last_word(self) -> LastWord:
        dispatcher = self.dispatcher
        free = self._course.spans(self.session.models, time.monotonic_ns())
        word = LastWord(
            seq=self.recorder.seq,
            requests=self.recorder.added,
            spans=free if dispatcher is None else tuple(dispatcher.spans),
            latest=self._course.latest,
            left=self._left,
            cut=dispatcher is not None and not dispatcher.whole,
            signal=self._signal,
            aborted=self._aborted,
        )
        return moved(word, self.offset_ns)

    # -- for users -----------------------------------------------------------------------------

    def take(self, user_class: str) -> Arrival | None:
        """The next arrival for a class of users, or None where Locust decides the load.

        Raises:
            Closed: no more requests may begin.
        """
        self._warm.wait()
        if self._stopping.is_set() or self.finished.is_set():
            raise Closed
        return self.dispatcher.take(user_class) if self.dispatcher is not None else None

    def give_back(self, arrival: Arrival) -> None:
        """An arrival whose user was stopped before it sent anything."""
        assert self.dispatcher is not None
        self._dropped(arrival.call, "stopped")
        self.dispatcher.finish(arrival)

    def begin(
        self,
        arrival: Arrival | None,
        model: str,
        workload: str,
        prompt: Prompt | None = None,
        *,
        hold: bool = False,
        written: int = 0,
    ) -> Ticket:
        """Permission to send one request now. With `hold` its sample waits for `commit`.

        `written` is the length of its body in bytes, where that is known.

        Raises:
            Closed: the budget is spent; the run is being stopped.
        """
        if arrival is None:
            now_ns = time.monotonic_ns()
            turn = 1 if prompt is None else prompt.turn
            row = self._course.phase or FREE_PHASE
            call = Call(next(self._numbers), row, model, workload, now_ns, turn=turn)
            self.recorder.scheduled((model, workload, call.phase), now_ns)
        else:
            call = arrival.call
            self._refused.pop(_request(call), None)
        if prompt is not None and prompt.name:
            call = replace(call, name=prompt.name)
        ticket = Ticket(call, arrival, prompt, hold=hold)
        most_usd, most_tokens = None, 0
        if prompt is not None:
            most_tokens = reserve.most_output(prompt)
            if self._spending.max_usd is not None:  # counting a task's own words takes time
                most_usd = reserve.most_usd(self.session.models[call.model], prompt, written)
        reserved = self._spending.reserve(most_usd, most_tokens)
        if isinstance(reserved, str):
            self._dropped(call, "budget")
            if arrival is not None and self.dispatcher is not None:
                self.dispatcher.finish(arrival)
            self.abort(reserved)
            raise Closed
        ticket.reserved = reserved
        self._tickets[call] = ticket
        if call.attempt == 1:
            self.recorder.began((call.model, call.workload, call.phase))
        return ticket

    def send(self, ticket: Ticket, prepared: Prepared) -> tuple[Sample, Answer]:
        """Send and wait."""
        return self.client.send(prepared, ticket.call)

    def next_prompt(self, model: str, workload: str) -> Prompt:
        """The next prompt of a workload, where no arrival brought one."""
        numbers = self._ordinals.setdefault(
            (model, workload), itertools.count(self._shard.index * NUMBERS)
        )
        return self.plan.workloads[workload].prompt(self.session.models[model], next(numbers))

    def live(self, model: str, begin: Begin) -> Sdk:
        """The SDK for users' own code: one a model, for it costs 25 ms. `begin` is kept."""
        if model not in self._live:
            self._live[model] = self.client.live(self.session.models[model], begin)
        return self._live[model]

    def let_go(self, call: Call) -> None:
        """A user's own code is done with this request."""
        if call in self._tickets:
            self.client.let_go(call)

    def commit(self, ticket: Ticket, failure: str | None = None) -> None:
        """A held sample becomes final; `failure` is the user's own verdict on the answer."""
        if ticket.held is None:
            return
        sample, answer = ticket.held
        self._finish_ticket(ticket, sample, answer, failure)

    # -- samples -------------------------------------------------------------------------------

    def _deliver(self, call: Call, sample: Sample, answer: Answer) -> None:
        """From the client: an attempt is over, its place is free."""
        ticket = self._tickets.get(call)
        if ticket is None:
            return  # warm-up of code paths
        ticket.held = (sample, answer)
        try:
            if ticket.arrival is not None and self._onward is not None:
                self._note_lag(ticket.arrival, sample)
                after = self._onward.after(ticket.arrival, ticket.prompt, sample, answer)
                ticket.held = (after, answer)
                if after.retried:
                    self._refused[_request(call)] = after.outcome
        finally:  # whatever its next turn is, an answer counts
            if not ticket.hold or sample.outcome is Outcome.CANCELLED:
                self.commit(ticket)

    def _finish_ticket(
        self, ticket: Ticket, sample: Sample, answer: Answer, failure: str | None = None
    ) -> None:
        self._tickets.pop(ticket.call, None)
        if ticket.arrival is not None and self.dispatcher is not None:
            self.dispatcher.finish(ticket.arrival)
        if failure is not None:
            failure = redact(failure, self.client.secrets)
            sample = msgspec.structs.replace(sample, quality=False, flaw=Flaw.WRONG, error=failure)
        first = sample.sent_ns is not None and sample.attempt == 1
        if first and self._is_closed(sample.phase):
            # Nothing but the answer before it said when: the intended start is the sending.
            sample = msgspec.structs.replace(sample, intended_ns=sample.sent_ns)
        if ticket.reserved is not None:
            self._spending.settle(ticket.reserved, sample)
        self._record(sample, answer)
        if not sample.retried:
            tell(self._environment, ticket.call, sample, answer, failure)
        reason = self._breakers.observe(sample)
        if reason is not None:
            self.abort(reason)

    def _note_lag(self, arrival: Arrival, sample: Sample) -> None:
        """How much too late it left through our own doing: waiting at the ceiling and connecting
        belong to the response time, and are no error of it."""
        if sample.sent_ns is None or sample.phase not in self._open_phases:
            return
        could_ns = max(arrival.due_ns, arrival.free_ns or 0)
        connecting_ns = (sample.connect_ns or 0) + (sample.tls_ns or 0)
        late_ns = sample.sent_ns - could_ns - connecting_ns
        note = instrument.lag_note(sample.model, sample.workload, sample.phase)
        self.recorder.note(note, max(0, late_ns) // 1000)

    def _is_closed(self, phase: str) -> bool:
        load = self.session.scenario.load
        return self.session.free or any(p.closed for p in load if p.title == phase)

    def _record(self, sample: Sample, answer: Answer) -> None:
        self._course.ended(sample.phase, sample.model, sample.intended_ns, sample.end_ns)
        try:
            self.recorder.add(sample, answer.event_ns)
            if answer.coalesced:
                self.recorder.mark("merged_reads", merged_reads(answer.event_ns))
        except Exception:  # noqa: BLE001 - a sample that cannot be recorded is counted, not lost
            self.recorder.mark("recorder_errors")

    def _dropped(self, call: Call, cause: str) -> None:
        # A request that was sent before is not dropped: either the run ends before it is sent
        # again, or it finds no place, and what it was told last stands.
        outcome, refused = Outcome.DROPPED, self._refused.pop(_request(call), None)
        if call.attempt > 1:
            outcome = refused if refused and cause == "ceiling" else Outcome.CANCELLED
        sample = Sample(
            index=call.index, phase=call.phase, model=call.model, workload=call.workload,
            intended_ns=call.intended_ns, end_ns=time.monotonic_ns(), cause=cause,
            outcome=outcome, attempt=call.attempt, turn=call.turn,
        )  # fmt: skip
        self.recorder.add(sample)
        if sample.outcome.failed:
            tell(self._environment, call, sample, Answer(), None)

    def abort(self, reason: str) -> None:
        """Ask the coordinator to stop the whole run."""
        if not self._stopping.is_set():
            self._stopping.set()
            self._aborted = reason
            self._send("loadlib_abort", {"reason": reason})

    def _tickets_in_flight(self) -> bool:
        return any(ticket.held is None for ticket in self._tickets.values())

    # -- reports -------------------------------------------------------------------------------

    def _report(self) -> None:
        while not self.finished.wait(DRAIN_EVERY_S):
            self._drain()

    def _note_reads(self) -> None:
        """How the tape was kept: health is judged by it."""
        seen, recorder = self.client.take_readings(), self.recorder
        recorder.note_all("reader_lag", np.frombuffer(seen.lags_ns, np.int64) // 1000)
        recorder.mark("reads", len(seen.lags_ns) + seen.user_clock_reads)
        recorder.mark("user_clock_reads", seen.user_clock_reads)
        recorder.mark("clock_steps", seen.clock_steps)

    def _drain(self) -> None:
        self._note_reads()
        interval = self.recorder.drain(time.monotonic_ns(), Turns().give)
        now = None if self.dispatcher is None else self.dispatcher.stage
        title, since_ns = self._course.phase or FREE_PHASE, self._course.since_ns
        if now is not None:
            title, since_ns = now.phase, now.start_ns
        models = self.session.models if now is None else now.models
        since_ns = None if since_ns is None else since_ns + self.offset_ns
        self.outbox.report(interval, {"phase": title, "models": [*models], "since_ns": since_ns})


def _request(call: Call) -> _Request:
    """What all attempts of a request have in common."""
    return call.phase, call.model, call.index, call.turn
