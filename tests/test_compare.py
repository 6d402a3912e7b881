import pytest
from test_gates import group

from loadlib.compare import compare, direction, unmatched
from loadlib.summary import Goodput, Health, Summary, Throughput, Verdict


class Run:
    def __init__(self, *groups):
        self.summary = Summary(
            verdict=Verdict(status="pass"), health=Health(status="ok"), groups=groups
        )


def row(before, after, metric, stat):
    rows = compare(Run(before), Run(after))
    return next(r for r in rows if (r.metric, r.stat) == (metric, stat))


@pytest.mark.parametrize(
    ("better", "before", "after", "expected", "why"),
    [
        ("lower", (90, 110), (120, 140), "worse", "apart, and up"),
        ("lower", (90, 110), (60, 80), "better", "apart, and down"),
        ("higher", (90, 110), (120, 140), "better", "up is good for a rate"),
        ("higher", (90, 110), (60, 80), "worse", "and down is not"),
        ("lower", (90, 110), (110, 140), "unclear", "they touch"),
        ("lower", (90, 110), (95, 105), "unclear", "alike, but each too wide to say the same"),
        ("lower", (99, 101), (99, 102), "same", "surely within 5 %"),
        ("lower", (0, 0), (0, 0), "same", "nothing, twice"),
        ("lower", (0, 0.1), (0, 0.1), "unclear", "no ratio to nothing"),
        ("lower", None, (1, 2), "unclear", "without an interval no word"),
        ("lower", (1, 2), None, "unclear", "on either side"),
    ],
)
def test_direction(better, before, after, expected, why):
    assert direction(better, before, after) == expected, why


def test_a_clear_change_is_a_ratio_with_both_intervals():
    found = row(group(ms=range(100, 200)), group(ms=range(300, 400)), "ttft", "p50")
    assert found.ratio == pytest.approx(349 / 149, rel=0.002)
    assert found.before_ci95 == pytest.approx((139, 160), rel=0.001)
    assert (found.unit, found.better, found.direction) == ("ms", "lower", "worse")


def test_too_few_samples_are_unclear():
    found = row(group(ms=[1, 2, 3]), group(ms=[100, 200, 300]), "ttft", "p99")
    assert (found.ratio, found.direction, found.after_ci95) == (100, "unclear", None)


def test_rates_shares_and_throughput():
    before = group(
        ok=100,
        goodput=Goodput(share=1.0),
        throughput=Throughput(output_tok_s=50.0, achieved_rps=2.0),
        ms=[50] * 100,
        metric="output_tok_s_user",
    )
    after = group(
        ok=60,
        failed=40,
        goodput=Goodput(share=0.5),
        throughput=Throughput(output_tok_s=25.0, achieved_rps=2.0),
        ms=[25] * 60,
        metric="output_tok_s_user",
    )
    found = {(r.metric, r.stat): (r.ratio, r.direction) for r in compare(Run(before), Run(after))}
    assert found["error_rate", ""] == (None, "worse"), "no ratio to 0 %, but surely more"
    assert found["goodput", ""] == (0.5, "worse")
    assert found["output_tok_s_user", "p50"] == (0.5, "worse")
    assert found["output_tok_s", "mean"] == (0.5, "unclear")
    assert found["achieved_rps", "mean"] == (1.0, "unclear")


def test_a_run_is_the_same_as_itself():
    run = Run(group(ms=[100] * 1000))
    assert {r.direction for r in compare(run, run) if r.metric == "ttft"} == {"same"}
    assert not [r for r in compare(run, run) if r.direction in ("better", "worse")]


def test_only_measure_groups_that_both_have():
    before = Run(group(ms=[1]), group("n", "chat", ms=[1]), group(phase="w", kind="warmup", ms=[1]))
    after = Run(group("o", "chat", ms=[1]), group(ms=[1]), group(phase="w", kind="warmup", ms=[1]))
    assert {(r.model, r.phase) for r in compare(before, after)} == {("m", "measure")}
    assert unmatched(before, after) == (
        "n/chat measure: only in the first run",
        "o/chat measure: only in the second run",
    )
