"""Who takes part in a run: who is ready for what, who is silent, who has said a last word."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from loadlib.lastword import LastWord

PATIENCE_S = 15.0  # so long may a worker be silent, or its reports be on their way, at the end


@dataclass(slots=True)
class Source:
    """One process that generates load."""

    word: LastWord | None = None  # said; reports before it may still be on their way
    word_s: float = 0.0  # when
    over: bool = False  # nothing more comes
    phase: str = ""
    stage: int = -1  # of the schedule, for which it is ready
    silent_s: float | None = None  # since when nothing is heard of it
    given_up: bool = False


class Attendance:
    """Instants are monotonic seconds."""

    def __init__(self) -> None:
        self.sources: dict[str, Source] = {}

    def expect(self, name: str) -> None:
        """A process takes part."""
        self.sources.setdefault(name, Source())

    def active(self, name: str) -> Source | None:
        """A process that takes part and has not ended."""
        source = self.sources.get(name)
        return None if source is None or source.over else source

    @property
    def waits_for(self) -> frozenset[str]:
        """Those that have not ended."""
        return frozenset(name for name, source in self.sources.items() if not source.over)

    @property
    def all_over(self) -> bool:
        """Whether nobody is waited for."""
        return not self.waits_for

    @property
    def phase(self) -> str:
        """The phase they are in."""
        return next((source.phase for source in self.sources.values() if source.phase), "")

    @property
    def stage(self) -> int:
        """The stage for which all are ready that can be heard; −1 before the first."""
        found = [s.stage for s in self.sources.values() if not s.over and s.silent_s is None]
        return min(found, default=-1)

    @property
    def words(self) -> list[LastWord]:
        """What was said last, by those who did."""
        return [source.word for source in self.sources.values() if source.word is not None]

    def heard(self, silent: Collection[str], now_s: float) -> None:
        """Only of those in `silent` nothing is heard now."""
        for name, source in self.sources.items():
            if name not in silent:
                source.silent_s = None
            elif source.silent_s is None:
                source.silent_s = now_s

    def overdue(self, now_s: float) -> Iterator[str]:
        """Those that keep the end from coming and have had their time: silent while all others
        are done, or with reports that do not come."""
        waiting = {name: self.sources[name] for name in self.waits_for}
        alone = all(s.silent_s is not None or s.word is not None for s in waiting.values())
        for name, source in waiting.items():
            since = source.word_s if source.word is not None else source.silent_s
            if alone and since is not None and now_s - since > PATIENCE_S:
                yield name
