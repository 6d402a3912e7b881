"""A server's page of metrics (Prometheus text) → the few figures that load is compared with.

What is looked for stands in `KINDS`; everything else on a page is not even parsed. A page is
never trusted: its size, its lines and the samples on it are limited, and what cannot be
understood is unknown, not 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from loadlib.errors import LoadlibError

MAX_BYTES = 4 * 1024 * 1024
MAX_LINES = 50_000
MAX_OUR_BYTES = 256 * 1024  # of the lines that are parsed: those of 64 engines have 100 KiB
MAX_LINE_BYTES = 4096

Sort = Literal["gauge", "share", "counter"]

SERIES: dict[str, Sort] = {
    "running": "gauge",
    "waiting": "gauge",
    "kv_usage": "share",
    "input_tokens": "counter",
    "output_tokens": "counter",
    "cache_queries": "counter",
    "cached_tokens": "counter",
    "preemptions": "counter",
    "finished": "counter",
}
"""What is kept of a page. Gauges and counters of several engines are added up; of shares (from 0
to 1) the largest counts.

    running, waiting   requests that are worked on, that wait for a place
    kv_usage           share of the KV cache in use
    input_tokens       prompt tokens, those out of a cache included
    output_tokens      generated tokens
    cache_queries      prompt tokens looked up in the prefix cache …
    cached_tokens      … and found there
    preemptions        times a running request lost its place
    finished           requests that ended, however
"""

_VLLM: dict[str, tuple[str, ...]] = {
    "running": ("vllm:num_requests_running",),
    "waiting": ("vllm:num_requests_waiting",),
    "kv_usage": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    "input_tokens": ("vllm:prompt_tokens_total",),
    "output_tokens": ("vllm:generation_tokens_total",),
    "cache_queries": (
        "vllm:prefix_cache_queries_total",
        "vllm:gpu_prefix_cache_queries_total",
    ),
    "cached_tokens": ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"),
    "preemptions": ("vllm:num_preemptions_total",),
    "finished": ("vllm:request_success_total",),
}

KINDS: dict[str, dict[str, tuple[str, ...]]] = {
    "vLLM": _VLLM,
    "SGLang": {
        "running": ("sglang:num_running_reqs",),
        "waiting": ("sglang:num_queue_reqs",),
        "kv_usage": ("sglang:token_usage",),
        "input_tokens": ("sglang:prompt_tokens_total",),
        "output_tokens": ("sglang:generation_tokens_total",),
        "cache_queries": ("sglang:prompt_tokens_total",),
        "cached_tokens": ("sglang:cached_tokens_total",),
        "preemptions": ("sglang:num_retracted_requests_total",),
        "finished": ("sglang:num_requests_total",),
    },
    "llama.cpp": {
        "running": ("llamacpp:requests_processing",),
        "waiting": ("llamacpp:requests_deferred",),
        "kv_usage": ("llamacpp:kv_cache_usage_ratio",),
        # Its prompt tokens are those it had to work on; older servers do not count the others.
        "input_tokens": (
            "llamacpp:prompt_tokens_total + llamacpp:prompt_tokens_cached_total",
            "llamacpp:prompt_tokens_total",
        ),
        "output_tokens": ("llamacpp:tokens_predicted_total",),
        "cache_queries": ("llamacpp:prompt_tokens_total + llamacpp:prompt_tokens_cached_total",),
        "cached_tokens": ("llamacpp:prompt_tokens_cached_total",),
    },
    "loadlib simulator": {**_VLLM, "info": ("loadlib_simulator_info",)},
}
"""Kind of server → series → its names, the first that is on the page counts (newer ones stand
before older ones); `a + b` is a sum. A server is of the kind most of whose names it has."""

# Labels by which the processes of one engine are told apart, each of which says the same.
RANKS = frozenset({b"tp_rank", b"pp_rank", b"moe_ep_rank"})


def _plain(name: str) -> str:
    """`vllm:x` is also written `vllm_x`, where something on the way knows no colons."""
    return name.replace(":", "_", 1)


Names = dict[str, tuple[tuple[str, ...], ...]]
_NAMES: dict[str, Names] = {
    kind: {
        series: tuple(tuple(map(_plain, choice.split(" + "))) for choice in choices)
        for series, choices in names.items()
    }
    for kind, names in KINDS.items()
}
_WANTED: dict[str, set[str]] = {}  # by prefix
for _name in {n for names in _NAMES.values() for row in names.values() for c in row for n in c}:
    _prefix, _, _rest = _name.partition("_")
    _WANTED.setdefault(_prefix, set()).add(_rest)
# A page has a thousand lines of buckets for ten of ours: these are found without the others.
_OURS = re.compile(
    rb"\n(# TYPE[ \t]+)?(%b)(?=[ \t{])([^\n]*+)"
    % "|".join(
        f"{prefix}[:_](?:{'|'.join(sorted(rest))})" for prefix, rest in _WANTED.items()
    ).encode()
)
_SAMPLE = re.compile(  # behind the name: labels, value, time
    rb'[ \t]*+(?:\{((?:[^"}]|"(?:[^"\\]|\\.)*+")*+)\}[ \t]*+)?'
    rb"([-+0-9.a-zA-Z]++)(?:[ \t]++[-+0-9.eE]++)?[ \t\r]*+(?:#.*+)?"
)
_LABEL = re.compile(rb'([a-zA-Z_][a-zA-Z0-9_]*+)[ \t]*+=[ \t]*+"((?:[^"\\]|\\.)*+)"')

Labels = tuple[tuple[bytes, bytes], ...]


class PageError(LoadlibError):
    """The page tells nothing, and why."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one page said: the kind of server, and `SERIES` as far as they are known."""

    kind: str
    values: Mapping[str, float]


def read(page: bytes, pause: Callable[[], object] | None = None) -> Reading:
    """The figures of a page; `pause` is called after every sample, about every 20 µs.

    Raises `PageError` where none of ours are on it, or too many.
    """
    if len(page) > MAX_BYTES:
        raise PageError(f"the page is larger than {MAX_BYTES // 1024**2} MiB")
    if page.count(b"\n") > MAX_LINES:
        raise PageError(f"the page has more than {MAX_LINES:,} lines")
    samples: dict[str, _Metric] = {}
    ours = 0
    for found in _OURS.finditer(b"\n" + page):
        announced, name, rest = found.groups()
        ours += len(found[0])
        if ours > MAX_OUR_BYTES:
            raise PageError(f"more than {MAX_OUR_BYTES // 1024} KiB of the page are to be parsed")
        metric = samples.setdefault(_plain(name.decode()), _Metric())
        if announced:
            metric.announce(rest)
        else:
            metric.add(rest)
        if pause is not None:
            pause()
    kind, names = max(_NAMES.items(), key=lambda one: _matches(one[1], samples))
    if not _matches(names, samples):
        raise PageError(f"none of the metrics of {', '.join(KINDS)} is on the page")
    values = {}
    for series, sort in SERIES.items():
        value = _first(names.get(series, ()), sort, samples)
        if value is not None:
            values[series] = value
    return Reading(kind, values)


def _matches(names: Names, samples: Mapping[str, _Metric]) -> int:
    """How many of a kind's series the page has."""
    return sum(
        any(all(name in samples for name in choice) for choice in choices)
        for choices in names.values()
    )


def _first(
    choices: Iterable[tuple[str, ...]], sort: Sort, samples: Mapping[str, _Metric]
) -> float | None:
    for choice in choices:
        metrics = [samples.get(name) for name in choice]
        parts = [None if metric is None else metric.value(sort) for metric in metrics]
        known = [part for part in parts if part is not None]
        if len(known) == len(parts):
            return sum(known)
    return None


class _Metric:
    """The samples of one name."""

    __slots__ = ("_by_engine", "_counter", "_labels", "_unknown")

    def __init__(self) -> None:
        self._labels: set[Labels] = set()
        self._by_engine: dict[Labels, float] = {}
        self._counter = False  # announced as one
        self._unknown = False  # one of its samples makes no sense, so neither does their sum

    def announce(self, sort: bytes) -> None:
        """Its `# TYPE`."""
        self._counter |= sort.strip() == b"counter"

    def add(self, rest: bytes) -> None:
        """What stands behind the name in one line."""
        sample = _SAMPLE.fullmatch(rest) if len(rest) <= MAX_LINE_BYTES else None
        value = None if sample is None else _number(sample[2])
        if sample is None or value is None:
            self._unknown = True
            return
        labels, engine = _labels(sample[1] or b"")
        if labels in self._labels:
            self._unknown = True
        self._labels.add(labels)
        self._by_engine[engine] = max(value, self._by_engine.get(engine, 0.0))

    def value(self, sort: Sort) -> float | None:
        """All engines together."""
        if self._unknown:
            return None
        found = self._by_engine.values()
        if not found:  # announced, and not counted once
            return 0.0 if sort == "counter" and self._counter else None
        if sort == "share":
            most = max(found)
            return most if most <= 1 else None
        return sum(found)


@lru_cache(maxsize=1024)  # they are the same on every page of a server
def _labels(text: bytes) -> tuple[Labels, Labels]:
    """All labels, and those that tell engines apart."""
    labels = tuple(sorted(_LABEL.findall(text)))
    return labels, tuple(label for label in labels if label[0] not in RANKS)


def _number(text: bytes) -> float | None:
    """A count or a share; None for what is neither."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and 0 <= value < 2**63 else None
