"""The commands of tests themselves: started by threads, and ended."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
import warm


def test_threads_that_start_commands_at_once_each_get_their_own() -> None:
    """An order is a head and a body: two threads' orders must not lie within each other."""

    def code(number: int) -> tuple[int, bool]:
        ended = warm.start("loadlib", f"no-such-command-{number}", env=os.environ)
        _, err = ended.communicate(60)
        return ended.wait(), f"no-such-command-{number}" in err

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(code, range(32))) == {(2, True)}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_is_how_a_command_ended(number: signal.Signals) -> None:
    child = warm.start("simulator", "--port", "0", env=os.environ)
    assert child.stdout is not None
    assert child.stdout.readline()  # it listens
    child.send_signal(number)
    child.communicate(60)
    assert child.wait() == (0 if number == signal.SIGTERM else -signal.SIGKILL)
