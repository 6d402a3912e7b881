"""Rules of faults as people write them: a YAML file, or one rule as an option."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loadlib import scenario_yaml
from loadlib.errors import ScenarioError, UsageError, nearest
from loadlib.simulator.faults import KINDS, REQUIRED, Kind, Rule, seconds, size, words

WHEN = ("every", "probability", "from", "until", "model")


def read(path: str) -> list[Rule]:
    """The rules of a file. Raises `UsageError`, with file and line where it is about a place."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"cannot read faults {path!r}: {reason}") from None
    document = scenario_yaml.read(text, path)
    data = document.data
    if not isinstance(data, dict):
        raise document.error("should be a mapping with one key, faults")
    for key in data:
        if key != "faults":
            raise document.error(f"unknown key {key!r}{nearest(key, ('faults',))}", (key,))
    rules = data.get("faults")
    if not isinstance(rules, list):
        raise document.error("faults: should be a list of rules, each with a kind", ("faults",))
    return [_Reader(document, ("faults", i)).rule(one) for i, one in enumerate(rules)]


def parse(text: str) -> Rule:
    """One rule as an option says it: `KIND` or `KIND,key=value,…`. Raises `UsageError`."""
    flag = f"--fault {text}"
    kind, *pairs = (part.strip() for part in text.split(","))
    lines = [f"kind: {kind}"]
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign:
            raise UsageError(f"{flag}: {pair!r} should be key=value")
        lines.append(f"{key}: {value}")
    try:
        document = scenario_yaml.read("\n".join(lines), flag)
        return _Reader(document, ()).rule(document.data)
    except ScenarioError as error:
        message = str(error)
        if error.line is not None:  # there is no line in an option
            message = message.replace(f"{flag}:{error.line}:", f"{flag}:", 1)
        raise UsageError(message) from None


class _Reader:
    """One rule of a document, naming the line of what is wrong."""

    def __init__(self, document: scenario_yaml.Document, path: scenario_yaml.Path) -> None:
        self._document, self._path = document, path

    def rule(self, data: Any) -> Rule:
        if isinstance(data, str):
            data = {"kind": data}
        if not isinstance(data, dict):
            raise self._wrong("a fault is a mapping with a kind")
        name = data.get("kind")
        if name is None:
            raise self._wrong("a fault needs a kind")
        if not isinstance(name, str) or name not in KINDS:
            close = nearest(str(name), KINDS)
            raise self._wrong(f"{str(name)[:60]!r} is no kind of fault{close}", "kind")
        kind = KINDS[name]
        self._check_keys(name, kind, data)
        return Rule(name, dict(self._options(name, kind, data)), **self._when(data))

    def _check_keys(self, name: str, kind: Kind, data: dict[str, Any]) -> None:
        when = ("from",) if kind.process else WHEN
        known = ("kind", *when, *kind.options)
        for key in data:
            if key not in known:
                raise self._wrong(f"{name} has no key {key!r}{nearest(key, known)}", key)

    def _options(self, name: str, kind: Kind, data: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        for key, (parser, default) in kind.options.items():
            if key in data:
                yield key, self._parsed(key, parser, data[key])
            elif default is REQUIRED:
                raise self._wrong(f"{name} needs {key!r}")

    def _when(self, data: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, name, parser in (
            ("every", "every", size),
            ("probability", "probability", share),
            ("from", "from_s", seconds),
            ("until", "until_s", seconds),
            ("model", "model", words),
        ):
            if key in data:
                found[name] = self._parsed(key, parser, data[key])
        if found.get("until_s", 1e9) <= found.get("from_s", 0.0):
            raise self._wrong("until should be later than from", "until")
        return found

    def _parsed(self, key: str, parser: Any, value: Any) -> Any:
        try:
            return parser(value)
        except ValueError as error:
            raise self._wrong(f"{key}: {error}", key) from None

    def _wrong(self, message: str, key: str | None = None) -> ScenarioError:
        return self._document.error(message, (*self._path, key) if key else self._path)


def share(value: object) -> float:
    """`5 %`, 0.05 → 0.05. Raises `ValueError`."""
    text = str(value).strip()
    number, percent = text.removesuffix("%"), text.endswith("%")
    try:
        found = float(number) / (100 if percent else 1)
    except ValueError:
        found = -1.0
    if isinstance(value, bool) or not 0 <= found <= 1:
        raise ValueError("should be a share such as 0.05 or 5 %")
    return found
