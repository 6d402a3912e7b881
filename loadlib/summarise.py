"""Totals and samples → the groups of a summary. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec
import numpy as np

from loadlib import slo
from loadlib.gathered import Bucket, Gathered
from loadlib.histogram import Histogram
from loadlib.metrics import CATALOGUE, QUANTILES, SCALE
from loadlib.recorder import NS, Counts, Key, Totals
from loadlib.sample import Sample
from loadlib.slo import Objective
from loadlib.summary import (
    Cost,
    Goodput,
    Group,
    LengthBucket,
    Quality,
    Requests,
    Stats,
    Throughput,
    Tokens,
)

SYSTEM_RATE = "output_tok_s"
_OUTPUT, _INPUT = 5, 6  # columns of recorder.SECOND_FIELDS
GRACE_NS = 250_000_000  # an arrival of the last instant may leave this much after the phase
_TOP_ERRORS = 20
_MOST_VARIANTS = 100
_AT_ONCE = 4096  # values recorded in one go
_NO_EVENTS = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """When a phase was (Unix epoch ns, arrivals only, not the draining), and what it asked for.

    `model` is None where all models ran at the same time. `rates` are the configured requests
    per second of each model, empty in a closed loop; means where they are `varying` in it.
    """

    phase: str
    start_ns: int
    end_ns: int
    kind: Literal["warmup", "measure"] = "measure"
    model: str | None = None
    load: str = ""
    closed: bool = False
    varying: bool = False
    rates: Mapping[str, float] = field(default_factory=dict)

    @property
    def duration_s(self) -> float:
        """Wall time, seconds."""
        return max(0, self.end_ns - self.start_ns) / NS

    def covers(self, key: Key) -> bool:
        """Whether the key's requests belong to this window."""
        return self.phase == key[2] and self.model in (None, key[0])


def summarise(
    totals: Totals,
    samples: Iterable[Sample],
    windows: Sequence[Window],
    objectives: Sequence[Objective] = (),
    pairs: Sequence[tuple[str, str]] = (),
) -> tuple[Group, ...]:
    """One `Group` per (model, workload, phase), in the order of `pairs`, then of `windows`.

    `samples` are all rows of the run, in any order, read once; `pairs` the (model, workload)
    combinations that were to be served: each gets its groups even if nothing came. What was
    recorded beyond them follows in the order of appearance.
    """
    gathered: dict[Key, Gathered] = {}
    for sample in samples:
        key = (sample.model, sample.workload, sample.phase)
        mine = gathered.get(key)
        if mine is None:
            mine = gathered[key] = _gatherer(key, objectives, windows)
        mine.add(sample)
    groups = []
    for key in keys_of(totals, windows, pairs):
        mine = gathered.get(key) or _gatherer(key, objectives, windows)
        window, requests = window_of(windows, key), totals.counts.get(key, Counts()).requests()
        metrics = _metrics(key, totals, window)
        groups.append(group(key, totals, mine, window, requests=requests, metrics=metrics))
    return tuple(groups)


def _gatherer(key: Key, objectives: Sequence[Objective], windows: Sequence[Window]) -> Gathered:
    window = window_of(windows, key)
    sent_by_ns = None if window is None else window.end_ns + GRACE_NS
    return Gathered(slo.bounds(objectives, key[0], key[1]), sent_by_ns)


def keys_of(
    totals: Totals, windows: Sequence[Window], pairs: Sequence[tuple[str, str]]
) -> Iterable[Key]:
    """Every (model, workload, phase) a summary has a group of, in its order."""
    seen_pairs = dict.fromkeys((*pairs, *((key[0], key[1]) for key in totals.counts)))
    phases = dict.fromkeys((*(w.phase for w in windows), *(key[2] for key in totals.counts)))
    for model, workload in seen_pairs:
        for phase in phases:
            key = (model, workload, phase)
            wanted = (model, workload) in pairs and window_of(windows, key) is not None
            if wanted or key in totals.counts:
                yield key


def window_of(windows: Sequence[Window], key: Key) -> Window | None:
    """The window that a key's requests belong to."""
    return next((window for window in windows if window.covers(key)), None)


def group(
    key: Key,
    totals: Totals,
    mine: Gathered,
    window: Window | None,
    *,
    requests: Requests,
    metrics: dict[str, Stats],
    token_rates: bool = True,
) -> Group:
    """What is known of one (model, workload, phase), put together.

    `token_rates` looks at every second of the window: half a millisecond after an hour.
    """
    outcomes = totals.counts.get(key, Counts()).outcomes
    rate = None if window is None else window.rates.get(key[0])
    return Group(
        model=key[0],
        workload=key[1],
        phase=key[2],
        requests=requests,
        outcomes={outcome: n for outcome, n in sorted(outcomes.items()) if n},
        metrics=metrics,
        tokens=Tokens(
            input=mine.input,
            output=mine.output,
            cached=mine.cached,
            reasoning=mine.reasoning,
            source=_source(mine.sources),
            mean_answer=_mean_answer(requests.ok, mine),
        ),
        throughput=_throughput(
            key, totals, window, requests.scheduled, mine, token_rates=token_rates
        ),
        goodput=_goodput(requests.scheduled - requests.cancelled, mine, window),
        cost_usd=_cost(requests, mine),
        quality=_quality(mine),
        kind="measure" if window is None else window.kind,
        load="" if window is None else window.load,
        rate_rps=rate,
        varying=window is not None and window.varying,
        closed_loop=window is not None and window.closed,
        duration_s=None if window is None else round(window.duration_s, 6),
        connections=mine.opened,
        events=mine.events or None,
        coalesced=mine.coalesced if mine.events else None,
        causes=dict(mine.causes.most_common()),
        failures={what: mine.broken[what].failure() for what in sorted(mine.broken)},
        errors=dict(mine.errors.most_common(_TOP_ERRORS)),
        prompt_lengths=tuple(_length(bits, b) for bits, b in sorted(mine.buckets.items())),
        asked_tokens=mine.asked,
        cut_tokens=mine.cut,
        delivered_tokens=mine.delivered if mine.delivered_known else None,
    )


def _mean_answer(ok: int, mine: Gathered) -> float | None:
    return round(mine.said / ok, 6) if ok and mine.said is not None and mine.said_known else None


def _source(sources: set[str]) -> str | None:
    return next(iter(sources), None) if len(sources) < 2 else "mixed"


def _metrics(key: Key, totals: Totals, window: Window | None) -> dict[str, Stats]:
    found = {}
    for name, row in CATALOGUE.items():
        system = name == SYSTEM_RATE and window is not None
        hist = system_rate(totals, key, window) if system else totals.histogram(*key, name)
        if hist.n or row.everywhere:
            found[name] = stats(hist, row.unit)
    return found


def stats(hist: Histogram, unit: str) -> Stats:
    """A histogram of recorded integers in the unit shown (ms, tok/s), with 95 % intervals."""
    quantiles = dict(zip(QUANTILES, hist.quantiles(QUANTILES.values()), strict=True))
    ci95 = {
        name: (low / SCALE, high / SCALE)
        for name, p in QUANTILES.items()
        if (interval := hist.interval(p)) is not None
        for low, high in (interval,)
    }
    mean = hist.mean
    return Stats(
        unit=unit,
        n=hist.n,
        min=_shown(hist.min),
        mean=None if mean is None else round(mean / SCALE, 6),
        max=_shown(hist.max),
        ci95=ci95,
        **{name: _shown(value) for name, value in quantiles.items()},
    )


def _shown(value: int | None) -> float | None:
    return None if value is None else value / SCALE


def system_rate(totals: Totals, key: Key, window: Window | None) -> Histogram:
    """Milli-tokens/s that arrived in each whole second of the window, quiet seconds included.

    Empty where the group produced no token at all, or no second lies wholly in the window.
    """
    if window is None:
        return Histogram()
    first, last = -(-window.start_ns // NS), window.end_ns // NS
    column = [totals.seconds.get((second, key)) for second in range(first, last)]
    tokens = [0 if row is None else row[_OUTPUT] for row in column]
    return Histogram([n * SCALE for n in tokens]) if any(tokens) else Histogram()


def _throughput(
    key: Key,
    totals: Totals,
    window: Window | None,
    scheduled: int,
    mine: Gathered,
    *,
    token_rates: bool,
) -> Throughput:
    if window is None or window.duration_s <= 0:
        return Throughput()
    seconds = window.duration_s

    def rate(known: int | None, column: int) -> float | None:
        if known is None or not token_rates:
            return None
        return round(_in_window(totals, key, window, column) / seconds, 6)

    return Throughput(
        offered_rps=round(scheduled / seconds, 6),
        achieved_rps=round(mine.sent_in_time / seconds, 6),
        output_tok_s=rate(mine.output, _OUTPUT),
        input_tok_s=rate(mine.input, _INPUT),
    )


def _in_window(totals: Totals, key: Key, window: Window, column: int) -> float:
    """Tokens that arrived in the window; its last, partial second counts by its share.

    The first, partial second counts in full: nothing of the phase came before its start.
    """
    first, last = window.start_ns // NS, window.end_ns // NS
    whole = sum(
        row[column]
        for second in range(first, last)
        if (row := totals.seconds.get((second, key))) is not None
    )
    edge = totals.seconds.get((last, key))
    open_ns = window.end_ns - max(last * NS, window.start_ns)
    possible_ns = (last + 1) * NS - max(last * NS, window.start_ns)
    return whole + (0.0 if edge is None else edge[column] * open_ns / possible_ns)


def _goodput(arrivals: int, mine: Gathered, window: Window | None) -> Goodput:
    """Over all arrivals but the ones we cancelled ourselves."""
    if not mine.bounds:
        return Goodput()
    seconds = 0.0 if window is None else window.duration_s
    return Goodput(
        share=mine.good / arrivals if arrivals else None,
        rps=round(mine.good / seconds, 6) if seconds > 0 else None,
        objectives=tuple(bound.text for bound in mine.bounds),
    )


def _cost(requests: Requests, mine: Gathered) -> Cost:
    if mine.cost is None:
        return Cost(unknown=mine.uncosted)
    unknown = mine.requests_uncosted + requests.lost
    known = requests.sent - unknown
    good = mine.good if mine.bounds and not unknown else 0
    return Cost(
        total=mine.cost,
        unknown=mine.uncosted,
        per_1k_requests=1000 * mine.cost / known if known > 0 else None,
        per_1k_good_requests=1000 * mine.cost / good if good else None,
    )


def _quality(mine: Gathered) -> Quality:
    variants = {name: mine.variants[name].quality() for name in sorted(mine.variants)}
    return msgspec.structs.replace(mine.quality.quality(), variants=variants)


def _length(bits: int, bucket: Bucket) -> LengthBucket:
    bucket.settle()
    p50, p90, p99 = (_shown(value) for value in bucket.ttft.quantiles((0.5, 0.9, 0.99)))
    return LengthBucket(
        low=1 << (bits - 1) if bits else 0,
        high=1 << bits,
        n=bucket.lengths.total(),
        failed=bucket.failed,
        tokens_p50=bucket.median_length(),
        ttft_p50=p50,
        ttft_p90=p90,
        ttft_p99=p99,
        quality=bucket.passed / bucket.checked if bucket.checked else None,
    )


@dataclass(frozen=True, slots=True)
class Measured:
    """Every histogram of a run in memory, system throughput included: what gates look into."""

    totals: Totals
    windows: Sequence[Window]

    def histogram(self, model: str, workload: str, phase: str, metric: str) -> Histogram:
        """The merged histogram, empty where nothing was recorded."""
        key = (model, workload, phase)
        if metric == SYSTEM_RATE:
            return system_rate(self.totals, key, window_of(self.windows, key))
        return self.totals.histogram(*key, metric)
