"""The scripts of an interactive page and what they know; the page fetches nothing, ever."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from markupsafe import Markup

from loadlib.charts import Figure
from loadlib.report import bundle, interactive, models, tiles, view
from loadlib.report import format as f
from loadlib.summary import Summary

SCRIPTS = ("drawing.js", "figure.js", "page.js")  # in this order, one scope


@dataclass(frozen=True, slots=True)
class Script:
    """What makes the page interactive: its data, its own script, and the packed drawing library."""

    data: Markup
    charts: str  # packed, as the library is
    own: Markup
    vega: str
    notice: str
    hashes: Markup  # of both scripts: the page runs no other


def script(summary: Summary, drawn: Sequence[Figure]) -> Script:
    """Everything the page needs to be interactive, and nothing that it would fetch."""
    library = bundle.bundle()
    own = own_script()
    digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
    return Script(
        data=as_data(payload(summary)),
        charts=packed(charts(summary, drawn)),
        own=Markup(own),  # noqa: S704 — a file of ours
        vega=library.packed,
        notice=bundle.NOTICE,
        hashes=Markup(f"'sha256-{digest}' 'sha256-{library.sha256}'"),  # noqa: S704 — base64
    )


def payload(summary: Summary) -> dict[str, Any]:
    """What the script knows of the run: groups, tiles, ratios to every model."""
    groups = view.shown(summary)
    named = [
        {"model": f.name(g.model), "workload": f.name(g.workload), "phase": f.name(g.phase)}
        for g in groups
    ]
    compared = models.names(summary) if models.comparable(summary) else []
    return {
        "groups": named,
        "all": len(view.measured(summary)),
        "names": {
            choice: list(dict.fromkeys(group[choice] for group in named))
            for choice in ("model", "workload", "phase")
        },
        "tiles": [tile.payload() for tile in tiles.tiles(summary)],
        "reference": f.name(compared[0]) if compared else "",
        "ratios": {
            f.name(model): [
                [[cell.text, cell.word, cell.value] for cell in row]
                for row in models.against(summary, model)
            ]
            for model in compared
        },
    }


def charts(summary: Summary, drawn: Sequence[Figure]) -> dict[str, Any]:
    """What it knows of the charts: by id the annotated specification, and the legend's words."""
    groups = view.shown(summary)
    return {
        figure.id: {
            "spec": interactive.annotated(figure, groups),
            "legend": [key.label for key in figure.legend],
        }
        for figure in drawn
    }


def packed(tree: Any) -> str:
    """JSON, gzipped and in base64: an eighth of what charts would take as they are."""
    return base64.b64encode(gzip.compress(_json(tree).encode(), 9, mtime=0)).decode()


def as_data(tree: Any) -> Markup:
    """JSON fit to stand in a script element: nothing in it can end that."""
    return Markup(_json(tree).replace("<", "\\u003c"))  # noqa: S704


def _json(tree: Any) -> str:
    return json.dumps(tree, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


@cache
def own_script() -> str:
    """The files of `script/` as one, in a scope of its own; no build makes it."""
    folder = resources.files("loadlib.report") / "script"
    whole = "\n".join((folder / name).read_text(encoding="utf-8") for name in SCRIPTS)
    return f'"use strict";\n(() => {{\n{whole}}})();\n'
