"""What an answer was worth: the shape of a check and of its judgement. Pure.

A check says whether an answer is what was asked for. Why one is not falls into five flaws, told
apart the same way for every workload:

    refused     the model declined (a refusal, or the provider's content filter)
    empty       it ended properly and said nothing
    truncated   the output cap cut it before it was right, or while it still thought
    invalid     it is not of the form that was asked for (no JSON, no such function …)
    wrong       it is of that form, and not right
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Flaw(StrEnum):
    """Why an answer is not what was asked for."""

    REFUSED = "refused"
    EMPTY = "empty"
    TRUNCATED = "truncated"
    INVALID = "invalid"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Said:
    """What of an answer a check may look at."""

    text: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    """(function, arguments as JSON text) of each tool call, in order."""
    refusal: str = ""
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """What a check says. `score` (0…1) is the share of its parts that are right, where it has
    parts: fields of a receipt, needles of a haystack."""

    passed: bool
    flaw: Flaw | None = None
    score: float | None = None
    note: str | None = None  # for people


Check = Callable[[Said], Judged]

MAX_CHECKED = 1_000_000
"""Characters of an answer (and of its calls together) that a check looks at: more than any model
says, and a second of work. A server that sends 64 MB must not stop everything for a minute."""

RIGHT = Judged(passed=True)


def wrong(note: str | None = None, score: float | None = None) -> Judged:
    """Of the right form, and not right."""
    return Judged(passed=False, flaw=Flaw.WRONG, score=score, note=note)


def invalid(note: str | None = None, score: float | None = None) -> Judged:
    """Not of the form that was asked for."""
    return Judged(passed=False, flaw=Flaw.INVALID, score=score, note=note)


def of_text(check: Callable[[str], bool]) -> Check:
    """A check of the text alone, as people write it."""
    return lambda said: RIGHT if check(said.text) else wrong()


def not_empty(said: Said) -> Judged:
    """Satisfied by any answer at all."""
    return RIGHT if said.text.strip() or said.calls else wrong()


def judged(check: Check, said: Said) -> Judged:
    """What the check says, and of an answer that fails it the flaw that explains most.

    A check that raises has not been satisfied: it may be a user's own, and the sample must not be
    lost for it.
    """
    try:
        found = check(_bounded(said))
    except Exception as error:  # noqa: BLE001
        return wrong(f"the check raised {type(error).__name__}: {error}")
    if found.passed:
        return found
    return Judged(
        passed=False, flaw=_plain(said) or found.flaw or Flaw.WRONG,
        score=found.score, note=found.note,
    )  # fmt: skip


def _bounded(said: Said) -> Said:
    if len(said.text) + sum(len(arguments) for _, arguments in said.calls) <= MAX_CHECKED:
        return said
    calls = tuple((name[:200], arguments[:MAX_CHECKED]) for name, arguments in said.calls[:1])
    return Said(said.text[:MAX_CHECKED], calls, said.refusal, said.finish_reason)


def _plain(said: Said) -> Flaw | None:
    """The flaw that can be seen without knowing what was asked."""
    if said.refusal or said.finish_reason == "content_filter":
        return Flaw.REFUSED
    if said.finish_reason == "length":
        return Flaw.TRUNCATED
    return None if said.text.strip() or said.calls else Flaw.EMPTY
