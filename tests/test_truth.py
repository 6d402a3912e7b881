"""What a run reports against what the simulator was told to do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DELAY_MS, PREFILL_TOK_S, OUTPUT_TOK_S, PROMPT, OUTPUT = 300.0, 10_000, 50, 500, 40
TTFT_MS = DELAY_MS + 1000 * PROMPT / PREFILL_TOK_S
TPOT_MS = 1000 / OUTPUT_TOK_S

PROFILE = f"""
models:
  steady:
    first_token_delay_ms: {DELAY_MS}
    prefill_tok_s: {PREFILL_TOK_S}
    output_tok_s: {OUTPUT_TOK_S}
"""


@pytest.mark.slow
@pytest.mark.parametrize("client", ["tape", "sdk"])
def test_reported_medians_are_the_configured_truth(
    tmp_path: Path, simulators: Callable[..., Any], client: str
) -> None:
    profile = tmp_path / "steady.yaml"
    profile.write_text(PROFILE)
    server = simulators("--profile", str(profile))
    command = [
        *(sys.executable, "-m", "loadlib", "run", "--base-url", server.base_url),
        *("--model", "steady", "--rate", "8/s", "--requests", "60", "--json"),
        *("--set", f"workloads.chat.prompt_tokens={PROMPT}"),
        *("--set", f"workloads.chat.output_tokens={OUTPUT}", "--set", f"client={client}"),
        *("--out", str(tmp_path / "reports")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    (group,) = json.loads(done.stdout)["groups"]
    assert group["requests"]["ok"] == 60
    assert group["tokens"]["input"] == 60 * PROMPT
    assert group["tokens"]["output"] == 60 * OUTPUT
    for metric, truth in (("ttft", TTFT_MS), ("sent_ttft", TTFT_MS), ("tpot", TPOT_MS)):
        reported = group["metrics"][metric]["p50"]
        assert abs(reported - truth) <= max(2.0, 0.02 * truth), (metric, reported, truth)
