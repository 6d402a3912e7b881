"""`make demo-real`: real conversations on a real server, and its token counters must agree.

Starts tests/real_server.py, replays the first 30 conversations of a file with the public command
`loadlib run scenarios/real.yaml`, and compares the tokens of summary.json with what the server's
/metrics counted meanwhile. DATA=file chooses the conversations.
"""

# ruff: noqa: T201
from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from real_server import READY, missing

from loadlib import scenario as scenarios
from loadlib.errors import ExitCode, LoadlibError
from loadlib.workloads import chat, conversations

ROOT = Path(__file__).parent.parent
SCENARIO = ROOT / "scenarios" / "real.yaml"
SHARED = ROOT.parent / "shared" / "conversations" / "mtbench101.jsonl"
CONVERSATIONS = 30
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Tokens:
    """Sums over a whole run. `prompt` is without `cached`: that is how llama.cpp counts."""

    prompt: int
    cached: int
    output: int


@dataclass(frozen=True, slots=True)
class Replay:
    """A finished run, as loadlib and as the server saw it."""

    folder: Path
    exit_code: int
    wall_s: float
    summary: dict[str, Any]
    server: Tokens

    @property
    def ours(self) -> Tokens:
        """The tokens of summary.json."""
        sums = {
            kind: sum(group["tokens"][kind] or 0 for group in self.summary["groups"])
            for kind in ("input", "cached", "output")
        }
        return Tokens(sums["input"] - sums["cached"], sums["cached"], sums["output"])

    def faults(self) -> list[str]:
        """Why the counts prove nothing or differ; empty when they agree."""
        ours, server = self.ours, self.server
        sources = {group["tokens"]["source"] for group in self.summary["groups"]}
        faults = [
            f"{kind} tokens differ: summary.json {mine:,}, the server's /metrics {theirs:,}"
            for kind, mine, theirs in (
                ("prompt", ours.prompt, server.prompt),
                ("cached prompt", ours.cached, server.cached),
                ("output", ours.output, server.output),
            )
            if mine != theirs
        ]
        if sources != {"server"}:
            faults.append(f"token counts come from {sources}, not from the server")
        if not (ours.prompt and ours.output):
            faults.append("no token was counted")
        return faults


@contextmanager
def serving() -> Iterator[str]:
    """A real server in a process of its own; its base URL, which ends in /v1."""
    command = [sys.executable, str(ROOT / "tests" / "real_server.py"), "--exit-with-parent"]
    # In a session of its own: Ctrl-C is for the run, whose last streams still need a server.
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        try:
            ready, _, _ = select.select([process.stdout], [], [], START_TIMEOUT_S)
            line = process.stdout.readline() if ready else ""
            if not line.startswith(READY):
                raise RuntimeError(f"{' '.join(command)} did not start: {line!r}")
            yield line.removeprefix(READY).strip()
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()


def counters(base_url: str) -> Tokens:
    """What the server has counted since it started."""
    with urllib.request.urlopen(f"{base_url.removesuffix('/v1')}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    rows = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return Tokens(
        *(
            int(float(rows[f"llamacpp:{name}_total"]))
            for name in ("prompt_tokens", "prompt_tokens_cached", "tokens_predicted")
        )
    )


def requests_of(data: Path | None, count: int) -> int:
    """Requests that replay the first `count` conversations of a file, or of the built-in set."""
    workload = scenarios.load(SCENARIO).workloads["chat"]
    chosen = conversations.load(data or chat.BUILT_IN).conversations[:count]
    return sum(len(one.ends[: workload.turns]) for one in chosen)


def replay(
    base_url: str,
    out: Path,
    *,
    data: Path | None = None,
    count: int = CONVERSATIONS,
    changes: Sequence[str] = (),
) -> Replay:
    """Run the public command and look at both sides. `changes` are further `--set` of its."""
    if data is not None:
        changes = (f"workloads.chat.data={json.dumps(str(data.resolve()))}", *changes)
    command = [
        str(Path(sys.executable).with_name("loadlib")), "run", str(SCENARIO),
        "--base-url", base_url, "--requests", str(requests_of(data, count)), "--out", str(out),
        *(part for change in changes for part in ("--set", change)),
    ]  # fmt: skip
    before, began = counters(base_url), time.monotonic()
    exit_code = subprocess.run(command, check=False).returncode
    wall_s, after = time.monotonic() - began, counters(base_url)
    folder = (out / "latest").resolve()
    if exit_code in (ExitCode.INTERNAL, ExitCode.USAGE, ExitCode.PREFLIGHT):
        raise LoadlibError(f"loadlib run ended with exit code {exit_code}")
    return Replay(
        folder=folder,
        exit_code=exit_code,
        wall_s=wall_s,
        summary=json.loads((folder / "summary.json").read_bytes()),
        server=Tokens(
            after.prompt - before.prompt, after.cached - before.cached, after.output - before.output
        ),
    )


def chosen_data(environ: Mapping[str, str]) -> Path | None:
    """DATA, else the shared conversations where they are; None is the built-in set."""
    if environ.get("DATA"):
        return Path(environ["DATA"])
    return SHARED if SHARED.exists() else None


def report(run: Replay) -> None:
    """The figures, both sides of the comparison, and where to look."""
    group = run.summary["groups"][0]
    requests, metrics = group["requests"], group["metrics"]
    ours, server = run.ours, run.server
    print(f"""
requests        {requests["sent"]:,} sent, {requests["ok"]:,} ok, {run.wall_s:.0f} s in all
ttft p50        {_figure(metrics, "ttft", "p50")}
tokens/s        {_figure(metrics, "output_tok_s_user", "p50")} per user (p50), \
{group["throughput"]["output_tok_s"] or 0:.1f} in all
prompt tokens   {ours.prompt:,} in summary.json, {server.prompt:,} in the server's /metrics
cached tokens   {ours.cached:,} in summary.json, {server.cached:,} in the server's /metrics
output tokens   {ours.output:,} in summary.json, {server.output:,} in the server's /metrics
report          {run.folder / "report.html"}""")


def _figure(metrics: Mapping[str, Any], name: str, stat: str) -> str:
    stats = metrics.get(name) or {}
    return "unknown" if stats.get(stat) is None else f"{stats[stat]:.1f} {stats['unit']}"


def main() -> int:
    """The exit code of the run; 1 where the counts differ."""
    absent = missing()
    if absent:
        print(f"error: not installed: {', '.join(absent)} (see `make demo-real`)", file=sys.stderr)
        return ExitCode.PREFLIGHT
    # Ctrl-C is for the run, which then writes its report; this waits for it.
    signal.signal(signal.SIGINT, lambda *_: None)
    data = chosen_data(os.environ)
    print(f"conversations of {data or 'the built-in set'}, SmolLM2-135M on llama.cpp's server")
    try:
        with serving() as base_url:
            run = replay(base_url, Path("reports"), data=data)
    except LoadlibError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    report(run)
    faults = run.faults()
    for fault in faults:
        print(f"FAILED: {fault}", file=sys.stderr)
    if not faults:
        print("the counts agree")
    return ExitCode.INTERNAL if faults else run.exit_code


if __name__ == "__main__":
    sys.exit(main())
