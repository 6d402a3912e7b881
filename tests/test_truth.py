"""What a run reports against what the simulator was told to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commandline import loadlib

pytestmark = pytest.mark.alone

DELAY_MS, PREFILL_TOK_S, OUTPUT_TOK_S, PROMPT, OUTPUT = 300.0, 10_000, 50, 500, 40
REQUESTS = 32
TTFT_MS = DELAY_MS + 1000 * PROMPT / PREFILL_TOK_S
TPOT_MS = 1000 / OUTPUT_TOK_S

PROFILE = f"""
models:
  steady:
    first_token_delay_ms: {DELAY_MS}
    prefill_tok_s: {PREFILL_TOK_S}
    output_tok_s: {OUTPUT_TOK_S}
"""


Group = dict[str, Any]


@pytest.fixture(scope="module")
def groups(tmp_path_factory: Any, simulators: Callable[..., Any]) -> dict[str, Group]:
    """The same load through our own wire and through the SDK's."""
    folder = tmp_path_factory.mktemp("truth")
    profile = folder / "steady.yaml"
    profile.write_text(PROFILE)
    server = simulators("--profile", str(profile))
    return {client: measured(server.base_url, folder, client) for client in ("tape", "sdk")}


def measured(base_url: str, folder: Path, client: str) -> Group:
    done = loadlib(
        "run", "--base-url", base_url, "--model", "steady", "--rate", "8/s",
        "--requests", REQUESTS, "--json",
        "--set", f"workloads.chat.prompt_tokens={PROMPT}",
        "--set", f"workloads.chat.output_tokens={OUTPUT}", "--set", f"client={client}",
        "--out", folder / client,
    )  # fmt: skip
    assert done.code == 0, done.err
    summary = json.loads(done.out)
    checks = {check["name"]: check["value"] for check in summary["health"]["checks"]}
    return summary["groups"][0] | {"user_clock_share": checks["user_clock_share"]}


def near(value: float, truth: float, slack_ms: float = 2.0) -> bool:
    return abs(value - truth) <= max(slack_ms, 0.02 * truth)


@pytest.mark.slow
@pytest.mark.parametrize("client", ["tape", "sdk"])
def test_reported_medians_are_the_configured_truth(groups: dict[str, Group], client: str) -> None:
    group = groups[client]
    assert group["requests"]["ok"] == REQUESTS
    assert group["tokens"]["input"] == REQUESTS * PROMPT
    assert group["tokens"]["output"] == REQUESTS * OUTPUT
    for metric, truth in (("ttft", TTFT_MS), ("sent_ttft", TTFT_MS), ("tpot", TPOT_MS)):
        reported = group["metrics"][metric]["p50"]
        assert near(reported, truth), (metric, reported, truth)


@pytest.mark.slow
def test_the_cross_check_agrees_on_every_metric(groups: dict[str, Group]) -> None:
    tape, sdk = groups["tape"]["metrics"], groups["sdk"]["metrics"]
    assert tape.keys() == sdk.keys()
    for name, mine in tape.items():
        theirs = sdk[name]
        assert mine["unit"] == theirs["unit"]
        # Connections are the pool's affair; seconds begin where each run happened to begin.
        if name not in ("connect", "tls", "output_tok_s"):
            assert mine["n"] == theirs["n"], name
            # Headers take the SDK some ms more, and more where the machine is busy.
            slack_ms = 5.0 if name == "ttfb" else 2.0
            assert near(mine["p50"], theirs["p50"], slack_ms), (name, mine["p50"], theirs["p50"])
    clocks = {client: group["user_clock_share"] for client, group in groups.items()}
    assert clocks == {"tape": 0.0, "sdk": 1.0}, "and each says which clock it read by"
    for same in ("requests", "outcomes", "tokens"):
        assert groups["tape"][same] == groups["sdk"][same]
