"""What the pages say of the quality of answers, as text."""

from __future__ import annotations

from dataclasses import dataclass

from loadlib.report import format as f
from loadlib.report import view
from loadlib.summary import Quality, Summary

VARIANTS = 40  # rows of a group; the worst first
ALL_VARIANTS = 200  # rows of all groups together


@dataclass(frozen=True, slots=True)
class QualityRow:
    """A group, or one sort of its prompts."""

    name: str
    checked: str
    share: str
    interval: str
    score: str
    flaws: str
    bad: bool
    group: int | None = None  # its place on the page


def rows(summary: Summary) -> list[QualityRow]:
    """Every measured group in which answers were checked."""
    return [
        _row(view.where(summary, group), group.quality, place)
        for place, group in enumerate(view.shown(summary))
        if group.quality.checked
    ]


def by_variant(summary: Summary) -> list[tuple[int, str, list[QualityRow], int]]:
    """(place, group, its sorts of prompts with the worst first, how many more there are)."""
    found, groups = [], view.shown(summary)
    most = min(VARIANTS, ALL_VARIANTS // max(1, len(groups)))
    for place, group in enumerate(groups):
        ranked = sorted(group.quality.variants.items(), key=lambda item: item[1].share or 0.0)
        if ranked:
            shown = [_row(f.name(name), one, place) for name, one in ranked[:most]]
            left = max(0, len(ranked) - most)
            found.append((place, view.where(summary, group), shown, left))
    return found


def misses(summary: Summary, limit: int) -> list[str]:
    """A line for each of the groups that answered worst, if any answer did not pass."""
    groups = [g for g in view.measured(summary) if g.quality.passed < g.quality.checked]
    groups.sort(key=lambda group: group.quality.share or 0.0)
    lines = []
    for group in groups[:limit]:
        row = _row(view.where(summary, group), group.quality)
        lines.append(f"quality {row.share} of {row.checked} answers ({row.flaws}): {row.name}")
    if len(groups) > limit:
        lines.append(f"and {len(groups) - limit} more groups with answers that did not pass")
    return lines


def _row(name: str, found: Quality, place: int | None = None) -> QualityRow:
    return QualityRow(
        name=name,
        checked=f.count(found.checked),
        share=f.share(found.share),
        interval=f.interval(found.ci95, "share"),
        score=f.share(found.score),
        flaws=", ".join(f"{f.count(n)} {flaw}" for flaw, n in found.flaws.items()),
        bad=found.passed < found.checked,
        group=place,
    )
