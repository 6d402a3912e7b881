"""The layer table of the design, enforced: imports go downward only, and few may touch much.

Imports are read off the source, lazy ones inside functions included. A new module fails here
until it has been given its layer.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

import loadlib

PACKAGE = Path(loadlib.__file__).parent
ROOT = PACKAGE.parent

# Words: no I/O, no clock. Record and plan. Judgement, pure. Adapters, with side effects. Edge.
LAYERS: tuple[str, ...] = (
    (
        "errors sample prompt quality metrics histogram binomial redact hlog schedule slo health "
        "engine summary tape sse chunk answer admission units rates errorbound limit_headers "
        "backoff lengths trend snapshot"
    ),
    (
        "recorder summarise run rows series folder foreign provenance recover calibration scenario "
        "image_tokens keys "
        "scenario_fields scenario_spec scenario_phase scenario_yaml scenario_lengths catalog "
        "prices tokens workloads guard session instrument outcome quirks ratelimits reserve "
        "limits_planned json_check ledger shards lastword attendance masterclock scenario_server "
        "server_metrics server_record server_targets server_summary gathered lately"
    ),
    "gates verdict expectations compare ranking brevity conclude charts findings live lights",
    "swarm client transport wire simulator report calibrate probe gather",
    "launch",
    "cli",
    "__main__",
)
LAYER = {unit: level for level, units in enumerate(LAYERS) for unit in units.split()}

# Adapters know each other only so far; the simulator is started as a process, never imported.
ADAPTERS = {
    "wire": set(),
    "transport": {"wire"},
    "client": {"transport", "wire"},
    "simulator": set(),
    "report": set(),
    "calibrate": set(),  # starts the public command, and servers, as processes
    "swarm": {"client", "transport", "wire", "report"},
    "probe": {"client", "wire", "swarm"},
    "gather": set(),
}

# Who may import what lies outside; everything else is free for all.
RESERVED = {
    "locust": {"swarm"},
    "openai": {"client", "transport"},
    "httpx2": {"client", "transport"},
    "gevent": {"swarm", "wire", "transport", "client"},
    "ssl": {"wire", "transport", "client", "simulator"},
    "jinja2": {"report"},
    "altair": {"charts"},
    "vl_convert": {"charts", "report", "workloads"},
    "click": {"cli"},
}

# A word knows neither the time nor the machine.
IMPURE = {"asyncio", "io", "logging", "os", "pathlib", "random", "socket", "subprocess",
          "tempfile", "time"}  # fmt: skip

HEAVY = ("locust", "gevent", "openai", "httpx2", "ssl", "altair", "vl_convert", "genai_prices")
BANNED_NAMES = {"utils", "util", "base", "manager", "factory", "helpers", "common", "misc"}
MAX_LINES = 500


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path): path for path in sources()}


def unit(name: str) -> str:
    """`loadlib.report.html` → `report`."""
    return name.removeprefix("loadlib").removeprefix(".").partition(".")[0]


@cache
def imports(path: Path) -> frozenset[str]:
    """Everything a file imports, by absolute name; submodules where `from` names one."""
    return frozenset(_imports(ast.parse(path.read_text(encoding="utf-8")), path))


def _imports(tree: ast.AST, path: Path) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where they lead"
            assert node.module is not None
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module


def ours(path: Path) -> set[str]:
    """The units of the package that a file imports, its own left out."""
    names = {name for name in imports(path) if name == "loadlib" or name.startswith("loadlib.")}
    return {unit(name) for name in names} - {"", unit(module(path))}


def outside(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)} - {"loadlib"}


INSIDE = [path for path in sources() if unit(module(path))]  # without loadlib/__init__.py


def offenders(wrong: Callable[[Path, str], object]) -> dict[str, object]:
    """Module → what is wrong with it, by `wrong(file, its unit)`."""
    found = {module(path): wrong(path, unit(module(path))) for path in INSIDE}
    return {name: what for name, what in found.items() if what}


def test_every_module_has_a_layer_and_every_layer_its_modules():
    assert {unit(module(path)) for path in INSIDE} == set(LAYER)


def test_imports_go_downward_only():
    assert not offenders(
        lambda path, mine: {name for name in ours(path) if LAYER[name] > LAYER[mine]}
    )


def test_adapters_know_each_other_only_as_far_as_allowed():
    assert not offenders(
        lambda path, mine: mine in ADAPTERS and ours(path) & set(ADAPTERS) - ADAPTERS[mine]
    )


def test_reserved_libraries():
    assert not offenders(
        lambda path, mine: {
            name for name in outside(path) & set(RESERVED) if mine not in RESERVED[name]
        }
    )


def test_words_know_neither_time_nor_machine():
    assert not offenders(lambda path, mine: LAYER[mine] == 0 and outside(path) & IMPURE)


def test_units_do_not_import_each_other_in_circles():
    edges: dict[str, set[str]] = {name: set() for name in LAYER}
    for path in INSIDE:
        edges[unit(module(path))] |= ours(path)
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " → ".join((*trail, name))
        if name not in done:
            for below in sorted(edges[name]):
                visit(below, (*trail, name))
            done.add(name)

    for name in edges:
        visit(name, ())


def test_the_package_itself_names_the_user_classes_and_nothing_else():
    init = PACKAGE / "__init__.py"
    assert ours(init) == {"swarm"}
    at_once = {
        getattr(node, "module", None) or node.names[0].name
        for node in ast.parse(init.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert at_once == {"__future__", "typing"}


def test_modules_stay_small():
    lines = {
        name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()
    }
    assert not {name: n for name, n in lines.items() if n > MAX_LINES}


def test_module_names_say_something():
    assert not offenders(lambda path, _: set(module(path).split(".")) & BANNED_NAMES)


def test_only_the_report_writes_pages():
    for path in INSIDE:
        if unit(module(path)) not in ("report", "charts"):
            text = path.read_text(encoding="utf-8")
            assert "</" not in text or "<script" not in text, path


LOCUSTFILES = sorted((ROOT / "locustfiles").glob("*.py"))


@pytest.mark.parametrize("path", LOCUSTFILES, ids=[path.name for path in LOCUSTFILES])
def test_a_locustfile_needs_nothing_but_loadlib_and_locust(path):
    assert imports(path) <= {"loadlib", "locust"} | set(sys.stdlib_module_names)
    code = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert len(code) <= 30


def loaded_by(code: str) -> list[str]:
    """Which of HEAVY a fresh interpreter has loaded after `code`."""
    probe = f"{code}\nimport sys, json; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, timeout=60, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_nothing_below_the_adapters_loads_the_network():
    """gevent patches what is loaded later: whoever loads ssl first breaks the recording."""
    low = [
        module(path)
        for path in INSIDE
        if LAYER[unit(module(path))] <= 1 or unit(module(path)) == "cli"
    ]
    judging = ["gates", "verdict", "expectations", "compare", "conclude"]
    names = ", ".join([*low, *(f"loadlib.{name}" for name in judging)])
    assert loaded_by(f"import {names}") == []


def test_charts_load_no_network():
    assert not set(loaded_by("import loadlib.charts")) & {"locust", "gevent", "openai", "httpx2"}


def test_prices_are_loaded_on_first_use_and_never_with_the_network():
    priced = (
        "from loadlib.catalog import resolve\n"
        "from loadlib.scenario import ModelSpec\n"
        "assert resolve(ModelSpec(name='gpt-4o')).cost_usd(1000, 10)"
    )
    assert set(loaded_by(priced)) <= {"genai_prices", "ssl", "httpx2"}


def test_importing_loadlib_is_cheap():
    assert loaded_by("import loadlib; loadlib.__version__") == []
