"""What the simulator can be told to get wrong, so that a client's outcomes can be tested."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Faults:
    """Faults of every n-th completion request; all absent by default. Seconds are wall time.

    `stall_*` move the tokens of a stream later; `disconnect_mid_stream`, `truncate`,
    `malformed` and `error_in_stream` happen after half of the tokens (at least one). An answer
    that is not streamed is cut, spoiled or refused in the matching way. `no_done` leaves out
    the closing `[DONE]` only; `truncate` ends the body properly but the answer early.
    `freeze_*` stop the whole process once, counted from its first completion request: requests
    and tokens that fall due meanwhile are served when it is over.
    """

    status: int | None = None
    error_code: str | None = None
    stall_before_first_s: float = 0.0
    stall_after_first_s: float = 0.0
    disconnect_mid_stream: bool = False
    truncate: bool = False
    no_done: bool = False
    malformed: bool = False
    error_in_stream: bool = False
    every: int = 1
    freeze_at_s: float | None = None
    freeze_for_s: float = 0.0

    def hits(self, ordinal: int) -> bool:
        """Whether completion request number `ordinal` (from 1) is one of the faulty ones."""
        return ordinal % self.every == 0

    @property
    def cuts(self) -> bool:
        """Whether something happens in the middle of an answer."""
        return self.disconnect_mid_stream or self.truncate or self.malformed or self.error_in_stream


NONE = Faults()
