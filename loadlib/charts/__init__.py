"""Pure chart specifications: a run in, Vega-Lite (with inline data) and its words out.

A chart is one function `RunLike → Figure | None`; None means that there is nothing to draw.
"""

from __future__ import annotations

from collections.abc import Callable

from altair.utils.schemapi import debug_mode

from loadlib.charts.decoding import tpot_by_load
from loadlib.charts.histograms import ttft_histogram, user_rate_histogram
from loadlib.charts.ladder import load_ladder
from loadlib.charts.lengths import prefill_by_length, ttft_by_length
from loadlib.charts.needles import needle_recall
from loadlib.charts.pareto import tokens_by_load
from loadlib.charts.parts import Figure, HistogramLike, Key, RunLike
from loadlib.charts.percentiles import (
    token_percentiles,
    ttft_percentiles,
    user_rate_percentiles,
)
from loadlib.charts.quality import quality_by_load
from loadlib.charts.reading import Reading
from loadlib.charts.server import server_load
from loadlib.charts.stalls import longest_gaps
from loadlib.charts.throughput import system_throughput
from loadlib.charts.timeline import run_over_time

CHARTS: dict[str, Callable[[RunLike], Figure | None]] = {
    "ttft-histogram": ttft_histogram,
    "ttft-percentiles": ttft_percentiles,
    "token-percentiles": token_percentiles,
    "stalls": longest_gaps,
    "tpot-by-load": tpot_by_load,
    "ttft-by-length": ttft_by_length,
    "prefill-by-length": prefill_by_length,
    "user-rate-histogram": user_rate_histogram,
    "user-rate-percentiles": user_rate_percentiles,
    "system-throughput": system_throughput,
    "timeline": run_over_time,
    "load-ladder": load_ladder,
    "pareto": tokens_by_load,
    "quality-by-load": quality_by_load,
    "needle-recall": needle_recall,
    "server-load": server_load,
}
"""Every chart by its id, in the order of the page."""


def figures(run: RunLike) -> list[Figure]:
    """Every chart that has something to show, in the order of the page.

    Altair's checks of each object are left out (they take half the time): the tests make them.
    """
    reading = Reading.of(run)
    with debug_mode(False):
        return [figure for chart in CHARTS.values() if (figure := chart(reading)) is not None]


__all__ = ["CHARTS", "Figure", "HistogramLike", "Key", "RunLike", "figures"]
