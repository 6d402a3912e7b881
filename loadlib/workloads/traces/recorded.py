"""What is kept of a trace: a few bytes a request, whatever the file held."""

from __future__ import annotations

import os
import tempfile
import weakref
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadlib.errors import DataError
from loadlib.rates import Instants
from loadlib.workloads.traces.row import Format, InvalidError, Row

MAX_BLOCKS = 200_000_000  # of all requests: 0.8 GB of ids

_HALF = 2**63
_FLUSH = 2**20

Lengths = NDArray[np.int32]
Indices = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Blocks:
    """Which blocks the prompt of a request is made of; ids of all requests in one row."""

    ids: NDArray[Any]  # int32, or int64 where an id is larger
    starts: NDArray[np.int64]
    counts: Lengths

    def of(self, row: int) -> list[int]:
        """The ids of a request, none where the trace has none of it."""
        start = int(self.starts[row])
        found: list[int] = self.ids[start : start + int(self.counts[row])].tolist()
        return found

    def take(self, rows: Indices) -> Blocks:
        """Those of some requests."""
        return Blocks(self.ids, self.starts[rows], self.counts[rows])


@dataclass(frozen=True, slots=True)
class Bodies:
    """Bodies of requests, as JSON in a file without a name."""

    file: _Nameless
    starts: NDArray[np.int64]
    sizes: Lengths

    def of(self, row: int) -> bytes:
        """The body of a request."""
        return self.file.read(int(self.starts[row]), int(self.sizes[row]))

    def take(self, rows: Indices) -> Bodies:
        """Those of some requests."""
        return Bodies(self.file, self.starts[rows], self.sizes[rows])


@dataclass(frozen=True, slots=True)
class Recorded:
    """The requests of a trace in order of time, the first at 0 ns; lengths in tokens, −1 unknown.

    A format without timestamps has its requests in the order of the file, all at 0.
    """

    format: Format
    instants: Instants
    prompts: Lengths
    outputs: Lengths
    blocks: Blocks | None
    bodies: Bodies | None
    invalid: int
    """Broken lines that were left out."""
    moved: int
    """Requests that stood later in the file than one that came after them."""
    failed: int
    """Requests without an answer, which were left out."""

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, rows: Indices, *, from_ns: int = 0) -> Recorded:
        """Some of the requests, instants counted `from_ns`."""
        return replace(
            self,
            instants=self.instants[rows] - from_ns,
            prompts=self.prompts[rows],
            outputs=self.outputs[rows],
            blocks=self.blocks and self.blocks.take(rows),
            bodies=self.bodies and self.bodies.take(rows),
        )


class Store:
    """Takes the rows of a file, one after the other."""

    def __init__(self, known: Format) -> None:
        self._format = known
        self._instants, self._prompts, self._outputs = array("q"), array("i"), array("i")
        self._starts, self._sizes = array("q"), array("i")
        self._ids = array("i")
        self._bodies = _Nameless() if known.bodies else None
        self.first_ns: int | None = None

    def __len__(self) -> int:
        return len(self._prompts)

    def add(self, row: Row) -> None:
        """Keep one request.

        Raises InvalidError for block ids that nobody can keep, DataError where a disk is full.
        """
        if self._format.blocks:
            self._add_ids(row.blocks)  # first: nothing else refuses
            self._starts.append(len(self._ids) - len(row.blocks))
            self._sizes.append(len(row.blocks))
        if self._bodies is not None:
            self._starts.append(self._bodies.size)
            self._sizes.append(len(row.body))
            self._bodies.write(row.body)
        self._instants.append(row.at_ns)
        self._prompts.append(-1 if row.prompt is None else row.prompt)
        self._outputs.append(-1 if row.output is None else row.output)

    def recorded(self, *, invalid: int, failed: int) -> Recorded:
        """Everything that was added, by time; what came at once in the order of the file."""
        instants, starts, sizes = map(_numbers, (self._instants, self._starts, self._sizes))
        blocks = bodies = None
        if self._format.blocks:
            blocks = Blocks(_numbers(self._ids), starts, sizes)
        if self._bodies is not None:
            self._bodies.flush()
            bodies = Bodies(self._bodies, starts, sizes)
        moved = int(np.count_nonzero(instants < np.maximum.accumulate(instants)))
        found = Recorded(
            format=self._format,
            instants=instants,
            prompts=_numbers(self._prompts),
            outputs=_numbers(self._outputs),
            blocks=blocks,
            bodies=bodies,
            invalid=invalid,
            moved=moved,
            failed=failed,
        )
        order = np.argsort(instants, kind="stable") if moved else slice(None)
        return found.take(order, from_ns=int(instants.min()))  # type: ignore[arg-type]

    def _add_ids(self, ids: Sequence[int]) -> None:
        if len(self._ids) + len(ids) > MAX_BLOCKS:
            raise InvalidError(f"hash_ids: more than {MAX_BLOCKS:,} in the whole file: cut it")
        try:
            self._ids.extend(array(self._ids.typecode, ids))
        except OverflowError:
            if not all(-_HALF <= one < 2 * _HALF for one in ids):
                raise InvalidError("hash_ids: expected numbers of at most 64 bits") from None
            self._ids = array("q", self._ids)
            self._ids.extend(one if one < _HALF else one - 2 * _HALF for one in ids)


def _numbers(column: array[int]) -> NDArray[Any]:
    """The same memory as an array of numpy."""
    kind = np.int32 if column.typecode == "i" else np.int64
    return np.frombuffer(column, kind) if column else np.zeros(0, kind)


class _Nameless:
    """A file that nobody else sees and that goes with this object. Read at any place, by any
    process that has forked since.

    Writing raises DataError where there is no room for it.
    """

    def __init__(self) -> None:
        try:
            with tempfile.TemporaryFile(prefix="loadlib-") as file:
                self._fd = os.dup(file.fileno())
        except OSError as error:
            raise _no_room(error) from error
        weakref.finalize(self, os.close, self._fd)
        self._waiting: list[bytes] = []
        self._waits = self.size = 0

    def write(self, data: bytes) -> None:
        self._waiting.append(data)
        self._waits += len(data)
        self.size += len(data)
        if self._waits > _FLUSH:
            self.flush()

    def flush(self) -> None:
        rest = memoryview(b"".join(self._waiting))
        self._waiting, self._waits = [], 0
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            raise _no_room(error) from error

    def read(self, start: int, size: int) -> bytes:
        return os.pread(self._fd, size, start)


def _no_room(error: OSError) -> DataError:
    where = f"the folder for temporary files, {tempfile.gettempdir()}"
    return DataError(f"no room for the bodies of the trace in {where}: {error.strerror or error}")
