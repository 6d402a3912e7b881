"""An OpenAI-compatible server with known behaviour, on loopback: `serve` runs it until stopped."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from types import FrameType

from loadlib.errors import PreflightError, UsageError
from loadlib.simulator.app import Service, Settings
from loadlib.simulator.connection import listen
from loadlib.simulator.faults import NONE, Faults
from loadlib.simulator.pacer import new_loop
from loadlib.simulator.profiles import load as load_profile

__all__ = ["Faults", "serve"]

LOOPBACK = {"127.0.0.1": "127.0.0.1", "localhost": "127.0.0.1", "::1": "::1"}


def serve(
    port: int = 0,
    profile: str = "catalogue",
    seed: int = 0,
    *,
    host: str = "127.0.0.1",
    require_key: str | None = None,
    strict_models: bool = False,
    faults: Faults = NONE,
    exit_with_parent: bool = False,
) -> None:
    """Serve until SIGINT or SIGTERM, from the main thread; then return.

    Prints one line once requests are taken: `loadlib simulator listening on
    http://127.0.0.1:PORT/v1`. `port` 0 takes any free one. `profile` is `catalogue`, `instant`
    or a YAML file. `require_key` is the *name* of the environment variable whose value clients
    must send as bearer token. With `strict_models` names the profile does not list are 404.
    `exit_with_parent` ends the server when the process that started it has ended.

    Raises `UsageError` for a host other than loopback, a profile that cannot be used, or an
    empty key variable, and `PreflightError` for a port that cannot be had.
    """
    if host not in LOOPBACK:
        raise UsageError(f"the simulator binds loopback only, not {host!r}: use 127.0.0.1 or ::1")
    settings = Settings(
        profile=load_profile(profile),
        seed=seed,
        key=_key(require_key),
        strict_models=strict_models,
        faults=faults,
    )
    loop = new_loop()
    service = Service(settings, loop)
    try:
        listener = listen(LOOPBACK[host], port, loop, service.handle)
    except (OSError, OverflowError) as error:
        loop.close()
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        raise PreflightError(f"cannot listen on {host}:{port}: {reason}") from None
    service.warm_up()
    if exit_with_parent:
        _watch(loop, os.getppid())
    # What exists now lives as long as the process: no need to look through it again.
    gc.collect()
    gc.freeze()
    before = {name: signal.signal(name, _stop) for name in (signal.SIGINT, signal.SIGTERM)}
    address = LOOPBACK[host]
    shown = f"[{address}]" if ":" in address else address
    taken = listener.getsockname()[1]
    print(f"loadlib simulator listening on http://{shown}:{taken}/v1", flush=True)  # noqa: T201
    try:
        loop.run_forever()
    except _Stopped:
        pass
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
        listener.close()
        service.close()


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    value = os.environ.get(variable)
    if not value:
        raise UsageError(f"--require-key: the environment variable {variable!r} is not set")
    return value


def _watch(loop: asyncio.AbstractEventLoop, parent: int) -> None:
    if os.getppid() != parent:
        raise _Stopped
    loop.call_later(1.0, _watch, loop, parent)


class _Stopped(SystemExit):
    """A signal arrived: leave the loop from wherever it is (asyncio lets only SystemExit out)."""


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise _Stopped
