"""Runs to render, from nothing but arithmetic: the same on every machine, no load involved.

`python tests/report_fixtures.py NAME FILE.html` renders one (the golden test does this in a
process of its own); `python tests/report_fixtures.py --list` names them.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from server_fixtures import with_servers

from loadlib.health import Readings, judge
from loadlib.metrics import CATALOGUE, QUANTILES
from loadlib.recorder import SECOND_FIELDS, spread_tokens
from loadlib.sample import Outcome, Sample
from loadlib.series import rows as series_rows
from loadlib.server_record import Scrape
from loadlib.server_targets import Target
from loadlib.summary import (
    Bracket,
    Cost,
    Failure,
    Gate,
    Goodput,
    Group,
    Health,
    HealthCheck,
    LengthBucket,
    Pace,
    Quality,
    RateLimits,
    Requests,
    SeenLimit,
    Stats,
    Summary,
    Throughput,
    Tokens,
    Verdict,
)

START = 1_767_225_600  # 2026-01-01T00:00:00Z


class FakeHistogram:
    """What the charts need of `histogram.Histogram`: exact values instead of buckets."""

    def __init__(self, recorded: np.ndarray) -> None:
        self.values, self.number = np.unique(recorded.astype(np.int64), return_counts=True)

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        return self.values, self.number


@dataclass
class FakeRun:
    """A run held in memory."""

    summary: Summary
    recorded: dict[tuple[str, str, str, str], np.ndarray] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    attempts: list[Sample] = field(default_factory=list)
    manifest: dict[str, Any] = field(default_factory=dict)
    scrapes: list[Scrape] = field(default_factory=list)

    def server(self) -> list[Scrape]:
        return self.scrapes

    def histogram(self, model: str, workload: str, phase: str, metric: str) -> FakeHistogram:
        return FakeHistogram(self.recorded[model, workload, phase, metric])

    def seconds(self) -> Iterator[dict[str, Any]]:
        yield from self.rows

    def brief(self) -> Iterator[Sample]:  # a Brief and more
        yield from self.attempts


def spread(median: float, sigma: float, n: int, twist: int = 0) -> np.ndarray:
    """`n` log-normal values in a shuffled but fixed order."""
    normal = NormalDist()
    z = np.array([normal.inv_cdf((k + 0.5) / n) for k in range(n)])
    return median * np.exp(sigma * z)[(np.arange(n) * 7919 + twist) % n if n > 1 else [0]]


def stats_of(values: np.ndarray, unit: str) -> Stats:
    if not len(values):
        return Stats(unit=unit, n=0)
    ordered, n = np.sort(values), len(values)
    at = {k: float(ordered[max(1, math.ceil(p * n - 1e-9)) - 1]) for k, p in QUANTILES.items()}
    half = {k: 1.96 * math.sqrt(n * p * (1 - p)) for k, p in QUANTILES.items()}
    ci95 = {}
    for name, p in QUANTILES.items():
        low, high = math.floor(p * n - half[name]), math.ceil(p * n + half[name])
        if low >= 0 and high < n:
            ci95[name] = (float(ordered[low]), float(ordered[high]))
    return Stats(unit=unit, n=n, min=float(ordered[0]), mean=float(ordered.mean()),
                 max=float(ordered[-1]), ci95=ci95, **at)  # fmt: skip


@dataclass
class Speed:
    """How fast a pretend model is: first-token floor, prefill, decode, price per 1M in/out."""

    floor_ms: float
    prefill_tok_s: float
    tok_s: float
    price: tuple[float, float] | None
    window: int | None


SPEEDS = {
    "gpt-4o-mini": Speed(140, 48_000, 92, (0.15, 0.60), 128_000),
    "gpt-4o": Speed(230, 30_000, 74, (2.50, 10.00), 128_000),
    "gpt-3.5-turbo": Speed(165, 36_000, 85, (0.50, 1.50), 16_385),
    "gpt-4": Speed(480, 9_000, 27, (30.00, 60.00), 8_192),
    "gemini-1.5-flash": Speed(190, 52_000, 118, (0.075, 0.30), 1_000_000),
    "claude-3-haiku": Speed(260, 34_000, 104, (0.25, 1.25), 200_000),
}
LENGTHS = (1000, 4000, 8000, 16_000, 32_000, 64_000, 128_000)


def build(
    name: str = "chat-and-128k",
    *,
    models: Mapping[str, Speed] = SPEEDS,
    workloads: tuple[str, ...] = ("chat", "long"),
    phases: tuple[tuple[str, float], ...] = (("measure", 4.0),),
    seconds: int = 150,
    fail_share: float = 0.004,
    closed: bool = False,
    lag_ms: float = 1.6,
    **summary: Any,
) -> FakeRun:
    """A run of all `models` × `workloads`, each phase a rate per model."""
    run = FakeRun(Summary(verdict=Verdict(status="pass"), health=HEALTHY))
    groups = []
    for p, (phase, rate) in enumerate(phases):
        begin = START + 10 + p * (seconds + 5)
        for m, (model, speed) in enumerate(models.items()):
            for w, workload in enumerate(workloads):
                part = rate * (1.0 if len(workloads) == 1 else 0.9 if w == 0 else 0.1 / max(1, len(workloads) - 1))  # fmt: skip # noqa: E501
                n = max(1, round(part * seconds))
                groups.append(_group(run, model, speed, workload, phase, rate, n, begin, seconds,
                                     (m * 131 + w * 17 + p * 7), fail_share, closed, lag_ms))  # fmt: skip # noqa: E501
    if "warm" not in summary:
        _warm_rows(run, models, workloads)
    summary.pop("warm", None)
    filled: dict[str, Any] = {
        "name": name, "groups": tuple(groups), "started_at": "2026-01-01T00:00:00Z",
        "duration_s": float(10 + len(phases) * (seconds + 5)), "health": HEALTHY,
        "environment": ENVIRONMENT, "scenario": SCENARIO, "models": _models(models),
        "verdict": Verdict(status="pass"),
    } | summary  # fmt: skip
    run.summary = Summary(**filled)
    run.manifest = {
        "argv": ["loadlib", "run", "scenarios/chat-and-128k.yaml"], "state": "complete",
        "files": {"summary.json": "9f" * 32, "requests.jsonl.gz": "4b" * 32},
    }  # fmt: skip
    return run


def _group(
    run: FakeRun, model: str, speed: Speed, workload: str, phase: str, rate: float, n: int,
    begin: int, seconds: int, twist: int, fail_share: float, closed: bool, lag_ms: float,
) -> Group:  # fmt: skip
    long = workload.startswith("long")
    lengths = [x for x in LENGTHS if speed.window is None or x < speed.window] if long else [420]
    lengths = [128_000] if workload == "long-128k" else lengths
    failed = n if fail_share >= 1 else round(n * fail_share)
    ok = n - failed
    tokens = np.array([lengths[i % len(lengths)] for i in range(ok)], dtype=float)
    queue = 1 + (rate / 12) ** 2
    sent = (
        spread(speed.floor_ms, 0.28, ok, twist) * queue + tokens / speed.prefill_tok_s * 1000
        if ok else np.empty(0)
    )  # fmt: skip
    lag = np.zeros(ok) if closed or not ok else spread(lag_ms, 0.9, ok, twist + 3)
    ttft = sent + lag
    speeds = spread(speed.tok_s / queue**0.3, 0.12, ok, twist + 5) if ok else np.empty(0)
    out = 64 if long else 128
    e2e = ttft + (out - 1) / speeds * 1000 if ok else np.empty(0)
    icl = spread(1000 / speed.tok_s, 0.4, ok * 4, twist) if ok else np.empty(0)
    gaps = icl.reshape(ok, 4) if ok else np.empty((0, 4))
    stall = gaps.max(axis=1, initial=0) * np.where(np.arange(ok) % 97 == 13, 30, 1)
    read = {
        "stall": stall, "ttfb": ttft - 1, "ttft": ttft, "ttfo": ttft, "icl": icl, "e2e": e2e,
        "tpot": 1000 / speeds if ok else np.empty(0), "sent_ttfb": sent - 1, "sent_ttft": sent,
        "sent_e2e": e2e - lag, "arrival_lag": lag, "output_tok_s_user": speeds,
    }  # fmt: skip
    metrics = {}
    for metric, values in read.items():
        run.recorded[model, workload, phase, metric] = np.round(values * 1000)
        metrics[metric] = stats_of(values, CATALOGUE[metric].unit)
    _rows_of(run, model, workload, phase, begin, seconds, twist, tokens, ttft, lag, e2e, speeds,
             stall, out, failed)  # fmt: skip
    good = int((ttft < (20_000 if long else 800)).sum())
    price = speed.price
    cost = None if price is None else float(tokens.sum() * price[0] + ok * out * price[1]) / 1e6
    checked = ok
    passed = round(checked * (0.97 if long else 1 - rate / 200))
    return Group(
        model=model, workload=workload, phase=phase, load="closed, 10 users" if closed else
        f"poisson {rate:g}/s", rate_rps=None if closed else rate, closed_loop=closed,
        duration_s=float(seconds), connections=min(12, n),
        requests=Requests(scheduled=n, sent=n, ok=ok, failed=failed, throttled=failed // 2),
        outcomes={k: v for k, v in {"ok": ok, "throttled": failed // 2,
                  "timeout": failed - failed // 2}.items() if v},
        failures={k: v for k, v in {
            "throttled/rpm": Failure(n=failed // 2),
            "timeout/first_token": Failure(n=failed - failed // 2 - failed // 5),
            "timeout/idle": Failure(n=failed // 5, after_first_token=failed // 5,
                                    output_tokens=17 * (failed // 5), cost_usd=0.002),
        }.items() if v.n},
        causes={k: v for k, v in {"throttled/rpm": failed // 2,
                "timeout/first_token": failed - failed // 2}.items() if v},
        errors={"429 rate limit reached for requests per minute": failed // 2,
                "no first token within 60 s": failed - failed // 2} if failed else {},
        metrics=metrics,
        tokens=Tokens(input=int(tokens.sum()), output=ok * out, cached=0, reasoning=0,
                      source="server") if ok else Tokens(),
        throughput=Throughput(offered_rps=n / seconds, achieved_rps=n / seconds,
                              output_tok_s=ok * out / seconds, input_tok_s=tokens.sum() / seconds),
        goodput=Goodput(share=good / n, rps=good / seconds,
                        objectives=("ttft < 20s",) if long else ("ttft < 800ms",)),
        cost_usd=Cost(total=cost, per_1k_requests=cost / ok * 1000 if cost and ok else None,
                      per_1k_good_requests=cost / good * 1000 if cost and good else None),
        quality=_quality(checked, passed, long=long),
        prompt_lengths=_buckets(tokens, ttft, failed),
        asked_tokens=int(tokens.sum()) if long else None, delivered_tokens=int(tokens.sum()) if long
        else None,
    )  # fmt: skip


def _quality(checked: int, passed: int, *, long: bool) -> Quality:
    if not checked:
        return Quality()
    share = passed / checked
    half = 1.96 * math.sqrt(share * (1 - share) / checked)
    interval = (max(0.0, share - half), min(1.0, share + half))
    if not long:
        empty = checked - passed
        return Quality(checked=checked, passed=passed, share=share, ci95=interval,
                       flaws={"empty": empty} if empty else {})  # fmt: skip
    wrong = checked - passed
    return Quality(checked=checked, passed=passed, share=share, ci95=interval,
                   score=0.985, flaws={"truncated": wrong // 2, "wrong": wrong - wrong // 2},
                   variants=_needles(checked, wrong))  # fmt: skip


def _needles(checked: int, wrong: int) -> dict[str, Quality]:
    """By length and depth, as long_context names its prompts; what is wrong is so in the middle."""
    names = [f"{length} depth {depth} %" for length in ("8k", "32k", "128k") for depth in
             (0, 25, 50, 75, 100)]  # fmt: skip
    found = {}
    for i, name in enumerate(names):
        n = checked // len(names) + (i < checked % len(names))
        bad = min(n, wrong) if name == "32k depth 50 %" else 0
        if n:
            share = 1 - bad / n
            found[name] = Quality(checked=n, passed=n - bad, share=share, score=share,
                                  ci95=(max(0.0, share - 0.2), 1.0),
                                  flaws={"wrong": bad} if bad else {})  # fmt: skip
    return found


def _buckets(tokens: np.ndarray, ttft: np.ndarray, failed: int) -> tuple[LengthBucket, ...]:
    found = []
    for low in (2**e for e in range(6, 19)):
        inside = (tokens >= low) & (tokens < 2 * low)
        if not inside.any():
            continue
        stats = stats_of(ttft[inside], "ms")
        found.append(LengthBucket(low=low, high=2 * low, n=int(inside.sum()),
                                  failed=failed if low >= 65_536 else 0, ttft_p50=stats.p50,
                                  tokens_p50=int(np.median(tokens[inside])), ttft_p90=stats.p90,
                                  ttft_p99=stats.p99))  # fmt: skip
    return tuple(found)


def _rows_of(
    run: FakeRun, model: str, workload: str, phase: str, begin: int, seconds: int, twist: int,
    tokens: np.ndarray, ttft: np.ndarray, lag: np.ndarray, e2e: np.ndarray, speeds: np.ndarray,
    stall: np.ndarray, out: int, failed: int,
) -> None:  # fmt: skip
    """The attempts of a group, ok and failed ones mixed, and the counters of their seconds."""
    dice = random.Random(twist)  # its numbers are the same in every version of Python
    ok, at = len(ttft), []
    for i in range(ok + failed):
        start = (begin * 10**9) + int(dice.random() * seconds * 1e9)
        same = {"index": i, "phase": phase, "model": model, "workload": workload,
                "intended_ns": start}  # fmt: skip
        if i >= ok:
            throttled = i - ok < failed // 2
            at.append(Sample(
                **same, outcome=Outcome.THROTTLED if throttled else Outcome.TIMEOUT,
                cause="rpm" if throttled else "first_token", sent_ns=start + 1_000_000,
                end_ns=start + (30_000_000 if throttled else 60_000_000_000),
                asked_tokens=int(tokens[-1]) if ok else 420,
            ))  # fmt: skip
            continue
        first = start + int(ttft[i] * 1e6)
        at.append(Sample(
            **same, outcome=Outcome.OK, sent_ns=start + int(lag[i] * 1e6), first_byte_ns=first,
            first_token_ns=first, last_token_ns=first + int((out - 1) / speeds[i] * 1e9),
            end_ns=start + int(e2e[i] * 1e6), input_tokens=int(tokens[i]), output_tokens=out,
            events=out, longest_gap_ns=int(stall[i] * 1e6),
        ))  # fmt: skip
    run.attempts += sorted(at, key=lambda sample: sample.end_ns)
    counted: dict[int, list[int]] = {}
    for sample in at:
        _count(counted, sample)
    run.rows += series_rows({(second, (model, workload, phase)): row
                             for second, row in counted.items()})  # fmt: skip


def _count(counted: dict[int, list[int]], sample: Sample) -> None:
    """As the recorder does."""

    def second(instant_ns: int) -> list[int]:
        return counted.setdefault(instant_ns // 10**9, [0] * len(SECOND_FIELDS))

    second(sample.intended_ns)[0] += 1
    second(sample.sent_ns or 0)[1] += 1
    end = second(sample.end_ns)
    end[2] += 1
    end[3] += sample.outcome is Outcome.OK
    end[4] += sample.outcome is not Outcome.OK
    if sample.outcome is Outcome.OK:
        events = np.linspace(sample.first_token_ns, sample.last_token_ns, sample.events)
        for at, tokens in spread_tokens(sample, events.astype(np.int64)):
            second(at * 10**9)[5] += tokens
        second(sample.first_token_ns)[6] += sample.input_tokens


def _warm_rows(run: FakeRun, models: Mapping[str, Speed], workloads: tuple[str, ...]) -> None:
    for second in range(10):
        for model, speed in models.items():
            run.rows.append({
                "second": START + second, "phase": "warmup", "model": model,
                "workload": workloads[0], "scheduled": 1, "sent": 1, "ended": 1, "ok": 1,
                "failed": 0, "in_flight": 4, "output_tokens": int(speed.tok_s * 2 * second / 9),
                "input_tokens": 0,
            })  # fmt: skip


def _models(models: Mapping[str, Speed]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "name": name, "wire": name, "provider": "openai", "host": "127.0.0.1:8400",
            "context_window": speed.window,
            "price": None if speed.price is None else {
                "input_usd_per_mtok": speed.price[0], "output_usd_per_mtok": speed.price[1],
                "source": "genai-prices 0.2.3"},
        }
        for name, speed in models.items()
    }  # fmt: skip


HEALTHY = judge(
    Readings(
        arrival_lag_p99_ms=1.62, reader_lag_p99_ms=0.41, merged_share=0.021, user_clock_share=0.0,
        hub_lag_p99_ms=2.2, cpu_share_max=0.61, cpu_share_p90=0.52, cpu_wait_share_p90=0.012,
        gc_pause_max_ms=0.8, clock_steps=0, delivered_share=0.998, ceiling_share=0.081,
    )
)  # fmt: skip

ENVIRONMENT = {
    "loadlib": "0.1.0", "locust": "2.47.0", "openai": "3.54.0", "python": "3.12.4",
    "platform": "Linux-6.8 x86_64", "cpus": 8, "processes": 1, "clock": "user",
    "client": "tape", "git": {"commit": "9d0c1f2", "branch": "main", "dirty": False},
}  # fmt: skip

SCENARIO = {
    "version": 1, "name": "chat-and-128k", "target": "simulator", "models": list(SPEEDS),
    "workloads": {
        "chat": {"kind": "chat", "output_tokens": 128, "weight": 90},
        "long": {"kind": "long_context", "prompt_tokens": [8000, 32000, 64000, 128000],
                 "output_tokens": 64, "weight": 10},
    },
    "load": [
        {"phase": "warmup", "duration": "10s", "arrival": "closed", "users": 10},
        {"phase": "measure", "duration": "150s", "arrival": "poisson", "rate": "4/s",
         "max_in_flight": 200},
    ],
    "slo": ["chat: ttft.p99 < 800ms, error_rate < 1%, goodput >= 95%", "long: ttft.p90 < 20s"],
    "seed": 42,
}  # fmt: skip


def gate(group: Group, expression: str, observed: float | None, limit: float, unit: str,
         status: str, **more: Any) -> Gate:  # fmt: skip
    return Gate(scope=f"{group.model}/{group.workload}", model=group.model,
                workload=group.workload, phase=group.phase, expression=expression,
                observed=observed, limit=limit, unit=unit, status=status,
                **{"n": group.requests.ok, **more})  # fmt: skip


def gates_for(groups: tuple[Group, ...]) -> tuple[Gate, ...]:
    """The scenario's gates, decided in the simplest way: enough for a page."""
    found = []
    for group in groups:
        ttft, errors = group.metrics["ttft"], group.requests.error_rate
        if group.workload == "long":
            limit, stat, text, value = 20_000.0, "p90", "ttft.p90 < 20s", ttft.p90
            status = "inconclusive" if ttft.n < 50 else "pass"
            reason = f"n {ttft.n} < 50 for p90" if ttft.n < 50 else ""
            found.append(gate(group, text, value, limit, "ms", status, reason=reason,
                              ci95=ttft.ci95.get(stat)))  # fmt: skip
            continue
        status = "pass" if ttft.p99 is not None and ttft.p99 < 800 else "fail"
        found.append(gate(group, "ttft.p99 < 800ms", ttft.p99, 800.0, "ms", status,
                          ci95=ttft.ci95.get("p99")))  # fmt: skip
        found.append(gate(group, "error_rate < 1%", errors, 0.01, "share",
                          "pass" if (errors or 0) < 0.01 else "fail",
                          n=group.requests.sent))  # fmt: skip
        found.append(gate(group, "goodput >= 95%", group.goodput.share, 0.95, "share",
                          "pass" if (group.goodput.share or 0) >= 0.95 else "fail",
                          n=group.requests.scheduled))  # fmt: skip
    return tuple(found)


def judged(run: FakeRun, status: str = "", reasons: tuple[str, ...] = (), **more: Any) -> FakeRun:
    """The run with gates and a verdict made of them."""
    import msgspec

    gates = gates_for(run.summary.groups)
    worst = {g.status for g in gates}
    if not status:
        status = (
            "fail" if "fail" in worst else "inconclusive" if "inconclusive" in worst else "pass"
        )
        reasons = tuple(
            f"{g.model} · {g.workload}: {g.expression} observed {g.observed:,.0f} ms" if g.unit ==
            "ms" and g.observed is not None else f"{g.model} · {g.workload}: {g.expression}"
            for g in gates if g.status == status != "pass"
        )  # fmt: skip
    code = {"pass": 0, "fail": 5, "inconclusive": 7, "interrupted": 130, "aborted": 4,
            "error": 1, "regressed": 6}[status]  # fmt: skip
    run.summary = msgspec.structs.replace(
        run.summary, gates=gates, verdict=Verdict(status=status, reasons=reasons, exit_code=code),
        **more)  # fmt: skip
    return run


LIMITS = {
    "gpt-4o-mini": RateLimits(
        requests=Pace(most=242, limit=500, source="scenario"),
        tokens=Pace(most=1_243_118, reserved=2_117_480, limit=2_000_000, source="scenario"),
        headers={
            "requests": SeenLimit(limit=500, remaining=371, remaining_min=258, reset_ms_max=29_040),
            "tokens": SeenLimit(limit=2_000_000, remaining=61_210, remaining_min=0),
        },
        throttled=17, retry_after_ms=8_640),
    "gpt-4": RateLimits(
        requests=Pace(most=239, limit=10_000, source="headers"),
        tokens=Pace(most=141_000, reserved=152_000)),
    "claude-3-haiku": RateLimits(
        requests=Pace(most=240), tokens=Pace(),
        headers={"input_tokens": SeenLimit(limit=400_000, remaining=12_000, remaining_min=2_000)}),
}  # fmt: skip


def full() -> FakeRun:
    """Six models, two workloads: the page as it is meant to be seen."""
    return judged(build(
        skipped=("long 16k … 128k skipped for gpt-3.5-turbo: window 16,385",
                 "long 8k … 128k skipped for gpt-4: window 8,192"),
        notices=("default gate added: all: error_rate < 5%",), rate_limits=LIMITS))  # fmt: skip


def passing() -> FakeRun:
    """Two fast models, everything in order."""
    two = {k: SPEEDS[k] for k in ("gpt-4o-mini", "gemini-1.5-flash")}
    return judged(build("smoke", models=two, workloads=("chat",)))


def small() -> FakeRun:
    """One model, few requests: the golden page."""
    one = {"gpt-4o-mini": SPEEDS["gpt-4o-mini"]}
    return judged(build("small", models=one, seconds=60))


def steps() -> FakeRun:
    """A ladder of four rates for three models."""
    three = {k: SPEEDS[k] for k in ("gpt-4o-mini", "gpt-4o", "gpt-4")}
    rates = (("2/s", 2.0), ("6/s", 6.0), ("12/s", 12.0), ("20/s", 20.0))
    run = build("ladder", models=three, phases=rates, seconds=60)
    return judged(run, brackets=(
        Bracket(model="gpt-4o-mini", last_pass_rps=12, first_fail_rps=20),
        Bracket(model="gpt-4o", last_pass_rps=6, first_fail_rps=12,
                limited_by="chat: ttft.p99 < 800ms"),
        Bracket(model="gpt-4", last_pass_rps=None, first_fail_rps=2,
                limited_by="chat: ttft.p99 < 800ms")))  # fmt: skip


def nothing() -> FakeRun:
    """A run in which no request was ever made."""
    return FakeRun(Summary(
        name="nothing", verdict=Verdict(status="inconclusive", exit_code=7, reasons=(
            "no request was sent",)), health=Health(status="bad", checks=(HealthCheck(
                name="achieved_share", value=None, limit=0.95, status="bad"),))))  # fmt: skip


def single() -> FakeRun:
    """One request."""
    one = {"gpt-4": SPEEDS["gpt-4"]}
    return judged(build("one", models=one, workloads=("chat",), phases=(("measure", 0.1),),
                        seconds=10, fail_share=0))  # fmt: skip


def all_failed() -> FakeRun:
    """Every request failed."""
    two = {k: SPEEDS[k] for k in ("gpt-4o", "gpt-4")}
    return judged(build("all-failed", models=two, fail_share=1.0))


def many() -> FakeRun:
    """Twelve models × two workloads: 24 groups."""
    speeds = list(SPEEDS.values())
    models = {f"org/served-model-{i:02d}": speeds[i % 6] for i in range(12)}
    return judged(build("many", models=models, seconds=60))


def crowd() -> FakeRun:
    """Forty groups, more than a page shows: the last sixteen are the least busy."""
    import msgspec

    speeds = list(SPEEDS.values())
    models = {f"model-{i:02d}": speeds[i % 6] for i in range(40)}
    run = judged(build("crowd", models=models, workloads=("chat",), seconds=10))
    groups = tuple(
        msgspec.structs.replace(
            g, requests=msgspec.structs.replace(g.requests, scheduled=100 - i, dropped=60 - i)
        )
        for i, g in enumerate(run.summary.groups)
    )
    run.summary = msgspec.structs.replace(run.summary, groups=groups)
    return run


def only_128k() -> FakeRun:
    """Prompts of 128k tokens and nothing else."""
    two = {k: SPEEDS[k] for k in ("gpt-4o", "gemini-1.5-flash")}
    return judged(build("only-128k", models=two, workloads=("long-128k",), seconds=60))


def interrupted() -> FakeRun:
    """Stopped by Ctrl-C, closed loop, an unpriced endpoint of one's own."""
    own = {"local": Speed(90, 3000, 41, None, 8192)}
    run = build("local-smoke", models=own, workloads=("chat",), closed=True, seconds=20,
                state="interrupted", notices=("stopped by SIGINT after 20 s of 60 s",))  # fmt: skip
    return judged(run, "interrupted", ("stopped by SIGINT",))


def hostile() -> FakeRun:
    """Strings that want to break the page."""
    import msgspec

    evil = "</script><img src=x onerror=alert(1)>\u202eevil"
    run = judged(build(evil, models={evil: SPEEDS["gpt-4"], "שלום/مدل": SPEEDS["gpt-4o"]},
                       seconds=20))  # fmt: skip
    groups = list(run.summary.groups)
    groups[0] = msgspec.structs.replace(
        groups[0], errors={"x" * 1_000_000: 1, "bell \x07 and Bearer abcdefgh12345678": 2,
                           "a|b `code` <b>": 3})  # fmt: skip
    run.summary = msgspec.structs.replace(run.summary, groups=tuple(groups), notices=(evil,))
    target = Target(name=evil, url="http://127.0.0.1:8400/metrics", models=(evil,))
    return with_servers(run, (target,), evil)


def replicas() -> FakeRun:
    """Two servers behind one model, under a ladder of loads; one of them is gone for a while."""
    own = {"local": Speed(90, 3000, 41, None, 8192)}
    run = judged(build("replicas", models=own, workloads=("chat",), seconds=60,
                       phases=(("low", 4.0), ("high", 12.0))))  # fmt: skip
    targets = tuple(
        Target(name=f"gpu-{i}", url=f"http://127.0.0.1:840{i}/metrics", models=("local",))
        for i in (0, 1)
    )
    return with_servers(run, targets, "vLLM", range(40, 52))


FIXTURES = {
    make.__name__: make
    for make in (full, passing, small, steps, nothing, single, all_failed, many, crowd, only_128k,
                 interrupted, hostile, replicas)
}  # fmt: skip


if __name__ == "__main__":
    from loadlib.report.html import render

    if sys.argv[1:] == ["--list"]:
        sys.stdout.write("\n".join(FIXTURES) + "\n")
    else:
        Path(sys.argv[2]).write_text(render(FIXTURES[sys.argv[1]]()), encoding="utf-8")
