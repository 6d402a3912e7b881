"""Keys and terminal escapes are kept out of the logs of this process, whoever writes them.

Locust logs what a task raises, at `--loglevel DEBUG` libraries log what servers sent, and the web
UI shows the log: all of it passes a handler, and the handler's formatter masks it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from loadlib.redact import redact

MAX_LINES, MAX_LINE = 400, 4_000  # of one record: a traceback, and whatever a server sent
_LOGGERS = (None, "locust", "locust.stats_logger")  # which Locust gives handlers of their own


class Masking(logging.Formatter):
    """Another formatter's text, each line of it redacted."""

    def __init__(self, inner: logging.Formatter, secrets: Iterable[str]) -> None:
        super().__init__()
        self.inner, self.secrets = inner, tuple(secrets)

    def format(self, record: logging.LogRecord) -> str:
        """As the other one's."""
        lines = self.inner.format(record).split("\n")
        kept = [self._line(line) for line in lines[:MAX_LINES]]
        return "\n".join([*kept, *(["…"] if len(lines) > MAX_LINES else [])])

    def _line(self, line: str) -> str:
        indent = line[: len(line) - len(line.lstrip(" "))]
        return indent + redact(line, self.secrets, limit=MAX_LINE)


def mask_logs(secrets: Iterable[str]) -> None:
    """From now on; again once others are known."""
    known = tuple(dict.fromkeys(secrets))
    seen = [handler for name in _LOGGERS for handler in logging.getLogger(name).handlers]
    for handler in dict.fromkeys(seen):
        inner = handler.formatter or logging.Formatter()
        inner = inner.inner if isinstance(inner, Masking) else inner
        handler.setFormatter(Masking(inner, known))
