"""What a workload hands to the client: messages and limits, not yet bytes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loadlib.quality import Check, Said

Message = Mapping[str, Any]
"""A chat message in the wire's own form: `{"role": …, "content": …}`."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request to be made of one model.

    `tokens` is the whole prompt as billed (chat template included), counted locally; `exact`
    says whether that count is the provider's own tokenizer or an estimate. `counted` names what of
    `extra_body` (see `guard.BESIDE`) is in it.
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
    variant: str | None = None  # which sort of its workload's prompts: "zh-en", "depth 50 %"
    right: Said | None = None  # the right answer, where there is one: what a simulator shall say
    name: str | None = None  # what Locust's own tables call it; default: "<model>/<workload>"
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    counted: Collection[str] = ()
    headers: Mapping[str, str] = field(default_factory=dict)  # beside those of the SDK
    turn: int = 1  # of its conversation
    then: Then | None = None  # what follows in the conversation; None: nothing


@dataclass(frozen=True, slots=True)
class Next:
    """The next turn of a conversation, due `wait_ns` after the end of the answer before it."""

    prompt: Prompt
    wait_ns: int = 0


Then = Callable[[Said], Next | None]
"""The answer that was given → what follows; None where the conversation ends with it."""
