"""Documents of an exact length with planted facts, and a question that only these answer.

What a prefix cache can make of them is a setting. `unique`: a document starts with a reference
number of its own, so that no two requests share their first tokens (a `system` message, where the
scenario has one, stands before it). The same seed makes the same documents: a second run within
the lifetime of a server's cache needs another seed to be cold again. `shared`: all documents are
the same up to a number at their end; `{shared: 30 %}`: for that share of their tokens, and
unique from there on. `warm`: there are so many `documents`, each of which is sent again and again
with another number at its end: cold the first time, warm from then on.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PlainSerializer, PlainValidator, WithJsonSchema, model_validator

from loadlib import tokens, units
from loadlib.errors import ScenarioError, nearest
from loadlib.lengths import least
from loadlib.prompt import Prompt
from loadlib.scenario_fields import SHARE_SCHEMA, Count, Depths, broken
from loadlib.workloads.filler import REFERENCE, REFERENCES, filler
from loadlib.workloads.haystack import (
    NAMES,
    TOKENS_PER_CODE,
    HasCodes,
    facts,
    planted,
    question,
    variant,
)
from loadlib.workloads.seeds import digest
from loadlib.workloads.spec import SizedSpec
from loadlib.workloads.windows import Lengths, Target, encoding_of

# Depths by the golden ratio: any number of them, in order, is spread evenly.
_TEMPLATE = 50  # tokens around two messages, and more
_GOLDEN = 0.6180339887498949

_KINDS = ("unique", "shared", "warm")
_DOCUMENTS = 8  # at least, where the scenario does not say


def _prefix(value: object) -> object:
    if value in _KINDS:
        return value
    if isinstance(value, dict) and set(value) == {"shared"}:
        share = units.share(value["shared"])
        if share in (0, 1):
            raise ValueError(f"shared: write prefix: {'shared' if share else 'unique'}")
        return share
    if isinstance(value, float) and 0 < value < 1:
        return value
    guess = nearest(value, _KINDS) if isinstance(value, str) else ""
    raise ValueError(f"should be one of {', '.join(_KINDS)}, or {{shared: 30 %}}{guess}")


Prefix = Annotated[
    Literal["unique", "shared", "warm"] | float,
    PlainValidator(_prefix),
    PlainSerializer(
        lambda value: {"shared": units.format_share(value)} if isinstance(value, float) else value
    ),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": list(_KINDS)},
                {
                    "type": "object",
                    "properties": {"shared": SHARE_SCHEMA},
                    "required": ["shared"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
]


class LongContextSpec(SizedSpec):
    """Settings of `kind: long_context`."""

    kind: Literal["long_context"]
    depth: Depths | None = Field(
        None, description="where a fact is planted, 0 (start) to 1 (end); default: spread"
    )
    needles: Annotated[Count, Field(le=len(NAMES))] = Field(
        1, description="facts planted in a document, all of which are asked for"
    )
    prefix: Prefix = Field(
        "unique", description="what documents have in common: unique, shared, {shared: 30 %}, warm"
    )
    documents: Count | None = Field(
        None, description="prefix: warm: how many there are, each sent again and again"
    )

    @model_validator(mode="after")
    def _consistent(self) -> LongContextSpec:
        if self.prompt_tokens is None:
            raise broken("long_context needs prompt_tokens, such as [8k, 32k, 128k]")
        if self.documents is not None and self.prefix != "warm":
            raise broken("belongs to prefix: warm", "documents")
        if isinstance(self.prompt_tokens, tuple) and self.pool < len(self.prompt_tokens):
            lengths = len(self.prompt_tokens)
            raise broken(f"should be {lengths} or more: one for each of prompt_tokens", "documents")
        if isinstance(self.prefix, float) and self.depth and min(self.depth) < self.prefix:
            shared = units.format_share(self.prefix)
            raise broken(f"a fact in the {shared} that are shared could not differ", "depth")
        needed, shortest = self.needles * TOKENS_PER_CODE, least(self.output_tokens)
        if self.needles > 1 and shortest < needed:
            codes = f"{self.needles} codes take {needed} tokens of an answer"
            raise broken(f"{codes}, the shortest has {shortest}", "output_tokens")
        return self

    @property
    def pool(self) -> int:
        """How many documents `prefix: warm` has: by default each length at each depth."""
        lengths = len(self.prompt_tokens) if isinstance(self.prompt_tokens, tuple) else 1
        return self.documents or max(_DOCUMENTS, lengths * len(self.depth or (0,)))


class LongContext:
    """`kind: long_context`; request n is a pure function of (seed, workload, model, n).

    Lengths and output caps go round with n, or are drawn. Depths go round with each full round of
    lengths, so that every length meets every depth; without `depth` they are spread over the whole
    document (`prefix: shared`: alike in all; `{shared: 30 %}`: over what is not shared). Several
    facts of a document take depths that follow each other.
    """

    kind = "long_context"
    size: int | None = None
    requests_per_arrival = 1.0
    invalid_skipped = 0

    def __init__(self, name: str, spec: LongContextSpec, seed: int) -> None:
        """Raises ScenarioError for a length that cannot hold the facts and the question."""
        self.name = name
        self._seed = seed
        self._spec = spec
        self._lengths = Lengths(spec.prompt_tokens or (), spec.output_tokens, (seed, name))
        self._shared = spec.prefix if isinstance(spec.prefix, float) else 0.0
        self._question = question(spec.needles)
        self._fixed: dict[str, int] = {}
        self._heads: dict[str, int] = {}
        self._references: dict[str, tuple[int, int]] = {}
        self._refuse_too_short()

    def serves(self, model: Target) -> bool:
        """Whether any of the lengths fits the window of `model`."""
        return self._lengths.serves(model, self._floor(model))

    def skipped(self, model: Target) -> tuple[str, ...]:
        """What is skipped, cut or made longer for `model`."""
        return self._lengths.notices(self.name, model, self._floor(model))

    def expected_tokens(self, model: Target) -> tuple[float, float]:
        """Mean prompt tokens and mean output cap per request; (0, 0) if nothing is sent."""
        return self._lengths.mean(model, self._floor(model))

    def prompt(self, model: Target, ordinal: int) -> Prompt:
        """Request number `ordinal` (from 0, without end). ValueError unless `serves(model)`."""
        encoding, exact = encoding_of(model)
        spec, floor = self._spec, self._fixed_tokens(encoding)
        number = ordinal % spec.pool if spec.prefix == "warm" else ordinal
        fit = self._lengths.fit(model, number, floor)
        depths = self._depths(number // self._lengths.round(model))
        codes, start = self._drawn("" if spec.prefix == "shared" else (model.name, number))
        told = facts(codes)
        parts = self._parts(encoding, fit.tokens, list(zip(depths, told, strict=True)), start)
        parts.insert(self._unlike, REFERENCE.format(self._reference(model, ordinal)))
        return Prompt(
            model=model.name,
            workload=self.name,
            messages=self._messages("".join(parts)),
            max_tokens=fit.output,
            tokens=fit.tokens,
            exact=exact,
            asked_tokens=fit.asked,
            cut_tokens=fit.cut,
            check=HasCodes(codes) if spec.check else None,
            variant=self._variant(fit.asked, depths, ordinal),
            extra_body=spec.extra_body,
        )

    @property
    def _unlike(self) -> int:
        """Which of the parts of a document comes first that no other document has."""
        return {"unique": 0, "shared": 2, "warm": 2}.get(str(self._spec.prefix), 1)

    def _messages(self, document: str) -> tuple[dict[str, str], ...]:
        asked = {"role": "user", "content": document + self._question}
        system = self._spec.system
        return ({"role": "system", "content": system}, asked) if system else (asked,)

    def _drawn(self, document: object) -> tuple[tuple[str, ...], int]:
        """The codes of a document, and with which paragraph it starts."""
        first = digest(self._seed, self.name, document)
        others = (digest(self._seed, self.name, document, n) for n in range(1, self._spec.needles))
        codes = tuple(f"{n % 10_000:04d}-{n // 10_000 % 10_000:04d}" for n in (first, *others))
        return codes, first >> 32

    def _parts(
        self, encoding: str, length: int, needles: list[tuple[float, str]], start: int
    ) -> list[str]:
        """The paragraphs that all documents share, and the others, with the facts among them."""
        ring = filler(self._seed, encoding)
        whole = length - self._fixed_tokens(encoding)
        shared = round(self._shared * length) - self._head(encoding) if self._shared else 0
        shared = min(max(0, shared), whole)
        alike = ring.exactly(shared, digest(self._seed, self.name, "shared"))
        rest = max(1, whole - shared)
        within = [(max(0.0, (depth * whole - shared) / rest), fact) for depth, fact in needles]
        return [alike, planted(ring, whole - shared, start, within)]

    def _depths(self, turn: int) -> tuple[float, ...]:
        """Of each fact of a document, as shares of its paragraphs."""
        given, needles = self._spec.depth, range(self._spec.needles)
        if given:
            return tuple(given[(turn + n) % len(given)] for n in needles)
        turn = 0 if self._spec.prefix == "shared" else turn * len(needles)
        spread = ((0.5 + (turn + n) * _GOLDEN) % 1 for n in needles)
        return tuple(self._shared + (1 - self._shared) * depth for depth in spread)

    def _variant(self, asked: int, depths: tuple[float, ...], ordinal: int) -> str:
        spec = self._spec
        spread = spec.depth is None and spec.prefix != "shared"
        drawn = not isinstance(spec.prompt_tokens, tuple)
        text = variant(asked, depths, drawn=drawn, spread=spread)
        if spec.prefix != "warm":
            return text
        return f"{text} {'cold' if ordinal < spec.pool else 'warm'}"

    def _reference(self, model: Target, ordinal: int) -> int:
        """A number of its own for each ordinal: n ↦ a·n + b is one to one modulo 10¹⁸."""
        if model.name not in self._references:
            this = digest(self._seed, self.name, model.name)
            step = this % REFERENCES | 1
            step += 2 * (step % 5 == 0)  # no factor in common with 10
            self._references[model.name] = step, this >> 64
        step, offset = self._references[model.name]
        return (step * ordinal + offset) % REFERENCES

    def _floor(self, model: Target) -> int:
        return self._fixed_tokens(encoding_of(model)[0])

    def _head(self, encoding: str) -> int:
        """Tokens in front of a document: template and system message."""
        if encoding not in self._heads:
            bare = tokens.chat_tokens(self._messages(""), encoding)
            after = tokens.count(self._question, encoding) + tokens.TOKENS_OF_REPLY_START
            self._heads[encoding] = bare - after
        return self._heads[encoding]

    def _fixed_tokens(self, encoding: str) -> int:
        """Everything but the paragraphs: template, system, reference, facts and question."""
        if encoding not in self._fixed:
            self._fixed[encoding] = tokens.chat_tokens(self._bare(), encoding)
        return self._fixed[encoding]

    def _bare(self) -> tuple[dict[str, str], ...]:
        """A prompt without paragraphs."""
        told = facts(("0000-0000",) * self._spec.needles)
        return self._messages("".join((REFERENCE.format(0), *told)))

    def _refuse_too_short(self) -> None:
        shortest = self._lengths.shortest
        # No text has more tokens than bytes, and loading both vocabularies to count takes 0.3 s.
        if shortest >= _TEMPLATE + sum(len(one["content"].encode()) for one in self._bare()):
            return
        needed = max(self._fixed_tokens(encoding) for encoding in tokens.VOCABULARIES)
        if shortest < needed:
            told = "the fact" if self._spec.needles == 1 else f"{self._spec.needles} facts"
            raise ScenarioError(
                f"workloads.{self.name}.prompt_tokens: {shortest} is too short: {told}, the "
                f"question and the template alone take {needed}"
            )
