"""`python -m benchmarks.prompt_cost TOKENS`: CPU ms to build one prompt and encode its body.

In a process of its own, because counting the paragraphs of a document is remembered: what the
first prompts cost is left out, as it is where two runs of `loadlib run` are subtracted.
"""

from __future__ import annotations

import sys
import time

import msgspec

from loadlib import scenario
from loadlib.catalog import resolve
from loadlib.workloads import build

WARM, MEASURED = 10, 100
SCENARIO = """
version: 1
name: bench
models: [{name: truth, base_url: "http://127.0.0.1:9/v1", context_window: 200000}]
workloads: {bench: {kind: long_context, prompt_tokens: %d, output_tokens: 10}}
load: [{phase: measure, requests: 1, arrival: closed, users: 1}]
"""


def main(tokens: int) -> None:
    """Print the CPU milliseconds per prompt, and the bytes of the last body."""
    plan = scenario.parse(SCENARIO % tokens)
    model = resolve(plan.models[0])
    workload = build("bench", plan.workloads["bench"], seed=42)
    body = b""

    def prompts(begin: int, end: int) -> None:
        nonlocal body
        for ordinal in range(begin, end):
            messages = workload.prompt(model, ordinal).messages
            body = msgspec.json.encode({"model": model.wire, "messages": messages})

    prompts(0, WARM)
    begun_ns = time.process_time_ns()
    prompts(WARM, WARM + MEASURED)
    print((time.process_time_ns() - begun_ns) / MEASURED / 1e6, len(body))


if __name__ == "__main__":
    main(int(sys.argv[1]))
