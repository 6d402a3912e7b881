"""What the page's own script needs to know of a chart: what each mark is of.

A chart says nothing of interaction. Its conventions say it all (`charts.parts`): a panel is
named by its caption, a mark by the colour and the stroke that the legend explains, a value by the
axis it stands on. So a new chart can be read, filtered and zoomed without another line.

The notes are left in the specification under `loadlib`; the script takes them out before it draws.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from loadlib.charts import Figure, Key, parts
from loadlib.summary import Group

NOTE = "loadlib"
Spec = dict[str, Any]
Names = dict[str, frozenset[int]]

_COMPOSITIONS = ("concat", "vconcat", "hconcat")
_SERIES = re.compile(r"var\(--s(\d)")
_TITLE_END = re.compile(r" \(log|;|, axis| — |, (?:lower|higher) is|, ms\b| \(linear")
_SHAPES = {"circle": "dot", "diamond": "diamond", "square": "bar", "cross": "cross"}
_READ = ("point", "circle", "square", "line", "area", "rect", "bar", "rule", "tick")
_FAINT = 0.2  # of what is painted so, and is no series, nobody wants to read a value
_CROSSES = ("✕", "×")


def annotated(figure: Figure, groups: Sequence[Group]) -> Spec:
    """A copy of the figure's specification that says what its parts are of.

    `groups` are numbered in the order of the page. Notes: of a panel `caption` and `groups`, the
    numbers of those it may show (none: it is of no group in particular); of a mark `groups`,
    `keys` (places in the legend), and `read` where it has values to read off; of the whole
    `axes`, for the n-th plot of every panel {channel: [title, label as a Vega expression of
    `datum.value`]}.
    """
    spec = copy.deepcopy(figure.spec)
    names = _names(groups)
    panels = _panels(spec)
    axes = _axes([list(_units(panel)) for panel in panels])
    for panel in panels:
        caption = _caption(panel, spec["datasets"])
        here = names.get(caption, frozenset())
        for unit in _units(panel):
            for layer in _layers(unit):
                layer[NOTE] = {"groups": [], "keys": []}
            _note_marks(figure.legend, unit, here, names)
        panel[NOTE] = {"caption": caption, "groups": sorted(here)}
    spec[NOTE] = spec.get(NOTE, {}) | {"axes": [plot.note() for plot in axes]}
    _rename_data(spec)
    return spec


def _rename_data(spec: Spec) -> None:
    """Data sets are named by hashes of 32 digits, twice each: numbers will do."""
    short = {name: str(number) for number, name in enumerate(spec["datasets"])}
    spec["datasets"] = {short[name]: rows for name, rows in spec["datasets"].items()}
    for panel in _panels(spec):
        for unit in _units(panel):
            for layer in _layers(unit):
                if "name" in layer.get("data", {}):
                    layer["data"] = {"name": short[layer["data"]["name"]]}


def _names(groups: Sequence[Group]) -> Names:
    """What a caption or a key may call groups → their numbers."""
    found: dict[str, set[int]] = {}
    for number, group in enumerate(groups):
        model, workload, phase = (
            parts.short(text) for text in (group.model, group.workload, group.phase)
        )
        for words in (
            (model,), (workload,), (phase,), (model, workload), (model, phase), (workload, phase),
            (model, workload, phase),
        ):  # fmt: skip
            found.setdefault(" · ".join(words), set()).add(number)
    return {name: frozenset(numbers) for name, numbers in found.items()}


# — the parts of a specification —————————————————————————————————————————————————


def _panels(spec: Spec) -> list[Spec]:
    """The small multiples: what stands in the outermost composition, else the whole."""
    for how in _COMPOSITIONS:
        if how in spec:
            found: list[Spec] = spec[how]
            return found
    return [spec]


def _units(node: Spec) -> Iterator[Spec]:
    """The plots of a panel (layers on one pair of axes), in order."""
    inner = next((node[how] for how in _COMPOSITIONS if how in node), None)
    if inner is None:
        yield node
        return
    for child in inner:
        yield from _units(child)


def _layers(unit: Spec) -> Iterator[Spec]:
    """The marks of a plot, in the order they are painted."""
    if "layer" not in unit:
        yield unit
        return
    for layer in unit["layer"]:
        yield from _layers(layer)


def _mark(layer: Spec) -> dict[str, Any]:
    mark = layer.get("mark", {})
    return mark if isinstance(mark, dict) else {"type": mark}


def _caption(panel: Spec, datasets: dict[str, Any]) -> str:
    """The text above the panel (`parts.caption`): the bold one."""
    for unit in _units(panel):
        for layer in _layers(unit):
            mark = _mark(layer)
            if mark.get("type") == "text" and mark.get("fontWeight") == 600:
                rows = datasets.get(layer["data"].get("name"), [])
                return str(rows[0].get("label", "")) if rows else ""
    return ""


# — marks ————————————————————————————————————————————————————————————————————————


def _note_marks(legend: Sequence[Key], unit: Spec, here: frozenset[int], names: Names) -> None:
    before: tuple[int | None, list[int]] = (None, [])
    for layer in _layers(unit):
        mark = _mark(layer)
        if mark.get("opacity") == 0:  # holds the axes
            continue
        series = _series(mark)
        keys = _keys(legend, mark, series)
        if mark.get("type") == "point" and series == before[0] and set(keys) <= set(before[1]):
            keys = before[1]  # the point at the end of a line goes with it
        before = (series, keys)
        layer[NOTE] |= {"groups": sorted(_groups(legend, keys, here, names)), "keys": keys}
        if _readable(layer, mark, keys):
            layer[NOTE]["read"] = 1


def _groups(
    legend: Sequence[Key], keys: Sequence[int], here: frozenset[int], names: Names
) -> frozenset[int]:
    """Those of the panel that the mark's keys name; all of them where they name none."""
    found = here
    for place in keys:
        named = names.get(legend[place].label)
        if named is not None:
            found = found & named if found else named
    return found


def _readable(layer: Spec, mark: dict[str, Any], keys: Sequence[int]) -> bool:
    kind = mark.get("type")
    if kind == "text":
        return mark.get("text") in _CROSSES
    band = kind == "area"  # an interval around what is read off a line
    faint = (band or not keys) and float(mark.get("fillOpacity", 1)) <= _FAINT
    return kind in _READ and not faint and bool(layer.get("encoding"))


def _series(mark: dict[str, Any]) -> int | None:
    """Which colour it is drawn in; None for the colour of the text."""
    for name in ("stroke", "fill", "color"):
        found = _SERIES.match(str(mark.get(name, "")))
        if found:
            return int(found[1]) - 1
    return None


def _keys(legend: Sequence[Key], mark: dict[str, Any], series: int | None) -> list[int]:
    """Places in the legend of what a mark stands for: its colour, and its stroke."""
    stroke = _strokes(mark)
    found = []
    for place, key in enumerate(legend):
        if key.series is None:
            matches = key.stroke in stroke
        else:
            alone = sum(other.series == key.series for other in legend) == 1
            matches = key.series == series and (alone or key.stroke in stroke)
        if matches:
            found.append(place)
    return found


def _strokes(mark: dict[str, Any]) -> tuple[str, ...]:
    """What the legend may call a mark's stroke or shape."""
    match mark.get("type"):
        case "point":
            return (_SHAPES.get(mark.get("shape", "circle"), "dot"),)
        case "text":
            return ("cross",) if mark.get("text") in _CROSSES else ()
        case "line":
            return (_dash(mark),)
        case "rule":
            dash = _dash(mark)
            return ("bar",) if dash == "solid" else (dash,)
        case "rect" | "bar":
            return ("span",) if "--bad" in str(mark.get("fill", "")) else ("area", "bar")
        case "area":
            return ("area",)
    return ()


def _dash(mark: dict[str, Any]) -> str:
    dash = mark.get("strokeDash") or [1, 0]
    if len(dash) < 2 or not dash[1]:
        return "solid"
    return "dotted" if dash[0] <= 2 else "dashed"


# — axes ——————————————————————————————————————————————————————————————————————————


@dataclass(slots=True)
class _Axes:
    """How the two axes of a plot are titled and labelled, by channel."""

    titles: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)

    def note(self) -> Spec:
        return {
            channel: [self.titles.get(channel, channel), self.labels.get(channel, "")]
            for channel in ("x", "y")
        }


def _axes(panels: list[list[Spec]]) -> list[_Axes]:
    """Of the n-th plot of every panel: an axis may be titled at the edge of the picture only.

    What is titled nowhere shares its axis with a neighbour that is.
    """
    found = [_Axes() for _ in range(max(map(len, panels), default=0))]
    for units in panels:
        for place, unit in enumerate(units):
            for layer in _layers(unit):
                _see(found[place], layer.get("encoding", {}))
    for axes in found:
        for other in found:
            for channel in ("x", "y"):
                if channel in other.titles and channel not in axes.titles:
                    axes.titles[channel] = other.titles[channel]
                    axes.labels[channel] = other.labels.get(channel, "")
    return found


def _see(axes: _Axes, encoding: Spec) -> None:
    for channel in ("x", "y"):
        axis = encoding.get(channel, {}).get("axis") or {}
        if title := _plain(axis.get("title")):
            axes.titles.setdefault(channel, title)
        if label := axis.get("labelExpr"):
            axes.labels.setdefault(channel, label)


def _plain(title: Any) -> str:
    """`TTFT (log) — lower is better` → `TTFT`."""
    text = " ".join(title) if isinstance(title, list) else str(title or "")
    return _TITLE_END.split(text, maxsplit=1)[0].rstrip(", ")
