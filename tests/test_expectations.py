import pytest
from test_gates import parse

from loadlib import gates, scenario
from loadlib.expectations import Planned
from loadlib.scenario import Reach


def plan(requests, **fields):
    return [
        Planned(
            **{"model": "m", "workload": "chat", "phase": "measure", "requests": requests} | fields
        )
    ]


@pytest.mark.parametrize(
    ("line", "planned", "expected", "why"),
    [
        (
            "ttft.p99 < 800ms",
            plan(135, duration_s=150),
            ["m/chat measure: ttft.p99 < 800ms needs 500, plans 135: use p95 or duration 9m20s"],
            "135 decide a p95; 150 s × 500 / 135 = 556 s, rounded up",
        ),
        (
            "ttft.p99 < 800ms",
            plan(60, phase_requests=100),
            ["m/chat measure: ttft.p99 < 800ms needs 500, plans 60: use p90 or requests 834"],
            "this group gets 60 of the phase's 100",
        ),
        (
            "ttft.p50 < 800ms",
            plan(4, duration_s=10),
            ["m/chat measure: ttft.p50 < 800ms needs 10, plans 4: use duration 25s"],
            "4 decide no percentile at all",
        ),
        (
            "ttft.p50 < 800ms",
            plan(0.0, duration_s=10),
            ["m/chat measure: ttft.p50 < 800ms needs 10, plans 0: plan some requests for it"],
            "no factor makes something of nothing",
        ),
        ("ttft.p99 < 800ms", plan(500.0, duration_s=150), [], "enough"),
        ("ttft.p99 < 800ms", plan(None, duration_s=150), [], "the server's speed decides"),
        ("error_rate < 1%", plan(3), [], "no percentile, no floor"),
        ("ttft.max < 1s", plan(3), [], "nor has a maximum"),
        ("ttft < 1s", plan(3), [], "nor an objective of single requests"),
        ("icl.p99 < 1s", plan(3), [], "gaps are many a request, nobody knows how many"),
        ("n: ttft.p99 < 1s", plan(3), [], "not in scope"),
    ],
)
def test_remedies(line, planned, expected, why):
    assert list(gates.remedies(parse(line), planned)) == expected, why


def test_every_gate_can_be_listed_with_its_numbers():
    (found,) = gates.expectations(parse("ttft.p90 < 800ms"), plan(500))
    assert (found.needs, found.plans, found.remedy) == (50, 500, "")
    assert found.text == "m/chat measure: ttft.p90 < 800ms needs 50, plans 500"
    (unknown,) = gates.expectations(parse("ttft.p90 < 800ms"), plan(None))
    assert unknown.text.endswith("needs 50, plans an unknown number")


def test_a_plan_is_read_off_the_scenario():
    made = scenario.parse(
        """
version: 1
target: simulator
models: [gpt-4o]
workloads:
  chat: {kind: chat, weight: 90}
  long: {kind: long_context, prompt_tokens: 1k, weight: 10}
load:
  - {phase: warmup, duration: 5s, arrival: closed, users: 1}
  - {phase: measure, duration: 150s, arrival: poisson, rate: 5/s}
  - {phase: measure, requests: 20, arrival: closed, users: 2}
slo: ["ttft.p99 < 1s"]
"""
    )
    found = gates.planned(made)
    assert [(p.workload, p.phase, p.requests, p.duration_s, p.phase_requests) for p in found] == [
        ("chat", "measure", 675, 150, None),
        ("long", "measure", 75, 150, None),
        ("chat", "measure-2", 18, None, 20),
        ("long", "measure-2", 2, None, 20),
    ]
    assert len(gates.remedies(made.objectives, found)) == 3
    only_chat = gates.planned(made, Reach(serves=lambda _model, workload: workload == "chat"))
    assert [(p.workload, p.requests) for p in only_chat] == [("chat", 750), ("chat", 20)]


@pytest.mark.parametrize(
    ("rate", "remedy", "why"),
    [
        ("[[0s, 0/s], [40s, 4/s]]", "use p90 or duration 45s", "80 come while it rises, then 4/s"),
        ("[[0s, 4/s], [40s, 0/s]]", "use p90", "no longer phase helps: the rate ended at 0"),
    ],
)
def test_a_remedy_follows_the_rate(rate, remedy, why):
    made = scenario.parse(
        f"""
version: 1
target: simulator
models: [gpt-4o]
workloads: {{chat: {{kind: chat}}}}
load:
  - {{phase: measure, duration: 40s, arrival: poisson, rate: {rate}}}
slo: ["ttft.p95 < 1s"]
"""
    )
    (line,) = gates.remedies(made.objectives, gates.planned(made))
    assert line.endswith(f"needs 100, plans 80: {remedy}"), why


def test_a_longer_stretch_of_the_trace_is_the_remedy():
    made = scenario.parse(
        """
version: 1
target: simulator
models: [gpt-4o]
workloads: {r: {kind: replay, data: t.csv}}
load:
  - {phase: measure, duration: 40s, arrival: trace}
slo: ["ttft.p95 < 1s"]
"""
    )
    plan = gates.planned(made, Reach(traced=lambda _phase, _groups: 70.0))
    (line,) = gates.remedies(made.objectives, plan)
    assert line.endswith("needs 100, plans 70: use p90 or a longer stretch of the trace")
