"""`timeseries.csv`: counters of every second and group. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from loadlib.errors import DataError
from loadlib.foreign import check_extent
from loadlib.recorder import SECOND_FIELDS, Key

COLUMNS = (
    *("second", "phase", "model", "workload"),
    *("scheduled", "sent", "ended", "ok", "failed", "in_flight", "output_tokens", "input_tokens"),
    "reserved_tokens",
)
"""Columns: second is Unix epoch seconds, in_flight is at its end."""

_NAMES = ("phase", "model", "workload")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")
_DIGITS = 20


def rows(seconds: Mapping[tuple[int, Key], Sequence[int]]) -> list[dict[str, Any]]:
    """Per-second counters as rows of `COLUMNS`, by group and time; quiet seconds are left out."""
    found, flying = [], dict[Key, int]()
    for second, key in sorted(seconds, key=lambda place: (place[1], place[0])):
        row = dict(zip(SECOND_FIELDS, seconds[second, key], strict=True))
        flying[key] = flying.get(key, 0) + row["sent"] - row["ended"]
        model, workload, phase = key
        where = {"second": second, "phase": phase, "model": model, "workload": workload}
        whole = {**where, **row, "in_flight": flying[key]}
        found.append({column: whole[column] for column in COLUMNS})
    return found


def write(found: Iterable[Mapping[str, Any]]) -> bytes:
    """Rows as a file. Spreadsheets run a cell that begins like a formula: before such a name, and
    before one that begins with it, stands an apostrophe."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows({**row, **{name: _cell(row[name]) for name in _NAMES}} for row in found)
    return text.getvalue().encode()


def read(data: bytes, file: str) -> list[dict[str, Any]]:
    """The rows of a file. Raises DataError for what is none, or spans what no run does."""
    try:
        found = list(map(_row, csv.DictReader(io.StringIO(data.decode(), newline=""))))
    except (ValueError, TypeError, KeyError, csv.Error):  # not UTF-8 is a ValueError, too
        raise DataError("is not a time series of loadlib's", file=file) from None
    if found:
        seconds = [row["second"] for row in found]
        groups = {tuple(row[name] for name in _NAMES) for row in found}
        check_extent(len(groups), min(seconds), max(seconds), file)
    return found


def _row(cells: Mapping[str, str]) -> dict[str, Any]:
    """Raises ValueError, TypeError or KeyError for what is no row."""
    row: dict[str, Any] = {}
    for name in COLUMNS:
        if name in _NAMES:
            row[name] = _plain(cells[name])
        elif name in cells:  # a column that older versions had not
            row[name] = int(cells[name][:_DIGITS])
    if "second" not in row:
        raise KeyError("second")
    return row


def _cell(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


def _plain(cell: str) -> str:
    return cell.removeprefix("'")
