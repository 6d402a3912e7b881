"""A server on raw sockets that does what a real one should not, by request.

The first segment of the path names the behaviour: `http://127.0.0.1:PORT/reset-before/v1` is the
base URL of an API that resets every connection. One thread per connection, in the test's process,
so that a test can look at what arrived.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Request:
    """One request as it arrived."""

    behaviour: str
    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    raw: bytes

    @property
    def json(self) -> dict:
        return json.loads(self.body)

    @property
    def key(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")


class Peer:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.sock.sendall(piece)

    def reset(self) -> None:
        """RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def wait_for_close(self) -> None:
        while self.sock.recv(65536):
            pass


def event(data: object) -> bytes:
    text = data if isinstance(data, str) else json.dumps(data)
    return f"data: {text}\n\n".encode()


def delta(finish: str | None = None, **fields: object) -> bytes:
    return event({"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]})


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def head(status: str = "200 OK", *headers: str, kind: str = "text/event-stream") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", f"content-type: {kind}", *headers, "", ""]).encode()


def sized(body: bytes, status: str = "200 OK", *headers: str, kind: str = "") -> bytes:
    """A whole response."""
    kind = kind or "application/json"
    return head(status, f"content-length: {len(body)}", *headers, kind=kind) + body


def problem(status: str, message: str = "no", **more: object) -> bytes:
    body = json.dumps({"error": {"message": message, "type": "t", "code": None, **more}}).encode()
    return sized(body, status)


CHUNKED = "transfer-encoding: chunked"
OPEN = head("200 OK", CHUNKED)
ROLE, A, B = delta(role="assistant", content=""), delta(content="a"), delta(content="b")
STOP = delta(finish="stop")
USAGE = event(
    {
        "choices": [],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 2,
            "prompt_tokens_details": {"cached_tokens": 3},
        },
    }
)
DONE = event("[DONE]")
END = b"0\r\n\r\n"
ANSWER = ROLE + A + B + STOP + USAGE + DONE
GOOD = (OPEN, *map(chunk, (ROLE, A, B, STOP, USAGE, DONE)), END)

Behaviour = Callable[[Peer, Request], object]
KEEP = "keep"  # what a behaviour returns to be asked again on the same connection


def says(*pieces: bytes, then: str = KEEP) -> Behaviour:
    """Send `pieces`, then keep the connection, close, half-close, reset it, or fall silent."""

    def behave(peer: Peer, _request: Request) -> object:
        peer.send(*pieces)
        if then == "half-close":
            peer.sock.shutdown(socket.SHUT_WR)
        if then in ("half-close", "silence"):
            peer.wait_for_close()
        elif then == "reset":
            peer.reset()
        return then

    return behave


def repeats(start: bytes, piece: bytes, pause_s: float = 0.0) -> Behaviour:
    """Send `start`, then `piece` until the client hangs up."""
    pacer = threading.Event()

    def behave(peer: Peer, _request: Request) -> object:
        peer.send(start)
        while True:
            peer.send(piece)
            if pause_s:
                pacer.wait(pause_s)

    return behave


def echoes(peer: Peer, request: Request) -> object:
    """A refusal that holds the key wherever text of the server's ends up."""
    long = "x" * 190 + request.key
    body = json.dumps(
        {"error": {"message": f"key {request.key} {long}", "code": request.key, "type": "t"}}
    ).encode()
    peer.send(sized(body, "400 Bad Request", f"x-request-id: {request.key}"))
    return KEEP


def echoes_in_stream(peer: Peer, request: Request) -> object:
    secret = "x" * 195 + request.key
    tail = event({"error": {"message": secret}}) if "error" in request.behaviour else b""
    tail += event(secret) if "malformed" in request.behaviour else b""
    peer.send(OPEN, chunk(A + delta(finish=request.key) + tail + DONE), END)
    return KEEP


def bytewise(peer: Peer, _request: Request) -> object:
    for byte in b"".join(GOOD):
        peer.send(bytes([byte]))
    return KEEP


def packed(data: bytes, *, stream: bool = True) -> tuple[bytes, ...]:
    kind = "text/event-stream" if stream else "application/json"
    packed_data = gzip.compress(data)
    opening = head("200 OK", CHUNKED, "content-encoding: gzip", kind=kind)
    return (opening, *(chunk(packed_data[n : n + 99]) for n in range(0, len(packed_data), 99)), END)


def completion(**usage: int) -> bytes:
    choice = {"message": {"role": "assistant", "content": "ab"}, "finish_reason": "stop"}
    return json.dumps({"choices": [choice], **({"usage": usage} if usage else {})}).encode()


BEHAVIOURS: dict[str, Behaviour] = {
    "ok": says(*GOOD),
    "one-write": says(b"".join(GOOD)),
    "bytewise": bytewise,
    "until-close": says(head(), ANSWER, then="close"),
    "until-close-cut": says(head(), ROLE + A, then="close"),
    "until-reset": says(head(), ROLE + A, then="reset"),
    "http-1.0": says(head().replace(b"1.1", b"1.0"), ANSWER, then="close"),
    "connection-close": says(head("200 OK", CHUNKED, "connection: close"), *GOOD[1:], then="close"),
    "closes-afterwards": says(*GOOD, then="close"),
    "mumbles-afterwards": says(*GOOD, b"and another thing"),
    "answers-twice": says(b"".join(GOOD) + sized(b"{}", "500 No")),
    "answers-one-and-a-half": says(b"".join(GOOD) + b"HTTP/1.1 500 No\r\ncont"),
    "endless-trailers": repeats(OPEN + chunk(ANSWER) + b"0\r\n", b"x-trailer: yes\r\n" * 1000),
    "lying-trailers": says(OPEN, chunk(ANSWER), b"0\r\ncontent-encoding: gzip\r\n\r\n"),
    # interim responses
    "continue": says(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hints\r\nlink: x\r\n\r\n",
                     *GOOD),
    "continue-at-once": says(b"HTTP/1.1 100 Continue\r\n\r\n" + b"".join(GOOD)),
    "continue-then-silence": says(b"HTTP/1.1 100 Continue\r\n\r\n", then="silence"),
    "switch": says(b"HTTP/1.1 101 Go\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nboo",
                   then="silence"),
    "endless-interim": repeats(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    # connections lost
    "close-before": says(then="close"),
    "reset-before": says(then="reset"),
    "reset-after-headers": says(OPEN, chunk(ROLE), then="reset"),
    "reset-after-token": says(OPEN, chunk(ROLE + A), then="reset"),
    "close-after-token": says(OPEN, chunk(ROLE + A), then="close"),
    "half-close": says(OPEN, chunk(ROLE + A), then="half-close"),
    "truncated-chunk": says(OPEN, b"fff\r\n" + ROLE + A, then="close"),
    "short-body": says(head("200 OK", "content-length: 9999"), ROLE + A, then="close"),
    "half-headers": says(b"HTTP/1.1 200 OK\r\ncontent-ty", then="close"),
    # not HTTP, not SSE, not an end
    "garbage": says(b"what is the matter\r\n\r\n", then="silence"),
    "bad-chunk": says(OPEN, chunk(ROLE + A), b"zzz\r\n", then="silence"),
    "two-lengths": says(head("200 OK", "content-length: 5", "content-length: 6"), b"abcde",
                        then="silence"),
    "endless-headers": repeats(b"HTTP/1.1 200 OK\r\n", b"x-header: yes\r\n" * 1000),
    "endless-header": repeats(b"HTTP/1.1 200 OK\r\nx-header: ", b"yes " * 1000),
    "no-done": says(OPEN, chunk(ROLE + A + B + STOP + USAGE), END),
    "no-end": says(OPEN, chunk(ROLE + A), END),
    "empty": says(OPEN, END),
    "done-then-silence": says(OPEN, chunk(ANSWER), then="silence"),
    "done-then-reset": says(OPEN, chunk(ANSWER), then="reset"),
    "bad-event": says(OPEN, chunk(ROLE + A), chunk(event("{broken")), chunk(STOP + DONE), END),
    "bad-utf8": says(OPEN, chunk(ROLE + A.replace(b'"a"', b'"\xff"') + STOP + DONE), END),
    "deep": says(OPEN, chunk(ROLE + A + event("[" * 100_000 + "]" * 100_000) + DONE), END),
    "error-in-stream": says(OPEN, chunk(ROLE + A + event({"error": {"message": "oom"}})), END),
    "html": says(sized(b"<h1>Hello</h1>", kind="text/html")),
    "json": says(sized(completion(prompt_tokens=7, completion_tokens=2))),
    "no-usage": says(OPEN, chunk(ROLE + A + B + STOP + DONE), END),
    "json-no-usage": says(sized(completion())),
    "text-plain": says(head("200 OK", CHUNKED, kind="text/plain"), *GOOD[1:]),
    "accents": says(head("200 OK", CHUNKED, "x-model: caf\xe9").decode().encode("latin-1"),
                    *GOOD[1:]),
    "accents-500": says(sized(b"{}", "500 No", "x-model: caf\xe9").decode().encode("latin-1")),
    "gzip": says(*packed(ANSWER)),
    "gzip-json": says(*packed(completion(prompt_tokens=7, completion_tokens=2), stream=False)),
    "gzip-bomb": says(*packed(b"\0" * 80 * 2**20)),
    "brotli": says(sized(b"\x0b\x02\x80", "200 OK", "content-encoding: br")),
    "gzip-broken-400": says(sized(b"no gzip", "400 Bad", "content-encoding: gzip")),
    "huge": repeats(head("200 OK", CHUNKED), chunk(b"x" * 2**20)),
    "huge-json": repeats(head("200 OK", CHUNKED, kind="application/json"), chunk(b" " * 2**20)),
    # silence
    "stall-before-headers": says(then="silence"),
    "stall-after-headers": says(OPEN, then="silence"),
    "stall-after-role": says(OPEN, chunk(ROLE), then="silence"),
    "stall-after-token": says(OPEN, chunk(ROLE + A), then="silence"),
    "stall-after-error": says(head("500 No", "content-length: 99"), b'{"err', then="silence"),
    "comments-only": repeats(OPEN, chunk(b": ping\n\n"), 0.001),
    "tokens-forever": repeats(OPEN, chunk(A), 0.001),
    "drips-headers": repeats(b"HTTP/1.1 200 OK\r\nx: ", b"y", 0.001),
    # refusals
    "400": says(problem("400 Bad Request", code="context_length_exceeded")),
    "401": says(problem("401 Unauthorized")),
    "403": says(problem("403 Forbidden")),
    "404": says(problem("404 Not Found")),
    "405": says(problem("405 Not Allowed")),
    "418-html": says(sized(b"<h1>I am a teapot</h1>", "418 Teapot", kind="text/html")),
    "429": says(problem("429 Too Many", code="rate_limit_exceeded")),
    "429-quota": says(problem("429 Too Many", code="insufficient_quota")),
    "429-quota-type": says(problem("429 Too Many", type="insufficient_quota")),
    "500": says(problem("500 No")),
    "500-cut": says(head("500 No", "content-length: 99"), b'{"err', then="close"),
    "503": says(problem("503 Later")),
    "529": says(problem("529 Overloaded")),
    "204": says(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "echo": echoes,
    "echo-error": echoes_in_stream,
    "echo-malformed": echoes_in_stream,
    "echo-finish": echoes_in_stream,
    # reading our request, or not
    "refuses-unread": says(problem("413 Too Large"), then="close"),
    "never-reads": says(then="silence"),
}  # fmt: skip
UNREAD = {"refuses-unread"}  # … and the body is left where it is
DEAF = {"never-reads"}


@dataclass
class Log:
    """What happened, per behaviour."""

    connections: Counter[str] = field(default_factory=Counter)
    requests: list[Request] = field(default_factory=list)


class FaultyServer:
    """Listens on a free port of 127.0.0.1. With `context` it speaks TLS."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.log = Log()
        self.extra: dict[str, Behaviour] = {}
        self.accepted = 0
        self._context = context
        self._closing = False
        self._socks: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept)

    def url(self, behaviour: str, host: str = "127.0.0.1") -> str:
        scheme = "https" if self._context else "http"
        return f"{scheme}://{host}:{self.port}/{behaviour}/v1"

    def requests(self, behaviour: str) -> list[Request]:
        return [one for one in self.log.requests if one.behaviour == behaviour]

    def wait_until_closed(self) -> None:
        """Every connection has been closed from our side."""
        with self._changed:
            assert self._changed.wait_for(lambda: not self._socks, timeout=30)

    def close(self) -> None:
        self._closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._changed:
            for sock in self._socks:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)

    def _start(self, run: Callable[..., object], *args: object) -> None:
        thread = threading.Thread(target=run, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._changed:
                self._socks.add(sock)
            self._start(self._serve, sock)

    def _serve(self, raw: socket.socket) -> None:
        sock = raw
        try:
            if self._context is not None:
                sock = self._context.wrap_socket(raw, server_side=True)
            self._converse(Peer(sock))
        except OSError:
            pass  # the client hung up, as it should
        finally:
            sock.close()
            raw.close()
            with self._changed:
                self._socks.discard(raw)
                self._changed.notify_all()

    def _converse(self, peer: Peer) -> None:
        known, behaves = set(), KEEP
        while behaves == KEEP and (request := self._read(peer)) is not None:
            if request.behaviour not in known:
                known.add(request.behaviour)
                self.log.connections[request.behaviour] += 1
            self.log.requests.append(request)
            behave = self.extra.get(request.behaviour) or BEHAVIOURS[request.behaviour]
            behaves = behave(peer, request)

    def _read(self, peer: Peer) -> Request | None:
        data = b""
        while b"\r\n\r\n" not in data:
            part = peer.sock.recv(1 if data == b"" else 65536)
            if not part:
                return None
            data += part
        start, _, body = data.partition(b"\r\n\r\n")
        first, *lines = start.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        headers = {
            name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)
        }
        behaviour = "CONNECT" if method == "CONNECT" else urlsplit(target).path.split("/")[1]
        if behaviour in DEAF:
            threading.Event().wait(0)
            self._hold(peer)
        while behaviour not in UNREAD and len(body) < int(headers.get("content-length", 0)):
            body += peer.sock.recv(65536)
        return Request(behaviour, method, target, headers, body, start + b"\r\n\r\n" + body)

    def _hold(self, peer: Peer) -> None:
        """Neither read nor close until the server ends or the client resets."""
        peer.sock.settimeout(0.05)
        while not self._closing:
            with contextlib.suppress(TimeoutError):
                if peer.sock.recv(1, socket.MSG_PEEK) == b"":
                    return
            threading.Event().wait(0.05)


def tunnel(peer: Peer, request: Request) -> object:
    """What a proxy does with CONNECT."""
    host, _, port = request.target.rpartition(":")
    with socket.create_connection((host, int(port))) as far:
        peer.send(b"HTTP/1.1 200 Connected\r\n\r\n")

        def back() -> None:
            with contextlib.suppress(OSError):
                while data := far.recv(65536):
                    peer.send(data)
                peer.sock.shutdown(socket.SHUT_RDWR)

        thread = threading.Thread(target=back, daemon=True)
        thread.start()
        with contextlib.suppress(OSError):
            while data := peer.sock.recv(65536):
                far.sendall(data)
            far.shutdown(socket.SHUT_RDWR)
        thread.join(10)
    return "close"


BEHAVIOURS["CONNECT"] = tunnel
