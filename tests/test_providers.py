"""Answers and refusals in the shapes that providers write, each with where the shape is from.

The bytes are theirs as far as the decoder can tell: field names, order of chunks, nulls and all.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import pytest
from client_handle import Driver
from faulty_server import CHUNKED, GOOD, FaultyServer, head, says, sized

from loadlib import outcome
from loadlib.answer import Answer, FirstToken, decode
from loadlib.catalog import Model, resolve
from loadlib.outcome import Counts, outcome_of, usage_of
from loadlib.scenario_spec import ModelSpec
from loadlib.tape import Tape

pytest_plugins = ("client_fixtures",)

TODAY = date(2026, 11, 1)


def model(provider: str | None = None, wire: str = "m") -> Model:
    found = resolve(ModelSpec(name="m", model=wire, base_url="http://127.0.0.1:1/v1"))
    return replace(found, provider=provider, exact=True)


def stream(*events: Any, tail: bytes = b"data: [DONE]\n\n") -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + tail


def read(body: bytes, kind: str = "text/event-stream") -> Answer:
    """Decoded as a whole and event by event; both must agree."""
    step = max(1, len(body) // 7)
    parts = [body[at : at + step] for at in range(0, len(body), step)]
    tapes = [
        Tape.of([(10 * n, part) for n, part in enumerate(reads, 1)], status=200,
                headers={"content-type": kind})
        for reads in ([body], parts)
    ]  # fmt: skip
    whole, pieced = map(decode, tapes)
    assert whole.said == pieced.said
    assert usage_of(whole, None, model()) == usage_of(pieced, None, model())
    return whole


# -- streams ---------------------------------------------------------------------------------------


UNKNOWN = Counts()


@dataclass(frozen=True)
class Shape:
    """A recorded stream, and what it says."""

    source: str
    body: bytes
    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    finish: str | None = "stop"  # in OpenAI's words
    counts: Counts = UNKNOWN
    events: int = 1
    provider: str | None = None
    tier: str | None = None


def openai_chunk(delta: dict, finish: str | None = None, **more: Any) -> dict:
    return {
        "id": "chatcmpl-B9", "object": "chat.completion.chunk", "created": 1741569952,
        "model": "gpt-4o-mini-2024-07-18", "service_tier": "default",
        "system_fingerprint": "fp_44709d6fcb",
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
        "usage": None, "obfuscation": "2xP", **more,
    }  # fmt: skip


OPENAI_USAGE = {
    "prompt_tokens": 2006, "completion_tokens": 300, "total_tokens": 2306,
    "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 256, "audio_tokens": 0,
        "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
    },
}  # fmt: skip

FILTERS = {"hate": {"filtered": False, "severity": "safe"}}


def gemini(delta: dict, finish: str | None = None, got: int = 0, total: int = 0) -> dict:
    return {
        "choices": [{"delta": {**delta, "role": "assistant"}, "index": 0}
                    | ({"finish_reason": finish} if finish else {})],
        "created": 1777180000, "id": "1ZftaY", "model": "gemini-3.1-flash-lite",
        "object": "chat.completion.chunk",
        "usage": {"completion_tokens": got, "prompt_tokens": 20, "total_tokens": total},
    }  # fmt: skip


def vllm(delta: dict, finish: str | None = None, got: int | None = None) -> dict:
    found = {
        "id": "chatcmpl-0f", "object": "chat.completion.chunk", "created": 1756938296,
        "model": "Qwen/Qwen3-8B",
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
    }  # fmt: skip
    if got is not None:
        usage = {"prompt_tokens": 14, "total_tokens": 14 + got, "completion_tokens": got}
        found["usage"] = usage
    return found


def llamacpp(delta: dict, finish: str | None = None, **more: Any) -> dict:
    return {
        "choices": [{"finish_reason": finish, "index": 0, "delta": delta}],
        "created": 1756938296, "id": "chatcmpl-x", "model": "smollm2",
        "system_fingerprint": "b6400-1", "object": "chat.completion.chunk", **more,
    }  # fmt: skip


TIMINGS = {
    "cache_n": 36, "prompt_n": 12, "prompt_ms": 30.9, "prompt_per_token_ms": 2.6,
    "prompt_per_second": 388.0, "predicted_n": 2, "predicted_ms": 66.1,
    "predicted_per_token_ms": 33.0, "predicted_per_second": 30.2,
}  # fmt: skip


def ollama(content: str, finish: str | None = None, **more: Any) -> dict:
    return {
        "id": "chatcmpl-768", "object": "chat.completion.chunk", "created": 1744445346,
        "model": "qwen3", "system_fingerprint": "fp_ollama",
        "choices": [{"index": 0, "delta": {"role": "assistant", "content": content, **more},
                     "finish_reason": finish}],
    }  # fmt: skip


CHOICELESS = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}

SHAPES = {
    "openai": Shape(
        "OpenAI API reference, chat completion chunk object; stream_options.include_usage",
        stream(
            openai_chunk({"role": "assistant", "content": "", "refusal": None}),
            openai_chunk({"content": "9.9"}),
            openai_chunk({}, "stop"),
            {**openai_chunk({}), "choices": [], "usage": OPENAI_USAGE},
        ),
        text="9.9", counts=Counts(2006, 300, 1920, 256, "server"), tier="default",
    ),
    "openai refusal": Shape(
        "OpenAI guide on structured outputs: a refusal is a field of its own",
        stream(
            openai_chunk({"role": "assistant", "content": None, "refusal": ""}),
            openai_chunk({"refusal": "I'm sorry, "}),
            openai_chunk({"refusal": "no."}),
            openai_chunk({}, "stop"),
        ),
        refusal="I'm sorry, no.", events=2, tier="default",
    ),
    "azure": Shape(
        "pydantic/pydantic-ai#797 and langchain-ai/langchain#18977: a first chunk of filter results"
        " without choices, and with the asynchronous filter one without delta",
        stream(
            {"choices": [], "created": 0, "id": "", "model": "", "object": "",
             "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": FILTERS}]},
            openai_chunk({"role": "assistant", "content": "", "refusal": None}),
            {**openai_chunk({}), "choices": [{"index": 0, "delta": {"content": "Hi"},
             "finish_reason": None, "content_filter_results": FILTERS}]},
            {"id": "", "object": "", "created": 0, "model": "", "choices": [
                {"finish_reason": None, "index": 0, "content_filter_results": FILTERS,
                 "content_filter_offsets": {"check_offset": 44, "start_offset": 44,
                                            "end_offset": 198}}], "usage": None},
            openai_chunk({}, "stop"),
        ),
        text="Hi", tier="default",
    ),
    "gemini": Shape(
        "ogx-ai/ogx#5122: usage in every chunk as a running total, none at the end",
        stream(gemini({"content": "9"}, got=1, total=21),
               gemini({"content": ".9"}, "stop", 3, 23)),
        text="9.9", counts=Counts(20, 3, None, None, "server"), events=2, provider="google",
    ),
    "gemini thinking": Shape(
        "mozilla-ai/any-llm#1290: thoughts are in total_tokens and in no other count",
        stream(gemini({"content": "36"}, got=198, total=623),
               gemini({"content": ""}, "stop", 198, 623)),
        text="36", counts=Counts(20, 603, None, 405, "server"), provider="google",
    ),
    "gemini thoughts": Shape(
        "ai.google.dev/gemini-api/docs/openai, include_thoughts: marked in extra_content",
        stream(
            gemini({"content": "<thought>hm", "extra_content": {"google": {"thought": True}}}),
            gemini({"content": "36", "extra_content": {"google": {"thought_signature": "Ej"}}}),
            gemini({"content": ""}, "length", 4, 24),
        ),
        text="36", reasoning="<thought>hm", finish="length", events=2, provider="google",
        counts=Counts(20, 4, None, None, "server"),
    ),
    "gemini tools": Shape(
        "noho/dayu-agent#45, recorded: each call whole, without index",
        stream(
            gemini({"tool_calls": [
                {"extra_content": {"google": {"thought_signature": "Ej"}}, "id": "jm4owj31",
                 "function": {"arguments": '{"q":"a"}', "name": "search"}, "type": "function"},
                {"id": "k1", "type": "function",
                 "function": {"arguments": '{"q":"b"}', "name": "search"}}]}),
            gemini({"tool_calls": [{"id": "k2", "type": "function",
                                    "function": {"arguments": "{}", "name": "stop"}}]}),
            gemini({}, "tool_calls", 9, 29),
        ),
        calls=(("search", '{"q":"a"}'), ("search", '{"q":"b"}'), ("stop", "{}")),
        finish="tool_calls", events=2, counts=Counts(20, 9, None, None, "server"),
    ),
    "claude": Shape(
        "platform.claude.com/docs, OpenAI SDK compatibility: usage details are always empty",
        stream(
            {**CHOICELESS, "choices": [{"index": 0, "finish_reason": None, "logprobs": None,
             "delta": {"role": "assistant", "content": "Hi"}}], "usage": None},
            {**CHOICELESS, "choices": [{"index": 0, "finish_reason": "length", "delta": {}}]},
            {**CHOICELESS, "choices": [], "usage": {
                "completion_tokens": 8, "prompt_tokens": 14, "total_tokens": 22,
                "completion_tokens_details": None, "prompt_tokens_details": None}},
        ),
        text="Hi", finish="length", counts=Counts(14, 8, None, None, "server"),
    ),
    "claude's own names": Shape(
        "platform.claude.com/docs, prompt caching: input_tokens leave out what a cache served or"
        " keeps; gateways pass these names on",
        stream(
            {**CHOICELESS, "choices": [{"index": 0, "delta": {"content": "Hi"}}]},
            {**CHOICELESS, "choices": [{"index": 0, "delta": {}, "finish_reason": "end_turn"}],
             "usage": {"input_tokens": 50, "output_tokens": 503,
                       "cache_read_input_tokens": 100_000, "cache_creation_input_tokens": 248}},
        ),
        text="Hi", counts=Counts(100_298, 503, 100_000, None, "server"),
    ),
    "vllm": Shape(
        "vLLM, entrypoints/openai/protocol.py: role chunk first, continuous_usage_stats",
        stream(
            vllm({"role": "assistant", "content": ""}, got=0),
            vllm({"reasoning_content": "Let", "content": None}, got=1),
            vllm({"reasoning": "'s"}, got=2),
            vllm({"content": "36"}, got=3),
            vllm({"content": ""}, "stop", got=4),
            {**vllm({}, got=4), "choices": []},
        ),
        text="36", reasoning="Let's", counts=Counts(14, 4, None, None, "server"), events=3,
    ),
    "sglang": Shape(
        "SGLang, entrypoints/openai: reasoning_content null beside content, reasoning_tokens flat",
        stream(
            vllm({"role": "assistant", "content": "", "reasoning_content": None}),
            vllm({"role": None, "content": None, "reasoning_content": "hm", "tool_calls": None}),
            vllm({"role": None, "content": "36", "reasoning_content": None, "tool_calls": None}),
            vllm({"content": None}, "stop"),
            {**vllm({}), "choices": [], "usage": {
                "prompt_tokens": 14, "total_tokens": 21, "completion_tokens": 7,
                "prompt_tokens_details": {"cached_tokens": 8}, "reasoning_tokens": 5}},
        ),
        text="36", reasoning="hm", counts=Counts(14, 7, 8, 5, "server"), events=2,
    ),
    "llama.cpp": Shape(
        "llama.cpp, tools/server/server-task.cpp: timings in the last chunk, no usage asked for",
        stream(
            llamacpp({"role": "assistant", "content": None}),
            llamacpp({"content": "a"}), llamacpp({"content": "b"}),
            llamacpp({}, "length", timings=TIMINGS),
        ),
        text="ab", finish="length", counts=Counts(48, 2, 36, None, "server"), events=2,
    ),
    "llama.cpp with usage": Shape(
        "llama.cpp, tools/server/server-task.cpp: usage stands, whatever timings say",
        stream(
            llamacpp({"role": "assistant", "content": None}), llamacpp({"content": "a"}),
            llamacpp({}, "stop"),
            {**llamacpp({}), "choices": [], "timings": TIMINGS, "usage": {
                "completion_tokens": 2, "prompt_tokens": 48, "total_tokens": 50}},
        ),
        text="a", counts=Counts(48, 2, None, None, "server"),
    ),
    "ollama": Shape(
        "ollama/ollama, openai/openai.go: the role in every chunk, `reasoning`, and a last chunk"
        " with text beside its finish_reason",
        stream(
            ollama("", reasoning="Hm"), ollama("3"), ollama("6", "stop"),
            {**ollama(""), "choices": [], "usage": {
                "prompt_tokens": 26, "completion_tokens": 298, "total_tokens": 324}},
        ),
        text="36", reasoning="Hm", counts=Counts(26, 298, None, None, "server"), events=3,
    ),
    "deepseek": Shape(
        "api-docs.deepseek.com, chat completion: prompt_cache_hit_tokens",
        stream(
            vllm({"role": "assistant", "content": "", "reasoning_content": "Hm"}),
            vllm({"content": "36", "reasoning_content": None}),
            {**vllm({"content": ""}, "stop"), "usage": {
                "prompt_tokens": 90, "completion_tokens": 4, "total_tokens": 94,
                "prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 26}},
        ),
        text="36", reasoning="Hm", counts=Counts(90, 4, 64, None, "server"), events=2,
    ),
    "moonshot": Shape(
        "platform.moonshot.ai/docs, streaming: usage within the last choice",
        stream(
            vllm({"role": "assistant", "content": ""}), vllm({"content": "36"}),
            {**CHOICELESS, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": {
                "prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10,
                "cached_tokens": 8}}]},
        ),
        text="36", counts=Counts(9, 1, 8, None, "server"),
    ),
    "a gateway's sums": Shape(
        "router-for-me/CLIProxyAPI#5733: reasoning is in no count but its own and the total",
        stream(vllm({"content": "36"}), {**vllm({}, "STOP"), "usage": {
            "completion_tokens": 0, "total_tokens": 81, "prompt_tokens": 21,
            "completion_tokens_details": {"reasoning_tokens": 60}}}),
        text="36", counts=Counts(21, 60, None, 60, "server"),
    ),
    "a total that says nothing": Shape(
        "elsewhere, a total larger than its parts is nobody's reasoning",
        stream(vllm({"content": "36"}), {**vllm({}, "stop"), "usage": {
            "completion_tokens": 2, "total_tokens": 81, "prompt_tokens": 21}}),
        text="36", counts=Counts(21, 2, None, None, "server"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_the_shape_of_a_stream(name: str) -> None:
    shape = SHAPES[name]
    answer = read(shape.body)
    assert answer.malformed is None
    assert answer.text == shape.text
    assert "".join(answer.parts.get("reasoning", ())) == shape.reasoning
    assert answer.said.refusal == shape.refusal
    assert answer.said.calls == shape.calls
    assert answer.said.finish_reason == shape.finish
    assert len(answer.event_ns) == shape.events
    assert answer.service_tier == shape.tier
    counts = usage_of(answer, None, model(shape.provider, "gemini-3.1-flash-lite"))
    if shape.counts.source == "server":
        assert counts == shape.counts
    else:  # nothing was said: what could be counted here was
        assert counts.source != "server"
    assert FirstToken().feed(shape.body) == (shape.events > 0)


@pytest.mark.parametrize("value", [None, [], "x", 7, {"prompt_n": "12"}, {"predicted_n": -1}])
@pytest.mark.parametrize("where", ["timings", "service_tier", "extra_content", "usage"])
def test_a_field_of_another_type_is_passed_over(where: str, value: object) -> None:
    event: dict[str, Any] = {"choices": [{"index": 0, "delta": {"content": "a"}}]}
    place = {"extra_content": event["choices"][0]["delta"], "usage": event["choices"][0]}
    place.get(where, event)[where] = value
    answer = read(stream(event, vllm({"content": "b"}, "stop")))
    assert answer.malformed is None
    assert answer.text == "ab"
    assert (answer.input_tokens, answer.output_tokens) == (None, None)


def test_pieces_of_a_call_without_number_go_on_with_the_last() -> None:
    def piece(**function: str) -> dict:
        return vllm({"tool_calls": [{"function": function}]})

    answer = read(stream(
        piece(arguments="lost"), piece(name="a", arguments="{"), piece(arguments="}"),
        piece(name="b", arguments="{}"), vllm({}, "tool_calls"),
    ))  # fmt: skip
    assert answer.said.calls == (("", "lost"), ("a", "{}"), ("b", "{}"))


# -- refusals --------------------------------------------------------------------------------------

QUOTA_PER_DAY = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"
QUOTA_PER_MINUTE = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"


def google_429(quota: str) -> list:
    return [{"error": {
        "code": 429, "message": "You exceeded your current quota.", "status": "RESOURCE_EXHAUSTED",
        "details": [
            {"@type": "type.googleapis.com/google.rpc.QuotaFailure",
             "violations": [{"quotaMetric": "x", "quotaId": quota}]},
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "53s"},
        ]}}]  # fmt: skip


MAX_TOKENS_REFUSED = (
    "Unsupported parameter: 'max_tokens' is not supported with this model."
    " Use 'max_completion_tokens' instead."
)

# status, body, (outcome, cause, words of the message), source
REFUSALS = [
    (400, {"error": {"message": MAX_TOKENS_REFUSED, "type": "invalid_request_error",
                     "param": "max_tokens", "code": "unsupported_parameter"}},
     ("rejected", "unsupported_parameter", "`output_cap: max_completion_tokens`"),
     "OpenAI's reasoning models"),
    (400, {"error": {"message": "Unknown parameter: 'stream_options'.", "param": "stream_options",
                     "type": "invalid_request_error", "code": "unknown_parameter"}},
     ("rejected", "unknown_parameter", "`stream_usage: false`"), "QuantumNous/new-api#418"),
    (422, {"object": "error", "type": "invalid_request_error", "param": None, "code": None,
           "message": {"detail": [{"type": "extra_forbidden", "input": True,
                                   "loc": ["body", "stream_options", "include_usage"],
                                   "msg": "Extra inputs are not permitted"}]}},
     ("rejected", "invalid_request_error", "`stream_usage: false`"),
     "Mistral, openai/openai-agents-python#442"),
    (400, {"detail": "Extra parameters ['stream_options'] are not allowed when extra-parameters"
                     " is not set or set to be 'error'."},
     ("rejected", "400", "`stream_usage: false`"), "Azure AI, CherryHQ/cherry-studio#9214"),
    (400, {"object": "error", "message": "Unrecognized request argument: max_completion_tokens",
           "type": "BadRequestError", "param": None, "code": 400},
     ("rejected", "BadRequestError", "`output_cap: max_tokens`"),
     "vLLM's unwrapped error, before it knew the field"),
    (400, {"error": {"message": "max_tokens is too large: 9000. This model supports at most 4096",
                     "type": "invalid_request_error", "param": "max_tokens", "code": None}},
     ("rejected", "invalid_request_error", "at most 4096"), "no field is refused: no remedy"),
    (400, {"error": {"code": 400, "type": "exceed_context_size_error", "n_prompt_tokens": 9412,
                     "n_ctx": 8192, "message": "request (9412 tokens) exceeds the available context"
                                               " size (8192 tokens), try increasing it"}},
     ("rejected", "exceed_context_size_error", "9412 tokens"), "llama.cpp, server-context.cpp"),
    (400, [{"error": {"code": 400, "status": "INVALID_ARGUMENT",
                      "message": "Request contains an invalid argument."}}],
     ("rejected", "INVALID_ARGUMENT", "contains an invalid argument"),
     "Gemini, google-gemini/gemini-cli#3859: in a list"),
    (429, google_429(QUOTA_PER_MINUTE),
     ("throttled", "429", "You exceeded your current quota."), "googleapis/python-genai#1875"),
    (429, google_429(QUOTA_PER_DAY), ("throttled", "quota", "quota"), "dcdpr/jp#1061: in vain"),
    (429, {"error": {"message": "You exceeded your current quota", "type": "insufficient_quota",
                     "param": None, "code": "insufficient_quota"}},
     ("throttled", "quota", "quota"), "OpenAI's error codes"),
    (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
     ("throttled", "529", "Overloaded"), "Claude's errors"),
    (400, {"error": {"message": "The response was filtered", "type": None, "param": "prompt",
                     "code": "content_filter", "status": 400,
                     "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
     ("rejected", "content_filter", "filtered"), "Azure's content filter"),
    (404, "404 page not found", ("rejected", "404", "404"), "Ollama's router: no JSON"),
    (404, {"error": {"message": "model 'x' not found", "type": "not_found_error", "param": None,
                     "code": None}},
     ("rejected", "not_found_error", "model 'x' not found"), "Ollama"),
    (400, [], ("rejected", "400", ""), "nothing"),
    (400, {"error": ["a"]}, ("rejected", "400", ""), "no object"),
    (429, [{"error": {"code": 429, "details": [[], {"violations": [1, {"quotaId": ["PerDay"]}]},
                                               {"violations": {}}]}}],
     ("throttled", "quota", ""), "details of any shape"),
]  # fmt: skip


@pytest.mark.parametrize("row", REFUSALS, ids=[row[3] for row in REFUSALS])
def test_the_shape_of_a_refusal_without_the_sdk(row: tuple) -> None:
    """As a user's own code has it: there is only the tape."""
    status, body, (what, cause, words), _source = row
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    tape = Tape.of([(1, data)], status=status, headers={"content-type": "application/json"})
    found = outcome_of(tape, Answer(), None)
    assert (found[0].value, found[1]) == (what, cause)
    assert words in found[2]
    assert ("(write `" in found[2]) == ("`" in words)


@pytest.mark.parametrize("row", REFUSALS, ids=[row[3] for row in REFUSALS])
def test_the_shape_of_a_refusal(plain_child: Driver, faulty: FaultyServer, row: tuple) -> None:
    """As the SDK reads it."""
    status, body, (what, cause, words), _source = row
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    faulty.extra["refuses"] = says(sized(data, f"{status} No"))
    sample = plain_child.one(faulty.url("refuses"))
    assert (sample["outcome"], sample["cause"]) == (what, cause)
    assert sample["error"]
    if "`" not in words:  # a long error is cut for people, its remedy with it
        assert words in sample["error"]


def test_a_remedy_is_not_cut_off() -> None:
    assert outcome._remedy(400, MAX_TOKENS_REFUSED).count("`") == 2


# -- what is sent ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "cap", "usage", "reason"),
    [
        ({}, "max_tokens", True, "the plain request"),
        ({"provider": "openai", "wire": "o3"}, "max_completion_tokens", True, "reasoning models"),
        ({"provider": "azure", "wire": "gpt-5"}, "max_completion_tokens", True, "on Azure too"),
        ({"provider": "mistral"}, "max_tokens", False, "Mistral refuses stream_options"),
        ({"provider": "mistral", "stream_usage": True}, "max_tokens", True, "the scenario decides"),
        ({"output_cap": "max_completion_tokens"}, "max_completion_tokens", True, "here as well"),
        ({"provider": "openai", "wire": "o3", "output_cap": "max_tokens"}, "max_tokens", True, "…"),
        ({"stream_usage": False}, "max_tokens", False, "…"),
    ],
)
def test_the_request_is_as_the_model_wants_it(
    plain_child: Driver, fields: dict, cap: str, usage: bool, reason: str
) -> None:
    body = plain_child.do("prepare", "http://127.0.0.1:1/v1", model=fields)["value"]["body"]
    assert [key for key in body if key.startswith("max_")] == [cap], reason
    assert ("stream_options" in body) is usage


KEY = {"api_key_env": "K", "name": "m"}
AZURE = {**KEY, "provider": "azure", "api_version": "2024-10-21"}


@pytest.mark.parametrize("mode", ["tape", "sdk"])
@pytest.mark.parametrize(
    ("fields", "path", "target", "headers"),
    [
        (AZURE, "/openai/deployments/my-4o",
         "/openai/deployments/my-4o/chat/completions?api-version=2024-10-21",
         {"api-key": "secret", "authorization": None}),
        ({**AZURE, "auth": "bearer"}, "/openai/deployments/my-4o",
         "/openai/deployments/my-4o/chat/completions?api-version=2024-10-21",
         {"api-key": None, "authorization": "Bearer secret"}),
        (AZURE, "/gateway/deployments/x",
         "/gateway/deployments/x/chat/completions?api-version=2024-10-21",
         {"api-key": "secret", "authorization": None}),
        ({**KEY, "auth": "api-key"}, "/openai/v1", "/openai/v1/chat/completions",
         {"api-key": "secret", "authorization": None}),
        ({**KEY}, "/openai/v1", "/openai/v1/chat/completions",
         {"api-key": None, "authorization": "Bearer secret"}),
    ],
    ids=["a deployment", "with a token", "behind a gateway", "v1 with api-key", "v1"],
)  # fmt: skip
def test_azures_urls_and_headers(
    plain_child: Driver, faulty: FaultyServer, mode: str, fields: dict, path: str, target: str,
    headers: dict,
) -> None:  # fmt: skip
    base_url = faulty.url("ok").removesuffix("/v1") + path
    job = {"model": fields, "keys": {"K": "secret"}, "mode": mode}
    samples = plain_child.send(base_url, count=2, **job)
    assert [s["outcome"] for s in samples] == ["ok", "ok"]
    assert not plain_child.do("check", base_url, **job)["raised"]
    sent = [r for r in faulty.log.requests if r.method == "POST"]
    assert [r.target for r in sent] == ["/ok" + target] * 2
    for request in sent:
        assert {name: request.headers.get(name) for name in headers} == headers
    if fields is AZURE and "openai" in path:
        listed = [r.target for r in faulty.log.requests if r.method == "GET"]
        assert listed == ["/ok/openai/models?api-version=2024-10-21"]


def test_azures_live_sdk(gevent_child: Driver, faulty: FaultyServer) -> None:
    base_url = faulty.url("ok").removesuffix("/v1") + "/openai/deployments/my-4o"
    result = gevent_child.do(
        "live", base_url, model=AZURE, keys={"K": "secret"}, script="stop-early"
    )
    assert result["value"] == ["a"]
    (sample,) = result["samples"]
    assert sample["outcome"] == "ok"
    assert faulty.log.requests[0].headers["api-key"] == "secret"


def test_an_azure_resource_gets_the_deployment_of_the_models_name() -> None:
    def found(**fields: str) -> Model:
        return resolve(ModelSpec(name="gpt-4o", **fields), today=TODAY)

    azure = found(base_url="https://x.openai.azure.com", api_version="2024-10-21")
    assert azure.base_url == "https://x.openai.azure.com/openai/deployments/gpt-4o"
    assert (azure.provider, azure.api_key_env) == ("azure", "AZURE_OPENAI_API_KEY")
    assert azure.status == "active"  # OpenAI's own dates say nothing of Azure's
    assert azure.priced
    assert azure.exact
    other = found(base_url="https://x.openai.azure.com/openai", api_version="v", model="a b/c")
    assert other.base_url.endswith(".com/openai/deployments/a%20b%2Fc")
    assert not other.priced
    whole = "https://x.openai.azure.com/openai/deployments/mine"
    assert found(base_url=whole, api_version="v").base_url == whole
    v1 = found(base_url="https://x.services.ai.azure.com/openai/v1")
    assert v1.base_url == "https://x.services.ai.azure.com/openai/v1"
    assert v1.provider == "azure"
    mine = found(base_url="https://apim.example.com", api_version="v")
    assert (mine.provider, mine.own) == (None, True)


@pytest.mark.parametrize(
    ("url", "key", "reason"),
    [
        ("https://x.openai.azure.com/openai/v1", "AZURE_OPENAI_API_KEY", "Azure's own"),
        ("https://x.openai.azure.com:443/openai/v1", "AZURE_OPENAI_API_KEY", "the same port"),
        ("http://x.openai.azure.com/openai/v1", None, "for everyone on the way to read"),
        ("https://x.openai.azure.com:8080/openai/v1", None, "another server"),
        ("http://x.openai.azure.com:8080/openai/v1", None, "both"),
        ("http://x.openai.azure.com:443/openai/v1", None, "the port does not make it TLS"),
        ("https://x.openai.azure.com.example.com/v1", None, "another name"),
    ],
)
def test_azures_key_only_goes_where_azure_is(url: str, key: str | None, reason: str) -> None:
    assert resolve(ModelSpec(name="gpt-4o", base_url=url), today=TODAY).api_key_env == key, reason
    named = ModelSpec(name="gpt-4o", base_url=url, api_key_env="MINE")
    assert resolve(named, today=TODAY).api_key_env == "MINE", "who names one decides"


# -- rate limits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["tape", "sdk"])
def test_what_a_response_says_of_limits_is_in_the_sample(
    plain_child: Driver, faulty: FaultyServer, mode: str
) -> None:
    headers = ("x-ratelimit-limit-requests: 60", "X-RateLimit-Remaining-Requests: 59",
               "x-ratelimit-reset-requests: 1s", "x-ratelimit-remaining-tokens: many")  # fmt: skip
    faulty.extra["limited"] = says(*(head("200 OK", CHUNKED, *headers), *GOOD[1:]))
    faulty.extra["waits"] = says(
        sized(json.dumps(google_429(QUOTA_PER_MINUTE)).encode(), "429 No", *headers)
    )
    prompt = {"tokens": 9, "max_tokens": 16, "extra_body": {"n": 2}}
    good = plain_child.one(faulty.url("limited"), mode=mode, prompt=prompt)
    limits = {"requests_limit": 60, "requests_remaining": 59, "requests_reset_ms": 1000}
    assert good["rate_limit"] == limits
    assert good["reserved_tokens"] == 9 + 2 * 16
    assert good["retry_after_ms"] is None
    refused = plain_child.one(faulty.url("waits"), mode=mode, prompt=prompt)
    assert (refused["outcome"], refused["retry_after_ms"]) == ("throttled", 53_000)
    assert refused["rate_limit"] == limits
    assert refused["reserved_tokens"] == 41, "the prompt is known though no usage came"
    plain = plain_child.one(faulty.url("ok"), mode=mode)
    assert plain["rate_limit"] is None
    assert plain["reserved_tokens"] == 7 + 16, "a task's own words: as the server counted them"
