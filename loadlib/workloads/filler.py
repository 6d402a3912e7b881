"""Long text of an exact token count, put together from paragraphs that are counted once.

Why counts may be added: both encodings first split text by a regular expression, from left to
right, and then encode each piece alone. Every paragraph here starts with a letter or a digit and
ends with a full stop and a blank line. `.\\n\\n` is one piece in both patterns: neither lets it
reach into a letter or digit that follows, and no piece of letters or digits begins with a line
break. So the end of a paragraph is always the end of a piece, and the tokens of a text are the sum
of the tokens of its paragraphs. Encoding 128,000 tokens takes 15 ms, adding up two numbers none.
"""

from __future__ import annotations

import json
import random
from bisect import bisect_right
from functools import cache, lru_cache
from itertools import accumulate
from pathlib import Path

from loadlib import tokens

END = ".\n\n"  # one token in both encodings

REFERENCE = "{:018d} is the reference number of this file" + END
"""A paragraph in front of others, so that no two requests share their first tokens."""
REFERENCES = 10**18
"""How many there are: numbers of 18 digits are always the same number of tokens."""

_PARAGRAPHS = 1200  # about 155,000 tokens: longer documents go round
_DATA = Path(__file__).parent / "data" / "filler.json"


class Filler:
    """A ring of paragraphs of one encoding; `start` numbers a paragraph and may be any integer."""

    def __init__(self, seed: int, encoding: str) -> None:
        paragraphs = _paragraphs(seed)
        self._text = "".join(paragraphs)
        self._count = len(paragraphs)
        self._chars = [0, *accumulate(len(one) for one in paragraphs)]
        self._tokens = [0, *accumulate(tokens.count(one, encoding) for one in paragraphs)]

    def take(self, budget: int, start: int) -> tuple[str, int, int]:
        """Whole paragraphs from `start` on: their text, their tokens (≤ budget), the next start."""
        first = start % self._count
        whole = self._tokens[-1]
        laps, rest = divmod(self._tokens[first] + budget, whole)
        last = bisect_right(self._tokens, rest) - 1
        used = laps * whole + self._tokens[last] - self._tokens[first]
        begin, end = self._chars[first], self._chars[last]
        if not laps:
            return self._text[begin:end], used, last
        pieces = (self._text[begin:], self._text * (laps - 1), self._text[:end])
        return "".join(pieces), used, last

    def exactly(self, budget: int, start: int) -> str:
        """Text of exactly `budget` tokens that may stand before anything but [\\r\\n/]."""
        text, used, _ = self.take(budget, start)
        return text + words(budget - used)


def words(budget: int) -> str:
    """One plain paragraph of exactly `budget` tokens in either encoding, for what is left over."""
    if budget <= 0:
        return ""
    plain = passage()
    laps, rest = divmod(budget - 1, len(plain))
    return " ".join(plain * laps + plain[:rest]) + END


def passage() -> list[str]:
    """Words that are one token in both encodings where a space stands before them."""
    return _vocabulary()["passage"]


@lru_cache(maxsize=8)
def filler(seed: int, encoding: str) -> Filler:
    """The ring of paragraphs for a seed; built once (about 50 ms) and kept."""
    return Filler(seed, encoding)


@cache
def _vocabulary() -> dict[str, list[str]]:
    """Sentences, what fills their gaps, and `passage`: words of one token in both encodings."""
    data: dict[str, list[str]] = json.loads(_DATA.read_text(encoding="utf-8"))
    return data


@lru_cache(maxsize=2)
def _paragraphs(seed: int) -> tuple[str, ...]:
    rng = random.Random(seed)
    return tuple(
        " ".join(_sentence(rng) for _ in range(rng.randint(4, 7))) + "\n\n"
        for _ in range(_PARAGRAPHS)
    )


def _sentence(rng: random.Random) -> str:
    known = _vocabulary()
    picked = {key: rng.choice(known[key]) for key in ("person", "place", "thing", "state", "day")}
    for key in ("person", "thing"):
        picked[key.title()] = picked[key][0].upper() + picked[key][1:]
    picked["other"] = rng.choice(known["person"])
    return rng.choice(known["sentence"]).format(
        **picked, n=rng.randint(2, 400), m=rng.randint(2, 90)
    )
