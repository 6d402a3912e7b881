"""Production traces: requests of the recorded lengths and, with `arrival: trace`, instants.

A trace holds no text. A prompt is written for each request: a reference number of its own, so
that no prefix cache helps, then paragraphs, then the wish to go on; exactly as many tokens as were
recorded. The recorded output tokens are the cap of the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from loadlib import tokens
from loadlib.prompt import Prompt
from loadlib.quality import not_empty
from loadlib.rates import Instants, S
from loadlib.scenario_fields import broken
from loadlib.schedule import traced
from loadlib.units import format_duration
from loadlib.workloads import traces
from loadlib.workloads.filler import filler, words
from loadlib.workloads.long_context import REFERENCE, digest
from loadlib.workloads.spec import DataSpec
from loadlib.workloads.windows import Fit, Target, encoding_of

TASK = "Write on from here."

_LEAST_TEXT = 2  # a word and its end: some servers refuse an empty message
_REFERENCES = 10**18


class ReplaySpec(DataSpec):
    """Settings of `kind: replay`."""

    INSTEAD = dict.fromkeys(
        ("prompt_tokens", "output_tokens"), "comes from the trace: leave it out"
    )

    kind: Literal["replay"]

    @model_validator(mode="after")
    def _traced(self) -> ReplaySpec:
        if self.data is None:
            raise broken("replay needs data: the trace file, such as data: trace.csv")
        return self


class Timed(Protocol):
    """What of a phase decides which part of a trace it plays."""

    @property
    def speed(self) -> float: ...  # noqa: D102
    @property
    def duration_ns(self) -> int | None: ...  # noqa: D102
    @property
    def requests(self) -> int | None: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Stream:
    """The requests of a trace that one schedule plays: their instants (ns) and their ordinals."""

    workload: str
    instants: Instants
    _replay: Replay
    _rows: NDArray[np.int64]
    _lap: int

    def ordinal(self, model: Target, index: int) -> int:
        """Which prompt of `model` the arrival `index` of the schedule is."""
        return self._replay.ordinal(model, int(self._rows[index]), self._lap)

    def requests(self, phase: Timed) -> int:
        """How many of them a phase sends."""
        return traced(
            self.instants,
            speed=phase.speed,
            duration_ns=phase.duration_ns,
            requests=phase.requests,
        )

    def rate(self, phase: Timed) -> float | None:
        """Their mean number per second; where `requests` ends the phase, by their mean gap."""
        sent = self.requests(phase)
        if phase.duration_ns is not None:
            return sent / phase.duration_ns * S
        lasts_ns = int(self.instants[sent - 1] - self.instants[0]) / phase.speed if sent else 0
        return (sent - 1) / lasts_ns * S if lasts_ns else None

    def shortfall(self, phase: Timed) -> tuple[str, str]:
        """(error, notice) where the trace holds less than the phase asks for; else empty."""
        held, sent = len(self.instants), self.requests(phase)
        if phase.requests is not None and phase.requests > held:
            return f"asks for {phase.requests:,} requests, its trace has {held:,} that fit", ""
        if not sent:
            first = "" if not held else f"; the first that fits comes after {self._at(0, phase)}"
            return f"no request of the trace falls into it{first}", ""
        if phase.duration_ns is not None and sent == held:
            return "", f"its trace ends after {self._at(-1, phase)}, nothing arrives from then on"
        return "", ""

    def _at(self, index: int, phase: Timed) -> str:
        whole = round(int(self.instants[index]) / phase.speed / 10**6) * 10**6
        return format_duration(whole)


class Replay:
    """`kind: replay`; request n is a pure function of (seed, workload, model, n).

    A model is sent the requests of the trace that its window holds, in their order and then from
    the first again, in new words each time.
    """

    kind = "replay"
    size: int | None = None
    requests_per_arrival = 1.0

    def __init__(self, name: str, spec: ReplaySpec, seed: int) -> None:
        """Raises DataError for the data file."""
        assert spec.data is not None, "checked where it was read"
        self.name = name
        self._spec, self._seed = spec, seed
        self._trace = traces.load(spec.data, skip_invalid=spec.skip_invalid)
        self.invalid_skipped = self._trace.invalid
        self.moved = self._trace.moved
        self._floors: dict[str, int] = {}
        self._kept: dict[tuple[int | None, int], NDArray[np.int64]] = {}

    def serves(self, model: Target) -> bool:
        """Whether any request of the trace fits the window of `model`."""
        return bool(len(self._rows(model)))

    def skipped(self, model: Target) -> tuple[str, ...]:
        """How many requests are skipped, cut or padded for `model`, and why."""
        total, rows, floor = len(self._trace.prompts), self._rows(model), self._floor(model)
        window, prompts = model.context_window, self._trace.prompts[rows]
        short = int(np.count_nonzero(prompts < floor))
        lines = []
        if window is not None:
            cut = int(np.count_nonzero(prompts > window - self._caps(rows)))
            why = f"its window is {window:,} tokens"
            lines = [
                (total - len(rows), f"skipped for {model.name} ({why})"),
                (cut, f"cut for {model.name} to what their answers leave ({why})"),
            ]
        lines.append((short, f"are shorter than a message for {model.name}: sent with {floor}"))
        return tuple(f"{self.name}: {n:,} of {total:,} requests {what}" for n, what in lines if n)

    def expected_tokens(self, model: Target) -> tuple[float, float]:
        """Mean prompt tokens and mean output cap of all requests; (0, 0) if none is sent."""
        rows = self._rows(model)
        if not len(rows):
            return 0.0, 0.0
        sent = np.maximum(self._trace.prompts[rows], self._floor(model))
        if model.context_window is not None:
            sent = np.minimum(sent, model.context_window - self._caps(rows))
        return float(sent.mean()), float(self._caps(rows).mean())

    def prompt(self, model: Target, ordinal: int) -> Prompt:
        """Request number `ordinal` (from 0, without end). ValueError unless `serves(model)`."""
        encoding, exact = encoding_of(model)
        fit = self._fit(model, ordinal)
        text = self._text(model.name, encoding, ordinal, fit.tokens - self._bare(encoding))
        system = self._spec.system
        asked = {"role": "user", "content": text}
        return Prompt(
            model=model.name,
            workload=self.name,
            messages=({"role": "system", "content": system}, asked) if system else (asked,),
            max_tokens=fit.output,
            tokens=fit.tokens,
            exact=exact,
            asked_tokens=fit.asked,
            cut_tokens=fit.cut,
            check=not_empty if self._spec.check else None,
            extra_body=self._spec.extra_body,
        )

    def stream(self, models: list[Target], lap: int) -> Stream:
        """The requests that fit all of `models`, for a schedule that deals them out to these.

        Phases of different `lap` send the same lengths in other words.
        """
        rows = np.arange(len(self._trace.instants))
        for model in models:
            rows = np.intersect1d(rows, self._rows(model), assume_unique=True)
        return Stream(self.name, self._trace.instants[rows], self, rows, lap)

    def ordinal(self, model: Target, row: int, lap: int) -> int:
        """The ordinal of a request of the trace that fits `model`, in a lap of its own."""
        rows = self._rows(model)
        return int(np.searchsorted(rows, row)) + lap * len(rows)

    def _fit(self, model: Target, ordinal: int) -> Fit:
        rows = self._rows(model)
        if not len(rows):
            raise ValueError(f"no request of the trace fits the window of {model.name}")
        row = rows[ordinal % len(rows)]
        asked, output = int(self._trace.prompts[row]), int(self._caps(row))
        sent = max(asked, self._floor(model))
        if model.context_window is not None:
            sent = min(sent, model.context_window - output)
        return Fit(asked, sent, output)

    def _caps(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """Output caps: what was recorded, one at least (no cap of 0 can be sent)."""
        return np.maximum(self._trace.outputs[rows], 1)

    def _rows(self, model: Target) -> NDArray[np.int64]:
        """The requests that are sent to `model`: the window holds their prompt, and their answer
        with some of it."""
        key = model.context_window, self._floor(model)
        if key not in self._kept:
            window, floor = key
            every = np.arange(len(self._trace.prompts))
            if window is not None:
                fits = (self._trace.prompts <= window) & (self._caps(every) <= window - floor)
                every = every[fits]
            self._kept[key] = every
        return self._kept[key]

    def _floor(self, model: Target) -> int:
        return self._bare(encoding_of(model)[0]) + _LEAST_TEXT

    def _bare(self, encoding: str) -> int:
        """Tokens of the template and `system` alone."""
        if encoding not in self._floors:
            system = self._spec.system
            messages = [{"role": "user", "content": ""}]
            if system:
                messages.insert(0, {"role": "system", "content": system})
            self._floors[encoding] = tokens.chat_tokens(messages, encoding)
        return self._floors[encoding]

    def _text(self, model: str, encoding: str, ordinal: int, budget: int) -> str:
        """Exactly `budget` tokens that no other request starts with."""
        this = digest(self._seed, self.name, model, ordinal)
        reference = REFERENCE.format(this % _REFERENCES)
        rest = budget - tokens.count(reference, encoding) - tokens.count(TASK, encoding)
        if rest < 0:
            return words(budget)
        return reference + filler(self._seed, encoding).exactly(rest, this >> 64) + TASK
