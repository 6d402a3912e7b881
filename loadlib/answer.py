"""What a chat-completions response said, and when each piece of it arrived.

`decode` turns a finished `Tape` into an `Answer`; `FirstToken` looks for the first generated
token while a stream is still running. Both read a chunk with the same rules, so a timeout and
a reported TTFT can never disagree about what a token is.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from loadlib.chunk import (
    UNREADABLE,
    Chunk,
    Counted,
    ToolCall,
    counted,
    decode_lines,
    decode_one,
    pieces,
    text_of,
)
from loadlib.metrics import Instants
from loadlib.quality import Said
from loadlib.sse import Event, EventDecoder, EventTooLongError, plain_stream
from loadlib.tape import Tape, inflater

_COUNTS = tuple(f"{name}_tokens" for name in Counted._fields)
MESSAGE_CHARS = 4000  # of a server's words; cut for people only once keys are masked

_FINISHES = {
    "max_tokens": "length",  # Gemini, Claude
    "model_length": "length",  # Mistral: the window is full
    "end_turn": "stop",  # Claude
    "stop_sequence": "stop",
    "eos": "stop",  # Together
    "tool_use": "tool_calls",  # Claude
    "function_call": "tool_calls",  # OpenAI, before tools
    "safety": "content_filter",  # Gemini
    "recitation": "content_filter",
    "prohibited_content": "content_filter",
    "refusal": "content_filter",  # Claude
} | {word: word for word in ("stop", "length", "tool_calls", "content_filter")}
"""Servers' words for why they stopped, in lower case → OpenAI's, which checks know."""

BATCH = 500  # events decoded in one go: about half a millisecond


@dataclass(slots=True)
class Answer:
    """A decoded response. Token counts are the server's own, `None` where it sent none."""

    parts: dict[str, list[str]] = field(default_factory=dict)  # text | reasoning | refusal
    calls: dict[int, tuple[list[str], list[str]]] = field(default_factory=dict)  # as they came
    finish_reason: str | None = None
    done: bool = False  # `[DONE]` was seen, or the body was one JSON object
    error: str | None = None  # an error object inside the response
    malformed: str | None = None  # what could not be read
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    total_tokens: int | None = None
    service_tier: str | None = None
    event_ns: Instants = field(default_factory=lambda: np.empty(0, np.int64))
    first_output_ns: int | None = None
    first_call_ns: int | None = None
    coalesced: int = 0

    @property
    def text(self) -> str:
        """The answer proper."""
        return "".join(self.parts.get("text", ()))

    @property
    def tool_calls(self) -> dict[int, list[str]]:
        """Index → [name, arguments as JSON text]."""
        return {n: ["".join(name), "".join(args)] for n, (name, args) in self.calls.items()}

    @property
    def said(self) -> Said:
        """What a check may look at."""
        return Said(
            text=self.text,
            calls=tuple((name, args) for name, args in self.tool_calls.values()),
            refusal="".join(self.parts.get("refusal", ())),
            finish_reason=_FINISHES.get((self.finish_reason or "").lower(), self.finish_reason),
        )

    @property
    def generated(self) -> str:
        """Everything generated, for counting tokens where the server did not."""
        calls = (pieces for call in self.calls.values() for pieces in call)
        return "".join("".join(pieces) for pieces in (*self.parts.values(), *calls))

    @property
    def longest_gap_ns(self) -> int | None:
        """The longest silence between two content events; None where there are no two."""
        events = self.event_ns
        return int((events[1:] - events[:-1]).max()) if len(events) > 1 else None

    @property
    def complete(self) -> bool:
        """Whether the answer has an end the server meant."""
        return self.done or self.finish_reason is not None


class FirstToken:
    """Feed it the reads of a running stream; `seen` turns true at the first generated token.

    `headers` are those of the response: a content coding is undone as `decode` would.
    """

    __slots__ = ("_decoder", "_over", "_plain", "seen")

    def __init__(self, headers: Mapping[str, str] | None = None) -> None:
        self._decoder = EventDecoder()
        self._plain = inflater(headers or {})
        self._over = False  # nothing more can come: the end was seen, or it is unreadable
        self.seen = False

    def feed(self, data: bytes) -> bool:
        """Whether the stream has shown a token by the end of `data`."""
        if self.seen or self._over:
            return self.seen
        try:
            events = self._decoder.feed(self._plain(data))
        except (EventTooLongError, zlib.error):
            self._over = True
            return False
        for event in events:
            chunk = _chunk(event)
            if chunk is None:
                self._over = _is_done(event)
                if self._over:
                    break
            elif not _is_error(event, chunk) and (text_of(chunk) or any(pieces(chunk))):
                self.seen = True
                break
        return self.seen


def decode(tape: Tape, pause: Callable[[], object] | None = None) -> Answer:
    """Read a finished response, stream or not; never raises for what a server sent.

    `pause` is called after every `BATCH` events or so of a long stream, for others to run.
    """
    streams = tape.is_stream
    if streams and (plain := _read_plain(tape, pause)) is not None:
        return plain
    return _read_any(tape, streams, pause)


def _read_any(tape: Tape, streams: bool, pause: Callable[[], object] | None = None) -> Answer:
    """Event by event, whatever was sent: the reference, and slow."""
    answer = Answer()
    try:
        if streams:
            _read_stream(tape, answer, pause)
        else:
            _read_object(tape.body, answer)
    except (zlib.error, EventTooLongError) as problem:
        answer.malformed = str(problem)
    return answer


def _read_plain(tape: Tape, pause: Callable[[], object] | None) -> Answer | None:
    """The same answer for a stream in plain form, at a quarter of the cost; None for others."""
    stream = None if tape.coded else plain_stream(b"".join(tape.pieces))
    if stream is None:
        return None
    arrived = np.array(tape.arrived_ns, np.int64)
    received = np.cumsum([len(piece) for piece in tape.pieces])
    instants = arrived[np.searchsorted(received, stream.ends)].tolist()
    answer, kept = Answer(), list[int]()
    for first in range(0, len(instants), BATCH):
        if first and pause is not None:
            pause()
        batch = instants[first : first + BATCH]
        lines = stream.lines(first, first + BATCH)
        try:
            chunks = () if lines is None else decode_lines(lines)
        except UNREADABLE:
            return None
        if len(chunks) != len(batch):
            return None
        kept += _take_all(chunks, batch, answer)
    answer.done = stream.done
    answer.event_ns = event_ns = np.array(kept, np.int64)
    answer.coalesced = int(np.count_nonzero(event_ns[1:] == event_ns[:-1]))
    return answer


def _take_all(chunks: Sequence[Chunk], instants: list[int], answer: Answer) -> list[int]:
    """Add chunks to the answer; the instants of those that carried generated content."""
    kept: list[int] = []
    texts: list[str] | None = None
    for chunk, at_ns in zip(chunks, instants, strict=True):
        text = text_of(chunk)
        if text is None:
            if _take_chunk(chunk, at_ns, answer):
                kept.append(at_ns)
            continue
        if texts is None:
            texts = answer.parts.setdefault("text", [])
            if answer.first_output_ns is None:
                answer.first_output_ns = at_ns
        texts.append(text)
        kept.append(at_ns)
    return kept


def _read_stream(tape: Tape, answer: Answer, pause: Callable[[], object] | None) -> None:
    decoder, instants, last_ns, work = EventDecoder(), [], None, 0
    for at_ns, data in tape.plain_reads():
        if pause is not None and work >= BATCH:
            pause()
            work = 0
        events = decoder.feed(data)
        work += 1 + len(events)
        for event in events:
            if not _take(event, at_ns, answer):
                continue
            instants.append(at_ns)
            answer.coalesced += at_ns == last_ns
            last_ns = at_ns
    if tape.pieces:
        at_ns = tape.arrived_ns[-1]
        for event in decoder.close():
            # A stream cut inside an event is truncated, which is not the same as malformed.
            if _chunk(event) is not None and _take(event, at_ns, answer):
                instants.append(at_ns)
                answer.coalesced += at_ns == last_ns
            elif _is_done(event):
                answer.done = True
    answer.event_ns = np.array(instants, np.int64)


def _take(event: Event, at_ns: int, answer: Answer) -> bool:
    """Add one event to the answer; whether it carried generated content."""
    if _is_done(event):
        answer.done = True
    if answer.done or not event.data.strip():  # blank data is a keep-alive of sorts
        return False
    chunk = _chunk(event)
    if chunk is None:
        answer.malformed = answer.malformed or f"not a chat completion chunk: {_text(event.data)}"
        return False
    return _take_chunk(chunk, at_ns, answer, named_error=event.name == b"error")


def _take_chunk(chunk: Chunk, at_ns: int, answer: Answer, *, named_error: bool = False) -> bool:
    if chunk.error or named_error:
        answer.error = answer.error or _error_text(chunk.error)
        return False
    _take_usage(chunk, answer)
    return _take_pieces(chunk, at_ns, answer)


def _is_done(event: Event) -> bool:
    return event.data.strip() == b"[DONE]"


def _is_error(event: Event, chunk: Chunk) -> bool:
    return bool(chunk.error) or event.name == b"error"


def _chunk(event: Event) -> Chunk | None:
    try:
        return decode_one(event.data)
    except UNREADABLE:
        return None


def _take_pieces(chunk: Chunk, at_ns: int, answer: Answer) -> bool:
    generated = False
    for kind, value in pieces(chunk):
        generated = True
        if kind != "tool":
            answer.parts.setdefault(kind, []).append(value)
        elif answer.first_call_ns is None:
            answer.first_call_ns = at_ns
        if kind != "reasoning" and answer.first_output_ns is None:
            answer.first_output_ns = at_ns
    for choice in chunk.choices or ():
        if isinstance(choice.finish_reason, str) and choice.finish_reason:  # some begin with ""
            answer.finish_reason = choice.finish_reason[:MESSAGE_CHARS]
        delta = choice.delta or choice.message
        for call in (delta.tool_calls if delta else None) or ():
            _take_tool_call(call, answer)
    return generated


def _take_tool_call(call: ToolCall, answer: Answer) -> None:
    if call.function is None:
        return
    parts = answer.calls.setdefault(_place(call, call.function.name, answer), ([], []))
    for written, value in zip(parts, (call.function.name, call.function.arguments), strict=True):
        if isinstance(value, str):
            written.append(value)


def _place(call: ToolCall, name: object, answer: Answer) -> int:
    """Which of the answer's calls a piece belongs to. Gemini numbers none and sends each whole:
    without a number, a name begins the next call and anything else goes on with the last."""
    if isinstance(call.index, int):
        return call.index
    last = next(reversed(answer.calls), -1)
    return last + 1 if name or last < 0 else last


def _take_usage(chunk: Chunk, answer: Answer) -> None:
    """Servers that repeat usage send running totals: the last one stands."""
    if isinstance(chunk.service_tier, str) and chunk.service_tier:
        answer.service_tier = chunk.service_tier[:MESSAGE_CHARS]
    found = counted(chunk)
    if found is None:
        return
    for name, value in zip(_COUNTS, found, strict=True):
        if value is not None:
            setattr(answer, name, value)


def _read_object(body: bytes, answer: Answer) -> None:
    chunk = _chunk(Event(b"", body))
    if chunk is None or (chunk.choices is None and not chunk.error):
        answer.malformed = f"not a chat completion: {_text(body)}"
        return
    if chunk.error:
        answer.error = _error_text(chunk.error)
        return
    answer.done = True
    _take_usage(chunk, answer)
    # The whole answer came at once: it has an end but no first token of its own.
    _take_pieces(chunk, 0, answer)
    answer.first_output_ns = answer.first_call_ns = None


def _error_text(error: object) -> str:
    if not error:
        return "error event"
    try:
        if isinstance(error, dict):
            error = error.get("message") or error.get("code") or error
        return str(error)[:MESSAGE_CHARS]
    except RecursionError:
        return "an error nested too deeply to be read"


def _text(data: bytes) -> str:
    return repr(data[:MESSAGE_CHARS].decode("utf-8", "replace"))
