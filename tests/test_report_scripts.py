"""What scripts are told, what a chart's parts are said to be of, single requests on the page."""

from __future__ import annotations

import gzip
import json
import re

import pytest
from altair.utils.schemapi import debug_mode
from record_samples import KEY, sample
from report_fixtures import FIXTURES, SPEEDS, build

from loadlib.charts import figures
from loadlib.recorder import Recorder, Totals
from loadlib.report import bundle as bundles
from loadlib.report import failed, html, interactive, samples, scripts, tiles, view, words
from loadlib.sample import Outcome
from loadlib.summarise import Window, summarise
from loadlib.summary import Health, Summary, Verdict

MS = 1_000_000


@pytest.fixture(autouse=True)
def _unchecked():
    with debug_mode(False):
        yield


# — charts that say nothing of interaction ———————————————————————————————————————


@pytest.fixture(scope="module")
def steps():
    run = FIXTURES["steps"]()
    groups = view.shown(run.summary)
    made = {figure.id: figure for figure in figures(run)}
    return made, {i: interactive.annotated(f, groups) for i, f in made.items()}, groups


def marks(spec):
    """(panel's note, plot's place, mark, its note) of every mark."""
    for panel in interactive._panels(spec):
        for place, unit in enumerate(interactive._units(panel)):
            for layer in interactive._layers(unit):
                yield panel["loadlib"], place, layer["mark"], layer["loadlib"]


def test_every_panel_is_of_the_groups_its_caption_names(steps):
    figures, annotated, groups = steps
    for panel in interactive._panels(annotated["ttft-percentiles"]):
        note = panel["loadlib"]
        model, phase = note["caption"].split(" · ")
        assert {(groups[i].model, groups[i].phase) for i in note["groups"]} == {(model, phase)}
    for panel in interactive._panels(annotated["load-ladder"]):
        assert {groups[i].model for i in panel["loadlib"]["groups"]} == {
            panel["loadlib"]["caption"]
        }
    assert {id(figure.spec) for figure in figures.values()}.isdisjoint(map(id, annotated.values()))


def test_every_mark_is_of_its_workload_and_what_holds_the_axes_of_nothing(steps):
    _, annotated, groups = steps
    found = list(marks(annotated["ttft-percentiles"]))
    for panel, _, mark, note in found:
        if mark.get("opacity") == 0:
            assert note == {"groups": [], "keys": []}
        elif mark["type"] == "line":
            series = int(re.match(r"var\(--s(\d)", mark["stroke"])[1]) - 1
            assert note["keys"][0] == series
            assert {groups[i].workload for i in note["groups"]} == {("chat", "long")[series]}
            assert set(note["groups"]) <= set(panel["groups"])


@pytest.mark.parametrize(
    ("chart", "kind", "key"),
    [
        ("ttft-percentiles", "line", "sent clock"),
        ("ttft-percentiles", "line", "response clock (from the intended start)"),
        ("ttft-percentiles", "rule", "gate limit at its percentile"),
        ("ttft-histogram", "point", "p50"),
        ("ttft-histogram", "point", "p99"),
        ("load-ladder", "rect", "bracket: last rate that passes, first that fails"),
        ("quality-by-load", "rule", "95 % interval (Wilson)"),
    ],
)
def test_strokes_are_what_the_legend_calls_them(steps, chart, kind, key):
    made, annotated, _ = steps
    place = [k.label for k in made[chart].legend].index(key)
    kinds = {mark["type"] for _, _, mark, note in marks(annotated[chart]) if place in note["keys"]}
    assert kind in kinds
    assert kinds <= {kind, "point"}, "a point may end a line"


@pytest.mark.parametrize(
    ("chart", "place", "titles"),
    [
        ("ttft-percentiles", 0, ("percentile", "TTFT")),
        ("ttft-histogram", 0, ("time to first token", "share")),
        ("load-ladder", 0, ("configured rate, requests/s", "TTFT p99")),
        ("load-ladder", 1, ("configured rate, requests/s", "goodput")),
        ("system-throughput", 1, ("steady seconds", "tok/s")),
    ],
)
def test_values_are_named_by_their_axes_wherever_those_are_titled(steps, chart, place, titles):
    axes = steps[1][chart]["loadlib"]["axes"][place]
    assert (axes["x"][0], axes["y"][0]) == titles
    assert "datum.value" in axes["x"][1]


def test_every_chart_has_something_to_read_and_its_data(steps):
    for spec in steps[1].values():
        assert any(note.get("read") for *_, note in marks(spec)), spec
        text = json.dumps(spec)
        assert set(re.findall(r'"data": {"name": "(\d+)"}', text)) == set(spec["datasets"])


# — the data and the library ——————————————————————————————————————————————————————


def test_nothing_in_the_data_can_end_its_element():
    text = str(scripts.as_data({"a": "</script><!--<script>", "b": ["&", "\u2028"]}))
    assert "<" not in text
    assert json.loads(text) == {"a": "</script><!--<script>", "b": ["&", "\u2028"]}


def test_the_own_script_is_small_and_can_stand_in_a_page():
    text = scripts.own_script()
    assert len(text.encode()) < 40_000
    assert "</script" not in text.lower()
    assert "<!--" not in text
    assert not re.search(r"\b(?:eval|Function|XMLHttpRequest|fetch|innerHTML|import)\b\(?", text)


def test_tiles_for_the_script_are_those_of_the_page():
    summary = FIXTURES["full"]().summary
    told = scripts.payload(summary)
    assert [t["value"] for t in told["tiles"]] == [t.value for t in tiles.tiles(summary)]
    assert told["names"]["workload"] == ["chat", "long"]
    assert told["reference"] == "gpt-4o-mini"
    assert {len(rows) for rows in told["ratios"].values()} == {len(told["groups"])}
    assert told["ratios"]["gpt-4o"][2] == [["1×", "", 1.0]] * 7


def test_no_figure_of_a_page_depends_on_the_number_of_requests():
    small, large = (
        len(json.dumps(scripts.charts(run.summary, figures(run))))
        for run in (
            build("x", models={"gpt-4o": SPEEDS["gpt-4o"]}, seconds=s, phases=(("measure", r),))
            for s, r in ((60, 5.0), (60, 50.0))
        )
    )
    assert large < small * 1.5


def test_the_library_is_bundled_once_and_damage_is_mended(tmp_path, monkeypatch):
    made = []

    def bundled(snippet):
        made.append(snippet)
        return "window.x = 1; // é"

    monkeypatch.setattr(bundles.vl_convert, "javascript_bundle", bundled)
    ask = bundles.bundle.__wrapped__
    first = ask(tmp_path)
    assert ask(tmp_path) == first
    assert len(made) == 1
    (kept,) = tmp_path.iterdir()
    assert gzip.decompress(kept.read_bytes()).decode() == "window.x = 1; // é"
    kept.write_bytes(kept.read_bytes()[:-9])
    assert ask(tmp_path) == first
    assert len(made) == 2
    kept.write_bytes(b"no gzip")
    assert ask(tmp_path) == first
    closed = tmp_path / "file"
    closed.write_text("a file where a folder should be")
    assert ask(closed) == first


# — how requests failed ———————————————————————————————————————————————————————————


def broken(outcome, cause, *, tokens=None, **more):
    came = {} if tokens is None else {"first_token_ns": 5 * MS, "output_tokens": tokens}
    return sample(outcome, cause=cause, **came, **more)


def test_failures_are_told_apart_by_what_had_come_before_them():
    given = [
        *[sample(index=i) for i in range(4)],
        broken(Outcome.TIMEOUT, "first_token"),
        broken(Outcome.TIMEOUT, "idle", tokens=7, cost_usd=0.25),
        broken(Outcome.TIMEOUT, "idle", tokens=3),
        broken(Outcome.SERVER_ERROR, None),
        broken(Outcome.THROTTLED, "429", retried=True),
        sample(Outcome.CANCELLED),
    ]
    summary = run_of(given)
    assert {
        what: (one.n, one.after_first_token, one.output_tokens, one.cost_usd)
        for what, one in summary.groups[0].failures.items()
    } == {
        "server_error": (1, 0, None, None),
        "timeout/first_token": (1, 0, None, None),
        "timeout/idle": (2, 2, 10, 0.25),
    }, "a refusal that was tried again is no failed request, nor is one that we cancelled"
    first, *_ = failed.rows(summary)
    assert (first.outcome, first.cause, first.n, first.groups) == ("timeout", "idle", 2, "0")
    assert first.meaning == words.OUTCOMES["timeout"]
    made_up = [broken(Outcome.REJECTED, f"code-{i}") for i in range(300)]
    found = run_of(made_up).groups[0].failures
    assert (len(found), found["rejected"].n) == (101, 200), "however many a server makes up"
    assert set(words.OUTCOMES) == {o.value for o in Outcome if o.failed}


# — single requests ———————————————————————————————————————————————————————————————


def run_of(rows):
    recorder, totals = Recorder(0), Totals()
    for row in rows:
        recorder.scheduled(KEY, row.intended_ns)
        recorder.add(row, ())
    totals.merge(recorder.drain(60_000 * MS))
    window = Window(phase="measure", start_ns=0, end_ns=60_000 * MS, load="constant 1/s",
                    rates={"m": 1.0})  # fmt: skip
    groups = summarise(totals, rows, [window], pairs=[("m", "chat")])
    return Summary(verdict=Verdict(status="pass"), groups=groups, health=Health(status="ok"))


def rows():
    made = [sample(at=100 * i, ttft=100 + i, index=i) for i in range(21)]
    bad = "</script><b>\u202eno " + "x" * 900
    made.append(sample(Outcome.TIMEOUT, at=2200, ttft=500, index=21, cause="idle", error=bad,
                       request_id="<i>", status=504))  # fmt: skip
    made.append(sample(Outcome.THROTTLED, at=2300, ttft=5, index=22, cause="429", retried=True))
    return made


def test_single_requests_are_the_slowest_the_typical_and_the_failed():
    (group,) = samples.pick(run_of(rows()), rows(), 2)
    assert [(row.kind, row.index) for row in group.rows] == [
        ("slowest", "20"), ("slowest", "19"), ("typical", "10"), ("typical", "9"), ("failed", "21"),
    ]  # fmt: skip
    slow = group.rows[0]
    assert (slow.at, slow.ttft, slow.lag) == ("2.000 s", "120 ms", "1 ms")
    assert [part for part, *_ in slow.bar] == ["waiting", "first byte", "answer"]
    assert sum(length for *_, length in slow.bar) <= 100.1


def test_few_requests_are_shown_once():
    made = rows()[:3]
    (group,) = samples.pick(run_of(made), made, 10)
    assert sorted(row.index for row in group.rows) == ["0", "1", "2"]


def test_no_text_of_a_server_becomes_markup_and_no_prompt_is_there():
    summary = run_of(rows())
    picked = samples.pick(summary, rows(), 3)
    run = FIXTURES["nothing"]()
    run.summary = summary
    run.histogram = lambda *_: type("H", (), {"counts": lambda _: ((), ())})()
    page = html.render(run, static=True, picked=picked)
    assert "&lt;/script&gt;&lt;b&gt;" in page
    assert "<b>\u202e" not in page
    assert "x" * 400 not in page
    assert "keeps no prompts and no answers" in page
    assert 'id="requests"' not in html.render(run, static=True)
