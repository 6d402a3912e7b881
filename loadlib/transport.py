"""The recording transports: what sits below the openai SDK and keeps the tape.

`TapeTransport` is the instrument: it reads the whole response before the SDK sees it.
`LiveTransport` hands bytes on as they come, for a user's own SDK code. `SdkTransport` is the
SDK's own network path with a tape beside it: the cross-check (`client: sdk`), and the way
through a proxy. All three leave the tape in `request.extensions[TAPE]`.
"""

from __future__ import annotations

import contextvars
import functools
import gc
import socket
import ssl
import time
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import openai

from loadlib.answer import FirstToken
from loadlib.sample import Outcome
from loadlib.tape import MAX_BODY_BYTES, Fault, Tape
from loadlib.wire import MAX_READS, Deadlines, Exchange, Failed, Origin, Pool

TAPE = "loadlib.tape"

CALL = "loadlib.call"

Begin = Callable[[httpx2.Request], tuple[httpx2.Request, object]]
OnFinish = Callable[[object, httpx2.Request, Tape], None]


_current: contextvars.ContextVar[Tape] = contextvars.ContextVar("tape")


def begin_tape() -> Tape:
    """An empty tape, the current one of this greenlet until a transport starts recording."""
    tape = Tape()
    _current.set(tape)
    return tape


def current_tape() -> Tape:
    """What was recorded last in this greenlet, for a caller that was killed past the SDK."""
    return _current.get()


@functools.cache
def tls_context() -> ssl.SSLContext:
    """The SDK's own trust settings (`SSL_CERT_FILE` honoured); built once, it costs 20 ms."""
    return httpx2.create_ssl_context()


def tape_of(request: httpx2.Request) -> Tape:
    """The tape a transport of this module recorded for `request`."""
    tape = request.extensions[TAPE]
    assert isinstance(tape, Tape)
    return tape


def with_body(request: httpx2.Request, body: bytes) -> httpx2.Request:
    """The same request with another body."""
    headers = request.headers.copy()
    headers.pop("Transfer-Encoding", None)
    headers["Content-Length"] = str(len(body))
    return httpx2.Request(
        request.method, request.url, headers=headers, content=body, extensions=request.extensions
    )


def proxy_for(url: str) -> str | None:
    """The proxy that the environment (`HTTPS_PROXY`, `NO_PROXY`, …) names for `url`."""
    parts = urllib.parse.urlsplit(url)
    if not parts.hostname or urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"


class TapeTransport(httpx2.BaseTransport):
    """Sends, waits until the response is over, and returns it: nobody is woken per event."""

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._pool = Pool(tls_context)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """One exchange; network faults before the headers raise, later ones are on the tape."""
        exchange = _start(request, self._pool, self._deadlines)
        exchange.finish()
        if not exchange.headers_done and exchange.tape.fault is not None:
            raise _as_httpx(exchange.tape.fault, request)
        return _for_sdk(exchange.tape)

    def close(self) -> None:
        """Close idle connections."""
        self._pool.close()


class LiveTransport(httpx2.BaseTransport):
    """Hands bytes on as they come, for one user's own code.

    `begin` is asked before each request (it may wait for the request's turn). It gives the request
    that is sent, and a call; both come back to `on_finish` when the response was read or let go.
    With `through` (a proxy, the cross-check) that transport reads the whole response first, and
    the code gets it afterwards.
    """

    def __init__(
        self,
        deadlines: Deadlines,
        begin: Begin,
        on_finish: OnFinish,
        through: SdkTransport | None = None,
    ) -> None:
        self._deadlines, self._begin, self._on_finish = deadlines, begin, on_finish
        self._through = through
        self._pool = Pool(tls_context)
        self._open: dict[object, _LiveStream] = {}  # call → what is being read

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Returns as soon as the response headers are in."""
        request, call = self._begin(request)
        request.extensions[CALL] = call
        begin_tape()
        if self._through is not None:
            return self._whole(call, request, self._through)
        try:
            exchange = _start(request, self._pool, self._deadlines)
            while not exchange.headers_done:
                exchange.pump()
        except BaseException as error:
            self._on_finish(call, request, current_tape())
            if isinstance(error, Failed):
                raise _as_httpx(error.fault, request) from None
            raise
        stream = self._open[call] = _LiveStream(request, exchange, self._finished)
        return httpx2.Response(
            exchange.tape.status or 0, headers=_header_bytes(exchange.tape), stream=stream
        )

    def let_go(self, call: object) -> None:
        """The code that made this call reads no further, whether it closed the stream or not.

        The SDK's streams are cycles: left alone they end when the garbage collector comes.
        """
        stream = self._open.get(call)
        if stream is not None:
            stream.close()

    def _finished(self, call: object, request: httpx2.Request, tape: Tape) -> None:
        self._open.pop(call, None)
        self._on_finish(call, request, tape)

    def _whole(
        self, call: object, request: httpx2.Request, through: SdkTransport
    ) -> httpx2.Response:
        try:
            tape = through.record(request)
        finally:
            self._on_finish(call, request, current_tape())
        if tape.fault is not None:
            raise _as_httpx(tape.fault, request)
        body = b"".join(data for _, data in tape.reads)
        return httpx2.Response(tape.status or 0, headers=_header_bytes(tape), content=body)

    def close(self) -> None:
        """Close idle connections."""
        self._pool.close()
        if self._through is not None:
            self._through.close()


class _Collector:
    """Whether the garbage collector runs right now: it closes streams that nobody closed."""

    runs = False

    def __call__(self, phase: str, _info: object) -> None:
        self.runs = phase == "start"


_collector = _Collector()
gc.callbacks.append(_collector)


class _LiveStream(httpx2.SyncByteStream):
    def __init__(self, request: httpx2.Request, exchange: Exchange, on_finish: OnFinish) -> None:
        self._request, self._exchange, self._on_finish = request, exchange, on_finish
        self._open = True

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._exchange.bodies()
        except Failed as failed:
            raise _as_httpx(failed.fault, self._request) from None

    def close(self) -> None:
        if self._open:
            self._open = False
            try:
                # To wait inside the garbage collector would crash the interpreter.
                self._exchange.abandon(wait=not _collector.runs)
            finally:
                call = self._request.extensions[CALL]
                self._on_finish(call, self._request, self._exchange.tape)


class LiveSdk(openai.OpenAI):
    """The SDK for a user's own code: a stream that is dropped unread is closed at once."""

    def request(self, *args: Any, **kwargs: Any) -> Any:
        """As the SDK's own."""
        result = super().request(*args, **kwargs)
        return _DroppableStream(result) if isinstance(result, openai.Stream) else result


class _DroppableStream(openai.Stream[Any]):
    """Stands before the SDK's stream, which holds itself in a reference cycle.

    `for chunk in create(…): break` would leave that one open until the garbage collector comes
    by, and with it the request's place, its connection and its sample.
    """

    def __init__(self, inner: openai.Stream[Any]) -> None:  # of its own: there is nothing to build
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __next__(self) -> Any:
        return next(self._inner)

    def __iter__(self) -> Iterator[Any]:
        return self

    def close(self) -> None:
        """As the SDK's own."""
        self._inner.close()

    def __del__(self) -> None:
        self._inner.close()


class SdkTransport(httpx2.BaseTransport):
    """The SDK's own HTTP stack, timed from outside by its trace events and reads."""

    def __init__(self, deadlines: Deadlines, proxy: str | None = None) -> None:
        self._deadlines = deadlines
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        self._inner = httpx2.HTTPTransport(verify=tls_context(), proxy=proxy, limits=limits)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """One exchange, read to its end."""
        tape = self.record(request)
        if tape.fault is not None and tape.status is None:
            raise _as_httpx(tape.fault, request)
        return _for_sdk(tape)

    def record(self, request: httpx2.Request) -> Tape:
        """The tape of one exchange; what the server or the network did wrong is on it."""
        tape = begin_tape()
        request.extensions[TAPE] = tape
        request.extensions["trace"] = _Trace(tape)
        request.headers["Accept-Encoding"] = "identity"
        limits = self._deadlines
        # One limit for every read: which timeout it was is decided afterwards.
        read_s = min(max(limits.first_token_s, limits.idle_s), limits.total_s)
        request.extensions["timeout"] = {
            "connect": limits.connect_s, "pool": limits.connect_s, "write": limits.total_s,
            "read": read_s if _streams(request) else limits.total_s,
        }  # fmt: skip
        first = FirstToken()
        try:
            response = self._inner.handle_request(request)
            tape.status = response.status_code
            tape.headers = {name.lower(): value for name, value in response.headers.items()}
            first = FirstToken(tape.headers)
            self._read(response, tape, first, streams=_streams(request))
        except httpx2.TransportError as error:
            tape.fault = self._fault(error, tape, first, streams=_streams(request))
        except BaseException:
            tape.fault = Fault(Outcome.CANCELLED, "cancelled", "stopped by the load generator")
            raise
        finally:
            tape.end_ns = tape.end_ns or time.monotonic_ns()
        return tape

    def _read(
        self, response: httpx2.Response, tape: Tape, first: FirstToken, *, streams: bool
    ) -> None:
        stream = response.stream
        assert isinstance(stream, httpx2.SyncByteStream)
        try:
            for data in stream:
                now = time.monotonic_ns()
                tape.reads.append((now, data))
                tape.body_bytes += len(data)
                first.feed(data)
                if tape.body_bytes > MAX_BODY_BYTES or len(tape.reads) > MAX_READS:
                    message = f"response larger than {MAX_BODY_BYTES} bytes or {MAX_READS} reads"
                    tape.fault = Fault(Outcome.MALFORMED, "too_large", message)
                else:
                    tape.fault = self._overdue(tape, first, now, streams=streams)
                if tape.fault is not None:
                    return
            tape.end_ns = time.monotonic_ns()
        finally:
            response.close()

    def _overdue(
        self, tape: Tape, first: FirstToken, now_ns: int, *, streams: bool
    ) -> Fault | None:
        """The timeout that has passed although bytes keep coming."""
        due = [(self._deadlines.total_s, "total")]
        if streams and tape.status in (None, 200) and not first.seen:
            due.append((self._deadlines.first_token_s, "first_token"))
        limit_s, which = min(due)
        if (now_ns - (tape.sent_ns or now_ns)) / 1e9 <= limit_s:
            return None
        return Fault(Outcome.TIMEOUT, which, f"{which.replace('_', ' ')} timeout")

    def _fault(
        self, error: httpx2.TransportError, tape: Tape, first: FirstToken, *, streams: bool
    ) -> Fault:
        """What `error` is in our words; the same as on our own wire."""
        message, causes = str(error) or type(error).__name__, list(_causes(error))
        if isinstance(error, httpx2.ConnectTimeout):
            return Fault(Outcome.TIMEOUT, "connect", message)
        if isinstance(error, httpx2.TimeoutException):
            overdue = self._overdue(tape, first, time.monotonic_ns(), streams=streams)
            return overdue or Fault(Outcome.TIMEOUT, "idle", "idle timeout")
        if isinstance(error, httpx2.ConnectError | httpx2.ProxyError):
            tls = any(isinstance(cause, ssl.SSLError) for cause in causes)
            dns = any(isinstance(cause, socket.gaierror) for cause in causes)
            cause = "tls" if tls else "dns" if dns else "connect"
            return Fault(Outcome.DISCONNECTED, cause, message)
        lost = ("disconnect", "closed connection")
        if isinstance(error, httpx2.RemoteProtocolError) and not any(w in message for w in lost):
            return Fault(Outcome.MALFORMED, "http", f"not HTTP: {message}")
        cause = "after_first_token" if first.seen else "before_first_token"
        return Fault(Outcome.DISCONNECTED, cause, message)

    def close(self) -> None:
        """Close the SDK's connection pool."""
        self._inner.close()


class _Trace:
    """Listens to httpcore's trace events and puts their instants on the tape."""

    def __init__(self, tape: Tape) -> None:
        self._tape, self._since = tape, 0
        tape.conn_reused = True

    def __call__(self, name: str, _info: dict[str, Any]) -> None:
        now, tape = time.monotonic_ns(), self._tape
        event = name.partition(".")[2]
        if event in ("connect_tcp.started", "start_tls.started"):
            self._since, tape.conn_reused = now, False
        elif event == "connect_tcp.complete":
            tape.connect_ns = now - self._since
        elif event == "start_tls.complete":
            tape.tls_ns = now - self._since
        elif event == "send_request_headers.started":
            tape.sent_ns = now
        elif event == "send_request_body.complete":
            tape.flushed_ns = now
        elif event == "receive_response_headers.complete":
            tape.first_byte_ns = now


def _streams(request: httpx2.Request) -> bool:
    """Whether the request asks for a stream."""
    body = request.read()
    return b'"stream":true' in body or b'"stream": true' in body


def _start(request: httpx2.Request, pool: Pool, deadlines: Deadlines) -> Exchange:
    """Send `request`; the exchange's tape is in its extensions even where this raises."""
    exchange = Exchange(pool, deadlines, streams=_streams(request))
    request.extensions[TAPE] = exchange.tape
    _current.set(exchange.tape)
    url = request.url
    port = url.port or (443 if url.scheme == "https" else 80)
    message = _head(request) + request.read()
    try:
        exchange.send(Origin(url.scheme, url.host, port), message)
    except Failed as failed:
        raise _as_httpx(failed.fault, request) from None
    return exchange


def _head(request: httpx2.Request) -> bytes:
    """The request line and headers, as bytes for the wire."""
    lines = [b"%s %s HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
    for name, value in request.headers.raw:
        lowered = name.lower()
        if lowered == b"accept-encoding":
            value = b"identity"  # a compressed stream would hide when its events arrived
        elif lowered == b"transfer-encoding":  # we have the whole body: its length is known
            name, value = b"Content-Length", b"%d" % len(request.read())
        if b"\n" in value or b"\r" in value or b"\0" in value:
            raise httpx2.LocalProtocolError(f"line break in header {name!r}", request=request)
        lines.append(name + b": " + value)
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _for_sdk(tape: Tape) -> httpx2.Response:
    """The response as the SDK gets it: a good answer is decoded from the tape, it sees errors."""
    framing = (b"content-encoding", b"transfer-encoding", b"content-length")
    headers = [(name, value) for name, value in _header_bytes(tape) if name not in framing]
    content = b"" if tape.status == 200 else _error_body(tape)
    return httpx2.Response(tape.status or 0, headers=headers, content=content)


def _header_bytes(tape: Tape) -> list[tuple[bytes, bytes]]:
    """The response headers as they were on the wire (the SDK would insist on ASCII text)."""
    return [(n.encode("latin-1"), v.encode("latin-1")) for n, v in tape.headers.items()]


def _error_body(tape: Tape) -> bytes:
    try:
        return tape.body[:65536]
    except zlib.error:
        return b""  # an error page that cannot be inflated is an empty one


_TO_HTTPX: dict[tuple[Outcome, bool], type[httpx2.TransportError]] = {
    (Outcome.TIMEOUT, True): httpx2.ConnectTimeout,
    (Outcome.TIMEOUT, False): httpx2.ReadTimeout,
    (Outcome.DISCONNECTED, True): httpx2.ConnectError,
    (Outcome.DISCONNECTED, False): httpx2.ReadError,
    (Outcome.MALFORMED, False): httpx2.RemoteProtocolError,
}


def _as_httpx(fault: Fault, request: httpx2.Request) -> httpx2.TransportError:
    connecting = fault.cause in ("connect", "dns", "tls")
    kind = _TO_HTTPX.get((fault.outcome, connecting), httpx2.ReadError)
    return kind(fault.message, request=request)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
