"""What the instrument knows about its own error: readings in, checks with remedies out.

`warn` marks figures to be read with care, `bad` makes the whole run inconclusive. A reading
that was not taken is None and yields no check: unknown is not fine, but not a fault either.
A check that bounds figures says which ones, by how much, and in which direction.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from loadlib.summary import CheckStatus, Direction, Health, HealthCheck

LAG_LIMIT_MS = 5.0
STALL_LIMIT_MS = 100.0
PAUSE_LIMIT_MS = 10.0
CPU_LIMIT = 0.9  # of one core
CPU_AIM = 0.7  # of one core: what a process of a larger number should need
WAIT_LIMIT = 0.02  # of the time: 0.003 and less on a quiet machine, 0.05 beside a busy loop
STARVED = 0.25  # of the time waiting for the core: nothing else needs to explain a delay
DELIVERED_LIMIT = 0.95  # of the offered load
CEILING_LIMIT = 0.05  # of the time
MERGED_LIMIT = USER_CLOCK_LIMIT = 0.01  # of the reads: below, no p99 hangs on them

RESPONSE_CLOCK = ("ttfb", "ttft", "ttfo", "ttfc", "e2e")
SENT_CLOCK = ("sent_ttfb", "sent_ttft", "sent_ttfo", "sent_ttfc", "sent_e2e")
BETWEEN = ("ttst", "icl", "stall", "tpot", "output_tok_s_user")
STAMPED = (*RESPONSE_CLOCK, *SENT_CLOCK, *BETWEEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """What was to be sent in the open group that fell most behind, and why it was not."""

    model: str
    phase: str
    rps: float
    at_ceiling: float = 0.0  # share of the missing requests that were dropped at the ceiling
    e2e_s: float | None = None  # mean, sent clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """What was measured about the instrument. Lags in ms, shares in 0…1, the rest counts."""

    arrival_lag_p99_ms: float | None = None  # sent − intended, waits at the ceiling left out
    closed_loop: bool = False  # no open phase in the run: arrival lag means nothing
    hub_lag_p99_ms: float | None = None  # how late the event loop woke
    hub_lag_max_ms: float | None = None
    reader_lag_p99_ms: float | None = None  # read − kernel receive time
    merged_share: float | None = None  # of the reads, that held several content events
    user_clock_share: float | None = None  # of the reads, that have no kernel time
    gc_pause_max_ms: float | None = None
    cpu_share_max: float | None = None  # busiest process in its busiest second, of one core
    cpu_share_p90: float | None = None  # over all processes and seconds
    cpu_wait_share_p90: float | None = None  # ready to run and not running; likewise
    processes: int | None = None  # that generated load
    cpus: int | None = None  # of this machine
    delivered_share: float | None = None  # achieved / offered of the worst open group
    offered: Offered | None = None  # … which is this one
    ceiling_share: float | None = None  # share of time with max_in_flight requests in flight
    clock_steps: int | None = None  # the wall clock was set while the kernel stamped by it
    lost: int = 0  # arrivals of which nobody knows what became of them
    overflow: int = 0  # latencies outside the histogram's range
    recorder_errors: int = 0  # samples that could not be recorded or written
    sequence_gaps: int = 0  # reports of a worker that never arrived

    @property
    def kernel_clock(self) -> bool:
        """Whether stamps are the kernel's, so that a late event loop does not make them late."""
        return self.user_clock_share is not None and self.user_clock_share <= USER_CLOCK_LIMIT

    @property
    def merging(self) -> bool:
        """Whether so many reads held several events that a p99 may hang on them."""
        return self.merged_share is not None and self.merged_share > MERGED_LIMIT


def judge(readings: Readings, *, overridden: bool = False) -> Health:
    """All checks that apply; the status is the worst of them.

    `overridden`: the user lets gates decide whatever comes out here.
    """
    found = [check for make in CHECKS if (check := make(readings)) is not None]
    return Health(status=worst(found), checks=tuple(found), overridden=overridden)


def worst(checks: list[HealthCheck]) -> CheckStatus:
    """The most severe status among the checks (`ok` for none)."""
    return max((check.status for check in checks), key=_SEVERITY.index, default="ok")


# -- causes ----------------------------------------------------------------------------------------


def why_late(readings: Readings) -> tuple[str, str]:
    """(cause, remedy) of whatever this process did too late, the most probable one."""
    share, waited = readings.cpu_share_p90, readings.cpu_wait_share_p90
    busy = share is not None and share >= CPU_LIMIT
    if waited is not None and waited > WAIT_LIMIT and not (busy and waited < 5 * WAIT_LIMIT):
        return _contention(readings, waited)
    if share is not None and busy:
        cause = f"the load generator was out of CPU ({_percent(share)} of a core a process)"
        return cause, more_processes(readings)
    if readings.gc_pause_max_ms is not None and readings.gc_pause_max_ms > PAUSE_LIMIT_MS:
        return (
            f"garbage collection stopped everything for {readings.gc_pause_max_ms:.0f} ms",
            _GC_REMEDY,
        )
    return "", "less work in tasks and listeners, more processes (--processes), or a lower rate"


def _contention(readings: Readings, waited: float) -> tuple[str, str]:
    running, cpus, how_long = readings.processes, readings.cpus, f"{_percent(waited)} of the time"
    if running is not None and cpus is not None and running > cpus:
        return (
            f"{running} load-generating processes waited for {_cores(cpus)} {how_long}",
            f"fewer processes (--processes {cpus}), or a larger machine",
        )
    return (
        f"something else had the load generator's core {how_long}",
        "end other programs, or give the load generator a core of its own",
    )


def _cores(cpus: int) -> str:
    return f"{cpus} core{'s' if cpus != 1 else ''}"


def more_processes(readings: Readings) -> str:
    """How many processes the load needs, each at 70 % of a core: "2 more processes …".

    What was not sent would have needed its CPU too.
    """
    running = readings.processes or 1
    share = readings.cpu_share_p90 or readings.cpu_share_max or CPU_LIMIT
    # Rounded: 0.7 of a core for each of two is two processes, not two and a hair.
    needed = math.ceil(round(share * running / (readings.delivered_share or 1.0) / CPU_AIM, 6))
    more = max(1, needed - running)
    if readings.cpus is not None and running + more > readings.cpus:
        return (
            f"a larger machine, or a lower rate: {running + more} processes are needed, "
            f"this machine has {_cores(readings.cpus)}"
        )
    return f"{more} more process{'es' if more > 1 else ''} (--processes {running + more})"


_GC_REMEDY = "keep fewer objects in tasks, or build what stays before the run and gc.freeze() it"


# -- checks ----------------------------------------------------------------------------------------


def arrival_lag(readings: Readings) -> HealthCheck | None:
    """Requests must leave when the schedule says so; in a closed loop there is no such time.

    It can only lengthen what is counted from the intended start.
    """
    value = readings.arrival_lag_p99_ms
    if value is None or readings.closed_loop:
        return None
    check = _at_most("arrival_lag_p99_ms", value, LAG_LIMIT_MS, *why_late(readings))
    return _bounding(check, value, RESPONSE_CLOCK, "longer")


def hub_lag(readings: Readings) -> HealthCheck | None:
    """An event loop that wakes late stamps late, where it is what stamps."""
    value = readings.hub_lag_p99_ms
    if value is None:
        return None
    check = _at_most("hub_lag_p99_ms", value, LAG_LIMIT_MS, *why_late(readings))
    return check if readings.kernel_clock else _bounding(check, value, STAMPED, "either")


def hub_stall(readings: Readings) -> HealthCheck | None:
    """The longest time in which nothing ran but one thing."""
    remedy = "a profile of the process (py-spy); less work at once in tasks and listeners"
    cause = "something held the event loop up"
    return _at_most("hub_lag_max_ms", readings.hub_lag_max_ms, STALL_LIMIT_MS, cause, remedy)


def reader_lag(readings: Readings) -> HealthCheck | None:
    """Bytes that wait in the kernel keep their arrival time, unless others join them there."""
    value, merged = readings.reader_lag_p99_ms, readings.merged_share
    if value is None:
        return None
    if merged is not None and not readings.merging:
        check = _at_most("reader_lag_p99_ms", value, LAG_LIMIT_MS, harmless=True)
        return _bounding(check, 0.0, (*RESPONSE_CLOCK, *SENT_CLOCK), "either")
    cause, remedy = why_late(readings)
    if merged is not None:
        why = f"{_percent(merged)} of the reads held several events, which share one instant"
        cause = f"{why}; {cause}" if cause else why
    check = _at_most("reader_lag_p99_ms", value, LAG_LIMIT_MS, cause, remedy)
    return _bounding(check, value, STAMPED, "either")


def user_clock(readings: Readings) -> HealthCheck | None:
    """Without the kernel's receive time a stamp is as late as the event loop. No fault, a fact."""
    value = readings.user_clock_share
    if value is None:
        return None
    check = HealthCheck(
        name="user_clock_share",
        value=round(value, 6),
        limit=None,
        status="ok",
        cause="" if readings.kernel_clock else "stamps are the process's own, not the kernel's",
    )
    late = 0.0 if readings.kernel_clock else readings.hub_lag_p99_ms
    return check if late is None else _bounding(check, late, STAMPED, "either")


def gc_pause(readings: Readings) -> HealthCheck | None:
    """Nothing is sent and nothing read while garbage is collected; what that spoils, lags say."""
    value = readings.gc_pause_max_ms
    return _at_most("gc_pause_max_ms", value, PAUSE_LIMIT_MS, "", _GC_REMEDY)


def cpu(readings: Readings) -> HealthCheck | None:
    """A saturated load generator measures itself."""
    value = readings.cpu_share_max
    share = readings.cpu_share_p90
    if share is not None and share < CPU_LIMIT:
        cause, remedy = f"a peak: {_percent(share)} or less in nine seconds of ten", _PEAK
    else:
        cause, remedy = "the load generator was out of CPU", more_processes(readings)
    return _at_most("cpu_share_max", value, CPU_LIMIT, cause, remedy)


_PEAK = "a longer warm-up, or prompts that are cheaper to build; see the lags for what it cost"


def cpu_wait(readings: Readings) -> HealthCheck | None:
    """Somebody else ran on our core while we had work: seen at the source, whatever it spoiled."""
    value = readings.cpu_wait_share_p90
    if value is None:
        return None
    why = _contention(readings, value)
    return _at_most("cpu_wait_share_p90", value, WAIT_LIMIT, *why)


def clock_steps(readings: Readings) -> HealthCheck | None:
    """The kernel stamps by the wall clock: whoever sets it moves the stamps since the last look."""
    value = readings.clock_steps
    if value is None:
        return None
    remedy = "let the clock be slewed, not stepped, while a test runs (chrony, timesyncd)"
    return _at_most("clock_steps", float(value), 0.0, "the wall clock was set", remedy)


def ceiling(readings: Readings) -> HealthCheck | None:
    """At the ceiling the schedule no longer holds: arrivals wait for a free slot."""
    remedy = "a higher max_in_flight; where the server is the limit, a lower rate"
    cause = "answers took longer than max_in_flight allows for at this rate"
    return _at_most("ceiling_share", readings.ceiling_share, CEILING_LIMIT, cause, remedy)


def delivered(readings: Readings) -> HealthCheck | None:
    """A load that was not sent was not tested."""
    value = readings.delivered_share
    if value is None:
        return None
    good = value >= DELIVERED_LIMIT
    cause, remedy = ("", "") if good else _undelivered(readings, value)
    return HealthCheck(
        name="delivered_share",
        value=round(value, 6),
        limit=DELIVERED_LIMIT,
        status="ok" if good else "bad",
        cause=cause,
        remedy=remedy,
    )


def _undelivered(readings: Readings, value: float) -> tuple[str, str]:
    """Who is to blame: a severe lack of CPU before the ceiling, for it too fills the ceiling."""
    offered, ceiling_share = readings.offered, readings.ceiling_share or 0.0
    what = f"sent {_percent(value)} of the offered load"
    if offered is not None:
        where = f"{offered.model} in {offered.phase}"
        what = f"sent {_percent(value)} of the offered {offered.rps:.4g}/s to {where}"
    cause, remedy = why_late(readings)
    dropped = offered is not None and offered.at_ceiling >= 0.5
    if (dropped or ceiling_share > CEILING_LIMIT) and not _starved(readings):
        cause = "the ceiling max_in_flight was reached"
        cause += f" {_percent(ceiling_share)} of the time" if ceiling_share else ""
        remedy = f"raise max_in_flight{_in_flight(offered)} or lower the rate"
    return f"{what}: {cause or 'requests left too late'}", remedy


def _starved(readings: Readings) -> bool:
    share, waited = readings.cpu_share_p90 or 0.0, readings.cpu_wait_share_p90 or 0.0
    return share >= CPU_LIMIT or waited > STARVED


def _in_flight(offered: Offered | None) -> str:
    """Little's law: the rate times the time each takes is how many are in flight."""
    if offered is None or offered.e2e_s is None:
        return ""
    needed = math.ceil(offered.rps * offered.e2e_s)
    return f" (at {offered.e2e_s:.3g} s each some {needed} are in flight)"


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
    reader_lag,
    hub_lag,
    hub_stall,
    user_clock,
    cpu,
    cpu_wait,
    gc_pause,
    clock_steps,
    ceiling,
)

_SEVERITY: tuple[CheckStatus, ...] = ("ok", "warn", "bad")


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _bounding(
    check: HealthCheck | None, bound_ms: float, metrics: tuple[str, ...], direction: Direction
) -> HealthCheck | None:
    if check is None:
        return None
    known = {"bound_ms": round(bound_ms, 6), "applies_to": metrics, "direction": direction}
    return msgspec.structs.replace(check, **known)


def _at_most(
    name: str,
    value: float | None,
    limit: float,
    cause: str = "",
    remedy: str = "",
    *,
    harmless: bool = False,
) -> HealthCheck | None:
    if value is None:
        return None
    good = harmless or value <= limit
    return HealthCheck(
        name=name,
        value=round(value, 6),
        limit=limit,
        status="ok" if good else "warn",
        cause="" if good else cause,
        remedy="" if good else remedy,
    )


def _none(name: str, count: int, remedy: str) -> HealthCheck:
    return HealthCheck(
        name=name,
        value=float(count),
        limit=0.0,
        status="bad" if count else "ok",
        remedy=remedy if count else "",
    )
