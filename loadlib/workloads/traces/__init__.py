"""Trace files: when requests came in production, and how long they were or what they said.

    format     one request                                                    a file is known by
    Azure      2023-11-16 18:17:03.9799600,4808,10                            its header
    BurstGPT   5,ChatGPT,472,18,490,Conversation log                          its header
    Mooncake   {"timestamp": 3000, "input_length": 6758, "output_length": 500, …}    its first line
    batch      {"custom_id": "1", "body": {"messages": […], …}, …}                   likewise
    own        a line of a run folder's requests.jsonl.gz                            likewise

Any of them may be gzipped. A file is read line by line and kept as a few bytes a request
(`recorded`). A broken line is a `DataError` with its number, or is left out and counted with
`skip_invalid`. Files come from anywhere: lines, numbers, nesting and sizes are bounded, and no text
of a file is repeated in a message, but for the labels that `only` could have chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from loadlib.errors import DataError, ScenarioError, nearest
from loadlib.redact import redact
from loadlib.workloads.files import opened
from loadlib.workloads.traces.azure import AZURE
from loadlib.workloads.traces.batch import BATCH
from loadlib.workloads.traces.burstgpt import BURSTGPT
from loadlib.workloads.traces.lines import Lines
from loadlib.workloads.traces.mooncake import BLOCK_TOKENS, MOONCAKE
from loadlib.workloads.traces.own import FILE, OWN
from loadlib.workloads.traces.recorded import Recorded, Store
from loadlib.workloads.traces.row import Format, InvalidError, Reader, Row

__all__ = ["BLOCK_TOKENS", "FORMATS", "Only", "Recorded", "load"]

MAX_SPAN_NS = 366 * 86_400 * 10**9
_SEEN, _LABEL_CHARS = 20, 40  # labels that a message can name

FORMATS: tuple[Format, ...] = (AZURE, BURSTGPT, MOONCAKE, BATCH, OWN)

Only = Mapping[str, Sequence[str]]
"""Label → the values of which requests are wanted."""


def load(path: Path | str, *, skip_invalid: bool = False, only: Only | None = None) -> Recorded:
    """Read a trace of any known format; of a run folder its `requests.jsonl.gz`.

    Raises DataError (with file and line) for a file that cannot be read or is of no known format,
    for the first broken line unless `skip_invalid`, and when no request remains; ScenarioError for
    an `only` by what the format does not have.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    with opened(path) as file:
        return _collect(Lines(file, str(path), lenient=skip_invalid), str(path), skip_invalid, only)


def _collect(lines: Lines, name: str, skip_invalid: bool, only: Only | None) -> Recorded:
    rest = iter(lines)
    first = next(rest, None)
    if first is None:
        raise DataError("is empty: no request in it", file=name)
    known, reader = _known(first[1], name, first[0])
    wanted = _Wanted(known, reader, only or {})
    store, parse = Store(known), reader.parse
    invalid = failed = 0
    for number, line in rest if known.header else chain([first], rest):
        try:
            row = parse(line)
            if not wanted(row):
                continue
            if row.failed:
                failed += 1
                continue
            _refuse_far(row, store)
            store.add(row)
        except InvalidError as error:
            if not skip_invalid:
                raise DataError(str(error), file=name, line=number) from error
            invalid += 1
    invalid += lines.torn
    if not len(store):
        raise DataError(f"no request in it{_why_none(invalid, failed, wanted)}", file=name)
    return store.recorded(invalid=invalid, failed=failed)


def _refuse_far(row: Row, store: Store) -> None:
    if store.first_ns is None:
        store.first_ns = row.at_ns
    if abs(row.at_ns - store.first_ns) > MAX_SPAN_NS:
        raise InvalidError("a timestamp more than a year from the first one")


def _known(first: bytes, name: str, line: int) -> tuple[Format, Reader]:
    """The format of a file that starts with `first`, and how to read its lines."""
    for known in FORMATS:
        if (reader := known.open(first)) is not None:
            return known, reader
    expected = "; or ".join(one.example for one in FORMATS)
    raise DataError(f"not a known trace: expected {expected}", file=name, line=line)


class _Wanted:
    """Whether a row is one that `only` chooses; remembers some of what there was."""

    def __init__(self, known: Format, reader: Reader, only: Only) -> None:
        for label in only.keys() - set(reader.labels):
            has = f"it has {', '.join(reader.labels)}" if reader.labels else "it has no labels"
            hint = nearest(label, reader.labels)
            raise ScenarioError(f"only: {known.name} traces know no {label}{hint}: {has}")
        self._places = [(reader.labels.index(name), set(only[name])) for name in only]
        self._names = reader.labels
        self.seen: list[dict[str, None]] = [{} for _ in reader.labels]

    def __call__(self, row: Row) -> bool:
        if not self._places:
            return True
        for seen, label in zip(self.seen, row.labels, strict=True):
            if len(seen) < _SEEN:
                seen[label[:_LABEL_CHARS]] = None
        return all(row.labels[place] in values for place, values in self._places)

    def choices(self) -> Iterator[str]:
        """What could have been chosen, for people."""
        for place, _ in self._places:
            there = ", ".join(redact(one, limit=_LABEL_CHARS) for one in self.seen[place])
            yield f"{self._names[place]}: {there}"


def _why_none(invalid: int, failed: int, wanted: _Wanted) -> str:
    reasons = [f"{invalid:,} broken lines left out"] if invalid else []
    if failed:
        reasons.append(f"{failed:,} requests without an answer left out")
    if any(wanted.seen):
        reasons.append(f"`only` chooses by {'; '.join(wanted.choices())}")
    return f" ({'; '.join(reasons)})" if reasons else ""
