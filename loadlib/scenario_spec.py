"""The values a scenario is made of: frozen, validated, free of I/O.

Field names inside carry units (`duration_ns`); the keys people write are their aliases
(`duration: 10s`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, Protocol
from urllib.parse import urlsplit

from pydantic import (
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema

from loadlib.backoff import Backoff
from loadlib.errors import UsageError, nearest
from loadlib.scenario_fields import (
    ApiVersion,
    Count,
    EnvName,
    Name,
    Seconds,
    Share,
    Spec,
    Url,
    Usd,
    as_tuple,
    broken,
)
from loadlib.scenario_phase import Phase
from loadlib.scenario_server import ServerMetrics, check_servers
from loadlib.schedule import expected_requests
from loadlib.slo import Objective, parse, undecidable
from loadlib.workloads import AnySpec, CappedSpec

Auth = Literal["bearer", "api-key"]
"""Which header carries the key."""


class Price(Spec):
    """List price of a model of one's own."""

    input_usd_per_mtok: Usd = Field(description="US dollars per million prompt tokens")
    output_usd_per_mtok: Usd = Field(description="US dollars per million output tokens")
    cached_usd_per_mtok: Usd | None = Field(
        None, description="… per million prompt tokens that a cache served; default: as input"
    )


class ModelLimits(Spec):
    """What the account may ask of a model within a minute."""

    rpm: Count | None = Field(None, description="requests per minute")
    tpm: Count | None = Field(None, description="tokens per minute, prompt and answer together")

    @model_validator(mode="after")
    def _some(self) -> ModelLimits:
        if self.rpm is self.tpm is None:
            raise broken("names no limit: rpm or tpm")
        return self


class ModelSpec(Spec):
    """A catalogue name, or an endpoint of one's own. A plain string is short for `{name: …}`."""

    name: Name = Field(description="a catalogue name, or any name for an endpoint of your own")
    model: Name | None = Field(None, description="what is sent on the wire; default: name")
    base_url: Url | None = Field(
        None, description="OpenAI-compatible endpoint, up to and including /v1"
    )
    api_key_env: EnvName | None = Field(
        None, description="environment variable that holds the key (never the key)"
    )
    context_window: Count | None = Field(None, description="tokens of prompt and answer together")
    price: Price | None = Field(None, description="list price, where no catalogue knows it")
    limits: ModelLimits | None = Field(
        None, description="rate limits; default: what the headers of responses say"
    )
    auth: Auth | None = Field(
        None, description="header of the key; default: bearer, api-key with api_version"
    )
    api_version: ApiVersion | None = Field(
        None, description="of Azure's deployment URLs; base_url is the resource, or a deployment"
    )
    output_cap: Literal["max_tokens", "max_completion_tokens"] | None = Field(
        None, description="the request's field for it; default: as the provider wants it"
    )
    stream_usage: bool | None = Field(
        None, description="false: token counts of streams are not asked for"
    )

    @model_validator(mode="after")
    def _whole(self) -> ModelSpec:
        for key in ("api_version", "auth"):
            if getattr(self, key) is not None and self.base_url is None:
                raise broken("is about an endpoint: give its base_url", key)
        return self

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        schema = handler.resolve_ref_schema(handler(core))
        return {"anyOf": [{"type": "string", "description": "a catalogue name"}, schema]}


class Budget(Spec):
    """What a run may spend in total before it stops itself."""

    max_usd: Annotated[Usd, Field(gt=0)] | None = None
    max_output_tokens: Count | None = None
    max_requests: Count | None = None

    @model_validator(mode="after")
    def _some(self) -> Budget:
        if self.max_usd is self.max_output_tokens is self.max_requests is None:
            raise broken("names no limit: max_usd, max_output_tokens or max_requests")
        return self


class Simulator(Spec):
    """What the server of `target: simulator` is like; options of `loadlib simulate`."""

    profile: str = Field("catalogue", min_length=1, description="a built-in profile, or its file")
    limits: bool = Field(default=False, description="the profile's optional rate limits hold")
    wrong_rate: Share = Field(0.0, description="share of answers that are made wrong")
    reasoning_tokens: int = Field(0, ge=0, description="thoughts before each answer")
    fault: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] = Field(
        (), description="rules of faults: KIND or KIND,key=value,…"
    )
    processes: Count = Field(1, description="servers behind one port")

    @property
    def options(self) -> tuple[str, ...]:
        """As `loadlib simulate` takes them."""
        found = ["--profile", self.profile, "--wrong-rate", f"{self.wrong_rate:.6f}"]
        found += ["--reasoning-tokens", f"{self.reasoning_tokens}"]
        found += ["--processes", f"{self.processes}"]
        found += [part for rule in self.fault for part in ("--fault", rule)]
        return (*found, *(["--limits"] if self.limits else []))


class Timeouts(Spec):
    """How long to wait for what, in seconds."""

    connect_s: Seconds = Field(5.0, alias="connect")
    first_token_s: Seconds = Field(60.0, alias="first_token")
    idle_s: Seconds = Field(30.0, alias="idle")
    total_s: Seconds = Field(300.0, alias="total")


class OnThrottle(Spec):
    """What becomes of a throttled request. A plain word is short for `{policy: …}`."""

    policy: Literal["record", "backoff"] = Field(
        "record", description="backoff: it is tried again after a wait"
    )
    attempts: int = Field(5, ge=2, le=20, description="at most, the first included")
    max_wait_s: Seconds = Field(
        60.0,
        alias="max_wait",
        description="before one attempt; longer ones are not waited for",
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        return {"policy": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _needed(self) -> OnThrottle:
        given = self.model_fields_set - {"policy"}
        if self.policy == "record" and given:
            raise broken("record tries nothing again: needs policy: backoff", min(given))
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        schema = handler.resolve_ref_schema(handler(core))
        return {"anyOf": [{"enum": ["record", "backoff"]}, schema]}

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> Any:
        return self.policy if self.policy == "record" else handler(self)


class Endpoint(Protocol):
    """What of a resolved model decides the order of a run."""

    @property
    def name(self) -> str:
        """As in the scenario."""

    @property
    def base_url(self) -> str:
        """Where it is served."""

    @property
    def own(self) -> bool:
        """Whether it is the user's own server, where models compete for the same machine."""


Group = tuple[str, str]
"""(model, workload)."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What of a plan only its workloads know."""

    serves: Callable[[str, str], bool] = lambda _model, _workload: True
    """Whether requests of a workload reach a model."""
    traced: Callable[[Phase, Iterable[Group]], float | None] = lambda _phase, _groups: None
    """How many arrivals of the trace fall into a phase, for one schedule."""
    turns: Callable[[str], float] = lambda _workload: 1.0
    """Mean number of requests that an arrival of a workload brings."""


class Scenario(Spec):
    """Everything a run needs to know. Equal scenarios make equal runs."""

    version: Literal[1]
    name: Name = "scenario"
    target: Literal["simulator", "live"] | None = Field(
        None, description="live must be written for a public host"
    )
    models: Annotated[tuple[ModelSpec, ...], BeforeValidator(as_tuple), Field(min_length=1)]
    per: Literal["model", "total"] = Field(
        "model", description="whether rate, users and requests hold per model or for all together"
    )
    workloads: Annotated[
        dict[Name, Annotated[AnySpec, Field(discriminator="kind")]], Field(min_length=1)
    ]
    load: Annotated[tuple[Phase, ...], BeforeValidator(as_tuple), Field(min_length=1)]
    order: Literal["auto", "interleaved", "sequential"] = "auto"
    slo: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] = ()
    budget: Budget | None = None
    timeouts: Timeouts = Timeouts()
    on_throttle: OnThrottle = Field(
        OnThrottle(), description="what becomes of requests that a rate limit refuses"
    )
    simulator: Simulator | None = Field(
        None, description="target: simulator: what it is like; default: the catalogue's speeds"
    )
    server_metrics: ServerMetrics = ()
    seed: int = Field(42, ge=0, lt=2**63)
    client: Literal["tape", "sdk"] = Field(
        "tape", description="sdk: the plain SDK path, as the cross-check of the tape"
    )

    @field_validator("slo", mode="before")
    @classmethod
    def _lines(cls, value: object) -> object:
        """`- chat: ttft < 1s` without quotes is a mapping to YAML; it means the same."""
        if value is None:
            return ()
        if isinstance(value, list):
            return [
                f"{key}: {text}"
                if isinstance(item, dict)
                and len(item) == 1
                and isinstance(text := next(iter(item.values())), str)
                and (key := next(iter(item)))
                else item
                for item in value
            ]
        return value

    @field_validator("load")
    @classmethod
    def _phases(cls, phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
        """Unnamed phases get the first free `measure`, `measure-2` …"""
        taken: set[str] = set()
        for position, phase in enumerate(phases):
            if phase.name is not None and phase.name in taken:
                raise broken(f"a second phase named {phase.name!r}", position, "name")
            taken |= {phase.name} if phase.name is not None else set()
        named = []
        for phase in phases:
            name, number = phase.name or phase.kind, 1
            while phase.name is None and name in taken:
                number += 1
                name = f"{phase.kind}-{number}"
            taken.add(name)
            named.append(phase.model_copy(update={"name": name}))
        if not any(phase.kind == "measure" for phase in named):
            raise broken("no phase measures: a scenario of zero requests proves nothing")
        return tuple(named)

    @model_validator(mode="after")
    def _consistent(self) -> Scenario:
        _check_names(self)
        if self.simulator is not None and self.target != "simulator":
            raise broken("goes with target: simulator", "simulator")
        if self.per == "total" and self.order == "sequential":
            reason = "per: total is one schedule for all models, which cannot take turns"
            raise broken(reason, "order")
        _check_workloads(self)
        _check_traces(self)
        _check_slo(self)
        simulated = 0 if self.target != "simulator" else (self.simulator or Simulator()).processes
        own = any(model.base_url is not None for model in self.models)
        check_servers(self.server_metrics, self.model_names, simulated=simulated, own=own)
        return self

    @property
    def model_names(self) -> tuple[str, ...]:
        """In the order of the file."""
        return tuple(model.name for model in self.models)

    @property
    def groups(self) -> tuple[Group, ...]:
        """Every (model, workload) that gets requests, weights of 0 left out."""
        return tuple(
            (model, workload)
            for model in self.model_names
            for workload, spec in self.workloads.items()
            if spec.weight > 0 and (spec.models is None or model in spec.models)
        )

    @property
    def scopes(self) -> frozenset[str]:
        """What may stand before the colon of an SLO line."""
        pairs = (f"{model}/{workload}" for model, workload in self.groups)
        return frozenset({"all", *self.model_names, *self.workloads, *pairs})

    @cached_property
    def objectives(self) -> tuple[Objective, ...]:
        """The SLO lines, parsed."""
        return tuple(objective for line in self.slo for objective in parse(line, self.scopes))

    @property
    def backoff(self) -> Backoff | None:
        """How throttled requests are tried again; None: they are not."""
        rule = self.on_throttle
        if rule.policy == "record":
            return None
        return Backoff(rule.attempts, round(rule.max_wait_s * 1e9), self.seed)

    @property
    def replay(self) -> str | None:
        """The one workload that replays a trace and gets requests; None: there is none, or more."""
        found = [
            name for name, row in self.workloads.items() if row.kind == "replay" and row.weight > 0
        ]
        return found[0] if len(found) == 1 else None

    def mixes(
        self, serves: Callable[[str, str], bool] = lambda _model, _workload: True
    ) -> dict[str | None, dict[Group, float]]:
        """Schedules that run side by side, each with the weights of its (model, workload) pairs.

        One per model with `per: model`, a single one (`None`) with `per: total`. `serves` leaves
        out pairs that cannot run (every length beyond the window); a schedule without any pair
        is left out too.
        """
        mixes: dict[str | None, dict[Group, float]] = {}
        for model, workload in self.groups:
            if serves(model, workload):
                key = model if self.per == "model" else None
                mixes.setdefault(key, {})[model, workload] = self.workloads[workload].weight
        return mixes

    def expected(self, phase: Phase, reach: Reach | None = None) -> dict[Group, float | None]:
        """Requests the phase plans per group; None where the server's speed decides."""
        reach = reach or Reach()
        planned: dict[Group, float | None] = {}
        for weights in self.mixes(reach.serves).values():
            total = expected_requests(phase)
            if total is None and phase.arrival == "trace":
                total = reach.traced(phase, weights)
            for group, weight in weights.items():
                share = weight / sum(weights.values()) * reach.turns(group[1])
                planned[group] = None if total is None else total * share
        return planned

    def stages(self, models: Sequence[Endpoint]) -> tuple[tuple[Phase, tuple[str, ...]], ...]:
        """What runs when: each phase with the models under load in it.

        Interleaved: every phase once, all models side by side, so that drift hits all alike.
        Sequential: all phases for one model, then the next. `auto` is sequential only where two
        models are the user's own on one host: there they would measure each other.
        """
        names = tuple(model.name for model in models)
        if self._sequential(models):
            return tuple((phase, (name,)) for name in names for phase in self.load)
        return tuple((phase, names) for phase in self.load)

    def _sequential(self, models: Sequence[Endpoint]) -> bool:
        if self.order != "auto":
            return self.order == "sequential"
        if self.target == "simulator" or self.per == "total":
            return False
        hosts = [urlsplit(model.base_url).hostname for model in models if model.own]
        return len(hosts) != len(set(hosts))

    def distributions(self) -> Iterator[str]:
        """`chat: output_tokens table azure-conv: mean 210 …`: a line per length that is drawn."""
        for name, spec in self.workloads.items():
            if isinstance(spec, CappedSpec):
                yield from (f"{name}: {line}" for line in spec.distributions())

    def effective(self) -> dict[str, Any]:
        """Every setting as it holds, defaults included, in the form of a scenario file.

        Plain and JSON-able, without secrets (none can get in).
        """
        data: dict[str, Any] = self.model_dump(by_alias=True, mode="json", exclude_none=True)
        data["load"] = [
            phase.tidied(row) for phase, row in zip(self.load, data["load"], strict=True)
        ]
        for workload in data["workloads"].values():
            if not workload.get("extra_body", True):
                del workload["extra_body"]
        return data


def _check_names(scenario: Scenario) -> None:
    seen: set[str] = set()
    for position, name in enumerate(scenario.model_names):
        if name in seen:
            raise broken(f"a second model named {name!r}", "models", position)
        if name == "all" or name in scenario.workloads:
            other = "the scope of everything" if name == "all" else "a workload"
            raise broken(f"{name!r} is also {other}: rename one", "models", position)
        seen.add(name)
    if "all" in scenario.workloads:
        raise broken("'all' is the scope of everything: rename it", "workloads", "all")
    taken = dict.fromkeys([*scenario.model_names, *scenario.workloads], "a name of its own")
    for model, workload in scenario.groups:
        pair = f"{model}/{workload}"
        if pair in taken:
            raise broken(f"{pair!r} is ambiguous: {taken[pair]} and {model!r} with {workload!r}")
        taken[pair] = f"{model!r} with {workload!r}"


def _check_workloads(scenario: Scenario) -> None:
    known = scenario.model_names
    for name, workload in scenario.workloads.items():
        for position, model in enumerate(workload.models or ()):
            if model not in known:
                message = f"unknown model {model!r}{nearest(model, known)}"
                raise broken(message, "workloads", name, "models", position)
    if all(workload.weight == 0 for workload in scenario.workloads.values()):
        raise broken("every weight is 0: a scenario of zero requests proves nothing", "workloads")
    sent = {workload.kind for workload in scenario.workloads.values() if workload.weight > 0}
    if sent == {"custom"} and scenario.on_throttle.policy == "backoff":
        reason = "what tasks send is not tried again, and every workload is kind: custom"
        raise broken(reason, "on_throttle")
    busy = {model for model, _workload in scenario.groups}
    for position, model in enumerate(known):
        if model not in busy:
            raise broken(f"no workload sends anything to {model!r}", "models", position)


def _check_traces(scenario: Scenario) -> None:
    for position, phase in enumerate(scenario.load):
        if phase.arrival == "trace" and scenario.replay is None:
            raise broken(
                "arrival: trace needs exactly one workload of kind: replay, whose file says when",
                *("load", position, "arrival"),
            )


def _check_slo(scenario: Scenario) -> None:
    parsed: list[Objective] = []
    origin: list[int] = []
    for position, line in enumerate(scenario.slo):
        try:
            objectives = parse(line, scenario.scopes)
        except UsageError as error:
            raise broken(str(error), "slo", position) from None
        parsed += objectives
        origin += [position] * len(objectives)
    for objective, reason in undecidable(parsed, scenario.groups):
        raise broken(reason, "slo", origin[parsed.index(objective)])
