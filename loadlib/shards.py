"""What a process of a run reports, as bytes: on the wire, and in the shard file on its own disk.

A report is a dict; packed it is a *frame*: its length and its CRC-32 (4 bytes each, big-endian),
then msgpack. A shard file is a line that says what it is and the frames its process sent: what the
run is (`begin`), about a second of measurements each (`interval`), its last word (`end`).

reports/<run>/shards/<worker>.shard
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from loadlib.errors import DataError
from loadlib.folder import SHARDS, Appender
from loadlib.foreign import opened

SUFFIX = ".shard"
MAGIC = b"loadlib shard 1\n"
MAX_FRAME = 256 << 20  # a length beyond it is damage: a second of measurements is some 100 KB
MAX_WAITING = 64 << 20  # bytes that a full disk may keep in memory
_HEAD = struct.Struct(">II")


def pack(report: Mapping[str, Any]) -> bytes:
    """One frame."""
    body = msgspec.msgpack.encode(report)
    return _HEAD.pack(len(body), zlib.crc32(body)) + body


def checksum(frame: bytes) -> int:
    """The CRC-32 that a frame carries."""
    return int(_HEAD.unpack_from(frame)[1])


def unpack(frame: bytes) -> dict[str, Any]:
    """The report of a frame. Raises ValueError for a damaged one."""
    if len(frame) < _HEAD.size:
        raise ValueError("too short for a frame")
    length, crc = _HEAD.unpack_from(frame)
    body = memoryview(frame)[_HEAD.size :]
    if len(body) != length or zlib.crc32(body) != crc:
        raise ValueError("damaged on its way")
    try:
        return msgspec.msgpack.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"not a report: {error}") from None


def path_of(folder: Path, source: str) -> Path:
    """Where a process's shard lies in a run folder; its name is reduced to harmless letters."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", source).strip(".-")[:120] or "worker"
    return folder / SHARDS / f"{name}{SUFFIX}"


class ShardWriter:
    """Appends frames. A disk that refuses them stops nothing: they wait in memory, are tried
    again with the next one, and beyond `MAX_WAITING` the file is given up. `problem` says what."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem: str | None = None
        self._file: Appender | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = Appender(path)
            self._file.put(MAGIC)
            self._file.flush()
        except OSError as error:
            self._refused(error)

    def append(self, frame: bytes) -> None:
        """Add one frame. Never raises for a disk."""
        if self._file is None:
            return
        self._file.put(frame)
        try:
            self._file.flush()
            self.problem = None
        except OSError as error:
            self._refused(error)
            if self._file.pending > MAX_WAITING:
                self.close()

    def _refused(self, error: OSError) -> None:
        self.problem = f"cannot write {self.path.name}: {error.strerror or error}"

    @property
    def whole(self) -> bool:
        """Whether everything is in the file."""
        return self._file is not None and not self._file.pending

    def close(self) -> None:
        """Close the file; what it still refuses is lost to it."""
        if self._file is not None:
            self._file.close()
            if self._file.pending:
                self._file = None


def find(folder: Path) -> list[Path]:
    """The shard files in a run folder, or in the folder itself, by name."""
    places = (folder / SHARDS, folder)
    return next((found for place in places if (found := sorted(place.glob(f"*{SUFFIX}")))), [])


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The reports of a shard file; a torn end and a damaged frame are passed over.

    Raises DataError for a file that is no shard, OSError if it cannot be read.
    """
    with opened(path.parent, path.name) as file:
        head = file.read(len(MAGIC))
        if head != MAGIC and (len(head) == len(MAGIC) or not MAGIC.startswith(head)):
            raise DataError("not a shard file", file=str(path))
        yield from _reports(file)


def _reports(file: BinaryIO) -> Iterator[dict[str, Any]]:
    while len(head := file.read(_HEAD.size)) == _HEAD.size:
        length = _HEAD.unpack(head)[0]
        if length > MAX_FRAME:
            return
        try:
            yield unpack(head + file.read(length))
        except ValueError:
            continue  # its number is missing, and counted as such
