"""Answers as bytes: server-sent events of a stream, or one JSON body. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from loadlib.simulator.answers import Answer, ToolCall

EVENT_STREAM = "text/event-stream; charset=utf-8"
_FINGERPRINT = "fp_loadlib"

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Identity:
    """What every chunk of an answer repeats. `created` is in Unix seconds."""

    answer_id: str
    model: str
    created: int


def usage(
    prompt_tokens: int, completion_tokens: int, reasoning_tokens: int = 0, cached_tokens: int = 0
) -> dict[str, Any]:
    """The `usage` object; reasoning and cached tokens are among the completion's, the prompt's."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": reasoning_tokens, "audio_tokens": 0},
    }


def completion(identity: Identity, answer: Answer, finish: str, counts: Mapping[str, Any]) -> bytes:
    """The body of an answer that is not streamed."""
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.reasoning:
        message["reasoning_content"] = answer.thoughts
    if answer.calls:
        message["content"] = None
        message["tool_calls"] = [_call(call, answer.arguments(call)) for call in answer.calls]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    return _encode(
        {
            "id": identity.answer_id,
            "object": "chat.completion",
            "created": identity.created,
            "model": identity.model,
            "choices": [choice],
            "usage": counts,
            "system_fingerprint": _FINGERPRINT,
        }
    )


class _Span(NamedTuple):
    """Pieces `start` to `end` of an answer, which look alike but for their text.

    `opening`: the event of the first piece, where that is the name of a function.
    """

    start: int
    end: int
    head: bytes
    tail: bytes
    opening: bytes = b""


class Events:
    """The events of one stream, in HTTP chunks where `chunked`, one event a chunk."""

    def __init__(
        self, identity: Identity, answer: Answer, *, include_usage: bool, chunked: bool
    ) -> None:
        self._answer, self._include_usage, self._chunked = answer, include_usage, chunked
        fields = {
            "id": identity.answer_id,
            "object": "chat.completion.chunk",
            "created": identity.created,
            "model": identity.model,
            "system_fingerprint": _FINGERPRINT,
        }
        self._prefix = b"data: " + _encode(fields)[:-1]
        self._no_usage = b',"usage":null' if include_usage else b""
        # Everything around a token is the same for all tokens of a span.
        self._spans = tuple(self._spanned())

    def opening(self) -> bytes:
        """The chunk that carries a role and no token."""
        content = b"null" if self._answer.calls else b'""'
        return self._chunk(b'{"role":"assistant","content":%b,"refusal":null}' % content)

    def tokens(self, start: int, end: int) -> bytes:
        """One chunk for each of the answer's pieces from `start` to `end`."""
        first = self._spans[0]
        if end <= first.end and start >= first.start:
            return self._span(first, start, end)
        return b"".join(
            self._span(span, max(start, span.start), min(end, span.end))
            for span in self._spans
            if span.start < end and start < span.end
        )

    def closing(self, finish: str, counts: Mapping[str, Any]) -> bytes:
        """The reason, usage where it was asked for, `[DONE]`, and the end of the body."""
        parts = [self._chunk(b"{}", finish)]
        if self._include_usage:
            event = b'%b,"choices":[],"usage":%b}\n\n' % (self._prefix, _encode(counts))
            parts.append(self._framed(event))
        parts.append(self._framed(b"data: [DONE]\n\n"))
        return b"".join(parts) + (b"0\r\n\r\n" if self._chunked else b"")

    # --- spans -------------------------------------------------------------------------------

    def _spanned(self) -> Iterator[_Span]:
        answer, total = self._answer, len(self._answer.pieces)
        if answer.reasoning:
            head, tail = self._around(b'{"reasoning_content":"', b'"}')
            yield _Span(0, answer.reasoning, head, tail)
        ends = [*(call.start for call in answer.calls[1:]), total]
        for index, (call, end) in enumerate(zip(answer.calls, ends, strict=False)):
            opening = _encode({"tool_calls": [{"index": index, **_call(call, "")}]})
            before = b'{"tool_calls":[{"index":%d,"function":{"arguments":"' % index
            head, tail = self._around(before, b'"}}]}')
            yield _Span(call.start, end, head, tail, self._chunk(opening))
        if not answer.calls:
            head, tail = self._around(b'{"content":"', b'"}')
            yield _Span(answer.reasoning, total, head, tail)

    def _span(self, span: _Span, start: int, end: int) -> bytes:
        opening = b""
        if start == span.start and span.opening:
            opening = span.opening
            start += 1
        pieces = self._answer.pieces[start:end]
        head, tail = span.head, span.tail
        if not self._chunked:
            return opening + b"".join([head + _escaped(piece) + tail for piece in pieces])
        size = len(head) + len(tail)
        return opening + b"".join(
            [
                b"%x\r\n%b%b%b\r\n" % (size + len(text), head, text, tail)
                for text in map(_escaped, pieces)
            ]
        )

    # --- chunks ------------------------------------------------------------------------------

    def _chunk(self, delta: bytes, finish: str | None = None) -> bytes:
        head, tail = self._around(delta, b"", finish)
        return self._framed(head + tail)

    def _around(
        self, before: bytes, after: bytes, finish: str | None = None
    ) -> tuple[bytes, bytes]:
        head = b'%b,"choices":[{"index":0,"delta":%b' % (self._prefix, before)
        reason = _encode(finish)
        tail = b'%b,"logprobs":null,"finish_reason":%b}]%b}\n\n' % (after, reason, self._no_usage)
        return head, tail

    def _framed(self, event: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(event), event) if self._chunked else event


def _call(call: ToolCall, arguments: str) -> dict[str, Any]:
    function = {"name": call.name, "arguments": arguments}
    return {"id": call.call_id, "type": "function", "function": function}


@lru_cache(maxsize=65536)
def _escaped(piece: str) -> bytes:
    """The inside of a JSON string."""
    return _encode(piece)[1:-1]
