"""What the simulated model says: filler of counted tokens, a planted fact, JSON, a tool call.

An answer is a tuple of pieces, one generated token each, so that the text a client receives has
exactly the tokens that `usage` says, in both encodings: the filler is made of words that are
one token each, alone and after a space, capitalised or not (a test encodes them).
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from loadlib import tokens
from loadlib.simulator import schema
from loadlib.simulator.chat import ChatRequest, Function, Messages, Refusal, text_of, wanted_tool

DEFAULT_TOKENS = 128  # of an answer nobody capped
_BOOK_PIECES = 8192

_PLANTED = re.compile(r"vault code is (\d{4}-\d{4})")
_ASKED = "What is the vault code"

Finish = Literal["stop", "length", "tool_calls"]

WORDS = tuple(Path(__file__).with_name("words.txt").read_text(encoding="ascii").split())


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function call; the answer's first piece is its name, the others its arguments."""

    name: str
    call_id: str


@dataclass(frozen=True, slots=True)
class Answer:
    """`pieces` (one token each) and why they end there."""

    pieces: Sequence[str]
    finish: Finish
    call: ToolCall | None = None

    @property
    def text(self) -> str:
        """The whole content, or the whole arguments of the call."""
        return "".join(self.pieces[1:] if self.call else self.pieces)


class Author:
    """Writes answers, deterministic by seed and request."""

    def __init__(self, seed: int) -> None:
        self._book, self._starts = _write_book(random.Random(seed))

    def answer(
        self, request: ChatRequest, messages: Messages, encoding: str, luck: int, room: int | None
    ) -> Answer:
        """The answer to a request; `luck` is its own seed, `room` what the window leaves.

        Raises `Refusal` for a schema that nothing can satisfy.
        """
        function = _function_to_call(request, messages)
        if function is not None:
            arguments = _json(function.parameters or {"type": "object"}, luck, "tools")
            call = ToolCall(function.name, f"call_{luck & 0xFFFFFFFF:08x}{len(messages):04x}")
            pieces = [function.name, *_split(arguments, encoding)]
            return _fitted(request, pieces, "tool_calls", call, room)
        wanted = request.response_format
        if wanted is not None and wanted.type == "json_schema" and wanted.json_schema is not None:
            text = _json(wanted.json_schema.schema or {}, luck, "response_format")
            return _fitted(request, _split(text, encoding), "stop", None, room)
        if wanted is not None and wanted.type == "json_object":
            text = json.dumps({"answer": "".join(self._filler(12, luck)).strip()})
            return _fitted(request, _split(text, encoding), "stop", None, room)
        return self._prose(request, messages, luck, room)

    def _prose(
        self, request: ChatRequest, messages: Messages, luck: int, room: int | None
    ) -> Answer:
        cap = request.cap
        count = max(DEFAULT_TOKENS, request.floor) if cap is None else cap
        if room is not None:
            count = min(count, room)
        code = planted_code(messages)
        if code is None:
            pieces = self._filler(count, luck)
            pieces[0] = pieces[0].removeprefix(" ")
        else:
            known = [code[:3], code[3:4], "-", code[5:8], code[8:], "."]
            pieces = [*known, *self._filler(count, luck)][:count]
        finish: Finish = "length" if cap is not None and count == cap else "stop"
        return _stopped(request, Answer(pieces, finish))

    def _filler(self, count: int, luck: int) -> list[str]:
        """`count` (at least one) pieces of the book from the start of some sentence."""
        start = self._starts[luck % len(self._starts)]
        pieces = self._book[start : start + count]
        while len(pieces) < count:
            pieces += self._book[: count - len(pieces)]
        return pieces


def planted_code(messages: Messages) -> str | None:
    """The first planted vault code, if the last user message asks for it."""
    users = [text_of(message) for message in messages if message.get("role") == "user"]
    if not users or _ASKED not in users[-1]:
        return None
    found = (match[1] for text in users if (match := _PLANTED.search(text)))
    return next(found, None)


def _write_book(luck: random.Random) -> tuple[list[str], list[int]]:
    """Sentences without end: pieces, and the positions at which sentences start."""
    pieces: list[str] = []
    starts: list[int] = []
    while len(pieces) < _BOOK_PIECES:
        words = luck.choices(WORDS, k=luck.randint(5, 14))
        starts.append(len(pieces))
        pieces.append(f" {words[0].capitalize()}")
        for position, word in enumerate(words[1:], 1):
            if position % 6 == 5 and position + 1 < len(words):
                pieces.append(",")
            pieces.append(f" {word}")
        pieces.append(".")
    return pieces, starts


def _function_to_call(request: ChatRequest, messages: Messages) -> Function | None:
    """The function an obliging model would call: the wanted one, or the first, unless it did."""
    if not request.tools or request.tool_choice == "none":
        return None
    wanted = wanted_tool(request)
    if wanted is None:
        answered = messages[-1].get("role") == "tool" and request.tool_choice != "required"
        return None if answered else request.tools[0].function
    return next(tool.function for tool in request.tools if tool.function.name == wanted)


def _json(wanted: dict[str, Any], luck: int, param: str) -> str:
    try:
        value = schema.example(wanted, luck)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError):
        raise Refusal(400, f"Invalid schema in '{param}'.", param=param) from None
    return json.dumps(value, separators=(",", ":"))  # ASCII: no token ends inside a character


def _split(text: str, encoding: str) -> list[str]:
    return [tokens.decode([token], encoding) for token in tokens.encode(text, encoding)]


def _fitted(
    request: ChatRequest,
    pieces: list[str],
    finish: Finish,
    call: ToolCall | None,
    room: int | None,
) -> Answer:
    """A structured answer within its limits; what must be longer is padded with blank lines."""
    pieces = pieces + ["\n"] * (request.floor - len(pieces))
    limit = min(len(pieces) if n is None else n for n in (request.cap, room))
    if limit < len(pieces):
        return Answer(pieces[:limit], "length", call)
    return Answer(pieces, finish, call)


def _stopped(request: ChatRequest, answer: Answer) -> Answer:
    """The answer cut before the first stop string that begins after `min_tokens`."""
    text = "".join(answer.pieces)
    after = len("".join(answer.pieces[: request.min_tokens or 0])) if request.stops else 0
    found = [at for stop in request.stops if (at := text.find(stop, after)) >= 0]
    if not found:
        return answer
    kept: list[str] = []
    left = min(found)
    for piece in answer.pieces:
        if left <= 0:
            break
        kept.append(piece[:left])
        left -= len(piece)
    return Answer(kept or [""], "stop")
