"""List prices and context windows as `genai-prices` knows them, at a microsecond a request.

Its data is bundled, imported on first use (0.2 s) and never refreshed over the network: its
updater is the one part that talks to the network, and it runs where somebody starts it; nobody
here does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelInfo, ModelPrice


def usd(
    provider: str, ref: str, input_tokens: int, output_tokens: int, cached_tokens: int
) -> float | None:
    """List price of one request now, US dollars; None for a model without a price.

    `cached_tokens` are those of the input that a prefix cache served.
    """
    found = info(provider, ref)
    if found is None:
        return None
    prices = found.get_prices(datetime.now(UTC))  # some begin on a date, some depend on the hour
    tiers = _tiers.get(id(prices))
    if tiers is None:
        tiers = _tiers[id(prices)] = _tiers_of(prices)
    for tier in tiers:
        if input_tokens > tier.over:
            return float(
                tier.request
                + tier.input * input_tokens
                + tier.output * output_tokens
                + tier.cached * cached_tokens
            )
    return None


@dataclass(frozen=True, slots=True)
class _Tier:
    """What a request with more than `over` input tokens costs: US dollars per piece, exact."""

    over: int
    request: Decimal
    input: Decimal
    output: Decimal
    cached: Decimal  # on top of `input`, so below 0


_tiers: dict[int, tuple[_Tier, ...]] = {}
"""By the id of a price of the snapshot, which lives as long as the process."""


def _tiers_of(prices: ModelPrice) -> tuple[_Tier, ...]:
    """The price as one linear function a tier, highest first, as genai-prices itself computes it.

    Asked once for a few requests, because it takes longer to answer than a request may cost us.
    """
    from genai_prices import Usage
    from genai_prices.types import TieredPrices

    def usd(sent: int, got: int = 0, cached: int = 0) -> Decimal:
        usage = Usage(input_tokens=sent, output_tokens=got, cache_read_tokens=cached)
        return prices.calc_price(usage)["total_price"]

    tiered = [price for price in vars(prices).values() if isinstance(price, TieredPrices)]
    starts = {tier.start for price in tiered for tier in price.tiers}
    found = []
    for over in sorted({-1, *starts}, reverse=True):
        base, one_more = usd(over + 1), usd(over + 2)
        rate = one_more - base
        found.append(
            _Tier(
                over=over,
                request=base - rate * (over + 1),
                input=rate,
                output=usd(over + 1, 1) - base,
                cached=usd(over + 2, 0, 1) - one_more,
            )
        )
    return tuple(found)


@cache
def info(provider: str, ref: str) -> ModelInfo | None:
    """What is known of a provider's model, if anything."""
    try:
        return _snapshot().find_provider_model(ref, None, provider, None)[1]
    except LookupError:
        return None


@cache
def data_version() -> str:
    """Version of the package, and so of its data."""
    return version("genai-prices")


def knows_provider(provider: str) -> bool:
    """Whether the provider is known at all, with or without an endpoint we can use."""
    return any(row.id == provider for row in _snapshot().providers)


def names() -> Iterator[str]:
    """Every model, as `provider/model`."""
    for provider in _snapshot().providers:
        for model in provider.models:
            yield f"{provider.id}/{model.id}"


@cache
def _snapshot() -> DataSnapshot:
    from genai_prices.data_snapshot import get_snapshot

    return get_snapshot()
