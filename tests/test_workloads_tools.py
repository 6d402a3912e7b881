"""Function calling: what is asked for, which calls are right, and how a conversation goes on."""

import json
import random

import pytest
from commandline import batch, refused
from commandline import scenario as write_scenario
from hypothesis import given, settings
from hypothesis import strategies as st
from spoiling import SHIFTS, spoiled
from workload_stand_ins import Model

from loadlib import tokens
from loadlib.json_check import problems, unknown_keywords
from loadlib.quality import Flaw, Said, judged
from loadlib.workloads import build
from loadlib.workloads.calls import Call, Calls, Says
from loadlib.workloads.tool_catalogue import EVERY
from loadlib.workloads.tool_stories import ASKS, NAMES, PLAIN, STORIES, TOOLS
from loadlib.workloads.tools import MODES, ToolsSpec

SCHEMAS = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}
LYON = {"city": "Lyon", "country": "FR"}
START = "2027-03-01T09:30:00Z"


def tools(mode="one", seed=42, name="t", **given):
    mode = (mode,) if isinstance(mode, str) else mode
    return build(name, ToolsSpec(kind="tools", mode=mode, **given), seed)


def says(name, **arguments):
    return (name, json.dumps(arguments))


def checked(expected, *calls, text="", forced=False):
    check = Calls(tuple(Call(name, arguments) for name, arguments in expected), SCHEMAS, forced)
    return judged(check, Said(text, calls, finish_reason="tool_calls"))


WEATHER = ("get_weather", {"place": LYON, "days": 3, "units": "metric"})
ORDER = ("get_order", {"order_id": "A-12345"})
EVENT = ("create_event", {"title": "Stand-up", "start": START, "duration_minutes": 15,
                          "attendees": ["a@b.c", "d@e.f"]})  # fmt: skip
BUY = ("place_order", {"customer_id": "C-1234", "shipping": {"method": "pickup"},
                       "items": [{"sku": "AB-123", "quantity": 2},
                                 {"sku": "AC-123", "quantity": 1}]})  # fmt: skip

ANSWERS = [
    ([WEATHER], [says("get_weather", place=LYON, days=3, units="metric")], None, 1, "as asked"),
    ([WEATHER], [says("get_weather", place=LYON, days=3)], None, 1, "the default may be left out"),
    ([WEATHER], [says("get_weather", place={"city": " lyon", "country": "FR"}, days=3.0)], None, 1,
     "case and blanks do not matter, 3.0 is an integer"),
    ([WEATHER], [says("get_weather", place=LYON, days=4)], Flaw.WRONG, 4 / 5,
     "one of five parts: the function, the town, its country, the days, the units"),
    ([WEATHER], [says("get_weather", place=LYON)], Flaw.WRONG, 4 / 5, "the default is not 3"),
    ([WEATHER], [says("get_weather", place=LYON, days="3")], Flaw.INVALID, 4 / 5,
     "a text where a number belongs: the form is wrong, and that part"),
    ([WEATHER], [says("get_weather", place="Lyon", days=3)], Flaw.INVALID, 3 / 6,
     "no object where one belongs"),
    ([WEATHER], [says("get_weather", place=LYON, days=3, hours=2)], Flaw.INVALID, 5 / 6,
     "an invented argument"),
    ([WEATHER], [says("get_forecast", place=LYON, days=3)], Flaw.INVALID, 0, "no such function"),
    ([WEATHER], [("get_weather", '{"place": {"city"')], Flaw.INVALID, 1 / 5, "no JSON"),
    ([WEATHER], [("get_weather", "[" * 100_000)], Flaw.INVALID, 1 / 5, "nested without end"),
    ([WEATHER], [("get_weather", '{"place":' * 400 + "1" + "}" * 400)], Flaw.INVALID, None,
     "nested further than anybody looks"),
    ([WEATHER], [("get_weather", "[1]")], Flaw.INVALID, None, "a list is no set of arguments"),
    ([WEATHER], [("get_order", '{"order_id":"A-12345"}')], Flaw.WRONG, 0,
     "a function that fits its own form, and another one"),
    ([ORDER], [says("get_order", order_id="A-12345")] * 2, Flaw.WRONG, 2 / 3, "called twice"),
    ([ORDER, WEATHER], [says("get_weather", place=LYON, days=3), says(*ORDER[:1], **ORDER[1])],
     None, 1, "in any order"),
    ([ORDER, WEATHER], [says(*ORDER[:1], **ORDER[1])], Flaw.WRONG, 2 / 7, "one of two calls"),
    ([ORDER], [says(*ORDER[:1], **ORDER[1])] * 30, Flaw.WRONG, 2 / 31, "thirty calls too many"),
    ([EVENT], [says("create_event", title="Stand-up", start="2027-03-01T10:30:00+01:00",
                    duration_minutes=15, attendees=["d@e.f", "a@b.c"])], None, 1,
     "the same instant elsewhere, the guests in another order"),
    ([EVENT], [says("create_event", title="Stand-up", start="2027-03-01T09:30:00+01:00",
                    duration_minutes=15, attendees=["d@e.f", "a@b.c"])], Flaw.WRONG, 5 / 6,
     "an hour early"),
    ([EVENT], [says("create_event", title="Stand-up", start=START, duration_minutes=15,
                    attendees=["a@b.c"])], Flaw.WRONG, 5 / 6, "a guest was forgotten"),
    ([BUY], [says("place_order", customer_id="c-1234", shipping={"method": "pickup"}, items=[])],
     Flaw.INVALID, None, "the form says C-1234, and at least one item"),
    ([BUY], [says("place_order", customer_id="C-1234", shipping={"method": "pickup"}, items=[
        {"quantity": 1, "sku": "AC-123"}, {"quantity": 2, "sku": "AB-123"}])], None, 1,
     "items in another order"),
]  # fmt: skip


@pytest.mark.parametrize(("expected", "calls", "flaw", "score", "why"), ANSWERS)
def test_known_answers(expected, calls, flaw, score, why):
    found = checked(expected, *calls)
    assert (found.passed, found.flaw) == (flaw is None, flaw), (why, found)
    if score is not None:
        assert found.score == pytest.approx(score), (why, found)


def test_no_call_is_wrong_and_where_one_is_forced_no_form():
    assert checked([ORDER], text="It has been shipped.").flaw is Flaw.WRONG
    assert checked([ORDER], text="It has been shipped.", forced=True).flaw is Flaw.INVALID
    assert checked([ORDER]).flaw is Flaw.EMPTY
    assert checked([ORDER], says(*ORDER[:1], **ORDER[1]), text="Let me look.").passed


PLAINLY = [
    (("6", "six"), "It has six sides.", True, "in words"),
    (("6", "six"), "Six", True, "whatever its case"),
    (("6", "six"), "It has 16 sides.", False, "another number"),
    (("6", "six"), "About 6.5", False, "not the whole number"),
    (("6", "six"), "**6**.", True, "in bold"),
    (("812.64",), "That makes CHF 812.64.", True, "with a full stop"),
    (("40712.17",), "40,712.17 yen", True, "thousands"),
    (("40712.17",), "40 712.17", True, "thousands by a narrow blank"),
    (("T-5123",), "Ticket T-5123 is open", True, "a number with letters"),
    (("T-5123",), "Ticket T-51234", False, "a longer number"),
    (("Au",), "An autumn day", False, "part of a word"),
]


@pytest.mark.parametrize(("accepted", "text", "passes", "why"), PLAINLY)
def test_known_sayings(accepted, text, passes, why):
    assert judged(Says(accepted), Said(text)).passed == passes, why


def test_a_call_where_none_is_due_is_wrong():
    found = judged(Says(("Canberra",)), Said("Canberra", (("get_order", "{}"),)))
    assert (found.flaw, found.note) == (Flaw.WRONG, "calls get_order where no call is due")


# -- what is offered and asked ---------------------------------------------------------------------


def test_every_schema_is_one_we_can_check_and_every_function_is_asked_for():
    assert set(ASKS) == set(NAMES)
    names = [tool["function"]["name"] for tool in EVERY]
    assert len(set(names)) == len(names) == 132
    for tool in EVERY:
        assert set(tool) == {"type", "function"}
        assert unknown_keywords(tool["function"]["parameters"]) == [], tool
        assert len(tool["function"]["name"]) <= 64


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), name=st.sampled_from(NAMES), shift=st.sampled_from(SHIFTS))
def test_what_is_asked_for_fits_its_schema_passes_and_spoiled_never_does(seed, name, shift):
    words, call = ASKS[name](random.Random(seed))
    assert problems(call.arguments, SCHEMAS[name]) == [], words
    check = Calls((call,), SCHEMAS)
    assert judged(check, Said(calls=(call.wire,))).score == 1.0
    assert not judged(check, spoiled(Said(calls=(call.wire,)), shift)).passed
    for value in _told(call.arguments):
        assert value in words, "a number or a name that the request does not settle"


def _told(arguments):
    """The values of a request that stand in its words as they are: numbers, cities, addresses."""
    for key, value in arguments.items():
        if isinstance(value, dict):
            yield from _told(value)
        elif key in ("city", "street", "customer_id", "order_id", "email", "number", "query"):
            yield value
        elif isinstance(value, int | float) and not isinstance(value, bool) and key != "value":
            yield f"{value:g}"


@pytest.mark.parametrize("mode", MODES)
def test_right_answers_pass_and_spoiled_ones_never_do(mode):
    for seed in range(3):
        workload = tools(mode, seed)
        for ordinal in range(40):
            prompt = workload.prompt(Model(), ordinal)
            assert judged(prompt.check, prompt.right).passed, prompt.messages
            for shift in SHIFTS:
                assert not judged(prompt.check, spoiled(prompt.right, shift)).passed
            assert prompt.variant == mode
            assert (prompt.turn, prompt.asked_tokens, prompt.exact) == (1, None, False)


def test_modes_offer_what_they_say():
    model = Model()
    one, many = (tools(mode).prompt(model, 3) for mode in ("one", "many"))
    assert len(one.extra_body["tools"]) == 5
    assert len(many.extra_body["tools"]) == 64
    assert "tool_choice" not in one.extra_body
    few = tools("many", offered=12)
    assert len(few.prompt(model, 0).extra_body["tools"]) == 12
    assert few.prompt(model, 0).extra_body["tools"] == few.prompt(model, 1).extra_body["tools"]
    assert len(tools("many", offered=128).prompt(model, 0).extra_body["tools"]) == 128
    forced = tools("forced").prompt(model, 3)
    (call,) = forced.right.calls
    assert forced.extra_body["tool_choice"] == {"type": "function", "function": {"name": call[0]}}
    counts = {len(tools("parallel").prompt(model, n).right.calls) for n in range(30)}
    assert counts == {2, 3}
    assert tools("none").prompt(model, 0).right.calls == ()
    for workload in map(tools, MODES):
        for n in range(20):
            prompt = workload.prompt(model, n)
            offered = {tool["function"]["name"] for tool in prompt.extra_body["tools"]}
            assert {name for name, _ in prompt.right.calls} <= offered
    assert all(len(accepted) for _, accepted in PLAIN)


def test_requests_are_the_same_for_the_same_seed_whoever_asks_and_for_every_model():
    every = tools(MODES)
    for n in (0, 7, 1000):
        here, there = every.prompt(Model("a"), n), tools(MODES).prompt(Model("b"), n)
        assert (here.messages, here.extra_body, here.right) == (
            there.messages, there.extra_body, there.right
        )  # fmt: skip
    assert [every.prompt(Model(), n).variant for n in range(7)] == [*MODES, "one"]
    asked = {str(tools(seed=seed).prompt(Model(), 0).messages) for seed in range(10)}
    assert len(asked) == 10
    assert len({str(every.prompt(Model(), n).messages) for n in range(300)}) > 240


def test_system_check_and_body_are_heeded():
    workload = tools(system="Be brief.", check=False, extra_body={"temperature": 0},
                     output_tokens=(32, 64))  # fmt: skip
    prompt = workload.prompt(Model(), 1)
    assert prompt.messages[0] == {"role": "system", "content": "Be brief."}
    assert (prompt.check, prompt.max_tokens) == (None, 64)
    assert prompt.extra_body["temperature"] == 0
    assert prompt.extra_body["tools"]


def test_tokens_are_an_estimate_that_counts_the_tools():
    prompt = tools("many").prompt(Model(), 0)
    bare = tokens.chat_tokens(prompt.messages, "o200k_base")
    texts = [json.dumps(one, separators=(",", ":")) for one in prompt.extra_body["tools"]]
    assert prompt.tokens - bare == sum(tokens.count(text, "o200k_base") for text in texts)
    assert "tools" in prompt.counted
    assert tools("many").expected_tokens(Model())[0] == pytest.approx(prompt.tokens, rel=0.1)


def test_a_window_that_cannot_hold_the_catalogue_is_skipped_and_it_is_said():
    workload, small = tools("many"), Model("small", context_window=4000)
    assert not workload.serves(small)
    assert workload.expected_tokens(small) == (0, 0)
    (line,) = workload.skipped(small)
    assert line.startswith("t: skipped for small (")
    assert "its window is 4,000" in line
    with pytest.raises(ValueError, match="small"):
        workload.prompt(small, 0)
    assert workload.serves(Model(context_window=100_000))
    assert workload.skipped(Model(context_window=100_000)) == ()


# -- conversations ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(len(STORIES)))
@pytest.mark.parametrize("seed", range(3))
def test_the_results_of_right_calls_are_sent_back_until_there_is_an_answer(number, seed):
    story = STORIES[number](random.Random(seed))
    workload = tools("multi-step", seed)
    prompt = next(
        one
        for one in (workload.prompt(Model(), n) for n in range(200))
        if _sort(one) == _sort_of(story)
    )
    history = list(prompt.messages)
    for turn in range(1, 4):
        assert prompt.turn == turn
        assert list(prompt.messages) == history
        if prompt.then is None:
            break
        text = "Let me see." if turn == 1 else ""
        said = Said(text, prompt.right.calls, finish_reason="tool_calls")
        following = prompt.then(said)
        assert following.wait_ns == 0
        own, result = following.prompt.messages[-2:]
        assert own["content"] == (text or None)
        assert [tuple(one["function"].values()) for one in own["tool_calls"]] == [*said.calls]
        assert result["role"] == "tool"
        assert result["tool_call_id"] == own["tool_calls"][0]["id"]
        assert json.loads(result["content"])
        history += [own, result]
        assert following.prompt.extra_body == prompt.extra_body
        assert following.prompt.tokens > prompt.tokens
        prompt = following.prompt
    assert prompt.right.calls == ()
    assert judged(prompt.check, prompt.right).passed
    answer = prompt.right.text.removesuffix(".")
    assert answer in history[-1]["content"]
    assert all(answer not in str(message) for message in history[:1]), "it must be looked up"


def _sort(prompt):
    return [prompt.right.calls[0][0], prompt.messages[0]["content"].split()[0]]


def _sort_of(story):
    return [story.steps[0].call.name, story.question.split()[0]]


def test_a_wrong_call_ends_the_conversation():
    prompt = tools("multi-step").prompt(Model(), 0)
    assert prompt.then(spoiled(prompt.right, 3)) is None
    assert prompt.then(Said("I cannot do that.")) is None
    assert prompt.then(Said(calls=prompt.right.calls * 2)) is None
    assert prompt.then(prompt.right) is not None
    endless = Said(" " * 1_200_000, prompt.right.calls)
    assert prompt.then(endless) is None, "text that the tokenizer gives up on"
    unchecked = tools("multi-step", check=False).prompt(Model(), 0)
    assert unchecked.then(unchecked.right) is not None, "what follows does not hang on `check`"
    assert unchecked.then(Said("x")) is None
    assert tools("one").prompt(Model(), 0).then is None


# -- settings --------------------------------------------------------------------------------------


def test_settings_that_cannot_be_met_are_refused_where_they_stand(tmp_path):
    cases = [
        ({"mode": "several"}, "workloads.t.mode", "is not one of one, many, parallel"),
        ({"mode": []}, "workloads.t.mode", "mode: "),
        ({"mode": ["one", "two"]}, "workloads.t.mode", "is not one of one, many, parallel"),
        ({"mode": "many", "offered": 5}, "workloads.t.offered", "12"),
        ({"mode": "many", "offered": 500}, "workloads.t.offered", "128"),
        ({"offered": 20}, "workloads.t.offered", "needs mode: many"),
        ({"extra_body": {"tools": []}}, "extra_body", "tools is set by the workload itself"),
        ({"prompt_tokens": 10}, "prompt_tokens", "belongs to kind: chat"),
    ]
    commands = []
    for number, (settings_, *_) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = write_scenario(folder, workloads={"t": {"kind": "tools", **settings_}})
        commands.append(["validate", path])
    for done, (_, *words) in zip(batch(*commands), cases, strict=True):
        said = refused(done, 2, *words)
        assert "small.yaml:" in said
