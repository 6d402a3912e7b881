"""Whether a value fits a JSON Schema: as much of draft 2020-12 as function calls and forms use.

Checks run on the load generator's own core, between two requests, so this is quick and small. A
keyword that is not acted on here is refused (`unknown_keywords`), so that no schema seems to be
met because part of it was not looked at.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from datetime import date, datetime, time
from functools import lru_cache
from typing import Any

MAX_PROBLEMS = 20
MAX_DEPTH = 60  # of a value and of references: a schema may refer to itself
MAX_STEPS = 20_000  # pairs of a value and a schema that are looked at: some 30 ms

_SHOWN = 40  # characters of a value in a message
_ANNOTATIONS = frozenset({"title", "description", "default", "examples", "$schema", "$id", "$defs"})

Schema = Mapping[str, Any]
_Rule = Callable[[Any, Any], str | None]


def problems(value: object, schema: Schema) -> list[str]:
    """What is wrong with `value` (parsed JSON), by place; empty where it fits. At most 20 lines.

    Raises ValueError where a keyword is met that is not known here, or a reference to nothing.
    """
    found: list[str] = []
    for problem in _Search(schema).look(value, schema, "", 0):
        found.append(problem)
        if len(found) >= MAX_PROBLEMS:
            break
    return found


def unknown_keywords(schema: object) -> list[str]:
    """The keywords of a schema that `problems` would not act on; `format`s likewise."""
    return sorted(set(_unknown(schema, 0)))


def _unknown(schema: object, depth: int) -> Iterator[str]:
    if not isinstance(schema, Mapping) or depth > MAX_DEPTH:
        return
    for keyword, said in schema.items():
        if keyword in ("properties", "$defs"):
            below: Sequence[object] = tuple(said.values()) if isinstance(said, Mapping) else ()
        elif keyword in _APPLICATORS:
            below = said if isinstance(said, list) else (said,)
        else:
            below = ()
            if keyword not in _RULES and keyword not in _ACTED_ON:
                yield keyword
            if not _understood(keyword, said):
                yield f"{keyword}: {said}"
        for one in below:
            yield from _unknown(one, depth + 1)


def _understood(keyword: str, said: Any) -> bool:
    """Whether the value of a known keyword is one that is acted on."""
    if keyword == "format":
        return said in _FORMATS
    if keyword == "type":
        return all(name in _TYPES for name in (said if isinstance(said, list) else [said]))
    return keyword != "$ref" or str(said).startswith("#")


class _Search:
    """One look at one value; `root` is what references start from."""

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._steps = 0

    def look(self, value: Any, schema: object, at: str, depth: int) -> Iterator[str]:
        self._steps += 1
        if depth > MAX_DEPTH or self._steps > MAX_STEPS:
            yield f"{at or 'value'}: nested too deeply or too large to be checked"
        elif schema is False:
            yield f"{at or 'value'}: nothing is allowed here"
        elif isinstance(schema, Mapping):
            yield from self._look(value, schema, at, depth)

    def _look(self, value: Any, schema: Schema, at: str, depth: int) -> Iterator[str]:
        for keyword, said in schema.items():
            if (rule := _RULES.get(keyword)) is not None:
                if (wrong := rule(value, said)) is not None:
                    yield f"{at or 'value'}: {wrong}"
            elif keyword not in _ACTED_ON:
                raise ValueError(f"the schema's keyword {keyword} is not supported")
        if isinstance(value, dict):
            yield from self._object(value, schema, at, depth)
        elif isinstance(value, list) and "items" in schema:
            for index, one in enumerate(value):
                yield from self.look(one, schema["items"], f"{at}[{index}]", depth + 1)
        yield from self._combined(value, schema, at, depth)

    def _object(self, value: dict[str, Any], schema: Schema, at: str, depth: int) -> Iterator[str]:
        inside = f"{at}." if at else ""
        known = schema.get("properties") or {}
        for name in schema.get("required", ()):
            if name not in value:
                yield f"{inside}{name}: is missing"
        further = schema.get("additionalProperties", True)
        for name, one in value.items():
            if name in known:
                yield from self.look(one, known[name], f"{inside}{name}", depth + 1)
            elif further is False:
                yield f"{inside}{_show(name)}: no such field"
            else:
                yield from self.look(one, further, f"{inside}{name[:_SHOWN]}", depth + 1)

    def _combined(self, value: Any, schema: Schema, at: str, depth: int) -> Iterator[str]:
        if "$ref" in schema:
            yield from self.look(value, self._referred(schema["$ref"]), at, depth + 1)
        for one in schema.get("allOf", ()):
            yield from self.look(value, one, at, depth + 1)
        for keyword, wanted in (("anyOf", "one"), ("oneOf", "exactly one")):
            if keyword not in schema:
                continue
            fit = sum(not any(self.look(value, one, at, depth + 1)) for one in schema[keyword])
            if not fit or (keyword == "oneOf" and fit > 1):
                choices = len(schema[keyword])
                yield f"{at or 'value'}: fits {fit or 'none'} of {choices} choices, not {wanted}"

    def _referred(self, reference: str) -> object:
        """What a local reference (`#/$defs/item`) points to. Raises ValueError if nothing."""
        target: Any = self._root
        for step in reference.removeprefix("#").split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(target, Mapping) or name not in target:
                raise ValueError(f"the schema refers to {reference}, which it does not hold")
            target = target[name]
        return target


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_integer(value: Any) -> bool:
    return _is_number(value) and (isinstance(value, int) or value.is_integer())


_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "number": _is_number,
    "integer": _is_integer,  # 2.0 is one, says the standard
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}


def _type(value: Any, said: Any) -> str | None:
    names = said if isinstance(said, list) else [said]
    if any(_TYPES[name](value) for name in names):
        return None
    return f"{_show(value)} is not of type {' or '.join(names)}"


def _same(one: Any, other: Any) -> bool:
    """Equality of JSON: true is not 1, and 1 is 1.0."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    return bool(one == other)


def _enum(value: Any, said: Any) -> str | None:
    if any(_same(value, one) for one in said):
        return None
    return f"{_show(value)} is none of {', '.join(map(_show, said[:12]))}"


def _const(value: Any, said: Any) -> str | None:
    return None if _same(value, said) else f"{_show(value)} is not {_show(said)}"


def _unique(value: Any, said: Any) -> str | None:
    if not said or not isinstance(value, list):
        return None
    for index, one in enumerate(value):
        if any(_same(one, other) for other in value[:index]):
            return f"{_show(one)} is there twice"
    return None


def _multiple(value: Any, said: Any) -> str | None:
    if not _is_number(value):
        return None
    try:
        ratio = value / said
        whole = math.isclose(ratio, round(ratio), rel_tol=1e-12, abs_tol=1e-9)  # 0.07 is 7 × 0.01
    except OverflowError:
        return f"{_show(value)} is too large"
    return None if whole else f"{_show(value)} is no multiple of {said}"


def _pattern(value: Any, said: Any) -> str | None:
    if not isinstance(value, str) or _compiled(said).search(value):
        return None
    return f"{_show(value)} does not match {said}"


@lru_cache(256)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _limit(kind: type[Sized] | None, word: str, holds: Callable[[float, float], bool]) -> _Rule:
    """A bound of a number (`kind` None), or of the length of a list or text."""

    def rule(value: Any, said: Any) -> str | None:
        if kind is None:
            return None if not _is_number(value) or holds(value, said) else _say(value, said)
        return None if not isinstance(value, kind) or holds(len(value), said) else _say(value, said)

    def _say(value: Any, said: Any) -> str:
        return f"{_show(value)} is {word} {said}" + ("" if kind is None else " long")

    return rule


def _parses(read: Callable[[str], object], shape: str) -> Callable[[str], bool]:
    def known(text: str) -> bool:
        if not re.fullmatch(shape, text, re.ASCII):
            return False
        try:
            read(text)
        except ValueError:
            return False
        return True

    return known


_DAY = r"\d{4}-\d\d-\d\d"
_TIME = r"\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)"
_FORMATS: dict[str, Callable[[str], bool]] = {
    "date": _parses(date.fromisoformat, _DAY),
    "time": _parses(time.fromisoformat, _TIME),
    "date-time": _parses(lambda text: datetime.fromisoformat(text.upper()), f"{_DAY}[Tt]{_TIME}"),
    "email": lambda text: re.fullmatch(r"[^@\s]+@[^@\s]+", text) is not None,
    "uuid": lambda text: (
        re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text) is not None
    ),
}


def _format(value: Any, said: Any) -> str | None:
    if not isinstance(value, str) or _FORMATS[said](value):
        return None
    return f"{_show(value)} is no {said}"


_RULES: dict[str, _Rule] = {
    "type": _type,
    "enum": _enum,
    "const": _const,
    "minimum": _limit(None, "less than", lambda value, said: value >= said),
    "maximum": _limit(None, "more than", lambda value, said: value <= said),
    "exclusiveMinimum": _limit(None, "not more than", lambda value, said: value > said),
    "exclusiveMaximum": _limit(None, "not less than", lambda value, said: value < said),
    "multipleOf": _multiple,
    "minLength": _limit(str, "less than", lambda value, said: value >= said),
    "maxLength": _limit(str, "more than", lambda value, said: value <= said),
    "pattern": _pattern,
    "format": _format,
    "minItems": _limit(list, "less than", lambda value, said: value >= said),
    "maxItems": _limit(list, "more than", lambda value, said: value <= said),
    "uniqueItems": _unique,
}
_APPLICATORS = frozenset({"items", "additionalProperties", "anyOf", "oneOf", "allOf"})
_ACTED_ON = _APPLICATORS | _ANNOTATIONS | {"properties", "required", "$ref"}


def _show(value: object) -> str:
    """A value as JSON, for people; cut, and with no control characters."""
    try:
        text = json.dumps(value, ensure_ascii=True, default=str)
    except (ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
