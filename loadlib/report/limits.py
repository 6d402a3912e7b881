"""Rate limits: what of them is shown, on the page, in markdown and at the terminal."""

from __future__ import annotations

from dataclasses import dataclass

from loadlib.report import format as f
from loadlib.summary import Pace, RateLimits, Summary

HEADS = (
    "Requests in a minute", "Tokens in a minute", "Reserved", "Least left", "Throttled",
    "Longest wait asked",
)  # fmt: skip
NEAR = 0.8  # of a limit: from here on it is worth a line at the terminal


@dataclass(frozen=True, slots=True)
class Cell:
    """A number, what to say of it, and whether that is more than the model may have."""

    text: str
    note: str = ""
    over: bool = False

    def __str__(self) -> str:
        return f"{self.text} ({self.note})" if self.note else self.text


@dataclass(frozen=True, slots=True)
class LimitRow:
    """One model; `cells` in the order of `HEADS`; `name` as the scenario has it."""

    name: str
    model: str
    cells: tuple[Cell, ...]


def rows(summary: Summary) -> list[LimitRow]:
    """One row per model."""
    return [_row(model, row) for model, row in summary.rate_limits.items()]


def telling(summary: Summary) -> list[LimitRow]:
    """The rows of models that came near a limit, or were throttled."""
    return [
        _row(model, row)
        for model, row in summary.rate_limits.items()
        if row.throttled or any(_share(pace) >= NEAR for pace in (row.requests, row.tokens))
    ]


def lines(summary: Summary) -> list[str]:
    """Those models in words."""
    found = []
    for row in telling(summary):
        requests, tokens, reserved, _left, throttled, wait = row.cells
        asked = f", asked to wait up to {wait.text}" if wait.text != f.UNKNOWN else ""
        found.append(
            f"{row.model}, busiest minute: {requests} requests, {tokens} tokens,"
            f" {reserved} reserved; {throttled.text} throttled{asked}"
        )
    return found


def _row(model: str, row: RateLimits) -> LimitRow:
    requests, tokens, wait = row.requests, row.tokens, row.retry_after_ms
    cells = (
        _of(requests, requests.most),
        _of(tokens, tokens.most),
        _of(tokens, tokens.reserved),
        Cell(_least_left(row)),
        Cell(f.count(row.throttled), over=row.throttled > 0),
        Cell(f.UNKNOWN if wait is None else f.ms(wait)),
    )
    return LimitRow(model, f.name(model), cells)


def _of(pace: Pace, asked: int | None) -> Cell:
    """`242`, `48.4 % of 500`, and whose word the limit is where it is not the scenario's."""
    if pace.limit is None or asked is None:
        return Cell(f.count(asked))
    source = " by headers" if pace.source == "headers" else ""
    note = f"{f.share(asked / pace.limit)} of {f.count(pace.limit)}{source}"
    return Cell(f.count(asked), note, over=asked > pace.limit)


def _share(pace: Pace) -> float:
    asked = max(pace.most or 0, pace.reserved or 0)
    return asked / pace.limit if pace.limit else 0.0


def _least_left(row: RateLimits) -> str:
    """`12 requests · 3,400 tokens`: the least that any response said was left."""
    found = [
        f"{f.count(seen.remaining_min)} {what.replace('_', ' ')}"
        for what, seen in row.headers.items()
        if seen.remaining_min is not None
    ]
    return " · ".join(found) or f.UNKNOWN
