"""Text for pages: numbers (re-exported from `charts.numerals`) and strings from outside."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Any

from loadlib.charts.numerals import (
    UNKNOWN,
    count,
    duration,
    interval,
    ms,
    number,
    rps,
    share,
    sum_ms,
    times,
    tok_s,
    tokens,
    usd,
    value,
)
from loadlib.charts.parts import isolated
from loadlib.redact import redact

NAME_LIMIT = 80  # characters of a model, workload or run name
TEXT_LIMIT = 300  # characters of a message


def name(text: object) -> str:
    """A name from a scenario: one line, no controls, no keys, not long."""
    return isolated(redact(str(text), limit=NAME_LIMIT))


def line(text: object, limit: int = TEXT_LIMIT) -> str:
    """A message from elsewhere: one line, no controls, no keys, not long."""
    return redact(str(text)[: 20 * limit], limit=limit)


def instant(iso: str) -> str:
    """`2026-01-01 00:00:00 UTC` from an ISO 8601 instant; the text itself if it is none."""
    try:
        moment = dt.datetime.fromisoformat(iso)
    except ValueError:
        return line(iso)
    if moment.tzinfo is not None:
        moment = moment.astimezone(dt.UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def check_name(machine: str) -> str:
    """`arrival_lag_p99_ms` → `arrival lag p99`."""
    words = machine.removesuffix("_ms").removesuffix("_share").removesuffix("_us")
    return name(words.replace("_", " "))


def check_value(machine: str, amount: float | None) -> str:
    """The value or limit of a health check in the unit its name ends with."""
    if machine.endswith("_ms"):
        return ms(amount)
    if "share" in machine:
        return share(amount)
    return number(amount)


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """`{"git": {"commit": "9d0"}}` → `("git.commit", "9d0")`, as text fit for a page."""
    for key, item in tree.items():
        path = f"{prefix}{key}"
        if isinstance(item, Mapping):
            yield from flat(item, f"{path}.")
        elif isinstance(item, (list, tuple)):
            yield name(path), line(", ".join(str(part) for part in item))
        elif item is not None:
            yield name(path), line(item)


__all__ = [
    "UNKNOWN",
    "check_name",
    "check_value",
    "count",
    "duration",
    "flat",
    "instant",
    "interval",
    "line",
    "ms",
    "name",
    "number",
    "rps",
    "share",
    "sum_ms",
    "times",
    "tok_s",
    "tokens",
    "usd",
    "value",
]
