"""Wires loadlib into Locust's events: options, start, messages, stop, signals, exit code.

Works the same under `loadlib run` and plain `locust -f`: both come through Locust's own `main`.
"""

from __future__ import annotations

import copy
import logging
import os
import signal
import sys
from argparse import SUPPRESS
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
from locust import events
from locust import main as locust_main
from locust.runners import LocalRunner, MasterRunner, WorkerRunner
from locust.user.task import filter_tasks_by_tags

from loadlib import gates, report
from loadlib.client import Client
from loadlib.errors import ExitCode, LoadlibError, UsageError
from loadlib.report import terminal
from loadlib.schedule import Shard
from loadlib.session import (
    Choice,
    Plan,
    Session,
    crew_notices,
    open_session,
    override_pairs,
)
from loadlib.summary import Summary
from loadlib.swarm import webtab
from loadlib.swarm.coordinator import Coordinator
from loadlib.swarm.progress import Progress
from loadlib.swarm.target import Simulator
from loadlib.swarm.users import LLMMixin
from loadlib.swarm.worker import Worker, deadlines

log = logging.getLogger(__name__)

OPTIONS: dict[str, dict[str, Any]] = {
    "--scenario": {"env_var": "LOADLIB_SCENARIO", "help": "scenario file; its phases are the load"},
    "--set": {"action": "append", "help": "KEY=VALUE in the scenario: load.0.duration=10s"},
    "--model": {"action": "append", "help": "only this model (repeatable)"},
    "--base-url": {"help": "OpenAI-compatible endpoint for all models"},
    "--rate": {"help": "arrivals per second of the measure phase: 5/s"},
    "--closed-users": {"type": int, "help": "users of the measure phase (closed loop)"},
    "--duration": {"help": "length of the measure phase: 30s"},
    "--requests": {"type": int, "help": "requests of the measure phase"},
    "--seed": {"type": int, "help": "seed of the whole run"},
    "--out": {"default": "reports", "help": "folder in which run folders are made"},
    "--allow-unhealthy": {"action": "store_true", "help": "judge even an unhealthy measurement"},
}


def add_options(parser: Any) -> None:
    """Locust's `init_command_line_parser`."""
    for flag, settings in OPTIONS.items():
        parser.add_argument(flag, include_in_web_ui=False, **settings)
    # Set by `loadlib run`: its own command line for the manifest, and who prints what.
    parser.add_argument("--loadlib-argv", include_in_web_ui=False, help=SUPPRESS)
    parser.add_argument(
        "--loadlib-json", action="store_true", include_in_web_ui=False, help=SUPPRESS
    )


def choice_of(options: Any) -> Choice:
    """The scenario that Locust's command line chooses."""
    return Choice(
        file=options.scenario or None,
        overrides=override_pairs(options.set or ()),
        models=tuple(options.model or ()),
        base_url=options.base_url,
        rate=options.rate,
        users=options.closed_users,
        duration=options.duration,
        requests=options.requests,
        seed=options.seed,
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
        self.worker: Worker = None  # type: ignore[assignment] # set before any user is made
        self.coordinator: Coordinator | None = None
        self.session: Session = self._open()
        self._simulator: Simulator | None = None
        self._term = False
        self._preflighted = False
        self._progress: Progress | None = None
        self.verdict: Summary | None = None
        if self.options.loadlib_argv:
            logging.getLogger("locust.stats_logger").disabled = True
        # One line a request says nothing that the run folder does not, and costs CPU.
        logging.getLogger("httpx2").setLevel(logging.WARNING)
        self._listen()
        if not isinstance(runner, WorkerRunner):
            self._prepare_target()
            self._size()
        self._opened = self.session
        if web_ui is not None:
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
        return [cls for cls in mine if cls.tasks]

    def _open(self) -> Session:
        options, choice = self.options, choice_of(self.options)
        if not choice.free:
            for flag, value in (("-u", options.num_users), ("-r", options.spawn_rate),
                                ("-t", options.run_time)):  # fmt: skip
                if value is not None and not isinstance(self.runner, WorkerRunner):
                    raise UsageError(
                        f"{flag} beside a scenario: its phases are the load; "
                        "change them with --set, --rate, --closed-users or --duration"
                    )
        return open_session(
            choice, self.user_classes, host=self.environment.host, users=options.num_users
        )

    def _prepare_target(self) -> None:
        """The simulator or the preflight; sends no completion."""
        session = self.session
        if session.scenario.target == "simulator":
            self._simulator = Simulator()
            session.redirect(self._simulator.base_url)
        client = Client(session.models, deadlines(session.scenario), lambda *_: None)
        for model in session.models.values():
            remark = client.check(model)
            if remark:
                session.notices.append(remark)
        session.notices += client.notices()
        plan = session.plan(self.user_classes)
        if not any(crew.weights for crew in plan.crews.values()):
            raise UsageError("no user class of the locustfile takes any workload of the scenario")
        session.notices += crew_notices(session, plan)
        client.close()
        self._announce()

    def _announce(self) -> None:
        """Before the first request: what was skipped, what applies, which gates lack samples."""
        session = self.session
        scenario = session.scenario
        short = gates.remedies(scenario.objectives, gates.planned(scenario, session.serves))
        for line in (*session.skipped, *session.notices, *(() if session.free else short)):
            sys.stderr.write(f"! {line}\n")

    def _size(self) -> None:
        """As many users as the phases can ever need at once; arrivals are what moves them."""
        if self.session.free:
            return
        options, scenario = self.options, self.session.scenario
        streams = len(self.session.models) if scenario.per == "model" else 1
        most = max((phase.users if phase.closed else phase.max_in_flight) or 1
                   for phase in scenario.load) * streams  # fmt: skip
        classes = self.user_classes
        for cls in classes:
            cls.fixed_count = most  # type: ignore[attr-defined]
        options.num_users = most * len(classes)
        options.spawn_rate = float(options.num_users)
        logging.getLogger("locust.runners").addFilter(_not_about_spawn_rate)

    # -- Locust's events -----------------------------------------------------------------------

    def _listen(self) -> None:
        on = self.environment.events
        on.test_start.add_listener(self._on_test_start)
        on.spawning_complete.add_listener(self._on_spawned)
        on.test_stopping.add_listener(self._on_test_stopping)
        on.quitting.add_listener(self._on_quitting)
        gevent.signal_handler(signal.SIGTERM, self._on_sigterm)
        hub = gevent.get_hub()  # Ctrl-C is a way to end a run, not an error worth a traceback
        hub.NOT_ERROR = (*hub.NOT_ERROR, KeyboardInterrupt)
        message = self.runner.register_message
        if isinstance(self.runner, WorkerRunner):
            message("loadlib_start", self._on_start_message)
            message("loadlib_go", self._on_go_message)
            message("loadlib_stop", self._on_stop_message, concurrent=True)
        else:
            message("loadlib_interval", self._from_worker(Coordinator.on_interval))
            message("loadlib_done", self._from_worker(Coordinator.on_done))
            message("loadlib_abort", self._on_abort_message)
            if isinstance(self.runner, LocalRunner):
                message("loadlib_stop", self._on_stop_message, concurrent=True)

    def _on_test_start(self, **_kwargs: Any) -> None:
        if isinstance(self.runner, WorkerRunner):
            return  # waits for loadlib_start
        # Each Start…Stop has its own record, so what one run adds must not reach the next.
        self.session = copy.copy(self._opened)
        plan = self.session.plan(self.user_classes)
        try:
            self.coordinator = coordinator = Coordinator(
                self.session,
                plan,
                out=Path(self.options.out),
                argv=self._argv(),
                secrets=self._secrets(),
                allow_unhealthy=self.options.allow_unhealthy,
                tell=self._tell_workers,
                on_end=self._on_end,
            )
        except LoadlibError as error:
            self._die(error)
        self._progress = Progress(coordinator.run, quiet=not self.options.loadlib_argv)
        base_url = self._simulator.base_url if self._simulator else None
        if isinstance(self.runner, MasterRunner):
            names = sorted(client.id for client in self.runner.clients.ready)
            for index, name in enumerate(names):
                coordinator.expect(name)
                data = {"shard": index, "count": len(names), "base_url": base_url}
                self.runner.send_message("loadlib_start", data, name)
        else:
            coordinator.expect("local")
            self.worker = self._new_worker(plan, Shard())

    def _on_spawned(self, **_kwargs: Any) -> None:
        if isinstance(self.runner, WorkerRunner) or self.coordinator is None:
            return
        if self._progress is None or self._progress.started:
            return  # Edit during a run
        self._progress.start()
        if isinstance(self.runner, MasterRunner):
            self.runner.send_message("loadlib_go", {})
            gevent.spawn(self._watch_workers, self.coordinator)
        else:
            self.worker.start()
        gevent.spawn(self._until_done, self.coordinator)

    def _on_test_stopping(self, **_kwargs: Any) -> None:
        """Stop button, -t, or our own end: streams finish before users are killed."""
        if self.coordinator is not None:
            self.coordinator.end()
        elif self.worker is not None:
            self.worker.stop(0.0)

    def _on_quitting(self, **_kwargs: Any) -> None:
        """Ctrl-C and SIGTERM come here, before Locust's own listeners stop anything."""
        gevent.sleep(0)  # lets the other listener of a SIGTERM say that it was one
        running = self.coordinator is not None and not self.coordinator.ended.is_set()
        if self.coordinator is not None and running:
            stopped_by = ExitCode.SIGTERM if self._term else ExitCode.SIGINT
            self.coordinator.end(stopped_by)
        elif isinstance(self.runner, WorkerRunner) and self.worker is not None:
            self.worker.stop(5.0)
        if self._simulator is not None:
            self._simulator.stop()

    def _on_sigterm(self) -> None:
        self._term = True

    # -- messages ------------------------------------------------------------------------------

    def _from_worker(self, method: Callable[[Coordinator, str, Any], None]) -> Callable[..., None]:
        def take(msg: Any, **_kwargs: Any) -> None:
            if self.coordinator is not None:
                method(self.coordinator, str(msg.node_id), msg.data)

        return take

    def _on_abort_message(self, msg: Any, **_kwargs: Any) -> None:
        if self.coordinator is not None:
            self.coordinator.on_abort(str(msg.data["reason"]))

    def _on_start_message(self, msg: Any, **_kwargs: Any) -> None:
        data = msg.data
        if data["base_url"]:
            self.session.redirect(data["base_url"])
        shard = Shard(data["shard"], data["count"])
        self.worker = self._new_worker(self.session.plan(self.user_classes), shard)

    def _on_go_message(self, **_kwargs: Any) -> None:
        self.worker.start()

    def _on_stop_message(self, msg: Any, **_kwargs: Any) -> None:
        if self.worker is not None:
            self.worker.stop(float(msg.data["grace_s"]))

    def _tell_workers(self, kind: str, data: dict[str, Any]) -> None:
        if isinstance(self.runner, MasterRunner):
            self.runner.send_message(kind, data)
        elif self.worker is not None:
            gevent.spawn(self.worker.stop, float(data["grace_s"]))

    def _new_worker(self, plan: Plan, shard: Shard) -> Worker:
        return Worker(self.session, plan, shard, self.environment, self.runner.send_message)

    def _watch_workers(self, coordinator: Coordinator) -> None:
        """A worker that Locust has given up is not waited for."""
        while not coordinator.ended.wait(1.0):
            alive = {c.id for c in self.runner.clients.all if c.state != "missing"}
            for name in set(coordinator.run.sources) - alive:
                coordinator.on_gone(name)

    # -- the end -------------------------------------------------------------------------------

    def _until_done(self, coordinator: Coordinator) -> None:
        try:
            coordinator.wait()
        except Exception:
            self.environment.process_exit_code = int(ExitCode.INTERNAL)
            raise
        finally:
            if self.options.headless:
                self.runner.quit()
            else:
                self.runner.stop()

    def _on_end(self, folder: Path, summary: Summary) -> None:
        """The run folder stands: pages, terminal, exit code."""
        if self._progress is not None:
            self._progress.stop()
        self.verdict = summary
        _last_folder.append(folder)
        if not self.session.free or summary.verdict.status in ("interrupted", "aborted"):
            self.environment.process_exit_code = summary.verdict.exit_code
        try:
            report.write(folder)
            report.append_github_summary(summary)
        except OSError as problem:
            sys.stderr.write(f"error: cannot write the report in {folder}: {problem.strerror}\n")
            self.environment.process_exit_code = self.environment.process_exit_code or int(
                ExitCode.INTERNAL
            )
        except Exception:
            log.exception("the report of %s could not be written", folder)
            self.environment.process_exit_code = int(ExitCode.INTERNAL)
        terminal.print_summary(summary, folder, terminal.Screen(err=self.options.loadlib_json))

    def _argv(self) -> list[str]:
        given = self.options.loadlib_argv
        return given.split("\0") if given else ["locust", *sys.argv[1:]]

    def _secrets(self) -> list[str]:
        names = (m.api_key_env for m in self.session.models.values() if m.api_key_env)
        return [key for name in names if (key := os.environ.get(name, "").strip())]

    def _die(self, error: LoadlibError) -> None:
        sys.stderr.write(f"error: {error}\n")
        self.environment.process_exit_code = int(error.exit_code)
        os._exit(int(error.exit_code))


def _not_about_spawn_rate(record: logging.LogRecord) -> bool:
    """Our users only wait for arrivals; starting them all at once is what is wanted."""
    return "spawn rate is very high" not in record.getMessage()


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _add_options(parser: Any, **_kwargs: Any) -> None:
    add_options(parser)


@events.init.add_listener  # type: ignore[untyped-decorator]
def _init(environment: Any, runner: Any, web_ui: Any, **_kwargs: Any) -> None:
    if not any(issubclass(cls, LLMMixin) for cls in environment.user_classes):
        return  # a locustfile that merely imports us
    try:
        environment.loadlib = Plugin(environment, runner, web_ui)
    except LoadlibError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(int(error.exit_code))
