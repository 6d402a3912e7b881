"""Turns phases into arrivals and hands them to waiting users; one per worker process.

Prompts and their bodies are built ahead by a feed, so that nothing is built after a request's
clock has started. Open phases sleep to absolute instants; closed phases send when a user is
free. Users pull: they are the concurrency, the schedule is the rate.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import gevent
from gevent.event import Event

from loadlib.admission import Gate
from loadlib.client import Call, Prepared
from loadlib.lastword import Span
from loadlib.prompt import Prompt
from loadlib.recorder import Recorder
from loadlib.scenario import Phase
from loadlib.schedule import Shard, arrivals, mix, seed_for, share
from loadlib.session import ALL, Crew, Plan
from loadlib.swarm.alarm import Alarm, alarm
from loadlib.swarm.feed import Feed
from loadlib.swarm.later import Later
from loadlib.swarm.line import Line
from loadlib.swarm.spread import ceiling, part
from loadlib.workloads import Stream

LOOKAHEAD = 64  # prompts built ahead: at 128k tokens some 32 MB
CLOSED_LOOKAHEAD = 16
EXPIRE_EVERY_S = 0.1
START_AFTER_NS = 50_000_000  # the first instant lies ahead, not behind


class Closed(Exception):  # noqa: N818 - the end of the run, not an error
    """No more arrivals will come."""


@dataclass(slots=True, eq=False)
class Arrival:
    """One request that is due, and the place it takes."""

    call: Call
    prepared: Prepared | None  # None: the user's own code says what to send
    gate: Gate[Arrival]
    due_ns: int  # it waits to be sent since then; monotonic
    stage: _Stage
    free_ns: int | None = None  # it waited at the ceiling, until this instant

    @property
    def goes_on(self) -> bool:
        """Whether a further turn may follow its answer."""
        return self.prepared is not None and self.prepared.prompt.then is not None


@dataclass(frozen=True, slots=True)
class _Stage:
    """What of its phase an arrival must know. `end_ns`: no turn begins from then on."""

    phase: Phase
    end_ns: int | None


@dataclass(frozen=True, slots=True)
class _Item:
    due_ns: int  # from the start of the phase; unused in closed loops
    index: int
    model: str
    workload: str
    prepared: Prepared | None


class Dispatcher:
    """Runs the stages of a scenario for one shard.

    `drop` is told of every arrival not sent; `meet` waits for the other processes before a stage.
    """

    def __init__(
        self,
        plan: Plan,
        stages: Sequence[tuple[Phase, Sequence[str]]],
        shard: Shard,
        recorder: Recorder,
        prepare: Callable[[Prompt], Prepared],
        drop: Callable[[Call, str], None],
        meet: Callable[[int], None] = lambda _stage: None,
    ) -> None:
        self._plan, self._stages, self._shard = plan, stages, shard
        self._recorder, self._prepare, self._drop = recorder, prepare, drop
        self._meet = meet
        self.patience_ns = int(plan.scenario.timeouts.first_token_s * 1e9)
        self.lines: dict[str, Line[Arrival]] = {
            name: Line() for crew in plan.crews.values() for name in crew.weights
        }
        self._crews = {
            name: mix(crew.weights, 0) for name, crew in plan.crews.items() if crew.weights
        }
        self.outstanding: set[Arrival] = set()  # given out and not finished
        self.gates: dict[str, Gate[Arrival]] = {}
        self.spans: list[Span] = []  # monotonic ns; each ends when its last arrival was given out
        self.phase: Phase | None = None
        self.stage: Span | None = None  # the one that runs; its end is not known yet
        self._later: Later[Arrival] = Later(self._come)
        self._ordinals: dict[tuple[str, str], int] = {}
        self._freed = Event()
        self._stop = Event()
        self._alarm: Alarm | None = None  # while `run` lasts
        self.drained = Event()
        self.whole = False  # every stage ran to its end

    # -- for users -----------------------------------------------------------------------------

    def take(self, user_class: str) -> Arrival:
        """The next arrival for a class of users; waits for one.

        Raises:
            Closed: the run is over.
        """
        line = self.lines.get(user_class)
        if line is None:  # nothing in the scenario is for this class: it waits for the end
            if self.drained.is_set():
                raise Closed
            line = self.lines[user_class] = Line()
        while True:
            arrival = line.get()
            if arrival is None:
                raise Closed
            if time.monotonic_ns() - arrival.due_ns < self.patience_ns:
                return arrival
            self._drop_taken(arrival, "ceiling")

    def finish(self, arrival: Arrival, *, goes_on: bool = False) -> None:
        """A request is over: whoever waits may take its place.

        With `goes_on`, `follow` or `part` comes next. A user of a closed loop keeps its place
        meanwhile, thinking; in an open loop only requests have one.
        """
        if arrival not in self.outstanding:
            return
        self.outstanding.discard(arrival)
        if not (goes_on and arrival.stage.phase.closed):
            self.part(arrival)

    def part(self, arrival: Arrival) -> None:
        """What `arrival` belongs to is over: its place is free."""
        arrival.gate.leave()
        self._admit(arrival.gate)
        self._freed.set()

    def follow(self, arrival: Arrival, call: Call, prepared: Prepared, due_ns: int) -> bool:
        """Give out a further request of an arrival that is finished, at `due_ns`.

        False where the run or the arrival's phase ends first: then nothing follows.
        """
        end_ns = arrival.stage.end_ns
        if self._stop.is_set() or (end_ns is not None and due_ns >= end_ns):
            self._recorder.mark("conversations_cut", int(call.attempt == 1))
            if arrival.stage.phase.closed:
                self.part(arrival)
            return False
        self._later.put(due_ns, Arrival(call, prepared, arrival.gate, due_ns, arrival.stage))
        return True

    # -- for the worker ------------------------------------------------------------------------

    def run(self) -> None:
        """All stages, then the drain; returns when no request is in flight any more.

        The first two stages (warm-up and measure, mostly) are built ahead before the clock
        starts, each later one while its predecessor runs.
        """
        sweeper = gevent.spawn(self._sweep)
        self._alarm = alarm()
        built = [self._feed(phase, names) for phase, names in self._stages]
        for early in built[:2]:
            early.start()
            early.ready.wait()
        feeds = iter(built)
        feed = next(feeds, None)
        before: tuple[Phase, tuple[str, ...]] | None = None
        start_ns = 0
        try:
            for number, (phase, names) in enumerate(self._stages):
                following = next(feeds, None)
                if following is not None:
                    following.start()
                models = tuple(names)
                if before is None:
                    self._meet(number)
                    start_ns = time.monotonic_ns() + START_AFTER_NS
                else:
                    start_ns = self._between(before, models, number, start_ns)
                before = phase, models
                assert feed is not None
                start_ns = self._run_stage(phase, models, feed, start_ns)
                feed.stop()
                feed = following
                if self._stop.is_set():
                    break
            else:
                self.whole = True
            self._wait_idle()
        finally:
            sweeper.kill()
            self._later.close()
            self._alarm.close()
            self._alarm = None
            if feed is not None:
                feed.stop()
            for line in self.lines.values():
                line.close()
            self.drained.set()

    def stop(self) -> None:
        """No more arrivals: those that wait are dropped, those in flight may finish."""
        self._stop.set()
        self._freed.set()
        if self._alarm is not None:
            self._alarm.ring()
        for arrival in self._later.clear():
            if arrival.call.attempt > 1:  # its request has begun: it must end
                self._drop(arrival.call, "stopped")
            else:
                self._recorder.mark("conversations_cut")
        for gate in self.gates.values():
            for arrival in gate.clear():
                self._drop(arrival.call, "stopped")
        for line in self.lines.values():
            for arrival in line.take():
                self._drop_taken(arrival, "stopped")
            line.close()

    # -- stages --------------------------------------------------------------------------------

    def _between(
        self, before: tuple[Phase, tuple[str, ...]], models: tuple[str, ...], stage: int, at_ns: int
    ) -> int:
        """When the next stage begins: as planned, or when everyone is through with this one."""
        phase, others = before
        if others != models:
            self._wait_idle()  # one model must not pay for another's leftovers
        if others == models and phase.duration_ns is not None:
            return at_ns  # an instant, the same for all
        self._meet(stage)
        return max(at_ns, time.monotonic_ns())

    def _run_stage(
        self, phase: Phase, models: tuple[str, ...], feed: Feed[_Item], start_ns: int
    ) -> int:
        """Give out one phase's arrivals; returns the instant at which the next may begin."""
        self.phase = phase
        for key in self._plan.streams(models):
            self._set_gate(key, phase)
        if not self._sleep_until(start_ns):
            return start_ns
        self.stage = Span(phase=phase.title, models=models, start_ns=start_ns, end_ns=start_ns)
        end_ns = None if phase.duration_ns is None else start_ns + phase.duration_ns
        if phase.closed:
            self._closed(feed, _Stage(phase, end_ns))
        else:
            self._open(feed, _Stage(phase, end_ns), start_ns)
        if end_ns is None:
            self._hear_out()
        stopped_ns = time.monotonic_ns()
        if end_ns is None or self._stop.is_set():
            end_ns = stopped_ns
        span = Span(phase=phase.title, models=models, start_ns=start_ns, end_ns=end_ns)
        self.spans.append(span)
        return end_ns

    def _open(self, feed: Feed[_Item], stage: _Stage, start_ns: int) -> None:
        for item in feed.items(ALL):
            if not self._sleep_until(start_ns + item.due_ns):
                return
            self._offer(self._arrival(item, stage, start_ns + item.due_ns))
        if stage.end_ns is not None:
            self._sleep_until(stage.end_ns)

    def _closed(self, feed: Feed[_Item], stage: _Stage) -> None:
        drivers = [gevent.spawn(self._drive, feed, stage, key) for key in feed.keys]
        if stage.end_ns is None:
            gevent.joinall(drivers)
        else:
            self._sleep_until(stage.end_ns)
            gevent.killall(drivers)

    def _drive(self, feed: Feed[_Item], stage: _Stage, key: str) -> None:
        """Keep `users` requests of one stream in flight."""
        gate = self.gates[key]
        for item in feed.items(key):
            while gate.is_full and not self._stop.is_set():
                self._freed.clear()
                self._freed.wait()
            if self._stop.is_set():
                return
            arrival = self._arrival(item, stage, time.monotonic_ns())
            gate.enter()
            self._give(arrival)

    # -- one arrival ---------------------------------------------------------------------------

    def _offer(self, arrival: Arrival) -> None:
        verdict = arrival.gate.offer(arrival, time.monotonic_ns())
        if verdict == "go":
            self._give(arrival)
        elif verdict == "drop":
            self._drop(arrival.call, "ceiling")

    def _arrival(self, item: _Item, stage: _Stage, intended_ns: int) -> Arrival:
        title = stage.phase.title
        call = Call(item.index, title, item.model, item.workload, intended_ns)
        self._recorder.scheduled((item.model, item.workload, title), intended_ns)
        key = item.model if item.model in self.gates else ALL
        return Arrival(call, item.prepared, self.gates[key], intended_ns, stage)

    def _come(self, arrival: Arrival) -> None:
        """A further request of an earlier arrival is due."""
        call = arrival.call
        if call.attempt == 1:
            self._recorder.scheduled((call.model, call.workload, call.phase), call.intended_ns)
        if arrival.stage.phase.closed:
            self._give(arrival)  # its place was kept
        else:
            self._offer(arrival)

    def _give(self, arrival: Arrival) -> None:
        self.outstanding.add(arrival)
        self.lines[next(self._crews[arrival.call.workload])].put(arrival)

    def _admit(self, gate: Gate[Arrival]) -> None:
        """Places came free: those who waited for them take them."""
        for arrival in gate.admit():
            arrival.free_ns = time.monotonic_ns()
            self._give(arrival)

    def _drop_taken(self, arrival: Arrival, cause: str) -> None:
        self._drop(arrival.call, cause)
        self.finish(arrival)

    # -- inside --------------------------------------------------------------------------------

    def _feed(self, phase: Phase, models: Sequence[str]) -> Feed[_Item]:
        sources: dict[str, Iterator[_Item]] = {}
        for key, weights in self._plan.streams(models).items():
            sources[key] = self._items(phase, key, weights)
        if not phase.closed:
            merged = heapq.merge(*sources.values(), key=lambda item: item.due_ns)
            return Feed({ALL: merged}, LOOKAHEAD)
        ahead = max(4, min(CLOSED_LOOKAHEAD, self._ceiling(phase)))
        return Feed(sources, ahead)

    def _items(
        self, phase: Phase, key: str, weights: Mapping[tuple[str, str], float]
    ) -> Iterator[_Item]:
        mine = part(phase, self._shard)
        if mine is None or not any(self._taken(workload) for _, workload in weights):
            return
        seed = seed_for(self._plan.scenario.seed, phase.title, key)
        falls_on = mix(weights, seed)
        trace = self._plan.stream(phase, weights)
        # Every shard walks the same round-robin and keeps its own places in it.
        position = 0
        for index, due_ns in self._instants(phase, mine, seed, trace):
            while position <= index:
                model, workload = next(falls_on)
                position += 1
            if not self._taken(workload):
                continue  # its share is removed; the others stay as planned
            if trace is not None and workload == trace.workload:
                ordinal = trace.ordinal(self._plan.models[model], index)
            else:
                ordinal = self._ordinal(model, workload)
            yield _Item(due_ns, index, model, workload, self._build(model, workload, ordinal))

    def _taken(self, workload: str) -> bool:
        """Whether any picked class with tasks takes the arrivals of a workload."""
        return bool(self._plan.crews.get(workload, Crew()).weights)

    @staticmethod
    def _instants(
        phase: Phase, mine: Shard, seed: int, trace: Stream | None
    ) -> Iterator[tuple[int, int]]:
        if phase.closed:
            index = mine.index
            while phase.requests is None or index < phase.requests:
                yield index, 0
                index += mine.count
            return
        recorded = None if trace is None else trace.instants
        yield from arrivals(phase, seed=seed, shard=mine, recorded=recorded)

    def _ordinal(self, model: str, workload: str) -> int:
        """The next prompt of a workload that counts its own requests, in this shard."""
        count = self._ordinals.get((model, workload), 0)
        self._ordinals[(model, workload)] = count + 1
        return count * self._shard.count + self._shard.index

    def _build(self, model: str, workload: str, ordinal: int) -> Prepared | None:
        source = self._plan.workloads.get(workload)
        if source is None:
            return None
        return self._prepare(source.prompt(self._plan.models[model], ordinal))

    def _set_gate(self, key: str, phase: Phase) -> None:
        mine = self._ceiling(phase)
        gate = self.gates.setdefault(key, Gate(mine, self.patience_ns))
        gate.ceiling, gate.when_full = mine, phase.when_full
        self._admit(gate)

    def _ceiling(self, phase: Phase) -> int:
        """Requests of one stream in flight at once, in this process. One where it has no part
        in the phase: what waits from the phase before may still go."""
        mine = part(phase, self._shard)
        return 1 if mine is None else share(ceiling(phase), mine)

    def _sleep_until(self, at_ns: int) -> bool:
        """Wait for an instant; False when the run was stopped meanwhile."""
        if time.monotonic_ns() < at_ns and not self._stop.is_set():
            assert self._alarm is not None
            self._alarm.wait_until(at_ns)
        return not self._stop.is_set()

    def _hear_out(self) -> None:
        """Where requests end a phase, its conversations are led to their end within it."""
        while not self._stop.is_set() and (
            self._later or any(arrival.goes_on for arrival in self._pending())
        ):
            self._freed.clear()
            self._freed.wait(EXPIRE_EVERY_S)

    def _pending(self) -> Iterator[Arrival]:
        """Arrivals that are due and not finished."""
        yield from self.outstanding
        for gate in self.gates.values():
            yield from gate.waiting_line

    def _wait_idle(self) -> None:
        while self.outstanding or self._later or any(g.waiting for g in self.gates.values()):
            self._freed.clear()
            self._freed.wait(EXPIRE_EVERY_S)

    def _sweep(self) -> None:
        while True:
            gevent.sleep(EXPIRE_EVERY_S)
            now_ns = time.monotonic_ns()
            if self.phase is not None and not self.phase.closed:
                self._recorder.mark("ticks")
                full = any(gate.is_full for gate in self.gates.values())
                self._recorder.mark("ceiling_ticks", int(full))
            for gate in self.gates.values():
                for arrival in gate.expire(now_ns):
                    self._drop(arrival.call, "ceiling")
            for line in self.lines.values():
                self._expire_unclaimed(line, now_ns)

    def _expire_unclaimed(self, line: Line[Arrival], now_ns: int) -> None:
        """Fewer users than the ceiling (someone stopped some): arrivals must not wait for ever."""
        while (head := line.head) is not None:
            if now_ns - head.due_ns < self.patience_ns:
                return
            line.drop()
            self._drop_taken(head, "ceiling")
