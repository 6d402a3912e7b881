"""`requests.jsonl.gz`: concatenated gzip members, the last one possibly torn."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

from loadlib.errors import DataError
from loadlib.foreign import opened
from loadlib.redact import redact
from loadlib.sample import Brief, Sample

Row = TypeVar("Row", Sample, Brief)

MAX_ROW_BYTES = 1 << 20  # a row is 600 bytes; its texts are cut at 200 characters
MAX_RATIO = 400  # of packing: rows that all say the same reach 80, nothing but a bomb 1,000
_CHUNK = 1 << 18
_PIECE = 1 << 15  # packed in about 0.1 ms
_LEVEL = 4  # of gzip: 2 µs a row, a fifth of its size


def pack(lines: bytes, pause: Callable[[], object] | None = None) -> bytes:
    """One gzip member, nothing for nothing; `pause` is called after each piece packed."""
    if not lines:
        return b""
    packer, packed = zlib.compressobj(_LEVEL, wbits=31), []
    for start in range(0, len(lines), _PIECE):
        packed.append(packer.compress(lines[start : start + _PIECE]))
        if pause is not None:
            pause()
    return b"".join((*packed, packer.flush()))


def read(path: Path) -> Iterator[Sample]:
    """The samples of a file in a run folder. A torn end (`kill -9`) is passed over.

    Raises `DataError` with file and line for a whole line that is no sample, and for what would
    fill the memory; OSError if the file cannot be read.
    """
    with opened(path.parent, path.name) as file:
        yield from _rows(file, str(path), Sample)


def read_brief(path: Path) -> Iterator[Brief]:
    """As `read`, only what a `Brief` holds: a third of the time."""
    with opened(path.parent, path.name) as file:
        yield from _rows(file, str(path), Brief)


def decode(data: bytes) -> Iterator[Sample]:
    """The samples of gzip members in memory; otherwise as `read`."""
    yield from _rows(io.BytesIO(data), "<memory>", Sample)


def _rows(file: BinaryIO, name: str, kind: type[Row]) -> Iterator[Row]:
    decoder, before = msgspec.json.Decoder(kind), 0
    for lines in _whole_lines(file, name):
        try:
            found = decoder.decode_lines(lines)
        except (msgspec.MsgspecError, RecursionError):
            raise _wrong_line(decoder, lines, name, before) from None
        before += len(found)
        yield from found


def _wrong_line(
    decoder: msgspec.json.Decoder[Row], lines: bytes, name: str, before: int
) -> DataError:
    """Which of the lines is no row, and why; `before` were read already."""
    for number, line in enumerate(lines.split(b"\n"), before + 1):
        try:
            decoder.decode(line)
        except (msgspec.MsgspecError, RecursionError) as error:
            return DataError(f"not a request row: {redact(str(error))}", file=name, line=number)
    raise AssertionError("all lines are rows")


def _whole_lines(file: BinaryIO, name: str) -> Iterator[bytes]:
    """Whole lines only: what stands behind the last newline was never finished."""
    rest = b""
    for text in _inflated(file, name):
        whole, newline, left = text.rpartition(b"\n")
        if newline:
            yield rest + whole + newline
            rest = left
        else:
            rest += left
        if len(rest) > MAX_ROW_BYTES:
            raise DataError(f"a row of more than {MAX_ROW_BYTES:,} bytes", file=name)


def _inflated(file: BinaryIO, name: str) -> Iterator[bytes]:
    """The decompressed bytes of all members, up to where the file ends or is damaged."""
    member, packed, plain = zlib.decompressobj(wbits=31), 0, 0
    while data := file.read(_CHUNK):
        packed += len(data)
        while data:
            try:
                text = member.decompress(data, _CHUNK)
            except zlib.error:
                return
            plain += len(text)
            if plain > MAX_RATIO * packed + _CHUNK:
                raise DataError(f"unpacks to more than {MAX_RATIO} times its size", file=name)
            yield text
            data = member.unconsumed_tail or member.unused_data
            if member.eof:
                member = zlib.decompressobj(wbits=31)
