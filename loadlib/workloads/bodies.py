"""Replayed requests that are whole: their bodies are sent as they are.

Only the model is the scenario's, and loadlib streams and asks for usage; `extra_body` of the
scenario replaces what it names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from loadlib import tokens
from loadlib.guard import BESIDE, answers
from loadlib.prompt import Prompt
from loadlib.quality import not_empty
from loadlib.workloads.spec import PromptSpec
from loadlib.workloads.traces import Recorded
from loadlib.workloads.traces.recorded import Indices, Lengths
from loadlib.workloads.windows import Target, encoding_of

DEFAULT_OUTPUT_TOKENS = 256

_LOOKED_AT = 400  # bodies, at most, for an estimate of cost

Body = dict[str, Any]


class Bodies:
    """The contents of a trace of whole requests. Equal in every lap."""

    def __init__(self, name: str, spec: PromptSpec, trace: Recorded, output_tokens: int) -> None:
        assert trace.bodies is not None
        self._name, self._spec, self._bodies = name, spec, trace.bodies
        unsaid = trace.outputs < 0
        self._caps: Lengths = np.where(unsaid, output_tokens, trace.outputs).astype(np.int32)

    def sent_to(self, model: Target) -> Indices:
        """The requests that the window holds together with their answer, or whose length nobody
        knows (images)."""
        every = np.arange(len(self._caps))
        window = model.context_window
        if window is None:
            return every
        # no text has more tokens than bytes: most need not be counted
        fits = self._bodies.sizes + self._caps <= window
        for row in np.flatnonzero(~fits):
            count = _count(self._body(int(row)), encoding_of(model)[0])
            fits[row] = count is None or count + self._caps[row] <= window
        found: Indices = every[fits]
        return found

    def remarks(self, model: Target, rows: Indices) -> list[tuple[int, str]]:  # noqa: ARG002
        """Nothing is cut or padded."""
        return []

    def expected_tokens(self, model: Target, rows: Indices) -> tuple[float, float]:
        """Mean prompt tokens and mean output cap; of many requests every n-th is looked at, and
        prompts that nobody can count are taken to be as long as the others."""
        encoding, _ = encoding_of(model)
        prompts, outputs = [], []
        for row in rows[:: -(-len(rows) // _LOOKED_AT)].tolist():
            body = self._body(row)
            prompts.append(_count(body, encoding))
            outputs.append(int(self._caps[row]) * self._choices(body))
        known = [count for count in prompts if count is not None]
        return sum(known) / len(known) if known else 0.0, sum(outputs) / len(outputs)

    def prompt(self, model: Target, row: int, lap: int, ordinal: int) -> Prompt:  # noqa: ARG002
        """Request `row` of the trace."""
        encoding, exact = encoding_of(model)
        body = self._body(row)
        count = _count(body, encoding)
        known = not any(name in body for name in BESIDE)
        return Prompt(
            model=model.name,
            workload=self._name,
            messages=body.pop("messages"),
            max_tokens=int(self._caps[row]),
            tokens=count,
            exact=exact and known and count is not None,
            asked_tokens=count if known else None,
            check=not_empty if self._spec.check else None,
            extra_body={**body, **self._spec.extra_body},
            counted=body.keys() - self._spec.extra_body.keys(),
        )

    def _body(self, row: int) -> Body:
        found: Body = msgspec.json.decode(self._bodies.of(row))
        return found

    def _choices(self, body: Mapping[str, Any]) -> int:
        """How many answers a body asks for; what the scenario asks for is counted elsewhere."""
        return 1 if "n" in self._spec.extra_body else answers(body)


def _count(body: Body, encoding: str) -> int | None:
    """Prompt tokens: exact for messages of text, an estimate with tools, None with images."""
    try:
        beside = [body[name] for name in BESIDE if name in body]
        texts = [msgspec.json.encode(one).decode() for one in beside]
        return tokens.chat_tokens(body["messages"], encoding) + sum(
            tokens.count(text, encoding) for text in texts
        )
    except ValueError:
        return None
