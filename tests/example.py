"""`make example`: runs scenarios/example.yaml, keeps its folder as reports/example, and a picture.

What is checked in must hold no path of the machine it was made on. Histograms (hdr/) are left out:
they are large, and nothing on the page links to them.
"""

# ruff: noqa: T201
from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
SCENARIO = "scenarios/example.yaml"
KEPT = ROOT / "reports" / "example"
PICTURE = ROOT / "docs" / "report.png"
CHROMIUM = Path("/usr/bin/chromium")
FAILS = 5  # the exit code of a run with a failed objective: it is meant to
LEFT_OUT = shutil.ignore_patterns("hdr")
MAX_PICTURE = 300_000
SIZE = {"width": 1240, "height": 1240}
# Of the picture: head and key figures, and one chart.
CUT = """
.banners, #filter, nav, #theme, main > section:not(.tiles, #latency), #latency > h2, .tools, .data,
footer, #latency > figure:not(#ttft-percentiles) { display: none !important }
main > #latency { margin-top: 8px !important }
body { padding-bottom: 24px !important }
"""


def main() -> None:
    """Exit code 1 where the run ended otherwise than it should: try again on a quiet machine."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = run(Path(scratch))
        check(folder)
        if KEPT.exists():
            shutil.rmtree(KEPT)
        shutil.copytree(folder, KEPT, ignore=LEFT_OUT)
        shutil.rmtree(folder)
    picture()


def run(scratch: Path) -> Path:
    """The run folder, made under reports/ so that its command line is the one to repeat."""
    latest = ROOT / "reports" / "latest"
    newest = latest.readlink() if latest.is_symlink() else None
    before = set((ROOT / "reports").iterdir())
    # Nobody's calibration: what this machine was found good for is no matter of the example.
    environment = os.environ | {"XDG_CACHE_HOME": str(scratch)}
    command = Path(sys.executable).with_name("loadlib")
    code = subprocess.run([command, "run", SCENARIO], cwd=ROOT, env=environment).returncode
    made = [
        path
        for path in set((ROOT / "reports").iterdir()) - before
        if path.is_dir() and not path.is_symlink()
    ]
    latest.unlink(missing_ok=True)
    if newest is not None:
        latest.symlink_to(newest)
    if code != FAILS or len(made) != 1:
        sys.exit(f"the run ended with exit code {code}, not {FAILS}: see {made}")
    return made[0]


def check(folder: Path) -> None:
    """Nothing of this machine's folders stands in it."""
    for path in folder.glob("*"):
        if path.is_file():
            data = path.read_bytes()
            data = gzip.decompress(data) if path.suffix == ".gz" else data
            for place in {str(ROOT), str(Path.home()), tempfile.gettempdir()} - {"/"}:
                if place.encode() in data:
                    sys.exit(f"{path} names {place}")


def picture() -> None:
    """The page's head and one of its charts, for README."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport=SIZE, color_scheme="light")
        page.goto((KEPT / "report.html").as_uri())
        page.wait_for_selector("html[data-ready]", state="attached")
        page.add_style_tag(content=CUT)
        page.set_viewport_size(SIZE | {"height": page.evaluate("document.body.offsetHeight")})
        page.screenshot(path=PICTURE)
        browser.close()
    size = PICTURE.stat().st_size
    print(f"{PICTURE.relative_to(ROOT)}: {size:,} bytes")
    if size > MAX_PICTURE:
        sys.exit(f"more than {MAX_PICTURE:,} bytes")


if __name__ == "__main__":
    main()
