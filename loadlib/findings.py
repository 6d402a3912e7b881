"""What one small request tells of a model and its server, and what to do about it. Pure."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from loadlib import quirks
from loadlib.answer import Answer
from loadlib.catalog import Model
from loadlib.charts.numerals import UNKNOWN, count, ms, usd
from loadlib.errors import nearest
from loadlib.sample import Outcome, Sample
from loadlib.sse import Event, EventDecoder, EventTooLongError
from loadlib.tape import Tape

COUNTS_DIFFER = 0.02  # of the prompt: from here on two tokenizers are not the same
HELD_BACK = 0.5  # of the events in one read with others: something gathers them


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One model. Times on the sent clock; `None` is unknown."""

    model: str
    wire: str
    base_url: str
    answered: bool  # the request ended ok
    outcome: str
    error: str | None = None
    status: int | None = None
    http: str | None = None
    connect_ms: float | None = None
    tls_ms: float | None = None
    ttft_ms: float | None = None
    e2e_ms: float | None = None
    streams: bool | None = None
    events: int = 0
    coalesced: int = 0
    role_chunk_first: bool | None = None
    usage_asked: bool = True
    usage_sent: bool = False
    input_tokens: int | None = None
    counted_here: int | None = None
    counted_exactly: bool = False
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    finish_reason: str | None = None
    output_cap: str = "max_tokens"
    rate_limit: dict[str, int] | None = None
    retry_after_ms: int | None = None
    server: str | None = None
    system_fingerprint: str | None = None
    served_model: str | None = None
    service_tier: str | None = None
    listed: bool | None = None
    cost_usd: float | None = None
    remedies: tuple[str, ...] = ()


def find(
    model: Model,
    tape: Tape,
    sample: Sample,
    answer: Answer,
    *,
    counted_here: int | None,
    listed: Sequence[str] | None,
    word: Callable[[object], str | None],
) -> Finding:
    """What is to be known; `word` makes a server's text fit for a terminal."""
    first = first_chunk(tape)
    found = Finding(
        model=model.name, wire=model.wire, base_url=model.base_url,
        answered=sample.outcome is Outcome.OK, outcome=_outcome(sample), error=sample.error,
        status=sample.status, http=tape.http,
        connect_ms=_ms(sample.connect_ns), tls_ms=_ms(sample.tls_ns),
        ttft_ms=_between(sample.sent_ns, sample.first_token_ns),
        e2e_ms=_between(sample.sent_ns, sample.end_ns),
        streams=tape.is_stream if sample.outcome is Outcome.OK else None,
        events=sample.events, coalesced=sample.coalesced,
        role_chunk_first=_is_role(first) if first else None,
        usage_asked=quirks.asks_for_usage(model),
        usage_sent=answer.input_tokens is not None and answer.output_tokens is not None,
        input_tokens=answer.input_tokens, counted_here=counted_here, counted_exactly=model.exact,
        output_tokens=sample.output_tokens, cached_tokens=sample.cached_tokens,
        reasoning_tokens=sample.reasoning_tokens, finish_reason=sample.finish_reason,
        output_cap=quirks.cap_field(model), rate_limit=sample.rate_limit,
        retry_after_ms=sample.retry_after_ms, server=word(tape.headers.get("server")),
        system_fingerprint=word(first.get("system_fingerprint")),
        served_model=word(first.get("model")), service_tier=sample.service_tier,
        listed=None if listed is None else model.wire in listed, cost_usd=sample.cost_usd,
    )  # fmt: skip
    advice = [line for rule in _RULES if (line := rule(found, model, listed or ())) is not None]
    return msgspec.structs.replace(found, remedies=tuple(filter(None, map(word, advice))))


def first_chunk(tape: Tape) -> Mapping[str, Any]:
    """The first JSON object of the response; empty where there is none."""
    decoder = EventDecoder()
    try:
        if not tape.is_stream:
            return _object(Event(b"", tape.body))
        for _, data in tape.plain_reads():
            for event in decoder.feed(data):
                if chunk := _object(event):
                    return chunk
    except (EventTooLongError, zlib.error):
        return {}
    return {}


def _object(event: Event) -> Mapping[str, Any]:
    try:
        found = msgspec.json.decode(event.data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_role(chunk: Mapping[str, Any]) -> bool:
    """Whether a chunk names the role and says nothing yet."""
    choices = chunk.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    delta = choice.get("delta") if isinstance(choice, dict) else None
    return isinstance(delta, dict) and "role" in delta and not delta.get("content")


def _outcome(sample: Sample) -> str:
    return f"{sample.outcome}/{sample.cause}" if sample.cause else str(sample.outcome)


def _ms(ns: int | None) -> float | None:
    return None if ns is None else ns / 1e6


def _between(start_ns: int | None, end_ns: int | None) -> float | None:
    return None if start_ns is None or end_ns is None else (end_ns - start_ns) / 1e6


# -- what to do ------------------------------------------------------------------------------------

Rule = Callable[[Finding, Model, Sequence[str]], str | None]


def _unlisted(found: Finding, _model: Model, listed: Sequence[str]) -> str | None:
    if found.listed is not False or found.answered:
        return None
    return f"GET /models does not list {found.wire!r}{nearest(found.wire, listed)}"


def _in_one_piece(found: Finding, _model: Model, _listed: Sequence[str]) -> str | None:
    if not found.answered or found.streams:
        return None
    return (
        "the answer came in one piece although a stream was asked for: there is no first token to"
        " time; does a proxy gather the answer?"
    )


def _held_back(found: Finding, _model: Model, _listed: Sequence[str]) -> str | None:
    if found.events < 4 or found.coalesced < HELD_BACK * found.events:
        return None
    return (
        f"{found.coalesced} of {found.events} events shared a read with an earlier one: gaps"
        " between tokens cannot be told apart; does the server, or a proxy, gather them?"
    )


def _no_usage(found: Finding, model: Model, _listed: Sequence[str]) -> str | None:
    if not found.answered or found.usage_sent:
        return None
    how = "exactly" if model.exact else "as an estimate"
    if not found.usage_asked:
        return f"no token counts came, nor were asked for: counted here, {how}"
    return f"no token counts came with the stream: counted here, {how}"


def _other_tokenizer(found: Finding, model: Model, _listed: Sequence[str]) -> str | None:
    here, there = found.counted_here, found.input_tokens
    if here is None or there is None or abs(here - there) <= max(1, COUNTS_DIFFER * there):
        return None
    if model.exact:
        return (
            f"the server counts {there} prompt tokens, {here} were counted here: is another model"
            " behind that name, or a system prompt before yours?"
        )
    return f"the server counts {there} prompt tokens, the estimate is {here}: lengths are off by it"


def _throttled(found: Finding, _model: Model, _listed: Sequence[str]) -> str | None:
    if found.retry_after_ms is None or found.answered:
        return None
    return f"the server asks to wait {ms(found.retry_after_ms)}"


_RULES: tuple[Rule, ...] = (
    _unlisted, _in_one_piece, _held_back, _no_usage, _other_tokenizer, _throttled,
)  # fmt: skip


# -- for people ------------------------------------------------------------------------------------


def lines(found: Finding) -> list[str]:
    """A paragraph for the terminal."""
    head = f"{'✓' if found.answered else '✗'} {found.model}  {found.wire} at {found.base_url}"
    rows = [("outcome", found.outcome + (f": {found.error}" if found.error else ""))]
    rows += [("reached", _reached(found))]
    if found.answered:
        rows += [("stream", _stream(found)), ("tokens", _tokens(found))]
        end = f"finish_reason {found.finish_reason or UNKNOWN}, {found.output_cap} accepted"
        rows += [("answer", f"{end}, cost {usd(found.cost_usd)}")]
    rows += [("limits", _limits(found)), ("server", _server(found))]
    told = [f"  {name:<8} {text}" for name, text in rows if text]
    return [head, *told, *(f"  → {line}" for line in found.remedies)]


def _reached(found: Finding) -> str:
    if found.status is None:
        return ""
    listed = {True: "listed in", False: "not listed in", None: "no"}[found.listed]
    parts = [f"HTTP {found.status}", f"HTTP/{found.http}" if found.http else ""]
    parts += [f"connected in {ms(found.connect_ms)}" if found.connect_ms is not None else ""]
    parts += [f"TLS {ms(found.tls_ms)}" if found.tls_ms is not None else "no TLS"]
    return ", ".join(filter(None, (*parts, f"{listed} GET /models")))


def _stream(found: Finding) -> str:
    if not found.streams:
        return f"none: one piece after {ms(found.e2e_ms)}"
    role = "role chunk first, " if found.role_chunk_first else ""
    return (
        f"{found.events} events, {role}{found.coalesced} coalesced;"
        f" TTFT {ms(found.ttft_ms)}, whole {ms(found.e2e_ms)}"
    )


def _tokens(found: Finding) -> str:
    whose = "by the server" if found.usage_sent else "not sent by the server"
    here = f"{'' if found.counted_exactly else '≈'}{count(found.counted_here)} counted here"
    return (
        f"{whose}: {count(found.input_tokens)} in ({here}), {count(found.output_tokens)} out,"
        f" cached {count(found.cached_tokens)}, reasoning {count(found.reasoning_tokens)}"
    )


def _limits(found: Finding) -> str:
    told = found.rate_limit or {}
    parts = [
        f"{count(told.get(f'{what}_remaining'))} of {count(told.get(f'{what}_limit'))}"
        f" {what.replace('_', ' ')} left"
        for what in ("requests", "tokens", "input_tokens", "output_tokens")
        if f"{what}_remaining" in told or f"{what}_limit" in told
    ]
    return ", ".join(parts) or ("no headers about them" if found.status is not None else "")


def _server(found: Finding) -> str:
    parts = (
        found.server,
        f"serves {found.served_model}" if found.served_model else None,
        f"fingerprint {found.system_fingerprint}" if found.system_fingerprint else None,
        f"service tier {found.service_tier}" if found.service_tier else None,
    )
    return ", ".join(filter(None, parts))


def catalogue_lines(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The catalogue as a table of text; `rows` as `Model.describe` gives them."""
    heads = ("name", "provider", "window", "in $/M", "out $/M", "status", "capabilities")
    table = [heads]
    for name, row in rows.items():
        price = row["price"] or {}
        until = f" {row['status_date']}" if row["status_date"] else ""
        instead = f" → {row['replacement']}" if row["replacement"] else ""
        table.append((
            name, row["provider"] or UNKNOWN, count(row["context_window"]),
            usd(price.get("input_usd_per_mtok")), usd(price.get("output_usd_per_mtok")),
            f"{row['status']}{until}{instead}", " ".join(row["capabilities"]),
        ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    right = (2, 3, 4)
    return [
        "  ".join(
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
