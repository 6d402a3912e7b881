"""Where gates, health and notices of a run meet."""

from dataclasses import replace

import pytest
from record_samples import KEY, MS, events, sample

from loadlib.conclude import Ending, conclude
from loadlib.instrument import lag_note
from loadlib.recorder import Recorder, Totals
from loadlib.sample import Outcome
from loadlib.session import Choice, open_session
from loadlib.summarise import Window

# — a whole summary ————————————————————————————————————————————————————————————

SCENARIO = """
version: 1
models: [{name: m, base_url: "http://127.0.0.1:1/v1"}]
workloads: {chat: {kind: chat, prompt_tokens: 100, output_tokens: 10}}
load: [{phase: measure, requests: 10, arrival: constant, rate: 10/s}]
"""
WINDOW = Window(phase="measure", start_ns=0, end_ns=1_000 * MS, rates={"m": 10.0})
BACKLOG = (
    "measure phases follow each other without a pause: a later one may start with the backlog of "
    "an earlier"
)
FREE = "no gates: Locust's own exit code stands"


def concluded(
    tmp_path,
    ending=Ending(),  # noqa: B008 — frozen
    windows=(WINDOW,),
    *,
    free=False,
    dropped=4,
    slo="",
    lag_ms=None,
    cpu=None,
):
    """Ten arrivals, of which some were never sent; each first token comes after 100 ms."""
    file = tmp_path / "s.yaml"
    file.write_text(SCENARIO + (f'slo: ["{slo}"]\n' if slo else ""), "utf-8")
    session = replace(open_session(Choice(file=str(file))), free=free)
    recorder, found = Recorder(0), Totals()
    rows = [
        sample(Outcome.DROPPED if i < dropped else Outcome.OK, at=i * 100, index=i)
        for i in range(10)
    ]
    for one in rows:
        recorder.scheduled((one.model, one.workload, one.phase), one.intended_ns)
        recorder.add(one, events(one) if one.outcome is Outcome.OK else ())
    for name, value in ((lag_note(*KEY), lag_ms and lag_ms * 1000), ("cpu_permille", cpu)):
        if value is not None:
            recorder.note(name, value)
    found.merge(recorder.drain(2_000 * MS))
    return conclude(
        session,
        found,
        rows,
        windows,
        ending,
        environment={"environment": {"cpus": 8}},
        started_ns=0,
    )


def test_load_that_was_not_sent_makes_a_whole_run_invalid(tmp_path):
    summary = concluded(tmp_path)
    assert summary.verdict.status == "inconclusive"
    assert summary.verdict.exit_code == 7
    assert summary.verdict.reasons[0] == (
        "measurement not valid: delivered is 60 % (limit 95 %): sent 60 % of the offered "
        "10/s to m in measure: requests left too late; less work in tasks and listeners, more "
        "processes (--processes), or a lower rate"
    )


def test_a_lack_of_cpu_is_named_with_the_processes_that_cure_it(tmp_path):
    summary = concluded(tmp_path, cpu=980)
    assert "the load generator was out of CPU (98 %" in summary.verdict.reasons[0]
    assert summary.verdict.reasons[0].endswith("; 2 more processes (--processes 3)")


SLOW = "all: ttft.p50 < 95ms, error_rate < 50%"


@pytest.mark.parametrize(
    ("lag_ms", "allowed", "status", "code", "why"),
    [
        (None, False, "fail", 5, "100 ms are over 95, and nothing is known against it"),
        (1, False, "fail", 5, "99 are, too"),
        (20, False, "inconclusive", 7, "80 would not be"),
        (20, True, "fail", 5, "the user wants it decided"),
    ],
)
def test_a_fail_that_our_own_lag_may_have_made(tmp_path, lag_ms, allowed, status, code, why):
    summary = concluded(
        tmp_path, Ending(allow_unhealthy=allowed), dropped=0, slo=SLOW, lag_ms=lag_ms
    )
    assert (summary.verdict.status, summary.verdict.exit_code) == (status, code), why
    assert summary.health.overridden == allowed
    if status == "inconclusive":
        assert "arrival lag 20.0 ms at p99" in summary.verdict.reasons[0]


def test_bad_health_can_be_overridden_and_that_is_said(tmp_path):
    summary = concluded(tmp_path, Ending(allow_unhealthy=True))
    assert (summary.verdict.status, summary.health.status) == ("pass", "bad")
    assert any(notice.startswith("--allow-unhealthy") for notice in summary.notices)


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        (Ending(aborted="the budget is spent"), "aborted"),
        (Ending(signal=2), "interrupted"),
        (Ending(stopped=True), "inconclusive"),
    ],
)
def test_a_stop_is_not_blamed_on_the_instrument(tmp_path, ending, status):
    summary = concluded(tmp_path, ending)
    assert (summary.verdict.status, summary.state) == (status, "interrupted")
    assert not any("delivered is" in reason for reason in summary.verdict.reasons)
    assert "delivered_share" not in {check.name for check in summary.health.checks}


def test_where_locust_decides_the_load_a_stop_is_no_fault(tmp_path):
    summary = concluded(tmp_path, Ending(stopped=True), free=True, dropped=0)
    assert (summary.verdict.status, summary.state) == ("pass", "interrupted")


def test_a_ladder_says_that_it_carries_its_backlog_over(tmp_path):
    later = replace(WINDOW, phase="measure-2")
    other = replace(WINDOW, model="other")
    for windows, said in (
        ((WINDOW,), False),
        ((WINDOW, other), False),  # one phase of two models
        ((replace(WINDOW, phase="warmup", kind="warmup"), WINDOW), False),
        ((WINDOW, replace(later, closed=True)), False),
        ((WINDOW, later), True),
    ):
        assert (BACKLOG in concluded(tmp_path, windows=windows).notices) == said


def test_without_gates_the_exit_code_is_said_to_be_locusts(tmp_path):
    assert FREE in concluded(tmp_path, free=True).notices
    assert FREE not in concluded(tmp_path).notices
    assert FREE not in concluded(tmp_path, Ending(signal=2), free=True).notices


@pytest.mark.parametrize(("bad", "said"), [(1, "1 invalid line skipped"), (2, "2 invalid lines")])
def test_skipped_lines_are_counted_in_english(tmp_path, bad, said):
    good = '{"messages": [{"role": "user", "content": "hello"}]}\n'
    (tmp_path / "talk.jsonl").write_text(good + "oops\n" * bad, "utf-8")
    file = tmp_path / "s.yaml"
    chat = "kind: chat, data: talk.jsonl, skip_invalid: true"
    file.write_text(SCENARIO.replace("kind: chat, prompt_tokens: 100", chat), "utf-8")
    assert f"workload chat: {said}" in " ".join(open_session(Choice(file=str(file))).notices)
