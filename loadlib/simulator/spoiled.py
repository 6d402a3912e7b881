"""A connection that gets wrong what it is told to get wrong.

It stands between an answer and its connection and has the same face, so that whoever writes an
answer knows nothing of faults. It takes plain server-sent events, frames and packs them itself,
and sends everything through one ordered queue in which each piece has its instant.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping

import msgspec

from loadlib.simulator.chat import OVERLOADED, Refusal
from loadlib.simulator.connection import Connection
from loadlib.simulator.faults import Faults

_DONE = b"data: [DONE]\n\n"
_USAGE = b'"choices":[],"usage":{'
_BROKEN = b'data: {"choices":[{"index":0,"delta":{"con\n\n'
_COMMENT = b": keep-alive\n\n"
_LONGER = 0xFFF  # bytes announced by a chunk that is never completed
_SLACK_S = 0.0001  # what is due that soon is sent now

Op = bytes | Callable[[], None]


class Spoiled:
    """One answer with faults on its way to a `Connection`; `tokens`: how many it has."""

    chunked = False  # what is written here is not framed: that is done on the way out

    def __init__(
        self,
        connection: Connection,
        faults: Faults,
        loop: asyncio.AbstractEventLoop,
        tokens: int = 0,
    ) -> None:
        self._connection, self._faults, self._loop = connection, faults, loop
        self._middle = max(1, tokens // 2)  # the events before it: a role, and half the tokens
        self._seen = 0
        self._pending: list[bytes] = []
        self._packer = zlib.compressobj(wbits=31) if faults.gzip else None
        self._queue: deque[tuple[float, Op]] = deque()
        self._queued = 0
        self._delay_s = faults.slow_start_s + faults.before_headers_s
        self._last_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._talker: asyncio.TimerHandle | None = None
        self._over = False
        self.on_gone: Callable[[], None] | None = None
        connection.on_gone = self._left

    # --- the face of a connection ------------------------------------------------------------

    @property
    def backlog(self) -> int:
        """Bytes that wait here, and those the client has not taken yet."""
        return self._queued + self._connection.backlog

    def respond(
        self,
        status: int,
        body: bytes,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send a whole response, or what is left of it."""
        faults, cut = self._faults, self._faults.cut
        if status == 200:
            self._delay_s += faults.stalls_s
            status, body = self._spoil(status, body)
        more = dict(headers or {})
        if self._packer is not None:
            body = self._packer.compress(body) + self._packer.flush()
            more["content-encoding"] = "gzip"
        data = self._connection.response(status, body, faults.content_type or content_type, more)
        if cut is None or cut.kind not in _HALVED or status != 200:
            self._put_raw(data)
            self._end(self._connection.finish)
            return
        # All of it was promised, half of it comes; a plain disconnect says nothing at all.
        if cut.kind != "disconnect-mid-stream":
            self._put_raw(data[: len(data) - len(body) // 2 - 1])
        self._end(self._endings[cut.kind])

    def start_stream(self, content_type: str, headers: Mapping[str, str]) -> bytes:
        """Start a streamed response; its head is sent from here, so nothing is left to write."""
        more = dict(headers)
        if self._packer is not None:
            more["content-encoding"] = "gzip"
        self._put_raw(
            self._connection.start_stream(self._faults.content_type or content_type, more)
        )
        gap_s = self._faults.comment_gap_s
        if gap_s is not None:
            self._talker = self._loop.call_later(self._delay_s + gap_s, self._talk)
        return b""

    def write(self, data: bytes) -> None:
        """Take whole events."""
        for event in data.split(b"\n\n")[:-1]:
            if not self._over:
                self._take(event + b"\n\n")
        if not self._over:
            self._flush()

    def finish(self) -> None:
        """The answer is complete."""
        if not self._over:
            self._flush(last=True)
            self._put_raw(self._last_chunk())
            self._end(self._connection.finish)

    # --- instead of an answer ----------------------------------------------------------------

    def replace(self, refusal: Refusal | None, headers: Mapping[str, str]) -> None:
        """Send what comes instead of an answer; `refusal` for a status."""
        instead = self._faults.instead
        assert instead is not None
        if instead.kind in ("reset-before", "close-before"):
            connection = self._connection
            self._end(connection.reset if instead.kind == "reset-before" else connection.close)
        elif refusal is not None:
            more = dict(headers)
            if instead.retry_after_s is not None:
                more["retry-after"] = str(instead.retry_after_s)
            self.respond(refusal.status, refusal.body, headers=more)
        else:
            self.respond(instead.status, _page(instead.status), "text/html; charset=utf-8")

    # --- events ------------------------------------------------------------------------------

    def _take(self, event: bytes) -> None:
        """One event of the answer: a role first, then one for each token, then the end."""
        faults, index = self._faults, self._seen
        self._seen += 1
        if index == 0 and faults.cut is not None and faults.cut.kind == "empty-stream":
            self._put_raw(self._last_chunk())
            self._end(self._connection.finish, gone=True)
            return
        if event == _DONE and faults.no_done:
            return
        self._pending.append(event)
        if faults.duplicated_usage and _USAGE in event:
            self._pending.append(event)
        self._stall(faults.before_first_s if index == 0 else 0.0)
        self._stall(faults.after_first_s if index == 1 else 0.0)
        if index == self._middle:
            self._in_the_middle()

    def _in_the_middle(self) -> None:
        self._stall(self._faults.mid_stream_s)
        if self._faults.malformed:
            self._pending.append(_BROKEN)
        if self._faults.cut is not None:
            self._cut(self._faults.cut.kind)

    def _cut(self, kind: str) -> None:
        connection = self._connection
        if kind == "error-in-stream":
            error = msgspec.json.encode({"error": self._error().error})
            self._pending += [b"data: %b\n\n" % error, _DONE]
        self._flush(last=True)
        if kind in ("error-in-stream", "truncate"):
            self._put_raw(self._last_chunk())
            self._end(connection.finish, gone=True)
            return
        if kind == "truncated-chunk" and connection.chunked:
            self._put_raw(b"%x\r\n%b" % (_LONGER, _BROKEN[:20]))
        self._end(self._endings[kind], gone=True)

    @property
    def _endings(self) -> dict[str, Callable[[], None]]:
        connection = self._connection
        return {
            "reset-mid-stream": connection.reset,
            "disconnect-mid-stream": connection.hang_up,
            "truncated-chunk": connection.hang_up,
            "half-close": connection.half_close,
        }

    def _error(self) -> Refusal:
        cut = self._faults.cut
        return Refusal(500, OVERLOADED, kind="server_error", code=cut.code if cut else None)

    def _spoil(self, status: int, body: bytes) -> tuple[int, bytes]:
        """What becomes of a whole answer."""
        kind = self._faults.cut.kind if self._faults.cut else None
        if kind == "error-in-stream":
            return 500, self._error().body
        if kind == "empty-stream":
            return status, b""
        if kind == "truncate":
            answer = msgspec.json.decode(body)
            answer["choices"][0]["finish_reason"] = None
            body = msgspec.json.encode(answer)
        if self._faults.malformed:
            body = body[: len(body) // 2]
        return status, body

    # --- packing -----------------------------------------------------------------------------

    def _stall(self, pause_s: float) -> None:
        if pause_s > 0:
            self._flush(last=True)
            self._delay_s += pause_s

    def _flush(self, *, last: bool = False) -> None:
        """Pack the events that wait; fewer than a packet takes may go on waiting."""
        packets, events = self._faults.packets, self._pending
        if packets is not None and packets.kind == "one-packet":
            while events and (last or len(events) >= packets.size):
                self._put([b"".join(events[: packets.size])])
                del events[: packets.size]
            return
        if not events:
            return
        self._pending = []
        if packets is None or packets.kind == "drip":
            self._put(events)
            return
        for event in events:
            step = packets.size
            for start in range(0, len(event), step):
                self._put([event[start : start + step]], packets.gap_s)

    def _put(self, pieces: list[bytes], gap_s: float = 0.0) -> None:
        """Queue pieces of the body as one packet, each framed for itself unless compressed."""
        if self._packer is not None:
            packed = self._packer.compress(b"".join(pieces))
            pieces = [packed + self._packer.flush(zlib.Z_SYNC_FLUSH)]
        self._put_raw(b"".join(map(self._framed, pieces)), gap_s)

    def _framed(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if self._connection.chunked else data

    def _last_chunk(self) -> bytes:
        rest = self._packer.flush() if self._packer is not None else b""
        end = b"0\r\n\r\n" if self._connection.chunked else b""
        return (self._framed(rest) if rest else b"") + end

    def _put_raw(self, data: bytes, gap_s: float = 0.0) -> None:
        packets = self._faults.packets
        if packets is not None and packets.kind == "drip":
            self._queue_up((data[n : n + 1] for n in range(len(data))), packets.gap_s)
        elif packets is not None and packets.kind == "split-events" and not gap_s:
            self._queue_up([data], packets.gap_s)  # never in one packet with what came before
        elif data:
            self._queue_up([data], gap_s)

    # --- the queue ---------------------------------------------------------------------------

    def _queue_up(self, ops: Iterable[Op], gap_s: float = 0.0) -> None:
        earliest_s = self._loop.time() + self._delay_s
        for op in ops:
            self._last_s = max(self._last_s + gap_s, earliest_s)
            self._queue.append((self._last_s, op))
            self._queued += len(op) if isinstance(op, bytes) else 0
        if self._timer is None:
            self._pump()

    def _pump(self) -> None:
        self._timer = None
        queue = self._queue
        while queue and queue[0][0] <= self._loop.time() + _SLACK_S:
            op = queue.popleft()[1]
            if isinstance(op, bytes):
                self._queued -= len(op)
                self._connection.write(op)
            else:
                self._silence()
                op()
        if queue:
            self._timer = self._loop.call_at(queue[0][0], self._pump)

    def _talk(self) -> None:
        """A comment now: at once where nothing is halfway through the queue, else in turn."""
        if self._packer is not None or self._faults.packets is not None:
            if not self._over:
                self._put([_COMMENT])
        else:
            self._connection.write(self._framed(_COMMENT))
        self._talker = self._loop.call_later(self._faults.comment_gap_s or 1.0, self._talk)

    def _end(self, op: Callable[[], None], *, gone: bool = False) -> None:
        """Nothing more is taken; `op` comes last. `gone`: tell whoever goes on writing."""
        self._over = True
        self._queue_up([op])
        if gone:
            self._tell()

    # --- the end -----------------------------------------------------------------------------

    def _silence(self) -> None:
        for timer in (self._timer, self._talker):
            if timer is not None:
                timer.cancel()
        self._connection.on_gone = None

    def _left(self) -> None:
        """The client has gone."""
        self._over = True
        self._silence()
        self._queue.clear()
        self._tell()

    def _tell(self) -> None:
        gone, self.on_gone = self.on_gone, None
        if gone is not None:
            gone()


_HALVED = ("reset-mid-stream", "disconnect-mid-stream", "half-close", "truncated-chunk")


def _page(status: int) -> bytes:
    """What a proxy in front of a dead server says."""
    title = f"{status} Bad Gateway" if status == 502 else f"{status} Error"
    return (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1>"
        "</center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    ).encode()
