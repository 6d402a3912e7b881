"""Virtual time: the same engine, driven from arrival to arrival instead of by a clock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from loadlib.engine.batch import Batch
from loadlib.engine.steady import Steady
from loadlib.engine.words import Sequence, Work

FOREVER_NS = 1 << 62  # 146 years


def simulate(engine: Batch | Steady, arrivals: Iterable[tuple[int, Work]]) -> Iterator[Sequence]:
    """Serve `arrivals` (instants that do not decrease, in ns) to the end of the last one.

    Yields each sequence when it is complete, in that order; memory holds those that are not.
    Nothing is drawn and nothing waits: an hour of traffic takes as long as its events.
    """
    submit, ended, begun = engine.submit, engine.ended, engine.begun
    for at_ns, work in arrivals:
        submit(work, at_ns)
        if ended:
            yield from ended
            ended.clear()
            begun.clear()
    engine.advance(FOREVER_NS)
    yield from ended
    ended.clear()
    begun.clear()
