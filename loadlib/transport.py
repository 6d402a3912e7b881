"""The recording transports: what sits below the openai SDK and keeps the tape.

`TapeTransport` is the instrument: it reads the whole response before the SDK sees it.
`LiveTransport` hands bytes on as they come, for a user's own SDK code. `SdkTransport` is the
SDK's own network path with a tape beside it: the cross-check (`client: sdk`), and the way
through a proxy. All three leave the tape in `request.extensions[TAPE]`.
"""

from __future__ import annotations

import contextvars
import functools
import ssl
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import httpx2

from loadlib.answer import FirstToken
from loadlib.sample import Outcome
from loadlib.tape import MAX_BODY_BYTES, Fault, Tape
from loadlib.wire import Deadlines, Exchange, Failed, Origin, Pool

TAPE = "loadlib.tape"

CALL = "loadlib.call"

Begin = Callable[[], object]
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


def proxy_for(url: str) -> str | None:
    """The proxy that the environment (`HTTPS_PROXY`, `NO_PROXY`, …) names for `url`."""
    parts = urllib.parse.urlsplit(url)
    if not parts.hostname or urllib.request.proxy_bypass(parts.hostname):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")


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
        tape = exchange.tape
        return httpx2.Response(
            tape.status or 0,
            headers=_plain_headers(tape),
            # A good answer is decoded from the tape; only errors are read through the SDK.
            content=b"" if tape.status == 200 else _error_body(tape),
        )

    def close(self) -> None:
        """Close idle connections."""
        self._pool.close()


class LiveTransport(httpx2.BaseTransport):
    """Hands bytes on as they come, for one user's own code.

    `begin` is asked before each request (it may wait for the request's turn) and what it gives
    comes back to `on_finish` when the response was read or let go.
    """

    def __init__(self, deadlines: Deadlines, begin: Begin, on_finish: OnFinish) -> None:
        self._deadlines, self._begin, self._on_finish = deadlines, begin, on_finish
        self._pool = Pool(tls_context)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Returns as soon as the response headers are in."""
        call = request.extensions[CALL] = self._begin()
        try:
            exchange = _start(request, self._pool, self._deadlines)
            while not exchange.headers_done:
                exchange.pump()
        except BaseException as error:
            self._on_finish(call, request, tape_of(request))
            if isinstance(error, Failed):
                raise _as_httpx(error.fault, request) from None
            raise
        stream = _LiveStream(request, exchange, self._on_finish)
        headers = list(exchange.tape.headers.items())
        return httpx2.Response(exchange.tape.status or 0, headers=headers, stream=stream)

    def close(self) -> None:
        """Close idle connections."""
        self._pool.close()


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
                self._exchange.abandon()
            finally:
                call = self._request.extensions[CALL]
                self._on_finish(call, self._request, self._exchange.tape)


class SdkTransport(httpx2.BaseTransport):
    """The SDK's own HTTP stack, timed from outside by its trace events and reads."""

    def __init__(self, deadlines: Deadlines, proxy: str | None = None) -> None:
        self._deadlines = deadlines
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        self._inner = httpx2.HTTPTransport(verify=tls_context(), proxy=proxy, limits=limits)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """One exchange, read to its end."""
        tape = begin_tape()
        request.extensions[TAPE] = tape
        request.extensions["trace"] = _Trace(tape)
        request.headers["Accept-Encoding"] = "identity"
        limits = self._deadlines
        request.extensions["timeout"] = {
            "connect": limits.connect_s, "pool": limits.connect_s, "write": limits.total_s,
            "read": max(limits.first_token_s, limits.idle_s),
        }  # fmt: skip
        try:
            response = self._inner.handle_request(request)
            tape.status = response.status_code
            tape.headers = {name.lower(): value for name, value in response.headers.items()}
            self._read(response, tape)
        except httpx2.TransportError as error:
            tape.fault = _from_httpx(error, started=bool(tape.reads))
        except BaseException:
            tape.fault = Fault(Outcome.CANCELLED, "cancelled", "stopped by the load generator")
            raise
        finally:
            tape.end_ns = tape.end_ns or time.monotonic_ns()
        if tape.fault is not None and tape.status is None:
            raise _as_httpx(tape.fault, request)
        body = b"" if tape.status == 200 else _error_body(tape)
        return httpx2.Response(tape.status or 0, headers=_plain_headers(tape), content=body)

    def _read(self, response: httpx2.Response, tape: Tape) -> None:
        first, limits = FirstToken(), self._deadlines
        start = tape.sent_ns or time.monotonic_ns()
        stream = response.stream
        assert isinstance(stream, httpx2.SyncByteStream)
        try:
            for data in stream:
                now = time.monotonic_ns()
                tape.reads.append((now, data))
                tape.body_bytes += len(data)
                if tape.body_bytes > MAX_BODY_BYTES:
                    message = f"response larger than {MAX_BODY_BYTES} bytes"
                    tape.fault = Fault(Outcome.MALFORMED, "too_large", message)
                elif now - start > limits.total_s * 1e9:
                    tape.fault = Fault(Outcome.TIMEOUT, "total", "total timeout")
                elif (
                    tape.is_stream
                    and not first.feed(data)
                    and now - start > limits.first_token_s * 1e9
                ):
                    tape.fault = Fault(Outcome.TIMEOUT, "first_token", "first token timeout")
                if tape.fault is not None:
                    return
            tape.end_ns = time.monotonic_ns()
        finally:
            response.close()

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


def _start(request: httpx2.Request, pool: Pool, deadlines: Deadlines) -> Exchange:
    """Send `request`; the exchange's tape is in its extensions even where this raises."""
    body = request.read()
    streams = b'"stream":true' in body or b'"stream": true' in body
    exchange = Exchange(pool, deadlines, streams=streams)
    request.extensions[TAPE] = exchange.tape
    _current.set(exchange.tape)
    url = request.url
    port = url.port or (443 if url.scheme == "https" else 80)
    lines = [b"%s %s HTTP/1.1" % (request.method.encode(), url.raw_path)]
    for name, value in request.headers.raw:
        if name.lower() == b"accept-encoding":
            value = b"identity"  # a compressed stream would hide when its events arrived
        lines.append(name + b": " + value)
    try:
        exchange.send(Origin(url.scheme, url.host, port), b"\r\n".join(lines) + b"\r\n\r\n" + body)
    except Failed as failed:
        raise _as_httpx(failed.fault, request) from None
    return exchange


def _plain_headers(tape: Tape) -> list[tuple[str, str]]:
    """The response headers without those that describe how the body was framed."""
    framing = ("content-encoding", "transfer-encoding", "content-length")
    return [(name, value) for name, value in tape.headers.items() if name not in framing]


def _error_body(tape: Tape) -> bytes:
    try:
        return tape.body[:65536]
    except Exception:  # noqa: BLE001 - an error page that cannot be inflated is an empty one
        return b""


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


def _from_httpx(error: httpx2.TransportError, *, started: bool) -> Fault:
    message = str(error) or type(error).__name__
    if isinstance(error, httpx2.ConnectTimeout):
        return Fault(Outcome.TIMEOUT, "connect", message)
    if isinstance(error, httpx2.TimeoutException):
        return Fault(Outcome.TIMEOUT, "idle" if started else "first_token", message)
    if isinstance(error, httpx2.ConnectError | httpx2.ProxyError):
        return Fault(Outcome.DISCONNECTED, "connect", message)
    if isinstance(error, httpx2.RemoteProtocolError) and "disconnect" not in message:
        return Fault(Outcome.MALFORMED, "http", message)
    cause = "after_first_token" if started else "before_first_token"
    return Fault(Outcome.DISCONNECTED, cause, message)
