"""How lengths and pauses are written in a scenario: read, checked, written back, described.

64 · 8k · [8k, 32k]                          numbers, to go round
{uniform: [100, 2k]}
{lognormal: {p50: 500, p99: 8k}}
{table: azure-conv}                          published quantiles, by name
{table: {p50: 1020, p90: 2734, p99: 4142}}   your own; min and max where they are known

Pauses are the same with durations: 2s · {lognormal: {p50: 40s, p99: 5m}}.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from pydantic import ValidationInfo

from loadlib import units
from loadlib.errors import nearest
from loadlib.lengths import TABLES, Distribution, Length, LogNormal, Table, Uniform, refusal

COUNT_TEXT = r"^\s*[0-9]+(\.[0-9]+)?\s*(Ki|Mi|k|K|M)?\s*$"
COUNT_SCHEMA: dict[str, Any] = {
    "anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": COUNT_TEXT}],
    "examples": ["8k", "16Ki", 64],
}

TIME_SCHEMA: dict[str, Any] = {
    "type": "string",
    "pattern": r"^\s*([0-9]+(\.[0-9]+)?\s*(ns|us|µs|ms|s|m|min|h)\s*)+$",
    "examples": ["10s", "800ms", "2m"],
}

MAX_PAUSE_NS = 86_400 * 10**9
MAX_TOKENS = 20_000_000  # of a prompt or an answer: twice the largest window, 80 MB in memory

_SIDES = {"prompt_tokens": 0, "output_tokens": 1}
_QUANTILE = re.compile(r"p(\d{1,2}(?:[._]\d{1,4})?)")
_ENDS = {"min": 0.0, "max": 1.0}


One = Callable[[object], int]
"""How a single length or pause is read. Raises ValueError."""


def read(value: object, info: ValidationInfo) -> Length:
    """What stands at `prompt_tokens` or `output_tokens`, checked. Raises ValueError."""
    return _any(value, _count, _SIDES.get(info.field_name or ""))


def read_pause(value: object, info: ValidationInfo) -> Length:
    """What stands at `think_time`, in ns, checked. Raises ValueError."""
    from_file = bool((info.context or {}).get("yaml"))
    return _any(value, lambda one: _pause(one, from_file), None)


def _any(value: object, one: One, side: int | None) -> Length:
    if isinstance(value, Distribution):
        return value
    if isinstance(value, dict):
        return _distribution(value, one, side)
    many = value if isinstance(value, (list, tuple)) else [value]
    if not many:
        raise ValueError("should not be an empty list")
    return tuple(one(item) for item in many)


def _count(value: object) -> int:
    count = units.count(value)
    if count == 0:
        raise ValueError("should be 1 or more")
    if count > MAX_TOKENS:
        raise ValueError(f"should be at most {MAX_TOKENS:,} tokens")
    return count


def _pause(value: object, from_file: bool) -> int:
    # a Python caller gives ns
    pause_ns = value if isinstance(value, int) and not from_file else units.duration_ns(value)
    if not 0 < pause_ns <= MAX_PAUSE_NS:
        raise ValueError("should be more than 0 and at most a day")
    return pause_ns


def _distribution(value: dict[Any, Any], one: One, side: int | None) -> Distribution:
    kinds: dict[str, Callable[[object], Distribution]] = {
        "uniform": lambda given: _uniform(given, one),
        "lognormal": lambda given: _lognormal(given, one),
        "table": lambda given: _table(given, one, side),
    }
    if len(value) != 1 or (kind := str(next(iter(value)))) not in kinds:
        guess = next((hint for key in value if (hint := nearest(str(key), kinds))), "")
        raise ValueError(
            "should be a number, a list of numbers, or one of {uniform: …}, {lognormal: …}, "
            f"{{table: …}}{guess}"
        )
    try:
        return kinds[kind](value[kind])
    except ValueError as error:
        raise ValueError(f"{kind}: {error}") from None


def _uniform(given: object, one: One) -> Distribution:
    if not isinstance(given, (list, tuple)) or len(given) != 2:
        raise ValueError("should be the lowest and the highest, such as [100, 2k]")
    low, high = map(one, given)
    if low > high:
        raise ValueError(f"the lowest comes first, not {given[0]} before {given[1]}")
    return Uniform(low, high)


def _lognormal(given: object, one: One) -> Distribution:
    if not isinstance(given, dict) or set(given) != {"p50", "p99"}:
        raise ValueError("should be {p50: …, p99: …}")
    p50, p99 = one(given["p50"]), one(given["p99"])
    if p99 < p50:
        raise ValueError(f"p99 {given['p99']} is below p50 {given['p50']}")
    return LogNormal(p50, p99)


def _table(given: object, one: One, side: int | None) -> Distribution:
    if isinstance(given, str):
        if given not in TABLES or side is None:
            raise ValueError(
                f"{given[:40]!r} is not one of {', '.join(TABLES)}{nearest(given[:40], TABLES)}"
            )
        return TABLES[given][side]
    if not isinstance(given, dict):
        raise ValueError(f"should be one of {', '.join(TABLES)}, or quantiles {{p50: …, p99: …}}")
    points = sorted((_share(key), one(value)) for key, value in given.items())
    if len({share for share, _ in points}) < len(points):
        raise ValueError("names a quantile twice")
    if wrong := refusal(points):
        raise ValueError(wrong)
    return Table(tuple(points))


def _share(key: object) -> float:
    """`p99.9` (or `p99_9`) → 0.999."""
    if key in _ENDS:
        return _ENDS[str(key)]
    match = _QUANTILE.fullmatch(str(key))
    share = float(Decimal(match[1].replace("_", ".")) / 100) if match else 0.0
    if not 0 < share < 1:
        raise ValueError(f"{str(key)[:40]!r} is not a quantile: write p50, p99.9, min or max")
    return share


def write(lengths: Length) -> Any:
    """As it is written in a file: `read` makes the same of it."""
    return _written(lengths, int)


def write_pause(pauses: Length) -> Any:
    """As it is written in a file: `read_pause` makes the same of it."""
    return _written(pauses, units.format_duration)


def _written(lengths: Length, one: Callable[[int], Any]) -> Any:
    match lengths:
        case Uniform(low, high):
            return {"uniform": [one(low), one(high)]}
        case LogNormal(p50, p99):
            return {"lognormal": {"p50": one(p50), "p99": one(p99)}}
        case Table(points, None):
            return {"table": {_key(share): one(value) for share, value in points}}
        case Table(_, name):
            return {"table": name}
    return one(lengths[0]) if len(lengths) == 1 else [one(value) for value in lengths]


def _key(share: float) -> str:
    ends = {share: key for key, share in _ENDS.items()}
    return ends.get(share) or f"p{format((Decimal(str(share)) * 100).normalize(), 'f')}"


def say(lengths: Length) -> str:
    """In a sentence: `table azure-conv`, `uniform [100, 2000]`."""
    if isinstance(lengths, tuple):
        return ", ".join(f"{one:,}" for one in lengths)
    ((kind, given),) = write(lengths).items()
    inner = (
        ", ".join(f"{key}: {n}" for key, n in given.items()) if isinstance(given, Mapping) else ""
    )
    return f"{kind} {{{inner}}}" if inner else f"{kind} {given}"


def _only(key: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {key: schema},
        "required": [key],
        "additionalProperties": False,
    }


def _schema(one: dict[str, Any], *tables: dict[str, Any]) -> dict[str, Any]:
    p50_p99 = {
        "type": "object",
        "properties": {"p50": one, "p99": one},
        "required": ["p50", "p99"],
        "additionalProperties": False,
    }
    quantiles = {
        "type": "object",
        "patternProperties": {r"^(min|max|p[0-9]{1,2}([._][0-9]{1,4})?)$": one},
        "additionalProperties": False,
        "minProperties": 2,
    }
    return {
        "anyOf": [
            one,
            {"type": "array", "minItems": 1, "items": one},
            _only("uniform", {"type": "array", "items": one, "minItems": 2, "maxItems": 2}),
            _only("lognormal", p50_p99),
            _only("table", {"anyOf": [*tables, quantiles]}),
        ]
    }


SCHEMA = _schema(COUNT_SCHEMA, {"enum": list(TABLES)})
"""JSON Schema of `prompt_tokens` and `output_tokens`."""

PAUSE_SCHEMA = _schema(TIME_SCHEMA)
"""JSON Schema of `think_time`."""
