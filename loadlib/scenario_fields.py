"""How single values of a scenario are read, checked, written back and described to editors.

Each annotated type turns what people write (`10s`, `8k`, `5/s`) into a number in the unit of its
name, and serialises it to the same text. A Python caller may pass the number itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from loadlib import scenario_lengths, units
from loadlib.lengths import Length
from loadlib.rates import Rate, S, refusal
from loadlib.scenario_lengths import COUNT_SCHEMA, TIME_SCHEMA
from loadlib.schedule import SHAPES

FROM_YAML = {"yaml": True}
"""Validation context of text: there a bare number has no unit and is refused."""


def _typed(value: object, info: ValidationInfo) -> bool:
    """Whether `value` is already in the unit of the field (a Python caller, not a file)."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and not (info.context or {}).get("yaml")


def _duration(value: object, info: ValidationInfo) -> object:
    return value if _typed(value, info) else units.duration_ns(value)


def _seconds(value: object, info: ValidationInfo) -> object:
    return value if _typed(value, info) else units.duration_ns(value) / S


def _rate(value: object, info: ValidationInfo) -> Rate:
    if isinstance(value, dict):
        raise ValueError("should be a rate such as 5/s, or points [[0s, 2/s], [60s, 20/s]]")
    if isinstance(value, (list, tuple)):
        points = tuple(_point(item, at, info) for at, item in enumerate(value))
        if (wrong := refusal(points)) is not None:
            raise broken(wrong[0], *([wrong[1]] if points else []))
        return points
    if not _typed(value, info):
        return units.rate_per_s(value)
    assert isinstance(value, (int, float))
    if not 0 < value <= 1e6:
        raise ValueError("a rate is more than 0 and at most 1,000,000/s")
    return value


def _point(item: object, at: int, info: ValidationInfo) -> tuple[int, float]:
    """One point of a rate; what is wrong with it stands at its own place."""
    if not isinstance(item, (list, tuple)) or len(item) != 2:
        raise broken("a point is a time and a rate, such as [60s, 20/s]", at)
    instant, rate = item
    if _typed(instant, info) and _typed(rate, info):
        return instant, rate
    try:
        return units.duration_ns(instant), units.rate_per_s(rate, or_zero=True)
    except ValueError as error:
        raise broken(f"{error} (a point is a time and a rate, such as [60s, 20/s])", at) from None


def _rate_text(rate: Rate) -> str | list[list[str]]:
    if isinstance(rate, (int, float)):
        return units.format_rate(rate)
    return [[units.format_duration(at), units.format_rate(value)] for at, value in rate]


def _depths(value: object) -> object:
    many: Sequence[Any] = value if isinstance(value, (list, tuple)) else [value]
    try:
        depths = tuple(units.share(item) for item in many)
    except ValueError:
        depths = ()
    if not depths:
        raise ValueError(
            "should be a share of the document from 0 to 1 (0.25 or 25 %), or a list of them"
        )
    return depths


def as_tuple(value: object) -> object:
    """A YAML list as the tuple it is kept as; anything else unchanged, to be refused later."""
    return tuple(value) if isinstance(value, list) else value


def tuple_of(value: object) -> object:
    """One value or a list of them, as the tuple it is kept as."""
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def scalar_or_list(values: Sequence[Any]) -> Any:
    """As people write it: one value, or a list to go round."""
    return values[0] if len(values) == 1 else list(values)


def _tidy(value: float) -> float | int:
    """`90`, not `90.0`: as people write it. Nobody writes 1e300 with 300 zeros, nor is it read."""
    return int(value) if value < 1e15 and value == int(value) else value


def check_name(value: str) -> str:
    """`value`, if it can name a model, a workload or a phase; else `ValueError`."""
    if not value.strip() or value != value.strip():
        raise ValueError("a name is not empty and neither begins nor ends with a space")
    if len(value) > 200 or not value.isprintable():
        raise ValueError("a name has at most 200 printable characters")
    return value


def _env_name(value: str) -> str:
    """An environment variable's name, and not its content pasted by mistake."""
    random = len(value) >= 20 and "_" not in value and any(c.isdigit() for c in value)
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,99}", value) or random:
        raise ValueError(
            "should be the name of an environment variable, such as LOCAL_API_KEY "
            "(the key itself does not belong in a scenario)"
        )
    return value


def _api_version(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,39}", value):
        raise ValueError("should be a version such as 2024-10-21")
    return value


_OWN_HEADERS = frozenset(
    ("authorization", "api-key", "content-length", "content-type", "host", "transfer-encoding")
)


def _header(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", value):
        raise ValueError("should be the name of a header, such as X-Session-ID")
    if value.lower() in _OWN_HEADERS:
        raise ValueError(f"{value} is set by loadlib itself")
    return value


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or re.search(r"\s", value) or not value.isprintable():
        raise ValueError("should be a URL such as http://127.0.0.1:8080/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("should be a URL without user, password, query or fragment")
    return value.rstrip("/")


_RATE_SCHEMA: dict[str, Any] = {
    "type": "string",
    "pattern": r"^\s*[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?\s*/\s*(s|sec|m|min|h)\s*$",
    "examples": ["5/s", "300/m"],
}
_POINTS_SCHEMA: dict[str, Any] = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "array",
        "prefixItems": [TIME_SCHEMA, _RATE_SCHEMA],
        "minItems": 2,
        "maxItems": 2,
    },
    "examples": [[["0s", "2/s"], ["60s", "20/s"]]],
}
SHARE_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "number", "minimum": 0, "maximum": 1},
        {"type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*%\s*$"},
    ],
    "examples": [0.5, "25 %"],
}


def one_or_many(schema: dict[str, Any]) -> dict[str, Any]:
    """The JSON Schema of one value or a list of them."""
    return {"anyOf": [schema, {"type": "array", "minItems": 1, "items": schema}]}


Name = Annotated[str, AfterValidator(check_name)]
Names = Annotated[tuple[Name, ...], BeforeValidator(as_tuple), Field(min_length=1)]
Count = Annotated[int, BeforeValidator(units.count), Field(ge=1), WithJsonSchema(COUNT_SCHEMA)]
Counts = Annotated[
    Length,
    PlainValidator(scenario_lengths.read),
    PlainSerializer(scenario_lengths.write),
    WithJsonSchema(scenario_lengths.SCHEMA),
]
Pauses = Annotated[
    Length,
    PlainValidator(scenario_lengths.read_pause),
    PlainSerializer(scenario_lengths.write_pause),
    WithJsonSchema(scenario_lengths.PAUSE_SCHEMA),
]
Share = Annotated[
    float,
    BeforeValidator(units.share),
    Field(ge=0, le=1),
    PlainSerializer(_tidy),
    WithJsonSchema(SHARE_SCHEMA),
]
Depths = Annotated[
    tuple[float, ...],
    BeforeValidator(_depths),
    PlainSerializer(scalar_or_list),
    WithJsonSchema(one_or_many(SHARE_SCHEMA)),
]
Duration = Annotated[
    int,
    BeforeValidator(_duration),
    Field(gt=0),
    PlainSerializer(units.format_duration),
    WithJsonSchema(TIME_SCHEMA),
]
Instant = Annotated[
    int,
    BeforeValidator(_duration),
    Field(ge=0),
    PlainSerializer(units.format_duration),
    WithJsonSchema(TIME_SCHEMA),
]
Seconds = Annotated[
    float,
    BeforeValidator(_seconds),
    Field(gt=0),
    PlainSerializer(lambda value: units.format_duration(round(value * S))),
    WithJsonSchema(TIME_SCHEMA),
]
RateOrPoints = Annotated[
    Rate,
    PlainValidator(_rate),
    PlainSerializer(_rate_text),
    WithJsonSchema({"anyOf": [_RATE_SCHEMA, _POINTS_SCHEMA]}),
]
Shape = Annotated[float, Field(ge=SHAPES[0], le=SHAPES[1]), PlainSerializer(_tidy)]
Speed = Annotated[float, Field(gt=0, le=1e6), PlainSerializer(_tidy)]
ApiVersion = Annotated[str, AfterValidator(_api_version)]
EnvName = Annotated[str, AfterValidator(_env_name)]
HeaderName = Annotated[str, AfterValidator(_header)]
Url = Annotated[str, AfterValidator(_url)]
Weight = Annotated[float, Field(ge=0), PlainSerializer(_tidy)]
Usd = Annotated[float, Field(ge=0), PlainSerializer(_tidy)]


def broken(message: str, *path: str | int) -> PydanticCustomError:
    """An error that stands at `path` below the model that raises it."""
    return PydanticCustomError("scenario", "{message}", {"message": message, "path": path})


class Spec(BaseModel):
    """Shared rules: nothing unknown, nothing coerced, nothing changed afterwards."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        validate_by_name=True,
        validate_by_alias=True,
    )
