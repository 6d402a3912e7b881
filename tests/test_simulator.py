"""The simulator's answers as its clients see them: over sockets, from a process of its own."""

from __future__ import annotations

import json

import jsonschema
import pytest
from simulator_client import USER, ask, body, content, counter, deltas, get, post, stream

from loadlib import tokens

# --- the shape of answers ------------------------------------------------------------------------


def test_a_stream_has_a_role_then_tokens_then_a_reason_then_usage(simulator):
    chunks = stream(simulator, max_tokens=7, stream_options={"include_usage": True})
    role, *_, finish, usage, done = chunks
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert [len(c["choices"]) for c in chunks[:-2]] == [1] * 9
    assert finish["choices"][0]["delta"] == {}
    assert finish["choices"][0]["finish_reason"] == "length"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 7
    assert usage["usage"]["prompt_tokens"] == tokens.chat_tokens(USER, "o200k_base")
    assert done == "[DONE]"
    assert all(c["usage"] is None for c in chunks[:-2])
    assert len({(c["id"], c["created"], c["model"], c["object"]) for c in chunks[:-1]}) == 1
    assert role["object"] == "chat.completion.chunk"


def test_usage_is_only_streamed_when_asked_for(simulator):
    assert not any("usage" in c for c in stream(simulator, max_tokens=3)[:-1])


def test_streamed_and_whole_answers_are_the_same(simulator):
    whole = ask(simulator, max_tokens=40)
    chunks = stream(simulator, max_tokens=40)
    assert whole["object"] == "chat.completion"
    assert whole["choices"][0]["message"]["content"] == content(chunks)
    assert whole["choices"][0]["finish_reason"] == "length"
    assert whole["usage"]["total_tokens"] == whole["usage"]["prompt_tokens"] + 40


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("model", ["gpt-4o-mini", "gpt-4"])
@pytest.mark.parametrize("count", [1, 2, 5, 64, 1000, 9000])
def test_the_text_has_exactly_the_tokens_it_says(simulator, field, model, count):
    answer = ask(simulator, model=model, **{field: count})
    encoding = "cl100k_base" if model == "gpt-4" else "o200k_base"
    assert answer["usage"]["completion_tokens"] == count
    assert tokens.count(answer["choices"][0]["message"]["content"], encoding) == count


def test_without_a_cap_an_answer_ends_by_itself(simulator):
    answer = ask(simulator)
    assert answer["choices"][0]["finish_reason"] == "stop"
    text = answer["choices"][0]["message"]["content"]
    assert tokens.count(text, "o200k_base") == answer["usage"]["completion_tokens"]


def test_min_tokens_and_ignore_eos_make_an_answer_longer(simulator):
    assert ask(simulator, min_tokens=300)["usage"]["completion_tokens"] == 300
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "boolean"}}}
    short = ask(simulator, max_tokens=50, response_format=schema)
    full = ask(simulator, max_tokens=50, response_format=schema, ignore_eos=True)
    assert short["usage"]["completion_tokens"] < 5
    assert short["choices"][0]["finish_reason"] == "stop"
    assert full["usage"]["completion_tokens"] == 50
    assert isinstance(json.loads(full["choices"][0]["message"]["content"]), bool)


def test_stop_strings_end_the_text_before_them(simulator):
    text = ask(simulator, max_tokens=60)["choices"][0]["message"]["content"]
    stop = text[30:36]
    answer = ask(simulator, max_tokens=60, stop=[stop, "\u2603"])
    assert answer["choices"][0]["message"]["content"] == text[: text.index(stop)]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] < 60
    assert content(stream(simulator, max_tokens=60, stop=stop)) == text[: text.index(stop)]
    late = ask(simulator, max_tokens=60, stop=".", min_tokens=50)
    assert late["usage"]["completion_tokens"] >= 50


def test_answers_depend_on_the_prompt_and_the_seed_only(simulator, simulators):
    def text(base_url, prompt="Hello", **fields):
        messages = [{"role": "user", "content": prompt}]
        answer = ask(base_url, messages=messages, max_tokens=50, **fields)
        return answer["choices"][0]["message"]["content"]

    other = simulators("--profile", "instant", "--seed", "9").base_url
    same = simulators("--profile", "instant", fresh=True).base_url
    assert text(simulator) == text(simulator, temperature=0.1) == text(same)
    assert text(simulator) != text(simulator, "Hello!")
    assert text(simulator) != text(other)


def test_identifiers_repeat_with_the_seed(simulators):
    def identifiers(simulator):
        answers = [post(simulator.base_url, max_tokens=1) for _ in range(3)]
        return [(h["x-request-id"], json.loads(d)["id"]) for _, h, d in answers]

    first, second = (simulators("--profile", "instant", fresh=True) for _ in range(2))
    assert identifiers(first) == identifiers(second)
    assert len(set(identifiers(first))) == 3


# --- the planted fact ----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [4, 5, 6, 64])
def test_the_planted_code_opens_the_answer_and_the_count_is_kept(simulator, count):
    planted = "Rain. The vault code is 4821-7730. More rain. The vault code is 1111-2222."
    question = "What is the vault code? Reply with the code only."
    messages = [{"role": "user", "content": f"{planted}\n\n{question}"}]
    answer = ask(simulator, messages=messages, max_tokens=count)
    text = answer["choices"][0]["message"]["content"]
    assert text.startswith("4821-7730"[: len(text)])
    assert len(text) >= 9 or count < 5
    assert answer["usage"]["completion_tokens"] == count
    assert tokens.count(text, "o200k_base") == tokens.count(text, "cl100k_base") == count
    parts = [{"type": "text", "text": planted}, {"type": "text", "text": question}]
    assert content(
        stream(simulator, messages=[{"role": "user", "content": parts}], max_tokens=64)
    ).startswith("4821-7730")


def test_a_code_nobody_asks_for_is_not_told(simulator):
    messages = [{"role": "user", "content": "The vault code is 4821-7730. How are you?"}]
    text = ask(simulator, messages=messages)["choices"][0]["message"]["content"]
    assert "4821" not in text


# --- tools and JSON ------------------------------------------------------------------------------

RECEIPT = {
    "type": "object",
    "properties": {
        "total": {"type": "number", "minimum": 0},
        "currency": {"enum": ["EUR", "USD"]},
        "items": {"type": "array", "minItems": 2, "items": {"$ref": "#/$defs/item"}},
        "naïve": {"type": ["string", "null"]},
    },
    "required": ["total", "currency", "items", "naïve"],
    "additionalProperties": False,
    "$defs": {
        "item": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "minLength": 30},
                "count": {"type": "integer", "minimum": 3, "maximum": 4},
                "parts": {"type": "array", "items": {"$ref": "#/$defs/item"}},
            },
            "required": ["name", "count", "parts"],
        }
    },
}
SCHEMAS = [
    RECEIPT,
    {"type": "integer", "exclusiveMinimum": 5, "multipleOf": 7},
    {"type": "number", "exclusiveMinimum": 0.001, "exclusiveMaximum": 0.002},
    {"type": "integer", "maximum": -3},
    {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]},
    {"allOf": [{"properties": {"a": {"const": 1}}}, {"required": ["a", "b"]}], "type": "object"},
    {"type": "array", "prefixItems": [{"type": "boolean"}, {"type": "null"}]},
    {"type": "string", "maxLength": 3},
    {"$ref": "#/$defs/node", "$defs": {"node": {"type": "object", "required": ["next"],
     "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}}}},
]  # fmt: skip


@pytest.mark.parametrize("schema", SCHEMAS, ids=range(len(SCHEMAS)))
def test_a_json_schema_answer_satisfies_the_schema(simulator, schema):
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = ask(simulator, response_format=wanted)
    text = answer["choices"][0]["message"]["content"]
    jsonschema.validate(json.loads(text), schema)
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == tokens.count(text, "o200k_base")
    assert content(stream(simulator, response_format=wanted)) == text


def test_a_json_object_answer_is_an_object_and_a_cap_cuts_it(simulator):
    whole = ask(simulator, response_format={"type": "json_object"})["choices"][0]
    assert isinstance(json.loads(whole["message"]["content"]), dict)
    cut = ask(simulator, response_format={"type": "json_object"}, max_tokens=3)["choices"][0]
    assert cut["finish_reason"] == "length"
    assert whole["message"]["content"].startswith(cut["message"]["content"])


TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "parameters": RECEIPT}},
    {"type": "function", "function": {"name": "now"}},
]


def test_tools_are_called_whole_and_in_deltas(simulator):
    choice = ask(simulator, tools=TOOLS, max_tokens=500)["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert (call["type"], call["function"]["name"]) == ("function", "get_weather")
    jsonschema.validate(json.loads(call["function"]["arguments"]), RECEIPT)

    chunks = stream(simulator, tools=TOOLS, stream_options={"include_usage": True})
    role, first, *rest = (d for d in deltas(chunks) if d)
    assert role == {"role": "assistant", "content": None, "refusal": None}
    assert first["tool_calls"][0]["id"] == call["id"]
    assert first["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": ""}
    streamed = "".join(d["tool_calls"][0]["function"]["arguments"] for d in rest)
    assert streamed == call["function"]["arguments"]
    assert chunks[-2]["usage"]["completion_tokens"] == 1 + len(rest)
    assert chunks[-3]["choices"][0]["finish_reason"] == "tool_calls"


def test_tool_choice_is_heeded(simulator):
    def message(**fields):
        return ask(simulator, tools=TOOLS, **fields)["choices"][0]["message"]

    named = message(tool_choice={"type": "function", "function": {"name": "now"}})
    assert named["tool_calls"][0]["function"] == {"name": "now", "arguments": "{}"}
    assert message(tool_choice="none")["content"]
    asked = message(tool_choice="required")
    assert asked["tool_calls"][0]["function"]["name"] == "get_weather"
    told = [*USER, {"role": "assistant", **asked}, {"role": "tool", "content": "sunny"}]
    assert "tool_calls" not in message(messages=told)


# --- what is refused -----------------------------------------------------------------------------

REFUSED = [
    (b"{", 400, None, None),
    (b"\xff\xfe", 400, None, None),
    (b"[]", 400, None, None),
    (body(model=None), 400, "model", None),
    (body(model=""), 400, "model", None),
    (json.dumps({"messages": USER}).encode(), 400, "model", None),
    (json.dumps({"model": "gpt-4o"}).encode(), 400, "messages", None),
    (body(messages="hi"), 400, "messages", None),
    (body(messages=[]), 400, "messages", None),
    (body(messages=["hi"]), 400, "messages[0]", None),
    (body(messages=[{"content": "x"}]), 400, "messages[0].role", None),
    (body(messages=[{"role": "user", "content": 5}]), 400, "messages[0].content", None),
    (body(n=2), 400, "n", None),
    (body(max_tokens=0), 400, "max_tokens", None),
    (body(max_tokens="8"), 400, "max_tokens", None),
    (body(max_completion_tokens=-1), 400, "max_completion_tokens", None),
    (body(max_tokens=4, min_tokens=5), 400, "min_tokens", None),
    (body(stop=["a"] * 5), 400, "stop", None),
    (body(stop=""), 400, "stop", None),
    (body(tools=[]), 400, "tools", None),
    (body(tool_choice="required"), 400, "tool_choice", None),
    (body(tool_choice={"function": {"name": "x"}}), 400, "tool_choice", None),
    (body(response_format={"type": "xml"}), 400, "response_format.type", None),
    (
        body(response_format={"type": "json_schema"}),
        400,
        "response_format.json_schema.schema",
        None,
    ),
    (
        body(response_format={"type": "json_schema", "json_schema": {"schema": {"required": 5}}}),
        200,
        None,
        None,
    ),
    (
        body(
            response_format={
                "type": "json_schema",
                "json_schema": {"schema": {"type": "object", "properties": 5}},
            }
        ),
        400,
        "response_format",
        None,
    ),
]


@pytest.mark.parametrize(("data", "status", "param", "code"), REFUSED, ids=range(len(REFUSED)))
def test_a_bad_request_is_refused_in_openais_shape(simulator, data, status, param, code):
    answered, headers, text = post(simulator, data=data)
    assert answered == status
    if status == 200:
        return
    error = json.loads(text)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert error["message"]
    assert headers["x-request-id"].startswith("req_")


def test_unknown_models_and_paths_are_not_found(constant, simulators):
    strict = simulators("--profile", "instant", "--strict-models")
    for url in (constant.base_url, strict.base_url):
        status, _, data = post(url, model="gpt-5")
        assert (status, json.loads(data)["error"]["code"]) == (404, "model_not_found")
        assert get(url, "/v1/models/gpt-5")[0] == 404
    assert get(strict.base_url, "/v1/completions")[0] == 404
    assert get(strict.base_url, "/v1/chat/completions")[0] == 405


def test_a_request_beyond_the_window_is_refused(constant):
    prompt = tokens.chat_tokens(USER, "o200k_base")
    assert ask(constant.base_url, model="small", max_tokens=50 - prompt)
    for fields in ({"max_tokens": 51 - prompt}, {"min_tokens": 51 - prompt}):
        status, _, data = post(constant.base_url, model="small", **fields)
        error = json.loads(data)["error"]
        assert (status, error["code"]) == (400, "context_length_exceeded")
        assert "maximum context length is 50 tokens" in error["message"]
    uncapped = ask(constant.base_url, model="small")
    assert uncapped["usage"]["total_tokens"] == 50


def test_a_key_is_insisted_on_when_asked(simulators, monkeypatch):
    monkeypatch.setenv("SIM_TEST_KEY", "open-sesame")
    url = simulators("--profile", "instant", "--require-key", "SIM_TEST_KEY").base_url
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        status, _, data = post(url, headers=headers)
        assert (status, json.loads(data)["error"]["code"]) == (401, "invalid_api_key")
        assert get(url, "/v1/models", headers)[0] == 401
    right = {"Authorization": "Bearer open-sesame"}
    assert post(url, headers=right)[0] == get(url, "/v1/models", right)[0] == 200
    assert get(url, "/health")[0] == get(url, "/metrics")[0] == 200


# --- the other pages -----------------------------------------------------------------------------


def test_models_lists_the_profile_and_serves_any_name_beside(simulator):
    status, _, data = get(simulator, "/v1/models")
    models = json.loads(data)
    assert (status, models["object"]) == (200, "list")
    names = {model["id"] for model in models["data"]}
    assert {"gpt-4o-mini", "gpt-4o", "gpt-3.5-turbo", "gpt-4"} < names
    assert {"gemini-1.5-flash", "claude-3-haiku"} < names
    assert json.loads(get(simulator, "/v1/models/gpt-4")[2])["id"] == "gpt-4"
    assert ask(simulator, model="org/own:8b", max_tokens=1)["model"] == "org/own:8b"


def test_metrics_count_what_clients_got(simulators):
    url = simulators("--profile", "instant", fresh=True).base_url
    prompt = 0
    for count in (1, 5, 30):
        prompt += ask(url, max_tokens=count)["usage"]["prompt_tokens"]
        stream(url, max_tokens=count)
    ask(url, max_tokens=3, stop=" ")
    ask(url, model='odd"name', max_tokens=2)
    assert counter(url, "prompt_tokens_total", "gpt-4o-mini") == prompt * 2 + prompt / 3
    assert counter(url, "generation_tokens_total", "gpt-4o-mini") == 2 * 36 + 1
    assert counter(url, "generation_tokens_total", r"odd\"name") == 2
    success = {
        reason: counter(url, "request_success_total", "gpt-4o-mini", finished_reason=reason)
        for reason in ("stop", "length", "abort")
    }
    assert success == {"stop": 1, "length": 6, "abort": 0}
    assert counter(url, "num_requests_running", "gpt-4o-mini") == 0
    assert counter(url, "num_requests_waiting", "gpt-4o-mini") == 0
    for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds"):
        assert counter(url, f"{name}_count", "gpt-4o-mini") == 7
        assert counter(url, f"{name}_bucket", "gpt-4o-mini", le="+Inf") == 7
