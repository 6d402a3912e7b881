"""The grammar of SLO expressions. A typo costs a second, not an hour.

    line       = [ scope ": " ] expression { "," expression }
    expression = metric [ "." stat ] op limit
    op         = "<" | "<=" | ">" | ">="

A latency needs its unit (`800ms`, `2s`), a share is written `1%` or `0.01`. A metric of single
requests without a statistic (`ttft < 800ms`) is an objective that each request meets or misses;
`goodput` is the share of arrivals that met all of them.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from loadlib import units
from loadlib.errors import UsageError, nearest
from loadlib.metrics import CATALOGUE, QUANTILES

Op = Literal["<", "<=", ">", ">="]

STATS: tuple[str, ...] = (*QUANTILES, "mean", "min", "max")
"""What may stand after the dot."""

SCALARS: dict[str, tuple[str, Literal["lower", "higher"], str]] = {
    "error_rate": ("share", "lower", "(failed + lost) / sent"),
    "throttled_rate": ("share", "lower", "throttled / sent"),
    "goodput": ("share", "higher", "arrivals that met every per-request objective / arrivals"),
    "quality": ("share", "higher", "answers that passed the workload's check / checked"),
    "output_tok_s": ("tok/s", "higher", "output tokens per second of the phase"),
    "achieved_rps": ("rps", "higher", "requests sent per second of the phase"),
    "cost_usd": ("usd", "lower", "dollars spent in the group"),
}
"""What has one value per group: name → (unit, better, formula)."""


class SloError(UsageError):
    """An SLO expression that cannot be understood, or never decided."""


@dataclass(frozen=True, slots=True)
class Objective:
    """One comparison. `limit` is in `unit`: ms, share (0…1), tok/s, rps or usd."""

    scope: str  # all | a model | a workload | model/workload
    metric: str
    stat: str | None  # None: a scalar of the group, or a per-request objective
    op: Op
    limit: float
    unit: str
    text: str  # as written, spaces put in order

    @property
    def per_request(self) -> bool:
        """Whether each request meets or misses it by itself."""
        return self.stat is None and self.metric not in SCALARS

    @property
    def latency(self) -> bool:
        """Whether it is a statistic of per-request times, whose limit can bound one request."""
        row = CATALOGUE.get(self.metric)
        return self.unit == "ms" and self.stat is not None and row is not None and row.per_request

    def meets(self, value: float) -> bool:
        """Whether `value` (in `unit`) satisfies the comparison."""
        return _COMPARE[self.op](value, self.limit)

    def covers(self, model: str, workload: str) -> bool:
        """Whether the scope includes the group of this model and workload."""
        return self.scope in ("all", model, workload, f"{model}/{workload}")


_COMPARE: dict[Op, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

_EXPRESSION = re.compile(r"\s*([^\s<>=.]+)(?:\.([^\s<>=]+))?\s*(<=|>=|<|>)\s*([^<>=]+?)\s*")


def parse(line: str, scopes: Collection[str]) -> tuple[Objective, ...]:
    """The objectives of one line. `scopes` are the names a scope may be, besides `all`.

    Raises `SloError`, naming the nearest metric, statistic or scope.
    """
    head, found, body = line.rpartition(": ")
    scope = head.strip() if found else "all"
    known = {"all", *scopes}
    if scope not in known:
        raise SloError(
            f"unknown scope {scope[:80]!r}{nearest(scope, known)}: "
            "a scope is all, a model, a workload or model/workload"
        )
    parts = [part for part in body.split(",") if part.strip()]
    if not parts:
        raise SloError(f"no expression in {line[:80]!r}: write 'chat: ttft.p90 < 800ms'")
    return tuple(_expression(scope, part) for part in parts)


def _expression(scope: str, text: str) -> Objective:
    match = _EXPRESSION.fullmatch(text)
    if match is None:
        raise SloError(
            f"{text.strip()[:80]!r} is not an expression: write 'ttft.p90 < 800ms' "
            "(metric, dot, statistic, < <= > or >=, limit)"
        )
    metric, stat, op, limit = match[1], match[2], match[3], match[4]
    stat = _stat(metric, stat)
    unit, better = _unit(metric, stat)
    if (better == "lower") != op.startswith("<"):
        sign = "<" if better == "lower" else ">="
        raise SloError(f"{metric} is better {better}: write '{metric} {sign} …', not '{op}'")
    name = f"{metric}.{stat}" if stat else metric
    value = _limit(limit, unit, name)
    return Objective(scope, metric, stat, _OPS[op], value, unit, f"{name} {op} {limit}")


_OPS: dict[str, Op] = {"<": "<", "<=": "<=", ">": ">", ">=": ">="}


def _stat(metric: str, stat: str | None) -> str | None:
    """The statistic in its canonical form, after the metric's name has been checked."""
    known = {**CATALOGUE, **SCALARS}
    if metric not in known:
        hint = " (a scope ends in ': ', colon and space)" if ":" in metric else ""
        raise SloError(f"unknown metric {metric[:80]!r}{nearest(metric, known)}{hint}")
    if stat is None:
        if metric not in SCALARS and not CATALOGUE[metric].per_request:
            raise SloError(f"{metric} needs a statistic: {metric}.p99")
        return None
    if metric not in CATALOGUE:
        raise SloError(f"{metric} has one value and no statistic: write '{metric}', not .{stat}")
    canonical = stat.replace(".", "_")  # p99.9 is how everyone says it
    if canonical not in STATS:
        raise SloError(
            f"unknown statistic {stat[:40]!r}{nearest(stat, STATS)}: known are {', '.join(STATS)}"
        )
    return canonical


def _unit(metric: str, stat: str | None) -> tuple[str, Literal["lower", "higher"]]:
    if stat is None and metric in SCALARS:
        unit, better, _formula = SCALARS[metric]
        return unit, better
    row = CATALOGUE[metric]
    return row.unit, row.better


_SUFFIX: dict[str, tuple[str, ...]] = {
    "tok/s": ("tok/s", "tokens/s"),
    "rps": ("rps", "req/s", "requests/s", "/s"),
    "usd": ("usd", "USD", "$"),
}


def _limit(text: str, unit: str, name: str) -> float:
    try:
        if unit == "ms":
            return units.duration_ns(text) / 1e6
        return _share(text, name) if unit == "share" else _plain(text, unit, name)
    except ValueError as error:
        raise SloError(f"limit of {name}: {error}") from None


def _share(text: str, name: str) -> float:
    percent = text.endswith("%")
    value = _number(text.removesuffix("%"))
    if not percent and value > 1:
        raise ValueError(f"a share is at most 1: write '{name} … {text}%' for per cent")
    if percent and value > 100:
        raise ValueError(f"{text} is more than 100 %")
    return value / 100 if percent else value


def _plain(text: str, unit: str, name: str) -> float:
    text = text.removeprefix("$") if unit == "usd" else text
    for suffix in _SUFFIX[unit]:
        if text.endswith(suffix):
            return _number(text.removesuffix(suffix))
    try:
        return _number(text)
    except ValueError:
        raise ValueError(
            f"{text[:40]!r} is not a number of {unit} (say {name} with 20 or 20{_SUFFIX[unit][0]})"
        ) from None


def _number(text: str) -> float:
    text = text.strip()
    if not re.fullmatch(r"-?\d+(\.\d+)?([eE][-+]?\d+)?", text):
        raise ValueError(f"{text[:40]!r} is not a number")
    value = float(text)
    if value < 0 or not math.isfinite(value):
        raise ValueError(f"{text[:40]} is not a number of 0 or more")
    return value


DEFAULT_ERROR_RATE = Objective("all", "error_rate", None, "<", 0.05, "share", "error_rate < 5%")
"""Applies, shown as default, where a scenario gates no error_rate."""


def bounds(objectives: Iterable[Objective], model: str, workload: str) -> tuple[Objective, ...]:
    """What one request of the group must meet to be good.

    The per-request objectives in scope; without any, the limits of the latency gates in scope
    (their statistic dropped, the loosest of each metric: half of the requests may lie over the
    limit of a p50 by its own words); with neither, nothing: goodput is then unknown.
    """
    mine = [objective for objective in objectives if objective.covers(model, workload)]
    own = tuple(objective for objective in mine if objective.per_request)
    if own:
        return own
    loosest: dict[str, Objective] = {}
    for gate in mine:
        if gate.latency:
            text = f"{gate.metric} {gate.op} {gate.text.rsplit(gate.op, 1)[1].strip()}"
            bound = Objective(gate.scope, gate.metric, None, gate.op, gate.limit, gate.unit, text)
            known = loosest.setdefault(gate.metric, bound)
            if gate.limit > known.limit:
                loosest[gate.metric] = bound
    return tuple(loosest.values())


def undecidable(
    objectives: Collection[Objective], groups: Iterable[tuple[str, str]]
) -> tuple[tuple[Objective, str], ...]:
    """Goodput gates over (model, workload) groups in which no request can be called good.

    Each with the sentence that says so; empty where all is well.
    """
    gates = [objective for objective in objectives if objective.metric == "goodput"]
    why = "nothing says what a good request is; add an objective such as 'ttft < 800ms'"
    return tuple(
        (gate, f"goodput of {model}/{workload} cannot be judged: {why}")
        for model, workload in groups
        for gate in gates
        if gate.covers(model, workload) and not bounds(objectives, model, workload)
    )
