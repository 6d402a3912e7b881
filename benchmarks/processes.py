"""Child processes on a core of their own, and everything they cost until the last has ended."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
POLL_S = 0.05
START_S = 30.0
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of linux/prctl.h


class MeasurementError(Exception):
    """A measured command did not do what it was started for; the text is for people."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core serves and which one is measured."""

    server: int
    client: int


@dataclass(frozen=True, slots=True)
class Cost:
    """What a command and all its descendants used."""

    code: int
    cpu_s: float  # user and system, of all processes
    peak_mib: float  # resident, of the largest process
    wall_s: float
    begun_ns: int  # CLOCK_MONOTONIC, just before it was started
    out: str
    err: str


def two_cores() -> Cores:
    """The first and the last core this process may use; `MeasurementError` of a single one."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise MeasurementError("two cores are needed, one for the server and one for the client")
    return Cores(server=allowed[0], client=allowed[-1])


def prepare() -> None:
    """Once per process: as many open files as allowed, and orphans become our children."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    ctypes.CDLL(None, use_errno=True).prctl(_SUBREAPER, 1, 0, 0, 0)


def environment() -> dict[str, str]:
    """This one without keys and proxies; the package is the one beside this folder."""
    unwanted = ("_PROXY", "_API_KEY", "LOADLIB_SCENARIO", "GITHUB_STEP_SUMMARY")
    kept = {name: text for name, text in os.environ.items() if not name.upper().endswith(unwanted)}
    return {**kept, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}


def run(
    command: Sequence[object], core: int | None, folder: Path, *, within_s: float = 120.0
) -> Cost:
    """Run `command` to its end on one core; its output goes through files in `folder`.

    `MeasurementError` when it takes longer than `within_s`.
    """
    out, err = folder / "stdout", folder / "stderr"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        begun_ns = time.monotonic_ns()
        child = subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd=folder,
            env=environment(),
            start_new_session=True,  # its group is what has to end, and what is added up
            preexec_fn=_pinned(core),
        )
        code, cpu_s, peak_kib = _reap(child, begun_ns + int(within_s * 1e9))
    wall_s = (time.monotonic_ns() - begun_ns) / 1e9
    text = out.read_text(errors="replace"), err.read_text(errors="replace")
    if code is None:
        raise MeasurementError(
            f"{child.args!r} did not end within {within_s:.0f} s\n{text[1][-2000:]}"
        )
    return Cost(code, cpu_s, peak_kib / 1024, wall_s, begun_ns, *text)


def _reap(child: subprocess.Popen[bytes], deadline_ns: int) -> tuple[int | None, float, int]:
    """Exit code (None: killed at the deadline), CPU seconds and the largest peak of the group."""
    code, cpu_s, peak_kib, late = None, 0.0, 0, False
    while True:
        try:
            pid, status, used = os.wait4(-child.pid, os.WNOHANG)
        except ChildProcessError:
            return (None if late else code), cpu_s, peak_kib
        if pid:
            cpu_s += used.ru_utime + used.ru_stime
            peak_kib = max(peak_kib, used.ru_maxrss)
            if pid == child.pid:
                code = child.returncode = os.waitstatus_to_exitcode(status)
            continue
        if time.monotonic_ns() > deadline_ns and not late:
            late = True
            os.killpg(child.pid, signal.SIGKILL)
        time.sleep(POLL_S)


@contextmanager
def started(
    command: Sequence[object], core: int | None, *, until: str, within_s: float = START_S
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that serves while the block runs, and its first line, which begins with `until`."""
    child = subprocess.Popen(
        list(map(str, command)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        preexec_fn=_pinned(core),
    )
    try:
        assert child.stdout is not None
        ready = select.select([child.stdout], [], [], within_s)[0]
        line = child.stdout.readline() if ready else ""
        if not line.startswith(until):
            raise MeasurementError(f"{' '.join(map(str, command))} did not start: {line!r}")
        yield child, line
    finally:
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if child.stdout is not None:
            child.stdout.close()


@contextmanager
def running(
    command: Sequence[object], core: int | None, folder: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs while the block does; its output goes through files in `folder`."""
    with (folder / "stdout").open("wb") as stdout, (folder / "stderr").open("wb") as stderr:
        child = subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd=folder,
            env=environment(),
            preexec_fn=_pinned(core),
        )
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()


def now_s() -> float:
    """Monotonic seconds."""
    return time.monotonic()


@contextmanager
def burner(core: int) -> Iterator[None]:
    """Something that takes what it can get of a core."""
    busy = "print('burning', flush=True)\nwhile True: pass"
    with started([sys.executable, "-c", busy], core, until="burning"):
        yield


def last_json(text: str) -> Any:
    """The JSON value on the last line of an output."""
    return json.loads(text.strip().splitlines()[-1])


def _pinned(core: int | None) -> Any:
    return None if core is None else lambda: os.sched_setaffinity(0, {core})
