"""The final answer of a text: where it stands, and which number, letter, word or list it is.

Models wrap what they were asked for: in bold, in LaTeX, in a sentence, with thousands separators
and units. An answer that is there is found; which of several is meant is settled by rules that a
table of known answers holds fast (tests/test_final_answer.py).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from fractions import Fraction
from typing import Literal

from loadlib.quality import RIGHT, Judged, Said, invalid, wrong

Kind = Literal["number", "letter", "word", "date", "list", "output"]
Value = Fraction | str | date | tuple[str, ...]

MOST = 20_000
"""Characters that are looked at, from the end: an answer stands last."""

LETTERS = "ABCD"

_THOUGHTS = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
_MARKER = re.compile(
    r"(?<!\w)(?:answer|result|output)[ \t]*(?:is[ \t]*:|is\b|:|=)\s*(?=\S)", re.IGNORECASE
)
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_WRAPPED = re.compile(r"\\(?:text|textbf|mathbf|mathrm|mathit)\s*\{([^{}]*)\}")
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_LATEX = re.compile(r"\\[;:!() \[\]]|\\(?:quad|left|right|displaystyle)\b|[${}]")
_PAINT = re.compile(r"\*\*|__|```\w*\n?|`|^[ \t]*(?:#+|>)[ \t]*", re.MULTILINE)
_ALIKE = str.maketrans({**dict.fromkeys("‐‑‒–—−", "-"), "⁄": "/", "’": "'", "“": '"', "”": '"'})

_BARE_WORDS = 4
"""A line of so few words is an answer, and no sentence about it."""


@dataclass(frozen=True, slots=True)
class FinalAnswer:
    """The check that the final answer of a text is `right`, read as `kind`.

    `right` is written as `kind` is read: "9.9", "B", "Tuesday", "2027-03-01", "1, 2, 3", "[1, 4]".
    `words` is what may be answered, of kind word.
    """

    kind: Kind
    right: str
    words: Sequence[str] = ()

    def __call__(self, said: Said) -> Judged:  # noqa: D102
        found = read(said.text, self.kind, self.words)
        if found is None:
            return invalid(f"no {self.kind} is found in it")
        if found == read(self.right, self.kind, self.words):
            return RIGHT
        return wrong(f"says {_shown(found)[:40]}, not {self.right[:40]}")


def read(text: str, kind: Kind, words: Sequence[str] = ()) -> Value | None:
    """The final answer of a text; None where there is none of this kind.

    It is in the last box; else in what follows the last "Answer:", to the end of its line; else it
    is the last line of a few words that holds one; else the last line that holds one.
    """
    text = _THOUGHTS.sub(" ", text[-MOST:])
    reader = _reader(kind, words)
    if boxes := _BOXED.findall(text):
        return reader(_plain(boxes[-1]))
    text = _plain(text)
    if markers := list(_MARKER.finditer(text)):
        text = text[markers[-1].end() :]
        if kind != "list":
            return reader(text.split("\n", 1)[0].strip())
    if kind == "list":
        return _items(text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    bare = [line for line in lines if len(line.split()) <= _BARE_WORDS or kind == "output"]
    for line in [*reversed(bare), *reversed(lines)]:
        if (found := reader(line)) is not None:
            return found
    return None


def _plain(text: str) -> str:
    """Without the paint of Markdown and LaTeX; dashes, digits, blanks in their plain form."""
    text = unicodedata.normalize("NFKC", text.replace("{,}", ",").translate(_ALIKE))
    text = text.translate(_ALIKE).replace("\\%", "%").replace("\\,", " ")
    for _ in range(2):  # one inside the other
        text = _FRACTION.sub(r"\1/\2", _WRAPPED.sub(r"\1", text))
    return _PAINT.sub("", _LATEX.sub("", text)).strip()


def _reader(kind: Kind, words: Sequence[str]) -> Callable[[str], Value | None]:
    if kind == "word":
        return lambda text: _word(text, words)
    return _READERS[kind]


# -- numbers -----------------------------------------------------------------------------------

_NUMBER = re.compile(
    r"""(?<![\w.,])                              # not the rest of something longer
    (?P<sign>(?<![\d)])[-+]\s?)?
    (?: (?P<grouped>\d{1,3}(?:(?P<by>[,' _])\d{3})(?:(?P=by)\d{3})*(?!\d)(?:\.\d+)?)
      | (?P<european>\d{1,3}(?:\.\d{3})+,\d+)
      | (?P<comma>\d+,\d+)                       # not three digits: those were a group
      | (?P<plain>\d*\.\d+|\d+)
    )(?P<exponent>[eE][-+]?\d{1,3}\b)?
    (?:\s?/\s?(?P<below>\d+))?""",
    re.VERBOSE,
)
_IN_WORDS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
    "twenty",
]  # fmt: skip
_WORD = re.compile(rf"\b(?:{'|'.join(_IN_WORDS)})\b", re.IGNORECASE)
_OPERATOR = re.compile(r"\s*(?:[-+*/×·÷^=]|(?:%|percent) of\b)")
_DIGITS = 400  # of a number that is meant
_LEAD = re.compile(r"[^\w\d+-]*(?:(?:about|approximately|exactly|[A-Z]{3})\s)?\s*")


def _number(text: str) -> Fraction | None:
    """The number a text begins with; else of an equation its right side, else the last one.

    In words up to twenty, where there are no digits.
    """
    lead, first = _LEAD.match(text), _NUMBER.search(text)
    at_once = lead is not None and first is not None and first.start() <= lead.end()
    if at_once and first is not None and not _OPERATOR.match(text, first.end()):
        return _value(first)
    for sign in ("=", "≈"):
        text = text.rsplit(sign, 1)[-1].strip() or text
    if found := list(_NUMBER.finditer(text)):
        return _value(found[0] if _LEAD.fullmatch(text[: found[0].start()]) else found[-1])
    named = _WORD.findall(text)
    return Fraction(_IN_WORDS.index(named[-1].lower())) if named else None


def _value(found: re.Match[str]) -> Fraction | None:
    grouped, european, comma = found["grouped"], found["european"], found["comma"]
    if grouped is not None:
        digits = grouped.replace(found["by"], "")
    elif european is not None:
        digits = european.replace(".", "").replace(",", ".")
    elif comma is not None:
        digits = comma.replace(",", ".")
    else:
        digits = found["plain"]
    if len(digits) > _DIGITS:
        return None
    value = Fraction(digits + (found["exponent"] or ""))
    if found["below"] is not None:
        if int(found["below"]) == 0:
            return None
        value /= int(found["below"])
    return -value if (found["sign"] or "").startswith("-") else value


# -- letters, words, dates ---------------------------------------------------------------------

_LETTER = tuple(
    re.compile(pattern)
    for pattern in (
        r"^\(?([A-Da-d])\)?[.):]?$",  # nothing else
        r"(?i:option|choice|letter)\s*\(?([A-D])\b",
        r"\b(?:is|choose|pick|select)\s+\(?([A-D])(?=[.,;)]|$)",
        r"^\(?([A-D])(?:[).:,]|\s*-|\s+(?:is|because)\b)",  # "B) 17", "A is right", not "A word"
        r"\(([A-D])\)",
        r"(?<![\w'])([B-D])(?![\w'])",
        r"(?<!\w)(A)(?=[.,;)]|$)",  # anywhere else it is an article
    )
)


def _letter(text: str) -> str | None:
    for pattern in _LETTER:
        if found := pattern.findall(text):
            return str(found[-1]).upper()
    return None


def _word(text: str, words: Sequence[str]) -> str | None:
    """The last of `words` in a text, unless it begins with one."""
    pattern = "|".join(re.escape(word) for word in words)
    found = list(re.finditer(rf"\b(?:{pattern})\b", text, re.IGNORECASE))
    if not found:
        return None
    return (found[0] if found[0].start() == 0 else found[-1]).group().casefold()


_MONTHS = ["january", "february", "march", "april", "may", "june", "july", "august", "september",
           "october", "november", "december"]  # fmt: skip
_ISO = re.compile(r"(?<!\d)(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?!\d)")
_DAY_FIRST = re.compile(r"(?<!\d)(\d{1,2})(?:st|nd|rd|th)?\.?\s+(?:of\s+)?([a-z]+),?\s+(\d{4})")
_MONTH_FIRST = re.compile(r"([a-z]+)\s+(\d{1,2})(?:st|nd|rd|th)?,?\s+(\d{4})")


def _date(text: str) -> date | None:
    """The last date of a text, in figures or with its month in words."""
    text = text.lower()
    found = [(m.start(), m[1], m[2], m[3]) for m in _ISO.finditer(text)]
    found += [(m.start(), m[3], _month(m[2]), m[1]) for m in _DAY_FIRST.finditer(text)]
    found += [(m.start(), m[3], _month(m[1]), m[2]) for m in _MONTH_FIRST.finditer(text)]
    for _, year, month, day in sorted(found, reverse=True):
        try:
            return date(int(year), int(month), int(day))
        except ValueError:
            continue
    return None


def _month(name: str) -> str:
    """Its number; of what is no month 0, which no date has."""
    at = next((n for n, one in enumerate(_MONTHS, 1) if len(name) >= 3 and one.startswith(name)), 0)
    return str(at)


# -- lists, and what a program prints ----------------------------------------------------------

_BULLET = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)])\s+")


def _items(text: str) -> tuple[str, ...] | None:
    """The items of the last line that separates some, else one item a line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    rows = [line for line in lines if re.search(r"[,;→]", line)]
    if rows:
        inner = rows[-1].rsplit(":", 1)[-1]
        parts = re.split(r"\s*(?:[,;→]|->)\s*(?:and\s+)?|\s+and\s+", inner.strip(" .[](){}"))
    else:
        parts = [_BULLET.sub("", line) for line in lines if _BULLET.match(line)]
    found = tuple(part.strip("\"' .").casefold() for part in parts)
    return tuple(one for one in found if one) or None


def _output(text: str) -> str | None:
    """What a program prints, on one line; blanks within brackets and kinds of quotes are alike."""
    text = text.strip().replace('"', "'")
    if len(text) > 1 and text[0] == text[-1] == "'" and "'" not in text[1:-1]:
        text = text[1:-1]
    return re.sub(r"\s*([\[\](),])\s*", r"\1", " ".join(text.split())) or None


_READERS: dict[str, Callable[[str], Value | None]] = {
    "number": _number,
    "letter": _letter,
    "date": _date,
    "list": _items,
    "output": _output,
}


def _shown(value: Value) -> str:
    if isinstance(value, Fraction):
        return f"{float(value):g}" if abs(value) < 10**15 else "an enormous number"
    return ", ".join(value) if isinstance(value, tuple) else str(value)
