"""What a workload hands to the client: messages and limits, not yet bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Message = Mapping[str, Any]
"""A chat message in the wire's own form: `{"role": …, "content": …}`."""

Check = Callable[[str], bool]
"""Answer text → whether it is what was asked for."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request to be made of one model.

    `tokens` is the whole prompt as billed (chat template included), counted locally; `exact`
    says whether that count is the provider's own tokenizer or an estimate.
    """

    model: str
    workload: str
    messages: Sequence[Message]
    max_tokens: int
    tokens: int | None = None
    exact: bool = False
    asked_tokens: int | None = None
    cut_tokens: int | None = None
    check: Check | None = None
    name: str | None = None  # what Locust's own tables call it; default: "<model>/<workload>"
    extra_body: Mapping[str, Any] = field(default_factory=dict)
