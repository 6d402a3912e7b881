"""Puzzles: their answers are right, asked for in a form, and found again."""

import contextlib
import io
import itertools
import random
import re
from datetime import date
from decimal import Decimal
from fractions import Fraction
from typing import get_args

import pytest
from commandline import batch, refused
from commandline import scenario as write_scenario
from spoiling import SHIFTS, spoiled
from workload_stand_ins import Model, says

from loadlib import tokens
from loadlib.lengths import Uniform
from loadlib.quality import judged
from loadlib.workloads import build
from loadlib.workloads.puzzles import DAYS, FAMILIES
from loadlib.workloads.reason import FamilyName, Form, ReasonSpec

FORMS = get_args(Form)


def reason(seed=42, **given):
    return build("r", ReasonSpec(kind="reason", **given), seed)


def drawn(family, count=60):
    """Puzzles of each kind in a family."""
    return [make(random.Random(seed)) for make in FAMILIES[family] for seed in range(count)]


def numbers(text):
    return re.findall(r"-?\d+(?:\.\d+)?", text)


def test_decimals_are_compared_as_numbers():
    harder = 0
    for puzzle in drawn("decimals"):
        pair = numbers(puzzle.question)
        pick = max if "larger" in puzzle.question else min
        assert Decimal(puzzle.answer) == pick(map(Decimal, pair))
        assert puzzle.answer in pair
        longer = max(pair, key=len)
        harder += Decimal(longer) == min(map(Decimal, pair))
    assert harder > 40, "mostly the number with more digits is the smaller one"


def test_the_working_of_arithmetic_and_units_ends_in_the_answer():
    for puzzle in [*drawn("arithmetic"), *drawn("units")]:
        for line in puzzle.working.splitlines():
            left, sign, right = line.rstrip(".").partition(" = ")
            if sign:
                shares = re.sub(r"(\d+)% of (\d+)", r"\1 * \2 / 100", left)
                assert Fraction(str(eval(shares))).limit_denominator(1000) == Fraction(right), line
        assert numbers(puzzle.working)[-1] == puzzle.answer


def test_snippets_print_what_is_said_they_print():
    for puzzle in drawn("code", 40):
        code = re.search(r"```python\n(.*)\n```", puzzle.question, re.DOTALL)[1]
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(code, {})
        assert out.getvalue() == f"{puzzle.answer}\n", code


def test_one_choice_is_right():
    for puzzle in drawn("choice"):
        question, *listed = puzzle.question.splitlines()
        options = dict(line.split(") ") for line in listed)
        assert "".join(options) == "ABCD"
        assert len(set(options.values())) == 4
        if "prime" in question:
            primes = [k for k, n in options.items() if all(int(n) % d for d in range(2, int(n)))]
            assert primes == [puzzle.answer]
        elif "largest" in question:
            assert puzzle.answer == max(options, key=lambda letter: Fraction(options[letter]))
        else:
            terms = [int(n) for n in numbers(question)] + [int(options[puzzle.answer])]
            steps = [b - a for a, b in itertools.pairwise(terms)]
            assert len({b - a for a, b in itertools.pairwise(steps)}) == 1


def test_dates_sorting_and_letters():
    for puzzle in drawn("dates"):
        found = [date.fromisoformat(one) for one in re.findall(r"\d{4}-\d\d-\d\d", puzzle.question)]
        if puzzle.kind == "number":
            assert (found[1] - found[0]).days == int(puzzle.answer)
        elif puzzle.kind == "word":
            assert DAYS[found[0].weekday()] in puzzle.question
            assert DAYS[found[1].weekday()] == puzzle.answer
        else:
            days = int(re.search(r"(\d+) days after", puzzle.question)[1])
            assert (date.fromisoformat(puzzle.answer) - found[0]).days == days
    for puzzle in drawn("sorting"):
        asked = puzzle.question.partition(": ")[2].split(", ")
        key = Decimal if "numbers" in puzzle.question else str
        ordered = sorted(asked, key=key, reverse="largest" in puzzle.question)
        assert puzzle.answer.split(", ") == ordered
    for puzzle in drawn("letters"):
        letter, word = re.findall(r'"(\w+)"', puzzle.question)
        assert puzzle.answer == str(word.count(letter))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_right_answers_pass_and_spoiled_ones_never_do(family, form):
    for seed in range(2):
        workload = reason(seed, families=(family,), answer=(form,))
        for ordinal in range(30):
            prompt = workload.prompt(Model(), ordinal)
            assert judged(prompt.check, prompt.right).passed, (prompt.messages, prompt.right)
            assert (prompt.variant, prompt.then, prompt.asked_tokens) == (family, None, None)
            for shift in SHIFTS:
                other = spoiled(prompt.right, shift)
                assert not judged(prompt.check, other).passed, (prompt.messages, other)


def test_families_and_forms_go_round():
    workload = reason(answer=FORMS)
    prompts = [workload.prompt(Model(), n) for n in range(24)]
    assert [one.variant for one in prompts] == [*FAMILIES] * 3
    assert list(FAMILIES) == list(get_args(FamilyName))
    asked = ["Think step by step" in one.messages[0]["content"] for one in prompts]
    assert asked == [False] * 8 + [True] * 8 + [False] * 8
    assert prompts[0].max_tokens == 512
    few = reason(families=("code", "dates"), system="Be brief.", output_tokens=(8, 16))
    assert [few.prompt(Model(), n).variant for n in range(3)] == ["code", "dates", "code"]
    assert [few.prompt(Model(), n).max_tokens for n in range(3)] == [8, 16, 8]
    assert few.prompt(Model(), 0).messages[0]["role"] == "system"


def test_puzzles_are_the_same_for_the_same_seed_for_every_model_and_rarely_come_again():
    for n in (0, 5, 10_000):
        mine, theirs = reason().prompt(Model("a"), n), reason().prompt(Model("b"), n)
        assert (mine.messages, mine.right) == (theirs.messages, theirs.right)
    assert reason(1).prompt(Model(), 0).messages != reason(2).prompt(Model(), 0).messages
    assert len({str(reason().prompt(Model(), n).messages) for n in range(400)}) > 360


def test_prompts_are_counted_exactly_and_skipped_where_they_do_not_fit():
    workload = reason()
    prompt = workload.prompt(Model(), 2)
    assert prompt.tokens == tokens.chat_tokens(prompt.messages, "o200k_base")
    assert prompt.exact
    assert not workload.prompt(Model(encoding=None), 2).exact
    mean, cap = workload.expected_tokens(Model())
    assert 20 < mean < 120
    assert cap == 512
    assert not workload.serves(Model(context_window=550))
    assert "its window is 550" in workload.skipped(Model(context_window=550))[0]


def test_caps_may_be_drawn_and_are_those_that_fit():
    workload = reason(output_tokens=Uniform(10, 400))
    small = Model(context_window=300)
    drawn = [workload.prompt(small, n).max_tokens for n in range(50)]
    assert drawn == [reason(output_tokens=Uniform(10, 400)).prompt(small, n).max_tokens
                     for n in range(50)]  # fmt: skip
    assert len(set(drawn)) > 20
    assert max(drawn) < 300
    assert "of the output caps skipped for m" in workload.skipped(small)[0]
    assert workload.expected_tokens(small)[1] == pytest.approx(sum(drawn) / 50, rel=0.3)
    assert workload.expected_tokens(Model())[1] == pytest.approx(205, rel=0.05)


def test_a_check_that_is_switched_off_leaves_the_answer_alone():
    assert reason(check=False).prompt(Model(), 0).check is None
    assert says(reason(families=("decimals",)).prompt(Model(), 0), "neither") is False


def test_settings_that_cannot_be_met_are_refused_where_they_stand(tmp_path):
    cases = [
        ({"families": ["code", "chess"]}, "workloads.r.families", "'chess' is not one of"),
        ({"families": []}, "workloads.r.families", ""),
        ({"answer": "short"}, "workloads.r.answer", "is not one of brief, steps"),
        ({"turns": 2}, "turns", "belongs to kind: chat"),
    ]
    paths = []
    for number, (given, *_) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        workloads = {"r": {"kind": "reason", **given}}
        paths.append(["validate", write_scenario(folder, workloads=workloads)])
    for done, (_, *words) in zip(batch(*paths), cases, strict=True):
        assert "small.yaml:" in refused(done, 2, *words)
