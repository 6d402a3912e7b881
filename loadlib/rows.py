"""`requests.jsonl.gz`: concatenated gzip members, the last one possibly torn."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from loadlib.errors import DataError
from loadlib.foreign import opened
from loadlib.redact import redact
from loadlib.sample import Sample

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
        yield from _samples(file, str(path))


def decode(data: bytes) -> Iterator[Sample]:
    """The samples of gzip members in memory; otherwise as `read`."""
    yield from _samples(io.BytesIO(data), "<memory>")


def _samples(file: BinaryIO, name: str) -> Iterator[Sample]:
    decoder = msgspec.json.Decoder(Sample)
    for number, line in enumerate(_lines(file, name), 1):
        try:
            yield decoder.decode(line)
        except (msgspec.MsgspecError, RecursionError) as error:
            why = redact(str(error))
            raise DataError(f"not a request row: {why}", file=name, line=number) from None


def _lines(file: BinaryIO, name: str) -> Iterator[bytes]:
    """Whole lines only: what stands behind the last newline was never finished."""
    rest = b""
    for text in _inflated(file, name):
        *whole, rest = (rest + text).split(b"\n")
        yield from whole
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
