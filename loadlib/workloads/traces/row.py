"""One request of a trace, and what formats share in reading one from a line."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

MAX_TOKENS = 100_000_000
NS = 10**9

T = TypeVar("T")


class InvalidError(Exception):
    """What is wrong with one line; no text of the file is in it."""


class Row(msgspec.Struct, gc=False, kw_only=True):
    """One recorded request."""

    at_ns: int = 0
    """From any origin; 0 in a format without timestamps."""
    prompt: int | None = None
    """Tokens; None: nobody knows. In a format with bodies these say what is sent."""
    output: int | None = None
    """Tokens of the answer, or its cap; None: nobody knows, or no cap was asked for."""
    blocks: Sequence[int] = ()
    """Ids of its blocks of BLOCK_TOKENS tokens; equal ids: equal text."""
    body: bytes = b""
    labels: Sequence[str] = ()
    """In the order of the reader's."""
    failed: bool = False
    """It had no answer, or none whose length was recorded: left out and counted."""


class Reader(NamedTuple):
    """How the lines of one file are read."""

    parse: Callable[[bytes], Row]
    """Raises InvalidError."""
    labels: tuple[str, ...] = ()
    """What `only` may choose by."""


class Format(NamedTuple):
    """A kind of trace file."""

    name: str
    example: str
    """What its first line looks like, for people."""
    open: Callable[[bytes], Reader | None]
    """First line → how to read the file; None: it is none of this kind."""
    header: bool = False
    """Whether the first line is no request."""
    timed: bool = True
    bodies: bool = False
    blocks: bool = False


# -- CSV -------------------------------------------------------------------------------------------


class Table:
    """The columns of a CSV file, by their names in any order; others are ignored."""

    def __init__(self, header: bytes) -> None:
        """A first line that is no CSV, as of another format, has no columns."""
        try:
            cells = _split(header)
        except InvalidError:
            cells = []
        self._names = [name.decode("latin-1").lower() for name in cells]

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._names

    def places(self, *names: str) -> tuple[int, ...]:
        """Where they stand. ValueError unless all are there."""
        return tuple(self._names.index(name.lower()) for name in names)

    def cells(self, line: bytes) -> list[bytes]:
        """The cells of a line. Raises InvalidError unless there are as many as in the header."""
        cells = _split(line)
        if len(cells) != len(self._names):
            raise InvalidError(
                f"{len(cells)} columns: expected {len(self._names)} as in the header"
            )
        return cells


def _split(line: bytes) -> list[bytes]:
    if b'"' not in line:
        return [cell.strip() for cell in line.split(b",")]
    try:
        cells = next(csv.reader([line.decode("latin-1")], skipinitialspace=True))
    except csv.Error:
        raise InvalidError("not CSV: expected cells between commas") from None
    return [cell.strip().encode("latin-1") for cell in cells]


def whole(cell: bytes, what: str) -> int:
    """A cell of tokens. Raises InvalidError."""
    if not (cell.isdigit() and len(cell) <= 12):
        raise InvalidError(f"{what}: expected a whole number of tokens, 0 or more")
    return tokens(int(cell), what)


def tokens(value: int, what: str) -> int:
    """`value`, if it can be a number of tokens; else InvalidError."""
    if not 0 <= value <= MAX_TOKENS:
        raise InvalidError(f"{what}: expected 0 to {MAX_TOKENS:,} tokens")
    return value


# -- JSON ------------------------------------------------------------------------------------------

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def keys(first: bytes) -> Mapping[str, Any]:
    """The object on a file's first line; empty where there is none."""
    try:
        found = msgspec.json.decode(first)
    except UNREADABLE:
        return {}
    return found if isinstance(found, dict) else {}


def decoded(decoder: msgspec.json.Decoder[T], line: bytes) -> T:
    """The object on a line. Raises InvalidError."""
    try:
        return decoder.decode(line)
    except msgspec.ValidationError as error:
        raise InvalidError(f"not as expected: {error}") from None
    except UNREADABLE:
        raise InvalidError("not JSON: expected an object on a line of its own") from None


def instant_ns(value: float, unit_ns: int, what: str, unit: str) -> int:
    """An instant of `value` units. Raises InvalidError beyond what 64 bits hold."""
    if not abs(value) <= 9e18 / unit_ns:  # nor is it, of what is no number
        raise InvalidError(f"{what}: expected {unit}")
    return round(value * unit_ns)
