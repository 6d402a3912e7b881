"""Single requests on the page, where they are asked for (`--embed-samples`): never their text.

A run folder keeps no prompts and no answers, so there are none to show: what is shown is the row of
`requests.jsonl.gz`, instants, counts, lengths and hashes, and the server's message, redacted.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

from loadlib.report import format as f
from loadlib.report import view
from loadlib.sample import Outcome, Sample
from loadlib.summary import Group, Summary

MOST = 10  # of a kind and group: twenty-four groups of them still fit the page
KINDS = {
    "slowest": "the slowest that succeeded, by time to first token",
    "typical": "those nearest to the median time to first token",
    "failed": "the first that failed",
}
_PARTS = ("waiting", "first byte", "first token", "answer")


@dataclass(frozen=True, slots=True)
class SampleRow:
    """A request as text; `bar` holds (part, start, length) in percent of the slowest shown."""

    kind: str
    index: str
    at: str
    outcome: str
    failed: bool
    lag: str
    ttft: str
    e2e: str
    tokens: str
    body: str
    identity: tuple[str, ...]
    note: str
    bar: tuple[tuple[str, float, float], ...]


@dataclass(frozen=True, slots=True)
class Picked:
    """The rows of one group."""

    where: str
    group: int
    rows: tuple[SampleRow, ...]


_Heap = list[tuple[float, int, Sample]]  # (how much it is wanted, its number, itself)


@dataclass(slots=True)
class _Kept:
    """Heaps of one group, each with the sample that is to leave next at its top."""

    median_ns: float | None
    slowest: _Heap = field(default_factory=list)
    typical: _Heap = field(default_factory=list)
    failed: _Heap = field(default_factory=list)


def pick(summary: Summary, samples: Iterable[Sample], most: int) -> list[Picked]:
    """Up to `most` requests of each kind and shown group; one pass, whatever their number.

    A request is shown once, under the first kind that it is of.
    """
    groups = view.shown(summary)
    kept = {view.key(group): _Kept(_median_ns(group)) for group in groups}
    begun = None
    for number, sample in enumerate(samples):
        begun = sample.intended_ns if begun is None else min(begun, sample.intended_ns)
        mine = kept.get((sample.model, sample.workload, sample.phase))
        if mine is not None and not sample.retried:
            _consider(mine, sample, number, most)
    return [
        Picked(view.where(summary, group), place, rows)
        for place, group in enumerate(groups)
        if (rows := _rows(kept[view.key(group)], begun or 0))
    ]


def _median_ns(group: Group) -> float | None:
    stats = group.metrics.get("ttft")
    return None if stats is None or stats.p50 is None else stats.p50 * 1e6


def _consider(kept: _Kept, sample: Sample, number: int, most: int) -> None:
    if sample.outcome.failed:
        _push(kept.failed, (-number, number, sample), most)
    elif sample.outcome is Outcome.OK and sample.first_token_ns is not None:
        took = sample.first_token_ns - sample.intended_ns
        _push(kept.slowest, (took, number, sample), most)
        if kept.median_ns is not None:
            _push(kept.typical, (-abs(took - kept.median_ns), number, sample), most)


def _push(heap: _Heap, item: tuple[float, int, Sample], most: int) -> None:
    if len(heap) < most:
        heapq.heappush(heap, item)
    else:
        heapq.heappushpop(heap, item)


def _rows(kept: _Kept, begun_ns: int) -> tuple[SampleRow, ...]:
    found: dict[int, tuple[str, Sample]] = {}
    for kind in KINDS:
        for _, number, sample in sorted(getattr(kept, kind), key=lambda item: -item[0]):
            found.setdefault(number, (kind, sample))
    longest = max((s.end_ns - s.intended_ns for _, s in found.values()), default=0) or 1
    return tuple(_row(kind, sample, begun_ns, longest) for kind, sample in found.values())


def _row(kind: str, sample: Sample, begun_ns: int, longest_ns: int) -> SampleRow:
    connection = {True: "kept connection", False: "new connection", None: "connection unknown"}[
        sample.conn_reused
    ]
    outcome = sample.outcome.value + (f"/{f.name(sample.cause)}" if sample.cause else "")
    status = "" if sample.status in (None, 200) else f"HTTP {sample.status}"
    said = [status, f.line(sample.error or ""), _flaw(sample)]
    return SampleRow(
        kind=kind,
        index=f"{sample.index:,}" + (f", turn {sample.turn}" if sample.turn > 1 else ""),
        at=f"{(sample.intended_ns - begun_ns) / 1e9:,.3f} s",
        outcome=outcome,
        failed=sample.outcome.failed,
        lag=_since(sample.intended_ns, sample.sent_ns),
        ttft=_since(sample.intended_ns, sample.first_token_ns),
        e2e=_since(sample.intended_ns, sample.end_ns),
        tokens=f"{f.count(sample.input_tokens)} → {f.count(sample.output_tokens)}",
        body=f"{f.count(sample.prompt_bytes)} bytes, {connection}",
        identity=tuple(filter(None, (_hash(sample), _id(sample)))),
        note="; ".join(filter(None, said)),
        bar=_bar(sample, longest_ns),
    )


def _flaw(sample: Sample) -> str:
    return f"answer {f.name(sample.flaw)}" if sample.flaw else ""


def _hash(sample: Sample) -> str:
    return f"sha256 {f.name(sample.prompt_sha)}…" if sample.prompt_sha else ""


def _id(sample: Sample) -> str:
    return f"answered as {f.name(sample.request_id)}" if sample.request_id else ""


def _since(start_ns: int, end_ns: int | None) -> str:
    return f.UNKNOWN if end_ns is None else f.ms((end_ns - start_ns) / 1e6)


def _bar(sample: Sample, longest_ns: int) -> tuple[tuple[str, float, float], ...]:
    """Waiting to be sent, until the first byte, until the first token, the answer."""
    instants = (sample.intended_ns, sample.sent_ns, sample.first_byte_ns, sample.first_token_ns,
                sample.end_ns)  # fmt: skip
    found, at = [], sample.intended_ns
    for part, instant in zip(_PARTS, instants[1:], strict=True):
        if instant is not None and instant > at:
            start = 100 * (at - sample.intended_ns) / longest_ns
            found.append((part, round(start, 2), round(100 * (instant - at) / longest_ns, 2)))
            at = instant
    return tuple(found)
