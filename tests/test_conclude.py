"""The instrument's own error, as gates take it."""

import numpy as np
import pytest

from loadlib.conclude import _stamp_error
from loadlib.histogram import Histogram
from loadlib.recorder import Totals
from loadlib.slo import parse
from loadlib.summary import Cost, Goodput, Group, Quality, Requests, Throughput, Tokens


def group(*, ok: int = 10, output: int | None = 650) -> Group:
    return Group(
        model="m", workload="chat", phase="measure", requests=Requests(ok=ok), outcomes={},
        metrics={}, tokens=Tokens(output=output), throughput=Throughput(), goodput=Goodput(),
        cost_usd=Cost(), quality=Quality(),
    )  # fmt: skip


def totals() -> Totals:
    found = Totals()
    # 1 ms late at the median, 64 ms at p99
    found.notes["hub_lag"] = Histogram(np.array([1_000] * 95 + [64_000] * 5))
    return found


@pytest.mark.parametrize(
    ("line", "error_ms", "why"),
    [
        ("ttft.p50 < 1s", 1.0, "a median is as wrong as stamps usually are"),
        ("ttft.p99 < 1s", 64.0, "a p99 as wrong as they rarely are"),
        ("ttft.mean < 1s", 1.0, "a mean is judged like a median"),
        ("e2e.max < 9s", 64.0, "the worst stamp may belong to the worst request"),
        ("tpot.p99 < 50ms", 1.0, "64 ms over the 64 gaps between two stamps"),
    ],
)
def test_error_of_a_statistic(line, error_ms, why):
    (objective,) = parse(line, ())
    assert _stamp_error(totals())(objective, group()) == pytest.approx(error_ms, rel=2e-3), why


def test_without_a_reading_no_error_is_made_up():
    (objective,) = parse("ttft.p99 < 1s", ())
    assert _stamp_error(Totals())(objective, group()) == 0.0


def test_unknown_token_counts_do_not_shrink_the_error():
    (objective,) = parse("tpot.p50 < 50ms", ())
    assert _stamp_error(totals())(objective, group(output=None)) == pytest.approx(1.0, rel=2e-3)
