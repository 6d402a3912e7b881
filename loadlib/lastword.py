"""What a process says when it has reported everything, and what follows: when each phase was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from loadlib.recorder import NS, Totals
from loadlib.scenario import Phase, Scenario
from loadlib.summarise import Window


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """A phase of one process, with the models under load in it. Unix epoch ns."""

    phase: str
    models: tuple[str, ...]
    start_ns: int
    end_ns: int


class Latest(msgspec.Struct, frozen=True, kw_only=True):
    """The latest intended start and the latest end of a model's requests in a phase."""

    phase: str
    model: str
    begin_ns: int
    end_ns: int


class LastWord(msgspec.Struct, frozen=True, kw_only=True):
    """`seq` reports were made, with so many finished `requests` and this `checksum` (the sum of
    their frames' CRC-32). `left`: it ended before the run did. `cut`: its plan was not over.
    `signal`, `aborted`: what stopped the whole run. `problem`: why its shard file is not whole,
    if so."""

    seq: int
    requests: int = 0
    checksum: int = 0
    spans: tuple[Span, ...] = ()
    latest: tuple[Latest, ...] = ()
    left: bool = False
    cut: bool = False
    signal: int | None = None
    aborted: str | None = None
    problem: str | None = None


class Course:
    """What a process did when: the instants of its last word. Monotonic ns."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], tuple[int, int]] = {}
        self._phases: list[tuple[str, int]] = []  # where Locust decides the load

    @property
    def phase(self) -> str | None:
        """The one that was opened last."""
        return self._phases[-1][0] if self._phases else None

    @property
    def since_ns(self) -> int | None:
        """When it was opened."""
        return self._phases[-1][1] if self._phases else None

    def open(self, phase: str, now_ns: int) -> None:
        """What begins from now on belongs to this phase."""
        self._phases.append((phase, now_ns))

    def ended(self, phase: str, model: str, intended_ns: int, end_ns: int) -> None:
        """A request is over."""
        begun, ended = self._last.get((phase, model), (0, 0))
        self._last[phase, model] = max(begun, intended_ns), max(ended, end_ns)

    @property
    def latest(self) -> tuple[Latest, ...]:
        """Of each phase and model."""
        return tuple(
            Latest(phase=phase, model=model, begin_ns=begin_ns, end_ns=end_ns)
            for (phase, model), (begin_ns, end_ns) in self._last.items()
        )

    def spans(self, models: Iterable[str], now_ns: int) -> tuple[Span, ...]:
        """Of the opened phases: each until the next one, the last until its last answer."""
        last_ns = max((end_ns for _, end_ns in self._last.values()), default=now_ns)
        ends = [start_ns for _, start_ns in self._phases[1:]] + [last_ns]
        names = tuple(models)
        return tuple(
            Span(phase=title, models=names, start_ns=start_ns, end_ns=max(start_ns, end_ns))
            for (title, start_ns), end_ns in zip(self._phases, ends, strict=False)
        )


@dataclass(frozen=True, slots=True)
class Timetable:
    """What of the plan decides when a phase was over: `rates` as `Plan.rates`, by phase."""

    phases: Sequence[Phase]
    models: frozenset[str]
    rates: Mapping[str, Mapping[str, float]]

    def windows(self, words: Iterable[LastWord], totals: Totals) -> tuple[Window, ...]:
        """When each phase was: from the first process's start to the last one's end.

        A phase whose end nobody told (all who knew it were lost) is as long as `totals` has
        seconds in which something happened.
        """
        phases = {phase.title: phase for phase in self.phases}
        found: dict[tuple[str, str | None], Window] = {}
        for word in words:
            for phase, model, start_ns, end_ns in self._spans(word):
                known = found.get((phase, model))
                if known is not None:
                    start_ns = min(known.start_ns, start_ns)
                    end_ns = max(known.end_ns, end_ns)
                found[phase, model] = self.window(phases[phase], model, start_ns, end_ns)
        for title, (first, last) in _lived(totals).items():
            if title in phases and not any(phase == title for phase, _ in found):
                span = first * NS, (last + 1) * NS
                found[title, None] = self.window(phases[title], None, *span)
        return tuple(found.values())

    def _spans(self, word: LastWord) -> Iterator[tuple[str, str | None, int, int]]:
        phases = {phase.title: phase for phase in self.phases}
        latest = {(one.phase, one.model): one for one in word.latest}
        for span in word.spans:
            phase = phases[span.phase]
            counted = phase.requests is not None
            alone = counted or set(span.models) != self.models
            for model in span.models if alone else (None,):
                end_ns = span.end_ns
                if counted and model is not None and (phase.title, model) in latest:
                    end_ns = self._ended(phase, latest[phase.title, model])
                yield phase.title, model, span.start_ns, end_ns

    def _ended(self, phase: Phase, latest: Latest) -> int:
        """When a phase that a number of requests ended was over for a model: one gap after its
        last arrival, so that n requests at n/s last a second; in a closed loop with its last
        answer.
        """
        rate = self.rates.get(phase.title, {}).get(latest.model)
        return latest.end_ns if not rate else latest.begin_ns + round(NS / rate)

    def window(self, phase: Phase, model: str | None, start_ns: int, end_ns: int) -> Window:
        """What a phase was, for all models (None) or for one."""
        return Window(
            phase=phase.title,
            model=model,
            start_ns=start_ns,
            end_ns=end_ns,
            kind=phase.kind,
            load=phase.label,
            closed=phase.closed,
            varying=phase.varying,
            rates=self.rates.get(phase.title, {}),
        )


def _lived(totals: Totals) -> dict[str, tuple[int, int]]:
    """Phase → the first and the last second in which something happened."""
    found: dict[str, tuple[int, int]] = {}
    for second, (_, _, phase) in totals.seconds:
        first, last = found.get(phase, (second, second))
        found[phase] = min(first, second), max(last, second)
    return found


def cut_short(words: Iterable[LastWord]) -> bool:
    """Whether the run ended before its plan did: someone's was not over who did not just leave."""
    return any(word.cut and not word.left for word in words)


def as_it_was(scenario: Scenario, windows: Iterable[Window]) -> Scenario:
    """The implied scenario of a plain locustfile, with the durations Locust gave it."""
    lasted = {one.phase: max(NS, one.end_ns - one.start_ns) for one in windows}
    load = tuple(
        phase.model_copy(update={"duration_ns": lasted.get(phase.title, NS)})
        for phase in scenario.load
    )
    return scenario.model_copy(update={"load": load})


def moved(word: LastWord, offset_ns: int) -> LastWord:
    """The word with its instants moved from the monotonic clock to Unix epoch."""
    return msgspec.structs.replace(
        word,
        spans=tuple(
            msgspec.structs.replace(
                one, start_ns=one.start_ns + offset_ns, end_ns=one.end_ns + offset_ns
            )
            for one in word.spans
        ),
        latest=tuple(
            msgspec.structs.replace(
                one, begin_ns=one.begin_ns + offset_ns, end_ns=one.end_ns + offset_ns
            )
            for one in word.latest
        ),
    )
