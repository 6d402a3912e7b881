"""One model, two clocks: what a client measures of the server, and what virtual time foresees."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from commandline import loadlib

from loadlib import rows
from loadlib.engine import Work, replica, simulate
from loadlib.simulator import profiles

pytestmark = pytest.mark.alone

# Eight of these prompts a second take 58 % of its time; the rest is just enough for the answers, so
# that requests wait for a place now and then, and the chunks of their prompts hold up the others.
PROFILE = """
default: {first_token_delay_ms: 20, step_ms: 8, step_us_per_prefill_token: 80,
          step_us_per_sequence: 300, step_ns_per_context_token: 60, token_budget: 256,
          max_running: 12, kv_blocks: 800, context_window: 8000}
"""


@pytest.mark.slow
def test_the_server_and_the_model_agree_on_the_same_arrivals(
    tmp_path: Path, simulators: Callable[..., Any]
) -> None:
    path = tmp_path / "replica.yaml"
    path.write_text(PROFILE)
    server = simulators("--profile", str(path))
    done = loadlib(
        "run", "--base-url", server.base_url, "--model", "replica", "--rate", "8/s",
        "--requests", 80, "--json", "--out", tmp_path / "reports",
        "--set", "workloads.chat.prompt_tokens=900", "--set", "workloads.chat.output_tokens=40",
    )  # fmt: skip
    assert done.code in (0, 1), done.err
    (group,) = json.loads(done.out)["groups"]
    assert group["requests"]["ok"] == 80
    samples = sorted(
        rows.read(tmp_path / "reports" / "latest" / "requests.jsonl.gz"), key=lambda s: s.sent_ns
    )
    measured = [sample.first_token_ns - sample.sent_ns for sample in samples]

    model = profiles.load(str(path)).default
    assert model is not None
    arrivals = [
        (sample.sent_ns, Work(sample.input_tokens, sample.output_tokens)) for sample in samples
    ]
    foreseen = [s.first_ns - s.arrival_ns for s in simulate(replica(model.speed), arrivals)]
    alone_ns = 20e6 + 4 * 8e6 + 900 * 80e3
    assert _at(0.9, foreseen) > 1.3 * alone_ns  # they do get into each other's way
    for p in (0.5, 0.99):
        assert _at(p, measured) == pytest.approx(_at(p, foreseen), rel=0.05), p


def _at(p: float, values: Sequence[int]) -> int:
    return sorted(values)[math.ceil(p * len(values)) - 1]
