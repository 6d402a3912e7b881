"""Requests built ahead of their time, so that nothing is built after a clock has started."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import gevent
from gevent.event import Event

from loadlib.swarm.yielding import Turns

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Line(Generic[T]):
    """What is built and not yet taken of one stream."""

    built: deque[T] = field(default_factory=deque)
    over: bool = False  # no more will be built
    fed: Event = field(default_factory=Event)
    hungry: Event = field(default_factory=Event)


class Feed(Generic[T]):
    """Builds a stage's requests ahead of time, one greenlet and one bounded line a stream.

    A line is filled up when half of it is gone, not after each request taken: whoever took it
    is about to send it, and must not wait for the next one to be built.
    """

    def __init__(self, sources: Mapping[str, Iterator[T]], ahead: int) -> None:
        self.keys = tuple(sources)
        self.ready = Event()  # as much is built as may be built ahead
        self._sources, self._ahead = sources, ahead
        self._lines: dict[str, _Line[T]] = {key: _Line() for key in sources}
        self._builders: list[gevent.Greenlet[..., None]] = []
        self._full: set[str] = set()
        if not sources:
            self.ready.set()

    def start(self) -> None:
        """Begin to build; a second call changes nothing."""
        if not self._builders:
            self._builders = [gevent.spawn(self._build, key) for key in self.keys]

    def stop(self) -> None:
        """Forget what was not used."""
        gevent.killall(self._builders)

    def items(self, key: str) -> Iterator[T]:
        """The requests of one stream, in order; waits for one that is not built yet."""
        line = self._lines.get(key)
        while line is not None:
            if line.built:
                item = line.built.popleft()
                if len(line.built) <= self._ahead // 2:
                    line.hungry.set()
                yield item
            elif line.over:
                return
            else:
                line.fed.clear()
                line.fed.wait()

    def _build(self, key: str) -> None:
        line, turns = self._lines[key], Turns()
        try:
            for item in self._sources[key]:
                line.built.append(item)
                line.fed.set()
                if len(line.built) >= self._ahead:
                    self._note_full(key)
                    line.hungry.clear()
                    line.hungry.wait()
                    turns.fresh()
                turns.give()  # a long document takes a millisecond; streams must not wait for two
        finally:
            line.over = True  # also where building failed: nobody waits for what will not come
            line.fed.set()
            self._note_full(key)

    def _note_full(self, key: str) -> None:
        self._full.add(key)
        if len(self._full) == len(self.keys):
            self.ready.set()
