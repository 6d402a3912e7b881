"""The settings of a workload that every kind has; a kind adds its own beside its code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from loadlib import lengths, scenario_lengths
from loadlib.scenario_fields import Counts, Names, Spec, Weight

OWN_BODY_KEYS = {
    "model": "models",
    "messages": "the workload",
    "stream": "always true",
    "stream_options": "usage is always asked for",
    "max_tokens": "output_tokens",
    "max_completion_tokens": "output_tokens",
}
"""What of a request body loadlib itself sets, and from what."""


class WorkloadSpec(Spec):
    """What to send, and in which proportion."""

    INSTEAD: ClassVar[dict[str, str]] = {}
    """Keys of other kinds that people expect here → why there is none."""

    kind: Any
    weight: Weight = Field(1, description="share of the requests, relative to the others")
    models: Names | None = Field(None, description="only these models; default: all")


class PromptSpec(WorkloadSpec):
    """A workload whose prompts loadlib makes itself."""

    system: str | None = Field(None, description="system message in front of every prompt")
    check: bool = Field(default=True, description="false: answers are not checked")
    extra_body: dict[str, Any] = Field({}, description="merged into the request body as it is")

    @field_validator("extra_body")
    @classmethod
    def _ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key in sorted(OWN_BODY_KEYS.keys() & value.keys()):
            raise ValueError(f"{key} is set by loadlib itself ({OWN_BODY_KEYS[key]})")
        return value


class CappedSpec(PromptSpec):
    """A workload that is told how long answers may be."""

    output_tokens: Counts = Field(
        (128,), description="cap: a number, a list to go round, or a distribution"
    )

    def distributions(self) -> Iterator[str]:
        """What the distributions among the lengths come to, a line each."""
        for key in ("prompt_tokens", "output_tokens"):
            given = getattr(self, key, None)
            if given is not None and not isinstance(given, tuple):
                marks = ", ".join(f"p{p} {given.at(p / 100):,}" for p in (50, 90, 99))
                yield (
                    f"{key} {scenario_lengths.say(given)}: mean {lengths.mean(given):,.0f}, "
                    f"{marks}, at most {lengths.most(given):,}"
                )


class SizedSpec(CappedSpec):
    """A workload that is told how long prompts are, too."""

    prompt_tokens: Counts | None = Field(
        None,
        description="whole prompt as billed: a number, a list to go round, or a distribution",
    )


class DataSpec(PromptSpec):
    """A workload that reads a file."""

    data: str | None = Field(
        None,
        min_length=1,
        description="conversations (chat) or a trace (replay); relative to the scenario file",
    )
    skip_invalid: bool = Field(default=False, description="skip broken lines of the data file")


class CustomSpec(WorkloadSpec):
    """`kind: custom`: a user class of this name in the locustfile says what to send."""

    kind: Literal["custom"]
