"""The most that one attempt can cost: what the budget holds back before it is sent. Pure."""

from __future__ import annotations

import math

from loadlib.catalog import Model
from loadlib.guard import answers, beside_tokens, most_sent
from loadlib.prompt import Prompt

ESTIMATE_MARGIN = 1.5  # another tokenizer may make so many more tokens of the same text


def most_output(prompt: Prompt) -> int:
    """The most tokens that the answers to a prompt can have, reasoning included: servers count
    that in the output cap, whatever field it stands in."""
    return prompt.max_tokens * answers(prompt.extra_body)


def most_usd(model: Model, prompt: Prompt, written: int = 0) -> float | None:
    """The most one attempt can cost; None where the price is unknown.

    Nothing is taken off for what a cache may serve. `written` is the length of the body in
    bytes, where the prompt is a task's own words.
    """
    sent, beside = prompt.tokens, beside_tokens(prompt.extra_body, prompt.counted)
    if sent is None:  # a task's own words
        sent = most_sent(prompt.messages, model.encoding, model.wire, written, beside)
    else:
        sent = beside + (sent if prompt.exact else math.ceil(sent * ESTIMATE_MARGIN))
    return model.cost_usd(sent, most_output(prompt))
