"""Trace files: what each format says, what is made of it, and what is wrong with a broken one."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.replayed import trace_path
from loadlib.errors import DataError, ScenarioError
from loadlib.schedule import S
from loadlib.workloads import traces
from loadlib.workloads.traces import FORMATS, batch, lines, recorded

REAL = trace_path().parent
HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
DAY = "2023-11-16 18:17:0"
AZURE = HEADER + f"{DAY}3.9799600,4808,10\n{DAY}4.0319600,3180,8\n{DAY}4,7000,0\n"
BURST_1 = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
BURST_2 = BURST_1.replace(",Model", ",Session ID,Elapsed time,Model")
BURSTGPT = BURST_1 + (
    "5,ChatGPT,472,18,490,Conversation log\n45.25,GPT-4,1087,230,1317,API log\n"
    "118,ChatGPT,417,0,417,Conversation log\n"
)


def mooncake(*rows):
    return "".join(
        json.dumps({"timestamp": at, "input_length": prompt, "output_length": 7, **more}) + "\n"
        for at, prompt, more in rows
    )


MOONCAKE = mooncake(*((at, 10 * n, {}) for n, at in enumerate((0, 0, 3000, 3000, 6000), 20)))


def batched(**body):
    body = {"model": "gpt-x", "messages": [{"role": "user", "content": "Hi"}], **body}
    return json.dumps({"custom_id": "1", "method": "POST", "url": "/v1/chat/completions",
                       "body": body}) + "\n"  # fmt: skip


def attempt(at, prompt, output, *, phase="measure", model="m", workload="chat", **more):
    return json.dumps({"index": 0, "phase": phase, "model": model, "workload": workload,
                       "outcome": "ok", "intended_ns": 1_700_000_000 * S + at, "end_ns": 0,
                       "input_tokens": prompt, "output_tokens": output, **more}) + "\n"  # fmt: skip


OWN = (
    attempt(0, 10, 1, phase="warmup") + attempt(5, 20, 2) + attempt(9, 30, 3, model="n")
    + attempt(12, 40, None, outcome="timeout") + attempt(15, None, None, outcome="dropped")
)  # fmt: skip


@pytest.fixture
def file(tmp_path):
    def write(content, name="trace"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


# -- formats ---------------------------------------------------------------------------------------


def test_azure(file):
    found = traces.load(file(AZURE))
    assert found.instants.tolist() == [0, 20_040_000, 52_000_000], "ns from the first in time"
    assert found.prompts.tolist() == [4808, 7000, 3180], "put in order of time"
    assert found.outputs.tolist() == [10, 0, 8]
    assert (found.moved, found.invalid) == (1, 0)


def test_mooncake(file):
    found = traces.load(file(MOONCAKE))
    assert found.instants.tolist() == [0, 0, 3 * S, 3 * S, 6 * S], "milliseconds"
    assert found.prompts.tolist() == [200, 210, 220, 230, 240], "same instant: order of the file"
    assert found.outputs.tolist() == [7] * 5
    assert found.moved == 0
    assert found.blocks.of(0) == []


def test_mooncake_blocks(file):
    found = traces.load(file(mooncake(
        (3000, 1025, {"hash_ids": [4, 5, 2**64 - 1]}), (0, 512, {"hash_ids": [4]}), (9, 3, {}),
    )))  # fmt: skip
    blocks = [found.blocks.of(row) for row in range(3)]
    assert blocks == [[4], [], [4, 5, -1]], "in order of time; 64 bits, whatever their sign"
    assert found.blocks.ids.dtype == np.int64
    small = traces.load(file(mooncake((0, 1024, {"hash_ids": [1, 2**31 - 1]}))))
    assert small.blocks.of(0) == [1, 2**31 - 1]
    assert small.blocks.ids.dtype == np.int32, "four bytes an id where that is enough"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (BURSTGPT, "version 1"),
        (BURST_2 + "5,7,1.5,ChatGPT,472,18,490,x\n45.25,,0,GPT-4,1087,230,1317,x\n"
         + "118,8,0,ChatGPT,417,0,417,x\n", "version 2: a session and its elapsed time"),
        (BURSTGPT.replace("ChatGPT", '"ChatGPT, the first"'), "quoted, with a comma"),
        (BURSTGPT.replace("5,Chat", "5.0,Chat").replace("45.25", "4.525e1"), "floats"),
    ],
)  # fmt: skip
def test_burstgpt(file, content, why):
    found = traces.load(file(content))
    assert found.instants.tolist() == [0, 40_250_000_000], why
    assert (found.prompts.tolist(), found.outputs.tolist()) == ([472, 1087], [18, 230]), why
    assert found.failed == 1, f"{why}: no response tokens"


def test_openai_batch(file):
    found = traces.load(file(
        batched(max_tokens=5, tools=[{"type": "function"}], stream=False)
        + batched() + batched(max_completion_tokens=9, max_tokens=None, temperature=0.25)
    ))  # fmt: skip
    assert not found.format.timed
    assert found.outputs.tolist() == [5, -1, 9], "-1: no cap in the body"
    bodies = [json.loads(found.bodies.of(row)) for row in range(3)]
    assert bodies == [
        {"messages": [{"role": "user", "content": "Hi"}], "tools": [{"type": "function"}]},
        {"messages": [{"role": "user", "content": "Hi"}]},
        {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0.25},
    ], "without the model, and what loadlib sets itself"


def test_a_picture_in_the_first_body_is_no_csv(file):
    """Formats are tried in turn, CSV first, whose cells have at most 131,072 characters."""
    url = "data:image/png;base64," + "A" * 200_000
    parts = [{"type": "image_url", "image_url": {"url": url}}]
    found = traces.load(file(batched(messages=[{"role": "user", "content": parts}])))
    assert found.format.name == "OpenAI batch"
    assert json.loads(found.bodies.of(0))["messages"][0]["content"] == parts


def test_many_bodies_keep_apart(file, monkeypatch):
    monkeypatch.setattr(recorded, "_FLUSH", 100)
    found = traces.load(file("".join(batched(user=str(n)) for n in range(50))))
    assert [json.loads(found.bodies.of(row))["user"] for row in range(50)] == [
        str(n) for n in range(50)
    ]


def test_an_own_run(file, tmp_path):
    packed = gzip.compress(OWN.encode())
    found = traces.load(file(packed))
    assert found.instants.tolist() == [0, 5, 9]
    assert (found.prompts.tolist(), found.outputs.tolist()) == ([10, 20, 30], [1, 2, 3])
    assert found.failed == 2, "nobody knows how long their answers were"
    (tmp_path / "requests.jsonl.gz").write_bytes(packed)
    assert len(traces.load(tmp_path)) == 3, "a run folder is its requests"


def test_only_some_labels(file):
    own, burst = file(OWN, "own"), file(BURSTGPT, "burst")
    assert traces.load(own, only={"phase": ["measure"]}).prompts.tolist() == [20, 30]
    both = {"phase": ["measure", "warmup"], "model": ["m"]}
    assert traces.load(own, only=both).prompts.tolist() == [10, 20]
    assert traces.load(own, only={"model": ["n"]}).failed == 0, "of those that are wanted"
    assert traces.load(burst, only={"log_type": ["API log"]}).prompts.tolist() == [1087]
    with pytest.raises(DataError, match=r"`only` chooses by phase: warmup, measure"):
        traces.load(own, only={"phase": ["burst"]})
    with pytest.raises(ScenarioError, match=r"only: .* no phases \(did you mean 'phase'"):
        traces.load(own, only={"phases": ["measure"]})
    with pytest.raises(ScenarioError, match=r"Azure traces know no model: it has no labels"):
        traces.load(file(AZURE), only={"model": ["m"]})


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (gzip.compress(AZURE.encode()), "gzipped"),
        (b"\xef\xbb\xbf" + AZURE.replace("\n", "\r\n").encode(), "BOM and CRLF"),
        (AZURE.replace("\n", "\n\n"), "blank lines"),
        (AZURE.rstrip("\n"), "no end to the last line"),
        (AZURE.replace(",", " , "), "spaces"),
        (AZURE.replace(DAY, "2023-11-16T18:17:0"), "a T"),
        (AZURE.replace("3.9799600", "3.9799600+00:00").replace(DAY + "4,", DAY + "4Z,"), "zones"),
        (HEADER.replace("TIME", "x,TIME")
         + "".join(f"1,{row}\n" for row in AZURE.splitlines()[1:]), "a further column"),
    ],
)  # fmt: skip
def test_one_trace_in_many_dresses(file, content, why):
    found, plain = traces.load(file(content)), traces.load(file(AZURE, "plain"))
    assert found.instants.tolist() == plain.instants.tolist(), why
    assert found.prompts.tolist() == plain.prompts.tolist(), why


def test_zones_are_told_apart(file):
    found = traces.load(file(HEADER + f"{DAY}0+02:00,1,1\n{DAY}0Z,1,1\n{DAY}0,1,1\n"))
    assert found.instants.tolist() == [0, 7200 * S, 7200 * S], "without a zone it is UTC"


BROKEN = [
    ("", None, "is empty", "nothing"),
    ("\n\n", None, "is empty", "blank"),
    (HEADER, None, "no request in it", "a header alone"),
    ("a,b\n1,2\n", 1, "not a known trace: expected the header TIMESTAMP,ContextTokens,G", "header"),
    ('{"timestamp": 1}\n', 1, "not a known trace", "other JSON"),
    ("[" * 100_000, 1, "not a known trace", "nesting"),
    ("\xff\n", 1, "not a known trace", "no text"),
    (f'"{"x" * 131_073}\n', 1, "not a known trace", "a cell beyond what csv reads"),
    (AZURE + "x,1,1\n", 5, "TIMESTAMP: expected a time such as 2023-11-16", "no time"),
    (AZURE + "2023-02-30 00:00:00,1,1\n", 5, "no such day", "no such day"),
    (AZURE + "9999-02-03 00:00:00,1,1\n", 5, "expected a year before 2262", "64 bits of ns"),
    (AZURE + f"{DAY}5,1\n", 5, "2 columns: expected 3 as in the header", "a cut line"),
    (AZURE + f"{DAY}5,-1,1\n", 5, "ContextTokens: expected a whole number of tokens", "negative"),
    (AZURE + f"{DAY}5,1.5,1\n", 5, "ContextTokens: expected a whole number", "a fraction"),
    (AZURE + f"{DAY}5,1,\n", 5, "GeneratedTokens: expected a whole number", "empty"),
    (AZURE + f"{DAY}5,999999999999,1\n", 5, "expected 0 to 100,000,000 tokens", "too many"),
    (AZURE + "2026-11-16 18:17:03,1,1\n", 5, "more than a year from the first", "three years"),
    (AZURE + HEADER, 5, "TIMESTAMP: expected a time", "two files in one"),
    (BURSTGPT + "-5,a,1,1,2,b\n", 5, "Timestamp: expected seconds, 0 or more", "before the start"),
    (BURSTGPT + "1e99,a,1,1,2,b\n", 5, "Timestamp: expected seconds", "the end of time"),
    (BURSTGPT + "nan,a,1,1,2,b\n", 5, "Timestamp: expected seconds", "no number"),
    (BURSTGPT + "5,a,1,1,2\n", 5, "5 columns: expected 6 as in the header", "a cut line"),
    (BURSTGPT + '5,"a,1,1,2,b\n', 5, "2 columns: expected 6", "no end of a quote"),
    (BURSTGPT + "5,a,1,-1,2,b\n", 5, "Response tokens: expected a whole number", "negative"),
    (MOONCAKE + mooncake((0, 512, {"hash_ids": [1, 2]})), 6,
     "hash_ids: 2 of them for 512 tokens: expected 1, one for each 512", "other blocks"),
    (MOONCAKE + mooncake((0, 512, {"hash_ids": [2**64]})), 6,
     "hash_ids: expected numbers of at most 64 bits", "no hash"),
    (MOONCAKE + mooncake((0, 512, {"hash_ids": ["a"]})), 6, "Expected `int`", "text"),
    (batched() + batched().replace("chat/completions", "embeddings"), 2,
     "expected POST to /v1/chat/completions", "another endpoint"),
    (batched() + batched(messages=[]), 2, "Expected `array` of length >= 1", "nothing to say"),
    (batched() + batched(messages=[{"content": "x"}]), 2, "expected messages with a role", "role"),
    (batched() + batched(max_tokens=0), 2, "max_tokens: expected 1 to", "no answer wanted"),
    (batched() + batched(x=json.loads("[" * 70 + "]" * 70)), 2, "nested more than 64", "nested"),
    (batched() + '{"custom_id": "1", "body": ' + "[" * 100_000 + "\n", 2, "not JSON", "nested"),
    (batched() + '{"custom_id": "1", "body": 5}\n', 2, "Expected `object`, got `int`", "a number"),
    (OWN + attempt(0, -1, 5), 6, "input_tokens: expected 0 to", "negative"),
    (OWN + attempt(0, 1, 5, phase=7), 6, "Expected `str`, got `int`", "no name"),
    (OWN + attempt(10**20, 1, 5), 6, "intended_ns", "the end of time"),
    (MOONCAKE + "{\n", 6, "not JSON: expected an object", "cut JSON"),
    (MOONCAKE + '{"timestamp": 1, "input_length": "x", "output_length": 1}\n', 6,
     "Expected `int`, got `str` - at `$.input_length`", "text for a number"),
    (MOONCAKE + '{"timestamp": 1, "input_length": 1}\n', 6, "output_length", "a missing key"),
    (MOONCAKE + '{"timestamp": 1, "input_length": -1, "output_length": 1}\n', 6, "0 to", "minus"),
    (MOONCAKE + '{"timestamp": 1e300, "input_length": 1, "output_length": 1}\n', 6,
     "timestamp: expected milliseconds", "the end of time"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "line", "message", "why"), BROKEN)
def test_broken_files_are_errors_at_their_line(file, content, line, message, why):
    path = file(content.encode("latin-1"), "t.csv")
    with pytest.raises(DataError) as caught:
        traces.load(path)
    text = str(caught.value)
    assert message in text, why
    assert text.startswith(f"{path}:{line}: " if line else f"{path}: "), why
    assert "\n" not in text


@pytest.mark.parametrize(
    ("content", "line", "message", "why"), [row for row in BROKEN if row[1] and row[1] > 1]
)
def test_broken_lines_can_be_left_out_and_are_counted(file, content, line, message, why):
    found = traces.load(file(content.encode("latin-1")), skip_invalid=True)
    assert found.invalid == 1, why
    header = found.format.header
    assert len(found) == line - 1 - header - found.failed


def test_files_that_end_the_patience(file, tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 200)
    with pytest.raises(DataError, match=r":2: a line of more than"):
        traces.load(file(HEADER + "x" * 300))
    monkeypatch.setattr(lines, "MAX_LINES", 3)
    with pytest.raises(DataError, match=r":4: more than 3 lines: cut it"):
        traces.load(file(AZURE))
    monkeypatch.setattr(lines, "MAX_FILE_BYTES", 60)
    with pytest.raises(DataError, match="larger than"):
        traces.load(file(AZURE))
    with pytest.raises(DataError, match="gzip data is damaged"):
        traces.load(file(gzip.compress(AZURE.encode())[:40]))
    with pytest.raises(DataError, match="cannot be read"):
        traces.load(tmp_path / "nowhere")


@given(st.binary(max_size=300))
@settings(max_examples=50, deadline=None)
def test_any_bytes_are_a_trace_or_a_data_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any"
    for head in ("", HEADER, BURST_1, MOONCAKE, batched(), OWN):
        path.write_bytes(head.encode() + content)
        with suppress(DataError):
            assert len(traces.load(path, skip_invalid=True).instants)


# -- hostile and large -----------------------------------------------------------------------------


def test_a_torn_end_is_one_broken_line(file):
    """As `kill -9` leaves a run folder."""
    whole = "".join(attempt(n, n + 1, 1) for n in range(4000))
    torn = file(gzip.compress(whole.encode())[:-500])
    with pytest.raises(DataError, match="gzip data is damaged or ends early"):
        traces.load(torn)
    found = traces.load(torn, skip_invalid=True)
    assert 0 < len(found) < 4000
    assert found.invalid in (1, 2), "the end of the data, and perhaps half a line before it"


def test_a_bomb_is_not_unpacked(file, monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINES", 1000)
    for content, message in (
        (b"\0" * 20_000_000, "a line of more than"),
        (AZURE.encode() + b"\n" * 10_000, "more than 1,000 lines"),
    ):
        packed = gzip.compress(content, 9)
        assert len(packed) < 50_000
        with pytest.raises(DataError, match=message):
            traces.load(file(packed), skip_invalid=True)


def test_a_text_of_a_file_is_not_repeated(file):
    evil = "\x1b[31mhello"
    for content in (HEADER + f"{evil},1,1\n", batched() + batched(messages=evil)):
        with pytest.raises(DataError) as caught:
            traces.load(file(content))
        assert "hello" not in str(caught.value)


def test_what_is_kept_of_a_request(file):
    """16 bytes, 12 more with blocks and 4 for each of them."""
    rows = "".join(f"2023-11-16 18:{n // 60 % 60:02d}:{n % 60:02d},{n % 5000},7\n" for n in
                   range(10_000))  # fmt: skip
    found = traces.load(file(HEADER + rows))
    held = sum(one.nbytes for one in (found.instants, found.prompts, found.outputs))
    assert held == 16 * 10_000
    found = traces.load(file(mooncake(*((n, 1024, {"hash_ids": [n, n + 1]}) for n in range(100)))))
    blocks = found.blocks
    assert sum(one.nbytes for one in (blocks.ids, blocks.starts, blocks.counts)) == 100 * (12 + 8)


MILLION = """
import gzip, resource, sys
from loadlib.workloads import traces
row = b'{"timestamp": 9, "input_length": 2000, "output_length": 7, "hash_ids": [1, 2, 3, 4]}'
thousand = gzip.compress(b"\\n".join([row] * 1000) + b"\\n")
with open(sys.argv[1], "wb") as file:
    for _ in range(1000):
        file.write(thousand)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
found = traces.load(sys.argv[1])
print(len(found), len(found.blocks.ids), before, peak())
"""


@pytest.mark.slow
def test_a_million_lines_are_streamed(tmp_path):
    """16 + 12 + 4 ids of 4 bytes a request are 44 MB; the file has 85 MB unpacked, and its rows
    would be several hundred as Python objects."""
    done = subprocess.run(
        [sys.executable, "-c", MILLION, str(tmp_path / "trace.gz")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows, ids, before, after = map(int, done.stdout.split())
    assert (rows, ids) == (1_000_000, 4_000_000)
    assert after - before < 80, f"MiB resident; {after} at the most"


@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/traces is not there")
@pytest.mark.parametrize(
    ("name", "rows", "prompt_p50", "output_p50"),
    [
        ("AzureLLMInferenceTrace_conv.csv", 19_366, 1020, 129),
        ("AzureLLMInferenceTrace_code.csv", 8_819, 1469, 13),
        ("mooncake_conversation_trace.jsonl", 12_031, 6909, 350),
    ],
)
def test_published_traces(name, rows, prompt_p50, output_p50):
    """Rows and medians as their README states them."""
    found = traces.load(REAL / name)
    assert (len(found), found.invalid) == (rows, 0)
    assert abs(np.median(found.prompts) - prompt_p50) <= 1
    assert abs(np.median(found.outputs) - output_p50) <= 1


def test_every_format_has_a_name_of_its_own():
    assert len({one.name for one in FORMATS}) == len(FORMATS)
    assert batch.MAX_NESTING < 100, "far from where Python gives up"
