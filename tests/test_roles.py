"""Beyond one machine: `run --master`, `run --worker`, and who may work for whom."""

from __future__ import annotations

import signal
import socket
import sys

import pytest
from commandline import batch, refused

from loadlib import launch
from loadlib.errors import PreflightError, UsageError

NOTHING = dict.fromkeys(
    ("scenario", "models", "base_url", "rate", "users", "duration", "requests", "seed",
     "processes", "expect_workers", "master_bind_host", "master_bind_port", "master_host",
     "master_port", "baseline")
) | {"overrides": (), "models": (), "locust": (), "out": "reports", "master": False,
     "worker": False, "allow_unhealthy": False, "no_report": False, "as_json": False,
     "verbose": False}  # fmt: skip


def test_what_becomes_of_the_roles():
    master = {
        **NOTHING, "scenario": "s.yaml", "master": True, "expect_workers": 3,
        "master_bind_host": "10.0.0.1", "master_bind_port": 6000, "locust": ("--csv", "x"),
    }  # fmt: skip
    assert launch.as_locust(master, ["--headless"]) == [
        *("--headless", "--scenario", "s.yaml", "--out", "reports", "--master"),
        *("--expect-workers", "3", "--master-bind-host", "10.0.0.1", "--master-bind-port", "6000"),
        *("--csv", "x"),
    ]
    worker = {**NOTHING, "worker": True, "master_host": "m", "master_port": 6000, "processes": 4,
              "out": "mine"}  # fmt: skip
    assert launch.as_worker(worker) == [
        *("--headless", "--worker", "--master-host", "m", "--master-port", "6000"),
        *("--out", "mine", "--processes", "4", "--exit-code-on-error", "0"),
    ]
    local = {**NOTHING, "scenario": "s.yaml", "processes": 2}
    assert launch.as_locust(local, []) == [
        *("--scenario", "s.yaml", "--out", "reports", "--processes", "2")
    ]


def test_what_stands_behind_the_dashes_is_no_scenario():
    assert launch.scenario_and_flags({**NOTHING, "scenario": "--csv", "locust": ("x",)}) == (
        None, ["--csv", "x"],
    )  # fmt: skip
    worker = {**NOTHING, "worker": True, "scenario": "--csv"}
    launch.check_roles(worker, ["worker", "scenario"])
    with pytest.raises(UsageError, match="no locustfile"):
        launch.as_worker({**worker, "scenario": "-f", "locust": ("nope.py",)})


WRONG = [
    (["run", "--worker", "--master"], "exclude each other"),
    (["run", "s.yaml", "--worker"], "--worker with SCENARIO"),
    (["run", "--worker", "--no-report"], "--worker with --no-report"),
    (["run", "--worker", "--out", "x", "--rate", "1/s"], "--worker with --rate"),
    (["run", "--worker", "--json"], "--worker with --json"),
    (["run", "--worker", "--set", "a=b"], "--worker with --set"),
    (["run", "--worker", "--model", "m"], "--worker with --model"),
    (["run", "--worker", "--allow-unhealthy"], "--worker with --allow-unhealthy"),
    (["run", "--worker", "--expect-workers", "2"], "--expect-workers goes with --master"),
    (["run", "s.yaml", "--master-host", "h"], "--master-host goes with --worker"),
    (["run", "s.yaml", "--master-port", "9"], "--master-port goes with --worker"),
    (["run", "s.yaml", "--expect-workers", "2"], "--expect-workers goes with --master"),
    (["run", "s.yaml", "--master-bind-port", "9"], "--master-bind-port goes with --master"),
    (["run", "s.yaml", "--master", "--master-host", "h"], "--master-host goes with --worker"),
    (["run", "s.yaml", "--master", "--processes", "2"], "loadlib run --worker --processes N"),
    (["run", "s.yaml", "--master", "--expect-workers", "0"], "--expect-workers"),
    (["run", "--master"], "nothing to run"),
    (["ui", "s.yaml", "--master-bind-host", "h"], "--master-bind-host goes with --master"),
    (["ui", "s.yaml", "--worker"], "--worker"),
]


def test_options_that_make_no_sense_together():
    for (_, words), done in zip(WRONG, batch(*(given for given, _ in WRONG)), strict=True):
        refused(done, 2, words)


OTHER = """
import loadlib
loadlib.__version__ = "9.9.9\\x1b[2J"
from loadlib.cli import main
main()
"""


def test_an_address_that_is_taken_is_a_sentence():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PreflightError, match=f":{port}: Address already in use$"):
            launch.check_address("127.0.0.1", port)
    launch.check_address("127.0.0.1", port)


@pytest.mark.slow
def test_a_worker_of_another_version_is_refused_by_name_and_the_right_one_makes_the_run(driver):
    name = driver.scenario("[{phase: measure, requests: 60, arrival: constant, rate: 40/s}]")
    driver.write("other.py", OTHER)
    master = driver.start("loadlib", "run", name, "--master", "--master-bind-host", "127.0.0.1")
    port = master.env["LOCUST_MASTER_BIND_PORT"]
    lonely = driver.start("loadlib", "run", "--worker")  # at another port
    stranger = driver.start(sys.executable, "other.py", "run", "--worker", "--master-port", port)
    refusal = stranger.wait()
    assert refusal.code == 2
    told = [line for line in refusal.err.splitlines() if line.startswith("error: ")]
    assert len(told) == 1
    assert "runs loadlib 9.9.9, its master" in told[0]
    assert told[0].endswith("install the same version on both")
    worker = driver.start("loadlib", "run", "--worker", "--master-port", port)
    ended = master.wait()
    assert worker.wait().code == 0
    assert "9.9.9, its master" in ended.err
    assert "\x1b" not in ended.err + refusal.err
    assert ended.requests().get("ok") == len(ended.rows) == 60, ended.err + ended.out
    checks = {check["name"]: check["value"] for check in ended.summary["health"]["checks"]}
    assert checks["lost_samples"] == checks["sequence_gaps"] == 0
    lonely.signal(signal.SIGINT)
    left = lonely.wait()
    assert (left.code, "Traceback" in left.err) == (130, False), left.err


@pytest.mark.slow
def test_a_second_master_on_a_port_is_a_sentence(driver):
    name = driver.scenario("[{phase: measure, requests: 5, arrival: constant, rate: 40/s}]")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        where = ("--master-bind-host", "127.0.0.1", "--master-bind-port", port)
        ended = driver.start("loadlib", "run", name, "--master", *where).wait()
    assert ended.code == 3
    assert "Address already in use" in ended.err
    assert "is another master running?" in ended.err
    assert "Traceback" not in ended.err
