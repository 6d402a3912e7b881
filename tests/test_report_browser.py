"""The page in a real browser, offline: read without scripts, used with them, printed, enlarged.

One browser for the file. A page is opened once for what can be asked of it in one visit.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from chromium import launched, sync_api
from pictures import drawn_once
from report_fixtures import FIXTURES

from loadlib.report import html, models, tiles

NAMES = ["full", "steps", "many", "nothing", "single", "all_failed", "only_128k",
         "interrupted", "hostile"]  # fmt: skip

pytestmark = [pytest.mark.browser, pytest.mark.slow]

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-core")


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with launched() as found:
        yield found


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("pages")
    with drawn_once(tmp_path_factory):
        for name in [*NAMES, "passing"]:
            text = html.render(FIXTURES[name]())
            (folder / f"{name}.html").write_text(text, encoding="utf-8")
        text = html.render(FIXTURES["steps"](), static=True)
        (folder / "static.html").write_text(text, encoding="utf-8")
    return {path.stem: path.as_uri() for path in folder.iterdir()}


@pytest.fixture
def open_page(browser, files):
    """Open a fixture's page; complaints and requests of it are collected."""
    contexts = []

    def visit(name, width=1280, fragment="", **options):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, offline=True, **options
        )
        contexts.append(context)
        page = context.new_page()
        page.complaints, page.requests = [], []
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("request", lambda request: page.requests.append(request.url))
        page.goto(files[name] + fragment)
        return page

    yield visit
    for context in contexts:
        context.close()


CLIPPED = """() =>
    [...document.querySelectorAll('figure svg[role=img]')].flatMap(svg => {
        const frame = svg.getBoundingClientRect();
        return [...svg.querySelectorAll('text')].filter(text => {
            const box = text.getBoundingClientRect();
            return box.width && (box.left < frame.left - 1 || box.right > frame.right + 1
                || box.top < frame.top - 1 || box.bottom > frame.bottom + 1);
        }).map(text => svg.getAttribute('aria-labelledby') + ': ' + text.textContent);
    })"""
WIDTH = "document.documentElement.scrollWidth"
NARROW = (640, 390, 320)  # of them 640 is a window of 1280 at 200 %


# — to be read ————————————————————————————————————————————————————————————————————


@pytest.mark.parametrize("name", NAMES)
def test_page_opens_offline_without_a_complaint_and_fits_every_width(open_page, files, name):
    page = open_page(name)
    page.wait_for_selector("html[data-ready]", state="attached")
    assert page.evaluate(CLIPPED) == []
    for width in (1280, *NARROW):
        page.set_viewport_size({"width": width, "height": 700})
        assert page.evaluate(WIDTH) <= width, width
    assert page.complaints == []
    assert page.requests == [files[name]]


@pytest.mark.parametrize("name", ["steps", "nothing", "hostile", "static"])
def test_without_scripts_everything_can_be_read_and_nothing_promises_more(open_page, files, name):
    page = open_page(name, java_script_enabled=False)
    assert page.complaints == []
    assert page.requests == [files[name]]
    assert page.locator("button:visible, select:visible").count() == 0
    pictures = page.locator("figure svg[role=img]:visible").count()
    assert pictures == page.locator("figure").count() == (0 if name == "nothing" else pictures)
    assert page.locator("h2").count() >= 8


SCROLLED = """() => [...document.querySelectorAll('.scroll')]
    .filter(box => !box.closest('details.data'))
    .filter(box => box.scrollWidth > box.clientWidth + 1)
    .map(box => box.getAttribute('aria-label'))"""


def test_nothing_in_a_wide_window_needs_a_scroll_bar(open_page):
    assert open_page("full").evaluate(SCROLLED) == []


@pytest.mark.parametrize(
    ("name", "scheme"), [("passing", "light"), ("passing", "dark"), ("interrupted", "dark")]
)
def test_axe_finds_nothing(open_page, name, scheme):
    """Every rule of WCAG 2.2 A and AA that a machine can check, and axe's own advice."""
    page = open_page(name, color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    if name == "passing":
        page.locator("#ttft-histogram .plot").hover()
        page.wait_for_selector("#ttft-histogram[data-drawn]")
        page.locator("#filter button").first.click()
    rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    found = axe.Axe().run(page, options={"resultTypes": ["violations"], "runOnly": rules})
    told = {rule["id"]: [n["html"][:200] for n in rule["nodes"]] for rule in
            found.response["violations"]}  # fmt: skip
    assert told == {}


def test_hostile_names_make_no_elements(open_page):
    page = open_page("hostile")
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 4
    assert "<img src=x onerror=alert(1)>" in page.locator("h1").inner_text()
    chip = page.locator("#filter .choice").first
    assert "<img src=x onerror=alert(1)>" in chip.inner_text()
    chip.click()
    assert page.locator("#chosen").inner_text().startswith("Showing 2 of 4 groups")
    page.locator("#ttft-percentiles .plot").hover()
    page.wait_for_selector("#ttft-percentiles[data-drawn]")
    assert page.locator("#ttft-percentiles .plot").focus() is None
    page.keyboard.press("Home")
    assert "<img" in page.locator("#ttft-percentiles [role=status]").inner_text()
    assert page.locator("img").count() == 0
    assert page.complaints == []


def test_keyboard_reaches_the_content_first(open_page):
    page = open_page("full")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.url.endswith("#main")


# — theme and paper ———————————————————————————————————————————————————————————————


INK = """() => [getComputedStyle(document.body).backgroundColor,
    getComputedStyle(document.querySelector('figure svg text')).fill]"""
WHITE, NIGHT = "rgb(255, 255, 255)", "rgb(20, 23, 26)"
PAPER = (WHITE, "rgba(0, 0, 0, 0)")


def test_theme_follows_the_system_until_one_is_chosen_and_is_remembered(open_page):
    page = open_page("interrupted", color_scheme="dark")
    night = page.evaluate(INK)
    assert night[0] == NIGHT
    button = page.locator("#theme")
    assert button.inner_text() == "Theme: auto"
    button.click()
    assert button.inner_text() == "Theme: light"
    day = page.evaluate(INK)
    assert day[0] == WHITE
    assert day[1] != night[1], "charts follow"
    page.reload()
    assert page.evaluate(INK) == day
    page.emulate_media(color_scheme="light")
    page.locator("#theme").click()
    assert page.locator("#theme").inner_text() == "Theme: dark"
    assert page.evaluate(INK) == night
    page.emulate_media(media="print")
    assert page.evaluate(INK)[0] in PAPER, "paper is light, whatever is chosen"


def test_print_is_light_fits_the_paper_and_opens_the_details(open_page):
    page = open_page("full", 703, color_scheme="dark")  # A4 between its margins
    page.emulate_media(media="print")
    assert page.evaluate(INK)[0] in PAPER
    assert page.evaluate(WIDTH) <= 703
    assert page.evaluate(CLIPPED) == []
    assert page.locator("nav, .tools:visible, #filter:visible, #theme:visible").count() == 1
    assert page.locator("nav").is_hidden()
    assert page.locator("details.group table").first.is_visible()
    tall = page.evaluate("Math.max(...[...document.querySelectorAll('figure')].map(f =>"
                         "f.getBoundingClientRect().height))")  # fmt: skip
    assert tall < 1000, "a chart with its words fits one page"
    paper = page.pdf(format="A4", prefer_css_page_size=True)
    assert len(re.findall(rb"/Type\s*/Page\b", paper)) <= 24


# — to be used ————————————————————————————————————————————————————————————————————


def shown_rows(page, table: str) -> list[str]:
    rows = page.locator(table).first.locator("tbody tr:visible").all()
    return [" ".join(row.inner_text().split()) for row in rows]


def of_one_group(name: str, model: str, workload: str):
    """The run's summary as if there were no other group."""
    summary = FIXTURES[name]().summary
    groups = tuple(g for g in summary.groups if (g.model, g.workload) == (model, workload))
    return msgspec.structs.replace(summary, groups=groups)


def large(page) -> list[tuple[str, str]]:
    return [
        (tile.locator(".value").inner_text(), tile.locator(".detail").inner_text())
        for tile in page.locator(".tile").all()
    ]


def test_choosing_groups_narrows_tables_tiles_and_charts_and_stands_in_the_address(open_page):
    page = open_page("full")
    whole = large(page)
    for name in ("gpt-4o-mini", "chat"):
        page.locator(f"#filter button[data-name='{name}']").click()
    assert page.locator("#chosen").inner_text() == "Showing 1 of 12 groups; the verdict is of all."
    expected = tiles.tiles(of_one_group("full", "gpt-4o-mini", "chat"))
    assert large(page)[:-1] == [(t.value, t.detail) for t in expected[:-1]]
    assert large(page)[-1] == (expected[-1].value, "at list price, measure phases")
    for table in ("#comparison", "#outcomes table", "#cost table", "#limits table"):
        (row,) = shown_rows(page, table)
        assert row.startswith("gpt-4o-mini"), table
    assert all("gpt-4o-mini · chat" in row for row in shown_rows(page, "#objectives"))
    assert page.locator("#metrics details.group:visible").count() == 1

    chart = page.locator("#ttft-percentiles")
    chart.scroll_into_view_if_needed()
    page.wait_for_selector("#ttft-percentiles[data-drawn]")
    captions = chart.locator("svg text[font-weight='600']")
    assert captions.all_text_contents() == ["gpt-4o-mini"]
    assert chart.locator("svg >> text=percentile, axis log").count() == 1, "axes are lent"

    assert page.url.endswith("#model=gpt-4o-mini&workload=chat")
    page.locator("nav a[href='#cost']").click()
    assert page.url.endswith("#cost&model=gpt-4o-mini&workload=chat"), "a link keeps the choice"
    page.reload()
    assert shown_rows(page, "#cost table")[0].startswith("gpt-4o-mini · chat")
    page.go_back()
    page.go_back()
    sync_api.expect(page.locator("#chosen")).to_have_text(re.compile("^Showing 2 of 12 groups"))
    page.locator("#show-all").click()
    assert large(page) == whole
    assert "#" not in page.url
    assert page.complaints == []


def test_rows_are_sorted_and_compared_with_another_model(open_page):
    page = open_page("full")
    head = page.locator("#comparison th[data-c='4'] button")
    head.click()
    fastest = [float(v) for v in page.locator("#comparison tbody tr td:nth-child(5)").evaluate_all(
        "cells => cells.map(cell => cell.dataset.v)")]  # fmt: skip
    assert fastest == sorted(fastest)
    assert page.locator("#comparison th[aria-sort=ascending]").count() == 1
    head.click()
    assert shown_rows(page, "#comparison")[0].startswith("gpt-4 long")
    assert "sort=comparison.4.down" in page.url
    head.click()
    assert "sort" not in page.url

    page.locator("#reference").select_option("gpt-4")
    assert page.url.endswith("#ref=gpt-4")
    expected = models.against(FIXTURES["full"]().summary, "gpt-4")[0]
    first = page.locator("#ratios tbody tr").first.locator("td").all_inner_texts()[1:]
    assert [" ".join(text.split()) for text in first] == [
        f"{cell.text} {cell.word}".strip() for cell in expected
    ]


# Sections are laid out as they come near: what stands above may still move the page a little.
AT_REST = """element => new Promise(done => {
    let top = NaN, frames = 0;
    const look = () => {
        const now = element.getBoundingClientRect().top;
        frames = now === top ? frames + 1 : 0;
        top = now;
        frames < 20 ? requestAnimationFrame(look) : done();
    };
    look();
})"""


def test_a_chart_answers_to_pointer_and_keys_alike(open_page):
    page = open_page("steps")
    chart = page.locator("#ttft-percentiles")
    plot = chart.locator(".plot")
    plot.scroll_into_view_if_needed()
    plot.evaluate(AT_REST)
    before = plot.bounding_box()
    still = chart.locator("svg text").all_text_contents()
    plot.hover()
    page.wait_for_selector("#ttft-percentiles[data-drawn]")
    assert plot.bounding_box() == before, "nothing jumps"
    assert chart.locator("svg text").all_text_contents() == still, "it is the same picture"

    plot.focus()
    page.keyboard.press("Home")
    said = chart.locator("[role=status]").inner_text()
    assert re.fullmatch(
        r"gpt-4o-mini · 2/s · chat · sent clock; percentile 0; TTFT [\d.]+ ms", said
    )
    tip = " ".join(chart.locator(".tip").inner_text().split())
    assert tip == said.replace("; percentile 0; TTFT", " percentile: 0 TTFT:")
    page.keyboard.press("End")
    assert chart.locator("[role=status]").inner_text() != said
    page.keyboard.press("Escape")
    assert chart.locator(".tip").is_hidden()

    box = plot.bounding_box()
    page.mouse.move(box["x"] + 200, box["y"] + 120)
    page.wait_for_selector("#ttft-percentiles .tip:visible")
    assert "TTFT" in chart.locator(".tip").inner_text()
    ring = chart.locator(".ring").bounding_box()
    assert abs(ring["x"] + 5 - box["x"] - 200) < 40, "it is where the pointer is"

    cells = page.locator("#needle-recall .plot")
    cells.focus()
    page.wait_for_selector("#needle-recall[data-drawn]")
    page.keyboard.press("Home")
    said = page.locator("#needle-recall [role=status]").inner_text()
    assert re.search(r"; prompt tokens 8k; depth \d+ %; recall \d+ %$", said)

    time = page.locator("#timeline .plot")
    seconds = page.locator("#timeline svg text", has_text=re.compile(r"^\d+ s$"))
    axes = seconds.count()
    time.hover()
    page.wait_for_selector("#timeline[data-drawn]")
    time.evaluate(AT_REST)
    page.mouse.move(1, 1)
    sync_api.expect(seconds).to_have_count(axes)
    time.hover(position={"x": 500, "y": 60})
    one = "one cursor through all rows says where it is"
    sync_api.expect(seconds, one).to_have_count(axes + 1)
    assert page.complaints == []


LABELS = """[...document.querySelectorAll('#ttft-percentiles svg text')]
    .map(text => text.textContent).join()"""


def test_a_legend_hides_series_and_a_box_enlarges(open_page):
    page = open_page("steps")
    chart = page.locator("#ttft-percentiles")
    chart.scroll_into_view_if_needed()
    dashed = chart.locator("svg [stroke-dasharray='4,3']")
    assert dashed.count() > 0
    chart.locator(".legend button", has_text="sent clock").click()
    page.wait_for_selector("#ttft-percentiles[data-drawn]")
    assert dashed.count() == 0
    assert page.url.endswith("#hide=ttft-percentiles.3")
    page.reload()
    chart.scroll_into_view_if_needed()
    page.wait_for_selector("#ttft-percentiles[data-drawn]")
    assert dashed.count() == 0
    assert chart.locator(".legend [aria-pressed=false]").inner_text() == "sent clock"

    labels = chart.locator("svg text").all_text_contents()
    box = chart.locator(".plot svg").bounding_box()
    page.mouse.move(box["x"] + 120, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 200, box["y"] + 150, steps=4)
    assert chart.locator(".box").is_visible()
    page.mouse.up()
    whole = chart.locator(".tools button", has_text="Whole chart")
    sync_api.expect(whole).to_be_enabled()
    page.wait_for_function(f"labels => {LABELS} !== labels", arg=",".join(labels))
    whole.click()
    page.wait_for_function(f"labels => {LABELS} === labels", arg=",".join(labels))
    assert page.complaints == []


def test_a_chart_can_be_taken_along(open_page):
    page = open_page("hostile", accept_downloads=True)
    chart = page.locator("#ttft-percentiles")
    with page.expect_download() as got:
        chart.locator("button", has_text="CSV").click()
    assert got.value.suggested_filename == "ttft-percentiles.csv"
    rows = list(csv.reader(io.StringIO(Path(got.value.path()).read_text(encoding="utf-8"))))
    shown = chart.locator("details.data tr").count()
    assert len(rows) == shown
    assert {len(row) for row in rows} == {12}
    with page.expect_download() as got:
        chart.locator("button", has_text="SVG").click()
    text = Path(got.value.path()).read_text(encoding="utf-8")
    assert text.startswith("<svg")
    assert 'xmlns="http://www.w3.org/2000/svg"' in text
    assert "<img" not in text
    assert page.complaints == []
