"""The counters of every second as arrays: a whole run's, with its phases, in a few megabytes."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from loadlib.summary import Summary

Key = tuple[str, str, str]
"""(model, workload, phase)."""

Counts = npt.NDArray[np.int64]

FIELDS = ("scheduled", "sent", "ended", "ok", "failed", "output_tokens", "input_tokens")


@dataclass(frozen=True, slots=True)
class Window:
    """Seconds [start, end) in which one phase sent requests to one model, from the run's first."""

    phase: str
    kind: str
    model: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Series:
    """One row of counters per group and second; `start` is the first second, Unix epoch."""

    start: int = 0
    length: int = 0
    groups: Mapping[Key, Counts] = field(default_factory=dict)  # (FIELDS, seconds)
    windows: tuple[Window, ...] = ()

    def total(self, name: str, model: str | None = None, workload: str | None = None) -> Counts:
        """One counter over the seconds, all phases together."""
        whole = np.zeros(self.length, np.int64)
        for (group_model, group_workload, _), counts in self.groups.items():
            if model in (None, group_model) and workload in (None, group_workload):
                whole += counts[FIELDS.index(name)]
        return whole

    def in_flight(self, model: str | None = None) -> Counts:
        """Requests sent and not ended at the end of each second."""
        flying = np.cumsum(self.total("sent", model) - self.total("ended", model))
        return np.maximum(flying, 0)  # a killed run's rows know ends whose beginning is lost

    def models(self) -> list[str]:
        """Models in the order of their appearance in the summary, then in the rows."""
        return list(dict.fromkeys(model for model, _, _ in self.groups))

    def phases(self, models: Collection[str] | None = None) -> list[Window]:
        """One window a phase, from its first request to its last, whichever of the models."""
        found: dict[str, Window] = {}
        for window in self.windows:
            if models is not None and window.model not in models:
                continue
            seen = found.get(window.phase, window)
            found[window.phase] = Window(window.phase, window.kind, "",
                                         min(seen.start, window.start),
                                         max(seen.end, window.end))  # fmt: skip
        return sorted(found.values(), key=lambda window: (window.start, window.end))


def series(summary: Summary, seconds: Iterable[Mapping[str, Any]]) -> Series:
    """The counters of `RunLike.seconds`, read once; empty where there are none."""
    rows: dict[Key, array[int]] = {
        (group.model, group.workload, group.phase): array("q") for group in summary.groups
    }
    for row in seconds:
        key = (str(row["model"]), str(row["workload"]), str(row["phase"]))
        if key not in rows:
            rows[key] = array("q")
        rows[key].append(int(row["second"]))
        rows[key].extend(int(row.get(name) or 0) for name in FIELDS)
    width = 1 + len(FIELDS)
    tables = {
        key: np.frombuffer(found, np.int64).reshape(-1, width).T
        for key, found in rows.items()
        if found
    }
    if not tables:
        return Series()
    start = min(int(table[0].min()) for table in tables.values())
    length = max(int(table[0].max()) for table in tables.values()) - start + 1
    groups = {}
    for key, table in tables.items():
        groups[key] = np.zeros((len(FIELDS), length), np.int64)
        np.add.at(groups[key].T, table[0] - start, table[1:].T)
    return Series(start, length, groups, tuple(_windows(summary, groups)))


def _windows(summary: Summary, groups: Mapping[Key, Counts]) -> list[Window]:
    """When each phase sent to each model, in the order of their beginnings."""
    kinds = {group.phase: group.kind for group in summary.groups}
    spans: dict[tuple[str, str], tuple[int, int]] = {}
    for (model, _, phase), counts in groups.items():
        busy = np.flatnonzero(counts[0] + counts[1])
        if len(busy):
            low, high = spans.get((model, phase), (int(busy[0]), int(busy[-1])))
            spans[model, phase] = min(low, int(busy[0])), max(high, int(busy[-1]))
    return [
        Window(phase, kinds.get(phase, "warmup"), model, low, high + 1)
        for (model, phase), (low, high) in sorted(spans.items(), key=lambda item: item[1])
    ]
