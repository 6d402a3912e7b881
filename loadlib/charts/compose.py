"""Charts put together: marks into a plot, plots into a figure, and that into plain data.

Altair copies all of a chart whenever something is put around it, which takes most of the time that
a page with twenty panels takes. So it makes single marks here, and what holds them is plain data.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

Drawn = Any
"""A mark of altair's, or the plain data of something put together."""

CONFIG: dict[str, Any] = {
    "aria": False,
    "font": "system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "currentColor", "titleColor": "currentColor", "labelOpacity": 0.75,
        "titleOpacity": 0.75, "labelFontSize": 11, "titleFontSize": 11,
        "titleFontWeight": "normal", "titlePadding": 8, "domainColor": "currentColor",
        "domainOpacity": 0.4, "tickColor": "currentColor", "tickOpacity": 0.4, "tickSize": 4,
        "gridColor": "currentColor", "gridOpacity": 0.1, "labelOverlap": "greedy",
        "labelSeparation": 4,
    },
    "text": {"fill": "currentColor"},
}  # fmt: skip
_SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"


def plot(*marks: Drawn, width: float, height: float) -> Drawn:
    """Marks over each other on one pair of axes, the first at the bottom."""
    return {"layer": list(marks), "width": width, "height": height}


def column(*plots: Drawn, spacing: int) -> Drawn:
    """Plots below each other."""
    return {"vconcat": list(plots), "spacing": spacing}


def row(*plots: Drawn, spacing: int) -> Drawn:
    """Plots beside each other."""
    return {"hconcat": list(plots), "spacing": spacing}


def tiles(plots: Sequence[Drawn], columns: int, *, row: int = 34, column: int = 18) -> Drawn:
    """Plots in rows of `columns`, so many px apart."""
    return {"concat": list(plots), "columns": columns, "spacing": {"row": row, "column": column}}


def finished(drawn: Drawn) -> dict[str, Any]:
    """The complete specification as plain data; equal data stands in it once."""
    datasets: dict[str, str] = {}
    spec = _plain(drawn, datasets)
    return {
        "$schema": _SCHEMA,
        **spec,
        "datasets": {name: json.loads(rows) for name, rows in datasets.items()},
        "config": CONFIG,
        "background": "transparent",
        "padding": {"left": 4, "right": 14, "top": 4, "bottom": 4},
    }


def _plain(drawn: Drawn, datasets: dict[str, str]) -> Any:
    if isinstance(drawn, dict):
        return {name: _plain(part, datasets) for name, part in drawn.items()}
    if isinstance(drawn, list):
        return [_plain(part, datasets) for part in drawn]
    if hasattr(drawn, "to_dict"):
        return drawn.to_dict(validate=False, context={"top_level": False, "datasets": datasets})
    return drawn
