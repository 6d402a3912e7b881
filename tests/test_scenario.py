"""Scenario files: what each key means, and the one line that every mistake gets."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadlib import scenario_yaml, units
from loadlib.backoff import Backoff
from loadlib.catalog import CATALOGUE
from loadlib.errors import ExitCode, ScenarioError, UsageError
from loadlib.lengths import TABLES, LogNormal, Table, Uniform
from loadlib.metrics import FLOORS
from loadlib.scenario import (
    Budget,
    ModelSpec,
    Phase,
    Price,
    Reach,
    Scenario,
    Timeouts,
    json_schema,
    load,
    parse,
    quick,
    to_yaml,
    with_measure,
    with_models,
)
from loadlib.scenario_lengths import MAX_TOKENS
from loadlib.schedule import S
from loadlib.workloads.chat import ChatSpec
from loadlib.workloads.long_context import LongContextSpec

SCENARIOS = sorted((Path(__file__).parent.parent / "scenarios").glob("*.yaml"))

TEXT = """\
version: 1
name: example
target: simulator
models:
  - gpt-4o-mini
  - name: local
    model: smollm2-135m
    base_url: http://127.0.0.1:8080/v1
    api_key_env: LOCAL_API_KEY
    context_window: 8192
    price: {input_usd_per_mtok: 0, output_usd_per_mtok: 0.5}
workloads:
  chat: {kind: chat, output_tokens: 128, weight: 90}
  long: {kind: long_context, prompt_tokens: [8k, 32Ki], output_tokens: 64, weight: 10}
load:
  - {phase: warmup, duration: 5s, arrival: closed, users: 10}
  - {phase: measure, duration: 150s, arrival: poisson, rate: 5/s, max_in_flight: 200}
slo:
  - "chat: ttft.p99 < 800ms, error_rate < 1%, goodput >= 95%"
  - local/long: ttft.p90 < 20s
budget: {max_usd: 2.50, max_output_tokens: 2M}
timeouts: {connect: 500ms, total: 5m}
seed: 7
"""


def test_every_key_means_what_it_says():
    scenario = parse(TEXT)
    assert (scenario.name, scenario.target, scenario.per) == ("example", "simulator", "model")
    assert (scenario.order, scenario.client, scenario.seed) == ("auto", "tape", 7)
    first, second = scenario.models
    assert first == ModelSpec(name="gpt-4o-mini")
    assert (second.model, second.base_url) == ("smollm2-135m", "http://127.0.0.1:8080/v1")
    assert (second.api_key_env, second.context_window) == ("LOCAL_API_KEY", 8192)
    assert second.price == Price(input_usd_per_mtok=0, output_usd_per_mtok=0.5)
    chat, long = scenario.workloads["chat"], scenario.workloads["long"]
    assert (chat.kind, chat.weight, chat.output_tokens) == ("chat", 90, (128,))
    assert chat.prompt_tokens is None
    assert long.prompt_tokens == (8000, 32768), "k is 1,000 and Ki is 1,024"
    warmup, measure = scenario.load
    assert (warmup.name, warmup.kind, warmup.duration_ns) == ("warmup", "warmup", 5 * S)
    assert (warmup.closed, warmup.users, warmup.label) == (True, 10, "closed, 10 users")
    assert (measure.rate, measure.max_in_flight, measure.when_full) == (5.0, 200, "wait")
    assert measure.label == "poisson 5/s"
    assert scenario.slo[1] == "local/long: ttft.p90 < 20s", "unquoted, YAML sees a mapping"
    assert [objective.scope for objective in scenario.objectives] == ["chat"] * 3 + ["local/long"]
    assert scenario.budget == Budget(max_usd=2.5, max_output_tokens=2_000_000)
    assert scenario.timeouts == Timeouts(connect_s=0.5, first_token_s=60, idle_s=30, total_s=300)


def test_defaults():
    scenario = parse(
        "version: 1\nmodels: [gpt-4]\nworkloads: {c: {kind: chat}}\n"
        "load: [{phase: measure, requests: 1, arrival: closed, users: 1}]\n",
        "dir/nightly.yaml",
    )
    assert (scenario.name, scenario.target, scenario.seed) == ("nightly", None, 42)
    assert scenario.timeouts == Timeouts(connect_s=5, first_token_s=60, idle_s=30, total_s=300)
    assert (scenario.budget, scenario.slo) == (None, ())


SECOND = """phase: measure, name: again, requests: 9, arrival: closed, users: 1}
  - {phase: measure, name: again, duration: 150s"""

# What is replaced in TEXT, by what, the line of the error and a part of it.
FADING = "requests: 9, arrival: poisson, rate: [[0s, 2/s], [9s, 0/s]]"
FAINT = "duration: 9s, arrival: poisson, rate: [[0s, 0/s], [9s, 0.2/s]]"
MISTAKES = [
    ("seed: 7", "sede: 7", 23, "unknown key 'sede' (did you mean 'seed'?)"),
    ("seed: 7", "rate: 5/s", 23, "unknown key 'rate' (it belongs in load)"),
    ("weight: 10}", "wieght: 10}", 14, "unknown key 'wieght' in workloads.long (did you mean"),
    ("users: 10", "seed: 10", 16, "it belongs at the top"),
    ("input_usd_per_mtok", "input_usd_mtok", 11, "price.input_usd_per_mtok is missing (and 1"),
    ("seed: 7", "seed: 7\nseed: 8", 24, "duplicate key 'seed', first at line 23"),
    ("weight: 90", "weight: 90, weight: 9", 13, "duplicate key 'weight', first at line 13"),
    ("duration: 150s", "duration: -5s", 17, "a duration cannot be negative"),
    ("duration: 150s", "duration: -5", 17, "a duration cannot be negative"),
    ("duration: 150s", "duration: 150", 17, "write 150s or 150ms, not 150"),
    ("duration: 150s", "duration: '150'", 17, "write 150s or 150ms, not 150"),
    ("duration: 150s", "duration: 0s", 17, "should be more than 0"),
    ("duration: 150s", "duration: 2 fortnights", 17, "is not a duration"),
    ("duration: 150s", "requests: 0", 17, "requests: should be 1 or more"),
    ("duration: 150s", "duration: 100ms", 17, "plans no request at all"),
    ("duration: 150s, ", "", 17, "give exactly one of them"),
    ("duration: 150s", "duration: 9s, requests: 9", 17, "give exactly one of them"),
    ("rate: 5/s", "rate: 5", 17, "a rate needs a unit: write 5/s or 5/m"),
    ("rate: 5/s", "rate: 0/s", 17, "more than 0"),
    ("rate: 5/s, ", "", 17, "arrival: poisson needs a rate"),
    ("rate: 5/s", "rate: 5/s, users: 3", 17, "users means nothing with arrival: poisson"),
    (", users: 10", "", 16, "arrival: closed needs users"),
    ("users: 10", "users: 0", 16, "users: should be 1 or more"),
    ("users: 10", "users: 2, max_in_flight: 3", 16, "max_in_flight means nothing with arrival"),
    ("arrival: poisson", "arrival: poison", 17, "'poison' is not one of closed, constant, poi"),
    ("poisson, rate: 5/s", "gamma, rate: 5/s", 17, "arrival: gamma needs a shape: below 1 is"),
    ("poisson, rate: 5/s", "gamma, shape: 2", 17, "arrival: gamma needs a rate, such as 5/s"),
    ("poisson, rate", "gamma, shape: 0, rate", 17, "load.1.shape: should be 0.01 or more"),
    ("poisson, rate", "gamma, shape: 2x, rate", 17, "load.1.shape: should be a number"),
    ("rate: 5/s", "rate: 5/s, shape: 2", 17, "shape means nothing with arrival: poisson (arrival"),
    ("rate: 5/s", "rate: 5/s, speed: 2", 17, "speed means nothing with arrival: poisson (arrival"),
    ("users: 10", "users: 2, shape: 3", 16, "shape means nothing with arrival: closed"),
    ("arrival: poisson", "arrival: trace", 17, "rate means nothing with arrival: trace (the trace"),
    ("poisson, rate: 5/s", "trace", 17, "needs exactly one workload of kind: replay"),
    ("poisson, rate: 5/s", "trace, speed: 0", 17, "load.1.speed: should be more than 0"),
    ("rate: 5/s", "rate: [[0s, 2/s], [60, 9/s]]", 17, "load.1.rate.1: a duration needs a unit: wr"),
    ("rate: 5/s", "rate: [[0s, 2/s], [60s, 9]]", 17, "load.1.rate.1: a rate needs a unit: write 9"),
    ("rate: 5/s", "rate: [[0s, 2/s], [9/s, 60s]]", 17, "(a point is a time and a rate, such as ["),
    ("rate: 5/s", "rate: [0s, 2/s]", 17, "load.1.rate.0: a point is a time and a rate, such as"),
    ("rate: 5/s", "rate: []", 17, "load.1.rate: no point at all"),
    ("rate: 5/s", "rate: {0s: 2/s}", 17, "load.1.rate: should be a rate such as 5/s, or points"),
    ("rate: 5/s", "rate: [[1s, 2/s]]", 17, "load.1.rate.0: the first point stands at 0s"),
    ("rate: 5/s", "rate: [[0s, 2/s], [-1s, 3/s]]", 17, "cannot be negative"),
    (
        "rate: 5/s",
        "rate: [[0s, 2/s],\n  [9s, 3/s],\n  [8s, 3/s]]",
        19,
        "earlier than the one before",
    ),
    (
        "rate: 5/s",
        "rate: [[0s, 0/s], [9s, 0/s]]",
        17,
        "load.1.rate.0: the rate is 0 at every point",
    ),
    (
        "rate: 5/s",
        "rate: [[0s, 2/s],\n  [3m, 9/s]]",
        18,
        "the point at 180s lies beyond the durati",
    ),
    ("duration: 150s, arrival: poisson, rate: 5/s", FADING, 17, "the rate ends at 0/s, so the req"),
    ("duration: 150s, arrival: poisson, rate: 5/s", FAINT, 17, "plans no request at all"),
    (
        "chat, output_tokens: 128",
        "replay, data: t.csv, prompt_tokens: 9",
        13,
        "comes from the trace",
    ),
    ("chat, output_tokens: 128", "replay", 13, "replay needs data: the trace file"),
    ("weight: 10}", "data: t.csv}", 14, "data belongs to kind: chat or replay, not long_context"),
    ("phase: measure", "phase: warmup", 15, "no phase measures"),
    ("phase: measure, duration: 150s", SECOND, 18, "a second phase named 'again'"),
    ("version: 1", "version: 2", 1, "version"),
    ("version: 1\n", "", 1, "version is missing"),
    ("name: local", "name: gpt-4o-mini", 6, "a second model named 'gpt-4o-mini'"),
    ("name: local", "name: chat", 6, "'chat' is also a workload: rename one"),
    ("name: local", "name: ' local'", 6, "neither begins nor ends with a space"),
    ("chat: {kind", "all: {kind", 13, "'all' is the scope of everything"),
    ("weight: 90", "weight: 90, models: [locla]", 13, "unknown model 'locla' (did you mean 'loc"),
    ("weight: 90", "weight: '90'", 13, "workloads.chat.weight: should be a number"),
    ("weight: 90", "weight: -1", 13, "should be 0 or more"),
    ("weight: 90", "weight: .inf", 13, "should be a finite number"),
    ("weight: 90", "weight: true", 13, "should be a number"),
    ("weight: 90", "depth: 0.5", 13, "depth belongs to kind: long_context, not chat"),
    ("weight: 90", "extra_body: {stream: false}", 13, "stream is set by loadlib itself"),
    ("weight: 10}", "turns: 3}", 14, "turns belongs to kind: chat, not long_context"),
    ("weight: 10}", "depth: 1.5}", 14, "a share of the document from 0 to 1"),
    ("prompt_tokens: [8k, 32Ki], ", "", 14, "long_context needs prompt_tokens"),
    ("[8k, 32Ki]", "[8kb]", 14, "'8kb' is not a number: write 64, 8k (8,000) or 8Ki (8,192)"),
    ("[8k, 32Ki]", "[]", 14, "should not be an empty list"),
    ("[8k, 32Ki]", "-8k", 14, "cannot be negative"),
    ("[8k, 32Ki]", "1.5", 14, "should be a whole number"),
    ("kind: chat", "kind: chta", 13, "'chta' is not one of chat, extract, long_context"),
    ("http://127.0.0.1:8080/v1", "127.0.0.1:8080/v1", 8, "should be a URL such as"),
    ("http://127.0.0.1:8080/v1", "http://[::1/v1", 8, "should be a URL such as"),
    ("LOCAL_API_KEY", "a b", 9, "should be the name of an environment variable"),
    ("ttft.p99 <", "tttf.p99 <", 19, "slo.0: unknown metric 'tttf' (did you mean 'ttst'?)"),
    ("local/long:", "local/lnog:", 20, "unknown scope 'local/lnog' (did you mean 'local/long'?)"),
    ("ttft.p99 < 800ms, error", "error", 19, "nothing says what a good request is"),
    ("max_usd: 2.50, max_output_tokens: 2M", "", 21, "names no limit"),
    ("max_usd: 2.50", "max_usd: 0", 21, "should be more than 0"),
    ("connect: 500ms", "connect: 0.5", 22, "write 0.5s or 0.5ms"),
    ("seed: 7", "seed: 7.5", 23, "seed: should be a whole number"),
    ("seed: 7", "seed: -1", 23, "seed: should be 0 or more"),
    ("seed: 7", "per: modle", 23, "'modle' is not one of model, total (did you mean 'model'?)"),
    ("seed: 7", "seed: [", 24, "not YAML"),
    ("seed: 7", "\tseed: 7", 23, "not YAML"),
    ("seed: 7", "seed: !!python/name:os.system x", 23, "is not allowed"),
    ("seed: 7", "? [a]\n: 1", 23, "a key must be text"),
    ("name: example", "name: 2026", 2, "name: should be text"),
]


@pytest.mark.parametrize(("old", "new", "line", "message"), MISTAKES)
def test_mistakes_at_their_line(old, new, line, message):
    assert old in TEXT
    with pytest.raises(ScenarioError) as caught:
        parse(TEXT.replace(old, new, 1), "s.yaml")
    text = str(caught.value)
    assert message in text
    assert text.startswith(f"s.yaml:{line}: ")
    assert "\n" not in text
    assert caught.value.exit_code is ExitCode.USAGE


LENGTHS = [
    ("{uniform: [100, 2k]}", Uniform(100, 2_000), {"uniform": [100, 2_000]}),
    ("{lognormal: {p50: 500, p99: 8k}}", LogNormal(500, 8_000),
     {"lognormal": {"p50": 500, "p99": 8_000}}),
    ("{table: {p50: 1020, max: 9k, p99.9: 4142}}",
     Table(((0.5, 1_020), (0.999, 4_142), (1.0, 9_000))),
     {"table": {"p50": 1_020, "p99.9": 4_142, "max": 9_000}}),
    ("{table: {min: 1, p99_9: 4142}}", Table(((0.0, 1), (0.999, 4_142))),
     {"table": {"min": 1, "p99.9": 4_142}}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value", "written"), LENGTHS)
def test_lengths_are_drawn_from_what_is_written(text, value, written):
    plan = parse(
        TEXT.replace("[8k, 32Ki]", text).replace("output_tokens: 64", f"output_tokens: {text}")
    )
    spec = plan.workloads["long"]
    assert spec.prompt_tokens == spec.output_tokens == value
    assert plan.effective()["workloads"]["long"]["prompt_tokens"] == written
    assert parse(to_yaml(plan)) == plan
    jsonschema.validate(plan.effective(), json_schema())


def test_a_table_by_name_is_prompts_or_answers_by_the_key_it_stands_under():
    text = TEXT.replace("[8k, 32Ki]", "{table: azure-conv}")
    plan = parse(text.replace("output_tokens: 64", "output_tokens: {table: azure-conv}"))
    spec = plan.workloads["long"]
    assert (spec.prompt_tokens, spec.output_tokens) == TABLES["azure-conv"]
    assert spec.prompt_tokens != spec.output_tokens
    assert plan.effective()["workloads"]["long"]["output_tokens"] == {"table": "azure-conv"}
    assert parse(to_yaml(plan)) == plan
    jsonschema.validate(plan.effective(), json_schema())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{}", "should be a number, a list of numbers, or one of {uniform: …}"),
        ("{unifrom: [1, 2]}", "(did you mean 'uniform'?)"),
        ("{uniform: [1, 2], table: azure-conv}", "should be a number, a list of numbers, or one"),
        ("{uniform: 5}", "uniform: should be the lowest and the highest, such as [100, 2k]"),
        ("{uniform: [9, 5]}", "uniform: the lowest comes first, not 9 before 5"),
        ("{uniform: [0, 5]}", "uniform: should be 1 or more"),
        ("{lognormal: {p50: 5}}", "lognormal: should be {p50: …, p99: …}"),
        ("{lognormal: {p50: 5, p99: 4}}", "lognormal: p99 4 is below p50 5"),
        ("{lognormal: {p50: 5, p99: 8kb}}", "lognormal: '8kb' is not a number"),
        ("{table: azure-con}", "table: 'azure-con' is not one of azure-conv, azure-code"),
        ("{table: 7}", "table: should be one of azure-conv, azure-code"),
        ("{table: {}}", "table: should have two points or more"),
        ("{table: {p50: 5}}", "table: should have two points or more"),
        ("{table: {p50: 5, p90: 4}}", "table: should not fall: 4 comes after 5"),
        ("{table: {p50: 5, p50.0: 6}}", "table: names a quantile twice"),
        ("{table: {p50: 5, p100: 6}}", "table: 'p100' is not a quantile: write p50, p99.9, min"),
        ("{table: {p50: 5, p00: 6}}", "table: 'p00' is not a quantile"),
        ("{table: {p50: 5, mean: 6}}", "table: 'mean' is not a quantile"),
        ("{table: {p50: 5, p99: [6]}}", "table: should be a number such as 64 or 8k"),
    ],
)
def test_lengths_that_cannot_be_drawn(given, message):
    with pytest.raises(ScenarioError) as caught:
        parse(TEXT.replace("[8k, 32Ki]", given), "s.yaml")
    assert str(caught.value).startswith("s.yaml:14: workloads.long.prompt_tokens: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("prefix: shard", "prefix: should be one of unique, shared, warm, or {shared: 30 %} (did"),
        ("prefix: {shared: 0}", "prefix: shared: write prefix: unique"),
        ("prefix: {shared: 100 %}", "prefix: shared: write prefix: shared"),
        ("prefix: {shared: 130 %}", "prefix: should be a share such as 30 % or 0.3"),
        ("prefix: {shared: 30 %, n: 2}", "prefix: should be one of"),
        ("documents: 4", "documents: belongs to prefix: warm"),
        ("prefix: warm, documents: 1", "documents: should be 2 or more: one for each of prompt_t"),
        ("prefix: {shared: 30 %}, depth: 10 %", "depth: a fact in the 30 % that are shared could"),
        ("needles: 0", "needles: should be 1 or more"),
        ("needles: 17", "needles: should be 16 or less"),
        ("needles: 10", "output_tokens: 10 codes take 70 tokens of an answer"),
    ],
)
def test_documents_that_cannot_be_made(given, message):
    with pytest.raises(ScenarioError) as caught:
        parse(TEXT.replace("weight: 10}", f"{given}}}"), "s.yaml")
    assert str(caught.value).startswith("s.yaml:14: workloads.long.")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("given", "value", "written"),
    [
        ("prefix: {shared: 30 %}", 0.3, {"shared": "30 %"}),
        ("prefix: {shared: 0.125}", 0.125, {"shared": "12.5 %"}),
        ("prefix: warm, documents: 2", "warm", "warm"),
        ("prefix: shared", "shared", "shared"),
    ],
)
def test_prefixes_are_written_back_as_they_are_read(given, value, written):
    plan = parse(TEXT.replace("weight: 10}", f"{given}}}"))
    assert plan.workloads["long"].prefix == value
    assert plan.effective()["workloads"]["long"]["prefix"] == written
    assert parse(to_yaml(plan)) == plan
    jsonschema.validate(plan.effective(), json_schema())


def test_depths_are_shares_however_written():
    plan = parse(TEXT.replace("weight: 10}", "depth: [25 %, 0.5, 1]}"))
    assert plan.workloads["long"].depth == (0.25, 0.5, 1.0)


@pytest.mark.parametrize(
    ("text", "message", "why"),
    [
        ("", "is empty", "an empty file"),
        ("# nothing\n", "is empty", "a comment"),
        ("- a\n", "should be a mapping", "a list"),
        ("version: 1\n---\nversion: 1\n", "not YAML", "two documents"),
        ("a: " + "x" * (1 << 20), "larger than 256 KiB", "a data file by mistake"),
        ("[" * 1000, "nested too deeply", "a parser's stack"),
        ("a: &a [*a]\n", "nested too deeply", "a list inside itself"),
        ("a: \x00\n", "not YAML", "a binary file"),
        ("a: " + "9" * 5000, "is not a number", "an integer that takes a second to parse"),
        ('a: "\\ud800"\n', "half a character", "cannot be written to any file"),
        ("version: 1\nmodels: []\nworkloads: {}\nload: []\n", "should not be empty", "no model"),
    ],
)
def test_texts_that_are_no_scenario(text, message, why):
    with pytest.raises(ScenarioError) as caught:
        parse(text, "s.yaml")
    assert message in str(caught.value), why
    assert "\n" not in str(caught.value)


def test_aliases_are_fine_until_they_multiply():
    shared = TEXT.replace("output_tokens: 128", "output_tokens: &cap 128")
    shared = shared.replace("output_tokens: 64", "output_tokens: *cap")
    assert parse(shared).workloads["long"].output_tokens == (128,)
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
    )
    with pytest.raises(ScenarioError, match="too many values"):
        parse(bomb)


SECRETS = [
    "sk-proj-Ab3dEf6hIj9kLm2nOp5q",
    "sk-ant-api03-abcdefghijklmnop",
    "AIzaSyA1234567890abcdefghijklmnopqrstu",
    "gsk_abcdefghij0123456789ABCDEFGHIJ",
    "Bearer abcdef0123456789",
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("api_key_env: LOCAL_API_KEY", "api_key_env: SECRET"),
        ("api_key_env: LOCAL_API_KEY", "api_key: SECRET"),
        ("name: example", "name: SECRET"),
        ("weight: 90", "system: 'you may use SECRET, please'"),
        ("weight: 90", "extra_body: {metadata: {deep: [SECRET]}}"),
        ("seed: 7", "SECRET: 7"),
    ],
)
def test_a_pasted_key_is_refused_and_not_echoed(secret, old, new):
    with pytest.raises(ScenarioError) as caught:
        parse(TEXT.replace(old, new.replace("SECRET", secret), 1), "s.yaml")
    assert "api_key_env" in str(caught.value)
    assert secret not in str(caught.value)
    assert secret.split()[-1] not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "hidden"),
    [
        ("api_key_env: LOCAL_API_KEY", "api_key: hunter2", "hunter2"),
        ("weight: 90", "extra_body: {Authorization: hunter2}", "hunter2"),
        ("127.0.0.1:8080", "user:hunter2@127.0.0.1:8080", "hunter2"),
        ("8080/v1", "8080/v1?key=hunter22", "hunter22"),
        ("LOCAL_API_KEY", "aB3dEf6hIj9kLm2nOp5qRs8t", "aB3d"),
        ("seed: 7", "seed: 7\n  broken: sk-proj-Ab3dEf6hIj9k: [", "Ab3dEf6hIj9k"),
    ],
)
def test_nor_does_any_other_message_echo_one(old, new, hidden):
    with pytest.raises(ScenarioError) as caught:
        parse(TEXT.replace(old, new, 1), "s.yaml")
    assert hidden not in str(caught.value)


def test_what_only_resembles_a_key_is_allowed():
    text = TEXT.replace("weight: 90", "weight: 90, system: Explain sk-learn and max_tokens=5.")
    assert "sk-learn" in parse(text).workloads["chat"].system


def test_unknown_models_name_the_nearest_at_their_line():
    """In a child: the list of all names comes with an HTTP client (see test_catalog)."""
    code = "import sys; from loadlib.scenario import parse; parse(sys.argv[1], 's.yaml')"
    text = TEXT.replace("gpt-4o-mini", "gpt-4o-mimi")
    run = subprocess.run(
        [sys.executable, "-c", code, text], capture_output=True, text=True, check=False
    )
    last = run.stderr.strip().splitlines()[-1]
    assert "s.yaml:5: unknown model 'gpt-4o-mimi' (did you mean 'gpt-4o-mini'?)" in last


@pytest.mark.parametrize(
    ("key", "value", "look", "expected", "why"),
    [
        ("load.1.duration", "10s", lambda s: s.load[1].duration_ns, 10 * S, "a position from 0"),
        ("seed", "9", lambda s: s.seed, 9, "at the top"),
        ("workloads.chat.weight", "1", lambda s: s.workloads["chat"].weight, 1, "a name"),
        ("models.local.context_window", "4k", lambda s: s.models[1].context_window, 4000, "named"),
        ("models.0.context_window", "4Ki", lambda s: s.models[0].context_window, 4096, "was text"),
        (
            "workloads.long.prompt_tokens",
            "[1k]",
            lambda s: s.workloads["long"].prompt_tokens,
            (1000,),
            "a list",
        ),
        ("slo.2", "all: quality > 5%", lambda s: len(s.slo), 3, "a list may grow"),
        ("timeouts.idle", "9s", lambda s: s.timeouts.idle_s, 9, "a key that was not there"),
        (
            "workloads.long.extra_body.a.b",
            "1",
            lambda s: s.workloads["long"].extra_body,
            {"a": {"b": 1}},
            "nor was its parent",
        ),
    ],
)
def test_set_overrides_any_key(key, value, look, expected, why):
    assert look(parse(TEXT, overrides=[(key, value)])) == expected, why


def test_set_finds_keys_with_dots():
    text = TEXT.replace("  chat:", "  v1.5 chat:").replace('"chat: ', '"v1.5 chat: ')
    changed = parse(text, overrides=[("workloads.v1.5 chat.weight", "3")])
    assert changed.workloads["v1.5 chat"].weight == 3
    text = TEXT.replace("gpt-4o-mini", "gpt-3.5-turbo")
    changed = parse(text, overrides=[("models.gpt-3.5-turbo", "gpt-4")])
    assert changed.models[0].name == "gpt-4"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("load.1.rate", "5", "--set load.1.rate: load.1.rate: a rate needs a unit"),
        ("load.7.rate", "5/s", "'7' is not a position (0 … 1) or a name here"),
        ("sede", "5", "--set sede: unknown key 'sede' (did you mean 'seed'?)"),
        ("seed.x", "5", "holds a single value"),
        ("a..b", "5", "an empty name"),
        ("seed", "[", "--set seed: not YAML"),
        ("budget", "sk-proj-Ab3dEf6hIj9k", "looks like an API key"),
        ("sk-proj-Ab3dEf6hIj9k", "5", "looks like an API key"),
    ],
)
def test_set_explains_itself(key, value, message):
    with pytest.raises(ScenarioError) as caught:
        parse(TEXT, "s.yaml", [(key, value)])
    assert message in str(caught.value)
    assert "Ab3dEf6hIj9k" not in str(caught.value)


def test_data_is_meant_relative_to_the_scenario_then_to_here(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "s.yaml").write_text(
        TEXT.replace("weight: 90", "weight: 90, data: talks.jsonl"), encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    file = Path("deep/s.yaml")
    assert load(file).workloads["chat"].data == "talks.jsonl", "nowhere yet: the reader says so"
    Path("talks.jsonl").touch()
    assert load(file).workloads["chat"].data == "talks.jsonl"
    Path("deep/talks.jsonl").touch()
    scenario = load(file)
    assert Path(scenario.workloads["chat"].data) == Path("deep/talks.jsonl")
    assert parse(to_yaml(scenario), "elsewhere/scenario.yaml") == scenario


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ScenarioError, match="no such file"):
        load(tmp_path / "none.yaml")
    with pytest.raises(ScenarioError, match="is a directory"):
        load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(ScenarioError, match="is not UTF-8"):
        load(tmp_path / "latin.yaml")
    (tmp_path / "huge.yaml").write_bytes(b"#" * (2 << 20))
    with pytest.raises(ScenarioError, match="larger than 256 KiB"):
        load(tmp_path / "huge.yaml")
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    assert load(tmp_path / "bom.yaml") == parse(TEXT)


def test_phases_without_names_get_the_first_free_one():
    phases = "".join(
        f"  - {{phase: measure, {name}requests: 1, arrival: closed, users: 1}}\n"
        for name in ("", "name: measure-2, ", "", "name: 4/s, ")
    )
    text = TEXT[: TEXT.index("load:")] + "load:\n" + phases
    names = [phase.name for phase in parse(text).load]
    assert names == ["measure", "measure-2", "measure-3", "4/s"]


@pytest.mark.parametrize(
    ("models", "pair"),
    [
        ("[{name: a, model: gpt-4}, {name: a/b, model: gpt-4}]", "a/b/c"),
        ("[{name: a, model: gpt-4}, {name: a/c, model: gpt-4}]", "a/c"),
    ],
)
def test_names_that_make_a_scope_ambiguous_are_refused(models, pair):
    text = (
        f"version: 1\nmodels: {models}\nworkloads: {{c: {{kind: chat}}, b/c: {{kind: chat}}}}\n"
        "load: [{phase: measure, requests: 1, arrival: closed, users: 1}]\n"
    )
    with pytest.raises(ScenarioError, match=f"'{pair}' is ambiguous"):
        parse(text)


def test_rates_hold_per_model_or_in_total():
    per_model = parse(TEXT)
    measure = per_model.load[1]
    assert per_model.mixes() == {
        "gpt-4o-mini": {("gpt-4o-mini", "chat"): 90, ("gpt-4o-mini", "long"): 10},
        "local": {("local", "chat"): 90, ("local", "long"): 10},
    }
    assert set(per_model.expected(measure).values()) == {675.0, 75.0}
    total = parse(TEXT, overrides=[("per", "total")])
    assert list(total.mixes()) == [None]
    assert total.expected(measure)["local", "chat"] == pytest.approx(337.5)
    assert per_model.expected(per_model.load[0])["local", "chat"] is None, "closed, by time"


def test_what_cannot_run_leaves_its_share_to_the_rest():
    def serves(model, workload):
        return (model, workload) != ("local", "long")

    scenario = parse(TEXT)
    assert scenario.expected(scenario.load[1], Reach(serves))["local", "chat"] == 750
    assert ("local", "long") not in scenario.expected(scenario.load[1], Reach(serves))


def test_subsets_and_weights_of_zero_make_no_groups():
    text = TEXT.replace("weight: 90", "weight: 90, models: [local]").replace("local/long", "all")
    text = text.replace("weight: 10}", "weight: 10, models: [gpt-4o-mini]}")
    assert parse(text).groups == (("gpt-4o-mini", "long"), ("local", "chat"))
    with pytest.raises(ScenarioError, match="no workload sends anything to 'gpt-4o-mini'"):
        parse(text.replace("models: [gpt-4o-mini]", "models: [local]"))
    with pytest.raises(ScenarioError, match="every weight is 0"):
        parse(TEXT.replace("weight: 90", "weight: 0").replace("weight: 10}", "weight: 0}"))


@dataclass
class Server:
    name: str
    base_url: str
    own: bool = True


@pytest.mark.parametrize(
    ("order", "target", "urls", "sequential", "why"),
    [
        ("auto", None, ["http://h:1/v1", "http://h:2/v1"], True, "own models on one host compete"),
        ("auto", None, ["http://h:1/v1", "http://g:1/v1"], False, "different machines"),
        ("auto", None, ["https://api.openai.com/v1"] * 2, False, "a provider's, not one machine"),
        ("auto", "simulator", ["http://h:1/v1", "http://h:2/v1"], False, "all is simulated"),
        ("sequential", "simulator", ["http://h:1/v1", "http://g:1/v1"], True, "asked for"),
        ("interleaved", None, ["http://h:1/v1", "http://h:1/v1"], False, "asked for"),
    ],
)
def test_order(order, target, urls, sequential, why):
    text = TEXT.replace("target: simulator\n", f"order: {order}\n")
    scenario = parse(text + (f"target: {target}\n" if target else ""))
    models = [Server(n, u, "openai" not in u) for n, u in zip("ab", urls, strict=True)]
    stages = [(phase.name, names) for phase, names in scenario.stages(models)]
    if sequential:
        expected = [(phase, (name,)) for name in "ab" for phase in ("warmup", "measure")]
    else:
        expected = [("warmup", ("a", "b")), ("measure", ("a", "b"))]
    assert stages == expected, why


def test_flags_change_the_measure_phase():
    scenario = parse(TEXT)
    closed = with_measure(scenario, users=3, requests=50).load[1]
    assert (closed.label, closed.requests, closed.duration_ns) == ("closed, 3 users", 50, None)
    again = with_measure(with_measure(scenario, users=3), rate="300/m", duration="1m").load[1]
    assert (again.label, again.duration_ns) == ("poisson 5/s", 60 * S)
    assert with_measure(scenario, rate="2/s").load[0] == scenario.load[0], "the warm-up stays"
    assert with_measure(scenario) is scenario


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"rate": "5"}, "--rate: load.1.rate: a rate needs a unit"),
        ({"requests": 0}, "should be 1 or more"),
        ({"rate": "5/s", "users": 3}, "--rate and --users exclude each other"),
        ({"duration": "5s", "requests": 3}, "exclude each other"),
    ],
)
def test_flags_that_make_no_sense(flags, message):
    with pytest.raises(UsageError) as caught:
        with_measure(parse(TEXT), **flags)
    assert message in str(caught.value)


def test_flags_replace_what_the_arrivals_were():
    ramp = parse(TEXT.replace("rate: 5/s", "rate: [[0s, 0/s], [60s, 20/s], [60s, 1/s]]"))
    assert ramp.load[1].label == "poisson 0/s … 20/s"
    assert with_measure(ramp, rate="3/s").load[1].rate == 3.0
    with pytest.raises(
        UsageError, match=r"--duration: load\.1\.rate\.1: the point at 60s lies bey"
    ):
        with_measure(ramp, duration="30s")
    bursts = parse(TEXT.replace("poisson, rate", "gamma, shape: 0.5, rate"))
    assert with_measure(bursts, rate="9/s").load[1].label == "gamma 9/s, shape 0.5"
    assert with_measure(bursts, users=4).load[1].label == "closed, 4 users"
    played = parse(TRACED)
    assert played.load[1].label == "trace ×2"
    assert with_measure(played, requests=9).load[1].speed == 2
    with pytest.raises(
        UsageError, match=r"^--rate: load\.1\.rate: rate means nothing with arrival"
    ):
        with_measure(played, rate="9/s")


TRACED = TEXT.replace("poisson, rate: 5/s", "trace, speed: 2").replace(
    "chat, output_tokens: 128", "replay, data: t.csv"
)


SIMULATED = """\
version: 1
target: simulator
simulator: {profile: vllm-replica, wrong_rate: 5 %, fault: ["reset,every=3"], limits: true}
models: [gpt-4o]
workloads: {chat: {kind: chat}}
load: [{phase: measure, requests: 3, arrival: closed, users: 1}]
"""


def test_what_the_simulator_is_like():
    found = parse(SIMULATED, "s.yaml")
    assert found.simulator.options == (
        "--profile", "vllm-replica", "--wrong-rate", "0.050000", "--reasoning-tokens", "0",
        "--processes", "1", "--fault", "reset,every=3", "--limits",
    )  # fmt: skip
    assert parse(to_yaml(found)) == found
    served = with_models(found, base_url="http://127.0.0.1:1/v1")
    assert (served.target, served.simulator) == (None, None), "there is a server now"


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("target: simulator\n", "", 2, "simulator: goes with target: simulator"),
        ("profile:", "profil:", 3, "unknown key 'profil' in simulator (did you mean 'profile'?)"),
        ("5 %", "105 %", 3, "should be a share such as 30 % or 0.3, from 0 to 1"),
        ("limits: true", "processes: 0", 3, "simulator.processes: "),
    ],
)
def test_a_simulator_that_cannot_be(old, new, line, message):
    with pytest.raises(ScenarioError) as raised:
        parse(SIMULATED.replace(old, new), "s.yaml")
    assert str(raised.value).startswith(f"s.yaml:{line}: ")
    assert message in str(raised.value)


def test_an_effective_scenario_says_only_what_holds():
    (closed, played) = parse(TRACED).effective()["load"]
    assert "speed" not in closed
    assert played["speed"] == 2
    replay = parse(TRACED).effective()["workloads"]["chat"]
    assert replay == {
        "kind": "replay", "weight": 90, "data": "t.csv", "skip_invalid": False, "check": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "varying", "rate", "why"),
    [
        ({"rate": 5.0}, False, 5, "a number"),
        ({"rate": ((0, 5.0),)}, False, 5, "one point is no change"),
        ({"rate": ((0, 2.0), (60 * S, 20.0))}, True, 11, "a ramp"),
        ({"rate": 5.0, "arrival": "gamma", "shape": 0.2}, False, 5, "bursts around one rate"),
        ({"arrival": "trace"}, True, None, "only the trace knows"),
        ({"arrival": "closed", "users": 3}, False, None, "no rate at all"),
    ],
)
def test_what_is_a_rung_of_a_ladder(change, varying, rate, why):
    phase = Phase(kind="measure", duration_ns=60 * S, **{"arrival": "poisson", **change})
    assert phase.varying is varying, why
    assert phase.mean_rate == (None if rate is None else pytest.approx(rate)), why


def test_a_trace_is_counted_by_whom_it_is_read():
    scenario = parse(TRACED)
    asked = []

    def traced(phase, groups):
        asked.append((phase.title, tuple(groups)))
        return 200.0

    found = scenario.expected(scenario.load[1], Reach(traced=traced))
    assert found["local", "chat"] == 180, "the replay workload has 90 % of the weight"
    assert asked[1] == ("measure", (("local", "chat"), ("local", "long")))
    assert scenario.expected(scenario.load[1])["local", "chat"] is None


def test_two_replays_do_not_make_one_trace():
    with pytest.raises(ScenarioError, match="exactly one workload of kind: replay"):
        parse(TRACED.replace("workloads:\n", "workloads:\n  r: {kind: replay, data: u.csv}\n"))


def test_flags_need_exactly_one_measure_phase():
    ladder = TEXT.replace("phase: warmup, duration", "phase: measure, name: low, duration")
    with pytest.raises(UsageError, match=r"2 measure phases, say which: --set load\.0\.rate="):
        with_measure(parse(ladder), rate="9/s")


def test_model_flags():
    scenario = parse(TEXT)
    only = with_models(scenario, ["local"])
    assert only.model_names == ("local",)
    assert only.slo == scenario.slo
    other = with_models(scenario, ["gpt-4"])
    assert other.model_names == ("gpt-4",)
    assert other.slo == scenario.slo[:1], "what was said about local goes with it"
    moved = with_models(scenario, ["mine"], base_url="http://127.0.0.1:9/v1")
    assert (moved.target, moved.models[0].base_url) == (None, "http://127.0.0.1:9/v1")
    assert with_models(scenario).models == scenario.models
    with pytest.raises(ScenarioError) as caught:
        with_models(scenario, base_url="http://user:hunter2@h/v1")
    assert "hunter2" not in str(caught.value)


def test_model_flags_and_subsets():
    text = TEXT.replace("weight: 10}", "weight: 10, models: [local]}")
    only = with_models(parse(text), ["gpt-4o-mini"])
    assert list(only.workloads) == ["chat"]
    assert [o.scope for o in only.objectives] == ["chat"] * 3


def test_quick():
    scenario = quick("http://127.0.0.1:1/v1", "m", rate="5/s", requests=600)
    (phase,) = scenario.load
    assert (phase.label, phase.requests, scenario.target) == ("poisson 5/s", 600, None)
    assert scenario.groups == (("m", "chat"),)
    assert quick(None, "gpt-4").load[0].label == "closed, 1 user"
    assert quick(None, ["gpt-4", "gpt-4o"], overrides=[("target", "live")]).target == "live"
    assert parse(to_yaml(scenario)) == scenario
    with pytest.raises(UsageError, match="exclude each other"):
        quick(None, "gpt-4", rate="5/s", users=1)
    with pytest.raises(ScenarioError, match="command line"):
        quick("nowhere", "m")


# --- round trips ---------------------------------------------------------------------------

NAMES = st.text(min_size=1, max_size=12).filter(
    lambda n: n == n.strip() and n.isprintable() and "/" not in n and n != "all"
    and not scenario_yaml.is_secret(n) and not scenario_yaml.names_secret(n)
)  # fmt: skip
COUNTS = st.integers(1, 10**9)
RATES = st.floats(0.001, 1e5, allow_nan=False)
DURATIONS = st.integers(10**9, 10**15)
PLAIN = st.text(max_size=30).filter(
    lambda t: not scenario_yaml.is_secret(t) and not any("\ud800" <= c <= "\udfff" for c in t)
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats(-1e6, 1e6) | PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def phases(draw, number):
    kind = "measure" if number == 0 else draw(st.sampled_from(["measure", "warmup"]))
    ends = draw(
        st.builds(dict, requests=COUNTS) | st.builds(dict, duration_ns=DURATIONS.map(lambda d: d))
    )
    if draw(st.booleans()):
        return Phase(kind=kind, arrival="closed", users=draw(COUNTS), **ends)
    low = RATES if "requests" in ends else st.floats(1, 1e5)
    rate = draw(low | st.builds(lambda a, b, at: ((0, a), (at, b)), low, low, st.integers(0, S)))
    arrival = draw(st.sampled_from(["constant", "poisson", "gamma"]))
    if arrival == "gamma":
        ends["shape"] = draw(st.floats(0.01, 1000))
    full = draw(st.sampled_from(["wait", "drop"]))
    ceiling = draw(COUNTS)
    return Phase(
        kind=kind, arrival=arrival, rate=rate, max_in_flight=ceiling, when_full=full, **ends
    )


LENGTHS = st.integers(1, MAX_TOKENS)
PAIRS = st.tuples(LENGTHS, LENGTHS).map(sorted)
POINTS = st.dictionaries(st.integers(1, 9_999).map(lambda n: n / 10_000), LENGTHS, min_size=2)
ROUNDS = st.lists(LENGTHS, min_size=1, max_size=3).map(tuple)
DRAWN = st.one_of(
    PAIRS.map(lambda pair: Uniform(*pair)),
    PAIRS.map(lambda pair: LogNormal(*pair)),
    POINTS.map(lambda p: Table(tuple(zip(sorted(p), sorted(p.values()), strict=True)))),
)


@st.composite
def workloads(draw):
    common = {
        "weight": draw(st.floats(0.01, 1e6)),
        "output_tokens": draw(ROUNDS | DRAWN | st.sampled_from([t[1] for t in TABLES.values()])),
        "system": draw(st.none() | PLAIN),
        "check": draw(st.booleans()),
        "extra_body": draw(st.dictionaries(NAMES.map(lambda n: f"x{n}"), JSON, max_size=3)),
    }
    lengths = draw(ROUNDS | DRAWN | st.sampled_from([t[0] for t in TABLES.values()]))
    if draw(st.booleans()):
        languages = draw(st.none() | st.lists(NAMES, min_size=1, max_size=2))
        data = draw(st.sampled_from([None, "talk.jsonl"]))
        own = {"turns": draw(st.none() | COUNTS), "languages": languages, "data": data,
               "skip_invalid": data is not None and draw(st.booleans())}  # fmt: skip
        return ChatSpec(kind="chat", **own, **common)
    depth = draw(st.none() | st.lists(st.floats(0.5, 1), min_size=1, max_size=3))
    prefix = draw(st.sampled_from(["unique", "shared", "warm"]) | st.floats(0.001, 0.5))
    documents = draw(st.none() | st.integers(3, 99)) if prefix == "warm" else None
    own = {"depth": depth, "prefix": prefix, "prompt_tokens": lengths, "documents": documents}
    return LongContextSpec(kind="long_context", **own, **common)


@st.composite
def scenarios(draw):
    models = [
        ModelSpec(name=name, base_url=f"http://127.0.0.1:{1 + i}/v1", context_window=draw(COUNTS))
        for i, name in enumerate(draw(st.lists(NAMES, min_size=1, max_size=3, unique=True)))
    ]
    taken = {model.name for model in models}
    names = draw(
        st.lists(NAMES.filter(lambda n: n not in taken), min_size=1, max_size=3, unique=True)
    )
    count = draw(st.integers(1, 3))
    return Scenario(
        version=1,
        name=draw(NAMES),
        models=models,
        per=(per := draw(st.sampled_from(["model", "total"]))),
        workloads={name: draw(workloads()) for name in names},
        load=[draw(phases(number)) for number in range(count)],
        order=draw(
            st.sampled_from(["auto", "interleaved", *(["sequential"] if per == "model" else [])])
        ),
        slo=draw(st.sampled_from([[], ["all: ttft.p90 < 1s, goodput > 90%"]])),
        budget=draw(st.none() | st.builds(Budget, max_usd=st.floats(0.01, 1e308))),
        timeouts=Timeouts(connect_s=draw(st.integers(1, 10**9)) / 1000),
        seed=draw(st.integers(0, 2**63 - 1)),
        client=draw(st.sampled_from(["tape", "sdk"])),
    )


SCHEMA = jsonschema.Draft202012Validator(json_schema())


@given(scenarios())
def test_what_is_written_reads_back_equal(scenario):
    text = to_yaml(scenario)
    again = parse(text)
    assert again == scenario
    assert to_yaml(again) == text
    json.dumps(scenario.effective(), allow_nan=False)
    SCHEMA.validate(scenario.effective())


@given(st.dictionaries(NAMES, JSON, max_size=4))
def test_written_yaml_is_the_same_data(data):
    assert scenario_yaml.read(scenario_yaml.write(data), "x").data == data


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda b: b.decode("latin-1")))
def test_any_text_is_a_scenario_or_a_scenario_error(text):
    for candidate in (text, TEXT + text):
        with suppress(ScenarioError):
            parse(candidate)


@given(st.integers(0, 10**16))
def test_durations_read_back(ns):
    assert units.duration_ns(units.format_duration(ns)) == ns


@given(RATES)
def test_rates_read_back_to_the_last_bit(rate):
    assert units.rate_per_s(units.format_rate(rate)) == rate


@given(st.floats(0, 1))
def test_shares_round_trip(share):
    assert units.share(units.format_share(share)) == share == units.share(share)


@given(st.integers(1, 10**12))
def test_counts_round_trip(count):
    assert units.count(units.format_count(count)) == count


@pytest.mark.parametrize(
    ("value", "text"),
    [(128_000, "128k"), (131_072, "128Ki"), (2_000_000, "2M"), (1_500, "1500"), (7, "7")],
)
def test_counts_are_short_where_they_can_be(value, text):
    assert units.format_count(value) == text


@pytest.mark.parametrize("wrong", ["130 %", "-1 %", -0.1, 1.5, "half", True, None, "0.3", [1]])
def test_what_is_no_share(wrong):
    with pytest.raises(ValueError, match=r"should be a share such as 30 % or 0\.3"):
        units.share(wrong)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1.5s", 3 * S // 2),
        ("1m30s", 90 * S),
        ("2h", 7200 * S),
        ("800 ms", 4 * S // 5),
        ("5us", 5000),
    ],
)
def test_durations(text, ns):
    assert units.duration_ns(text) == ns


@pytest.mark.parametrize(
    ("value", "number"),
    [("128k", 128_000), ("16Ki", 16_384), ("2M", 2_000_000), ("1.5k", 1500), (64, 64), (1e3, 1000)],
)
def test_counts(value, number):
    assert units.count(value) == number


# --- the schema and the shipped files --------------------------------------------------------


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(json_schema())
    data = scenario_yaml.read(TEXT, "x").data
    assert list(SCHEMA.iter_errors(data | {"slo": ["all: ttft < 1s"]})) == []
    # what `slo` means without quotes is forgiven, not recommended
    assert list(SCHEMA.iter_errors(data))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("seed: 7", "sede: 7"),
        ("duration: 150s", "duration: 150"),
        ("rate: 5/s", "rate: 5"),
        ("kind: chat", "kind: chta"),
        ("context_window", "contxt_window"),
        ("users: 10", "users: 0"),
        ("version: 1", "version: 2"),
    ],
)
def test_the_schema_refuses_what_we_refuse(old, new):
    data = scenario_yaml.read(TEXT.replace(old, new, 1), "x").data | {"slo": []}
    assert list(SCHEMA.iter_errors(data))


def test_the_schema_knows_points():
    for rate, good in (("[[0s, 2/s], [60s, 0/s]]", True), ("[[0s, 2/s, 3]]", False), ("[]", False)):
        data = scenario_yaml.read(TEXT.replace("5/s", rate, 1), "x").data | {"slo": []}
        assert (list(SCHEMA.iter_errors(data)) == []) is good, rate


def test_six_files_are_shipped():
    names = {path.stem for path in SCENARIOS}
    assert {"demo", "ci", "chat", "long-context", "chat-and-128k", "ladder"} <= names


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_shipped_scenarios_gate_only_what_they_can_decide(path):
    scenario = load(path)
    own = all((model.base_url or "").startswith("http://127.0.0.1:") for model in scenario.models)
    assert scenario.target == "simulator" or own, "runnable by anyone, without a key"
    SCHEMA.validate(scenario_yaml.read(path.read_text(encoding="utf-8"), path.name).data)
    for phase in scenario.load:
        if phase.kind != "measure":
            continue
        for (model, workload), n in scenario.expected(phase).items():
            assert n is not None, "a shipped trace phase ends by requests"
            # two standard deviations below the mean, where the number is left to chance
            worst = n - 2 * n**0.5 if phase.requests is None else n - 1
            for gate in scenario.objectives:
                if gate.covers(model, workload) and gate.stat in FLOORS:
                    assert worst >= FLOORS[gate.stat], (phase.name, workload, gate.text)
        rates = [phase.mean_rate or 0] * (len(scenario.models) if scenario.per == "model" else 1)
        assert sum(rates) <= 25, "two cores are enough"


def test_the_demo_is_the_promised_one():
    demo = load(next(path for path in SCENARIOS if path.stem == "demo"))
    assert demo.model_names == tuple(CATALOGUE)
    assert len(demo.groups) == 12
    lengths = demo.workloads["long"].prompt_tokens
    windows = [CATALOGUE[name].context_window for name in ("gpt-4", "gpt-3.5-turbo")]
    assert all(min(lengths) < window < max(lengths) for window in windows), "some are skipped"
    seconds = sum(p.duration_ns / S if p.duration_ns else p.requests / p.rate for p in demo.load)
    assert 30 <= seconds <= 50


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("api_version: '2024-10-21'", "models.0.api_version: is about an endpoint"),
        ("auth: api-key", "models.0.auth: is about an endpoint"),
        ("base_url: http://h/v1, api_version: 'a b'", "should be a version such as 2024-10-21"),
        ("base_url: http://h/v1, auth: basic", "'basic' is not one of bearer, api-key"),
        ("output_cap: max_output", "'max_output' is not one of max_tokens, max_completion_tokens"),
        ("stream_usage: 1", "should be true or false"),
        ("limits: {}", "names no limit: rpm or tpm"),
        ("limits: {rpm: 0}", "models.0.limits.rpm"),
        ("limits: {rmp: 5}", "unknown key 'rmp' in models.0.limits (did you mean 'rpm'?)"),
    ],
)
def test_what_a_model_needs_of_its_server(keys, words):
    text = (
        f"version: 1\nmodels: [{{name: gpt-4o, {keys}}}]\nworkloads: {{chat: {{kind: chat}}}}\n"
        "load: [{phase: measure, requests: 1, arrival: closed, users: 1}]\n"
    )
    with pytest.raises(ScenarioError) as caught:
        parse(text)
    assert words in str(caught.value)
    assert ":2: " in str(caught.value)


def test_another_server_has_not_the_old_ones_version():
    text = (
        "version: 1\nmodels: [{name: gpt-4o, base_url: https://x.openai.azure.com,"
        " api_version: v1, auth: bearer}]\nworkloads: {chat: {kind: chat}}\n"
        "load: [{phase: measure, requests: 1, arrival: closed, users: 1}]\n"
    )
    (model,) = with_models(parse(text), base_url="http://127.0.0.1:1/v1").models
    assert (model.api_version, model.auth) == (None, None)


ON_THROTTLE = (
    "version: 1\nmodels: [gpt-4o]\nworkloads: {chat: {kind: chat}}\n"
    "load: [{phase: measure, requests: 1, arrival: closed, users: 1}]\n"
)


@pytest.mark.parametrize(
    ("written", "rule", "again"),
    [
        ("", None, "record"),
        ("on_throttle: record", None, "record"),
        ("on_throttle: backoff", (5, 60 * S, 42),
         {"policy": "backoff", "attempts": 5, "max_wait": "60s"}),
        ("on_throttle: {policy: backoff, attempts: 2, max_wait: 800ms}", (2, 800_000_000, 42),
         {"policy": "backoff", "attempts": 2, "max_wait": "800ms"}),
    ],
)  # fmt: skip
def test_what_becomes_of_throttled_requests(written, rule, again):
    found = parse(ON_THROTTLE + written)
    assert found.backoff == (None if rule is None else Backoff(*rule))
    assert found.effective()["on_throttle"] == again
    assert parse(to_yaml(found)) == found


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("on_throttle: retry", "'retry' is not one of record, backoff"),
        ("on_throttle: {attempts: 3}", "on_throttle.attempts: record tries nothing again"),
        (
            "on_throttle: {policy: backoff, attempts: 1}",
            "attempts: should be 2 or more",
        ),
        ("on_throttle: {policy: backoff, attempts: 21}", "should be 20 or less"),
        ("on_throttle: {policy: backoff, max_wait: 5}", "on_throttle.max_wait"),
        ("on_throttle: {policy: backoff, max_attempts: 5}", "(did you mean 'attempts'?)"),
        ("on_throttle: 5", "should be a mapping"),
    ],
)
def test_mistakes_about_throttled_requests(written, words):
    with pytest.raises(ScenarioError) as caught:
        parse(ON_THROTTLE + written)
    assert words in str(caught.value)
    assert ":5: " in str(caught.value)


@pytest.mark.parametrize(
    ("workloads", "why"),
    [
        ("{a: {kind: custom}, b: {kind: custom}}", "none of it is tried again"),
        ("{a: {kind: custom}, b: {kind: chat, weight: 0}}", "no chat is sent"),
    ],
)
def test_backoff_needs_requests_that_loadlib_sends_itself(workloads, why):
    text = ON_THROTTLE.replace("{chat: {kind: chat}}", workloads)
    assert parse(text).backoff is None, why
    with pytest.raises(ScenarioError) as caught:
        parse(text + "on_throttle: backoff")
    assert ":5: on_throttle: what tasks send is not tried again" in str(caught.value), why
    some = text.replace("b: {kind: custom}", "b: {kind: chat}").replace(", weight: 0", "")
    assert parse(some + "on_throttle: backoff").backoff, "the chats are tried again"
