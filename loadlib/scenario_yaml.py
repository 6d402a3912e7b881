"""YAML 1.2 text → plain data that remembers where each value stands.

Nothing here knows what a scenario is. It refuses what no configuration needs and what can hurt:
duplicate keys, files of megabytes, aliases that expand without end, tags that build objects, and
credentials (which are never echoed).
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from loadlib.errors import ScenarioError
from loadlib.redact import redact

Path = tuple[str | int, ...]
"""Where a value stands: mapping keys and list positions from the top."""

MAX_BYTES = 1 << 18
MAX_VALUES = 20_000  # after aliases are expanded
MAX_DEPTH = 40


@dataclass(slots=True)
class Document:
    """Plain data (dict, list, str, int, float, bool, None), and the line of each value."""

    data: Any
    file: str
    lines: dict[Path, int] = field(default_factory=dict)
    overrides: dict[Path, str] = field(default_factory=dict)  # set from outside, and by what

    def error(self, message: str, path: Path = ()) -> ScenarioError:
        """A `ScenarioError` at the value's line, or at the nearest enclosing one."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.overrides:
                return ScenarioError(f"{self.overrides[path[:end]]}: {message}")
            if path[:end] in self.lines:
                return ScenarioError(message, file=self.file, line=self.lines[path[:end]])
        return ScenarioError(message, file=self.file)

    def line(self, path: Path) -> int:
        """The line `error` would name; 0 for what was set from outside."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.overrides:
                return 0
            if path[:end] in self.lines:
                return self.lines[path[:end]]
        return 0

    def override(self, key: str, text: str, flag: str) -> None:
        """Set the value at a dotted key (`load.1.duration`, positions from 0) to YAML `text`.

        Keys may contain dots themselves: the longest existing key wins. A list may grow by one.
        `flag` names the culprit in errors. Raises `ScenarioError`.
        """
        try:
            value = read(text, flag).data
        except ScenarioError as error:
            raise ScenarioError(str(error).replace(f"{flag}:1: ", f"{flag}: ", 1)) from None
        path = self._locate(key.split("."), flag)
        parent: Any = self.data
        for step in path[:-1]:
            parent = parent[step]
        last = path[-1]
        if isinstance(parent, list) and last == len(parent):
            parent.append(value)
        else:
            parent[last] = value
        for known in [known for known in self.lines if known[: len(path)] == path]:
            del self.lines[known]
        self.overrides[path] = flag
        scan(self)

    def _locate(self, parts: list[str], flag: str) -> Path:
        """The path of a dotted key; mappings missing on the way are created."""
        if not all(parts):
            raise ScenarioError(f"{flag}: an empty name in the key")
        node: Any = self.data
        path: list[str | int] = []
        while parts:
            step, parts = _step(node, parts, flag)
            path.append(step)
            if parts:
                node = _enter(node, step, flag)
        return tuple(path)


def _step(node: Any, parts: list[str], flag: str) -> tuple[str | int, list[str]]:
    """The next step from `node`, and what is left of the dotted key."""
    if isinstance(node, list):
        if parts[0].isdecimal() and len(parts[0]) < 6 and int(parts[0]) <= len(node):
            return int(parts[0]), parts[1:]
        for position, item in enumerate(node):
            if _named(item, ".".join(parts)) or _named(item, parts[0]):
                used = parts if _named(item, ".".join(parts)) else parts[:1]
                return position, parts[len(used) :]
        last = len(node) - 1
        raise ScenarioError(f"{flag}: {parts[0]!r} is not a position (0 … {last}) or a name here")
    if not isinstance(node, dict):
        raise ScenarioError(f"{flag}: there is nothing below to set {parts[0]!r} in")
    for size in range(len(parts), 0, -1):
        if ".".join(parts[:size]) in node:
            return ".".join(parts[:size]), parts[size:]
    return parts[0], parts[1:]


def _named(item: Any, name: str) -> bool:
    return item == name or (isinstance(item, dict) and item.get("name") == name)


def _enter(node: Any, step: Any, flag: str) -> Any:
    if isinstance(node, dict):
        if node.get(step) is None:
            node[step] = {}
    elif step == len(node):
        node.append({})
    if isinstance(node[step], str) and isinstance(node, list):
        node[step] = {"name": node[step]}  # `- gpt-4o` is short for `- {name: gpt-4o}`
    if not isinstance(node[step], (dict, list)):
        raise ScenarioError(f"{flag}: {step!r} holds a single value, nothing can be set inside it")
    return node[step]


def read(text: str, file: str) -> Document:
    """Parse one YAML document. Raises `ScenarioError` with file and line."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise ScenarioError("is larger than 256 KiB: that is not a scenario", file=file)
    try:
        root = YAML(typ="safe", pure=True).compose(io.StringIO(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = redact(error.problem or error.context or "cannot be parsed")
        raise ScenarioError(
            f"not YAML: {problem}", file=file, line=mark.line + 1 if mark else None
        ) from None
    except (YAMLError, ValueError) as error:  # a character YAML does not allow, an odd escape
        reason = redact(str(error).splitlines()[0])
        raise ScenarioError(f"not YAML: {reason}", file=file) from None
    except RecursionError:
        raise ScenarioError("is nested too deeply", file=file) from None
    document = Document(None, file)
    if root is not None:
        document.data = _Builder(document).build(root, (), 0)
    scan(document)
    return document


class _Builder:
    """Nodes → data, counting what aliases multiply."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.values = 0

    def build(self, node: Node, path: Path, depth: int) -> Any:
        self.values += 1
        self.document.lines.setdefault(path, node.start_mark.line + 1)
        if self.values > MAX_VALUES or depth > MAX_DEPTH:
            what = "is nested too deeply" if depth > MAX_DEPTH else "holds too many values"
            raise self.document.error(f"{what} (are there aliases inside aliases?)", path[:1])
        if isinstance(node, MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, SequenceNode):
            return [self.build(item, (*path, i), depth + 1) for i, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: MappingNode, path: Path, depth: int) -> dict[str, Any]:
        built: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, ScalarNode):
                raise ScenarioError("a key must be text", file=self.document.file, line=line)
            key = str(key_node.value)
            if key in built:
                first = self.document.lines[(*path, key)]
                message = f"duplicate key {redact(key, limit=80)!r}, first at line {first}"
                raise ScenarioError(message, file=self.document.file, line=line)
            self.document.lines[(*path, key)] = line
            built[key] = self.build(value_node, (*path, key), depth + 1)
        return built

    def _scalar(self, node: Node, path: Path) -> Any:
        tag, value = str(node.tag).rpartition(":")[2], str(node.value)
        if tag not in _SCALARS:
            raise self.document.error(
                f"the tag {redact(str(node.tag), limit=80)} is not allowed", path
            )
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise self.document.error("holds half a character (a lone surrogate)", path)
        try:
            return _SCALARS[tag](value)
        except (ValueError, OverflowError):
            raise self.document.error(
                f"{redact(value, limit=40)!r} is not a number", path
            ) from None


def _integer(value: str) -> int:
    if len(value) > 40:
        raise ValueError(value)
    text = value.replace("_", "")
    return int(text, 0) if text.lstrip("+-")[:2] in ("0o", "0x", "0b") else int(text)


def _real(value: str) -> float:
    special = value.lower().lstrip("+-")
    if special in (".inf", ".nan"):
        return float(value.lower().replace(".", "", 1))
    return float(value.replace("_", ""))


_SCALARS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "timestamp": str,  # a name may look like a date
    "int": _integer,
    "float": _real,
    "bool": lambda value: value.lower() in ("true", "yes", "on"),  # `%YAML 1.1` allows the others
    "null": lambda _value: None,
}

_KEY_NAMES = frozenset(  # without dashes and underscores
    (
        *("apikey", "xapikey", "authorization", "bearer", "bearertoken", "accesstoken"),
        *("authtoken", "password", "passwd", "secret", "secretkey", "clientsecret"),
    )
)
_KEY_VALUES = (
    # a prefix of a provider and then either a digit among some characters, or many characters
    re.compile(r"\b(?:sk|pk|rk)-(?=[\w-]*\d)[\w-]{8,}|\b(?:sk|pk|rk)-[\w-]{20,}"),
    re.compile(r"\bAIza[\w-]{10,}"),
    re.compile(
        r"\b(?:gh[pousr]|github_pat|hf|gsk|xai|xox[abpr]|r8|nvapi|AKIA)[-_]?[A-Za-z0-9-]{16,}"
    ),
    re.compile(r"\beyJ[\w-]{8,}\.[\w-]{4,}\."),
    re.compile(r"\bbearer\s+(?=\S*\d)[\w.~+/=-]{12,}", re.IGNORECASE),
    re.compile(r"://[^/\s@]*:[^/\s@]+@"),
    re.compile(r"[?&](?:api[-_]?key|key|token|access_token)=[^&\s]{6,}", re.IGNORECASE),
)

_ADVICE = "keys do not belong in a scenario: name the environment variable with api_key_env"


def is_secret(text: str) -> bool:
    """Whether `text` contains something that looks like a credential."""
    return any(pattern.search(text) for pattern in _KEY_VALUES)


def names_secret(key: str) -> bool:
    """Whether a key of this name would hold a credential."""
    return re.sub(r"[-_ ]", "", key).lower() in _KEY_NAMES


def scan(document: Document) -> None:
    """Refuse credentials anywhere in the document, without echoing them."""
    for path, value in _walk(document.data, ()):
        key = path[-1] if path else ""
        if isinstance(key, str) and is_secret(key):
            raise document.error(
                f"a key of this mapping looks like an API key; {_ADVICE}", path[:-1]
            )
        if not isinstance(value, str):
            continue
        if isinstance(key, str) and names_secret(key):
            raise document.error(f"{key} is a literal credential; {_ADVICE}", path)
        if is_secret(value):
            name = f"{key}: " if isinstance(key, str) and key else ""
            raise document.error(f"{name}the value looks like an API key; {_ADVICE}", path)


def _walk(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    yield path, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _walk(inner, (*path, key))
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            yield from _walk(inner, (*path, position))


def write(data: Mapping[str, Any]) -> str:
    """A mapping of plain data → YAML 1.2 that `read` turns into the same data.

    Small values stand on one line (`- {phase: measure, duration: 150s}`); strings are quoted
    wherever YAML would see something else in them.
    """
    return "".join(_block(data, "")) or "{}\n"


def _block(data: Mapping[str, Any] | list[Any], indent: str) -> Iterator[str]:
    items = data.items() if isinstance(data, Mapping) else ((None, item) for item in data)
    for key, value in items:
        head = f"{indent}- " if key is None else f"{indent}{_text(key)}: "
        flow = _flow(value)
        nested = isinstance(value, (Mapping, list)) and value
        top = key is not None and not indent  # a list of phases or models reads best line by line
        if not nested or (len(head) + len(flow) <= _WIDTH and not (top and _is_long(value))):
            yield f"{head}{flow}\n"
        elif key is None:
            lines = "".join(_block(value, indent + "  "))
            yield f"{head}{lines[len(indent) + 2 :]}"
        else:
            yield f"{head.rstrip()}\n"
            yield from _block(value, indent + "  ")


_WIDTH = 100


def _is_long(value: Any) -> bool:
    inner = value.values() if isinstance(value, Mapping) else value
    rich = len(value) > 4 or any(isinstance(item, str) and " " in item for item in inner)
    return rich or any(isinstance(item, (Mapping, list)) for item in inner)


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_text(k)}: {_flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}[repr(value)]
    return repr(value)


_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./%-]*")
_NUMBERISH = re.compile(r"[-+.\d][\d_.eExXoObBa-fA-F+-]*")
_WORDS = frozenset(("true", "false", "null", "yes", "no", "on", "off", "y", "n"))


def _text(value: str) -> str:
    if _PLAIN.fullmatch(value) and not _NUMBERISH.fullmatch(value) and value.lower() not in _WORDS:
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
