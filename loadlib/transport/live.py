"""The SDK for a user's own code: bytes are handed on as they come, and recorded."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import openai

from loadlib.redact import hide
from loadlib.tape import Tape
from loadlib.transport.sdk import SdkTransport
from loadlib.transport.tape import (
    as_httpx,
    begin_tape,
    current_tape,
    header_bytes,
    start,
    tls_context,
)
from loadlib.wire import Deadlines, Exchange, Failed, Pool

CALL = "loadlib.call"
MAX_SAID = 1 << 16  # characters of an error's body that are looked through

Begin = Callable[[httpx2.Request], tuple[httpx2.Request, object]]
OnFinish = Callable[[object, httpx2.Request, Tape], None]


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
            exchange = start(request, self._pool, self._deadlines)
            while not exchange.headers_done:
                exchange.pump()
        except BaseException as error:
            self._on_finish(call, request, current_tape())
            if isinstance(error, Failed):
                raise as_httpx(error.fault, request) from None
            raise
        stream = self._open[call] = _LiveStream(request, exchange, self._finished)
        return httpx2.Response(
            exchange.tape.status or 0, headers=header_bytes(exchange.tape), stream=stream
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
            raise as_httpx(tape.fault, request)
        body = b"".join(tape.pieces)
        return httpx2.Response(tape.status or 0, headers=header_bytes(tape), content=body)

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
            raise as_httpx(failed.fault, self._request) from None

    def close(self) -> None:
        if self._open:
            self._open = False
            try:
                # To wait inside the garbage collector would crash the interpreter.
                self._exchange.abandon(wait=not _collector.runs)
            finally:
                call = self._request.extensions[CALL]
                self._on_finish(call, self._request, self._exchange.tape)


class _Live(openai.OpenAI):
    secret = ""  # what must not stand in an error: Locust logs and sends on what a task raises

    def request(self, *args: Any, **kwargs: Any) -> Any:
        """As the SDK's own."""
        try:
            result = super().request(*args, **kwargs)
        except openai.APIError as error:
            raise _hidden(error, self.secret) from error.__cause__
        if isinstance(result, openai.Stream):
            return _DroppableStream(result, self.secret)
        return result


def _hidden(error: openai.APIError, secret: str) -> openai.APIError:
    """The same error, without a key that the server repeats in it."""
    known = (secret,)
    error.args = tuple(hide(arg, known) if isinstance(arg, str) else arg for arg in error.args)
    for name in ("message", "code", "param", "type"):
        if isinstance(said := getattr(error, name, None), str):
            setattr(error, name, hide(said, known))
    if hide(said := str(error.body)[:MAX_SAID], known) != said:
        error.body = hide(said, known)
    return error


class LiveSdk(_Live):
    """The SDK for a user's own code: a stream that is dropped unread is closed at once."""


class LiveAzureSdk(_Live, openai.AzureOpenAI):
    """The same for Azure's deployment URLs."""


class _DroppableStream(openai.Stream[Any]):
    """Stands before the SDK's stream, which holds itself in a reference cycle.

    `for chunk in create(…): break` would leave that one open until the garbage collector comes
    by, and with it the request's place, its connection and its sample.
    """

    # of its own: there is nothing to build
    def __init__(self, inner: openai.Stream[Any], secret: str) -> None:
        self._inner, self._secret = inner, secret

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __next__(self) -> Any:
        try:
            return next(self._inner)
        except openai.APIError as error:
            raise _hidden(error, self._secret) from error.__cause__

    def __iter__(self) -> Iterator[Any]:
        return self

    def close(self) -> None:
        """As the SDK's own."""
        self._inner.close()

    def __del__(self) -> None:
        self._inner.close()
