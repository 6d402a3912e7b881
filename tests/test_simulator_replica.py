"""The simulator in front of a replica that batches, and behind rate limits: over sockets."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from simulator_client import ask, body, connect, content, counter, get, post, stream, timed_stream

from loadlib.simulator import prefixes

REPLICA = """
default: {step_ms: 2, step_us_per_prefill_token: 100, token_budget: 64, max_running: 8,
          kv_blocks: 24, block_tokens: 8, prefix_cache: true, context_window: 192}
models:
  limited: {requests_per_minute: 2, tokens_per_minute: 1000}
  chatty: {tokens_per_minute: 100}
"""


@pytest.fixture(scope="module")
def replica(simulators, tmp_path_factory):
    """One server; each test asks a model of its own, which is an engine of its own."""
    path = tmp_path_factory.mktemp("profile") / "replica.yaml"
    path.write_text(REPLICA)
    return simulators("--profile", str(path)).base_url


def said(words: int, first: str = "tell") -> list[dict]:
    return [{"role": "user", "content": " ".join([first, *["me more"] * (words // 2)])}]


def test_a_crowd_that_does_not_fit_is_preempted_and_gets_every_token(replica):
    # 24 blocks of 8 tokens; each of six needs ⌈(8 + 60)/8⌉ and they all begin with two.
    def one(i):
        return stream(replica, messages=said(2, f"say{i}"), max_tokens=60, model="crowd")

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(one, range(6)))
    alone = [one(i) for i in range(6)]
    assert [content(chunks) for chunks in answers] == [content(chunks) for chunks in alone]
    assert all(chunks[-1] == "[DONE]" for chunks in answers)
    assert counter(replica, "num_preemptions_total", "crowd") > 0
    assert counter(replica, "num_requests_running", "crowd") == 0
    assert counter(replica, "num_requests_waiting", "crowd") == 0
    assert counter(replica, "kv_cache_usage_perc", "crowd") == 0


def test_a_prompt_that_was_there_before_is_found_and_said_to_be(replica):
    first = ask(replica, model="again", messages=said(100), max_tokens=2)["usage"]
    again = ask(replica, model="again", messages=said(100), max_tokens=2)["usage"]
    assert first["prompt_tokens_details"]["cached_tokens"] == 0
    cached = again["prompt_tokens_details"]["cached_tokens"]
    assert first["prompt_tokens"] / 2 < cached < first["prompt_tokens"]
    assert counter(replica, "prefix_cache_hits_total", "again") == cached
    queries = counter(replica, "prefix_cache_queries_total", "again")
    assert queries == 2 * first["prompt_tokens"]


def test_a_token_comes_with_every_step(replica):
    # Alone: 2 ms and 0.1 ms a prompt token, then 2 ms a token.
    prompt = ask(replica, model="steps", messages=said(20), max_tokens=1)["usage"]["prompt_tokens"]
    waits, gaps = [], []
    for word in ("rain", "snow", "wind"):
        first, found = timed_stream(replica, model="steps", messages=said(20, word), max_tokens=40)
        waits.append(first)
        gaps += found
    assert min(waits) >= 0.002 + prompt * 0.0001 - 0.0005
    assert min(abs(gap - 0.002) for gap in gaps) < 0.0002


def test_whole_answers_come_too(replica):
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(ask, replica, max_tokens=30, user=str(i)) for i in range(12)]
        assert [a.result()["usage"]["completion_tokens"] for a in asked] == [30] * 12


def test_requests_over_the_limit_are_told_when_to_come_back(replica):
    answers = [post(replica, model="limited", max_tokens=5) for _ in range(3)]
    assert [status for status, *_ in answers] == [200, 200, 429]
    headers = {name.lower(): value for name, value in dict(answers[0][1]).items()}
    assert headers["x-ratelimit-limit-requests"] == "2"
    assert headers["x-ratelimit-remaining-requests"] == "1"
    assert headers["x-ratelimit-limit-tokens"] == "1000"
    refused = {name.lower(): value for name, value in dict(answers[2][1]).items()}
    assert refused["x-ratelimit-remaining-requests"] == "0"
    assert 25 <= int(refused["retry-after"]) <= 30
    error = json.loads(answers[2][2])["error"]
    assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
    assert "Limit 2" in error["message"]
    assert counter(replica, "request_success_total", "limited", finished_reason="length") == 2


def test_tokens_asked_for_count_and_what_can_never_pass_is_not_told_to_wait(replica):
    status, headers, data = post(replica, model="chatty", max_tokens=101)
    assert status == 429
    assert "retry-after" not in {name.lower() for name in dict(headers)}
    assert json.loads(data)["error"]["type"] == "tokens"
    assert post(replica, model="chatty", max_tokens=20)[0] == 200


def test_the_catalogues_limits_hold_when_asked_for(simulators):
    limited = simulators("--limits", "--strict-models").base_url
    with closing(connect(limited)) as connection:  # the answer itself would take minutes
        data = body(model="gpt-4", max_tokens=8000, stream=True)
        connection.request("POST", "/v1/chat/completions", data)
        response = connection.getresponse()
        assert response.status == 200
        assert response.headers["x-ratelimit-limit-tokens"] == "10000"
    status, headers, _ = post(limited, model="gpt-4", max_tokens=8000)
    assert status == 429
    assert int(headers["retry-after"]) > 0


def test_without_limits_no_header_speaks_of_them(simulator):
    headers = dict(post(simulator, max_tokens=1)[1])
    assert not [name for name in headers if name.lower().startswith("x-ratelimit")]


def test_an_engine_without_kv_blocks_has_no_usage_of_them(simulators):
    url = simulators("--profile", "instant", fresh=True).base_url
    ask(url, max_tokens=1)
    page = get(url.removesuffix("/v1"), "/metrics")[2].decode()
    assert "\nvllm:kv_cache_usage_perc{" not in page
    assert "\nvllm:num_preemptions_total{" in page


# --- prefixes ------------------------------------------------------------------------------------


def test_texts_share_as_many_blocks_as_they_begin_alike():
    # A single piece: 16 tokens of 4 bytes, stretches of 64 bytes.
    one, other = b"a" * 640, b"a" * 130 + b"b" * 510
    first, second = (prefixes.chain([(text, 160)], 160, 16) for text in (one, other))
    assert len(first) == len(second) == 10
    assert [a == b for a, b in zip(first, second, strict=True)] == [True] * 2 + [False] * 8
    assert len(set(first)) == 10  # equal pieces, but not equal beginnings


def test_where_a_piece_ends_the_count_is_exact():
    # 40 and 24 tokens in common, at whatever number of bytes a token
    for long_words, rest in ((b"x" * 999, 100), (b"y" * 7, 37)):
        common = [(long_words, 40), (b"end of it", 24)]
        first, second = (
            prefixes.chain([*common, (tail, rest)], 64 + rest, 16) for tail in (b"one", b"two")
        )
        same = sum(a == b for a, b in zip(first, second, strict=True))
        assert len(first) == (64 + rest) // 16
        assert same == 64 // 16


def test_a_longer_text_of_the_same_tokens_is_another():
    pieces = [(b"a" * 64, 16), (b"a" * 700, 16), (b"z" * 64, 16)]
    other = [(b"a" * 64, 16), (b"a" * 699 + b"b", 16), (b"z" * 64, 16)]
    same = [
        a == b for a, b in zip(*(prefixes.chain(p, 48, 16) for p in (pieces, other)), strict=True)
    ]
    assert same == [True, False, False]


@pytest.mark.parametrize(
    ("pieces", "tokens", "blocks"),
    [
        ([], 0, 0),
        ([(b"x" * 63, 15)], 15, 0),
        ([(b"x" * 64, 16)], 16, 1),
        ([(b"", 40)], 40, 2),
        ([(b"x" * 6400, 15)], 15, 0),
        ([(b"x", 8), (b"y", 8), (b"z", 20)], 36, 2),
        ([(b"x" * 6400, 100)], 33, 2),
        ([(b"x" * 64, 16)], 400, 1),
    ],
)
def test_there_are_no_more_hashes_than_full_blocks(pieces, tokens, blocks):
    assert len(prefixes.chain(pieces, tokens, 16)) == blocks
