"""`python -m benchmarks.opened PAGE`: how soon a report can be used in Chromium, as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

from playwright.sync_api import sync_playwright

TIMES = 5
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
READY = """new Promise(done => {
    const tell = () => 'ready' in document.documentElement.dataset
        ? requestAnimationFrame(() => done(performance.now()))
        : setTimeout(tell, 1);
    tell();
})"""
ANSWERS = """async id => {
    const figure = document.getElementById(id), begun = performance.now();
    figure.querySelector('.plot').dispatchEvent(new PointerEvent('pointerenter'));
    while (!('drawn' in figure.dataset)) await new Promise(done => setTimeout(done, 2));
    return performance.now() - begun;
}"""


def visit(browser: Any, page: Path) -> tuple[float, float]:
    """(ms until the script is done and a frame is painted, ms until a chart answers)."""
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.goto(page.as_uri(), wait_until="commit")
    ready = tab.evaluate(READY)
    first = tab.locator("figure.chart").first.get_attribute("id")
    answers = tab.evaluate(ANSWERS, first)
    tab.close()
    return ready, answers


def main(page: Path) -> None:
    """Print the medians of five visits."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        found = [visit(browser, page) for _ in range(TIMES)]
        browser.close()
    ready, answers = (median(column) / 1000 for column in zip(*found, strict=True))
    sys.stdout.write(json.dumps({"ready_s": ready, "answers_s": answers}))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
