"""Prompt tokens by the real tokenizer, quick for text that was seen before."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import msgspec

from loadlib import tokens
from loadlib.simulator import images
from loadlib.simulator.chat import Messages, images_of, text_of
from loadlib.simulator.prefixes import Piece

INLINE_CHARS = 4000  # unseen text that is encoded on the event loop: well under a millisecond
MAX_KNOWN = 50_000  # pieces remembered per encoding
MAX_KNOWN_CHARS = 20_000  # longer pieces are counted again
BLANK_CHARS = 500_000  # of whitespace in a row: with twice as many tiktoken panics, aloud
_BLANK = re.compile(rf"\s{{{BLANK_CHARS}}}")
_SPLIT_CHARS = 2000  # texts up to this length are remembered whole


class Counter:
    """Counts prompts; remembers the tokens of paragraphs and short texts.

    Long documents are put together from paragraphs that come again and again. A text may be
    cut after an empty line where an ASCII letter follows: no token of either encoding crosses
    such a place, so the sum over the pieces is exact.
    """

    def __init__(self) -> None:
        self._known: dict[str, dict[str, int]] = {}

    def count(
        self, messages: Messages, encoding: str, *, model: str = "", inline: bool = False
    ) -> int | None:
        """Prompt tokens as billed, template and images included; `model` sets an image's price.

        With `inline`, None where too much text would have to be encoded. Raises `ValueError` for
        text the tokenizer gives up on.
        """
        known = self._known.setdefault(encoding, {})
        if len(known) > MAX_KNOWN:
            known = self._known[encoding] = {}
        bare = [{**message, "content": ""} for message in messages]
        if inline and _beside_text(bare) > INLINE_CHARS:
            return None
        total = tokens.chat_tokens(bare, encoding)
        total += sum(images.tokens(image, model) for image in images_of(messages))
        unseen: list[str] = []
        for message in messages:
            for piece in _pieces(text_of(message)):
                size = known.get(piece)
                if size is None:
                    unseen.append(piece)
                else:
                    total += size
        if inline and sum(map(len, unseen)) > INLINE_CHARS:
            return None
        return total + _learn(unseen, encoding, known)

    def pieces(self, messages: Messages, encoding: str, model: str = "") -> Iterator[Piece]:
        """The messages in stretches with their tokens, as `count` has just found them out."""
        known = self._known.get(encoding, {})
        for message in messages:
            bare = {**message, "content": ""}
            yield msgspec.json.encode(bare), tokens.message_tokens(bare, encoding)
            for image in images_of([message]):
                yield msgspec.json.encode(image), images.tokens(image, model)
            for piece in _pieces(text_of(message)):
                size = known.get(piece)
                yield piece.encode(), tokens.count(piece, encoding) if size is None else size

    def count_text(self, text: str, encoding: str, *, inline: bool = False) -> int | None:
        """Tokens of a text that is no message (the definitions of tools); `inline` as above."""
        known = self._known.setdefault(encoding, {})
        if text in known:
            return known[text]
        return None if inline and len(text) > INLINE_CHARS else _learn([text], encoding, known)


def _beside_text(bare: Messages) -> int:
    """Roughly how many characters messages hold beside their text: names, calls."""
    if all(len(message) <= 2 and len(message["role"]) < 20 for message in bare):
        return 2 * len(bare)  # the usual, quickly
    return len(msgspec.json.encode(bare))


def _learn(unseen: Sequence[str], encoding: str, known: dict[str, int]) -> int:
    total = 0
    for piece in unseen:
        if len(piece) >= BLANK_CHARS and _BLANK.search(piece):
            raise ValueError("the text cannot be tokenized (an enormous run of whitespace)")
        size = tokens.count(piece, encoding)
        total += size
        if len(piece) <= MAX_KNOWN_CHARS:
            known[piece] = size
    return total


def _pieces(text: str) -> Iterator[str]:
    if len(text) <= _SPLIT_CHARS:
        yield text
        return
    open_piece = ""
    for part in text.split("\n\n"):
        if open_piece and part[:1].isascii() and part[:1].isalpha():
            yield open_piece
            open_piece = f"{part}\n\n"
        else:
            open_piece += f"{part}\n\n"
    yield open_piece.removesuffix("\n\n")
