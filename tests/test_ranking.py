"""Who is best and by how much: only where intervals say so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from report_fixtures import FIXTURES

from loadlib import ranking
from loadlib.summary import Cost, Goodput, Group, Quality, Requests, Stats, Throughput, Tokens


def group(model, p50=None, ci=None, *, cost=None, workload="chat", phase="measure", n=100) -> Group:
    ttft = Stats(unit="ms", n=n, p50=p50, ci95={"p50": ci} if ci else {})
    return Group(
        model=model, workload=workload, phase=phase, requests=Requests(), outcomes={},
        metrics={"ttft": ttft}, tokens=Tokens(), throughput=Throughput(), goodput=Goodput(),
        cost_usd=Cost(per_1k_requests=cost), quality=Quality(),
    )  # fmt: skip


FAST, SLOW = group("fast", 100, (90, 110)), group("slow", 200, (190, 210))
NEAR = group("near", 105, (95, 115))


@pytest.mark.parametrize(
    ("others", "best", "why"),
    [
        ([SLOW], True, "apart"),
        ([NEAR], False, "intervals overlap"),
        ([SLOW, NEAR], False, "one that overlaps is enough"),
        ([], False, "nobody to compare with"),
        ([replace(SLOW, workload="long")], False, "another workload is another question"),
        ([replace(SLOW, phase="20/s")], False, "another load, too"),
        ([group("few", 200)], False, "no interval: nobody knows"),
        ([group("dead")], False, "it has no value, so there is nothing to be better than"),
        ([group("dead"), SLOW], True, "a model without value takes no part"),
        ([group("touches", 130, (110, 150))], False, "what touches is not apart"),
    ],
)
def test_the_best_is_named_only_where_its_interval_is_apart(others, best, why):
    groups = [FAST, *others]
    assert ("ttft.p50" in ranking.best(groups, FAST)) == best, why
    assert "ttft.p50" not in ranking.best(groups, groups[-1]) or not others, why


def test_costs_are_exact():
    cheap, dear, same = (group(m, cost=c) for m, c in (("a", 1.0), ("b", 1.01), ("c", 1.0)))
    assert ranking.best([cheap, dear], cheap) == {"cost"}
    assert ranking.best([cheap, dear, same], cheap) == frozenset(), "two are cheapest"
    assert ranking.best([cheap, group("unpriced")], cheap) == frozenset()


def test_ratios_are_to_the_same_workload_and_phase():
    groups = [FAST, replace(FAST, workload="long"), SLOW, replace(SLOW, phase="later")]
    assert ranking.reference_of(groups, "fast", SLOW) is FAST
    assert ranking.reference_of(groups, "fast", groups[3]) is None
    found = ranking.ratios(FAST, SLOW)["ttft.p50"]
    assert (found.value, found.direction) == (2.0, "worse")
    assert ranking.ratios(SLOW, FAST)["ttft.p50"].direction == "better"
    assert ranking.ratios(FAST, NEAR)["ttft.p50"].direction == "unclear"
    unknown = ranking.ratios(FAST, group("dead"))["ttft.p50"]
    assert (unknown.value, unknown.direction) == (None, "unclear")


@given(
    st.lists(
        st.tuples(st.floats(1, 1000), st.floats(0, 300), st.floats(0, 300)), min_size=2, max_size=6
    )
)
def test_at_most_one_is_best_and_nobody_reaches_it(found):
    groups = [
        group(f"m{i}", value, (value - min(low, value), value + high))
        for i, (value, low, high) in enumerate(found)
    ]
    best = [g for g in groups if "ttft.p50" in ranking.best(groups, g)]
    assert len(best) <= 1
    for winner in best:
        top = winner.metrics["ttft"].ci95["p50"][1]
        others = [g for g in groups if g is not winner]
        assert all(g.metrics["ttft"].ci95["p50"][0] > top for g in others)


def test_every_column_of_a_real_run_can_be_read():
    groups = [g for g in FIXTURES["passing"]().summary.groups if g.kind == "measure"]
    for name, column in ranking.COLUMNS.items():
        value, interval = column.read(groups[0])
        assert value is not None, name
        assert interval is None or interval[0] <= value <= interval[1], name
