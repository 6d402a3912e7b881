"""What was recorded about the instrument itself → readings for its health, bounds on its figures.

Pure. Notes read (`Recorder.note`, in µs): `hub_lag`, `reader_lag`, `gc_pause`, and a `lag_note` for
each group; in ‰ of a second, once a second: `cpu_permille`, `cpu_wait_permille`. Marks
(`Recorder.mark`): `reads`, of which `merged_reads` and `user_clock_reads`; `ticks`, of which
`ceiling_ticks` at max_in_flight; `clock_steps`, `recorder_errors`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from loadlib import health
from loadlib.errorbound import NONE, Bound, Kind, Spread
from loadlib.health import Offered, Readings
from loadlib.histogram import Histogram
from loadlib.metrics import CATALOGUE, SCALE
from loadlib.recorder import Totals
from loadlib.summary import Group

_LAG = "arrival_lag"


def lag_note(model: str, workload: str, phase: str) -> str:
    """The note of how late (µs) requests of an open group left through our own doing.

    sent − the instant they could have been sent: the intended one, or when a place came free at
    the ceiling; time to connect left out.
    """
    return "\x1f".join((_LAG, model, workload, phase))


def readings(
    totals: Totals, groups: Sequence[Group], recorder_errors: int = 0, cpus: int | None = None
) -> Readings:
    """What health is judged by.

    `recorder_errors` adds what the caller knows, such as failed writes; `cpus` are this machine's.
    """
    measured = [group for group in groups if group.kind == "measure"]
    cpu, waited = (totals.notes.get(n) for n in ("cpu_permille", "cpu_wait_permille"))
    marks = totals.marks
    share, offered = delivered(groups)
    return Readings(
        arrival_lag_p99_ms=_shown(arrival_lag(totals, measured).quantile(0.99)),
        closed_loop=all(group.closed_loop for group in measured),
        hub_lag_p99_ms=_shown(_note(totals, "hub_lag").quantile(0.99)),
        hub_lag_max_ms=_shown(_note(totals, "hub_lag").max),
        reader_lag_p99_ms=_shown(_note(totals, "reader_lag").quantile(0.99)),
        merged_share=_of(marks["merged_reads"], marks["reads"]),
        user_clock_share=_of(marks["user_clock_reads"], marks["reads"]),
        gc_pause_max_ms=_shown(_note(totals, "gc_pause").max),
        cpu_share_max=_share(None if cpu is None else cpu.max),
        cpu_share_p90=_share(None if cpu is None else cpu.quantile(0.9)),
        cpu_wait_share_p90=_share(None if waited is None else waited.quantile(0.9)),
        processes=len(totals.ledger) or None,
        cpus=cpus,
        delivered_share=share,
        offered=offered,
        ceiling_share=_of(marks["ceiling_ticks"], marks["ticks"]),
        clock_steps=marks["clock_steps"] if marks["reads"] else None,
        lost=totals.lost,
        overflow=totals.overflow,
        recorder_errors=recorder_errors + marks["recorder_errors"],
        sequence_gaps=totals.ledger.gaps,
    )


def _note(totals: Totals, name: str) -> Histogram:
    return totals.notes.get(name, Histogram())


def _shown(value: int | None) -> float | None:
    return None if value is None else value / SCALE


def _share(permille: int | None) -> float | None:
    return None if permille is None else permille / 1000


def _of(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def arrival_lag(totals: Totals, measured: Iterable[Group]) -> Histogram:
    """µs by which requests of the open groups left too late: through our own doing where that
    was noted, else sent − intended, waits at the ceiling included."""
    found = Histogram()
    for group in measured:
        key = group.model, group.workload, group.phase
        if not group.closed_loop:
            noted = totals.notes.get(lag_note(*key))
            found.merge(totals.histogram(*key, "arrival_lag") if noted is None else noted)
    return found


def delivered(groups: Iterable[Group]) -> tuple[float | None, Offered | None]:
    """Achieved / offered of the worst (model, measure phase) with an open loop, and which it is."""
    behind: dict[tuple[str, str], list[Group]] = {}
    offered: Counter[tuple[str, str]] = Counter()
    achieved: Counter[tuple[str, str]] = Counter()
    for group in groups:
        if group.kind == "measure" and not group.closed_loop and group.throughput.offered_rps:
            seconds = group.duration_s or 0.0
            where = (group.model, group.phase)
            behind.setdefault(where, []).append(group)
            offered[where] += group.requests.scheduled
            achieved[where] += round((group.throughput.achieved_rps or 0.0) * seconds)
    shares = {where: achieved[where] / n for where, n in offered.items() if n}
    if not shares:
        return None, None
    worst = min(shares, key=shares.__getitem__)
    return shares[worst], _offered(worst, behind[worst], offered[worst] - achieved[worst])


def _offered(where: tuple[str, str], mine: list[Group], missing: int) -> Offered:
    dropped = sum(group.causes.get("dropped/ceiling", 0) for group in mine)
    took = [
        (stats.mean, stats.n)
        for group in mine
        if (stats := group.metrics.get("sent_e2e")) is not None and stats.mean is not None
    ]
    n = sum(weight for _, weight in took)
    return Offered(
        model=where[0],
        phase=where[1],
        rps=sum(group.throughput.offered_rps or 0.0 for group in mine),
        at_ceiling=min(1.0, dropped / missing) if missing > 0 else 0.0,
        e2e_s=sum(mean * weight for mean, weight in took) / n / 1000 if n else None,
    )


# -- bounds ----------------------------------------------------------------------------------------


class Bounds:
    """The error bound on each metric of each group, as `gates.evaluate` asks for it."""

    def __init__(self, totals: Totals, readings: Readings) -> None:
        self._totals, self._readings = totals, readings
        self._hub = Spread.of(totals.notes.get("hub_lag"))
        self._cause, self._remedy = health.why_late(readings)
        self._stamps, self._why = self._stamped_late()

    def __call__(self, metric: str, group: Group) -> Bound:
        """Nothing is made up: without readings there is no error."""
        if metric in health.RESPONSE_CLOCK:
            lag = self._left_late(group)
            why = [f"arrival lag {lag.at(0.99):.1f} ms at p99"] if lag else []
            return self._bound(lag.plus(self._stamps), NONE, [*why, *self._why])
        if metric in health.SENT_CLOCK:
            return self._bound(self._stamps, NONE, self._why)
        if metric in health.BETWEEN:
            return self._between(metric, group)
        if metric == "connect":
            return self._bound(self._hub, NONE, [_late("hub lag", self._hub)])
        if metric in ("achieved_rps", "output_tok_s"):
            return self._rate(metric, group)
        return Bound()

    def _bound(
        self,
        over: Spread,
        under: Spread,
        why: Sequence[str],
        kind: Kind = "time",
        gaps: float = 1.0,
    ) -> Bound:
        cause = " and ".join(why) + (f": {self._cause}" if self._cause else "")
        return Bound(over=over, under=under, kind=kind, gaps=gaps, cause=cause, remedy=self._remedy)

    def _stamped_late(self) -> tuple[Spread, list[str]]:
        """How late stamps of arriving bytes are, and why.

        The kernel's are exact, but of events that wait unread together it keeps only the time of
        the last: then as late as the socket was read. The process's own are as late as its event
        loop, and so is taken what nobody told of.
        """
        read = self._readings
        found, why = NONE, []
        if not read.kernel_clock and self._hub:
            found, why = self._hub, [_late("hub lag", self._hub)]
        if read.merging:
            reader = Spread.of(self._totals.notes.get("reader_lag"))
            if reader:
                found, why = found.plus(reader), [*why, _late("reader lag", reader)]
        return found, why

    def _left_late(self, group: Group) -> Spread:
        if group.closed_loop:
            return NONE
        return Spread.of(self._totals.notes.get(lag_note(group.model, group.workload, group.phase)))

    def _between(self, metric: str, group: Group) -> Bound:
        """Two stamps, each late by itself: their difference is off either way.

        What counts tokens spreads that over the gaps between them. Which events were read together
        with a later one is counted: the others' gaps are exact.
        """
        gaps = 1.0
        if metric in ("tpot", "output_tok_s_user") and group.tokens.output and group.requests.ok:
            gaps = max(1.0, group.tokens.output / group.requests.ok - 1)
        stamps, why = self._stamps, self._why
        if metric == "icl" and self._readings.kernel_clock and group.events:
            reader = Spread.of(self._totals.notes.get("reader_lag"))
            stamps = reader.rare((group.coalesced or 0) / group.events)
            why = [_late("reader lag", reader)] if stamps else []
        off = stamps.twice()
        if CATALOGUE[metric].unit == "ms":
            off = off.scaled(1 / gaps)
            return self._bound(off, off, why)
        return self._bound(off, off, why, "speed", gaps)

    def _rate(self, metric: str, group: Group) -> Bound:
        """What a perfect instrument would have sent: more, never less.

        In an open loop the tail of the phase moves out of it by the arrival lag; in a closed one
        each turn takes the event loop's lag longer. A second's tokens move with their stamps.
        """
        lost, why = NONE, list[str]()
        e2e = group.metrics.get("e2e")
        if not group.closed_loop and group.duration_s:
            lag = self._left_late(group)
            lost = _all(lag.at(0.99) / group.duration_s)
            why = [_late("arrival lag", lag)] if lag else []
        elif group.closed_loop and e2e is not None and e2e.mean:
            lost = _all(1000 * self._hub.mean / e2e.mean)
            why = [_late("hub lag", self._hub)] if self._hub else []
        moved = self._stamps if metric == "output_tok_s" else NONE
        return self._bound(moved, lost.plus(moved), [*why, *(self._why if moved else [])], "share")


def _all(error: float) -> Spread:
    """The same error of every reading."""
    return Spread((error,) * len(NONE.at_most), error)


def _late(name: str, spread: Spread) -> str:
    return f"{name} {spread.at(0.99):.1f} ms at p99"
