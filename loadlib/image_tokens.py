"""What an image costs in prompt tokens, by each provider's published rule. Pure.

    OpenAI      low: base; high: base + tile · ⌈w'/512⌉ · ⌈h'/512⌉, where (w', h') is the image
                shrunk into 2048 × 2048, then until its shorter side is at most 768 ("Calculating
                costs" in the guide to images and vision). `auto` is counted as `high`, the most
                it can be.
    Anthropic   w' · h' / 750, where (w', h') is the image shrunk until its longer side is at most
                1568 and it costs at most 1,600 ("Calculate image costs" in the guide to vision).
                An estimate: the limits are given as approximate, and newer models have others.
    Google      258 before Gemini 2.0; since then 258 up to 384 × 384, and 258 a tile beyond, a
                tile being ⌊min(w, h) / 1.5⌋ on a side ("How images are tokenized" in the guide to
                image understanding, which calls this a rough formula). An estimate.

Any other model is estimated by gpt-4o's rule. The simulator has a count of its own; a test holds
both equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

Detail = Literal["low", "high", "auto"]

OPENAI_FIT, OPENAI_SHORTER, OPENAI_TILE = 2048, 768, 512
CLAUDE_LONGER, CLAUDE_MOST, CLAUDE_PIXELS_PER_TOKEN = 1568, 1600, 750
GEMINI_TILE_TOKENS, GEMINI_SMALL = 258, 384
_LARGEST = (8192, 8192)


@dataclass(frozen=True, slots=True)
class Cost:
    """Tokens of one image; `exact` says whether they are what is billed or an estimate."""

    tokens: int
    exact: bool


def cost(width: int, height: int, detail: Detail, wire: str) -> Cost:
    """What an image of width × height pixels costs the model of this name on the wire."""
    name = wire.rsplit("/", 1)[-1]
    for beginning, count, exact in _RULES:
        if name.startswith(beginning):
            return Cost(count(width, height, detail), exact)
    return Cost(_openai(width, height, detail, 85, 170), exact=False)


def most(wire: str) -> int:
    """The most an image can cost the model whose sides differ by no more than a factor of 3."""
    wide, tall = _LARGEST
    shapes = ((wide, tall), (wide, tall // 3), (wide // 3, tall))
    return max(cost(*shape, "high", wire).tokens for shape in shapes)


def without_images(
    messages: Sequence[Mapping[str, Any]],
) -> tuple[list[Mapping[str, Any]], int, int]:
    """(the same messages without their images, how many there were, characters of their URLs)."""
    bare: list[Mapping[str, Any]] = []
    images = characters = 0
    for message in messages:
        content = message.get("content")
        if isinstance(content, (list, tuple)):
            urls = [_url(part) for part in content if _is_image(part)]
            images, characters = images + len(urls), characters + sum(map(len, urls))
            content = [part for part in content if not _is_image(part)]
        bare.append({**message, "content": content} if "content" in message else message)
    return bare, images, characters


def _is_image(part: object) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "image_url"


def _url(part: Mapping[str, Any]) -> str:
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, Mapping) else image
    return url if isinstance(url, str) else ""


def _openai(width: int, height: int, detail: Detail, base: int, tile: int) -> int:
    if detail == "low":
        return base
    longer, shorter = max(width, height), min(width, height)
    if longer > OPENAI_FIT:
        longer, shorter = OPENAI_FIT, max(1, shorter * OPENAI_FIT // longer)
    if shorter > OPENAI_SHORTER:
        longer, shorter = longer * OPENAI_SHORTER // shorter, OPENAI_SHORTER
    return base + tile * -(-longer // OPENAI_TILE) * -(-shorter // OPENAI_TILE)


def _claude(width: int, height: int, _detail: Detail) -> int:
    pixels, longer = width * height, max(width, height)
    shrunk, by = (CLAUDE_LONGER**2, longer**2) if longer > CLAUDE_LONGER else (1, 1)
    return min(CLAUDE_MOST, -(-pixels * shrunk // (by * CLAUDE_PIXELS_PER_TOKEN)))


def _gemini_1(_width: int, _height: int, _detail: Detail) -> int:
    return GEMINI_TILE_TOKENS


def _gemini(width: int, height: int, _detail: Detail) -> int:
    if max(width, height) <= GEMINI_SMALL:
        return GEMINI_TILE_TOKENS
    side = max(1, min(width, height) * 2 // 3)
    return GEMINI_TILE_TOKENS * -(-width // side) * -(-height // side)


_Count = Callable[[int, int, Detail], int]
_RULES: tuple[tuple[str, _Count, bool], ...] = (
    ("gpt-4o-mini", partial(_openai, base=2833, tile=5667), True),
    ("gpt-4o", partial(_openai, base=85, tile=170), True),
    ("gpt-4-turbo", partial(_openai, base=85, tile=170), True),
    ("claude", _claude, False),
    ("gemini-1", _gemini_1, False),
    ("gemini", _gemini, False),
)
"""(beginning of the model's name, its rule, whether that is what is billed), first match."""
