"""From a choice to what a Start stands on: a checked scenario, its target, enough users.

Once when the process begins, and again where the start form of the web UI chooses otherwise.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from locust.runners import MasterRunner
from locust.user.users import HttpUser

from loadlib import calibration, gates
from loadlib.client import Client
from loadlib.errors import UsageError
from loadlib.scenario import Scenario
from loadlib.session import Choice, Plan, Session, crew_notices, open_session
from loadlib.swarm import scrape
from loadlib.swarm.limits import allow_files, deadlines, descriptors
from loadlib.swarm.spread import EvenDispatcher, users_of_a_class
from loadlib.swarm.target import Simulator
from loadlib.swarm.users import LLMMixin

LOCAL_SIMULATOR = (
    "the simulator listens on this machine only: workers on other machines cannot reach it"
)

Classes = Sequence[type[LLMMixin]]


@dataclass(frozen=True, slots=True)
class Opened:
    """What was chosen, and what became of it. `simulator` is its server, where it needs one."""

    choice: Choice
    session: Session
    simulator: Simulator | None


class Opening:
    """Of one process that coordinates runs. `classes` are the picked ones, `plan` who takes what
    of a session; `hide_keys` is told of a session before anything is asked of its endpoints.
    """

    def __init__(
        self,
        environment: Any,
        runner: Any,
        classes: Callable[[], Classes],
        plan: Callable[[Session], Plan],
        taking_part: Callable[[], Sequence[str]],
        hide_keys: Callable[[Session], None],
    ) -> None:
        self._hide_keys = hide_keys
        self._environment, self._runner = environment, runner
        self._options = environment.parsed_options
        self._classes, self._plan, self._taking_part = classes, plan, taking_part
        self._simulators: dict[tuple[str, ...], Simulator] = {}
        self.needed = 0  # users, under a scenario …
        self.host: str | None = None  # … which says where its models are

    def open(self, choice: Choice) -> Opened:
        """Check the scenario, start its simulator, and see whether its endpoints answer; sends no
        completion.

        Raises:
            LoadlibError: whatever is wrong with the choice, for the person who made it.
        """
        classes = self._classes()
        host = self._options.loadlib_base_url or (None if self._web else self._environment.host)
        simulators: list[Simulator] = []

        def chosen(scenario: Scenario) -> None:
            if not choice.free:
                self._allow_files(scenario)
            if scenario.target == "simulator":
                given = scenario.simulator
                simulators.append(self._simulator(() if given is None else given.options))

        users = self._options.num_users
        session = open_session(choice, classes, host=host, users=users, chosen=chosen)
        if not session.free and self._environment.shape_class is not None:
            shape = type(self._environment.shape_class).__name__
            self._environment.shape_class = None
            session.notices.append(f"{shape} is left aside: the scenario's phases are the load")
        simulator = simulators[0] if simulators else None
        self._hide_keys(session)
        self._reach(session, simulator)
        return Opened(choice, session, simulator)

    @property
    def _web(self) -> bool:
        """--host is where plain users talk to; of a mixin it is the web site, not the model."""
        return any(issubclass(cls, HttpUser) for cls in self._classes())

    def _simulator(self, options: Sequence[str]) -> Simulator:
        """One of each sort, for as long as the process lives."""
        known = self._simulators.get(tuple(options))
        if known is None or not known.alive:
            known = self._simulators[tuple(options)] = Simulator(options)
        return known

    def stop(self) -> None:
        """The simulators are needed no longer."""
        for simulator in self._simulators.values():
            simulator.stop()

    def _reach(self, session: Session, simulator: Simulator | None) -> None:
        """The preflight of every endpoint; sends no completion."""
        remote = isinstance(self._runner, MasterRunner) and self._options.processes is None
        if simulator is not None:
            session.redirect(simulator.base_url)
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
        unread = scrape.unread(session.servers)
        plan = self._plan(session)
        if not any(crew.weights for crew in plan.crews.values()):
            raise UsageError("no user class of the locustfile takes any workload of the scenario")
        session.untaken = untaken(plan)
        # Workers on other machines, and Locust's own load rules: nothing is known of them.
        if not session.free and not remote:
            session.notices += calibration.notices(
                session.stages, scenario, self._options.processes, session.serves
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
        if alone or not isinstance(self._runner, MasterRunner) or self._options.processes:
            allow_files(descriptors(scenario, 1 if alone else self._workers))

    @property
    def _workers(self) -> int:
        return max(1, self._options.expect_workers) if isinstance(self._runner, MasterRunner) else 1

    def size(self, session: Session) -> None:
        """As many users as the phases can ever need at once; arrivals are what moves them."""
        if session.free:
            return
        options = self._options
        most, taking = users_of_a_class(session.scenario, self._workers), self._taking(session)
        for cls in self._environment.user_classes:
            # A class that takes no arrivals needs no users; nor does one that is not ours.
            cls.fixed_count = most if cls in taking else 0
        options.num_users = self.needed = most * len(taking)
        options.spawn_rate = float(options.num_users)
        if not self._web:  # what Locust's page shows as host, and asks for where there is none
            self._environment.host = self.host = hosts(session)
        logging.getLogger("locust.runners").addFilter(_not_about_spawn_rate)
        self._environment.dispatcher_class = functools.partial(
            EvenDispatcher, taking_part=self._taking_part
        )

    def _taking(self, session: Session) -> list[type[LLMMixin]]:
        crews = self._plan(session).crews.values()
        return [cls for cls in self._classes() if any(cls.__name__ in c.weights for c in crews)]


def hosts(session: Session) -> str:
    """Where its models are, without paths: `http://127.0.0.1:8080`."""
    found = dict.fromkeys(urlsplit(model.base_url) for model in session.models.values())
    return ", ".join(
        dict.fromkeys(f"{url.scheme}://{url.netloc.rpartition('@')[2]}" for url in found)
    )


def untaken(plan: Plan) -> frozenset[str]:
    """Workloads that no picked user class takes."""
    return frozenset(name for name, crew in plan.crews.items() if not crew.weights)


def _not_about_spawn_rate(record: logging.LogRecord) -> bool:
    """Our users only wait for arrivals; starting them all at once is what is wanted."""
    return "spawn rate is very high" not in record.getMessage()
