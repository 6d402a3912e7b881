"""Files of a run folder: named, written all or not at all, appended to by whole chunks, hashed."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

MANIFEST = "manifest.json"
LATEST = "latest"
SHARDS = "shards"  # what workers keep for themselves
_TEMPORARY = ".loadlib-"


def why_not(root: Path) -> str | None:
    """Why no folder can be made in `root`, which is made itself where it is not there; or None."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=root)).rmdir()
    except OSError as error:
        return error.strerror or str(error)
    return None


class Appender:
    """A file that grows by whole chunks or not at all; refused chunks wait their turn.

    Not buffered: what was flushed survives `kill -9`. The file is made by the first flush.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None
        self._size = 0  # bytes known to be whole
        self._chunks: list[bytes] = []

    @property
    def pending(self) -> int:
        """Bytes that wait."""
        return sum(map(len, self._chunks))

    @property
    def waiting(self) -> bytes:
        """The chunks that wait."""
        return b"".join(self._chunks)

    def put(self, data: bytes) -> None:
        """Queue one chunk."""
        self._chunks.append(data)

    def flush(self) -> None:
        """Write what waits. Raises OSError, with every chunk either in the file or waiting."""
        while self._chunks:
            self._write(self._chunks[0])
            self._size += len(self._chunks.pop(0))

    def _write(self, data: bytes) -> None:
        if self._fd is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
            self._fd = os.open(self._path, flags, 0o666)
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            os.ftruncate(self._fd, self._size)  # no torn member in the middle of a file
            raise

    def close(self) -> None:
        """Close the file; a later flush would open it again."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def write_atomically(path: Path, data: bytes) -> None:
    """Write through a temporary file in the same folder: all of it or nothing. Raises OSError."""
    temporary = path.parent / f"{_TEMPORARY}{secrets.token_hex(6)}"
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def cache_home() -> Path:
    """`$XDG_CACHE_HOME/loadlib`, by default in `~/.cache`. Raises RuntimeError where nobody has
    a home."""
    # The XDG specification: a path that is not absolute is to be ignored.
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (home if home.is_absolute() else Path("~/.cache").expanduser()) / "loadlib"


def encode_json(value: Any) -> bytes:
    """Indented JSON with a newline at its end."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def folder_name(name: str, now: datetime) -> str:
    """`<utc>-<name>-<shortid>`: the name reduced to letters, digits, `.`, `_` and `-`."""
    clean = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:60] or "run"
    return f"{now:%Y%m%dT%H%M%SZ}-{clean}-{secrets.token_hex(3)}"


def new_folder(root: Path, name: str, now: datetime) -> Path:
    """Make a folder in `root` that did not exist before. Raises OSError."""
    root.mkdir(parents=True, exist_ok=True)
    while True:
        folder = root / folder_name(name, now)
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder


def point_latest(folder: Path) -> None:
    """Let `latest` point to the folder, where links exist and nobody else uses the name."""
    link = folder.parent / LATEST
    temporary = folder.parent / f"{_TEMPORARY}{folder.name}"
    if link.exists() and not link.is_symlink():
        return
    try:
        temporary.symlink_to(folder.name, target_is_directory=True)
        temporary.replace(link)
    except OSError:
        temporary.unlink(missing_ok=True)


def hash_files(folder: Path) -> dict[str, dict[str, Any]]:
    """{relative path: {sha256, bytes}} of every file of the folder but the manifest and shards,
    which are their workers' to write.

    Links are none: what they lead to is not of this run.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        ours = name != MANIFEST and not name.startswith((f"{SHARDS}/", _TEMPORARY))
        if ours and path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            found[name] = {"sha256": digest, "bytes": path.stat().st_size}
    return found
