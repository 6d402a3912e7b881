"""Needle recall: what was found of the facts planted in long documents, by depth and length."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import altair as alt

from loadlib import units
from loadlib.charts import compose, numerals, parts
from loadlib.charts.compose import Drawn
from loadlib.charts.parts import Figure, Key, RunLike
from loadlib.summary import Group

CELL_WIDTH, CELL_HEIGHT = 62, 26  # px
CELLS = 480  # of all panels together
WORST = 0.5  # opacity of a recall of nothing: text stays readable upon it
_VARIANT = re.compile(
    r"(?P<length>[\d.]+(?:k|Ki|M|Mi)?)(?:-[\d.]+(?:k|Ki|M|Mi)?)? depth "
    r"(?P<depth>[\d.]+)(?:-[\d.]+)? %(?: cold| warm)?"
)


@dataclass(frozen=True, slots=True)
class Cell:
    """Documents of one length with the fact at one depth; `recall` in 0…1."""

    length: str
    depth: str
    n: int
    recall: float


@dataclass(frozen=True, slots=True)
class Grid:
    """The cells of one group; lengths from short to long, depths from the start on."""

    label: str
    cells: Mapping[tuple[str, str], Cell]
    lengths: tuple[str, ...]
    depths: tuple[str, ...]


def needle_recall(run: RunLike) -> Figure | None:
    """Recall of every length and depth; None where no workload plants needles."""
    several = parts.ladder(run.summary)
    grids: list[Grid] = []
    for group in sorted(parts.measured(run.summary), key=lambda g: -g.quality.checked):
        found = grid_of(group, parts.group_label(group, phase=several))
        if found is not None and len(found.cells) + sum(len(g.cells) for g in grids) <= CELLS:
            grids.append(found)
    if not grids:
        return None
    order = [parts.group_label(group, phase=several) for group in parts.measured(run.summary)]
    grids.sort(key=lambda one: order.index(one.label))
    columns = max(1, min(3, parts.WIDTH // (CELL_WIDTH * max(len(g.lengths) for g in grids) + 90)))
    made = [_panel(one) for one in grids]
    heads = sorted({length for one in grids for length in one.lengths}, key=_tokens)[:16]
    return Figure(
        id="needle-recall",
        title="Needle recall by depth and length",
        takeaway=_sentence(grids),
        spec=compose.finished(compose.tiles(made, columns, row=40, column=26)),
        columns=("group", "depth", *heads),
        rows=tuple(_rows(grids, heads)),
        legend=(Key("facts that were missed: the redder the more", None, "span"),),
        note="Depth 0 % is the start of the document. Of several facts in one document, the share "
        "that was answered right; higher is better.",
    )


def grid_of(group: Group, label: str) -> Grid | None:
    """The group's variants as a grid, warm and cold documents together."""
    found: dict[tuple[str, str], Cell] = {}
    for name, quality in group.quality.variants.items():
        match = _VARIANT.fullmatch(name)
        recall = quality.share if quality.score is None else quality.score
        if match is None or recall is None or not quality.checked:
            continue
        length, _, depth = re.sub(r" (?:cold|warm)\Z", "", name).partition(" depth ")
        before = found.get((length, depth), Cell(length, depth, 0, 0.0))
        n = before.n + quality.checked
        recall = (before.recall * before.n + recall * quality.checked) / n
        found[length, depth] = Cell(length, depth, n, recall)
    if not found:
        return None
    lengths = sorted({length for length, _ in found}, key=_tokens)
    depths = sorted({depth for _, depth in found}, key=lambda text: float(_first(text)))
    return Grid(label, found, tuple(lengths), tuple(depths))


def _first(text: str) -> str:
    return re.split(r"[- ]", text)[0]


def _tokens(length: str) -> int:
    return units.count(_first(length))


def _panel(one: Grid) -> Drawn:
    width, height = CELL_WIDTH * len(one.lengths), CELL_HEIGHT * len(one.depths)
    x = alt.X("length:N", sort=list(one.lengths), axis=alt.Axis(
        title="prompt tokens; recall: higher is better", labelAngle=0, domain=False, ticks=False,
        grid=False))  # fmt: skip
    y = alt.Y("depth:N", sort=list(one.depths), axis=alt.Axis(
        title="depth", domain=False, ticks=False, grid=False))  # fmt: skip
    rows = [
        {
            "length": cell.length,
            "depth": cell.depth,
            "missed": WORST * (1 - cell.recall),
            "t": numerals.share(cell.recall),
        }
        for cell in one.cells.values()
    ]
    base = alt.Chart(parts.data(rows)).encode(x=x, y=y)
    ground = base.mark_rect(fill="currentColor", fillOpacity=0.06, stroke="var(--page, #fff)",
                            strokeWidth=2)  # fmt: skip
    missed = base.mark_rect(fill="var(--bad, #b3261e)", stroke=None).encode(
        fillOpacity=alt.FillOpacity("missed:Q", scale=None),
        description=alt.Description("t:N", title="recall"),  # what the page reads off a cell
    )
    text = base.mark_text(fontSize=11, fill="currentColor").encode(text=alt.Text("t:N"))
    name = parts.caption(one.label, max(width, 200))
    return compose.plot(ground, missed, text, name, width=width, height=height)


def _sentence(grids: Sequence[Grid]) -> str:
    every = [(cell, one) for one in grids for cell in one.cells.values()]
    worst, where = min(every, key=lambda pair: pair[0].recall)
    total = sum(cell.n for cell, _ in every)
    if worst.recall == 1:
        return (
            f"Every fact was found, in {numerals.count(total)} documents of every length and depth."
        )
    overall = sum(cell.recall * cell.n for cell, _ in every) / total
    missing = sum(cell.recall < 1 for cell, _ in every)
    return (
        f"{numerals.share(overall)} of the facts were found; the fewest by {where.label} at "
        f"{worst.length} and depth {worst.depth}: {numerals.share(worst.recall)} in "
        f"{numerals.count(worst.n)} documents. Something was missed in "
        f"{numerals.count(missing)} of {numerals.count(len(every))} cells."
    )


def _rows(grids: Sequence[Grid], heads: Sequence[str]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for one in grids:
        for depth in one.depths:
            cells = [one.cells.get((length, depth)) for length in heads]
            texts = [
                numerals.UNKNOWN
                if cell is None
                else f"{numerals.share(cell.recall)} of {numerals.count(cell.n)}"
                for cell in cells
            ]
            rows.append((one.label, depth, *texts))
    return rows
