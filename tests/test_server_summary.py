"""From `server_metrics:` to the rows of a summary: what is asked for, kept, and laid beside."""

from __future__ import annotations

import io
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadlib import scenario as scenarios
from loadlib.catalog import resolve
from loadlib.errors import ScenarioError, UsageError
from loadlib.recorder import NS, SECOND_FIELDS
from loadlib.server_metrics import SERIES
from loadlib.server_record import COLUMNS, Scrape, header, line, parse
from loadlib.server_summary import Ours, server_notices, summarise_servers
from loadlib.server_targets import Target, targets
from loadlib.session import Choice, open_session
from loadlib.summarise import Window
from loadlib.summary import Level

# -- the scenario ----------------------------------------------------------------------------------

TEXT = """\
version: 1
models:
  - {name: a, base_url: "http://127.0.0.1:8000/v1"}
  - {name: b, base_url: "http://127.0.0.1:8001/v1"}
workloads: {chat: {kind: chat}}
load: [{phase: measure, requests: 5, arrival: closed, users: 1}]
"""
SIMULATED = TEXT.replace("models:", "target: simulator\nmodels:")
PUBLIC = TEXT.replace("models:", "target: live\nmodels:").replace("127.0.0.1", "llm.example.com")


def found(text: str, written: str, **more: Any) -> list[tuple[str, str, str]]:
    scenario = scenarios.parse(f"{text}server_metrics: {written}\n", "s.yaml")
    assert scenarios.parse(scenarios.to_yaml(scenario), "s.yaml") == scenario
    return [
        (target.name, target.url, "".join(target.models))
        for target in targets(scenario, map(resolve, scenario.models))
    ]


A, B = "http://127.0.0.1:8000/metrics", "http://127.0.0.1:8001/metrics"
TARGETS = [
    ("true", [("127.0.0.1:8000", A, "a"), ("127.0.0.1:8001", B, "b")], "each endpoint's own"),
    ("false", [], "off"),
    ("[]", [], "off"),
    ("{models: [b]}", [("127.0.0.1:8001", B, "b")], "those of some models"),
    ("http://127.0.0.1:8001", [("127.0.0.1:8001", B, "b")], "the usual path; who is there"),
    (
        "[http://10.0.0.7:9/metrics, 'http://10.0.0.8:9/x/prom']",
        [("10.0.0.7:9", "http://10.0.0.7:9/metrics", "ab"),
         ("10.0.0.8:9/x/prom", "http://10.0.0.8:9/x/prom", "ab")],
        "elsewhere: all models, as of replicas behind a balancer",
    ),
    (
        f"[{{url: '{A}', name: gpu, models: [b]}}, {{every: 2s}}]",
        [("gpu", A, "b"), ("127.0.0.1:8001", B, "b")],
        "what is named is not found twice",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("written", "expected", "why"), TARGETS)
def test_which_servers_are_read(written, expected, why):
    assert found(TEXT, written) == expected, why


def test_the_simulators_are_all_one():
    scenario = scenarios.parse(f"{SIMULATED}server_metrics: {{every: 500ms}}\n", "s.yaml")
    models = [resolve(model) for model in scenario.models]
    assert {target.name for target in targets(scenario, models)} == {"simulator"}
    assert {target.every_ns for target in targets(scenario, models)} == {NS // 2}


MISTAKES = [
    ("5", "server_metrics.0: should be a mapping"),
    ("maybe", "server_metrics.0.url: should be a URL such as http://127.0.0.1:8000/metrics"),
    ("file:///etc/passwd", "server_metrics.0.url: should be a URL such as"),
    ('"http://h/\\r\\nX-Evil: 1"', "server_metrics.0.url: should be a URL such as"),
    ("{url: 'http://h/m?x=1'}", "without user, password, query or fragment"),
    ("{url: 'http://h/', evry: 1s}", "unknown key 'evry' in server_metrics.0 (did you mean"),
    ("{url: 'http://h/', models: [c]}", "server_metrics.0.models.0: unknown model 'c'"),
    ("{name: x}", "server_metrics.0.name: is of one server: give its url"),
    ("[{}, {}]", "server_metrics.1: a second entry without url"),
    ("[http://h, http://h/metrics]", "server_metrics.1: a second server named 'h'"),
    ("{every: 10}", "server_metrics.0.every: a duration needs a unit"),
    ("{every: 1ms}", "server_metrics.0.every: should be from 100ms to 1m"),
    ("{api_key_env: not a name}", "server_metrics.0.api_key_env: should be the name of"),
]


@pytest.mark.parametrize(("written", "message"), MISTAKES)
def test_a_mistake_is_named_with_its_line(written, message):
    with pytest.raises(ScenarioError) as caught:
        found(TEXT, written)
    assert str(caught.value).startswith("s.yaml:7: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "written", "message"),
    [
        (SIMULATED, "http://127.0.0.1:1/metrics", "target: simulator has metrics of its own"),
        (SIMULATED, "true\nsimulator: {processes: 2}", "needs processes: 1"),
        (TEXT.replace(", base_url:", ", model: gpt-4 } #"), "true", "no model has a base_url"),
    ],
)
def test_what_the_rest_of_the_scenario_forbids(text, written, message):
    with pytest.raises(ScenarioError, match=message):
        found(text, written)


def test_a_public_host_is_read_where_load_may_go_there(tmp_path):
    assert found(PUBLIC, "true")[0][1] == "http://llm.example.com:8000/metrics"
    path = tmp_path / "s.yaml"
    path.write_text(f"{TEXT}server_metrics: https://metrics.example.com\n")
    with pytest.raises(UsageError, match=r"metrics\.example\.com is a public host: write `target"):
        open_session(Choice(file=str(path)))
    path.write_text(f"target: live\n{TEXT}server_metrics: https://metrics.example.com\n")
    assert open_session(Choice(file=str(path))).servers[0].name == "metrics.example.com"


def test_providers_have_no_metrics():
    text = TEXT.replace("models:", "target: live\nmodels:")
    text = text.replace("http://127.0.0.1:8000", "https://api.openai.com")
    assert [one[0] for one in found(text, "true")] == ["127.0.0.1:8001"]
    with pytest.raises(UsageError, match="none of the models is served by an endpoint"):
        found(text, "{models: [a]}")


def test_models_that_are_left_out_take_their_servers_with_them():
    both = f"[{{url: '{A}', models: [a]}}, {{url: '{B}', models: [b, a]}}]"
    scenario = scenarios.parse(f"{TEXT}server_metrics: {both}\n", "s.yaml")
    (left,) = scenarios.with_models(scenario, ["b"]).server_metrics
    assert (left.url, left.models) == (B, ("b",))


# -- the record ------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=20)
VALUES = st.integers(0, 2**53).map(float) | st.floats(0, 1e18, allow_nan=False)
SCRAPES = st.builds(
    Scrape,
    server=TEXTS,
    before_ns=st.integers(0, 2**62),
    after_ns=st.integers(0, 2**62),
    kind=TEXTS.filter(bool) | st.none(),
    values=st.dictionaries(st.sampled_from(list(SERIES)), VALUES),
    error=TEXTS.filter(bool) | st.none(),
)


@given(st.lists(SCRAPES, max_size=8), st.integers(0, 40))
def test_what_is_written_is_read_and_a_torn_end_is_left_out(scrapes, torn):
    lines = [line(one).decode() for one in scrapes]
    assert all(text.count("\n") == 1 for text in lines), "whole lines, one a scrape"
    text = header().decode() + "".join(lines)
    assert list(parse(io.StringIO(text, newline="\n"))) == scrapes
    if lines:
        cut = text[: len(text) - 1 - min(torn, len(lines[-1]) - 1)]
        assert list(parse(io.StringIO(cut, newline="\n"))) == scrapes[:-1]


def test_unknown_is_empty_and_whole_numbers_are_whole():
    one = Scrape(server="s", before_ns=1, after_ns=3, kind="vLLM", values={"running": 3.0,
                 "kv_usage": 0.25})  # fmt: skip
    row = dict(zip(COLUMNS, line(one).decode().rstrip("\n").split(","), strict=True))
    assert (row["running"], row["kv_usage"], row["waiting"], row["error"]) == ("3", "0.25", "", "")
    assert one.at_ns == 2


@pytest.mark.parametrize("broken", ["s,1\n", "s,one,2,vLLM" + "," * 10 + "\n", "\x00\n"])
def test_a_damaged_line_is_named(broken):
    text = header().decode() + line(Scrape(server="s", before_ns=1, after_ns=2)).decode() + broken
    with pytest.raises(ValueError, match=r"line 3|NUL"):
        list(parse(io.StringIO(text, newline="\n")))


# -- beside the load -------------------------------------------------------------------------------

T0 = 1_700_000_000
KEY = ("m", "chat", "measure")


def second(at: int, key=KEY, **counts: int) -> tuple[tuple[int, Any], list[int]]:
    return (T0 + at, key), [counts.get(name, 0) for name in SECOND_FIELDS]


def scrape(at: float, server: str = "s", error: str | None = None, **values: float) -> Scrape:
    at_ns = T0 * NS + round(at * NS)
    kind = None if error else "vLLM"
    return Scrape(server=server, before_ns=at_ns - 1_000_000, after_ns=at_ns + 1_000_000,
                  kind=kind, values=values, error=error)  # fmt: skip


def target(name: str = "s", models: tuple[str, ...] = ("m",)) -> Target:
    return Target(name=name, url=f"http://{name}/metrics", models=models)


def window(begin: float, end: float, phase: str = "measure", **more: Any) -> Window:
    return Window(phase=phase, start_ns=T0 * NS + round(begin * NS),
                  end_ns=T0 * NS + round(end * NS), **more)  # fmt: skip


# 4 requests in flight from second 0 to 9, 100 output tokens a second come here.
SECONDS = dict(
    [second(0, sent=4, output_tokens=100, input_tokens=50)]
    + [second(at, sent=2, ended=2, output_tokens=100, input_tokens=10) for at in range(1, 9)]
    + [second(9, ended=4, output_tokens=100)]
)
SCRAPED = [
    scrape(-0.5, output_tokens=5000, input_tokens=0),
    *(
        scrape(at, running=3, waiting=1, kv_usage=at / 10, output_tokens=5000 + 100 * at,
               input_tokens=50 + 10 * (at - 1), preemptions=at // 4, cache_queries=20 * at,
               cached_tokens=5 * at)
        for at in range(1, 10)
    ),
    scrape(9.9, running=0, waiting=0, output_tokens=6000, input_tokens=130),
]  # fmt: skip


def test_a_server_that_agrees():
    (server,) = summarise_servers([target()], SCRAPED, [window(0, 9.5)], SECONDS)
    assert (server.kind, server.scrapes, server.failed, server.restarts) == ("vLLM", 11, 0, 0)
    assert (server.took_ms_p50, server.took_ms_max) == (2.0, 2.0)
    assert (server.output_tokens, server.ours_output_tokens) == (1000, 1000), "to the token"
    (phase,) = server.phases
    assert phase.scrapes == 9, "those of the phase"
    assert phase.running == Level(mean=3, max=3)
    assert phase.waiting == Level(mean=1, max=1)
    assert phase.kv_usage == Level(mean=0.5, max=0.9)
    assert phase.in_flight == Level(mean=4, max=4), "what runs and what waits"
    assert phase.preemptions == 2
    assert phase.cached_share == 0.25
    assert phase.output_tok_s == phase.ours_output_tok_s == 100
    assert phase.input_tok_s == phase.ours_input_tok_s == 10
    assert phase.output_ratio == 1
    assert list(server_notices([server], [])) == []


def test_gaps_are_gaps_and_failures_are_named():
    failing = [
        scrape(at, error="connection refused" if at != 5 else "HTTP 500") if 3 <= at <= 5 else one
        for at, one in enumerate(SCRAPED)
    ]
    (server,) = summarise_servers([target()], failing, [window(0, 9.5)], SECONDS)
    assert (server.scrapes, server.failed) == (11, 3)
    assert server.failures == {"connection refused": 2, "HTTP 500": 1}
    (phase,) = server.phases
    assert phase.scrapes == 6
    assert phase.running == Level(mean=3, max=3), "nobody is taken for 0"
    assert phase.output_tok_s == 100, "counters know what came meanwhile"
    assert list(server_notices([server], [])) == [
        "server metrics of s: 3 of 11 scrapes failed: connection refused"
    ]


def test_a_server_that_never_answers_is_unknown():
    failing = [scrape(at, error="connection refused") for at in range(10)]
    (server,) = summarise_servers([target()], failing, [window(0, 9)], SECONDS)
    assert (server.kind, server.output_tokens, server.took_ms_p50) == (None, None, None)
    (phase,) = server.phases
    assert (phase.scrapes, phase.running, phase.in_flight) == (0, Level(), Level())
    assert phase.output_ratio is None
    assert list(server_notices([server], [])) == [
        "server metrics of s: 10 of 10 scrapes failed: connection refused"
    ]
    (empty,) = summarise_servers([target()], [], [window(0, 9)], {})
    assert (empty.scrapes, empty.output_tokens) == (0, None)
    assert list(server_notices([empty], [])) == []


def test_a_restart_counts_from_zero_and_is_named():
    counts = [10, 20, 30, 5, 15]
    scrapes = [scrape(at, output_tokens=n, preemptions=n) for at, n in enumerate(counts)]
    (server,) = summarise_servers([target()], scrapes, [window(0, 4)], {})
    assert server.restarts == 1
    assert server.output_tokens == 20 + 5 + 10
    assert server.phases[0].preemptions == 35
    assert "its counters began anew" in next(server_notices([server], []))


def test_one_scrape_has_no_rate():
    (server,) = summarise_servers([target()], SCRAPED[4:5], [window(0, 9)], SECONDS)
    (phase,) = server.phases
    assert phase.running.mean == 3
    assert (phase.output_tok_s, phase.ours_output_tok_s, phase.output_ratio) == (None, None, None)


OTHERS = [
    # server's tokens a second, ours 100 → what is said
    (104, None, "nearly the same"),
    (150, "1,500 output tokens were generated while 1,000 came here (+50%): another client", ""),
    (40, "400 output tokens were generated while 1,000 came here (−60%): are there replicas", ""),
]


@pytest.mark.parametrize(("rate", "said", "why"), OTHERS)
def test_others_on_the_server_show(rate, said, why):
    scrapes = [scrape(at, output_tokens=rate * at) for at in range(11)]
    (server,) = summarise_servers([target()], scrapes, [window(0, 10)], SECONDS)
    assert server.phases[0].output_ratio == pytest.approx(rate / 100, rel=0.01)
    notices = list(server_notices([server], []))
    assert (notices == []) if said is None else (said in notices[0]), why


def test_replicas_are_compared_together_and_other_servers_apart():
    both = [scrape(at, name, output_tokens=50 * at) for at in range(11) for name in ("r1", "r2")]
    other = [scrape(at, "x", output_tokens=7 * at) for at in range(11)]
    pool = [target("r1"), target("r2"), target("x", ("elsewhere",))]
    servers = summarise_servers(pool, both + other, [window(0, 10)], SECONDS)
    assert [s.phases[0].output_ratio for s in servers] == [pytest.approx(1), pytest.approx(1), None]
    assert [s.phases[0].output_tok_s for s in servers] == [50, 50, 7]
    assert list(server_notices(servers, [])) == [], "0 came from elsewhere, and 70 is chance"


def test_phases_that_overlap_are_one_and_those_in_turn_are_not():
    key = ("n", "chat", "measure")
    seconds = {**SECONDS, **dict([second(0, key, sent=1), second(9, key, ended=1)])}
    several = target(models=("m", "n"))
    apart = [window(0, 4, model="m"), window(5, 9, model="n"), window(0, 9, model="unknown")]
    (server,) = summarise_servers([several], SCRAPED, apart, seconds)
    assert [(p.model, p.scrapes) for p in server.phases] == [("m", 4), ("n", 5)]
    beside = [window(0, 9, model="m"), window(1, 9.4, model="n")]
    (server,) = summarise_servers([several], SCRAPED, beside, seconds)
    assert [(p.model, p.scrapes) for p in server.phases] == [(None, 9)]
    assert server.phases[0].in_flight.max == 5
    (server,) = summarise_servers([target()], SCRAPED, apart, seconds)
    assert [(p.model, p.scrapes) for p in server.phases] == [(None, 4)], "its one model is no news"


@given(st.dictionaries(st.integers(0, 50), st.integers(0, 100), min_size=1), st.data())
def test_what_came_adds_up_however_it_is_cut(counts, data):
    seconds = dict(second(at, output_tokens=n) for at, n in counts.items())
    ours = Ours.of(seconds, ["m"], [])
    cuts = sorted(data.draw(st.lists(st.integers(0, 60 * NS), max_size=6)))
    edges = [T0 * NS - 1, *(T0 * NS + cut for cut in cuts), (T0 + 61) * NS]
    parts = [ours.came(ours.output, a, b) for a, b in itertools.pairwise(edges)]
    assert sum(parts) == pytest.approx(sum(counts.values()), abs=1e-3)
    assert all(part >= -1e-6 for part in parts)


def test_seconds_far_apart_take_no_room():
    seconds = dict([second(0, sent=1), second(1_600_000_000, ended=1)])
    assert len(Ours.of(seconds, ["m"], []).edges_ns) == 4
    assert Ours.of({}, ["m"], []).flying(T0) is None
