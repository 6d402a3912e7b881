"""The bounded time series: what a reader gets, and what an hour leaves of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadlib.trend import NS, Trend

PAIR = ("m", "chat")
START = 1_700_000_000 * NS


def series(most=8, step_s=2):
    return Trend(("p50", "rps"), START, step_ns=step_s * NS, most=most)


def points(found):
    """(second, values of PAIR) of each point that `since` gives."""
    (group,) = found["groups"]
    return list(zip(found["seconds"], zip(*group["values"], strict=True), strict=True))


def test_a_point_is_due_at_each_step_of_the_wall_clock():
    one = series()
    assert one.is_due(START)
    one.add(START + NS // 2, {PAIR: (1.0, 2.0)})
    assert not one.is_due(START + 2 * NS - 1)
    assert one.is_due(START + 2 * NS)
    assert points(one.since(None, 0)) == [(0.5, (1.0, 2.0))]


def test_what_nobody_saw_is_none_and_a_stretch_without_points_is_a_gap():
    one = series()
    one.add(START, {PAIR: (None, 0.0)})
    one.add(START + 2 * NS, {})
    one.add(START + 12 * NS, {PAIR: (5.0, 1.0)})
    assert points(one.since(None, 0)) == [
        (0.0, (None, 0.0)),
        (2.0, (None, None)),
        (4.0, (None, None)),  # where a point should have been
        (12.0, (5.0, 1.0)),
    ]


def test_a_group_that_comes_later_was_not_there_before():
    one = series()
    one.add(START, {PAIR: (1.0, 1.0)})
    one.add(START + 2 * NS, {PAIR: (1.0, 1.0), ("m", "long"): (9.0, 9.0)})
    found = {group["workload"]: group["values"] for group in one.since(None, 0)["groups"]}
    assert found["long"] == [[None, 9.0], [None, 9.0]]


def test_a_full_series_keeps_every_second_point_and_slows_down():
    one = series(most=4)
    for step in range(4):
        one.add(START + 2 * step * NS, {PAIR: (float(step), None)})
    assert [at for at, _ in points(one.since(None, 0))] == [0, 4]
    assert one.generation == 1
    assert not one.is_due(START + 6 * NS + NS)
    assert one.is_due(START + 8 * NS), "the pace is 4 s now, and its grid goes on"


@pytest.mark.parametrize(
    ("generation", "count", "expected", "why"),
    [
        (None, 0, [0, 2, 4], "a new reader gets all"),
        (0, 1, [2, 4], "a reader gets what it lacks"),
        (0, 3, [], "nothing new"),
        (0, 9, [], "a reader of another run's worth is not given what is not there"),
        (1, 2, [0, 2, 4], "another generation has other points"),
    ],
)
def test_a_reader_gets_what_it_lacks(generation, count, expected, why):
    one = series()
    for second in (0, 2, 4):
        one.add(START + second * NS, {PAIR: (1.0, 1.0)})
    found = one.since(generation, count)
    assert found["seconds"] == expected, why
    assert found["from"] == 3 - len(expected), why


@given(steps=st.lists(st.integers(1, 7), min_size=1, max_size=120), most=st.sampled_from([4, 8]))
def test_it_stays_bounded_in_order_and_whole(steps, most):
    one, at = series(most), START
    for step in steps:
        at += step * NS
        if one.is_due(at):
            one.add(at, {PAIR: (1.0, None)})
    assert 1 <= len(one.seconds) < most
    assert one.seconds == sorted(set(one.seconds))
    assert one.seconds[-1] <= (at - START) / NS
    assert all(len(rows) == len(one.seconds) for rows in one.rows.values())
    assert one.step_ns == 2 * NS << one.generation
