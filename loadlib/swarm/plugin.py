"""Wires loadlib into Locust's events: start, messages, stop, exit code.

Works the same under `loadlib run` and plain `locust -f`: both come through Locust's own `main`.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import gevent
from gevent.event import Event
from locust import events
from locust import main as locust_main
from locust.runners import MasterRunner, WorkerRunner
from locust.user.task import filter_tasks_by_tags
from locust.user.users import HttpUser

from loadlib import calibration, gates, keys, report
from loadlib.client import Client
from loadlib.errors import ExitCode, LoadlibError, UsageError
from loadlib.redact import redact_argv
from loadlib.scenario import Scenario
from loadlib.schedule import Shard
from loadlib.session import Plan, Session, crew_notices, open_session
from loadlib.summary import Summary
from loadlib.swarm import scrape, webguard, webtab
from loadlib.swarm.coordinator import GRACE_S, Coordinator
from loadlib.swarm.limits import allow_files, descriptors
from loadlib.swarm.masking import mask_logs
from loadlib.swarm.messages import Messages
from loadlib.swarm.options import add_options, choice_of, refuse_locusts_load
from loadlib.swarm.outbox import Outbox, Send
from loadlib.swarm.progress import Progress
from loadlib.swarm.signals import Signals, end_children, remember_early
from loadlib.swarm.spread import EvenDispatcher, users_of_a_class
from loadlib.swarm.target import Simulator
from loadlib.swarm.users import LLMMixin
from loadlib.swarm.worker import Worker, deadlines

log = logging.getLogger(__name__)

WATCH_EVERY_S = 0.2
LOCAL_SIMULATOR = (
    "the simulator listens on this machine only: workers on other machines cannot reach it"
)

_last_folder: list[Path] = []  # of this process; what `loadlib run --json` prints from


def last_folder() -> Path | None:
    """The run folder finished last by this process, if it coordinated a run."""
    return _last_folder[-1] if _last_folder else None


def run_locust(arguments: list[str]) -> int:
    """Call Locust's own `main` with these arguments; returns its exit code."""
    before, sys.argv = sys.argv, ["locust", *arguments]
    try:
        locust_main.main()  # type: ignore[no-untyped-call]
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    finally:
        sys.argv = before
    return 0


class Plugin:
    """What one Locust process knows of loadlib; `environment.loadlib` is it."""

    def __init__(self, environment: Any, runner: Any, web_ui: Any) -> None:
        self.environment, self.runner, self.web_ui = environment, runner, web_ui
        self.options = environment.parsed_options
        self.worker: Worker = None  # type: ignore[assignment] # until a run begins
        self.coordinator: Coordinator | None = None
        self._needed = 0  # users, under a scenario
        self.simulator: Simulator | None = None
        self._progress: Progress | None = None
        self.starts = False  # a run begins …
        self._begun = Event()  # … and can be ended from now on
        self.has_part = Event()  # `worker` is there for the users of this process
        if self.options.loadlib_argv:
            logging.getLogger("locust.stats_logger").disabled = True
        # One line a request says nothing that the run folder does not, and costs CPU.
        logging.getLogger("httpx2").setLevel(logging.WARNING)
        self._signals = Signals(self)
        self._messages = Messages(self)
        self.session: Session = None  # type: ignore[assignment] # a worker gets the master's
        if not isinstance(runner, WorkerRunner):
            self.session = self._open()
        self._listen()
        if not isinstance(runner, WorkerRunner):
            self._hide_keys()
            self._prepare_target()
            self._size()
        self._opened = self.session
        if isinstance(runner, WorkerRunner):
            self._messages.say_here()
        if web_ui is not None:
            webguard.install(web_ui)
            webtab.install(self, web_ui)

    # -- before the run ------------------------------------------------------------------------

    @property
    def user_classes(self) -> list[type[LLMMixin]]:
        """The picked classes that are loadlib's and still have tasks under --tags."""
        options = self.options
        tags, without = set(options.tags or ()) or None, set(options.exclude_tags or ()) or None
        mine = [cls for cls in self.environment.user_classes if issubclass(cls, LLMMixin)]
        for cls in mine:
            if tags or without:
                filter_tasks_by_tags(cls, tags, without)
        picked = self._messages.picked
        return [cls for cls in mine if cls.tasks and (picked is None or cls.__name__ in picked)]

    def _open(self) -> Session:
        choice, classes = choice_of(self.options), self.user_classes
        if not choice.free:
            refuse_locusts_load(self.options)
        # --host is where plain users talk to; of a mixin it is the web site, not the model.
        web = any(issubclass(cls, HttpUser) for cls in classes)
        host = self.options.base_url or (None if web else self.environment.host)

        def chosen(scenario: Scenario) -> None:
            if not choice.free:
                self._allow_files(scenario)
            if scenario.target == "simulator":
                given = scenario.simulator
                self.simulator = Simulator(() if given is None else given.options)

        users = self.options.num_users
        session = open_session(choice, classes, host=host, users=users, chosen=chosen)
        if not session.free and self.environment.shape_class is not None:
            shape = type(self.environment.shape_class).__name__
            self.environment.shape_class = None
            session.notices.append(f"{shape} is left aside: the scenario's phases are the load")
        return session

    def _hide_keys(self) -> None:
        """They are known now: logs and what Locust sends its workers do without them."""
        models, options = self.session.models.values(), self.options
        mask_logs(models)
        options.loadlib_argv = "\0".join(
            redact_argv((options.loadlib_argv or "").split("\0"), self._secrets())
        )
        options.set = redact_argv(options.set or (), self._secrets())

    def _prepare_target(self) -> None:
        """The preflight of every endpoint; sends no completion."""
        session = self.session
        remote = isinstance(self.runner, MasterRunner) and self.options.processes is None
        if self.simulator is not None:
            session.redirect(self.simulator.base_url)
            if remote:
                session.notices.append(LOCAL_SIMULATOR)
        scenario = session.scenario
        client = Client(session.models, deadlines(scenario), lambda *_: None, mode=scenario.client)
        endpoints = {(m.base_url, m.api_key_env): m for m in reversed(session.models.values())}
        for model in reversed(endpoints.values()):  # the first of each, in their order
            remark = client.check(model)
            if remark:
                session.notices.append(remark)
        session.notices += client.notices()
        client.close()
        unread = scrape.look(session.servers)
        plan = self._plan(session)
        if not any(crew.weights for crew in plan.crews.values()):
            raise UsageError("no user class of the locustfile takes any workload of the scenario")
        session.untaken = _untaken(plan)
        # Workers on other machines, and Locust's own load rules: nothing is known of them.
        if not session.free and not remote:
            session.notices += calibration.notices(
                session.stages, scenario, self.options.processes, session.serves
            )
        planned = gates.planned(scenario, session.reach)
        short = gates.remedies(scenario.objectives, planned)
        for line in (
            *session.skipped,
            *session.notices,
            *unread,
            *crew_notices(plan),
            *(() if session.free else short),
        ):
            sys.stderr.write(f"! {line}\n")

    def _allow_files(self, scenario: Scenario) -> None:
        """Here for this machine's workers, and for the simulator, which takes all connections."""
        alone = scenario.target == "simulator"
        if alone or not isinstance(self.runner, MasterRunner) or self.options.processes:
            allow_files(descriptors(scenario, 1 if alone else self._workers))

    @property
    def _workers(self) -> int:
        return max(1, self.options.expect_workers) if isinstance(self.runner, MasterRunner) else 1

    def _size(self) -> None:
        """As many users as the phases can ever need at once; arrivals are what moves them."""
        if self.session.free:
            return
        options = self.options
        most, taking = users_of_a_class(self.session.scenario, self._workers), self._taking()
        for cls in self.environment.user_classes:
            # A class that takes no arrivals needs no users; nor does one that is not ours.
            cls.fixed_count = most if cls in taking else 0
        options.num_users = self._needed = most * len(taking)
        options.spawn_rate = float(options.num_users)
        logging.getLogger("locust.runners").addFilter(_not_about_spawn_rate)
        self.environment.dispatcher_class = functools.partial(
            EvenDispatcher, taking_part=self._taking_part
        )

    def _plan(self, session: Session) -> Plan:
        everyone = (self.environment.available_user_classes or {}).values()
        ours = [cls for cls in everyone if issubclass(cls, LLMMixin)]
        return session.plan(self.user_classes, () if session.free else ours)

    def _taking(self) -> list[type[LLMMixin]]:
        crews = self._plan(self.session).crews.values()
        return [cls for cls in self.user_classes if any(cls.__name__ in c.weights for c in crews)]

    def _taking_part(self) -> list[str]:
        return sorted(self.coordinator.run.attendance.sources) if self.coordinator else []

    # -- Locust's events -----------------------------------------------------------------------

    def _listen(self) -> None:
        on = self.environment.events
        on.test_start.add_listener(self._on_test_start)
        on.spawning_complete.add_listener(self._on_spawned)
        on.test_stopping.add_listener(self._on_test_stopping)
        on.quitting.add_listener(self._on_quitting)

    def _on_test_start(self, **_kwargs: Any) -> None:
        if isinstance(self.runner, WorkerRunner):
            return  # waits for loadlib_start
        self.starts = True
        # Each Start…Stop has its own record, so what one run adds must not reach the next.
        opened = self._opened
        self.session = session = replace(opened, notices=list(opened.notices))
        plan = self._plan(session)
        session.notices += crew_notices(plan)
        session.untaken = _untaken(plan)
        if session.free:
            first = session.scenario.load[0].model_copy(update={"users": self._users()})
            session.scenario = session.scenario.model_copy(update={"load": (first,)})
        try:
            self.coordinator = coordinator = Coordinator(
                session,
                plan,
                out=Path(self.options.out),
                argv=self._argv(),
                secrets=self._secrets(),
                allow_unhealthy=self.options.allow_unhealthy,
                tell=self._messages.tell,
                on_end=self._on_end,
            )
        except LoadlibError as error:
            self.give_up(error)
        self._progress = Progress(coordinator.run, quiet=not self.options.loadlib_argv)
        self._messages.begin_run(coordinator)
        self._begun.set()
        if session.free:
            self._begin(coordinator)

    def give_up(self, error: LoadlibError) -> NoReturn:
        """A run, or this worker's part in it, cannot begin."""
        self._signals.give_up(error)

    def _on_spawned(self, **_kwargs: Any) -> None:
        """Under a scenario the clock starts when all users are there to take arrivals."""
        if self.coordinator is not None and not self.session.free:
            users = self.runner.target_user_count
            if users < self._needed:
                self.session.notices.append(
                    f"started with {users} users, the phases can need {self._needed}:"
                    " arrivals beyond them wait, and are dropped in the end"
                )
            self._begin(self.coordinator)

    @property
    def has_begun(self) -> bool:
        """Whether requests of this run are being sent."""
        return self._progress is not None and self._progress.started

    def _begin(self, coordinator: Coordinator) -> None:
        if coordinator.stopping or self._progress is None or self.has_begun:
            return  # a signal was faster; Edit during a run
        self._progress.start()
        coordinator.watch_servers()
        self._messages.go()
        gevent.spawn(self._watch, coordinator)
        gevent.spawn(self._until_done, coordinator)

    def _on_test_stopping(self, **_kwargs: Any) -> None:
        """Stop button, -t, or our own end: streams finish before users are killed."""
        if self.coordinator is not None:
            self.coordinator.end()
        elif self.worker is not None:
            self.has_part.clear()
            # Locust ends a worker whose master has been silent for a minute: nobody else counts.
            self.worker.leave(GRACE_S if self._messages.master_silent() else 0.0)

    def _on_quitting(self, **_kwargs: Any) -> None:
        """The process ends: here the run does, before Locust's own listeners stop anything."""
        self._signals.only_in_main()
        if self.starts:
            self._begun.wait()
        if self.coordinator is not None:
            self.coordinator.end(self._signals.got)
        elif self.worker is not None:
            self.worker.leave(GRACE_S)
        if self.simulator is not None:
            self.simulator.stop()

    def take_part(self, shard: Shard, send: Send, outbox: Outbox, offset_ns: int) -> None:
        """This process generates load from now on: its shard of the session's.

        Raises:
            PreflightError: the system does not let it open as many files as it may need.
        """
        if not self.session.free:
            allow_files(descriptors(self.session.scenario, shard.count))
        mask_logs(self.session.models.values())
        plan = self._plan(self.session)
        self.worker = Worker(
            self.session, plan, shard, self.environment, send, outbox,
            offset_ns=offset_ns, alone=self._messages.master_silent,
        )  # fmt: skip
        self.has_part.set()

    def _watch(self, coordinator: Coordinator) -> None:
        """Workers that stay silent are not waited for; an Edit opens a new row."""
        users = self._users()
        while not coordinator.ended.wait(WATCH_EVERY_S):
            coordinator.heard(self._messages.silent(), self._messages.dead())
            if self._users() != users and not coordinator.stopping:
                users = self._users()
                shaped = self.environment.shape_class is not None
                coordinator.users_changed(users, open_row=not shaped)

    def _users(self) -> int:
        """What -u, the Users field, a key or a shape asked for."""
        return max(1, int(self.runner.target_user_count))

    # -- the end -------------------------------------------------------------------------------

    def _until_done(self, coordinator: Coordinator) -> None:
        try:
            coordinator.wait()
        except Exception:
            self.environment.process_exit_code = int(ExitCode.INTERNAL)
            raise
        finally:
            self._stop_locust()

    def _stop_locust(self) -> None:
        options = self.options
        if options.headless:
            self.runner.quit()
            return
        self.runner.stop()
        if options.autostart and options.autoquit != -1:
            gevent.sleep(options.autoquit)
            self.runner.quit()
            self.web_ui.stop()

    def _on_end(self, folder: Path, summary: Summary) -> None:
        """The run folder stands: pages, terminal, exit code."""
        if self._progress is not None:
            self._progress.stop()
        _last_folder.append(folder)
        if not self.session.free or summary.verdict.status in ("interrupted", "aborted"):
            self.environment.process_exit_code = summary.verdict.exit_code
        try:
            report.write(folder, page=not self.options.no_report)
        except OSError as problem:
            sys.stderr.write(f"error: cannot write the report in {folder}: {problem.strerror}\n")
            self.environment.process_exit_code = self.environment.process_exit_code or int(
                ExitCode.INTERNAL
            )
        except Exception:
            log.exception("the report of %s could not be written", folder)
            self.environment.process_exit_code = int(ExitCode.INTERNAL)
        try:
            report.append_github_summary(summary)
        except OSError as problem:
            name = os.environ.get("GITHUB_STEP_SUMMARY")
            sys.stderr.write(f"! cannot append to {name}: {problem.strerror}\n")
        from loadlib.report import terminal  # draws with what takes 0.2 s to import

        terminal.print_summary(summary, folder, terminal.Screen(err=self.options.loadlib_json))

    def _argv(self) -> list[str]:
        given = self.options.loadlib_argv
        return given.split("\0") if given else ["locust", *sys.argv[1:]]

    def _secrets(self) -> tuple[str, ...]:
        session, likely = self.session, keys.likely(os.environ)
        servers = (server.api_key_env for server in session.servers)
        asked = (key for name in servers if name and (key := os.environ.get(name, "").strip()))
        return (*keys.named(session.models.values(), os.environ), *asked, *likely)


def _untaken(plan: Plan) -> frozenset[str]:
    return frozenset(name for name, crew in plan.crews.items() if not crew.weights)


def _not_about_spawn_rate(record: logging.LogRecord) -> bool:
    """Our users only wait for arrivals; starting them all at once is what is wanted."""
    return "spawn rate is very high" not in record.getMessage()


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _add_options(parser: Any, **_kwargs: Any) -> None:
    remember_early()
    add_options(parser)


@events.init.add_listener  # type: ignore[untyped-decorator]
def _init(environment: Any, runner: Any, web_ui: Any, **_kwargs: Any) -> None:
    if not any(issubclass(cls, LLMMixin) for cls in environment.user_classes):
        return  # a locustfile that merely imports us
    try:
        environment.loadlib = Plugin(environment, runner, web_ui)
    except LoadlibError as error:
        sys.stderr.write(f"error: {error}\n")
        end_children()
        sys.exit(int(error.exit_code))
