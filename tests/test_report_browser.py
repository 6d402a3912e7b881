"""The page in a real browser, offline: nothing loaded, nothing clipped, dark and print styles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from altair.utils.schemapi import debug_mode
from report_fixtures import FIXTURES

from loadlib.report import html

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
NAMES = ["full", "steps", "many", "nothing", "single", "all_failed", "interrupted", "hostile"]

pytestmark = pytest.mark.browser

if not CHROMIUM.exists():
    pytest.skip("needs Debian's chromium", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield found
        found.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("pages")
    with debug_mode(False):
        for name in NAMES:
            (folder / f"{name}.html").write_text(html.render(FIXTURES[name]()), encoding="utf-8")
    return {name: (folder / f"{name}.html").as_uri() for name in NAMES}


@pytest.fixture
def open_page(browser, files):
    """Open a fixture's page; complaints and requests of it are collected."""
    contexts = []

    def visit(name, width=1280, **options):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, offline=True, **options
        )
        contexts.append(context)
        page = context.new_page()
        page.complaints, page.requests = [], []
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("request", lambda request: page.requests.append(request.url))
        page.goto(files[name])
        return page

    yield visit
    for context in contexts:
        context.close()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("javascript", [True, False])
def test_page_opens_offline_without_a_complaint(open_page, files, name, javascript):
    page = open_page(name, java_script_enabled=javascript)
    assert page.complaints == []
    assert page.requests == [files[name]]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [1280, 390])
def test_page_never_scrolls_sideways(open_page, name, width):
    page = open_page(name, width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("name", ["full", "steps", "many", "single", "hostile"])
def test_no_text_of_a_chart_is_clipped(open_page, name):
    clipped = open_page(name).evaluate("""() =>
        [...document.querySelectorAll('figure svg[role=img]')].flatMap(svg => {
            const frame = svg.getBoundingClientRect();
            return [...svg.querySelectorAll('text')].filter(text => {
                const box = text.getBoundingClientRect();
                return box.width && (box.left < frame.left - 1 || box.right > frame.right + 1
                    || box.top < frame.top - 1 || box.bottom > frame.bottom + 1);
            }).map(text => svg.getAttribute('aria-labelledby') + ': ' + text.textContent);
        })""")
    assert clipped == []


SCROLLED = """() => [...document.querySelectorAll('.scroll')]
    .filter(box => box.scrollWidth > box.clientWidth + 1)
    .map(box => box.getAttribute('aria-label'))"""


def test_nothing_in_a_wide_window_needs_a_scroll_bar(open_page):
    assert open_page("full").evaluate(SCROLLED) == []


INK = """() => [getComputedStyle(document.body).backgroundColor,
    getComputedStyle(document.querySelector('figure svg text')).fill]"""


def test_dark_and_light_differ_and_charts_follow(open_page):
    light = open_page("full", color_scheme="light").evaluate(INK)
    dark = open_page("full", color_scheme="dark").evaluate(INK)
    assert light[0] == "rgb(255, 255, 255)"
    assert dark[0] == "rgb(20, 23, 26)"
    assert light[1] != dark[1]


CONTRAST = """() => {
    const parse = text => text.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(c => c / 255).map(c =>
        c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = node => {
        for (let at = node; at; at = at.parentElement) {
            const paint = parse(getComputedStyle(at).backgroundColor);
            if (paint.length === 3 || paint[3] > 0) return paint;
        }
        return [255, 255, 255];
    };
    const low = new Set();
    for (const node of document.querySelectorAll('body *')) {
        const own = [...node.childNodes].some(c => c.nodeType === 3 && c.textContent.trim());
        if (!own || node.closest('svg') || !node.getClientRects().length) continue;
        const [a, b] = [parse(getComputedStyle(node).color), behind(node)].map(light);
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) low.add(node.className + ' ' + ratio.toFixed(2));
    }
    return [...low];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["steps", "interrupted"])
def test_text_stands_out_from_its_ground(open_page, name, scheme):
    assert open_page(name, color_scheme=scheme).evaluate(CONTRAST) == []


def test_print_is_light_fits_the_paper_and_opens_the_details(open_page):
    page = open_page("full", 703, color_scheme="dark")  # A4 between its margins
    page.emulate_media(media="print")
    assert page.evaluate(INK)[0] in ("rgb(255, 255, 255)", "rgba(0, 0, 0, 0)")
    assert page.evaluate("document.documentElement.scrollWidth") <= 703
    assert page.locator("nav").is_hidden()
    assert page.locator("details.group table").first.is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_hostile_names_make_no_elements(open_page):
    page = open_page("hostile")
    assert page.locator("img, script").count() == 0
    assert "<img src=x onerror=alert(1)>" in page.locator("h1").inner_text()


def test_keyboard_reaches_the_content_first(open_page):
    page = open_page("full")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.url.endswith("#main")
