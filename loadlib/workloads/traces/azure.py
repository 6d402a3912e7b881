"""Azure's LLM inference traces: `TIMESTAMP,ContextTokens,GeneratedTokens`, UTC without a zone."""

from __future__ import annotations

import re
from datetime import UTC, datetime

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

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")

_TIME = re.compile(
    rb"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?\s*(Z|[+-]\d\d:?\d\d)?", re.ASCII
)


def _reader(first: bytes) -> Reader | None:
    table, clock = Table(first), _Clock()
    if not all(name in table for name in COLUMNS):
        return None
    when, prompt, output = table.places(*COLUMNS)

    def parse(line: bytes) -> Row:
        cells = table.cells(line)
        return Row(
            at_ns=clock.ns(cells[when]),
            prompt=whole(cells[prompt], COLUMNS[1]),
            output=whole(cells[output], COLUMNS[2]),
        )

    return Reader(parse)


class _Clock:
    """Text → ns since 1970, the calendar looked at once a second."""

    def __init__(self) -> None:
        self._text: tuple[bytes, bytes] | None = None
        self._seconds = 0

    def ns(self, cell: bytes) -> int:
        match = _TIME.fullmatch(cell)
        if match is None:
            raise InvalidError(f"{COLUMNS[0]}: expected a time such as 2023-11-16 18:17:03.9799600")
        text = match[1], match[3] or b"Z"
        if text != self._text:
            try:
                moment = datetime.fromisoformat((text[0] + text[1]).decode())
                self._seconds = round(moment.astimezone(UTC).timestamp())
            except (ValueError, OverflowError):
                raise InvalidError(f"{COLUMNS[0]}: no such day or time of day") from None
            self._text = text
        whole_ns = instant_ns(self._seconds, NS, COLUMNS[0], "a year before 2262")
        return whole_ns + int((match[2] or b"0").ljust(9, b"0"))


AZURE = Format("Azure", f"the header {','.join(COLUMNS)}", _reader, header=True)
