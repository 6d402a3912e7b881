"""The end of a run and a comparison, for people at a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from loadlib.report import format as f
from loadlib.report import health, limits, models, quality, server, tiles, view
from loadlib.report.markdown import ARROWS, INDICATIVE
from loadlib.report.words import STATUS_ICONS
from loadlib.summary import Comparison, Summary

GATES = 12  # lines; failed and undecided gates come first
GROUPS = 36
MESSAGES = 3
DROPPED = {
    "ceiling": "no place in flight became free for {}",
    "budget": "the budget was spent before {}",
    "stopped": "the run was stopped before {}",
}
STYLES = {
    "pass": "green", "ok": "green", "fail": "red", "bad": "red", "error": "red",
    "regressed": "red", "inconclusive": "yellow", "warn": "yellow", "interrupted": "magenta",
    "aborted": "magenta", "better": "green", "worse": "red", "same": "dim", "unclear": "yellow",
}  # fmt: skip


class Screen(Console):
    """Stdout or stderr; `| head` may end the reading, which changes no exit code."""

    def __init__(self, *, err: bool = False) -> None:
        super().__init__(stderr=err, highlight=False)

    def on_broken_pipe(self) -> None:
        """Nobody reads any more: the rest goes nowhere."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_summary(
    summary: Summary, folder: Path | None = None, console: Console | None = None
) -> None:
    """Verdict, gates, one line per group, health, and where the report is.

    `console` defaults to stdout: colours only on a terminal and without `NO_COLOR`.
    """
    out = console or Screen()
    style = STYLES[summary.verdict.status]
    out.print()
    out.print(_title(summary, style), soft_wrap=True)
    head = view.headline(summary)
    for reason in (head.sentence, *head.more):
        out.print(Padding(Text(reason), (0, 0, 0, 2), expand=False))
    _gates(summary, out)
    _groups(summary, out)
    _misses(summary, out)
    for line in view.bracket_lines(summary):
        out.print(Padding(Text(line), (0, 0, 0, 2), expand=False))
    _health(summary, out)
    if folder is not None:
        page = folder / "report.html"
        said = f"report {page}" if page.is_file() else f"run folder {folder}, without a report"
        out.print(Text(f"  {said}"), soft_wrap=True)


def _title(summary: Summary, style: str) -> Text:
    groups = view.measured(summary)
    head = view.headline(summary)
    number = len({group.model for group in groups})
    scheduled = sum(group.requests.scheduled for group in groups)
    facts = [
        f.name(summary.name or "run"),
        f"{number} model{'s' if number != 1 else ''}" if number else "",
        f.duration(summary.duration_s) if summary.duration_s is not None else "",
        f"{f.count(scheduled)} request{'s' if scheduled != 1 else ''}",
    ]
    line = Text(f"{head.icon} {head.word}", style=f"bold {style}")
    return line.append("  " + " · ".join(filter(None, facts)), style="default not bold")


def _gates(summary: Summary, out: Console) -> None:
    rows = view.gate_rows(summary)
    if not rows:
        return
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    for _ in range(2):
        table.add_column(overflow="fold")
    for _ in range(2):
        table.add_column(justify="right", no_wrap=True)
    for row in rows[:GATES]:
        observed = f"{row.observed} {row.interval}".strip()
        table.add_row(
            Text(row.icon, style=STYLES[row.status]),
            Text(row.where),
            Text(row.expression),
            Text(observed),
            Text(f"n={row.n}", style="dim"),
        )
    out.print()
    out.print(Padding(table, (0, 0, 0, 2), expand=False))
    if len(rows) > GATES:
        hidden = rows[GATES:]
        passed = sum(row.status == "pass" for row in hidden)
        out.print(f"  and {len(hidden)} more, {passed} of them pass")


def _groups(summary: Summary, out: Console) -> None:
    rows = models.rows(summary)
    if not rows:
        return
    wide = out.width >= 100
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("model · workload", overflow="fold")
    names = ["ok", "fail", "ttft p50", "p99", *(["tpot p50", "p99"] if wide else []), "tok/s"]
    for name in (*names, "goodput"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows[:GROUPS]:
        table.add_row(
            Text(" · ".join(filter(None, (row.model, row.workload, row.phase)))),
            row.ok,
            Text(row.failed, style="red" if row.failures else ""),
            row.ttft[0][0],
            row.ttft[2][0],
            *([row.tpot_p50, row.tpot_p99] if wide else []),
            row.user_rate,
            row.goodput,
        )
    out.print(Padding(table, (0, 0, 0, 2), expand=False))
    if len(rows) > GROUPS:
        out.print(f"  and {len(rows) - GROUPS} more in the report")


def _misses(summary: Summary, out: Console) -> None:
    """What the table has no column for: dropped arrivals, what failed requests were told,
    answers that did not pass their check, what servers said of themselves, and prompts of
    another length than was asked for."""
    told = view.error_examples(summary, limit=MESSAGES)
    lines = [f"{row.number}× {row.text} ({row.place})" for row in told]
    lines[:0] = _dropped(summary)
    lines += [*quality.misses(summary, limit=MESSAGES), *limits.lines(summary)[:MESSAGES]]
    lines += server.lines(summary)[:MESSAGES]
    for line in lines:
        out.print(Padding(Text(line), (0, 0, 0, 2), expand=False))
    for line in view.delivered(summary):
        mark = Text(f"{STATUS_ICONS['warn']} ", style=STYLES["warn"])
        out.print(Padding(mark.append(line, "default"), (0, 0, 0, 2), expand=False))


def _dropped(summary: Summary) -> list[str]:
    """How many arrivals were never sent, and why: a line, if there are any."""
    groups = view.measured(summary)
    dropped = sum(group.requests.dropped for group in groups)
    if not dropped:
        return []
    found = {cause: sum(g.causes.get(f"dropped/{cause}", 0) for g in groups) for cause in DROPPED}
    reasons = [
        DROPPED[cause].format("them" if n == dropped else f.count(n))
        for cause, n in found.items()
        if n
    ]
    return [f"{f.count(dropped)} dropped: {', '.join(reasons) or 'never sent'}"]


def _health(summary: Summary, out: Console) -> None:
    """One line, and one more for each check that is not ok, with its remedy."""
    condition = summary.health
    status, style = condition.status, STYLES[condition.status]
    line = Text("  ").append(f"health {STATUS_ICONS[status]} {status}", style=style)
    if condition.overridden:
        line.append(" · --allow-unhealthy: the gates decided whatever it is", style="yellow")
    cost = tiles.spent(summary)
    if view.measured(summary):
        line.append(f" · {' '.join(cost)}" if cost is not None else " · cost unknown")
    out.print(line, soft_wrap=True)
    for row in health.troubled(condition):
        sentence = Text(f"{row.icon} ", style=STYLES[row.status]).append(row.sentence, "default")
        out.print(Padding(sentence, (0, 0, 0, 4), expand=False))


def print_comparison(rows: Sequence[Comparison], console: Console | None = None) -> None:
    """`loadlib compare A B`: ratios with both intervals, marked indicative."""
    out = console or Screen()
    if not rows:
        out.print("Nothing to compare: the two runs have no group in common.")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), header_style="dim")
    for name in ("", "group", "metric"):
        table.add_column(name)
    for name in ("before", "after", "ratio"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            Text(ARROWS[row.direction], style=STYLES[row.direction]),
            Text(view.comparison_where(row)),
            Text(f"{row.metric}.{row.stat}" if row.stat else row.metric),
            Text(
                f"{f.value(row.before, row.unit)} {f.interval(row.before_ci95, row.unit)}".strip()
            ),
            Text(f"{f.value(row.after, row.unit)} {f.interval(row.after_ci95, row.unit)}".strip()),
            f.times(row.ratio),
        )
    out.print(table)
    out.print(INDICATIVE, style="dim")
