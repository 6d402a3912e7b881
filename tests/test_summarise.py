import pytest
from record_samples import KEY, events, sample

from loadlib import slo
from loadlib.gathered import is_good
from loadlib.histogram import Histogram
from loadlib.recorder import NS, Recorder, Totals
from loadlib.sample import Outcome, Sample
from loadlib.summarise import (
    Measured,
    Window,
    summarise,
    system_rate,
)

EPOCH = 1_700_000_000


def window(start_s=0.0, end_s=10.0, **fields):
    start, end = (int((EPOCH + at) * NS) for at in (start_s, end_s))
    return Window(**{"phase": "measure", "start_ns": start, "end_ns": end} | fields)


def run(samples, windows=None, objectives="", pairs=(), unanswered=0):
    """Groups and totals of samples whose clock starts at EPOCH."""
    recorder, totals, rows = Recorder(EPOCH * NS), Totals(), []
    for one in samples:
        if not one.retried:
            recorder.scheduled((one.model, one.workload, one.phase))
        recorder.add(one, events(one) if one.first_token_ns is not None and one.events else ())
        rows.append(one.shifted(EPOCH * NS))
    for _ in range(unanswered):
        recorder.scheduled(KEY)
    totals.merge(recorder.drain(100 * NS))
    parsed = slo.parse(objectives, ("m", "chat", "m/chat")) if objectives else ()
    return summarise(totals, rows, windows or (window(),), parsed, pairs), totals


def only(*args, **kwargs):
    (group,), _totals = run(*args, **kwargs)
    return group


def test_groups_come_in_the_order_asked_and_empty_ones_are_there():
    windows = (window(0, 1, phase="warmup", kind="warmup"), window(1, 5))
    samples = [sample(key=("m", "other", "measure")), sample(key=("b", "x", "measure"))]
    groups, _ = run(samples, windows, pairs=[("b", "x"), ("a", "x")])
    assert [(g.model, g.workload, g.phase, g.requests.sent, g.kind) for g in groups] == [
        ("b", "x", "warmup", 0, "warmup"),
        ("b", "x", "measure", 1, "measure"),
        ("a", "x", "warmup", 0, "warmup"),
        ("a", "x", "measure", 0, "measure"),
        ("m", "other", "measure", 1, "measure"),
    ]
    empty = groups[3]
    assert empty.metrics["ttft"].n == 0
    assert empty.metrics["ttft"].p50 is None
    assert empty.requests.error_rate is None
    assert empty.tokens.output is None


def test_sequential_models_have_windows_of_their_own():
    windows = (window(0, 4, model="a", rates={"a": 2.5}), window(4, 6, model="b"))
    samples = [sample(key=("a", "w", "measure")), sample(key=("b", "w", "measure"), at=4000)]
    groups, _ = run(samples, windows, pairs=[("a", "w"), ("b", "w")])
    assert [(g.duration_s, g.rate_rps) for g in groups] == [(4.0, 2.5), (2.0, None)]
    assert groups[1].throughput.offered_rps == 0.5


def test_statistics_are_in_the_units_shown_with_intervals_where_n_allows():
    group = only([sample(ttft=100 + n, at=n) for n in range(100)])
    ttft = group.metrics["ttft"]
    assert (ttft.unit, ttft.n, ttft.min, ttft.max) == ("ms", 100, 100, 199)
    assert (ttft.p50, ttft.p99) == pytest.approx((149, 198), rel=0.001)
    assert ttft.mean == 149.5
    # rank 40 is 139 and rank 61 is 160
    assert ttft.ci95["p50"] == pytest.approx((139, 160), rel=0.001)
    assert "p99" not in ttft.ci95, "100 are too few for an interval of p99"
    assert group.metrics["tpot"].p50 == 10
    assert group.metrics["output_tok_s_user"].p50 == 100
    assert group.metrics["output_tok_s_user"].unit == "tok/s"


@pytest.mark.parametrize(
    ("objectives", "share", "why"),
    [
        ("ttft < 150ms", 2 / 5, "two of five arrivals: the failed and the dropped are arrivals"),
        ("ttft < 250ms", 3 / 5, "the slow one too"),
        ("ttft < 250ms, e2e < 1ms", 0, "every objective, not any"),
        ("m: ttft < 150ms", 2 / 5, "a model's scope"),
        ("ttft.p90 < 150ms", 2 / 5, "without an objective, a latency gate's limit is one"),
        ("ttft.p90 < 1ms, ttft < 150ms", 2 / 5, "with one, it is not"),
        ("error_rate < 1%", None, "nothing says what good is"),
        ("", None, "likewise"),
        ("connect < 1ms", 3 / 5, "what a request does not have cannot be too slow"),
    ],
)
def test_goodput(objectives, share, why):
    samples = [
        sample(ttft=100),
        sample(ttft=100),
        sample(ttft=200),
        sample(Outcome.TIMEOUT),
        sample(Outcome.DROPPED),
        sample(Outcome.CANCELLED),
    ]
    group = only(samples, objectives=objectives)
    assert group.goodput.share == share, why
    if share is not None:
        assert group.goodput.rps == round(share * 5 / 10, 6)


def test_lost_arrivals_are_not_good():
    assert only([sample()], objectives="ttft < 1s", unanswered=1).goodput.share == 0.5


def test_a_single_token_is_good_without_a_tpot():
    (bound,) = slo.parse("tpot < 1ms", ())
    assert is_good(sample(tokens=1), (bound,))
    assert not is_good(sample(tokens=3), (bound,))


def test_tokens_cost_quality_and_connections():
    samples = [
        sample(tokens_source="server", cost_usd=0.5, quality=True, conn_reused=False),
        sample(tokens_source="server", cost_usd=0.25, quality=False, conn_reused=True),
        sample(Outcome.TIMEOUT, cause="first_token", error="late", conn_reused=True),
        sample(Outcome.TIMEOUT, cause="first_token", error="late"),
    ]
    group = only(samples, objectives="ttft < 1s")
    assert (group.tokens.input, group.tokens.output) == (14, 20)
    assert group.tokens.cached is None, "unknown is not 0"
    assert group.tokens.source == "server"
    assert group.cost_usd.total == 0.75
    assert group.cost_usd.per_1k_requests == 375, "the late ones may be billed, too"
    assert group.cost_usd.per_1k_good_requests is None
    assert (group.quality.checked, group.quality.passed, group.quality.share) == (2, 1, 0.5)
    assert group.quality.ci95 is not None
    assert group.connections == 1
    assert group.causes == {"timeout/first_token": 2}
    assert group.errors == {"late": 2}
    assert group.outcomes == {"ok": 2, "timeout": 2}


def test_flaws_scores_and_variants_of_quality():
    group = only([
        sample(quality=True, variant="en-zh", score=1.0),
        sample(quality=False, variant="en-zh", flaw="invalid", score=0.5),
        sample(quality=False, variant="zh-en", flaw="wrong"),
        sample(quality=False),
        sample(variant="fr-de"),
    ])  # fmt: skip
    found = group.quality
    assert (found.checked, found.passed, found.score) == (4, 1, 0.75)
    assert found.flaws == {"invalid": 1, "wrong": 2}, "without a word of why it is wrong"
    assert list(found.variants) == ["en-zh", "zh-en"], "only what was checked"
    assert found.variants["en-zh"].flaws == {"invalid": 1}
    assert found.variants["zh-en"].score is None, "unknown is not 0"


def test_variants_of_a_hostile_number_are_bounded():
    group = only([sample(quality=True, variant=f"v{n}") for n in range(300)])
    assert (group.quality.checked, len(group.quality.variants)) == (300, 100)


def test_without_a_price_there_is_no_cost():
    cost = only([sample()]).cost_usd
    assert (cost.total, cost.per_1k_requests, cost.per_1k_good_requests) == (None, None, None)


@pytest.mark.parametrize(
    ("more", "mean", "why"),
    [
        ([], 15, "of 10 and 20"),
        ([sample(Outcome.TRUNCATED, output_tokens=500)], 15, "what failed answers said is not it"),
        ([sample(Outcome.THROTTLED, output_tokens=0)], 15, "nor that they said nothing"),
        ([sample(output_tokens=None)], None, "a mean with a hole in it is not known"),
    ],
)
def test_how_long_an_answer_is(more, mean, why):
    rows = [sample(output_tokens=10), sample(output_tokens=20), *more]
    assert only(rows).tokens.mean_answer == mean, why
    assert only([sample(Outcome.TIMEOUT)]).tokens.mean_answer is None


def test_mixed_sources_say_so():
    samples = [sample(tokens_source="server"), sample(tokens_source="estimate")]
    assert only(samples).tokens.source == "mixed"


def test_prompt_lengths_are_powers_of_two():
    samples = [
        sample(input_tokens=1024, ttft=100),
        sample(input_tokens=2047, ttft=300, quality=True),
        sample(input_tokens=2048, ttft=500),
        sample(Outcome.TIMEOUT, asked_tokens=2500),
        sample(Outcome.TIMEOUT, asked_tokens=9000, cut_tokens=8000),
        sample(Outcome.TIMEOUT),
    ]
    buckets = only(samples).prompt_lengths
    assert [(b.low, b.high, b.n, b.failed) for b in buckets] == [
        (1024, 2048, 2, 0),
        (2048, 4096, 2, 1),
        (4096, 8192, 1, 1),
    ]
    first = buckets[0]
    assert (first.tokens_p50, first.ttft_p50, first.ttft_p99) == (1024, 100, 300)
    assert first.quality == 1
    assert buckets[2].ttft_p50 is None


def test_asked_cut_and_delivered():
    samples = [
        sample(asked_tokens=1000, cut_tokens=None, input_tokens=1000),
        sample(asked_tokens=9000, cut_tokens=8000, input_tokens=8003),
        sample(Outcome.TIMEOUT, asked_tokens=5000),
    ]
    group = only(samples)
    assert (group.asked_tokens, group.cut_tokens, group.delivered_tokens) == (10_000, 9000, 9003)
    unknown = only([*samples, sample(asked_tokens=10, input_tokens=None)])
    assert unknown.delivered_tokens is None, "a sum with a hole in it is not known"


def test_throughput_counts_tokens_that_arrived_in_the_window():
    # 10 tokens in each second from 1 s on, the last ones while draining
    samples = [sample(at=900 + 1000 * n) for n in range(12)]
    group = only(samples, windows=(window(0.5, 10.5),))
    assert group.throughput.offered_rps == 1.2
    assert group.throughput.achieved_rps == 1.0, "two were sent after the phase"
    assert group.throughput.output_tok_s == pytest.approx(9.5), "the last second counts half"
    rate = group.metrics["output_tok_s"]
    assert (rate.n, rate.p50, rate.max) == (9, 10, 10), "whole seconds only: 1 … 9"


def test_quiet_seconds_count_in_system_throughput():
    _, totals = run([sample(at=0), sample(at=4000)])
    hist = system_rate(totals, KEY, window(0, 5))
    assert hist == Histogram([10_000, 0, 0, 0, 10_000])
    assert Measured(totals, (window(0, 5),)).histogram(*KEY, "output_tok_s") == hist
    assert Measured(totals, ()).histogram(*KEY, "ttft").n == 2
    assert system_rate(totals, KEY, window(0.2, 0.8)).n == 0, "no whole second"


def test_unknown_tokens_make_no_throughput():
    group = only([sample(output_tokens=None, input_tokens=None)])
    assert group.throughput.output_tok_s is None
    assert group.throughput.input_tok_s is None
    assert group.metrics["output_tok_s"].n == 0


def test_rows_are_read_once_and_in_any_order():
    samples = [sample(ttft=n) for n in range(1, 20)]
    _, totals = run(samples)
    rows = [one.shifted(EPOCH * NS) for one in samples]
    forward = summarise(totals, iter(rows), (window(),))
    assert forward == summarise(totals, iter(reversed(rows)), (window(),))


def test_a_sample_type_is_what_rows_are():
    assert isinstance(sample(), Sample)


def test_events_read_together_are_counted():
    group = only([sample(events=20, coalesced=3), sample(events=5), sample(Outcome.TIMEOUT)])
    assert (group.events, group.coalesced) == (25, 3)
    group = only([sample(Outcome.TIMEOUT)])
    assert (group.events, group.coalesced) == (None, None), "no event, no share"


def test_what_nobody_knows_the_cost_of_is_counted_beside_the_total():
    rows = [
        sample(cost_usd=0.5),
        sample(cost_usd=None),
        sample(Outcome.TIMEOUT, cause="idle", cost_usd=None),
        sample(Outcome.THROTTLED, status=429, cost_usd=None),
        sample(Outcome.DROPPED, cost_usd=None),
    ]
    cost = only(rows).cost_usd
    assert (cost.total, cost.unknown) == (0.5, 2), "refused and unsent ones cost nothing"
    assert cost.per_1k_requests == 250, "0.5 for one, and nothing for the one that was refused"
    unpriced = only([sample(cost_usd=None)]).cost_usd
    assert (unpriced.total, unpriced.unknown) == (None, 1), "unknown, and not 0"


def test_good_requests_bear_what_all_others_cost_where_that_is_known():
    rows = [
        sample(cost_usd=0.5),
        sample(Outcome.TRUNCATED, cost_usd=0.25),
        sample(Outcome.THROTTLED, status=429),
    ]
    cost = only(rows, objectives="ttft < 1s").cost_usd
    assert (cost.per_1k_requests, cost.per_1k_good_requests) == (250, 750)
    some = only([*rows, sample(Outcome.TIMEOUT)], objectives="ttft < 1s").cost_usd
    assert (some.per_1k_requests, some.per_1k_good_requests) == (250, None), "unknown, and not 0"


def test_attempts_that_were_tried_again_are_no_requests():
    rows = [
        sample(Outcome.THROTTLED, status=429, cause="429", retried=True, error="wait", index=0),
        sample(attempt=2, index=0, cost_usd=0.25, conn_reused=False),
        sample(Outcome.THROTTLED, status=429, cause="429", index=1, at=50),
    ]
    group = only(rows)
    assert (group.requests.scheduled, group.requests.sent, group.requests.ok) == (2, 2, 1)
    assert (group.requests.attempts, group.requests.throttled_attempts) == (3, 2)
    assert group.outcomes == {"ok": 1, "throttled": 1}
    assert group.causes == {"throttled/429": 1}
    assert group.errors == {"wait": 1}, "what was said is shown"
    assert group.throughput.achieved_rps == group.throughput.offered_rps
    assert group.cost_usd.per_1k_requests == 125
