"""How a length is written in a scenario: read, checked, written back, described to editors.

64 · 8k · [8k, 32k]                          numbers, to go round
{uniform: [100, 2k]}
{lognormal: {p50: 500, p99: 8k}}
{table: azure-conv}                          published quantiles, by name
{table: {p50: 1020, p90: 2734, p99: 4142}}   your own; min and max where they are known
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

_SIDES = {"prompt_tokens": 0, "output_tokens": 1}
_QUANTILE = re.compile(r"p(\d{1,2}(?:[._]\d{1,4})?)")
_ENDS = {"min": 0.0, "max": 1.0}


def read(value: object, info: ValidationInfo) -> Length:
    """What stands at `prompt_tokens` or `output_tokens`, checked. Raises ValueError."""
    if isinstance(value, Distribution):
        return value
    if isinstance(value, dict):
        return _distribution(value, _SIDES.get(info.field_name or ""))
    many = value if isinstance(value, (list, tuple)) else [value]
    if not many:
        raise ValueError("should not be an empty list")
    return tuple(_count(item) for item in many)


def _count(value: object) -> int:
    count = units.count(value)
    if count == 0:
        raise ValueError("should be 1 or more")
    return count


def _distribution(value: dict[Any, Any], side: int | None) -> Distribution:
    kinds: dict[str, Callable[[object], Distribution]] = {
        "uniform": _uniform,
        "lognormal": _lognormal,
        "table": lambda given: _table(given, side),
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


def _uniform(given: object) -> Distribution:
    if not isinstance(given, (list, tuple)) or len(given) != 2:
        raise ValueError("should be the lowest and the highest, such as [100, 2k]")
    low, high = map(_count, given)
    if low > high:
        raise ValueError(f"the lowest comes first, not {low:,} before {high:,}")
    return Uniform(low, high)


def _lognormal(given: object) -> Distribution:
    if not isinstance(given, dict) or set(given) != {"p50", "p99"}:
        raise ValueError("should be {p50: …, p99: …}")
    p50, p99 = _count(given["p50"]), _count(given["p99"])
    if p99 < p50:
        raise ValueError(f"p99 {p99:,} is below p50 {p50:,}")
    return LogNormal(p50, p99)


def _table(given: object, side: int | None) -> Distribution:
    if isinstance(given, str):
        if given not in TABLES or side is None:
            raise ValueError(
                f"{given[:40]!r} is not one of {', '.join(TABLES)}{nearest(given[:40], TABLES)}"
            )
        return TABLES[given][side]
    if not isinstance(given, dict):
        raise ValueError(f"should be one of {', '.join(TABLES)}, or quantiles {{p50: …, p99: …}}")
    points = sorted((_share(key), _count(tokens)) for key, tokens in given.items())
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
    match lengths:
        case Uniform(low, high):
            return {"uniform": [low, high]}
        case LogNormal(p50, p99):
            return {"lognormal": {"p50": p50, "p99": p99}}
        case Table(points, None):
            return {"table": {_key(share): tokens for share, tokens in points}}
        case Table(_, name):
            return {"table": name}
    return lengths[0] if len(lengths) == 1 else list(lengths)


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


SCHEMA: dict[str, Any] = {
    "anyOf": [
        COUNT_SCHEMA,
        {"type": "array", "minItems": 1, "items": COUNT_SCHEMA},
        _only("uniform", {"type": "array", "items": COUNT_SCHEMA, "minItems": 2, "maxItems": 2}),
        _only(
            "lognormal",
            {
                "type": "object",
                "properties": {"p50": COUNT_SCHEMA, "p99": COUNT_SCHEMA},
                "required": ["p50", "p99"],
                "additionalProperties": False,
            },
        ),
        _only(
            "table",
            {
                "anyOf": [
                    {"enum": list(TABLES)},
                    {
                        "type": "object",
                        "patternProperties": {
                            r"^(min|max|p[0-9]{1,2}([._][0-9]{1,4})?)$": COUNT_SCHEMA
                        },
                        "additionalProperties": False,
                        "minProperties": 2,
                    },
                ]
            },
        ),
    ]
}
"""JSON Schema of `prompt_tokens` and `output_tokens`."""
