"""Which answer a text gives: a table of known ones, each with the reason it is there."""

import time
from datetime import date
from fractions import Fraction
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadlib.quality import Flaw, Said, judged
from loadlib.workloads.final_answer import MOST, FinalAnswer, Kind, read

KINDS = get_args(Kind)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

NUMBERS = [
    ("9.9", "9.9", "as asked"),
    ("9.90", "9.9", "the same number"),
    ("**9.9**", "9.9", "in bold"),
    ("`9.9`", "9.9", "as code"),
    ("9.9.", "9.9", "a full stop"),
    ("The larger number is 9.9.", "9.9", "in a sentence, last"),
    ("9.9 is larger than 9.11", "9.9", "in a sentence, first"),
    ("9.9 > 9.11", "9.9", "compared"),
    ("9.11 and 9.9: the larger one is 9.9", "9.11", "what it begins with is taken"),
    ("Answer: 9.9", "9.9", "the line that was asked for"),
    ("9.11 has two decimals.\n\nAnswer: 9.9", "9.9", "after its reasons"),
    ("The answer is 9.9, because 9.9 - 9.11 = 0.79", "9.9", "a reason behind it"),
    ("Answer: 9.11\nWait, no.\nAnswer: 9.9", "9.9", "the last word counts"),
    ("**Final Answer:** 9.9", "9.9", "bold up to the colon"),
    ("### Answer\n\nAnswer: **1,234** apples", "1234", "a heading, thousands, a unit"),
    (r"Thus \boxed{1\,234}.", "1234", "LaTeX's thin space"),
    (r"\[ \boxed{\text{42}} \]", "42", "text in a box"),
    (r"\boxed{41} no: $\boxed{42}$", "42", "the last box"),
    (r"$$x = \frac{3}{4}$$", "0.75", "a fraction in LaTeX"),
    (r"\boxed{12{,}500}", "12500", "a comma that LaTeX must not space"),
    ("3/4", "0.75", "a fraction"),
    ("½", "0.5", "a fraction of one character"),
    ("12 * 4 = 48\n48 - 5 = 43", "43", "the last of some sums"),
    ("15% of 340 = 51", "51", "a sum that begins with a share"),
    ("12 × 4 = 48 apples", "48", "a unit behind a sum"),
    ("$1,234.50", "1234.5", "money"),
    ("€ 12,50", "12.5", "a decimal comma"),
    ("1.234,50 EUR", "1234.5", "as much of Europe writes it"),
    ("1 234 567", "1234567", "groups by blanks"),
    ("1 234", "1234", "a narrow blank between groups"),
    ("1'234", "1234", "as in Switzerland"),
    ("1_000", "1000", "as in Python"),
    ("−5", "-5", "a minus sign, no hyphen"),
    ("-5 degrees", "-5", "a hyphen for one"),
    ("It fell from 3 to -5.", "-5", "negative, within a sentence"),
    ("approximately 7", "7", "hedged"),
    ("Three", "3", "in words"),
    ("There are three r's in it.", "3", "in words, within a sentence"),
    ("The letter occurs 3 times (positions 3, 8 and 9).", "9", "the last one: no form was kept to"),
    ("Answer: 3 (positions 3, 8 and 9)", "3", "what follows the mark begins with it"),
    ("1.5e3", "1500", "with an exponent"),
    ("15%", "15", "of a hundred"),
    ("<think>Is it 4? Or 5?</think>6", "6", "thoughts are no answer"),
    ("<think>Is it 4", None, "thoughts without end"),
    ("4２", "42", "digits of full width"),
    ("no idea", None, "no number at all"),
    ("room B12", None, "part of a name"),
    ("1/0", None, "no number"),
    ("Answer: unknown", None, "a mark, and no number behind it"),
    ("43\n\nExplanation: we take 12 apples and multiply by 4, then take 5 away.", "43",
     "a bare line, and a sentence about it"),
    ("Sure!\n9.9", "9.9", "a greeting first"),
]  # fmt: skip

OTHERS = [
    ("letter", "B", "B", "as asked"),
    ("letter", "b", "B", "a small one"),
    ("letter", "(B)", "B", "in brackets"),
    ("letter", "B) 17", "B", "with what it stands for"),
    ("letter", "**B.** 17", "B", "in bold"),
    ("letter", "The correct option is C.", "C", "in a sentence"),
    ("letter", "A prime has two divisors, so the answer is D", "D", "an article is no letter"),
    ("letter", "A", "A", "the letter alone is"),
    ("letter", "Answer: A", "A", "after its mark"),
    ("letter", "I would say 17", None, "none of the letters"),
    ("letter", r"\boxed{\text{B}}", "B", "in a box"),
    ("letter", "A is wrong, B is wrong; it is C", "C", "the last one in a sentence of many words"),
    ("letter", "E", None, "not one of the four"),
    ("word", "Tuesday", "tuesday", "as asked"),
    ("word", "It is a **Tuesday**.", "tuesday", "in bold, in a sentence"),
    ("word", "Monday plus one day is Tuesday", "monday", "what it begins with"),
    ("word", "Answer: TUESDAY", "tuesday", "loud"),
    ("word", "Dienstag", None, "another language than the question's"),
    ("date", "2027-03-01", date(2027, 3, 1), "as asked"),
    ("date", "It is 1 March 2027.", date(2027, 3, 1), "the month in words"),
    ("date", "March 1st, 2027", date(2027, 3, 1), "as in America"),
    ("date", "From 2027-02-01 to 2027-03-01", date(2027, 3, 1), "the last one"),
    ("date", "2027-02-30", None, "no such day"),
    ("list", "apple, fig, plum", ("apple", "fig", "plum"), "as asked"),
    ("list", "Sorted: Apple, fig and plum.", ("apple", "fig", "plum"), "a label, an and"),
    ("list", '["apple", "fig", "plum"]', ("apple", "fig", "plum"), "as Python writes it"),
    ("list", "Answer:\n1. apple\n2. fig\n3. plum", ("apple", "fig", "plum"), "numbered lines"),
    ("list", "- apple\n- fig", ("apple", "fig"), "bullets"),
    ("list", "-3, 1.5, 12", ("-3", "1.5", "12"), "numbers"),
    ("list", "I do not know", None, "no list"),
    ("output", "[1, 4, 9]", "[1,4,9]", "as Python prints it"),
    ("output", "[1,4,9]", "[1,4,9]", "without blanks"),
    ("output", "```python\n[1, 4, 9]\n```", "[1,4,9]", "in a fence"),
    ("output", "Output: `abc`", "abc", "marked, as code"),
    ("output", "'abc'", "abc", "in quotes that print does not write"),
    ("output", "The loop runs twice.\nAnswer: -4 1", "-4 1", "two values on a line"),
    ("output", "", None, "nothing"),
]


@pytest.mark.parametrize(("text", "number", "why"), NUMBERS)
def test_numbers(text, number, why):
    assert read(text, "number") == (None if number is None else Fraction(number)), why


@pytest.mark.parametrize(("kind", "text", "value", "why"), OTHERS)
def test_letters_words_dates_lists_and_outputs(kind, text, value, why):
    assert read(text, kind, DAYS) == value, why


def test_flaws():
    check = FinalAnswer("number", "9.9")
    assert judged(check, Said("9.9")).passed
    assert judged(check, Said("9.11")).flaw is Flaw.WRONG
    assert judged(check, Said("9.11")).note == "says 9.11, not 9.9"
    assert judged(check, Said("neither")).flaw is Flaw.INVALID
    assert judged(check, Said(" ")).flaw is Flaw.EMPTY
    assert judged(check, Said("First,", finish_reason="length")).flaw is Flaw.TRUNCATED
    assert judged(check, Said("1e999")).flaw is Flaw.WRONG


@given(
    value=st.decimals(-(10**9), 10**9, places=3, allow_nan=False),
    wrap=st.sampled_from(
        ["{}", "**{}**", "Answer: {}", "So it is {}.", r"\boxed{{{}}}", "= {}", "{} km", "`{}`"]
    ),
    grouped=st.booleans(),
)
def test_any_number_is_found_however_it_is_wrapped(value, wrap, grouped):
    text = f"{value:,f}" if grouped else f"{value:f}"
    assert read(wrap.format(text), "number") == Fraction(value)


@given(
    text=st.text("0123456789.,-+/= ()[]{}\\\n'eABa½２", max_size=40), kind=st.sampled_from(KINDS)
)
def test_no_text_is_too_odd_to_be_read(text, kind):
    read(text, kind, DAYS)


@pytest.mark.parametrize(
    "text",
    ["9" * 10**6, "1," * 10**6, "\\boxed{" * 10**6, "answer: " * 10**6, "<think>" * 10**6,
     "a " * 10**6, "{" * 10**6, "1 000 " * 10**6, "\\text{" * 10**6],
    ids=lambda text: text[:8],
)  # fmt: skip
def test_hostile_texts_take_no_longer_than_long_ones(text):
    began = time.thread_time()
    for kind in KINDS:
        read(text, kind, DAYS)
    assert time.thread_time() - began < 6, f"only the last {MOST} characters are looked at"
