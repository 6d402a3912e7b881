"""What can only be known from the single requests of a group, added up one by one.

The same whether they come from a finished run's rows or one after the other while it lasts.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from loadlib import binomial
from loadlib.guard import costs_nothing
from loadlib.histogram import Histogram
from loadlib.metrics import CATALOGUE, SCALE, Metric
from loadlib.quality import Flaw
from loadlib.sample import Outcome, Sample
from loadlib.slo import Objective
from loadlib.summary import Failure, Quality

_MOST_VARIANTS = 100
_MOST_CAUSES = 100
_AT_ONCE = 4096  # values recorded in one go
_NO_EVENTS = np.zeros(0, np.int64)


@dataclass(slots=True)
class Bucket:
    """Requests of like length. It grows with the lengths there are, not with the requests."""

    lengths: Counter[int] = field(default_factory=Counter)  # tokens → requests
    ttft: Histogram = field(default_factory=Histogram)  # µs …
    fresh: array[int] = field(default_factory=lambda: array("q"))  # … and not in it yet
    failed: int = 0
    checked: int = 0
    passed: int = 0

    def settle(self) -> None:
        """Count what is fresh: one by one it would cost ten times as much."""
        self.ttft.record_many(self.fresh)
        self.fresh = array("q")

    def median_length(self) -> int:
        """The lower median, tokens."""
        rank = (self.lengths.total() + 1) // 2
        ordered = sorted(self.lengths.items())
        sums = accumulate(count for _, count in ordered)
        return next(length for (length, _), upto in zip(ordered, sums, strict=True) if upto >= rank)


@dataclass(slots=True)
class Checked:
    """Answers that a check has looked at."""

    checked: int = 0
    passed: int = 0
    scored: int = 0
    score: float = 0.0
    flaws: Counter[str] = field(default_factory=Counter)

    def add(self, sample: Sample) -> None:
        """Take one answer into account."""
        if sample.quality is None:
            return
        self.checked += 1
        self.passed += sample.quality
        if sample.score is not None:
            self.scored += 1
            self.score += sample.score
        if not sample.quality:
            self.flaws[sample.flaw or Flaw.WRONG] += 1

    def quality(self) -> Quality:
        """Shares of what was checked."""
        return Quality(
            checked=self.checked,
            passed=self.passed,
            share=self.passed / self.checked if self.checked else None,
            ci95=binomial.wilson(self.passed, self.checked),
            score=round(self.score / self.scored, 6) if self.scored else None,
            flaws={flaw.value: n for flaw in Flaw if (n := self.flaws[flaw])},
        )


@dataclass(slots=True)
class Broken:
    """Requests that failed for one cause."""

    n: int = 0
    after_first_token: int = 0
    output: int | None = None
    cost: float | None = None

    def add(self, sample: Sample) -> None:
        """Take one of them into account."""
        self.n += 1
        self.after_first_token += sample.first_token_ns is not None
        self.output = _plus(self.output, sample.output_tokens)
        if sample.cost_usd is not None:
            self.cost = (self.cost or 0.0) + sample.cost_usd

    def failure(self) -> Failure:
        """What is known of them."""
        return Failure(
            n=self.n,
            after_first_token=self.after_first_token,
            output_tokens=self.output,
            cost_usd=self.cost,
        )


@dataclass(slots=True)
class Gathered:
    """What can only be known from the single requests of a group."""

    bounds: tuple[Objective, ...]
    sent_by_ns: int | None = None  # Unix epoch; what was sent later was sent too late
    brief: bool = False  # gates and counts only: no lengths, variants and texts of errors
    good: int = 0
    sent_in_time: int = 0
    input: int | None = None
    output: int | None = None
    cached: int | None = None
    reasoning: int | None = None
    cost: float | None = None
    uncosted: int = 0  # attempts …
    requests_uncosted: int = 0  # … that were a request's last
    sources: set[str] = field(default_factory=set)
    quality: Checked = field(default_factory=Checked)
    variants: dict[str, Checked] = field(default_factory=dict)
    opened: int | None = None
    events: int = 0
    coalesced: int = 0
    causes: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    broken: dict[str, Broken] = field(default_factory=dict)
    buckets: dict[int, Bucket] = field(default_factory=dict)
    said: int | None = None  # output tokens of answers that ended ok
    said_known: bool = True
    asked: int | None = None
    cut: int | None = None
    delivered: int | None = None
    delivered_known: bool = True

    def add(self, sample: Sample) -> None:
        """Take one attempt into account, in any order."""
        self._count_tokens(sample)
        self.good += is_good(sample, self.bounds)
        self.events += sample.events
        self.coalesced += sample.coalesced
        if sample.sent_ns is not None and sample.attempt == 1:
            self.sent_in_time += self.sent_by_ns is None or sample.sent_ns <= self.sent_by_ns
        if sample.cost_usd is not None:
            self.cost = (self.cost or 0.0) + sample.cost_usd
        elif not costs_nothing(sample):
            self.uncosted += 1
            self.requests_uncosted += not sample.retried
        self.quality.add(sample)
        if sample.conn_reused is not None:
            self.opened = (self.opened or 0) + (not sample.conn_reused)
        if sample.cause is not None and not sample.retried:
            self.causes[f"{sample.outcome}/{sample.cause}"] += 1
        if not self.brief:
            self._count_details(sample)

    def _count_details(self, sample: Sample) -> None:
        self._count_length(sample)
        if sample.variant is not None and sample.quality is not None:
            known = sample.variant in self.variants
            if known or len(self.variants) < _MOST_VARIANTS:
                self.variants.setdefault(sample.variant, Checked()).add(sample)
        if sample.outcome.failed and not sample.retried:
            what = "/".join(filter(None, (sample.outcome.value, sample.cause)))
            if what not in self.broken and len(self.broken) >= _MOST_CAUSES:
                what = sample.outcome.value  # a server may make up a cause for each
            self.broken.setdefault(what, Broken()).add(sample)
        if sample.error and (sample.error in self.errors or len(self.errors) < 1000):
            self.errors[sample.error] += 1

    def _count_tokens(self, sample: Sample) -> None:
        self.input = _plus(self.input, sample.input_tokens)
        self.output = _plus(self.output, sample.output_tokens)
        self.cached = _plus(self.cached, sample.cached_tokens)
        self.reasoning = _plus(self.reasoning, sample.reasoning_tokens)
        if sample.tokens_source is not None:
            self.sources.add(sample.tokens_source)
        if sample.outcome is Outcome.OK:
            self.said = _plus(self.said, sample.output_tokens)
            self.said_known &= sample.output_tokens is not None
        if sample.outcome is Outcome.OK and sample.asked_tokens is not None:
            self.asked = _plus(self.asked, sample.asked_tokens)
            kept = sample.asked_tokens if sample.cut_tokens is None else sample.cut_tokens
            self.cut = _plus(self.cut, kept)
            self.delivered = _plus(self.delivered, sample.input_tokens)
            self.delivered_known &= sample.input_tokens is not None

    def _count_length(self, sample: Sample) -> None:
        known = (sample.input_tokens, sample.cut_tokens, sample.asked_tokens)
        length = next((tokens for tokens in known if tokens is not None), None)
        if length is None or sample.outcome is Outcome.CANCELLED or sample.retried:
            return
        bucket = self.buckets.get(length.bit_length())
        if bucket is None:
            bucket = self.buckets[length.bit_length()] = Bucket()
        bucket.lengths[length] += 1
        bucket.failed += sample.outcome is not Outcome.OK
        if sample.outcome is Outcome.OK:
            bucket.fresh.extend(values_of(CATALOGUE["ttft"], sample))
            if len(bucket.fresh) >= _AT_ONCE:
                bucket.settle()
        if sample.quality is not None:
            bucket.checked += 1
            bucket.passed += sample.quality


def is_good(sample: Sample, bounds: Iterable[Objective]) -> bool:
    """Whether a request ended well and met every bound.

    A bound on what the answer does not have (`tpot` of a single token) is met.
    """
    if sample.outcome is not Outcome.OK:
        return False
    return all(
        bound.meets(value / SCALE)
        for bound in bounds
        for value in values_of(CATALOGUE[bound.metric], sample)
    )


def values_of(metric: Metric, sample: Sample) -> Sequence[int]:
    """The recorded integers (µs, milli-tok/s) of one answer; none where it is unknown."""
    assert metric.read is not None, f"{metric.name} is not read off samples"
    return [int(value) for value in metric.read(sample, _NO_EVENTS)]


def _plus(total: int | None, value: int | None) -> int | None:
    return total if value is None else (total or 0) + value
