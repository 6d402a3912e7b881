"""What a run keeps must not grow with its requests: the same after ten times as many."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from locust_driver import QUIET

from loadlib import rows
from loadlib.guard import Breakers, Spending
from loadlib.recorder import NS, Recorder, Totals
from loadlib.sample import Outcome, Sample
from loadlib.summarise import Window, summarise

PER_SECOND = 500
KEPT_PER_1000 = 20_000  # bytes: the counters of two seconds; the rows alone would be 600,000


def finished(n: int) -> Iterator[Sample]:
    """`n` requests, 500 a second, of 7 prompt lengths, with some failures and checks."""
    for i in range(n):
        due = i * NS // PER_SECOND
        failed = i % 50 == 0
        yield Sample(
            index=i, phase="measure", model="m", workload="chat",
            outcome=Outcome.SERVER_ERROR if failed else Outcome.OK,
            cause="500" if failed else None, error="internal error" if failed else None,
            intended_ns=due, sent_ns=due + 1000, first_byte_ns=due + 2000,
            first_token_ns=due + 200_000 + i % 977 * 1000, last_token_ns=due + 900_000_000,
            end_ns=due + 900_000_000, status=500 if failed else 200, events=2, conn_reused=True,
            request_id=f"req-{i}", input_tokens=100 + i % 7, output_tokens=2,
            asked_tokens=100 + i % 7, tokens_source="server", quality=i % 3 > 0,
        )  # fmt: skip


def kept_per_1000(step: Callable[[int], object], first: int, last: int) -> float:
    """Bytes kept of each 1,000 requests between the `first` and the `last`."""
    tracemalloc.start()
    try:
        for i in range(first):
            step(i)
        before = tracemalloc.get_traced_memory()[0]
        for i in range(first, last):
            step(i)
        return (tracemalloc.get_traced_memory()[0] - before) / (last - first) * 1000
    finally:
        tracemalloc.stop()


def test_what_is_recorded_and_merged_does_not_grow():
    recorder, totals, samples = Recorder(0), Totals(), finished(30_000)

    def step(i: int) -> None:
        sample = next(samples)
        recorder.scheduled((sample.model, sample.workload, sample.phase))
        recorder.add(sample, [sample.first_token_ns, sample.last_token_ns])
        if i % PER_SECOND == PER_SECOND - 1:
            totals.merge(recorder.drain(sample.end_ns))

    assert kept_per_1000(step, 15_000, 30_000) < KEPT_PER_1000
    assert totals.done == 30_000


def test_budget_and_breakers_do_not_grow():
    spending, breakers, samples = Spending(max_usd=1e9), Breakers(), finished(40_000)

    def step(_i: int) -> None:
        sample = next(samples)
        ticket = spending.reserve(0.001, 10)
        assert isinstance(ticket, int)
        spending.settle(ticket, sample)
        assert breakers.observe(sample) is None

    # 30 s of tenths of a second at most, reached after 15,000.
    assert kept_per_1000(step, 20_000, 40_000) < KEPT_PER_1000


def test_judging_holds_no_rows(tmp_path):
    def peak(n: int) -> int:
        path = tmp_path / f"{n}.gz"
        lines = Recorder(0)._encode
        with path.open("wb") as file:
            batch = []
            for sample in finished(n):
                batch.append(lines(sample) + b"\n")
                if len(batch) == 1000:
                    file.write(rows.pack(b"".join(batch)))
                    batch.clear()
        windows = [Window(phase="measure", start_ns=0, end_ns=n * NS // PER_SECOND)]
        tracemalloc.start()
        try:
            (group,) = summarise(Totals(), rows.read(path), windows, (), [("m", "chat")])
            assert sum(bucket.n for bucket in group.prompt_lengths) == n
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1000)  # what is loaded once
    small, large = peak(35_000), peak(55_000)  # buffers of fixed size are full before
    assert large - small < KEPT_PER_1000


WHOLE = """
import json, sys, time, tracemalloc
import loadlib.swarm.plugin as plugin
import gevent, msgspec
from loadlib.client import Client
from loadlib.recorder import Recorder
from loadlib.tape import Tape
from pathlib import Path

CHUNKS = (
    b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\\n\\n'
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\\n\\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":1}}\\n\\n'
    b'data: [DONE]\\n\\n'
)
known = []

def send(self, prepared, call):
    gevent.sleep(0)
    now = time.monotonic_ns()
    if not known:
        tape = Tape.of([(now, CHUNKS)], status=200, sent_ns=now, first_byte_ns=now, end_ns=now,
                       headers={"content-type": "text/event-stream"})
        known.append(self._sample(call, prepared, tape, None))
    sample, answer = known[0]
    sample = msgspec.structs.replace(
        sample, index=call.index, intended_ns=call.intended_ns, sent_ns=now, first_token_ns=now,
        last_token_ns=now, end_ns=now, request_id=f"r-{call.index}",
    )
    self._deliver(call, sample, answer)
    return sample, answer

kept, drain = [], Recorder.drain

def measured(self, *rest):
    interval = drain(self, *rest)
    kept.append([self.added, tracemalloc.get_traced_memory()[0]])
    return interval

Client.send, Client.check, Recorder.drain = send, lambda self, model: None, measured
locustfile = str(Path(plugin.__file__).with_name("locustfile.py"))
tracemalloc.start()
code = plugin.run_locust(["-f", locustfile, "--headless", "--scenario", sys.argv[1]])
print(json.dumps([code, kept]))
"""


@pytest.mark.slow
def test_a_whole_process_does_not_grow(driver):
    """Everything but the network: users, arrivals, Locust's own statistics, the merge."""
    name = driver.scenario("[{phase: measure, duration: 9s, arrival: constant, rate: 200/s}]")
    done = subprocess.run(
        [sys.executable, "-c", WHOLE, name], cwd=driver.folder, capture_output=True, text=True,
        timeout=90, env=os.environ | QUIET,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    code, kept = json.loads(done.stdout.splitlines()[-1])
    assert code in (0, 7), done.stderr  # how a busy machine fared is not what this is about
    (few, early), (many, late) = kept[3], kept[-2]  # each a second's work, like the other
    assert many - few > 600
    # The windows of the live table (10 s) and of Locust's statistics (20 s) still fill: some 150
    # bytes a request. Its row, kept, would be 600, its sample or its answer more.
    assert (late - early) / (many - few) < 400
