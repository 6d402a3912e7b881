"""Reads servers' own metrics while load runs, from the process that coordinates the run.

Each server has a greenlet, which asks at the same instants of the Unix clock as all others
(whole seconds, with `every: 1s`) and never twice at once: where an answer takes longer, instants
are left out. A scrape that fails is a line of the record like any other; nothing here ends a run.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from urllib.parse import urlsplit

import gevent
from gevent.event import Event

import loadlib
from loadlib import server_metrics
from loadlib.errors import PreflightError
from loadlib.redact import redact
from loadlib.server_metrics import MAX_BYTES, PageError
from loadlib.server_record import Scrape
from loadlib.server_targets import Target
from loadlib.swarm import clock
from loadlib.swarm.yielding import Turns, look
from loadlib.transport import tls_context

TIMEOUT_S = 5.0  # for the whole of a scrape, connecting included
LOOK_S = 2.0  # … before the run, where it is only asked whether it works
BESIDE_S = 1.0  # so long the first and the last scrape may keep the run waiting
ERROR_LIMIT = 120  # characters
TEXTS = ("text/plain", "application/openmetrics-text")
HINTS = {
    404: "no metrics there (SGLang needs --enable-metrics)",
    501: "llama.cpp needs --metrics",
}


class Page:
    """One server's page of metrics, on a connection that is kept.

    Raises `PreflightError` where the environment variable of its token is not usable.
    """

    def __init__(self, target: Target, environ: Mapping[str, str] | None = None) -> None:
        self.target = target
        self._offset_ns = clock.own_offset_ns()
        self._token = _token(target, os.environ if environ is None else environ)
        self._connection: http.client.HTTPConnection | None = None

    def scrape(self, limit_s: float = TIMEOUT_S) -> Scrape:
        """Ask once; what goes wrong is said in the scrape."""
        begin_ns, reading, error = self.now_ns(), None, None
        try:
            with gevent.Timeout(limit_s, PageError(f"no answer within {limit_s:g} s")):
                begin_ns, page = self._fetch()
            end_ns = self.now_ns()
            look()  # what became due meanwhile goes first
            reading = server_metrics.read(page, Turns().give)
            look()
        except (PageError, OSError, http.client.HTTPException, ValueError) as problem:
            end_ns = self.now_ns()
            self.close()
            secrets = [self._token] if self._token else []
            error = redact(_said(problem), secrets, ERROR_LIMIT) or "failed"
        return Scrape(
            server=self.target.name,
            before_ns=begin_ns,
            after_ns=end_ns,
            kind=None if reading is None else reading.kind,
            values={} if reading is None else reading.values,
            error=error,
        )

    def now_ns(self) -> int:
        """Unix epoch, by a clock that does not step."""
        return time.monotonic_ns() + self._offset_ns

    def close(self) -> None:
        """Leave the connection."""
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.close()
            self._connection = None

    def _fetch(self) -> tuple[int, bytes]:
        """(just before it was asked for, the page)."""
        if self._connection is not None:
            # The server may have closed a connection that was idle since the last time.
            with contextlib.suppress(ConnectionError):
                return self._ask(self._connection)
            self.close()
        self._connection = self._connect()
        return self._ask(self._connection)

    def _connect(self) -> http.client.HTTPConnection:
        place = urlsplit(self.target.url)
        host = place.hostname or ""
        connection = (
            http.client.HTTPSConnection(host, place.port, context=tls_context())
            if place.scheme == "https"
            else http.client.HTTPConnection(host, place.port)
        )
        connection.connect()
        return connection

    def _ask(self, connection: http.client.HTTPConnection) -> tuple[int, bytes]:
        headers = {
            "Accept": "text/plain;version=0.0.4",
            "Accept-Encoding": "identity",
            "User-Agent": f"loadlib/{loadlib.__version__}",
        }
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        begin_ns = self.now_ns()
        connection.request("GET", urlsplit(self.target.url).path, headers=headers)
        response = connection.getresponse()
        _check(response)
        page = response.read(MAX_BYTES + 1)
        if len(page) > MAX_BYTES:
            raise PageError(f"the page is larger than {MAX_BYTES // 1024**2} MiB")
        if response.length:
            raise http.client.IncompleteRead(page, response.length)
        if response.will_close or not response.isclosed():
            self.close()
        return begin_ns, page


def _token(target: Target, environ: Mapping[str, str]) -> str | None:
    if target.api_key_env is None:
        return None
    token = environ.get(target.api_key_env, "").strip()
    if not token or not (token.isascii() and token.isprintable()) or " " in token:
        what = "holds characters that no token has" if token else "is not set or empty"
        name = target.api_key_env
        raise PreflightError(f"server metrics of {target.name}: environment variable {name} {what}")
    return token


def _check(response: http.client.HTTPResponse) -> None:
    status = response.status
    if 300 <= status < 400:
        raise PageError(f"HTTP {status}: a redirect, which is not followed")
    if status != 200:
        hint = HINTS.get(status, "")
        raise PageError(f"HTTP {status}{f': {hint}' if hint else ''}")
    kind = response.getheader("content-type", TEXTS[0]).partition(";")[0].strip().lower()
    if kind not in TEXTS:
        raise PageError(f"no metrics but {kind[:40]}")
    encoding = response.getheader("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise PageError(f"packed with {encoding[:20]}, which was not asked for")


def _said(problem: Exception) -> str:
    """One short sentence, the same for the same failure, so that they can be counted."""
    if isinstance(problem, PageError):
        return str(problem)
    if isinstance(problem, ConnectionRefusedError):
        return "connection refused"
    if isinstance(problem, ConnectionError | http.client.IncompleteRead):
        return "the answer broke off"
    if isinstance(problem, OSError):
        message = getattr(problem, "verify_message", None) or problem.strerror or str(problem)
        return str(message)
    return "the answer is not HTTP"


class Scraper:
    """All servers of a run. `record` gets every scrape, `latest` has the last of each."""

    def __init__(
        self,
        targets: Iterable[Target],
        record: Callable[[Scrape], None],
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._pages = [Page(target, environ) for target in targets]
        self._record = record
        self._stopping = Event()
        self._greenlets: list[gevent.Greenlet[[Page, Event], None]] = []

    def start(self) -> None:
        """Ask all of them once, so that counters are known from before the first request; waits
        for that, but not for long. Then go on asking."""
        if not self._pages:
            return
        firsts = [Event() for _ in self._pages]
        self._greenlets = [
            gevent.spawn(self._watch, page, first)
            for page, first in zip(self._pages, firsts, strict=True)
        ]
        gevent.wait(firsts, timeout=BESIDE_S)

    def stop(self) -> None:
        """Ask once more, so that counters are known from after the last answer, and no longer."""
        self._stopping.set()
        gevent.joinall(self._greenlets, timeout=BESIDE_S)
        gevent.killall(self._greenlets)
        for page in self._pages:
            page.close()

    def _watch(self, page: Page, first: Event) -> None:
        self._record(page.scrape())
        first.set()
        for due_ns in instants(page.now_ns, page.target.every_ns):
            if self._stopping.wait(max(0, due_ns - page.now_ns()) / 1e9):
                break
            self._record(page.scrape())
        self._record(page.scrape(BESIDE_S))


def instants(now_ns: Callable[[], int], every_ns: int) -> Iterator[int]:
    """The next instant that is a multiple of the period, again and again; those that have passed
    when it is asked for are left out."""
    due_ns = 0
    while True:
        due_ns = max(due_ns, now_ns()) // every_ns * every_ns + every_ns
        yield due_ns


def unread(targets: Sequence[Target], environ: Mapping[str, str] | None = None) -> list[str]:
    """Before the run: a line for each server that does not tell its metrics.

    Raises:
        PreflightError: the environment variable of a token is not usable.
    """
    pages = [Page(target, environ) for target in targets]
    looks = [gevent.spawn(page.scrape, LOOK_S) for page in pages]
    gevent.joinall(looks)
    for page in pages:
        page.close()
    return [
        f"server metrics of {page.target.name} ({page.target.url}): {found.value.error}"
        for page, found in zip(pages, looks, strict=True)
        if found.value is not None and found.value.error
    ]
