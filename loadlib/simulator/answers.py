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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from loadlib import tokens
from loadlib.simulator import schema
from loadlib.simulator.chat import ChatRequest, Function, Messages, Refusal, text_of, wanted_tool
from loadlib.simulator.wished import Wish, spoil

DEFAULT_TOKENS = 128  # of an answer nobody capped
MAX_PARALLEL = 8
_BOOK_PIECES = 8192

_PLANTED = re.compile(r"vault code is (\d{4}-\d{4})")
_NAME_CHARS = 40  # in front of it, of one of several
_ASKED = re.compile(r"What (?:is the vault code|are the vault codes of ([\w, ]{1,2000})\?)")

Finish = Literal["stop", "length", "tool_calls"]

WORDS = tuple(Path(__file__).with_name("words.txt").read_text(encoding="ascii").split())


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function call: piece `start` of the answer is its name, those behind its arguments."""

    name: str
    call_id: str
    start: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """`pieces` (one token each) and why they end there; the first `reasoning` are thoughts."""

    pieces: Sequence[str]
    finish: Finish
    calls: tuple[ToolCall, ...] = ()
    reasoning: int = 0

    @property
    def text(self) -> str:
        """The whole content."""
        return "" if self.calls else "".join(self.pieces[self.reasoning :])

    @property
    def thoughts(self) -> str:
        """The whole reasoning."""
        return "".join(self.pieces[: self.reasoning])

    def arguments(self, call: ToolCall) -> str:
        """The whole arguments of a call."""
        ends = [other.start for other in self.calls if other.start > call.start]
        return "".join(self.pieces[call.start + 1 : min(ends, default=len(self.pieces))])


class Author:
    """Writes answers, deterministic by seed and request; each after `reasoning` thoughts."""

    def __init__(self, seed: int, reasoning: int = 0) -> None:
        self._book, self._starts = _write_book(random.Random(seed))
        self._reasoning = reasoning

    def answer(
        self,
        request: ChatRequest,
        messages: Messages,
        encoding: str,
        luck: int,
        room: int | None,
        wish: Wish | None = None,
        wrong: random.Random | None = None,
    ) -> Answer:
        """The answer to a request; `luck` is its own seed, `room` what the window leaves.

        `wish` is what it shall be; `wrong` makes it (or what would have been right) wrong.
        Raises `Refusal` for a schema that nothing can satisfy.
        """
        echoed, wish = wish is not None, wish or self._meant(request, messages, luck)
        if wish is None:
            return self._prose(request, luck, room, [])
        if wrong is not None:
            wish = spoil(wish, wrong)
        if wish.calls:
            return self._calling(request, wish, encoding, luck, room)
        pieces = split(wish.text, encoding)
        if not echoed and not _is_structured(request):  # a planted fact
            return self._prose(request, luck, room, pieces)
        answer = self._fitted(request, pieces, "stop", (), room)
        return _stopped(request, answer)

    def _meant(self, request: ChatRequest, messages: Messages, luck: int) -> Wish | None:
        """What an obliging model would answer, where that is not just anything."""
        functions = _functions_to_call(request, messages)
        if functions:
            calls = [
                (one.name, _json(one.parameters or {"type": "object"}, luck + nth, "tools"))
                for nth, one in enumerate(functions)
            ]
            return Wish(calls=tuple(calls))
        wanted = request.response_format
        if wanted is not None and wanted.type == "json_schema" and wanted.json_schema is not None:
            return Wish(_json(wanted.json_schema.schema or {}, luck, "response_format"))
        if wanted is not None and wanted.type == "json_object":
            return Wish(json.dumps({"answer": "".join(self._filler(12, luck)).strip()}))
        codes = planted_codes(messages)
        return Wish(f"{', '.join(codes)}.") if codes else None

    def _calling(
        self, request: ChatRequest, wish: Wish, encoding: str, luck: int, room: int | None
    ) -> Answer:
        pieces: list[str] = []
        calls: list[ToolCall] = []
        for nth, (name, arguments) in enumerate(wish.calls):
            call_id = f"call_{luck & 0xFFFFFFFF:08x}{nth:04x}"
            calls.append(ToolCall(name, call_id, len(pieces)))
            pieces += [name, *split(arguments, encoding)]
        return self._fitted(request, pieces, "tool_calls", tuple(calls), room)

    def _prose(
        self, request: ChatRequest, luck: int, room: int | None, opening: list[str]
    ) -> Answer:
        """`opening`, and filler behind it up to the length that was asked for."""
        cap = request.cap
        thoughts = self._thoughts(luck)
        count = max(DEFAULT_TOKENS + len(thoughts), request.floor) if cap is None else cap
        if room is not None:
            count = min(count, room)
        thoughts = thoughts[:count]
        left = count - len(thoughts)
        pieces = [*opening, *self._filler(left, luck)][:left] if left else []
        if pieces and not opening:
            pieces[0] = pieces[0].removeprefix(" ")
        finish: Finish = "length" if cap is not None and count == cap else "stop"
        answer = Answer([*thoughts, *pieces], finish, reasoning=len(thoughts))
        return _stopped(request, answer)

    def _fitted(
        self,
        request: ChatRequest,
        pieces: list[str],
        finish: Finish,
        calls: tuple[ToolCall, ...],
        room: int | None,
    ) -> Answer:
        """An answer within its limits; what must be longer is padded with blank lines."""
        thoughts = self._thoughts(len(pieces))
        pieces = thoughts + pieces
        pieces = pieces + ["\n"] * (request.floor - len(pieces))
        calls = tuple(replace(call, start=call.start + len(thoughts)) for call in calls)
        limit = min(len(pieces) if n is None else n for n in (request.cap, room))
        if limit < len(pieces):
            pieces, finish = pieces[:limit], "length"
            calls = tuple(call for call in calls if call.start < limit)
        return Answer(pieces, finish, calls, min(len(thoughts), len(pieces)))

    def _thoughts(self, luck: int) -> list[str]:
        return self._filler(self._reasoning, luck + 1) if self._reasoning else []

    def _filler(self, count: int, luck: int) -> list[str]:
        """`count` (at least one) pieces of the book from the start of some sentence."""
        start = self._starts[luck % len(self._starts)]
        pieces = self._book[start : start + count]
        while len(pieces) < count:
            pieces += self._book[: count - len(pieces)]
        return pieces


def _is_structured(request: ChatRequest) -> bool:
    """Whether an answer has a form, which filler would break."""
    return request.response_format is not None and request.response_format.type != "text"


def planted_codes(messages: Messages) -> list[str]:
    """The planted vault codes that the last user message asks for: the first one, or those of
    the names in it, in their order."""
    users = [text_of(message) for message in messages if message.get("role") == "user"]
    asked = _ASKED.search(users[-1]) if users else None
    if asked is None:
        return []
    planted = ((text, match) for text in users for match in _PLANTED.finditer(text))
    if asked[1] is None:
        return [match[1] for _, match in planted][:1]
    named = {}
    for text, match in planted:
        before = text[max(0, match.start() - _NAME_CHARS) : match.start()].split()
        if before:
            named[before[-1]] = match[1]
    return [named[name] for name in re.findall(r"\w+", asked[1]) if name in named]


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


def _functions_to_call(request: ChatRequest, messages: Messages) -> list[Function]:
    """The functions an obliging model would call: the wanted one, or the first, unless it did.

    All of them (up to `MAX_PARALLEL`) where the request says itself that calls may be parallel.
    """
    if not request.tools or request.tool_choice == "none":
        return []
    functions = [tool.function for tool in request.tools]
    wanted = wanted_tool(request)
    if wanted is not None:
        return [next(one for one in functions if one.name == wanted)]
    if messages[-1].get("role") == "tool" and request.tool_choice != "required":
        return []
    return functions[: MAX_PARALLEL if request.parallel_tool_calls else 1]


def _json(wanted: dict[str, Any], luck: int, param: str) -> str:
    try:
        value = schema.example(wanted, luck)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError):
        raise Refusal(400, f"Invalid schema in '{param}'.", param=param) from None
    return json.dumps(value, separators=(",", ":"))  # ASCII: no token ends inside a character


def split(text: str, encoding: str) -> list[str]:
    """`text` by tokens; of a character that several make up, the last one has it all."""
    pieces: list[str] = []
    part: list[int] = []
    for token in tokens.encode(text, encoding):
        part.append(token)
        piece = tokens.decode(part, encoding)
        if piece.endswith("\ufffd"):
            pieces.append("")
        else:
            pieces.append(piece)
            part.clear()
    if "".join(pieces) != text:  # it holds that very character
        pieces = [text, *[""] * (len(pieces) - 1)]
    return pieces or [""]


def _stopped(request: ChatRequest, answer: Answer) -> Answer:
    """The answer cut before the first stop string that begins after `min_tokens`."""
    if not request.stops:
        return answer
    thoughts, pieces = answer.pieces[: answer.reasoning], answer.pieces[answer.reasoning :]
    text = "".join(pieces)
    after = len("".join(pieces[: max(0, (request.min_tokens or 0) - len(thoughts))]))
    found = [at for stop in request.stops if (at := text.find(stop, after)) >= 0]
    if not found:
        return answer
    kept: list[str] = []
    left = min(found)
    for piece in pieces:
        if left <= 0:
            break
        kept.append(piece[:left])
        left -= len(piece)
    return Answer([*thoughts, *(kept or [""])], "stop", reasoning=len(thoughts))
