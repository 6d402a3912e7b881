"""Keys: values of environment variables, known by name, so that they can be kept out of everything.

A scenario names the variable (`api_key_env`); the value is read where a request is signed, and
here, to be masked wherever somebody else repeats it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Protocol

from loadlib.errors import UsageError

LEAST = 8  # characters: what is shorter stands in harmless texts, too
_NAMES = re.compile(
    r"(?:.*_)?(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)", re.IGNORECASE
)


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
    found = {
        text.strip()
        for name, text in environ.items()
        if _NAMES.fullmatch(name) and len(text.strip()) >= LEAST
    }
    return tuple(sorted(found))


def refuse_inside(text: str, models: Iterable[Named], environ: Mapping[str, str]) -> None:
    """A scenario that holds the very value it should name: nothing about it may look like a key.

    Raises UsageError, which does not repeat it.
    """
    for model in models:
        key = environ.get(model.api_key_env or "", "").strip()
        if len(key) >= LEAST and key in text:
            raise UsageError(
                f"{model.name}: the scenario, or an option, holds the value of"
                f" {model.api_key_env} itself: it would be written into the record; name the"
                " variable only"
            )
