"""The shape of `summary.json`: every judgement and every page is made from this.

Additive within a major `schema_version`. `None` is unknown. Latencies in ms, rates in tok/s or
requests/s, shares in 0…1, money in US dollars.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

SCHEMA_VERSION = "1.0"

VerdictStatus = Literal[
    "pass", "fail", "regressed", "inconclusive", "interrupted", "aborted", "error"
]
GateStatus = Literal["pass", "fail", "inconclusive"]
CheckStatus = Literal["ok", "warn", "bad"]
Direction = Literal["", "longer", "shorter", "either"]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """One word for the run, why, and the exit code that says it."""

    status: VerdictStatus
    reasons: tuple[str, ...] = ()
    exit_code: int = 0


class Requests(msgspec.Struct, frozen=True, kw_only=True):
    """scheduled = sent + dropped; sent = ok + failed + cancelled + lost; throttled ⊂ failed.

    A request that was tried again counts once, by its last attempt; attempts are counted apart.
    """

    scheduled: int = 0
    sent: int = 0
    ok: int = 0
    failed: int = 0
    throttled: int = 0
    cancelled: int = 0
    dropped: int = 0
    lost: int = 0
    attempts: int = 0  # that were made, first ones included …
    throttled_attempts: int = 0  # … and of those, throttled

    @property
    def error_rate(self) -> float | None:
        """(failed + lost) / sent."""
        return (self.failed + self.lost) / self.sent if self.sent else None


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """Distribution of one metric; `ci95` holds a [low, high] per percentile where n allows."""

    unit: str
    n: int
    min: float | None = None
    mean: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    p99_9: float | None = None
    max: float | None = None
    ci95: dict[str, tuple[float, float]] = {}


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over the group, failed answers as far as they came; `source` is server, local, estimate
    or mixed. `mean_answer`: output of an answer that ended ok; None where any was not counted.
    """

    input: int | None = None
    output: int | None = None
    cached: int | None = None
    reasoning: int | None = None
    source: str | None = None
    mean_answer: float | None = None


class Throughput(msgspec.Struct, frozen=True, kw_only=True):
    """Rates over the phase's own wall time."""

    offered_rps: float | None = None
    achieved_rps: float | None = None
    output_tok_s: float | None = None
    input_tok_s: float | None = None


class Goodput(msgspec.Struct, frozen=True, kw_only=True):
    """Share and rate of arrivals that met every per-request objective."""

    share: float | None = None
    rps: float | None = None
    objectives: tuple[str, ...] = ()


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """US dollars at list price; None where the model has no known price.

    Requests of unknown cost are not free: per thousand is of those whose cost is known, and per
    thousand good ones, which bears what the others cost too, is None where any is unknown.
    """

    total: float | None = None
    per_1k_requests: float | None = None
    per_1k_good_requests: float | None = None
    unknown: int = 0  # attempts that may have cost something, nobody knows what: not in the total


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """Answers the workload's check looked at; `ci95` is a Wilson interval of the share.

    `flaws` counts why the others did not pass, `score` is the mean share of the parts that were
    right, and `variants` tells it all apart by the sort of prompt.
    """

    checked: int = 0
    passed: int = 0
    share: float | None = None
    ci95: tuple[float, float] | None = None
    score: float | None = None
    flaws: dict[str, int] = {}
    variants: dict[str, Quality] = {}


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that failed for one cause, and what of their answers had come by then.

    Tokens and cost are of those that are known; None where none is.
    """

    n: int
    after_first_token: int = 0
    output_tokens: int | None = None
    cost_usd: float | None = None


class LengthBucket(msgspec.Struct, frozen=True, kw_only=True):
    """TTFT of the requests whose prompt had between `low` and `high` (exclusive) tokens."""

    low: int
    high: int
    n: int
    failed: int
    tokens_p50: int | None = None
    ttft_p50: float | None = None
    ttft_p90: float | None = None
    ttft_p99: float | None = None
    quality: float | None = None


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Everything known of one (model, workload, phase)."""

    model: str
    workload: str
    phase: str
    requests: Requests
    outcomes: dict[str, int]
    metrics: dict[str, Stats]
    tokens: Tokens
    throughput: Throughput
    goodput: Goodput
    cost_usd: Cost
    quality: Quality
    kind: Literal["warmup", "measure"] = "measure"
    load: str = ""  # "poisson 5/s", "closed, 10 users"
    rate_rps: float | None = None  # the configured rate of this group's model, open loops only
    varying: bool = False  # the rate changed within the phase, by plan: rate_rps is its mean
    closed_loop: bool = False
    duration_s: float | None = None
    connections: int | None = None  # opened; the rest of the requests reused one
    events: int | None = None  # content events of the streams
    coalesced: int | None = None  # … that shared a network read, and its instant, with an earlier
    causes: dict[str, int] = {}  # "timeout/first_token": 3
    failures: dict[str, Failure] = {}  # by the same words; without a cause by the outcome
    errors: dict[str, int] = {}  # example texts (redacted), the most frequent 20
    prompt_lengths: tuple[LengthBucket, ...] = ()
    asked_tokens: int | None = None  # sums over requests that asked for a length
    cut_tokens: int | None = None
    delivered_tokens: int | None = None


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """One SLO expression applied to one group."""

    scope: str
    model: str
    workload: str
    phase: str
    expression: str
    observed: float | None
    limit: float
    unit: str
    n: int
    status: GateStatus
    default: bool = False  # applied because the scenario has no error_rate gate
    reason: str = ""
    ci95: tuple[float, float] | None = None
    # between which values the truth lies, were `observed` free of the instrument's error; an open
    # end is None, and so is the whole where no error is known
    truth: tuple[float | None, float | None] | None = None


class HealthCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One thing the instrument knows about its own error."""

    name: str
    value: float | None
    limit: float | None
    status: CheckStatus
    remedy: str = ""
    cause: str = ""  # the most probable one
    bound_ms: float | None = None  # by how much the p99 of figures may be wrong for it
    applies_to: tuple[str, ...] = ()  # metrics
    direction: Direction = ""  # they may read too long, too short, or either


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """`bad` makes the whole run inconclusive, and an error that could flip a gate that gate."""

    status: CheckStatus
    checks: tuple[HealthCheck, ...] = ()
    overridden: bool = False  # --allow-unhealthy: the gates decided nevertheless


class Bracket(msgspec.Struct, frozen=True, kw_only=True):
    """Where a ladder of measure phases stops meeting its gates, for one model."""

    model: str
    last_pass_rps: float | None
    first_fail_rps: float | None
    limited_by: str | None = None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One metric statistic of one group in two runs; indicative, one run a side."""

    model: str
    workload: str
    phase: str
    metric: str
    stat: str
    unit: str
    better: Literal["lower", "higher"]
    before: float | None
    after: float | None
    before_ci95: tuple[float, float] | None
    after_ci95: tuple[float, float] | None
    ratio: float | None
    direction: Literal["better", "worse", "same", "unclear"]


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """The most of something within any minute, and how much of it a model may have.

    `reserved` is prompt and output cap at the instant of sending; only tokens have it.
    """

    most: int | None = None
    reserved: int | None = None
    limit: int | None = None
    source: Literal["scenario", "headers"] | None = None  # who says what the limit is


class SeenLimit(msgspec.Struct, frozen=True, kw_only=True):
    """One limit as headers of responses told it: the last values, and the least that was left."""

    limit: int | None = None
    remaining: int | None = None
    remaining_min: int | None = None
    reset_ms_max: int | None = None


class RateLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How near a model came to its rate limits, all its workloads and phases together.

    `headers` by what is limited: requests, tokens, input_tokens, output_tokens.
    """

    requests: Pace
    tokens: Pace
    headers: dict[str, SeenLimit] = {}
    throttled: int = 0  # attempts
    retry_after_ms: int | None = None  # the longest wait a response asked for


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """A gauge over the scrapes of a phase."""

    mean: float | None = None
    max: float | None = None


class ServerPhase(msgspec.Struct, frozen=True, kw_only=True):
    """What a server said while a phase lasted, and beside it what came here from its models.

    Rates are between the first and the last scrape within the phase, ours in the same stretch.
    """

    phase: str
    kind: Literal["warmup", "measure"] = "measure"
    model: str | None = None  # where the server's models took turns
    scrapes: int = 0  # that told something
    running: Level = Level()
    waiting: Level = Level()
    kv_usage: Level = Level()
    in_flight: Level = Level()  # ours, at the instants of the scrapes
    preemptions: int | None = None
    cached_share: float | None = None  # of the prompt tokens looked up in the prefix cache
    output_tok_s: float | None = None
    input_tok_s: float | None = None
    ours_output_tok_s: float | None = None
    ours_input_tok_s: float | None = None
    output_ratio: float | None = None  # of all servers with the same models, to ours


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """A server's own metrics beside the load: `server_metrics` of the scenario."""

    name: str
    url: str
    kind: str | None = None  # vLLM, SGLang, llama.cpp …, by the names of its metrics
    models: tuple[str, ...] = ()
    every_s: float = 1.0
    scrapes: int = 0  # all that were made …
    failed: int = 0  # … and of those, that told nothing
    failures: dict[str, int] = {}  # why, the most frequent first
    took_ms_p50: float | None = None  # from the request to the whole answer
    took_ms_max: float | None = None
    restarts: int = 0  # its counters began anew
    output_tokens: int | None = None  # between the first and the last scrape …
    ours_output_tokens: int | None = None  # … and those that came here meanwhile
    phases: tuple[ServerPhase, ...] = ()


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """`summary.json`."""

    schema_version: str = SCHEMA_VERSION
    name: str = ""
    verdict: Verdict
    groups: tuple[Group, ...] = ()
    gates: tuple[Gate, ...] = ()
    brackets: tuple[Bracket, ...] = ()
    health: Health
    environment: dict[str, Any] = {}
    scenario: dict[str, Any] = {}
    rate_limits: dict[str, RateLimits] = {}  # by model
    servers: tuple[Server, ...] = ()
    models: dict[str, dict[str, Any]] = {}  # as resolved: wire name, endpoint host, price, window
    skipped: tuple[str, ...] = ()  # "long 128k skipped for gpt-4: window 8,192"
    notices: tuple[str, ...] = ()  # closed loop, partial data, default budget …
    started_at: str = ""  # ISO 8601, UTC
    duration_s: float | None = None
    state: Literal["complete", "interrupted"] = "complete"


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of `summary.json`; shipped as `schemas/summary.schema.json`."""
    schema = msgspec.json.schema(Summary)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"loadlib summary {SCHEMA_VERSION}",
        **schema,
    }
