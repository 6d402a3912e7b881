"""Function calls, translations and puzzles end to end: a run that the simulator answers rightly."""

from __future__ import annotations

from itertools import groupby

import pytest
from locust_driver import Driver

WORKLOADS = {
    "tools": {"kind": "tools", "mode": ["one", "parallel", "none", "multi-step"], "weight": 2},
    "translate": {"kind": "translate", "pairs": ["zh-en", "en-zh"], "length": "short"},
    "reason": {"kind": "reason", "answer": ["brief", "steps"]},
}


@pytest.mark.slow
def test_right_answers_are_found_right_and_results_are_sent_back(driver: Driver) -> None:
    name = driver.scenario(
        "[{phase: measure, requests: 48, arrival: constant, rate: 24/s}]",
        models=[{"name": "gpt-4o-mini"}],
        target="simulator",
        workloads=WORKLOADS,
        slo=["all: error_rate < 1%, quality >= 90%", "tools: ttfc.p50 < 30s"],
    )
    ended = driver.loadlib(name, "--allow-unhealthy")
    assert ended.code == 0, ended.err
    groups = {group["workload"]: group for group in ended.summary["groups"]}
    assert {name: group["quality"]["share"] for name, group in groups.items()} == dict.fromkeys(
        WORKLOADS, 1.0
    ), [row for row in ended.rows if not row["quality"]]
    assert set(groups["tools"]["quality"]["variants"]) == {*WORKLOADS["tools"]["mode"]}
    assert set(groups["translate"]["quality"]["variants"]) == {"zh-en", "en-zh"}
    assert len(groups["reason"]["quality"]["variants"]) == 8

    # What calls nothing has no first call; in the simulator, which never talks first, it is ttfo.
    assert "ttfc" not in groups["reason"]["metrics"]
    assert groups["tools"]["metrics"]["ttfc"]["n"] < groups["tools"]["metrics"]["ttft"]["n"]
    for row in ended.rows:
        called = row.get("finish_reason") == "tool_calls"
        assert row.get("first_call_ns") == (row["first_output_ns"] if called else None)

    steps = [row for row in ended.rows if row.get("variant") == "multi-step"]
    ordered = sorted(steps, key=lambda row: (row["index"], row["turn"]))
    talks = [list(turns) for _, turns in groupby(ordered, key=lambda row: row["index"])]
    assert len(talks) == 6
    for turns in talks:
        assert [row["turn"] for row in turns] == list(range(1, len(turns) + 1))
        ends = [row["finish_reason"] for row in turns]
        assert ends == ["tool_calls"] * (len(turns) - 1) + ["stop"], "calls, then the answer"
        assert len(turns) in (2, 3)


@pytest.mark.slow
def test_wrong_answers_are_found_wrong(driver: Driver) -> None:
    name = driver.scenario(
        "[{phase: measure, requests: 60, arrival: constant, rate: 60/s}]",
        models=[{"name": "gpt-4o-mini"}],
        target="simulator",
        simulator={"profile": "instant", "wrong_rate": "40 %"},
        workloads={name: WORKLOADS[name] for name in ("translate", "reason")},
        slo=["all: quality >= 95%"],
    )
    ended = driver.loadlib(name, "--allow-unhealthy")
    assert ended.code == 5, ended.err
    for group in ended.summary["groups"]:
        found = group["quality"]
        assert 0.25 < found["share"] < 0.9, "about 40 % of them are wrong"
        assert sum(found["flaws"].values()) == found["checked"] - found["passed"] > 0
        assert set(found["flaws"]) <= {"invalid", "wrong"}
    wrong = [row for row in ended.rows if row["quality"] is False]
    assert all(row["outcome"] == "ok" and row["flaw"] for row in wrong)
    assert "of 30 answers (" in ended.out


def test_a_simulator_that_cannot_be_is_a_usage_error(driver: Driver) -> None:
    name = driver.scenario(
        "[{phase: measure, requests: 1, arrival: closed, users: 1}]",
        models=[{"name": "gpt-4o-mini"}],
        target="simulator",
        simulator={"profile": "instnat"},
    )
    ended = driver.loadlib(name)
    assert ended.code == 2
    assert "no profile 'instnat'" in ended.err
    assert "did you mean 'instant'?" in ended.err
    assert "Traceback" not in ended.err
