"""A value that satisfies a JSON schema in shape: required and optional properties, types, enums.

Patterns, conditions (`if`, `not`) and dependencies are not looked at.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

MAX_DEPTH = 12  # a schema may refer to itself
MAX_VALUES = 4_000  # … more than once at each level
CHARS_PER_VALUE = 20  # long texts count as several values

_FORMATS = {
    "date": "2024-06-30",
    "time": "12:30:00Z",
    "date-time": "2024-06-30T12:30:00Z",
    "duration": "PT5M",
    "email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "123e4567-e89b-42d3-a456-426614174000",
}
_WORDS = ("open", "station", "market", "letter", "window", "river", "paper", "bridge", "summer")


def example(schema: Mapping[str, Any], seed: int) -> Any:
    """An instance of `schema`, the same for the same seed.

    Raises `ValueError` where it would have to be enormous, and several other errors for what is
    no schema.
    """
    return _Maker(schema, random.Random(seed)).make(schema, 0)


class _Maker:
    def __init__(self, root: Mapping[str, Any], luck: random.Random) -> None:
        self._root, self._luck = root, luck
        self._left = MAX_VALUES
        self._kinds: dict[str, Callable[[Mapping[str, Any], int], Any]] = {
            "object": self._object,
            "array": self._array,
            "string": self._string,
            "integer": self._integer,
            "number": self._number,
            "boolean": lambda _schema, _depth: self._luck.random() < 0.5,
            "null": lambda _schema, _depth: None,
        }

    def make(self, schema: Any, depth: int) -> Any:
        self._spend(1)
        if not isinstance(schema, Mapping) or depth > MAX_DEPTH:
            return None
        if "$ref" in schema:
            return self.make(self._resolve(str(schema["$ref"])), depth + 1)
        if "const" in schema:
            return self._copied(schema["const"])
        if schema.get("enum"):
            return self._copied(self._luck.choice(list(schema["enum"])))
        for key in ("anyOf", "oneOf"):
            if schema.get(key):
                return self.make(_shallowest(schema[key], depth), depth + 1)
        if schema.get("allOf"):
            return self.make(self._merged(schema), depth + 1)
        kind = _kind(schema, depth)
        return self._kinds[kind if kind in self._kinds else "string"](schema, depth)

    def _spend(self, values: int) -> None:
        self._left -= values
        if self._left < 0:
            raise ValueError("an instance would be too large")

    def _copied(self, value: Any) -> Any:
        self._spend(len(msgspec.json.encode(value)) // CHARS_PER_VALUE)
        return value

    def _resolve(self, reference: str) -> Any:
        node: Any = self._root
        for step in reference.removeprefix("#").strip("/").split("/"):
            if step and isinstance(node, Mapping):
                node = node.get(step.replace("~1", "/").replace("~0", "~"))
        return node

    def _merged(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        merged = {key: value for key, value in schema.items() if key != "allOf"}
        for part in schema["allOf"]:
            for key, value in part.items() if isinstance(part, Mapping) else ():
                if key == "properties":
                    value = {**merged.get(key, {}), **value}
                merged[key] = value
        return merged

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties") or {}
        required = schema.get("required", ())
        self._spend(len(properties) + sum(map(len, required)) // CHARS_PER_VALUE + len(required))
        # What is optional is left out once deep: that is how recursion ends.
        names = [name for name in properties if depth < MAX_DEPTH // 2 or name in required]
        return {
            **{name: self._luck.choice(_WORDS) for name in required if name not in properties},
            **{name: self.make(properties[name], depth + 1) for name in names},
        }

    def _array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        few = 0 if depth >= MAX_DEPTH // 2 else 1
        count = max(schema.get("minItems", 0), min(few, schema.get("maxItems", few)))
        self._spend(count)
        first = schema.get("prefixItems") or []
        items = schema.get("items", {})
        return [
            self.make(first[i] if i < len(first) else items, depth + 1)
            for i in range(max(count, len(first)))
        ]

    def _string(self, schema: Mapping[str, Any], _depth: int) -> str:
        if schema.get("format") in _FORMATS:
            return _FORMATS[schema["format"]]
        self._spend(schema.get("minLength", 0) // CHARS_PER_VALUE)
        text = " ".join(self._luck.sample(_WORDS, 2))
        while len(text) < schema.get("minLength", 0):
            text += f" {self._luck.choice(_WORDS)}"
        return text[: schema.get("maxLength", len(text))]

    def _integer(self, schema: Mapping[str, Any], _depth: int) -> int:
        step = schema.get("multipleOf") or 1
        low, high = _bounds(schema, step)
        first = -(-low // step)  # the lowest multiple that is not too low
        return int(step * (first + self._luck.randint(0, max(0, int(high // step - first)))))

    def _number(self, schema: Mapping[str, Any], depth: int) -> float:
        if "multipleOf" in schema:
            return self._integer(schema, depth)
        low, high = _bounds(schema, 0)  # the value lies inside: open limits are met too
        value = low + (high - low) * (0.25 + self._luck.random() / 2)
        short = round(value, 2)
        return short if low <= short <= high else value


def _kind(schema: Mapping[str, Any], depth: int) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        if depth >= MAX_DEPTH // 2 and "null" in kind:
            return "null"
        kind = next((one for one in kind if one != "null"), "null")
    if kind is None:
        return "object" if "properties" in schema else "array" if "items" in schema else "string"
    return str(kind)


def _shallowest(options: list[Any], depth: int) -> Any:
    """The first alternative; once deep, one that leads no deeper."""
    simple = [
        one
        for one in options
        if isinstance(one, Mapping) and one.get("type") not in ("object", "array", None)
    ]
    return simple[0] if simple and depth >= MAX_DEPTH // 2 else options[0]


def _bounds(schema: Mapping[str, Any], step: float) -> tuple[float, float]:
    """Inclusive limits; a side that is open is taken from the other."""
    low, high = schema.get("minimum"), schema.get("maximum")
    if _is_number(schema.get("exclusiveMinimum")):
        low = schema["exclusiveMinimum"] + step
    if _is_number(schema.get("exclusiveMaximum")):
        high = schema["exclusiveMaximum"] - step
    if low is None:
        low = 0 if high is None or high > 0 else high - 100
    return low, max(low, high if high is not None else low + 100)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
