"""Pages of metrics: what is understood of each kind of server, and what a hostile one can do."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from loadlib import server_metrics
from loadlib.engine import Load
from loadlib.server_metrics import KINDS, MAX_BYTES, SERIES, PageError, read
from loadlib.simulator import prometheus

# In the form each server writes, with numbers of our own.
VLLM = b"""\
# HELP process_info Python platform information
# TYPE process_info gauge
process_info{implementation="CPython",major="3",minor="12",version="3.12.9"} 1.0
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="org/m-8b"} 31.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="org/m-8b"} 7.0
# HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="org/m-8b"} 0.8125
# HELP vllm:prefix_cache_queries_total Prefix cache queries, in terms of number of queried tokens.
# TYPE vllm:prefix_cache_queries_total counter
vllm:prefix_cache_queries_total{engine="0",model_name="org/m-8b"} 91234.0
# HELP vllm:prefix_cache_queries_created Prefix cache queries
# TYPE vllm:prefix_cache_queries_created gauge
vllm:prefix_cache_queries_created{engine="0",model_name="org/m-8b"} 1.7602e+09
# HELP vllm:prefix_cache_hits_total Prefix cache hits, in terms of number of cached tokens.
# TYPE vllm:prefix_cache_hits_total counter
vllm:prefix_cache_hits_total{engine="0",model_name="org/m-8b"} 40960.0
# HELP vllm:num_preemptions_total Cumulative number of preemption from the engine.
# TYPE vllm:num_preemptions_total counter
vllm:num_preemptions_total{engine="0",model_name="org/m-8b"} 3.0
# HELP vllm:prompt_tokens_total Number of prefill tokens processed.
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="org/m-8b"} 90112.0
# HELP vllm:generation_tokens_total Number of generation tokens processed.
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="org/m-8b"} 1.2345678e+07
# HELP vllm:request_success_total Count of successfully processed requests.
# TYPE vllm:request_success_total counter
vllm:request_success_total{engine="0",finished_reason="stop",model_name="org/m-8b"} 400.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="org/m-8b"} 100.0
vllm:request_success_total{engine="0",finished_reason="abort",model_name="org/m-8b"} 2.0
# HELP vllm:iteration_tokens_total Histogram of number of tokens per engine_step.
# TYPE vllm:iteration_tokens_total histogram
vllm:iteration_tokens_total_bucket{engine="0",le="1.0",model_name="org/m-8b"} 5.0
vllm:iteration_tokens_total_bucket{engine="0",le="+Inf",model_name="org/m-8b"} 6.0
"""

# 0.6, the engine before: other names of the cache, no counts of its hits.
VLLM_V0 = b"""\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{model_name="org/m-8b"} 4.0
# TYPE vllm:num_requests_swapped gauge
vllm:num_requests_swapped{model_name="org/m-8b"} 0.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{model_name="org/m-8b"} 0.0
# TYPE vllm:gpu_cache_usage_perc gauge
vllm:gpu_cache_usage_perc{model_name="org/m-8b"} 0.034
# TYPE vllm:gpu_prefix_cache_hit_rate gauge
vllm:gpu_prefix_cache_hit_rate{model_name="org/m-8b"} -1.0
# TYPE vllm:num_preemptions_total counter
vllm:num_preemptions_total{model_name="org/m-8b"} 0.0
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{model_name="org/m-8b"} 5120.0
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{model_name="org/m-8b"} 777.0
"""

# Two engines of two ranks each (dp 2, tp 2, every rank reports), counters of the tokenizer once.
SGLANG = b"""\
# HELP sglang:num_running_reqs The number of running requests.
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{dp_rank="0",model_name="m",pp_rank="0",tp_rank="0"} 5.0
sglang:num_running_reqs{dp_rank="0",model_name="m",pp_rank="0",tp_rank="1"} 5.0
sglang:num_running_reqs{dp_rank="1",model_name="m",pp_rank="0",tp_rank="2"} 2.0
sglang:num_running_reqs{dp_rank="1",model_name="m",pp_rank="0",tp_rank="3"} 2.0
# HELP sglang:num_queue_reqs The number of requests in the waiting queue.
# TYPE sglang:num_queue_reqs gauge
sglang:num_queue_reqs{dp_rank="0",model_name="m",pp_rank="0",tp_rank="0"} 9.0
sglang:num_queue_reqs{dp_rank="1",model_name="m",pp_rank="0",tp_rank="2"} 1.0
# HELP sglang:token_usage The token usage.
# TYPE sglang:token_usage gauge
sglang:token_usage{dp_rank="0",model_name="m",pp_rank="0",tp_rank="0"} 0.28
sglang:token_usage{dp_rank="1",model_name="m",pp_rank="0",tp_rank="2"} 0.11
# HELP sglang:prompt_tokens_total Number of prefill tokens processed.
# TYPE sglang:prompt_tokens_total counter
sglang:prompt_tokens_total{model_name="m"} 8.128902e+06
# HELP sglang:generation_tokens_total Number of generation tokens processed.
# TYPE sglang:generation_tokens_total counter
sglang:generation_tokens_total{model_name="m"} 7557572.0
# HELP sglang:cached_tokens_total Number of cached prompt tokens by source (device/host/storage).
# TYPE sglang:cached_tokens_total counter
sglang:cached_tokens_total{cache_source="device",model_name="m"} 1000.0
sglang:cached_tokens_total{cache_source="host",model_name="m"} 200.0
sglang:cached_tokens_total{cache_source="total",model_name="m"} 34.0
# HELP sglang:num_requests_total Number of requests processed.
# TYPE sglang:num_requests_total counter
sglang:num_requests_total{model_name="m"} 11228.0
# HELP sglang:num_retracted_requests_total Total number of retracted requests.
# TYPE sglang:num_retracted_requests_total counter
"""

LLAMACPP = b"""\
# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed, excluding cached tokens
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 1240
# HELP llamacpp:prompt_tokens_cached_total Number of prompt tokens reused from the cache
# TYPE llamacpp:prompt_tokens_cached_total counter
llamacpp:prompt_tokens_cached_total 60
# HELP llamacpp:prompt_seconds_total Total time spent processing prompts
# TYPE llamacpp:prompt_seconds_total counter
llamacpp:prompt_seconds_total 3.214
# HELP llamacpp:tokens_predicted_total Number of generation tokens processed
# TYPE llamacpp:tokens_predicted_total counter
llamacpp:tokens_predicted_total 96
# HELP llamacpp:n_tokens_max Largest observed sequence length (prompt + generation)
# TYPE llamacpp:n_tokens_max counter
llamacpp:n_tokens_max 143
# HELP llamacpp:predicted_tokens_seconds Average generation throughput in tokens/s
# TYPE llamacpp:predicted_tokens_seconds gauge
llamacpp:predicted_tokens_seconds 57.1429
# HELP llamacpp:requests_processing Number of requests processing
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 4
# HELP llamacpp:requests_deferred Number of requests deferred
# TYPE llamacpp:requests_deferred gauge
llamacpp:requests_deferred 2
"""

PAGES = [
    (VLLM, "vLLM", {
        "running": 31, "waiting": 7, "kv_usage": 0.8125, "input_tokens": 90112,
        "output_tokens": 12345678, "cache_queries": 91234, "cached_tokens": 40960,
        "preemptions": 3, "finished": 502,
    }, "every series; finished is the sum over its reasons"),
    (VLLM_V0, "vLLM", {
        "running": 4, "waiting": 0, "kv_usage": 0.034, "input_tokens": 5120,
        "output_tokens": 777, "preemptions": 0,
    }, "the cache by its old name, its hits unknown"),
    (VLLM + VLLM_V0.replace(b"org/m-8b", b"other"), "vLLM", {
        "running": 35, "waiting": 7, "kv_usage": 0.8125, "input_tokens": 95232,
        "output_tokens": 12346455, "cache_queries": 91234, "cached_tokens": 40960,
        "preemptions": 3, "finished": 502,
    }, "two models are added up; where both names are there the new one counts"),
    (SGLANG, "SGLang", {
        "running": 7, "waiting": 10, "kv_usage": 0.28, "input_tokens": 8128902,
        "output_tokens": 7557572, "cache_queries": 8128902, "cached_tokens": 1234,
        "preemptions": 0, "finished": 11228,
    }, "ranks of an engine say the same; the fullest engine counts; announced but never counted"),
    (SGLANG.replace(b"sglang:", b"sglang_"), "SGLang", {
        "running": 7, "waiting": 10, "kv_usage": 0.28, "input_tokens": 8128902,
        "output_tokens": 7557572, "cache_queries": 8128902, "cached_tokens": 1234,
        "preemptions": 0, "finished": 11228,
    }, "its router writes underscores"),
    (LLAMACPP, "llama.cpp", {
        "running": 4, "waiting": 2, "input_tokens": 1300, "output_tokens": 96,
        "cache_queries": 1300, "cached_tokens": 60,
    }, "prompt tokens without the cached ones, which we add"),
    (b"".join(line + b"\n" for line in LLAMACPP.split(b"\n") if b"cached" not in line),
     "llama.cpp", {
        "running": 4, "waiting": 2, "input_tokens": 1240, "output_tokens": 96,
    }, "an older one, that does not count them"),
]  # fmt: skip


@pytest.mark.parametrize(("page", "kind", "values", "why"), PAGES)
def test_a_page_in_our_words(page, kind, values, why):
    reading = read(page)
    assert (reading.kind, reading.values) == (kind, values), why
    assert read(page.replace(b"\n", b"\r\n")) == reading, "written on Windows"


def test_it_gives_way_after_every_sample():
    turns: list[int] = []
    assert read(VLLM, lambda: turns.append(1)) == read(VLLM)
    assert len(turns) == 11 + 9, "samples of ours, and what announces them"


def test_our_own_simulator_is_told_from_vllm():
    meter = prometheus.Meter(lambda: Load(running=2, waiting=1, kv_usage=0.5, preemptions=4))
    meter.prompt_tokens, meter.generation_tokens = 100, 20
    reading = read(prometheus.page({'od"d\\\n}': meter, "plain": meter}).encode())
    assert reading.kind == "loadlib simulator"
    assert reading.values == {
        "running": 4, "waiting": 2, "kv_usage": 0.5, "input_tokens": 200, "output_tokens": 40,
        "cache_queries": 0, "cached_tokens": 0, "preemptions": 8, "finished": 0,
    }  # fmt: skip


def test_before_its_first_request_a_server_has_counted_nothing_and_gauges_are_unknown():
    assert read(prometheus.page({}).encode()).values == dict.fromkeys(
        ("input_tokens", "output_tokens", "cache_queries", "cached_tokens", "preemptions",
         "finished"), 0.0,
    )  # fmt: skip


ONE = "vllm:num_requests_running"
LINES = [
    # what stands on the page → running
    (f"{ONE} 3", 3, "no labels"),
    (f"{ONE}{{}} 3", 3, "none in braces"),
    (f'{ONE}{{a="}}"}} 3', 3, "a brace in a label"),
    (f'{ONE}{{a="x\\"y"}} 3', 3, "an escaped quotation mark"),
    (f'{ONE}{{a="x",}}\t 3 1753142400000', 3, "a trailing comma, a tab, a time"),
    (f'{ONE}{{a="b"}} 3 # {{trace="x"}} 1', 3, "an exemplar"),
    (f"{ONE} 3e0", 3, "as a float"),
    (f"{ONE} 3\n{ONE}_total 99", 3, "a longer name is another metric"),
    (f'{ONE}{{a="1"}} 1\n{ONE}{{a="2"}} 2', 3, "two engines"),
    (f'{ONE}{{tp_rank="0"}} 3\n{ONE}{{tp_rank="1"}} 2', 3, "two ranks of one: the most"),
    (f"{ONE} NaN", None, "not a number"),
    (f"{ONE} +Inf", None, "no count"),
    (f"{ONE} -1", None, "no count"),
    (f"{ONE} 1e300", None, "no count"),
    (f"{ONE} 1_000", None, "Python would take it, Prometheus does not"),
    (f"{ONE} 0x10", None, "no number"),
    (f"{ONE} ", None, "no value"),
    (f'{ONE}{{a="b" 3', None, "a brace that never ends"),
    (f'{ONE}{{a="b}} 3', None, "a label that never ends"),
    (f"{ONE} 3 4 5", None, "too many words"),
    (f'{ONE}{{a="1"}} 1\n{ONE}{{a="1"}} 2', None, "twice the same: nobody knows which holds"),
    (f'{ONE}{{a="1"}} 1\n{ONE}{{a="2"}} NaN', None, "a part is unknown, so is the sum"),
    (f'{ONE}{{a="{"x" * 5000}"}} 3', None, "a line longer than any"),
    (f"# TYPE {ONE} gauge", None, "announced only"),
    (f"# {ONE} 3", None, "a comment"),
    (f" {ONE} 3", None, "lines begin with their name"),
]


@pytest.mark.parametrize(("lines", "running", "why"), LINES)
def test_what_a_line_says(lines, running, why):
    page = f"vllm:num_requests_waiting 5\n{lines}\n".encode()
    values = read(page).values
    assert values.get("running") == running, why
    assert values["waiting"] == 5, "one broken line spoils no other"


@pytest.mark.parametrize("value", ["1.01", "100", "-0.1", "NaN"])
def test_a_share_is_one(value):
    page = f"vllm:num_requests_running 1\nvllm:kv_cache_usage_perc {value}\n"
    assert "kv_usage" not in read(page.encode()).values


REFUSED = [
    (b"", "none of the metrics"),
    (b"<html>not found</html>", "none of the metrics"),
    (b"process_cpu_seconds_total 12\nvllm:something_else 1\n", "none of the metrics"),
    (b"\xff\xfe\x00" * 100, "none of the metrics"),
    (b"x" * (MAX_BYTES + 1), "larger than 4 MiB"),
    (b"\n" * 60_000, "more than 50,000 lines"),
    (b"".join(b'vllm:num_requests_running{a="%d"} 1\n' % i for i in range(20_000)), "256 KiB"),
    (b'vllm:num_requests_running{a="' + b"\\" * 600_000, "256 KiB"),
]


@pytest.mark.parametrize(("page", "why"), REFUSED)
def test_a_page_that_is_refused(page, why):
    with pytest.raises(PageError, match=why):
        read(page)


NAMES = sorted({name for choices in KINDS["vLLM"].values() for name in choices})
LABEL = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12)
SAMPLES = st.lists(
    st.tuples(
        st.sampled_from(NAMES),
        st.dictionaries(st.sampled_from(["engine", "model_name", "x"]), LABEL, max_size=3),
        st.integers(0, 10**12) | st.floats(0, 1e12, allow_subnormal=False),
    ),
    unique_by=lambda one: (one[0], tuple(sorted(one[1].items()))),
    min_size=1,
    max_size=30,
)


def written(name: str, labels: dict[str, str], value: float) -> str:
    escaped = {k: v.replace("\\", "\\\\").replace('"', '\\"') for k, v in labels.items()}
    inner = ",".join(f'{key}="{text}"' for key, text in escaped.items())
    return f"{name}{{{inner}}} {value!r}"


@given(SAMPLES, st.randoms(use_true_random=False))
def test_any_page_is_read_as_prometheus_own_library_reads_it(samples, dice):
    """Which also says that neither the order of lines nor what stands between them matters."""
    lines = [written(*sample) for sample in samples]
    lines += ["# a comment", "", 'other{a="b"} 1', "vllm:num_requests_running_total 1"]
    dice.shuffle(lines)
    page = "\n".join(lines) + "\n"
    theirs: dict[str, list[float]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            theirs.setdefault(sample.name, []).append(float(sample.value))
    expected = {}
    for series, sort in SERIES.items():
        for name in KINDS["vLLM"][series]:
            found = theirs.get(name, [])
            if found and not (sort == "share" and max(found) > 1):
                expected[series] = max(found) if sort == "share" else sum(found)
                break
    assert read(page.encode()).values == pytest.approx(expected)


@given(st.binary(max_size=400), st.integers(0, 10_000))
def test_no_bytes_break_it(noise, seed):
    dice = random.Random(seed)
    at = dice.randrange(len(VLLM))
    page = VLLM[:at] + noise + VLLM[at + dice.randrange(40) :]
    try:
        reading = read(page)
    except PageError:
        return
    assert set(reading.values) <= set(SERIES)
    assert all(0 <= value < 2**63 for value in reading.values.values())


def test_every_name_of_the_table_is_looked_for():
    for kind, names in KINDS.items():
        for series, choices in names.items():
            for choice in choices:
                page = "".join(f"{name} 1\n" for name in choice.split(" + ")).encode()
                assert read(page).kind
                if series in SERIES and kind != "loadlib simulator":
                    assert series in read(page).values, (kind, choice)
    assert server_metrics._labels.cache_info().maxsize == 1024, "bounded, whatever labels come"
