"""Servers' own metrics: what of them is shown, on the page, in markdown and at the terminal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from loadlib.report import format as f
from loadlib.summary import Level, Server, ServerPhase, Summary

HEADS = (
    "Scrapes", "Running", "Waiting", "KV cache", "In flight here", "Preempted", "From cache",
    "Output tok/s", "… here", "Server / here",
)  # fmt: skip
AGREES = 0.05  # further from 1 than this, a ratio is marked

RATES = (
    "Rates are between the first and the last scrape of a phase. Server / here is of all servers"
    " with the same models together: above 1 somebody else used them, or answers were cut off."
)
AT_THE_END = {"SGLang", "llama.cpp"}  # count a request's tokens when it is over

Write = Callable[[float | None], str]


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure, what stands below it, and whether it should be looked at."""

    text: str
    note: str = ""
    bad: bool = False

    def __str__(self) -> str:
        return f"{self.text} ({self.note})" if self.note else self.text


@dataclass(frozen=True, slots=True)
class ServerRow:
    """One server in one phase; `cells` in the order of `HEADS`."""

    server: str
    phase: str
    warmup: bool
    cells: tuple[Cell, ...]


def rows(summary: Summary) -> list[ServerRow]:
    """Every server with every phase of its models."""
    return [_row(server, phase) for server in summary.servers for phase in server.phases]


def sources(summary: Summary) -> list[str]:
    """A sentence per server: what it is, where, and how well it could be read."""
    return [_source(server) for server in summary.servers]


def notes(summary: Summary) -> list[str]:
    """What must be known to read the table."""
    said = [RATES]
    kinds = {server.kind for server in summary.servers} & AT_THE_END
    if kinds:
        said.append(
            f"{' and '.join(sorted(filter(None, kinds)))}: tokens are counted when their request"
            " ends, so that rates of short phases jump."
        )
    return said


def lines(summary: Summary) -> list[str]:
    """The measure phases in words, a line each; those with the longest queues first."""
    told = [
        (server, phase)
        for server in summary.servers
        for phase in server.phases
        if phase.kind == "measure" and phase.scrapes
    ]
    told.sort(key=lambda one: -(one[1].waiting.mean or 0.0))
    return [_line(server, phase) for server, phase in told]


def _line(server: Server, phase: ServerPhase) -> str:
    parts = [
        _spoken("running", phase.running, f.number),
        _spoken("waiting", phase.waiting, f.number),
        _spoken("KV cache", phase.kv_usage, f.share),
        f"{f.count(phase.preemptions)} preempted" if phase.preemptions else "",
    ]
    where = f" in {f.name(phase.phase)}" if len(server.phases) > 1 else ""
    return f"server {f.name(server.name)}{where}: {', '.join(filter(None, parts)) or f.UNKNOWN}"


def _spoken(name: str, level: Level, write: Write) -> str:
    if level.mean is None:
        return ""
    cell = _level(level, write)
    return f"{name} {cell}"


def _source(server: Server) -> str:
    kind = f.name(server.kind) if server.kind else "unknown kind"
    read = f"read {f.count(server.scrapes)} times, every {f.number(server.every_s)} s"
    if server.failed:
        read += f", {f.count(server.failed)} of which failed"
    took = ""
    if server.took_ms_p50 is not None:
        took = (
            f"; an answer took {f.ms(server.took_ms_p50)} (p50), {f.ms(server.took_ms_max)} at most"
        )
    return (
        f"{f.name(server.name)}: {kind} at {f.line(server.url.partition('://')[2])}, {read}{took}."
    )


def _row(server: Server, phase: ServerPhase) -> ServerRow:
    name = (
        f.name(phase.phase)
        if phase.model is None
        else f"{f.name(phase.phase)} · {f.name(phase.model)}"
    )
    return ServerRow(
        server=f.name(server.name),
        phase=name,
        warmup=phase.kind == "warmup",
        cells=(
            Cell(f.count(phase.scrapes)),
            _level(phase.running, f.number),
            _level(phase.waiting, f.number),
            _level(phase.kv_usage, f.share),
            _level(phase.in_flight, f.number),
            Cell(f.count(phase.preemptions)),
            Cell(f.share(phase.cached_share)),
            Cell(f.number(phase.output_tok_s)),
            Cell(f.number(phase.ours_output_tok_s)),
            _ratio(phase.output_ratio),
        ),
    )


def _level(level: Level, write: Write) -> Cell:
    if level.max is None:
        return Cell(write(level.mean))
    most = level.max if write is f.share else float(round(level.max))
    return Cell(write(level.mean), f"at most {write(most)}")


def _ratio(ratio: float | None) -> Cell:
    if ratio is None:
        return Cell(f.UNKNOWN)
    text = f.times(round(ratio, 2))
    if abs(ratio - 1) <= AGREES:
        return Cell(text)
    return Cell(text, "more than here" if ratio > 1 else "less than here", bad=True)
