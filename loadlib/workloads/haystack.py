"""Facts planted in a document at the depths asked for, and whether an answer has them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from loadlib.quality import RIGHT, Judged, Said, wrong
from loadlib.units import format_count
from loadlib.workloads.filler import END, Filler

# Codes of 4 + 4 digits are always the same number of tokens: both encodings split digits in
# threes, and each group of one to three digits is one token.
FACT = "The vault code is {}" + END
QUESTION = "What is the vault code? Reply with the code only."

# Of several needles each has a name; the paragraphs mention none of them.
NAMED_FACT = "The {} vault code is {}" + END
NAMED_QUESTION = "What are the vault codes of {} and {}? Reply with the codes only, in this order."
NAMES = (
    *("amber", "birch", "cobalt", "dahlia", "ember", "falcon", "garnet", "heron"),
    *("indigo", "jasmine", "kestrel", "lilac", "magnet", "nickel", "opal", "quartz"),
)
TOKENS_PER_CODE = 7  # in an answer, with a comma and a blank

_DASHES = str.maketrans(dict.fromkeys("‐‑‒–—−", "-"))
_BAND = 20  # points of depth that one variant spans where depths are spread


@dataclass(frozen=True, slots=True)
class HasCodes:
    """Whether an answer holds the planted codes, however their dashes are typed.

    It passes with all of them; of several the score is the share that it has.
    """

    codes: tuple[str, ...]

    def __call__(self, said: Said) -> Judged:  # noqa: D102
        text = said.text.translate(_DASHES)
        found = sum(code in text for code in self.codes)
        if len(self.codes) == 1:
            return RIGHT if found else wrong()
        if found == len(self.codes):
            return Judged(passed=True, score=1.0)
        return wrong(f"{found} of {len(self.codes)} codes", score=found / len(self.codes))


def facts(codes: Sequence[str]) -> tuple[str, ...]:
    """The sentences that say the codes, a paragraph each."""
    if len(codes) == 1:
        return (FACT.format(codes[0]),)
    return tuple(NAMED_FACT.format(*one) for one in zip(NAMES, codes, strict=False))


def question(needles: int) -> str:
    """What is asked at the end of a document with so many facts."""
    if needles == 1:
        return QUESTION
    return NAMED_QUESTION.format(", ".join(NAMES[: needles - 1]), NAMES[needles - 1])


def planted(ring: Filler, budget: int, start: int, needles: Sequence[tuple[float, str]]) -> str:
    """Paragraphs of exactly `budget` tokens from `start` on, each fact at its depth among them.

    A depth is a share of the paragraphs' tokens, met but for the rest of a paragraph: the longest
    stretch between two facts makes up the count.
    """
    ordered = sorted(needles, key=lambda one: one[0])
    marks = [0, *(round(budget * depth) for depth, _ in ordered), budget]
    wanted = [b - a for a, b in pairwise(marks)]
    longest = wanted.index(max(wanted))
    stretches = [""] * len(wanted)
    left = budget
    # from both ends towards the longest: what a stretch falls short of, the next one has more
    for side in (range(longest), range(len(wanted) - 1, longest, -1)):
        owed = 0
        for at in side:
            stretches[at], used, start = ring.take(wanted[at] + owed, start)
            owed += wanted[at] - used
            left -= used
    stretches[longest] = ring.exactly(left, start)
    told = [*(fact for _, fact in ordered), ""]
    return "".join(part for pair in zip(stretches, told, strict=True) for part in pair)


def variant(length: int, depths: Sequence[float], *, drawn: bool, spread: bool) -> str:
    """`32k depth 25 %`; `32k depth 20-40 %` of depths that are spread; `32k 3 needles`.

    A length that was drawn is told by its power of two: `4Ki-8Ki depth 25 %`.
    """
    size = format_count(length)
    if drawn:
        bits = length.bit_length()
        size = f"{format_count(1 << (bits - 1))}-{format_count(1 << bits)}"
    if len(depths) > 1:
        return f"{size} {len(depths)} needles"
    percent = 100 * depths[0]
    if not spread:
        return f"{size} depth {percent:.4g} %"
    low = min(int(percent // _BAND), 100 // _BAND - 1) * _BAND
    return f"{size} depth {low}-{low + _BAND} %"
