"""Checks: what passes, and which flaw explains a failure."""

import pytest

from loadlib.quality import RIGHT, Flaw, Judged, Said, invalid, judged, not_empty, of_text, wrong

FAILS = [
    (wrong(), Said("no"), Flaw.WRONG, "of the right form"),
    (invalid(), Said("no"), Flaw.INVALID, "the check's own word stands"),
    (Judged(passed=False), Said("no"), Flaw.WRONG, "a check need not say why"),
    (invalid(), Said(""), Flaw.EMPTY, "nothing was said"),
    (invalid(), Said(" \n"), Flaw.EMPTY, "blanks are nothing"),
    (wrong(), Said("", calls=(("f", "{}"),)), Flaw.WRONG, "a call is something"),
    (invalid(), Said("{", finish_reason="length"), Flaw.TRUNCATED, "the cap explains the form"),
    (invalid(), Said("", finish_reason="length"), Flaw.TRUNCATED,
     "the cap cut it before it said anything"),
    (invalid(), Said("", finish_reason="stop"), Flaw.EMPTY, "it ended properly"),
    (wrong(), Said(refusal="I can't"), Flaw.REFUSED, "a refusal has no text of its own"),
    (wrong(), Said("x", finish_reason="content_filter"), Flaw.REFUSED, "the provider's filter"),
    (wrong(), Said("no", refusal="no", finish_reason="length"), Flaw.REFUSED, "first that fits"),
]  # fmt: skip


@pytest.mark.parametrize(("found", "said", "flaw", "why"), FAILS)
def test_the_flaw_that_explains_most(found, said, flaw, why):
    result = judged(lambda _said: found, said)
    assert (result.passed, result.flaw) == (False, flaw), why


def test_what_passes_has_no_flaw_whatever_its_end():
    assert judged(lambda _said: RIGHT, Said("42", finish_reason="length")) == RIGHT


def test_score_and_note_are_kept():
    found = judged(lambda _said: wrong("2 of 3", score=2 / 3), Said("x", finish_reason="length"))
    assert found == Judged(passed=False, flaw=Flaw.TRUNCATED, score=2 / 3, note="2 of 3")


def test_a_check_that_raises_is_not_satisfied():
    found = judged(lambda said: 1 / len(said.calls), Said("x"))
    assert (found.passed, found.flaw) == (False, Flaw.WRONG)
    assert found.note == "the check raised ZeroDivisionError: division by zero"


def test_checks_of_text():
    check = of_text(lambda text: "order" in text)
    assert [check(Said(text)).passed for text in ("my order", "else")] == [True, False]
    sayings = (Said("x"), Said(" "), Said(calls=(("f", ""),)))
    assert [not_empty(said).passed for said in sayings] == [True, False, True]
