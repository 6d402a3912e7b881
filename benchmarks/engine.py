"""`python -m benchmarks.engine`: what the engine costs, and how well the simulator keeps time.

`--trace FILE` takes lengths and arrivals from an Azure-style CSV (TIMESTAMP, ContextTokens,
GeneratedTokens); without it they are drawn to have the same quantiles.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import random
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from loadlib.engine import Work, replica, simulate
from loadlib.histogram import Histogram
from loadlib.simulator import profiles

PACED = """
default: {{{speed}, encoding: o200k_base}}
"""
BATCH, OWN = "step_ms: 10, max_running: 64", "output_tok_s: 100, variation: 0.15"

# The simulator with a note of every token: how long after it was due its bytes were handed over.
SERVER = """
import json, os, signal, sys, time
from loadlib.simulator import generation, serve
late, fire = [], generation.Generation.fire
def noted(self, now_ns):
    before = self._written
    due_ns = self._served.engine.token_ns(self._sequence, before)
    due_next_ns = fire(self, now_ns)
    if self._written > before and due_ns is not None:
        late.append(time.monotonic_ns() - due_ns)
    return due_next_ns
generation.Generation.fire = noted
def done(*_):
    late.sort()
    at = lambda p: late[int(p * (len(late) - 1))] / 1e6
    figures = {"events": len(late), "p50": at(.5), "p99": at(.99), "max": at(1)}
    print(json.dumps(figures), flush=True)
    os._exit(0)
signal.signal(signal.SIGUSR1, done)
serve(port=0, profile=sys.argv[1])
"""


def virtual(requests: int, trace: Path | None, scale: float) -> None:
    """`requests` of the trace, repeated, through one `vllm-replica` in virtual time."""
    model = profiles.load("vllm-replica").default
    assert model is not None
    rows = _read(trace) if trace else _drawn(20_000)
    span_ns = rows[-1][0] + 100_000_000
    ttft = Histogram()
    laps = itertools.count()
    endless = ((int((at + lap * span_ns) / scale), work) for lap in laps for at, work in rows)
    engine = replica(model.speed)
    begun = time.process_time()
    most = 0.0
    waits: list[int] = []
    for done in simulate(engine, itertools.islice(endless, requests)):
        waits.append(((done.first_ns or 0) - done.arrival_ns) // 1000)
        if len(waits) == 1000:
            ttft.record_many(waits)
            waits.clear()
            most = max(most, engine.load.kv_usage or 0)
    ttft.record_many(waits)
    cost_s = time.process_time() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    p50, p99 = ((ttft.quantile(p) or 0) / 1e3 for p in (0.5, 0.99))
    print(
        f"virtual time, load x{scale:g}: {requests:,} requests in {cost_s:.1f} CPU s, "
        f"{cost_s / requests * 1e6:.1f} us each; {peak} MB; KV at most {most:.0%}; "
        f"{engine.load.preemptions} preemptions; TTFT p50 {p50:.0f} ms, p99 {p99:.0f} ms"
    )


def pacing(speed: str, streams: int, seconds: float) -> None:
    """`streams` streams of 100 tokens/s from the simulator: how late its tokens are."""
    with tempfile.TemporaryDirectory() as folder:
        profile = Path(folder) / "paced.yaml"
        profile.write_text(PACED.format(speed=speed))
        command = [sys.executable, "-c", SERVER, str(profile)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            line = server.stdout.readline()
            port = int(line.strip().removesuffix("/v1").rpartition(":")[2])
            _read_streams(port, streams, seconds)
            server.send_signal(signal.SIGUSR1)
            figures = json.loads(server.stdout.readlines()[-1])
    print(
        f"pacing, {speed}: {streams} streams, {figures['events'] / seconds:,.0f} events/s, late by "
        f"p50 {figures['p50']:.2f}, p99 {figures['p99']:.2f}, max {figures['max']:.2f} ms"
    )


def _read_streams(port: int, streams: int, seconds: float) -> None:
    tokens = round(seconds * 100)
    message = [{"role": "user", "content": "Hello"}]
    open_ones: dict[int, socket.socket] = {}
    poll = select.epoll()
    for i in range(streams):
        body = json.dumps({"model": "m", "messages": message, "stream": True, "ignore_eos": True,
                           "max_tokens": tokens, "user": str(i)}).encode()  # fmt: skip
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: "
                       + str(len(body)).encode() + b"\r\n\r\n" + body)  # fmt: skip
        open_ones[client.fileno()] = client
        poll.register(client.fileno(), select.EPOLLIN)
        time.sleep(0.003)
    while open_ones:
        for handle, _ in poll.poll():
            data = open_ones[handle].recv(65536)
            if not data or b"[DONE]" in data:
                poll.unregister(handle)
                open_ones.pop(handle).close()


def _read(path: Path) -> list[tuple[int, Work]]:
    rows = []
    start: datetime | None = None
    with path.open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            at = datetime.fromisoformat(row["TIMESTAMP"][:26])
            start = start or at
            work = Work(int(row["ContextTokens"]), max(1, int(row["GeneratedTokens"])))
            rows.append((round((at - start).total_seconds() * 1e9), work))
    return rows


def _drawn(count: int) -> list[tuple[int, Work]]:
    """Chat of the Azure trace's quantiles: 1020 in and 129 out at the median, 5.5 a second."""
    return list(_draws(count, random.Random(1)))


def _draws(count: int, draw: random.Random) -> Iterator[tuple[int, Work]]:
    at_s = 0.0
    for _ in range(count):
        at_s += draw.expovariate(5.5)
        prompt = min(7000, max(1, round(draw.lognormvariate(6.93, 0.77))))
        output = min(1000, max(1, round(draw.lognormvariate(4.86, 0.9))))
        yield round(at_s * 1e9), Work(prompt, output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", type=Path)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    for scale in (0.5, 1.5):
        virtual(options.requests, options.trace, scale)
    for speed in (BATCH, OWN):
        pacing(speed, 50, options.seconds)


if __name__ == "__main__":
    main()
