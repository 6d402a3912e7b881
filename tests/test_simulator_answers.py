"""Answers with something to get right: echoed, wrong, images, parallel calls, reasoning, limits."""

from __future__ import annotations

import base64
import json
import random
import struct
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulator_client import USER, ask, body, content, deltas, post, stream

from loadlib import tokens
from loadlib.simulator import images, ratelimit
from loadlib.simulator.answers import planted_codes, split
from loadlib.simulator.wished import Wish, spoil, spoiled

# --- X-Simulate-Answer ---------------------------------------------------------------------------


def wish(value: object) -> dict[str, str]:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return {"X-Simulate-Answer": base64.b64encode(data).decode()}


def wished(base_url: str, value: object, **fields) -> dict:
    status, _, data = post(base_url, headers=wish(value), **fields)
    assert status == 200, data
    return json.loads(data)["choices"][0]


TEXTS = ["42", "9.9 is larger than 9.11", "naïve café 漢字 🙂🙃 \u2028 \n\n end", "\ufffd", ""]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_text_is_echoed_whole_and_streamed_token_by_token(simulator, text, wrapped):
    value = {"content": text} if wrapped else text
    choice = wished(simulator, value, max_tokens=100)
    assert choice["message"]["content"] == text
    assert choice["finish_reason"] == "stop"
    fields = {"stream": True, "stream_options": {"include_usage": True}}
    data = post(simulator, headers=wish(value), max_tokens=100, **fields)[2]
    chunks = [json.loads(line[6:]) for line in data.decode().split("\n\n")[:-2]]
    assert content(chunks) == text
    count = max(1, tokens.count(text, "o200k_base"))
    assert chunks[-1]["usage"]["completion_tokens"] == count
    assert len(deltas(chunks)) == 1 + count + 1


def test_a_text_is_cut_by_its_cap_and_by_stop(simulator):
    cut = wished(simulator, "one two three four", max_tokens=2)
    assert (cut["message"]["content"], cut["finish_reason"]) == ("one two", "length")
    stopped = wished(simulator, "one two three four", stop=" three")
    assert (stopped["message"]["content"], stopped["finish_reason"]) == ("one two", "stop")


CALLS = [
    {"name": "get_weather", "arguments": {"city": "Zürich", "days": [1, 2]}},
    {"function": {"name": "now", "arguments": "{}"}},
]


def test_tool_calls_are_echoed_in_parallel(simulator):
    choice = wished(simulator, {"tool_calls": CALLS})
    assert choice["finish_reason"] == "tool_calls"
    first, second = choice["message"]["tool_calls"]
    assert first["function"]["name"] == "get_weather"
    assert json.loads(first["function"]["arguments"]) == CALLS[0]["arguments"]
    assert second["function"] == {"name": "now", "arguments": "{}"}
    assert first["id"] != second["id"]
    assert choice["message"]["content"] is None


@pytest.mark.parametrize(
    "value",
    [b"{", b"7", b"null", b'{"text": 1}', b'{"content": 7}', b'{"tool_calls": 7}',
     b'{"tool_calls": [7]}', b'{"tool_calls": [{"arguments": {}}]}', b"[" * 30_000 + b"]" * 30_000,
     json.dumps({"tool_calls": CALLS * 40}).encode()],
    ids=range(10),
)  # fmt: skip
def test_a_wish_that_makes_no_sense_is_refused(simulator, value):
    status, _, data = post(simulator, headers=wish(value))
    assert (status, json.loads(data)["error"]["param"]) == (400, "X-Simulate-Answer")


def test_what_is_no_base64_is_refused(simulator):
    for value in ("*", "YQ", "ÿ", "/w=="):
        assert post(simulator, headers={"X-Simulate-Answer": value})[0] == 400


def test_a_chosen_share_is_wrong_and_repeats_with_the_seed(simulators):
    def answers(*flags: str) -> list[str]:
        flags = ("--profile", "instant", "--wrong-rate", "30 %", *flags)
        url = simulators(*flags, fresh=True).base_url
        return [wished(url, "The answer is 42.")["message"]["content"] for _ in range(100)]

    first = answers()
    wrong = [text for text in first if text != "The answer is 42."]
    assert 10 <= len(wrong) <= 55  # 30 on average, 4 to 5 sd
    assert all("42" not in text and "answer" not in text for text in wrong)
    assert answers() == first
    assert answers("--seed", "3") != first


def test_wrong_answers_keep_their_form(simulators):
    url = simulators("--profile", "instant", "--wrong-rate", "1").base_url
    schema = {"type": "object", "properties": {"a": {"const": 5}, "b": {"enum": ["x"]}},
              "required": ["a", "b"]}  # fmt: skip
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    told = json.loads(ask(url, response_format=wanted)["choices"][0]["message"]["content"])
    assert told.keys() == {"a", "b"}
    assert told["a"] != 5
    assert told["b"] != "x"
    prompt = "The vault code is 4821-7730. What is the vault code? Reply with the code only."
    code = ask(url, messages=[{"role": "user", "content": prompt}])["choices"][0]["message"]
    assert "4821" not in code["content"]
    choice = wished(url, {"tool_calls": CALLS})["message"]["tool_calls"]
    assert choice[0]["function"]["name"] == "get_weather"
    assert json.loads(choice[0]["function"]["arguments"]) != CALLS[0]["arguments"]
    assert choice[1]["function"]["name"] == "not_now", "there is nothing else to get wrong"


@given(st.text(max_size=50), st.integers(1, 9))
def test_what_is_spoiled_is_never_what_it_was(text, shift):
    assert spoiled(text, shift) != text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text("ab1é", max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("xyz"), inner, max_size=3),
)


@given(st.dictionaries(st.text("kl", min_size=1), json_values, min_size=1), st.integers(0, 99))
def test_a_spoiled_call_is_json_with_the_same_keys(arguments, seed):
    wished = Wish(calls=(("f", json.dumps(arguments)),))
    ((name, other),) = spoil(wished, random.Random(seed)).calls
    assert (name, json.loads(other)) != ("f", arguments)
    assert json.loads(other).keys() == arguments.keys()


@settings(deadline=None)  # the first use of an encoding loads it
@given(st.text(max_size=80), st.sampled_from(["o200k_base", "cl100k_base"]))
def test_split_keeps_text_and_count(text, encoding):
    pieces = split(text, encoding)
    assert "".join(pieces) == text
    assert len(pieces) == max(1, tokens.count(text, encoding))


# --- tools and reasoning -------------------------------------------------------------------------

TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {
        "type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}}}
    for name in ("one", "two", "three")
]  # fmt: skip


def test_calls_are_parallel_where_the_request_says_so_itself(simulator):
    def names(**fields):
        message = ask(simulator, tools=TOOLS, **fields)["choices"][0]["message"]
        return [call["function"]["name"] for call in message["tool_calls"]]

    assert names() == names(parallel_tool_calls=False) == ["one"]
    assert names(parallel_tool_calls=True) == ["one", "two", "three"]
    forced = {"type": "function", "function": {"name": "two"}}
    assert names(parallel_tool_calls=True, tool_choice=forced) == ["two"]


def test_parallel_calls_are_streamed_one_after_the_other_by_index(simulator):
    fields = {"tools": TOOLS, "parallel_tool_calls": True}
    whole = ask(simulator, **fields)["choices"][0]["message"]["tool_calls"]
    chunks = stream(simulator, **fields, stream_options={"include_usage": True})
    built: dict[int, dict[str, str]] = {}
    order = []
    for delta in deltas(chunks):
        for call in delta.get("tool_calls", ()):
            one = built.setdefault(call["index"], {"id": "", "name": "", "arguments": ""})
            one["id"] += call.get("id", "")
            one["name"] += call["function"].get("name", "")
            one["arguments"] += call["function"]["arguments"]
            order.append(call["index"])
    assert order == sorted(order)
    assert [built[i] for i in range(3)] == [
        {"id": call["id"], **call["function"]} for call in whole
    ]
    assert all(set(json.loads(one["arguments"])) == {"n"} for one in built.values())
    assert chunks[-2]["usage"]["completion_tokens"] == len(order)


def test_a_cap_may_cut_calls_away(simulator):
    fields = {"tools": TOOLS, "parallel_tool_calls": True}
    for cap in range(1, 12):
        choice = ask(simulator, **fields, max_tokens=cap)["choices"][0]
        assert choice["finish_reason"] == "length"
        assert 1 <= len(choice["message"]["tool_calls"]) <= 3


@pytest.fixture
def thinking(simulators) -> str:
    return simulators("--profile", "instant", "--reasoning-tokens", "20").base_url


def test_thoughts_come_first_and_are_counted(thinking):
    answer = ask(thinking, max_tokens=50)
    message, usage = answer["choices"][0]["message"], answer["usage"]
    assert tokens.count(message["reasoning_content"], "o200k_base") == 20
    assert tokens.count(message["content"], "o200k_base") == 30
    assert usage["completion_tokens"] == 50
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 20
    found = deltas(stream(thinking, max_tokens=50))
    kinds = [
        "reasoning_content" if "reasoning_content" in one else "content" for one in found[1:-1]
    ]
    assert kinds == ["reasoning_content"] * 20 + ["content"] * 30
    assert (
        "".join(one.get("reasoning_content", "") for one in found) == message["reasoning_content"]
    )


def test_a_cap_may_end_an_answer_in_its_thoughts(thinking):
    choice = ask(thinking, max_tokens=5)["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "length")
    assert tokens.count(choice["message"]["reasoning_content"], "o200k_base") == 5


def test_thoughts_come_before_calls_and_echoes_too(thinking):
    message = ask(thinking, tools=TOOLS)["choices"][0]["message"]
    assert json.loads(message["tool_calls"][0]["function"]["arguments"]).keys() == {"n"}
    assert tokens.count(message["reasoning_content"], "o200k_base") == 20
    assert wished(thinking, "42")["message"]["content"] == "42"
    assert ask(thinking, stop=" ")["usage"]["completion_tokens"] > 20


# --- images --------------------------------------------------------------------------------------


def png(width: int, height: int) -> bytes:
    return (
        b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + struct.pack(">II", width, height) + b"\x08\x06\0\0\0"
    )


def jpeg(width: int, height: int, before: bytes = b"") -> bytes:
    frame = b"\xff\xc2\x00\x11\x08" + struct.pack(">HH", height, width) + b"\x03" + b"\0" * 9
    return b"\xff\xd8\xff\xe0\x00\x04JF" + before + b"\xff" + frame


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\0\0\0"


def webp(width: int, height: int) -> bytes:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + size


EXIF = b"\xff\xe1\xff\xff" + b"x" * 65533  # a segment as long as they come


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (png(1024, 768), (1024, 768)),
        (jpeg(640, 480), (640, 480)),
        (jpeg(640, 480, EXIF * 2), (640, 480)),
        (gif(3, 5), (3, 5)),
        (webp(4000, 1), (4000, 1)),
        (png(0, 5), None),
        (png(1024, 768)[:20], None),
        (jpeg(640, 480)[:8], None),
        (b"\xff\xd8" + b"\xff" * 100, None),
        (b"\xff\xd8\xff\xe0\0\0" * 9, None),
        (b"", None),
        (b"<svg/>", None),
    ],
)
def test_the_size_of_an_image_is_in_its_header(data, size):
    assert images.size_of(data) == size


@given(st.binary(max_size=200))
def test_any_bytes_have_a_size_or_none(data):
    for start in (
        b"",
        b"\xff\xd8",
        b"GIF89a",
        b"RIFF\0\0\0\0WEBP",
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    ):
        size = images.size_of(start + data)
        assert size is None or min(size) > 0


def url_of(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


COSTS = [  # the first rows are the examples of OpenAI's guide to vision
    ("gpt-4o", (1024, 1024), "high", 765),  # 768 × 768: 4 tiles
    ("gpt-4o", (2048, 4096), "high", 1105),  # 1024 × 2048, then 768 × 1536: 6 tiles
    ("gpt-4o", (4096, 8192), "low", 85),
    ("gpt-4o", (512, 512), "high", 255),  # never enlarged
    ("gpt-4o", (512, 512), None, 255),  # auto
    ("gpt-4o", (1, 1), "high", 255),
    ("gpt-4o", (513, 512), "high", 425),
    ("openai/gpt-4o-2024-08-06", (1024, 1024), "auto", 765),
    ("gpt-4o-mini", (1024, 1024), "high", 2833 + 4 * 5667),
    ("gpt-4o-mini-2024-07-18", (9, 9), "low", 2833),
    ("claude-3-haiku-20240307", (1000, 1000), "low", 1334),  # detail means nothing to Claude
    ("claude-3-haiku-20240307", (4000, 4000), "high", 1600),
    ("gemini-1.5-flash", (4000, 4000), "high", 258),  # an image is an image, before Gemini 2
    ("gemini-2.5-flash", (384, 384), "high", 258),
    ("gemini-2.5-flash", (960, 540), "high", 6 * 258),  # the guide's own example
]


@pytest.mark.parametrize(("model", "size", "detail", "cost"), COSTS)
def test_an_image_costs_what_its_provider_bills(model, size, detail, cost):
    image = {"url": url_of(png(*size))} | ({"detail": detail} if detail else {})
    assert images.tokens(image, model) == cost


@pytest.mark.parametrize(
    "image",
    [{"url": "https://example.com/cat.png"}, {"url": 7}, {}, {"url": "data:image/png;base64,??"},
     {"url": "data:image/png,plain"}, {"url": url_of(b"no image")}],
)  # fmt: skip
def test_an_image_nobody_can_measure_costs_the_least(image):
    assert images.tokens(image, "gpt-4o") == 85


def test_images_are_in_the_usage(simulator):
    def prompt_tokens(*parts):
        messages = [{"role": "user", "content": [{"type": "text", "text": "What?"}, *parts]}]
        return ask(simulator, model="gpt-4o", messages=messages, max_tokens=1)["usage"]

    plain = prompt_tokens()["prompt_tokens"]
    low = {"type": "image_url", "image_url": {"url": url_of(png(9, 9)), "detail": "low"}}
    high = {"type": "image_url", "image_url": {"url": url_of(jpeg(1024, 1024, EXIF))}}
    assert prompt_tokens(low, high)["prompt_tokens"] == plain + 85 + 765


# --- rate limits ---------------------------------------------------------------------------------


@dataclass
class Quota:
    limit: int
    remaining: int
    reset_ns: int


@pytest.mark.parametrize(
    ("ns", "text"),
    [(0, "0s"), (1, "1ms"), (17_000_000, "17ms"), (999_000_001, "1s"), (1_000_000_000, "1s"),
     (1_500_000_000, "1.5s"), (60_000_000_000, "1m0s"), (360_000_000_000, "6m0s"),
     (3_661_250_000_000, "1h1m1.25s"), (-5, "0s")],
)  # fmt: skip
def test_durations_are_written_as_openai_does(ns, text):
    assert ratelimit.duration(ns) == text


def test_headers_name_the_limits_that_exist():
    assert ratelimit.headers(None, None) == {}
    assert ratelimit.headers(Quota(60, 59, 10**9), Quota(9000, -1, 0)) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "9000",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "0s",
    }


def test_waiting_is_rounded_up_and_in_vain_is_not_said():
    assert ratelimit.retry_after(None) == {}
    assert ratelimit.retry_after(1_000_000_001) == {"retry-after": "2", "retry-after-ms": "1001"}


def test_the_defaults_of_this_file_are_a_request():
    assert json.loads(body())["messages"] == USER


# --- planted facts -------------------------------------------------------------------------------

FACTS = "The amber vault code is 1111-2222.\n\nThe birch vault code is 3333-4444.\n\n"


@pytest.mark.parametrize(
    ("text", "codes", "why"),
    [
        ("The vault code is 4821-7730. What is the vault code?", ["4821-7730"], "one"),
        (f"{FACTS}What is the vault code?", ["1111-2222"], "the first, where none is named"),
        (
            f"{FACTS}What are the vault codes of birch and amber?",
            ["3333-4444", "1111-2222"],
            "order",
        ),
        (
            f"{FACTS}What are the vault codes of birch and cobalt?",
            ["3333-4444"],
            "one is not there",
        ),
        (f"{FACTS}How are you?", [], "nobody asks"),
        ("vault code is 1111-2222. What are the vault codes of a?", [], "no name before it"),
        ("What is the vault code?", [], "nothing planted"),
    ],
)
def test_the_codes_that_are_asked_for(text, codes, why):
    assert planted_codes([{"role": "user", "content": text}]) == codes, why
