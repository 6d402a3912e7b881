"""Several workers and their master: whether the load is held, and what the master costs."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import processes
from benchmarks.arithmetic import Shape
from benchmarks.lab import FIGURES, LOADLIB, MODEL, Lab, Server
from benchmarks.processes import MeasurementError
from benchmarks.table import Row

STREAMS, WORKERS = 800, 2
HELD = Shape(STREAMS, ttft_ms=200, gap_ms=20, tokens=100)
RECORDED = Shape(100, ttft_ms=200, gap_ms=20, tokens=50)
STAND_INS = 20
CPU_LIMIT = 20.0  # % of a core
TICKS = os.sysconf("SC_CLK_TCK")


def held(lab: Lab) -> Iterable[Row]:
    """2 workers × 400 streams on both cores, the server on one of them, for ten minutes."""
    short_s, long_s = (10, 30) if lab.quick else (60, 600)
    with lab.serve(HELD) as server:
        short, long = (
            lab.loadlib(server, HELD, duration_s=seconds, n_processes=WORKERS, pinned=False)
            for seconds in (short_s, long_s)
        )
    bar, head = "held", f"{WORKERS} workers × {STREAMS // WORKERS} streams, {long_s} s"
    yield Row(
        bar=bar,
        what=f"{head}: requests and events that server and client count apart",
        unit="",
        value=abs(long.requests - len(long.truth.requests)) + abs(long.events - long.truth.events),
        limit=0,
        note=f"of {long.requests:,} and {long.events:,}; {long.remarks()}",
    )
    lost = [check for check in long.checks() if check["name"] in ("lost_samples", "sequence_gaps")]
    yield Row(
        bar=bar,
        what="… samples lost, reports missing",
        unit="",
        value=sum(check["value"] for check in lost),
        limit=0,
    )
    yield Row(
        bar=bar,
        what=f"… peak memory of a process, against {short_s} s",
        unit="×",
        value=long.cost.peak_mib / short.cost.peak_mib,
        limit=1.1,
        note=f"{long.cost.peak_mib:.0f} MiB against {short.cost.peak_mib:.0f} MiB",
    )


def master(lab: Lab) -> Iterable[Row]:
    """A master with twenty workers: real reports, sent again by stand-ins."""
    seconds = 10 if lab.quick else 60
    with lab.serve(RECORDED) as server:
        shard = _shard(lab, server)
        found = _mastered(lab, server, shard, seconds)
    yield Row(
        bar="master",
        what=f"a master with {STAND_INS} workers: CPU",
        unit="% of a core",
        value=100 * found["cpu_s"] / found["wall_s"],
        limit=CPU_LIMIT,
        note=f"{found['requests'] / seconds:,.0f} requests/s in {found['groups']} groups; peak "
        f"{found['peak_mib']:.0f} MiB",
    )
    yield Row(
        bar="master",
        what="… requests that workers and master count apart",
        unit="",
        value=abs(found["requests"] - found["merged"]),
        limit=0,
        note=f"of {found['requests']:,}",
    )


def _scenario(lab: Lab, server: Server, seconds: float) -> Path:
    """Two models × two workloads, so that there is more than one histogram of each metric."""
    shape = {"output_tokens": RECORDED.tokens}
    text = {
        "version": 1,
        "name": "master",
        "target": "live",
        "models": [{**MODEL, "name": name, "base_url": server.base_url} for name in ("a", "b")],
        "workloads": {"chat": {"kind": "chat", **shape}, "more": {"kind": "chat", **shape}},
        "load": [{"phase": "measure", "arrival": "closed", "users": RECORDED.streams // 2,
                  "duration": f"{seconds}s"}],
        "slo": ["all: ttft < 800ms, goodput >= 50%"],
    }  # fmt: skip
    path = lab.fresh_folder() / "scenario.yaml"
    path.write_text(json.dumps(text, indent=1))
    return path


def _shard(lab: Lab, server: Server) -> Path:
    """What one worker reports in a few seconds of real load."""
    path = _scenario(lab, server, 10)
    command = [*LOADLIB, "run", path.name, "--out", "runs", "--json", "--processes", 1]
    cost = processes.run(command, lab.cores.client, path.parent)
    if cost.code not in FIGURES:
        raise MeasurementError(f"loadlib run ended with exit code {cost.code}:\n{cost.err[-2000:]}")
    (found,) = (path.parent / "runs" / "latest" / "shards").iterdir()
    return found


def _mastered(lab: Lab, server: Server, shard: Path, seconds: int) -> Mapping[str, Any]:
    path = _scenario(lab, server, seconds)
    port = _free_port()
    command = [
        *LOADLIB, "run", path.name, "--out", "runs", "--json", "--",
        "--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", port,
        "--expect-workers", STAND_INS,
    ]  # fmt: skip
    workers = [
        sys.executable, "-m", "benchmarks.stand_ins", "--port", port, "--workers", STAND_INS,
        "--shard", shard, "--seconds", seconds,
    ]  # fmt: skip
    with (
        processes.running(command, lab.cores.client, path.parent) as one,
        processes.started(workers, lab.cores.server, until='{"begun"', within_s=60) as (others, _),
    ):
        before = _cpu_s(one.pid), processes.now_s()
        told = json.loads(_line(others))
        cpu_s, wall_s = _cpu_s(one.pid) - before[0], processes.now_s() - before[1]
        peak_mib = _peak_mib(one.pid)
        _line(others)  # confirmed
        if one.wait(120) not in FIGURES:
            raise MeasurementError((path.parent / "stderr").read_text()[-2000:])
    summary = json.loads((path.parent / "stdout").read_text())
    merged = sum(group["requests"]["ok"] for group in summary["groups"])
    return {"cpu_s": cpu_s, "wall_s": wall_s, "peak_mib": peak_mib, "merged": merged,
            "requests": told["requests"], "groups": len(summary["groups"])}  # fmt: skip


def _line(process: Any) -> str:
    line: str = process.stdout.readline()
    if not line:
        raise MeasurementError("the stand-ins ended early")
    return line


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _peak_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
