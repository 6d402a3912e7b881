"""Text made of numbered blocks: equal numbers are equal text, of an exact count of tokens.

For traces that say which blocks of a prompt were seen before. Every unit of a block is a word that
is one token in both encodings, with a space before it or, as the first of a block, without: so a
text may be cut after any unit, and its tokens are its units. A block ends with a full stop and a
blank line, one token, that no piece of either encoding reaches across (see `filler`); only the last
one of a text, where it is cut, does not.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import accumulate

from loadlib import tokens
from loadlib.workloads.filler import END, passage

_HEAD = 12  # words that say which block it is, two by two of 2¹¹ pairs: 66 bits
_PAIRS = 2**11
_SHIFTS = range(0, 11 * _HEAD // 2, 11)
_RING = 8192
_LETTERS = 3.0  # a word on average: with its space four bytes a token, as English usually has


class Blocks:
    """Blocks of `size` tokens; `number` is any number of 128 bits, the text a function of it."""

    def __init__(self, seed: int, size: int) -> None:
        self._size = size
        words = single_tokens()
        self._pairs = [f"{one} {other}" for one in words for other in words][:_PAIRS]
        units = [f" {word}" for word in _ring(seed, words)]
        self._text = "".join(units) * 2
        self._places = [0, *accumulate(map(len, units * 2))]
        self._units = len(units)

    def text(self, numbers: Sequence[int], budget: int, head: int) -> str:
        """Exactly `budget` tokens of the blocks in their order; they must hold as many.

        The first `head` tokens of the blocks are left out: what stands there in the whole prompt
        is the server's template and the system message.
        """
        parts = []
        for number in numbers:
            size = self._size - min(head, self._size)
            head -= self._size - size
            kept = min(size, budget)
            if kept:
                parts.append(self._block(number, size, kept))
            budget -= kept
        return "".join(parts)

    def _block(self, number: int, size: int, kept: int) -> str:
        """The first `kept` tokens of a block of which the last `size` are there at all."""
        count = kept - (kept == size)
        pairs = self._pairs
        head = " ".join([pairs[number >> shift & _PAIRS - 1] for shift in _SHIFTS])
        if count < _HEAD:
            head = " ".join(head.split(" ")[:count])
        start = (number >> 72) % self._units  # bits that no word is chosen by
        body = self._text[self._places[start] : self._places[start + max(0, count - _HEAD)]]
        return head + body + (END if kept == size else "")


@lru_cache(maxsize=2)
def blocks(seed: int, size: int) -> Blocks:
    """The blocks of a seed, whose words are put in a row once."""
    return Blocks(seed, size)


@cache
def single_tokens() -> tuple[str, ...]:
    """The lower-case words of the passage that are one token alone and after a space, in both
    encodings."""
    return tuple(
        word
        for word in sorted(set(passage()))
        if word.islower()
        and all(
            tokens.count(text, encoding) == 1
            for text in (word, f" {word}")
            for encoding in tokens.VOCABULARIES
        )
    )


def _ring(seed: int, words: Sequence[str]) -> tuple[str, ...]:
    """Words in a random order, the short ones as much more often as makes the mean."""
    rng = random.Random(seed)
    short = [word for word in words if len(word) <= _LETTERS]
    long = [word for word in words if len(word) > _LETTERS]
    means = [sum(map(len, some)) / len(some) for some in (short, long)]
    share = (means[1] - _LETTERS) / (means[1] - means[0])
    return tuple(rng.choice(short if rng.random() < share else long) for _ in range(_RING))
