"""Scrapes of servers, laid beside the run: a row per server and phase. Pure.

A server's gauges are taken at the instants of its scrapes, its counters as differences between
two of them; what came here is known by the second, and taken to be even within one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import msgspec
import numpy as np

from loadlib.recorder import NS, SECOND_FIELDS, Key
from loadlib.server_record import Scrape
from loadlib.server_targets import Target
from loadlib.summarise import Window
from loadlib.summary import Group, Level, Server, ServerPhase

DIFFERS = 0.05  # of the tokens: from here on it is said that server and client do not agree …
DIFFERS_TOKENS = 100  # … and of so few that it could be chance it is not
_SENT, _ENDED, _OUTPUT, _INPUT = map(
    SECOND_FIELDS.index, ("sent", "ended", "output_tokens", "input_tokens")
)
_TOP_FAILURES = 20

Seconds = Mapping[tuple[int, Key], Sequence[int]]
"""`recorder.Totals.seconds`."""


def summarise_servers(
    targets: Sequence[Target],
    scrapes: Iterable[Scrape],
    windows: Sequence[Window],
    seconds: Seconds,
) -> tuple[Server, ...]:
    """One `Server` per target, in their order; `scrapes` in any, of others too."""
    of: dict[str, list[Scrape]] = {target.name: [] for target in targets}
    for scrape in scrapes:
        if scrape.server in of:
            of[scrape.server].append(scrape)
    found = []
    for target in targets:
        mine = sorted(of[target.name], key=lambda scrape: scrape.at_ns)
        ours = Ours.of(seconds, target.models, [scrape.at_ns for scrape in mine])
        found.append(_server(target, mine, windows, ours))
    return tuple(_with_ratios(server, found) for server in found)


@dataclass(frozen=True, slots=True)
class Ours:
    """What was sent to some models and came back: running sums at the edges of seconds."""

    edges_ns: np.ndarray[tuple[int], np.dtype[np.float64]]
    in_flight: np.ndarray[tuple[int], np.dtype[np.float64]]
    output: np.ndarray[tuple[int], np.dtype[np.float64]]
    input: np.ndarray[tuple[int], np.dtype[np.float64]]

    @classmethod
    def of(cls, seconds: Seconds, models: Iterable[str], at_ns: Sequence[int]) -> Ours:
        """All workloads and phases of the models. Before the first of the instants `at_ns` of the
        scrapes nothing had been sent yet, after the last one nothing came any more."""
        wanted, by_second = frozenset(models), dict[int, list[int]]()
        for (second, key), row in seconds.items():
            if key[0] in wanted:
                sums = by_second.setdefault(second, [0, 0, 0])
                sums[0] += row[_SENT] - row[_ENDED]
                sums[1] += row[_OUTPUT]
                sums[2] += row[_INPUT]
        ordered = sorted(by_second)
        edges = np.array([edge * NS for s in ordered for edge in (s, s + 1)], np.float64)
        if ordered and at_ns and at_ns[0] // NS == ordered[0]:
            edges[0] = at_ns[0]
        if ordered and at_ns and at_ns[-1] // NS == ordered[-1]:
            edges[-1] = max(edges[-2], at_ns[-1])
        sums_at = np.cumsum(np.array([by_second[s] for s in ordered] or [[0, 0, 0]]), axis=0)
        before = np.vstack([np.zeros((1, 3)), sums_at[:-1]])
        steps = np.stack([before, sums_at], axis=1).reshape(-1, 3)[: len(edges)]
        return cls(edges, *(steps[:, column] for column in range(3)))

    def flying(self, at_ns: int) -> float | None:
        """Requests in flight at an instant; None where nothing was ever sent."""
        return float(np.interp(at_ns, self.edges_ns, self.in_flight)) if len(self) else None

    def came(
        self, sums: np.ndarray[tuple[int], np.dtype[np.float64]], begin_ns: int, end_ns: int
    ) -> float | None:
        """How much of `output` or `input` came between two instants."""
        if not len(self):
            return None
        first, last = np.interp((begin_ns, end_ns), self.edges_ns, sums)
        return float(last - first)

    def __len__(self) -> int:
        return len(self.edges_ns)


# -- one server ------------------------------------------------------------------------------------


def _server(
    target: Target, scrapes: Sequence[Scrape], windows: Sequence[Window], ours: Ours
) -> Server:
    told = [scrape for scrape in scrapes if scrape.error is None]
    failures = Counter(scrape.error for scrape in scrapes if scrape.error is not None)
    took_ms = sorted((scrape.after_ns - scrape.before_ns) / 1e6 for scrape in told)
    generated = _grown(told, "output_tokens")
    return Server(
        name=target.name,
        url=target.url,
        kind=told[-1].kind if told else None,
        models=target.models,
        every_s=target.every_ns / NS,
        scrapes=len(scrapes),
        failed=len(scrapes) - len(told),
        failures=dict(failures.most_common(_TOP_FAILURES)),
        took_ms_p50=round(took_ms[(len(took_ms) - 1) // 2], 3) if took_ms else None,
        took_ms_max=round(took_ms[-1], 3) if took_ms else None,
        restarts=_restarts(told),
        output_tokens=None if generated is None else round(generated.amount),
        ours_output_tokens=None if generated is None else _whole(
            ours.came(ours.output, generated.begin_ns, generated.end_ns)
        ),
        phases=tuple(_phase(window, told, ours) for window in _windows(windows, target.models)),
    )  # fmt: skip


def _windows(windows: Sequence[Window], models: Sequence[str]) -> Iterator[Window]:
    """When the phases were for a server: those of its models that overlap count as one."""
    mine = [w for w in windows if w.model is None or w.model in models]
    for phase in dict.fromkeys(window.phase for window in mine):
        joined: list[Window] = []
        for window in sorted((w for w in mine if w.phase == phase), key=lambda w: w.start_ns):
            if not joined or window.start_ns >= joined[-1].end_ns:
                joined.append(window if len(models) > 1 else replace(window, model=None))
                continue
            end_ns = max(joined[-1].end_ns, window.end_ns)
            joined[-1] = replace(joined[-1], model=None, end_ns=end_ns)
        yield from joined


def _phase(window: Window, told: Sequence[Scrape], ours: Ours) -> ServerPhase:
    inside = [scrape for scrape in told if window.start_ns <= scrape.at_ns <= window.end_ns]
    preempted = _grown(inside, "preemptions")
    asked, cached = _grown(inside, "cache_queries"), _grown(inside, "cached_tokens")
    output, given = _grown(inside, "output_tokens"), _grown(inside, "input_tokens")
    return ServerPhase(
        phase=window.phase,
        kind=window.kind,
        model=window.model,
        scrapes=len(inside),
        running=_level(scrape.values.get("running") for scrape in inside),
        waiting=_level(scrape.values.get("waiting") for scrape in inside),
        kv_usage=_level(scrape.values.get("kv_usage") for scrape in inside),
        in_flight=_level(ours.flying(scrape.at_ns) for scrape in inside),
        preemptions=None if preempted is None else round(preempted.amount),
        cached_share=_share(cached, asked),
        output_tok_s=_rate(output),
        input_tok_s=_rate(given),
        ours_output_tok_s=_rate(_ours(ours, ours.output, output)),
        ours_input_tok_s=_rate(_ours(ours, ours.input, given)),
    )


def _level(values: Iterable[float | None]) -> Level:
    known = [value for value in values if value is not None]
    return Level(mean=round(fmean(known), 6), max=round(max(known), 6)) if known else Level()


@dataclass(frozen=True, slots=True)
class _Growth:
    """By how much a counter grew between two instants."""

    amount: float
    begin_ns: int
    end_ns: int


def _grown(scrapes: Sequence[Scrape], series: str) -> _Growth | None:
    """From the first to the last scrape that knows it; a counter that shrank began anew at 0.

    None with fewer than two.
    """
    known = [(s.at_ns, s.values[series]) for s in scrapes if series in s.values]
    if len(known) < 2 or known[0][0] == known[-1][0]:
        return None
    steps = zip(known[1:], known, strict=False)
    amount = sum(now - before if now >= before else now for (_, now), (_, before) in steps)
    return _Growth(amount, known[0][0], known[-1][0])


def _ours(
    ours: Ours, sums: np.ndarray[tuple[int], np.dtype[np.float64]], theirs: _Growth | None
) -> _Growth | None:
    """What came here in the same stretch."""
    if theirs is None:
        return None
    amount = ours.came(sums, theirs.begin_ns, theirs.end_ns)
    return None if amount is None else replace(theirs, amount=amount)


def _rate(grown: _Growth | None) -> float | None:
    if grown is None:
        return None
    return round(grown.amount * NS / (grown.end_ns - grown.begin_ns), 6)


def _share(part: _Growth | None, whole: _Growth | None) -> float | None:
    if part is None or whole is None or whole.amount <= 0:
        return None
    return round(min(1.0, part.amount / whole.amount), 6)


def _whole(amount: float | None) -> int | None:
    return None if amount is None else round(amount)


def _restarts(told: Sequence[Scrape]) -> int:
    known = [scrape.values["output_tokens"] for scrape in told if "output_tokens" in scrape.values]
    return sum(now < before for now, before in zip(known[1:], known, strict=False))


# -- together --------------------------------------------------------------------------------------


def _with_ratios(server: Server, servers: Sequence[Server]) -> Server:
    """Replicas share the load of their models: only all of them together compare with ours."""
    peers = _peers(server, servers)
    phases = []
    for position, phase in enumerate(server.phases):
        rates = [peer.phases[position].output_tok_s for peer in peers]
        known = [rate for rate in rates if rate is not None]
        ratio = None
        if len(known) == len(rates) and phase.ours_output_tok_s:
            ratio = round(sum(known) / phase.ours_output_tok_s, 6)
        phases.append(msgspec.structs.replace(phase, output_ratio=ratio))
    return msgspec.structs.replace(server, phases=tuple(phases))


def _peers(server: Server, servers: Sequence[Server]) -> list[Server]:
    return [other for other in servers if set(other.models) == set(server.models)]


def server_notices(servers: Sequence[Server], groups: Iterable[Group]) -> Iterator[str]:
    """What a reader should know of the servers' metrics: failures, restarts, disagreement."""
    counted = {group.model for group in groups if group.tokens.source not in (None, "server")}
    for server in servers:
        if server.failed:
            why = next(iter(server.failures))
            of = f"{server.failed:,} of {server.scrapes:,} scrapes failed"
            yield f"server metrics of {server.name}: {of}: {why}"
        if server.restarts:
            yield f"server metrics of {server.name}: its counters began anew, as after a restart"
    for server in servers:
        peers = _peers(server, servers)
        if peers[0] is server and not counted & set(server.models):
            yield from _disagreement(peers)


def _disagreement(peers: Sequence[Server]) -> Iterator[str]:
    theirs = [server.output_tokens for server in peers]
    ours = [server.ours_output_tokens for server in peers]
    generated = sum(n for n in theirs if n is not None)
    came = max((n for n in ours if n is not None), default=0)
    difference = generated - came
    if None in theirs or abs(difference) <= max(DIFFERS_TOKENS, DIFFERS * came):
        return
    who = ", ".join(server.name for server in peers)
    by = f" ({difference / came:+.0%})".replace("-", "−") if came else ""
    why = (
        "another client of the server, or answers that were cut off"
        if difference > 0
        else "are there replicas or processes whose metrics are not read?"
    )
    yield (
        f"server metrics of {who}: {generated:,} output tokens were generated while {came:,} came"
        f" here{by}: {why}"
    )
