"""Pages: complete, self-contained, safe against what stands in a run, and stable."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from altair.utils.schemapi import debug_mode
from pictures import drawn_once
from record_samples import KEY, MS, events, sample
from report_fixtures import FIXTURES, SPEEDS, build, gate, judged
from rich.cells import cell_len
from rich.console import Console

from loadlib import report
from loadlib import run as runs
from loadlib.charts import numerals
from loadlib.compare import compare
from loadlib.health import Readings, judge
from loadlib.metrics import CATALOGUE
from loadlib.recorder import Recorder, Totals
from loadlib.report import delivery, health, html, junit, markdown, terminal, tiles, view
from loadlib.report.words import STATUS_ICONS
from loadlib.sample import Outcome
from loadlib.summarise import Window, summarise
from loadlib.summary import (
    Comparison,
    Cost,
    Goodput,
    Health,
    HealthCheck,
    Requests,
    Summary,
    Verdict,
)

HERE = Path(__file__).parent
NAMES = sorted(FIXTURES)
UPDATE = os.environ.get("LOADLIB_UPDATE_GOLDEN") == "1"
VOID = {"meta", "link", "br", "img", "input", "hr"}
RAW = re.compile(r"(<script[^>]*>).*?</script>", re.DOTALL)


class Page(HTMLParser):
    """What a test wants to know of a page; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    with drawn_once(tmp_path_factory):
        return {name: html.render(make()) for name, make in FIXTURES.items()}


@pytest.fixture(scope="module")
def static(tmp_path_factory):
    with drawn_once(tmp_path_factory):
        return {name: html.render(FIXTURES[name](), static=True) for name in ("full", "many")}


def said(page: str) -> str:
    """The page without what stands in its scripts."""
    return RAW.sub(r"\1</script>", page)


@pytest.fixture(autouse=True)
def _unchecked():
    with debug_mode(False):
        yield


# — the page ———————————————————————————————————————————————————————————————————


@pytest.mark.parametrize("name", NAMES)
def test_page_is_well_formed_and_every_id_is_unique(pages, name):
    page = Page(pages[name])
    assert len(page.ids) == len(set(page.ids))
    targets = [a["href"][1:] for a in page.all("a") if a.get("href", "").startswith("#")]
    assert set(targets) <= set(page.ids)


def policy(page: Page) -> dict[str, str]:
    (text,) = (a["content"] for a in page.all("meta") if "http-equiv" in a)
    return dict(rule.split(" ", 1) for rule in text.split("; "))


CLOSED = {
    "default-src": "'none'", "style-src": "'unsafe-inline'", "img-src": "data:",
    "base-uri": "'none'", "form-action": "'none'",
}  # fmt: skip


def check_that_nothing_is_loaded(text: str) -> Page:
    page = Page(text)
    assert not [tag for tag in ("link", "img", "iframe", "object", "base") if page.all(tag)]
    assert not [a for _, attrs in page.tags for a in attrs if a.startswith("on") or a == "src"]
    addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.[a-z]{2,}[^\s\"'<)]*", said(text)))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    assert "@import" not in text
    assert "url(" not in said(text).replace("url(#", "")
    return page


@pytest.mark.parametrize("name", NAMES)
def test_page_loads_nothing_and_runs_its_own_scripts_only(pages, name):
    page = check_that_nothing_is_loaded(pages[name])
    rules = policy(page)
    assert {k: v for k, v in rules.items() if k != "script-src"} == CLOSED
    assert [a.get("type") for a in page.all("script")] == [
        "application/json",
        "application/octet-stream",
        "application/octet-stream",
        None,
    ]
    (own,) = re.findall(r"<script>(.*?)</script>", pages[name], re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
    assert rules["script-src"].split()[0] == f"'sha256-{digest}'"
    assert len(rules["script-src"].split()) == 2, "its own, and the drawing library"


@pytest.mark.parametrize("name", ["full", "many"])
def test_a_static_page_runs_nothing(static, name):
    page = check_that_nothing_is_loaded(static[name])
    assert policy(page) == CLOSED
    assert not page.all("script")
    assert not page.all("button")
    assert "filter" not in page.ids


def test_what_is_said_does_not_depend_on_scripts(pages, static):
    """Interactive pages add their bar and a hint for keys, and no fact."""
    texts = ["".join(Page(said(page)).text) for page in (pages["full"], static["full"])]
    lines = [{line.strip() for line in text.splitlines()} for text in texts]
    more = [line for line in lines[0] - lines[1] if not line.startswith("Made by loadlib")]
    assert [line for line in more if not line.startswith("Arrow keys")] == []
    assert lines[1] - lines[0] <= {line for line in lines[1] if line.startswith("Made by loadlib")}


@pytest.mark.parametrize("name", NAMES)
def test_page_stays_small(pages, name):
    assert len(pages[name].encode()) < 2_000_000
    assert len(said(pages[name]).encode()) < 800_000, "what a static page holds"


@pytest.mark.parametrize("name", ["full", "steps", "many", "hostile"])
def test_charts_have_names_and_data_tables(pages, name):
    page = Page(pages[name])
    charts = [a for a in page.all("svg") if a.get("role") == "img"]
    figures = page.all("figure")
    assert len(charts) == len(figures) >= 5
    for chart in charts:
        assert all(target in page.ids for target in chart["aria-labelledby"].split())
    assert sum("data" in (a.get("class") or "").split() for a in page.all("details")) == len(
        figures
    )
    assert len(page.all("title")) == len(figures) + 1


def test_charts_follow_the_page_in_the_dark(pages):
    assert 'fill="currentColor"' in pages["full"]
    assert "var(--s1, #0072B2)" in pages["full"]
    assert 'fill="white"' not in pages["full"]


def test_headings_do_not_skip_a_level(pages):
    levels = [int(tag[1]) for tag, _ in Page(pages["full"]).tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_the_glossary_has_every_metric_with_its_formula(pages):
    text = "".join(Page(said(pages["full"])).text)
    for row in CATALOGUE.values():
        assert row.name in text
        assert row.formula in text


def test_what_stands_in_a_run_is_text_and_nothing_else(pages):
    assert "<img" not in pages["hostile"]
    assert "x" * 400 not in pages["hostile"]
    assert "abcdefgh12345678" not in pages["hostile"]
    text = said(pages["hostile"])
    assert "alert(1)>" not in text
    assert "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;" in text
    assert "\u202e" not in text
    assert "\x07" not in text
    assert "abcdefgh12345678" not in text  # a bearer token in an error message
    assert "x" * 400 not in text


def test_status_is_said_with_a_word_and_a_shape(pages):
    for status in ("pass", "fail", "inconclusive"):
        assert f'aria-hidden="true">{STATUS_ICONS[status]}</span>{status}</span>' in pages["steps"]


def test_a_run_of_nothing_says_so(pages):
    text = "".join(Page(pages["nothing"]).text)
    assert "no request was sent" in text
    assert "No request was sent in a measure phase." in text
    assert "The instrument was not healthy" in text


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("full", "Measured against loadlib&#39;s own simulator"),
        ("full", "long 8k … 128k skipped for gpt-4: window 8,192"),
        ("interrupted", "The run was interrupted"),
        ("interrupted", "Closed loop: users wait for each answer"),
        ("interrupted", "queueing is not visible"),
        ("steps", "gpt-4o passes at 6/s and fails at 12/s"),
        ("all_failed", "timeout/first_token"),
        ("all_failed", "no first token within 60 s"),
        ("single", "†"),
        ("full", "1 truncated, 1 wrong"),
        ("full", "by sort of prompt"),
        ("steps", "gpt-4o-mini chat falls from 99.1 % to 90 % at 20/s"),
    ],
)
def test_page_says(pages, name, sentence):
    assert sentence in pages[name]


def test_an_unpriced_model_is_not_free(pages):
    assert "unpriced" in pages["interrupted"]
    assert "$0.00" not in pages["interrupted"]


def test_the_same_run_makes_the_same_page(pages):
    assert html.render(FIXTURES["small"]()) == pages["small"]


def test_golden_page(tmp_path):
    """The page of a small run, pictures left out: their text metrics differ by machine."""
    made = tmp_path / "page.html"
    command = [sys.executable, str(HERE / "report_fixtures.py"), "small", str(made)]
    subprocess.run(command, check=True)
    picture = r'(<svg xmlns[^>]*aria-labelledby="([\w-]+)-t[^>]*>).*?</svg>'
    text = said(made.read_text(encoding="utf-8"))
    text = re.sub(picture, r"<svg>\2</svg>", text, flags=re.DOTALL)
    text = re.sub(r"'sha256-[^']+'", "'sha256-…'", text)
    golden = HERE / "golden" / "report-small.html"
    if UPDATE:
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8"), "LOADLIB_UPDATE_GOLDEN=1 accepts the change"


# — judgement in words —————————————————————————————————————————————————————————


def test_the_tightest_gate_is_named_when_all_pass():
    head = view.headline(FIXTURES["passing"]().summary)
    assert head.word == "PASS"
    assert head.sentence.startswith("All 6 gates pass; the tightest is")
    assert "goodput >= 95%" in head.sentence


def test_failed_gates_come_first_and_the_worst_of_them_before_the_others():
    rows = view.gate_rows(FIXTURES["steps"]().summary)
    order = [row.status for row in rows]
    assert order == sorted(order, key=["fail", "inconclusive", "pass"].index)
    assert rows[0].observed == "3,549 ms"


def test_margin_has_a_sign_and_knows_both_directions():
    group = FIXTURES["passing"]().summary.groups[0]
    below = gate(group, "ttft.p99 < 800ms", 1000.0, 800.0, "ms", "fail")
    above = gate(group, "goodput >= 95%", 0.97, 0.95, "share", "pass")
    nothing = gate(group, "error_rate < 0%", 0.0, 0.0, "share", "fail")
    assert view.margin(below) == pytest.approx(-0.25)
    assert view.margin(above) == pytest.approx(0.02105, abs=1e-4)
    assert view.margin(nothing) is None


def test_a_gate_without_a_group_shows_its_scope():
    summary = FIXTURES["passing"]().summary
    lone = msgspec.structs.replace(
        summary.gates[0], model="", workload="", phase="", scope="vision"
    )
    summary = msgspec.structs.replace(summary, gates=(lone,))
    assert view.gate_rows(summary)[0].where == "vision"
    assert 'classname="loadlib.vision"' in junit.render(summary)


def test_percentiles_below_their_floor_are_marked():
    stats = FIXTURES["single"]().summary.groups[0].metrics["ttft"]
    assert view.percentile(stats, "p50").endswith("†")
    stats = FIXTURES["full"]().summary.groups[0].metrics["ttft"]
    assert not view.percentile(stats, "p99").endswith("†")
    assert view.percentile(None, "p99") == "–"


def test_counting_adds_up_or_says_that_it_does_not():
    summary = FIXTURES["full"]().summary
    assert [holds for holds, _ in health.counting(summary)] == [True, True]
    group = summary.groups[0]
    odd = msgspec.structs.replace(group.requests, scheduled=group.requests.sent + 1)
    broken = msgspec.structs.replace(group, requests=odd)
    summary = msgspec.structs.replace(summary, groups=(broken, *summary.groups[1:]))
    assert [holds for holds, _ in health.counting(summary)] == [False, True]


@pytest.mark.parametrize(
    ("throttled", "refused", "holds", "why"),
    [
        (0, 0, True, "all that were tried again had a 503 that said when"),
        (1, 3, True, "of two that were tried again and one that was not"),
        (2, 1, False, "a throttled request has a throttled attempt"),
        (0, 12, False, "more than there were"),
    ],
)
def test_attempts_beyond_the_requests_need_not_be_throttled(throttled, refused, holds, why):
    group = FIXTURES["full"]().summary.groups[0]
    counts = Requests(
        scheduled=9, sent=9, ok=9 - throttled, failed=throttled, throttled=throttled,
        attempts=11, throttled_attempts=refused,
    )  # fmt: skip
    groups = (msgspec.structs.replace(group, requests=counts),)
    summary = msgspec.structs.replace(FIXTURES["full"]().summary, groups=groups)
    *_, last = health.counting(summary)
    said = f"11 attempts were made of 9 requests, {refused} throttled"
    assert last == (holds, said), why


def test_outcomes_without_a_cause_are_counted_too():
    summary = FIXTURES["full"]().summary
    group = msgspec.structs.replace(
        summary.groups[0],
        causes={"timeout/idle": 1},
        outcomes={"ok": 5, "timeout": 2, "dropped": 3},
    )
    table = view.outcome_table(msgspec.structs.replace(summary, groups=(group,)))
    assert table.columns == ("scheduled", "ok", "dropped", "timeout/idle", "timeout", "not ok")
    assert table.rows[0][1][2:5] == ("3", "1", "1")


def test_a_crowd_is_summed_up(pages):
    page = said(pages["crowd"])
    assert page.count('data-g="23"') > 0
    assert 'data-g="24"' not in page
    assert "16 more groups, less busy than these: 1,096 requests" in page
    assert 'data-g="x"' in page, "its gates are listed, and are of no group on the page"


def test_no_tile_pools_a_percentile_over_groups():
    tile = {t.label: t for t in tiles.tiles(FIXTURES["full"]().summary)}["TTFT p99"]
    assert tile.value == "4,330 ms †"
    assert tile.detail == "worst, claude-3-haiku · long; best 323 ms"


def test_one_cost_everywhere_and_the_warm_up_is_part_of_it():
    summary = FIXTURES["passing"]().summary
    total = sum(group.cost_usd.total for group in summary.groups)
    first = summary.groups[0]
    warm = msgspec.structs.replace(first, phase="warmup", kind="warmup")
    both = msgspec.structs.replace(summary, groups=(*summary.groups, warm))
    for one, usd, counted in (
        (summary, total, "at list price"),
        (both, total + first.cost_usd.total, "at list price, incl. warm-up"),
    ):
        text = numerals.usd(usd)
        tile = tiles.tiles(one)[-1]
        assert tile.value == text
        assert tile.detail == counted
        assert f"Cost **{text}** {counted}\n" in markdown.render(one)
        screen = shown(terminal.print_summary, one, width=200)
        assert f" · {text} {counted}\n" in screen


def test_groups_without_objectives_are_not_said_to_have_met_them():
    summary = FIXTURES["passing"]().summary
    first, second = (
        msgspec.structs.replace(group, goodput=Goodput(share=1.0)) for group in summary.groups
    )
    bare = msgspec.structs.replace(first, workload="bare", goodput=Goodput())
    for groups, detail in (
        ((first, second), "in every group"),
        ((first, second, bare), "in every group that has objectives"),
    ):
        tile = tiles.tiles(msgspec.structs.replace(summary, groups=groups))[1]
        assert (tile.label, tile.value, tile.detail) == ("Goodput", "100 %", detail)


# — markdown ———————————————————————————————————————————————————————————————————


@pytest.mark.parametrize("name", NAMES)
def test_markdown_tables_are_tables(name):
    text = markdown.render(FIXTURES[name]().summary)
    assert text.startswith("## ")
    assert len(text.encode()) <= markdown.LIMIT
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        bars = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(bars) == 1


def test_markdown_of_hostile_strings_is_only_text():
    text = markdown.render(FIXTURES["hostile"]().summary)
    assert not re.search(r"(?<!\\)<(?!\S*`)\w", text.replace("\\\\", ""))
    assert "abcdefgh12345678" not in text
    assert markdown.text("- a *b* [c](d) <e> @f | $g$ `h` https://x.y www.z.de") == (
        "\\- a \\*b\\* \\[c\\](d) \\<e> @\u2060f \\| \\$g\\$ \\`h\\` https\\://x.y www\\.z.de"
    )


def test_markdown_is_cut_and_says_so():
    summary = FIXTURES["full"]().summary
    notices = tuple(f"{i} {'n' * 250}" for i in range(2000))
    text = markdown.render(msgspec.structs.replace(summary, notices=notices))
    assert len(text.encode()) <= markdown.LIMIT
    assert text.endswith("(cut here: the whole is in report.html)\n")


def test_github_summary_is_appended_only_where_it_is_asked_for_and_fits(tmp_path):
    summary = FIXTURES["passing"]().summary
    assert report.append_github_summary(summary, {}) is None
    target = tmp_path / "step.md"
    target.write_text("before\n")
    environ = {"GITHUB_STEP_SUMMARY": str(target)}
    assert report.append_github_summary(summary, environ) == target
    assert target.read_text().startswith("before\n## ✓ PASS: smoke")
    target.write_text("x" * report.STEP_SUMMARY_LIMIT)
    assert report.append_github_summary(summary, environ) is None
    assert len(target.read_text()) == report.STEP_SUMMARY_LIMIT


# — JUnit ——————————————————————————————————————————————————————————————————————


def suite_of(summary: Summary) -> ET.Element:
    suite = ET.fromstring(junit.render(summary).encode()).find("testsuite")
    assert suite is not None
    for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert int(suite.get(name)) == len(suite.findall(f"testcase/{tag}"))
    assert int(suite.get("tests")) == len(suite.findall("testcase"))
    return suite


@pytest.mark.parametrize("name", NAMES)
def test_junit_is_xml_and_counts_its_cases(name):
    suite_of(FIXTURES[name]().summary)


def test_a_failed_gate_says_everything_in_name_and_body():
    suite = suite_of(FIXTURES["full"]().summary)
    case = suite.find("testcase[failure]")
    assert case.get("classname") == "loadlib.gpt-4.chat"
    assert case.get("name") == "ttft.p99 < 800ms"
    body = case.find("failure").text
    assert "observed 1,084 ms" in body
    assert "limit < 800 ms" in body
    assert "n=538" in body


def test_the_start_is_an_instant_in_utc():
    summary = FIXTURES["passing"]().summary
    assert suite_of(summary).get("timestamp") == "2026-01-01T00:00:00Z"
    summary = msgspec.structs.replace(summary, started_at="2026-01-01T00:00:00.123+00:00")
    assert suite_of(summary).get("timestamp") == "2026-01-01T00:00:00.123Z"


def test_an_undecided_gate_is_skipped_and_phases_stand_in_the_name():
    suite = suite_of(FIXTURES["steps"]().summary)
    case = suite.find("testcase[skipped]")
    assert "n 36 < 50 for p90" in case.find("skipped").get("message")
    assert re.search(r"\[\d+/s\]$", case.get("name"))


@pytest.mark.parametrize("status", ["aborted", "error", "interrupted"])
def test_a_run_that_did_not_end_well_is_an_error(status):
    run = judged(build("x", models={"gpt-4": SPEEDS["gpt-4"]}), status, ("the budget is spent",))
    case = suite_of(run.summary).find("testcase[@classname='loadlib.run']")
    assert case.find("error").text == "the budget is spent"


def test_bad_health_is_an_error_with_its_remedy():
    bad = HealthCheck(name="lost_samples", value=3, limit=0, status="bad", remedy="see the log")
    summary = Summary(verdict=Verdict(status="inconclusive", exit_code=7),
                      health=Health(status="bad", checks=(bad,)))  # fmt: skip
    text = suite_of(summary).find("testcase/error").text
    assert "lost samples 3, limit 0: see the log" in text


def test_an_override_makes_bad_health_no_error_of_the_run():
    bad = judge(Readings(lost=3), overridden=True)
    summary = msgspec.structs.replace(FIXTURES["passing"]().summary, health=bad)
    assert suite_of(summary).find("testcase/error") is None


# — health —————————————————————————————————————————————————————————————————————

LATE = Readings(
    arrival_lag_p99_ms=12.3, hub_lag_p99_ms=0.4, user_clock_share=0.0, reader_lag_p99_ms=1.2,
    merged_share=0.0, cpu_share_max=0.98, cpu_share_p90=0.97, delivered_share=0.81,
)  # fmt: skip


BOUND = "ttfb, ttft, ttfo, ttfc, e2e at most 12.3 ms too long"
WHY = "the load generator was out of CPU (97 % of a core a process); 1 more process (--processes 2)"


@pytest.mark.parametrize(
    ("name", "said", "why"),
    [
        (
            "arrival lag p99",
            f"arrival lag p99 12.3 ms, limit 5 ms: {BOUND}; {WHY}",
            "value, limit, what it bounds, why, what to do",
        ),
        ("hub lag p99", "hub lag p99 0.400 ms, limit 5 ms", "bounds nothing: the kernel stamps"),
        ("reader lag p99", "reader lag p99 1.20 ms, limit 5 ms: stamps exact", "none merged"),
        ("user clock", "user clock 0 %: stamps exact", "has no limit"),
        ("lost samples", "lost samples 0, limit 0", "a count"),
    ],
)
def test_a_check_in_one_sentence(name, said, why):
    found = {row.name: row.sentence for row in health.rows(judge(LATE))}
    assert found[name] == said, why


def test_stamps_of_the_process_bound_every_latency():
    user = judge(Readings(hub_lag_p99_ms=7.0, user_clock_share=1.0))
    found = {row.name: row.bounds for row in health.rows(user)}
    assert found["hub lag p99"] == ("latencies at most 7 ms too long, gaps and speeds either way")


@pytest.mark.parametrize("page", ["html", "markdown", "terminal"])
def test_every_page_says_why_the_instrument_cannot_be_believed_and_what_to_do(page, tmp_path):
    run = FIXTURES["passing"]()
    for overridden in (False, True):
        run.summary = msgspec.structs.replace(
            run.summary, health=judge(LATE, overridden=overridden)
        )
        text = {
            "html": lambda: html.render(run),
            "markdown": lambda: markdown.render(run.summary).replace("\\", ""),
            "terminal": lambda: shown(terminal.print_summary, run.summary, width=400),
        }[page]()
        for said in ("delivered", "81 %", "out of CPU", "(--processes 2)", "12.3 ms too long"):
            assert said in text, said
        assert ("--allow-unhealthy" in text) == overridden


def test_characters_that_xml_forbids_are_left_out():
    run = FIXTURES["passing"]()
    evil = msgspec.structs.replace(
        run.summary.gates[0], status="fail", reason="\x00\x0b\ufffe\ud800é"
    )
    text = junit.render(msgspec.structs.replace(run.summary, gates=(evil,), name="a\x1bb"))
    ET.fromstring(text.encode())
    assert "é" in text


# — terminal ———————————————————————————————————————————————————————————————————


def shown(print_it, *arguments, width=80, **options) -> str:
    out = io.StringIO()
    print_it(*arguments, console=Console(file=out, width=width, highlight=False, **options))
    return out.getvalue()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [80, 120])
def test_the_end_of_a_run_fits_the_terminal(name, width):
    text = shown(terminal.print_summary, FIXTURES[name]().summary, width=width)
    table = [line for line in text.splitlines() if not line.lstrip().startswith(("health", "✓ P"))]
    assert "\x1b" not in text  # plain where nobody looks
    heads = ("✗", "?", "◼", "✓")
    assert all(cell_len(line) <= width for line in table if not line.startswith(heads))
    assert "\x07" not in text


def test_the_end_of_a_run_says_verdict_gates_and_where_the_report_is(tmp_path):
    (tmp_path / "report.html").touch()
    text = shown(terminal.print_summary, FIXTURES["full"]().summary, tmp_path)
    assert "✗ FAIL  chat-and-128k · 6 models · 2 min 45 s · 3,600 requests" in text
    assert re.search(r"✗  gpt-4 · chat +ttft.p99 < 800ms +1,084 ms +n=538", text)
    assert "and 12 more, 12 of them pass" in text
    assert f"report {tmp_path / 'report.html'}" in text


def test_the_terminal_says_which_answers_did_not_pass():
    text = shown(terminal.print_summary, FIXTURES["full"]().summary, width=200)
    assert "quality 96.7 % of 60 answers (1 truncated, 1 wrong): gpt-4o-mini · long" in text
    assert "and 9 more groups with answers that did not pass" in text
    assert "quality" not in shown(terminal.print_summary, FIXTURES["nothing"]().summary)


def test_the_end_of_a_run_says_what_failed_requests_were_told_and_what_was_dropped():
    summary = FIXTURES["full"]().summary
    text = shown(terminal.print_summary, summary, width=400)
    (told,) = (n for n in text.splitlines() if "429 rate limit reached" in n)
    assert re.match(r"  [\d,]+× 429 rate limit reached for requests per minute \(", told)
    dropped = sum(group.requests.dropped for group in summary.groups if group.kind == "measure")
    assert (f"  {dropped:,} dropped: " in text) == (dropped > 0)


def delivering(workload: str, came: int | None, *, meant=100_000, source="server", asked=120_000):
    """The full run with the counts of its first measured group of this workload replaced."""
    summary = FIXTURES["full"]().summary
    found = next(g for g in summary.groups if g.workload == workload and g.kind == "measure")
    changed = msgspec.structs.replace(
        found,
        asked_tokens=asked,
        cut_tokens=meant,
        delivered_tokens=came,
        tokens=msgspec.structs.replace(found.tokens, source=source),
    )
    groups = tuple(changed if group is found else group for group in summary.groups)
    return msgspec.structs.replace(summary, groups=groups)


@pytest.mark.parametrize(
    ("summary", "said", "why"),
    [
        (delivering("long", 102_300), "delivered 102,300 of 100,000 prompt tokens asked for (+2.3",
         "more than 2 %"),
        (delivering("long", 90_000), "(−10.0 %)", "fewer"),
        (delivering("long", 102_000), None, "2 % is no miss"),
        (delivering("long", 98_100), None, "nor is less"),
        (delivering("long", None), None, "not known"),
        (delivering("long", 150_000, source="local"), None, "counted here, not by the server"),
        (delivering("chat", 150_000), None, "nobody asked for a length"),
    ],
)  # fmt: skip
def test_prompts_of_another_length_than_asked_are_said_everywhere(summary, said, why):
    pages = (
        "".join(text for kind, text in view.banners(summary) if kind == "warn"),
        markdown.render(summary).replace("\\", ""),
        shown(terminal.print_summary, summary, width=400),
    )
    for page in pages:
        assert ("the server's tokenizer or template" in page) == (said is not None), why
        assert said is None or said in page, why
        assert delivery.UNCHECKED not in page, why


def test_lengths_that_the_server_counted_in_part_are_said_to_be_unchecked():
    summary = delivering("long", 150_000, source="mixed")
    (line,) = view.delivered(summary)
    assert line.endswith(f": {delivery.UNCHECKED}")
    assert line in shown(terminal.print_summary, summary, width=400)
    assert view.delivered(delivering("chat", 150_000, source="mixed")) == [], "nobody asked"


@pytest.mark.parametrize(
    ("causes", "dropped", "said", "why"),
    [
        ({"dropped/ceiling": 7}, 7, "7 dropped: no place in flight became free for them", "one"),
        ({"dropped/budget": 7}, 7, "7 dropped: the budget was spent before them", "another"),
        ({"dropped/ceiling": 4, "dropped/stopped": 1_000}, 1_004,
         "1,004 dropped: no place in flight became free for 4, the run was stopped before 1,000",
         "several"),
        ({"failed/timeout": 7}, 7, "7 dropped: never sent", "nobody knows why"),
        ({"dropped/ceiling": 4}, 7, "7 dropped: no place in flight became free for 4", "in part"),
    ],
)  # fmt: skip
def test_why_requests_were_dropped(causes, dropped, said, why):
    summary = FIXTURES["passing"]().summary
    first, *others = summary.groups
    assert not any(group.requests.dropped for group in others)
    requests = msgspec.structs.replace(first.requests, dropped=dropped)
    changed = msgspec.structs.replace(first, kind="measure", causes=causes, requests=requests)
    summary = msgspec.structs.replace(summary, groups=(changed, *others))
    lines = shown(terminal.print_summary, summary, width=400).splitlines()
    assert f"  {said}" in [line.rstrip() for line in lines], why


def test_a_report_that_was_not_written_is_not_named(tmp_path):
    text = shown(terminal.print_summary, FIXTURES["full"]().summary, tmp_path)
    assert text.endswith(f"  run folder {tmp_path}, without a report\n")
    assert "report.html" not in text


def test_colour_only_on_a_terminal_and_without_no_color(monkeypatch):
    summary = FIXTURES["passing"]().summary
    assert "\x1b[" in shown(terminal.print_summary, summary, force_terminal=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in shown(terminal.print_summary, summary, force_terminal=True)


def test_a_comparison_is_marked_indicative():
    before, after = FIXTURES["passing"](), FIXTURES["full"]()
    rows = compare(before, after)
    text = shown(terminal.print_comparison, rows, width=120)
    assert "ttft.p50" in text
    assert "ndicative" in text
    table = markdown.comparison(rows)
    assert table.count("\n|") == len(rows) + 1
    assert "ndicative" in table


def test_a_comparison_shows_what_it_does_not_know():
    row = Comparison(model="m", workload="w", phase="measure", metric="tpot", stat="p99", unit="ms",
                     better="lower", before=None, after=12.0, before_ci95=None, after_ci95=(11, 13),
                     ratio=None, direction="unclear")  # fmt: skip
    text = shown(terminal.print_comparison, [row], width=120)
    assert re.search(r"\? unclear +m · w +tpot.p99 +– +12 ms \[11, 13\] ms +–", text)
    assert "Nothing to compare" in shown(terminal.print_comparison, [])


# — a run folder ———————————————————————————————————————————————————————————————


def folder_of(tmp_path: Path) -> Path:
    recorder, totals = Recorder(0), Totals()
    for i in range(60):
        recorder.scheduled(KEY, i * 100 * MS)
        bad = i % 20 == 0
        outcome = Outcome.TIMEOUT if bad else Outcome.OK
        one = sample(outcome, at=i * 100, ttft=100 + i, index=i,
                     **({"cause": "idle", "error": "no data for 30 s"} if bad else {}))  # fmt: skip
        recorder.add(one, () if bad else events(one))
    interval = recorder.drain(20_000 * MS)
    writer = runs.RunWriter.create(tmp_path, "version: 1\n", "t", ("loadlib", "run"))
    writer.append(interval)
    totals.merge(interval)
    window = Window(phase="measure", start_ns=0, end_ns=6_000 * MS, load="constant 10/s",
                    rates={"m": 10.0})  # fmt: skip
    groups = summarise(totals, list(writer.samples()), [window], pairs=[("m", "chat")])
    summary = Summary(name="t", verdict=Verdict(status="pass"), groups=groups,
                      health=Health(status="ok"))  # fmt: skip
    return writer.finish(summary, "complete", totals, [window])


def test_a_run_folder_gets_its_pages_and_their_hashes(tmp_path):
    folder = folder_of(tmp_path)
    paths = report.write(folder)
    assert [path.name for path in paths] == ["report.html", "summary.md", "junit.xml"]
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert {"ttft-histogram", "ttft-percentiles", "system-throughput"} <= set(page.ids)
    assert "timeout/idle" in text
    assert "loadlib run" in text
    manifest = runs.load(folder).manifest
    assert set(manifest["files"]) >= {"report.html", "summary.md", "junit.xml", "summary.json"}
    ET.fromstring((folder / "junit.xml").read_bytes())


def test_a_report_can_be_made_again_and_is_the_same(tmp_path):
    folder = folder_of(tmp_path)
    before = [path.read_bytes() for path in report.write(folder)]
    assert [path.read_bytes() for path in report.write(runs.load(folder))] == before


def test_a_killed_run_gets_a_report_too(tmp_path):
    folder = folder_of(tmp_path)
    for name in ("summary.json", "timeseries.csv"):
        (folder / name).unlink()
    report.write(folder)
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "INTERRUPTED" in text
    assert 'id="ttft-histogram"' in text


def test_a_killed_run_is_closed_by_its_report(tmp_path):
    folder = folder_of(tmp_path)
    (folder / "summary.json").unlink()
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text("utf-8").replace('"complete"', '"running"'), "utf-8")
    before = [path.read_bytes() for path in report.write(folder)]
    summary = msgspec.json.decode((folder / "summary.json").read_bytes(), type=Summary)
    assert (summary.state, summary.verdict.exit_code) == ("interrupted", 143)
    sealed = msgspec.json.decode(manifest.read_bytes())
    assert sealed["state"] == "interrupted"
    assert {"summary.json", "report.html", "summary.md", "junit.xml"} <= set(sealed["files"])
    for name, row in sealed["files"].items():
        assert row["sha256"] == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert [path.read_bytes() for path in report.write(folder)] == before


def test_rate_limits_are_shown_where_they_say_something(pages):
    full = FIXTURES["full"]().summary
    page = Page(pages["full"])
    assert "limits" in page.ids
    assert "limits" not in Page(pages["small"]).ids
    text = " ".join(page.text)
    assert "48.4 % of 500" in text
    assert "105.9 % of 2,000,000" in text
    assert "2.4 % of 10,000 by headers" in text
    table = markdown.render(full).partition("### Rate limits, in the busiest minute")[2]
    assert "gpt-4o-mini | 242 (48.4 % of 500) | 1,243,118 (62.2 % of 2,000,000)" in table
    assert "gpt-4 |" not in table.partition("###")[0], "far from its limit, and never throttled"
    assert "Rate limits" not in markdown.render(FIXTURES["small"]().summary)
    out = Console(file=io.StringIO(), width=120)
    terminal.print_summary(full, console=out)
    said = " ".join(out.file.getvalue().split())
    assert (
        "gpt-4o-mini, busiest minute: 242 (48.4 % of 500) requests, 1,243,118 (62.2 % of 2,000,000)"
        " tokens, 2,117,480 (105.9 % of 2,000,000) reserved; 17 throttled, asked to wait up to"
        " 8,640 ms"
    ) in said


def test_a_total_says_what_it_leaves_out(pages):
    def said(**cost):
        one = build("x", models={"gpt-4": SPEEDS["gpt-4"]}, workloads=("chat",), seconds=10).summary
        group = msgspec.structs.replace(one.groups[0], cost_usd=Cost(**cost))
        whole = msgspec.structs.replace(one, groups=(group,))
        out = Console(file=io.StringIO(), width=120)
        terminal.print_summary(whole, console=out)
        return tiles.spent(whole), " ".join(out.file.getvalue().split()), markdown.render(whole)

    spent, text, page = said(total=0.5, unknown=3)
    assert spent == ("$0.50", "at list price, 3 of unknown cost left out")
    assert "$0.50 at list price, 3 of unknown cost left out" in text
    assert "3 of unknown cost left out" in page
    spent, text, page = said(unknown=3)
    assert spent is None
    assert "cost unknown" in text
    assert "no list price known" in page
