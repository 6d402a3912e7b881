"""Faster but shorter: when answers end sooner only because there is less in them."""

import pytest

from loadlib.brevity import across_phases, across_runs, between
from loadlib.summary import Cost, Goodput, Group, Quality, Requests, Stats, Throughput, Tokens


def group(tokens, e2e_ms, ok=100, phase="measure", kind="measure", model="m"):
    return Group(
        model=model, workload="chat", phase=phase, kind=kind, outcomes={},
        requests=Requests(ok=ok), metrics={"e2e": Stats(unit="ms", n=ok, p50=e2e_ms)},
        tokens=Tokens(mean_answer=tokens if ok else None), throughput=Throughput(),
        goodput=Goodput(), cost_usd=Cost(), quality=Quality(),
    )  # fmt: skip


BEFORE = group(200, 4000)
CASES = [
    (group(150, 3000), True, "25 % less said, a quarter sooner"),
    (group(181, 3000), False, "answers differ by a tenth by themselves"),
    (group(150, 4000), False, "not faster: shorter alone may be the questions"),
    (group(250, 3000), False, "faster and longer is faster"),
    (group(None, 3000), False, "nobody counted"),
    (group(150, None), False, "no latency known"),
    (group(150, 3000, ok=19), False, "too few answers to say"),
    (group(150, 3000, ok=0), False, "no answer at all"),
]


@pytest.mark.parametrize(("after", "flagged", "why"), CASES)
def test_what_is_flagged(after, flagged, why):
    assert (between(BEFORE, after) is not None) == flagged, why


def test_the_sentence():
    assert between(BEFORE, group(150, 3000)) == (
        "faster but shorter: answers have 150 tokens instead of 200 (−25%), so e2e says less than "
        "it seems to; compare tpot"
    )


def test_within_a_run_later_phases_are_held_against_the_first():
    groups = [
        group(10, 1, phase="warmup", kind="warmup"), group(200, 4000, phase="low"),
        group(199, 3900, phase="mid"), group(100, 2000, phase="high"),
        group(50, 1000, phase="low", model="other"),
    ]  # fmt: skip
    (line,) = across_phases(groups)
    assert line.startswith("m/chat high against low: faster but shorter")


def test_between_runs_only_what_both_have():
    (line,) = across_runs([BEFORE], [group(100, 2000), group(100, 2000, model="new")])
    assert line.startswith("m/chat measure: faster but shorter")
