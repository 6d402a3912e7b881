"""Whether a phase ended as it began: its first third against its last."""

from __future__ import annotations

from dataclasses import dataclass

from loadlib.charts import numerals, parts
from loadlib.charts.reading import Reading
from loadlib.charts.widening import LEAST

FAR = 1.2  # times: less is no drift worth a sentence


@dataclass(frozen=True, slots=True)
class Drift:
    """Median TTFT of one (model, workload) in the first and the last third of a phase, ms."""

    label: str
    before: float
    after: float

    @property
    def ratio(self) -> float:
        """How many times the one is the other, whichever way."""
        low, high = sorted((self.before, self.after))
        return high / low if low > 0 else 1.0


def drifts(reading: Reading) -> list[Drift]:
    """Of every measured group with `LEAST` requests in both thirds."""
    scan, found = reading.scan, []
    several = parts.ladder(reading.summary)
    for group in parts.measured(reading.summary):
        cells = scan.ttft((group.model, group.workload))
        window = next((w for w in reading.series.windows
                       if (w.model, w.phase) == (group.model, group.phase)), None)  # fmt: skip
        if cells is None or window is None or group.varying:
            continue
        first, last = window.start // scan.grid.width, -(-window.end // scan.grid.width)
        third = (last - first) // 3
        n = cells.n()
        ends = ((first, first + third), (last - third, last))
        if third < 1 or any(n[a:b].sum() < LEAST for a, b in ends):
            continue
        before, after = (cells.quantiles((0.5,), a, b) for a, b in ends)
        if before and after:
            found.append(Drift(parts.group_label(group, phase=several), before[0], after[0]))
    return found


def drift_sentence(reading: Reading) -> str:
    """The farthest drift, or that there is none; empty where nobody can tell."""
    found = drifts(reading)
    if not found:
        return ""
    worst = max(found, key=lambda drift: drift.ratio)
    if worst.ratio < FAR:
        return (
            "No median TTFT of the last third of a phase differs from its first by a fifth or more."
        )
    return (
        f"Median TTFT of {worst.label} went from {numerals.ms(worst.before)} in the first third of "
        f"its phase to {numerals.ms(worst.after)} in the last."
    )
