"""HTTP/1.1 over sockets, recorded: connections, their reuse, and exchanges on tapes.

Nobody is woken for an event: one epoll (`reel`) looks at all sockets every few milliseconds, and
the kernel says when each read arrived (`clock`). A greenlet sleeps until its exchange is over.
"""

from loadlib.wire.connection import Failed, Origin, Pool
from loadlib.wire.exchange import MAX_PIECES, Deadlines, Exchange
from loadlib.wire.reel import Readings, Reel

__all__ = [
    "MAX_PIECES", "Deadlines", "Exchange", "Failed", "Origin", "Pool", "Readings", "Reel",
]  # fmt: skip
