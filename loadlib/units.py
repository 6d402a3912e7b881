"""Quantities as people write them (`150s`, `128k`, `5/s`, `1 %`) and the numbers they mean.

Every parser raises `ValueError` with a sentence that says what is wrong and what would be right;
the caller adds where it stands. The formatters are exact inverses: `parse(format(x)) == x`.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal

NS: dict[str, int] = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "min": 60_000_000_000,
    "h": 3_600_000_000_000,
}
"""Unit of time → nanoseconds."""

COUNT: dict[str, int] = {
    "": 1,
    "k": 1_000,
    "K": 1_000,
    "M": 1_000_000,
    "Ki": 1_024,
    "Mi": 1_048_576,
}
"""Suffix of a count → factor; `k` is 1,000 and `Ki` is 1,024."""

_PER: dict[str, float] = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}

_NUMBER = r"\d+(?:\.\d+)?"
_TIME_PART = re.compile(rf"({_NUMBER})\s*(ns|us|µs|ms|min|s|m|h)")
_DURATION = re.compile(rf"(?:{_NUMBER}\s*(?:ns|us|µs|ms|min|s|m|h)\s*)+")
_COUNT = re.compile(rf"({_NUMBER})\s*(Ki|Mi|k|K|M)?")
_RATE = re.compile(rf"({_NUMBER}(?:[eE][-+]?\d+)?)\s*/\s*(sec|s|min|m|h)")
_PERCENT = re.compile(rf"({_NUMBER})\s*%")
_MAX_NS = 366 * 24 * NS["h"]  # a year: what lies beyond is a typing error, not a load test
_MAX_COUNT = 10**15


def duration_ns(value: object) -> int:
    """`10s`, `1.5m`, `1m30s`, `800ms` → nanoseconds."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if value < 0:
            raise ValueError(f"a duration cannot be negative ({value})")
        raise ValueError(f"a duration needs a unit: write {value}s or {value}ms, not {value}")
    if not isinstance(value, str):
        raise ValueError("should be a duration with a unit, such as 10s")
    text = value.strip()
    if text.startswith("-"):
        raise ValueError(f"a duration cannot be negative ({text[:40]})")
    if re.fullmatch(_NUMBER, text):
        raise ValueError(f"a duration needs a unit: write {text}s or {text}ms, not {text}")
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not a duration: write 800ms, 10s, 2m or 1h")
    total = sum(Decimal(number) * NS[unit] for number, unit in _TIME_PART.findall(text))
    if total != int(total):
        raise ValueError(f"{text[:40]!r} is finer than a nanosecond")
    if total > _MAX_NS:
        raise ValueError(f"{text[:40]!r} is longer than a year")
    return int(total)


def format_duration(ns: int) -> str:
    """Nanoseconds → the shortest exact text, in the largest unit that divides them."""
    for unit in ("s", "ms", "us"):
        if ns % NS[unit] == 0:
            return f"{ns // NS[unit]}{unit}"
    return f"{ns}ns"


def count(value: object) -> int:
    """`128k`, `16Ki`, `2M`, `1.5k`, 64 → a whole number, 0 or more."""
    if isinstance(value, bool):
        raise ValueError("should be a number such as 64 or 8k")
    if isinstance(value, float):
        if not math.isfinite(value) or value != int(value):
            raise ValueError(f"should be a whole number, not {value}")
        value = int(value)
    if isinstance(value, int):
        return _checked_count(value)
    if not isinstance(value, str):
        raise ValueError("should be a number such as 64 or 8k")
    text = value.strip()
    match = _COUNT.fullmatch(text)
    if match is None:
        if re.fullmatch(r"-\s*" + _COUNT.pattern, text):
            raise ValueError(f"cannot be negative ({text[:40]})")
        raise ValueError(f"{text[:40]!r} is not a number: write 64, 8k (8,000) or 8Ki (8,192)")
    exact = Decimal(match[1]) * COUNT[match[2] or ""]
    if exact != int(exact):
        raise ValueError(f"{text[:40]!r} is not a whole number")
    return _checked_count(int(exact))


def _checked_count(value: int) -> int:
    if value < 0:
        raise ValueError(f"cannot be negative ({value})")
    if value > _MAX_COUNT:
        raise ValueError("is too large")
    return value


def rate_per_s(value: object, *, or_zero: bool = False) -> float:
    """`5/s`, `300/m`, `0.5 / s` → events per second, more than 0 (`or_zero`: or 0)."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if value < 0:
            raise ValueError(f"a rate cannot be negative ({value})")
        raise ValueError(f"a rate needs a unit: write {value}/s or {value}/m, not {value}")
    if not isinstance(value, str):
        raise ValueError("should be a rate with a unit, such as 5/s")
    text = value.strip()
    if text.startswith("-"):
        raise ValueError(f"a rate cannot be negative ({text[:40]})")
    match = _RATE.fullmatch(text)
    if match is None:
        if re.fullmatch(_NUMBER, text):
            raise ValueError(f"a rate needs a unit: write {text}/s or {text}/m, not {text}")
        raise ValueError(f"{text[:40]!r} is not a rate: write 5/s or 300/m")
    rate = float(match[1]) / _PER[match[2]]
    if not (0 < rate <= 1e6 or (or_zero and rate == 0)):
        raise ValueError(f"a rate is more than 0 and at most 1,000,000/s ({text[:40]})")
    return rate


def format_rate(per_s: float) -> str:
    """Events per second → text; exact, so that a round trip changes no arrival."""
    return f"{int(per_s)}/s" if per_s == int(per_s) else f"{per_s!r}/s"


def share(value: object) -> float:
    """`30 %`, `0.3` → 0.3: from nothing to the whole."""
    found: float | None = None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        found = float(value)
    elif isinstance(value, str) and (match := _PERCENT.fullmatch(value.strip())):
        found = float(Decimal(match[1]) / 100)
    if found is None or not 0 <= found <= 1:
        raise ValueError("should be a share such as 30 % or 0.3, from 0 to 1")
    return found


def format_share(value: float) -> str:
    """0.3 → `30 %`; exact."""
    return f"{format((Decimal(repr(value)) * 100).normalize(), 'f')} %"


def format_count(value: int) -> str:
    """128000 → `128k`, 1024 → `1Ki`, 1500 → `1500`; exact."""
    for unit in ("M", "Mi", "k", "Ki"):
        if value and value % COUNT[unit] == 0:
            return f"{value // COUNT[unit]}{unit}"
    return str(value)
