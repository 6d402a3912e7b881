"""`server_metrics:` of a scenario: the servers whose own figures are read while load runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic_core import CoreSchema

from loadlib.errors import nearest
from loadlib.scenario_fields import EnvName, Name, Names, Seconds, Spec, broken

PATH = "/metrics"
EVERY_S = (0.1, 60.0)  # the least and the most


def _page(value: str) -> str:
    """The URL of a metrics page; without a path it is the usual one."""
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not re.fullmatch(r"[!-~]+", value):
        raise ValueError("should be a URL such as http://127.0.0.1:8000/metrics")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("should be a URL without user, password, query or fragment")
    return value if parts.path.strip("/") else f"{parts.scheme}://{parts.netloc}{PATH}"


def _period(value: float) -> float:
    if not EVERY_S[0] <= value <= EVERY_S[1]:
        raise ValueError("should be from 100ms to 1m")
    return value


class ServerSpec(Spec):
    """One server, or with no `url` those that serve the models. A plain URL is short for
    `{url: …}`."""

    url: Annotated[str, AfterValidator(_page)] | None = Field(
        None, description="its metrics page; default: /metrics of the models' own endpoints"
    )
    name: Name | None = Field(None, description="default: host and port of the url")
    models: Names | None = Field(
        None, description="which it serves; default: those at its host and port, else all"
    )
    every_s: Annotated[Seconds, AfterValidator(_period)] = Field(
        1.0, alias="every", description="how often it is read; 100ms to 1m"
    )
    api_key_env: EnvName | None = Field(
        None, description="environment variable that holds a bearer token (never the token)"
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        return {"url": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one(self) -> ServerSpec:
        if self.name is not None and self.url is None:
            raise broken("is of one server: give its url", "name")
        return self

    @property
    def title(self) -> str | None:
        """What it is called everywhere; None where several may stand behind it."""
        return self.name or (None if self.url is None else title_of(self.url))

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        schema = handler.resolve_ref_schema(handler(core))
        return {"anyOf": [{"type": "string", "description": "the URL of its metrics"}, schema]}


def title_of(url: str) -> str:
    """`127.0.0.1:8000`, with the path where it is not the usual one."""
    parts = urlsplit(url)
    return parts.netloc + ("" if parts.path == PATH else parts.path)


def _listed(value: object) -> object:
    """`true` is one entry without a word, `false` none; a single entry needs no list."""
    if value is None or isinstance(value, bool):
        return ({},) if value else ()
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


class _Schema:
    """What editors are told: every form that `_listed` takes."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        many = handler(core)
        return {"anyOf": [{"type": "boolean"}, many["items"], many]}


ServerMetrics = Annotated[tuple[ServerSpec, ...], BeforeValidator(_listed), _Schema]


def check_servers(
    servers: Sequence[ServerSpec], models: Sequence[str], *, simulated: int, own: bool
) -> None:
    """What the rest of the scenario says against it: `simulated` is the number of processes of
    `target: simulator`, else 0, `own` whether any model has an endpoint of its own.

    Raises what pydantic makes an error of.
    """
    taken: list[str | None] = []
    for position, server in enumerate(servers):
        here = ("server_metrics", position)
        for place, model in enumerate(server.models or ()):
            if model not in models:
                reason = f"unknown model {model!r}{nearest(model, models)}"
                raise broken(reason, *here, "models", place)
        if server.title in taken:
            what = "entry without url" if server.title is None else f"server named {server.title!r}"
            raise broken(f"a second {what}", *here)
        taken.append(server.title)
        for wrong, reason in _WRONG:
            if wrong(server, simulated, own):
                raise broken(reason, *here, *(["url"] if server.url else []))


_WRONG: tuple[tuple[Callable[[ServerSpec, int, bool], bool], str], ...] = (
    (
        lambda server, simulated, _own: bool(server.url and simulated),
        "target: simulator has metrics of its own: write server_metrics: true",
    ),
    (
        lambda _server, simulated, _own: simulated > 1,
        "each of simulator.processes counts for itself, and one answers: needs processes: 1",
    ),
    (
        lambda server, simulated, own: not (server.url or simulated or own),
        "no model has a base_url, and providers have no metrics: give the url of the server",
    ),
)
"""Whether an entry cannot be, by the number of simulated processes and whether a model has an
endpoint of its own; and what is said then."""
