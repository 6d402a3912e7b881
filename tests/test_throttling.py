"""Throttled requests and money, through the public command against the simulator."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from commandline import loadlib, scenario
from conftest import Simulators
from locust_driver import Driver, read, rows

pytestmark = pytest.mark.slow

S = 10**9


def run(
    folder: Path, url: str, *flags: object, **more: object
) -> tuple[int, dict[str, Any], list[dict[str, Any]]]:
    path = scenario(folder, url, slo=None, **more)
    done = loadlib("run", path, "--out", folder / "reports", *flags)
    latest = folder / "reports" / "latest"
    assert latest.exists(), done.err
    return done.code, read(latest), rows(latest)


def test_each_attempt_is_a_sample_and_the_request_counts_once(
    tmp_path: Path, simulators: Simulators
) -> None:
    """Every third request is refused for a second; an open phase, then a closed one."""
    fault = "status,status=429,every=3,retry_after=1s"
    url = simulators("--profile", "instant", "--fault", fault, fresh=True).base_url
    load = [
        {"phase": "measure", "name": "open", "requests": 12, "arrival": "constant", "rate": "40/s"},
        {"phase": "measure", "name": "closed", "requests": 6, "arrival": "closed", "users": 2},
    ]
    code, summary, found = run(tmp_path, url, load=load, on_throttle="backoff")
    assert code in (0, 7), summary["verdict"]  # health of a busy machine is not what this is about
    for group, n in zip(summary["groups"], (12, 6), strict=True):
        requests = group["requests"]
        assert (requests["scheduled"], requests["sent"], requests["ok"]) == (n, n, n)
        mine = [row for row in found if row["phase"] == group["phase"]]
        again = [row for row in mine if row["retried"]]
        assert requests["attempts"] == len(mine) == n + len(again)
        assert requests["throttled_attempts"] == len(again) > 0
        assert group["outcomes"] == {"ok": n}
        assert group["metrics"]["e2e"]["n"] == n
    assert summary["rate_limits"]["gpt-4o-mini"]["throttled"] == len(
        [row for row in found if row["status"] == 429]
    )
    assert summary["rate_limits"]["gpt-4o-mini"]["requests"]["most"] == len(found)
    assert summary["rate_limits"]["gpt-4o-mini"]["retry_after_ms"] == 1000
    by_request = defaultdict(list)
    for row in found:
        by_request[row["phase"], row["index"]].append(row)
    for attempts in by_request.values():
        attempts.sort(key=lambda row: row["attempt"])
        assert [row["attempt"] for row in attempts] == list(range(1, len(attempts) + 1))
        assert [row["retried"] for row in attempts] == [True] * (len(attempts) - 1) + [False]
        assert len({row["intended_ns"] for row in attempts}) == 1, "the arrival's own instant"
        assert len({row["prompt_sha"] for row in attempts}) == 1, "and the same words"
        waited = attempts[-1]["sent_ns"] - attempts[0]["intended_ns"]
        assert waited >= (len(attempts) - 1) * S, "the wait is in the response time"
        for before, after in pairwise(attempts):
            assert after["sent_ns"] >= before["end_ns"] + S, "never earlier than was asked"


def test_a_refused_request_that_finds_no_place_again_was_sent_and_refused(
    tmp_path: Path, simulators: Simulators
) -> None:
    """Answers of half a second, one place, ten arrivals a second: no retry finds it free."""
    slow, fault = "stall-before-first,for=500ms", "status,status=429,every=2,retry_after=1s"
    url = simulators("--profile", "instant", "--fault", slow, "--fault", fault, fresh=True).base_url
    load = [{
        "phase": "measure", "duration": "4s", "arrival": "constant", "rate": "10/s",
        "max_in_flight": 1, "when_full": "drop",
    }]  # fmt: skip
    _, summary, found = run(tmp_path, url, load=load, on_throttle="backoff")
    group = summary["groups"][0]
    requests = group["requests"]
    assert requests["scheduled"] == requests["sent"] + requests["dropped"]
    assert requests["sent"] == requests["ok"] + requests["failed"] + requests["cancelled"]
    assert requests["dropped"] == len([row for row in found if row["outcome"] == "dropped"])
    assert all(row["attempt"] == 1 for row in found if row["outcome"] == "dropped")
    stands = [row for row in found if row["attempt"] > 1 and row["cause"] == "ceiling"]
    assert {(row["outcome"], row["sent_ns"]) for row in stands} == {("throttled", None)}
    assert group["causes"]["throttled/ceiling"] == len(stands)
    refused = len([row for row in found if row["status"] == 429])
    assert requests["attempts"] == len([row for row in found if row["sent_ns"] is not None])
    assert requests["throttled_attempts"] == refused
    assert summary["rate_limits"]["gpt-4o-mini"]["throttled"] == refused


def test_without_backoff_a_refusal_is_the_end(tmp_path: Path, simulators: Simulators) -> None:
    fault = "status,status=429,every=3,retry_after=1s"
    url = simulators("--profile", "instant", "--fault", fault, fresh=True).base_url
    _, summary, found = run(tmp_path, url)
    requests = summary["groups"][0]["requests"]
    assert (requests["ok"], requests["throttled"], requests["attempts"]) == (8, 4, 12)
    assert not any(row["retried"] for row in found)
    assert {row["retry_after_ms"] for row in found} == {None, 1000}


OWN_WORDS = """
from locust import task
from loadlib import LLMUser


class Own(LLMUser):
    kind = "chat"  # takes its arrivals, and says something else

    @task
    def ask(self):
        reply = self.llm.chat([{"role": "user", "content": "My own words"}], max_tokens=4)
        print("told", reply.outcome.value)
"""


def test_what_a_task_said_itself_goes_back_to_the_task(
    driver: Driver, simulators: Simulators
) -> None:
    fault = "status,status=429,every=3"
    url = simulators("--profile", "instant", "--fault", fault, fresh=True).base_url
    driver.write("own.py", OWN_WORDS)
    name = driver.scenario(
        "[{phase: measure, requests: 9, arrival: closed, users: 1}]",
        models=[{"name": "gpt-4o-mini", "base_url": url}], on_throttle="backoff",
    )  # fmt: skip
    ended = driver.locust("own.py", "--scenario", name)
    assert [row["attempt"] for row in ended.rows] == [1] * 9
    assert not any(row["retried"] for row in ended.rows)
    assert ended.out.count("told throttled") + ended.err.count("told throttled") == 3


def test_the_budget_holds_over_processes_and_attempts(
    tmp_path: Path, simulators: Simulators
) -> None:
    """Reserved before it is sent, so overshot by nothing; every attempt reserves for itself."""
    fault = "status,status=429,every=4"
    url = simulators("--profile", "instant", "--fault", fault, fresh=True).base_url
    model = {
        "name": "gpt-4o-mini", "base_url": url,
        "price": {"input_usd_per_mtok": 100, "output_usd_per_mtok": 1000},
    }  # fmt: skip
    code, summary, found = run(
        tmp_path, url, "--processes", "2",
        models=[model],
        load=[{"phase": "measure", "duration": "20s", "arrival": "closed", "users": 6}],
        on_throttle={"policy": "backoff", "attempts": 3, "max_wait": "100ms"},
        budget={"max_usd": 0.5},
    )  # fmt: skip
    assert code == 4, summary["verdict"]
    assert summary["verdict"]["status"] == "aborted"
    assert "max_usd" in summary["verdict"]["reasons"][0]
    costs = [row["cost_usd"] for row in found if row["cost_usd"] is not None]
    group = summary["groups"][0]
    assert group["cost_usd"]["total"] == pytest.approx(sum(costs))
    assert 0.3 < sum(costs) <= 0.5
    good = [row for row in found if row["outcome"] == "ok"]
    assert group["cost_usd"]["per_1k_requests"] == pytest.approx(
        1000 * sum(costs) / (group["requests"]["sent"] - group["cost_usd"]["unknown"])
    )
    assert len(good) == len(costs)
