"""What a run is about, decided before its first request: scenario, models, manners, money.

Everything here ends in a value or in an error for the person reading it; nothing sends a
completion. The same on every process: master, worker and local.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from loadlib import keys, limits_planned, scenario_yaml
from loadlib import scenario as scenarios
from loadlib.catalog import Model, is_public, resolve
from loadlib.errors import PreflightError, UsageError
from loadlib.guard import answers, beside_tokens
from loadlib.redact import redact
from loadlib.scenario import Phase, Reach, Scenario
from loadlib.schedule import Shard, share
from loadlib.server_targets import Target, targets
from loadlib.workloads import PromptSpec, Replay, Stream, Workload, build

DEFAULT_MAX_USD = 1.00
DEFAULT_MAX_REQUESTS = 1000
FREE_MODEL = "gpt-4o-mini"  # of a locustfile that names none
ALL = "*"  # the key of the one schedule under `per: total`
TRACE_LAPS = 1_000  # so often may a trace be gone through in another kind of phase
FREE_DURATION = "24h"  # until Locust stops it; replaced by the real one in the record


@dataclass(frozen=True, slots=True)
class Limits:
    """What the run may spend in total; None is no limit."""

    max_usd: float | None = None
    max_output_tokens: int | None = None
    max_requests: int | None = None


@dataclass(frozen=True, slots=True)
class Crew:
    """The user classes that take a workload's arrivals, by weight; none: its share is removed."""

    weights: Mapping[str, float] = field(default_factory=dict)


class Plan:
    """What is to be sent: which (model, workload) an arrival falls on, and the n-th prompt."""

    def __init__(
        self,
        scenario: Scenario,
        models: Mapping[str, Model],
        workloads: Mapping[str, Workload],
        custom: Mapping[str, float],
        crews: Mapping[str, Crew],
        restricted: Mapping[str, Sequence[str]],
    ) -> None:
        self.scenario, self.models, self.workloads, self.crews = scenario, models, workloads, crews
        self.weights: dict[str, dict[str, float]] = {}  # model → workload → weight
        for model in models.values():
            own = {
                name: scenario.workloads[name].weight
                for name, workload in workloads.items()
                if _wanted(scenario.workloads[name].models, model.name) and workload.serves(model)
            }
            own |= {
                name: weight
                for name, weight in custom.items()
                if _wanted(restricted.get(name), model.name)
            }
            if own:
                self.weights[model.name] = own

    def rates(self, phase: Phase) -> dict[str, float]:
        """Arrivals per second of each model, as configured: the mean over the phase where they
        change within it; empty in a closed loop."""
        found: dict[str, float] = {}
        for weights in self.streams(self.weights).values():
            rate = self._rate(phase, weights)
            if rate is None:
                continue
            for (model, _), weight in weights.items():
                found[model] = found.get(model, 0.0) + rate * weight / sum(weights.values())
        return found

    def _rate(self, phase: Phase, weights: Iterable[tuple[str, str]]) -> float | None:
        trace = self.stream(phase, weights)
        return phase.mean_rate if trace is None else trace.rate(phase)

    def stream(self, phase: Phase, groups: Iterable[tuple[str, str]]) -> Stream | None:
        """What one schedule plays of the trace in a phase; None without `arrival: trace`."""
        return stream(self.scenario, self.workloads, self.models, phase, groups)

    def streams(self, names: Iterable[str]) -> dict[str, dict[tuple[str, str], float]]:
        """Independent schedules of a stage → what their arrivals fall on, by weight."""
        pairs = {
            name: {(name, w): weight for w, weight in self.weights[name].items()}
            for name in names
            if name in self.weights
        }
        if self.scenario.per == "model" or not pairs:
            return pairs
        return {ALL: {key: weight for group in pairs.values() for key, weight in group.items()}}


def stream(
    scenario: Scenario,
    workloads: Mapping[str, Workload],
    models: Mapping[str, Model],
    phase: Phase,
    groups: Iterable[tuple[str, str]],
) -> Stream | None:
    """What one schedule of `groups` plays of the trace; each phase in words of its own."""
    if phase.arrival != "trace" or scenario.replay is None:
        return None
    source = workloads[scenario.replay]
    assert isinstance(source, Replay)
    names = dict.fromkeys(model for model, workload in groups if workload == source.name)
    lap = TRACE_LAPS * (1 + [one.title for one in scenario.load].index(phase.title))
    return source.stream([models[name] for name in names], lap)


def _wanted(allowed: Sequence[str] | None, model: str) -> bool:
    return not allowed or model in allowed


@dataclass(slots=True)
class Session:
    """A scenario with everything it names resolved."""

    scenario: Scenario
    models: dict[str, Model]
    workloads: dict[str, Workload]
    limits: Limits
    free: bool = False  # no scenario: Locust's own rules decide the load
    notices: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    servers: tuple[Target, ...] = ()  # whose own metrics are read beside the load
    untaken: frozenset[str] = frozenset()  # workloads that no picked user class takes
    unserved: frozenset[tuple[str, str]] = frozenset()  # (model, workload), known beforehand

    @property
    def stages(self) -> Sequence[tuple[Phase, Sequence[str]]]:
        """Each phase with the models under load in it, in order."""
        return self.scenario.stages(list(self.models.values()))

    def serves(self, model: str, workload: str) -> bool:
        """Whether requests of the workload reach the model: it is taken, and some length fits."""
        if workload in self.untaken or (model, workload) in self.unserved:
            return False
        source = self.workloads.get(workload)
        return source is None or source.serves(self.models[model])

    def traced(self, phase: Phase, groups: Iterable[tuple[str, str]]) -> float | None:
        """How many arrivals of its trace one schedule of `groups` plays in a phase."""
        played = stream(self.scenario, self.workloads, self.models, phase, groups)
        return None if played is None else float(played.requests(phase))

    def turns(self, workload: str) -> float:
        """Mean number of requests that an arrival of the workload brings."""
        source = self.workloads.get(workload)
        return 1.0 if source is None else source.requests_per_arrival

    @property
    def reach(self) -> Reach:
        """What the workloads say of the plan."""
        return Reach(self.serves, self.traced, self.turns)

    @property
    def destinations(self) -> list[str]:
        """Where requests go, and which key: for who did not write the scenario."""
        if self.scenario.target == "simulator":
            return ["the simulator on this machine, without a key"]
        found: dict[tuple[str, str | None], list[str]] = {}
        for model in self.models.values():
            found.setdefault((model.base_url, model.api_key_env), []).append(model.name)
        return [
            f"{url} {f'with the key in {name}' if name else 'without a key'}: {', '.join(models)}"
            for (url, name), models in found.items()
        ]

    def budget_share(self, shard: Shard) -> dict[str, Any]:
        """This process's part of the limits."""
        limits = self.limits
        return {
            "max_usd": None if limits.max_usd is None else limits.max_usd / shard.count,
            "max_output_tokens": (
                None if limits.max_output_tokens is None
                else limits.max_output_tokens / shard.count
            ),
            "max_requests": (
                None if limits.max_requests is None else share(limits.max_requests, shard)
            ),
        }  # fmt: skip

    def redirect(self, base_url: str) -> None:
        """Point every model at the simulator, which needs no key."""
        self.models = {
            name: replace(model, base_url=base_url, api_key_env=None, api_version=None, auth=None)
            for name, model in self.models.items()
        }
        self.servers = targets(self.scenario, self.models.values())

    def plan(self, user_classes: Iterable[type[Any]], available: Iterable[type[Any]] = ()) -> Plan:
        """Who takes which arrivals. `user_classes` are those that were picked and have tasks;
        the share of the others that are `available` in the locustfile is removed."""
        specs = self.scenario.workloads
        crews: dict[str, dict[str, float]] = {name: {} for name in specs}
        custom = {name: spec.weight for name, spec in specs.items() if spec.kind == "custom"}
        restricted: dict[str, Sequence[str]] = {name: specs[name].models or () for name in custom}
        picked = dict.fromkeys(user_classes)
        for user_class in dict.fromkeys((*picked, *available)):
            name, weight = user_class.__name__, float(user_class.weight)
            mine = {name: weight} if user_class in picked else {}
            if user_class.kind is None:
                crews.setdefault(name, {}).update(mine)
                if name not in specs:
                    custom[name] = weight
                restricted[name] = restricted.get(name) or user_class.models
                continue
            for workload, spec in specs.items():
                if spec.kind == user_class.kind:
                    crews[workload].update(mine)
        return Plan(
            self.scenario, self.models, self.workloads, custom,
            {name: Crew(weights) for name, weights in crews.items()}, restricted,
        )  # fmt: skip


def override_pairs(texts: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """`--set KEY=VALUE` as (key, value). Raises UsageError for one without `=`."""
    pairs = []
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set {redact(text, limit=100)}: expected KEY=VALUE")
        pairs.append((key, value))
    return tuple(pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which scenario, and what the command line changes in it."""

    file: str | None = None
    overrides: Sequence[tuple[str, str]] = ()  # --set, in order
    models: Sequence[str] = ()
    base_url: str | None = None
    rate: str | None = None
    users: int | None = None
    duration: str | None = None
    requests: int | None = None
    seed: int | None = None

    @property
    def free(self) -> bool:
        """Whether nothing was chosen: Locust's own load rules hold."""
        return self == Choice()

    def scenario(self) -> Scenario:
        """The scenario with every change applied.

        Raises:
            UsageError: the file or an option is wrong.
        """
        overrides = list(self.overrides)
        if self.seed is not None:
            overrides.append(("seed", str(self.seed)))
        changes: dict[str, Any] = {
            "rate": self.rate, "users": self.users,
            "duration": self.duration, "requests": self.requests,
        }  # fmt: skip
        if self.file is not None:
            chosen = scenarios.load(Path(self.file), overrides)
            if self.models or self.base_url:
                chosen = scenarios.with_models(chosen, self.models, base_url=self.base_url)
            return scenarios.with_measure(chosen, **changes)
        if not self.models:
            raise UsageError("nothing to run: give a scenario file, or --model with --base-url")
        return scenarios.quick(self.base_url, self.models, **changes, overrides=overrides)


def open_session(
    choice: Choice,
    user_classes: Sequence[type[Any]] = (),
    *,
    host: str | None = None,
    users: int | None = None,
    chosen: Callable[[Scenario], object] = lambda _scenario: None,
) -> Session:
    """Load or imply the scenario and check everything that can be checked without the network.

    `user_classes`, `host` and `users` are Locust's, and imply the scenario where none is chosen.
    `chosen` gets the scenario before vocabularies and data are loaded, which takes 0.3 s.

    Raises:
        UsageError: the scenario, the locustfile or a public host without `target: live`.
        PreflightError: a live model that is shut down.
        DataError: a data file.
    """
    scenario = _implied(user_classes, host, users) if choice.free else choice.scenario()
    chosen(scenario)
    models = {model.name: model for model in map(resolve, scenario.models)}
    keys.refuse_inside(scenario.effective(), models.values(), os.environ)
    workloads = {
        name: build(name, spec, scenario.seed)
        for name, spec in scenario.workloads.items()
        if spec.kind != "custom"
    }
    session = Session(scenario, models, workloads, Limits(), free=choice.free)
    session.notices += _lifecycle(scenario, models.values())
    _check_public(scenario, models.values())
    session.servers = targets(scenario, models.values())
    _check_lengths(session)
    _check_traces(session)
    session.limits = _limits(session)
    if not session.free:
        _check_estimate(session)
        session.notices += limits_planned.notices(
            scenario, models, workloads,
            lambda phase: scenario.expected(phase, session.reach),
        )  # fmt: skip
    return session


def crew_notices(plan: Plan) -> list[str]:
    """Workloads of the scenario that no user class takes."""
    return [
        f"workload {name}: no user class takes it, its share of the load is left out"
        for name, crew in plan.crews.items()
        if not crew.weights
    ]


def _implied(user_classes: Sequence[type[Any]], host: str | None, users: int | None) -> Scenario:
    """The scenario of a plain locustfile: its classes, one closed phase, simulator or --host."""
    names = list(dict.fromkeys(name for cls in user_classes for name in cls.models)) or [FREE_MODEL]
    models: list[Any] = [{"name": name, "base_url": host} for name in names] if host else names
    data = {
        "version": 1,
        "name": "-".join(cls.__name__ for cls in user_classes)[:60] or "locust",
        **({} if host else {"target": "simulator"}),
        "models": models,
        "workloads": {cls.__name__: _workload(cls) for cls in user_classes},
        "load": [{"phase": "measure", "duration": FREE_DURATION, "arrival": "closed",
                  "users": max(1, users or 1)}],
    }  # fmt: skip
    return scenarios.parse(scenario_yaml.write(data), "<locustfile>")


def _workload(user_class: type[Any]) -> dict[str, Any]:
    limits = {"models": list(user_class.models)} if user_class.models else {}
    return {"kind": user_class.kind or "custom", **user_class.workload, **limits}


def _lifecycle(scenario: Scenario, models: Iterable[Model]) -> list[str]:
    """Warnings for deprecated models; a live one that is shut down is refused."""
    notices = []
    for model in models:
        if scenario.target == "simulator" or model.own or model.status == "active":
            continue
        instead = f"; use {model.replacement}" if model.replacement else ""
        if model.status == "shutdown":
            raise PreflightError(
                f"{model.name} was shut down by {model.provider} on {model.status_date}{instead}"
                f" ({model.source})"
            )
        when = f" and ends on {model.status_date}" if model.status_date else ""
        notices.append(f"{model.name} is deprecated{when}{instead}")
    return notices


def _check_public(scenario: Scenario, models: Iterable[Model]) -> None:
    if scenario.target in ("simulator", "live"):
        return
    for model in models:
        if is_public(model.host):
            raise UsageError(
                f"{model.name}: {model.host} is a public host: write `target: live` in the"
                " scenario (or --set target=live) to send load there"
            )


def _check_lengths(session: Session) -> None:
    scenario = session.scenario
    for name, workload in session.workloads.items():
        allowed = scenario.workloads[name].models
        for model in session.models.values():
            if allowed is None or model.name in allowed:
                session.skipped += workload.skipped(model)
        if workload.invalid_skipped:
            lines = "line" if workload.invalid_skipped == 1 else "lines"
            session.notices.append(
                f"workload {name}: {workload.invalid_skipped} invalid {lines} skipped"
            )
    if not any(session.serves(model, workload) for model, workload in scenario.groups):
        raise UsageError(f"nothing can be sent: {'; '.join(session.skipped)}")


def _check_traces(session: Session) -> None:
    """A phase must not ask for more than its trace holds, nor for a stretch without requests."""
    scenario = session.scenario
    for workload in session.workloads.values():
        session.notices += workload.notices() if isinstance(workload, Replay) else ()
    for phase in scenario.load:
        if phase.arrival != "trace":
            continue
        for groups in scenario.mixes(session.serves).values():
            played = stream(scenario, session.workloads, session.models, phase, groups)
            assert played is not None
            wrong, notice = played.shortfall(phase)
            if wrong:
                raise UsageError(f"phase {phase.title}: {wrong}")
            line = f"phase {phase.title}: {notice}"
            if notice and line not in session.notices:
                session.notices.append(line)


def _limits(session: Session) -> Limits:
    """The scenario's budget, or the default one of a public host."""
    scenario, models = session.scenario, session.models.values()
    budget = scenario.budget
    if budget is not None:
        return Limits(budget.max_usd, budget.max_output_tokens, budget.max_requests)
    if scenario.target != "live" or not any(is_public(model.host) for model in models):
        return Limits()
    priced = all(model.priced for model in models if is_public(model.host))
    if priced:
        session.notices.append(f"no budget in the scenario: max_usd {DEFAULT_MAX_USD:.2f} applies")
        return Limits(max_usd=DEFAULT_MAX_USD)
    session.notices.append(
        f"no budget and no known price: max_requests {DEFAULT_MAX_REQUESTS:,} applies"
    )
    return Limits(max_requests=DEFAULT_MAX_REQUESTS)


@dataclass(frozen=True, slots=True)
class Estimate:
    """The most the planned requests can cost at list price, as far as a plan can know."""

    usd: float
    open_ended: tuple[str, ...] = ()  # phases with requests that no plan knows
    unpriced: tuple[str, ...] = ()  # models nobody has a price for

    def __str__(self) -> str:
        if self.unpriced:
            return f"unknown: no price for {', '.join(self.unpriced)}"
        why = "a closed loop by duration, or tasks of custom workloads"
        more = f", and what {', '.join(self.open_ended)} sends ({why})"
        return f"up to {self.usd:.4f} USD at list price{more if self.open_ended else ''}"


def estimate_usd(session: Session) -> Estimate:
    """The most the planned requests can cost: prompts and full output caps at list price.

    Not in it, and named: phases in which the server's speed decides how many requests there are,
    and those with workloads of `kind: custom`, whose tasks say themselves what to send.
    """
    total = 0.0
    open_ended, unpriced = dict[str, None](), dict[str, None]()
    for phase in session.scenario.load:
        planned = session.scenario.expected(phase, session.reach)
        for (name, workload), n in planned.items():
            source = session.workloads.get(workload)
            if n is None or source is None:
                open_ended[phase.title] = None
                continue
            prompt, answer = source.expected_tokens(session.models[name])
            spec = session.scenario.workloads[workload]
            body = spec.extra_body if isinstance(spec, PromptSpec) else {}
            prompt, answer = prompt + beside_tokens(body), answer * answers(body)
            cost = session.models[name].cost_usd(round(prompt), round(answer))
            if cost is None:
                unpriced[name] = None
            total += n * (cost or 0.0)
    return Estimate(total, tuple(open_ended), tuple(unpriced))


def _check_estimate(session: Session) -> None:
    limit = session.limits.max_usd
    if limit is None:
        return
    estimate = estimate_usd(session)
    if estimate.usd > limit:
        raise UsageError(
            f"the plan can cost up to {estimate.usd:.2f} USD, the budget is {limit:.2f}"
            f"{'' if session.scenario.budget else ' (the default)'}: shorten the run or write"
            f" `budget: {{max_usd: {estimate.usd * 1.05:.2f}}}`"
        )
    session.notices.append(f"estimated cost: {estimate}; the run stops at {limit:g} USD")
