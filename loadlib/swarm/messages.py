"""What the processes of a run tell each other, on Locust's own channel.

    loadlib_here      worker → master   it understands the messages below, and its version
    loadlib_refused   master → worker   it is of another version, and leaves
    loadlib_start     master → worker   scenario, shard, picked classes: take part in a run
    loadlib_go        master → workers  all users are there: begin
    loadlib_ready     worker → master   it waits for the others before a stage …
    loadlib_stage     master → workers  … that may begin now
    loadlib_phase     master → workers  what begins from now on belongs to another row
    loadlib_interval  worker → master   about a second of measurements
    loadlib_abort     worker → master   a reason to stop the run
    loadlib_stop      master → workers  no new requests; those in flight have a while to finish
    loadlib_done      worker → master   its last word

A local run sends the same messages to itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gevent
from locust.runners import MasterRunner, WorkerRunner

from loadlib import __version__
from loadlib.errors import LoadlibError, UsageError
from loadlib.redact import redact
from loadlib.scenario import to_yaml
from loadlib.schedule import Shard
from loadlib.session import open_session
from loadlib.swarm.coordinator import Coordinator
from loadlib.swarm.options import Received

if TYPE_CHECKING:
    from loadlib.swarm.plugin import Plugin

log = logging.getLogger(__name__)


class Messages:
    """The post of one process: what it sends and what it does with what comes."""

    def __init__(self, plugin: Plugin) -> None:
        self._plugin, self._runner = plugin, plugin.runner
        self._run = 0  # the number of the run; messages of an earlier one are late
        self._here: set[str] = set()  # workers that understand us …
        self._refused: dict[str, str] = {}  # those of another version, and what is said of it
        self._shards: dict[str, Shard] = {}  # … and those with a part in this run
        self.picked: frozenset[str] | None = None  # classes, by the master, for a worker
        take = self._runner.register_message
        if isinstance(self._runner, MasterRunner):
            take("loadlib_here", self._on_here)
        if not isinstance(self._runner, WorkerRunner):
            take("loadlib_interval", self._from_worker(Coordinator.on_interval))
            take("loadlib_done", self._from_worker(Coordinator.on_done))
            take("loadlib_ready", self._from_worker(Coordinator.on_ready))
            take("loadlib_abort", self._on_abort)
        if not isinstance(self._runner, MasterRunner):
            take("loadlib_refused", self._on_refused)
            take("loadlib_start", self._on_start)
            take("loadlib_go", self._on_go)
            take("loadlib_stage", self._on_stage)
            take("loadlib_phase", self._on_phase)
            take("loadlib_stop", self._on_stop, concurrent=True)

    # -- to the others -------------------------------------------------------------------------

    def say_here(self) -> None:
        """Locust's master knew of this worker before it could understand our messages."""
        self._runner.send_message("loadlib_here", {"version": __version__})

    def begin_run(self, coordinator: Coordinator) -> None:
        """Divide a new run among the workers that are there; locally all of it is ours."""
        self._run += 1
        if not isinstance(self._runner, MasterRunner):
            coordinator.expect("local")
            self._take_part(Shard(), self._run)
            return
        names = sorted(client.id for client in self._runner.clients.ready)
        self._shards = {name: Shard(i, len(names)) for i, name in enumerate(names)}
        for name in names:
            coordinator.expect(name)
        for name in self._here & set(names):
            self._send_start(name)
        for name in self._refused.keys() & set(names):  # its leave was not heard yet
            self._do_without(coordinator, name)

    def go(self) -> None:
        """The clock may start."""
        if not isinstance(self._runner, MasterRunner):
            self._plugin.worker.start()
        elif not self._plugin.session.free:  # … and without one at once: told with the start
            self._runner.send_message("loadlib_go", {})

    def tell_workers(self, kind: str, data: dict[str, Any]) -> None:
        """A message to all of them."""
        if isinstance(self._runner, MasterRunner):
            self._runner.send_message(kind, data)
        else:
            gevent.spawn(self._runner.send_message, kind, data)

    def _send_start(self, name: str) -> None:
        plugin, shard = self._plugin, self._shards[name]
        data = {
            "run": self._run,
            "shard": [shard.index, shard.count],
            "free": plugin.session.free,
            "scenario": to_yaml(plugin.session.scenario),
            "classes": [cls.__name__ for cls in plugin.user_classes],
            "base_url": plugin.simulator.base_url if plugin.simulator else None,
        }
        self._runner.send_message("loadlib_start", data, name)

    # -- for the master ------------------------------------------------------------------------

    def _from_worker(self, method: Callable[[Coordinator, str, Any], None]) -> Callable[..., None]:
        def take(msg: Any, **_kwargs: Any) -> None:
            coordinator = self._plugin.coordinator
            if coordinator is not None and msg.data["run"] == self._run:
                method(coordinator, str(msg.node_id), msg.data)

        return take

    def _on_abort(self, msg: Any, **_kwargs: Any) -> None:
        coordinator = self._plugin.coordinator
        if coordinator is not None and msg.data["run"] == self._run:
            coordinator.on_abort(str(msg.data["reason"]))

    def _on_here(self, msg: Any, **_kwargs: Any) -> None:
        """Without a scenario a worker may join a run; divided schedules stay as they are."""
        name, plugin = str(msg.node_id), self._plugin
        coordinator = plugin.coordinator
        if (theirs := (msg.data or {}).get("version")) != __version__:
            self._refuse(name, redact(str(theirs or "without a number"), limit=40))
            return
        self._here.add(name)
        if coordinator is None or coordinator.stopping:
            return
        if name not in self._shards and plugin.session.free:
            count = len(self._shards)
            self._shards[name] = Shard(count, count + 1)
            coordinator.expect(name)
        if name in self._shards:
            self._send_start(name)
            if plugin.has_begun and not plugin.session.free:
                self._runner.send_message("loadlib_go", {}, name)
        else:
            log.warning("worker %s came too late and has no part in this run", name)

    def _refuse(self, name: str, version: str) -> None:
        """Messages, and what a figure means, may differ between versions."""
        reason = f"worker {name} runs loadlib {version}, its master {__version__}"
        self._runner.send_message("loadlib_refused", {"reason": reason}, name)
        log.error("%s: it is refused", reason)
        self._refused[name] = reason
        coordinator = self._plugin.coordinator
        if coordinator is not None and name in self._shards:
            self._do_without(coordinator, name)
        elif name in self._runner.clients:  # or Locust would count on it until it was missed
            del self._runner.clients[name]

    def _do_without(self, coordinator: Coordinator, name: str) -> None:
        """A share of the load that nobody sends: better no run than half of one."""
        coordinator.on_abort(self._refused[name])
        coordinator.on_gone(name)

    # -- for a worker --------------------------------------------------------------------------

    def _on_refused(self, msg: Any, **_kwargs: Any) -> None:
        reason = redact(str(msg.data["reason"]))
        self._plugin.give_up(UsageError(f"{reason}: install the same version on both"))

    def _on_start(self, msg: Any, **_kwargs: Any) -> None:
        data, plugin = msg.data, self._plugin
        self.picked = frozenset(data["classes"])
        try:
            session = open_session(Received(text=data["scenario"]))
            plugin.session = replace(session, free=data["free"])
            if data["base_url"]:
                plugin.session.redirect(data["base_url"])
            self._take_part(Shard(*data["shard"]), data["run"])
        except LoadlibError as error:
            self._runner.send_message("loadlib_abort", {"run": data["run"], "reason": str(error)})
            done = {"run": data["run"], "seq": 0, "windows": [], "last_ns": [], "left": True}
            self._runner.send_message("loadlib_done", done)
            return
        if plugin.session.free:
            plugin.worker.start()

    def _take_part(self, shard: Shard, run: int) -> None:
        def send(kind: str, data: dict[str, Any]) -> None:
            self._runner.send_message(kind, {"run": run, **data})

        self._plugin.take_part(shard, send)

    def _on_go(self, **_kwargs: Any) -> None:
        if self._plugin.worker is not None:
            self._plugin.worker.start()

    def _on_stage(self, msg: Any, **_kwargs: Any) -> None:
        if self._plugin.worker is not None:
            self._plugin.worker.open_stage(int(msg.data["stage"]))

    def _on_phase(self, msg: Any, **_kwargs: Any) -> None:
        if self._plugin.worker is not None:
            self._plugin.worker.open_phase(str(msg.data["title"]))

    def _on_stop(self, msg: Any, **_kwargs: Any) -> None:
        if self._plugin.worker is not None:
            self._plugin.worker.stop(float(msg.data["grace_s"]))
