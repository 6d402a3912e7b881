"""`python -m benchmarks.engine`: what the engine costs, and how well the simulator keeps time.

Prints requests per second of virtual time, events per second of `--profile instant`, and how late
tokens are at 5,000 events a second: of a batch, in which fifty are due at one instant, and of
streams with a pace of their own. What the machine allows is measured in the same minute: the bare
sends of fifty tokens, nothing else. Neighbours are kept out by `chrt -f 10` in front of it all.
`--trace FILE` takes lengths and arrivals from an Azure-style CSV (TIMESTAMP, ContextTokens,
GeneratedTokens); without it they are drawn to have the same quantiles.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
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

# What every server of this file says at the end, from a list `late` in ns; `begun` in CPU s.
SAY = """
import json, os, signal, sys, time
def done(*_):
    late.sort()
    at = lambda p: late[int(p * (len(late) - 1))] / 1e6
    figures = {"events": len(late), "p50": at(.5), "p90": at(.9), "p99": at(.99), "max": at(1),
               "cpu_us": (time.process_time() - begun) / len(late) * 1e6}
    print(json.dumps(figures), flush=True)
    os._exit(0)
signal.signal(signal.SIGUSR1, done)
late, begun = [], time.process_time()
"""
# The simulator with a note of every token: how long after it was due its bytes were handed over.
SERVER = """
from loadlib.simulator import generation, serve
due_ns, made = {}, generation.Generation
fire, next_ns = made.fire, made._next_ns
def planned(self):
    due_ns[self] = next_ns(self)
    return due_ns[self]
def noted(self, now_ns):
    before = self._written
    fire(self, now_ns)
    if self._written > before:
        late.append(time.monotonic_ns() - due_ns[self])
made.fire, made._next_ns = noted, planned
begun = time.process_time()
serve(port=0, profile=sys.argv[1])
"""
# No simulator at all: the same bytes to as many sockets at the same instants.
BARE = """
import select, socket
door = socket.create_server(("127.0.0.1", 0), backlog=1000)
print(f"http://127.0.0.1:{door.getsockname()[1]}/v1", flush=True)
outs = [door.accept()[0] for _ in range(int(sys.argv[1]))]
for out in outs:
    out.recv(65536)
    out.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
data, due_ns, begun = b"x" * 330, time.monotonic_ns(), time.process_time()
for _ in range(int(sys.argv[2])):
    due_ns += 10_000_000
    select.select([], [], [], max(0, due_ns - time.monotonic_ns()) / 1e9)
    for out in outs:
        out.send(data)
        late.append(time.monotonic_ns() - due_ns)
for out in outs:
    out.close()
while True:
    time.sleep(1)
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


def instant(streams: int, tokens: int) -> None:
    """Events per second of `--profile instant`, one process, through the public command."""
    command = [sys.executable, "-m", "loadlib.simulator", "--profile", "instant"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        port = _port(server)
        _read_streams(port, 1, 100)  # the first request loads what later ones find
        before_s, begun = _cpu_s(server.pid), time.monotonic()
        _read_streams(port, streams, tokens)
        wall_s, cost_s = time.monotonic() - begun, _cpu_s(server.pid) - before_s
        server.terminate()
    events = streams * tokens
    print(
        f"instant profile: {streams} streams of {tokens:,} tokens, {events / wall_s:,.0f} "
        f"events/s; {events / cost_s:,.0f} per CPU s of the server"
    )


def bare(streams: int, seconds: float) -> None:
    """How late plain sends are that are due at one instant: the machine's own part."""
    command = [sys.executable, "-c", SAY + BARE, str(streams), str(round(seconds * 100))]
    figures = _figures(command, streams, seconds)
    print(f"bare sends, {streams} every 10 ms: {_late(figures)}")


def pacing(speed: str, streams: int, seconds: float) -> None:
    """`streams` streams of 100 tokens/s from the simulator: how late its tokens are."""
    with tempfile.TemporaryDirectory() as folder:
        profile = Path(folder) / "paced.yaml"
        profile.write_text(PACED.format(speed=speed))
        figures = _figures([sys.executable, "-c", SAY + SERVER, str(profile)], streams, seconds)
    print(
        f"pacing, {speed}: {streams} streams, {figures['events'] / seconds:,.0f} events/s, "
        + _late(figures)
    )


def _figures(command: list[str], streams: int, seconds: float) -> dict[str, float]:
    """What a server has to say after `streams` streams of 100 tokens/s."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        _read_streams(_port(server), streams, round(seconds * 100), apart_s=0.003)
        server.send_signal(signal.SIGUSR1)
        figures: dict[str, float] = json.loads(server.stdout.readlines()[-1])
    return figures


def _late(figures: dict[str, float]) -> str:
    shown = ", ".join(f"{name} {figures[name]:.2f}" for name in ("p50", "p90", "p99", "max"))
    return f"late by {shown} ms; {figures['cpu_us']:.0f} us of CPU each"


def _port(server: subprocess.Popen[str]) -> int:
    assert server.stdout is not None
    return int(server.stdout.readline().strip().removesuffix("/v1").rpartition(":")[2])


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _read_streams(port: int, streams: int, tokens: int, apart_s: float = 0) -> None:
    """Ask for `streams` answers of `tokens` tokens, so far apart, and read them to their ends."""
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
        time.sleep(apart_s)
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
    instant(16, 50_000)
    bare(50, options.seconds)
    for speed in (BATCH, OWN):
        pacing(speed, 50, options.seconds)


if __name__ == "__main__":
    main()
