"""How providers depart from the plain chat-completions request and its bill. Pure data.

A model of the scenario may say otherwise (`output_cap`, `stream_usage`). What differs in answers is
read in `chunk`, for all servers alike.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from loadlib.catalog import Model


@dataclass(frozen=True, slots=True)
class Quirk:
    """Of the models of a provider whose name on the wire matches."""

    models: re.Pattern[str]
    output_cap: str = "max_tokens"  # the body's field for it
    stream_usage: bool = True  # whether usage is asked for, where the answer streams
    hidden_reasoning: bool = False  # only `total_tokens` counts it


_PLAIN = Quirk(re.compile(""))
# OpenAI's reasoning models, and all since gpt-5, refuse `max_tokens`.
_OPENAI = Quirk(re.compile(r"o\d|gpt-([5-9]|\d\d)"), output_cap="max_completion_tokens")

QUIRKS: dict[str, Quirk] = {
    "openai": _OPENAI,
    "azure": _OPENAI,
    # Thoughts are billed as output and left out of completion_tokens.
    "google": Quirk(re.compile("gemini"), hidden_reasoning=True),
    # 422 for `stream_options`; usage comes in the last chunk by itself.
    "mistral": Quirk(re.compile(""), stream_usage=False),
}
"""By provider, as `genai-prices` and the catalogue name it."""


def quirk_of(model: Model, wire: str | None = None) -> Quirk:
    """The departures that apply to a model, or to `wire` at its endpoint."""
    found = QUIRKS.get(model.provider or "", _PLAIN)
    return found if found.models.match(wire or model.wire) else _PLAIN


def cap_field(model: Model, wire: str | None = None) -> str:
    """The body's field for the output cap."""
    return model.output_cap or quirk_of(model, wire).output_cap


def asks_for_usage(model: Model) -> bool:
    """Whether streams are asked for their token counts."""
    return quirk_of(model).stream_usage if model.stream_usage is None else model.stream_usage
