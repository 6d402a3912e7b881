"""What the instrument knows about its own error: readings in, checks with remedies out.

`warn` marks figures to be read with care, `bad` makes the whole run inconclusive. A reading
that was not taken is None and yields no check: unknown is not fine, but not a fault either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from loadlib.summary import CheckStatus, Health, HealthCheck

LAG_LIMIT_MS = 5.0
CPU_LIMIT = 0.9  # of one core
DELIVERED_LIMIT = 0.95  # of the offered load
CEILING_LIMIT = 0.05  # of the time


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """What was measured about the instrument. Lags in ms, shares in 0…1, the rest counts."""

    arrival_lag_p99_ms: float | None = None  # sent − intended
    closed_loop: bool = False  # no open phase in the run: arrival lag means nothing
    hub_lag_p99_ms: float | None = None  # how late the event loop woke
    reader_lag_p99_ms: float | None = None  # read − kernel receive time
    cpu_share_max: float | None = None  # busiest process, of one core
    delivered_share: float | None = None  # achieved / offered of the worst open group
    ceiling_share: float | None = None  # share of time with max_in_flight requests in flight
    lost: int = 0  # arrivals of which nobody knows what became of them
    overflow: int = 0  # latencies outside the histogram's range
    recorder_errors: int = 0  # samples that could not be recorded or written
    sequence_gaps: int = 0  # reports of a worker that never arrived


def judge(readings: Readings) -> Health:
    """All checks that apply; the status is the worst of them."""
    found = [check for make in CHECKS if (check := make(readings)) is not None]
    return Health(status=worst(found), checks=tuple(found))


def worst(checks: list[HealthCheck]) -> CheckStatus:
    """The most severe status among the checks (`ok` for none)."""
    return max((check.status for check in checks), key=_SEVERITY.index, default="ok")


def arrival_lag(readings: Readings) -> HealthCheck | None:
    """Requests must leave when the schedule says so; in a closed loop there is no such time."""
    value = readings.arrival_lag_p99_ms
    if value is None or readings.closed_loop:
        return None
    remedy = "more processes (--processes), fewer requests per second, or a higher max_in_flight"
    return _at_most("arrival_lag_p99_ms", value, LAG_LIMIT_MS, "warn", remedy)


def hub_lag(readings: Readings) -> HealthCheck | None:
    """An event loop that wakes late stamps late."""
    remedy = "more processes (--processes), or less work in tasks and listeners"
    return _at_most("hub_lag_p99_ms", readings.hub_lag_p99_ms, LAG_LIMIT_MS, "warn", remedy)


def reader_lag(readings: Readings) -> HealthCheck | None:
    """Bytes that wait in the kernel may lose their own arrival time."""
    remedy = "more processes (--processes), or fewer streams at once"
    return _at_most("reader_lag_p99_ms", readings.reader_lag_p99_ms, LAG_LIMIT_MS, "warn", remedy)


def cpu(readings: Readings) -> HealthCheck | None:
    """A saturated load generator measures itself."""
    remedy = "more processes (--processes), or another machine for the load generator"
    return _at_most("cpu_share_max", readings.cpu_share_max, CPU_LIMIT, "warn", remedy)


def ceiling(readings: Readings) -> HealthCheck | None:
    """At the ceiling the schedule no longer holds: arrivals wait for a free slot."""
    remedy = "a higher max_in_flight; where the server is the limit, a lower rate"
    return _at_most("ceiling_share", readings.ceiling_share, CEILING_LIMIT, "warn", remedy)


def delivered(readings: Readings) -> HealthCheck | None:
    """A load that was not sent was not tested."""
    value = readings.delivered_share
    if value is None:
        return None
    good = value >= DELIVERED_LIMIT
    remedy = "" if good else "a higher max_in_flight, more processes, or a lower rate"
    return HealthCheck(
        name="delivered_share",
        value=round(value, 6),
        limit=DELIVERED_LIMIT,
        status="ok" if good else "bad",
        remedy=remedy,
    )


def lost(readings: Readings) -> HealthCheck:
    """Arrivals that were scheduled and never accounted for."""
    remedy = "see the log: a worker died, or the run ended before its streams did"
    return _none("lost_samples", readings.lost, remedy)


def overflow(readings: Readings) -> HealthCheck:
    """Latencies of an hour and more, or negative ones."""
    remedy = "see requests.jsonl.gz: a clock stepped, or a timeout is longer than an hour"
    return _none("histogram_overflow", readings.overflow, remedy)


def recorder_errors(readings: Readings) -> HealthCheck:
    """Requests that were measured and could not be recorded or written."""
    remedy = "see the log: a full disk, or an error in loadlib"
    return _none("recorder_errors", readings.recorder_errors, remedy)


def sequence_gaps(readings: Readings) -> HealthCheck:
    """Worker reports that never reached the master."""
    remedy = "see the log: a worker was cut off or killed"
    return _none("sequence_gaps", readings.sequence_gaps, remedy)


CHECKS: tuple[Callable[[Readings], HealthCheck | None], ...] = (
    lost,
    sequence_gaps,
    recorder_errors,
    overflow,
    delivered,
    arrival_lag,
    hub_lag,
    reader_lag,
    cpu,
    ceiling,
)

_SEVERITY: tuple[CheckStatus, ...] = ("ok", "warn", "bad")


def _at_most(
    name: str, value: float | None, limit: float, otherwise: CheckStatus, remedy: str
) -> HealthCheck | None:
    if value is None:
        return None
    status: CheckStatus = "ok" if value <= limit else otherwise
    return HealthCheck(
        name=name,
        value=round(value, 6),
        limit=limit,
        status=status,
        remedy="" if status == "ok" else remedy,
    )


def _none(name: str, count: int, remedy: str) -> HealthCheck:
    return HealthCheck(
        name=name,
        value=float(count),
        limit=0.0,
        status="bad" if count else "ok",
        remedy=remedy if count else "",
    )
