"""Scenarios of others: what may stand in a header, a path, a line of a terminal."""

from __future__ import annotations

import re

import pytest
from commandline import batch, refused, scenario
from hypothesis import given, settings
from hypothesis import strategies as st

from loadlib import quality
from loadlib.answer import Answer
from loadlib.catalog import resolve
from loadlib.errors import DataError, LoadlibError, PreflightError, ScenarioError, UsageError
from loadlib.folder import folder_name
from loadlib.outcome import usage_of
from loadlib.quality import RIGHT, Judged, Said, judged
from loadlib.scenario import ModelSpec, parse
from loadlib.workloads.reading import IsLetter

ESCAPE = "\x1b]52;c;eA==\x07\x9b31m\u202e"
STEERS = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u202a-\u202e]")
BASE = """
version: 1
models: [{name: m, base_url: "http://127.0.0.1:9/v1"}]
workloads: {chat: {kind: chat}}
load: [{phase: measure, requests: 3, arrival: closed, users: 1}]
"""


def wrong(old: str, new: str) -> str:
    with pytest.raises(ScenarioError) as caught:
        parse(BASE.replace(old, new))
    return str(caught.value)


URL = "http://127.0.0.1:9/v1"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://h/v1\\r\\nX-Evil: 1", "a header of one's own"),
        ("http://h/v1\\nHost: evil", "half a line break is one, too"),
        ("http://h\\0/v1", "what ends a text in C"),
        ("http://h/\\x1b[2J", "a terminal"),
        ("http://h/\\u202e1v", "a direction"),
        ("http://h/v1 HTTP/1.1", "a request line"),
        ("http://user:pass@h/v1", "a credential"),
        ("http://user@h/v1", "half of one"),
        ("http://h/v1?key=x", "a query, where keys are"),
        ("http://h/v1#x", "a fragment"),
        ("file:///etc/passwd", "a file"),
        ("ftp://h/v1", "another protocol"),
        ("//h/v1", "no protocol"),
    ],
)
def test_an_endpoint_that_would_be_more_than_one(url, why):
    message = wrong(URL, url)
    assert "should be a URL" in message or "keys do not belong" in message, why
    assert not STEERS.search(message)


@pytest.mark.parametrize(
    "name", ["X-A\\r\\nX-B", "X A", "X:A", "", "Authorization", "Content-Length", "ü", "X\\0"]
)
def test_a_session_header_that_is_none(name):
    replay = f'chat: {{kind: replay, data: t.jsonl, session_header: "{name}"}}'
    message = wrong("chat: {kind: chat}", replay)
    assert "header" in message or "set by loadlib" in message or "session_header" in message
    assert not STEERS.search(message)


@pytest.mark.parametrize("key", ["prompt_tokens", "output_tokens"])
@pytest.mark.parametrize("given", ["1G", "10**9", "1000000000", "{uniform: [1k, 1000M]}"])
def test_a_prompt_that_would_fill_the_memory(key, given):
    own = "name: m, context_window: 999999M"
    text = BASE.replace("name: m", own).replace("kind: chat", f"kind: chat, {key}: {given}")
    with pytest.raises(ScenarioError, match=r"20,000,000 tokens|not a number"):
        parse(text)


@pytest.mark.parametrize("place", ["model", "workload", "phase", "scenario"])
@pytest.mark.parametrize("text", ["\\x1b[2J", "a\\nb", "a\\u202eb", "a\\0b", "a\\x9bb", " a", ""])
def test_a_name_is_one_line_of_text(place, text):
    changed = {
        "model": ("name: m", f'name: "{text}"'),
        "workload": ("{chat:", f'{{"{text}":'),
        "phase": ("phase: measure", f'phase: measure, name: "{text}"'),
        "scenario": ("version: 1", f'version: 1\nname: "{text}"'),
    }[place]
    assert not STEERS.search(wrong(*changed))


@settings(deadline=None)  # a busy machine is no failure
@given(st.text(max_size=80))
def test_any_name_is_a_folder_here(name):
    from datetime import UTC, datetime

    made = folder_name(name, datetime.now(UTC))
    assert re.fullmatch(r"[A-Za-z0-9._-]+", made)
    assert not made.startswith(".")


@settings(deadline=None)  # a busy machine is no failure
@given(st.text(max_size=200))
def test_an_error_is_one_line_whatever_it_names(text):
    for error in (LoadlibError(text), UsageError(text), PreflightError(text),
                  ScenarioError(text, file=text, line=3), DataError(text, file=text)):  # fmt: skip
        assert not STEERS.search(str(error))


def test_what_is_printed_of_a_hostile_scenario(tmp_path):
    """Files it names that are not there, and texts it may hold: all of it is printed by someone."""
    written = ESCAPE.replace("\x9b", "")  # which YAML does not allow as it is
    chat = {"kind": "chat", "output_tokens": 8, "system": f"hello {written}"}
    held = scenario(tmp_path, workloads={"chat": chat})
    (tmp_path / "b").mkdir()
    missing = scenario(tmp_path / "b", workloads={"chat": {**chat, "data": f"no{written}.jsonl"}})
    odd = tmp_path / f"odd{ESCAPE}.yaml"
    odd.write_text("version: 2")
    fine, *bad = batch(["validate", held], ["validate", missing], ["validate", odd],
                       ["validate", tmp_path / f"none{ESCAPE}"], [f"run{ESCAPE}"],
                       ["validate", held, "--set", f"{ESCAPE}=1"], ["run", f"--{ESCAPE}"],
                       ["report", tmp_path / f"x{ESCAPE}"])  # fmt: skip
    assert fine.code == 0
    for done in (fine, *bad):
        assert not STEERS.search((done.out + done.err).replace("\n", " "))
    refused(bad[0], 3, "cannot be read")


def test_an_answer_of_megabytes_is_looked_at_as_far_as_answers_go():
    """64 MB are let in; no check and no tokenizer may stand still over them."""
    seen: list[Said] = []

    def check(said: Said) -> Judged:
        seen.append(said)
        return RIGHT

    judged(check, Said("x" * 3_000_000, (("f", "y" * 3_000_000), ("g", "z")), finish_reason="stop"))
    assert len(seen[0].text) == len(seen[0].calls[0][1]) == quality.MAX_CHECKED
    assert seen[0].finish_reason == "stop"
    model = resolve(ModelSpec(name="gpt-4o-mini"))
    answer = Answer(parts={"text": ["word " * 300_000]}, done=True)
    assert usage_of(answer, None, model).output is None  # unknown, not a count of a part
    answer = Answer(parts={"text": ["word " * 10]}, done=True)
    assert usage_of(answer, None, model).output == 11


def test_a_letter_is_looked_for_in_passing():
    """Backtracking over an answer of signs took the cube of its length: hours for these."""
    check = IsLetter("B", ("one", "two", "three"))
    for signs in ("=> ", "(", "\n", "answer is "):
        assert not check(Said(signs * 100_000)).passed
    assert check(Said("Answer is: (B) two")).passed
    assert check(Said("**B**")).passed


def test_validate_says_where_requests_and_keys_go(tmp_path):
    """A scenario can name any variable and any host: that is seen before it happens."""
    models = [
        "gpt-4o-mini",
        {"name": "a", "base_url": "http://10.0.0.1/v1", "api_key_env": "DEPLOY_TOKEN"},
        {"name": "b", "base_url": "http://10.0.0.1/v1", "api_key_env": "DEPLOY_TOKEN"},
        {"name": "c", "base_url": "http://10.0.0.1/v1"},
    ]
    (tmp_path / "sim").mkdir()
    live = scenario(tmp_path, target="live", models=models)
    here = scenario(tmp_path / "sim")
    told, quiet = batch(["validate", live], ["validate", here])
    assert [line for line in told.out.splitlines() if line.startswith("# sends to")] == [
        "# sends to https://api.openai.com/v1 with the key in OPENAI_API_KEY: gpt-4o-mini",
        "# sends to http://10.0.0.1/v1 with the key in DEPLOY_TOKEN: a, b",
        "# sends to http://10.0.0.1/v1 without a key: c",
    ]
    assert "# sends to the simulator on this machine, without a key" in quiet.out.splitlines()
