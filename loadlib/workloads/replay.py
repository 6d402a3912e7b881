"""Production traces: requests as they were recorded and, with `arrival: trace`, when.

Which format a file has is found out (`traces`). Of most only lengths are known, and prompts are
written for them (`written`); where the requests themselves were recorded, they are sent (`bodies`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Protocol

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, model_validator

from loadlib.errors import ScenarioError
from loadlib.prompt import Prompt
from loadlib.rates import Instants, S
from loadlib.scenario_fields import Count, Instant, as_tuple, broken
from loadlib.schedule import Shard, traced
from loadlib.units import format_duration
from loadlib.workloads import traces
from loadlib.workloads.bodies import DEFAULT_OUTPUT_TOKENS, Bodies
from loadlib.workloads.spec import DataSpec
from loadlib.workloads.traces import Recorded
from loadlib.workloads.traces.recorded import Indices
from loadlib.workloads.windows import Target
from loadlib.workloads.written import Written

_SHARD = re.compile(r"\s*([0-9]{1,6})\s*/\s*([0-9]{1,6})\s*")


def _shard(value: object) -> str:
    match = _SHARD.fullmatch(value) if isinstance(value, str) else None
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError("should be a part of the trace such as 1/4, up to 4/4")
    return f"{int(match[1])}/{int(match[2])}"


def _pair(value: object) -> object:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError("should be [from, to], such as [0s, 10m]")
    return tuple(value)


def _in_order(value: tuple[int, int]) -> tuple[int, int]:
    if value[0] >= value[1]:
        raise ValueError("should be [from, to], the later one second")
    return value


def _labels(value: object) -> object:
    if not isinstance(value, dict):
        return value
    return {name: (one,) if isinstance(one, str) else as_tuple(one) for name, one in value.items()}


Window = Annotated[tuple[Instant, Instant], BeforeValidator(_pair), AfterValidator(_in_order)]
Labels = Annotated[
    dict[str, Annotated[tuple[str, ...], Field(min_length=1)]],
    BeforeValidator(_labels),
    PlainSerializer(lambda value: {name: list(many) for name, many in value.items()}),
]


class ReplaySpec(DataSpec):
    """Settings of `kind: replay`."""

    INSTEAD: ClassVar[dict[str, str]] = {"prompt_tokens": "comes from the trace: leave it out"}

    kind: Literal["replay"]
    window: Window | None = Field(
        None, description="[from, to]: only this part of the trace, such as [0s, 10m]"
    )
    shard: Annotated[str, BeforeValidator(_shard)] | None = Field(
        None, description="k/n: every n-th request from the k-th on, such as 1/4"
    )
    only: Labels | None = Field(
        None,
        description="only requests of these: phase, model, workload (run folder), model, log_type "
        "(BurstGPT)",
    )
    output_tokens: Count | None = Field(
        None, description="cap of requests of an OpenAI batch that set none; default 256"
    )

    @model_validator(mode="after")
    def _traced(self) -> ReplaySpec:
        if self.data is None:
            raise broken("replay needs data: the trace file, such as data: trace.csv")
        return self

    @property
    def part(self) -> Shard:
        """The `shard`, counted from 0."""
        index, count = map(int, (self.shard or "1/1").split("/"))
        return Shard(index - 1, count)


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
    lasts_ns: int
    """From when on there is nothing more in the trace, or in its `window`."""
    _replay: Replay
    _rows: Indices
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
        if not self._replay.timed:
            return "its data does not say when: take another arrival, such as poisson", ""
        held, sent = len(self.instants), self.requests(phase)
        if phase.requests is not None and phase.requests > held:
            return f"asks for {phase.requests:,} requests, its trace has {held:,} that fit", ""
        if not sent:
            first = ""
            if held:
                first = f"; the first that fits comes after {_time(self.instants[0] / phase.speed)}"
            return f"no request of the trace falls into it{first}", ""
        if phase.duration_ns is not None and phase.duration_ns * phase.speed > self.lasts_ns:
            end = _time(self.lasts_ns / phase.speed)
            return "", f"its trace ends after {end}, nothing arrives from then on"
        return "", ""


def _time(ns: float) -> str:
    return format_duration(round(ns / 10**6) * 10**6)


class _Contents(Protocol):
    """What the requests of a trace are: `Written` or `Bodies`."""

    def sent_to(self, model: Target) -> Indices:
        """The requests that are sent to `model`, in order."""

    def remarks(self, model: Target, rows: Indices) -> list[tuple[int, str]]:
        """How many of `rows` are not sent as recorded, and why."""

    def expected_tokens(self, model: Target, rows: Indices) -> tuple[float, float]:
        """Mean prompt tokens and mean output cap of some requests, one at least."""

    def prompt(self, model: Target, row: int, lap: int, ordinal: int) -> Prompt:
        """Request `row`, which is number `ordinal` of the model, in its `lap`."""


class Replay:
    """`kind: replay`; request n is a pure function of (seed, workload, model, n).

    A model is sent the requests of the trace that its window holds, in their order and then from
    the first again: in a lap of its own, where their text is written in new words.
    """

    kind = "replay"
    size: int | None = None
    requests_per_arrival = 1.0

    def __init__(self, name: str, spec: ReplaySpec, seed: int) -> None:
        """Raises DataError for the data file, ScenarioError for settings that do not go with it."""
        assert spec.data is not None, "checked where it was read"
        self.name = name
        with _at(name):
            whole = traces.load(spec.data, skip_invalid=spec.skip_invalid, only=spec.only)
            self._trace, self._lasts_ns = _cut(whole, spec)
            self._contents = _contents(name, spec, seed, self._trace)
        self.invalid_skipped = self._trace.invalid
        self._kept: dict[tuple[int | None, str | None], Indices] = {}

    @property
    def timed(self) -> bool:
        """Whether the trace says when its requests came."""
        return self._trace.format.timed

    def notices(self) -> tuple[str, ...]:
        """What of the trace is not replayed as it stands there, for people."""
        counted = {
            "of its trace stood out of order, put in order of time": self._trace.moved,
            "of its trace left out: no answer, or none that was counted": self._trace.failed,
        }
        return tuple(f"workload {self.name}: {n:,} {what}" for what, n in counted.items() if n)

    def serves(self, model: Target) -> bool:
        """Whether any request of the trace fits the window of `model`."""
        return bool(len(self._rows(model)))

    def skipped(self, model: Target) -> tuple[str, ...]:
        """How many requests are skipped, cut or padded for `model`, and why."""
        total, rows = len(self._trace), self._rows(model)
        why = f"skipped for {model.name} (its window is {model.context_window or 0:,} tokens)"
        lines = [(total - len(rows), why), *self._contents.remarks(model, rows)]
        return tuple(f"{self.name}: {n:,} of {total:,} requests {what}" for n, what in lines if n)

    def expected_tokens(self, model: Target) -> tuple[float, float]:
        """Mean prompt tokens and mean output cap of all requests; (0, 0) if none is sent."""
        rows = self._rows(model)
        return self._contents.expected_tokens(model, rows) if len(rows) else (0.0, 0.0)

    def prompt(self, model: Target, ordinal: int) -> Prompt:
        """Request number `ordinal` (from 0, without end). ValueError unless `serves(model)`."""
        rows = self._rows(model)
        if not len(rows):
            raise ValueError(f"no request of the trace fits the window of {model.name}")
        lap, place = divmod(ordinal, len(rows))
        return self._contents.prompt(model, int(rows[place]), lap, ordinal)

    def stream(self, models: list[Target], lap: int) -> Stream:
        """The requests that fit all of `models`, for a schedule that deals them out to these.

        Phases of different `lap` send the same lengths in other words.
        """
        rows: Indices = np.arange(len(self._trace))
        for model in models:
            rows = np.intersect1d(rows, self._rows(model), assume_unique=True)
        instants = self._trace.instants[rows]
        return Stream(self.name, instants, self._lasts_ns, self, rows, lap)

    def ordinal(self, model: Target, row: int, lap: int) -> int:
        """The ordinal of a request of the trace that fits `model`, in a lap of its own."""
        rows = self._rows(model)
        return int(np.searchsorted(rows, row)) + lap * len(rows)

    def _rows(self, model: Target) -> Indices:
        key = model.context_window, model.encoding
        if key not in self._kept:
            self._kept[key] = self._contents.sent_to(model)
        return self._kept[key]


@contextmanager
def _at(name: str) -> Iterator[None]:
    """Errors of settings stand at this workload."""
    try:
        yield
    except ScenarioError as error:
        raise ScenarioError(f"workloads.{name}.{error}") from None


def _contents(name: str, spec: ReplaySpec, seed: int, trace: Recorded) -> _Contents:
    if not trace.format.bodies:
        if spec.output_tokens is not None:
            raise ScenarioError(f"output_tokens: {trace.format.name} traces have their own")
        return Written(name, spec, seed, trace)
    if spec.system:
        raise ScenarioError("system: the requests of a batch are sent as they are: leave it out")
    return Bodies(name, spec, trace, spec.output_tokens or DEFAULT_OUTPUT_TOKENS)


def _cut(whole: Recorded, spec: ReplaySpec) -> tuple[Recorded, int]:
    """The part of a trace that `window` and `shard` leave, and how long it lasts (ns)."""
    rows: Indices = np.arange(len(whole))
    begin, last = 0, int(whole.instants[-1])
    lasts_ns = last
    if spec.window is not None:
        if not whole.format.timed:
            raise ScenarioError(f"window: {whole.format.name} files do not say when: leave it out")
        begin, end = spec.window
        rows = rows[np.searchsorted(whole.instants, begin) : np.searchsorted(whole.instants, end)]
        lasts_ns = min(end, last) - begin
    rows = rows[spec.part.index :: spec.part.count]
    if not len(rows):
        setting = "window" if spec.window else "shard"
        held = f"it has {len(whole):,} requests in {_time(last)}"
        raise ScenarioError(f"{setting}: nothing of the trace is left: {held}")
    return whole.take(rows, from_ns=begin), lasts_ns
