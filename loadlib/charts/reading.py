"""A run as the charts of one page read it: what several of them need is read once."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

from loadlib.charts.parts import HistogramLike, Row, RunLike
from loadlib.charts.scan import Scan
from loadlib.charts.series import Series, series
from loadlib.sample import Brief
from loadlib.server_record import Scrape
from loadlib.summary import Summary


class Reading:
    """A `RunLike` that remembers. `of` makes one, or gives back the one it is given."""

    def __init__(self, run: RunLike) -> None:
        self._run = run

    @classmethod
    def of(cls, run: RunLike) -> Reading:
        """The run itself where it is one already."""
        return run if isinstance(run, Reading) else cls(run)

    @property
    def summary(self) -> Summary:
        """The judged run."""
        return self._run.summary

    def histogram(self, model: str, workload: str, phase: str, metric: str) -> HistogramLike:
        """One metric of one group."""
        return self._run.histogram(model, workload, phase, metric)

    def seconds(self) -> Iterable[Row]:
        """Counters of every second, phase, model and workload."""
        return self._run.seconds()

    def brief(self) -> Iterable[Brief]:
        """Every attempt."""
        return self._run.brief()

    def server(self) -> Iterable[Scrape]:
        """What servers said of themselves."""
        return self._run.server()

    @cached_property
    def series(self) -> Series:
        """The counters of all seconds as arrays."""
        return series(self.summary, self._run.seconds())

    @cached_property
    def scan(self) -> Scan:
        """What one pass over all rows found."""
        return Scan(self.summary, self.series).take(self._run.brief())
