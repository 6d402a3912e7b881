"""What an image costs in prompt tokens: its size from the first bytes, its provider's rule.

    low      base
    high     base + tile · ceil(w'/512) · ceil(h'/512), where (w', h') is the image shrunk to fit
             into 2048 × 2048, then shrunk until its shorter side is at most 768

from "Calculating costs" in OpenAI's guide to vision, with base and tile per model. `auto` (the
default) is counted as `high`. Models named claude… and gemini… count as their providers' guides
say, roughly: a token for 750 pixels, up to 1,600; 258 an image, or since Gemini 2 a tile. Pixels
are never decoded. An image whose size nobody knows (it stands elsewhere on the web, or is none)
costs what OpenAI's `low` does.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

BASE_TOKENS, TILE_TOKENS = 85, 170  # gpt-4o and gpt-4-turbo
_RATES = {"gpt-4o-mini": (2833, 5667)}  # (base, tile) by the beginning of the model's name
FIT, SHORTER, TILE = 2048, 768, 512
CLAUDE_LONGER, CLAUDE_MOST, CLAUDE_PIXELS = 1568, 1600, 750
GEMINI_TOKENS, GEMINI_SMALL = 258, 384
_LOOK = 256 * 1024  # base64 characters looked at: metadata can stand before a JPEG's size

_JPEG_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_JPEG_SIZE = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # start of frame, any process


def tokens(image: Mapping[str, Any], model: str = "") -> int:
    """Prompt tokens of an `image_url` object, `{url, detail}`."""
    plain, url = model.rsplit("/", 1)[-1], image.get("url")
    if plain.startswith(("claude", "gemini")):
        size = size_of(_bytes_of(url)) if isinstance(url, str) else None
        if size is None:
            return BASE_TOKENS
        return _claude(*size) if plain.startswith("claude") else _gemini(*size, plain)
    rates = (rate for name, rate in _RATES.items() if plain.startswith(name))
    base, tile = next(rates, (BASE_TOKENS, TILE_TOKENS))
    size = None
    if image.get("detail") != "low" and isinstance(url, str):
        size = size_of(_bytes_of(url))
    return base if size is None else base + tile * tiles(*size)


def tiles(width: int, height: int) -> int:
    """How many tiles an image has at high detail; integers all the way, as pixels are."""
    longer = max(width, height)
    if longer > FIT:
        width, height = _shrunk(width, FIT, longer), _shrunk(height, FIT, longer)
    shorter = min(width, height)
    if shorter > SHORTER:
        width, height = _shrunk(width, SHORTER, shorter), _shrunk(height, SHORTER, shorter)
    return -(-width // TILE) * -(-height // TILE)


def _claude(width: int, height: int) -> int:
    scale = min(Fraction(1), Fraction(CLAUDE_LONGER, max(width, height)))
    return min(CLAUDE_MOST, math.ceil(width * height * scale * scale / CLAUDE_PIXELS))


def _gemini(width: int, height: int, model: str) -> int:
    if model.startswith("gemini-1") or (width <= GEMINI_SMALL and height <= GEMINI_SMALL):
        return GEMINI_TOKENS
    side = max(1, math.floor(min(width, height) / 1.5))
    return GEMINI_TOKENS * math.ceil(width / side) * math.ceil(height / side)


def size_of(data: bytes) -> tuple[int, int] | None:
    """(width, height) in pixels of a PNG, JPEG, GIF or WebP, from its header."""
    size = None
    if data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR" and len(data) >= 24:
        size = _big(data[16:20]), _big(data[20:24])
    elif data.startswith((b"GIF87a", b"GIF89a")) and len(data) >= 10:
        size = _little(data[6:8]), _little(data[8:10])
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP" and len(data) >= 30:
        size = _webp(data)
    elif data.startswith(b"\xff\xd8"):
        size = _jpeg(data)
    return size if size is not None and min(size) > 0 else None


def _bytes_of(url: str) -> bytes:
    """The first bytes of a data URL, nothing of any other."""
    head, _, data = url[: _LOOK + 128].partition(",")
    if not head.startswith("data:") or not head.endswith(";base64"):
        return b""
    data = data[: _LOOK // 4 * 4]
    try:
        return base64.b64decode(data + "=" * (-len(data) % 4))
    except (binascii.Error, ValueError):
        return b""


def _jpeg(data: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
        elif marker in _JPEG_SIZE:
            return _big(data[at + 7 : at + 9]), _big(data[at + 5 : at + 7])
        elif marker in _JPEG_ALONE:
            at += 2
        else:
            at += 2 + max(2, _big(data[at + 2 : at + 4]))
    return None


def _webp(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return _little(data[24:27]) + 1, _little(data[27:30]) + 1
    if kind == b"VP8L":
        bits = _little(data[21:25])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return _little(data[26:28]) & 0x3FFF, _little(data[28:30]) & 0x3FFF
    return None


def _shrunk(side: int, to: int, of: int) -> int:
    return max(1, side * to // of)


def _big(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")
