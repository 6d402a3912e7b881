"""The ladder: the public command against a truth server, at rising load, until it is in doubt."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from select import select
from typing import Any

from loadlib import run as runs
from loadlib.calibrate import truth as truths
from loadlib.calibrate.truth import Errors, Truth
from loadlib.calibration import EVENTS_PER_S, Calibration, Step, machine
from loadlib.errors import ExitCode, PreflightError
from loadlib.run import Run
from loadlib.summary import Group

STREAMS = (25, 50, 100, 200, 400, 800)
QUICK_STREAMS = (25, 100, 400)
MEASURE_S, QUICK_MEASURE_S = 8.0, 4.0
TTFT_MS, TOKENS, SPREAD = 200, 100, 0.5
STREAM_S = (TTFT_MS + TOKENS * 1000 / EVENTS_PER_S) / 1000  # from arrival to the last event
WARMUP_S = STREAM_S + 0.8  # then as many streams end as begin
START_S = 30.0  # until a server's first line
START_UP_VARIES = 0.1  # share by which the CPU of a start-up differs between runs
GRACE_S = 90.0  # start, report and a slow machine, beside the load itself
JUDGED = (ExitCode.PASS, ExitCode.SLO_FAILED, ExitCode.INCONCLUSIVE)
_POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """What is tried: so many streams, each step for so long, with so many worker processes."""

    streams: tuple[int, ...] = STREAMS
    measure_s: float = MEASURE_S
    processes: int | None = None

    @property
    def flags(self) -> tuple[str, ...]:
        """What every run is given beside its scenario."""
        return () if self.processes is None else ("--processes", str(self.processes))

    def measure_for(self, streams: int) -> float:
        """Long enough for a p99 that is not simply the slowest request, where time allows."""
        return min(max(self.measure_s, 120 * STREAM_S / streams), 1.5 * self.measure_s)


def calibrate(ladder: Ladder, tell: Callable[[str], object]) -> Calibration:
    """Climb until a step is in doubt twice; `tell` is told what is under way.

    A moment of somebody else's work on the machine must not decide: a step in doubt is tried
    once more, and the second attempt counts.

    Raises:
        PreflightError: a server or a run could not be started, or a run did not end properly.
    """
    began = datetime.now(UTC)
    here = machine()
    with tempfile.TemporaryDirectory(prefix="loadlib-calibrate-") as folder:
        steps = tuple(climb(ladder, Path(folder), tell))
    return Calibration(
        machine=here,
        processes=(here.cpus or 1) if ladder.processes == -1 else (ladder.processes or 1),
        calibrated_at=began.isoformat(timespec="seconds").replace("+00:00", "Z"),
        steps=steps,
    )


def climb(ladder: Ladder, folder: Path, tell: Callable[[str], object]) -> Iterator[Step]:
    """One step after the other, up to the first that stays in doubt."""
    tell("start-up of a run, to be subtracted from its CPU")
    with truth_server(folder, "--ttft-ms", "10", "--gap-ms", "1", "--tokens", "2") as url:
        plan = _scenario(url, 20, {"requests": 1}, {"requests": 1}, 10)
        idle = _run(folder / "start-up", plan, *ladder.flags)
    pace = ("--ttft-ms", TTFT_MS, "--gap-ms", 1000 / EVENTS_PER_S, "--tokens", TOKENS)
    with truth_server(folder, *map(str, pace), "--spread", str(SPREAD)) as url:
        for streams in ladder.streams:
            step = _attempt(streams, ladder, url, folder / f"{streams}", idle.cpu_s, tell)
            if step.doubts:
                tell(f"in doubt ({step.doubts[0]}): once more")
                step = _attempt(streams, ladder, url, folder / f"{streams}", idle.cpu_s, tell)
            yield step
            if step.doubts:
                return


def _attempt(
    streams: int,
    ladder: Ladder,
    url: str,
    folder: Path,
    idle_cpu_s: float,
    tell: Callable[[str], object],
) -> Step:
    seconds = ladder.measure_for(streams)
    tell(f"{streams:,} streams × {EVENTS_PER_S} events/s, {WARMUP_S + seconds:.0f} s")
    truths.fetch(url)  # nothing of the step before
    warmup, measure = _lasting(WARMUP_S), _lasting(seconds)
    plan = _scenario(url, streams / STREAM_S, warmup, measure, 2 * streams + 10)
    done = _run(folder, plan, *ladder.flags, load_s=WARMUP_S + seconds)
    step = step_of(streams, done, truths.fetch(url), idle_cpu_s)
    shutil.rmtree(folder)
    return step


def _lasting(seconds: float) -> dict[str, Any]:
    return {"duration": f"{round(seconds * 1000)}ms"}


def _scenario(
    url: str, rate: float, warmup: dict[str, Any], measure: dict[str, Any], ceiling: int
) -> dict[str, Any]:
    """Evenly spaced arrivals, so that as many streams as asked for are open at any time."""
    arrivals = {"arrival": "constant", "rate": f"{rate:.6f}/s", "max_in_flight": ceiling}
    return {
        "version": 1,
        "name": "calibrate",
        "models": [{"name": "truth", "base_url": f"{url}/v1"}],
        "workloads": {"chat": {"kind": "chat", "output_tokens": TOKENS}},
        "load": [{"phase": "warmup", **warmup, **arrivals},
                 {"phase": "measure", **measure, **arrivals}],
    }  # fmt: skip


# -- one step ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Done:
    """A run that has ended: its folder, and the CPU of all its processes in seconds."""

    folder: Path
    cpu_s: float


def step_of(streams: int, done: Done, served: Truth, idle_cpu_s: float) -> Step:
    """What a run's folder and its server's record say about this load."""
    run = runs.load(done.folder)
    errors = truths.errors(done.folder, served)
    (group,) = (group for group in run.summary.groups if group.kind == "measure")
    health = run.summary.health
    late_us = served.late_us_p99
    return Step(
        streams=streams,
        events_per_s=errors.events / group.duration_s if group.duration_s else 0.0,
        requests=errors.n,
        ttft_p50_error_ms=errors.ttft_p50_error_ms,
        ttft_p99_error_ms=errors.ttft_p99_error_ms,
        icl_p99_error_ms=errors.icl_p99_error_ms,
        ttft_p50_ms=errors.ttft_p50_ms,
        ttft_p99_ms=errors.ttft_p99_ms,
        icl_p99_ms=errors.icl_p99_ms,
        ttft_each_p99_ms=errors.ttft_each_p99_ms,
        delivered=delivered(group, errors),
        cpu_s_per_100k=cpu_s_per_100k(done.cpu_s, idle_cpu_s, served.events),
        server_late_p99_ms=None if late_us is None else late_us / 1000,
        health=health.status,
        health_reasons=tuple(_bad_checks(run)),
    )


def cpu_s_per_100k(cpu_s: float, start_up_s: float, events: int) -> float | None:
    """CPU seconds that 100,000 events took beyond those of a run that does next to nothing.

    None where there were no events, or so few that start-up alone varies by as much: it does so
    by some 10 % from run to run, and the difference of two such figures can even be negative.
    """
    own_s = cpu_s - start_up_s
    return 1e5 * own_s / events if events and own_s > START_UP_VARIES * start_up_s else None


def delivered(group: Group, errors: Errors) -> float | None:
    """Share of the offered events that arrived: requests sent in time × ok × their events."""
    requests, rates = group.requests, group.throughput
    if errors.delivered is None or not requests.scheduled or rates.offered_rps is None:
        return None
    in_time = min(1.0, (rates.achieved_rps or 0.0) / rates.offered_rps)
    return in_time * requests.ok / max(1, requests.sent) * errors.delivered


def _bad_checks(run: Run) -> Iterator[str]:
    for check in run.summary.health.checks:
        if check.status == "bad":
            yield f"{check.name} {check.value:g}" if check.value is not None else check.name


# -- processes -----------------------------------------------------------------------------------


def cores() -> tuple[set[int], set[int]] | None:
    """(the server's core, the client's cores); None where they have to share or cannot be bound."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    first, *rest = sorted(os.sched_getaffinity(0))
    return ({first}, set(rest)) if rest else None


def _bind(pid: int, part: int) -> None:
    split = cores()
    if split is not None:
        os.sched_setaffinity(pid, split[part])


@contextmanager
def truth_server(folder: Path, *flags: str) -> Iterator[str]:
    """A truth server on a core of its own, for as long as the block lasts; its URL."""
    command = [sys.executable, "-m", "loadlib.calibrate.server", "--exit-with-parent", *flags]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 — our own module
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
        )
    assert process.stdout is not None
    try:
        _bind(process.pid, 0)
        ready = select([process.stdout], (), (), START_S)[0]
        line = process.stdout.readline() if ready else b""
        try:
            port = json.loads(line)["port"]
        except ValueError:
            why = _last_line(folder / "server.log") or f"no word in {START_S:g} s"
            raise PreflightError(f"the truth server did not start: {why}") from None
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def _run(folder: Path, scenario: dict[str, Any], *flags: str, load_s: float = 0.0) -> Done:
    """`loadlib run` to its end, in a process of its own, on the cores the server leaves.

    Raises PreflightError for one that did not end with a judged run folder.
    """
    folder.mkdir()
    plan, out, log = folder / "calibrate.yaml", folder / "runs", folder / "run.log"
    plan.write_text(json.dumps(scenario), encoding="utf-8")  # JSON is YAML
    command = [sys.executable, "-m", "loadlib", "run", str(plan), "--out", str(out), "--no-report"]
    with log.open("wb") as said:
        process = subprocess.Popen(  # noqa: S603 — our own command
            [*command, *flags],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env=_environment(),
        )
    _bind(process.pid, 1)
    code, cpu_s = _ended(process, time.monotonic() + load_s + GRACE_S)
    if code not in JUDGED:
        raise PreflightError(f"a run ended with {code}: {_last_line(log) or 'without a word'}")
    try:
        return Done((out / "latest").resolve(strict=True), cpu_s)
    except OSError as error:
        raise PreflightError(f"a run left no run folder: {error}") from None


def _ended(process: subprocess.Popen[bytes], deadline_s: float) -> tuple[int, float]:
    """(exit code, CPU seconds of the process and of all it waited for), the process reaped."""
    try:
        while True:
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
            if pid:
                process.returncode = os.waitstatus_to_exitcode(status)
                return process.returncode, used.ru_utime + used.ru_stime
            if time.monotonic() > deadline_s:
                raise PreflightError("a run did not end in time: see whether the machine is busy")
            time.sleep(_POLL_S)
    finally:
        if process.returncode is None:  # Ctrl-C, or out of time: it writes its report and ends
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _environment() -> dict[str, str]:
    """This one without what would lead a run elsewhere."""
    unwanted = ("LOADLIB_", "LOCUST_", "GITHUB_STEP_SUMMARY")
    kept = {name: text for name, text in os.environ.items() if not name.startswith(unwanted)}
    return kept | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    return next(reversed(errors or [line for line in lines if line.strip()]), "")[:300]
