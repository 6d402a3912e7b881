"""One chunk of a chat-completions answer (or a whole one), as servers write it. Pure.

They differ from OpenAI and from each other in small things; each is read here and nowhere else, and
`tests/test_providers.py` holds the shape it was recorded in. What is not of the expected type is
passed over: a server's mistake in a field we can do without must not cost the answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

MAX_COUNT = 10**9  # more tokens than this nobody has counted


# Parsed JSON has no cycles: `gc=False` spares the collector a hundred thousand objects a second.
class Function(msgspec.Struct, gc=False):
    """Of a tool call."""

    name: Any = None
    arguments: Any = None


class ToolCall(msgspec.Struct, gc=False):
    """A piece of one, or a whole one."""

    index: Any = None
    function: Function | None = None


class Delta(msgspec.Struct, gc=False):
    """What was generated."""

    content: Any = None
    reasoning_content: Any = None  # DeepSeek, vLLM, SGLang, llama.cpp
    reasoning: Any = None  # OpenRouter, newer vLLM, Ollama
    refusal: Any = None
    tool_calls: list[ToolCall] | None = None
    extra_content: Any = None  # Gemini: {"google": {"thought": true}} marks reasoning


class Choice(msgspec.Struct, gc=False):
    """One of the answers asked for."""

    delta: Delta | None = None
    message: Delta | None = None  # the same fields, in a response that is not a stream
    finish_reason: Any = None
    usage: Any = None  # Moonshot's place for it, in the last chunk


class Details(msgspec.Struct, gc=False):
    """Of usage."""

    cached_tokens: Any = None
    reasoning_tokens: Any = None


class Usage(msgspec.Struct, gc=False):
    """Token counts, under every name they go by."""

    prompt_tokens: Any = None
    completion_tokens: Any = None
    total_tokens: Any = None
    prompt_tokens_details: Details | None = None
    completion_tokens_details: Details | None = None
    reasoning_tokens: Any = None  # Perplexity, and vLLM-likes without details
    cached_tokens: Any = None  # Moonshot
    prompt_cache_hit_tokens: Any = None  # DeepSeek
    input_tokens: Any = None  # Claude's own names, passed on by gateways: without what …
    output_tokens: Any = None
    cache_read_input_tokens: Any = None  # … a cache served …
    cache_creation_input_tokens: Any = None  # … or now keeps


class Chunk(msgspec.Struct, gc=False):
    """One event's JSON."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: Any = None
    timings: Any = None  # llama.cpp
    service_tier: Any = None  # OpenAI


class Counted(NamedTuple):
    """Token counts that a chunk states; None: it does not say."""

    input: int | None = None
    output: int | None = None
    cached: int | None = None
    reasoning: int | None = None
    total: int | None = None


_decoder = msgspec.json.Decoder(Chunk)
decode_one, decode_lines = _decoder.decode, _decoder.decode_lines
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def text_of(chunk: Chunk) -> str | None:
    """What a chunk of the usual shape adds to the answer; None if it is, or may be, of another.

    A short cut: `pieces` and `counted` say the same of such a chunk.
    """
    choices = chunk.choices
    if not choices or len(choices) != 1 or chunk.usage is not None or chunk.error is not None:
        return None
    choice = choices[0]
    delta = choice.delta
    if delta is None or choice.finish_reason is not None or chunk.timings is not None:
        return None
    text = delta.content
    if type(text) is not str or not text or delta.reasoning_content is not None:
        return None
    if delta.extra_content is not None or choice.usage is not None:
        return None
    if delta.reasoning is None and delta.refusal is None and delta.tool_calls is None:
        return text
    return None


def pieces(chunk: Chunk) -> Iterator[tuple[str, str]]:
    """(kind, text) of everything generated in a chunk; empty strings are not generated."""
    for choice in chunk.choices or ():
        delta = choice.delta or choice.message
        if delta is None:
            continue
        for kind, value in (
            ("reasoning", delta.reasoning_content or delta.reasoning),
            ("reasoning" if _is_thought(delta.extra_content) else "text", delta.content),
            ("refusal", delta.refusal),
        ):
            if isinstance(value, str) and value:
                yield kind, value
        for call in delta.tool_calls or ():
            if call.function is not None and (call.function.name or call.function.arguments):
                yield "tool", ""


def _is_thought(extra: object) -> bool:
    google = extra.get("google") if isinstance(extra, dict) else None
    return isinstance(google, dict) and google.get("thought") is True


def counted(chunk: Chunk) -> Counted | None:
    """The token counts in a chunk, if it has any."""
    usage = chunk.usage
    if usage is None and chunk.choices:
        usage = _usage_of_choice(chunk.choices[-1].usage)
    if usage is not None:
        return _counted(usage)
    return _of_timings(chunk.timings) if isinstance(chunk.timings, dict) else None


def _counted(usage: Usage) -> Counted:
    before, after = usage.prompt_tokens_details, usage.completion_tokens_details
    return Counted(
        input=_first(usage.prompt_tokens, _whole_input(usage)),
        output=_first(usage.completion_tokens, usage.output_tokens),
        cached=_first(
            before.cached_tokens if before else None,
            usage.cached_tokens, usage.prompt_cache_hit_tokens, usage.cache_read_input_tokens,
        ),
        reasoning=_first(after.reasoning_tokens if after else None, usage.reasoning_tokens),
        total=_first(usage.total_tokens),
    )  # fmt: skip


def _usage_of_choice(found: object) -> Usage | None:
    if not isinstance(found, dict):
        return None
    try:
        return msgspec.convert(found, Usage)
    except msgspec.ValidationError:
        return None


def _whole_input(usage: Usage) -> int | None:
    """Claude's `input_tokens` are those that no cache served or keeps."""
    sent = _first(usage.input_tokens)
    if sent is None:
        return None
    beside = (usage.cache_read_input_tokens, usage.cache_creation_input_tokens)
    return sent + sum(_first(value) or 0 for value in beside)


def _of_timings(timings: Mapping[str, object]) -> Counted:
    """llama.cpp: `prompt_n` was worked through, `cache_n` was there; without it the sum is unknown.

    In streams without usage (`timings_per_token`, or its own defaults) they are all there is.
    """
    worked, there = _first(timings.get("prompt_n")), _first(timings.get("cache_n"))
    known = worked is not None and there is not None
    return Counted(
        input=worked + there if known else None,  # type: ignore[operator]
        output=_first(timings.get("predicted_n")),
        cached=there,
    )


def _first(*values: object) -> int | None:
    """The first that can be a number of tokens (some servers write 12.0)."""
    for value in values:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT:
            return value
    return None
