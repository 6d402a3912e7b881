"""A conversation that is carried on with the model's own answers (`history: own`).

The questions are those of a recording, the answers the model's. One arrival is one conversation;
a turn is due a think time after the end of the answer before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from loadlib import tokens
from loadlib.prompt import Message, Next, Prompt, Then
from loadlib.quality import Said

Part = tuple[tuple[Message, ...], int]
"""Messages that belong together (a question with its answer), and their tokens."""

Ask = Callable[[tuple[Message, ...], int, int, Then | None], Prompt]
"""(messages, tokens as billed, turn from 1, what follows) → the request for them."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One conversation with one model. `limit` is the longest prompt its window has room for."""

    head: Part
    questions: tuple[tuple[Message, ...], ...]
    encoding: str
    limit: int | None
    think_ns: Callable[[int], int]
    """Turn (from 1) → the pause behind its answer."""
    ask: Ask

    def opening(self) -> Prompt:
        """The first turn. Raises ValueError where the window has no room for it."""
        prompt = self._turn((), 1)
        if prompt is None:
            raise ValueError("the first question does not fit the window")
        return prompt

    def after(self, spoken: tuple[Part, ...], turn: int, said: Said) -> Next | None:
        """What follows the answer to `turn`; None where it said nothing, or is not to be counted,
        or where the window has no room for the next question even without any history."""
        if not said.text.strip():
            return None
        answer = {"role": "assistant", "content": said.text}
        try:
            exchange = self._part((*self.questions[turn - 1], answer))
        except ValueError:  # text that the tokenizer gives up on
            return None
        prompt = self._turn((*spoken, exchange), turn + 1)
        return None if prompt is None else Next(prompt, self.think_ns(turn))

    def _turn(self, spoken: tuple[Part, ...], turn: int) -> Prompt | None:
        """The request for a turn; its history loses its oldest exchanges where it must."""
        question = self._part(self.questions[turn - 1])
        total = tokens.TOKENS_OF_REPLY_START + self.head[1] + question[1]
        total += sum(count for _, count in spoken)
        while self.limit is not None and total > self.limit:
            if not spoken:
                return None
            total -= spoken[0][1]
            spoken = spoken[1:]
        messages = [one for part, _ in (self.head, *spoken, question) for one in part]
        last = turn == len(self.questions)
        return self.ask(
            tuple(messages), total, turn, None if last else partial(self.after, spoken, turn)
        )

    def _part(self, messages: tuple[Message, ...]) -> Part:
        return messages, sum(tokens.message_tokens(one, self.encoding) for one in messages)
