"""What the pages say, as text: one function per block, shared by HTML, markdown and terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loadlib.charts import parts
from loadlib.charts.ladder import sentence
from loadlib.metrics import CATALOGUE, FLOORS, QUANTILES
from loadlib.report import delivery, health
from loadlib.report import format as f
from loadlib.report.words import STATUS_ICONS
from loadlib.summary import Comparison, Gate, Group, Stats, Summary

GROUPS = 24  # shown; more are summed up
GATES = 100  # shown, the worst first
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
    samples: int  # n as a number
    group: int | None  # its place on the page
    inside: float | None  # the margin as a number
    bar: tuple[float, float | None, float | None] | None


def measured(summary: Summary) -> list[Group]:
    """The groups of the measure phases: by model, workload, phase."""
    return parts.measured(summary)


def shown(summary: Summary) -> list[Group]:
    """Those that tables and charts have room for: all, or the busiest `GROUPS`, in their order."""
    groups = measured(summary)
    if len(groups) <= GROUPS:
        return groups
    busiest = sorted(groups, key=lambda group: -group.requests.scheduled)[:GROUPS]
    kept = {key(group) for group in busiest}
    return [group for group in groups if key(group) in kept]


def rest(summary: Summary) -> str:
    """The groups that were left out, summed up in a sentence; empty where none were."""
    kept = {key(group) for group in shown(summary)}
    left = [group for group in measured(summary) if key(group) not in kept]
    if not left:
        return ""
    sent = sum(group.requests.scheduled for group in left)
    bad = sum(group.requests.failed + group.requests.lost for group in left)
    tails = [stats.p99 for g in left if (stats := g.metrics.get("ttft")) and stats.p99 is not None]
    spread = f"; TTFT p99 {f.ms(min(tails))} to {f.ms(max(tails))}" if tails else ""
    more = "1 more group" if len(left) == 1 else f"{f.count(len(left))} more groups"
    return (
        f"{more}, less busy than these: {f.count(sent)} requests, {f.count(bad)} failed{spread}. "
        "summary.json has all of them."
    )


def key(item: Group | Gate) -> tuple[str, str, str]:
    """What names a group."""
    return item.model, item.workload, item.phase


def numbers(summary: Summary) -> dict[tuple[str, str, str], int]:
    """The places of the groups on the page, by which its script knows them."""
    return {key(group): place for place, group in enumerate(shown(summary))}


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
    failed = [gate for gate in sorted(summary.gates, key=rank) if gate.status == "fail"]
    if verdict.status == "fail" and failed and failed[0].observed is not None:
        reasons = (_worst(summary, failed), *(_missed(summary, gate) for gate in failed[1:]))
    return Headline(
        status=verdict.status,
        word="SO FAR" if so_far else verdict.status.upper(),
        icon=STATUS_ICONS[verdict.status],
        sentence=reasons[0] if reasons else _no_reason(summary),
        more=_cut(reasons[1:]),
    )


def _worst(summary: Summary, failed: Sequence[Gate]) -> str:
    """The gate that failed by most, with its interval, and how many failed."""
    gate = failed[0]
    side = "below" if lower_bound(gate) else "over"
    interval = f.interval(gate.ci95, gate.unit)
    seen = " ".join(filter(None, (f.value(gate.observed, gate.unit), interval)))
    verb = "fail" if len(failed) > 1 else "fails"
    count = f"{len(failed)} of {len(summary.gates)} objectives {verb}"
    return (
        f"{where(summary, gate)}: {f.line(gate.expression)}, but {seen} was observed, "
        f"{f.share(abs(margin(gate) or 0.0))} {side} the limit; {count}."
    )


def _missed(summary: Summary, gate: Gate) -> str:
    seen = "nothing" if gate.observed is None else f.value(gate.observed, gate.unit)
    return f"{where(summary, gate)}: {f.line(gate.expression)}, but {seen} was observed"


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
    found += [("warn", line) for line in (*throttled(summary), *undecided(summary))]
    found += [("warn", line) for line in delivered(summary)]
    if str(summary.scenario.get("target")) == "simulator":
        found.append(("info", SIMULATED))
    # in our own words, above
    said = ("closed loop:", "measured against the simulator", "--allow-unhealthy")
    found += [("info", f.line(n)) for n in summary.notices if not n.startswith(said)]
    found += [("info", f.line(skipped)) for skipped in summary.skipped]
    return list(dict.fromkeys(found))


def throttled(summary: Summary) -> list[str]:
    """How much was refused for rate limits, in a line; what got through is no measure of more."""
    found = [(g.requests.throttled, g) for g in measured(summary) if g.requests.throttled]
    if not found:
        return []
    sent = sum(group.requests.sent for group in measured(summary))
    total = sum(number for number, _ in found)
    _, worst = max(found, key=lambda item: item[0])
    most = f", most of {where(summary, worst)}" if len(measured(summary)) > 1 else ""
    counted = f"{f.count(total)} of {f.count(sent)} requests were throttled (429, 529){most}"
    return [f"{counted}: latencies are of what got through, not of what would come without limit."]


def undecided(summary: Summary) -> list[str]:
    """Which gates had too few samples to decide, in a line."""
    few = [g for g in summary.gates if g.status == "inconclusive" and _too_few(g)]
    if not few:
        return []
    gate = few[0]
    first = f"{where(summary, gate)}, {f.line(gate.expression)} (n {f.count(gate.n)})"
    if len(few) == 1:
        return [f"Too few samples to decide an objective: {first}."]
    return [f"Too few samples to decide {len(few)} objectives: {first}, and {len(few) - 1} more."]


def _too_few(gate: Gate) -> bool:
    """Whether the gate's statistic has a floor that its samples do not reach."""
    stat = gate.expression.split("<")[0].split(">")[0].strip().rpartition(".")[2]
    return gate.n < FLOORS.get(stat.replace("p99.9", "p99_9"), 0)


def delivered(summary: Summary) -> list[str]:
    """A line per group whose prompts the server counts otherwise than they were counted here."""
    return [f"{where(summary, group)}: {text}" for group, text in delivery.misses(summary)]


# — tables —————————————————————————————————————————————————————————————————————


def gate_rows(summary: Summary) -> list[GateRow]:
    """All gates, the worst first."""
    places = numbers(summary)
    return [
        _gate_row(summary, gate, places.get(key(gate))) for gate in sorted(summary.gates, key=rank)
    ]


def _gate_row(summary: Summary, gate: Gate, place: int | None) -> GateRow:
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
        samples=gate.n,
        group=place,
        inside=inside,
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
    found = [(group, _causes(group)) for group in shown(summary)]
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


@dataclass(frozen=True, slots=True)
class ErrorExample:
    """A message, how often it came, and where: in words, and as places on the page."""

    number: str
    place: str
    text: str
    groups: str


def error_examples(summary: Summary, limit: int = 20) -> list[ErrorExample]:
    """The most frequent error texts, equal ones put together."""
    found: dict[str, list[tuple[int, Group]]] = {}
    for group in summary.groups:
        for raw, number in group.errors.items():
            found.setdefault(f.line(raw), []).append((number, group))
    ranked = sorted(found.items(), key=lambda item: -sum(n for n, _ in item[1]))[:limit]
    places = numbers(summary)
    return [
        ErrorExample(
            number=f.count(total),
            place=_places([where(summary, group) for _, group in seen]),
            text=text,
            groups=" ".join(str(places.get(key(group), "x")) for _, group in seen),
        )
        for text, seen in ranked
        if (total := sum(number for number, _ in seen))
    ]


def _places(places: list[str]) -> str:
    return places[0] if len(places) == 1 else f"{len(places)} groups, first {places[0]}"


def bracket_lines(summary: Summary) -> list[str]:
    """The ladder's brackets in words."""
    return [sentence(bracket) for bracket in summary.brackets]


def comparison_where(row: Comparison) -> str:
    """The group a comparison is of; its phase only where it is not the default one."""
    names = [row.model, row.workload, *([row.phase] if row.phase != "measure" else [])]
    return " · ".join(f.name(name) for name in names)
