"""Every error loadlib raises on purpose, and the exit codes a run can end with.

    LoadlibError              a message for the person reading it, and an exit code
    ├── UsageError (2)        the command line asks for something that cannot be done
    │   └── ScenarioError     … and it stands in a scenario file, at a line
    ├── PreflightError (3)    the target, its credentials or the data cannot be used
    │   └── DataError         … and it stands in a data file, at a line
    └── AbortError (4)        a run had to stop by itself: budget, breaker, target gone

What a *server* does wrong is never an exception: it is an `Outcome` (see `sample`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum

from loadlib.redact import one_line


class ExitCode(IntEnum):
    """What the process says to the shell; the names are used in docs and reports."""

    PASS = 0
    INTERNAL = 1
    USAGE = 2
    PREFLIGHT = 3
    ABORTED = 4
    SLO_FAILED = 5
    REGRESSED = 6
    INCONCLUSIVE = 7
    SIGINT = 130
    SIGTERM = 143


class LoadlibError(Exception):
    """Root of all deliberate errors; `str(error)` is one line fit for a terminal, whatever the
    names of files and models in it are."""

    exit_code = ExitCode.INTERNAL

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(message))


class UsageError(LoadlibError):
    """The command line, or a combination of options, is wrong."""

    exit_code = ExitCode.USAGE


class ScenarioError(UsageError):
    """A scenario file is wrong; the message starts with `file:line` where it is known."""

    def __init__(self, message: str, *, file: str | None = None, line: int | None = None) -> None:
        self.file, self.line = file, line
        super().__init__(_located(message, file, line))


class PreflightError(LoadlibError):
    """The target cannot be reached, refuses the key, or a precondition of the run fails."""

    exit_code = ExitCode.PREFLIGHT


class DataError(PreflightError):
    """A conversation or trace file is wrong; the message starts with `file:line`."""

    def __init__(self, message: str, *, file: str | None = None, line: int | None = None) -> None:
        self.file, self.line = file, line
        super().__init__(_located(message, file, line))


class AbortError(LoadlibError):
    """A run stopped itself before its end."""

    exit_code = ExitCode.ABORTED


def nearest(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the known word closest to `word`, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _located(message: str, file: str | None, line: int | None) -> str:
    if file is None:
        return message
    return f"{file}:{line}: {message}" if line is not None else f"{file}: {message}"
