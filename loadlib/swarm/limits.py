"""Open files: each request in flight is a connection, and a process may open only so many. And
how long each may take.
"""

from __future__ import annotations

import sys

from loadlib.errors import PreflightError
from loadlib.scenario import Scenario
from loadlib.swarm.spread import most_in_flight
from loadlib.wire import Deadlines

if sys.platform != "win32":  # which counts no descriptors
    import resource

SPARE = 128  # files of a process beside its connections: libraries, run folder, event loop


def descriptors(scenario: Scenario, workers: int) -> int:
    """Files that one of so many processes can need at once under a scenario."""
    return SPARE + most_in_flight(scenario, workers)


def allow_files(needed: int) -> None:
    """Make room for so many open files, up to what the system lets this process have.

    Raises:
        PreflightError: it lets it have fewer.
    """
    if sys.platform == "win32":
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or needed <= soft:
        return
    limited = hard != resource.RLIM_INFINITY
    try:
        if limited and needed > hard:
            raise ValueError
        most = min(2 * needed, hard) if limited else 2 * needed  # idle connections count, too
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    except (ValueError, OSError):
        limit = hard if limited else soft
        raise PreflightError(
            f"{needed - SPARE:,} requests in flight need {needed:,} open files in one process,"
            f" {limit:,} are allowed: `ulimit -n {needed}`, more --processes, or less in flight"
        ) from None


def deadlines(scenario: Scenario) -> Deadlines:
    """The scenario's timeouts, as the transport takes them."""
    limits = scenario.timeouts
    return Deadlines(limits.connect_s, limits.first_token_s, limits.idle_s, limits.total_s)
