"""Data files of users: opened and unpacked, and what is wrong with one said in our words."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from loadlib.errors import DataError


@contextmanager
def opened(path: Path | str) -> Iterator[BinaryIO]:
    """The bytes of a file, gzipped or not, for as long as the block lasts.

    Raises DataError (naming the file) where it cannot be opened or, later, be read or unpacked.
    """
    name = str(path)
    try:
        with Path(path).open("rb") as raw:
            packed = raw.peek(2)[:2] == b"\x1f\x8b"
            yield cast("BinaryIO", gzip.GzipFile(fileobj=raw)) if packed else raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError("the gzip data is damaged or ends early", file=name) from error
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", file=name) from error
