"""Waking one greenlet at absolute instants, precisely and without burning the core meanwhile.

The event loop's own timers are late by up to a millisecond: `epoll_wait` counts in milliseconds.
On Linux a `timerfd` becomes readable at the instant itself, some 50 µs before Python has been
woken by it, at about 30 µs of CPU a wait. Elsewhere the last stretch is spent looking at the
clock between turns of the event loop: more precise still, for over a millisecond of CPU a wait.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from functools import cache
from typing import Any, Protocol

import gevent
from gevent.event import Event

from loadlib.swarm.yielding import look

NS = 1_000_000_000
SPIN_NS = 1_500_000  # so long before an instant a `Spinner` looks instead of sleeping
_CLOEXEC, _NONBLOCK = os.O_CLOEXEC, os.O_NONBLOCK  # TFD_* have the values of O_*
_ABSOLUTE = 1  # TFD_TIMER_ABSTIME
_READABLE = 1  # libev's EV_READ


class Alarm(Protocol):
    """Belongs to one greenlet; another one may `ring`. Instants are monotonic ns."""

    def wait_until(self, at_ns: int) -> None:
        """Return at `at_ns`, never earlier, or when someone rings. One past returns at once."""

    def ring(self) -> None:
        """End the wait that goes on now, or else the next one, at once."""

    def close(self) -> None:
        """No waits any more. A second call changes nothing."""


def alarm() -> Alarm:
    """The best alarm of this system, for the greenlet that calls it."""
    if sys.platform == "linux":
        try:
            return Timer()
        except (OSError, AttributeError):  # a sandbox without timerfd, a libc without the call
            pass
    return Spinner()


class Timer:
    """A `timerfd` in gevent's own loop. Raises OSError where the kernel has none to give."""

    def __init__(self) -> None:
        self._file = _create()
        self._sleeper: Any = None
        self._rung = False
        # Kept for the whole life of the alarm: an `epoll_ctl` more a wait would double its cost.
        self._watcher = gevent.get_hub().loop.io(self._file, _READABLE)
        self._watcher.start(self._due)

    def wait_until(self, at_ns: int) -> None:
        """See `Alarm`."""
        self._sleeper = gevent.getcurrent()
        try:
            while not self._rung and time.monotonic_ns() < at_ns:
                _set(self._file, at_ns)
                gevent.get_hub().switch()
        finally:
            self._sleeper, self._rung = None, False

    def ring(self) -> None:
        """See `Alarm`."""
        self._rung = True
        if self._watcher is not None:
            _set(self._file, 1)  # an instant long past: due at once

    def close(self) -> None:
        """See `Alarm`."""
        if self._watcher is None:
            return
        self._watcher.stop()
        self._watcher.close()
        self._watcher = None
        os.close(self._file)

    def _due(self) -> None:
        try:
            os.read(self._file, 8)  # how often it went off; until then it stays readable
        except BlockingIOError:
            return  # set anew between the kernel's word and ours
        if self._sleeper is not None:
            self._sleeper.switch()


class Spinner:
    """Sleeps until shortly before the instant, then looks at the clock."""

    def __init__(self) -> None:
        self._rung = Event()

    def wait_until(self, at_ns: int) -> None:
        """See `Alarm`."""
        while not self._rung.is_set():
            left_ns = at_ns - time.monotonic_ns()
            if left_ns <= 0:
                break
            if left_ns > SPIN_NS:
                self._rung.wait((left_ns - SPIN_NS) / NS)
            else:
                look()
        self._rung.clear()

    def ring(self) -> None:
        """See `Alarm`."""
        self._rung.set()

    def close(self) -> None:
        """See `Alarm`."""


if sys.version_info >= (3, 13) and sys.platform == "linux":

    def _create() -> int:
        return os.timerfd_create(time.CLOCK_MONOTONIC, flags=_CLOEXEC | _NONBLOCK)

    def _set(file: int, at_ns: int) -> None:
        os.timerfd_settime_ns(file, flags=_ABSOLUTE, initial=at_ns)

else:

    class _Timespec(ctypes.Structure):
        _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))

    class _Itimerspec(ctypes.Structure):
        _fields_ = (("it_interval", _Timespec), ("it_value", _Timespec))

    @cache
    def _libc() -> ctypes.CDLL:
        return ctypes.CDLL(None, use_errno=True)

    def _create() -> int:
        file: int = _libc().timerfd_create(time.CLOCK_MONOTONIC, _CLOEXEC | _NONBLOCK)
        if file < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        return file

    def _set(file: int, at_ns: int) -> None:
        spec = _Itimerspec(_Timespec(0, 0), _Timespec(*divmod(at_ns, NS)))
        if _libc().timerfd_settime(file, _ABSOLUTE, ctypes.byref(spec), None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")
