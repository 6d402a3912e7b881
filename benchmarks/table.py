"""Rows of the benchmark, and how they are shown: as text, as JSON, in docs/measurement.md."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
HEAD = ("", "measured", "unit", "bar", "met", "floor client", "× floor", "")
STEPS = ((1000, "{:,.0f}"), (100, "{:.0f}"), (10, "{:.1f}"), (1, "{:.2f}"), (0, "{:.3f}"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure. `value` None is unknown, and meets no bar.

    Errors have a sign (client − truth) and are judged by their size; `relative` says that a ratio
    to the floor client means something.
    """

    bar: str  # the name for --only
    what: str
    unit: str
    value: float | None
    limit: float | None = None
    at_least: bool = False  # the limit is a floor and not a ceiling
    range: tuple[float, float] | None = None  # of the repetitions, where there were several
    floor: float | None = None
    relative: bool = False
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; None of a row without one."""
        if self.limit is None:
            return None
        if self.value is None:
            return False
        return self.value >= self.limit if self.at_least else abs(self.value) <= self.limit

    @property
    def ratio(self) -> float | None:
        """Measured / floor client, of the same invocation."""
        if not self.relative or self.value is None or not self.floor:
            return None
        return self.value / self.floor

    def cells(self) -> tuple[str, ...]:
        """The row as text, in the order of HEAD."""
        value = number(self.value)
        if self.range is not None:
            value += f" ({number(self.range[0])} … {number(self.range[1])})"
        sign = "≥" if self.at_least else "≤"
        return (
            self.what,
            value,
            self.unit,
            "" if self.limit is None else f"{sign} {number(self.limit)}",
            {True: "yes", False: "NO", None: ""}[self.met],
            "" if self.floor is None else number(self.floor),
            "" if self.ratio is None else number(self.ratio),
            self.note,
        )

    @classmethod
    def of_json(cls, saved: dict[str, Any]) -> Row:
        """A row as `as_json` wrote it."""
        fields = {name: saved[name] for name in cls.__slots__}
        return cls(**fields | {"range": fields["range"] and tuple(fields["range"])})

    def as_json(self) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in self.__slots__}
        return {**fields, "met": self.met, "ratio": self.ratio}


def number(value: float | None) -> str:
    """Three digits or a little more, never an exponent; ? is unknown."""
    if value is None:
        return "?"
    form = next(form for least, form in STEPS if abs(value) >= least)
    text = form.format(value).replace("-", "−")
    return text.rstrip("0").rstrip(".") if "." in text else text


def as_text(rows: Sequence[Row]) -> str:
    """Aligned columns for a terminal."""
    lines = [HEAD, *(row.cells() for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    padded = ("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)


def as_markdown(rows: Sequence[Row], about: Sequence[str]) -> str:
    """A table with what it was measured on above it."""
    lines = [*about, "", _line(HEAD), _line(["---"] * len(HEAD))]
    return "\n".join([*lines, *(_line(row.cells()) for row in rows)])


def of_results(known: dict[str, dict[str, Any]]) -> str:
    """The table of the page, from saved rows by bar; above it which were measured on what."""
    bars: dict[str, list[str]] = {}
    for bar, result in known.items():
        bars.setdefault(result["about"], []).append(f"`{bar}`")
    about = [f"* {', '.join(names)}: {where}" for where, names in bars.items()]
    rows = [Row.of_json(row) for result in known.values() for row in result["rows"]]
    return as_markdown(rows, about)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def about(command: str) -> list[str]:
    """The machine and the command as two lines."""
    facts = machine()
    where = f"{facts['date']}, {facts['cpu']}, {facts['cores']} cores, {facts['kernel']}"
    return [f"{where}, Python {facts['python']}:", f"`{command}`"]


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def insert(page: str, table: str) -> str:
    """The page with `table` between its markers. ValueError where they are not."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} … {END}")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"
