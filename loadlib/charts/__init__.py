"""Pure chart specifications: a run in, Vega-Lite (with inline data) and its words out.

A chart is one function `RunLike → Figure | None`; None means that there is nothing to draw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from altair.utils.schemapi import SchemaBase, debug_mode

from loadlib.charts.ladder import load_ladder
from loadlib.charts.latency import ttft_histogram, ttft_percentiles, user_rate_histogram
from loadlib.charts.lengths import ttft_by_length
from loadlib.charts.parts import Figure, HistogramLike, Key, RunLike
from loadlib.charts.quality import quality_by_load
from loadlib.charts.server import server_load
from loadlib.charts.throughput import system_throughput

CHARTS: dict[str, Callable[[RunLike], Figure | None]] = {
    "ttft-histogram": ttft_histogram,
    "ttft-percentiles": ttft_percentiles,
    "ttft-by-length": ttft_by_length,
    "user-rate-histogram": user_rate_histogram,
    "system-throughput": system_throughput,
    "load-ladder": load_ladder,
    "quality-by-load": quality_by_load,
    "server-load": server_load,
}
"""Every chart by its id, in the order of the page."""


def figures(run: RunLike) -> list[Figure]:
    """Every chart that has something to show, in the order of the page."""
    with quickly():
        return [figure for chart in CHARTS.values() if (figure := chart(run)) is not None]


@contextmanager
def quickly() -> Iterator[None]:
    """Let altair neither check nor deeply copy what charts are put together from.

    Both are for charts that are changed after they were made part of another; ours never are.
    Without, they take nine tenths of the time. The tests check, and compare the two.
    """
    deeply = SchemaBase.copy

    def copy(self: Any, deep: Any = True, ignore: Any = None) -> Any:  # noqa: ARG001
        return deeply(self, deep=False)

    SchemaBase.copy = copy  # type: ignore[method-assign]
    try:
        with debug_mode(False):
            yield
    finally:
        SchemaBase.copy = deeply  # type: ignore[method-assign]


__all__ = ["CHARTS", "Figure", "HistogramLike", "Key", "RunLike", "figures", "quickly"]
