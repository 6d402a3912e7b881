"""Conversations carried on with the model's own answers: as functions, and end to end."""

from __future__ import annotations

import json
from itertools import groupby, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from locust_driver import Driver
from workload_stand_ins import Model

from loadlib import tokens
from loadlib.errors import ScenarioError
from loadlib.lengths import Uniform
from loadlib.quality import Said
from loadlib.scenario import parse, to_yaml
from loadlib.workloads import build
from loadlib.workloads.chat import ChatSpec

QUESTIONS = ("What is a tide?", "Why two a day?", "And on the other side?")


@pytest.fixture
def file(tmp_path):
    """Two conversations: three questions, and one."""
    path = tmp_path / "talk.jsonl"
    talks = [QUESTIONS, ("Alone.",)]
    lines = []
    for talk in talks:
        pairs = [(("user", question), ("assistant", "As recorded.")) for question in talk]
        messages = [{"role": role, "content": text} for pair in pairs for role, text in pair]
        lines.append(json.dumps({"messages": messages}))
    path.write_text("\n".join(lines))
    return str(path)


def chat(file, seed=1, **settings):
    return build("talk", ChatSpec(kind="chat", data=file, history="own", **settings), seed)


def words(prompt):
    return [message["content"] for message in prompt.messages]


def test_each_turn_carries_what_the_model_said(file):
    first = chat(file, system="Be brief.", think_time=(7,)).prompt(Model(), 0)
    assert (first.turn, words(first)) == (1, ["Be brief.", QUESTIONS[0]])
    second = first.then(Said("The sea rises."))
    assert (second.wait_ns, second.prompt.turn) == (7, 2)
    third = second.prompt.then(Said("Twice.", finish_reason="length"))
    assert words(third.prompt) == [
        "Be brief.", QUESTIONS[0], "The sea rises.", QUESTIONS[1], "Twice.", QUESTIONS[2],
    ]  # fmt: skip
    roles = [message["role"] for message in third.prompt.messages]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user"]
    assert third.prompt.tokens == tokens.chat_tokens(third.prompt.messages, "o200k_base")
    assert third.prompt.then is None, "that was the last question"


def test_a_conversation_may_be_asked_for_twice_and_answered_differently(file):
    first = chat(file).prompt(Model(), 0)
    ways = [words(first.then(Said(answer)).prompt) for answer in ("One.", "Two.", "One.")]
    assert ways[0] == ways[2] != ways[1]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (Said(""), "nothing to answer to"),
        (Said(" \n"), "blanks"),
        (Said(refusal="No."), "a refusal has no text"),
    ],
)
def test_a_conversation_ends_where_nothing_was_said(file, said, why):
    assert chat(file).prompt(Model(), 0).then(said) is None, why


PAUSES = [
    ((7,), [7, 7], "one duration"),
    ((1, 2), [1, 2], "a list to go round, turn by turn"),
    (Uniform(10, 20), None, "drawn for each turn"),
]


@pytest.mark.parametrize(("pauses", "expected", "why"), PAUSES)
def test_pauses_of_think_time(file, pauses, expected, why):
    def waits(workload, ordinal):
        second = workload.prompt(Model(), ordinal).then(Said("a"))
        return [second.wait_ns, second.prompt.then(Said("b")).wait_ns]

    workload = chat(file, think_time=pauses)
    assert waits(workload, 0) == waits(chat(file, think_time=pauses), 0), "by seed"
    if expected is not None:
        assert waits(workload, 0) == expected, why
        return
    drawn = [wait for ordinal in range(0, 40, 2) for wait in waits(workload, ordinal)]
    assert set(drawn) <= set(range(10, 21))
    assert len(set(drawn)) > 5, why


@given(st.sampled_from(["2s", "[1s, 1500ms]", "{uniform: [1s, 5s]}", "{table: {p50: 40s, p90: 5m}}",
                        "{lognormal: {p50: 40s, p99: 300s}}"]))  # fmt: skip
def test_think_times_are_read_back_as_they_were_written(text):
    scenario = parse(SCENARIO % f"history: own, think_time: {text}", "s.yaml")
    assert parse(to_yaml(scenario)) == scenario


def test_arrivals_are_conversations(file):
    workload = chat(file)
    assert (workload.size, workload.requests_per_arrival) == (2, 2.0)
    assert words(workload.prompt(Model(), 1)) == ["Alone."]
    assert workload.prompt(Model(), 1).then is None
    assert words(workload.prompt(Model(), 2)) == [QUESTIONS[0]], "from the first again"
    assert chat(file, turns=2).requests_per_arrival == 1.5


def test_a_history_beyond_the_window_loses_its_oldest_turns(file):
    first = chat(file, output_tokens=(20,)).prompt(Model(context_window=70), 0)
    second = first.then(Said("word " * 30)).prompt
    assert words(second) == [QUESTIONS[1]], "the first turn does not fit beside it"
    third = second.then(Said("Short.")).prompt
    assert words(third) == [QUESTIONS[1], "Short.", QUESTIONS[2]]
    assert third.tokens <= 50


def test_the_cost_counts_answers_as_long_as_they_may_be(file):
    prompt, answer = chat(file, output_tokens=(100,)).expected_tokens(Model())
    asked = [tokens.chat_tokens([{"role": "user", "content": q}], "o200k_base") for q in QUESTIONS]
    alone = tokens.chat_tokens([{"role": "user", "content": "Alone."}], "o200k_base")
    bare = tokens.TOKENS_OF_REPLY_START
    said = 100 + tokens.message_tokens({"role": "assistant", "content": ""}, "o200k_base")
    turns = (asked[0], sum(asked[:2]) - bare + said, sum(asked) - 2 * bare + 2 * said, alone)
    assert (prompt, answer) == (sum(turns) / 4, 100)


def test_a_session_is_named_alike_in_all_its_turns_and_in_no_other(file):
    workload = chat(file, session_header="X-Session-ID")
    first = workload.prompt(Model(), 0)
    prompts = [first, first.then(Said("a")).prompt, workload.prompt(Model(), 1)]
    prompts += [workload.prompt(Model(), 2), workload.prompt(Model(name="other"), 0)]
    ids = [prompt.headers["X-Session-ID"] for prompt in prompts]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 4
    recorded = build("talk", ChatSpec(kind="chat", data=file, session_header="X-Session-ID"), 1)
    ids = [recorded.prompt(Model(), n).headers["X-Session-ID"] for n in range(5)]
    assert len(set(ids[:3])) == 1, "the turns of the first conversation"
    assert len(set(ids)) == 3, "the second, and the first in a second lap"


SCENARIO = """\
version: 1
models: [gpt-4o]
workloads:
  chat: {kind: chat, %s}
load: [{phase: measure, requests: 3, arrival: closed, users: 1}]
"""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("history: own, prompt_tokens: 8k", "prompt_tokens: with history: own the answers decide"),
        ("think_time: 1s", "think_time: needs history: own"),
        ("history: mine", "'mine' is not one of recorded, own"),
        ("history: own, think_time: 5", "a duration needs a unit"),
        ("history: own, think_time: 0s", "should be more than 0 and at most a day"),
        ("history: own, think_time: {uniform: [5s, 1s]}", "uniform: the lowest comes first"),
        ("history: own, think_time: {lognormal: {p50: 5s, p99: 1s}}", "p99 1s is below p50 5s"),
        ("history: own, think_time: {table: azure-conv}", "is not one of"),
        ('session_header: "a: b"', "should be the name of a header"),
        ("session_header: Authorization", "Authorization is set by loadlib itself"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ScenarioError, match=r"^s\.yaml:4: ") as raised:
        parse(SCENARIO % settings, "s.yaml")
    assert message in str(raised.value)


# -- end to end ------------------------------------------------------------------------------------


def conversations(rows):
    """Index → the rows of its turns, in order."""
    ordered = sorted(rows, key=lambda row: (row["index"], row["turn"]))
    return {index: list(turns) for index, turns in groupby(ordered, key=lambda row: row["index"])}


@pytest.mark.slow
def test_turns_are_due_a_think_time_after_the_answer_before(driver: Driver, file):
    name = driver.scenario(
        "[{phase: measure, requests: 12, arrival: constant, rate: 20/s, max_in_flight: 50}]",
        workloads={
            "talk": {"kind": "chat", "data": file, "history": "own", "think_time": "300ms",
                     "output_tokens": 30}
        },
    )  # fmt: skip
    ended = driver.loadlib(name, "--processes", "2")
    assert ended.code == 0, ended.err
    found = conversations(ended.rows)
    assert sorted(found) == list(range(12))
    assert sum(len(turns) for turns in found.values()) == 24
    for turns in found.values():
        assert [row["turn"] for row in turns] in ([1, 2, 3], [1])
        assert {row["outcome"] for row in turns} == {"ok"}
        for before, row in pairwise(turns):
            assert row["intended_ns"] == before["end_ns"] + 300_000_000
            # The prompt holds the answer before it, with the four tokens of a message's frame.
            question = tokens.message_tokens(
                {"role": "user", "content": QUESTIONS[row["turn"] - 1]}, "o200k_base"
            )
            grown = before["input_tokens"] + before["output_tokens"] + 4 + question
            assert abs(row["input_tokens"] - grown) <= 1
    assert ended.requests() | {"dropped": 0, "lost": 0} == ended.requests()
    assert ended.requests()["scheduled"] == 24
    assert not any("cut short" in line for line in ended.summary["notices"])


@pytest.mark.slow
def test_a_user_of_a_closed_loop_is_busy_with_its_conversation(driver: Driver, file):
    name = driver.scenario(
        "[{phase: measure, duration: 3s, arrival: closed, users: 3}]",
        models=["fast"],
        workloads={
            "talk": {"kind": "chat", "data": file, "history": "own", "think_time": "400ms",
                     "output_tokens": 4}
        },
    )  # fmt: skip
    ended = driver.loadlib(name)
    found = conversations(ended.rows)
    # Three talk at a time: who thinks has not left, so a fourth begins only when one has ended.
    edges = sorted(
        edge
        for turns in found.values()
        for edge in ((turns[0]["sent_ns"], 1), (turns[-1]["end_ns"], -1))
    )
    level = 0
    for _, step in edges:
        level += step
        assert level <= 3
    assert len(found) >= 6
    cut = [turns for turns in found.values() if len(turns) == 2]
    (line,) = [line for line in ended.summary["notices"] if "cut short" in line]
    assert int(line.split()[0]) >= len(cut) > 0
    start = min(row["intended_ns"] for row in ended.rows)
    assert max(row["intended_ns"] for row in ended.rows) - start < 3.1e9


USER = """
from locust import constant, task
from loadlib import ChatUser


class Talk(ChatUser):
    models = ["fast"]
    workload = {"data": FILE, "history": "own", "output_tokens": 4}
    wait_time = constant(0.05)
"""


@pytest.mark.slow
def test_without_a_scenario_a_user_goes_on_with_its_conversation(driver: Driver, file):
    driver.write("talk.py", USER.replace("FILE", repr(file)))
    ended = driver.locust("talk.py", "-u", "1", "-r", "1", "-t", "2s", "--host", driver.base_url)
    found = sorted(ended.rows, key=lambda row: row["index"])
    assert len(found) > 8
    assert [row["turn"] for row in found[:5]] == [1, 2, 3, 1, 1]
    growing = [row["input_tokens"] for row in found]
    assert growing[0] < growing[1] < growing[2]
    assert growing[3] == tokens.chat_tokens([{"role": "user", "content": "Alone."}], "o200k_base")
    assert growing[4:7] == growing[:3]
