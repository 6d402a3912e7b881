"""The Locust command line that `run` and `ui` become, in each of its roles.

local    loadlib run S                    one process does everything
         loadlib run S --processes N      a master and N workers on this machine
master   loadlib run S --master           workers elsewhere send; it merges, judges, writes
worker   loadlib run --worker             everything but where its master is comes from there
"""

from __future__ import annotations

import os
import shlex
import socket
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from loadlib import keys, scenario_yaml
from loadlib.errors import PreflightError, UsageError
from loadlib.redact import redact, redact_argv

LOCUSTFILE = Path(__file__).with_name("swarm") / "locustfile.py"
PASSED_ON = (
    ("overrides", "--set"), ("models", "--model"), ("base_url", "--base-url"), ("rate", "--rate"),
    ("users", "--closed-users"), ("duration", "--duration"), ("requests", "--requests"),
    ("seed", "--seed"),
)  # fmt: skip
"""Our options that Locust's command line takes under its own name."""
BELONGS = {
    "master": ("expect_workers", "master_bind_host", "master_bind_port"),
    "worker": ("master_host", "master_port"),
}
"""Which options mean something to which role; Locust has them under the same names."""
OF_A_WORKER = frozenset(("worker", *BELONGS["worker"], "out", "processes", "verbose", "locust"))
_WRITTEN = {"overrides": "--set", "models": "--model", "as_json": "--json", "scenario": "SCENARIO"}

Given = Mapping[str, Any]
"""The options of `run` or `ui` by the names of their parameters; None was not given."""


def check_roles(given: Given, typed: Collection[str]) -> None:
    """Refuse what master, worker and local process have not in common.

    `typed` are the parameters that stand on the command line. Raises UsageError.
    """
    if given["master"] and given.get("worker"):
        raise UsageError("--master and --worker exclude each other: they are two processes")
    if given["master"] and given["processes"] is not None:
        raise UsageError(
            "--master with --processes: start the workers of this machine with"
            " loadlib run --worker --processes N"
        )
    for role, names in BELONGS.items():
        for name in names:
            if given.get(name) is not None and not given.get(role):
                raise UsageError(f"{_flag(name)} goes with --{role}")
    if given.get("worker"):
        scenario, _ = scenario_and_flags(given)
        theirs = [name for name in typed if name not in OF_A_WORKER | {"scenario"}]
        if theirs or scenario is not None:
            what = "SCENARIO" if scenario is not None else _flag(min(theirs))
            raise UsageError(f"--worker with {what}: that is the master's to say, leave it out")


def scenario_and_flags(given: Given) -> tuple[str | None, list[str]]:
    """The scenario file, and what stands behind `--`: `loadlib run -- --flag` has only that."""
    scenario, flags = given["scenario"], list(given["locust"])
    if scenario is not None and scenario.startswith("-"):
        return None, [scenario, *flags]
    return scenario, flags


def as_worker(given: Given) -> list[str]:
    """Locust's command line of a worker.

    Raises UsageError for a locustfile that is not there.
    """
    _, flags = scenario_and_flags(given)
    _check_locustfile(flags)
    line = ["--headless", "--worker", *_same(given, BELONGS["worker"]), "--out", given["out"]]
    # Whether requests failed is for the master's exit code to say.
    return [*line, *_same(given, ("processes",)), "--exit-code-on-error", "0", *flags]


def as_locust(given: Given, begin: Sequence[str]) -> list[str]:
    """Locust's command line of a master or a local process, after the flags it begins with.

    Raises UsageError where there is nothing to run.
    """
    scenario, flags = scenario_and_flags(given)
    if scenario is None and not given["models"]:
        raise UsageError("nothing to run: give a scenario file, or --model with --base-url")
    _check_locustfile(flags)
    line = [*begin, *(["--scenario", scenario] if scenario else [])]
    for name, flag in PASSED_ON:
        value = given[name]
        for item in value if isinstance(value, tuple) else (value,):
            line += [flag, str(item)] if item is not None else []
    line += ["--out", given["out"], *_same(given, ("processes",))]
    if given["master"]:
        line += ["--master", *_same(given, BELONGS["master"])]
    switches = {"--allow-unhealthy": "allow_unhealthy", "--no-report": "no_report"}
    return [*line, *(flag for flag, name in switches.items() if given[name]), *flags]


def call(line: Sequence[str], given: Given, say: Callable[[str], None]) -> int:
    """Call Locust's own `main` with `line`, which `say` prints first; returns its exit code."""
    said = redact_argv(["locust", "-f", os.path.relpath(LOCUSTFILE), *line], _secrets(line, given))
    say(f"= {shlex.join(said)}")
    ours = ["--loglevel", "INFO" if given["verbose"] else "WARNING"]
    if not given.get("worker"):
        ours += ["--loadlib-argv", "\0".join(["loadlib", *sys.argv[1:]])]
        if given["processes"] is not None and not any(w.startswith("--master") for w in line):
            ours += _own_port()
    if given.get("as_json"):
        ours.append("--loadlib-json")
    from loadlib.swarm import plugin  # first of all network modules: it patches sockets

    return plugin.run_locust(["-f", str(LOCUSTFILE), *ours, *line])


def _secrets(line: Sequence[str], given: Given) -> tuple[str, ...]:
    """Keys that the line must not show, as far as they can be known before anything is read."""
    text = "\n".join(line)
    scenario = Path(given["scenario"] or "")
    # What is wrong with the file is said later.
    with suppress(OSError, ValueError), scenario.open(encoding="utf-8") as file:
        text += file.read(scenario_yaml.MAX_BYTES)
    return (*keys.likely(os.environ), *keys.mentioned(text, os.environ))


def _own_port() -> list[str]:
    """Where this run's processes meet: Locust's fixed port would mix two runs on one machine."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    return ["--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--master-port", port]


def check_address(host: str, port: int) -> None:
    """Raises PreflightError where nothing can listen there: Locust would end in a traceback."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        number = error.errno  # Python's text says the address once more
        why = os.strerror(number) if number is not None and number > 0 else str(error)
        raise PreflightError(f"cannot listen on {host}:{port}: {why}") from None


def _check_locustfile(flags: Sequence[str]) -> None:
    """`-- -f mine.py`: classes of one's own for the scenario. Locust's refusal exits with 1."""
    for flag, _equals, attached in (word.partition("=") for word in flags):
        if flag in ("-f", "--locustfile"):
            place = list(flags).index(flag) + 1 if not attached else 0
            name = attached or "".join(flags[place : place + 1])
            if not all(Path(part).exists() for part in name.split(",")):
                raise UsageError(f"no locustfile {redact(name)!r}")


def _same(given: Given, names: Sequence[str]) -> list[str]:
    """Options that are written alike here and in Locust."""
    found = [(_flag(name), given[name]) for name in names]
    return [word for flag, value in found if value is not None for word in (flag, str(value))]


def _flag(name: str) -> str:
    """A parameter as people write it."""
    return _WRITTEN.get(name, f"--{name.replace('_', '-')}")
