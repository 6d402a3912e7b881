"""What makes a load believable, what is kept of it, and when a plan exceeds it."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from loadlib import calibration
from loadlib.calibrate import show
from loadlib.calibration import Calibration, Demand, Machine, Step, demand, excess
from loadlib.scenario import parse

HERE = Machine(cpu_model="Fast 9000", cpus=2, python="3.11.7", loadlib="0.1.0")
GOOD = Step(
    streams=100, events_per_s=4500.0, requests=400, ttft_p50_error_ms=0.01,
    ttft_p99_error_ms=-0.02, icl_p99_error_ms=0.03, ttft_p50_ms=200.0, ttft_p99_ms=300.0,
    icl_p99_ms=20.0, ttft_each_p99_ms=0.1, delivered=1.0, cpu_s_per_100k=1.5,
    server_late_p99_ms=0.1, health="ok",
)  # fmt: skip


def step(**fields):
    return msgspec.structs.replace(GOOD, **fields)


def made(*steps, machine=HERE, processes=1):
    return Calibration(
        machine=machine, processes=processes, calibrated_at="2026-01-01T00:00:00Z", steps=steps
    )


JUDGED = {
    "all is well": ({}, ()),
    "at the limit of 1 ms": ({"icl_p99_error_ms": 1.0}, ()),
    "beyond it": ({"icl_p99_error_ms": 1.01}, ("icl p99 is off by 1.0 ms",)),
    "too early is as wrong as too late": (
        {"icl_p99_error_ms": -4.0},
        ("icl p99 is off by 4.0 ms",),
    ),
    "1 % of 300 ms": ({"ttft_p99_error_ms": 3.0}, ()),
    "beyond 1 % of 300 ms": ({"ttft_p99_error_ms": 3.1}, ("TTFT p99 is off by 3.1 ms",)),
    "1 % of 200 ms is less": ({"ttft_p50_error_ms": 3.0}, ("TTFT p50 is off by 3.0 ms",)),
    "worst, against its limit, first": (
        {"ttft_p99_error_ms": 6.0, "ttft_p50_error_ms": 5.0, "icl_p99_error_ms": 5.0},
        ("icl p99 is off by 5.0 ms", "TTFT p50 is off by 5.0 ms", "TTFT p99 is off by 6.0 ms"),
    ),
    "unknown is not fine": ({"ttft_p99_error_ms": None}, ("TTFT p99 could not be compared",)),
    "99 % delivered": ({"delivered": 0.99}, ()),
    "less": ({"delivered": 0.9721}, ("97.2% of the events were delivered",)),
    "unknown delivery": ({"delivered": None}, ("an unknown share of the events were delivered",)),
    "a health warning is shown, and no doubt": ({"health": "warn"}, ()),
    "bad health": (
        {"health": "bad", "health_reasons": ("lost_samples 3",)},
        ("health is bad: lost_samples 3",),
    ),
    "nothing joined": (
        {"requests": 0, "ttft_p99_error_ms": None, "delivered": None},
        ("no request could be compared with the truth",),
    ),
}


@pytest.mark.parametrize("case", JUDGED)
def test_what_is_believed(case):
    fields, doubts = JUDGED[case]
    assert step(**fields).doubts == doubts


LATE = step(streams=400, ttft_p99_error_ms=4.1)
CLIMBS = {
    "all good": ((step(streams=25), GOOD), 100, None),
    "up to the first doubt": ((step(streams=25), GOOD, LATE), 100, 400),
    "none": ((LATE,), None, 400),
    "good again beyond a doubt is luck": ((step(streams=25), LATE, step(streams=800)), 25, 400),
}


@pytest.mark.parametrize("case", CLIMBS)
def test_the_believed_load_ends_at_the_first_doubt(case):
    steps, good, bad = CLIMBS[case]
    found = made(*steps)
    assert (found.believed and found.believed.streams) == good
    assert (found.doubted and found.doubted.streams) == bad


@given(st.lists(st.booleans(), min_size=1, max_size=8))
def test_what_is_believed_and_what_is_doubted_are_neighbours(good):
    found = made(
        *(step(streams=n, delivered=1.0 if fine else 0.5) for n, fine in enumerate(good, 1))
    )
    believed = found.believed.streams if found.believed else 0
    assert all(good[:believed])
    assert (found.doubted.streams if found.doubted else len(good) + 1) == believed + 1


# -- words -----------------------------------------------------------------------------------------

SENTENCES = {
    "This machine can be believed up to 100 streams × 50 events/s = 4.5k events/s,"
    " the highest load tried.": (GOOD,),
    "This machine can be believed up to 100 streams × 50 events/s = 4.5k events/s;"
    " at 400 streams TTFT p99 is off by 4.1 ms.": (GOOD, LATE),
    "This machine cannot be believed even at 400 streams × 50 events/s:"
    " TTFT p99 is off by 4.1 ms.": (LATE,),
    "This machine cannot be believed even at 400 streams × 50 events/s:"
    " TTFT p99 is off by 4.1 ms, but the truth server itself was 7.2 ms late (p99):"
    " the limit may be its own, not the client's.": (
        msgspec.structs.replace(LATE, server_late_p99_ms=7.2),
    ),
}


@pytest.mark.parametrize("text", SENTENCES)
def test_one_sentence_says_it(text):
    assert show.sentence(made(*SENTENCES[text])) == text


def test_the_table_and_further_doubts_fit_a_terminal():
    console = Console(width=80, record=True, file=io.StringIO())
    bad = step(streams=1600, ttft_p99_error_ms=412.5, delivered=0.5, cpu_s_per_100k=None)
    show.show(made(GOOD, bad), console)
    said = console.export_text()
    assert "…" not in said
    assert max(map(len, said.splitlines()[:5])) <= 80
    cells = [line.split() for line in said.splitlines()]
    assert ["100", "4,500", "100.0%", "+0.01", "-0.02", "+0.03", "1.50", "ok", "yes"] in cells
    assert ["1,600", "4,500", "50.0%", "+0.01", "+412.50", "+0.03", "?", "ok", "no"] in cells
    assert "  also: 50.0% of the events were delivered" in said.splitlines()


def test_json_says_what_follows():
    data = json.loads(show.as_json(made(GOOD, LATE)))
    assert (data["believed_streams"], data["believed_events_per_s"]) == (100, 4500.0)
    assert data["steps"][1]["doubts"] == ["TTFT p99 is off by 4.1 ms"]
    assert json.loads(show.as_json(made(LATE)))["believed_streams"] is None


# -- the file --------------------------------------------------------------------------------------


def test_what_is_kept_is_found_again_by_machine_and_processes(tmp_path):
    path = tmp_path / "new" / "calibration.json"
    other = msgspec.structs.replace(HERE, python="3.13.1")
    kept = [made(GOOD), made(GOOD, LATE, processes=2), made(LATE, machine=other)]
    for one in kept:
        assert calibration.save(one, path) == path
    known = calibration.read(path)
    assert list(known) == kept
    assert calibration.find(1, HERE, known) == kept[0]
    assert calibration.find(2, HERE, known) == kept[1]
    assert calibration.find(4, HERE, known) is None, "not calibrated with so many"
    assert calibration.find(2, other, known) is None
    calibration.save(made(LATE), path)
    assert calibration.find(1, HERE, calibration.read(path)) == made(LATE), "in place of the old"
    assert len(calibration.read(path)) == 3


def test_the_file_does_not_grow_forever(tmp_path):
    path = tmp_path / "calibration.json"
    for n in range(1, calibration.KEPT + 5):
        calibration.save(made(GOOD, processes=n), path)
    found = [one.processes for one in calibration.read(path)]
    assert found == list(range(5, calibration.KEPT + 5)), "the newest"


VALID = msgspec.json.encode({"schema_version": 1, "calibrations": [made(GOOD)]})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        VALID[:-9],
        VALID.replace(b'"schema_version":1', b'"schema_version":2'),
        VALID.replace(b'"streams":100', b'"streams":"many"'),
        VALID.replace(b'"health":"ok"', b'"health":"fine"'),
        None,
    ],
    ids=["empty", "torn", "a list", "no text", "cut", "a later version", "a word", "unknown",
         "a folder"],
)  # fmt: skip
def test_a_file_that_cannot_be_understood_is_no_calibration(tmp_path, content):
    path = tmp_path / "calibration.json"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
        assert calibration.read(path) == ()
        calibration.save(made(GOOD), path)
        assert calibration.read(path) == (made(GOOD),), "the next one mends it"
    assert len(calibration.read(path)) == (content is not None)


def test_where_it_is_kept(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert calibration.default_path() == Path("/caches/loadlib/calibration.json")
    for unusable in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unusable)
        assert calibration.default_path() == Path.home() / ".cache/loadlib/calibration.json"


# -- plans -----------------------------------------------------------------------------------------

BASE = """
version: 1
models: [{name: a, base_url: "http://127.0.0.1:1/v1"}, {name: b, base_url: "http://[::1]:1/v1"}]
workloads:
  short: {kind: chat, output_tokens: [10, 30], weight: 3}
  long: {kind: chat, output_tokens: 100, weight: 1, models: [a]}
load: [%s]
"""
CLOSED = "{phase: measure, arrival: closed, users: 30, duration: 5s}"
OPEN = "{phase: measure, arrival: poisson, rate: 8/s, duration: 5s, max_in_flight: 50}"
CALM = "{phase: warmup, arrival: constant, rate: 1/s, duration: 5s, max_in_flight: 70}"
# Tokens of an arrival: a (3 × 20 + 1 × 100) / 4 = 40, b 20; of both in one schedule
# (3 × 20 + 1 × 100 + 3 × 20) / 7 = 220 / 7.
PLANS = {
    "users of a closed loop, for each model": (CLOSED, "", (60, 0)),
    "… or for all of them": (CLOSED, "per: total", (30, 0)),
    "one model after the other": (CLOSED, "order: sequential", (30, 0)),
    "rate × output cap": (OPEN, "", (100, 8 * 40 + 8 * 20)),
    "… of one schedule": (OPEN, "per: total", (50, 8 * 220 / 7)),
    "… of the larger model": (OPEN, "order: sequential", (50, 8 * 40)),
    "each extreme from the phase it is in": (f"{CALM}, {OPEN}", "per: total", (70, 8 * 220 / 7)),
}


@pytest.mark.parametrize("case", PLANS)
def test_the_most_a_plan_can_ask_for(case):
    load, more, (streams, events) = PLANS[case]
    scenario = parse(BASE % load + more)
    stages = (
        [(phase, (name,)) for name in "ab" for phase in scenario.load]
        if "sequential" in more
        else [(phase, ("a", "b")) for phase in scenario.load]
    )
    found = demand(stages, scenario)
    assert found.streams == streams
    assert found.events_per_s == pytest.approx(events)


def test_caps_that_are_drawn_count_by_their_mean():
    drawn = (BASE % OPEN).replace("[10, 30]", "{uniform: [1, 39]}")
    scenario = parse(drawn.replace("output_tokens: 100", "output_tokens: {table: azure-conv}"))
    found = demand([(scenario.load[0], ("a", "b"))], scenario)
    assert found.events_per_s == pytest.approx(8 * (3 * 20 + 210) / 4 + 8 * 20, rel=0.005)


def test_classes_of_ones_own_say_themselves_what_to_send():
    text = BASE % OPEN
    custom = text.replace("long: {kind: chat, output_tokens: 100,", "Mine: {kind: custom,")
    scenario = parse(custom)
    found = demand([(scenario.load[0], ("a", "b"))], scenario)
    assert found.events_per_s == pytest.approx(8 * 15 + 8 * 20)


@pytest.mark.parametrize(
    ("steps", "plan", "words"),
    [
        ((GOOD, LATE), Demand(100, 4500.0), None),
        ((GOOD, LATE), Demand(101), "can reach 101 streams; .* 100 streams .*TTFT p99 is off"),
        ((GOOD, LATE), Demand(5, 4501.0), "5 streams and 4,501 events/s; .*= 4.5k events/s"),
        ((GOOD,), Demand(101), "more was not tried"),
        ((LATE,), Demand(1), "at no load .*TTFT p99 is off by 4.1 ms at 400 streams"),
    ],
    ids=["within", "streams", "events", "beyond what was tried", "nothing believed"],
)
def test_a_plan_beyond_it_is_told_so(steps, plan, words):
    lines = excess(plan, made(*steps))
    if words is None:
        assert lines == ()
    else:
        (line,) = lines
        assert re.search(words, line), line


def test_without_a_calibration_there_is_nothing_to_say():
    assert excess(Demand(100_000, 1e9), None) == ()


def test_only_this_machine_with_these_processes_warns(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    scenario = parse(BASE % CLOSED)
    stages = [(scenario.load[0], ("a", "b"))]
    here = calibration.machine()
    assert calibration.notices(stages, scenario, None) == (), "never calibrated"
    elsewhere = msgspec.structs.replace(here, cpus=(here.cpus or 0) + 1)
    calibration.save(made(step(streams=10), machine=elsewhere))
    assert calibration.notices(stages, scenario, None) == (), "on another machine"
    calibration.save(made(step(streams=10), machine=here))
    assert len(calibration.notices(stages, scenario, None)) == 1
    assert len(calibration.notices(stages, scenario, 1)) == 1
    assert calibration.notices(stages, scenario, 2) == (), "not with two processes"
    calibration.save(made(step(streams=10), machine=here, processes=here.cpus or 1))
    assert len(calibration.notices(stages, scenario, -1)) == 1, "one per core"
