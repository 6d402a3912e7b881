"""Translation between eight languages: is the answer in the right one, whole, and no copy?

The texts are ours, written in all the languages side by side (data/parallel.jsonl). Whether a
translation is a good one no check can say without a judge; what can be said is what load and small
models break: another language, half of the text, the source again, a number lost. How alike the
answer is to our own translation is its score, and decides nothing.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema, field_validator

from loadlib.errors import nearest
from loadlib.quality import Judged, Said, invalid, wrong
from loadlib.scenario_fields import Counts, broken, one_or_many, scalar_or_list, tuple_of
from loadlib.workloads.languages import LANGUAGES, PAIRS, chrf, why_not
from loadlib.workloads.spec import CappedSpec
from loadlib.workloads.tasks import Task, Tasks

Length = Literal["short", "long"]

DATA = Path(__file__).parent / "data" / "parallel.jsonl"

RATIOS = (0.5, 2.0)
"""An answer's length is between these times what its source's length makes expect."""

COPIED = 0.8
"""chrF from which on an answer is the source again, a word or two changed."""

_GROUPS = re.compile(r"(?<=\d)[.,'’ \u00a0\u2009\u202f٬](?=\d{3}(?!\d))")
_OTHER_DIGIT = re.compile(r"(?![0-9])\d")
_MOST = 20_000  # characters of an answer that are looked at


class TranslateSpec(CappedSpec):
    """Settings of `kind: translate`."""

    kind: Literal["translate"]
    pairs: Annotated[
        tuple[str, ...],
        BeforeValidator(tuple_of),
        Field(min_length=1),
        PlainSerializer(scalar_or_list),
        WithJsonSchema(one_or_many({"enum": list(PAIRS)})),
    ] = Field(PAIRS, description="source-target, such as zh-en: one, or a list to go round")
    length: Annotated[
        tuple[Length, ...],
        BeforeValidator(tuple_of),
        Field(min_length=1),
        PlainSerializer(scalar_or_list),
        WithJsonSchema(one_or_many({"enum": list(get_args(Length))})),
    ] = Field(("short", "long"), description="short: a sentence or two; long: a paragraph")
    output_tokens: Counts = Field(
        (512,), description="cap: a number, a list to go round, or a distribution"
    )

    @field_validator("pairs")
    @classmethod
    def _known(cls, pairs: tuple[str, ...]) -> tuple[str, ...]:
        for position, pair in enumerate(pairs):
            if pair not in PAIRS:
                known = f"two different of {', '.join(LANGUAGES)}, such as zh-en"
                raise broken(f"{pair!r} is not {known}{nearest(pair, PAIRS)}", position)
        return pairs


@dataclass(frozen=True, slots=True)
class Text:
    """One text in all languages; `keep` are the numbers that every translation keeps."""

    length: str
    keep: tuple[str, ...]
    said: dict[str, str]


@cache
def texts() -> tuple[Text, ...]:
    """The built-in parallel texts."""
    rows = map(json.loads, DATA.read_text(encoding="utf-8").splitlines())
    return tuple(
        Text(row["length"], tuple(row["keep"]), {code: row[code] for code in LANGUAGES})
        for row in rows
    )


@dataclass(frozen=True, slots=True)
class Translated:
    """The check that an answer translates `source` from one language into another."""

    source: str
    reference: str
    pair: tuple[str, str]
    keep: Sequence[str] = ()

    def __call__(self, said: Said) -> Judged:  # noqa: D102
        text = said.text[:_MOST].strip()
        score = chrf(text[: 4 * len(self.reference)], self.reference)
        if (reason := why_not(text, self.pair[1])) is not None:
            copied = chrf(text[: 4 * len(self.source)], self.source) >= COPIED
            return wrong("it is the source again", score) if copied else invalid(reason, score)
        ratio = len(text) / len(self.source) / self.expected_ratio
        if not RATIOS[0] <= ratio <= RATIOS[1]:
            return wrong(f"{ratio:.2f} times as long as expected", score)
        digits = _digits(text)
        for one in self.keep:
            if not re.search(rf"(?<!\d){one}(?!\d)", digits):
                return wrong(f"the number {one} is lost", score)
        return Judged(passed=True, score=score)

    @property
    def expected_ratio(self) -> float:
        """Characters of a translation for each of its source."""
        source, target = self.pair
        return LANGUAGES[target].size / LANGUAGES[source].size


def _digits(text: str) -> str:
    """A text with all its digits as 0 to 9 and no thousands separators."""
    plain = _OTHER_DIGIT.sub(lambda found: str(unicodedata.decimal(found.group())), text)
    return _GROUPS.sub("", plain)


class Translate(Tasks):
    """`kind: translate`. Pairs go round with n, lengths with each full round of pairs."""

    kind = "translate"

    def __init__(self, name: str, spec: TranslateSpec, seed: int) -> None:
        super().__init__(name, spec, seed)
        self._pairs, self._lengths = spec.pairs, spec.length
        self._of_length = {
            length: [text for text in texts() if text.length == length] for length in spec.length
        }
        self.size = len(set(self._pairs)) * sum(map(len, self._of_length.values()))

    def task(self, ordinal: int) -> Task:
        """Task number `ordinal` (from 0, without end)."""
        turn, at = divmod(ordinal, len(self._pairs))
        length, pair = self._lengths[turn % len(self._lengths)], self._pairs[at]
        choice = self._of_length[length]
        # Each pair begins with another text, and has all of them before one comes again.
        first = self.luck(at).randrange(len(choice))
        text = choice[(first + turn // len(self._lengths)) % len(choice)]
        source, target = pair.split("-")
        asked = (
            f"Translate the following text from {LANGUAGES[source].name} into"
            f" {LANGUAGES[target].name}. Reply with the translation only.\n\n{text.said[source]}"
        )
        check = Translated(text.said[source], text.said[target], (source, target), text.keep)
        right = Said(text.said[target], finish_reason="stop")
        return Task([{"role": "user", "content": asked}], pair, check, right)
