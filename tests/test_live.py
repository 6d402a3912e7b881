"""The board of a run that lasts: known answers, and that its lights agree with the verdict."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from record_samples import KEY, events, sample

from loadlib.conclude import Ending, conclude
from loadlib.histogram import Histogram
from loadlib.lately import Lately
from loadlib.live import Board, curve
from loadlib.recorder import NS, Recorder, Totals
from loadlib.sample import Outcome
from loadlib.session import Choice, open_session
from loadlib.snapshot import NOTHING, Quantiles, Seen
from loadlib.summarise import Window

START = 1_700_000_000 * NS
SCENARIO = """
version: 1
name: live
models:
  - {{name: m, base_url: "http://127.0.0.1:1/v1"{price}}}
workloads: {{chat: {{kind: chat, output_tokens: 10}}}}
load: {load}
slo: ["all: {slo}"]
"""
LOAD = "[{phase: measure, duration: 10s, arrival: constant, rate: 10/s}]"
SLO = "ttft.p50 < 200ms, error_rate < 10%, goodput >= 50%, ttft < 150ms, e2e.mean < 900ms"
SLO += ", achieved_rps > 1/s, output_tok_s > 1"
PRICE = ", price: {input_usd_per_mtok: 1, output_usd_per_mtok: 2}"


def opened(tmp_path, slo=SLO, load=LOAD, price="", budget=""):
    file = tmp_path / "s.yaml"
    file.write_text(SCENARIO.format(load=load, slo=slo, price=price) + budget, "utf-8")
    return open_session(Choice(file=str(file)))


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    return opened(tmp_path_factory.mktemp("live"))


class Stand:
    """A board with workers that record; instants in seconds from the start of the phase."""

    def __init__(self, session, sources=("local",), **settings):
        self.session, self.totals = session, Totals()
        self.board = Board(session, self.totals, window, started_ns=START, **settings)
        self.recorders = {name: Recorder(START) for name in sources}
        self.samples = []

    def begin(self, at_s, key=KEY, source="local", *, sent=True):
        recorder = self.recorders[source]
        recorder.scheduled(key, int(at_s * NS))
        if sent:
            recorder.began(key)

    def end(self, one, source="local"):
        here = events(one) if one.first_token_ns is not None and one.events else ()
        self.recorders[source].add(one, here)
        self.samples.append(one.shifted(START))

    def add(self, one, source="local"):
        key = (one.model, one.workload, one.phase)
        if not one.retried:
            self.begin(one.intended_ns / NS, key, source, sent=one.outcome is not Outcome.DROPPED)
        self.end(one, source)

    def report(self, at_s, source="local", phase="measure", since_s=0.0):
        interval = self.recorders[source].drain(int(at_s * NS))
        since_ns = None if since_s is None else START + int(since_s * NS)
        stage = {"phase": phase, "models": ["m"], "since_ns": since_ns}
        assert self.totals.merge(interval, source)
        self.board.take(source, {"interval": interval, **stage})

    def snapshot(self, at_s, **wanted):
        return self.board.snapshot(START + int(at_s * NS), **wanted)

    @property
    def row(self):
        (row,) = self.board.rows()
        return row


def window(phase, model, start_ns, end_ns):
    return Window(
        phase=phase.title,
        model=model,
        start_ns=start_ns,
        end_ns=end_ns,
        kind=phase.kind,
        load=phase.label,
        closed=phase.closed,
        rates={"m": 10.0},
    )


# -- rows ------------------------------------------------------------------------------------------


def test_before_anything_happened_there_is_an_empty_board(session):
    found = Stand(session).snapshot(1)
    assert (found.state, found.rows, found.gates, found.health) == ("starting", (), None, None)
    assert found.planned_s == 10
    assert msgspec.json.decode(msgspec.json.encode(NOTHING))["state"] == "idle"


def test_a_row_tells_what_waits_what_is_sent_and_what_became_of_it(session):
    stand = Stand(session)
    stand.begin(0.0)  # its answer still comes
    stand.begin(0.1, sent=False)  # it waits for a place
    stand.add(sample(at=200, ttft=100))
    stand.add(sample(Outcome.TIMEOUT, at=300))
    stand.add(sample(Outcome.THROTTLED, at=400))
    stand.add(sample(Outcome.DROPPED, at=500))
    stand.report(1)
    row = stand.row
    assert (row.model, row.workload, row.phase) == KEY
    assert (row.scheduled, row.in_flight, row.waiting) == (6, 1, 1)
    assert (row.ok, row.failed, row.dropped, row.cancelled) == (1, 2, 1, 0)
    assert (row.throttled, row.attempts) == (1, 3)
    assert row.throttled_share == pytest.approx(1 / 3, abs=1e-6)
    assert (row.offered_rps, row.sent_rps, row.tok_s) == (6.0, 4.0, 10.0)
    assert row.ttft == Quantiles(n=1, p50=100, p90=100, p99=100) == row.ttft_lately
    assert row.tpot.p50 == row.tpot_lately.p50 == 10
    assert row.goodput == 0.25, "of the four that are over; those owed are not judged yet"
    assert row.cost_usd is None, "no price is no 0"


def test_a_request_tried_again_is_one_request_and_two_attempts(session):
    stand = Stand(session)
    refused = sample(Outcome.THROTTLED, at=0, retried=True)
    stand.begin(0)
    stand.end(refused)
    stand.report(1)
    assert (stand.row.in_flight, stand.row.throttled, stand.row.failed) == (1, 1, 0)
    stand.end(sample(at=0, attempt=2))
    stand.report(2)
    row = stand.row
    assert (row.in_flight, row.ok, row.attempts, row.throttled) == (0, 1, 2, 1)
    assert row.throttled_share == 0.5


def test_what_was_ten_seconds_ago_is_no_longer_now(session):
    stand = Stand(session)
    stand.add(sample(ttft=100))
    stand.report(1)
    for second in range(2, 21):
        if second == 18:
            stand.add(sample(at=17_500, ttft=300))
        stand.report(second)
    row = stand.row
    assert row.ttft_lately == Quantiles(n=1, p50=300, p90=300, p99=300)
    assert (row.ttft.n, row.ttft.p50) == (2, 100)
    assert row.offered_rps == 0.1, "one in the ten seconds looked back on"


def test_a_process_that_is_a_second_behind_bends_no_rate():
    both, late = Lately(), Lately()
    for second in range(1, 13):
        for source in ("a", "b"):
            interval = counted(second, scheduled=5)
            both.add(source, interval)
            if (source, second) != ("b", 12):
                late.add(source, interval)
    rates = [one.tallies()[KEY].scheduled / one.span_s for one in (both, late)]
    assert rates == [10.0, 10.0]


def counted(end_s, scheduled):
    recorder = Recorder(START)
    recorder.drain((end_s - 1) * NS)
    for _ in range(scheduled):
        recorder.scheduled(KEY, (end_s - 1) * NS)
    return recorder.drain(end_s * NS)


def test_cost_and_budget_are_known_sums_and_nothing_else(tmp_path):
    priced = opened(tmp_path, price=PRICE, budget="budget: {max_usd: 2, max_requests: 500}\n")
    stand = Stand(priced)
    stand.report(1)
    assert stand.snapshot(1).spent.usd is None
    stand.add(sample(cost_usd=0.25))
    stand.add(sample(cost_usd=0.5, at=10))
    stand.add(sample(Outcome.TIMEOUT, at=20))  # may be billed, nobody knows
    stand.report(2)
    spent = stand.snapshot(2).spent
    assert (spent.usd, spent.unknown, spent.requests) == (0.75, 1, 3)
    assert (spent.max_usd, spent.max_requests, spent.max_output_tokens) == (2, 500, None)
    assert (stand.row.cost_usd, stand.row.cost_unknown) == (0.75, 1)


def test_a_terminal_needs_no_samples_counted(session):
    stand = Stand(session, watched=False)
    stand.add(sample(ttft=100))
    stand.report(1)
    assert stand.row.ttft_lately.p50 == 100
    assert stand.row.goodput is None
    assert stand.snapshot(1).series["seconds"] == []


# -- what a reader has seen ------------------------------------------------------------------------


def test_a_reader_gets_what_changed_since(session):
    warm = ("m", "chat", "warmup")
    stand = Stand(session)
    stand.add(sample(key=warm))
    stand.report(1, phase="warmup")
    first = stand.snapshot(1)
    assert (first.partial, len(first.rows), len(first.curves)) == (False, 1, 1)
    for second in range(2, 15):
        stand.add(sample(at=1000 * second))
        stand.report(second, since_s=1)
    seen = Seen(revision=first.revision, generation=0, points=len(first.series["seconds"]))
    second = stand.snapshot(14, seen=seen)
    assert second.partial
    assert [row.phase for row in second.rows] == ["measure"], "the warm-up is as it was"
    assert [one.phase for one in second.curves] == ["measure"]
    assert second.series["from"] == 1
    assert second.now == ("measure",)
    again = stand.snapshot(14, seen=Seen(revision=second.revision))
    assert (again.gates, again.health) == (None, None), "not judged again"
    ahead = stand.snapshot(14, seen=Seen(revision=99))
    assert (ahead.partial, len(ahead.rows)) == (False, 2), "of another run"


def test_the_time_series_samples_every_two_seconds(session):
    stand = Stand(session)
    for second in range(1, 6):
        stand.add(sample(at=1000 * second - 900, ttft=100 * second))
        stand.report(second)
    found = stand.snapshot(5).series
    assert found["seconds"] == [1.0, 2.0, 4.0]
    values = dict(zip(found["columns"], found["groups"][0]["values"], strict=True))
    assert values["ttft_p50"] == [100.0, 100.0, 200.0], "nearest rank of 1, 2 and 4 requests"
    assert values["ttft_p99"] == [100.0, 200.0, 400.0]
    assert values["in_flight"] == [0, 0, 0]
    assert values["offered_rps"] == [1.11, 1.05, 1.03], "the first was due after 0.1 s"


@pytest.mark.parametrize(
    ("values", "expected", "why"),
    [
        ([5_000], [5.0], "one value is its own maximum"),
        ([1_000, 2_000], [1.0, 1.0, 1.0, 2.0], "p = 0 is the minimum, the last point the maximum"),
        ([1_000] * 99 + [9_000], [1.0] * 16 + [9.0], "two decades and the end of the data"),
    ],
)
def test_a_curve_ends_where_the_data_end(values, expected, why):
    found = curve(KEY, Histogram(values))
    assert found.n == len(values)
    assert list(found.ms) == pytest.approx(expected, rel=1e-3), why


# -- lights ----------------------------------------------------------------------------------------


def lights(stand):
    _, found = stand.board.lights.judge(START + 10 * NS)
    return {gate.expression: gate.status for gate in found}


def test_a_request_in_flight_is_neither_lost_nor_slow(session):
    stand = Stand(session)
    for number in range(20):
        stand.begin(number / 20)
    stand.add(sample(at=0, ttft=10))
    stand.report(1)
    found = lights(stand)
    assert found["error_rate < 10%"] == "pass"
    assert found["goodput >= 50%"] == "pass"
    assert found["ttft.p50 < 200ms"] == "inconclusive", "one answer is not enough"
    checks = {check.name: check.value for check in stand.snapshot(1).health.checks}
    assert checks["lost_samples"] == 0


def test_lights_turn_with_what_comes_in(session):
    stand = Stand(session)
    for number in range(12):
        stand.add(sample(at=number * 50, ttft=100))
    stand.report(1)
    assert lights(stand)["ttft.p50 < 200ms"] == "pass"
    for number in range(20):
        stand.add(sample(at=1000 + number * 10, ttft=500))
    stand.report(2)
    assert lights(stand)["ttft.p50 < 200ms"] == "fail"


def test_without_a_scenario_nobody_asked_for_lights(session):
    stand = Stand(replace(session, free=True))
    stand.add(sample())
    stand.report(1)
    found = stand.snapshot(1)
    assert (found.gates, found.planned_s) == ((), None)
    assert found.health.status == "ok"


STEP = st.tuples(
    st.sampled_from([Outcome.OK] * 4 + [Outcome.TIMEOUT, Outcome.THROTTLED, Outcome.DROPPED]),
    st.integers(0, 9_000),  # due, ms
    st.integers(1, 400),  # ttft, ms
    st.sampled_from(["a", "b"]),
    st.booleans(),  # whether a report follows
)


@given(steps=st.lists(STEP, min_size=1, max_size=60))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_lights_of_a_run_that_is_over_are_its_verdict(session, steps):
    """However the samples were spread over workers and reports."""
    stand = Stand(session, sources=("a", "b"))
    clock = 1
    for outcome, at, ttft, source, reports in steps:
        stand.add(sample(outcome, at=at, ttft=ttft), source)
        if reports:
            stand.report(clock, source)
            clock += 1
    for source in ("a", "b"):
        stand.report(max(clock, 12), source)
    (phase,) = session.scenario.load
    over = window(phase, None, START, START + 10 * NS)
    summary = conclude(
        session, stand.totals, stand.samples, [over], Ending(), environment={}, started_ns=START
    )
    health, gates = stand.board.lights.judge(START + 60 * NS)
    assert gates == summary.gates
    assert health == summary.health
    assert stand.board.lights.windows(START + 60 * NS) == (over,)
    (group,), (row,) = summary.groups, stand.board.rows()
    counts = group.requests
    assert (row.scheduled, row.ok, row.failed) == (counts.scheduled, counts.ok, counts.failed)
    assert (row.dropped, row.attempts) == (counts.dropped, counts.attempts)
    assert (row.in_flight, row.waiting) == (0, 0)
    assert row.goodput == (group.goodput.share and round(group.goodput.share, 6))
    assert (row.ttft.p50, row.ttft.p99) == (group.metrics["ttft"].p50, group.metrics["ttft"].p99)
    stand.board.finish(summary, START + 20 * NS)
    found = stand.board.snapshot(START + 99 * NS)
    assert (found.state, found.elapsed_s, found.gates) == ("finished", 20.0, summary.gates)
    assert found.verdict == summary.verdict
    assert msgspec.json.decode(msgspec.json.encode(found))["state"] == "finished"


def test_a_phase_that_requests_end_lasts_until_the_next_one(tmp_path):
    load = (
        "[{phase: warmup, requests: 5, arrival: closed, users: 1},"
        " {phase: measure, requests: 10, arrival: constant, rate: 10/s}]"
    )
    stand = Stand(opened(tmp_path, load=load))
    stand.report(1, phase="warmup", since_s=0)
    stand.report(4, since_s=3)
    found = [
        (one.phase, (one.start_ns - START) / NS, (one.end_ns - START) / NS)
        for one in stand.board.lights.windows(START + 4 * NS)
    ]
    assert found == [("warmup", 0, 3), ("measure", 3, 4)]
    rows = stand.snapshot(4).phases
    assert [(row.title, row.start_s, row.planned_s) for row in rows] == [
        ("warmup", 0.0, None), ("measure", 3.0, None),
    ]  # fmt: skip


def test_a_row_nobody_can_read_does_not_end_the_show(session):
    stand = Stand(session)
    stand.add(sample())
    interval = stand.recorders["local"].drain(NS)
    stand.totals.merge(interval)
    interval["rows"] = b"not json\n" + interval["rows"]
    stage = {"phase": "measure", "models": ["m"], "since_ns": START}
    stand.board.take("local", {"interval": interval, **stage})
    assert stand.row.ok == 1


def test_the_slow_parts_give_way(session):
    stand, pauses = Stand(session), []
    for number in range(100):
        stand.add(sample(at=number))
    interval = stand.recorders["local"].drain(NS)
    stand.totals.merge(interval)
    stage = {"phase": "measure", "models": ["m"], "since_ns": START}
    stand.board.take("local", {"interval": interval, **stage}, lambda: pauses.append(1))
    assert len(pauses) >= 3
    before = len(pauses)
    stand.board.snapshot(START + NS, pause=lambda: pauses.append(1))
    assert len(pauses) - before >= 8, "before each gate, row and curve"


def test_nothing_of_what_a_server_said_is_shown(session):
    stand = Stand(session)
    stand.add(sample(error="the key sk-1234 is not valid", request_id="r", prompt_sha="ab"))
    stand.report(1)
    text = msgspec.json.encode(stand.snapshot(1)).decode()
    assert "sk-1234" not in text
