"""One clock for all processes of a run: the master's wall clock, told over its own channel.

A worker on another machine may be seconds off; its instants would then lie beside the run they
belong to. So it asks the master for the time, and believes the answer that came back fastest
(Cristian's algorithm). How the round trip was shared out it cannot know: half of it is the error.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

KEPT = 20  # answers: the best of the latest counts
APART_NS = 50_000_000  # from here on a difference between two clocks is worth a word


@dataclass(frozen=True, slots=True)
class Difference:
    """This machine's wall clock − the master's, and the most that may be wrong with it (ns)."""

    ahead_ns: int
    error_ns: int

    @property
    def known(self) -> bool:
        """Whether they differ by more than what cannot be known."""
        return abs(self.ahead_ns) > self.error_ns


class MasterClock:
    """What the master's answers say of the time there."""

    def __init__(self) -> None:
        self._answers: deque[tuple[int, int]] = deque(maxlen=KEPT)  # round trip, offset

    def heard(self, asked_ns: int, master_ns: int, now_ns: int) -> None:
        """Asked at `asked_ns`, answered with `master_ns` (epoch), heard at `now_ns` (monotonic)."""
        self._answers.append((now_ns - asked_ns, master_ns - (asked_ns + now_ns) // 2))

    def difference(self, own_ns: int) -> Difference | None:
        """How far `own_ns` (epoch − monotonic, by this machine) is ahead; None before an answer."""
        if not self._answers:
            return None
        trip_ns, offset_ns = min(self._answers)
        return Difference(own_ns - offset_ns, trip_ns // 2)

    def offset_ns(self, own_ns: int) -> int:
        """Unix epoch − monotonic clock by the master, or by this machine where they agree."""
        found = self.difference(own_ns)
        return own_ns if found is None or not found.known else own_ns - found.ahead_ns
