"""What the pages say, as text: one function per block, shared by HTML, markdown and terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from loadlib.charts import parts
from loadlib.charts.ladder import sentence
from loadlib.metrics import CATALOGUE, FLOORS, QUANTILES
from loadlib.report import delivery, health
from loadlib.report import format as f
from loadlib.report.words import STATUS_ICONS
from loadlib.summary import Comparison, Gate, Group, Stats, Summary

REASONS = 6  # listed under the verdict
REASON_LIMIT = 600  # characters: causes and remedies are said to the end
_SEVERITY = {"fail": 0, "inconclusive": 1, "pass": 2}


@dataclass(frozen=True, slots=True)
class Headline:
    """The verdict: a word, a shape, one sentence, and the reasons that did not fit in it."""

    status: str
    word: str
    icon: str
    sentence: str
    more: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tile:
    """One number worth a large font, and what it is of."""

    label: str
    value: str
    detail: str


@dataclass(frozen=True, slots=True)
class GateRow:
    """A gate as text; `bar` is (observed, low, high) as a share of the bar, the limit at 2/3."""

    status: str
    icon: str
    where: str
    expression: str
    observed: str
    interval: str
    limit: str
    margin: str
    n: str
    note: str
    bar: tuple[float, float | None, float | None] | None


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One measured group of the per-model table; TTFT p50, p90, p99 as (response, sent clock)."""

    model: str
    workload: str
    phase: str
    load: str
    ok: str
    failed: str
    failures: bool
    offered: str
    achieved: str
    ttft: tuple[tuple[str, str], ...]
    tpot_p50: str
    tpot_p99: str
    user_rate: str
    system_rate: str
    goodput: str
    cost: str
    quality: str


def measured(summary: Summary) -> list[Group]:
    """The groups of the measure phases: by model, workload, phase."""
    return parts.measured(summary)


def several_phases(summary: Summary) -> bool:
    """Whether phases must be told apart."""
    return parts.ladder(summary)


def where(summary: Summary, item: Group | Gate | Comparison) -> str:
    """`gpt-4o · chat`, with the phase where there are several."""
    if not item.model:  # a gate whose scope matched nothing
        return f.name(item.scope) if isinstance(item, Gate) else ""
    names = [item.model, item.workload, *([item.phase] if several_phases(summary) else [])]
    return " · ".join(f.name(name) for name in names)


# — verdict and tiles ——————————————————————————————————————————————————————————


def headline(summary: Summary, *, so_far: bool = False) -> Headline:
    """The verdict in one sentence; of a run that goes on, that there is none yet."""
    verdict = summary.verdict
    reasons = tuple(f.line(reason, REASON_LIMIT) for reason in verdict.reasons)
    first = reasons[0] if reasons else _no_reason(summary)
    return Headline(
        status=verdict.status,
        word="SO FAR" if so_far else verdict.status.upper(),
        icon=STATUS_ICONS[verdict.status],
        sentence=first,
        more=_cut(reasons[1:]),
    )


def _cut(reasons: tuple[str, ...]) -> tuple[str, ...]:
    if len(reasons) <= REASONS:
        return reasons
    return (*reasons[:REASONS], f"and {len(reasons) - REASONS} more")


def _no_reason(summary: Summary) -> str:
    if summary.verdict.status != "pass":
        return "No reason was recorded."
    if not summary.gates:
        return "The run is complete and healthy; no gate was declared."
    ranked = [g for g in sorted(summary.gates, key=rank) if margin(g) is not None]
    total = f"All {len(summary.gates)} gates pass" if len(summary.gates) > 1 else "The gate passes"
    if not ranked:
        return f"{total}."
    tight = ranked[0]
    return (
        f"{total}; the tightest is {where(summary, tight)} {f.line(tight.expression)}: "
        f"{f.value(tight.observed, tight.unit)}, {f.share(margin(tight))} inside its limit."
    )


def margin(gate: Gate) -> float | None:
    """Distance to the limit as a share of it, positive inside; None where that has no meaning."""
    if gate.observed is None or gate.limit == 0:
        return None
    distance = (gate.limit - gate.observed) / abs(gate.limit)
    return -distance if lower_bound(gate) else distance


def lower_bound(gate: Gate) -> bool:
    """Whether the gate asks for at least its limit."""
    return ">" in gate.expression


def rank(gate: Gate) -> tuple[int, float]:
    """Sort key: failed before undecided before passed, each with the worst margin first."""
    inside = margin(gate)
    return _SEVERITY[gate.status], 0.0 if inside is None else inside


def tiles(summary: Summary) -> list[Tile]:
    """Six numbers; over several groups the range of them, never a pooled percentile."""
    groups = measured(summary)
    ok = sum(g.requests.ok for g in groups)
    total = sum(g.requests.scheduled for g in groups)
    bad = sum(g.requests.failed + g.requests.lost for g in groups)
    dropped = sum(g.requests.dropped for g in groups)
    lost = [f"{f.count(bad)} failed", f"{f.count(dropped)} dropped" if dropped else ""]
    return [
        Tile("Requests ok", f.count(ok), f"of {f.count(total)}; {', '.join(filter(None, lost))}"),
        _lowest(summary, "Goodput", [(g.goodput.share, g) for g in groups], "share"),
        _slowest(summary, "p50"),
        _slowest(summary, "p99"),
        _lowest(
            summary,
            "Tokens/s per user",
            [(_stat(g, "output_tok_s_user", "p50"), g) for g in groups],
            "",
        ),
        _cost(summary),
    ]


def _stat(group: Group, metric: str, stat: str) -> float | None:
    stats = group.metrics.get(metric)
    value: float | None = getattr(stats, stat) if stats is not None else None
    return value


def _known(found: Sequence[tuple[float | None, Group]]) -> list[tuple[float, Group]]:
    return [(value, group) for value, group in found if value is not None]


def _slowest(summary: Summary, stat: str) -> Tile:
    known = _known([(_stat(g, "ttft", stat), g) for g in measured(summary)])
    ranked = sorted(known, key=lambda found: -found[0])
    tile = _extreme(summary, f"TTFT {stat}", ranked, "ms")
    if not ranked or ranked[0][1].metrics["ttft"].n >= FLOORS[stat]:
        return tile
    return replace(tile, value=f"{tile.value} †")


def _lowest(
    summary: Summary, label: str, found: list[tuple[float | None, Group]], unit: str
) -> Tile:
    return _extreme(summary, label, sorted(_known(found), key=lambda v: v[0]), unit)


def _extreme(summary: Summary, label: str, ranked: list[tuple[float, Group]], unit: str) -> Tile:
    """The worst group in large type, and the best beside it."""
    if not ranked:
        return Tile(label, f.UNKNOWN, "not measured")
    worst, group = ranked[0]
    if len(ranked) == 1:
        return Tile(label, f.value(worst, unit), where(summary, group))
    detail = f"worst, {where(summary, group)}; best {f.value(ranked[-1][0], unit)}"
    if ranked[0][0] == ranked[-1][0]:
        detail = "in every group"
        if len(ranked) < len(measured(summary)):
            detail += f" that has {'objectives' if label == 'Goodput' else 'a value'}"
    return Tile(label, f.value(worst, unit), detail)


def spent(summary: Summary) -> tuple[str, str] | None:
    """What the whole run cost, and how that is counted; None where no list price is known."""
    known = [(g.cost_usd.total, g) for g in summary.groups if g.cost_usd.total is not None]
    if not known:
        return None
    warm = any(cost and group.kind == "warmup" for cost, group in known)
    total = f.usd(sum(cost for cost, _ in known))
    counted = "at list price, incl. warm-up" if warm else "at list price"
    unknown = sum(group.cost_usd.unknown for group in summary.groups)
    return total, f"{counted}, {f.count(unknown)} of unknown cost left out" if unknown else counted


def _cost(summary: Summary) -> Tile:
    found = spent(summary)
    if found is None:
        return Tile("Cost", f.UNKNOWN, "no list price known")
    total, counted = found
    costs = [group.cost_usd.per_1k_requests for group in measured(summary)]
    per = [cost for cost in costs if cost is not None]
    if not per:
        return Tile("Cost", total, counted)
    spread = f.usd(min(per)) if len(per) == 1 else f"{f.usd(min(per))} to {f.usd(max(per))}"
    return Tile("Cost", total, f"{counted}; {spread} per 1,000 requests")


# — banners ————————————————————————————————————————————————————————————————————


CLOSED = (
    "Closed loop: users wait for each answer before they ask again, so queueing is not visible. "
    "Do not size capacity from these latencies."
)
SIMULATED = (
    "Measured against loadlib's own simulator: the speeds are those of its profile and say "
    "nothing about any provider."
)


def banners(summary: Summary) -> list[tuple[str, str]]:
    """(kind, sentence): what a reader must know before any figure; kind is warn or info."""
    found: list[tuple[str, str]] = []
    if summary.state == "interrupted":
        found.append(("warn", "The run was interrupted: figures cover what had finished by then."))
    found += health.banners(summary.health)
    groups = measured(summary)
    if not groups or not any(g.requests.sent for g in groups):
        found.append(("warn", "No request was sent in a measure phase."))
    if groups and any(g.closed_loop for g in groups):
        found.append(("warn", CLOSED))
    found += [("warn", line) for line in delivered(summary)]
    if str(summary.scenario.get("target")) == "simulator":
        found.append(("info", SIMULATED))
    # in our own words, above
    said = ("closed loop:", "measured against the simulator", "--allow-unhealthy")
    found += [("info", f.line(n)) for n in summary.notices if not n.startswith(said)]
    found += [("info", f.line(skipped)) for skipped in summary.skipped]
    return list(dict.fromkeys(found))


def delivered(summary: Summary) -> list[str]:
    """A line per group whose prompts the server counts otherwise than they were counted here."""
    return [f"{where(summary, group)}: {text}" for group, text in delivery.misses(summary)]


# — tables —————————————————————————————————————————————————————————————————————


def gate_rows(summary: Summary) -> list[GateRow]:
    """All gates, the worst first."""
    return [_gate_row(summary, gate) for gate in sorted(summary.gates, key=rank)]


def _gate_row(summary: Summary, gate: Gate) -> GateRow:
    inside = margin(gate)
    notes = [f.line(gate.reason), "default gate" if gate.default else ""]
    return GateRow(
        status=gate.status,
        icon=STATUS_ICONS[gate.status],
        where=where(summary, gate),
        expression=f.line(gate.expression),
        observed=f.value(gate.observed, gate.unit),
        interval=f.interval(gate.ci95, gate.unit),
        limit=("≥ " if lower_bound(gate) else "< ") + f.value(gate.limit, gate.unit),
        margin=_signed_share(inside),
        n=f.count(gate.n),
        note="; ".join(filter(None, notes)),
        bar=_bar(gate),
    )


def _signed_share(value: float | None) -> str:
    if value is None:
        return f.UNKNOWN
    if abs(value) >= 10:
        return f"{'−' if value < 0 else '+'}{f.number(abs(value))}×"
    return f"{value * 100:+.0f} %".replace("-", "−")


def _bar(gate: Gate) -> tuple[float, float | None, float | None] | None:
    if gate.observed is None or gate.limit <= 0:
        return None
    low, high = gate.ci95 or (None, None)
    return (
        _on_bar(gate.observed, gate.limit),
        None if low is None else _on_bar(low, gate.limit),
        None if high is None else _on_bar(high, gate.limit),
    )


def _on_bar(value: float, limit: float) -> float:
    return min(1.0, max(0.0, value / limit * 2 / 3))


def model_rows(summary: Summary) -> list[ModelRow]:
    """The comparison of models: one row per measured group."""
    return [_model_row(summary, group) for group in measured(summary)]


def _model_row(summary: Summary, group: Group) -> ModelRow:
    response, sent = group.metrics.get("ttft"), group.metrics.get("sent_ttft")
    cost = group.cost_usd.per_1k_requests
    return ModelRow(
        model=f.name(group.model),
        workload=f.name(group.workload),
        phase=f.name(group.phase) if several_phases(summary) else "",
        load=f.line(group.load),
        ok=f.count(group.requests.ok),
        failed=f.count(group.requests.failed + group.requests.lost),
        failures=bool(group.requests.failed + group.requests.lost),
        offered=f.rps(group.throughput.offered_rps),
        achieved=f.rps(group.throughput.achieved_rps),
        ttft=tuple(_clocks(response, sent, stat) for stat in ("p50", "p90", "p99")),
        tpot_p50=percentile(group.metrics.get("tpot"), "p50"),
        tpot_p99=percentile(group.metrics.get("tpot"), "p99"),
        user_rate=f.number(_stat(group, "output_tok_s_user", "p50")),
        system_rate=f.number(group.throughput.output_tok_s),
        goodput=f.share(group.goodput.share),
        cost=f.usd(cost),
        quality=f.share(group.quality.share),
    )


def _clocks(response: Stats | None, sent: Stats | None, stat: str) -> tuple[str, str]:
    """Response clock; sent clock and what waiting before sent added."""
    a = getattr(response, stat) if response else None
    b = getattr(sent, stat) if sent else None
    added = None if a is None or b is None else a - b
    return percentile(response, stat), f.sum_ms(b, added)


def percentile(stats: Stats | None, stat: str) -> str:
    """A statistic in its unit, marked † where its sample floor is not reached."""
    if stats is None:
        return f.UNKNOWN
    amount = getattr(stats, stat)
    text = f.value(amount, stats.unit)
    return f"{text} †" if amount is not None and stats.n < FLOORS.get(stat, 0) else text


def metric_rows(group: Group) -> list[tuple[str, str, list[tuple[str, str, bool]]]]:
    """(metric, n, [(text, interval, thin)]) of one group for mean, percentiles and maximum."""
    rows = []
    ordered = [name for name in CATALOGUE if name in group.metrics]
    ordered += [name for name in group.metrics if name not in CATALOGUE]
    for name in ordered:
        stats = group.metrics[name]
        cells = [(f.value(stats.min, stats.unit), "", False),
                 (f.value(stats.mean, stats.unit), "", False)]  # fmt: skip
        for stat in QUANTILES:
            text = percentile(stats, stat)
            ci = f.interval(stats.ci95.get(stat), stats.unit)
            cells.append((text, ci, text.endswith("†")))
        cells.append((f.value(stats.max, stats.unit), "", False))
        rows.append((f.name(name), f.count(stats.n), cells))
    return rows


@dataclass(frozen=True, slots=True)
class OutcomeTable:
    """Requests by how they ended: a row per group, a column per cause, the frequent first."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


CAUSES = 8  # columns of their own; rarer ones share a column


def outcome_table(summary: Summary) -> OutcomeTable | None:
    """How requests ended that were not ok; None where all were."""
    found = [(group, _causes(group)) for group in measured(summary)]
    total: dict[str, int] = {}
    for _, causes in found:
        for cause, number in causes.items():
            total[cause] = total.get(cause, 0) + number
    if not total:
        return None
    ranked = sorted(total, key=lambda cause: -total[cause])
    kept, rest = ranked[:CAUSES], ranked[CAUSES:]
    rows = []
    for group, causes in found:
        numbers = [causes.get(cause, 0) for cause in kept]
        if rest:
            numbers.append(sum(causes.get(cause, 0) for cause in rest))
        bad = sum(n for cause, n in causes.items() if not cause.startswith("ok/"))
        scheduled = group.requests.scheduled
        cells = [f.count(scheduled), f.count(group.requests.ok), *map(f.count, numbers)]
        cells.append(f.share(bad / scheduled if scheduled else None))
        rows.append((where(summary, group), tuple(cells)))
    columns = ["scheduled", "ok", *map(f.name, kept), *(["other causes"] if rest else [])]
    return OutcomeTable((*columns, "not ok"), tuple(rows))


def _causes(group: Group) -> dict[str, int]:
    """Everything not plainly ok (`ok/resent`), by cause where one is known, else by outcome."""
    named = {cause: number for cause, number in group.causes.items() if number}
    explained: dict[str, int] = {}
    for cause, number in named.items():
        outcome = cause.split("/")[0]
        explained[outcome] = explained.get(outcome, 0) + number
    for outcome, number in group.outcomes.items():
        left = number - explained.get(outcome, 0)
        if outcome != "ok" and left > 0:
            named[outcome] = named.get(outcome, 0) + left
    if group.requests.lost:
        named["lost"] = group.requests.lost
    return named


def error_examples(summary: Summary, limit: int = 20) -> list[tuple[str, str, str]]:
    """(count, where, text) of the most frequent error texts, equal ones put together."""
    found: dict[str, tuple[int, list[str]]] = {}
    for group in summary.groups:
        for raw, number in group.errors.items():
            text = f.line(raw)
            before, places = found.get(text, (0, []))
            found[text] = (before + number, [*places, where(summary, group)])
    ranked = sorted(found.items(), key=lambda item: -item[1][0])[:limit]
    return [(f.count(number), _places(places), text) for text, (number, places) in ranked if number]


def _places(places: list[str]) -> str:
    return places[0] if len(places) == 1 else f"{len(places)} groups, first {places[0]}"


def bracket_lines(summary: Summary) -> list[str]:
    """The ladder's brackets in words."""
    return [sentence(bracket) for bracket in summary.brackets]


def comparison_where(row: Comparison) -> str:
    """The group a comparison is of; its phase only where it is not the default one."""
    names = [row.model, row.workload, *([row.phase] if row.phase != "measure" else [])]
    return " · ".join(f.name(name) for name in names)
