"""`requests.jsonl.gz` of a run folder: what a run sent, at the instants it meant to.

A request of which no answer was counted (failed, cancelled, dropped) has no length to replay.
"""

from __future__ import annotations

import msgspec

from loadlib.workloads.traces.row import Format, Reader, Row, decoded, instant_ns, keys, tokens

FILE = "requests.jsonl.gz"
LABELS = ("phase", "model", "workload")


class _Attempt(msgspec.Struct, gc=False):
    phase: str
    model: str
    workload: str
    intended_ns: int
    input_tokens: int | None = None
    output_tokens: int | None = None


_DECODER = msgspec.json.Decoder(_Attempt)


def _reader(first: bytes) -> Reader | None:
    known = keys(first).keys() >= {*LABELS, "intended_ns", "outcome"}
    return Reader(_row, LABELS) if known else None


def _row(line: bytes) -> Row:
    attempt = decoded(_DECODER, line)
    prompt, output = attempt.input_tokens, attempt.output_tokens
    return Row(
        at_ns=instant_ns(attempt.intended_ns, 1, "intended_ns", "nanoseconds"),
        prompt=None if prompt is None else tokens(prompt, "input_tokens"),
        output=None if output is None else tokens(output, "output_tokens"),
        labels=(attempt.phase, attempt.model, attempt.workload),
        failed=prompt is None or not output,
    )


OWN = Format(
    "run folder",
    f"the lines of a run folder's {FILE}",
    _reader,
)
