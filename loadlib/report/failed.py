"""How requests failed, over all groups: a row per cause, and what of the answers was lost."""

from __future__ import annotations

from dataclasses import dataclass, field

from loadlib.report import format as f
from loadlib.report import view
from loadlib.report.words import OUTCOMES
from loadlib.summary import Failure, Summary

MOST = 30  # causes; a server may make up its own


@dataclass(slots=True)
class FailedRow:
    """One cause; `groups` are places on the page, and None is unknown."""

    outcome: str
    cause: str
    meaning: str
    n: int = 0
    after: int = 0
    tokens: int | None = None
    cost: float | None = None
    share: str = ""
    places: list[str] = field(default_factory=list)

    @property
    def groups(self) -> str:
        """For the page's script."""
        return " ".join(self.places)

    def add(self, failure: Failure, place: int | None) -> None:
        """The same cause of another group."""
        self.n += failure.n
        self.after += failure.after_first_token
        if failure.output_tokens is not None:
            self.tokens = (self.tokens or 0) + failure.output_tokens
        if failure.cost_usd is not None:
            self.cost = (self.cost or 0.0) + failure.cost_usd
        self.places.append("x" if place is None else str(place))


def rows(summary: Summary) -> list[FailedRow]:
    """The causes of the measure phases, the frequent first."""
    groups, places = view.measured(summary), view.numbers(summary)
    found: dict[str, FailedRow] = {}
    for group in groups:
        for what, failure in group.failures.items():
            outcome, _, cause = what.partition("/")
            row = FailedRow(f.name(outcome), f.name(cause), OUTCOMES.get(outcome, ""))
            found.setdefault(what, row).add(failure, places.get(view.key(group)))
    sent = sum(group.requests.sent for group in groups)
    for row in found.values():
        row.share = f.share(row.n / sent if sent else None)
    return sorted(found.values(), key=lambda row: -row.n)[:MOST]
