"""Models: where they are served, what they cost, what fits, and whether they still exist.

The catalogue's own rows are looked up without touching anything else. Any other model that
`genai-prices` knows (see `prices`) can be named `provider/model`.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from loadlib import prices
from loadlib.errors import UsageError, nearest
from loadlib.scenario_spec import Auth, ModelLimits, ModelSpec, Price

Encoding = Literal["o200k_base", "cl100k_base"]
Status = Literal["active", "deprecated", "shutdown"]
Capability = Literal["vision", "tools", "json_schema"]


@dataclass(frozen=True, slots=True)
class Provider:
    """An OpenAI-compatible endpoint and the variable that holds its key."""

    base_url: str
    api_key_env: str


PROVIDERS: dict[str, Provider] = {
    "openai": Provider("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "google": Provider("https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY"),
    "anthropic": Provider("https://api.anthropic.com/v1", "ANTHROPIC_API_KEY"),
    "cerebras": Provider("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
    "cohere": Provider("https://api.cohere.ai/compatibility/v1", "COHERE_API_KEY"),
    "deepseek": Provider("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    "fireworks": Provider("https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"),
    "groq": Provider("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "mistral": Provider("https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    "moonshotai": Provider("https://api.moonshot.ai/v1", "MOONSHOT_API_KEY"),
    "openrouter": Provider("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "perplexity": Provider("https://api.perplexity.ai", "PERPLEXITY_API_KEY"),
    "together": Provider("https://api.together.xyz/v1", "TOGETHER_API_KEY"),
    "x-ai": Provider("https://api.x.ai/v1", "XAI_API_KEY"),
    "zai": Provider("https://api.z.ai/api/paas/v4", "ZAI_API_KEY"),
}
"""By the id `genai-prices` gives them."""


AZURE_HOSTS = (".openai.azure.com", ".services.ai.azure.com", ".cognitiveservices.azure.com")
AZURE_DEPLOYMENTS = "/openai/deployments/"
"""Each resource has an endpoint of its own; its deployments lie below this."""


@dataclass(frozen=True, slots=True)
class Row:
    """A model known from the first day."""

    name: str
    wire: str
    provider: str
    context_window: int
    encoding: Encoding
    exact: bool  # whether `encoding` is the model's own; else counts are estimates
    capabilities: frozenset[Capability]
    shutdown: date | None = None  # announced or past
    replacement: str | None = None  # as recommended by the provider
    source: str | None = None


_OPENAI = "https://developers.openai.com/api/docs/deprecations"
_GOOGLE = "https://ai.google.dev/gemini-api/docs/deprecations"
_ANTHROPIC = "https://platform.claude.com/docs/en/about-claude/model-deprecations"
_ALL: frozenset[Capability] = frozenset({"vision", "tools", "json_schema"})
_TOOLS: frozenset[Capability] = frozenset({"tools"})

_ROWS = (
    Row(
        name="gpt-4o-mini",
        wire="gpt-4o-mini",
        provider="openai",
        context_window=128_000,
        encoding="o200k_base",
        exact=True,
        capabilities=_ALL,
        shutdown=date(2027, 1, 14),
        replacement="gpt-6-luna",
        source=_OPENAI,
    ),
    Row(
        name="gpt-4o",
        wire="gpt-4o",
        provider="openai",
        context_window=128_000,
        encoding="o200k_base",
        exact=True,
        capabilities=_ALL,
        shutdown=date(2027, 1, 14),
        replacement="gpt-6-luna",
        source=_OPENAI,
    ),
    Row(
        name="gpt-3.5-turbo",
        wire="gpt-3.5-turbo",
        provider="openai",
        context_window=16_385,
        encoding="cl100k_base",
        exact=True,
        capabilities=_TOOLS,
        shutdown=date(2026, 10, 23),
        replacement="gpt-5.6-terra",
        source=_OPENAI,
    ),
    Row(
        name="gpt-4",
        wire="gpt-4",
        provider="openai",
        context_window=8_192,
        encoding="cl100k_base",
        exact=True,
        capabilities=_TOOLS,
        shutdown=date(2026, 10, 23),
        replacement="gpt-5.6-sol",
        source=_OPENAI,
    ),
    Row(
        name="gemini-1.5-flash",
        wire="gemini-1.5-flash",
        provider="google",
        context_window=1_000_000,
        encoding="o200k_base",
        exact=False,
        capabilities=_ALL,
        shutdown=date(2025, 9, 24),
        # Google then named 2.0 and 2.5 Flash, which are off or about to be; this is theirs
        replacement="gemini-3.5-flash-lite",
        source=_GOOGLE,
    ),
    Row(
        name="claude-3-haiku",
        wire="claude-3-haiku-20240307",
        provider="anthropic",
        context_window=200_000,
        encoding="o200k_base",
        exact=False,
        capabilities=frozenset({"vision", "tools"}),
        shutdown=date(2026, 4, 20),
        replacement="claude-haiku-4-5-20251001",
        source=_ANTHROPIC,
    ),
)

CATALOGUE: dict[str, Row] = {row.name: row for row in _ROWS}


@dataclass(frozen=True, slots=True)
class Model:
    """A model of a scenario, resolved: everything needed to call it and to judge the bill."""

    name: str
    wire: str
    provider: str | None
    base_url: str
    api_key_env: str | None  # None: a placeholder is sent
    context_window: int | None
    encoding: Encoding
    exact: bool
    capabilities: frozenset[Capability]
    status: Status = "active"
    status_date: date | None = None  # of the shutdown, announced or past
    replacement: str | None = None
    source: str | None = None
    own: bool = False
    price: Price | None = None  # the user's; else genai-prices is asked
    limits: ModelLimits | None = None  # as the scenario says
    auth: Auth | None = None  # None: as the endpoint's SDK sends it
    api_version: str | None = None  # Azure's, for deployment URLs
    output_cap: str | None = None  # the body's field for it, where the scenario says
    stream_usage: bool | None = None  # whether it is asked for, where the scenario says

    @property
    def host(self) -> str:
        """Host of the endpoint, without port."""
        return urlsplit(self.base_url).hostname or ""

    @property
    def priced(self) -> bool:
        """Whether what a request costs is known."""
        return self.cost_usd(1, 1) is not None

    def cost_usd(
        self,
        input_tokens: int | None,
        output_tokens: int | None,
        cached_tokens: int | None = None,
    ) -> float | None:
        """List price of one request in US dollars; None where price or tokens are unknown.

        `cached_tokens` are those of the input that a prefix cache served. Priced per request,
        because some prices have tiers by prompt length.
        """
        if input_tokens is None or output_tokens is None:
            return None
        if self.price is not None:
            return _own_usd(self.price, input_tokens, output_tokens, cached_tokens or 0)
        if self.provider is None:
            return None
        return prices.usd(
            self.provider,
            self.wire,
            input_tokens,
            output_tokens,
            min(cached_tokens or 0, input_tokens),
        )

    def describe(self) -> dict[str, Any]:
        """JSON-able facts for the summary and for `probe --list`; prices per million tokens."""
        ask, tell = self.cost_usd(1000, 0), self.cost_usd(0, 1000)
        source = "scenario" if self.price is not None else f"genai-prices {prices.data_version()}"
        price = None
        if ask is not None and tell is not None:
            price = {
                "input_usd_per_mtok": round(ask * 1000, 9),
                "output_usd_per_mtok": round(tell * 1000, 9),
                "source": source,
            }
        return {
            "wire": self.wire,
            "provider": self.provider,
            "base_url": self.base_url,
            "host": self.host,
            "api_key_env": self.api_key_env,
            "own": self.own,
            "context_window": self.context_window,
            "encoding": self.encoding,
            "exact": self.exact,
            "capabilities": sorted(self.capabilities),
            "status": self.status,
            "status_date": self.status_date.isoformat() if self.status_date else None,
            "replacement": self.replacement,
            "source": self.source,
            "price": price,
        }


def _own_usd(price: Price, sent: int, got: int, cached: int) -> float:
    cached = 0 if price.cached_usd_per_mtok is None else min(cached, sent)
    full = (sent - cached) * price.input_usd_per_mtok + got * price.output_usd_per_mtok
    return (full + cached * (price.cached_usd_per_mtok or 0.0)) / 1e6


def names() -> tuple[str, ...]:
    """The catalogue's own names, in its order."""
    return tuple(CATALOGUE)


def described(name: str) -> dict[str, Any]:
    """What is known of a model of the catalogue, JSON-able."""
    return resolve(ModelSpec(name=name)).describe()


def resolve(spec: ModelSpec, *, today: date | None = None) -> Model:
    """The model a scenario names. Raises `UsageError`, with the nearest name, if nobody knows it.

    With `base_url` it is the user's own (no key unless named, no price unless given) except where
    the URL is a provider's. `today` (default: UTC) decides whether an announced shutdown is past.
    """
    wire, today = spec.model or spec.name, today or datetime.now(UTC).date()
    if spec.base_url is None:
        found = _from_provider(wire, today)
    else:
        found = _at(spec.base_url, wire, today)
    return replace(
        found,
        name=spec.name,
        base_url=_endpoint(spec, wire) or found.base_url,
        api_key_env=spec.api_key_env or found.api_key_env,
        context_window=spec.context_window or found.context_window,
        price=spec.price,
        limits=spec.limits,
        auth=spec.auth,
        api_version=spec.api_version,
        output_cap=spec.output_cap,
        stream_usage=spec.stream_usage,
    )


def _endpoint(spec: ModelSpec, wire: str) -> str | None:
    """Where requests go; of an Azure resource, to the deployment of the model's name."""
    url = spec.base_url
    if url is None or spec.api_version is None or "/deployments/" in url:
        return url
    return f"{url.removesuffix('/openai')}{AZURE_DEPLOYMENTS}{quote(wire, safe='')}"


def _at(base_url: str, wire: str, today: date) -> Model:
    """A model by the endpoint that serves it."""
    scheme, host, port = _place(base_url)
    if (scheme, port) == ("https", 443) and (host or "").endswith(AZURE_HOSTS):
        return _azure(wire, base_url)
    provider = _provider_at(base_url)
    return _own(wire, base_url) if provider is None else _served(provider, wire, today)


def _from_provider(wire: str, today: date) -> Model:
    """A model by its public name alone: `gpt-4o`, or `provider/model`."""
    if wire in CATALOGUE:
        return _of_row(CATALOGUE[wire], wire, today)
    provider, slash, ref = wire.partition("/")
    if slash and provider in PROVIDERS and ref and prices.info(provider, ref) is not None:
        return _served(provider, ref, today)
    raise UsageError(f"unknown model {wire[:100]!r}{_hint(wire)}")


def _hint(wire: str) -> str:
    """What the name was probably meant to be, and what else would make it known."""
    provider, slash, _ref = wire.partition("/")
    known = [*CATALOGUE, *(name for name in prices.names() if name.partition("/")[0] in PROVIDERS)]
    same = [name for name in known if name.partition("/")[2] == wire]
    guess = f" (did you mean {same[0]!r}?)" if same else nearest(wire, known)
    if slash and provider not in PROVIDERS and prices.knows_provider(provider):
        return f": no OpenAI-compatible endpoint of {provider} is known, give its base_url"
    return f"{guess}; an endpoint of your own needs base_url"


def _served(provider: str, ref: str, today: date) -> Model:
    """`ref` at a provider, as far as the catalogue or genai-prices know it."""
    info = prices.info(provider, ref)
    for row in _ROWS:
        if row.provider != provider:
            continue
        snapshot = info is not None and info is prices.info(provider, row.wire)  # gpt-4o-2024-08-06
        if snapshot or ref in (row.name, row.wire):
            return _of_row(row, ref, today)
    endpoint = PROVIDERS[provider]
    encoding, exact = _encoding(ref) if provider == "openai" else ("o200k_base", False)
    return Model(
        name=ref,
        wire=ref,
        provider=provider,
        base_url=endpoint.base_url,
        api_key_env=endpoint.api_key_env,
        context_window=info.context_window if info is not None else None,
        encoding=encoding,
        exact=exact,
        capabilities=frozenset(),
        status="deprecated" if info is not None and info.deprecated else "active",
        source=f"genai-prices {prices.data_version()}" if info is not None else None,
    )


def _of_row(row: Row, wire: str, today: date) -> Model:
    endpoint = PROVIDERS[row.provider]
    status: Status = "active"
    if row.shutdown is not None:
        status = "shutdown" if today >= row.shutdown else "deprecated"
    return Model(
        name=row.name,
        wire=row.wire if wire == row.name else wire,
        provider=row.provider,
        base_url=endpoint.base_url,
        api_key_env=endpoint.api_key_env,
        context_window=row.context_window,
        encoding=row.encoding,
        exact=row.exact,
        capabilities=row.capabilities,
        status=status,
        status_date=row.shutdown,
        replacement=row.replacement,
        source=row.source,
    )


def _own(wire: str, base_url: str) -> Model:
    """A server of the user's. Named like a catalogue model, it has that model's tokenizer.

    Its provider's key, price and lifecycle are none of its business: a key never goes to a
    host it was not made for.
    """
    row = CATALOGUE.get(wire)
    return Model(
        name=wire,
        wire=wire,
        provider=None,
        base_url=base_url,
        api_key_env=None,
        context_window=row.context_window if row else None,
        encoding=row.encoding if row else "o200k_base",
        exact=row.exact if row else False,
        capabilities=row.capabilities if row else frozenset(),
        own=True,
    )


def _azure(wire: str, base_url: str) -> Model:
    """A deployment, taken for the model it is named like: price, window and tokenizer are its."""
    row, info = CATALOGUE.get(wire), prices.info("azure", wire)
    encoding, exact = _encoding(wire)
    return Model(
        name=wire,
        wire=wire,
        provider="azure",
        base_url=base_url,
        api_key_env="AZURE_OPENAI_API_KEY",
        context_window=row.context_window if row else info.context_window if info else None,
        encoding=encoding,
        exact=exact,
        capabilities=row.capabilities if row else frozenset(),
        source=f"genai-prices {prices.data_version()}" if info is not None else None,
    )


def _provider_at(base_url: str) -> str | None:
    """The provider whose endpoint has exactly this scheme, host and port."""
    place = _place(base_url)
    return next((key for key, row in PROVIDERS.items() if _place(row.base_url) == place), None)


def _place(url: str) -> tuple[str, str | None, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def _encoding(ref: str) -> tuple[Encoding, bool]:
    """OpenAI's encoding of a model, and whether tiktoken knows it (else the current one)."""
    from tiktoken.model import encoding_name_for_model

    try:
        found = encoding_name_for_model(ref)
    except KeyError:
        return "o200k_base", False
    if found == "cl100k_base":
        return "cl100k_base", True
    return "o200k_base", found == "o200k_base"


def is_public(host: str) -> bool:
    """Whether requests to `host` would leave for the public internet.

    Loopback, private and link-local addresses and `localhost`, `*.localhost`, `*.local` are not
    public; every other name is. Nothing is resolved.
    """
    name = host.strip().strip("[]").rstrip(".").lower()
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return not (name == "localhost" or name.endswith((".localhost", ".local")))
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_global
