"""What the simulator can be told to get wrong: kinds of faults, and which request gets which.

A `Rule` is one fault and the requests it is for; a `Plan` is all of them. What a request gets is
one `Faults` value. Pure and seeded: the same request number gets the same faults again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from loadlib import units


@dataclass(frozen=True, slots=True)
class Instead:
    """What is sent instead of an answer: `status`, `html`, `reset-before` or `close-before`."""

    kind: str
    status: int = 0
    code: str | None = None
    retry_after_s: int | None = None


@dataclass(frozen=True, slots=True)
class Cut:
    """How an answer ends too early: the name of the kind; `code` is that of the error object."""

    kind: str
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Packets:
    """How bytes are put into packets: pieces of `size` (bytes or events), `gap_s` apart."""

    kind: str
    size: int
    gap_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Faults:
    """Everything that is wrong with one answer.

    Delays (seconds) happen between the engine and the wire, and add up: what the engine says is
    due comes that much later. "Middle" is after half of the tokens, at least one. An answer that
    is not streamed is cut, spoiled or delayed in the matching way.
    """

    slow_start_s: float = 0.0  # of the first request of a connection only
    before_headers_s: float = 0.0
    before_first_s: float = 0.0
    after_first_s: float = 0.0
    mid_stream_s: float = 0.0
    instead: Instead | None = None
    cut: Cut | None = None
    packets: Packets | None = None
    malformed: bool = False
    no_done: bool = False
    duplicated_usage: bool = False
    gzip: bool = False
    comment_gap_s: float | None = None
    content_type: str | None = None

    @property
    def stalls_s(self) -> float:
        """All that comes between the headers and the end."""
        return self.before_first_s + self.after_first_s + self.mid_stream_s


NONE = Faults()
_DELAYS = ("slow_start_s", "before_headers_s", "before_first_s", "after_first_s", "mid_stream_s")


# --- the kinds -----------------------------------------------------------------------------------

REQUIRED = object()

MAX_S = 86_400.0


def seconds(value: object) -> float:
    """`2s`, `100ms` → seconds. Raises `ValueError`."""
    found = units.duration_ns(value) / 1e9
    if found > MAX_S:
        raise ValueError("is longer than a day")
    return found


def status(value: object) -> int:
    """An HTTP status that says something went wrong. Raises `ValueError`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 400 <= value < 600:
        raise ValueError("should be a status from 400 to 599")
    return value


def whole_seconds(value: object) -> int:
    """`2s` → 2: what `Retry-After` can say. Raises `ValueError`."""
    found = seconds(value)
    if found != int(found):
        raise ValueError("should be whole seconds, such as 2s")
    return int(found)


def words(value: object) -> str:
    """Printable ASCII: it stands in headers. Raises `ValueError`."""
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or not value:
        raise ValueError("should be plain text")
    return value


def size(value: object) -> int:
    """A whole number, 1 or more. Raises `ValueError`."""
    found = units.count(value)
    if found < 1:
        raise ValueError("should be at least 1")
    return found


Parser = Callable[[object], Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: its options (parser, default) and what they mean for an answer.

    `effect` turns the parsed options into fields of `Faults`. A `process` kind is no matter of
    single requests.
    """

    options: Mapping[str, tuple[Parser, Any]]
    effect: Callable[[dict[str, Any]], dict[str, Any]]
    process: bool = False


def _delay(name: str) -> Kind:
    return Kind({"for": (seconds, REQUIRED)}, lambda options: {name: options["for"]})


def _flag(name: str) -> Kind:
    return Kind({}, lambda _options: {name: True})


def _cut(kind: str) -> Kind:
    return Kind({}, lambda _options: {"cut": Cut(kind)})


def _before(kind: str) -> Kind:
    return Kind({}, lambda _options: {"instead": Instead(kind)})


def _packets(kind: str, pieces: int, gap_s: float | None) -> Kind:
    options: dict[str, tuple[Parser, Any]] = {}
    if kind != "drip":
        options["size"] = (size, pieces)
    if gap_s is not None:
        options["gap"] = (seconds, gap_s)
    return Kind(
        options,
        lambda o: {"packets": Packets(kind, o.get("size", pieces), o.get("gap", 0.0))},
    )


def _answers_status(options: dict[str, Any]) -> dict[str, Any]:
    code, after = options["code"], options["retry_after"]
    return {"instead": Instead("status", options["status"], code, after)}


KINDS: dict[str, Kind] = {
    # late
    "slow-start": _delay("slow_start_s"),
    "stall-before-headers": _delay("before_headers_s"),
    "stall-before-first": _delay("before_first_s"),
    "stall-after-first": _delay("after_first_s"),
    "stall-mid-stream": _delay("mid_stream_s"),
    # instead of an answer
    "status": Kind(
        {
            "status": (status, REQUIRED),
            "code": (words, None),
            "retry_after": (whole_seconds, None),
        },
        _answers_status,
    ),
    "html": Kind(
        {"status": (status, 502)}, lambda options: {"instead": Instead("html", options["status"])}
    ),
    "reset-before": _before("reset-before"),
    "close-before": _before("close-before"),
    # the end, too early
    "empty-stream": _cut("empty-stream"),
    "reset-mid-stream": _cut("reset-mid-stream"),
    "disconnect-mid-stream": _cut("disconnect-mid-stream"),
    "half-close": _cut("half-close"),
    "truncated-chunk": _cut("truncated-chunk"),
    "truncate": _cut("truncate"),
    "error-in-stream": Kind(
        {"code": (words, None)}, lambda o: {"cut": Cut("error-in-stream", o["code"])}
    ),
    # what is said
    "malformed": _flag("malformed"),
    "no-done": _flag("no_done"),
    "duplicated-usage": _flag("duplicated_usage"),
    "comments": Kind({"gap": (seconds, 0.1)}, lambda o: {"comment_gap_s": max(o["gap"], 0.001)}),
    "wrong-type": Kind({"type": (words, "text/plain")}, lambda o: {"content_type": o["type"]}),
    "gzip": _flag("gzip"),
    # how it is packed
    "split-events": _packets("split-events", 7, 0.002),
    "one-packet": _packets("one-packet", 8, None),
    "drip": _packets("drip", 1, 0.1),
    # the whole process
    "freeze": Kind({"for": (seconds, REQUIRED)}, lambda _options: {}, process=True),
}


# --- which request gets which --------------------------------------------------------------------


class Asked(NamedTuple):
    """What rules look at in a completion request.

    `ordinal` counts all of them from 1, `model_ordinal` those of its model. `fresh`: it is the
    first of its connection.
    """

    ordinal: int
    model: str
    model_ordinal: int
    since_first_s: float
    fresh: bool = True


@dataclass(frozen=True, slots=True)
class Rule:
    """One fault, and the completion requests it is for.

    `model`: only those for it, by its name on the wire. `every`: every n-th (of the model's, if
    there is one), counted from 1. `probability`: 0 to 1, drawn by seed. `from_s` and `until_s`:
    only requests that arrive then, counted from the first of all; the end is open. A `freeze`
    happens once, at `from_s`.
    """

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    every: int = 1
    probability: float = 1.0
    from_s: float = 0.0
    until_s: float | None = None
    model: str | None = None

    def effect(self) -> dict[str, Any]:
        """The fields of `Faults` it sets; what `options` leave out has its default."""
        known = KINDS[self.kind].options
        defaults = {name: default for name, (_, default) in known.items()}
        return KINDS[self.kind].effect(defaults | dict(self.options))

    def hits(self, asked: Asked, draw: float) -> bool:
        """Whether a completion request gets it; `draw` is in [0, 1)."""
        if self.model is not None and self.model != asked.model:
            return False
        if self.until_s is not None and asked.since_first_s >= self.until_s:
            return False
        nth = asked.ordinal if self.model is None else asked.model_ordinal
        early = asked.since_first_s < self.from_s
        return not early and nth % self.every == 0 and draw < self.probability


class Plan:
    """All rules, in order of precedence.

    Delays add up. Of two rules that set the same thing (what is sent instead, how an answer
    ends, how it is packed), the first that hits wins; different things happen together, except
    that whatever replaces an answer leaves nothing to be cut or spoiled.
    """

    def __init__(self, rules: Sequence[Rule] = (), seed: int | str = 0) -> None:
        self._seed = seed
        single = [rule for rule in rules if not KINDS[rule.kind].process]
        self._rules = [(number, rule, rule.effect()) for number, rule in enumerate(single)]
        self.freezes = [
            (rule.from_s, float(rule.options["for"])) for rule in rules if rule.kind == "freeze"
        ]

    def of(self, asked: Asked) -> Faults:
        """The faults of a completion request."""
        merged: dict[str, Any] = {}
        for number, rule, effect in self._rules:
            draw = 0.0 if rule.probability >= 1 else self._draw(number, asked.ordinal)
            if not rule.hits(asked, draw):
                continue
            for name, value in effect.items():
                if name in _DELAYS:
                    merged[name] = merged.get(name, 0.0) + value
                else:
                    merged.setdefault(name, value)
        if not asked.fresh:
            merged.pop("slow_start_s", None)
        return Faults(**merged) if merged else NONE

    def _draw(self, number: int, ordinal: int) -> float:
        word = f"{self._seed}/{number}/{ordinal}".encode()
        return int.from_bytes(hashlib.blake2b(word, digest_size=8).digest()) / 2**64
