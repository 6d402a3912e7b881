"""What may go wrong between and on machines, and that no sample is lost or counted twice by it.

Every run here is of real processes, a Locust master and workers, against a simulator that counts
what it served. Several things go wrong in one run where they concern different workers.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cut_proxy import CutProxy
from locust_driver import Child, Driver, Ended, folders, own_port, served, until
from simulator_client import counters

from loadlib import shards
from loadlib.attendance import PATIENCE_S

pytestmark = pytest.mark.slow

USER = """
from loadlib import ChatUser

class Chat(ChatUser):
    pass
"""
AHEAD = """
from loadlib.swarm import clock

before = clock.wall_ns
clock.wall_ns = lambda: before() + 2_000_000_000
"""
# A file may grow to 40 kB: what a full disk does, to this process alone.
FULL = """
import resource
import signal

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
"""


GRACE_S = 10.0  # `coordinator.GRACE_S`, which wants gevent


class Swarm:
    """A master and its workers, each with a folder of its own, as on machines of their own."""

    def __init__(self, driver: Driver, load: str, **settings: object) -> None:
        self.driver, self.workers = driver, list[Child]()
        self.master_driver = driver.sub("master")
        self.scenario = self.master_driver.scenario(load, **settings)
        self.port = own_port()["LOCUST_MASTER_BIND_PORT"]
        self.before = counters(driver.base_url)
        self.master: Child | None = None

    def worker(self, port: int | str | None = None, extra: str = "") -> Child:
        home = self.driver.sub(f"worker-{len(self.workers)}")
        home.write("user.py", USER + extra)
        child = home.start(
            "locust", "-f", "user.py", "--worker",
            "--master-host", "127.0.0.1", "--master-port", str(port or self.port),
        )  # fmt: skip
        self.workers.append(child)
        return child

    def start(self, workers: int) -> Child:
        self.master_driver.write("user.py", USER)
        self.master = self.master_driver.start(
            "locust", "-f", "user.py", "--headless", "--only-summary", "--master",
            "--scenario", self.scenario, "--master-bind-host", "127.0.0.1",
            "--master-bind-port", self.port, "--expect-workers", str(workers),
        )  # fmt: skip
        return self.master

    def sends(self, requests: int) -> None:
        """Until the master has written down so many."""
        assert self.master is not None
        self.master.until(lambda: len(self.master_driver.live_rows()) >= requests)

    def served(self, name: str, model: str) -> int:
        """What the simulator counted since the beginning."""
        before, after = served(self.before, name), served(counters(self.driver.base_url), name)
        return int(after[model] - before.get(model, 0))

    def shards(self) -> list[Path]:
        return sorted(self.driver.folder.glob("worker-*/reports/*/shards/*.shard"))

    def gathered(self, *files: Path) -> Ended:
        """`loadlib report --from-shards` of these, or of all."""
        home = self.driver.sub("gathered")
        found = files or tuple(self.shards())
        return home.run("loadlib", "report", "--from-shards", "--out", "reports", *map(str, found))


@pytest.fixture
def swarm(driver):
    made: list[Swarm] = []

    def make(load: str, **settings: object) -> Swarm:
        made.append(Swarm(driver, load, **settings))
        return made[-1]

    return make


@pytest.fixture(scope="module")
def minute(tmp_path_factory, paced):
    """A run that waits a minute for its streams, while the tests between go on."""
    driver = Driver(tmp_path_factory.mktemp("minute"), paced.base_url)
    run = Swarm(
        driver,
        "[{phase: measure, duration: 2s, arrival: constant, rate: 10/s, max_in_flight: 50}]",
        models=["slow"], workloads={"chat": {"kind": "chat", "output_tokens": 600}},
    )  # fmt: skip
    for _ in range(2):
        run.worker()
    run.start(2)
    yield run
    driver.close()


def ended_shard(path: Path) -> bool:
    """Whether its worker has said its last word."""
    return any(report["kind"] == "end" for report in shards.read(path))


def checks(ended: Ended) -> dict[str, float]:
    return {check["name"]: check["value"] for check in ended.summary["health"]["checks"]}


def notice(ended: Ended, words: str) -> str:
    found = [line for line in ended.summary["notices"] if words in line]
    assert len(found) == 1, (words, ended.summary["notices"])
    return found[0]


def whole(ended: Ended, swarm: Swarm, model: str, requests: int) -> None:
    """Every request of the plan was sent and counted once, as the server counted it."""
    found = ended.requests()
    assert found["scheduled"] == found["ok"] == requests, (found, ended.err)
    assert swarm.served("request_success_total", model) == requests
    tokens = sum(group["tokens"]["output"] for group in ended.summary["groups"])
    assert swarm.served("generation_tokens_total", model) == tokens
    arrivals = [(row["phase"], row["index"]) for row in ended.rows]
    assert len(arrivals) == len(set(arrivals)) == requests
    assert checks(ended)["lost_samples"] == checks(ended)["sequence_gaps"] == 0


@pytest.mark.usefixtures("minute")
def test_a_paused_worker_a_clock_that_is_off_and_one_that_comes_late(swarm):
    run = swarm("[{phase: measure, duration: 14s, arrival: constant, rate: 20/s}]", models=["fast"],
                slo=["all: ttft.p90 < 1s"])  # fmt: skip
    run.worker(extra=AHEAD)
    paused = run.worker()
    master = run.start(2)
    run.sends(40)
    paused.signal(signal.SIGSTOP)
    run.worker()
    master.until(lambda: "came after the start" in master.err)
    # Time passes for it only while it stands; the others go on.
    until(passed(5))
    paused.signal(signal.SIGCONT)
    ended = master.wait()
    whole(ended, run, "fast", 280)
    assert "in this run" in notice(ended, "came after the start")
    found = re.search(r"clock is (\d\.\d+) s ahead", notice(ended, "ahead of the master's"))
    assert found
    assert float(found[1]) == pytest.approx(2, abs=0.2)
    # On one clock: nobody's requests lie beside the phase.
    started = min(row["intended_ns"] for row in ended.rows)
    assert max(row["intended_ns"] for row in ended.rows) - started < 15e9, "not 2 s more"
    assert 13.5 < ended.summary["groups"][0]["duration_s"] < 15
    assert ended.summary["verdict"]["status"] == "inconclusive", "a pause of 5 s is no measurement"
    assert [child.wait().code for child in run.workers] == [0, 0, 0]


def passed(seconds: float) -> Callable[[], bool]:
    """Whether so much time has gone by since now."""
    deadline = time.monotonic() + seconds
    return lambda: time.monotonic() > deadline


def test_a_cut_network_and_a_full_disk_lose_nothing(swarm):
    """Each concerns one of the two workers; both reach the master's record whole.

    The plan ends within the cut: the last word is said to nobody, and again when it is mended.
    """
    run = swarm("[{phase: measure, duration: 14s, arrival: constant, rate: 20/s}]", models=["fast"])
    proxy = CutProxy(int(run.port))
    run.worker(proxy.port)
    run.worker(extra=FULL)
    master = run.start(2)
    run.sends(60)
    proxy.cut()
    until(passed(13))
    proxy.mend()
    ended = master.wait()
    assert proxy.connections >= 2
    proxy.close()
    whole(ended, run, "fast", 280)
    assert ended.summary["state"] == "complete"
    assert [child.wait().code for child in run.workers] == [0, 0]
    assert "File too large" in notice(ended, "its shard file is not whole")
    full = next(path for path in run.shards() if "worker-1" in str(path))
    assert 0 < full.stat().st_size <= 40_000


def test_workers_that_are_killed_or_told_to_end(swarm):
    run = swarm(
        "[{phase: measure, duration: 12s, arrival: constant, rate: 30/s}]", models=["steady"],
        workloads={"chat": {"kind": "chat", "output_tokens": 40}},
    )  # fmt: skip
    killed, told, stays = (run.worker() for _ in range(3))
    master = run.start(3)
    run.sends(90)
    killed.signal(signal.SIGKILL)
    told.signal(signal.SIGTERM)
    assert told.wait().code in (0, 143)
    ended = master.wait()
    assert ended.code == 7, ended.err
    found, success = ended.requests(), run.served("request_success_total", "steady")
    assert found["scheduled"] == found["ok"] + found["lost"] + found["cancelled"], found
    assert found["lost"] > 0, "in flight at its death, and known of"
    # The server answered what the dead one did not live to report: at most some two seconds.
    assert found["ok"] <= success <= found["ok"] + found["lost"] + 30
    assert len({row["index"] for row in ended.rows}) == len(ended.rows)
    left = [line for line in ended.summary["notices"] if "left before the end" in line]
    assert sorted(line.partition("; ")[2] for line in left) == [
        "its share is missing", "what it had not reported is lost",
    ]  # fmt: skip
    assert stays.wait().code == 0
    # The shard files say the same: nothing of the one that was told to end is missing.
    gathered = run.gathered()
    assert gathered.code == 0, gathered.err
    assert "ended without a last word" in gathered.err
    assert "left before the end; its share is missing" in gathered.err
    assert gathered.requests()["ok"] == found["ok"]


def test_a_master_that_is_killed_loses_nothing(swarm):
    run = swarm("[{phase: measure, duration: 8s, arrival: constant, rate: 20/s},"
                " {phase: measure, name: second, requests: 20, arrival: constant, rate: 20/s}]",
                models=["fast"])  # fmt: skip
    for _ in range(2):
        run.worker()
    master = run.start(2)
    run.sends(40)
    master.signal(signal.SIGKILL)
    master.process.wait()
    # They finish their plan, the second phase without anyone who says that all are ready.
    until(lambda: all(map(ended_shard, run.shards())))
    gathered = run.gathered()
    assert gathered.code == 0, gathered.err
    whole(gathered, run, "fast", 180)
    assert gathered.summary["state"] == "complete"
    assert {group["phase"] for group in gathered.summary["groups"]} == {"measure", "second"}
    assert gathered.summary["gates"][0]["status"] == "pass"
    # What the master had written can be read too, and says what it is.
    (left,) = folders(run.master_driver.reports)
    assert run.master_driver.run("loadlib", "report", str(left)).code == 0


def test_sigterm_to_the_master_ends_all_of_it_in_order(swarm):
    run = swarm(
        "[{phase: measure, duration: 60s, arrival: constant, rate: 20/s}]", models=["steady"]
    )
    for _ in range(2):
        run.worker()
    master = run.start(2)
    run.sends(40)
    os.kill(master.process.pid, signal.SIGTERM)
    ended = master.wait()
    assert ended.code == 143, ended.err
    found = ended.requests()
    assert found["lost"] == 0
    assert found["scheduled"] == found["ok"] + found["cancelled"] + found["dropped"]
    assert found["ok"] == run.served("request_success_total", "steady")
    assert [child.wait().code for child in run.workers] == [0, 0]
    gathered = run.gathered()
    for one in (ended, gathered):
        assert one.summary["verdict"]["status"] == "interrupted"
        assert one.summary["state"] == "interrupted"
    assert gathered.requests() == found


def test_who_asks_twice_does_not_wait_for_a_worker_that_stands_still(swarm):
    run = swarm("[{phase: measure, duration: 60s, arrival: constant, rate: 20/s}]", models=["fast"])
    paused, other = run.worker(), run.worker()
    master = run.start(2)
    run.sends(20)
    paused.signal(signal.SIGSTOP)
    master.signal(signal.SIGINT)
    master.until(lambda: any(map(ended_shard, run.shards())))  # the other one's
    master.signal(signal.SIGINT)
    ended = master.wait(GRACE_S + PATIENCE_S - 5)
    assert other.wait().code == 0
    paused.signal(signal.SIGKILL)
    assert ended.code == 130, ended.err
    assert "is lost" in notice(ended, "left before the end")


def test_locust_stops_a_run_without_workers_which_is_no_pass(swarm):
    """One stands still, the other is told to end: to Locust that was the last. The one that stands
    comes back while the run is being ended, and is heard."""
    run = swarm("[{phase: measure, duration: 60s, arrival: constant, rate: 20/s}]", models=["fast"])
    paused, told = run.worker(), run.worker()
    master = run.start(2)
    run.sends(20)
    paused.signal(signal.SIGSTOP)
    master.until(lambda: "setting state to missing" in master.err)
    told.signal(signal.SIGTERM)
    master.until(lambda: "The last worker quit" in master.err)
    paused.signal(signal.SIGCONT)
    ended = master.wait()
    assert ended.code == 7, ended.err
    assert "stopped before its plan was over" in ended.summary["verdict"]["reasons"]
    assert ended.summary["state"] == "interrupted"
    assert notice(ended, "left before the end").endswith("its share is missing")
    found = ended.requests()
    assert found["lost"] == 0
    assert found["ok"] == run.served("request_success_total", "fast")


def test_a_worker_that_cannot_begin_ends_the_run_and_says_why(swarm):
    run = swarm(
        "[{phase: measure, duration: 60s, arrival: constant, rate: 20/s}]", models=["fast"],
        workloads={"chat": {"kind": "chat", "output_tokens": 4, "data": "talk.jsonl"}},
    )  # fmt: skip
    said = json.dumps({"messages": [{"role": "user", "content": "Hello"}]})
    run.master_driver.write("talk.jsonl", said)
    workers = run.worker(), run.worker()
    ended = run.start(2).wait()
    assert ended.code == 4, ended.err
    (reason, *_) = ended.summary["verdict"]["reasons"]
    assert re.match(r"worker \S+: talk.jsonl: cannot be read", reason)
    assert [child.wait().code for child in workers] == [0, 0]


def test_streams_of_a_minute_in_flight_at_the_end_are_all_counted(minute):
    ended = minute.master.wait(150)
    assert ended.code == 0, ended.err
    whole(ended, minute, "slow", 20)
    assert min(row["end_ns"] - row["sent_ns"] for row in ended.rows) > 55e9
    (group,) = ended.summary["groups"]
    assert group["duration_s"] < 3, "arrivals, not the draining"


def test_shards_of_a_local_run_are_not_missed(driver):
    name = driver.scenario("[{phase: measure, requests: 3, arrival: constant, rate: 20/s}]")
    ended = driver.loadlib(name)
    assert not (ended.folder / "shards").exists(), "its own process writes the run folder"
    done = driver.run("loadlib", "report", "--from-shards", str(ended.folder))
    assert done.code == 2
    assert "holds no shard files" in done.err
