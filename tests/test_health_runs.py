"""Whole runs whose health decides: a program on our core, a ceiling that is too low."""

import os
import sys
from collections.abc import Iterator

import pytest
from locust_driver import Child, Driver
from warm import BIN

pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no way to share one core"),
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how long a process waited"),
]

PINNED = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
os.execv(sys.argv[2], sys.argv[2:])
"""
BURN = "while True: pass"


@pytest.fixture
def core() -> int:
    """The last of ours: the simulator has the others."""
    return max(os.sched_getaffinity(0))


@pytest.fixture
def burner(driver: Driver, core: int) -> Iterator[Child]:
    child = driver.start(sys.executable, "-c", PINNED, str(core), sys.executable, "-c", BURN)
    yield child
    child.kill()


def test_a_burner_on_our_core_is_named(driver: Driver, burner: Child, core: int) -> None:
    """Forty users who ask at once again keep a core busy; half of it belongs to somebody else."""
    scenario = driver.scenario("[{phase: measure, duration: 4s, arrival: closed, users: 40}]")
    command = str(BIN / "loadlib"), "run", scenario
    ended = driver.run(sys.executable, "-c", PINNED, str(core), *command)
    health = ended.summary["health"]
    checks = {check["name"]: check for check in health["checks"]}
    waited = checks["cpu_wait_share_p90"]
    assert health["status"] != "ok"
    assert waited["status"] == "warn"
    assert waited["value"] > 0.05
    assert "something else had the load generator's core" in waited["cause"]
    assert "end other programs" in waited["remedy"]
    assert "something else had the load generator's core" in ended.out, "the terminal says it too"
    assert burner.process.poll() is None


def test_waiting_at_the_ceiling_is_response_time_and_no_lag_of_ours(driver: Driver) -> None:
    """40 a second where 25 fit: most of the two seconds' arrivals wait for hundreds of ms."""
    load = "[{phase: measure, requests: 80, arrival: constant, rate: 40/s, max_in_flight: 1}]"
    ended = driver.loadlib(driver.scenario(load, models=["steady"]))
    (group,) = ended.summary["groups"]
    checks = {check["name"]: check for check in ended.summary["health"]["checks"]}
    waited_ms = group["metrics"]["arrival_lag"]["p90"]
    assert waited_ms > 200, "sent − intended holds the wait"
    assert checks["arrival_lag_p99_ms"]["value"] < waited_ms / 4, "what the instrument added"
    delivered = checks["delivered_share"]
    assert (ended.code, delivered["status"]) == (7, "bad")
    assert "of the offered 40/s to steady in measure" in delivered["cause"]
    assert delivered["remedy"]
