"""`server.csv`: one line per scrape and server, written while load runs. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from loadlib.server_metrics import SERIES

COLUMNS = ("server", "before_ns", "after_ns", "kind", *SERIES, "error")
"""Of server.csv. Empty is unknown. Counters are as the server tells them: since its start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrape:
    """One look at a server's metrics; `error` says why it told nothing.

    `before_ns` and `after_ns` are Unix epoch: the request was about to be sent, the whole answer
    was there. `values` are of `SERIES`, as far as they are known.
    """

    server: str
    before_ns: int
    after_ns: int
    kind: str | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None

    @property
    def at_ns(self) -> int:
        """The instant it is taken for: the middle, which is off by half its duration at most."""
        return (self.before_ns + self.after_ns) // 2


def header() -> bytes:
    """The first line."""
    return _line(COLUMNS)


def line(scrape: Scrape) -> bytes:
    """One scrape; its texts must be printable."""
    values = (_text(scrape.values.get(series)) for series in SERIES)
    stamps = (scrape.before_ns, scrape.after_ns)
    return _line((scrape.server, *stamps, scrape.kind or "", *values, scrape.error or ""))


def parse(lines: Iterable[str]) -> Iterator[Scrape]:
    """Every scrape of a file that begins with its header. A last line without an end was not
    written to its end, and is left out.

    Raises:
        ValueError: a line that is none of ours, by its number.
    """
    table = csv.DictReader(whole for whole in lines if whole.endswith("\n"))
    for row in table:
        try:
            yield Scrape(
                server=row["server"],
                before_ns=int(row["before_ns"]),
                after_ns=int(row["after_ns"]),
                kind=row["kind"] or None,
                values={name: float(text) for name in SERIES if (text := row.get(name))},
                error=row["error"] or None,
            )
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"line {table.line_num} is damaged") from None


def _line(cells: Iterable[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()


def _text(value: float | None) -> str:
    if value is None:
        return ""
    return str(int(value)) if value == int(value) else repr(value)
