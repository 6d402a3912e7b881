"""One finished attempt: what was sent when, what came back when, and how it ended.

A `Sample` is flat (but for `rate_limit`) and its field names are the fields of
`requests.jsonl.gz`, so that a line of that file *is* a sample. All `*_ns` instants are nanoseconds
on one clock: monotonic inside a process, Unix epoch in files (`Sample.shifted`). `None` means
unknown and never becomes 0.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec


class Outcome(StrEnum):
    """How an attempt ended. `Sample.cause` says more (which timeout, before or after …)."""

    OK = "ok"
    THROTTLED = "throttled"  # 429, 529
    REJECTED = "rejected"  # other 4xx
    SERVER_ERROR = "server_error"  # 5xx, or an error object inside the stream
    TIMEOUT = "timeout"  # cause: connect | first_token | idle | total
    DISCONNECTED = "disconnected"  # cause: connect | tls | before_first_token | after_first_token
    MALFORMED = "malformed"  # not HTTP, not SSE, not JSON
    TRUNCATED = "truncated"  # the body ended properly, the answer did not
    CANCELLED = "cancelled"  # we stopped it; neither success nor failure
    DROPPED = "dropped"  # never sent: the concurrency ceiling was reached for too long

    @property
    def sent(self) -> bool:
        """Whether an attempt with this outcome counts as sent."""
        return self is not Outcome.DROPPED

    @property
    def failed(self) -> bool:
        """Whether it counts as failed (throttled included; cancelled and dropped not)."""
        return self not in (Outcome.OK, Outcome.CANCELLED, Outcome.DROPPED)


# Rows are read from files of others, too: no number there is larger than one can be.
Ns = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Count = Annotated[int, msgspec.Meta(ge=0, le=10**12)]


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt. Latencies derived from it are the rows of `metrics.CATALOGUE`."""

    index: Count  # ordinal of the arrival within (phase, model); attempts share it
    phase: str
    model: str  # the name in the scenario
    workload: str
    outcome: Outcome

    intended_ns: Ns  # the instant the schedule says the request begins
    sent_ns: Ns | None = None  # first byte of the request handed to the kernel
    flushed_ns: Ns | None = None  # last byte of the request handed to the kernel
    first_byte_ns: Ns | None = None  # first byte of the response
    first_token_ns: Ns | None = None  # first generated token of any kind
    first_output_ns: Ns | None = None  # first token of the answer proper (no reasoning)
    first_call_ns: Ns | None = None  # first piece of a tool call
    second_token_ns: Ns | None = None
    last_token_ns: Ns | None = None
    end_ns: Ns  # the attempt was over

    status: Count | None = None  # HTTP status
    cause: str | None = None  # a short machine word that refines `outcome`
    error: str | None = None  # redacted, at most 200 characters, for people
    finish_reason: str | None = None

    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cached_tokens: Count | None = None
    reasoning_tokens: Count | None = None
    tokens_source: str | None = None  # server | local | estimate; None where all are unknown
    reserved_tokens: Count | None = None  # prompt and output cap, as a rate limit counts them
    asked_tokens: Count | None = None  # prompt tokens the scenario asked for
    cut_tokens: Count | None = None  # what it was cut to so that the answer fits the window

    events: Count = 0  # content events of the stream
    coalesced: Count = 0  # … that shared a network read with an earlier one
    longest_gap_ns: Ns | None = None  # between two successive ones; None where there are no two
    connect_ns: Ns | None = None  # duration of TCP connect; None on a reused connection
    tls_ns: Ns | None = None  # duration of the TLS handshake, likewise
    conn_reused: bool | None = None
    attempt: Count = 1
    retried: bool = False  # another attempt of the same request follows
    request_id: str | None = None  # the server's
    service_tier: str | None = None  # that served it, where the server says
    retry_after_ms: Count | None = None  # how long the server asks to wait
    rate_limit: dict[str, Count] | None = None  # what its headers say: see `limit_headers.read`
    prompt_sha: str | None = None  # first 16 hex digits of the SHA-256 of the request body
    prompt_bytes: Count | None = None
    turn: Count = 1  # of a conversation; later turns have the index of the first
    variant: str | None = None  # which sort of the workload's prompts
    quality: bool | None = None  # the workload's checker; None where nothing was checked
    flaw: str | None = None  # why not: refused | empty | truncated | invalid | wrong
    score: float | None = None  # the share of the answer's parts that are right, 0…1
    cost_usd: float | None = None

    @property
    def made(self) -> bool:
        """Whether it was tried at all. An attempt that its request waited for in vain was not,
        though it says how the request ended."""
        waited = self.attempt > 1 and self.sent_ns is None
        in_vain = self.outcome is Outcome.CANCELLED or self.cause == "ceiling"
        return self.outcome is not Outcome.DROPPED and not (waited and in_vain)

    def shifted(self, offset_ns: int) -> Sample:
        """The same sample with every instant moved by `offset_ns` (monotonic → epoch)."""
        moved = {
            name: value + offset_ns
            for name in INSTANTS
            if (value := getattr(self, name)) is not None
        }
        return msgspec.structs.replace(self, **moved)


INSTANTS = (
    "intended_ns",
    "sent_ns",
    "flushed_ns",
    "first_byte_ns",
    "first_token_ns",
    "first_output_ns",
    "first_call_ns",
    "second_token_ns",
    "last_token_ns",
    "end_ns",
)


class Brief(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What charts read of an attempt; all else in its line is passed over. See `Sample`."""

    phase: str
    model: str
    workload: str
    outcome: Outcome
    intended_ns: Ns
    sent_ns: Ns | None = None
    first_token_ns: Ns | None = None
    last_token_ns: Ns | None = None
    end_ns: Ns
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cached_tokens: Count | None = None
    retried: bool = False
