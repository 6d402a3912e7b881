"""Answers as bytes: server-sent events of a stream, or one JSON body. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

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


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    """The `usage` object."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def completion(
    identity: Identity, answer: Answer, finish: str | None, counts: Mapping[str, Any]
) -> bytes:
    """The body of an answer that is not streamed."""
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.call is not None:
        message["content"] = None
        message["tool_calls"] = [_call(answer.call, answer.text)]
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


class Events:
    """The events of one stream, in HTTP chunks where `chunked`, one event a chunk."""

    def __init__(
        self, identity: Identity, call: ToolCall | None, *, include_usage: bool, chunked: bool
    ) -> None:
        self._call, self._include_usage, self._chunked = call, include_usage, chunked
        fields = {
            "id": identity.answer_id,
            "object": "chat.completion.chunk",
            "created": identity.created,
            "model": identity.model,
            "system_fingerprint": _FINGERPRINT,
        }
        self._prefix = b"data: " + _encode(fields)[:-1]
        self._no_usage = b',"usage":null' if include_usage else b""
        before, after = b'{"content":"', b'"}'
        if call is not None:
            before = b'{"tool_calls":[{"index":0,"function":{"arguments":"'
            after = b'"}}]}'
        # Everything around a token is the same for all tokens of a stream.
        self._head, self._tail = self._around(before, after)

    def opening(self) -> bytes:
        """The chunk that carries a role and no token."""
        content = b'""' if self._call is None else b"null"
        return self._chunk(b'{"role":"assistant","content":%b,"refusal":null}' % content)

    def tokens(self, pieces: Sequence[str], first: bool) -> bytes:
        """One chunk for each piece; `first`: the first of them is the answer's first."""
        opening = b""
        if first and self._call is not None:
            start = {"index": 0, **_call(self._call, "")}
            opening = self._chunk(_encode({"tool_calls": [start]}))
            pieces = pieces[1:]
        head, tail = self._head, self._tail
        if not self._chunked:
            return opening + b"".join([head + _escaped(piece) + tail for piece in pieces])
        size = len(head) + len(tail)
        return opening + b"".join(
            [
                b"%x\r\n%b%b%b\r\n" % (size + len(text), head, text, tail)
                for text in map(_escaped, pieces)
            ]
        )

    def closing(self, finish: str, counts: Mapping[str, Any], *, done: bool) -> bytes:
        """The reason, usage where it was asked for, `[DONE]`, and the end of the body."""
        parts = [self._chunk(b"{}", finish)]
        if self._include_usage:
            event = b'%b,"choices":[],"usage":%b}\n\n' % (self._prefix, _encode(counts))
            parts.append(self._framed(event))
        if done:
            parts.append(self._framed(b"data: [DONE]\n\n"))
        return b"".join(parts) + self.end()

    def broken(self) -> bytes:
        """A chunk that is no JSON."""
        return self._framed(b'%b,"choices":[{"index":0,"delta":{"con\n\n' % self._prefix)

    def error(self, error: Mapping[str, Any]) -> bytes:
        """An error object inside the stream, which ends there."""
        event = b"data: " + _encode({"error": error}) + b"\n\n"
        return self._framed(event) + self._framed(b"data: [DONE]\n\n") + self.end()

    def end(self) -> bytes:
        """The end of the body, nothing more."""
        return b"0\r\n\r\n" if self._chunked else b""

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
