"""Function calls: whether they are the ones that were asked for, and how much of them is right."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import permutations
from typing import Any

from loadlib.json_check import problems
from loadlib.quality import Judged, Said, invalid, wrong

MOST = 8
"""Calls of one answer that are looked at; more than any task asks for."""

_INSTANT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)

# Thousands: a comma, an apostrophe, or a blank of any width.
_GROUPS = re.compile(r"(?<=\d)[,'’ \u00a0\u2009\u202f](?=\d{3})")

Leaves = dict[str, Any]
"""Place within the arguments (`place.city`, `items[0].sku`) → the value there."""


@dataclass(frozen=True, slots=True)
class Call:
    """A function and its arguments."""

    name: str
    arguments: Mapping[str, Any]

    @property
    def wire(self) -> tuple[str, str]:
        """(function, arguments as JSON text), as an answer has it."""
        return self.name, json.dumps(self.arguments, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Calls:
    """The check that an answer makes these calls, in any order, and no other.

    `schemas` are the parameters of every function that was offered. Arguments are compared value by
    value: without regard to case, to the order of a list, to how an instant is written, and to
    whether a default is spelt out. The score is the share of what was asked for (each function,
    each value) that is there, a call or value too many counted as one that is missing.
    """

    expected: tuple[Call, ...]
    schemas: Mapping[str, Mapping[str, Any]]
    forced: bool = False  # an answer without a call breaks the form

    def __call__(self, said: Said) -> Judged:  # noqa: D102
        if not said.calls:
            judgement = invalid if self.forced else wrong
            return judgement("answered without calling a function", 0.0)
        given = [self._read(name, text) for name, text in said.calls[:MOST]]
        right, parts, missed = self._compared([leaves for leaves, _ in given])
        parts += len(said.calls) - len(given)
        score = right / parts
        broken = [problem for _, found in given for problem in found]
        if broken:
            return invalid(broken[0], min(score, 1 - 1 / (parts + 1)))
        if right == parts:
            return Judged(passed=True, score=1.0)
        return wrong(missed, score)

    def _read(self, name: str, text: str) -> tuple[Leaves, list[str]]:
        """The leaves of a call, its name among them, and what is wrong with its form."""
        schema = self.schemas.get(name)
        if schema is None:
            return {}, [f"no such function: {name[:60]!r}"]
        try:
            arguments = json.loads(text or "{}")  # some send nothing where nothing is needed
        except (ValueError, RecursionError):
            return {"": name}, [f"{name}: the arguments are not JSON"]
        found = [f"{name}: {problem}" for problem in problems(arguments, schema)]
        try:
            # Of arguments in the wrong form, what is of the right one still counts.
            return _flat(name, arguments if isinstance(arguments, dict) else {}, schema), found
        except RecursionError:
            return {"": name}, found

    def _compared(self, given: list[Leaves]) -> tuple[int, int, str]:
        """(right, parts, the first thing that differs) under the best match of the calls."""
        wanted = [
            _flat(call.name, call.arguments, self.schemas[call.name]) for call in self.expected
        ]
        short = len(wanted) - len(given)
        given = given + [{}] * short
        best = max(
            permutations(range(len(given)), len(wanted)),
            key=lambda order: sum(
                _agreeing(want, given[at]) for want, at in zip(wanted, order, strict=True)
            ),
        )
        right, parts, missed = 0, 0, list[str]()
        for want, at in zip(wanted, best, strict=True):
            right += _agreeing(want, given[at])
            parts += len(want.keys() | given[at].keys())
            missed += _differences(want, given[at])
        for at in set(range(len(given))) - set(best):
            parts += 1
            missed.append(f"one call too many: {given[at].get('', 'no such function')}")
        return right, parts, missed[0] if missed else ""


def _agreeing(want: Leaves, given: Leaves) -> int:
    if want[""] != given.get(""):
        return 0
    return sum(_same(value, given.get(place)) for place, value in want.items() if place in given)


def _differences(want: Leaves, given: Leaves) -> Iterator[str]:
    if want[""] != given.get(""):
        yield f"{want['']} was not called"
        return
    for place in sorted(want.keys() | given.keys()):
        if place not in given:
            yield f"{want['']}: {place} is missing"
        elif place not in want:
            yield f"{want['']}: {place[:60]} was not asked for"
        elif not _same(want[place], given[place]):
            yield f"{want['']}: {place} is not what was asked for"


def _same(one: Any, other: Any) -> bool:
    """Equal, and true is not 1."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _flat(name: str, arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> Leaves:
    return {"": name, **dict(_leaves(arguments, schema, ""))}


def _leaves(value: Any, schema: Mapping[str, Any], at: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        known = schema.get("properties", {})
        unsaid = {n: one["default"] for n, one in known.items() if "default" in one}
        for name, inner in {**unsaid, **value}.items():
            yield from _leaves(inner, known.get(name, {}), f"{at}.{name}" if at else name)
    elif isinstance(value, list):
        rows = [dict(_leaves(one, schema.get("items", {}), "")) for one in value]
        for index, row in enumerate(sorted(rows, key=lambda row: repr(sorted(row.items())))):
            for place, inner in row.items():
                yield f"{at}[{index}]{'.' if place else ''}{place}", inner
    else:
        yield at, _plain(value)


def _plain(value: Any) -> Any:
    """A value as it is compared."""
    if not isinstance(value, str):
        return value
    text = " ".join(unicodedata.normalize("NFKC", value).split()).casefold()
    if _INSTANT.fullmatch(text):
        try:
            return datetime.fromisoformat(text.upper()).astimezone(UTC).isoformat()
        except (ValueError, OverflowError):
            return text
    return text


@dataclass(frozen=True, slots=True)
class Says:
    """The check that an answer says one of these, and calls no function."""

    accepted: Sequence[str]

    def __call__(self, said: Said) -> Judged:  # noqa: D102
        if said.calls:
            return wrong(f"calls {said.calls[0][0][:60]} where no call is due")
        text = _GROUPS.sub("", said.text.casefold())
        for one in self.accepted:
            if re.search(rf"(?<!\w)(?<!\d[.-]){re.escape(one.casefold())}(?!\w|[.-]\d)", text):
                return Judged(passed=True)
        return wrong(f"does not say {self.accepted[0]}")
