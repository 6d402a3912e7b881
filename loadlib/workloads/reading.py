"""Short answers that can be checked: a number, a name out of several, a letter.

Numbers are read however they are written: 1,234.50, 1.234,50, 1’234.5 and 1 234,5 are the same.
One separator with three digits behind it can be meant either way, and both are taken.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from decimal import Decimal

from loadlib.quality import RIGHT, Judged, Said, invalid, wrong

_SPACES = "\u00a0\u202f\u2009"
_NUMBER = re.compile(  # no part of a word, of a version or of a time of day
    rf"(?<![\w.,:])[-−]?[^\W\d_]{{0,3}}[$€£]?\d{{1,15}}(?:[.,'’ {_SPACES}]\d{{1,3}})*\d{{0,15}}"
    r"(?!:?\d)"
)
_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve",
)  # fmt: skip
_LETTER = re.compile(r"(?:answer|option|choice)?\W*(?:is\b\W*)?([A-Z])\b(?!')", re.IGNORECASE)
_LONGEST = 2_000  # characters of an answer that are looked at: it was asked to be short


@dataclass(frozen=True, slots=True)
class IsNumber:
    """Whether the one number of an answer is the right one; others beside it make it wrong."""

    number: Decimal

    def __call__(self, said: Said) -> Judged:  # noqa: D102
        found = numbers(said.text)
        if not found:
            return invalid("no number in the answer")
        if all(self.number in readings for readings in found):
            return RIGHT
        return wrong(f"not {self.number}" if len(found) == 1 else f"not {self.number} alone")


@dataclass(frozen=True, slots=True)
class IsName:
    """Whether an answer names the right one of several, and none of the others."""

    name: str
    others: tuple[str, ...]

    def __call__(self, said: Said) -> Judged:  # noqa: D102
        text = plain(said.text[:_LONGEST])
        named = [one for one in (self.name, *self.others) if _holds(text, plain(one))]
        if not named:
            return invalid("none of the names in question")
        return RIGHT if named == [self.name] else wrong(f"not {self.name}")


@dataclass(frozen=True, slots=True)
class IsLetter:
    """Whether an answer picks the right choice, by its letter or else by what stands behind it."""

    letter: str
    choices: tuple[str, ...]  # A, B, …

    def __call__(self, said: Said) -> Judged:  # noqa: D102
        found = _LETTER.match(said.text[:_LONGEST].strip())
        picked = found[1].upper() if found else ""
        right = ord(self.letter) - ord("A")
        if "A" <= picked < chr(ord("A") + len(self.choices)):
            return RIGHT if picked == self.letter else wrong(f"not {self.letter}")
        others = self.choices[:right] + self.choices[right + 1 :]
        return IsName(self.choices[right], others)(said)


def numbers(text: str) -> list[frozenset[Decimal]]:
    """What each number in a text can mean; small ones may be spelled out in English."""
    text = text[:_LONGEST]
    found = [read(match[0]) for match in _NUMBER.finditer(text)]
    words = re.findall(r"[a-z]+", text.lower()) if not found else []
    return found or [frozenset({Decimal(_WORDS.index(one))}) for one in words if one in _WORDS]


def read(text: str) -> frozenset[Decimal]:
    """What a number as people write it can mean: one value, or two; none where it is no number."""
    negative = text.lstrip()[:1] in ("-", "−")
    digits = re.sub(rf"[^\d.,]|[{_SPACES}]", "", text)
    parts, marks = re.split(r"[.,]", digits), re.findall(r"[.,]", digits)
    if not all(parts):
        return frozenset()
    values = {"".join(parts)} if _grouped(parts) and len(set(marks)) <= 1 else set()
    if marks and marks[-1] not in marks[:-1] and _grouped(parts[:-1]):
        values.add(f"{''.join(parts[:-1])}.{parts[-1]}")
    return frozenset(Decimal(f"-{value}" if negative else value) for value in values)


def _grouped(parts: list[str]) -> bool:
    """Whether these can be the thousands of a number: 1, 234, 567."""
    return len(parts) == 1 or (len(parts[0]) <= 3 and all(len(one) == 3 for one in parts[1:]))


def plain(text: str) -> str:
    """A text without what does not matter: case, kinds of space and of quotation marks."""
    same = unicodedata.normalize("NFKC", text).translate(str.maketrans("’‘“”‐‑–−", "''\"\"----"))
    return " ".join(same.split()).casefold()


def _holds(text: str, name: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) is not None
