"""The simulator as a process of its own, for `target: simulator`."""

from __future__ import annotations

import atexit
import subprocess
import sys
from collections.abc import Sequence
from functools import cached_property

from loadlib.errors import ExitCode, PreflightError, UsageError

PREFIX = "loadlib simulator listening on "
STOP_S = 5.0


class Simulator:
    """Started on a free loopback port; stopped with this process at the latest."""

    def __init__(self, options: Sequence[str] = ()) -> None:
        """`options` are those of `loadlib simulate`."""
        command = [sys.executable, "-m", "loadlib.simulator", "--port", "0", *options]
        # In a session of its own: Ctrl-C is for the run, whose last streams still need a server.
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [*command, "--exit-with-parent"],
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        atexit.register(self.stop)

    @cached_property
    def base_url(self) -> str:
        """Where it listens; waits until it does, half a second after its start.

        Raises:
            UsageError: it does not take its options.
            PreflightError: it has ended instead.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode(errors="replace").strip()
        if line.startswith(PREFIX):
            return line.removeprefix(PREFIX)
        self.stop()
        if self._process.returncode == ExitCode.USAGE:  # it has said why
            raise UsageError("`simulator:` of the scenario is not what the simulator takes")
        raise PreflightError(f"the simulator did not start{': ' + line if line else ''}")

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self._process.poll() is None

    def stop(self) -> None:
        """End the process; safe to call twice."""
        atexit.unregister(self.stop)
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
