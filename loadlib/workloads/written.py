"""Replayed requests of which only lengths are known: their text is written for them.

A prompt is exactly as many tokens as were recorded. Without blocks it is a reference number of its
own, so that no prefix cache helps, then paragraphs, then the wish to go on. With them (see
`blocks`) prompts begin alike as far as they did in production.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from loadlib import tokens
from loadlib.prompt import Prompt
from loadlib.quality import not_empty
from loadlib.workloads.blocks import blocks
from loadlib.workloads.filler import REFERENCE, REFERENCES, filler, words
from loadlib.workloads.seeds import digest
from loadlib.workloads.spec import PromptSpec
from loadlib.workloads.traces import BLOCK_TOKENS, Recorded
from loadlib.workloads.traces.recorded import Indices, Lengths
from loadlib.workloads.windows import Fit, Target, encoding_of

TASK = "Write on from here."

_LEAST_TEXT = 2  # a word and its end: some servers refuse an empty message
_AFTER_TEXT = 1 + tokens.TOKENS_OF_REPLY_START  # the end of the message, the start of the answer


class Written:
    """The contents of a trace of lengths; request n is a pure function of (seed, model, n)."""

    def __init__(self, name: str, spec: PromptSpec, seed: int, trace: Recorded) -> None:
        self._name, self._spec, self._seed, self._trace = name, spec, seed, trace
        self._bares: dict[str, int] = {}

    def sent_to(self, model: Target) -> Indices:
        """The requests whose prompt the window holds, and whose answer with some of it."""
        every = np.arange(len(self._trace))
        window = model.context_window
        if window is None:
            return every
        fits = self._trace.prompts <= window
        fits &= self._caps(every) <= window - self._floor(model)
        found: Indices = every[fits]
        return found

    def remarks(self, model: Target, rows: Indices) -> list[tuple[int, str]]:
        """How many of `rows` are cut or padded for `model`, and why."""
        window, floor, prompts = model.context_window, self._floor(model), self._trace.prompts[rows]
        short = int(np.count_nonzero(prompts < floor))
        said = [(short, f"are shorter than a message for {model.name}: sent with {floor}")]
        if window is None:
            return said
        cut = int(np.count_nonzero(prompts > window - self._caps(rows)))
        why = f"its window is {window:,} tokens"
        return [(cut, f"cut for {model.name} to what their answers leave ({why})"), *said]

    def expected_tokens(self, model: Target, rows: Indices) -> tuple[float, float]:
        """Mean prompt tokens and mean output cap of some requests."""
        sent = np.maximum(self._trace.prompts[rows], self._floor(model))
        if model.context_window is not None:
            sent = np.minimum(sent, model.context_window - self._caps(rows))
        return float(sent.mean()), float(self._caps(rows).mean())

    def prompt(self, model: Target, row: int, lap: int, ordinal: int) -> Prompt:
        """Request `row` of the trace, which is number `ordinal` of the model, in its `lap`."""
        encoding, exact = encoding_of(model)
        fit = self._fit(model, row)
        budget = fit.tokens - self._bare(encoding)
        ids = self._trace.blocks.of(row) if self._trace.blocks else []
        if ids:
            text = self._of_blocks(model.name, ids, lap, budget, self._bare(encoding))
        else:
            text = self._of_its_own(model.name, encoding, ordinal, budget)
        system = self._spec.system
        asked = {"role": "user", "content": text}
        return Prompt(
            model=model.name,
            workload=self._name,
            messages=({"role": "system", "content": system}, asked) if system else (asked,),
            max_tokens=fit.output,
            tokens=fit.tokens,
            exact=exact,
            asked_tokens=fit.asked,
            cut_tokens=fit.cut,
            check=not_empty if self._spec.check else None,
            extra_body=self._spec.extra_body,
        )

    def _fit(self, model: Target, row: int) -> Fit:
        asked, output = int(self._trace.prompts[row]), max(1, int(self._trace.outputs[row]))
        sent = max(asked, self._floor(model))
        if model.context_window is not None:
            sent = min(sent, model.context_window - output)
        return Fit(asked, sent, output)

    def _caps(self, rows: Indices) -> Lengths:
        """Output caps: what was recorded, one at least (no cap of 0 can be sent)."""
        return np.maximum(self._trace.outputs[rows], 1)

    def _floor(self, model: Target) -> int:
        return self._bare(encoding_of(model)[0]) + _LEAST_TEXT

    def _bare(self, encoding: str) -> int:
        """Tokens of the template and `system` alone."""
        if encoding not in self._bares:
            system = self._spec.system
            messages = [{"role": "user", "content": ""}]
            if system:
                messages.insert(0, {"role": "system", "content": system})
            self._bares[encoding] = tokens.chat_tokens(messages, encoding)
        return self._bares[encoding]

    def _of_blocks(self, model: str, ids: list[int], lap: int, budget: int, bare: int) -> str:
        """The blocks where they stood in the whole prompt: in place of the first tokens of the
        first one are those before the text, in place of the last those after it."""
        number = _numbers(self._seed, self._name, model, lap)
        numbers = [number(one) for one in ids]
        short = budget - (BLOCK_TOKENS * len(ids) - (bare - _AFTER_TEXT))
        if short > 0:  # a message of the least length, longer than what was recorded
            return words(budget)
        return blocks(self._seed, BLOCK_TOKENS).text(numbers, budget, bare - _AFTER_TEXT)

    def _of_its_own(self, model: str, encoding: str, ordinal: int, budget: int) -> str:
        """Exactly `budget` tokens that no other request starts with."""
        this = digest(self._seed, self._name, model, ordinal)
        reference = REFERENCE.format(this % REFERENCES)
        rest = budget - tokens.count(reference, encoding) - tokens.count(TASK, encoding)
        if rest < 0:
            return words(budget)
        return reference + filler(self._seed, encoding).exactly(rest, this >> 64) + TASK


def _numbers(*parts: object) -> Callable[[int], int]:
    """128 bits for each id, which depend on nothing but it and `parts`."""
    start = hashlib.blake2b(repr(parts).encode(), digest_size=16)

    def number(one: int) -> int:
        state = start.copy()
        state.update(b"%d" % one)
        return int.from_bytes(state.digest(), "big")

    return number
