"""Where gates, health and notices of a run meet; the instrument's own error, as gates take it."""

from dataclasses import replace

import numpy as np
import pytest
from record_samples import MS, events, sample

from loadlib.conclude import Ending, _stamp_error, conclude
from loadlib.histogram import Histogram
from loadlib.recorder import Recorder, Totals
from loadlib.sample import Outcome
from loadlib.session import Choice, open_session
from loadlib.slo import parse
from loadlib.summarise import Window
from loadlib.summary import Cost, Goodput, Group, Quality, Requests, Throughput, Tokens


def group(*, ok: int = 10, output: int | None = 650) -> Group:
    return Group(
        model="m", workload="chat", phase="measure", requests=Requests(ok=ok), outcomes={},
        metrics={}, tokens=Tokens(output=output), throughput=Throughput(), goodput=Goodput(),
        cost_usd=Cost(), quality=Quality(),
    )  # fmt: skip


def totals() -> Totals:
    found = Totals()
    # 1 ms late at the median, 64 ms at p99
    found.notes["hub_lag"] = Histogram(np.array([1_000] * 95 + [64_000] * 5))
    return found


@pytest.mark.parametrize(
    ("line", "error_ms", "why"),
    [
        ("ttft.p50 < 1s", 1.0, "a median is as wrong as stamps usually are"),
        ("ttft.p99 < 1s", 64.0, "a p99 as wrong as they rarely are"),
        ("ttft.mean < 1s", 1.0, "a mean is judged like a median"),
        ("e2e.max < 9s", 64.0, "the worst stamp may belong to the worst request"),
        ("tpot.p99 < 50ms", 1.0, "64 ms over the 64 gaps between two stamps"),
    ],
)
def test_error_of_a_statistic(line, error_ms, why):
    (objective,) = parse(line, ())
    assert _stamp_error(totals())(objective, group()) == pytest.approx(error_ms, rel=2e-3), why


def test_without_a_reading_no_error_is_made_up():
    (objective,) = parse("ttft.p99 < 1s", ())
    assert _stamp_error(Totals())(objective, group()) == 0.0


def test_unknown_token_counts_do_not_shrink_the_error():
    (objective,) = parse("tpot.p50 < 50ms", ())
    assert _stamp_error(totals())(objective, group(output=None)) == pytest.approx(1.0, rel=2e-3)


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


def concluded(tmp_path, ending=Ending(), windows=(WINDOW,), *, free=False):  # noqa: B008 — frozen
    """Ten arrivals, of which four were never sent."""
    file = tmp_path / "s.yaml"
    file.write_text(SCENARIO, "utf-8")
    session = replace(open_session(Choice(file=str(file))), free=free)
    recorder, found = Recorder(0), Totals()
    rows = [
        sample(Outcome.DROPPED if i < 4 else Outcome.OK, at=i * 100, index=i) for i in range(10)
    ]
    for one in rows:
        recorder.scheduled((one.model, one.workload, one.phase), one.intended_ns)
        recorder.add(one, events(one) if one.outcome is Outcome.OK else ())
    found.merge(recorder.drain(2_000 * MS))
    return conclude(session, found, rows, windows, ending, environment={}, started_ns=0)


def test_load_that_was_not_sent_makes_a_whole_run_invalid(tmp_path):
    summary = concluded(tmp_path)
    assert summary.verdict.status == "inconclusive"
    assert "delivered_share is 0.6" in summary.verdict.reasons[0]


@pytest.mark.parametrize("ending", [Ending(aborted="the budget is spent"), Ending(signal=2)])
def test_a_stop_is_not_blamed_on_the_instrument(tmp_path, ending):
    summary = concluded(tmp_path, ending)
    assert summary.verdict.status in ("aborted", "interrupted")
    assert not any("delivered_share" in reason for reason in summary.verdict.reasons)
    assert "delivered_share" not in {check.name for check in summary.health.checks}


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
