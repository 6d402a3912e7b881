"""Which prompts begin alike: hashes for the engine's prefix cache, from the text of the request.

A real engine hashes the token ids of each block. Here a prompt comes as pieces whose tokens are
known (paragraphs, messages): a block ends where so many tokens have been counted, which is exact
where a piece ends, and within a piece four bytes a token. Two prompts share as many blocks as they
share text, but for the rounding within the piece in which they part.
"""

from __future__ import annotations

from collections.abc import Iterable

BYTES_PER_TOKEN = 4

Piece = tuple[bytes, int]
"""A stretch of a prompt, and its tokens."""


def chain(pieces: Iterable[Piece], prompt_tokens: int, block_tokens: int) -> tuple[int, ...]:
    """One hash per full block of the prompt, each covering everything before it too.

    `prompt_tokens` may be more than those of the pieces: what nobody has a text for is in no block.
    """
    most = prompt_tokens // block_tokens
    found: list[int] = []
    last, begun, pending = 0, 0, b""  # `begun`: tokens before the piece
    end = block_tokens  # tokens to the end of the block
    for text, count in pieces:
        at = 0
        while end <= begun + count and len(found) < most:
            cut = len(text) if end == begun + count else (end - begun) * BYTES_PER_TOKEN
            last = hash((last, pending + text[at:cut]))
            found.append(last)
            at, pending = cut, b""
            end += block_tokens
        pending += text[at:]
        begun += count
    return tuple(found)
