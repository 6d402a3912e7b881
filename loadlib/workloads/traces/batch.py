"""OpenAI's batch files: whole requests without an instant, each `{"custom_id", …, "body"}`.

A body is kept as it is, but for the model, which is the scenario's, and for what loadlib must set
itself: it streams, and asks for usage.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from loadlib.workloads.traces.row import (
    MAX_TOKENS,
    Format,
    InvalidError,
    Reader,
    Row,
    decoded,
    keys,
)

ENDPOINT = "/chat/completions"
CAPS = ("max_completion_tokens", "max_tokens")
OURS = ("model", "stream", "stream_options")
MAX_NESTING = 64


class _Request(msgspec.Struct):
    body: msgspec.Raw
    url: str = "/v1/chat/completions"
    method: str = "POST"


class _Body(msgspec.Struct):
    messages: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1)]
    max_completion_tokens: int | None = None
    max_tokens: int | None = None


_REQUESTS = msgspec.json.Decoder(_Request)
_BODIES = msgspec.json.Decoder(_Body)
_ANY = msgspec.json.Decoder(dict[str, Any])


def _reader(first: bytes) -> Reader | None:
    found = keys(first).keys()
    return Reader(_row) if "body" in found and found & {"custom_id", "url"} else None


def _row(line: bytes) -> Row:
    request = decoded(_REQUESTS, line)
    if request.method != "POST" or not request.url.endswith(ENDPOINT):
        raise InvalidError(f"expected POST to /v1{ENDPOINT}: other requests are not replayed")
    raw = bytes(request.body)
    if raw.count(b"[") + raw.count(b"{") > MAX_NESTING:
        _refuse_nesting(decoded(_ANY, raw))
    known = decoded(_BODIES, raw)
    if not all(isinstance(message.get("role"), str) for message in known.messages):
        raise InvalidError("body: expected messages with a role")
    caps = [cap for cap in (known.max_completion_tokens, known.max_tokens) if cap is not None]
    if not all(1 <= cap <= MAX_TOKENS for cap in caps):
        raise InvalidError(f"{CAPS[1]}: expected 1 to {MAX_TOKENS:,}")
    return Row(output=min(caps, default=None), body=_kept(raw))


def _kept(raw: bytes) -> bytes:
    """What of a body is sent, without what loadlib sets; also proves that it can be written."""
    body = decoded(_ANY, raw)
    for name in (*OURS, *CAPS):
        body.pop(name, None)
    try:
        return msgspec.json.encode(body)
    except (ValueError, OverflowError, RecursionError):
        raise InvalidError("body: expected text and numbers that JSON can hold") from None


def _refuse_nesting(value: object) -> None:
    layer = [value]
    for _ in range(MAX_NESTING):
        layer = [
            inner
            for outer in layer
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not layer:
            return
    raise InvalidError(f"body: nested more than {MAX_NESTING} deep")


BATCH = Format(
    "OpenAI batch",
    'lines such as {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", '
    '"body": {"messages": […]}}',
    _reader,
    timed=False,
    bodies=True,
)
