"""One Start…Stop as seen from above: the run folder, the merge, the end, the verdict.

Lives on the master, or in the one process of a local run. Workers send it intervals, a last
word with their totals, or a reason to abort; it merges, waits for all of them, and concludes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gevent
from gevent.event import Event

from loadlib.conclude import Ending, conclude
from loadlib.errors import ExitCode, LoadlibError
from loadlib.folder import write_atomically
from loadlib.recorder import NS, Live, Totals
from loadlib.run import SCENARIO, RunWriter, seal
from loadlib.scenario import Phase, Scenario, to_yaml
from loadlib.server_record import Scrape
from loadlib.session import Plan, Session
from loadlib.summarise import Window
from loadlib.summary import Summary
from loadlib.swarm.scrape import Scraper
from loadlib.swarm.yielding import Turns

log = logging.getLogger(__name__)

GRACE_S = 10.0  # streams in flight at an interruption may still finish this long
LAST_WORD_S = 15.0  # … and a worker gets this much longer to report


@dataclass(slots=True)
class _Source:
    """One worker process."""

    done: dict[str, Any] | None = None
    phase: str = ""
    stage: int = -1  # of the schedule, for which it is ready
    left: bool = False  # before the end, and not because the run was stopped


@dataclass(slots=True)
class Run:
    """What is known while it lasts; the progress display and the live tab read it."""

    session: Session
    totals: Totals
    folder: Path
    started_ns: int  # Unix epoch
    sources: dict[str, _Source] = field(default_factory=dict)
    servers: dict[str, Scrape] = field(default_factory=dict)  # the last scrape of each

    @property
    def phase(self) -> str:
        """The phase the workers are in."""
        return next((source.phase for source in self.sources.values() if source.phase), "")

    def live(self) -> tuple[Live, ...]:
        """One row per (model, workload, phase) of the live table."""
        return self.totals.live()


class Coordinator:
    """`tell` sends a message to all workers; `on_end` is called with the finished summary."""

    def __init__(
        self,
        session: Session,
        plan: Plan,
        *,
        out: Path,
        argv: Iterable[str],
        secrets: Iterable[str],
        allow_unhealthy: bool,
        tell: Callable[[str, dict[str, Any]], None],
        on_end: Callable[[Path, Summary], None],
    ) -> None:
        self._plan, self._tell, self._on_end = plan, tell, on_end
        self._allow_unhealthy = allow_unhealthy
        scenario = session.scenario
        self._writer = RunWriter.create(
            out, to_yaml(scenario), scenario.name, list(argv), secrets=secrets
        )
        self.run = Run(session, Totals(), self._writer.folder, time.time_ns())
        self._scraper = Scraper(session.servers, self._on_scrape)
        if session.servers:
            self._writer.watch(session.servers)
        self._stage = -1
        self._aborted: str | None = None
        self._signal: ExitCode | None = None
        self._all_done = Event()
        self._stopper: gevent.Greenlet[[], None] | None = None
        self._concluding = False
        self._hurried = False
        self.ended = Event()

    # -- from the workers ----------------------------------------------------------------------

    def expect(self, source: str) -> None:
        """A worker takes part."""
        self.run.sources.setdefault(source, _Source())

    def on_interval(self, source: str, data: Mapping[str, Any]) -> None:
        """About a second of one worker's measurements."""
        known = self.run.sources.get(source)
        if known is None or known.left or self._concluding:
            return  # of a run before, or given up: its loss is on record
        known.phase = str(data["phase"])
        interval = data["interval"]
        pause = Turns().give
        if self.run.totals.merge(interval, source, pause):
            self._writer.append(interval, source, pause)

    def watch_servers(self) -> None:
        """Read the servers' own metrics from now on until the end; waits for the first ones."""
        self._scraper.start()

    def _on_scrape(self, scrape: Scrape) -> None:
        self.run.servers[scrape.server] = scrape
        self._writer.append_scrape(scrape)

    def on_ready(self, source: str, data: Mapping[str, Any]) -> None:
        """A worker waits for the others before a stage."""
        known = self.run.sources.get(source)
        if known is not None:
            known.stage = int(data["stage"])
            self._look_ready()

    def on_done(self, source: str, data: Mapping[str, Any]) -> None:
        """A worker has sent everything it had."""
        known = self.run.sources.get(source)
        if known is None or known.done is not None:
            return
        known.done = dict(data)
        known.left = bool(data["left"])
        self.run.totals.expect(int(data["seq"]), source)
        self._look_done()

    def on_gone(self, source: str) -> None:
        """A worker will not come back; what it did not report is lost."""
        known = self.run.sources.get(source)
        if known is not None and known.done is None:
            known.done, known.left = {}, True
            self._look_done()

    @property
    def waits_for(self) -> frozenset[str]:
        """The workers that have not said their last word."""
        return frozenset(n for n, source in self.run.sources.items() if source.done is None)

    def on_abort(self, reason: str) -> None:
        """A worker found a reason to stop the run."""
        if self._aborted is None and not self.stopping:
            self._aborted = reason
            log.error("stopping the run: %s", reason)
            gevent.spawn(self.end)

    def _look_ready(self) -> None:
        stages = [source.stage for source in self.run.sources.values() if source.done is None]
        ready = min(stages, default=-1)
        if ready > self._stage:
            self._stage = ready
            self._tell("loadlib_stage", {"stage": ready})

    def _look_done(self) -> None:
        self._look_ready()
        if all(source.done is not None for source in self.run.sources.values()):
            self._all_done.set()

    # -- the end -------------------------------------------------------------------------------

    @property
    def stopping(self) -> bool:
        """Whether the end has begun."""
        return self._stopper is not None or self._all_done.is_set()

    def wait(self) -> None:
        """Until every worker has finished by itself, or the run was stopped; concluded then."""
        self._all_done.wait()
        self._conclude()

    def end(self, signal: ExitCode | None = None) -> None:
        """Stop arrivals, let streams finish within the grace period, conclude. Idempotent."""
        if not self.stopping:
            self._signal = signal
            self._stopper = gevent.spawn(self._stop)
        self.ended.wait()

    def hurry(self) -> None:
        """Someone asked twice: streams in flight are cancelled now."""
        self._hurried = True
        if self.stopping and not self._all_done.is_set():
            self._tell("loadlib_stop", {"grace_s": 0.0})

    def _stop(self) -> None:
        self._tell("loadlib_stop", {"grace_s": 0.0 if self._hurried else GRACE_S})
        self._all_done.wait(GRACE_S + LAST_WORD_S)
        for source in self.waits_for:
            self.on_gone(source)
        self._conclude()

    def _conclude(self) -> None:
        if self._concluding:
            self.ended.wait()
            return
        self._concluding = True
        self._scraper.stop()
        try:
            self._name_losses()
            summary = self._summary()
            self._finish(summary)
        except Exception:
            log.exception("the run could not be concluded; `loadlib report` can rebuild it")
            raise
        finally:
            self.ended.set()

    def _name_losses(self) -> None:
        """A worker that left before the end makes the record incomplete, and says so."""
        totals = self.run.totals
        for name, source in self.run.sources.items():
            if not source.left or (source.done and self._signal is not None):
                continue
            # One report more than came: a gap, and an unhealthy measurement.
            totals.expect(totals.last_seq(name) + 1, name)
            what = "what it had not reported is lost" if not source.done else "its share is missing"
            self.run.session.notices.append(f"worker {name} left before the end; {what}")
            log.error("worker %s left before the end; %s", name, what)

    def _summary(self) -> Summary:
        session = self.run.session
        if session.free:
            session.scenario = self._as_it_was()
        ending = Ending(
            aborted=self._aborted,
            signal=self._signal,
            recorder_errors=int(not self._writer.flush()),
            allow_unhealthy=self._allow_unhealthy,
        )
        return conclude(
            session,
            self.run.totals,
            self._writer.samples(),
            self._windows(),
            ending,
            environment=self._writer.environment,
            started_ns=self.run.started_ns,
            scrapes=self._writer.scrapes(),
        )

    def _finish(self, summary: Summary) -> None:
        try:
            if self.run.session.free:  # only now is it known what the load was
                text = to_yaml(self.run.session.scenario).encode()
                write_atomically(self._writer.folder / SCENARIO, text)
            self._writer.finish(summary, summary.state, self.run.totals, self._windows())
        except (LoadlibError, OSError) as problem:
            log.error("%s", problem)
        self._on_end(self._writer.folder, summary)
        try:
            seal(self._writer.folder)
        except OSError as problem:
            log.error("cannot seal %s: %s", self._writer.folder, problem)

    # -- without a scenario --------------------------------------------------------------------

    def users_changed(self, users: int, *, open_row: bool) -> None:
        """Locust has another number of users now; an Edit opens a new row of the record.

        Under a scenario users are only a ceiling on what may be in flight.
        """
        session = self.run.session
        if not session.free:
            said = f"{users} users from {time.time() - self.run.started_ns / NS:.0f} s on"
            session.notices.append(f"{said}: the ceiling of each class, the phases stay")
            return
        load = session.scenario.load
        if not open_row:  # a shape steers: one row, its users the most there were
            now = load[-1].model_copy(update={"users": max(users, load[-1].users or 1)})
            load = (*load[:-1], now)
        else:
            name = f"{load[0].title}-{len(load) + 1}"
            load = (*load, load[0].model_copy(update={"name": name, "users": max(1, users)}))
            self._tell("loadlib_phase", {"title": name})
        session.scenario = session.scenario.model_copy(update={"load": load})

    def _as_it_was(self) -> Scenario:
        """The implied scenario of a plain locustfile, with the durations Locust gave it."""
        scenario = self.run.session.scenario
        lasted: dict[str, int] = {}
        for window in self._windows():
            lasted[window.phase] = max(NS, window.end_ns - window.start_ns)
        return scenario.model_copy(
            update={
                "load": tuple(
                    phase.model_copy(update={"duration_ns": lasted.get(phase.title, NS)})
                    for phase in scenario.load
                )
            }
        )

    # -- when what was -------------------------------------------------------------------------

    def _windows(self) -> tuple[Window, ...]:
        """When each phase was: from the first worker's start to the last one's end."""
        phases = {phase.title: phase for phase in self.run.session.scenario.load}
        found: dict[tuple[str, str | None], Window] = {}
        for source in self.run.sources.values():
            for phase, model, start_ns, end_ns in self._spans(source.done or {}):
                key, mine = (phase, model), self._window(phases[phase], model, start_ns, end_ns)
                known = found.get(key)
                if known is not None:
                    mine = replace(
                        mine,
                        start_ns=min(known.start_ns, start_ns),
                        end_ns=max(known.end_ns, end_ns),
                    )
                found[key] = mine
        for title, seconds in self._seconds_of_unended().items():
            if not any(phase == title for phase, _ in found):
                span = min(seconds) * NS, (max(seconds) + 1) * NS
                found[title, None] = self._window(phases[title], None, *span)
        return tuple(found.values())

    def _seconds_of_unended(self) -> dict[str, set[int]]:
        """Phase → the seconds in which something happened, where workers died before its end."""
        found: dict[str, set[int]] = {}
        if any(source.left for source in self.run.sources.values()):
            for second, (_, _, phase) in self.run.totals.seconds:
                found.setdefault(phase, set()).add(second)
        return found

    def _spans(self, done: Mapping[str, Any]) -> Iterable[tuple[str, str | None, int, int]]:
        session = self.run.session
        phases = {phase.title: phase for phase in session.scenario.load}
        everyone = set(session.models)
        last = {
            (phase, model): (begin, end) for phase, model, begin, end in done.get("last_ns", ())
        }
        for window in done.get("windows", ()):
            phase, names = phases[window["phase"]], window["models"]
            counted = phase.requests is not None
            alone = counted or set(names) != everyone
            for model in names if alone else [None]:
                end_ns = window["end_ns"]
                if counted and model is not None and (phase.title, model) in last:
                    end_ns = self._ended(phase, model, *last[phase.title, model])
                yield phase.title, model, window["start_ns"], end_ns

    def _ended(self, phase: Phase, model: str, begin_ns: int, end_ns: int) -> int:
        """When a phase that a number of requests ended was over for a model: one gap after its
        last arrival, so that n requests at n/s last a second; in a closed loop with its last
        answer.
        """
        rate = self._plan.rates(phase).get(model)
        return end_ns if not rate else begin_ns + round(NS / rate)

    def _window(self, phase: Phase, model: str | None, start_ns: int, end_ns: int) -> Window:
        return Window(
            phase=phase.title,
            model=model,
            start_ns=start_ns,
            end_ns=end_ns,
            kind=phase.kind,
            load=phase.label,
            closed=phase.closed,
            varying=phase.varying,
            rates=self._plan.rates(phase),
        )
