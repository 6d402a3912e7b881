"""Workers that generate no load: they say to a Locust master what real ones said.

`python -m benchmarks.stand_ins --port P --workers N --shard FILE --seconds S`: N workers on ZeroMQ
sockets of one process, each of which sends the reports of a recorded shard again, one a second,
as its own. Prints a line of JSON when they begin and one when the master has confirmed them all.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import locust
import msgpack
import msgspec
import zmq

import loadlib
from loadlib import shards
from loadlib.lastword import LastWord, Span
from loadlib.recorder import NS

WITHIN_S = 120.0  # beyond the load: to connect, and to be confirmed


def recorded(path: Path) -> list[dict[str, Any]]:
    """The intervals of a shard file in which requests ended."""
    reports = [one["interval"] for one in shards.read(path) if one["kind"] == "interval"]
    return [interval for interval in reports if interval["rows"]]


def again(interval: dict[str, Any], seq: int, now_ns: int) -> dict[str, Any]:
    """The interval as if it were the `seq`-th and ended now."""
    shift_ns = now_ns - interval["end_ns"]
    return {
        **interval,
        "seq": seq,
        "start_ns": interval["start_ns"] + shift_ns,
        "end_ns": now_ns,
        "seconds": [
            [second + shift_ns // NS, *row] for second, *row in interval["seconds"]
        ],
    }  # fmt: skip


@dataclass(slots=True)
class StandIn:
    """One worker, as the master sees it."""

    name: str
    socket: Any
    intervals: Iterator[dict[str, Any]]
    state: str = "ready"
    run: int | None = None
    begun_ns: int = 0
    ended_ns: int = 0
    seq: int = 0
    requests: int = 0
    checksum: int = 0
    confirmed: bool = False
    kept: dict[int, bytes] = field(default_factory=dict)

    def say(self, kind: str, data: Any) -> None:
        self.socket.send(msgpack.dumps((kind, data, self.name)))

    def beat(self) -> None:
        usage = {"current_cpu_usage": 0, "current_memory_usage": 0}
        self.say("heartbeat", {"state": self.state, **usage})

    def hear(self) -> None:
        """Answer everything that has come."""
        while self.socket.poll(0):
            kind, data, _ = msgpack.loads(self.socket.recv(), strict_map_key=False)
            getattr(self, f"on_{kind}", lambda _data: None)(data)

    def on_ack(self, _data: Any) -> None:
        self.say("loadlib_here", {"pid": os.getpid(), "version": loadlib.__version__})

    def on_spawn(self, data: Any) -> None:
        users = data["user_classes_count"]
        self.state = "running"
        self.say("spawning", None)
        count = {"user_classes_count": users, "user_count": sum(users.values())}
        self.say("spawning_complete", count)

    def on_loadlib_start(self, data: Any) -> None:
        self.run = data["run"]
        self.say("loadlib_begun", {"run": self.run, "ahead_ns": None, "error_ns": None,
                                   "problem": None})  # fmt: skip

    def on_loadlib_go(self, _data: Any) -> None:
        self.say("loadlib_ready", {"run": self.run, "stage": 0})

    def on_loadlib_stage(self, _data: Any) -> None:
        self.begun_ns = self.begun_ns or time.time_ns()

    def on_loadlib_ack(self, data: Any) -> None:
        self.kept = {seq: frame for seq, frame in self.kept.items() if seq > data["upto"]}
        for seq in data["missing"]:
            self._post(self.kept[seq])

    def on_loadlib_confirm(self, _data: Any) -> None:
        self.confirmed = True

    def report(self, phase: str) -> None:
        """The next second."""
        self.seq += 1
        interval = again(next(self.intervals), self.seq, time.time_ns())
        frame = shards.pack({"kind": "interval", "phase": phase, "interval": interval})
        self.kept[self.seq] = frame
        self.requests += sum(n for row in interval["counts"] for n in row[4].values())
        self.checksum += shards.checksum(frame)
        self._post(frame)

    def end(self, phase: str, models: Sequence[str]) -> None:
        """The last word; again if it was not heard."""
        self.ended_ns = self.ended_ns or time.time_ns()
        span = Span(phase=phase, models=tuple(models), start_ns=self.begun_ns,
                    end_ns=self.ended_ns)  # fmt: skip
        word = LastWord(seq=self.seq, requests=self.requests, checksum=self.checksum,
                        spans=(span,))  # fmt: skip
        self._post(shards.pack({"kind": "end", "word": msgspec.to_builtins(word)}))

    def _post(self, frame: bytes) -> None:
        self.say("loadlib_report", {"run": self.run, "frame": frame})


def main(argv: Sequence[str] | None = None) -> None:
    options = _options(argv)
    found = recorded(options.shard)
    models = sorted({row[0] for interval in found for row in interval["counts"]})
    workers = [_worker(number, options.port, found) for number in range(options.workers)]
    for one in workers:
        one.say("client_ready", locust.__version__)
    _until(workers, lambda: all(one.begun_ns for one in workers))
    print(json.dumps({"begun": len(workers)}), flush=True)
    _send(workers, options.seconds, options.phase)
    print(json.dumps({"sent": sum(one.seq for one in workers),
                      "requests": sum(one.requests for one in workers)}), flush=True)  # fmt: skip
    for one in workers:
        one.end(options.phase, models)
    _until(workers, lambda: all(one.confirmed for one in workers))
    print(json.dumps({"confirmed": len(workers)}), flush=True)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stand_ins", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=20)
    parser.add_argument("--shard", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--phase", default="measure")
    return parser.parse_args(argv)


def _worker(number: int, port: int, found: Sequence[dict[str, Any]]) -> StandIn:
    name = f"stand-in_{number:02}"
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.setsockopt(zmq.IDENTITY, name.encode())
    socket.setsockopt(zmq.LINGER, 1000)
    socket.connect(f"tcp://127.0.0.1:{port}")
    mine = islice(cycle(found), number % len(found), None)  # not all the same second
    return StandIn(name, socket, iter(mine))


def _send(workers: Sequence[StandIn], seconds: float, phase: str) -> None:
    """A report a second of each, spread over the second."""
    begun, gap = time.monotonic(), 1 / len(workers)
    for turn in range(round(seconds * len(workers))):
        while (left := begun + turn * gap - time.monotonic()) > 0:
            time.sleep(min(left, 0.01))
        one = workers[turn % len(workers)]
        one.hear()
        one.beat()
        one.report(phase)


def _until(workers: Sequence[StandIn], condition: Any) -> None:
    deadline, beat = time.monotonic() + WITHIN_S, 0.0
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the master does not answer")
        if time.monotonic() - beat > 1:
            beat = time.monotonic()
            for one in workers:
                one.beat()
        for one in workers:
            one.hear()
        time.sleep(0.01)


if __name__ == "__main__":
    main()
