"""What workloads of short tasks with a right answer have in common.

Task n is a pure function of (seed, workload, n): every model gets the same tasks, so that what
their answers are worth can be compared.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from loadlib import tokens
from loadlib.prompt import Message, Next, Prompt
from loadlib.quality import Check, Said
from loadlib.workloads.spec import CappedSpec
from loadlib.workloads.windows import Lengths, Target, encoding_of

LOOKED_AT = 120
"""Tasks that are counted for estimates, and to see whether a window holds them."""


@dataclass(frozen=True, slots=True)
class Task:
    """A task, its right answer, and what follows in the same conversation.

    `messages` are all of the conversation so far, without the system message of the scenario.
    """

    messages: Sequence[Message]
    variant: str
    check: Check
    right: Said
    tools: Sequence[Mapping[str, Any]] = ()
    choice: Any = None  # `tool_choice`; None: left to the server
    then: Callable[[Said], Task | None] | None = None
    body: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        offered = {"tools": self.tools} if self.tools else {}
        chosen = {} if self.choice is None else {"tool_choice": self.choice}
        object.__setattr__(self, "body", {**offered, **chosen})


class Tasks:
    """A workload of tasks; a kind says what task n is."""

    kind: str
    size: int | None = None
    invalid_skipped = 0
    requests_per_arrival = 1.0

    def __init__(self, name: str, spec: CappedSpec, seed: int) -> None:
        self.name = name
        self._spec = spec
        self._seed = seed
        self._caps = Lengths((), spec.output_tokens, (seed, name))
        self._sizes: dict[str, list[int]] = {}
        self._of_tools: dict[tuple[str, int], int] = {}

    def task(self, ordinal: int) -> Task:
        """Task number `ordinal` (from 0, without end)."""
        raise NotImplementedError

    def luck(self, ordinal: int) -> random.Random:
        """What is drawn for task `ordinal`: the same in every process."""
        return random.Random(f"{self._seed}/{self.name}/{ordinal}")

    def serves(self, model: Target) -> bool:
        """Whether the window of `model` holds the tasks with their answers."""
        return self._caps.serves(model, self._longest(model))

    def skipped(self, model: Target) -> tuple[str, ...]:
        """A line where nothing is sent to `model`, or where some output caps do not fit."""
        longest = self._longest(model)
        if self.serves(model):
            return self._caps.notices(self.name, model, longest)
        why = f"{longest:,} prompt tokens and the answer; its window is {model.context_window:,}"
        return (f"{self.name}: skipped for {model.name} ({why})",)

    def expected_tokens(self, model: Target) -> tuple[float, float]:
        """Mean prompt tokens of the first tasks, and mean output cap; (0, 0) if none is sent."""
        if not self.serves(model):
            return 0.0, 0.0
        counts = self._counts(encoding_of(model)[0])
        caps = self._caps.caps(model, max(counts))
        return sum(counts) / len(counts), sum(caps) / len(caps)

    def prompt(self, model: Target, ordinal: int) -> Prompt:
        """Request number `ordinal` (from 0, without end). ValueError unless `serves(model)`."""
        cap = self._caps.output(model, ordinal, self._longest(model))
        return self._prompt(model, self.task(ordinal), cap, 1)

    def _prompt(self, model: Target, task: Task, cap: int, turn: int) -> Prompt:
        encoding, exact = encoding_of(model)
        messages, spec = self._messages(task), self._spec
        return Prompt(
            model=model.name,
            workload=self.name,
            messages=messages,
            max_tokens=cap,
            tokens=self._count(task, messages, encoding),
            exact=exact and not task.tools,  # how tools are put into a prompt is not published
            check=task.check if spec.check else None,
            variant=task.variant,
            right=task.right,
            extra_body={**task.body, **spec.extra_body},
            turn=turn,
            then=None if task.then is None else partial(self._next, model, task.then, cap, turn),
        )

    def _next(
        self, model: Target, then: Callable[[Said], Task | None], cap: int, turn: int, said: Said
    ) -> Next | None:
        following = then(said)
        if following is None:
            return None
        try:
            return Next(self._prompt(model, following, cap, turn + 1))
        except ValueError:  # the answer holds text that the tokenizer gives up on
            return None

    def _messages(self, task: Task) -> Sequence[Message]:
        system = self._spec.system
        return [{"role": "system", "content": system}, *task.messages] if system else task.messages

    def _count(self, task: Task, messages: Sequence[Message], encoding: str) -> int:
        """Prompt tokens; tools count as the JSON they are sent as."""
        return tokens.chat_tokens(messages, encoding) + sum(
            self._tool_tokens(tool, encoding) for tool in task.tools
        )

    def _tool_tokens(self, tool: Mapping[str, Any], encoding: str) -> int:
        key = encoding, id(tool)  # what is offered lives as long as the workload
        if key not in self._of_tools:
            text = json.dumps(tool, ensure_ascii=False, separators=(",", ":"))
            self._of_tools[key] = tokens.count(text, encoding)
        return self._of_tools[key]

    def _longest(self, model: Target) -> int:
        """The longest prompt of the first tasks; 0 where no window asks for it."""
        return 0 if model.context_window is None else max(self._counts(encoding_of(model)[0]))

    def _counts(self, encoding: str) -> list[int]:
        """Prompt tokens of the first tasks, all their turns among them."""
        if encoding not in self._sizes:
            self._sizes[encoding] = [
                self._count(task, self._messages(task), encoding) for task in self.first_turns
            ]
        return self._sizes[encoding]

    @cached_property
    def first_turns(self) -> list[Task]:
        """The first tasks, each with what follows right answers."""
        turns: list[Task] = []
        for ordinal in range(LOOKED_AT):
            turn: Task | None = self.task(ordinal)
            while turn is not None:
                turns.append(turn)
                turn = None if turn.then is None else turn.then(turn.right)
        return turns
