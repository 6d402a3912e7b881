"""`python -m benchmarks.million FOLDER [REQUESTS]`: a run folder of a million requests, made up.

Six models, two workloads, ten minutes; through the recorder and the writer that a run uses, so
that the folder is what a run would leave behind. What is measured is the report of it:
`python -m benchmarks --only report-million`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from benchmarks import processes
from benchmarks.lab import LOADLIB, Lab
from benchmarks.processes import MeasurementError
from benchmarks.table import Row
from loadlib import run as runs
from loadlib.gates import evaluate
from loadlib.health import Readings, judge
from loadlib.recorder import Recorder, Totals
from loadlib.sample import Outcome, Sample
from loadlib.slo import parse
from loadlib.summarise import Measured, Window, summarise
from loadlib.summary import Summary
from loadlib.verdict import verdict

REQUESTS, QUICK = 1_000_000, 50_000
SECONDS = 600
MODELS = ("gpt-4o-mini", "gpt-4o", "gpt-3.5-turbo", "gpt-4", "gemini-1.5-flash", "claude-3-haiku")
WORKLOADS = ("chat", "long")
NS, MS = 1_000_000_000, 1_000_000
START_NS = 1_767_225_600 * NS
EVENTS = 20
CHROMIUM = Path("/usr/bin/chromium")


def write(root: Path, requests: int) -> Path:
    """Make the folder in `root`; its path."""
    recorder, totals = Recorder(0), Totals()
    writer = runs.RunWriter.create(root, "version: 1\n", "million", ("loadlib", "run"))
    per_second, made = max(1, requests // SECONDS), _samples(requests)
    for second in range(SECONDS + 1):
        for _, (sample, events) in zip(range(per_second), made, strict=False):
            recorder.scheduled((sample.model, sample.workload, sample.phase), sample.intended_ns)
            recorder.add(sample, events)
        interval = recorder.drain(START_NS + (second + 1) * NS)
        writer.append(interval)
        totals.merge(interval)
    rates = dict.fromkeys(MODELS, requests / SECONDS / len(MODELS))
    window = Window(phase="measure", start_ns=START_NS, end_ns=START_NS + SECONDS * NS,
                    load="poisson", rates=rates)  # fmt: skip
    pairs = [(model, workload) for model in MODELS for workload in WORKLOADS]
    objectives = parse("chat: ttft.p99 < 800ms, error_rate < 1%", (*MODELS, *WORKLOADS))
    groups = summarise(totals, writer.samples(), [window], objectives, pairs=pairs)
    health = judge(Readings(arrival_lag_p99_ms=1.0, delivered_share=1.0))
    gates = evaluate(groups, objectives, Measured(totals, [window]))
    summary = Summary(name="million", groups=groups, gates=gates, health=health,
                      verdict=verdict(gates, health, groups))  # fmt: skip
    return writer.finish(summary, "complete", totals, [window])


def _samples(requests: int) -> Iterator[tuple[Sample, np.ndarray]]:
    dice = np.random.default_rng(42)
    steps = np.arange(EVENTS) * 20 * MS
    for i in range(requests):
        model, long = MODELS[i % 6], i % 10 == 0
        due = START_NS + i * SECONDS * NS // requests
        wait = int((120 + 60 * (i % 6)) * MS * (12 if long else 1) * dice.lognormal(0, 0.3))
        plain = {"index": i, "phase": "measure", "model": model,
                 "workload": WORKLOADS[long], "intended_ns": due, "sent_ns": due + 80_000,
                 "prompt_sha": f"{i:016x}", "prompt_bytes": 2000}  # fmt: skip
        if i % 400 == 0:
            yield Sample(**plain, outcome=Outcome.TIMEOUT, cause="idle", end_ns=due + 30 * NS,
                         error="no data for 30 s"), steps[:0]  # fmt: skip
            continue
        events = due + wait + steps
        yield Sample(
            **plain, outcome=Outcome.OK, status=200, first_byte_ns=due + wait - MS,
            first_token_ns=int(events[0]), second_token_ns=int(events[1]),
            last_token_ns=int(events[-1]), end_ns=int(events[-1]) + MS, events=EVENTS,
            longest_gap_ns=20 * MS,
            input_tokens=64_000 if long else 400, output_tokens=EVENTS, tokens_source="server",
            cost_usd=0.001,
        ), events  # fmt: skip


def report(lab: Lab) -> Iterable[Row]:
    """What the page of so many requests costs, and when it can be used."""
    requests = QUICK if lab.quick else REQUESTS
    made = processes.run(
        [sys.executable, "-m", "benchmarks.million", lab.fresh_folder(), requests],
        lab.cores.server, lab.fresh_folder(), within_s=1800,
    )  # fmt: skip
    if made.code:
        raise MeasurementError(f"no run folder:\n{made.err[-2000:]}")
    folder = Path(made.out.strip())
    command = [*LOADLIB, "report", folder]
    processes.run(command, lab.cores.client, lab.fresh_folder(), within_s=600)  # fills the cache
    cost = processes.run(command, lab.cores.client, lab.fresh_folder(), within_s=600)
    if cost.code:
        raise MeasurementError(f"loadlib report failed:\n{cost.err[-2000:]}")
    page = folder / "report.html"
    yield Row(
        bar="report-million",
        what=f"`loadlib report` of {requests:,} requests, start included",
        unit="s",
        value=cost.wall_s,
        limit=15,
        note=f"{cost.cpu_s:.1f} CPU s, 12 groups, {SECONDS} s",
    )
    yield Row(
        bar="report-million", what="… peak memory", unit="MiB", value=cost.peak_mib, limit=500
    )
    yield Row(bar="report-million", what="… page with scripts", unit="kB",
              value=page.stat().st_size / 1000, limit=2000)  # fmt: skip
    usable = opened(lab, page)
    if usable is not None:
        yield Row(bar="report-million", what="… until it can be used, in Chromium", unit="s",
                  value=usable["ready_s"], limit=1,
                  note=f"a chart answers {usable['answers_s']:.1f} s after the pointer came to it, "
                  "the library being unpacked first")  # fmt: skip
    static = processes.run([*command, "--static"], lab.cores.client, lab.fresh_folder(),
                           within_s=600)  # fmt: skip
    if static.code == 0:
        yield Row(bar="report-million", what="… page without scripts", unit="kB",
                  value=page.stat().st_size / 1000, limit=800)  # fmt: skip


def opened(lab: Lab, page: Path) -> dict[str, float] | None:
    """Seconds until the page's script is done, and until a chart answers; the middle of five."""
    if not CHROMIUM.exists():
        return None
    command = [sys.executable, "-m", "benchmarks.opened", page]
    found = processes.run(command, None, lab.fresh_folder(), within_s=300)
    return None if found.code else dict(json.loads(found.out))


if __name__ == "__main__":
    sys.stdout.write(f"{write(Path(sys.argv[1]), int((*sys.argv, REQUESTS)[2]))}\n")
