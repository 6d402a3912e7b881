"""Run folders from elsewhere: a colleague's, a CI artefact, one off the internet.

`report` and `compare` read whatever folder they are given, so nothing in one is believed before it
was looked at: what is opened, how large it is, how deep, and whether a number can be one. What is
refused is a `DataError` that names the file. The limits are far above what a run writes, and each
says what it is for.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from loadlib import scenario_yaml
from loadlib.errors import DataError, ScenarioError

MAX_JSON_BYTES = 2**28  # summary.json of 2,000 groups is a twentieth of it
MAX_SERIES_BYTES = 2**30  # timeseries.csv of 60 groups for a week is half of it
MAX_DEPTH = 50  # of summary.json; ours is 8 deep, a scenario at most 40
MAX_VALUES = 5_000_000  # of it: what a page could never show
MAX_NUMBER = 10**18  # of anything that is counted, and of nanoseconds since 1970
MAX_GROUPS = 2_000  # (model, workload, phase): each has histograms of its own, and rows of pages
MAX_RUN_S = 31 * 86_400  # a second is a place in an array, so a run has so many at most
MAX_GROUP_SECONDS = 50_000_000  # … times its groups


@contextmanager
def opened(folder: Path, name: str) -> Iterator[BinaryIO]:
    """A file of a run folder, for as long as the block lasts.

    A link that leads out of the folder would put a stranger's choice of our files on a page that
    is then handed round; a pipe or a device would never end. Raises DataError for those, OSError
    where the file cannot be opened.
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(
            "is a link that leads out of the run folder: it is not followed (cp -rL makes a copy"
            " without links)",
            file=str(path),
        )
    # Not to wait for the other end of a pipe before it is known to be one.
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise DataError("is not a file", file=str(path))
    with os.fdopen(fd, "rb") as file:
        yield file


def read(folder: Path, name: str, most: int = MAX_JSON_BYTES) -> bytes:
    """The whole of a file. Raises DataError beyond `most` bytes, else as `opened`."""
    with opened(folder, name) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise DataError(f"is larger than {most:,} bytes", file=str(folder / name))
    return data


def json_object(data: bytes) -> dict[str, Any]:
    """JSON whose numbers can be numbers and whose depth nobody falls into.

    Raises MsgspecError for what is no object.
    """
    try:
        found = msgspec.json.decode(data, type=dict[str, Any])
    except RecursionError:
        raise msgspec.DecodeError("nested too deeply") from None
    layer: list[Any] = [found]
    values = depth = 0
    while layer:
        depth, values = depth + 1, values + len(layer)
        if depth > MAX_DEPTH or values > MAX_VALUES:
            raise msgspec.DecodeError(
                "nested too deeply" if depth > MAX_DEPTH else "holds too many values"
            )
        layer = [inner for outer in layer for inner in _inside(outer)]
    return found


def _inside(value: object) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value
    elif isinstance(value, int | float) and not (
        abs(value) <= MAX_NUMBER if isinstance(value, int) else math.isfinite(value)
    ):
        raise msgspec.DecodeError("a number that is none of ours")


def yaml_object(data: bytes, file: str) -> dict[str, Any]:
    """A scenario as plain data, unchecked but for what any YAML is checked for.

    Empty where it is no mapping. Raises DataError.
    """
    try:
        found = scenario_yaml.read(data.decode(), file).data
    except UnicodeDecodeError:
        raise DataError("is not UTF-8", file=file) from None
    except ScenarioError as error:
        raise DataError(str(error)) from None
    return found if isinstance(found, dict) else {}


def check_extent(groups: int, first_s: float, last_s: float, file: str) -> None:
    """Raises DataError where a record of so many groups from second to second cannot be one."""
    span_s = last_s - first_s
    if groups > MAX_GROUPS:
        raise DataError(f"has more than {MAX_GROUPS:,} models, workloads and phases", file=file)
    if not 0 <= span_s <= MAX_RUN_S or groups * span_s > MAX_GROUP_SECONDS:
        raise DataError(f"spans {span_s:,.0f} seconds: that is no run", file=file)
