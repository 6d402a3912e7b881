"""When bytes arrived, as the kernel saw it: `SO_TIMESTAMPNS` on the monotonic clock.

The kernel stamps a segment as it comes in, 6 µs after the send on loopback, however late we read.
It uses the wall clock, so its stamps are shifted by the difference of the two clocks; that
difference is constant but for steps (somebody sets the time), which are looked for.
"""

from __future__ import annotations

import socket
import struct
import sys
import time

SO_TIMESTAMPNS = 35  # asm-generic/socket.h; the socket module has no name for it
STAMP_BYTES = socket.CMSG_SPACE(16) if hasattr(socket, "CMSG_SPACE") else 0

_TOLERANCE_NS = 50_000  # stamps and samples of the offset are this good, and steps are larger
_LOOK_EVERY_NS = 10_000_000
_unpack = struct.Struct("=qq").unpack


class Clock:
    """Maps the kernel's stamps to monotonic ns. `steps` counts changes of the wall clock."""

    def __init__(self) -> None:
        self.steps = 0
        self._offset_ns = min((_offset() for _ in range(5)), key=lambda pair: pair[1])[0]
        self._looked_ns = time.monotonic_ns()
        # Stamping is switched on while any socket asks for it, a little after the first one does.
        self._keeps_it_on = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.kernel = stamps(self._keeps_it_on)

    def at_ns(self, stamp: bytes, not_before_ns: int, now_ns: int) -> int | None:
        """The instant of a stamp; None where it cannot be true (the wall clock has stepped)."""
        seconds, ns = _unpack(stamp)
        at_ns: int = seconds * 1_000_000_000 + ns - self._offset_ns
        if not_before_ns <= at_ns <= now_ns:
            return at_ns
        if now_ns < at_ns <= now_ns + _TOLERANCE_NS:
            return now_ns
        if not_before_ns - _TOLERANCE_NS <= at_ns < not_before_ns:
            return not_before_ns
        self.look(now_ns, at_once=True)
        return None

    def look(self, now_ns: int, *, at_once: bool = False) -> None:
        """See whether the wall clock was set; does nothing when that was done a moment ago."""
        if now_ns - self._looked_ns < _LOOK_EVERY_NS and not at_once:
            return
        self._looked_ns = now_ns
        offset_ns, error_ns = _offset()
        if abs(offset_ns - self._offset_ns) > _TOLERANCE_NS + error_ns:
            self.steps += 1
            self._offset_ns = offset_ns


def stamps(sock: socket.socket) -> bool:
    """Ask for kernel receive times on a socket; False where there are none."""
    if sys.platform != "linux" or sys.maxsize < 2**32:
        return False
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    except OSError:
        return False
    return True


def _offset() -> tuple[int, int]:
    """(wall clock − monotonic clock, how wrong that can be), both in ns."""
    before = time.monotonic_ns()
    wall = time.time_ns()
    after = time.monotonic_ns()
    return wall - (before + after) // 2, after - before
