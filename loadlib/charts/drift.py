"""Whether a phase ended as it began: its first third against its last."""

from __future__ import annotations

from dataclasses import dataclass

from loadlib import binomial
from loadlib.charts import numerals, parts
from loadlib.charts.cells import Cells
from loadlib.charts.reading import Reading
from loadlib.charts.widening import LEAST

FAR = 1.2  # times: less is no drift worth a sentence


@dataclass(frozen=True, slots=True)
class Drift:
    """Median TTFT of one (model, workload) in the first and the last third of a phase, ms.

    `sure`: their 95 % intervals lie apart.
    """

    label: str
    before: float
    after: float
    sure: bool

    @property
    def ratio(self) -> float:
        """How many times the one is the other, whichever way."""
        low, high = sorted((self.before, self.after))
        return high / low if low > 0 else 1.0


def drifts(reading: Reading) -> list[Drift]:
    """Of every measured group with `LEAST` requests in both thirds of a phase at one load."""
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
        medians = [_median(cells, a, a + third) for a in (first, last - third)] if third else []
        if all(medians) and medians:
            (before, low, high), (after, lower, higher) = medians  # type: ignore[misc]
            sure = higher < low or high < lower
            found.append(Drift(parts.group_label(group, phase=several), before, after, sure))
    return found


def _median(cells: Cells, first: int, end: int) -> tuple[float, float, float] | None:
    """(median, its 95 % interval) of columns [first, end)."""
    n = int(cells.n()[first:end].sum())
    ranks = binomial.order_ranks(n, 0.5) if n >= LEAST else None
    if ranks is None:
        return None
    found = cells.quantiles((0.5, ranks[0] / n, ranks[1] / n), first, end)
    return None if found is None else (found[0], found[1], found[2])


def drift_sentence(reading: Reading) -> str:
    """The farthest drift that is sure, or that there is none; empty where nobody can tell."""
    found = drifts(reading)
    if not found:
        return ""
    sure = [drift for drift in found if drift.sure and drift.ratio >= FAR]
    if not sure:
        return (
            "No median TTFT surely changes by a fifth from the first third of a phase to its last."
        )
    worst = max(sure, key=lambda drift: drift.ratio)
    return (
        f"Median TTFT of {worst.label} went from {numerals.ms(worst.before)} in the first third of "
        f"its phase to {numerals.ms(worst.after)} in the last."
    )
