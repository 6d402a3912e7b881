"""What images cost, by each provider's published rule; the simulator counts on its own."""

from __future__ import annotations

import base64
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadlib import guard, image_tokens, tokens
from loadlib.image_tokens import Cost, cost, most, without_images
from loadlib.simulator import images

COSTS = [  # each with the reason: a provider's own example, or the edge of a rule
    ("gpt-4o", (1024, 1024), "high", Cost(765, True)),  # OpenAI's guide: 768 × 768, 4 tiles
    ("gpt-4o", (2048, 4096), "high", Cost(1105, True)),  # its second: 768 × 1536, 6 tiles
    ("gpt-4o", (4096, 8192), "low", Cost(85, True)),  # its third: whatever the size
    ("gpt-4o", (512, 512), "high", Cost(255, True)),  # never enlarged: one tile
    ("gpt-4o", (513, 512), "high", Cost(425, True)),  # one pixel more: another tile
    ("gpt-4o", (512, 512), "auto", Cost(255, True)),  # the most it can be
    ("openai/gpt-4o-2024-08-06", (1024, 1024), "high", Cost(765, True)),  # of a gateway, dated
    ("gpt-4-turbo", (1024, 1024), "high", Cost(765, True)),  # the same rates
    ("gpt-4o-mini", (1024, 1024), "high", Cost(2833 + 4 * 5667, True)),  # OpenAI's table
    ("gpt-4o-mini", (9, 9), "low", Cost(2833, True)),
    ("claude-3-haiku-20240307", (200, 200), "high", Cost(54, False)),  # Anthropic: "~54 tokens"
    ("claude-3-haiku-20240307", (1000, 1000), "low", Cost(1334, False)),  # "~1334"; no details
    ("claude-3-haiku-20240307", (1092, 1092), "high", Cost(1590, False)),  # "~1590"
    ("claude-3-haiku-20240307", (2048, 2048), "high", Cost(1600, False)),  # shrunk to the limit
    ("claude-3-haiku-20240307", (2048, 683), "high", Cost(1094, False)),  # 1568 × 522.9
    ("gemini-1.5-flash", (2048, 2048), "high", Cost(258, False)),  # fixed before Gemini 2.0
    ("gemini-2.0-flash", (384, 384), "high", Cost(258, False)),  # the last small image
    ("gemini-2.0-flash", (960, 540), "high", Cost(6 * 258, False)),  # Google's example: 360, 3 × 2
    ("llava", (1024, 1024), "high", Cost(765, False)),  # nobody's rule: gpt-4o's, as an estimate
]


@pytest.mark.parametrize(("model", "size", "detail", "expected"), COSTS)
def test_an_image_costs_what_its_provider_publishes(model, size, detail, expected):
    assert cost(*size, detail, model) == expected


def image(width: int, height: int, detail: str) -> dict[str, str]:
    header = struct.pack(">II", width, height) + b"\x08\x06\0\0\0"
    data = base64.b64encode(b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + header)
    return {"url": f"data:image/png;base64,{data.decode()}", "detail": detail}


NAMES = ["gpt-4o", "gpt-4o-mini", "gpt-4-turbo", "claude-3-haiku-20240307", "gemini-1.5-flash",
         "gemini-2.0-flash", "x-ai/grok-2-vision", "llava"]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    width=st.integers(1, 9000),
    height=st.integers(1, 9000),
    detail=st.sampled_from(["low", "high", "auto"]),
    model=st.sampled_from(NAMES),
)
def test_the_simulator_bills_what_the_client_counts(width, height, detail, model):
    counted = cost(width, height, detail, model).tokens
    assert images.tokens(image(width, height, detail), model) == counted
    if max(width, height) <= 3 * min(width, height):
        assert counted <= most(model)


# -- what a task's own words can cost at most ------------------------------------------------------

TEXT = {"type": "text", "text": "What is this?"}
PICTURE = {"type": "image_url", "image_url": image(100, 100, "high")}


def test_images_are_taken_out_of_messages():
    asked = {"role": "user", "content": [TEXT, PICTURE, PICTURE]}
    plain = {"role": "system", "content": "Be brief."}
    bare, count, characters = without_images([plain, asked])
    assert bare == [plain, {"role": "user", "content": [TEXT]}]
    assert (count, characters) == (2, 2 * len(PICTURE["image_url"]["url"]))
    assert without_images([{"role": "assistant"}])[0] == [{"role": "assistant"}]


@pytest.mark.parametrize("url", [7, None, {"url": 7}, {}, "https://example.com/a.png"])
def test_an_image_of_any_form_is_one(url):
    asked = {"role": "user", "content": [{"type": "image_url", "image_url": url}]}
    assert without_images([asked])[:2] == ([{"role": "user", "content": []}], 1)


def test_the_reserve_counts_images_and_not_their_characters():
    long = {**PICTURE, "image_url": {"url": "data:image/png;base64," + "A" * 900_000}}
    asked = [{"role": "user", "content": [TEXT, long]}]
    words = tokens.chat_tokens([{"role": "user", "content": [TEXT]}], "o200k_base")
    reserve = guard.most_sent(asked, "o200k_base", "gpt-4o-mini", written=900_100)
    # at least the dearest image there is, and not 300,000 tokens for its characters
    assert most("gpt-4o-mini") == 2833 + 8 * 5667
    assert most("gpt-4o-mini") + words <= reserve < most("gpt-4o-mini") + 200


def test_what_cannot_be_counted_is_reserved_by_its_length():
    sound = [{"role": "user", "content": [{"type": "input_audio", "data": "A" * 3000}]}]
    assert guard.most_sent(sound, "o200k_base", "gpt-4o", written=0) >= 1000


def test_the_least_rates_are_those_of_the_module():
    assert image_tokens.cost(1, 1, "low", "gpt-4o").tokens == images.BASE_TOKENS
