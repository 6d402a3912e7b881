"""Who takes part: stages are met by those who can be heard, the end waits only while it matters."""

import pytest

from loadlib.attendance import PATIENCE_S, Attendance
from loadlib.lastword import LastWord

WORD = LastWord(seq=3)


def three():
    found = Attendance()
    for name in "abc":
        found.expect(name)
    return found


def test_a_stage_is_met_when_all_who_can_be_heard_are_ready():
    who = three()
    assert who.stage == -1
    who.sources["a"].stage = who.sources["b"].stage = 2
    assert who.stage == -1, "c is not"
    who.heard({"c"}, 10.0)
    assert who.stage == 2, "nobody hears c"
    who.heard(set(), 11.0)
    assert who.stage == -1, "it is back"
    who.sources["c"].over = True
    assert who.stage == 2, "it has ended"


@pytest.mark.parametrize(
    ("states", "late_s", "expected", "why"),
    [
        ({}, 100, set(), "all are heard: as long as it takes"),
        ({"a": "silent"}, 100, set(), "b and c go on: a may come back"),
        ({"a": "silent", "b": "over", "c": "over"}, 100, {"a"}, "only a is waited for"),
        ({"a": "silent", "b": "over", "c": "over"}, 1, set(), "it has its time"),
        ({"a": "word", "b": "over", "c": "over"}, 100, {"a"}, "its reports do not come"),
        ({"a": "word", "b": "silent", "c": "over"}, 100, {"a", "b"}, "neither"),
        ({"a": "word"}, 100, set(), "b and c go on"),
        ({"a": "over", "b": "over", "c": "over"}, 100, set(), "nobody"),
    ],
)
def test_who_is_given_up(states, late_s, expected, why):
    who, now = three(), 1000.0
    who.heard({name for name, state in states.items() if state == "silent"}, now)
    for name, state in states.items():
        if state == "over":
            who.sources[name].over = True
        elif state == "word":
            who.sources[name].word, who.sources[name].word_s = WORD, now
    assert set(who.overdue(now + PATIENCE_S * late_s / 10)) == expected, why


def test_silence_counts_from_its_beginning_and_ends_with_a_word():
    who = three()
    for name in "bc":
        who.sources[name].over = True
    who.heard({"a"}, 10.0)
    who.heard({"a"}, 20.0)
    assert set(who.overdue(10.1 + PATIENCE_S)) == {"a"}
    who.heard(set(), 24.0)
    who.heard({"a"}, 24.5)
    assert not set(who.overdue(10.1 + PATIENCE_S))


def test_an_unknown_one_and_one_that_ended_are_not_active():
    who = three()
    who.sources["a"].over = True
    assert who.active("a") is who.active("x") is None
    assert who.active("b") is who.sources["b"]
    assert who.waits_for == {"b", "c"}
