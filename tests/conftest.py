"""Fixtures shared by all tests: simulators in processes of their own."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import warm
from hypothesis import HealthCheck, settings
from locust_driver import PROFILE, Driver

# Timings are no failures: these machines are shared.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

START_TIMEOUT_S = 60.0
READY = "loadlib simulator listening on "


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cold", action="store_true", help="start every command from nothing, as a shell does"
    )


def pytest_configure(config: pytest.Config) -> None:
    warm.always_cold |= config.getoption("--cold")


def pytest_collection_finish() -> None:
    """Whatever imports gevent patches the threads of pytest itself, and two at a time hang."""
    if "gevent" in sys.modules:
        raise pytest.UsageError("a test module imports gevent: run what needs it as a child")


def pytest_unconfigure() -> None:
    warm.close()


class Simulator:
    """One running simulator; `base_url` ends in `/v1`."""

    def __init__(self, *flags: str) -> None:
        self.process = warm.start("simulator", "--port", "0", *flags, env=os.environ)
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], START_TIMEOUT_S)
        line = self.process.stdout.readline() if ready else ""
        if not line.startswith(READY):
            _, err = self.stop()
            raise RuntimeError(f"simulator {' '.join(flags)} did not start: {line}{err}")
        self.base_url = line.removeprefix(READY).strip()

    @property
    def port(self) -> int:
        return int(self.base_url.removesuffix("/v1").rpartition(":")[2])

    def stop(self) -> tuple[str, str]:
        """Ask it to end; the rest of its output."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.communicate()


# Models whose truth is known, for the fixture `constant`.
CONSTANT = """
models:
  steady: {first_token_delay_ms: 60, prefill_tok_s: 1000, output_tok_s: 200}
  slow-one: {output_tok_s: 20, max_running: 1, encoding: cl100k_base}
  small: {context_window: 50}
"""

Simulators = Callable[..., Simulator]


@pytest.fixture(scope="session")
def simulators() -> Iterator[Simulators]:
    """A factory: `simulators("--profile", "instant", …)` starts one, or gives the one with the
    same flags; `fresh=True` always starts another (its counters are zero)."""
    started: list[Simulator] = []
    known: dict[tuple[str, ...], Simulator] = {}

    def get(*flags: str, fresh: bool = False) -> Simulator:
        if not fresh and flags in known and known[flags].process.poll() is None:
            return known[flags]
        simulator = Simulator(*flags)
        started.append(simulator)
        if not fresh:
            known[flags] = simulator
        return simulator

    yield get
    for simulator in started:
        simulator.process.terminate()
    for simulator in started:
        simulator.stop()


@pytest.fixture(scope="session")
def simulator(simulators: Simulators) -> str:
    """The base URL of a simulator without delays and limits, shared by the session."""
    return simulators("--profile", "instant").base_url


@pytest.fixture(scope="session")
def constant(simulators: Simulators, tmp_path_factory: pytest.TempPathFactory) -> Simulator:
    """A simulator whose truth is known: see CONSTANT. No default model."""
    path = tmp_path_factory.mktemp("profile") / "constant.yaml"
    path.write_text(CONSTANT)
    return simulators("--profile", str(path))


@pytest.fixture(scope="session")
def paced(simulators: Simulators, tmp_path_factory: pytest.TempPathFactory) -> Simulator:
    """A simulator whose answers take a chosen time: see locust_driver.PROFILE."""
    path = tmp_path_factory.mktemp("profile") / "paced.yaml"
    path.write_text(PROFILE)
    return simulators("--profile", str(path))


@pytest.fixture
def driver(tmp_path: Path, paced: Simulator) -> Iterator[Driver]:
    """Starts Locust and loadlib as child processes in a folder of the test's own."""
    found = Driver(tmp_path, paced.base_url)
    yield found
    found.close()
