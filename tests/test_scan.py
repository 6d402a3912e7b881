"""What one pass over the rows finds, in memory that does not grow with them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_samples import MS, sample
from report_fixtures import FIXTURES, FakeRun

from loadlib.charts import figures
from loadlib.charts.cells import CELLS, Cells, middle
from loadlib.charts.reading import Reading
from loadlib.charts.scan import CHUNK, KEPT, LEVELS, OUTCOMES, Grid, Lengths, Scan
from loadlib.charts.series import FIELDS, series
from loadlib.charts.timeline import run_over_time
from loadlib.charts.widening import LEAST, points, widened
from loadlib.health import Readings, judge
from loadlib.sample import Outcome
from loadlib.summarise import Window as Phase
from loadlib.summarise import summarise
from loadlib.summary import Summary, Verdict

NS = 10**9

# — cells —————————————————————————————————————————————————————————————————————


@given(st.lists(st.floats(0.07, 3_600_000), min_size=1, max_size=80), st.floats(0, 1))
def test_a_quantile_of_cells_is_within_1_1_percent_of_the_nearest_rank(values, p):
    cells = Cells(1)
    cells.add(np.zeros(len(values), np.int64), np.array(values))
    truth = sorted(values)[max(1, math.ceil(p * len(values) - 1e-9)) - 1]
    assert cells.quantiles((p,))[0] == pytest.approx(truth, rel=0.011)


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0.1, 1e6)), max_size=60))
def test_columns_keep_their_values_apart(pairs):
    cells = Cells(5)
    for column, value in pairs:  # one by one, or all at once
        cells.add(np.array([column]), np.array([value]))
    columns, values = np.array([c for c, _ in pairs], np.int64), np.array([v for _, v in pairs])
    whole = Cells(5)
    whole.add(columns, values)
    assert (cells.counts == whole.counts).all()
    assert cells.n().tolist() == [int((columns == c).sum()) for c in range(5)]


def test_what_lies_beyond_the_range_is_counted_at_its_ends():
    cells = Cells(1)
    cells.add(np.zeros(4, np.int64), np.array([-5.0, 0.0, 1e12, 1e300]))
    assert cells.quantiles((0.5, 1.0)) == (middle(0), middle(CELLS - 1))
    assert Cells(3).quantiles((0.5,)) is None


# — bins wide enough ———————————————————————————————————————————————————————————

COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=60)


@given(COUNTS, st.integers(1, 4), st.integers(0, 60))
def test_every_value_is_in_one_bin_and_bins_are_full(counts, fine, cut):
    n = np.array(counts)
    cut = min(cut, len(n))
    parts = widened(n, [(0, cut), (cut, len(n))], fine=fine)
    bins = [one for part in parts for one in part]
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(bins))
    assert sum(int(n[a:b].sum()) for a, b in bins) == int(n.sum()), "none is lost"
    assert not any(a < cut < b for a, b in bins), "none lies across the end of a window"
    for part in parts:
        short = [(a, b) for a, b in part if n[a:b].sum() < LEAST]
        assert short == [] or (len(part) == 1 and short == part), "too few stand alone"
        assert all(b - a >= fine for a, b in part[:-1])


def test_a_time_in_which_nothing_succeeds_stays_a_gap():
    n = np.array([25] * 10 + [0] * 20 + [25] * 10)
    due = np.full(40, 5)  # a hundred requests were due meanwhile
    assert len(widened(n, [(0, 40)], due=due)) == 2
    quiet = np.where(n > 0, 30, 0)  # nothing was due: nothing is missing
    assert len(widened(n, [(0, 40)], due=quiet)) == 1


def test_a_bin_that_cannot_be_filled_has_a_median_only():
    cells = Cells(4)
    cells.add(np.array([0, 1, 2]), np.array([100.0, 200.0, 300.0]))
    (point,) = points(cells, (0.5, 0.9, 0.99), [(0, 4)], most=4)
    assert (point.start, point.end, point.n) == (0, 3, 3)
    assert point.values == pytest.approx((200,), rel=0.011)


# — series ————————————————————————————————————————————————————————————————————


def row(second, workload="chat", phase="measure", model="m", **counts):
    return {"second": second, "model": model, "workload": workload, "phase": phase, **counts}


def test_seconds_become_arrays_with_quiet_ones_in_between():
    found = series(
        Summary(verdict=Verdict(status="pass"), health=judge(Readings())),
        iter([
            row(100, sent=3, scheduled=3, ended=1),
            row(103, sent=0, scheduled=1, ended=2, output_tokens=7),
            row(101, "long", "warmup", sent=1, ended=0),
        ]),
    )  # fmt: skip
    assert (found.start, found.length) == (100, 4)
    assert found.total("sent").tolist() == [3, 1, 0, 0]
    assert found.total("sent", workload="chat").tolist() == [3, 0, 0, 0]
    assert found.in_flight().tolist() == [2, 3, 3, 1], "those of quiet seconds too"
    assert [(w.phase, w.start, w.end) for w in found.windows] == [
        ("measure", 0, 4),
        ("warmup", 1, 2),
    ]
    assert set(FIELDS) >= {"scheduled", "sent", "ended", "ok", "output_tokens"}


def test_no_seconds_are_no_time():
    found = series(Summary(verdict=Verdict(status="pass"), health=judge(Readings())), [])
    assert found.length == 0
    assert Grid.over(found).bins == 1


@given(st.integers(1, 100_000))
def test_bins_are_few_however_long_a_run_takes(seconds):
    found = series(
        Summary(verdict=Verdict(status="pass"), health=judge(Readings())),
        [row(0, sent=1), row(seconds - 1, ended=1)],
    )
    grid = Grid.over(found)
    assert grid.bins <= 160
    assert (grid.bins - 1) * grid.width < seconds <= grid.bins * grid.width


# — the pass ——————————————————————————————————————————————————————————————————


def run_of(samples, seconds=(), models=("m",)) -> FakeRun:
    """A run whose summary is made of its rows, as any run's is."""
    from loadlib.recorder import Recorder, Totals

    recorder, totals = Recorder(0), Totals()
    for one in samples:
        recorder.scheduled((one.model, one.workload, one.phase))
        recorder.add(one)
    totals.merge(recorder.drain(max((one.end_ns for one in samples), default=0)))
    windows = [Phase(phase="measure", start_ns=0, end_ns=100 * NS)]
    groups = summarise(totals, samples, windows, (), [(m, "chat") for m in models])
    summary = Summary(verdict=Verdict(status="pass"), health=judge(Readings()), groups=groups)
    return FakeRun(summary, rows=list(seconds), attempts=list(samples))


def steady_rows(seconds, flying):
    """`flying` requests in flight from the first second to the last."""
    yield row(0, scheduled=flying, sent=flying)
    yield row(seconds - 1, scheduled=0, ended=flying)


def test_ttft_over_time_is_of_the_requests_due_then():
    samples = [sample(at=s * 1000, ttft=100 if s < 5 else 800) for s in range(10)]
    scan = Reading.of(run_of(samples, steady_rows(10, 2))).scan
    cells = scan.ttft(("m", "chat"))
    assert cells.n().tolist() == [1] * 10
    assert cells.quantiles((0.5,), 0, 5)[0] == pytest.approx(100, rel=0.011)
    assert cells.quantiles((0.5,), 5, 10)[0] == pytest.approx(800, rel=0.011)
    assert scan.ttft(("m", "nothing")) is None


def test_outcomes_over_time_count_each_request_once():
    samples = [
        sample(at=0),
        sample(Outcome.THROTTLED, at=1000, retried=True),
        sample(Outcome.TIMEOUT, at=1000, attempt=2),
        sample(Outcome.DROPPED, at=3000),
    ]
    scan = Reading.of(run_of(samples, steady_rows(5, 1))).scan
    counted = {o: int(scan.ends[i].sum()) for i, o in enumerate(OUTCOMES)}
    assert counted[Outcome.TIMEOUT] == counted[Outcome.DROPPED] == counted[Outcome.OK] == 1
    assert counted[Outcome.THROTTLED] == 0, "the last attempt says how a request ended"


def test_tpot_is_set_against_the_mean_load_while_a_stream_spoke():
    """20 streams at 2 in flight take 10 ms a token, 20 at 8 take 16 ms: 8 ms + 1 ms a request."""
    slow = {"last_token_ns": 0}
    samples = []
    for i in range(40):
        at = 0 if i < 20 else 50_000
        one = sample(at=at, ttft=1000, tokens=101)
        tpot = 10 if i < 20 else 16
        slow = {"last_token_ns": one.first_token_ns + 100 * tpot * MS}
        samples.append(sample(at=at, ttft=1000, tokens=101, **slow))
    seconds = [row(0, sent=2, scheduled=2), row(30, ended=2), row(50, sent=8, scheduled=8),
               row(80, ended=8)]  # fmt: skip
    cells, loads, line = Reading.of(run_of(samples, seconds)).scan.tpot(("m", "chat"))
    assert (line.intercept, line.slope, line.r2) == pytest.approx((8, 1, 1))
    used = np.flatnonzero(cells.n())
    assert loads[used].tolist() == [2, 8]
    assert [cells.quantiles((0.5,), i, i + 1)[0] for i in used] == pytest.approx(
        [10, 16], rel=0.011
    )
    assert used.max() < LEVELS


def test_a_curve_is_made_of_uncached_requests_on_the_sent_clock():
    samples = [
        sample(ttft=100, input_tokens=1000),
        sample(ttft=100, input_tokens=1000, cached_tokens=900),
        sample(ttft=100, input_tokens=1000, cached_tokens=10),
        sample(ttft=100, input_tokens=None),
        sample(Outcome.TIMEOUT),
    ]
    (kept,) = Reading.of(run_of(samples, steady_rows(2, 1))).scan.lengths.values()
    assert kept.tokens.tolist() == [1000, 1000]
    assert kept.ttft.tolist() == [99, 99], "sent 1 ms after it was due"


def test_of_very_many_requests_a_fair_sample_is_kept():
    kept, rng = Lengths(), np.random.default_rng(1)
    for _ in range(30):
        n = 1000
        kept.add(rng.integers(0, 2**63, n).astype(np.uint64), np.arange(n), np.arange(n) / 1.0)
    assert kept.n == 30_000
    assert len(kept.tokens) == len(kept.ttft) == KEPT
    assert (kept.tokens == kept.ttft).all(), "rows stay together"
    assert kept.tokens.mean() == pytest.approx(500, abs=20)


def test_chunks_leave_no_seam():
    """The same rows, in chunks or not: hashes go on, and so do all counts."""
    samples = [sample(at=i, input_tokens=1000 + i, ttft=100 + i % 7) for i in range(CHUNK + 100)]
    run = run_of(samples[:10], steady_rows(20, 1))
    one = Scan(run.summary, series(run.summary, run.seconds())).take(samples)
    other = Scan(run.summary, series(run.summary, run.seconds()))
    for begin in range(0, len(samples), 777):
        other.take(samples[begin : begin + 777])
    assert (one.ttft(("m", "chat")).counts == other.ttft(("m", "chat")).counts).all()
    mine, theirs = (scan.lengths["m", "chat", "measure"] for scan in (one, other))
    assert sorted(mine.tokens.tolist()) == sorted(theirs.tokens.tolist())


def test_a_group_the_summary_does_not_know_is_passed_over():
    run = run_of([sample()], steady_rows(2, 1))
    run.attempts.append(sample(key=("other", "chat", "measure")))
    assert Reading.of(run).scan.rows == 2
    assert run_over_time(run).takeaway.startswith("At most 1 request was in flight")


def test_all_charts_together_read_rows_and_seconds_once():
    run, read = FIXTURES["full"](), []

    class Watched(FakeRun):
        def brief(self):
            read.append("samples")
            return super().brief()

        def seconds(self):
            read.append("seconds")
            return super().seconds()

    watched = Watched(run.summary, run.recorded, run.rows, run.attempts)
    assert len(figures(watched)) > 10
    assert sorted(read) == ["samples", "seconds"]
