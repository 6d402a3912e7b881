"""Short tasks that take some thought and have one right answer: does load make a model worse?

Families go round with n; the puzzle of each is drawn by seed (`puzzles`). The answer is asked for
in a fixed form, and found again in what was said (`final_answer`).
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from loadlib.quality import Said
from loadlib.scenario_fields import Counts, one_or_many, scalar_or_list, tuple_of
from loadlib.workloads.final_answer import FinalAnswer, Kind
from loadlib.workloads.puzzles import FAMILIES, Puzzle
from loadlib.workloads.spec import CappedSpec
from loadlib.workloads.tasks import Task, Tasks

FamilyName = Literal[
    "decimals", "arithmetic", "code", "choice", "dates", "units", "sorting", "letters"
]
Form = Literal["brief", "steps"]

_WANTED: dict[Kind, str] = {
    "number": "the number only",
    "letter": "the letter only",
    "word": "the word only",
    "date": "the date only, in the form YYYY-MM-DD",
    "list": "the list only, on one line, separated by commas",
    "output": "the printed line only",
}


class ReasonSpec(CappedSpec):
    """Settings of `kind: reason`."""

    kind: Literal["reason"]
    families: Annotated[
        tuple[FamilyName, ...],
        BeforeValidator(tuple_of),
        Field(min_length=1),
        PlainSerializer(scalar_or_list),
        WithJsonSchema(one_or_many({"enum": list(FAMILIES)})),
    ] = Field(get_args(FamilyName), description="sorts of tasks, to go round; default: all")
    answer: Annotated[
        tuple[Form, ...],
        BeforeValidator(tuple_of),
        Field(min_length=1),
        PlainSerializer(scalar_or_list),
        WithJsonSchema(one_or_many({"enum": list(get_args(Form))})),
    ] = Field(
        ("brief",),
        description="brief: the answer only; steps: reasons first, then a line `Answer: …`",
    )
    output_tokens: Counts = Field(
        (512,), description="cap: a number, a list to go round, or a distribution"
    )


class Reason(Tasks):
    """`kind: reason`. Forms of the answer go round with each full round of families."""

    kind = "reason"

    def __init__(self, name: str, spec: ReasonSpec, seed: int) -> None:
        super().__init__(name, spec, seed)
        self._families, self._forms = spec.families, spec.answer

    def task(self, ordinal: int) -> Task:
        """Task number `ordinal` (from 0, without end)."""
        luck, turn = self.luck(ordinal), ordinal // len(self._families)
        family = self._families[ordinal % len(self._families)]
        puzzle = luck.choice(FAMILIES[family])(luck)
        asked, right = _asked(puzzle, self._forms[turn % len(self._forms)])
        return Task(
            [{"role": "user", "content": f"{puzzle.question}\n\n{asked}"}],
            family,
            FinalAnswer(puzzle.kind, puzzle.answer, puzzle.words),
            Said(right, finish_reason="stop"),
        )


def _asked(puzzle: Puzzle, form: Form) -> tuple[str, str]:
    """What form the answer is asked for in, and the right answer in this form."""
    wanted = _WANTED[puzzle.kind]
    if form == "brief":
        return f"Answer with {wanted}.", puzzle.answer
    what = wanted.replace(" only", "")
    asked = f'Think step by step. End with a line "Answer: X", where X is {what}.'
    return asked, f"{puzzle.working}\n\nAnswer: {puzzle.answer}"
