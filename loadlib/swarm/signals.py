"""Ctrl-C, SIGTERM and errors that end the process: always in the main greenlet, never elsewhere.

Python raises KeyboardInterrupt wherever it happens to be, which may be a user's request or the
report being written. Here the first signal ends Locust's `main` the way its own Ctrl-C does, and
the second cancels the streams that the first one let finish.
"""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, NoReturn

import gevent
import psutil  # type: ignore[import-untyped]
from gevent.event import Event

from loadlib.errors import ExitCode, LoadlibError

WAIT = "streams in flight have 10 s to finish; a second one cancels them"
EARLY = "stopped before the first request; no report was written"

if TYPE_CHECKING:
    from loadlib.swarm.plugin import Plugin


_early: list[ExitCode] = []


def remember_early() -> None:
    """Until `Signals` stand, Ctrl-C is also written down: Python drops a KeyboardInterrupt that
    meets a callback of the garbage collector, and Locust collects at length before it forks."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
        _no_error()


def interrupted_early() -> bool:
    """Whether Ctrl-C came before `Signals` stood."""
    return bool(_early)


def _no_error() -> None:
    """Ctrl-C is a way to end a run, not an error worth a traceback."""
    hub = gevent.get_hub()
    if KeyboardInterrupt not in hub.NOT_ERROR:
        hub.NOT_ERROR = (*hub.NOT_ERROR, KeyboardInterrupt)


def _interrupt(_number: int, _frame: object) -> NoReturn:
    _early.append(ExitCode.SIGINT)
    raise KeyboardInterrupt


def end_children() -> None:
    """Workers that Locust forked would look for their master for minutes."""
    for child in psutil.Process().children():
        child.terminate()


class Signals:
    """Made in the main greenlet, where `got` signals arrive as KeyboardInterrupt or SystemExit."""

    def __init__(self, plugin: Plugin) -> None:
        self._plugin, self._main = plugin, gevent.getcurrent()
        self.got: ExitCode | None = None
        _no_error()
        gevent.signal_handler(signal.SIGTERM, self._on_signal, ExitCode.SIGTERM)
        gevent.signal_handler(signal.SIGINT, self._on_signal, ExitCode.SIGINT)
        if _early:
            self._on_signal(_early[0])

    def _on_signal(self, code: ExitCode) -> None:
        plugin = self._plugin
        if self.got is not None:
            if plugin.coordinator is not None:
                plugin.coordinator.hurry()
            elif plugin.worker is not None:
                plugin.worker.stop(0.0)
            return
        self.got = code
        if plugin.coordinator is not None and not plugin.coordinator.ended.is_set():
            sys.stderr.write(f"\n! {code.name}: {WAIT}\n")
        headless = plugin.options.headless and not plugin.starts and plugin.worker is None
        if headless and not plugin.options.worker:  # of several processes one says it
            sys.stderr.write(f"\n! {code.name}: {EARLY}\n")
            end_children()
        # Before the run there is nothing to save, and Locust would not expect the interrupt.
        end = SystemExit(int(code)) if headless else KeyboardInterrupt()
        gevent.kill(self._main, end)

    def only_in_main(self) -> None:
        """Locust answers SIGTERM by shutting down in a greenlet of its own, beside `main`: that
        one gets no further."""
        if gevent.getcurrent() is not self._main:
            Event().wait()  # an exception would reach `main`; so it sleeps until that one is done

    def give_up(self, error: LoadlibError) -> NoReturn:
        """A run cannot begin: headless this ends the process, the web UI stays."""
        sys.stderr.write(f"error: {error}\n")
        if self._plugin.options.headless:
            gevent.kill(self._main, SystemExit(int(error.exit_code)))
        raise gevent.GreenletExit
