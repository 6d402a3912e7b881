"""A worker's reports on their way to the master: numbered, kept until it has them, and on disk.

The channel may lose messages (a cut connection, a full queue), never the reports: each is kept
until the master says that it came, sent again when it says that it did not, and stands in the
worker's own shard file. The end is a handshake: the last word says how much there was, the master
confirms that all of it is there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import gevent
import msgspec
from gevent.event import Event

from loadlib import shards
from loadlib.lastword import LastWord
from loadlib.recorder import Interval
from loadlib.shards import ShardWriter

log = logging.getLogger(__name__)

REPEAT_S = 2.0  # the last word is said again after this long without an answer
CONFIRM_S = 20.0  # … and waited for this long
MAX_KEPT = 64 << 20  # bytes of unconfirmed reports in memory; older ones are in the shard

Send = Callable[[str, dict[str, Any]], None]


class Outbox:
    """`send` may lose what it takes; `silent` says whether the master is."""

    def __init__(
        self, send: Send, shard: ShardWriter | None, silent: Callable[[], bool] = lambda: False
    ) -> None:
        self._send, self._shard, self._silent = send, shard, silent
        self._kept: dict[int, bytes] = {}
        self._kept_bytes = 0
        self._checksum = 0
        self._confirmed = Event()
        self._repeating: gevent.Greenlet[[bytes], None] | None = None

    @property
    def problem(self) -> str | None:
        """Why the shard file is not whole, if so."""
        return None if self._shard is None else self._shard.problem

    def begin(self, about: Mapping[str, Any]) -> None:
        """What the run is, for who reads the shard file without a master."""
        if self._shard is not None:
            self._shard.append(shards.pack({"kind": "begin", **about}))

    def report(self, interval: Interval, stage: Mapping[str, Any]) -> None:
        """About a second of measurements; `stage` is the `phase` the process is in now, of which
        `models`, and `since_ns` when (None: nothing has begun)."""
        frame = shards.pack({"kind": "interval", **stage, "interval": interval})
        self._checksum += shards.checksum(frame)
        self._keep(interval["seq"], frame)
        self._post(frame)

    def last_word(self, word: LastWord) -> None:
        """That was all. Returns when the master has it, or cannot be waited for; it is said
        again even then, for a master that was cut off comes back and waits for it."""
        word = msgspec.structs.replace(word, checksum=self._checksum, problem=self.problem)
        frame = shards.pack({"kind": "end", "word": msgspec.to_builtins(word)})
        if self._shard is not None:
            self._shard.append(frame)
            self._shard.close()
        with gevent.Timeout(CONFIRM_S, False):
            self._post(frame)
            self._repeating = gevent.spawn(self._repeat, frame)
            while not self._confirmed.is_set() and not self._silent():
                self._confirmed.wait(REPEAT_S)
        if not self._confirmed.is_set():
            where = "" if self._shard is None else f"; its record is {self._shard.path}"
            log.error("the master has not confirmed this worker's reports%s", where)

    def forget(self) -> None:
        """Another run has begun: nobody waits for the end of this one."""
        if self._repeating is not None:
            self._repeating.kill(block=False)

    def _repeat(self, frame: bytes) -> None:
        while not self._confirmed.wait(REPEAT_S):
            self._post(frame)

    def on_ack(self, upto: int, missing: Iterable[int]) -> None:
        """The master has everything up to there, and lacks these before what it has seen."""
        for seq in [seq for seq in self._kept if seq <= upto]:
            self._kept_bytes -= len(self._kept.pop(seq))
        for seq in missing:
            if seq in self._kept:
                self._post(self._kept[seq])

    def on_confirmed(self) -> None:
        """The master has everything, the last word included."""
        self._confirmed.set()

    def _keep(self, seq: int, frame: bytes) -> None:
        if self._shard is not None:
            self._shard.append(frame)
        self._kept[seq] = frame
        self._kept_bytes += len(frame)
        while self._kept_bytes > MAX_KEPT:  # a master that has been away for long
            self._kept_bytes -= len(self._kept.pop(next(iter(self._kept))))

    def _post(self, frame: bytes) -> None:
        self._send("loadlib_report", {"frame": frame})
