"""The SLO grammar: what each line means, and what a typo gets."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadlib.errors import ExitCode
from loadlib.metrics import CATALOGUE, QUANTILES
from loadlib.slo import DEFAULT_ERROR_RATE, SCALARS, SloError, bounds, parse, undecidable

SCOPES = ("chat", "long", "gpt-4o", "gpt-4o/chat", "gpt-4o/long", "llama3:8b", "org/model")


@pytest.mark.parametrize(
    ("line", "expected", "why"),
    [
        ("chat: ttft.p99 < 800ms", ("chat", "ttft", "p99", "<", 800, "ms"), "the usual one"),
        ("ttft.p50 <= 2s", ("all", "ttft", "p50", "<=", 2000, "ms"), "no scope is all"),
        ("all: e2e.mean<1.5s", ("all", "e2e", "mean", "<", 1500, "ms"), "spaces are optional"),
        ("chat: icl.p99.9 < 50ms", ("chat", "icl", "p99_9", "<", 50, "ms"), "as everyone says it"),
        ("chat: icl.p99_9 < 500us", ("chat", "icl", "p99_9", "<", 0.5, "ms"), "as we write it"),
        ("chat: ttft < 800ms", ("chat", "ttft", None, "<", 800, "ms"), "of each request"),
        ("all: error_rate < 1%", ("all", "error_rate", None, "<", 0.01, "share"), "per cent"),
        ("all: error_rate < 0.01", ("all", "error_rate", None, "<", 0.01, "share"), "or a share"),
        ("chat: goodput >= 95 %", ("chat", "goodput", None, ">=", 0.95, "share"), "with a space"),
        ("chat: quality > 90%", ("chat", "quality", None, ">", 0.9, "share"), "of the answers"),
        ("all: throttled_rate <= 0%", ("all", "throttled_rate", None, "<=", 0, "share"), "none"),
        ("all: output_tok_s > 500", ("all", "output_tok_s", None, ">", 500, "tok/s"), "of a group"),
        ("all: output_tok_s.p50 > 20 tok/s", ("all", "output_tok_s", "p50", ">", 20, "tok/s"), ""),
        ("all: output_tok_s_user > 9", ("all", "output_tok_s_user", None, ">", 9, "tok/s"), ""),
        ("all: achieved_rps >= 4.9/s", ("all", "achieved_rps", None, ">=", 4.9, "rps"), ""),
        ("all: cost_usd < $2.50", ("all", "cost_usd", None, "<", 2.5, "usd"), "dollars"),
        ("all: cost_usd < 2.5usd", ("all", "cost_usd", None, "<", 2.5, "usd"), "in words"),
        (
            "llama3:8b: ttft.p50 < 1s",
            ("llama3:8b", "ttft", "p50", "<", 1000, "ms"),
            "the last ': '",
        ),
        (
            "org/model: ttft.p50 < 1s",
            ("org/model", "ttft", "p50", "<", 1000, "ms"),
            "slash in name",
        ),
        ("gpt-4o/long: ttft.p90 < 20s", ("gpt-4o/long", "ttft", "p90", "<", 20000, "ms"), "a pair"),
    ],
)
def test_one_expression(line, expected, why):
    (got,) = parse(line, SCOPES)
    assert (got.scope, got.metric, got.stat, got.op, got.limit, got.unit) == expected, why


def test_several_expressions_share_the_scope():
    got = parse("chat: ttft.p99 < 800ms,  error_rate<1%, goodput >= 95%", SCOPES)
    assert [o.text for o in got] == ["ttft.p99 < 800ms", "error_rate < 1%", "goodput >= 95%"]
    assert {o.scope for o in got} == {"chat"}


@pytest.mark.parametrize(
    ("line", "message", "why"),
    [
        ("chta: ttft.p99 < 1s", "unknown scope 'chta' (did you mean 'chat'?)", "scope"),
        ("chat: tttf.p99 < 1s", "unknown metric 'tttf' (did you mean 'ttst'?)", "metric"),
        ("chat:ttft.p99 < 1s", "a scope ends in ': '", "the space is forgotten"),
        ("chat: ttft.p98 < 1s", "known are p50, p90, p95, p99, p99_9, mean, min, max", "stat"),
        ("chat: ttft.p99 < 800", "write 800s or 800ms", "seconds or milliseconds?"),
        ("chat: ttft.p99 < -1s", "cannot be negative", "below zero"),
        ("chat: ttft.p99 < fast", "is not a duration", "not a number"),
        ("chat: ttft.p99 > 1s", "better lower", "passes when slow: a slip"),
        ("chat: goodput <= 95%", "better higher", "passes when bad: a slip"),
        ("chat: goodput >= 95", "at most 1", "per cent is meant"),
        ("chat: goodput >= 120%", "more than 100 %", "cannot be"),
        ("chat: error_rate.p99 < 1%", "has one value", "a share has no percentile"),
        ("chat: icl < 50ms", "icl needs a statistic", "many values in one request"),
        ("chat: ttft.p99 = 1s", "is not an expression", "no such operator"),
        ("chat: ttft.p99 < 1s < 2s", "is not an expression", "one comparison"),
        ("chat: ttft.p99", "is not an expression", "no limit"),
        ("chat: ", "no expression", "nothing"),
        ("", "no expression", "nothing at all"),
        ("chat: achieved_rps > many", "is not a number of rps", "words"),
        ("chat: cost_usd < 1eur", "is not a number of usd", "another currency"),
    ],
)
def test_mistakes(line, message, why):
    with pytest.raises(SloError) as caught:
        parse(line, SCOPES)
    assert message in str(caught.value), why
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code is ExitCode.USAGE


@pytest.mark.parametrize("name", sorted({*CATALOGUE, *SCALARS}))
def test_every_metric_can_be_gated(name):
    """A new row in the catalogue is a new word here, without a line of code."""
    unit, better = (
        SCALARS[name][:2] if name in SCALARS else (CATALOGUE[name].unit, CATALOGUE[name].better)
    )
    stat = "" if name in SCALARS else ".p90"
    limit = {"ms": "1s", "share": "50%"}.get(unit, "5")
    (got,) = parse(f"{name}{stat} {'<' if better == 'lower' else '>'} {limit}", ())
    assert (got.metric, got.unit) == (name, unit)


@given(
    metric=st.sampled_from(sorted(CATALOGUE)),
    stat=st.sampled_from(sorted(QUANTILES)),
    limit=st.integers(1, 10**6),
)
def test_text_reads_back_to_the_same(metric, stat, limit):
    lower = CATALOGUE[metric].better == "lower"
    unit = "ms" if CATALOGUE[metric].unit == "ms" else "tok/s"
    (first,) = parse(f"{metric}.{stat}{'<' if lower else '>='}{limit}{unit}", ())
    assert parse(first.text, ()) == (first,)
    assert first.meets(limit) is not lower
    assert first.meets(limit - 1 if lower else limit + 1)


@given(st.text(max_size=60))
def test_any_text_is_an_objective_or_an_slo_error(text):
    with suppress(SloError):
        assert parse(text, SCOPES)


def test_scopes_cover_groups():
    every, model, workload, pair = (
        parse(f"{scope}ttft < 1s", SCOPES)[0]
        for scope in ("", "gpt-4o: ", "chat: ", "gpt-4o/chat: ")
    )
    groups = [("gpt-4o", "chat"), ("gpt-4o", "long"), ("other", "chat"), ("other", "long")]
    covered = [[o.covers(*g) for g in groups] for o in (every, model, workload, pair)]
    assert covered == [
        [True, True, True, True],
        [True, True, False, False],
        [True, False, True, False],
        [True, False, False, False],
    ]


def lines(*texts):
    return [objective for text in texts for objective in parse(text, SCOPES)]


@pytest.mark.parametrize(
    ("texts", "expected", "why"),
    [
        (["chat: ttft < 1s, tpot < 50ms"], ["ttft < 1s", "tpot < 50ms"], "objectives as they are"),
        (["chat: ttft < 1s, e2e.p99 < 9s"], ["ttft < 1s"], "objectives leave gates aside"),
        (["chat: ttft.p99 < 1s, ttft.p50 < 1s"], ["ttft < 1s"], "one limit once"),
        (["chat: ttft.p50 < 1s, ttft.p99 < 2s"], ["ttft < 2s"], "half may lie over a p50's limit"),
        (["all: ttft.p99 < 1s", "long: e2e.p50 < 9s"], ["ttft < 1s"], "only what is in scope"),
        (["chat: icl.p99 < 50ms, error_rate < 1%"], [], "a gap or a share is not of a request"),
        ([], [], "nothing said"),
    ],
)
def test_what_makes_a_request_good(texts, expected, why):
    got = bounds(lines(*texts), "gpt-4o", "chat")
    assert [bound.text for bound in got] == expected, why
    assert all(bound.per_request for bound in got)


def test_goodput_that_nobody_can_judge_is_named():
    groups = [("gpt-4o", "chat"), ("gpt-4o", "long")]
    assert not undecidable(lines("all: goodput > 90%", "all: ttft.p90 < 1s"), groups)
    assert not undecidable(lines("chat: goodput > 90%, ttft < 1s"), groups)
    ((gate, reason),) = undecidable(lines("all: goodput > 90%", "chat: ttft < 1s"), groups)
    assert gate.metric == "goodput"
    assert reason.startswith("goodput of gpt-4o/long cannot be judged")


def test_the_default_is_what_it_says():
    assert parse(f"all: {DEFAULT_ERROR_RATE.text}", ()) == (DEFAULT_ERROR_RATE,)
