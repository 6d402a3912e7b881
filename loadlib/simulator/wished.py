"""Answers that a request brings along in `X-Simulate-Answer`, and how an answer is made wrong.

So that an answer's check can be met without this server knowing the client: base64 of JSON, which
is a text, or `{"content": text}`, or `{"tool_calls": [{"name": …, "arguments": …}]}`, with
arguments as an object or as its JSON text, and each call possibly inside `{"function": …}`.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from loadlib.simulator.chat import Refusal

HEADER = "x-simulate-answer"
MAX_CALLS = 64


@dataclass(frozen=True, slots=True)
class Wish:
    """What an answer shall be: a text, or calls as (function, JSON text of the arguments)."""

    text: str = ""
    calls: tuple[tuple[str, str], ...] = ()


def read(headers: Mapping[str, str]) -> Wish | None:
    """The wish a request brings, if any. Raises `Refusal`."""
    value = headers.get(HEADER)
    if value is None:
        return None
    try:
        wish = msgspec.json.decode(base64.b64decode(value.strip(), validate=True))
    except (ValueError, RecursionError):  # of either: neither base64 nor JSON nor UTF-8
        raise _wrong("it is not base64 of JSON") from None
    if isinstance(wish, str):
        return Wish(wish)
    if not isinstance(wish, dict) or not wish.keys() & {"content", "tool_calls"}:
        raise _wrong("it is neither a text nor an object with content or tool_calls")
    calls = wish.get("tool_calls") or []
    if not isinstance(calls, list) or len(calls) > MAX_CALLS:
        raise _wrong(f"tool_calls is not a list of up to {MAX_CALLS}")
    content = wish.get("content")
    if not isinstance(content, str | None):
        raise _wrong("content is not a text")
    return Wish(content or "", tuple(_call(call) for call in calls))


def _call(call: Any) -> tuple[str, str]:
    if isinstance(call, dict) and isinstance(call.get("function"), dict):
        call = call["function"]
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        raise _wrong("a tool call needs a name")
    arguments = call.get("arguments", {})
    if not isinstance(arguments, str):
        arguments = _dump(arguments)
    return call["name"], arguments


def _wrong(what: str) -> Refusal:
    return Refusal(400, f"Invalid header 'X-Simulate-Answer': {what}.", param="X-Simulate-Answer")


# --- wrong answers -------------------------------------------------------------------------------


def spoil(wish: Wish, luck: random.Random) -> Wish:
    """The same kind of answer, and wrong: of JSON the values, of text every letter and digit."""
    shift = luck.randint(1, 9)
    calls = tuple(_spoiled_call(name, arguments, shift) for name, arguments in wish.calls)
    return Wish(wish.text if calls else spoiled(wish.text, shift), calls)


def spoiled(text: str, shift: int) -> str:
    """`text` with other letters and digits (`shift`: 1 to 9 places on), or as JSON other values."""
    structured = text.lstrip()[:1] in ("{", "[")
    other = _turned_json(text, shift) if structured else _rotated(text, shift)
    return "Something else." if other in (None, text) else other


def _spoiled_call(name: str, arguments: str, shift: int) -> tuple[str, str]:
    other = _turned_json(arguments, shift)
    return (f"not_{name}", arguments) if other in (None, arguments) else (name, other)


def _turned_json(text: str, shift: int) -> str | None:
    """JSON with other values, text that is no JSON with other letters; None if nothing is left
    to be changed."""
    try:
        value = json.loads(text)
        other = _other(value, shift)
        return None if other == value else _dump(other)
    except (ValueError, RecursionError):
        return _rotated(text, shift)


def _other(value: Any, shift: int) -> Any:
    if isinstance(value, dict):
        return {key: _other(one, shift) for key, one in value.items()}
    if isinstance(value, list):
        return [_other(one, shift) for one in value]
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + shift
    return _rotated(value, shift) or "?" if isinstance(value, str) else shift


def _rotated(text: str, shift: int) -> str:
    return "".join(_turned(letter, shift) for letter in text)


def _turned(letter: str, shift: int) -> str:
    for start, size in (("0", 10), ("a", 26), ("A", 26)):
        place = ord(letter) - ord(start)
        if 0 <= place < size:
            return chr(ord(start) + (place + shift) % size)
    return letter


def _dump(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
