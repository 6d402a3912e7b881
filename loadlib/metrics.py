"""The metric catalogue: one row per metric. Gates, report, web tab and docs read it by name.

Histograms hold integers: latencies in microseconds, rates in milli-tokens per second, so that
one unit shown (ms, tok/s) is always `SCALE` units recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from loadlib.sample import Sample

SCALE = 1000  # recorded integer units per unit shown: µs per ms, milli-tok/s per tok/s

Instants = npt.NDArray[np.int64]
"""Arrival instants of a stream's content events, ns, ascending."""

Reader = Callable[[Sample, Instants], Sequence[int] | Instants]


@dataclass(frozen=True, slots=True)
class Metric:
    """A measured quantity.

    `read` gives the recorded integers of one *ok* sample: none where it is unknown, several
    for `icl`. `per_request` metrics have at most one value a request and can be SLO objectives
    without a statistic. Those not `everywhere` are left out of groups that have no value.
    """

    name: str
    unit: Literal["ms", "tok/s"]
    better: Literal["lower", "higher"]
    title: str
    formula: str
    read: Reader | None  # None: not read off samples, but counted per second by the recorder
    per_request: bool = True
    everywhere: bool = True


def _span(start: str, end: str) -> Reader:
    def read(sample: Sample, _events: Instants) -> Sequence[int]:
        a, b = getattr(sample, start), getattr(sample, end)
        return () if a is None or b is None else (max(0, b - a + 500) // 1000,)

    return read


def _duration(field: str) -> Reader:
    def read(sample: Sample, _events: Instants) -> Sequence[int]:
        value = getattr(sample, field)
        return () if value is None else ((value + 500) // 1000,)

    return read


def _icl(_sample: Sample, events: Instants) -> Instants:
    return (events[1:] - events[:-1] + 500) // 1000


def _decode_span(sample: Sample) -> tuple[int, int] | None:
    """(output tokens − 1, last token − first token in ns), where both mean something."""
    first, last, tokens = sample.first_token_ns, sample.last_token_ns, sample.output_tokens
    if first is None or last is None or tokens is None or tokens < 2:
        return None
    return tokens - 1, last - first


def _tpot(sample: Sample, _events: Instants) -> Sequence[int]:
    span = _decode_span(sample)
    return () if span is None else ((span[1] + 500 * span[0]) // (1000 * span[0]),)


def _rate_user(sample: Sample, _events: Instants) -> Sequence[int]:
    span = _decode_span(sample)
    # A stream that arrived in one read has no rate of its own.
    return () if span is None or span[1] <= 0 else (span[0] * SCALE * 10**9 // span[1],)


_ROWS = (
    Metric(
        "ttfb",
        "ms",
        "lower",
        "time to first byte",
        "first byte of the response − intended start",
        _span("intended_ns", "first_byte_ns"),
    ),
    Metric(
        "ttft",
        "ms",
        "lower",
        "time to first token",
        "first token of any kind − intended start",
        _span("intended_ns", "first_token_ns"),
    ),
    Metric(
        "ttfo",
        "ms",
        "lower",
        "time to first output token",
        "first token of the answer proper − intended start",
        _span("intended_ns", "first_output_ns"),
    ),
    Metric(
        "ttfc",
        "ms",
        "lower",
        "time to first tool-call delta",
        "first piece of a tool call − intended start",
        _span("intended_ns", "first_call_ns"),
        everywhere=False,
    ),
    Metric(
        "ttst",
        "ms",
        "lower",
        "time from first to second token",
        "second token − first token",
        _span("first_token_ns", "second_token_ns"),
    ),
    Metric(
        "icl",
        "ms",
        "lower",
        "inter-chunk latency",
        "gap between successive content events",
        _icl,
        per_request=False,
    ),
    Metric(
        "stall",
        "ms",
        "lower",
        "longest gap within a stream",
        "longest gap between successive content events of one stream",
        _duration("longest_gap_ns"),
        everywhere=False,
    ),
    Metric(
        "tpot",
        "ms",
        "lower",
        "time per output token",
        "(last token − first token) / (output tokens − 1)",
        _tpot,
    ),
    Metric(
        "e2e",
        "ms",
        "lower",
        "end-to-end latency",
        "end − intended start",
        _span("intended_ns", "end_ns"),
    ),
    Metric(
        "sent_ttfb",
        "ms",
        "lower",
        "time to first byte, from sent",
        "first byte of the response − sent",
        _span("sent_ns", "first_byte_ns"),
    ),
    Metric(
        "sent_ttft",
        "ms",
        "lower",
        "time to first token, from sent",
        "first token of any kind − sent",
        _span("sent_ns", "first_token_ns"),
    ),
    Metric(
        "sent_ttfo",
        "ms",
        "lower",
        "time to first output token, from sent",
        "first token of the answer proper − sent",
        _span("sent_ns", "first_output_ns"),
    ),
    Metric(
        "sent_ttfc",
        "ms",
        "lower",
        "time to first tool-call delta, from sent",
        "first piece of a tool call − sent",
        _span("sent_ns", "first_call_ns"),
        everywhere=False,
    ),
    Metric(
        "sent_e2e",
        "ms",
        "lower",
        "end-to-end latency, from sent",
        "end − sent",
        _span("sent_ns", "end_ns"),
    ),
    Metric(
        "arrival_lag",
        "ms",
        "lower",
        "arrival lag",
        "sent − intended start",
        _span("intended_ns", "sent_ns"),
    ),
    Metric(
        "connect",
        "ms",
        "lower",
        "TCP connect time",
        "connection established − connect called",
        _duration("connect_ns"),
    ),
    Metric(
        "output_tok_s_user",
        "tok/s",
        "higher",
        "output tokens per second, per user",
        "(output tokens − 1) / (last token − first token)",
        _rate_user,
    ),
    Metric(
        "output_tok_s",
        "tok/s",
        "higher",
        "output tokens per second, system",
        "output tokens that arrived in each whole second of the phase",
        None,
        per_request=False,
    ),
)

CATALOGUE: dict[str, Metric] = {row.name: row for row in _ROWS}

QUANTILES: dict[str, float] = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99_9": 0.999}
"""Statistic name → p. One quantile rule everywhere: nearest rank ⌈p·n⌉."""

FLOORS: dict[str, int] = {"p50": 10, "p90": 50, "p95": 100, "p99": 500, "p99_9": 5000}
"""Samples from which on an observed percentile decides a gate by itself."""
