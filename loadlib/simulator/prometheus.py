"""`/metrics`: what the server itself counted, in the names vLLM uses."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import loadlib
from loadlib.engine import Load

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# vLLM's own boundaries, in seconds.
_TTFT_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_TPOT_S = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
_E2E_S = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)


# What the engine itself knows; None is left out.
_ENGINE: tuple[tuple[str, str, str, Callable[[Load], float | None]], ...] = (
    ("vllm:num_requests_running", "gauge", "Requests that hold a place.", lambda e: e.running),
    ("vllm:num_requests_waiting", "gauge", "Requests without a place.", lambda e: e.waiting),
    ("vllm:kv_cache_usage_perc", "gauge", "KV blocks in use, 1 = all.", lambda e: e.kv_usage),
    (
        "vllm:num_preemptions_total",
        "counter",
        "Times a running request lost its KV blocks.",
        lambda e: e.preemptions,
    ),
    (
        "vllm:prefix_cache_queries_total",
        "counter",
        "Prompt tokens looked up in the prefix cache.",
        lambda e: e.prefix_queries,
    ),
    (
        "vllm:prefix_cache_hits_total",
        "counter",
        "Prompt tokens found there.",
        lambda e: e.prefix_hits,
    ),
)


@dataclass(slots=True)
class Histogram:
    """Counts per bucket; `bounds` are inclusive upper limits in seconds."""

    bounds: tuple[float, ...]
    counts: list[int] = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, ns: int) -> None:
        """Count one duration."""
        seconds = ns / 1e9
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def lines(self, name: str, labels: str) -> Iterable[str]:
        """The sample lines of this histogram."""
        running = 0
        for bound, count in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            running += count
            yield f'{name}_bucket{{{labels},le="{bound}"}} {running}'
        yield f"{name}_sum{{{labels}}} {self.total:.9f}"
        yield f"{name}_count{{{labels}}} {running}"


@dataclass(slots=True)
class Meter:
    """The counters of one model; `load` tells what the engine holds when asked."""

    load: Callable[[], Load]
    prompt_tokens: int = 0
    generation_tokens: int = 0
    finished: dict[str, int] = field(
        default_factory=lambda: {"stop": 0, "length": 0, "abort": 0, "error": 0}
    )
    ttft: Histogram = field(default_factory=lambda: Histogram(_TTFT_S))
    tpot: Histogram = field(default_factory=lambda: Histogram(_TPOT_S))
    e2e: Histogram = field(default_factory=lambda: Histogram(_E2E_S))


def page(meters: dict[str, Meter]) -> str:
    """The whole page, families in a fixed order, models by name."""
    rows = [(_labels(name), meters[name]) for name in sorted(meters)]
    loads = [(labels, meter.load()) for labels, meter in rows]
    lines: list[str] = []

    def family(name: str, kind: str, text: str, samples: Iterable[str]) -> None:
        lines.extend((f"# HELP {name} {text}", f"# TYPE {name} {kind}", *samples))

    def single(name: str, kind: str, text: str, read: Callable[[Meter], int]) -> None:
        family(name, kind, text, (f"{name}{{{labels}}} {read(m)}" for labels, m in rows))

    def histogram(name: str, text: str, read: Callable[[Meter], Histogram]) -> None:
        samples = (line for labels, m in rows for line in read(m).lines(name, labels))
        family(name, "histogram", text, samples)

    info = f'loadlib_simulator_info{{version="{loadlib.__version__}"}} 1'
    family("loadlib_simulator_info", "gauge", "What this server is.", [info])
    for name, kind, text, read in _ENGINE:
        values = ((labels, read(load)) for labels, load in loads)
        samples = (f"{name}{{{labels}}} {value}" for labels, value in values if value is not None)
        family(name, kind, text, samples)
    single(
        "vllm:prompt_tokens_total",
        "counter",
        "Prompt tokens of requests that got a first token.",
        lambda m: m.prompt_tokens,
    )
    single(
        "vllm:generation_tokens_total",
        "counter",
        "Tokens handed to clients.",
        lambda m: m.generation_tokens,
    )
    success = "vllm:request_success_total"
    family(
        success,
        "counter",
        "Finished requests by reason.",
        (
            f'{success}{{{labels},finished_reason="{reason}"}} {count}'
            for labels, m in rows
            for reason, count in m.finished.items()
        ),
    )
    histogram(
        "vllm:time_to_first_token_seconds", "Arrival to first token, as written.", lambda m: m.ttft
    )
    histogram(
        "vllm:request_time_per_output_token_seconds",
        "(last token - first token) / (tokens - 1) of finished requests.",
        lambda m: m.tpot,
    )
    histogram(
        "vllm:e2e_request_latency_seconds", "Arrival to last token, as written.", lambda m: m.e2e
    )
    return "\n".join(lines) + "\n"


def _labels(model: str) -> str:
    escaped = model.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'engine="0",model_name="{escaped}"'
