"""What stops a run before it harms someone: the budget, and the breakers. Pure; time is given.

The budget counts what was spent and the most that requests in flight can still cost, so it is
overshot by nothing. The breakers read finished samples.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from loadlib import image_tokens, tokens
from loadlib.prompt import Message
from loadlib.sample import Outcome, Sample

THROTTLED_SHARE = 0.5
THROTTLED_WINDOW_NS = 30 * 10**9
THROTTLED_SLOT_NS = 10**8
THROTTLED_AT_LEAST = 3  # requests in the window: one alone is not "more than half for 30 s"
GONE_AFTER = 20  # consecutive failures to connect …
GONE_WINDOW_NS = 10 * 10**9  # … over at least this long


CAP_FIELDS = ("max_tokens", "max_completion_tokens")
BYTES_PER_TOKEN = 3  # at least, in the JSON of a request
BESIDE = ("tools", "functions", "response_format")  # become part of the prompt in their own ways
MOST = 10**9  # of anything a request body asks for


def output_cap(body: Mapping[str, Any]) -> int | None:
    """The most tokens an answer to this request body may have; None where it sets no limit.

    A negative number is no limit to the servers that take one (-1 in llama.cpp).
    """
    caps = [_number(body.get(name)) for name in CAP_FIELDS]
    return max((cap for cap in caps if cap is not None and cap >= 0), default=None)


def answers(body: Mapping[str, Any]) -> int:
    """How many answers a request body asks for: each is generated, and billed."""
    return max(1, _number(body.get("n")) or 1)


def beside_tokens(body: Mapping[str, Any], counted: Collection[str] = ()) -> int:
    """The most prompt tokens of what stands beside the messages, but for what was `counted`.

    How a provider writes it into the prompt is not published: by the length of its JSON.
    """
    found = [body[name] for name in BESIDE if name in body and name not in counted]
    return sum(-(-len(msgspec.json.encode(one)) // BYTES_PER_TOKEN) for one in found)


def most_sent(
    messages: Sequence[Message], encoding: str, wire: str, written: int, beside: int = 0
) -> int:
    """The most prompt tokens of messages nobody counted: as they are counted here, with the
    tokens `beside` them, or by `written`, the length of the whole body in bytes (0: unknown).

    Images are taken out of both, and count as the dearest the model knows.
    """
    bare, images, characters = image_tokens.without_images(messages)
    try:
        counted = tokens.chat_tokens(bare, encoding) + beside
    except ValueError:  # sound, files
        own = len(msgspec.json.encode(messages)) + BYTES_PER_TOKEN * beside
        counted, written = 0, written or own
    by_length = -(-max(0, written - characters) // BYTES_PER_TOKEN)
    return images * image_tokens.most(wire) + max(counted, by_length)


def _number(value: object) -> int | None:
    """`value` as a lenient server would read it."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return math.ceil(max(-1.0, min(float(value), MOST)))
    except (ValueError, OverflowError):
        return None


@dataclass(slots=True)
class Spending:
    """Limits of one process (its share of the scenario's), and what counts against them.

    `None` is no limit. A request of unknown price counts as a request and as tokens.
    """

    max_usd: float | None = None
    max_output_tokens: float | None = None
    max_requests: int | None = None
    usd: float = 0.0
    output_tokens: int = 0
    requests: int = 0
    _reserved: dict[int, tuple[float, int]] = field(default_factory=dict)
    _reserved_usd: float = 0.0  # the sums of it …
    _reserved_tokens: int = 0
    _next: int = 0

    def reserve(self, most_usd: float | None, most_tokens: int) -> int | str:
        """A ticket for one request that may cost at most this, or why it may not be sent."""
        usd = self.usd + self._reserved_usd + (most_usd or 0.0)
        tokens = self.output_tokens + self._reserved_tokens + most_tokens
        if self.max_usd is not None and usd > self.max_usd:
            return f"budget: the next request could pass max_usd {self.max_usd:g}"
        if self.max_output_tokens is not None and tokens > self.max_output_tokens:
            return (
                "budget: the next request could pass "
                f"max_output_tokens {self.max_output_tokens:,.0f}"
            )
        if self.max_requests is not None and self.requests >= self.max_requests:
            return f"budget: max_requests {self.max_requests:,} sent"
        self.requests += 1
        self._next += 1
        self._reserved[self._next] = (most_usd or 0.0, most_tokens)
        self._reserved_usd += most_usd or 0.0
        self._reserved_tokens += most_tokens
        return self._next

    def settle(self, ticket: int, sample: Sample) -> None:
        """The request is over: what it really cost, or its whole reserve where nobody knows."""
        most_usd, most_tokens = self._reserved.pop(ticket)
        self._reserved_tokens -= most_tokens
        # … and with the last one in flight its rounding errors go, too.
        self._reserved_usd = self._reserved_usd - most_usd if self._reserved else 0.0
        if costs_nothing(sample):
            return
        self.usd += most_usd if sample.cost_usd is None else sample.cost_usd
        self.output_tokens += most_tokens if sample.output_tokens is None else sample.output_tokens


def costs_nothing(sample: Sample) -> bool:
    """Never sent, or refused before anything was generated. A timeout may still be billed."""
    refused = (Outcome.THROTTLED, Outcome.REJECTED, Outcome.SERVER_ERROR)
    return sample.sent_ns is None or (sample.outcome in refused and sample.first_token_ns is None)


@dataclass(slots=True)
class _Slot:
    """Requests that ended within a tenth of a second: thousands a second must not be kept."""

    number: int
    last_ns: int = 0
    seen: int = 0
    throttled: int = 0


class Breakers:
    """Watches finished samples; `observe` returns why the run must stop, or None."""

    def __init__(self) -> None:
        self._ends: deque[_Slot] = deque()
        self._seen = 0  # in `_ends` …
        self._throttled = 0  # … and of those, refused
        self._since_ns: int | None = None
        self._unreached = 0
        self._unreached_since_ns = 0

    def observe(self, sample: Sample) -> str | None:
        """Take one sample into account, by its own end instant."""
        if sample.outcome in (Outcome.CANCELLED, Outcome.DROPPED):
            return None
        if sample.status in (401, 403):
            return f"{sample.model}: the server refuses the key (HTTP {sample.status})"
        if sample.outcome is Outcome.THROTTLED and sample.cause == "quota":
            return f"{sample.model}: the quota is exhausted (HTTP {sample.status})"
        return self._throttling(sample) or self._gone(sample)

    def _throttling(self, sample: Sample) -> str | None:
        now, throttled = sample.end_ns, sample.outcome is Outcome.THROTTLED
        self._since_ns = now if self._since_ns is None else self._since_ns
        if not self._ends or self._ends[-1].number != now // THROTTLED_SLOT_NS:
            self._ends.append(_Slot(now // THROTTLED_SLOT_NS))
        slot = self._ends[-1]
        slot.last_ns = max(slot.last_ns, now)
        slot.seen += 1
        slot.throttled += throttled
        self._seen += 1
        self._throttled += throttled
        while self._ends[0].last_ns <= now - THROTTLED_WINDOW_NS:
            old = self._ends.popleft()
            self._seen -= old.seen
            self._throttled -= old.throttled
        full_window = now - self._since_ns >= THROTTLED_WINDOW_NS
        enough = self._seen >= THROTTLED_AT_LEAST
        if full_window and enough and self._throttled > THROTTLED_SHARE * self._seen:
            return "more than half of the requests were throttled for 30 s"
        return None

    def _gone(self, sample: Sample) -> str | None:
        if sample.status is not None or sample.cause not in ("connect", "dns", "tls"):
            self._unreached = 0
            return None
        if self._unreached == 0:
            self._unreached_since_ns = sample.end_ns
        self._unreached += 1
        long_enough = sample.end_ns - self._unreached_since_ns >= GONE_WINDOW_NS
        if self._unreached >= GONE_AFTER and long_enough:
            return f"the target is gone: {sample.error}"
        return None
