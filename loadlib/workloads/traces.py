"""Trace files: when requests came in production, and how long their prompts and answers were.

    format     one request                                                    a file is known by
    Azure      2023-11-16 18:17:03.9799600,4808,10                            its header
    Mooncake   {"timestamp": 3000, "input_length": 6758, "output_length": 500, …}    its first line

Azure's `TIMESTAMP,ContextTokens,GeneratedTokens` are UTC where no zone is given; Mooncake's
timestamps are milliseconds (its `hash_ids` are not used). Any of them may be gzipped. A file is
read line by line and kept as 16 bytes a request. A broken line is a `DataError` with its number,
or is left out and counted with `skip_invalid`. Files come from anywhere: lines, numbers and sizes
are bounded, and no text of a file is repeated in a message.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from loadlib.errors import DataError
from loadlib.rates import Instants
from loadlib.workloads.files import opened

MAX_REQUESTS = 10_000_000
MAX_LINE_BYTES = 2**20
MAX_FILE_BYTES = 2**32  # after unpacking
MAX_TOKENS = 100_000_000
MAX_SPAN_NS = 366 * 86_400 * 10**9

_NS = 10**9
_BOM = b"\xef\xbb\xbf"

Lengths = NDArray[np.int32]
Row = tuple[int, int, int]
"""(instant in ns from any origin, prompt tokens, output tokens)."""


class _InvalidError(Exception):
    """What is wrong with one line."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """The requests of a trace in order of time, the first at 0 ns; lengths in tokens."""

    instants: Instants
    prompts: Lengths
    outputs: Lengths
    invalid: int
    """Broken lines that were left out."""
    moved: int
    """Requests that stood later in the file than one that came after them."""


def load(path: Path | str, *, skip_invalid: bool = False) -> Recorded:
    """Read a trace of any known format.

    Raises DataError (with file and line) for a file that cannot be read or is of no known format,
    for the first broken line unless `skip_invalid`, and when no request remains.
    """
    name = str(path)
    with opened(path) as file:
        return _collect(_lines(file, name), name, skip_invalid)


def _lines(file: BinaryIO, name: str) -> Iterator[tuple[int, bytes]]:
    """Numbered lines without their ends, blank ones left out."""
    number = total = 0
    while raw := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        total += len(raw)
        if len(raw) > MAX_LINE_BYTES:
            raise DataError(
                f"a line of more than {MAX_LINE_BYTES >> 20} MiB", file=name, line=number
            )
        if total > MAX_FILE_BYTES:
            raise DataError(f"larger than {MAX_FILE_BYTES >> 30} GiB unpacked: cut it", file=name)
        line = (raw.removeprefix(_BOM) if number == 1 else raw).strip()
        if line:
            yield number, line


def _collect(lines: Iterator[tuple[int, bytes]], name: str, skip_invalid: bool) -> Recorded:
    first = next(lines, None)
    if first is None:
        raise DataError("is empty: no request in it", file=name)
    parse, is_header = _known(first[1], name, first[0])
    instants, prompts, outputs = array("q"), array("i"), array("i")
    invalid = 0
    for number, line in lines if is_header else chain([first], lines):
        try:
            instant, prompt, output = parse(line)
            if instants and abs(instant - instants[0]) > MAX_SPAN_NS:
                raise _InvalidError("a timestamp more than a year from the first one")
        except _InvalidError as error:
            if not skip_invalid:
                raise DataError(str(error), file=name, line=number) from error
            invalid += 1
            continue
        if len(instants) == MAX_REQUESTS:
            raise DataError(f"more than {MAX_REQUESTS:,} requests: cut it", file=name, line=number)
        instants.append(instant)
        prompts.append(prompt)
        outputs.append(output)
    if not instants:
        left_out = f" ({invalid} broken lines left out)" if invalid else ""
        raise DataError(f"no request in it{left_out}", file=name)
    return _ordered(
        np.frombuffer(instants, np.int64),
        np.frombuffer(prompts, np.int32),
        np.frombuffer(outputs, np.int32),
        invalid,
    )


def _ordered(instants: Instants, prompts: Lengths, outputs: Lengths, invalid: int) -> Recorded:
    """By time; requests of the same instant stay in the order of the file."""
    moved = int(np.count_nonzero(instants < np.maximum.accumulate(instants)))
    if moved:
        order = np.argsort(instants, kind="stable")
        instants, prompts, outputs = instants[order], prompts[order], outputs[order]
    return Recorded(instants - instants[0], prompts, outputs, invalid, moved)


# -- formats ---------------------------------------------------------------------------------------

Parse = Callable[[bytes], Row]
"""A line → its request. Raises _InvalidError."""


def _known(first: bytes, name: str, line: int) -> tuple[Parse, bool]:
    """How to read the lines of a file that starts with `first`, and whether that is a header."""
    for is_header, recognise in FORMATS:
        if (parse := recognise(first)) is not None:
            return parse, is_header
    raise DataError(
        f"not a known trace: expected the header {','.join(AZURE)}, or lines such as "
        '{"timestamp": 0, "input_length": 6758, "output_length": 500}',
        file=name,
        line=line,
    )


AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")

_TIME = re.compile(
    rb"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?\s*(Z|[+-]\d\d:?\d\d)?", re.ASCII
)


def _azure(first: bytes) -> Parse | None:
    """Columns by their names, in any order, others ignored."""
    header = [cell.strip().strip(b'"').decode("latin-1").lower() for cell in first.split(b",")]
    if not all(column.lower() in header for column in AZURE):
        return None
    when, prompt, output = (header.index(column.lower()) for column in AZURE)
    width = len(header)
    clock = _Clock()

    def parse(line: bytes) -> Row:
        cells = line.split(b",")
        if len(cells) != width:
            raise _InvalidError(f"{len(cells)} columns: expected {width} as in the header")
        return (
            clock.ns(cells[when]),
            _whole(cells[prompt], AZURE[1]),
            _whole(cells[output], AZURE[2]),
        )

    return parse


class _Clock:
    """Text → ns since 1970, the calendar looked at once a second."""

    def __init__(self) -> None:
        self._text: tuple[bytes, bytes] | None = None
        self._seconds = 0

    def ns(self, cell: bytes) -> int:
        match = _TIME.fullmatch(cell.strip().strip(b'"'))
        if match is None:
            raise _InvalidError(f"{AZURE[0]}: expected a time such as 2023-11-16 18:17:03.9799600")
        text = match[1], match[3] or b"Z"
        if text != self._text:
            try:
                moment = datetime.fromisoformat((text[0] + text[1]).decode())
                self._seconds = round(moment.astimezone(UTC).timestamp())
            except (ValueError, OverflowError):
                raise _InvalidError(f"{AZURE[0]}: no such day or time of day") from None
            self._text = text
        return self._seconds * _NS + int((match[2] or b"0").ljust(9, b"0"))


def _whole(cell: bytes, what: str) -> int:
    text = cell.strip().strip(b'"')
    if not (text.isdigit() and len(text) <= 12):
        raise _InvalidError(f"{what}: expected a whole number of tokens, 0 or more")
    return _tokens(int(text), what)


def _tokens(value: int, what: str) -> int:
    if not 0 <= value <= MAX_TOKENS:
        raise _InvalidError(f"{what}: expected 0 to {MAX_TOKENS:,} tokens")
    return value


class _Mooncake(msgspec.Struct):
    timestamp: int | float
    input_length: int
    output_length: int


_mooncake_decoder = msgspec.json.Decoder(_Mooncake)


def _mooncake(first: bytes) -> Parse | None:
    try:
        keys = msgspec.json.decode(first)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    known = isinstance(keys, dict) and keys.keys() >= set(_Mooncake.__struct_fields__)
    return _mooncake_row if known else None


def _mooncake_row(line: bytes) -> Row:
    try:
        row = _mooncake_decoder.decode(line)
    except msgspec.ValidationError as error:
        raise _InvalidError(f"not as expected: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _InvalidError("not JSON: expected an object on a line of its own") from None
    if abs(row.timestamp) > 10**14:
        raise _InvalidError("timestamp: expected milliseconds")
    return (
        round(row.timestamp * 1_000_000),
        _tokens(row.input_length, "input_length"),
        _tokens(row.output_length, "output_length"),
    )


FORMATS: tuple[tuple[bool, Callable[[bytes], Parse | None]], ...] = (
    (True, _azure),
    (False, _mooncake),
)
"""(whether the first line is a header, first line → how to read the lines; None: not this one)."""
