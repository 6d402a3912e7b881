"""Wires loadlib into Locust's events: start, messages, stop, exit code.

Works the same under `loadlib run` and plain `locust -f`: both come through Locust's own `main`.
"""

from __future__ import annotations

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
from locust.exception import RPCError
from locust.runners import WorkerRunner
from locust.stats import CSV_STATS_INTERVAL_SEC
from locust.user.task import filter_tasks_by_tags

from loadlib import keys, report
from loadlib.errors import ExitCode, LoadlibError, PreflightError, UsageError
from loadlib.folder import why_not
from loadlib.redact import redact_argv
from loadlib.schedule import Shard
from loadlib.session import Plan, Session, crew_notices
from loadlib.summary import Summary
from loadlib.swarm import webguard, webtab
from loadlib.swarm.coordinator import GRACE_S, Coordinator
from loadlib.swarm.form import StartForm
from loadlib.swarm.limits import allow_files, descriptors
from loadlib.swarm.masking import mask_logs
from loadlib.swarm.messages import Messages
from loadlib.swarm.opening import Opened, Opening, untaken
from loadlib.swarm.options import add_options, choice_of, refuse_locusts_load
from loadlib.swarm.outbox import Outbox, Send
from loadlib.swarm.progress import Progress
from loadlib.swarm.signals import Signals, end_children, interrupted_early, remember_early
from loadlib.swarm.target import Simulator
from loadlib.swarm.users import LLMMixin
from loadlib.swarm.worker import Worker

log = logging.getLogger(__name__)

WATCH_EVERY_S = 0.2

_form: list[StartForm] = []  # of this process, once there is a web UI over a scenario
_last_folder: list[Path] = []  # of this process; what `loadlib run --json` prints from


def last_folder() -> Path | None:
    """The run folder finished last by this process, if it coordinated a run."""
    return _last_folder[-1] if _last_folder else None


def run_locust(arguments: list[str]) -> int:
    """Call Locust's own `main` with these arguments; returns its exit code."""
    before, sys.argv = sys.argv, ["locust", *arguments]
    try:
        locust_main.main()  # type: ignore[no-untyped-call]
    except RPCError as error:
        raise PreflightError(f"{error}: is another master running?") from None
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
        # Locust's own end of a worker that waits for its master.
        return int(ExitCode.SIGINT) if code == 1 and interrupted_early() else code
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
        self.runs: dict[str, Path] = {}  # name → folder, of this process's runs
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
        self.opened: Opened = None  # type: ignore[assignment] # likewise
        self.opening = Opening(
            environment,
            runner,
            classes=lambda: self.user_classes,
            plan=self._plan,
            taking_part=self._taking_part,
            hide_keys=self._hide_keys,
        )
        self._listen()
        if isinstance(runner, WorkerRunner):
            self._messages.say_here()
        else:
            choice = choice_of(self.options)
            if not choice.free:
                refuse_locusts_load(self.options)
            self.stand_on(self.opening.open(choice))
        if web_ui is not None:
            form = None if self.session.free else StartForm(self)
            _form[:] = [] if form is None else [form]
            webguard.install(web_ui)
            webtab.install(self, web_ui, form)

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

    def stand_on(self, opened: Opened) -> None:
        """What the next Start begins."""
        self.opened, self.session = opened, opened.session
        self.opening.size(opened.session)

    def _hide_keys(self, session: Session) -> None:
        """They are known now: logs and what Locust sends its workers do without them."""
        options, secrets = self.options, self._secrets(session)
        mask_logs(secrets)
        options.loadlib_argv = "\0".join(
            redact_argv((options.loadlib_argv or "").split("\0"), secrets)
        )
        options.loadlib_set = redact_argv(options.loadlib_set or (), secrets)

    @property
    def simulator(self) -> Simulator | None:
        """The server of what is opened, where that is one of ours."""
        return None if self.opened is None else self.opened.simulator

    def _plan(self, session: Session) -> Plan:
        everyone = (self.environment.available_user_classes or {}).values()
        ours = [cls for cls in everyone if issubclass(cls, LLMMixin)]
        return session.plan(self.user_classes, () if session.free else ours)

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
        opened = self.opened.session
        self.session = session = replace(opened, notices=list(opened.notices))
        plan = self._plan(session)
        session.notices += crew_notices(plan)
        session.untaken = untaken(plan)
        if session.free:
            first = session.scenario.load[0].model_copy(update={"users": self._users()})
            session.scenario = session.scenario.model_copy(update={"load": (first,)})
        try:
            self.coordinator = coordinator = Coordinator(
                session,
                plan,
                out=Path(self.options.loadlib_out),
                argv=self._argv(),
                secrets=self._secrets(session),
                allow_unhealthy=self.options.loadlib_allow_unhealthy,
                watched=self.web_ui is not None,
                tell=self._messages.tell,
                on_end=self._on_end,
            )
        except LoadlibError as error:
            self.give_up(error)
        self.runs[coordinator.run.folder.name] = coordinator.run.folder
        self._progress = Progress(coordinator.run, quiet=not self.options.loadlib_argv)
        self._messages.begin_run(coordinator)
        self._begun.set()
        gevent.spawn(self._until_done, coordinator)
        if session.free:
            self._begin(coordinator)

    def give_up(self, error: LoadlibError) -> NoReturn:
        """A run, or this worker's part in it, cannot begin."""
        self._signals.give_up(error)

    def _on_spawned(self, **_kwargs: Any) -> None:
        """Under a scenario the clock starts when all users are there to take arrivals."""
        # Locust says so after every Edit, too.
        if self.coordinator is not None and not self.session.free and not self.has_begun:
            users = self.runner.target_user_count
            if users < self.opening.needed:
                self.session.notices.append(
                    f"started with {users} users, the phases can need {self.opening.needed}:"
                    " arrivals beyond them wait, and are dropped in the end"
                )
            self._begin(self.coordinator)

    @property
    def may_start(self) -> bool:
        """Whether no run is going on that a Start would only edit."""
        return self.coordinator is None or self.coordinator.ended.is_set()

    def check_start(self) -> None:
        """Before a Start or Edit from the page, which is told nothing of what goes wrong later.

        Raises:
            UsageError: a run is ending, and would take a Start for an Edit.
            PreflightError: no run folder can be written.
        """
        if not self.may_start:
            if self.coordinator is not None and self.coordinator.stopping:
                raise UsageError("a run is ending: start the next one when it is over")
        elif (why := why_not(out := Path(self.options.loadlib_out))) is not None:
            raise PreflightError(f"cannot write a run folder in {out}: {why}")

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

    def _on_test_stopping(self, **_kwargs: Any) -> None:
        """Stop button, -t, or our own end: streams finish before users are killed."""
        if self.coordinator is not None:
            with self._messages.hearing():
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
        if self.options.csv_prefix:  # Locust writes it once a second, and not once more at the end
            gevent.sleep(1.5 * CSV_STATS_INTERVAL_SEC)
        self.opening.stop()

    def take_part(self, shard: Shard, send: Send, outbox: Outbox, offset_ns: int) -> None:
        """This process generates load from now on: its shard of the session's.

        Raises:
            PreflightError: the system does not let it open as many files as it may need.
        """
        if not self.session.free:
            allow_files(descriptors(self.session.scenario, shard.count))
        mask_logs(self._secrets(self.session))
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
            report.write(folder, page=not self.options.loadlib_no_report)
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

    @staticmethod
    def _secrets(session: Session) -> tuple[str, ...]:
        likely = keys.likely(os.environ)
        servers = (server.api_key_env for server in session.servers)
        asked = (key for name in servers if name and (key := os.environ.get(name, "").strip()))
        return (*keys.named(session.models.values(), os.environ), *asked, *likely)


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _add_options(parser: Any, **_kwargs: Any) -> None:
    remember_early()
    add_options(parser)
    if _form:
        _form[-1].add_to(parser)


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
