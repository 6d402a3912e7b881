"""The lines of a data file from anywhere: bounded in number, in length and in all."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from loadlib.errors import DataError

MAX_LINE_BYTES = 2**23
MAX_FILE_BYTES = 2**32  # after unpacking
MAX_LINES = 10_000_000

_BOM = b"\xef\xbb\xbf"


class Lines:
    """Numbered lines without their ends, blank ones left out.

    `lenient`: gzip data that ends early, as after `kill -9`, ends the file (`torn`) and is no
    error. Raises DataError beyond the bounds.
    """

    def __init__(self, file: BinaryIO, name: str, *, lenient: bool) -> None:
        self._file, self._name, self._lenient = file, name, lenient
        self.torn = False

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        number = total = 0
        while raw := self._read():
            number += 1
            total += len(raw)
            if len(raw) > MAX_LINE_BYTES:
                raise self._too(number, f"a line of more than {MAX_LINE_BYTES:,} bytes")
            if number > MAX_LINES:
                raise self._too(number, f"more than {MAX_LINES:,} lines: cut it")
            if total > MAX_FILE_BYTES:
                raise self._too(None, f"larger than {MAX_FILE_BYTES >> 30} GiB unpacked: cut it")
            line = (raw.removeprefix(_BOM) if number == 1 else raw).strip()
            if line:
                yield number, line

    def _read(self) -> bytes:
        try:
            return self._file.readline(MAX_LINE_BYTES + 1)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            if not self._lenient:
                raise
            self.torn = True
            return b""

    def _too(self, line: int | None, what: str) -> DataError:
        return DataError(what, file=self._name, line=line)
