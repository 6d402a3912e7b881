"""`Sample` → interval histograms and counters; the only mutable thing between client and file.

Each process has one `Recorder`. Once a second `drain()` turns what was added since into an
`Interval`, a plain dict that msgpack can carry to the master, where `Totals.merge` adds it up;
a local run calls the same merge. Raw integers are kept while an interval lasts, histograms are
built and encoded only when it ends, so that adding a finished request costs microseconds.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from loadlib import rows as lines
from loadlib.histogram import Histogram, Ints
from loadlib.ledger import Ledger
from loadlib.metrics import CATALOGUE, SCALE, Instants
from loadlib.sample import Outcome, Sample
from loadlib.summary import Requests

Key = tuple[str, str, str]
"""(model, workload, phase)."""

Interval = dict[str, Any]
"""What one process recorded in about a second. Instants in Unix epoch ns; all numbers are
differences to the interval before.

    seq        1, 2, 3 … per process      start_ns, end_ns
    hist       [[model, workload, phase, metric, Histogram.encode()], …]
    counts     [[model, workload, phase, scheduled, {outcome: n}], …]   requests
    attempts   [[model, workload, phase, made, throttled], …]
    seconds    [[second, model, workload, phase, *SECOND_FIELDS], …]
    rows       one gzip member of JSON lines, one `Sample` each
    notes      [[name, Histogram.encode()], …]   readings about the instrument itself (µs)
    marks      {name: n}                         events of the instrument itself
"""

SECOND_FIELDS = (
    "scheduled", "sent", "ended", "ok", "failed", "output_tokens", "input_tokens",
    "reserved_tokens",
)  # fmt: skip
"""Per-second counters: arrivals by intended start, attempts by first byte sent, ends by end,
output tokens by the arrival of their content event, input tokens by first token (or end),
reserved ones (prompt and output cap) by first byte sent."""

NS = 1_000_000_000
LIVE_NS = 10 * NS  # what the live table looks back on
_NO_EVENTS: Instants = np.zeros(0, np.int64)
_READ = tuple((name, row.read) for name, row in CATALOGUE.items() if row.read is not None)


class Recorder:
    """Collects the finished requests of one process. Not thread-safe; greenlets may share it.

    `offset_ns` is Unix epoch − monotonic clock: everything handed in is monotonic ns,
    everything handed out is epoch ns. Without `rows` the samples themselves are not kept.
    """

    def __init__(self, offset_ns: int, *, rows: bool = True) -> None:
        self.offset_ns = offset_ns
        self._keeps_rows = rows
        self.in_flight: Counter[Key] = Counter()  # scheduled and not yet added
        self.added = 0  # samples since the beginning
        self.seq = 0  # of the interval drained last
        self._encode = msgspec.json.Encoder().encode
        self._start_ns: int | None = None  # epoch; of the running interval
        self._new_interval()

    def scheduled(self, key: Key, intended_ns: int | None = None) -> None:
        """An arrival is due (at `intended_ns`, monotonic): from now on `add` is owed for it."""
        self._scheduled[key] += 1
        self.in_flight[key] += 1
        if self._start_ns is None and intended_ns is not None:
            self._start_ns = intended_ns + self.offset_ns

    def add(self, sample: Sample, events: Instants | Sequence[int] = _NO_EVENTS) -> None:
        """A request is over (or was dropped); `events` are its content events' instants.

        Costs about 20 µs; nothing is encoded but the sample's own line.
        """
        key = (sample.model, sample.workload, sample.phase)
        instants = np.asarray(events, np.int64)
        epoch = sample.shifted(self.offset_ns)
        if self._keeps_rows:
            self._rows.append(self._encode(epoch))
        self._count_attempt(key, sample)
        if not sample.retried:  # a request counts once, by its last attempt
            outcomes = self._outcomes.get(key)
            if outcomes is None:
                outcomes = self._outcomes[key] = Counter()
            outcomes[sample.outcome.value] += 1
            self.added += 1
            if self.in_flight[key] > 0:
                self.in_flight[key] -= 1
        if self._start_ns is None:
            self._start_ns = epoch.intended_ns
        if sample.outcome is Outcome.OK:
            self._measure(key, sample, instants)
        self._count_seconds(key, epoch, instants + self.offset_ns)

    def note(self, name: str, value: int) -> None:
        """A reading about the instrument itself, e.g. `hub_lag` in µs."""
        self._notes.setdefault(name, []).append(value)

    def note_all(self, name: str, values: Ints) -> None:
        """Several readings at once."""
        if len(values):
            self._notes.setdefault(name, []).append(values)

    def mark(self, name: str, n: int = 1) -> None:
        """Something happened to the instrument itself, e.g. `recorder_errors`."""
        self._marks[name] += n

    def drain(self, now_ns: int, pause: Callable[[], object] | None = None) -> Interval:
        """Everything since the last drain, and a fresh interval begins at `now_ns` (monotonic).

        Encoding takes some 0.2 ms a histogram, three times that with the gaps of 20,000 events;
        `pause` is called after each and may give way, so that streams are not kept waiting.
        Requests added meanwhile belong to the next interval.
        """
        end_ns = now_ns + self.offset_ns
        start_ns = min(end_ns, end_ns if self._start_ns is None else self._start_ns)
        values, notes, rows = self._values, self._notes, self._rows
        scheduled, outcomes, seconds, marks = (
            self._scheduled,
            self._outcomes,
            self._seconds,
            self._marks,
        )
        attempts = self._attempts
        self._new_interval()
        self._start_ns = end_ns
        self.seq += 1
        seq = self.seq
        hist = []
        for (key, metric), parts in values.items():
            hist.append([*key, metric, Histogram(_joined(parts)).encode()])
            if pause is not None:
                pause()
        return {
            "seq": seq,
            "start_ns": start_ns,
            "end_ns": end_ns,
            "hist": hist,
            "counts": [
                [*key, scheduled[key], dict(outcomes.get(key, {}))]
                for key in dict.fromkeys((*scheduled, *outcomes))
            ],
            "attempts": [[*key, *row] for key, row in attempts.items()],
            "seconds": [[second, *key, *row] for (second, key), row in seconds.items()],
            "rows": lines.pack(b"".join(row + b"\n" for row in rows), pause),
            "notes": [[name, Histogram(_joined(part)).encode()] for name, part in notes.items()],
            "marks": dict(marks),
        }

    def _new_interval(self) -> None:
        self._values: dict[tuple[Key, str], list[int | Ints]] = {}
        self._scheduled: Counter[Key] = Counter()
        self._outcomes: dict[Key, Counter[str]] = {}
        self._attempts: dict[Key, list[int]] = {}
        self._seconds: dict[tuple[int, Key], list[int]] = {}
        self._rows: list[bytes] = []
        self._notes: dict[str, list[int | Ints]] = {}
        self._marks: Counter[str] = Counter()

    def _measure(self, key: Key, sample: Sample, events: Instants) -> None:
        for metric, read in _READ:
            found = read(sample, events)
            if len(found):
                parts = self._values.setdefault((key, metric), [])
                if isinstance(found, np.ndarray):
                    parts.append(found)
                else:
                    parts.extend(found)

    def _count_attempt(self, key: Key, sample: Sample) -> None:
        if not sample.made:
            return
        row = self._attempts.setdefault(key, [0, 0])
        row[0] += 1
        row[1] += sample.outcome is Outcome.THROTTLED

    def _count_seconds(self, key: Key, sample: Sample, events: Instants) -> None:
        if not sample.retried:
            self._second(sample.intended_ns, key)[0] += 1
        if sample.outcome is Outcome.DROPPED:
            return
        if sample.sent_ns is not None:
            sent = self._second(sample.sent_ns, key)
            sent[1] += 1
            sent[7] += sample.reserved_tokens or 0
        end = self._second(sample.end_ns, key)
        end[2] += 1 if sample.sent_ns is not None else 0
        end[3] += sample.outcome is Outcome.OK
        end[4] += sample.outcome.failed and not sample.retried
        for second, tokens in spread_tokens(sample, events):
            self._second(second * NS, key)[5] += tokens
        if sample.input_tokens is not None:
            seen = sample.end_ns if sample.first_token_ns is None else sample.first_token_ns
            self._second(seen, key)[6] += sample.input_tokens

    def _second(self, instant_ns: int, key: Key) -> list[int]:
        place = (instant_ns // NS, key)
        row = self._seconds.get(place)
        if row is None:
            row = self._seconds[place] = [0] * len(SECOND_FIELDS)
        return row


def spread_tokens(sample: Sample, events: Instants) -> list[tuple[int, int]]:
    """[(second, output tokens)]: the stream's tokens shared out evenly over its events.

    Without events (an answer in one piece) all of them arrive with the last token, or the end.
    Shares are whole numbers that add up to `output_tokens`.
    """
    total = sample.output_tokens
    if not total:
        return []
    if not len(events):
        arrived = sample.end_ns if sample.last_token_ns is None else sample.last_token_ns
        return [(arrived // NS, total)]
    first, last = int(events[0]) // NS, int(events[-1]) // NS
    if first == last:
        return [(first, total)]
    # Instants are in order: where each second begins is looked up, not counted.
    begins = np.searchsorted(events, np.arange(first + 1, last + 1) * NS)
    edges = [0, *(int(i) * total // len(events) for i in begins), total]
    return [
        (first + i, edges[i + 1] - edges[i])
        for i in range(last - first + 1)
        if edges[i + 1] > edges[i]
    ]


def merged_reads(events: Instants) -> int:
    """How many reads brought several of these content events at once."""
    same = events[1:] == events[:-1]
    return int(np.count_nonzero(same[1:] > same[:-1])) + int(same[:1].sum())


def _joined(parts: list[int | Ints]) -> Ints:
    whole = [part for part in parts if isinstance(part, np.ndarray)]
    if not whole:
        return np.array(parts, np.int64)
    single = [part for part in parts if not isinstance(part, np.ndarray)]
    return np.concatenate([*whole, np.array(single, np.int64)])


@dataclass(slots=True)
class Counts:
    """Running totals of one key."""

    scheduled: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    throttled_attempts: int = 0

    @property
    def done(self) -> int:
        """Arrivals accounted for, the dropped ones included."""
        return self.outcomes.total()

    @property
    def in_flight(self) -> int:
        """Arrivals still owed."""
        return max(0, self.scheduled - self.done)

    def requests(self) -> Requests:
        """The counting identity; what is still owed now counts as lost."""
        by = {outcome: self.outcomes[outcome.value] for outcome in Outcome}
        done, lost = self.done, self.in_flight
        return Requests(
            scheduled=done + lost,
            sent=done + lost - by[Outcome.DROPPED],
            ok=by[Outcome.OK],
            failed=sum(n for outcome, n in by.items() if outcome.failed),
            throttled=by[Outcome.THROTTLED],
            cancelled=by[Outcome.CANCELLED],
            dropped=by[Outcome.DROPPED],
            lost=lost,
            attempts=self.attempts + lost,
            throttled_attempts=self.throttled_attempts,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """One row of the live table; quantiles and rates are of the last `LIVE_NS`."""

    model: str
    workload: str
    phase: str
    in_flight: int
    scheduled: int
    ok: int
    failed: int
    dropped: int
    outcomes: dict[str, int]
    ttft_p50_ms: float | None
    ttft_p99_ms: float | None
    output_tok_s: float | None  # tokens of the requests that ended in that time


class Totals:
    """The sum of all intervals of all processes."""

    def __init__(self) -> None:
        self.histograms: dict[tuple[Key, str], Histogram] = {}
        self.counts: dict[Key, Counts] = {}
        self.seconds: dict[tuple[int, Key], list[int]] = {}
        self.notes: dict[str, Histogram] = {}
        self.marks: Counter[str] = Counter()
        self.ledger = Ledger()
        self._recent: deque[_Recent] = deque()
        self._latest_ns = 0

    def merge(
        self,
        interval: Interval,
        source: str = "local",
        pause: Callable[[], object] | None = None,
    ) -> bool:
        """Add one interval of one process; False for one that was merged before.

        Intervals may come in any order; `ledger` knows the ones that never came. Decoding
        takes some 250 µs a histogram; `pause` is called after each.
        """
        if not self.ledger.accept(source, interval["seq"]):
            return False
        account = self.ledger[source]
        recent = _Recent(interval["start_ns"], interval["end_ns"])
        for *names, metric, data in interval["hist"]:
            if pause is not None:
                pause()
            key = _key(names)
            self.histograms.setdefault((key, metric), Histogram()).merge_encoded(data)
            if metric == "ttft":
                recent.ttft[key] = Histogram.decode(data)
        for *names, scheduled, outcomes in interval["counts"]:
            counts = self.counts.setdefault(_key(names), Counts())
            counts.scheduled += scheduled
            counts.outcomes.update(outcomes)
            account.requests += sum(outcomes.values())
        for *names, made, throttled in interval["attempts"]:
            counts = self.counts.setdefault(_key(names), Counts())
            counts.attempts += made
            counts.throttled_attempts += throttled
        for second, model, workload, phase, *row in interval["seconds"]:
            key = (model, workload, phase)
            total = self.seconds.setdefault((second, key), [0] * len(SECOND_FIELDS))
            total[:] = map(sum, zip(total, row, strict=True))
            recent.tokens[key] += row[5]
        for name, data in interval["notes"]:
            self.notes.setdefault(name, Histogram()).merge_encoded(data)
        self.marks.update(interval["marks"])
        self._remember(recent)
        return True

    def mark(self, name: str, n: int = 1) -> None:
        """Something happened to the record on this side of the wire."""
        self.marks[name] += n

    @property
    def lost(self) -> int:
        """Arrivals scheduled and not accounted for; while a run lasts: those in flight."""
        return sum(counts.in_flight for counts in self.counts.values())

    @property
    def done(self) -> int:
        """Samples merged so far."""
        return sum(counts.done for counts in self.counts.values())

    @property
    def overflow(self) -> int:
        """Latencies outside the histograms' range.

        Rates are left out: an answer that came in one burst has no upper bound, and clipping
        it says nothing about the clock.
        """
        return sum(
            hist.overflow
            for (_key, metric), hist in self.histograms.items()
            if CATALOGUE[metric].unit == "ms"
        )

    def histogram(self, model: str, workload: str, phase: str, metric: str) -> Histogram:
        """The merged histogram, empty where nothing was recorded."""
        return self.histograms.get(((model, workload, phase), metric), Histogram())

    def live(self) -> tuple[Live, ...]:
        """One row per key seen so far, in the order of their appearance."""
        since = self._latest_ns - LIVE_NS
        recent = [item for item in self._recent if item.end_ns > since]
        span_s = (self._latest_ns - min((item.start_ns for item in recent), default=0)) / NS
        return tuple(self._live(key, counts, recent, span_s) for key, counts in self.counts.items())

    def _live(self, key: Key, counts: Counts, recent: list[_Recent], span_s: float) -> Live:
        ttft, requests = Histogram(), counts.requests()
        for item in recent:
            if key in item.ttft:
                ttft.merge(item.ttft[key])
        p50, p99 = (None if q is None else q / SCALE for q in ttft.quantiles((0.5, 0.99)))
        tokens = sum(item.tokens[key] for item in recent)
        return Live(
            model=key[0],
            workload=key[1],
            phase=key[2],
            in_flight=counts.in_flight,
            scheduled=requests.scheduled,
            ok=requests.ok,
            failed=requests.failed,
            dropped=requests.dropped,
            outcomes=dict(counts.outcomes),
            ttft_p50_ms=p50,
            ttft_p99_ms=p99,
            output_tok_s=tokens / span_s if recent and span_s > 0 else None,
        )

    def _remember(self, recent: _Recent) -> None:
        self._latest_ns = max(self._latest_ns, recent.end_ns)
        self._recent.append(recent)
        while self._recent and self._recent[0].end_ns < self._latest_ns - LIVE_NS:
            self._recent.popleft()


@dataclass(slots=True)
class _Recent:
    start_ns: int
    end_ns: int
    ttft: dict[Key, Histogram] = field(default_factory=dict)
    tokens: Counter[Key] = field(default_factory=Counter)


def _key(names: Sequence[str]) -> Key:
    model, workload, phase = names
    return model, workload, phase
