"""A calibration for people: the table of its steps, and the one sentence."""

from __future__ import annotations

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from loadlib.calibration import EVENTS_PER_S, Calibration, Step, load

COLUMNS = (
    "streams", "events\nper s", "deliv-\nered", "TTFT p50\nerror ms", "TTFT p99\nerror ms",
    "icl p99\nerror ms", "CPU s /\n100k ev", "health", "believed",
)  # fmt: skip
STYLES = {"ok": "green", "warn": "yellow", "bad": "red"}


def table(calibration: Calibration) -> Table:
    """One row per step."""
    made = Table(
        *COLUMNS, box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True
    )
    for column in made.columns[:-2]:
        column.justify = "right"
    for step in calibration.steps:
        made.add_row(
            f"{step.streams:,}",
            f"{step.events_per_s:,.0f}",
            _text(step.delivered, "{:.1%}"),
            _text(step.ttft_p50_error_ms, "{:+.2f}"),
            _text(step.ttft_p99_error_ms, "{:+.2f}"),
            _text(step.icl_p99_error_ms, "{:+.2f}"),
            _text(step.cpu_s_per_100k, "{:.2f}"),
            Text(step.health, style=STYLES[step.health]),
            Text("no", style="red") if step.doubts else Text("yes", style="green"),
        )
    return made


def sentence(calibration: Calibration) -> str:
    """The load up to which this machine can be believed, and what happens beyond it."""
    good, bad = calibration.believed, calibration.doubted
    if bad is None:
        assert good is not None
        return f"This machine can be believed up to {load(good)}, the highest load tried."
    what = f"{bad.doubts[0]}{_blame(bad)}"
    if good is None:
        at = f"{bad.streams:,} streams × {EVENTS_PER_S} events/s"
        return f"This machine cannot be believed even at {at}: {what}."
    return f"This machine can be believed up to {load(good)}; at {bad.streams:,} streams {what}."


def as_json(calibration: Calibration) -> bytes:
    """The calibration with what follows from it: every step's doubts, and the believed load."""
    data = msgspec.to_builtins(calibration)
    for row, step in zip(data["steps"], calibration.steps, strict=True):
        row["doubts"] = step.doubts
    good = calibration.believed
    data["believed_streams"] = None if good is None else good.streams
    data["believed_events_per_s"] = None if good is None else good.events_per_s
    return msgspec.json.encode(data)


def show(calibration: Calibration, console: Console) -> None:
    """Print table, sentence, and every further doubt about the step that failed."""
    console.print(table(calibration))
    console.print(Text(sentence(calibration)), soft_wrap=True)
    bad = calibration.doubted
    for doubt in bad.doubts[1:] if bad is not None else ():
        console.print(Text(f"  also: {doubt}"), soft_wrap=True)


def _blame(step: Step) -> str:
    if not step.server_limited or step.server_late_p99_ms is None:
        return ""
    return (
        f", but the truth server itself was {step.server_late_p99_ms:.1f} ms late (p99): the limit"
        " may be its own, not the client's"
    )


def _text(value: float | None, form: str) -> str:
    return "?" if value is None else form.format(value)
