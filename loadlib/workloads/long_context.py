"""Documents of an exact length with a planted fact, and a question that only the fact answers.

A document starts with a reference number of its own, so that no two requests share their first
tokens and no prefix cache helps (a `system` message, where the scenario has one, stands before
it). The same seed makes the same documents: a second run within the lifetime of a server's cache
needs another seed to be cold again. With `prefix: shared` all documents of a length are the same
up to a number at their end.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from loadlib import tokens
from loadlib.errors import ScenarioError
from loadlib.prompt import Prompt
from loadlib.quality import RIGHT, Judged, Said, wrong
from loadlib.scenario_fields import Depths, broken
from loadlib.workloads.filler import END, filler
from loadlib.workloads.spec import SizedSpec
from loadlib.workloads.windows import Lengths, Target, encoding_of

QUESTION = "What is the vault code? Reply with the code only."
REFERENCE = "{:018d} is the reference number of this file" + END
FACT = "The vault code is {}" + END

# Numbers of 18 digits and codes of 4 + 4 are always the same number of tokens: both encodings
# split digits in threes, and each group of one to three digits is one token.
_REFERENCES = 10**18
_DASHES = str.maketrans(dict.fromkeys("‐‑‒–—−", "-"))

# Depths by the golden ratio: any number of them, in order, is spread evenly.
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True, slots=True)
class HasCode:
    """Whether an answer holds the planted code, however its dash is typed."""

    code: str

    def __call__(self, said: Said) -> Judged:  # noqa: D102
        return RIGHT if self.code in said.text.translate(_DASHES) else wrong()


class LongContextSpec(SizedSpec):
    """Settings of `kind: long_context`."""

    kind: Literal["long_context"]
    depth: Depths | None = Field(
        None, description="where the fact is planted, 0 (start) to 1 (end); default: spread"
    )
    prefix: Literal["unique", "shared"] = Field(
        "unique", description="shared: all documents of a length begin alike (prefix caches help)"
    )

    @model_validator(mode="after")
    def _sized(self) -> LongContextSpec:
        if self.prompt_tokens is None:
            raise broken("long_context needs prompt_tokens, such as [8k, 32k, 128k]")
        return self


class LongContext:
    """`kind: long_context`; request n is a pure function of (seed, workload, model, n).

    Lengths and output caps go round with n. Depths go round with each full round of lengths, so
    that every length meets every depth; without `depth` they are spread over the whole document
    (`prefix: shared`: the middle).
    """

    kind = "long_context"
    size: int | None = None
    requests_per_arrival = 1.0
    invalid_skipped = 0

    def __init__(self, name: str, spec: LongContextSpec, seed: int) -> None:
        """Raises ScenarioError for a length that cannot hold the fact and the question."""
        self.name = name
        self._seed = seed
        self._spec = spec
        self._lengths = Lengths(tuple(spec.prompt_tokens or ()), tuple(spec.output_tokens))
        self._shared = spec.prefix == "shared"
        self._depths = tuple(spec.depth or ((0.5,) if self._shared else ()))
        self._fixed: dict[str, int] = {}
        self._references: dict[str, tuple[int, int]] = {}
        self._refuse_too_short()

    def serves(self, model: Target) -> bool:
        """Whether any of the lengths fits the window of `model`."""
        return bool(self._lengths.kept(model, self._floor(model)))

    def skipped(self, model: Target) -> tuple[str, ...]:
        """A line for each length that is skipped or cut for `model`."""
        return self._lengths.notices(self.name, model, self._floor(model))

    def expected_tokens(self, model: Target) -> tuple[float, float]:
        """Mean prompt tokens and mean output cap per request; (0, 0) if nothing is sent."""
        return self._lengths.mean(model, self._floor(model))

    def prompt(self, model: Target, ordinal: int) -> Prompt:
        """Request number `ordinal` (from 0, without end). ValueError unless `serves(model)`."""
        encoding, exact = encoding_of(model)
        floor = self._fixed_tokens(encoding)
        fit = self._lengths.fit(model, ordinal, floor)
        this = digest(self._seed, self.name, "" if self._shared else (model.name, ordinal))
        code = f"{this % 10_000:04d}-{this // 10_000 % 10_000:04d}"
        reference = REFERENCE.format(self._reference(model, ordinal))
        depth = self._depth(model, ordinal, floor)
        start = this >> 32
        body = self._body(encoding, fit.tokens - floor, start, FACT.format(code), depth)
        text = (body, reference) if self._shared else (reference, body)
        return Prompt(
            model=model.name,
            workload=self.name,
            messages=self._messages("".join(text)),
            max_tokens=fit.output,
            tokens=fit.tokens,
            exact=exact,
            asked_tokens=fit.asked,
            cut_tokens=fit.cut,
            check=HasCode(code) if self._spec.check else None,
            extra_body=self._spec.extra_body,
        )

    def _messages(self, document: str) -> tuple[dict[str, str], ...]:
        asked = {"role": "user", "content": document + QUESTION}
        system = self._spec.system
        return ({"role": "system", "content": system}, asked) if system else (asked,)

    def _body(self, encoding: str, budget: int, start: int, fact: str, depth: float) -> str:
        """The fact between two stretches of paragraphs, the longer of which makes up the count."""
        ring = filler(self._seed, encoding)
        short, used, onward = ring.take(round(budget * min(depth, 1 - depth)), start)
        long = ring.exactly(budget - used, onward)
        return "".join((short, fact, long) if depth < 0.5 else (long, fact, short))

    def _depth(self, model: Target, ordinal: int, floor: int) -> float:
        turn = ordinal // len(self._lengths.kept(model, floor))
        if self._depths:
            return self._depths[turn % len(self._depths)]
        return (0.5 + turn * _GOLDEN) % 1

    def _reference(self, model: Target, ordinal: int) -> int:
        """A number of its own for each ordinal: n ↦ a·n + b is one to one modulo 10¹⁸."""
        if model.name not in self._references:
            this = digest(self._seed, self.name, model.name)
            step = this % _REFERENCES | 1
            step += 2 * (step % 5 == 0)  # no factor in common with 10
            self._references[model.name] = step, this >> 64
        step, offset = self._references[model.name]
        return (step * ordinal + offset) % _REFERENCES

    def _floor(self, model: Target) -> int:
        return self._fixed_tokens(encoding_of(model)[0])

    def _fixed_tokens(self, encoding: str) -> int:
        """Everything but the paragraphs: template, system, reference, fact and question."""
        if encoding not in self._fixed:
            bare = REFERENCE.format(0) + FACT.format("0000-0000")
            self._fixed[encoding] = tokens.chat_tokens(self._messages(bare), encoding)
        return self._fixed[encoding]

    def _refuse_too_short(self) -> None:
        shortest = min(self._lengths.asked, default=0)
        if shortest >= 1000 + len((self._spec.system or "").encode()):
            return  # the rest is below 100 tokens, and no text has more tokens than bytes
        needed = max(self._fixed_tokens(encoding) for encoding in tokens.VOCABULARIES)
        if shortest < needed:
            raise ScenarioError(
                f"workloads.{self.name}.prompt_tokens: {shortest} is too short: the fact, the "
                f"question and the template alone take {needed}"
            )


def digest(*parts: object) -> int:
    """128 bits that depend on nothing but `parts`, the same in every process."""
    raw = hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()
    return int.from_bytes(raw, "big")
