"""One Start…Stop as seen from above: the run folder, the merge, the end, the verdict.

Lives on the master, or in the one process of a local run. Workers send it reports, the last of
them with their totals, or a reason to abort; it merges, acknowledges, waits for all of them, and
concludes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gevent
import msgspec
from gevent.event import Event
from gevent.lock import BoundedSemaphore

from loadlib import shards
from loadlib.attendance import PATIENCE_S, Attendance
from loadlib.conclude import Ending, conclude
from loadlib.errors import ExitCode, LoadlibError
from loadlib.folder import write_atomically
from loadlib.lastword import LastWord, Timetable, as_it_was, cut_short
from loadlib.live import Board
from loadlib.recorder import NS, Totals
from loadlib.run import SCENARIO, RunWriter, seal
from loadlib.scenario import to_yaml
from loadlib.server_record import Scrape
from loadlib.session import Plan, Session
from loadlib.summarise import Window
from loadlib.summary import Summary
from loadlib.swarm import clock
from loadlib.swarm.scrape import Scraper
from loadlib.swarm.yielding import Turns

log = logging.getLogger(__name__)

GRACE_S = 10.0  # streams in flight at an interruption may still finish this long
HURRIED_S = 5.0  # … and so long are workers waited for where someone asked twice
ACK_EVERY_S = 1.0

Tell = Callable[[str, dict[str, Any], str | None], None]


@dataclass(slots=True)
class Run:
    """What is known while it lasts; the progress display and the live tab read it."""

    session: Session
    totals: Totals
    folder: Path
    started_ns: int  # Unix epoch
    board: Board
    attendance: Attendance = field(default_factory=Attendance)
    servers: dict[str, Scrape] = field(default_factory=dict)  # the last scrape of each

    @property
    def phase(self) -> str:
        """The phase the workers are in."""
        return self.attendance.phase


class Coordinator:
    """`tell` sends a message to a worker, or to all; `on_end` is called with the summary.

    `watched` is whether there is a web page that shows the run while it lasts.
    """

    def __init__(
        self,
        session: Session,
        plan: Plan,
        *,
        out: Path,
        argv: Iterable[str],
        secrets: Iterable[str],
        allow_unhealthy: bool,
        watched: bool,
        tell: Tell,
        on_end: Callable[[Path, Summary], None],
    ) -> None:
        self._plan, self._tell, self._on_end = plan, tell, on_end
        self._allow_unhealthy = allow_unhealthy
        scenario = session.scenario
        self._writer = RunWriter.create(
            out, to_yaml(scenario), scenario.name, list(argv), secrets=secrets
        )
        totals, started_ns = Totals(), clock.wall_ns()
        board = Board(
            session,
            totals,
            lambda *span: self._timetable().window(*span),
            started_ns=started_ns,
            watched=watched,
            allow_unhealthy=allow_unhealthy,
            cpus=self._writer.environment["environment"].get("cpus"),
        )
        self.run = Run(session, totals, self._writer.folder, started_ns, board)
        self._who = self.run.attendance
        self._scraper = Scraper(session.servers, self._on_scrape)
        if session.servers:
            self._writer.watch(session.servers)
        self._stage = -1
        self._acknowledged: dict[str, tuple[int, frozenset[int]]] = {}
        self._aborted: str | None = None
        self._signal: ExitCode | None = None
        self._all_done = Event()
        self._stopper: gevent.Greenlet[[], None] | None = None
        self._concluding = False
        self._merging = BoundedSemaphore()  # gives way, and half a report must not be judged
        self._hurried = False
        self.ended = Event()
        gevent.spawn(self._acknowledge)

    # -- from the workers ----------------------------------------------------------------------

    def expect(self, source: str) -> None:
        """A worker takes part."""
        self._who.expect(source)

    def about(self) -> dict[str, Any]:
        """What a shard file must say of the run, so that it can be judged without a master."""
        session = self.run.session
        return {
            "run": self.run.folder.name,
            "started_ns": self.run.started_ns,
            "scenario": to_yaml(session.scenario),
            "free": session.free,
            "rates": self._timetable().rates,
            "unserved": [pair for pair in session.scenario.groups if not session.serves(*pair)],
            "notices": list(session.notices),
            "skipped": list(session.skipped),
            "allow_unhealthy": self._allow_unhealthy,
            "argv": self._writer.environment["argv"],
        }

    def on_report(self, source: str, frame: bytes) -> None:
        """About a second of one worker's measurements, or its last word."""
        known = self._who.sources.get(source)
        if known is None or self._concluding:
            return None  # of a run before, or too late: its loss is on record
        if known.over and not known.given_up:
            return self._confirm(source)  # it did not hear that it was confirmed
        try:
            report = shards.unpack(frame)
        except ValueError as error:
            log.warning("a report of worker %s is %s; it will be asked for again", source, error)
            return None
        if report["kind"] == "end":
            if known.word is None:
                known.word = msgspec.convert(report["word"], LastWord)
                known.word_s = time.monotonic()
                self.run.totals.ledger[source].expect(known.word.seq)
        else:
            known.phase = str(report["phase"])
            self._take(report, source, shards.checksum(frame))
        self._look_complete(source)
        return None

    def _take(self, report: Mapping[str, Any], source: str, checksum: int) -> None:
        interval, totals = report["interval"], self.run.totals
        with self._merging:
            if totals.merge(interval, source, Turns().give):
                totals.ledger[source].checksum += checksum
                self._writer.append(interval, source)
                self._show(source, report)

    def _show(self, source: str, report: Mapping[str, Any]) -> None:
        """Whatever is wrong with the live view, the measurement goes on."""
        try:
            self.run.board.take(source, report, Turns().give)
        except Exception:
            log.exception("the live view misses a report of %s", source)

    def watch_servers(self) -> None:
        """Read the servers' own metrics from now on until the end; waits for the first ones."""
        self._scraper.start()

    def _on_scrape(self, scrape: Scrape) -> None:
        self.run.servers[scrape.server] = scrape
        self._writer.append_scrape(scrape)

    def on_ready(self, source: str, data: Mapping[str, Any]) -> None:
        """A worker waits for the others before a stage."""
        known = self._who.active(source)
        if known is not None:
            known.stage = int(data["stage"])
            if known.stage <= self._stage:  # it was not heard, or did not hear
                self._tell("loadlib_stage", {"stage": known.stage}, source)
            self._look_ready()

    def on_gone(self, source: str) -> None:
        """A worker will not come back; what it did not report is lost."""
        known = self._who.active(source)
        if known is not None:
            known.over = known.given_up = True
            self._look_done()

    @property
    def waits_for(self) -> frozenset[str]:
        """The workers that have not ended."""
        return self._who.waits_for

    def heard(self, silent: Collection[str], dead: Collection[str]) -> None:
        """Of the workers in `silent` Locust hears nothing; those in `dead` are known to be."""
        self._who.heard(silent, time.monotonic())
        for name in (self.waits_for & set(dead)) | set(self._who.overdue(time.monotonic())):
            self.on_gone(name)
        self._look_ready()

    def on_abort(self, reason: str) -> None:
        """A worker found a reason to stop the run."""
        if self._aborted is None and not self.stopping:
            self._aborted = reason
            log.error("stopping the run: %s", reason)
            gevent.spawn(self.end)

    def _look_ready(self) -> None:
        if self._who.stage > self._stage:
            self._stage = self._who.stage
            self._tell("loadlib_stage", {"stage": self._stage}, None)

    def _look_complete(self, source: str) -> None:
        """Whether a worker has said its last word, and all it told of has come."""
        known, account = self._who.sources[source], self.run.totals.ledger[source]
        if known.word is None or account.missing:
            return
        known.over, known.given_up = True, False
        notices, problem = self.run.session.notices, known.word.problem
        if problem is not None and not any(problem in line for line in notices):
            notices.append(f"worker {source}: its shard file is not whole: {problem}")
        if (account.requests, account.checksum) != (known.word.requests, known.word.checksum):
            self.run.totals.mark("recorder_errors")
            log.error("the totals of worker %s are not what it reported", source)
        self._confirm(source)
        self._look_done()

    def _confirm(self, source: str) -> None:
        self._tell("loadlib_confirm", {}, source)

    def _acknowledge(self) -> None:
        """Tell each worker what has come of its reports, and ask for what has not."""
        while not self.ended.wait(ACK_EVERY_S):
            for source in self.waits_for:
                account = self.run.totals.ledger[source]
                now = account.upto, frozenset(account.missing)
                if now != self._acknowledged.get(source, (0, frozenset())) or account.missing:
                    self._acknowledged[source] = now
                    data = {"upto": account.upto, "missing": sorted(account.missing)}
                    self._tell("loadlib_ack", data, source)

    def _look_done(self) -> None:
        self._look_ready()
        if self._who.all_over:
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
        """Someone asked twice: streams in flight are cancelled now, the dead not waited for."""
        self._hurried = True
        if self.stopping and not self._all_done.is_set():
            self._tell_stop()
            gevent.spawn_later(HURRIED_S, self._wait_no_more)

    def _tell_stop(self) -> None:
        signal = None if self._signal is None else int(self._signal)
        grace_s = 0.0 if self._hurried else GRACE_S
        why = {"signal": signal, "aborted": self._aborted}
        self._tell("loadlib_stop", {"grace_s": grace_s, **why}, None)

    def _stop(self) -> None:
        self._tell_stop()
        self._all_done.wait(HURRIED_S if self._hurried else GRACE_S + PATIENCE_S)
        self._wait_no_more()
        self._conclude()

    def _wait_no_more(self) -> None:
        for source in self.waits_for:
            self.on_gone(source)

    def _conclude(self) -> None:
        if self._concluding:
            self.ended.wait()
            return
        self._concluding = True
        with self._merging:
            pass
        try:
            self._scraper.stop()
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
        for name, source in self._who.sources.items():
            left = not self._told_to_stop and source.word is not None and source.word.left
            if not left and not source.given_up:
                continue
            account = totals.ledger[name]
            if not account.missing:  # a gap, and an unhealthy measurement
                account.expect(account.last + 1)
            what = "what it had not reported is lost" if source.word is None else (
                "its share is missing" if left else "some of its reports are lost"
            )  # fmt: skip
            self.run.session.notices.append(f"worker {name} left before the end; {what}")
            log.error("worker %s left before the end; %s", name, what)

    def _summary(self) -> Summary:
        session = self.run.session
        if session.free:
            session.scenario = as_it_was(session.scenario, self._windows())
        ending = Ending(
            aborted=self._aborted,
            signal=self._signal,
            stopped=not self._told_to_stop and cut_short(self._who.words),
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

    @property
    def _told_to_stop(self) -> bool:
        """Whether there is a reason for the end that is said already."""
        return self._signal is not None or self._aborted is not None

    def _finish(self, summary: Summary) -> None:
        try:
            if self.run.session.free:  # only now is it known what the load was
                text = to_yaml(self.run.session.scenario).encode()
                write_atomically(self._writer.folder / SCENARIO, text)
            self._writer.finish(summary, summary.state, self.run.totals, self._windows())
        except (LoadlibError, OSError) as problem:
            log.error("%s", problem)
        self.run.board.finish(summary, clock.wall_ns())
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
            self._tell("loadlib_phase", {"title": name}, None)
        session.scenario = session.scenario.model_copy(update={"load": load})

    # -- when what was -------------------------------------------------------------------------

    def _timetable(self) -> Timetable:
        session = self.run.session
        phases = session.scenario.load
        rates = {phase.title: self._plan.rates(phase) for phase in phases}
        return Timetable(phases, frozenset(session.models), rates)

    def _windows(self) -> tuple[Window, ...]:
        return self._timetable().windows(self._who.words, self.run.totals)
