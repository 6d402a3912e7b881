"""What the SDK's requests look like on our own wire: the recording transport, and its parts."""

from __future__ import annotations

import contextvars
import functools
import os
import ssl
import zlib

import httpx2

from loadlib.sample import Outcome
from loadlib.tape import Fault, Tape
from loadlib.wire import Deadlines, Exchange, Failed, Origin, Pool

TAPE = "loadlib.tape"

_current: contextvars.ContextVar[Tape] = contextvars.ContextVar("tape")


def begin_tape() -> Tape:
    """An empty tape, the current one of this greenlet until a transport starts recording."""
    return record(Tape())


def record(tape: Tape) -> Tape:
    """From now on `tape` is the current one of this greenlet."""
    _current.set(tape)
    return tape


def current_tape() -> Tape:
    """What was recorded last in this greenlet, for a caller that was killed past the SDK."""
    return _current.get()


TRUST = ("SSL_CERT_FILE", "SSL_CERT_DIR")


@functools.cache
def tls_context() -> ssl.SSLContext:
    """The SDK's own trust settings (`SSL_CERT_FILE` honoured); built once, it costs 20 ms."""
    try:
        return httpx2.create_ssl_context()
    except OSError as error:  # does not say which file
        given = [f"{key}={os.environ[key]}" for key in TRUST if os.environ.get(key)]
        said = ": ".join(filter(None, (error.strerror or str(error), " ".join(given))))
        raise OSError(said) from None


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


class TapeTransport(httpx2.BaseTransport):
    """Sends, waits until the response is over, and returns it: nobody is woken per event."""

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._pool = Pool(tls_context)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """One exchange; network faults before the headers raise, later ones are on the tape."""
        exchange = start(request, self._pool, self._deadlines)
        exchange.finish()
        if not exchange.headers_done and exchange.tape.fault is not None:
            raise as_httpx(exchange.tape.fault, request)
        return for_sdk(exchange.tape)

    def close(self) -> None:
        """Close idle connections."""
        self._pool.close()


def streams(request: httpx2.Request) -> bool:
    """Whether the request asks for a stream."""
    body = request.read()
    return b'"stream":true' in body or b'"stream": true' in body


def start(request: httpx2.Request, pool: Pool, deadlines: Deadlines) -> Exchange:
    """Send `request`; the exchange's tape is in its extensions even where this raises."""
    exchange = Exchange(pool, deadlines, streams=streams(request))
    request.extensions[TAPE] = record(exchange.tape)
    message = head(request) + request.read()
    try:
        exchange.send(origin_of(request), message)
    except Failed as failed:
        raise as_httpx(failed.fault, request) from None
    return exchange


def origin_of(request: httpx2.Request) -> Origin:
    """Where a request goes to."""
    url = request.url
    return Origin(url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80))


def head(request: httpx2.Request) -> bytes:
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


def for_sdk(tape: Tape) -> httpx2.Response:
    """The response as the SDK gets it: a good answer is decoded from the tape, it sees errors."""
    framing = (b"content-encoding", b"transfer-encoding", b"content-length")
    headers = [(name, value) for name, value in header_bytes(tape) if name not in framing]
    content = b"" if tape.status == 200 else _error_body(tape)
    return httpx2.Response(tape.status or 0, headers=headers, content=content)


def header_bytes(tape: Tape) -> list[tuple[bytes, bytes]]:
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


def as_httpx(fault: Fault, request: httpx2.Request) -> httpx2.TransportError:
    """A fault as the SDK expects it of a transport."""
    connecting = fault.cause in ("connect", "dns", "tls")
    kind = _TO_HTTPX.get((fault.outcome, connecting), httpx2.ReadError)
    return kind(fault.message, request=request)
