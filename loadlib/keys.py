"""Keys: values of environment variables, known by name, so that they can be kept out of everything.

A scenario names the variable (`api_key_env`); the value is read where a request is signed, and
here, to be masked wherever somebody else repeats it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from loadlib.errors import UsageError

LEAST = 8  # characters: what is shorter stands in harmless texts, too …
LEAST_LIKELY = 12  # … and of a variable nobody named, more than `postgres` or `password`
_NAMES = re.compile(
    r"(?:.*_)?(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)", re.IGNORECASE
)
_MENTIONED = re.compile(r"api_key_env[\"']?\s*[:=]\s*[\"']?([A-Za-z_][A-Za-z0-9_]{0,99})")


class Named(Protocol):
    """A resolved model: which variable holds its key."""

    @property
    def name(self) -> str:
        """As in the scenario."""

    @property
    def api_key_env(self) -> str | None:
        """None: it needs none."""


def named(models: Iterable[Named], environ: Mapping[str, str]) -> tuple[str, ...]:
    """The keys that requests are signed with."""
    names = dict.fromkeys(model.api_key_env for model in models if model.api_key_env)
    return tuple(key for name in names if (key := environ.get(name, "").strip()))


def likely(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Values of all variables that are called as if they held a key, whoever needs them."""
    return tuple(dict.fromkeys(text for _, text in _likely(environ)))


def mentioned(text: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Values of variables that a text calls `api_key_env`, before anybody has understood it."""
    names = dict.fromkeys(_MENTIONED.findall(text))
    return tuple(key for name in names if (key := environ.get(name, "").strip()))


def refuse_inside(data: Any, models: Iterable[Named], environ: Mapping[str, str]) -> None:
    """A scenario that holds the very value it should name: nothing about it may look like a key.

    `data` is plain. Raises UsageError, which names the variable and does not repeat its value.
    """
    wanted = [(name, environ.get(name, "").strip()) for m in models if (name := m.api_key_env)]
    known = [(name, key) for name, key in (*wanted, *_likely(environ)) if len(key) >= LEAST]
    for text in _texts(data) if known else ():
        for name, key in known:
            if key in text:
                raise UsageError(
                    f"the scenario, or an option, holds the value of the variable {name}: it would"
                    " be written into the record; name the variable (api_key_env), not its value"
                )


def _texts(data: Any) -> Iterator[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, dict):
        for key, value in data.items():
            yield from (str(key), *_texts(value))
    elif isinstance(data, list):
        for value in data:
            yield from _texts(value)


def _likely(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    return [
        (name, text.strip())
        for name, text in sorted(environ.items())
        if _NAMES.fullmatch(name) and len(text.strip()) >= LEAST_LIKELY
    ]
