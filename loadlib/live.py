"""A run while it lasts: rows, lights, health and time series of what has been reported so far.

Pure: instants are arguments. What it costs is paid in small pieces, with a pause after each: it may
run in a process that generates load.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from loadlib import rows as lines
from loadlib.errors import DataError
from loadlib.histogram import Histogram
from loadlib.lately import Lately, Tally, by_pair, quantiles_ms
from loadlib.lights import Lights, MakeWindow, Pause, never
from loadlib.metrics import SCALE
from loadlib.recorder import NS, Counts, Interval, Key, Totals
from loadlib.session import Session
from loadlib.snapshot import PER_DECADE, Curve, PhaseRow, Quantiles, Row, Seen, Snapshot, Spent
from loadlib.summary import Gate, Health, Summary
from loadlib.trend import Trend

Kind = Literal["warmup", "measure"]
COLUMNS = ("ttft_p50", "ttft_p90", "ttft_p99", "tok_s", "in_flight", "offered_rps", "sent_rps")
"""Of the time series, per (model, workload)."""

_PS = (0.5, 0.9, 0.99)
_AT_ONCE = 32  # samples read between two pauses: some 0.3 ms


class Board:
    """Fed with every interval that was merged into `totals`; `watched` is whether anybody can look
    at more than `rows`: then it reads samples for goodput, cost and gates, and keeps time series.

    `window` makes a phase's window, as the summary's are made.
    """

    def __init__(
        self,
        session: Session,
        totals: Totals,
        window: MakeWindow,
        *,
        started_ns: int,
        watched: bool = True,
        allow_unhealthy: bool = False,
        cpus: int | None = None,
    ) -> None:
        self.session, self._totals, self._watched = session, totals, watched
        self.started_ns = started_ns
        self.revision = 0  # changes with what there is to show
        self.summary: Summary | None = None  # once the run is over
        self.lights = Lights(session, totals, window, allow_unhealthy=allow_unhealthy, cpus=cpus)
        self._ended_ns: int | None = None
        self._lately = Lately()
        self._current: dict[str, str] = {}  # source → its phase
        self._changed: dict[Key, int] = {}  # the revision in which something was last added
        self._trend = Trend(COLUMNS, started_ns)
        self._curves: dict[Key, Curve] = {}
        self._whole: dict[tuple[Key, str], Quantiles] = {}
        self._judged: tuple[int, Health, tuple[Gate, ...]] | None = None

    # -- what comes in -------------------------------------------------------------------------

    def take(self, source: str, data: Mapping[str, Any], pause: Pause = never) -> None:
        """An interval of a process, in the message that brought it, was merged into the totals.

        A sample costs some 15 µs; `pause` is called in between.
        """
        interval: Interval = data["interval"]
        self._current[source] = str(data["phase"])
        self.lights.enter(data)
        self._lately.add(source, interval)
        self.revision += 1
        for name in ("counts", "begun", "attempts"):
            for model, workload, phase, *_ in interval[name]:
                self._changed[model, workload, phase] = self.revision
        self._read(interval, pause)
        if self._watched and self._trend.is_due(self._lately.latest_ns):
            self._sample(pause)

    def finish(self, summary: Summary, now_ns: int) -> None:
        """The run is over, and judged."""
        self.summary, self._ended_ns = summary, now_ns
        self.revision += 1
        self._changed = dict.fromkeys(self._totals.counts, self.revision)

    def _read(self, interval: Interval, pause: Pause) -> None:
        end_ns = interval["end_ns"]
        try:
            for number, sample in enumerate(lines.decode(interval["rows"]), 1):
                self._lately.see(sample, end_ns)
                if self._watched:
                    self.lights.see(sample)
                if number % _AT_ONCE == 0:
                    pause()
        except DataError:  # the run folder has the row, and its reader will say what is wrong
            return

    def _sample(self, pause: Pause) -> None:
        """One point of the time series."""
        span_s, points = self._lately.span_s, dict[tuple[str, str], tuple[float | None, ...]]()
        flying = dict[tuple[str, str], int]()
        for (model, workload, _), counts in self._totals.counts.items():
            pair = model, workload
            flying[pair] = flying.get(pair, 0) + counts.in_flight - counts.waiting
        lately = by_pair(self._lately.tallies())
        now_ns = self._lately.latest_ns
        for pair, in_flight in flying.items():
            pause()
            tally = lately.get(pair, _NO_TALLY)
            rates = (tally.tokens, tally.scheduled, tally.begun)
            tokens, offered, sent = (_per_second(n, span_s) for n in rates)
            points[pair] = (*quantiles_ms(tally.ttft, _PS), tokens, in_flight, offered, sent)
        self._trend.add(now_ns, points)

    # -- what goes out -------------------------------------------------------------------------

    def rows(self, since: int = -1, pause: Pause = never) -> tuple[Row, ...]:
        """One row per (model, workload, phase) in the order of their appearance: of those that
        are not what they were at a revision.
        """
        found, phases = [], self.lights.phases()
        lately, span_s = self._lately.tallies(), self._lately.span_s
        for key, counts in list(self._totals.counts.items()):
            if self._changed.get(key, 0) <= since and key not in lately:
                continue
            pause()
            phase = phases.get(key[2])
            kind = "measure" if phase is None else phase.kind
            found.append(self._row(key, counts, lately.get(key, _NO_TALLY), span_s, kind))
        return tuple(found)

    def _row(self, key: Key, counts: Counts, tally: Tally, span_s: float, kind: Kind) -> Row:
        requests = counts.requests(so_far=True)
        attempts, refused = counts.attempts, counts.throttled_attempts
        mine, over = self.lights.gathered.get(key), self.summary is not None
        arrivals = requests.scheduled - requests.cancelled
        good = mine is not None and mine.bounds and arrivals > 0
        rates = (tally.tokens, tally.scheduled, tally.begun)
        tokens, offered, sent = (None if over else _per_second(n, span_s) for n in rates)
        return Row(
            model=key[0],
            workload=key[1],
            phase=key[2],
            kind=kind,
            scheduled=counts.scheduled,
            in_flight=0 if over else counts.in_flight - counts.waiting,
            waiting=0 if over else counts.waiting,
            ok=requests.ok,
            failed=requests.failed,
            cancelled=requests.cancelled,
            dropped=requests.dropped,
            attempts=attempts,
            throttled=refused,
            throttled_share=round(refused / attempts, 6) if attempts else None,
            offered_rps=offered,
            sent_rps=sent,
            tok_s=tokens,
            ttft=self._whole_phase(key, "ttft"),
            ttft_lately=Quantiles() if over else _quantiles(tally.ttft),
            tpot=self._whole_phase(key, "tpot"),
            tpot_lately=Quantiles() if over else _quantiles(tally.tpot),
            goodput=round(mine.good / arrivals, 6) if good and mine is not None else None,
            cost_usd=None if mine is None else mine.cost,
            cost_unknown=0 if mine is None else mine.uncosted,
        )

    def _whole_phase(self, key: Key, metric: str) -> Quantiles:
        hist = self._totals.histograms.get((key, metric))
        known = self._whole.get((key, metric), Quantiles())
        if hist is None or hist.n == known.n:
            return known
        p50, p90, p99 = (None if q is None else q / SCALE for q in hist.quantiles(_PS))
        found = self._whole[key, metric] = Quantiles(n=hist.n, p50=p50, p90=p90, p99=p99)
        return found

    def snapshot(
        self,
        now_ns: int,
        *,
        seen: Seen | None = None,
        lights: bool = True,
        stopping: bool = False,
        pause: Pause = never,
    ) -> Snapshot:
        """Everything there is to show to a reader who has `seen` this run before, or has not.
        Without `lights` gates and health stay as they were judged last: to judge costs more than
        all the rest.
        """
        at_ns = now_ns if self._ended_ns is None else self._ended_ns
        if lights:
            self._judge(pause)
        partial = seen is not None and seen.revision <= self.revision
        since = seen.revision if seen is not None and partial else -1
        generation = seen.generation if seen is not None and partial else None
        health, gates = self._lights_since(since)
        revision = self.revision  # what comes in during a pause is for the next time
        return Snapshot(
            revision=revision,
            partial=partial,
            state=self._state(stopping=stopping),
            scenario=self.session.scenario.name,
            phase=self._phase_now(),
            now=() if self.summary else tuple(dict.fromkeys(self._current.values())),
            elapsed_s=round(max(0, at_ns - self.started_ns) / NS, 1),
            planned_s=self._planned_s(),
            pairs=tuple(self.session.scenario.groups),
            phases=tuple(self._phase_rows()),
            spent=self._spent(),
            rows=self.rows(since, pause),
            gates=gates,
            health=health,
            verdict=None if self.summary is None else self.summary.verdict,
            curves=tuple(self._curves_since(since, pause)),
            series=self._trend.since(generation, 0 if seen is None else seen.points),
        )

    def _state(self, *, stopping: bool) -> Any:
        if self.summary is not None:
            return "finished"
        if stopping:
            return "ending"
        return "running" if self.lights.stages else "starting"

    def _phase_now(self) -> str:
        started = self.lights.stages
        return started[-1].phase if started else ""

    def _planned_s(self) -> float | None:
        """Of all phases together; None where requests, or Locust, end one of them."""
        lasting = [phase.duration_ns for phase, _ in self.session.stages]
        if self.session.free or any(each is None for each in lasting):
            return None
        return sum(each or 0 for each in lasting) / NS

    def _phase_rows(self) -> Iterator[PhaseRow]:
        begun: dict[str, int] = {}
        for stage in self.lights.stages:
            begun.setdefault(stage.phase, stage.start_ns)
        free = self.session.free
        for phase in self.session.scenario.load:
            start_ns, lasting = begun.get(phase.title), phase.duration_ns
            yield PhaseRow(
                title=phase.title,
                kind=phase.kind,
                load=phase.label,
                start_s=None if start_ns is None else round((start_ns - self.started_ns) / NS, 1),
                planned_s=None if free or lasting is None else lasting / NS,
            )

    def _spent(self) -> Spent:
        limits, gathered = self.session.limits, list(self.lights.gathered.values())
        costs = [mine.cost for mine in gathered if mine.cost is not None]
        tokens = [mine.output for mine in gathered if mine.output is not None]
        return Spent(
            usd=sum(costs) if costs else None,
            unknown=sum(mine.uncosted for mine in gathered),
            output_tokens=sum(tokens) if tokens else None,
            requests=sum(counts.begun for counts in self._totals.counts.values()),
            max_usd=limits.max_usd,
            max_output_tokens=limits.max_output_tokens,
            max_requests=limits.max_requests,
        )

    def _curves_since(self, since: int, pause: Pause) -> Iterator[Curve]:
        for key in list(self._totals.counts):
            if self._changed.get(key, 0) <= since:
                continue
            hist = self._totals.histograms.get((key, "ttft"))
            known = self._curves.get(key)
            if hist is not None and hist.n and (known is None or known.n != hist.n):
                pause()
                known = self._curves[key] = curve(key, hist)
            if known is not None:
                yield known

    def _judge(self, pause: Pause) -> None:
        stale = self._judged is None or self._judged[0] != self.revision
        if self.summary is None and stale and self.lights.stages:
            revision = self.revision
            self._judged = revision, *self.lights.judge(self._lately.latest_ns, pause)

    def _lights_since(self, since: int) -> tuple[Health | None, tuple[Gate, ...] | None]:
        """Health and gates, the summary's own once there is one; None for who has seen them."""
        found = self._judged
        if self.summary is not None:
            found = self.revision, self.summary.health, self.summary.gates
        return (None, None) if found is None or found[0] <= since else found[1:]


_NO_TALLY = Tally()


def curve(key: Key, hist: Histogram) -> Curve:
    """The percentile curve of a distribution that is not empty (µs)."""
    decades = range(PER_DECADE * 20)
    ps = [p for i in decades if (p := 1 - 10 ** (-i / PER_DECADE)) < 1 - 1 / hist.n]
    assert hist.max is not None
    ms = [q / SCALE for q in hist.quantiles(ps) if q is not None]
    return Curve(model=key[0], workload=key[1], phase=key[2], n=hist.n, ms=(*ms, hist.max / SCALE))


def _quantiles(values: Any) -> Quantiles:
    p50, p90, p99 = quantiles_ms(values, _PS)
    return Quantiles(n=len(values), p50=p50, p90=p90, p99=p99)


def _per_second(count: int, span_s: float) -> float | None:
    return round(count / span_s, 2) if span_s > 0 else None
