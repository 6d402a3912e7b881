"""Recorded conversations, replayed turn by turn with their growing history.

Request n is the n-th turn, all turns of the first conversation first; it carries everything that
was said before, the recorded answers included. After the last turn they start over.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from loadlib import tokens
from loadlib.errors import ScenarioError
from loadlib.lengths import mean, nth
from loadlib.prompt import Message, Prompt, Then
from loadlib.quality import not_empty
from loadlib.scenario_fields import Count, HeaderName, Names, Pauses, broken
from loadlib.workloads.conversations import Conversation, load
from loadlib.workloads.dialogue import Dialogue
from loadlib.workloads.filler import filler
from loadlib.workloads.seeds import digest
from loadlib.workloads.spec import DataSpec, SizedSpec
from loadlib.workloads.windows import Fit, Lengths, Target, encoding_of, room

BUILT_IN = Path(__file__).parent / "data" / "conversations.jsonl"

# The least a question is cut to, and the most turns looked at for an estimate of cost.
_LEAST_TEXT = 8
_LOOKED_AT = 400

_NOTHING: Message = {"role": "assistant", "content": ""}
_Messages = list[Message]


class ChatSpec(DataSpec, SizedSpec):
    """Settings of `kind: chat`."""

    kind: Literal["chat"]
    turns: Count | None = Field(None, description="at most so many turns of a conversation")
    languages: Names | None = Field(
        None, description="only conversations with one of these in their field `lang`: [en, zh]"
    )
    history: Literal["recorded", "own"] = Field(
        "recorded",
        description="own: the model's answers are carried forward; an arrival is a conversation",
    )
    think_time: Pauses | None = Field(
        None,
        description="history: own: pause between an answer and the next turn: a duration, a list "
        "to go round, or a distribution; default: none",
    )
    session_header: HeaderName | None = Field(
        None, description="header that holds an id of the conversation, for routers that heed one"
    )

    @model_validator(mode="after")
    def _coherent(self) -> ChatSpec:
        if self.history == "own" and self.prompt_tokens is not None:
            raise broken("with history: own the answers decide", "prompt_tokens")
        if self.history != "own" and self.think_time is not None:
            raise broken("needs history: own, where turns wait for answers", "think_time")
        if self.skip_invalid and self.data is None:
            raise broken("is about lines of a data file: needs data", "skip_invalid")
        return self


class Chat:
    """`kind: chat`.

    A history longer than the window leaves room for loses its oldest turns, then the beginning of
    its last question. With `prompt_tokens` every prompt is exactly that long: cut so, or padded by
    paragraphs in front of its first question.
    """

    kind = "chat"

    def __init__(self, name: str, spec: ChatSpec, seed: int) -> None:
        """Raises DataError for the data file, ScenarioError for too small `prompt_tokens`."""
        self.name = name
        self._spec = spec
        self._seed = seed
        recording = load(spec.data or BUILT_IN, skip_invalid=spec.skip_invalid)
        self.invalid_skipped = recording.invalid
        self._conversations = [
            _shaped(one, spec.system, spec.turns)
            for one in _in_languages(name, spec, recording.conversations)
        ]
        self._until = list(accumulate(len(one.ends) for one in self._conversations))
        self._own = spec.history == "own"
        self.requests_per_arrival = self._until[-1] / len(self._until) if self._own else 1.0
        self.size: int | None = len(self._until) if self._own else self._until[-1]
        self._lengths = Lengths(spec.prompt_tokens or (), spec.output_tokens, (seed, name))
        self._costs: dict[tuple[str, int], list[int]] = {}
        self._least: dict[str, int] = {}
        self._refuse_too_short()

    def serves(self, model: Target) -> bool:
        """Whether the window of `model` has room for any prompt."""
        return self._lengths.serves(model, self._floor(model))

    def skipped(self, model: Target) -> tuple[str, ...]:
        """Which lengths are skipped or cut, or one line on histories that are cut."""
        floor = self._floor(model)
        if self._lengths.asked:
            return self._lengths.notices(self.name, model, floor)
        if not self.serves(model):
            why = f"its window is {model.context_window:,} tokens"
            return (f"{self.name}: skipped for {model.name} ({why})",)
        lines = self._lengths.notices(self.name, model, floor)
        limit = room(model, max(self._lengths.caps(model, floor)))
        if cut := 0 if limit is None else self._longer_than(limit, encoding_of(model)[0]):
            drawn = not isinstance(self._lengths.outputs, tuple)
            to = "what their answers leave" if drawn else f"{limit:,}"
            share = f"{cut:,} of {len(self._conversations):,} conversations"
            what = f"{share} {'can be ' if drawn else ''}cut from their oldest turns to {to}"
            lines = (f"{self.name}: {what} for {model.name}", *lines)
        return lines

    def expected_tokens(self, model: Target) -> tuple[float, float]:
        """Mean prompt tokens and mean output cap; of a large file every n-th turn is counted."""
        floor = self._floor(model)
        if self._lengths.asked:
            return self._lengths.mean(model, floor)
        if not self.serves(model):
            return 0.0, 0.0
        encoding, _ = encoding_of(model)
        every = range(0, self._until[-1], -(-self._until[-1] // _LOOKED_AT))
        counts = [self._likely(encoding, *self._locate(turn)) for turn in every]
        caps = self._lengths.caps(model, floor)
        limits = [room(model, cap) for cap in caps]
        kept = [n if limit is None else min(n, limit) for n in counts for limit in limits]
        return sum(kept) / len(kept), sum(caps) / len(caps)

    def prompt(self, model: Target, ordinal: int) -> Prompt:
        """Request number `ordinal` (from 0, without end), with `history: own` the first turn of
        conversation `ordinal`. ValueError unless `serves(model)`."""
        if self._own:
            return self._dialogue(model, ordinal).opening()
        encoding, _ = encoding_of(model)
        turns = self._until[-1]
        index, turn = self._locate(ordinal % turns)
        fit = self._fit(model, ordinal, self._natural(encoding, index, turn))
        messages, count = self._history(encoding, index, turn, fit.tokens)
        if self._lengths.asked:
            messages = self._padded(messages, fit.tokens - count, encoding, index)
            count = fit.tokens
        lap = ordinal // turns * len(self._until)
        prompt = self._prompt(model, messages, count, fit.output, lap + index)
        return replace(
            prompt, asked_tokens=fit.asked, cut_tokens=count if count != fit.asked else None
        )

    def _prompt(
        self,
        model: Target,
        messages: Sequence[Message],
        count: int,
        output: int,
        conversation: int,
    ) -> Prompt:
        header = self._spec.session_header
        return Prompt(
            model=model.name,
            workload=self.name,
            messages=messages,
            max_tokens=output,
            tokens=count,
            exact=encoding_of(model)[1],
            check=not_empty if self._spec.check else None,
            variant=self._conversations[conversation % len(self._conversations)].lang,
            extra_body=self._spec.extra_body,
            headers={header: self._session(model, conversation)} if header else {},
        )

    def _session(self, model: Target, conversation: int) -> str:
        """The same for all turns of a conversation, and for no other conversation."""
        return f"{digest(self._seed, self.name, model.name, conversation):032x}"

    def _dialogue(self, model: Target, ordinal: int) -> Dialogue:
        """Conversation number `ordinal`, its answers left to the model."""
        encoding, _ = encoding_of(model)
        index = ordinal % len(self._conversations)
        one, output = self._conversations[index], self._output(model, ordinal)
        limit = room(model, output)
        opening, _ = self._history(encoding, index, 0, 1 << 40 if limit is None else limit)
        head = tuple(message for message in opening if message["role"] in ("system", "developer"))
        questions = [
            one.messages[begin:end] for begin, end in zip(one.starts, one.ends, strict=True)
        ]

        def ask(messages: tuple[Message, ...], count: int, turn: int, then: Then | None) -> Prompt:
            prompt = self._prompt(model, messages, count, output, ordinal)
            return replace(prompt, turn=turn, then=then)

        return Dialogue(
            head=(head, sum(tokens.message_tokens(message, encoding) for message in head)),
            questions=(tuple(opening[len(head) :]), *questions[1:]),
            encoding=encoding,
            limit=limit,
            think_ns=lambda turn: self._pause(model, ordinal, turn),
            ask=ask,
        )

    def _pause(self, model: Target, conversation: int, turn: int) -> int:
        """How long (ns) the user thinks behind the answer to a turn."""
        pauses = self._spec.think_time
        if pauses is None:
            return 0
        key = self._seed, self.name, model.name, "think", conversation
        return nth(pauses, turn - 1, *key)

    def _output(self, model: Target, ordinal: int) -> int:
        return self._lengths.output(model, ordinal, self._floor(model))

    def _fit(self, model: Target, ordinal: int, natural: int) -> Fit:
        if self._lengths.asked:
            return self._lengths.fit(model, ordinal, self._floor(model))
        output = self._output(model, ordinal)
        limit = room(model, output)
        return Fit(natural, natural if limit is None else min(natural, limit), output)

    def _locate(self, turn: int) -> tuple[int, int]:
        """Conversation and turn within it of the n-th turn of the whole recording."""
        index = bisect_right(self._until, turn)
        return index, turn - (self._until[index - 1] if index else 0)

    def _counts(self, encoding: str, index: int) -> list[int]:
        """Tokens of each message of a conversation, counted when first asked for."""
        key = encoding, index
        if key not in self._costs:
            messages = self._conversations[index].messages
            self._costs[key] = [tokens.message_tokens(one, encoding) for one in messages]
        return self._costs[key]

    def _natural(self, encoding: str, index: int, turn: int) -> int:
        """Prompt tokens of a turn with its whole history."""
        end = self._conversations[index].ends[turn]
        return tokens.TOKENS_OF_REPLY_START + sum(self._counts(encoding, index)[:end])

    def _likely(self, encoding: str, index: int, turn: int) -> int:
        """Prompt tokens of a turn; the model's own answers counted as long as they may be (where
        that is drawn: are on average)."""
        natural = self._natural(encoding, index, turn)
        if not self._own:
            return natural
        one, counts = self._conversations[index], self._counts(encoding, index)
        caps = self._lengths.outputs
        longest = max(caps) if isinstance(caps, tuple) else round(mean(caps))
        for end, following in zip(one.ends[:turn], one.starts[1 : turn + 1], strict=True):
            answer = longest + tokens.message_tokens(_NOTHING, encoding)
            natural += answer - sum(counts[end:following])
        return natural

    def _longer_than(self, limit: int, encoding: str) -> int:
        """How many conversations have a turn of more than `limit` prompt tokens."""
        longer = 0
        for index, one in enumerate(self._conversations):
            # no text has more tokens than bytes, nor more than four of these to a character
            most = sum(4 * len(m["content"]) + 8 for m in one.messages[: one.ends[-1]])
            if most + 8 > limit:
                longer += self._natural(encoding, index, len(one.ends) - 1) > limit
        return longer

    def _history(self, encoding: str, index: int, turn: int, limit: int) -> tuple[_Messages, int]:
        """The messages of a turn cut to at most `limit` prompt tokens, and their count."""
        one, counts = self._conversations[index], self._counts(encoding, index)
        end, head = one.ends[turn], one.starts[0]
        fixed = tokens.TOKENS_OF_REPLY_START + sum(counts[:head])
        rest = sum(counts[head:end])
        for begin, following in zip(one.starts, (*one.starts[1:], end), strict=False):
            if begin >= end:
                break
            if fixed + rest <= limit:
                return [*one.messages[:head], *one.messages[begin:end]], fixed + rest
            rest -= sum(counts[begin:following])
        if not self._spec.system and fixed + counts[end - 1] > limit:
            head, fixed = 0, tokens.TOKENS_OF_REPLY_START  # a recorded system message yields too
        question = one.messages[end - 1]
        bare = fixed + tokens.message_tokens({**question, "content": ""}, encoding)
        text, count = _ending(question["content"], limit - bare, encoding)
        return [*one.messages[:head], {**question, "content": text}], bare + count

    def _padded(self, messages: _Messages, missing: int, encoding: str, index: int) -> _Messages:
        """`messages` with paragraphs of `missing` tokens in front of the first question."""
        if not missing:
            return messages
        first = next(i for i, one in enumerate(messages) if one["role"] == "user")
        text = messages[first]["content"]
        ring = filler(self._seed, encoding)
        padded = ring.exactly(missing, self._start(index)) + text
        if text[:1] in ("\r", "\n", "/"):
            # these join the blank line before them into one piece: see by how much, once
            joined = missing + tokens.count(text, encoding) - tokens.count(padded, encoding)
            padded = ring.exactly(missing + joined, self._start(index)) + text
        return [*messages[:first], {**messages[first], "content": padded}, *messages[first + 1 :]]

    def _start(self, index: int) -> int:
        """Where the padding of a conversation starts: alike for its turns, not for others."""
        return digest(self._seed, self.name, index)

    def _floor(self, model: Target) -> int:
        return self._least_tokens(encoding_of(model)[0])

    def _least_tokens(self, encoding: str) -> int:
        """The template, `system`, and a few tokens of a question."""
        if encoding not in self._least:
            system = self._spec.system
            bare: _Messages = [{"role": "system", "content": system}] if system else []
            bare.append({"role": "user", "content": ""})
            self._least[encoding] = tokens.chat_tokens(bare, encoding) + _LEAST_TEXT
        return self._least[encoding]

    def _refuse_too_short(self) -> None:
        shortest = self._lengths.shortest if self._lengths.asked else None
        if shortest is None or shortest >= 100 + len((self._spec.system or "").encode()):
            return  # the rest is below 100 tokens, and no text has more tokens than bytes
        needed = max(self._least_tokens(encoding) for encoding in tokens.VOCABULARIES)
        if shortest < needed:
            raise ScenarioError(
                f"workloads.{self.name}.prompt_tokens: {shortest} is too short: the template and "
                f"a short question take {needed}"
            )


def _in_languages(
    name: str, spec: ChatSpec, conversations: Sequence[Conversation]
) -> Sequence[Conversation]:
    """Those in the languages that were asked for, each of which there must be."""
    if spec.languages is None:
        return conversations
    held = dict.fromkeys(one.lang for one in conversations if one.lang is not None)
    what = "the data file" if spec.data else "the built-in set"
    if not held:
        raise ScenarioError(
            f"workloads.{name}.languages: no conversation of {what} says its language: give each "
            'record a field "lang", such as {"lang": "en", "messages": […]}'
        )
    for language in spec.languages:
        if language not in held:
            raise ScenarioError(
                f"workloads.{name}.languages: {what} has no {language!r}, only {', '.join(held)}"
            )
    return [one for one in conversations if one.lang in spec.languages]


def _shaped(one: Conversation, system: str | None, turns: int | None) -> Conversation:
    """With the scenario's system message instead of the recorded one, and at most `turns`."""
    head = one.starts[0]
    front: tuple[Message, ...] = one.messages[:head]
    if system:
        front = ({"role": "system", "content": system},)
    shift = len(front) - head
    return Conversation(
        messages=front + one.messages[head:],
        starts=tuple(at + shift for at in one.starts[:turns]),
        ends=tuple(at + shift for at in one.ends[:turns]),
        lang=one.lang,
    )


def _ending(text: str, budget: int, encoding: str) -> tuple[str, int]:
    """The longest end of `text` of at most `budget` tokens, and its count."""
    kept = tokens.encode(text, encoding)
    excess = len(kept) - budget
    while excess > 0:
        kept = kept[excess:]
        # a character cut in half decodes to U+FFFD, and other pieces may make other tokens
        text = tokens.decode(kept, encoding).lstrip("\ufffd")
        excess = tokens.count(text, encoding) - budget
    return text, tokens.count(text, encoding)
