"""A load-generating process watches itself: does its event loop wake, does it get the CPU?

Notes it leaves with the recorder, read back in `summarise.readings`:

    hub_lag            µs, every 20 ms: how late the event loop woke (jHiccup's idea); while it
                       did not wake, what each 20 ms would have said
    gc_pause           µs, one per garbage collection: nothing else ran meanwhile
    cpu_permille       once a second: CPU time used, of one core
    cpu_wait_permille  once a second: time the main thread was ready to run and did not, because
                       something else had the core (Linux; elsewhere nothing is noted)
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Self

import gevent
from gevent.event import Event

from loadlib.recorder import Recorder

LAG_EVERY_NS = 20_000_000
CPU_EVERY_NS = 1_000_000_000
SCHEDSTAT = "/proc/self/schedstat"  # of the main thread: ns on the CPU, ns waiting for it, slices


def watch(recorder: Recorder, finished: Event) -> None:
    """Note what happens to this process until `finished`; runs in a greenlet of its own."""
    pauses = Pauses()
    gc.callbacks.append(pauses)
    try:
        with Waiting() as waiting:
            _watch(recorder, finished, pauses, waiting)
    finally:
        gc.callbacks.remove(pauses)


def _watch(recorder: Recorder, finished: Event, pauses: Pauses, waiting: Waiting) -> None:
    wall, cpu, waited = time.monotonic_ns(), time.process_time_ns(), waiting.total_ns()
    while not finished.is_set():
        due_ns = time.monotonic_ns() + LAG_EVERY_NS
        gevent.sleep(LAG_EVERY_NS / 1e9)
        now_ns = time.monotonic_ns()
        for late_ns in lateness(max(0, now_ns - due_ns)):
            recorder.note("hub_lag", late_ns // 1000)
        for pause_ns in pauses.take():
            recorder.note("gc_pause", pause_ns // 1000)
        if now_ns - wall < CPU_EVERY_NS:
            continue
        used, stood = time.process_time_ns(), waiting.total_ns()
        recorder.note("cpu_permille", 1000 * (used - cpu) // (now_ns - wall))
        if waited is not None and stood is not None:
            recorder.note("cpu_wait_permille", 1000 * max(0, stood - waited) // (now_ns - wall))
        wall, cpu, waited = now_ns, used, stood


def lateness(late_ns: int) -> range:
    """A late wake-up, and the looks it kept from happening: one of 200 ms hit whatever came in
    those 200 ms, not one moment of it."""
    return range(late_ns, -1 if late_ns < LAG_EVERY_NS else 0, -LAG_EVERY_NS)


class Pauses:
    """For `gc.callbacks`: how long each collection took, ns. Only remembers: a collection may
    begin inside anything, the recorder included."""

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._began_ns: int | None = None
        self._found: list[int] = []

    def __call__(self, moment: str, _info: object) -> None:
        """`moment` is `start` or `stop`."""
        if moment == "start":
            self._began_ns = self._clock()
        elif self._began_ns is not None:
            self._found.append(self._clock() - self._began_ns)
            self._began_ns = None

    def take(self) -> list[int]:
        """The pauses since the last call."""
        found, self._found = self._found, []
        return found


class Waiting:
    """For how long this process has stood in the kernel's run queue: ready, and not running."""

    def __init__(self, path: str = SCHEDSTAT) -> None:
        self._file: int | None = None
        with suppress(OSError):  # not Linux, or a kernel without CONFIG_SCHED_INFO
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def total_ns(self) -> int | None:
        """Nanoseconds since the process began; None where the kernel does not say."""
        if self._file is None:
            return None
        try:
            return int(os.pread(self._file, 128, 0).split()[1])
        except (OSError, ValueError, IndexError):
            return None
