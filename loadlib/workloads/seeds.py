"""What is drawn for a request: the same in every process, in any order."""

from __future__ import annotations

import hashlib


def digest(*parts: object) -> int:
    """128 bits that depend on nothing but `parts`, the same in every process."""
    raw = hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()
    return int.from_bytes(raw, "big")
