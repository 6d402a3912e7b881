"""The SDK's own HTTP stack, timed from outside: the cross-check, and the way through a proxy."""

from __future__ import annotations

import socket
import ssl
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import httpx2

from loadlib.answer import FirstToken
from loadlib.sample import Outcome
from loadlib.tape import MAX_BODY_BYTES, Fault, Tape
from loadlib.transport.tape import TAPE, as_httpx, begin_tape, for_sdk, streams, tls_context
from loadlib.wire import MAX_PIECES, Deadlines, Reel


def proxy_for(url: str) -> str | None:
    """The proxy that the environment (`HTTPS_PROXY`, `NO_PROXY`, …) names for `url`."""
    parts = urllib.parse.urlsplit(url)
    if not parts.hostname or urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"


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
            raise as_httpx(tape.fault, request)
        return for_sdk(tape)

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
            "read": read_s if streams(request) else limits.total_s,
        }  # fmt: skip
        first = FirstToken()
        try:
            response = self._inner.handle_request(request)
            tape.status = response.status_code
            version = response.extensions.get("http_version", b"")
            tape.http = version.decode("latin-1").removeprefix("HTTP/") or None
            tape.headers = {name.lower(): value for name, value in response.headers.items()}
            first = FirstToken(tape.headers)
            self._read(response, tape, first, streams=streams(request))
        except httpx2.TransportError as error:
            tape.fault = self._fault(error, tape, first, streams=streams(request))
        except BaseException:
            tape.fault = Fault(Outcome.CANCELLED, "cancelled", "stopped by the load generator")
            raise
        finally:
            tape.end_ns = tape.end_ns or time.monotonic_ns()
            Reel.here().readings.user_clock_reads += len(tape.pieces)  # health must know
        return tape

    def _read(
        self, response: httpx2.Response, tape: Tape, first: FirstToken, *, streams: bool
    ) -> None:
        stream = response.stream
        assert isinstance(stream, httpx2.SyncByteStream)
        try:
            for data in stream:
                now = time.monotonic_ns()
                tape.add(now, data)
                first.feed(data)
                if tape.body_bytes > MAX_BODY_BYTES or len(tape.pieces) > MAX_PIECES:
                    message = f"response larger than {MAX_BODY_BYTES} bytes or {MAX_PIECES} pieces"
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


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
