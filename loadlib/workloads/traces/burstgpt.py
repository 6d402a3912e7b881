"""BurstGPT: seconds since the first day, and a row also for each request that failed.

v1  Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
v2  … with `Session ID` and `Elapsed time`, which nothing here needs

A request that failed has 0 response tokens.
"""

from __future__ import annotations

import re

from loadlib.workloads.traces.row import (
    NS,
    Format,
    InvalidError,
    Reader,
    Row,
    Table,
    instant_ns,
    whole,
)

COLUMNS = ("Timestamp", "Request tokens", "Response tokens")
LABELS = {"model": "Model", "log_type": "Log Type"}

_SECONDS = re.compile(rb"[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]{1,2})?")
_MAX_DIGITS = 40


def _reader(first: bytes) -> Reader | None:
    table = Table(first)
    if not all(name in table for name in COLUMNS):
        return None
    when, prompt, output = table.places(*COLUMNS)
    known = {label: name for label, name in LABELS.items() if name in table}
    labels = table.places(*known.values())

    def parse(line: bytes) -> Row:
        cells = table.cells(line)
        answer = whole(cells[output], COLUMNS[2])
        return Row(
            at_ns=_instant(cells[when]),
            prompt=whole(cells[prompt], COLUMNS[1]),
            output=answer,
            labels=[cells[place].decode("utf-8", "replace") for place in labels],
            failed=answer == 0,
        )

    return Reader(parse, tuple(known))


def _instant(cell: bytes) -> int:
    if len(cell) > _MAX_DIGITS or not _SECONDS.fullmatch(cell):
        raise InvalidError(f"{COLUMNS[0]}: expected seconds, 0 or more")
    return instant_ns(float(cell), NS, COLUMNS[0], "seconds, 0 or more")


BURSTGPT = Format(
    "BurstGPT",
    "the header Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
    _reader,
    header=True,
)
