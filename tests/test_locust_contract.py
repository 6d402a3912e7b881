"""The Locust contract, sentence by sentence, through real `locust` and `loadlib` processes."""

from __future__ import annotations

import csv
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from locust_driver import Driver, in_group, own_port, served, until, workers_of
from simulator_client import counters

EXAMPLE = """
from locust import between, tag, task
from loadlib import LLMUser

class Support(LLMUser):                  # a plain locust.User
    models = ["gpt-4o-mini"]             # default: the scenario's
    wait_time = between(1, 5)            # closed-loop think time

    @tag("chat")
    @task(9)
    def ask(self):
        reply = self.llm.chat([{"role": "user", "content": "Where is my order?"}], max_tokens=128, name="support")
        if "order" not in reply.text:
            reply.fail("off topic")

    @task
    def own_code(self):                  # existing SDK code, measured as it is
        list(self.openai.chat.completions.create(model=self.model, messages=[{"role": "user", "content": "Hi"}], stream=True))
"""  # noqa: E501

# Every event that Locust's request hook fires, as JSON lines on stdout at the end.
LISTENER = """
import json
import os
from locust import events

seen = []

@events.request.add_listener
def note(name, response_time, exception, context, **_):
    seen.append([name, response_time, str(exception) if exception else None,
                 getattr(context.get("sample"), "index", None),
                 (context["sample"].end_ns - context["sample"].intended_ns) / 1e6
                 if "sample" in context else None])

@events.quit.add_listener
def show(**_):
    print("SEEN " + json.dumps(seen))
"""

MIXED = """
from locust import HttpUser, constant, tag, task
from loadlib import LLMMixin, LLMUser

HELLO = [{"role": "user", "content": "Hello"}]

class Asks(LLMUser):
    models = ["fast"]
    wait_time = constant(0.1)

    @tag("ask")
    @task
    def ask(self):
        reply = self.llm.chat(HELLO, max_tokens=4, name="asked")
        assert reply and reply.ok and reply.text and reply.ttft_ms > 0 and reply.tool_calls == []

class Codes(LLMUser):
    models = ["fast"]
    wait_time = constant(0.1)

    @tag("code")
    @task
    def whole(self):
        list(self.openai.chat.completions.create(
            model=self.model, messages=HELLO, max_tokens=4, stream=True,
            stream_options={"include_usage": True}))

    @tag("code")
    @task
    def at_once(self):
        answer = self.openai.chat.completions.create(
            model=self.model, messages=HELLO, max_tokens=4)
        assert answer.choices[0].message.content

class Stops(LLMUser):
    models = ["steady"]
    wait_time = constant(0.1)

    @tag("stop")
    @task
    def early(self):
        stream = self.openai.chat.completions.create(
            model=self.model, messages=HELLO, max_tokens=2000, stream=True)
        for number, chunk in enumerate(stream):
            if number == 3:
                break

class Shop(LLMMixin, HttpUser):
    models = ["fast"]
    wait_time = constant(0.1)

    @tag("shop")
    @task
    def browse(self):
        self.client.get("/metrics")

    @tag("shop")
    @task
    def ask(self):
        self.llm.chat(HELLO, max_tokens=4)
"""


def seen(ended) -> list:
    (line,) = [line for line in ended.out.splitlines() if line.startswith("SEEN ")]
    return json.loads(line.removeprefix("SEEN "))


def test_from_loadlib_import_llmuser_is_all_and_the_designs_example_runs(driver):
    driver.write("support.py", EXAMPLE)
    ended = driver.locust("support.py", "-u", "12", "-r", "12", "-t", "4s")
    # The simulator never speaks of orders: failures, and without gates Locust's exit code stands.
    assert ended.code == 1, ended.err
    assert ended.summary["verdict"]["status"] == "pass"
    asked = [row for row in ended.rows if row["outcome"] == "ok" and row["error"] == "off topic"]
    assert asked
    assert all(row["quality"] is False for row in asked)
    assert "off topic" in ended.err + ended.out


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, paced):
    """One run of every way to send a request, without a scenario."""
    driver = Driver(tmp_path_factory.mktemp("mixed"), paced.base_url)
    driver.write("mixed.py", LISTENER + MIXED)
    yield driver.locust(
        "mixed.py", "-u", "8", "-r", "8", "-t", "3s", "--base-url", paced.base_url,
        "--host", paced.base_url.removesuffix("/v1"), "--csv", "stats", "--html", "page.html",
        "--json-file", "stats.json",
    )  # fmt: skip
    driver.close()


def test_a_mixin_serves_users_of_httpuser(mixed):
    assert mixed.code == 0, mixed.err
    assert mixed.requests(workload="Shop")["ok"] > 3
    assert [event for event in seen(mixed) if event[0] == "/metrics"]


def test_self_openai_is_the_sdk_on_the_same_transport(mixed):
    assert mixed.requests(workload="Codes")["ok"] > 3
    group = next(g for g in mixed.summary["groups"] if g["workload"] == "Codes")
    assert group["metrics"]["ttft"]["n"] > 0


def test_own_code_may_stop_early(mixed):
    found = [row for row in mixed.rows if row["workload"] == "Stops"]
    # 2000 tokens take 10 s; each was let go after its first ones, and its place was freed.
    assert len(found) > 5
    assert all(row["first_token_ns"] for row in found)


def test_exactly_one_request_event_per_call_in_ms_with_the_sample(mixed):
    events = [event for event in seen(mixed) if event[3] is not None]
    done = [row for row in mixed.rows if row["sent_ns"]]
    assert sorted(event[3] for event in events) == sorted(row["index"] for row in done)
    assert all(shown == pytest.approx(real) for _, shown, _, _, real in events)


def test_csv_html_and_json_file_keep_working(mixed):
    with (mixed.root.parent / "stats_stats.csv").open() as file:
        table = {row["Name"]: int(row["Request Count"]) for row in csv.DictReader(file)}
    assert table["asked"] == mixed.requests(workload="Asks")["sent"]
    assert "Locust" in (mixed.root.parent / "page.html").read_text()
    (saved,) = mixed.root.parent.glob("stats.json*")  # Locust adds another ".json"
    named = {row["name"]: row for row in json.loads(saved.read_text())}
    assert named["asked"]["num_requests"] == table["asked"]


CHAT = """
from loadlib import ChatUser, LLMUser
from locust import tag, task, LoadTestShape

class Chat(ChatUser):
    pass

# The other class
class Other(LLMUser):
    @tag("other")
    @task
    def ask(self):
        self.llm.chat([{"role": "user", "content": "Hello"}], max_tokens=4)
"""

CHAT_ONLY = CHAT.partition("# The other class")[0]

SHAPED = """
class Steps(LoadTestShape):
    def tick(self):
        t = self.get_run_time()
        return None if t > 3 else (2, 10) if t < 1.5 else (5, 10)
"""


def test_plain_locust_takes_scenario_file_and_leaves_the_same_artefacts(driver):
    mine, theirs = driver.sub("mine"), driver.sub("theirs")
    load = "[{phase: measure, requests: 30, arrival: constant, rate: 30/s}]"
    # 5 ms between tokens: each is read by itself, so that every answer has a rate of its own.
    steady = {"models": ["steady"]}
    theirs.write("chat.py", CHAT_ONLY)
    children = [
        mine.start("loadlib", "run", mine.scenario(load, **steady), cold=True),
        theirs.begin_locust("chat.py", "--scenario", theirs.scenario(load, **steady), cold=True),
    ]
    ours, plain = [child.wait() for child in children]
    assert (ours.code, plain.code) == (0, 0), plain.err
    assert sorted(p.relative_to(ours.folder) for p in ours.folder.rglob("*")) == sorted(
        p.relative_to(plain.folder) for p in plain.folder.rglob("*")
    )
    assert (ours.folder / "scenario.yaml").read_text() == (
        plain.folder / "scenario.yaml"
    ).read_text()
    assert plain.requests()["ok"] == 30


def test_or_loadlib_scenario_and_the_share_of_an_unpicked_class_is_removed(driver):
    cases = {  # flags → requests per workload
        (): {"chat": 60, "Other": 20},
        ("Chat",): {"chat": 60},
        ("--tags", "other"): {"Other": 20},
    }
    children = []
    for number, flags in enumerate(cases):
        mine = driver.sub(str(number))
        mine.write("chat.py", CHAT)
        name = mine.scenario(
            "[{phase: measure, duration: 2s, arrival: constant, rate: 40/s}]",
            workloads={
                "chat": {"kind": "chat", "output_tokens": 4, "weight": 3},
                "Other": {"kind": "custom", "weight": 1},
            },
        )
        children.append(mine.begin_locust("chat.py", *flags, LOADLIB_SCENARIO=name))
    for child, (flags, expected) in zip(children, cases.items(), strict=True):
        ended = child.wait()
        assert ended.code == 0, ended.err
        groups = ended.summary["groups"]
        assert {g["workload"]: g["requests"]["ok"] for g in groups} == expected
        left_out = "no user class takes it" in " ".join(ended.summary["notices"])
        assert left_out == bool(flags)


def test_with_a_scenario_u_r_t_beside_it_is_exit_2_wherever_they_come_from(driver):
    driver.write("chat.py", CHAT)
    name = driver.scenario("[{phase: measure, requests: 5, arrival: constant, rate: 30/s}]")
    flags = "--scenario", name
    children = {
        flag: driver.begin_locust("chat.py", *flags, flag, "5") for flag in ("-u", "-r", "-t")
    }
    children["-u (environment)"] = driver.begin_locust("chat.py", *flags, LOCUST_USERS="5")
    for flag, child in children.items():
        ended = child.wait()
        assert ended.code == 2, flag
        assert f"error: {flag[:2]} beside a scenario" in ended.err
        assert "Traceback" not in ended.err
    assert not driver.reports.exists()


def test_with_a_scenario_a_shape_is_left_aside(driver):
    driver.write("chat.py", CHAT_ONLY + SHAPED)
    name = driver.scenario("[{phase: measure, requests: 5, arrival: constant, rate: 30/s}]")
    ended = driver.locust("chat.py", "--scenario", name)
    assert ended.code == 0, ended.err
    assert ended.requests()["ok"] == 5
    assert "Steps is left aside" in " ".join(ended.summary["notices"])


SLOW = """
from loadlib import LLMUser
from locust import task

class Slow(LLMUser):
    models = ["slow"]
    @task
    def ask(self):
        self.llm.chat([{"role": "user", "content": "Hello"}], max_tokens=30)
"""


@pytest.fixture(scope="module")
def free(tmp_path_factory, paced, simulators):
    """Runs without a scenario, two at a time: their seconds begin with Locust's start."""
    driver = Driver(tmp_path_factory.mktemp("free"), paced.base_url)
    driver.write("timed.py", MIXED)
    driver.write("shaped.py", "from locust import LoadTestShape\n" + MIXED + SHAPED)
    driver.write("slow.py", SLOW)
    broken = simulators("--profile", "instant", "--status", "500", "--every", "2").base_url
    cases = {
        "held": ("timed.py", "Asks", "-u", "4", "-r", "2", "-t", "3s"),
        "ramp": ("timed.py", "Asks", "-u", "100", "-r", "3", "-t", "2s"),
        "shape": ("shaped.py", "Asks"),
        "stop": ("slow.py", "-u", "3", "-r", "3", "-t", "2s", "--stop-timeout", "5"),
        "broken": ("timed.py", "Asks", "-u", "2", "-r", "2", "-t", "3s", "--base-url", broken),
    }

    def run(name):
        flags = cases[name]
        return driver.locust(*flags, *at(flags, paced.base_url), "--out", f"out/{name}")

    with ThreadPoolExecutor(2) as two:
        found = dict(zip(cases, two.map(run, cases), strict=True))
    for name, ended in found.items():
        ended.root = driver.folder / "out" / name
    yield found
    driver.close()


def at(flags: tuple[str, ...], base_url: str) -> tuple[str, ...]:
    return () if "--base-url" in flags else ("--base-url", base_url)


def test_with_no_scenario_u_r_t_and_wait_time_hold(free):
    ended = free["held"]
    assert ended.code == 0, ended.err
    (phase,) = ended.summary["scenario"]["load"]
    assert phase["users"] == 4
    # 4 users × 3 s / 0.1 s, less the ramp; never more than the think time allows.
    assert 10 < ended.requests()["ok"] <= 4 * 31
    assert 2 < ended.summary["duration_s"] < 6


def test_a_run_that_ends_before_its_ramp_is_whole(free):
    ended = free["ramp"]
    assert ended.code == 0, ended.err
    assert ended.requests()["ok"] > 5
    assert 1 < ended.summary["duration_s"] < 5


def test_with_no_scenario_a_users_load_test_shape_holds(free):
    ended = free["shape"]
    assert ended.code == 0, ended.err
    assert "Shape test stopping" in ended.err
    (phase,) = ended.summary["scenario"]["load"]
    assert phase["users"] == 5
    assert ended.requests()["ok"] > 20


def test_stop_timeout_keeps_working_and_streams_finish(free):
    ended = free["stop"]
    assert ended.code == 0, ended.err
    # 30 tokens at 10 a second outlive -t by a second or more; none is cut.
    assert ended.requests() == ended.requests() | {"scheduled": 3, "ok": 3, "cancelled": 0}


def test_without_gates_a_failing_request_is_locusts_exit_1(free):
    ended = free["broken"]
    assert ended.code == 1, ended.err
    assert ended.summary["verdict"]["status"] == "pass"
    assert ended.summary["gates"] == []
    assert ended.requests()["failed"] > 0


DISTRIBUTED = """[
  {phase: warmup, requests: 1, arrival: closed, users: 1},
  {phase: measure, requests: 60, arrival: poisson, rate: 40/s, max_in_flight: 100}]"""
LONG_ENDS = {
    "order": "interleaved",
    "models": ["steady", "slow"],
    "workloads": {
        "chat": {"kind": "chat", "output_tokens": 20, "models": ["steady"]},
        "end": {"kind": "chat", "output_tokens": 40, "models": ["slow"]},
    },
}


def the_totals_equal(ended, url: str, before: dict[str, float]) -> None:
    """What the run folder says is what the simulator counted."""
    assert ended.code == 0, ended.err
    after = counters(url)
    for model in ("steady", "slow"):
        found = ended.requests(model=model)
        assert found == found | {"ok": 61, "lost": 0, "cancelled": 0, "dropped": 0}
        tokens = sum(g["tokens"]["output"] for g in ended.summary["groups"] if g["model"] == model)
        for name, count in (("request_success_total", 61), ("generation_tokens_total", tokens)):
            grown = served(after, name)[model] - served(before, name).get(model, 0)
            assert grown == count
    checks = {check["name"]: check["value"] for check in ended.summary["health"]["checks"]}
    assert checks["lost_samples"] == checks["sequence_gaps"] == 0


@pytest.mark.slow
def test_processes_totals_are_the_simulators_with_long_streams_in_flight_at_the_end(driver):
    name = driver.scenario(DISTRIBUTED, **LONG_ENDS)
    before = counters(driver.base_url)
    the_totals_equal(driver.loadlib(name, "--processes", "2"), driver.base_url, before)


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_the_run_and_its_loss_is_named(driver):
    name = driver.scenario(
        "[{phase: measure, duration: 7s, arrival: constant, rate: 10/s}]", models=["slow"]
    )
    child = driver.start("loadlib", "run", name, "--processes", "2")
    child.until(lambda: len(driver.live_rows()) > 10)
    os.kill(workers_of(child)[0], signal.SIGKILL)
    ended = child.wait(40)
    assert ended.code == 7, ended.err
    assert ended.summary["verdict"]["status"] == "inconclusive"
    assert "left before the end" in " ".join(ended.summary["notices"])
    assert any("sequence gaps" in reason for reason in ended.summary["verdict"]["reasons"])
    # The other worker's half is whole.
    assert ended.requests()["ok"] > 30


def test_a_failed_preflight_leaves_no_worker_behind(driver):
    gone = own_port()["LOCUST_MASTER_BIND_PORT"]
    name = driver.scenario(
        "[{phase: measure, requests: 5, arrival: constant, rate: 30/s}]",
        models=[{"name": "m", "base_url": f"http://127.0.0.1:{gone}/v1"}],
    )
    child = driver.start("loadlib", "run", name, "--processes", "2")
    assert child.wait().code == 3
    # They would look for their master for five minutes.
    until(lambda: not in_group(child.process.pid), 10)


# Locust collects garbage before it forks; a signal in there meets callbacks of the collector first.
INTERRUPTED_COLLECTION = """
import gc
import os
import signal
from loadlib import LLMUser

def once(phase, info):
    gc.callbacks.remove(once)
    os.kill(os.getpid(), signal.SIGINT)

def collect(*args, really=gc.collect):
    gc.callbacks.insert(0, once)
    return really(*args)

gc.collect = collect

class Asks(LLMUser):
    pass
"""


def test_an_early_ctrl_c_that_python_drops_ends_the_run_nevertheless(driver):
    name = driver.scenario("[{phase: measure, requests: 5, arrival: constant, rate: 30/s}]")
    driver.write("early.py", INTERRUPTED_COLLECTION)
    command = "loadlib", "run", name, "--processes", "2", "--", "-f", "early.py"
    child = driver.start(*command, cold=True)
    ended = child.wait()
    assert ended.code == 130, ended.err
    assert "stopped before the first request; no report was written" in ended.err
    until(lambda: not in_group(child.process.pid), 10)
