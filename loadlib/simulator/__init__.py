"""An OpenAI-compatible server with known behaviour, on loopback: `serve` runs it until stopped."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import os
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from loadlib.errors import PreflightError, UsageError
from loadlib.simulator import crew, options, tls
from loadlib.simulator.app import Service, Settings, warm_up
from loadlib.simulator.connection import REQUEST_S, Wrap, listen, reserve
from loadlib.simulator.faults import Rule
from loadlib.simulator.pacer import new_loop
from loadlib.simulator.profiles import load as load_profile

__all__ = ["Rule", "check", "serve"]

LOOPBACK = {"127.0.0.1": "127.0.0.1", "localhost": "127.0.0.1", "::1": "::1"}


def check(argv: Sequence[str]) -> None:
    """Read options of the simulator without starting it. Raises `UsageError`."""
    load_profile(options.parse(list(argv), "simulator")["profile"])


def serve(
    port: int = 0,
    profile: str = "catalogue",
    seed: int = 0,
    *,
    limits: bool = False,
    host: str = "127.0.0.1",
    allow_remote: bool = False,
    require_key: str | None = None,
    strict_models: bool = False,
    rules: tuple[Rule, ...] = (),
    wrong_rate: float = 0.0,
    reasoning_tokens: int = 0,
    request_timeout_s: float = REQUEST_S,
    certificate: tuple[Path, Path] | None = None,
    bad_certificate: str | None = None,
    processes: int = 1,
    exit_with_parent: bool = False,
) -> None:
    """Serve until SIGINT or SIGTERM, from the main thread; then return.

    Prints one line once requests are taken: `loadlib simulator listening on
    http://127.0.0.1:PORT/v1`. `port` 0 takes any free one. `profile` is a built-in name or a YAML
    file; with `limits` its optional rate limits hold. `require_key` is the *name* of the
    environment variable whose value clients must send as bearer token. With `strict_models` names
    the profile does not list are 404. `rules` are the faults. `certificate` and key, or the kind
    of a `bad_certificate`, turn on TLS. `processes` share the port. `exit_with_parent` ends the
    server when the process that started it has ended.

    With `allow_remote` it binds any address of this machine: whoever reaches it can use its CPU.

    Raises `UsageError` for a host other than loopback, a profile that cannot be used, or an
    empty key variable, and `PreflightError` for a port that cannot be had.
    """
    address = _address(host, allow_remote=allow_remote)
    settings = Settings(
        profile=load_profile(profile, limited=limits),
        seed=seed,
        key=_key(require_key),
        strict_models=strict_models,
        rules=rules,
        wrong_rate=wrong_rate,
        reasoning_tokens=reasoning_tokens,
    )
    wrap = _tls(certificate, bad_certificate)
    holder = _reserved(host, address, port, shared=processes > 1)
    taken: int = holder.getsockname()[1]
    scheme = "http" if wrap is None else "https"
    shown = f"[{address}]" if ":" in address else address
    ready = f"loadlib simulator listening on {scheme}://{shown}:{taken}/v1"
    warm_up(settings)

    def work(member: crew.Crew, say: Callable[[], None]) -> None:
        several = member.size > 1
        loop = new_loop()
        service = Service(settings, loop, member)
        listener = listen(
            holder if not several else reserve(address, taken, shared=True),
            loop,
            service.handle,
            wrap=wrap,
            request_s=request_timeout_s,
        )
        if exit_with_parent or several:
            _watch(loop, os.getppid())
        _run(loop, say)
        listener.close()
        service.close()

    try:
        if processes == 1:
            work(crew.ALONE, lambda: print(ready, flush=True))  # noqa: T201
        else:
            crew.run(processes, work, ready, exit_with_parent=exit_with_parent)
    finally:
        holder.close()


def _address(host: str, *, allow_remote: bool) -> str:
    if host in LOOPBACK:
        return LOOPBACK[host]
    if not allow_remote:
        raise UsageError(
            f"the simulator binds loopback only, not {host!r}: use 127.0.0.1 or ::1, or say"
            " --allow-remote where the network is private"
        )
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        raise UsageError(f"{host!r} is not an address: 0.0.0.0 is every one") from None


def _run(loop: asyncio.AbstractEventLoop, say: Callable[[], None]) -> None:
    # What exists now lives as long as the process: no need to look through it again.
    gc.collect()
    gc.freeze()
    before = {name: signal.signal(name, _stop) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        say()
        loop.run_forever()
    except _Stopped:
        pass
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _reserved(host: str, address: str, port: int, *, shared: bool) -> socket.socket:
    try:
        return reserve(address, port, shared=shared)
    except (OSError, OverflowError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        raise PreflightError(f"cannot listen on {host}:{port}: {reason}") from None


def _tls(certificate: tuple[Path, Path] | None, bad: str | None) -> Wrap | None:
    if certificate is None and bad is None:
        return None
    if certificate is not None and bad is not None:
        raise UsageError("--tls and --bad-certificate exclude each other")
    context = tls.context_of(*certificate) if certificate else tls.bad_context(bad or "")
    return lambda sock: tls.TlsSocket(sock, context)


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
