"""The master's clock as a worker learns it: known answers, and what cannot be known."""

from hypothesis import given
from hypothesis import strategies as st

from loadlib.masterclock import KEPT, MasterClock

MS, S = 1_000_000, 1_000_000_000
EPOCH = 1_700_000_000 * S


def test_before_an_answer_the_own_clock_counts():
    clock = MasterClock()
    assert clock.difference(EPOCH) is None
    assert clock.offset_ns(EPOCH) == EPOCH


@given(
    ahead_ns=st.integers(-10 * S, 10 * S),
    trips=st.lists(st.tuples(st.integers(0, 400 * MS), st.integers(0, 400 * MS)), min_size=1),
)
def test_the_difference_is_found_to_within_its_error(ahead_ns, trips):
    """Whatever the way there and back takes, each by itself."""
    clock, now_ns = MasterClock(), 5 * S
    for there_ns, back_ns in trips:
        asked_ns, now_ns = now_ns, now_ns + there_ns + back_ns
        clock.heard(asked_ns, EPOCH + asked_ns + there_ns, now_ns)
    found = clock.difference(EPOCH + ahead_ns)
    assert found is not None
    assert abs(found.ahead_ns - ahead_ns) <= found.error_ns + 1
    assert found.error_ns == min(sum(trip) for trip in trips[-KEPT:]) // 2
    moved = clock.offset_ns(EPOCH + ahead_ns)
    assert abs(moved - EPOCH) <= 2 * found.error_ns + 1


def test_clocks_that_agree_are_left_alone():
    clock = MasterClock()
    clock.heard(0, EPOCH + 3 * MS, 4 * MS)  # 1 ms apart, ± 2
    assert clock.offset_ns(EPOCH) == EPOCH


def test_two_seconds_ahead():
    clock = MasterClock()
    clock.heard(0, EPOCH + 90 * MS, 100 * MS)
    clock.heard(S, EPOCH + S + MS, S + 2 * MS)  # the fastest answer counts
    found = clock.difference(EPOCH + 2 * S)
    assert found is not None
    assert (found.ahead_ns, found.error_ns, found.known) == (2 * S, MS, True)
    assert clock.offset_ns(EPOCH + 2 * S) == EPOCH
