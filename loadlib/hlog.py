"""The text of `.hlog` files: standard HdrHistogram interval logs, V2 payloads, with tags. Pure.

    #[Histogram log format version 1.3]
    #[StartTime: 1767225600.000 (seconds since epoch), 2026-01-01T00:00:00Z]
    "StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"
    Tag=gpt-4o/chat/measure,1767225601.000,1.000,812.350,HISTFAAAA…

Timestamps are seconds since the epoch, the interval's maximum is in the metric's shown unit
(ms, tok/s), the payload holds recorded integers. One tag is one key, each part percent-encoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from urllib.parse import quote, unquote

from loadlib.histogram import Histogram
from loadlib.metrics import SCALE

Key = tuple[str, str, str]
"""(model, workload, phase)."""

_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One interval of one (model, workload, phase); instants in Unix epoch seconds."""

    key: Key
    start_s: float
    length_s: float
    histogram: Histogram


def header(start_ns: int) -> str:
    """What a log begins with; `start_ns` in Unix epoch ns."""
    seconds = start_ns / _NS
    iso = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return (
        "#[Histogram log format version 1.3]\n"
        f"#[StartTime: {seconds:.3f} (seconds since epoch), {iso}]\n"
        '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"\n'
    )


def line(key: tuple[str, str, str], start_ns: int, end_ns: int, encoded: bytes) -> str:
    """One interval; `encoded` is what `Histogram.encode` gave."""
    head, _, payload = encoded.rpartition(b":")
    largest = int(head.split(b",")[2]) / SCALE
    start, length = start_ns / _NS, (end_ns - start_ns) / _NS
    return f"Tag={tag(key)},{start:.3f},{length:.3f},{largest:.3f},{payload.decode()}\n"


@lru_cache(maxsize=1024)
def tag(key: tuple[str, str, str]) -> str:
    """`model/workload/phase`, each part percent-encoded: no comma, space or slash within."""
    return "/".join(quote(part, safe="") for part in key)


def parse(lines: Iterable[str]) -> Iterator[Entry]:
    """The intervals of a log. A last line without its end (`kill -9`) is passed over.

    Raises ValueError, naming the line, for a complete line that is no interval.
    """
    for number, key, start_s, length_s, payload in _intervals(lines):
        with _line_named(number):
            hist = Histogram.decode(payload)
        yield Entry(key, start_s, length_s, hist)


def add_up(lines: Iterable[str]) -> Iterator[dict[Key, Histogram]]:
    """All intervals of a key as one: what `parse` gives, merged, in half the time.

    One dict, yielded after each interval that was added to it. Raises ValueError as `parse` does.
    """
    sums: dict[Key, Histogram] = {}
    for number, key, _, _, payload in _intervals(lines):
        with _line_named(number):
            sums.setdefault(key, Histogram()).merge_encoded(payload)
        yield sums


def _intervals(lines: Iterable[str]) -> Iterator[tuple[int, Key, float, float, bytes]]:
    """(line, key, start s, length s, payload)."""
    for number, text in enumerate(lines, 1):
        if not text.startswith("Tag=") or not text.endswith("\n"):
            continue
        with _line_named(number):
            name, start, length, _largest, payload = text[4:].rstrip("\n").split(",")
            found = number, _key(name), float(start), float(length), payload.encode()
        yield found


@lru_cache(maxsize=1024)
def _key(name: str) -> Key:
    model, workload, phase = (unquote(part) for part in name.split("/"))
    return model, workload, phase


@contextmanager
def _line_named(number: int) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from None
