"""The shape of `live.json`: what is known of a run at one instant, for a page that shows it.

Counts and names, figures and judgements; no prompt, no answer, no key. `None` is unknown.
Latencies in ms, rates per second, shares in 0…1, money in US dollars, `*_s` from the run's start.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from loadlib.summary import Gate, Health, Verdict

VERSION = 1
PER_DECADE = 8  # points of a curve


class Quantiles(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Of one latency, ms. What is 0 or None is left out of the JSON, here and in rows."""

    n: int = 0
    p50: float | None = None
    p90: float | None = None
    p99: float | None = None


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One (model, workload, phase). `lately` and the rates are of the last ten seconds."""

    model: str
    workload: str
    phase: str
    kind: Literal["warmup", "measure"] = "measure"
    scheduled: int = 0
    in_flight: int = 0  # sent and not over; those to be tried again, too
    waiting: int = 0  # due and not sent yet: at the ceiling, or nobody is free to send them
    ok: int = 0
    failed: int = 0  # those throttled to the end included
    cancelled: int = 0
    dropped: int = 0
    attempts: int = 0
    throttled: int = 0  # attempts refused with 429 or 529 …
    throttled_share: float | None = None  # … of all attempts
    offered_rps: float | None = None
    sent_rps: float | None = None
    tok_s: float | None = None  # output tokens of the requests that ended
    ttft: Quantiles = Quantiles()
    ttft_lately: Quantiles = Quantiles()
    tpot: Quantiles = Quantiles()
    tpot_lately: Quantiles = Quantiles()
    goodput: float | None = None  # of what is over; None without objectives
    cost_usd: float | None = None  # None: no price is known
    cost_unknown: int = 0  # attempts that may have cost something, nobody knows what


class PhaseRow(msgspec.Struct, frozen=True, kw_only=True):
    """One phase of the plan. `start_s` is None until it begins, `planned_s` if no clock ends it."""

    title: str
    kind: Literal["warmup", "measure"]
    load: str
    start_s: float | None = None
    planned_s: float | None = None


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """TTFT by percentile of one group, as in HdrHistogram's plots.

    `ms[i]` is the quantile of p = 1 − 10^(−i/8), but for the last one, which is the maximum, at
    1/(1 − p) = n: the curve ends where the data end.
    """

    model: str
    workload: str
    phase: str
    n: int
    ms: tuple[float, ...]


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """What the run has used of its budget. Attempts of `unknown` cost are in no sum."""

    usd: float | None = None
    unknown: int = 0
    output_tokens: int | None = None
    requests: int = 0
    max_usd: float | None = None
    max_output_tokens: int | None = None
    max_requests: int | None = None


class ServerRow(msgspec.Struct, frozen=True, kw_only=True):
    """What a server said of itself when it was asked last; `error`: why it said nothing."""

    name: str
    kind: str | None = None
    running: float | None = None  # requests
    waiting: float | None = None
    kv_usage: float | None = None  # share of its KV cache
    error: str | None = None


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What a reader has of a run already: as of which revision, and of its time series."""

    revision: int
    generation: int = 0
    points: int = 0


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """`live.json`. `series` is what `trend.Trend.since` gives.

    To a reader who has seen a revision, `rows` and `curves` hold what changed after it (`partial`
    says so), and `gates` and `health` are None where they were not judged again.
    """

    version: int = VERSION
    revision: int = 0
    partial: bool = False
    state: Literal["idle", "starting", "running", "ending", "finished"] = "idle"
    run: str = ""  # the name of the run folder
    scenario: str = ""
    phase: str = ""
    now: tuple[str, ...] = ()  # the phases under load now
    elapsed_s: float = 0.0
    planned_s: float | None = None
    pairs: tuple[tuple[str, str], ...] = ()  # (model, workload), in the order of the plan
    phases: tuple[PhaseRow, ...] = ()
    spent: Spent | None = None
    rows: tuple[Row, ...] = ()
    gates: tuple[Gate, ...] | None = None
    health: Health | None = None
    verdict: Verdict | None = None  # once the run is over
    curves: tuple[Curve, ...] = ()
    series: dict[str, Any] = {}
    servers: tuple[ServerRow, ...] = ()  # with `server_metrics`
    links: dict[str, Any] = {}  # what the adapter serves beside it


NOTHING = Snapshot()
"""Before the first Start."""
