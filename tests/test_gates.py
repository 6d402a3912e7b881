import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadlib import gates, slo
from loadlib.errorbound import SHARES, Bound, Spread
from loadlib.errors import UsageError
from loadlib.histogram import Histogram
from loadlib.metrics import FLOORS
from loadlib.summarise import stats
from loadlib.summary import (
    Cost,
    Goodput,
    Group,
    Quality,
    Requests,
    Throughput,
    Tokens,
)

SCOPES = ("m", "n", "chat", "long", "m/chat", "m/long", "n/chat", "llama3:8b", "org/model")


def parse(*lines):
    return tuple(found for line in lines for found in slo.parse(line, SCOPES))


def group(model="m", workload="chat", phase="measure", *, ms=(), metric="ttft", **fields):
    """A group whose ok requests had these latencies; other counts as given."""
    names = ("failed", "throttled", "cancelled", "dropped", "lost")
    counts = {name: fields.pop(name, 0) for name in names}
    ok = fields.pop("ok", len(ms))
    sent = ok + counts["failed"] + counts["cancelled"] + counts["lost"]
    requests = Requests(scheduled=sent + counts["dropped"], sent=sent, ok=ok, **counts)
    hist = Histogram(round(value * 1000) for value in ms)
    plain = {
        "outcomes": {},
        "metrics": {metric: stats(hist, "tok/s" if "tok" in metric else "ms")},
        "tokens": Tokens(),
        "throughput": Throughput(),
        "goodput": Goodput(),
        "cost_usd": Cost(),
        "quality": Quality(),
    }
    made = Group(model=model, workload=workload, phase=phase, requests=requests, **plain | fields)
    Source.known[model, workload, phase, metric] = hist
    return made


class Source:
    """The histograms of the groups made last."""

    known: dict = {}  # noqa: RUF012

    def histogram(self, *place):
        return self.known.get(place, Histogram())


def judge(objective, *groups, bound=Bound()):  # noqa: B008 — frozen
    """The gates of one SLO line, without the default one."""
    found = gates.evaluate(groups, parse(objective), Source(), bound=lambda *_: bound)
    return [gate for gate in found if not gate.default]


def one(objective, *groups, **kwargs):
    (gate,) = judge(objective, *groups, **kwargs)
    return gate


@pytest.mark.parametrize(
    ("objective", "fast", "slow", "fields", "status", "why"),
    [
        ("ttft.p99 < 800ms", 495, 5, {}, "pass", "5 of 500 are the 1 % that may be slow"),
        ("ttft.p99 < 800ms", 494, 6, {}, "fail", "one more may not"),
        ("ttft.p99 < 800ms", 495, 0, {"failed": 5}, "pass", "failures fill the same 1 %"),
        ("ttft.p99 < 800ms", 495, 1, {"failed": 5}, "fail", "6 of 501: failing is no way out"),
        ("ttft.p99 < 800ms", 495, 1, {"dropped": 5}, "fail", "nor is not sending"),
        ("ttft.p99 < 800ms", 495, 1, {"lost": 5}, "fail", "nor losing"),
        ("ttft.p99 < 800ms", 495, 5, {"cancelled": 50}, "pass", "what we stopped is no failure"),
        ("ttft.p99 < 800ms", 499, 0, {}, "inconclusive", "499 are one too few to pass"),
        ("ttft.p99 < 800ms", 490, 9, {}, "inconclusive", "9 of 499: 6 % likely if p99 held"),
        ("ttft.p99 < 800ms", 489, 10, {}, "fail", "10 of 499: 3 % likely, a certain breach"),
        ("ttft.p99 < 800ms", 1, 0, {}, "inconclusive", "one sample says nothing good"),
        ("ttft.p99 < 800ms", 0, 1, {}, "fail", "but 1 % likely is a breach already"),
        ("ttft.p50 < 800ms", 5, 5, {}, "pass", "half may be slow: nearest rank takes the 5th"),
        ("ttft.p50 < 800ms", 4, 6, {}, "fail", "more than half may not"),
        ("ttft.p50 < 800ms", 0, 4, {}, "inconclusive", "0.5⁴ = 6 %"),
        ("ttft.p50 < 800ms", 0, 5, {}, "fail", "0.5⁵ = 3 %"),
        ("ttft.p90 < 800ms", 45, 5, {}, "pass", "at the floor of 50 the observed value decides"),
        ("ttft.p90 < 800ms", 44, 6, {}, "fail", "in both directions"),
        ("ttft.p99_9 < 800ms", 4999, 0, {}, "inconclusive", "5,000 are needed"),
        ("ttft.p99_9 < 800ms", 4995, 5, {}, "pass", "and with them 0.1 % are 5"),
        ("ttft.max < 800ms", 3, 0, {}, "pass", "a maximum has no floor"),
        ("ttft.max < 800ms", 3, 0, {"failed": 1}, "fail", "a failed request is the slowest"),
        ("ttft.max <= 900ms", 3, 1, {}, "pass", "at the limit"),
        ("ttft.max < 900ms", 3, 1, {}, "fail", "at the limit is not under it"),
        ("ttft.min < 800ms", 1, 3, {"failed": 2}, "pass", "the fastest"),
        ("ttft.mean < 500ms", 1, 1, {}, "fail", "(100 + 900) / 2 = 500"),
        ("ttft.mean <= 500ms", 1, 1, {}, "pass", "(100 + 900) / 2 = 500"),
        ("ttft.p50 < 800ms", 0, 0, {}, "inconclusive", "no data is never a pass"),
        ("ttft.mean < 800ms", 0, 0, {}, "inconclusive", "no data is never a pass"),
        ("ttft.p50 < 800ms", 0, 0, {"failed": 20}, "fail", "all failed: certainly not fast"),
    ],
)
def test_a_percentile_gate_is_a_count(objective, fast, slow, fields, status, why):
    gate = one(objective, group(ms=[100] * fast + [900] * slow, **fields))
    assert gate.status == status, why
    if status == "inconclusive" and gate.n:
        assert "needs" in gate.reason
        assert f"has {gate.n}" in gate.reason


@pytest.mark.parametrize(
    ("objective", "slow", "fast", "failed", "status", "why"),
    [
        ("output_tok_s_user.p50 > 20", 4, 6, 0, "pass", "the 5th of ten is a fast one"),
        ("output_tok_s_user.p50 > 20", 5, 5, 0, "fail", "the 5th of ten is a slow one"),
        ("output_tok_s_user.p50 > 20", 0, 6, 5, "pass", "6th of 11, failures being the slowest"),
        ("output_tok_s_user.p50 > 20", 0, 5, 5, "fail", "5th of ten is a failure"),
        ("output_tok_s_user.min > 20", 0, 5, 0, "pass", "all are fast"),
        ("output_tok_s_user.min > 20", 0, 5, 1, "fail", "a failed one has no speed"),
        ("output_tok_s_user.p50 > 20", 5, 0, 0, "fail", "0.5⁵ = 3 % below the floor"),
        ("output_tok_s_user.p50 > 20", 0, 5, 0, "inconclusive", "below the floor never a pass"),
    ],
)
def test_rates_have_their_tail_at_the_slow_end(objective, slow, fast, failed, status, why):
    made = group(ms=[10] * slow + [50] * fast, metric="output_tok_s_user", failed=failed)
    assert one(objective, made).status == status, why


@given(st.integers(10, 700), st.integers(0, 700), st.integers(0, 30), st.sampled_from([*FLOORS]))
def test_from_the_floor_on_the_count_decides(fast, slow, failed, stat):
    gate = one(f"ttft.{stat} < 500ms", group(ms=[100] * fast + [900] * slow, failed=failed))
    n = fast + slow + failed
    share = {"p50": 500, "p90": 100, "p95": 50, "p99": 10, "p99_9": 1}[stat]  # of a thousand
    if n >= FLOORS[stat]:
        assert gate.status == ("pass" if (slow + failed) * 1000 <= share * n else "fail")
    else:
        assert gate.status != "pass"


@pytest.mark.parametrize(
    ("metric", "counted", "why"),
    [
        ("ttft", 6, "failed, lost and dropped had no first token"),
        ("e2e", 6, "nor an end"),
        ("tpot", 6, "nor a speed"),
        ("sent_ttft", 4, "the sent clock knows nothing of what was dropped"),
        ("icl", 0, "a gap belongs to no request"),
        ("output_tok_s", 0, "nor does a second"),
        ("arrival_lag", 0, "lateness is not about how it ended"),
        ("connect", 0, "nor is connecting"),
    ],
)
def test_what_counts_as_the_tail(metric, counted, why):
    requests = Requests(failed=3, lost=1, dropped=2, cancelled=7, ok=5)
    assert gates.tail(metric, requests) == counted, why


def test_observed_and_interval_include_the_tail():
    gate = one("ttft.p90 < 800ms", group(ms=list(range(1, 91)), failed=10))
    assert (gate.observed, gate.n, gate.ci95) == (90, 100, None)
    assert gate.status == "pass"
    gate = one("ttft.p50 < 800ms", group(ms=list(range(1, 91)), failed=10))
    assert gate.ci95 == pytest.approx((40, 61), rel=0.001)
    gate = one("ttft.p95 < 800ms", group(ms=list(range(1, 91)), failed=10))
    assert (gate.observed, gate.status) == (None, "fail"), "the 95th of 100 is a failure"
    assert "10 of 100" in gate.reason


@pytest.mark.parametrize(
    ("objective", "fields", "observed", "status", "why"),
    [
        ("error_rate < 1%", {"ok": 99, "failed": 1}, 0.01, "fail", "1 % is not under 1 %"),
        ("error_rate <= 1%", {"ok": 99, "failed": 1}, 0.01, "pass", "but at most 1 %"),
        ("error_rate < 2%", {"ok": 98, "lost": 2}, 0.02, "fail", "lost requests are errors"),
        ("error_rate < 1%", {"ok": 9, "cancelled": 9}, 0.0, "pass", "cancelled ones are not"),
        ("error_rate < 1%", {"dropped": 9}, None, "inconclusive", "nothing was sent"),
        ("throttled_rate < 5%", {"ok": 9, "failed": 1, "throttled": 1}, 0.1, "fail", "429s"),
        ("goodput >= 95%", {"ok": 20, "goodput": Goodput(share=0.95)}, 0.95, "pass", "at least"),
        ("quality >= 90%", {"ok": 1}, None, "inconclusive", "nothing was checked"),
        (
            "quality >= 90%",
            {"ok": 9, "quality": Quality(checked=9, passed=8, share=8 / 9)},
            8 / 9,
            "fail",
            "8 of 9",
        ),
        (
            "output_tok_s > 50",
            {"ok": 1, "throughput": Throughput(output_tok_s=60.0)},
            60,
            "pass",
            "of the phase",
        ),
        (
            "achieved_rps >= 5",
            {"ok": 1, "throughput": Throughput(achieved_rps=4.9)},
            4.9,
            "fail",
            "sent per second",
        ),
        ("cost_usd < 1", {"ok": 1, "cost_usd": Cost(total=0.5)}, 0.5, "pass", "of the group"),
        ("cost_usd < 1", {"ok": 1}, None, "inconclusive", "an unknown price is not 0"),
    ],
)
def test_figures_of_a_group(objective, fields, observed, status, why):
    lines = (objective, "ttft < 1s") if "goodput" in objective else (objective,)
    found = gates.evaluate([group(**fields)], parse(*lines), Source())
    gate = next(gate for gate in found if not gate.default)
    assert (gate.observed, gate.status) == (observed, status), why


def test_scopes_expand_to_one_gate_per_measure_group_and_never_pool():
    groups = [
        group("m", "chat", "warmup", ms=[1] * 10, kind="warmup"),
        group("m", "chat", ms=[1] * 10),
        group("m", "chat", "measure-2", ms=[9000] * 10),
        group("n", "chat", ms=[1] * 10),
        group("m", "long", ms=[1] * 10),
        group("llama3:8b", "long", ms=[1] * 10),
        group("org/model", "long", ms=[1] * 10),
    ]

    def matching(scope):
        return [
            f"{gate.model} {gate.workload} {gate.phase} {gate.status}"
            for gate in judge(f"{scope}: ttft.p50 < 1s", *groups)
        ]

    assert matching("m/chat") == ["m chat measure pass", "m chat measure-2 fail"]
    assert len(matching("chat")) == 3
    assert len(matching("m")) == 3
    assert len(matching("all")) == 6
    assert matching("llama3:8b") == ["llama3:8b long measure pass"]
    assert matching("org/model") == ["org/model long measure pass"]


def test_a_scope_without_data_is_inconclusive():
    gate = one("n: ttft.p50 < 1s", group(ms=[1] * 10))
    assert (gate.status, gate.n, gate.model) == ("inconclusive", 0, "")
    only_warm = group(ms=[1] * 10, kind="warmup")
    assert one("m: ttft.p50 < 1s", only_warm).status == "inconclusive"


def test_the_default_error_rate():
    (gate,) = gates.evaluate([group(ok=95, failed=5)], (), Source())
    assert (gate.expression, gate.default, gate.status) == ("error_rate < 5%", True, "fail")
    found = gates.evaluate([group(ok=95, failed=5)], parse("chat: error_rate < 10%"), Source())
    assert [(gate.expression, gate.default) for gate in found] == [("error_rate < 10%", False)]
    (gate,) = gates.evaluate([], (), Source())
    assert gate.status == "inconclusive"


def test_a_per_request_objective_is_no_gate():
    assert judge("ttft < 800ms, tpot < 50ms", group(ms=[1] * 10)) == []


def test_goodput_without_a_meaning_is_a_usage_error():
    pairs = [("m", "chat"), ("m", "long")]
    gates.check_objectives(parse("chat: goodput >= 95%, ttft < 1s"), pairs)
    gates.check_objectives(parse("goodput >= 95%, ttft.p90 < 1s"), pairs)
    gates.check_objectives(parse("error_rate < 1%"), pairs)
    with pytest.raises(UsageError, match="goodput of m/long cannot be judged"):
        gates.check_objectives(parse("goodput >= 95%", "chat: ttft < 1s"), pairs)


def test_the_default_error_gate_guards_every_group_that_no_other_does():
    """A gate on one model's errors must not let another model fail unseen."""
    groups = group(model="m", ms=[1.0] * 20), group(model="n", failed=20)
    found = gates.evaluate(groups, parse("m: error_rate < 1%"), Source())
    assert [(gate.model, gate.status, gate.default) for gate in found] == [
        ("m", "pass", False),
        ("n", "fail", True),
    ]


# — the instrument's own error —————————————————————————————————————————————————————


def late(ms, rare=0.0):
    """All readings too long by at most `ms`; with `rare`, one in a hundred by 300."""
    return Spread.of(Histogram([round(ms * 1000)] * 99 + [round((rare or ms) * 1000)]))


ONLY_LONGER, EITHER = Bound(over=late(50)), Bound(over=late(50), under=late(50))


@pytest.mark.parametrize(
    ("objective", "value", "bound", "status", "why"),
    [
        ("ttft.p99 < 800ms", 830, ONLY_LONGER, "inconclusive", "arrival lag may have made it fail"),
        ("ttft.p99 < 800ms", 780, ONLY_LONGER, "pass", "and cannot have made it pass"),
        ("ttft.p99 < 800ms", 860, ONLY_LONGER, "fail", "810 at best"),
        ("icl.p99 < 800ms", 780, EITHER, "inconclusive", "a gap may be longer than it was read"),
        ("icl.p99 < 800ms", 830, EITHER, "inconclusive", "or shorter"),
        ("icl.p99 < 800ms", 740, EITHER, "pass", "790 at worst"),
        ("icl.p99 < 800ms", 860, EITHER, "fail", "810 at best"),
        ("ttft.p50 < 800ms", 830, ONLY_LONGER, "inconclusive", "a median likewise"),
        ("ttft.mean < 800ms", 830, ONLY_LONGER, "inconclusive", "a mean likewise"),
        ("ttft.mean < 800ms", 780, ONLY_LONGER, "pass", "in one direction"),
        ("ttft.max < 800ms", 830, ONLY_LONGER, "inconclusive", "a maximum likewise"),
        ("ttft.min < 800ms", 860, ONLY_LONGER, "fail", "a minimum likewise"),
        ("ttft.p99 < 800ms", 830, Bound(), "fail", "a perfect instrument"),
        ("ttft.p99 < 800ms", 780, Bound(), "pass", "a perfect instrument"),
    ],
)
def test_what_the_instrument_s_error_could_flip_is_inconclusive(
    objective, value, bound, status, why
):
    metric = objective.partition(".")[0]
    gate = one(objective, group(ms=[value] * 600, metric=metric), bound=bound)
    assert gate.status == status, why
    assert (gate.truth is None) == (not bound)
    if status == "inconclusive":
        assert "the truth lies between" in gate.reason


@pytest.mark.parametrize(
    ("objective", "fast", "slow", "failed", "status", "why"),
    [
        ("ttft.p99 < 800ms", 594, 6, 0, "pass", "1 % may be slow: a lag only lengthens"),
        ("ttft.p99 < 800ms", 593, 7, 0, "inconclusive", "one too many, one of them perhaps ours"),
        ("ttft.p99 < 800ms", 586, 14, 0, "fail", "14 violate it, at most 7 of them through us"),
        ("ttft.p99 < 800ms", 593, 0, 7, "fail", "none of the failures is the instrument's"),
        ("ttft.p99 < 800ms", 588, 6, 6, "inconclusive", "6 certain and 6 that may be ours: 6 may"),
        ("ttft.p99 < 800ms", 580, 13, 7, "fail", "7 certain"),
    ],
)
def test_a_rare_error_is_a_count_too(objective, fast, slow, failed, status, why):
    """One request in a hundred left 300 ms late: those may be the slow ones, or any others."""
    bound = Bound(over=late(0, rare=300))
    made = group(ms=[100] * fast + [900] * slow, failed=failed)
    assert one(objective, made, bound=bound).status == status, why


@pytest.mark.parametrize(
    ("slow", "ms", "status", "why"),
    [
        (
            10,
            900,
            "fail",
            "10 of 20 cannot be chance under a p90, and 50 ms make none of them fast",
        ),
        (10, 820, "inconclusive", "but they make all of these"),
        (1, 900, "inconclusive", "few samples stay few"),
    ],
)
def test_below_the_floor_a_breach_must_be_certain_whatever_the_error(slow, ms, status, why):
    made = group(ms=[100] * (20 - slow) + [ms] * slow)
    gate = one("ttft.p90 < 800ms", made, bound=ONLY_LONGER)
    assert gate.status == status, why
    assert ("instrument's error" in gate.reason) == (slow == 10 and status == "inconclusive")


SLOWED = Bound(over=late(50), under=late(50), kind="speed", gaps=100)


@pytest.mark.parametrize(
    ("speed", "status", "why"),
    [
        (19.5, "fail", "100 tokens in 5,128 ms: 50 ms less make 19.7/s"),
        (19.9, "inconclusive", "20.1/s at best"),
        (20.1, "inconclusive", "19.9/s at worst"),
        (20.5, "pass", "20.3/s at worst"),
    ],
)
def test_a_speed_is_off_by_the_time_its_tokens_took(speed, status, why):
    made = group(ms=[speed] * 600, metric="output_tok_s_user")
    assert one("output_tok_s_user.p50 > 20", made, bound=SLOWED).status == status, why


@pytest.mark.parametrize(
    ("achieved", "status", "why"),
    [
        (4.9, "inconclusive", "4.998 without our own 2 %, against 4.95"),
        (4.8, "fail", "4.896 without"),
        (5.0, "pass", "a perfect instrument sends no less"),
    ],
)
def test_a_rate_can_only_have_been_slowed_down(achieved, status, why):
    made = group(ok=10, throughput=Throughput(achieved_rps=achieved))
    slow = Bound(under=Spread((20.0,) * len(SHARES), 20.0), kind="share")
    assert one("achieved_rps >= 4.95", made, bound=slow).status == status, why


@pytest.mark.parametrize(
    ("good", "slow", "ms", "status", "why"),
    [
        (94, 6, 830, "inconclusive", "six missed 800 ms by less than the error"),
        (94, 6, 900, "fail", "six missed it by more"),
        (93, 1, 830, "fail", "one more good one is not enough: 6 failed"),
        (96, 4, 830, "pass", "a lag cannot have made a request good"),
    ],
)
def test_goodput_changes_with_the_requests_near_its_limits(good, slow, ms, status, why):
    made = group(
        ms=[100] * good + [ms] * slow, failed=100 - good - slow, goodput=Goodput(share=good / 100)
    )
    objectives = parse("ttft < 800ms, goodput >= 95%")
    found = gates.evaluate([made], objectives, Source(), bound=lambda *_: ONLY_LONGER)
    gate = next(gate for gate in found if not gate.default)
    assert gate.status == status, why


def test_goodput_may_be_spoiled_downwards_too():
    made = group(ms=[100] * 90 + [780] * 10, metric="tpot", goodput=Goodput(share=1.0))
    objectives = parse("tpot < 800ms, goodput >= 95%")
    found = gates.evaluate([made], objectives, Source(), bound=lambda *_: EITHER)
    gate = next(gate for gate in found if not gate.default)
    assert (gate.status, gate.truth) == ("inconclusive", (0.9, 1.0))


def test_the_reason_names_cause_and_remedy():
    bound = Bound(over=late(50), cause="arrival lag 50.0 ms at p99", remedy="2 more processes")
    gate = one("ttft.p99 < 800ms", group(ms=[830] * 600), bound=bound)
    assert gate.reason == (
        "the truth lies between 780.0 ms and 830.0 ms, given the instrument's error "
        "(arrival lag 50.0 ms at p99); 2 more processes"
    )
    assert gate.truth == pytest.approx((780, 830), abs=0.1)


STATS = ["p50", "p90", "p99", "max", "min", "mean"]


@given(
    st.lists(st.integers(1, 2000), min_size=1, max_size=700),
    st.integers(0, 5),
    st.sampled_from(STATS),
    st.lists(st.integers(0, 300), min_size=1, max_size=50),
    st.floats(1.0, 4.0),
    st.booleans(),
)
def test_a_wider_error_decides_nothing_more_and_nothing_else(
    ms, failed, stat, errors, factor, both_ways
):
    """Widening turns pass or fail into inconclusive, never into each other, and never back."""
    made = group(ms=ms, failed=failed)
    spread = Spread.of(Histogram(1000 * error for error in errors))
    under = spread if both_ways else Spread()
    narrow = Bound(over=spread, under=under)
    wide = Bound(over=spread.scaled(factor), under=under.scaled(factor))
    statuses = [
        one(f"ttft.{stat} < 700ms", made, bound=bound).status for bound in (Bound(), narrow, wide)
    ]
    for before, after in itertools.pairwise(statuses):
        assert after in (before, "inconclusive")
    if not both_ways and statuses[0] == "pass":
        assert statuses == ["pass"] * 3, "what only lengthens spoils no pass"


@given(
    st.lists(st.integers(1, 200), min_size=1, max_size=300),
    st.lists(st.integers(0, 300), min_size=1, max_size=50),
    st.floats(1.0, 4.0),
    st.integers(1, 100),
)
def test_a_wider_error_of_speeds_decides_nothing_more_either(speeds, errors, factor, gaps):
    made = group(ms=speeds, metric="output_tok_s_user")
    spread = Spread.of(Histogram(1000 * error for error in errors))
    narrow = Bound(over=spread, under=spread, kind="speed", gaps=gaps)
    more = spread.scaled(factor)
    wide = Bound(over=more, under=more, kind="speed", gaps=gaps)
    statuses = [
        one("output_tok_s_user.p90 > 50", made, bound=bound).status
        for bound in (Bound(), narrow, wide)
    ]
    for before, after in itertools.pairwise(statuses):
        assert after in (before, "inconclusive")


@given(
    st.lists(st.integers(1, 2000), min_size=1, max_size=100),
    st.lists(st.integers(0, 300), min_size=1, max_size=50),
    st.floats(1.0, 4.0),
)
def test_a_wider_error_of_goodput_decides_nothing_more_either(ms, errors, factor):
    good = sum(value < 800 for value in ms) / len(ms)
    made = group(ms=ms, goodput=Goodput(share=good))
    spread = Spread.of(Histogram(1000 * error for error in errors))
    statuses = []
    for bound in (Bound(), Bound(over=spread, under=spread),
                  Bound(over=spread.scaled(factor), under=spread.scaled(factor))):  # fmt: skip
        objectives = parse("ttft < 800ms, goodput >= 80%")
        found = gates.evaluate([made], objectives, Source(), bound=lambda *_, b=bound: b)
        statuses.append(next(gate for gate in found if not gate.default).status)
    for before, after in itertools.pairwise(statuses):
        assert after in (before, "inconclusive")
