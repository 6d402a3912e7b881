"""Pages made from a run folder: `report.html`, `summary.md`, `junit.xml`, and terminal text.

The only writer of pages. Everything here is a function of a `run.Run` (or of `summary` alone),
so a report can be made again at any time: `loadlib report RUN`. Drawing libraries are imported
when a page is made, not when load is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from loadlib import run as runs
from loadlib.folder import write_atomically
from loadlib.summary import Summary

STEP_SUMMARY_LIMIT = 1_000_000  # bytes; GitHub refuses the whole upload above 1,024 k


def write(
    run: runs.Run | Path | str, *, page: bool = True, static: bool = False, embed: int = 0
) -> list[Path]:
    """Write `report.html`, `summary.md` and `junit.xml` into the run folder; returns their paths.

    Without `page` the first is left out, which takes longer than all else together; `static` leaves
    scripts out of it; `embed` shows up to so many single requests of each kind and group. Each file
    is replaced atomically and hashed in the manifest. A killed run gets its `summary.json` too, and
    is `interrupted` from now on. Raises OSError where the folder cannot be written, and what
    `run.load` raises.
    """
    from loadlib.report import junit, markdown

    loaded = run if isinstance(run, runs.Run) else runs.load(run)
    runs.settle(loaded)
    pages = {
        "summary.md": markdown.render(loaded.summary),
        "junit.xml": junit.render(loaded.summary),
    }
    if page:
        pages = {"report.html": _page(loaded, static=static, embed=embed), **pages}
    for name, text in pages.items():
        write_atomically(loaded.path / name, text.encode())
    if loaded.manifest.get("state") in ("complete", "interrupted"):
        runs.seal(loaded.path)
    return [loaded.path / name for name in pages]


def so_far(folder: Path | str, *, static: bool = False, embed: int = 0) -> str:
    """The page of a run that goes on, as its folder is now; nothing is written.

    Raises what `run.load` raises.
    """
    return _page(runs.load(folder, so_far=True), static=static, embed=embed)


def _page(run: runs.Run, *, static: bool, embed: int) -> str:
    from loadlib.report import html, samples

    picked = samples.pick(run.summary, run.samples(), embed) if embed else ()
    return html.render(run, static=static, picked=picked)


def show(summary: Summary, folder: Path | None = None) -> None:
    """Print the end of a run to stdout: verdict, gates, models, health, where the report is."""
    from loadlib.report import terminal

    terminal.print_summary(summary, folder)


def append_github_summary(
    summary: Summary, environ: Mapping[str, str] | None = None
) -> Path | None:
    """Append `summary.md` to the file `$GITHUB_STEP_SUMMARY` names; None where it names none.

    Left out when it would push that file over what GitHub accepts (then everything is lost).
    """
    from loadlib.report import markdown

    name = (os.environ if environ is None else environ).get("GITHUB_STEP_SUMMARY")
    if not name:
        return None
    target, text = Path(name), markdown.render(summary) + "\n"
    present = target.stat().st_size if target.exists() else 0
    if present + len(text.encode()) > STEP_SUMMARY_LIMIT:
        return None
    with target.open("a", encoding="utf-8") as out:
        out.write(text)
    return target
