"""`loadlib calibrate`: the steps of a ladder as processes, and the public command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from commandline import batch, environment, loadlib, refused, scenario

from loadlib import calibration
from loadlib.calibrate import ladder
from loadlib.calibrate.ladder import Ladder
from loadlib.errors import PreflightError
from loadlib.summary import Requests, Throughput

# -- pieces ----------------------------------------------------------------------------------------

DELIVERED = {
    "all of it": ((100, 100, 100, 10.0, 10.0, 1.0), 1.0),
    "a rate above the offered is no more than all": ((100, 100, 100, 10.0, 10.2, 1.0), 1.0),
    "a tenth was sent too late": ((100, 100, 100, 10.0, 9.0, 1.0), 0.9),
    "a tenth failed": ((100, 100, 90, 10.0, 10.0, 1.0), 0.9),
    "a tenth was never sent": ((100, 90, 90, 10.0, 9.0, 1.0), 0.9),
    "events were lost in the streams": ((100, 100, 100, 10.0, 10.0, 0.9), 0.9),
    "each loss counts": ((100, 100, 50, 10.0, 5.0, 0.5), 0.125),
    "nothing was sent": ((100, 0, 0, 10.0, 0.0, 1.0), 0.0),
    "nothing was scheduled": ((0, 0, 0, None, None, 1.0), None),
    "nothing could be compared": ((100, 100, 100, 10.0, 10.0, None), None),
}


@pytest.mark.parametrize("case", DELIVERED)
def test_what_was_delivered_of_the_offered(case):
    (scheduled, sent, ok, offered, achieved, events), share = DELIVERED[case]
    group = SimpleNamespace(
        requests=Requests(scheduled=scheduled, sent=sent, ok=ok),
        throughput=Throughput(offered_rps=offered, achieved_rps=achieved),
    )
    found = ladder.delivered(group, SimpleNamespace(delivered=events))
    assert found == (None if share is None else pytest.approx(share))


def test_few_streams_are_measured_for_longer_within_limits():
    seconds = {n: Ladder(measure_s=8.0).measure_for(n) for n in (1, 25, 30, 33, 400)}
    assert seconds[1] == 12.0, "not forever"
    assert seconds[25] == pytest.approx(120 * 2.2 / 25), "120 requests for the p99"
    assert seconds[25] > seconds[30] > seconds[33] == seconds[400] == 8.0


def test_the_server_has_a_core_of_its_own_where_there_are_two(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3, 5, 7}, raising=False)
    assert ladder.cores() == ({3}, {5, 7})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3})
    assert ladder.cores() is None


def test_a_server_that_does_not_start_is_an_error_with_its_reason(tmp_path):
    with (
        pytest.raises(PreflightError, match=r"truth server did not start: .*--tokens"),
        ladder.truth_server(tmp_path, "--tokens", "none"),
    ):
        pytest.fail("it started")


def test_a_run_that_cannot_send_is_an_error_with_its_reason(tmp_path):
    plan = ladder._scenario("http://127.0.0.1:1", 5, {"requests": 1}, {"requests": 1}, 5)
    with pytest.raises(PreflightError, match=r"a run ended with 3: error: .*127\.0\.0\.1:1"):
        ladder._run(tmp_path / "step", plan)


def test_a_run_without_end_is_ended():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with pytest.raises(PreflightError, match="did not end in time"):
        ladder._ended(process, time.monotonic())
    assert process.returncode is not None


def test_cpu_is_that_of_the_process_and_of_those_it_waited_for():
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    both = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])\n{burn}"
    code, cpu_s = ladder._ended(
        subprocess.Popen([sys.executable, "-c", both]), time.monotonic() + 60
    )
    assert code == 0
    assert cpu_s >= 0.6


def test_a_step_in_doubt_is_tried_once_more(monkeypatch, tmp_path):
    from test_calibration import step

    found = {25: [step()], 50: [step(delivered=0.5), step()], 100: [step(delivered=0.5)] * 2}
    monkeypatch.setattr(ladder, "_attempt", lambda streams, *_: found[streams].pop(0))
    monkeypatch.setattr(ladder, "_run", lambda *_: ladder.Done(tmp_path, 1.0))
    told = []
    plan = Ladder(streams=(25, 50, 100, 200))
    steps = list(ladder.climb(plan, tmp_path, told.append))
    assert [bool(one.doubts) for one in steps] == [False, False, True], "and 200 is not tried"
    assert sum("once more" in line for line in told) == 2


@pytest.mark.parametrize(
    ("cpu_s", "start_up_s", "events", "expected", "why"),
    [
        (3.5, 2.0, 100_000, 1.5, "what the load took beyond the start-up"),
        (3.5, 2.0, 50_000, 3.0, "per 100,000"),
        (2.0, 2.0, 0, None, "no events: nothing to divide by"),
        (1.9, 2.0, 4_000, None, "a start-up that was dearer by itself: unknown, never 0"),
        (2.1, 2.0, 4_000, None, "5 % more than a start-up that varies by 10 %"),
    ],
)
def test_cpu_per_event(cpu_s, start_up_s, events, expected, why):
    assert ladder.cpu_s_per_100k(cpu_s, start_up_s, events) == expected, why


# -- the command -----------------------------------------------------------------------------------


def test_wrong_options():
    wrong = {
        "twelve": "whole numbers",
        "10,,20": "whole numbers",
        "0,5": "larger than the one before",
        "10,10": "larger than the one before",
        "20,10": "larger than the one before",
    }
    found = batch(*(["calibrate", "--streams", text] for text in wrong))
    for done, words in zip(found, wrong.values(), strict=True):
        refused(done, 2, "--streams", words)
    refused(batch(["calibrate", "--processes", "0"])[0], 2, "--processes")


@pytest.mark.alone
@pytest.mark.slow
def test_end_to_end(tmp_path):
    """Two small steps; what was found is kept, and a larger plan is told about it."""
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    flags = "--streams", "5,10", "--quick", "--json"
    # Cold: what a warm process has imported patches the ways to wait for children.
    done = loadlib("calibrate", *flags, cwd=tmp_path, cold=True, limit_s=240.0, **cache)
    found = json.loads(done.out)
    assert done.code == (0 if found["believed_streams"] else 7), done.err
    first = found["steps"][0]
    # On a machine that is busy with other things even this load may be in doubt, and says why.
    assert first["streams"] == 5
    assert first["requests"] >= 10
    assert first["delivered"] > 0.9
    assert bool(first["doubts"]) == (found["believed_streams"] is None)
    assert abs(first["ttft_p50_error_ms"]) < 50, "of 200 ms"
    cost = first["cpu_s_per_100k"]
    assert cost is None or cost > 0, "so few events: the start-up may hide it"
    assert first["server_late_p99_ms"] >= 0
    assert "5 streams × 50 events/s" in done.err
    assert not (tmp_path / "reports").exists(), "its runs are nobody's results"

    (kept,) = calibration.read(tmp_path / "cache" / "loadlib" / "calibration.json")
    assert [step["streams"] for step in found["steps"]] == [step.streams for step in kept.steps]
    plan = scenario(tmp_path, load=[
        {"phase": "measure", "requests": 3, "arrival": "closed", "users": 5000},
    ])  # fmt: skip
    said = loadlib("validate", plan, cwd=tmp_path, **cache)
    assert said.code == 0, said.err
    assert "# ! the plan can reach 5,000 streams; on this machine" in said.out


def test_a_run_says_that_its_plan_exceeds_what_was_found_good(tmp_path, simulator):
    from test_calibration import step

    small = scenario(tmp_path, simulator, load=[
        {"phase": "measure", "requests": 3, "arrival": "closed", "users": 3},
    ])  # fmt: skip
    cache = tmp_path / "cache" / "loadlib" / "calibration.json"
    here = calibration.machine()
    kept = calibration.Calibration(
        machine=here, processes=1, calibrated_at="", steps=(step(streams=2),)
    )
    calibration.save(kept, cache)
    done = loadlib("run", small, cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path / "cache"))
    (line,) = [line for line in done.remarks if "the plan can reach" in line]
    assert "3 streams" in line
    elsewhere = msgspec.structs.replace(here, loadlib="0.0.1")
    cache.unlink()
    calibration.save(msgspec.structs.replace(kept, machine=elsewhere), cache)
    done = loadlib("run", small, cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert not [line for line in done.remarks if "the plan can reach" in line]


def test_tests_do_not_see_what_this_machine_was_calibrated_to():
    cache = Path(environment()["XDG_CACHE_HOME"]) / "loadlib"  # may hold the pages' script
    assert not (cache / calibration.FILE).exists()
