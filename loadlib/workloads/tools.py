"""Function calling: which of the offered functions is called, and with which arguments.

Functions, requests and stories are ours (data/tools.json, `tool_stories`); each request settles by
its words which calls are right. With `mode: multi-step` the result of a right call is sent back,
and the model must answer with it or make the next call; a wrong call ends the conversation.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from loadlib.prompt import Message, Prompt
from loadlib.quality import Said, judged
from loadlib.scenario_fields import Counts, broken, one_or_many, scalar_or_list, tuple_of
from loadlib.workloads.calls import Call, Calls, Says
from loadlib.workloads.spec import CappedSpec
from loadlib.workloads.tasks import LOOKED_AT, Task, Tasks
from loadlib.workloads.tool_catalogue import EVERY
from loadlib.workloads.tool_stories import ASKS, NAMES, PLAIN, STORIES, TOOLS, Story, Tool
from loadlib.workloads.windows import Target

Mode = Literal["one", "many", "parallel", "forced", "none", "multi-step"]
MODES: tuple[Mode, ...] = get_args(Mode)

MOST_OFFERED = 128  # what OpenAI takes
OFFERED = 64
HANDFUL = 5
"""Functions that are offered where the catalogue is not big."""

Modes = Annotated[
    tuple[Mode, ...],
    BeforeValidator(tuple_of),
    Field(min_length=1),
    PlainSerializer(scalar_or_list),
    WithJsonSchema(one_or_many({"enum": list(MODES)})),
]


class ToolsSpec(CappedSpec):
    """Settings of `kind: tools`."""

    kind: Literal["tools"]
    mode: Modes = Field(
        ("one",), description=f"{', '.join(MODES)}: one of them, or a list to go round"
    )
    offered: int | None = Field(
        None,
        ge=len(TOOLS),
        le=MOST_OFFERED,
        description=f"functions offered in mode many; default: {OFFERED}",
    )
    output_tokens: Counts = Field(
        (256,), description="cap: a number, a list to go round, or a distribution"
    )

    @field_validator("extra_body")
    @classmethod
    def _not_tools(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key in sorted({"tools", "tool_choice"} & value.keys()):
            raise ValueError(f"{key} is set by the workload itself (mode)")
        return value

    @model_validator(mode="after")
    def _needed(self) -> ToolsSpec:
        if self.offered is not None and "many" not in self.mode:
            raise broken("needs mode: many (the other modes offer a handful)", "offered")
        return self


class Tools(Tasks):
    """`kind: tools`. Task n has mode n of those given, going round."""

    kind = "tools"

    def __init__(self, name: str, spec: ToolsSpec, seed: int) -> None:
        super().__init__(name, spec, seed)
        self._modes = spec.mode
        # One application has one catalogue: all its requests begin alike, and a prefix cache helps.
        further = list(EVERY[len(TOOLS) :])
        random.Random(f"{seed}/{name}/catalogue").shuffle(further)
        self._catalogue = [*TOOLS, *further[: (spec.offered or OFFERED) - len(TOOLS)]]
        random.Random(f"{seed}/{name}/order").shuffle(self._catalogue)
        if "multi-step" in self._modes:  # mean of a right conversation
            self.requests_per_arrival = len(self.first_turns) / LOOKED_AT

    def task(self, ordinal: int) -> Task:
        """Task number `ordinal` (from 0, without end)."""
        return self._make[self._modes[ordinal % len(self._modes)]](self, self.luck(ordinal))

    def _prompt(self, model: Target, task: Task, cap: int, turn: int) -> Prompt:
        return replace(super()._prompt(model, task, cap, turn), counted=("tools",))

    def _one(self, luck: random.Random) -> Task:
        words, call = ASKS[luck.choice(NAMES)](luck)
        return _called("one", words, (call,), _handful(luck, call.name))

    def _many(self, luck: random.Random) -> Task:
        words, call = ASKS[luck.choice(NAMES)](luck)
        return _called("many", words, (call,), self._catalogue)

    def _parallel(self, luck: random.Random) -> Task:
        """Two or three calls, in half of the cases of one and the same function."""
        count = luck.choice((2, 3))
        again = luck.choice([name for name in NAMES if name != "set_thermostat"])  # no two wills
        names = [again] * count if luck.random() < 0.5 else luck.sample(NAMES, count)
        asks: dict[str, Call] = {}
        while len(asks) < count:
            words, call = ASKS[names[len(asks)]](luck)
            asks[words] = call
        listed = "\n".join(f"{at}. {words}" for at, words in enumerate(asks, 1))
        words = f"Do these independent things at once, all in one answer:\n{listed}"
        return _called("parallel", words, tuple(asks.values()), _handful(luck, *names))

    def _forced(self, luck: random.Random) -> Task:
        words, call = ASKS[luck.choice(NAMES)](luck)
        choice = {"type": "function", "function": {"name": call.name}}
        return _called("forced", words, (call,), _handful(luck, call.name), choice)

    def _none(self, luck: random.Random) -> Task:
        words, accepted = luck.choice(PLAIN)
        right = Said(f"{accepted[0]}.", finish_reason="stop")
        asked = [{"role": "user", "content": words}]
        return Task(asked, "none", Says(accepted), right, _handful(luck))

    def _steps(self, luck: random.Random) -> Task:
        story = luck.choice(STORIES)(luck)
        tools = _handful(luck, *(step.call.name for step in story.steps))
        return _step(story, tools, [{"role": "user", "content": story.question}], 0)

    _make: Mapping[Mode, Callable[[Tools, random.Random], Task]] = {
        "one": _one,
        "many": _many,
        "parallel": _parallel,
        "forced": _forced,
        "none": _none,
        "multi-step": _steps,
    }


def _handful(luck: random.Random, *names: str) -> list[Tool]:
    """The functions named and some others, in any order."""
    others = [tool for tool in TOOLS if tool["function"]["name"] not in names]
    wanted = [tool for tool in TOOLS if tool["function"]["name"] in names]
    tools = wanted + luck.sample(others, HANDFUL - len(wanted))
    luck.shuffle(tools)
    return tools


def _called(
    mode: Mode, words: str, calls: tuple[Call, ...], tools: Sequence[Tool], choice: Any = None
) -> Task:
    return Task(
        [{"role": "user", "content": words}],
        mode,
        Calls(calls, _schemas(tools), forced=choice is not None),
        _calling(calls),
        tools,
        choice,
    )


def _schemas(tools: Sequence[Tool]) -> dict[str, Mapping[str, Any]]:
    return {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}


def _calling(calls: tuple[Call, ...]) -> Said:
    return Said(calls=tuple(call.wire for call in calls), finish_reason="tool_calls")


def _step(story: Story, tools: Sequence[Tool], messages: Sequence[Message], at: int) -> Task:
    """What is due after the first `at` calls of a story."""
    if at == len(story.steps):
        right = Said(f"{story.answer}.", finish_reason="stop")
        return Task(messages, "multi-step", Says((story.answer,)), right, tools)
    calls = (story.steps[at].call,)
    check = Calls(calls, _schemas(tools))
    then = partial(_after, story, tools, messages, at, check)
    return Task(messages, "multi-step", check, _calling(calls), tools, then=then)


def _after(
    story: Story,
    tools: Sequence[Tool],
    messages: Sequence[Message],
    at: int,
    check: Calls,
    said: Said,
) -> Task | None:
    """The next step, with the model's own call and its result; None after a wrong call."""
    if not judged(check, said).passed:
        return None
    ((name, arguments),) = said.calls
    number = f"call{at:05d}"  # nine letters and digits: there are servers that insist on it
    own = {
        "id": number,
        "type": "function",
        "function": {"name": name, "arguments": arguments or "{}"},
    }
    result = json.dumps(story.steps[at].result, ensure_ascii=False, separators=(",", ":"))
    following: list[Message] = [
        {"role": "assistant", "content": said.text or None, "tool_calls": [own]},
        {"role": "tool", "tool_call_id": number, "content": result},
    ]
    return _step(story, tools, [*messages, *following], at + 1)
