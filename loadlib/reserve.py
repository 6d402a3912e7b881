"""The most that one attempt can cost: what the budget holds back before it is sent. Pure."""

from __future__ import annotations

import math

import msgspec

from loadlib import tokens
from loadlib.catalog import Encoding, Model
from loadlib.guard import answers
from loadlib.prompt import Prompt

BYTES_PER_TOKEN = 3  # at least, in the JSON of a request
ESTIMATE_MARGIN = 1.5  # another tokenizer may make so many more tokens of the same text


def most_output(prompt: Prompt) -> int:
    """The most tokens that the answers to a prompt can have, reasoning included: servers count
    that in the output cap, whatever field it stands in."""
    return prompt.max_tokens * answers(prompt.extra_body)


def most_usd(model: Model, prompt: Prompt, written: int = 0) -> float | None:
    """The most one attempt can cost; None where the price is unknown.

    Nothing is taken off for what a cache may serve. `written` is the length of a body that loadlib
    did not build itself.
    """
    sent = prompt.tokens
    if sent is None:  # a task's own words
        sent = _most_sent(prompt, model.encoding, written)
    elif not prompt.exact:
        sent = math.ceil(sent * ESTIMATE_MARGIN)
    return model.cost_usd(sent, most_output(prompt))


def _most_sent(prompt: Prompt, encoding: Encoding, written: int) -> int:
    """The most prompt tokens of a task's own words: as counted, or by the length of the body."""
    try:
        counted = tokens.chat_tokens(prompt.messages, encoding)
    except ValueError:  # images
        counted, written = 0, written or len(msgspec.json.encode(prompt.messages))
    return max(counted, -(-written // BYTES_PER_TOKEN))
