"""What a truth server did, and by how much the figures of a run folder differ from it."""

from __future__ import annotations

import http.client
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import numpy as np
import numpy.typing as npt

from loadlib import run as runs
from loadlib.calibrate.protocol import NS_PER_MS, Served, weighted_quantile
from loadlib.errors import DataError, PreflightError, UsageError
from loadlib.histogram import Histogram, nearest_rank
from loadlib.metrics import SCALE
from loadlib.run import Run
from loadlib.sample import Outcome, Sample

TIMEOUT_S = 30.0

__all__ = ["Errors", "Served", "Truth", "errors", "fetch", "parse", "quantile"]

Ints = npt.NDArray[np.int64]


class _Totals(msgspec.Struct, frozen=True, kw_only=True):
    """The last line of `GET /truth`."""

    gap_us: tuple[tuple[int, int], ...]
    events: int
    late_us_p99: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """Everything one `GET /truth` drained."""

    requests: tuple[Served, ...] = ()
    gaps: tuple[tuple[int, int], ...] = ()  # (µs between two tokens of a stream, how often)
    events: int = 0
    late_us_p99: float | None = None  # how late the server's own sends were


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Client − truth, in ms; None where there was nothing to compare.

    `…_pXX_error_ms` is the difference of the two quantiles (nearest rank) over the same joined
    requests, `ttft_each_pXX_ms` the quantile of the absolute difference of each.
    """

    n: int  # requests joined, all of them ok
    unmatched: int  # ok requests of the client that no single served request answers to
    ttft_p50_error_ms: float | None
    ttft_p99_error_ms: float | None
    ttft_each_p50_ms: float | None
    ttft_each_p99_ms: float | None
    ttft_p50_ms: float | None  # the truth itself
    ttft_p99_ms: float | None
    icl_p50_error_ms: float | None
    icl_p99_error_ms: float | None
    icl_p99_ms: float | None  # the truth itself
    events: int  # content events the client recorded, of all requests that could be joined
    truth_events: int  # … and the server sent to them
    delivered: float | None  # events / truth_events


def fetch(base_url: str) -> Truth:
    """Drain `GET /truth` of the truth server at `base_url` (with or without `/v1`), on loopback.

    Raises:
        UsageError: not an http URL of this machine.
        PreflightError: nobody answers there.
        DataError: the answer is not a truth.
    """
    url = urlsplit(base_url)
    if url.scheme != "http" or url.hostname not in ("127.0.0.1", "localhost", "::1"):
        raise UsageError(f"a truth server has an http URL of this machine, not {base_url}")
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/truth")
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise PreflightError(f"no truth server at {base_url}: {error}") from None
    finally:
        connection.close()
    if response.status != 200:
        raise PreflightError(f"{base_url} is no truth server: /truth answers {response.status}")
    return parse(body, f"{base_url}/truth")


def parse(body: bytes, name: str = "<truth>") -> Truth:
    """Read what `GET /truth` answers: a line per request, then one of totals.

    Raises `DataError` with `name` and the line for anything else.
    """
    lines = body.splitlines()
    if not lines:
        raise DataError("is empty: the last line should hold gap_us and events", file=name)
    served, decoder = list[Served](), msgspec.json.Decoder(Served)
    try:
        for line in lines[:-1]:
            served.append(decoder.decode(line))
        totals = msgspec.json.decode(lines[-1], type=_Totals)
    except msgspec.MsgspecError as error:
        raise DataError(str(error), file=name, line=len(served) + 1) from None
    return Truth(
        requests=tuple(served),
        gaps=totals.gap_us,
        events=totals.events,
        late_us_p99=totals.late_us_p99,
    )


def errors(run_folder: Path, truth: Truth, phase: str | None = None) -> Errors:
    """Compare a run folder, also one of a killed run, with what its server did.

    Requests are joined by the server's id. `phase` None means every measure phase. Gaps are
    compared as distributions: the server's table covers all it sent since it was last drained.

    Raises:
        UsageError: no run folder, or no such phase.
        DataError: a damaged one.
    """
    run = runs.load(run_folder)
    wanted = _phases(run, phase)
    samples = [sample for sample in run.samples() if sample.phase in wanted]
    pairs = list(_joined(samples, truth))
    client_ns, truth_ns = _ttft(pairs)
    each_ms = np.abs(client_ns - truth_ns) / NS_PER_MS
    icl, gap_us = _icl(run, wanted), weighted_quantile(truth.gaps, 0.99)
    events = sum(sample.events for sample, _ in pairs)
    served = sum(request.events for _, request in pairs)
    ok = sum(sample.outcome is Outcome.OK for sample in samples)
    return Errors(
        n=len(truth_ns),
        unmatched=ok - len(truth_ns),
        ttft_p50_error_ms=_difference_ms(client_ns, truth_ns, 0.5),
        ttft_p99_error_ms=_difference_ms(client_ns, truth_ns, 0.99),
        ttft_each_p50_ms=quantile(each_ms, 0.5),
        ttft_each_p99_ms=quantile(each_ms, 0.99),
        ttft_p50_ms=quantile(truth_ns / NS_PER_MS, 0.5),
        ttft_p99_ms=quantile(truth_ns / NS_PER_MS, 0.99),
        icl_p50_error_ms=_icl_error_ms(icl, truth, 0.5),
        icl_p99_error_ms=_icl_error_ms(icl, truth, 0.99),
        icl_p99_ms=None if gap_us is None else gap_us / SCALE,
        events=events,
        truth_events=served,
        delivered=events / served if served else None,
    )


def quantile(values: npt.NDArray[np.float64] | Ints, p: float) -> float | None:
    """Nearest rank ⌈p·n⌉ of any numbers; None of none."""
    if not values.size:
        return None
    return float(np.sort(values)[nearest_rank(p, values.size) - 1])


def _phases(run: Run, phase: str | None) -> set[str]:
    groups = run.summary.groups
    if phase is None:
        return {group.phase for group in groups if group.kind == "measure"}
    known = {group.phase for group in groups}
    if phase not in known:
        raise UsageError(f"{run.path} has no phase {phase!r}: there are {', '.join(sorted(known))}")
    return {phase}


def _joined(samples: Iterable[Sample], truth: Truth) -> Iterator[tuple[Sample, Served]]:
    """Requests of any outcome with what their server did.

    An id that occurs twice on either side says nothing, and takes no part.
    """
    rows = [sample for sample in samples if sample.request_id is not None]
    seen = Counter(sample.request_id for sample in rows)
    sent = Counter(request.id for request in truth.requests)
    served = {request.id: request for request in truth.requests if sent[request.id] == 1}
    for sample in rows:
        request = served.get(sample.request_id or "")
        if request is not None and seen[sample.request_id] == 1:
            yield sample, request


def _ttft(pairs: Iterable[tuple[Sample, Served]]) -> tuple[Ints, Ints]:
    """TTFT in ns, of client and server, of the requests that were answered well."""
    mine, theirs = [], []
    for sample, request in pairs:
        first_ns, sent_ns = sample.first_token_ns, sample.sent_ns
        if sample.outcome is Outcome.OK and first_ns is not None and sent_ns is not None:
            mine.append(first_ns - sent_ns)
            theirs.append(request.ttft_ns)
    return np.array(mine, np.int64), np.array(theirs, np.int64)


def _difference_ms(client_ns: Ints, truth_ns: Ints, p: float) -> float | None:
    mine, theirs = quantile(client_ns, p), quantile(truth_ns, p)
    return None if mine is None or theirs is None else (mine - theirs) / NS_PER_MS


def _icl(run: Run, phases: set[str]) -> Histogram:
    found = Histogram()
    for group in run.summary.groups:
        if group.phase in phases:
            found.merge(run.histogram(group.model, group.workload, group.phase, "icl"))
    return found


def _icl_error_ms(icl: Histogram, truth: Truth, p: float) -> float | None:
    mine, theirs = icl.quantile(p), weighted_quantile(truth.gaps, p)
    return None if mine is None or theirs is None else (mine - theirs) / SCALE
