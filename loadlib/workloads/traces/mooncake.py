"""Mooncake's traces: milliseconds, lengths, and which blocks of 512 tokens a prompt is made of.

Of two prompts that begin with the same `hash_ids` the same number of blocks is equal. Without
`hash_ids` no two prompts begin alike.
"""

from __future__ import annotations

import msgspec

from loadlib.workloads.traces.row import (
    Format,
    InvalidError,
    Reader,
    Row,
    decoded,
    instant_ns,
    keys,
    tokens,
)

BLOCK_TOKENS = 512

_MS = 1_000_000


class _Request(msgspec.Struct, gc=False):
    timestamp: int | float
    input_length: int
    output_length: int
    hash_ids: list[int] = []


_DECODER = msgspec.json.Decoder(_Request)
_REQUIRED = {"timestamp", "input_length", "output_length"}


def _reader(first: bytes) -> Reader | None:
    return Reader(_row) if keys(first).keys() >= _REQUIRED else None


def _row(line: bytes) -> Row:
    request = decoded(_DECODER, line)
    prompt = tokens(request.input_length, "input_length")
    blocks = -(-prompt // BLOCK_TOKENS)
    if request.hash_ids and len(request.hash_ids) != blocks:
        raise InvalidError(
            f"hash_ids: {len(request.hash_ids):,} of them for {prompt:,} tokens: expected "
            f"{blocks:,}, one for each {BLOCK_TOKENS} tokens"
        )
    return Row(
        at_ns=instant_ns(request.timestamp, _MS, "timestamp", "milliseconds"),
        prompt=prompt,
        output=tokens(request.output_length, "output_length"),
        blocks=request.hash_ids,
    )


MOONCAKE = Format(
    "Mooncake",
    'lines such as {"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0]}',
    _reader,
    blocks=True,
)
