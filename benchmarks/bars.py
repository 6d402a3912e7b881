"""The bars: each is a function from the lab to rows. `BARS` names them, in the table's order."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks import million, processes
from benchmarks.arithmetic import EVENTS, Shape, Spread, slope
from benchmarks.lab import LOADLIB, FloorRun, Lab, LoadlibRun
from benchmarks.processes import MeasurementError, burner
from benchmarks.replayed import replay_azure
from benchmarks.swarmed import held, master
from benchmarks.table import Row, number
from loadlib import rows
from loadlib.calibrate.truth import fetch

MILD, BUSY = Shape(100), Shape(400)
SATURATED = Shape(64, ttft_ms=0, gap_ms=0, tokens=100, spread=0)
LONG = Shape(8, ttft_ms=200, gap_ms=20, tokens=10)
LONG_TOKENS = 128_000
TINY = Shape(32, ttft_ms=0, gap_ms=0, tokens=2, spread=0)
CROWD = Shape(10_000, ttft_ms=2000, gap_ms=500, tokens=60)
QUICK_CROWD = replace(CROWD, streams=2_000, tokens=20)


@dataclass(frozen=True)
class Paced:
    """A load with a pace: pairs of a short and a long run, and the floor client once."""

    cpu: Spread  # s per EVENTS, from each pair
    long: tuple[LoadlibRun, ...]
    floor: FloorRun | None
    late_us: float | None  # of the server's own sends, p99, the latest

    def errors(self, name: str) -> Spread | None:
        """A field of `Errors`, of every long run; None when one of them is unknown."""
        values = [getattr(run.errors, name) for run in self.long]
        return None if None in values else Spread(tuple(values))

    def remarks(self) -> str:
        """What the runs say about themselves, and how late the server was."""
        said = list(dict.fromkeys(filter(None, (run.remarks() for run in self.long))))
        if self.late_us is not None:
            said.append(_lateness(self.late_us))
        return "; ".join(said)


@dataclass
class Bench:
    """The lab, and what several bars share, so that nothing is measured twice."""

    lab: Lab
    _paced: dict[tuple[Shape, int], Paced] = field(default_factory=dict)

    def paced(self, shape: Shape, n_processes: int = 1) -> Paced:
        """Short and long runs of a shape, three pairs of them (`--quick`: one, shorter)."""
        key = shape, n_processes
        if key not in self._paced:
            self._paced[key] = self._measure(shape, n_processes)
        return self._paced[key]

    def _measure(self, shape: Shape, n_processes: int) -> Paced:
        lab = self.lab
        pairs, short_s, long_s = (1, 3, 9) if lab.quick else (3, 5, 25)
        slopes, long_runs = [], []
        with lab.serve(shape) as server:
            floor = None
            if n_processes == 1:
                floor = lab.floor(server, shape, duration_s=long_s / 2)
            for _ in range(pairs):
                short, long = (
                    lab.loadlib(server, shape, duration_s=seconds, n_processes=n_processes)
                    for seconds in (short_s, long_s)
                )
                slopes.append(slope(short.by_event, long.by_event, EVENTS))
                long_runs.append(long)
        late = [run.truth.late_us_p99 for run in long_runs if run.truth.late_us_p99 is not None]
        return Paced(Spread(tuple(slopes)), tuple(long_runs), floor, max(late, default=None))


def _lateness(late_us: float) -> str:
    return f"server's own sends late by {number(late_us / 1000)} ms at p99"


def _of(spread: Spread | None, **fields: Any) -> Row:
    """A row of a figure that was measured several times."""
    if spread is None:
        return Row(value=None, **fields)
    return Row(value=spread.middle, range=spread.range, **fields)


def _paced_rows(
    bench: Bench, name: str, shape: Shape, cpu_limit: float, *, judge_delivered: bool
) -> Iterable[Row]:
    paced = bench.paced(shape)
    floor = paced.floor
    head = f"{shape.streams} streams × {1000 / shape.gap_ms:g} events/s"
    figures = {
        "TTFT p50 error": ("ttft_p50_error_ms", floor and floor.ttft_error_ms(0.5)),
        "TTFT p99 error": ("ttft_p99_error_ms", floor and floor.ttft_error_ms(0.99)),
        "icl p99 error": ("icl_p99_error_ms", floor and floor.icl_error_ms(0.99)),
    }
    note = paced.remarks()
    for what, (figure, of_floor) in figures.items():
        spread = paced.errors(figure)
        yield _of(
            spread,
            bar=name,
            what=f"{head}: {what}",
            unit="ms",
            limit=0.3,
            floor=of_floor,
            note=note,
        )
        note = ""
    shares = [run.delivered(shape) for run in paced.long]
    known = [100 * share for share in shares if share is not None]
    of_floor = floor.delivered(shape) if floor else None
    yield _of(
        Spread(tuple(known)) if known else None,
        bar=name,
        what=f"{head}: delivered of offered events",
        unit="%",
        limit=99.0 if judge_delivered else None,
        at_least=True,
        floor=None if of_floor is None else 100 * of_floor,
        note=f"offered {shape.events_per_s:,.0f}/s",
    )
    yield _of(
        paced.cpu,
        bar=name,
        what=f"{head}: CPU per 100k events",
        unit="s",
        limit=cpu_limit,
        floor=floor.cpu_s_per(EVENTS) if floor else None,
        relative=True,
    )


def paced_100(bench: Bench) -> Iterable[Row]:
    return _paced_rows(bench, "paced-100", MILD, 2.2, judge_delivered=False)


def paced_400(bench: Bench) -> Iterable[Row]:
    return _paced_rows(bench, "paced-400", BUSY, 1.5, judge_delivered=True)


def saturated(bench: Bench) -> Iterable[Row]:
    """As fast as one core takes it, with answers of the paced length and with long ones."""
    lab = bench.lab
    seconds = 3 if lab.quick else 10
    for shape, limit in ((SATURATED, 100_000.0), (replace(SATURATED, tokens=1000), None)):
        with lab.serve(shape) as server:
            floor = lab.floor(server, shape, duration_s=seconds)
            run = lab.loadlib(server, shape, duration_s=seconds)
        yield Row(
            bar="saturated",
            what=f"saturated, answers of {shape.tokens} tokens",
            unit="events/s",
            value=run.events_per_s(),
            limit=limit,
            at_least=True,
            floor=floor.events_per_s if floor else None,
            relative=True,
        )


def two_processes(bench: Bench) -> Iterable[Row]:
    """The same load by two workers on the same core: what sharing costs, and whether it adds up."""
    one, two = bench.paced(BUSY), bench.paced(BUSY, n_processes=2)
    ratio = two.cpu.middle / one.cpu.middle
    yield Row(
        bar="two-processes",
        what="400 streams, two processes: CPU per 100k events / of one",
        unit="×",
        value=ratio,
        limit=1.1,
        note=f"{two.cpu.middle:.2f} s against {one.cpu.middle:.2f} s",
    )
    missing = sum(abs(run.requests - len(run.truth.requests)) for run in two.long)
    lost = sum(abs(run.events - run.truth.events) for run in two.long)
    sent = sum(run.requests for run in two.long)
    yield Row(
        bar="two-processes",
        what="… requests and events that server and client count apart",
        unit="",
        value=missing + lost,
        limit=0,
        note=f"of {sent:,} requests",
    )


def long_prompts(bench: Bench) -> Iterable[Row]:
    """128k tokens, 8 in flight."""
    lab = bench.lab
    workload = {"kind": "long_context", "prompt_tokens": LONG_TOKENS}
    few, many = (40, 160) if lab.quick else (100, 600)
    command = [sys.executable, "-m", "benchmarks.prompt_cost", LONG_TOKENS]
    cost = processes.run(command, lab.cores.client, lab.fresh_folder())
    if cost.code:
        raise MeasurementError(cost.err)
    build_ms, body_bytes = cost.out.split()
    with lab.serve(LONG) as server:
        floor = lab.floor(server, LONG, requests=many, body_bytes=int(body_bytes))
        short = lab.loadlib(server, LONG, requests=few, workload=workload)
        long = lab.loadlib(server, LONG, requests=many, workload=workload)
    per_request_ms = 1000 * slope(short.by_request, long.by_request)
    head = f"128k prompts ({int(body_bytes) / 1000:.0f} kB), 8 in flight"
    yield Row(
        bar="long-prompts",
        what=f"{head}: TTFT p99 error",
        unit="ms",
        value=long.errors.ttft_p99_error_ms,
        limit=3,
        floor=floor.ttft_error_ms(0.99) if floor else None,
        note=long.remarks(),
    )
    yield Row(
        bar="long-prompts",
        what=f"{head}: CPU per request beyond building it",
        unit="ms",
        value=per_request_ms - float(build_ms),
        limit=5,
        floor=1000 * floor.cpu_s_per_request if floor else None,
        relative=True,
        note=f"building it: {float(build_ms):.2f} ms",
    )
    checks = {check["name"]: check["value"] for check in long.checks()}
    lag = checks.get("hub_lag_p99_ms")
    yield Row(
        bar="long-prompts",
        what=f"{head}: longest hub stall",
        unit="ms",
        value=checks.get("hub_lag_max_ms"),
        limit=10,
        note="" if lag is None else f"p99 {lag:.2f} ms",
    )


def memory(bench: Bench) -> Iterable[Row]:
    """The peak of a run, a hundredfold apart in length."""
    lab = bench.lab
    few, many = (5_000, 50_000) if lab.quick else (10_000, 1_000_000)
    with lab.serve(TINY) as server:
        short = lab.loadlib(server, TINY, requests=few, within_s=600)
        long = lab.loadlib(server, TINY, requests=many, within_s=7200)
    small, large = short.cost.peak_mib, long.cost.peak_mib
    yield Row(
        bar="memory",
        what=f"peak resident memory, {many:,} / {few:,} requests",
        unit="×",
        value=large / small,
        limit=1.1,
        note=f"{large:.0f} MiB against {small:.0f} MiB; {many / long.cost.wall_s:,.0f} requests/s",
    )


def burnt(bench: Bench) -> Iterable[Row]:
    """Half of the client's core is taken away. The figures must hold, and health must say so."""
    lab = bench.lab
    with lab.serve(MILD) as server, burner(lab.cores.client):
        floor = lab.floor(server, MILD, duration_s=5)
        run = lab.loadlib(server, MILD, duration_s=8 if lab.quick else 25)
    head = "100 streams beside a busy loop on the core"
    for p in (50, 99):
        yield Row(
            bar="burner",
            what=f"{head}: TTFT p{p} error",
            unit="ms",
            value=getattr(run.errors, f"ttft_p{p}_error_ms"),
            limit=1,
            floor=floor.ttft_error_ms(p / 100) if floor else None,
        )
    named = [c for c in run.checks() if c["status"] != "ok" and "cpu" in c["name"]]
    text = "; ".join(f"{c['name']} {c['value']:g}: {c.get('remedy', '')}" for c in named)
    yield Row(
        bar="burner",
        what=f"{head}: health says so (1: yes)",
        unit="",
        value=len(named) > 0,
        limit=1,
        at_least=True,
        note=text or f"health: {run.summary['health']['status']}",
    )


def replayed(bench: Bench) -> Iterable[Row]:
    return replay_azure(bench.lab)


def crowd(bench: Bench) -> Iterable[Row]:
    """10,000 streams, each of them slow."""
    lab = bench.lab
    shape = QUICK_CROWD if lab.quick else CROWD
    with lab.serve(shape) as server:
        floor = lab.floor(server, shape, duration_s=shape.cycle_s / 2)
        run = lab.loadlib(server, shape, duration_s=2 * shape.cycle_s, within_s=600)
    head = f"{shape.streams:,} streams × {1000 / shape.gap_ms:g} events/s"
    late = run.truth.late_us_p99
    note = run.remarks() or "health ok"
    if late is not None:
        note += f"; {_lateness(late)}"
    yield Row(
        bar="crowd",
        what=f"{head}: TTFT p99 error",
        unit="ms",
        value=run.errors.ttft_p99_error_ms,
        limit=2,
        floor=floor.ttft_error_ms(0.99) if floor else None,
        note=note,
    )
    yield Row(
        bar="crowd",
        what=f"{head}: TTFT p50 error",
        unit="ms",
        value=run.errors.ttft_p50_error_ms,
        floor=floor.ttft_error_ms(0.5) if floor else None,
    )
    share = run.delivered(shape)
    yield Row(
        bar="crowd",
        what=f"{head}: delivered of offered events",
        unit="%",
        value=None if share is None else 100 * share,
        at_least=True,
    )


def start_up(bench: Bench) -> Iterable[Row]:
    """From the command to the first completion request; the best of three."""
    lab = bench.lab
    own, demo = [], []
    for _ in range(3):
        with lab.serve(replace(MILD, tokens=4)) as server:
            command = [
                *LOADLIB,
                "run",
                "--base-url",
                server.base_url,
                "--model",
                "truth",
                "--rate",
                "10/s",
                "--requests",
                3,
                "--out",
                "runs",
            ]
            cost = processes.run(command, lab.cores.client, lab.fresh_folder())
            arrivals = [request.arrival_ns for request in fetch(server.base_url).requests]
        if not arrivals:
            raise MeasurementError(f"no request arrived:\n{cost.err[-2000:]}")
        own.append((min(arrivals) - cost.begun_ns) / 1e9)
        demo.append(_demo_start_s(lab))
    yield Row(
        bar="start-up",
        what="start-up to the first request, `--base-url … --model …`",
        unit="s",
        value=min(own),
        limit=2,
        range=(min(own), max(own)),
    )
    yield Row(
        bar="start-up",
        what="start-up to the first request, demo.yaml with its simulator",
        unit="s",
        value=min(demo),
        limit=2,
        range=(min(demo), max(demo)),
    )


def _demo_start_s(lab: Lab) -> float:
    """The README's first command on all cores, its phases cut short; by the run's own clock."""
    folder = lab.fresh_folder()
    command = [
        *LOADLIB,
        "run",
        processes.ROOT / "scenarios/demo.yaml",
        "--out",
        "runs",
        "--set",
        "load.0.duration=1s",
        "--requests",
        1,
    ]
    epoch_ns = time.time_ns() - time.monotonic_ns()
    cost = processes.run(command, None, folder)
    path = folder / "runs" / "latest" / "requests.jsonl.gz"
    if not path.exists():
        raise MeasurementError(f"the demo made no run folder:\n{cost.err[-2000:]}")
    first_ns = min(sample.sent_ns for sample in rows.read(path) if sample.sent_ns is not None)
    return (first_ns - epoch_ns - cost.begun_ns) / 1e9


def simulator(bench: Bench) -> Iterable[Row]:
    """How much the simulator itself can send, asked by the floor client."""
    lab = bench.lab
    shape = Shape(32, tokens=100)
    command = [*LOADLIB, "simulate", "--profile", "instant", "--port", 0]
    ready = "loadlib simulator listening on "
    with processes.started(command, lab.cores.server, until=ready) as (_, line):
        port = int(line.strip().removesuffix("/v1").rpartition(":")[2])
        figures = lab.floor_alone(port, shape, duration_s=3 if lab.quick else 10)
    yield Row(
        bar="simulator",
        what="the simulator, profile instant, 32 streams of 100 tokens",
        unit="events/s",
        value=figures["events"] / figures["wall_s"] if figures else None,
        note="asked by the floor client" if figures else "needs a C compiler",
    )


def report(bench: Bench) -> Iterable[Row]:
    """How long the pages of a run folder take; the best of three."""
    run = bench.paced(BUSY).long[-1]
    walls = []
    for _ in range(3):
        folder = bench.lab.fresh_folder()
        cost = processes.run([*LOADLIB, "report", run.folder], bench.lab.cores.client, folder)
        if cost.code:
            raise MeasurementError(f"loadlib report failed:\n{cost.err[-2000:]}")
        walls.append(cost.wall_s)
    size = (run.folder / "report.html").stat().st_size
    yield Row(
        bar="report",
        what="`loadlib report` of a run folder, start included",
        unit="s",
        value=min(walls),
        range=(min(walls), max(walls)),
        note=f"{run.requests:,} requests, {size / 1024:.0f} KiB of page",
    )


BARS: dict[str, Callable[[Bench], Iterable[Row]]] = {
    "paced-100": paced_100,
    "paced-400": paced_400,
    "saturated": saturated,
    "two-processes": two_processes,
    "long-prompts": long_prompts,
    "memory": memory,
    "burner": burnt,
    "replay-azure": replayed,
    "held": lambda bench: held(bench.lab),
    "master": lambda bench: master(bench.lab),
    "crowd": crowd,
    "start-up": start_up,
    "simulator": simulator,
    "report": report,
    "report-million": lambda bench: million.report(bench.lab),
}
