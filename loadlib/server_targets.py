"""Which servers' metrics are read: `server_metrics:` with the endpoints of the models. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

import msgspec

from loadlib.catalog import Model, is_public
from loadlib.errors import UsageError
from loadlib.scenario import Scenario
from loadlib.scenario_server import PATH, ServerSpec, title_of

SIMULATOR = "simulator"


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One server: its page of metrics, the models it serves, and how often it is asked."""

    name: str
    url: str
    models: tuple[str, ...]
    every_ns: int = 1_000_000_000
    api_key_env: str | None = None


def targets(scenario: Scenario, models: Iterable[Model]) -> tuple[Target, ...]:
    """Every server once, in the order of the scenario.

    Raises:
        UsageError: a public host without `target: live`; no endpoint to derive a page from.
    """
    served = list(models)
    named = {spec.url for spec in scenario.server_metrics}
    found: list[Target] = []
    for spec in scenario.server_metrics:
        if spec.url is not None:
            names = spec.models or _serves(spec.url, served)
            found.append(_target(spec, spec.url, spec.title or "", names))
            continue
        for url, names in _derived(scenario, spec, served).items():
            if url not in named:
                title = SIMULATOR if scenario.target == "simulator" else title_of(url)
                found.append(_target(spec, url, title, names))
    for target in found:
        host = urlsplit(target.url).hostname or ""
        if scenario.target is None and is_public(host):
            raise UsageError(
                f"server_metrics: {host} is a public host: write `target: live` in the scenario"
                " (or --set target=live) to read from it"
            )
    return tuple(found)


def _target(spec: ServerSpec, url: str, title: str, models: Sequence[str]) -> Target:
    return Target(
        name=title,
        url=url,
        models=tuple(models),
        every_ns=round(spec.every_s * 1e9),
        api_key_env=spec.api_key_env,
    )


def _serves(url: str, models: Sequence[Model]) -> list[str]:
    """The models at the same host and port; all of them where none is."""
    place = urlsplit(url).netloc
    here = [model.name for model in models if urlsplit(model.base_url).netloc == place]
    return here or [model.name for model in models]


def _derived(scenario: Scenario, spec: ServerSpec, models: Sequence[Model]) -> dict[str, list[str]]:
    """`/metrics` of the endpoints → the models there. Providers have none."""
    found: dict[str, list[str]] = {}
    for model in models:
        own = model.own or scenario.target == "simulator"
        if own and (spec.models is None or model.name in spec.models):
            parts = urlsplit(model.base_url)
            found.setdefault(f"{parts.scheme}://{parts.netloc}{PATH}", []).append(model.name)
    if not found:
        raise UsageError(
            "server_metrics: none of the models is served by an endpoint of your own, and"
            " providers have no metrics: give the url of the server"
        )
    return found
