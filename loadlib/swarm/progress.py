"""What a person sees while a run lasts: a live table on a terminal, a plain line elsewhere.

Drawn from a greenlet (`Live(auto_refresh=False)`): a thread would not cooperate.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import gevent
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from loadlib.snapshot import Row

if TYPE_CHECKING:
    from loadlib.swarm.coordinator import Run

DRAW_EVERY_S = 1.0
LINE_EVERY_S = 10.0
MAX_ROWS = 24


class Progress:
    """Starts with the first request; `quiet` shows nothing (Locust's own output rules then)."""

    def __init__(self, run: Run, *, quiet: bool = False) -> None:
        self._run, self._quiet = run, quiet
        self.started = False
        self._greenlet: gevent.Greenlet[..., None] | None = None
        self._live: Live | None = None

    def start(self) -> None:
        """Begin to draw."""
        self.started = True
        if not self._quiet:
            console = Console(stderr=True, highlight=False)
            self._greenlet = gevent.spawn(self._loop, console)

    def stop(self) -> None:
        """Leave the terminal as it should be."""
        if self._greenlet is not None:
            self._greenlet.kill()
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _loop(self, console: Console) -> None:
        if console.is_terminal:
            self._live = Live(console=console, auto_refresh=False, transient=True)
            self._live.start()
        next_line = time.monotonic() + LINE_EVERY_S
        while True:
            gevent.sleep(DRAW_EVERY_S)
            if self._live is not None:
                self._live.update(self._table(), refresh=True)
            elif time.monotonic() >= next_line:
                next_line += LINE_EVERY_S
                sys.stderr.write(self._line() + "\n")
                sys.stderr.flush()

    def _rows(self) -> list[Row]:
        rows = self._run.board.rows()
        current = [row for row in rows if row.phase == self._run.phase]
        return (current or list(rows))[:MAX_ROWS]

    def _elapsed(self) -> int:
        return (time.time_ns() - self._run.started_ns) // 10**9

    def _line(self) -> str:
        """One line, at most 120 characters, no control codes."""
        rows = self._rows()
        ok, failed = sum(r.ok for r in rows), sum(r.failed for r in rows)
        flying = sum(r.in_flight for r in rows)
        tokens = sum(r.tok_s or 0.0 for r in rows)
        worst = max((p99 for r in rows if (p99 := r.ttft_lately.p99) is not None), default=None)
        ttft = "–" if worst is None else f"{worst:,.0f} ms"
        stamp = time.strftime("%H:%M:%S", time.gmtime())
        return (
            f"{stamp}Z {self._elapsed():4d}s {self._run.phase[:20]:<10} ok {ok:,} failed {failed:,}"
            f" in flight {flying:,} · worst ttft p99 {ttft} · {tokens:,.0f} tok/s"
        )[:120]

    def _table(self) -> Group:
        session = self._run.session
        head = Text(f"{session.scenario.name} · {self._run.phase or 'starting'} · ", style="bold")
        head.append(f"{self._elapsed()} s", style="cyan")
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("model")
        table.add_column("workload")
        for title in ("in flight", "ok", "failed", "ttft p50", "p99 ms", "tok/s"):
            table.add_column(title, justify="right")
        for row in self._rows():
            table.add_row(
                row.model,
                row.workload,
                f"{row.in_flight:,}",
                f"{row.ok:,}",
                Text(f"{row.failed:,}", style="red" if row.failed else ""),
                number(row.ttft_lately.p50),
                number(row.ttft_lately.p99),
                number(row.tok_s),
            )
        return Group(head, table)


def number(value: float | None) -> str:
    """Whole, with thousands separators; a dash for what is unknown."""
    return "–" if value is None else f"{value:,.0f}"
