"""What a truth server says, byte for byte, and when: pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

import msgspec

from loadlib.histogram import nearest_rank

NS_PER_MS = 1_000_000
_GOLDEN = 0.6180339887498949  # its multiples modulo 1 fill [0, 1) evenly

_HEAD = (
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
    "x-request-id: {id}\r\n\r\n"
)
_EVENT = (
    '{{"id":"chatcmpl-{id}","object":"chat.completion.chunk","created":1700000000,'
    '"model":"truth","choices":[{choices}]{more}}}'
)
_ROLE = '{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}'
_NEXT = '{"index":0,"delta":{"content":" tok"},"finish_reason":null}'
_STOP = '{"index":0,"delta":{},"finish_reason":"stop"}'
MODELS = b'{"object":"list","data":[{"id":"truth","object":"model","owned_by":"loadlib"}]}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What every stream is like. `gap_ns` 0 sends as fast as the socket takes it."""

    ttft_ns: int = 200 * NS_PER_MS
    gap_ns: int = 20 * NS_PER_MS
    tokens: int = 100
    spread: float = 0.0  # request n has ttft · (1 + spread · u), u fills [-1, 1) evenly over n

    def first_ns(self, number: int) -> int:
        """From arrival to first token of the `number`-th request, ns."""
        u = 2 * ((number * _GOLDEN) % 1.0) - 1
        return round(self.ttft_ns * (1 + self.spread * u))


def event(data: str) -> bytes:
    """One SSE event as one HTTP chunk."""
    body = f"data: {data}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(body), body)


def token(request_id: str) -> bytes:
    """The one content event that is sent again and again."""
    return event(_EVENT.format(id=request_id, choices=_NEXT, more=""))


def opening(request_id: str) -> bytes:
    """Response headers and role chunk: one write."""
    role = event(_EVENT.format(id=request_id, choices=_ROLE, more=""))
    return _HEAD.format(id=request_id).encode() + role


def closing(request_id: str, tokens: int) -> bytes:
    """Finish chunk, usage chunk, [DONE] and the terminal chunk: one write."""
    usage = (
        f',"usage":{{"prompt_tokens":10,"completion_tokens":{tokens},"total_tokens":{tokens + 10}}}'
    )
    return (
        event(_EVENT.format(id=request_id, choices=_STOP, more=""))
        + event(_EVENT.format(id=request_id, choices="", more=usage))
        + event("[DONE]")
        + b"0\r\n\r\n"
    )


def request_line(head: bytes) -> tuple[bytes, int]:
    """(method and path, length of the body) of request headers. Raises ValueError."""
    first, *lines = head.split(b"\r\n")
    words = first.split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
        raise ValueError("not an HTTP/1 request")
    length = 0
    for line in lines:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
        elif name.lower() == b"transfer-encoding":
            raise ValueError("a chunked request")
    if length < 0:
        raise ValueError("a negative Content-Length")
    return b" ".join(words[:2]), length


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """One finished request as its server saw it; instants in ns of CLOCK_MONOTONIC."""

    id: str
    arrival_ns: int  # the kernel received the first segment of the request
    received_ns: int  # … and its last
    first_ns: int  # read immediately before the first token was sent
    last_ns: int  # … and the last one
    events: int  # tokens, one event each

    @property
    def ttft_ns(self) -> int:
        """What a faultless client reports as `sent_ttft`."""
        return self.first_ns - self.arrival_ns


def weighted_quantile(pairs: Iterable[tuple[int, int]], p: float) -> int | None:
    """Nearest rank of (value, count) pairs in any order; None of none."""
    table = sorted((value, count) for value, count in pairs if count > 0)
    if not table:
        return None
    places = list(accumulate(count for _, count in table))
    return table[bisect_left(places, nearest_rank(p, places[-1]))][0]
