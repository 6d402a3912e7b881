"""What the verdict would be if the run ended now: gates and health on what is there so far.

Judged by the code that makes the verdict, on the same totals; only that a request whose answer is
still owed is not lost yet. Pure: instants are arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from loadlib import slo
from loadlib.conclude import judge
from loadlib.gathered import Gathered
from loadlib.histogram import Histogram
from loadlib.instrument import readings
from loadlib.metrics import CATALOGUE, SCALE
from loadlib.recorder import Counts, Key, Totals
from loadlib.sample import Sample
from loadlib.scenario import Phase
from loadlib.session import Session
from loadlib.summarise import GRACE_NS, Measured, Window, group, keys_of, window_of
from loadlib.summary import Gate, Group, Health, Stats

_OF_BOUNDS = ("e2e", "sent_e2e")  # metrics whose means error bounds and health ask for

Pause = Callable[[], object]
MakeWindow = Callable[[Phase, str | None, int, int], Window]


def never() -> None:
    """Nobody has to wait: no pause is made."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A phase under load for some models, since an instant (Unix epoch)."""

    phase: str
    models: tuple[str, ...]
    start_ns: int


class Lights:
    """Told of stages and samples as they come; `window` makes a phase's window, as for the
    summary.
    """

    def __init__(
        self,
        session: Session,
        totals: Totals,
        window: MakeWindow,
        *,
        allow_unhealthy: bool,
        cpus: int | None,
    ) -> None:
        self.session = session
        self._totals, self._window = totals, window
        self._allow_unhealthy, self._cpus = allow_unhealthy, cpus
        self.gathered: dict[Key, Gathered] = {}
        self._stages: dict[tuple[str, tuple[str, ...]], Stage] = {}

    # -- what comes in -------------------------------------------------------------------------

    def enter(self, data: Mapping[str, Any]) -> None:
        """A process says which phase it is in, of which models, and since when."""
        since_ns = data["since_ns"]
        if since_ns is None:
            return  # nothing has begun there
        where = str(data["phase"]), tuple(data["models"])
        known = self._stages.get(where)
        if known is None or since_ns < known.start_ns:
            self._stages[where] = Stage(*where, int(since_ns))

    def see(self, sample: Sample) -> None:
        """An attempt is over; some 10 µs."""
        key = (sample.model, sample.workload, sample.phase)
        mine = self.gathered.get(key)
        if mine is None:
            mine = self.gathered[key] = self._gatherer(key)
        mine.add(sample)

    # -- what is known -------------------------------------------------------------------------

    @property
    def stages(self) -> list[Stage]:
        """The stages begun so far, in order."""
        return sorted(self._stages.values(), key=lambda stage: stage.start_ns)

    def phases(self) -> dict[str, Phase]:
        """The phases of the plan, by title. Without a scenario more may come."""
        return {phase.title: phase for phase in self.session.scenario.load}

    def windows(self, now_ns: int) -> tuple[Window, ...]:
        """When each phase was so far: like the summary's, which knows the end."""
        phases, everyone, found = self.phases(), set(self.session.models), []
        started = self.stages
        nexts = [stage.start_ns for stage in started[1:]] + [now_ns]
        for stage, end_ns in zip(started, nexts, strict=False):
            phase = phases.get(stage.phase)
            if phase is None:
                continue
            if phase.duration_ns is not None and not self.session.free:
                end_ns = min(now_ns, stage.start_ns + phase.duration_ns)
            alone = phase.requests is not None or set(stage.models) != everyone
            for model in stage.models if alone else (None,):
                end = max(stage.start_ns, end_ns)
                found.append(self._window(phase, model, stage.start_ns, end))
        return tuple(found)

    def groups(self, windows: tuple[Window, ...], pause: Pause = never) -> tuple[Group, ...]:
        """The groups of a summary, as far as gates and health ask for them."""
        session, found = self.session, []
        pairs = [pair for pair in session.scenario.groups if session.serves(*pair)]
        objectives = session.scenario.objectives
        means = [*_OF_BOUNDS, *(o.metric for o in objectives if o.stat == "mean")]
        token_rates = any(o.metric == "output_tok_s" and o.stat is None for o in objectives)
        source = Measured(self._totals, windows)
        for key in list(keys_of(self._totals, windows, pairs)):
            pause()
            counts = self._totals.counts.get(key, Counts())
            metrics = {
                name: _mean(source.histogram(*key, name), CATALOGUE[name].unit)
                for name in dict.fromkeys(means)
            }
            found.append(
                group(
                    key,
                    self._totals,
                    self.gathered.get(key) or self._gatherer(key),
                    window_of(windows, key),
                    requests=counts.requests(so_far=True),
                    metrics=metrics,
                    token_rates=token_rates,
                )
            )
        return tuple(found)

    def judge(self, now_ns: int, pause: Pause = never) -> tuple[Health, tuple[Gate, ...]]:
        """Health, and every gate: passed, failed, or not enough there yet (`inconclusive`)."""
        windows = self.windows(now_ns)
        groups = self.groups(windows, pause)
        read = replace(readings(self._totals, groups, cpus=self._cpus), lost=0)
        pause()
        return judge(
            self.session,
            self._totals,
            groups,
            windows,
            read,
            allow_unhealthy=self._allow_unhealthy,
            pause=pause,
        )

    def _gatherer(self, key: Key) -> Gathered:
        bounds = slo.bounds(self.session.scenario.objectives, key[0], key[1])
        return Gathered(bounds, self._sent_by_ns(key), brief=True)

    def _sent_by_ns(self, key: Key) -> int | None:
        """Until when the requests of a group are sent in time; None where no clock ends it."""
        phase = self.phases().get(key[2])
        if phase is None or phase.duration_ns is None or self.session.free:
            return None
        for stage in self._stages.values():
            if stage.phase == key[2] and key[0] in stage.models:
                return stage.start_ns + phase.duration_ns + GRACE_NS
        return None


def _mean(hist: Histogram, unit: str) -> Stats:
    mean = hist.mean
    return Stats(unit=unit, n=hist.n, mean=None if mean is None else round(mean / SCALE, 6))
