"""Short answers: what a number can mean, and which of several names an answer picks."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadlib.quality import Flaw, Said
from loadlib.workloads.reading import IsLetter, IsName, IsNumber, numbers, read

NUMBERS = [  # as they are written in the countries of `receipts`, and by models
    ("1,234.50", ["1234.50"]),
    ("1.234,50", ["1234.50"]),
    ("1’234.5", ["1234.5"]),
    ("1'234.50", ["1234.50"]),
    ("1\u202f234,5", ["1234.5"]),
    ("12 345 678", ["12345678"]),
    ("1,234", ["1.234", "1234"]),  # either: nobody can tell
    ("1.234.567", ["1234567"]),  # a separator that comes twice groups
    ("3.14159", ["3.14159"]),  # four digits and more are no thousand
    ("-5", ["-5"]),
    ("−5", ["-5"]),
    ("0012", ["12"]),
    ("1,2,3", []),  # no number at all
    ("1..2", []),
]


@pytest.mark.parametrize(("text", "meant"), NUMBERS)
def test_a_number_as_people_write_it(text, meant):
    assert sorted(read(text)) == sorted(Decimal(one) for one in meant)


@given(
    value=st.decimals(0, 10**9, places=2),
    marks=st.sampled_from([",.", ".,", "’.", "'.", "\u202f,", "\u00a0,"]),
)
def test_every_countrys_manner_is_understood(value, marks):
    whole, _, rest = f"{value:.2f}".partition(".")
    text = f"{int(whole):,}".replace(",", marks[0]) + marks[1] + rest
    assert value in read(text)


TOTAL = IsNumber(Decimal("23.40"))
ANSWERS = [
    (TOTAL, "23.40", None),
    (TOTAL, "23,4", None),  # another notation
    (TOTAL, "$23.40", None),
    (TOTAL, "**23.40 EUR**", None),
    (TOTAL, "The total is 23.40.", None),
    (TOTAL, "23.40 (that is 23,40)", None),  # twice the same
    (TOTAL, "23.41", Flaw.WRONG),
    (TOTAL, "2340", Flaw.WRONG),  # the decimal mark was lost
    (TOTAL, "23.40 or 24.40", Flaw.WRONG),  # it was asked for one
    (TOTAL, "I cannot read it", Flaw.INVALID),
    (IsNumber(Decimal(4)), "four", None),
    (IsNumber(Decimal(4)), "There are Four.", None),
    (IsNumber(Decimal(4)), "five", Flaw.WRONG),
    (IsNumber(Decimal(1234)), "1,234", None),
    (IsNumber(Decimal(16)), "at 16:16", Flaw.INVALID),  # a time of day
    (IsNumber(Decimal(16)), "Answer: 16", None),
    (IsName("Apples", ("Pears", "Plums")), "Apples", None),
    (IsName("Apples", ("Pears", "Plums")), "It is **apples**.", None),
    (IsName("Apples", ("Pears", "Plums")), "Pears", Flaw.WRONG),
    (IsName("Apples", ("Pears", "Plums")), "Apples, not pears", Flaw.WRONG),  # named two
    (IsName("Apples", ("Pears", "Plums")), "Pineapples", Flaw.INVALID),  # whole words only
    (IsName("14:05", ("4:05",)), "14:05", None),
    (IsName("Кав'ярня", ()), "кав’ярня", None),  # kinds of apostrophes
    (IsLetter("B", ("Owls", "Deer", "Foxes")), "B", None),
    (IsLetter("B", ("Owls", "Deer", "Foxes")), "(b) Deer", None),
    (IsLetter("B", ("Owls", "Deer", "Foxes")), "Answer: B", None),
    (IsLetter("B", ("Owls", "Deer", "Foxes")), "The answer is deer.", None),
    (IsLetter("B", ("Owls", "Deer", "Foxes")), "A", Flaw.WRONG),
    (IsLetter("B", ("Owls", "Deer", "Foxes")), "C) Foxes", Flaw.WRONG),
    (IsLetter("B", ("Owls", "Deer", "Foxes")), "none of them", Flaw.INVALID),
]


@pytest.mark.parametrize(("check", "answer", "flaw"), ANSWERS)
def test_answers(check, answer, flaw):
    judged = check(Said(answer))
    assert (judged.passed, judged.flaw) == (flaw is None, flaw)


@given(st.text(max_size=300))
def test_any_text_is_judged(text):
    for check in (TOTAL, IsName("a", ("b",)), IsLetter("A", ("x", "y"))):
        assert check(Said(text)).passed in (True, False)
    assert all(isinstance(one, frozenset) for one in numbers(text))


def test_a_long_answer_is_not_read_to_its_end():
    assert numbers("1 " * 10**6) != []
