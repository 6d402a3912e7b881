"""What the processes of a run tell each other, on Locust's own channel.

    loadlib_clock     worker → master   what time is it there? …
    loadlib_time      master → worker   … this (`clock`)
    loadlib_here      worker → master   it understands the messages below, and its version
    loadlib_refused   master → worker   it is of another version, and leaves
    loadlib_start     master → worker   scenario, shard, picked classes: take part in a run
    loadlib_begun     worker → master   it does, with its clock and shard file
    loadlib_go        master → workers  all users are there: begin
    loadlib_ready     worker → master   it waits for the others before a stage …
    loadlib_stage     master → workers  … that may begin now
    loadlib_phase     master → workers  what begins from now on belongs to another row
    loadlib_report    worker → master   about a second of measurements, or the last word (`shards`)
    loadlib_ack       master → worker   what has come of them, and what is missing
    loadlib_confirm   master → worker   all of it has come: the handshake at the end
    loadlib_abort     worker → master   a reason to stop the run
    loadlib_stop      master → workers  no new requests; those in flight have a while to finish

A local run sends the same messages to itself.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gevent
import psutil  # type: ignore[import-untyped]
from locust import runners
from locust.exception import RPCError
from locust.runners import MasterRunner, WorkerRunner

from loadlib import __version__, shards
from loadlib.errors import LoadlibError, UsageError
from loadlib.lastword import LastWord
from loadlib.masterclock import APART_NS, MasterClock
from loadlib.redact import redact
from loadlib.scenario import to_yaml
from loadlib.schedule import Shard
from loadlib.session import open_session
from loadlib.shards import ShardWriter
from loadlib.swarm import clock
from loadlib.swarm.coordinator import Coordinator
from loadlib.swarm.options import Received
from loadlib.swarm.outbox import Outbox

if TYPE_CHECKING:
    from loadlib.swarm.plugin import Plugin

log = logging.getLogger(__name__)

SILENT_S = 10.0  # a master not heard for so long is not waited for …
LIVENESS = 10  # … nor a worker after so many heartbeats of a second, where Locust waits for 3
CLOCK_FIRST_S, CLOCK_EVERY_S = 0.1, 2.0


class Messages:
    """The post of one process: what it sends and what it does with what comes."""

    def __init__(self, plugin: Plugin) -> None:
        self._plugin, self._runner = plugin, plugin.runner
        self._run = 0  # the number of the run; messages of an earlier one are late
        self._here: set[str] = set()  # workers that understand us …
        self._refused: dict[str, str] = {}  # those of another version, and what is said of it
        self._shards: dict[str, Shard] = {}  # … and those with a part in this run
        self._outbox: Outbox | None = None
        self._pids: dict[str, int] = {}  # of the workers that this process has forked
        self.picked: frozenset[str] | None = None  # classes, by the master, for a worker
        self._clock = MasterClock()
        self._reader: Any = None  # the greenlet in which a master's messages come
        # Before the first run: the master's options reach a worker with its first users.
        self._out = Path(plugin.options.loadlib_out)
        take = self._runner.register_message
        if isinstance(self._runner, MasterRunner):
            runners.HEARTBEAT_LIVENESS = LIVENESS
            take("loadlib_clock", self._on_clock)
            take("loadlib_here", self._on_here)
            take("loadlib_begun", self._on_begun)
        if not isinstance(self._runner, WorkerRunner):
            take("loadlib_report", self._on_report)
            take("loadlib_ready", self._on_ready)
            take("loadlib_abort", self._on_abort)
        if not isinstance(self._runner, MasterRunner):
            take("loadlib_refused", self._on_refused)
            take("loadlib_start", self._on_start)
            take("loadlib_go", self._on_go)
            take("loadlib_stage", self._on_stage)
            take("loadlib_phase", self._on_phase)
            take("loadlib_ack", self._on_ack)
            take("loadlib_confirm", self._on_confirm)
            take("loadlib_stop", self._on_stop, concurrent=True)
        if isinstance(self._runner, WorkerRunner):
            take("loadlib_time", self._on_time)

    # -- to the others -------------------------------------------------------------------------

    def say_here(self) -> None:
        """Locust's master knew of this worker before it could understand our messages.

        It is asked the time first: the answer is here before a run begins.
        """
        self._ask_time()
        gevent.spawn(self._keep_asking)
        here = {"pid": os.getpid(), "version": __version__}
        self._runner.send_message("loadlib_here", here)

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
            self.tell("loadlib_go", {})

    def tell(self, kind: str, data: dict[str, Any], to: str | None = None) -> None:
        """A message to one worker, or to all of them."""
        if isinstance(self._runner, MasterRunner):
            try:
                self._runner.send_message(kind, data, to)
            except RPCError as error:
                log.warning("%s could not be sent: %s", kind, error)
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
            "about": plugin.coordinator.about() if plugin.coordinator else {},
        }
        self.tell("loadlib_start", data, name)

    # -- for the master ------------------------------------------------------------------------

    def _coordinator(self, msg: Any) -> Coordinator | None:
        """Of the run that a worker's message is about, if that is the present one."""
        return self._plugin.coordinator if msg.data["run"] == self._run else None

    def _on_clock(self, msg: Any, **_kwargs: Any) -> None:
        self._reader = gevent.getcurrent()
        answer = {"asked_ns": msg.data["asked_ns"], "master_ns": clock.wall_ns()}
        self._runner.send_message("loadlib_time", answer, str(msg.node_id))

    def _on_begun(self, msg: Any, **_kwargs: Any) -> None:
        coordinator, data = self._coordinator(msg), msg.data
        if coordinator is None:
            return
        notices, ahead_ns = coordinator.run.session.notices, data["ahead_ns"]
        if ahead_ns is not None and abs(ahead_ns) > APART_NS:
            notices.append(
                f"worker {msg.node_id}: its clock is {abs(ahead_ns) / 1e9:.3f} s "
                f"{'ahead of' if ahead_ns > 0 else 'behind'} the master's, and was corrected to "
                f"± {data['error_ns'] / 1e6:.1f} ms"
            )
        if data["problem"]:
            notices.append(f"worker {msg.node_id} keeps no shard file: {data['problem']}")

    def _on_report(self, msg: Any, **_kwargs: Any) -> None:
        coordinator = self._coordinator(msg)
        if coordinator is not None:
            coordinator.on_report(str(msg.node_id), msg.data["frame"])

    def _on_ready(self, msg: Any, **_kwargs: Any) -> None:
        coordinator = self._coordinator(msg)
        if coordinator is not None:
            coordinator.on_ready(str(msg.node_id), msg.data)

    def _on_abort(self, msg: Any, **_kwargs: Any) -> None:
        coordinator = self._coordinator(msg)
        if coordinator is not None:
            coordinator.on_abort(str(msg.data["reason"]))

    def silent(self) -> set[str]:
        """The workers that Locust has not heard lately, or no more knows."""
        if not isinstance(self._runner, MasterRunner):
            return set()
        heard = {one.id for one in self._runner.clients.all if one.state != "missing"}
        return set(self._shards) - heard

    @contextmanager
    def hearing(self) -> Iterator[None]:
        """Someone must read workers' messages while a run is being ended: Locust does that from
        the greenlet that reads them, where one worker quits and the others are only silent."""
        reader = gevent.getcurrent()
        if reader is not self._reader:
            yield
            return
        self._reader = other = self._runner.greenlet.spawn(self._runner.client_listener)
        try:
            yield
        finally:
            self._reader = reader
            other.kill()

    def dead(self) -> set[str]:
        """The workers that this process forked and that are no more."""
        return {name for name, pid in self._pids.items() if not _runs(pid)}

    def _on_here(self, msg: Any, **_kwargs: Any) -> None:
        """Without a scenario, and so without a budget, a worker may join a run; what is divided
        stays as it is."""
        name, plugin = str(msg.node_id), self._plugin
        coordinator = plugin.coordinator
        if (theirs := (msg.data or {}).get("version")) != __version__:
            self._refuse(name, redact(str(theirs or "without a number"), limit=40))
            return
        self._here.add(name)
        if self._plugin.options.processes and _is_child(msg.data["pid"]):
            self._pids[name] = msg.data["pid"]
        if coordinator is None or coordinator.stopping:
            return
        if name not in self._shards and plugin.session.free:
            count = len(self._shards)
            self._shards[name] = Shard(count, count + 1)
            coordinator.expect(name)
        if name in self._shards:
            self._send_start(name)
            if plugin.has_begun and not plugin.session.free:
                self.tell("loadlib_go", {}, name)
        else:
            late = f"worker {name} came after the start and has no part in this run"
            coordinator.run.session.notices.append(late)
            log.warning("%s", late)

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
            about = {**data["about"], "base_url": data["base_url"]}
            self._take_part(Shard(*data["shard"]), data["run"], about)
        except Exception as error:
            if not isinstance(error, LoadlibError):
                log.exception("cannot take part")
            self._give_up(data["run"], str(error))
            return
        if plugin.session.free:
            plugin.worker.start()

    def _give_up(self, run: int, why: str) -> None:
        send = self._sender(run)
        send("loadlib_abort", {"reason": f"worker {self._runner.client_id}: {why}"})
        self._outbox = Outbox(send, None, self.master_silent)
        gevent.spawn(self._outbox.last_word, LastWord(seq=0, left=True))

    def _sender(self, run: int) -> Callable[[str, dict[str, Any]], None]:
        def send(kind: str, data: dict[str, Any]) -> None:
            try:
                self._runner.send_message(kind, {"run": run, **data})
            except RPCError as error:
                log.warning("%s could not be sent: %s", kind, error)

        return send

    def _take_part(self, shard: Shard, run: int, about: dict[str, Any] | None = None) -> None:
        """`about` the run, of a worker: what its shard file begins with."""
        if self._outbox is not None:
            self._outbox.forget()
        file, name = None, str(getattr(self._runner, "client_id", "local"))
        own_ns = clock.own_offset_ns()
        found = self._clock.difference(own_ns)
        if about is not None:
            file = ShardWriter(shards.path_of(self._out / str(about["run"]), name))
        send = self._sender(run)
        self._outbox = outbox = Outbox(send, file, self.master_silent)
        self._plugin.take_part(shard, send, outbox, self._clock.offset_ns(own_ns))
        if about is None:
            return
        outbox.begin({"worker": name, "shard": [shard.index, shard.count], **about})
        send(
            "loadlib_begun",
            {
                "ahead_ns": found.ahead_ns if found is not None and found.known else None,
                "error_ns": None if found is None else found.error_ns,
                "problem": outbox.problem,
            },
        )

    def master_silent(self) -> bool:
        """Whether nothing has been heard of the master for a while; False where there is none."""
        heard_s = getattr(self._runner, "last_heartbeat_timestamp", None)
        return heard_s is not None and time.time() - heard_s > SILENT_S

    def _ask_time(self) -> None:
        with suppress(RPCError):
            self._runner.send_message("loadlib_clock", {"asked_ns": time.monotonic_ns()})

    def _keep_asking(self) -> None:
        for wait_s in chain(repeat(CLOCK_FIRST_S, 5), repeat(CLOCK_EVERY_S)):
            gevent.sleep(wait_s)
            self._ask_time()

    def _on_time(self, msg: Any, **_kwargs: Any) -> None:
        data = msg.data
        self._clock.heard(data["asked_ns"], data["master_ns"], time.monotonic_ns())

    def _on_ack(self, msg: Any, **_kwargs: Any) -> None:
        if self._outbox is not None:
            self._outbox.on_ack(msg.data["upto"], msg.data["missing"])

    def _on_confirm(self, **_kwargs: Any) -> None:
        if self._outbox is not None:
            self._outbox.on_confirmed()

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
            data = msg.data
            self._plugin.worker.stop(
                float(data["grace_s"]), signal=data["signal"], aborted=data["aborted"]
            )


def _is_child(pid: int) -> bool:
    return any(child.pid == pid for child in psutil.Process().children())


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
