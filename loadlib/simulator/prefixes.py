"""Which prompts begin alike: hashes for the engine's prefix cache, from the text of the request.

A real engine hashes the token ids of each block. Here the body's messages are cut into pieces as
long as a block of English usually is, four bytes a token: two conversations share as many blocks
as they share text, but for the rounding, and no token needs to be known by itself.
"""

from __future__ import annotations

BYTES_PER_TOKEN = 4


def chain(messages: bytes, prompt_tokens: int, block_tokens: int) -> tuple[int, ...]:
    """One hash per full block of the prompt, each covering everything before it too.

    `messages` is their JSON as sent. Text with more tokens than four bytes' worth each has
    fewer blocks to share than it has blocks.
    """
    size = block_tokens * BYTES_PER_TOKEN
    blocks = min(prompt_tokens // block_tokens, len(messages) // size)
    found, last = [], 0
    for end in range(size, blocks * size + 1, size):
        last = hash((last, messages[end - size : end]))
        found.append(last)
    return tuple(found)
