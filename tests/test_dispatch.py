"""What becomes of an arrival, end to end: ceilings, closed loops, order, budgets, signals."""

from __future__ import annotations

import json
import signal
from itertools import pairwise

import pytest
from commandline import WITH_PAGE
from locust_driver import Driver, rows
from simulator_client import counters

COMPLETE = {
    "manifest.json", "scenario.yaml", "summary.json", "summary.md", "junit.xml", "timeseries.csv",
    "requests.jsonl.gz", "hdr",
}  # fmt: skip
SLOW_CHAT = {"chat": {"kind": "chat", "output_tokens": 20}}  # 2 s on `slow`
ENDLESS = {"chat": {"kind": "chat", "output_tokens": 300}}  # 30 s on `slow`


def most_in_flight(found: list[dict]) -> int:
    """The most requests at once between `sent` and `end`."""
    edges = [(row["sent_ns"], 1) for row in found if row["sent_ns"]]
    edges += [(row["end_ns"], -1) for row in found if row["sent_ns"]]
    level = most = 0
    for _, step in sorted(edges):
        level += step
        most = max(most, level)
    return most


def test_at_the_ceiling_an_arrival_waits_then_drops_after_first_token(driver):
    name = driver.scenario(
        "[{phase: measure, requests: 12, arrival: constant, rate: 20/s, max_in_flight: 2}]",
        models=["slow"],
        workloads={"chat": {"kind": "chat", "output_tokens": 10}},
        timeouts={"first_token": "2s"},
    )
    ended = driver.loadlib(name)
    assert ended.code == 7, ended.err  # far less than 95 % of the offered load was sent
    found = ended.rows
    assert most_in_flight(found) == 2
    waited = [row for row in found if row["outcome"] == "ok"]
    dropped = [row for row in found if row["outcome"] == "dropped"]
    assert len(waited) + len(dropped) == 12
    assert len(dropped) >= 4
    assert {row["cause"] for row in dropped} == {"ceiling"}
    assert all(row["sent_ns"] is None for row in dropped)
    assert all(1.9e9 < row["end_ns"] - row["intended_ns"] < 3e9 for row in dropped)
    # The wait is in the response clock and not in the sent clock.
    assert max(row["sent_ns"] - row["intended_ns"] for row in waited) > 0.8e9
    assert ended.requests()["dropped"] == len(dropped)


def test_when_full_drop_drops_at_once(driver):
    name = driver.scenario(
        "[{phase: measure, requests: 10, arrival: constant, rate: 50/s, max_in_flight: 2,"
        " when_full: drop}]",
        models=["slow"],
        workloads={"chat": {"kind": "chat", "output_tokens": 10}},
    )
    found = driver.loadlib(name).rows
    dropped = [row for row in found if row["outcome"] == "dropped"]
    assert len(dropped) == 8
    assert all(row["end_ns"] - row["intended_ns"] < 0.5e9 for row in dropped)


def test_a_closed_loop_holds_users_per_model_and_requests_is_exact(driver):
    name = driver.scenario(
        "[{phase: warmup, requests: 3, arrival: closed, users: 2},"
        " {phase: measure, requests: 25, arrival: closed, users: 3}]",
        models=["steady", "fast"],
        order="interleaved",
    )
    ended = driver.loadlib(name, "--processes", "2")
    assert ended.code == 0, ended.err
    for model in ("steady", "fast"):
        found = [r for r in ended.rows if r["model"] == model and r["phase"] == "measure"]
        assert sorted(row["index"] for row in found) == list(range(25))
        assert most_in_flight(found) == 3
        assert ended.requests(model=model, phase="warmup")["ok"] == 3
    assert not any(gate["scope"].endswith("warmup") for gate in ended.summary["gates"])
    assert {gate["n"] for gate in ended.summary["gates"]} == {25}


def test_per_total_splits_by_weight_and_one_user_among_two_workers_is_one(driver):
    name = driver.scenario(
        "[{phase: measure, requests: 20, arrival: closed, users: 1}]",
        models=["steady", "fast"],
        per="total",
        order="interleaved",
    )
    ended = driver.loadlib(name, "--processes", "2")
    assert ended.code == 0, ended.err
    assert ended.requests(model="steady")["ok"] == ended.requests(model="fast")["ok"] == 10
    assert most_in_flight(ended.rows) == 1


def test_order_sequential_drains_between_models(driver):
    name = driver.scenario(
        "[{phase: measure, duration: 1s, arrival: constant, rate: 10/s}]",
        models=["slow", "fast"],
        workloads={"chat": {"kind": "chat", "output_tokens": 10}},
        order="sequential",
    )
    ended = driver.loadlib(name, "--processes", "2")
    assert ended.code == 0, ended.err
    slow = [row["end_ns"] for row in ended.rows if row["model"] == "slow"]
    fast = [row["intended_ns"] for row in ended.rows if row["model"] == "fast"]
    assert (len(slow), len(fast)) == (10, 10)
    assert max(slow) <= min(fast)


@pytest.mark.alone
def test_arrivals_are_on_time_and_absolute(driver):
    name = driver.scenario("[{phase: measure, requests: 90, arrival: constant, rate: 30/s}]")
    ended = driver.loadlib(name)
    assert ended.code == 0, ended.err
    due = sorted(row["intended_ns"] for row in ended.rows)
    # Absolute instants: the schedule is exact whatever the sleeps were.
    assert {round((b - a) / 1e6) for a, b in pairwise(due)} == {33}
    lags = sorted(row["sent_ns"] - row["intended_ns"] for row in ended.rows)
    assert lags[len(lags) // 2] < 20e6


def test_a_trace_is_played_at_its_instants_with_its_lengths_by_two_workers(driver, tmp_path):
    trace = tmp_path / "trace.jsonl"
    recorded = [(0, 60), (0, 90), (400, 70), (1000, 300), (1100, 80), (3000, 65)]
    trace.write_text("".join(
        json.dumps({"timestamp": at, "input_length": n, "output_length": 3}) + "\n"
        for at, n in recorded
    ))  # fmt: skip
    name = driver.scenario(
        "[{phase: measure, name: once, duration: 2s, arrival: trace, speed: 2},"
        " {phase: measure, name: again, requests: 4, arrival: trace},"
        " {phase: measure, name: bursts, requests: 20, arrival: gamma, shape: 0.2,"
        " rate: [[0s, 10/s], [1s, 40/s]]}]",
        workloads={"prod": {"kind": "replay", "data": str(trace)}},
    )
    ended = driver.loadlib(name, "--processes", "2")
    assert ended.code == 0, ended.err
    played = {
        phase: sorted((r["index"], r["intended_ns"], r["input_tokens"]) for r in ended.rows
                      if r["phase"] == phase)
        for phase in ("once", "again", "bursts")
    }  # fmt: skip
    for phase, speed, count in (("once", 2, 6), ("again", 1, 4)):
        start = played[phase][0][1]
        assert [(i, n) for i, _, n in played[phase]] == [
            (i, n) for i, (_, n) in enumerate(recorded[:count])
        ]
        # Two workers hear of the start one after the other.
        assert [(at - start) * speed / 1e6 for _, at, _ in played[phase]] == pytest.approx(
            [at for at, _ in recorded[:count]], abs=90
        )
    assert [index for index, _, _ in played["bursts"]] == list(range(20))
    groups = {group["phase"]: group for group in ended.summary["groups"]}
    assert [groups[p]["varying"] for p in played] == [True, True, True]
    assert groups["once"]["load"] == "trace ×2"
    for phase in ("once", "again"):
        assert groups[phase]["rate_rps"] == pytest.approx(3)
        assert groups[phase]["throughput"]["offered_rps"] == pytest.approx(3, rel=0.05)
    assert ended.summary["brackets"] == [], "phases whose rate changes are no ladder"


@pytest.mark.slow
def test_a_frozen_server_is_seen_by_the_response_clock_not_the_sent_clock(driver, simulators):
    """Design §9. 1,200 requests, so that 1 % of them are more than ten."""
    children = {}
    for ceiling in (10, 900):
        stalls = simulators(
            "--profile", "instant", "--freeze-at", "1", "--freeze-for", "2", fresh=True
        )
        mine = driver.sub(str(ceiling))
        name = mine.scenario(
            "[{phase: measure, duration: 6s, arrival: constant, rate: 200/s,"
            f" max_in_flight: {ceiling}}}]",
            models=[{"name": "fast", "base_url": stalls.base_url}],
        )
        children[ceiling] = mine.start("loadlib", "run", name)
    ended = {ceiling: child.wait() for ceiling, child in children.items()}
    assert all(one.code in (0, 7) for one in ended.values())
    summaries = {ceiling: one.summary for ceiling, one in ended.items()}
    p99 = {
        ceiling: {m: s["groups"][0]["metrics"][m]["p99"] for m in ("ttft", "e2e", "sent_ttft")}
        for ceiling, s in summaries.items()
    }
    # Ten in flight freeze, 390 wait outside: of 1,200 requests only ten show it when sent.
    assert p99[10]["ttft"] > 1000
    assert p99[10]["e2e"] > 1000
    assert p99[10]["sent_ttft"] < 1000
    # With room for all, every request that was due is in flight, and both clocks agree.
    assert p99[900]["ttft"] > 1000
    assert p99[900]["sent_ttft"] == pytest.approx(p99[900]["ttft"], rel=0.05)


def test_a_spent_budget_stops_the_run_with_exit_4_and_is_never_overshot(driver):
    cases = [("max_output_tokens", 60, 15), ("max_requests", 7, 7)]
    children = []
    for key, limit, _ in cases:
        mine = driver.sub(key)
        load = "[{phase: measure, requests: 60, arrival: closed, users: 5}]"
        children.append(mine.start("loadlib", "run", mine.scenario(load, budget={key: limit})))
    for child, (_, _, most) in zip(children, cases, strict=True):
        ended = child.wait()
        assert ended.code == 4, ended.err
        assert ended.summary["verdict"]["status"] == "aborted"
        assert "budget" in ended.summary["verdict"]["reasons"][0]
        assert ended.requests()["sent"] == most
        assert sum(group["tokens"]["output"] for group in ended.summary["groups"]) <= most * 4


def test_a_key_that_is_refused_is_3_in_preflight_and_4_in_the_run(driver, simulators):
    load = "[{phase: measure, duration: 20s, arrival: constant, rate: 20/s}]"
    locked = simulators("--profile", "instant", "--require-key", "HOME").base_url
    name = driver.scenario(load, models=[{"name": "m", "base_url": locked}])
    refused = driver.loadlib(name)
    assert refused.code == 3
    assert "refuses the key" in refused.err
    assert not driver.reports.exists()
    revoked = simulators("--profile", "instant", "--status", "401").base_url
    name = driver.scenario(load, models=[{"name": "m", "base_url": revoked}])
    stopped = driver.loadlib(name)
    assert stopped.code == 4, stopped.err
    assert stopped.summary["duration_s"] < 10
    assert stopped.requests()["sent"] < 20


def complete_and_interrupted(ended, code: int) -> None:
    assert ended.code == code, ended.err
    assert "Traceback" not in ended.err, ended.err
    assert {path.name for path in ended.folder.iterdir()} >= COMPLETE - {"requests.jsonl.gz"}
    assert ended.summary["verdict"] == ended.summary["verdict"] | {
        "status": "interrupted", "exit_code": code
    }  # fmt: skip
    assert ended.summary["state"] == "interrupted"
    manifest = json.loads((ended.folder / "manifest.json").read_text())
    assert manifest["state"] == "interrupted"
    counts = ended.requests()
    found = rows(ended.folder)
    assert len(found) == counts.get("scheduled", 0)
    assert counts.get("lost", 0) == 0


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, paced):
    """Name → a run that a signal ended in its first seconds; all at the same time."""
    driver = Driver(tmp_path_factory.mktemp("stopped"), paced.base_url)
    phases = (
        "[{phase: warmup, duration: 20s, arrival: constant, rate: 5/s},"
        " {phase: measure, duration: 20s, arrival: constant, rate: 5/s}]"
    )
    rare = "[{phase: measure, requests: 3, arrival: constant, rate: 0.1/s}]"
    cases = {  # load, workloads, flags, ready when, signal
        "ctrl-c": (phases, SLOW_CHAT, (), 3, signal.SIGINT),
        "sigterm": (phases, SLOW_CHAT, (), 3, signal.SIGTERM),
        "processes": (phases, SLOW_CHAT, ("--processes", "2"), 3, signal.SIGINT),
        "endless": (phases, ENDLESS, (), 0, signal.SIGTERM),
        "early": (rare, SLOW_CHAT, (), 0, signal.SIGINT),
    }
    children = {}
    for name, (load, workloads, flags, _, _) in cases.items():
        mine = driver.sub(name)
        model = "watched" if name == "endless" else "slow"
        file = mine.scenario(load, models=[model], workloads=workloads)
        page = WITH_PAGE if name == "sigterm" else {}
        children[name] = mine, mine.start("loadlib", "run", file, *flags, **page)
    for name, (_, _, _, count, number) in cases.items():
        mine, child = children[name]
        if name == "endless":
            child.until(lambda mine=mine: running(mine) >= 3)
        else:
            child.until(mine.reports.exists)
            child.until(lambda mine=mine, count=count: len(mine.live_rows()) >= count)
        child.signal(number, group=name == "processes")
    yield {name: child.wait() for name, (_, child) in children.items()}
    driver.close()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("ctrl-c", 130), ("sigterm", 143), ("processes", 130)])
def test_a_signal_lets_streams_finish_and_leaves_a_complete_folder(stopped, name, code):
    ended = stopped[name]  # in the middle of its warm-up
    complete_and_interrupted(ended, code)
    assert (ended.folder / "report.html").exists() == (name == "sigterm")
    counts = ended.requests(phase="warmup")
    assert counts["cancelled"] == 0
    assert counts["ok"] == counts["scheduled"] >= 10


@pytest.mark.slow
def test_streams_of_30_s_get_ten_seconds_and_are_cancelled_then(stopped):
    ended = stopped["endless"]
    complete_and_interrupted(ended, 143)
    cancelled = [row for row in ended.rows if row["outcome"] == "cancelled"]
    assert len(cancelled) >= 3
    assert max(row["end_ns"] - row["intended_ns"] for row in cancelled) > 9e9
    # Their tapes tell what had come by then.
    assert all(row["sent_ns"] and row["first_token_ns"] and row["events"] > 50 for row in cancelled)


@pytest.mark.slow
def test_a_signal_before_the_first_request_leaves_a_folder_too(stopped):
    complete_and_interrupted(stopped["early"], 130)


def running(driver) -> float:
    """Requests that the simulator's model `watched` is answering."""
    found = counters(driver.base_url)
    return sum(v for k, v in found.items() if "num_requests_running" in k and "watched" in k)


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_does_not_wait_for_streams(driver, second):
    name = driver.scenario(
        "[{phase: measure, duration: 20s, arrival: constant, rate: 5/s}]",
        models=["watched"], workloads=ENDLESS,
    )  # fmt: skip
    child = driver.start("loadlib", "run", name)
    child.until(lambda: running(driver) >= 3)
    child.signal(signal.SIGINT)
    child.until(lambda: "a second one cancels them" in child.err)
    child.signal(second)
    ended = child.wait(20)
    complete_and_interrupted(ended, 130)
    cancelled = [row for row in ended.rows if row["outcome"] == "cancelled"]
    assert len(cancelled) >= 3
    assert max(row["end_ns"] - row["intended_ns"] for row in cancelled) < 9e9


@pytest.mark.parametrize(
    ("words", "beside", "max_usd", "sent"),
    [
        ("word " * 1000, {}, 0.055, 3),  # a third of its bytes: 1.7 cents each
        ("Hello", {"documents": ["x" * 3000]}, 0.009, 0),  # a cent, by the length of the body
    ],
)
def test_a_tasks_own_words_count_against_max_usd_before_they_are_sent(
    driver, words, beside, max_usd, sent
):
    driver.write("own.py", f"""
from loadlib import LLMUser
from locust import task

class Own(LLMUser):
    @task
    def ask(self):
        self.llm.chat([{{"role": "user", "content": {words!r}}}], max_tokens=4, **{beside})
""")  # fmt: skip
    name = driver.scenario(
        "[{phase: measure, requests: 60, arrival: closed, users: 5}]",
        models=[{
            "name": "fast", "base_url": driver.base_url,
            "price": {"input_usd_per_mtok": 10, "output_usd_per_mtok": 10},
        }],
        workloads={"Own": {"kind": "custom"}},
        budget={"max_usd": max_usd},
    )  # fmt: skip
    ended = driver.locust("own.py", "--scenario", name)
    assert ended.code == 4, ended.err
    assert ended.requests().get("sent", 0) == sent
    assert sum(group["cost_usd"]["total"] or 0 for group in ended.summary["groups"]) <= max_usd


OWN_CODE = """
from loadlib import LLMUser
from locust import task

class Own(LLMUser):
    @task
    def ask(self):
        list(self.openai.chat.completions.create(
            model=self.model, messages=[{"role": "user", "content": "Hello"}], stream=True))
"""


@pytest.mark.parametrize(("max_usd", "least"), [(0.0001, 0), (0.03, 4)])
def test_own_code_counts_against_max_usd_before_it_is_sent(driver, max_usd, least):
    """It sets no output cap: 256 tokens are the most, $0.00256 on gpt-4o, and a little."""
    driver.write("own.py", OWN_CODE)
    name = driver.scenario(
        "[{phase: measure, requests: 200, arrival: closed, users: 4}]",
        target="simulator",
        models=[{"name": "gpt-4o"}],
        workloads={"Own": {"kind": "custom"}},
    )
    ended = driver.locust("own.py", "--scenario", name, "--set", f"budget.max_usd={max_usd}")
    assert ended.code == 4, ended.err
    assert least <= ended.requests()["sent"] < 200
    assert "max_usd" in ended.err
    rows = [row for row in ended.rows if row["outcome"] == "ok"]
    assert all(0 < row["output_tokens"] <= 256 and row["cost_usd"] > 0 for row in rows)
    assert sum(row["cost_usd"] for row in rows) <= max_usd
    assert sum(group["cost_usd"]["total"] or 0 for group in ended.summary["groups"]) <= max_usd


def test_every_answer_of_n_counts_against_the_budget_before_it_is_sent(driver):
    driver.write("own.py", """
from loadlib import LLMUser
from locust import task

class Own(LLMUser):
    @task
    def ask(self):
        self.llm.chat([{"role": "user", "content": "Hello"}], max_tokens=10, n=5)

class Code(LLMUser):
    @task
    def ask(self):
        self.openai.chat.completions.create(
            model=self.model, messages=[{"role": "user", "content": "Hello"}], max_tokens=10, n=5)
""")  # fmt: skip
    for workload in ("Own", "Code"):
        sub = driver.sub(workload)
        sub.write("own.py", (driver.folder / "own.py").read_text())
        name = sub.scenario(
            "[{phase: measure, requests: 5, arrival: closed, users: 1}]",
            workloads={workload: {"kind": "custom"}},
            budget={"max_output_tokens": 49},
        )
        ended = sub.locust("own.py", workload, "--scenario", name)
        assert ended.code == 4, ended.err
        assert ended.requests().get("sent", 0) == 0
        assert "max_output_tokens" in ended.err
