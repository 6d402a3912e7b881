"""A process that has imported what commands import, and becomes one of them each time it forks.

`python warm_server.py KIND FD`: `warm.py` asks for commands through the socket FD. The child is a
process like any other: arguments, environment, folder, streams and session are its own. What it has
not done itself is the imports; and it ends without taking the interpreter apart, which costs as
much as a short command does.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

# As they are before gevent patches them: what waits for children here must be no event loop.
FORK, WAITPID, CLOSE = os.fork, os.waitpid, os.close
SELECT, SIGNAL, SOCKET = select.select, signal.signal, socket.socket

ENCODINGS = ("o200k_base", "cl100k_base")


def _commands() -> None:
    """What `loadlib …` and `locust …` import; `loadlib.swarm` is first, as it wants to be."""
    import loadlib.swarm.plugin  # noqa: I001
    import loadlib.cli
    import loadlib.compare
    import loadlib.probe
    import loadlib.report.html
    import loadlib.report.terminal  # noqa: F401

    _tokenizers()


def _simulators() -> None:
    import loadlib.simulator.__main__  # noqa: F401

    _tokenizers()


def _tokenizers() -> None:
    from loadlib import tokens

    for encoding in ENCODINGS:
        tokens.count("warm", encoding)


KINDS: dict[str, Callable[[], None]] = {"commands": _commands, "simulators": _simulators}
ENTRIES = {  # name of the program → what its console script calls
    "loadlib": ("loadlib.cli", "main"),
    "locust": ("locust.main", "main"),
    "simulator": ("loadlib.simulator.__main__", "main"),
}


def serve(control: SOCKET) -> Callable[[], Any] | None:
    """Start commands until nobody asks any more; in a child, what it has to call."""
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    SIGNAL(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    children: dict[int, SOCKET] = {}
    while True:
        ready, _, _ = SELECT([control, ended], [], [])
        if ended in ready:
            os.read(ended, 4096)
            _tell_ends(children)
        if control not in ready:
            continue
        found = _order(control)
        if found is None:
            return None
        order, fds = found
        child = FORK()
        if child == 0:
            signal.set_wakeup_fd(-1)
            SIGNAL(signal.SIGCHLD, signal.SIG_DFL)
            for held in (control, *children.values()):
                held.close()
            for fd in (ended, wake, fds[3]):
                CLOSE(fd)
            return _become(order, fds[:3])
        for fd in fds[:3]:
            CLOSE(fd)
        children[child] = told = SOCKET(fileno=fds[3])
        _say(told, child)


def _order(control: SOCKET) -> tuple[dict[str, Any], list[int]] | None:
    """The next command, with its streams and the socket on which its fate is told."""
    head, fds, _, _ = socket.recv_fds(control, 8, 4)
    if not head:
        return None
    rest = bytearray()
    while len(rest) < int(head):
        rest += control.recv(int(head) - len(rest))
    return json.loads(rest), fds


def _tell_ends(children: dict[int, SOCKET]) -> None:
    for child in list(children):
        pid, status = WAITPID(child, os.WNOHANG)
        if pid:
            with children.pop(child) as told:
                _say(told, os.waitstatus_to_exitcode(status))


def _say(told: SOCKET, number: int) -> None:
    with suppress(OSError):  # the test may be gone
        told.sendall(f"{number}\n".encode())


def _become(order: dict[str, Any], streams: list[int]) -> Callable[[], Any]:
    if order["session"]:
        os.setsid()
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
        CLOSE(fd)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    sys.argv = order["argv"]
    sys.path[0] = str(Path(sys.executable).parent)  # as for a console script
    module, name = ENTRIES[order["program"]]
    return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]


def main() -> None:
    KINDS[sys.argv[1]]()
    gc.collect()
    gc.freeze()  # what exists is shared with the children: none looks through it
    entry = serve(SOCKET(fileno=int(sys.argv[2])))
    if entry is not None:
        try:
            code = entry()
        except SystemExit as end:
            code = end.code
        _end(code)


def _end(code: object) -> NoReturn:
    """As the interpreter ends: threads, exit handlers, streams."""
    if isinstance(code, str):
        sys.stderr.write(f"{code}\n")
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    main()
