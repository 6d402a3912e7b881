"""A production trace through `loadlib run`: sent when it says, and as many tokens as it says.

The trace is data of others and not part of the project: `AzureLLMInferenceTrace_conv.csv` of
Azure/AzurePublicDataset, in ../shared/traces or where LOADLIB_TRACES points.
"""

from __future__ import annotations

import csv
import json
import math
import os
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from benchmarks import processes
from benchmarks.lab import FIGURES, LOADLIB, Lab
from benchmarks.processes import MeasurementError
from benchmarks.table import Row
from loadlib import rows
from loadlib.sample import Sample

NAME = "AzureLLMInferenceTrace_conv.csv"
MODEL = "gpt-4o-mini"
LIMIT_MS = 5.0
READY = "loadlib simulator listening on "


@dataclass(frozen=True)
class Totals:
    """What was to be sent, or was."""

    requests: int
    prompt: int
    output: int


@dataclass(frozen=True)
class Replayed:
    """One run over a part of the trace, with what the trace and the server say of it."""

    trace: Totals
    server: Totals
    samples: tuple[Sample, ...]

    def late_ms(self, p: float) -> float:
        """Sent − intended, nearest rank, of everything that was to be sent."""
        late = sorted(
            float("inf") if one.sent_ns is None else (one.sent_ns - one.intended_ns) / 1e6
            for one in self.samples
        )
        return late[max(0, math.ceil(p * len(late)) - 1)]

    @property
    def padding(self) -> Totals:
        """Requests shorter than a chat template, and by how much they were sent longer."""
        more = [
            one.cut_tokens - one.asked_tokens
            for one in self.samples
            if one.cut_tokens is not None and one.asked_tokens is not None
        ]
        return Totals(len(more), sum(more), 0)


def trace_path() -> Path:
    """Where the trace is, or would be."""
    folder = os.environ.get("LOADLIB_TRACES") or processes.ROOT.parent / "shared" / "traces"
    return Path(folder) / NAME


def totals(path: Path, seconds: float) -> Totals:
    """Of the first `seconds` of the trace, read without any of loadlib."""
    with path.open(newline="") as file:
        found = [
            # the seventh digit is 100 ns: no request stands that near to the end of a part
            (datetime.fromisoformat(row["TIMESTAMP"][:26]), *map(int, list(row.values())[1:]))
            for row in csv.DictReader(file)
        ]
    first = min(row[0] for row in found)
    part = [row for row in found if (row[0] - first).total_seconds() < seconds]
    return Totals(len(part), sum(row[1] for row in part), sum(row[2] for row in part))


def replayed(
    path: Path, folder: Path, base_url: str, seconds: int, core: int | None, speed: int = 1
) -> Replayed:
    """`loadlib run` over the first `seconds` of the trace."""
    scenario = {
        "version": 1,
        "name": "replay-azure",
        "models": [{"name": MODEL, "base_url": base_url, "context_window": 128_000}],
        # the simulator, like vLLM, then answers with exactly the cap
        "workloads": {
            "azure": {
                "kind": "replay", "data": str(path), "window": ["0s", f"{seconds}s"],
                "extra_body": {"ignore_eos": True},
            }
        },
        "load": [
            {"phase": "measure", "duration": f"{seconds / speed}s", "arrival": "trace",
             "speed": speed, "max_in_flight": 400},
        ],
    }  # fmt: skip
    file = folder / "scenario.yaml"
    file.write_text(json.dumps(scenario, indent=1))
    before = _served(base_url)
    command = [*LOADLIB, "run", file, "--out", folder / "runs", "--json"]
    cost = processes.run(command, core, folder, within_s=seconds + 120)
    if cost.code not in FIGURES:
        raise MeasurementError(f"loadlib run ended with {cost.code}:\n{cost.err[-2000:]}")
    after = _served(base_url)
    samples = tuple(rows.read(folder / "runs" / "latest" / "requests.jsonl.gz"))
    sent = sum(one.sent_ns is not None for one in samples)
    served = Totals(sent, after.prompt - before.prompt, after.output - before.output)
    return Replayed(totals(path, seconds), served, samples)


def _served(base_url: str) -> Totals:
    """The simulator's own counters."""
    with urllib.request.urlopen(base_url.removesuffix("/v1") + "/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()

    def count(name: str) -> int:
        found = [line.split()[-1] for line in lines if line.startswith((f"{name}{{", f"{name} "))]
        return round(sum(map(float, found)))

    prompt, output = "vllm:prompt_tokens_total", "vllm:generation_tokens_total"
    return Totals(0, count(prompt), count(output))


def replay_azure(lab: Lab) -> Iterable[Row]:
    """The first ten minutes of Azure's chat trace (`--quick`: the first)."""
    path = trace_path()
    if not path.exists():
        raise MeasurementError(f"{NAME} is not there: put it into {path.parent}")
    seconds = 60 if lab.quick else 600
    command = [*LOADLIB, "simulate", "--port", 0]
    with processes.started(command, lab.cores.server, until=READY) as (_, line):
        base_url = line.removeprefix(READY).strip()
        found = replayed(path, lab.fresh_folder(), base_url, seconds, lab.cores.client)
    bar, head = "replay-azure", f"first {seconds // 60} min of Azure's chat trace"
    worst, middle = found.late_ms(1), found.late_ms(0.5)
    yield Row(
        bar=bar,
        what=f"{head}: sent − instant, p99",
        unit="ms",
        value=found.late_ms(0.99),
        limit=LIMIT_MS,
        note=f"p50 {middle:.2f} ms, max {worst:.2f} ms",
    )
    yield Row(
        bar=bar,
        what="… requests not sent",
        unit="",
        value=found.trace.requests - found.server.requests,
        limit=0,
        note=f"of {found.trace.requests:,}",
    )
    pad = found.padding
    yield Row(
        bar=bar,
        what="… prompt tokens, server − trace − padding",
        unit="",
        value=found.server.prompt - found.trace.prompt - pad.prompt,
        limit=0,
        note=f"{found.trace.prompt:,} in the trace; {pad.requests} requests shorter than a "
        f"chat template were sent with {pad.prompt} more",
    )
    yield Row(
        bar=bar,
        what="… output tokens, server − trace",
        unit="",
        value=found.server.output - found.trace.output,
        limit=0,
        note=f"{found.trace.output:,} in the trace",
    )
