"""The Locust contract, sentence by sentence, through real `locust` and `loadlib` processes."""

from __future__ import annotations

import csv
import json
import os
import signal

import pytest
from locust_driver import Driver, own_port, served, workers_of
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
    driver.write("chat.py", CHAT_ONLY)
    name = driver.scenario("[{phase: measure, requests: 30, arrival: constant, rate: 30/s}]")
    ours = driver.loadlib(name, "--out", "ours")
    theirs = driver.locust("chat.py", "--scenario", name)
    assert (ours.code, theirs.code) == (0, 0), theirs.err
    (mine,) = Driver(driver.folder, "").reports.parent.glob("ours/2*")
    assert sorted(p.relative_to(mine) for p in mine.rglob("*")) == sorted(
        p.relative_to(theirs.folder) for p in theirs.folder.rglob("*")
    )
    for name in ("scenario.yaml",):
        assert (mine / name).read_text() == (theirs.folder / name).read_text()
    assert theirs.requests()["ok"] == 30


def test_or_loadlib_scenario_and_the_share_of_an_unpicked_class_is_removed(driver):
    driver.write("chat.py", CHAT)
    name = driver.scenario(
        "[{phase: measure, duration: 2s, arrival: constant, rate: 40/s}]",
        workloads={
            "chat": {"kind": "chat", "output_tokens": 4, "weight": 3},
            "Other": {"kind": "custom", "weight": 1},
        },
    )
    both = driver.locust("chat.py", LOADLIB_SCENARIO=name)
    assert both.code == 0, both.err
    assert both.requests(workload="chat")["ok"] == 60
    assert both.requests(workload="Other")["ok"] == 20
    picked = driver.locust("chat.py", "Chat", "--out", "picked", LOADLIB_SCENARIO=name)
    tagged = driver.locust("chat.py", "--tags", "other", "--out", "tagged", LOADLIB_SCENARIO=name)
    for ended, out, group, count in (
        (picked, "picked", "chat", 60),
        (tagged, "tagged", "Other", 20),
    ):
        ended.root = driver.folder / out
        assert ended.code == 0, ended.err
        assert ended.requests(workload=group)["ok"] == ended.requests()["scheduled"] == count
        assert "no user class takes it" in " ".join(ended.summary["notices"])


@pytest.mark.parametrize("flag", ["-u", "-r", "-t"])
def test_with_a_scenario_u_r_t_beside_it_is_exit_2(driver, flag):
    driver.write("chat.py", CHAT)
    name = driver.scenario("[{phase: measure, requests: 5, arrival: constant, rate: 30/s}]")
    ended = driver.locust("chat.py", "--scenario", name, flag, "5")
    assert ended.code == 2
    assert f"error: {flag} beside a scenario" in ended.err
    assert "Traceback" not in ended.err
    assert not driver.reports.exists()


def test_u_r_t_by_environment_is_exit_2_too_and_a_shape_is_left_aside(driver):
    driver.write("chat.py", CHAT_ONLY + SHAPED)
    name = driver.scenario("[{phase: measure, requests: 5, arrival: constant, rate: 30/s}]")
    assert driver.locust("chat.py", "--scenario", name, LOCUST_USERS="5").code == 2
    ended = driver.locust("chat.py", "--scenario", name)
    assert ended.code == 0, ended.err
    assert ended.requests()["ok"] == 5
    assert "Steps is left aside" in " ".join(ended.summary["notices"])


def test_with_no_scenario_u_r_t_and_wait_time_hold(driver):
    driver.write("timed.py", MIXED)
    ended = driver.locust(
        "timed.py", "-u", "4", "-r", "2", "-t", "3s", "--base-url", driver.base_url, "Asks"
    )
    assert ended.code == 0, ended.err
    (phase,) = ended.summary["scenario"]["load"]
    assert phase["users"] == 4
    # 4 users × 3 s / 0.1 s, less the ramp; never more than the think time allows.
    assert 40 < ended.requests()["ok"] <= 4 * 31
    assert 2 < ended.summary["duration_s"] < 6


def test_a_run_that_ends_before_its_ramp_is_whole(driver):
    driver.write("timed.py", MIXED)
    flags = "-u", "100", "-r", "3", "-t", "2s", "--base-url", driver.base_url
    ended = driver.locust("timed.py", *flags, "Asks")
    assert ended.code == 0, ended.err
    assert ended.requests()["ok"] > 5
    assert 1 < ended.summary["duration_s"] < 5


def test_with_no_scenario_a_users_load_test_shape_holds(driver):
    driver.write("shaped.py", "from locust import LoadTestShape\n" + MIXED + SHAPED)
    ended = driver.locust("shaped.py", "--base-url", driver.base_url, "Asks")
    assert ended.code == 0, ended.err
    assert "Shape test stopping" in ended.err
    (phase,) = ended.summary["scenario"]["load"]
    assert phase["users"] == 5
    assert ended.requests()["ok"] > 30


def test_stop_timeout_keeps_working_and_streams_finish(driver):
    driver.write(
        "slow.py",
        """
from loadlib import LLMUser
from locust import task

class Slow(LLMUser):
    models = ["slow"]
    @task
    def ask(self):
        self.llm.chat([{"role": "user", "content": "Hello"}], max_tokens=30)
""",
    )
    flags = "-u", "3", "-r", "3", "-t", "1s", "--stop-timeout", "5", "--base-url", driver.base_url
    ended = driver.locust("slow.py", *flags)
    assert ended.code == 0, ended.err
    # 30 tokens at 10 a second outlive -t by two seconds; none is cut.
    assert ended.requests() == ended.requests() | {"scheduled": 3, "ok": 3, "cancelled": 0}


def test_without_gates_a_failing_request_is_locusts_exit_1(driver, simulators):
    driver.write("mixed.py", MIXED)
    broken = simulators("--profile", "instant", "--status", "500", "--every", "5").base_url
    ended = driver.locust("mixed.py", "-u", "2", "-t", "2s", "--base-url", broken, "Asks")
    assert ended.code == 1, ended.err
    assert ended.summary["verdict"]["status"] == "pass"
    assert ended.summary["gates"] == []
    assert ended.requests()["failed"] > 0


DISTRIBUTED = """[
  {phase: warmup, requests: 1, arrival: closed, users: 1},
  {phase: measure, requests: 60, arrival: poisson, rate: 20/s, max_in_flight: 100}]"""
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
def test_master_and_workers_totals_too_and_the_workers_get_the_masters_scenario(driver):
    driver.write("chat.py", CHAT_ONLY)
    name = driver.scenario(DISTRIBUTED, **LONG_ENDS)
    before = counters(driver.base_url)
    at = "127.0.0.1", own_port()["LOCUST_MASTER_BIND_PORT"]
    workers = [
        driver.start("locust", "-f", "chat.py", "--worker", "--master-host", at[0],
                     "--master-port", at[1])
        for _ in range(2)
    ]  # fmt: skip
    ended = driver.locust(
        "chat.py", "--scenario", name, "--master", "--master-bind-host", at[0],
        "--master-bind-port", at[1], "--expect-workers", "2",
    )  # fmt: skip
    the_totals_equal(ended, driver.base_url, before)
    assert [worker.wait().code for worker in workers] == [0, 0]


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_the_run_and_its_loss_is_named(driver):
    name = driver.scenario(
        "[{phase: measure, duration: 9s, arrival: constant, rate: 10/s}]", models=["slow"]
    )
    child = driver.start("loadlib", "run", name, "--processes", "2")
    child.until(lambda: len(driver.live_rows()) > 10)
    os.kill(workers_of(child)[0], signal.SIGKILL)
    ended = child.wait(40)
    assert ended.code == 7, ended.err
    assert ended.summary["verdict"]["status"] == "inconclusive"
    assert "left before the end" in " ".join(ended.summary["notices"])
    assert any("sequence_gaps" in reason for reason in ended.summary["verdict"]["reasons"])
    # The other worker's half is whole.
    assert ended.requests()["ok"] > 40
