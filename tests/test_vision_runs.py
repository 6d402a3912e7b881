"""Pictures and papers through the public command: against the simulator, and on llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path

import demo_real
import pytest
import real_server
from commandline import loadlib, scenario

from loadlib import run as runs
from loadlib.quality import Flaw
from loadlib.sample import Outcome

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_pictures_and_papers_are_sent_counted_and_judged(tmp_path):
    path = scenario(
        tmp_path,
        models=["gpt-4o", "gpt-3.5-turbo", "claude-3-haiku"],
        workloads={
            "vision": {"kind": "vision", "size": "128x128", "images": 2, "detail": ["high", "low"]},
            "extract": {"kind": "extract", "form": "mixed", "size": "128x192"},
        },
        load=[{"phase": "measure", "requests": 12, "arrival": "closed", "users": 12}],
        slo=["all: error_rate < 1%"],
    )
    done = loadlib("run", path, "--json", "--allow-unhealthy", "--out", tmp_path / "reports")
    assert done.code == 0, done.err
    assert "vision: skipped for gpt-3.5-turbo (it takes no images)" in done.remarks
    assert "extract: pictures skipped for gpt-3.5-turbo (it takes no images)" in done.remarks

    groups = {(one["model"], one["workload"]): one for one in json.loads(done.out)["groups"]}
    assert set(groups) == {
        ("gpt-4o", "vision"), ("gpt-4o", "extract"), ("gpt-3.5-turbo", "extract"),
        ("claude-3-haiku", "vision"), ("claude-3-haiku", "extract"),
    }  # fmt: skip
    samples = list(runs.load((tmp_path / "reports" / "latest").resolve()).samples())
    assert {sample.outcome for sample in samples} == {Outcome.OK}
    assert all(sample.quality for sample in samples)
    assert all(sample.score == 1 for sample in samples if sample.workload == "extract")
    # images included, the simulator's own count is the one that was planned with
    assert all(sample.input_tokens == sample.asked_tokens for sample in samples)
    assert len({sample.prompt_sha for sample in samples}) == len(samples)
    assert {one.variant for one in samples if one.workload == "extract"} == {
        "receipt text", "receipt image", "invoice text", "invoice image",
    }  # fmt: skip
    details = {str(one.variant)[-4:] for one in samples if one.workload == "vision"}
    assert details == {"high", " low"}


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.skipif(
    bool(real_server.missing()),
    reason=f"not installed: {', '.join(real_server.missing())} (`make demo-real` does)",
)
def test_a_real_server_is_held_to_the_schema(tmp_path):
    """llama.cpp makes a grammar of `response_format`: what SmolLM2 reads is wrong, in good form."""
    with demo_real.serving() as base_url:
        model = {"name": real_server.MODEL, "base_url": base_url, "context_window": 2048}
        path = scenario(
            tmp_path,
            target="live",
            models=[model],
            workloads={
                "extract": {
                    "kind": "extract",
                    "papers": "invoice",
                    "locales": "en-US",
                    "output_tokens": 160,
                    "extra_body": {"temperature": 0},
                }
            },
            load=[{"phase": "measure", "requests": 2, "arrival": "closed", "users": 1}],
            slo=["all: error_rate < 1%"],
            seed=SEED,
        )
        done = loadlib("run", path, "--json", "--allow-unhealthy", "--out", tmp_path / "reports")
    assert done.code == 0, done.err
    samples = list(runs.load((tmp_path / "reports" / "latest").resolve()).samples())
    assert {sample.outcome for sample in samples} == {Outcome.OK}
    for sample in samples:
        # cut answers are no JSON; what ended by itself fits the schema, and has fields to count
        assert sample.flaw in (Flaw.TRUNCATED, Flaw.WRONG)
        assert (sample.score is None) == (sample.flaw is Flaw.TRUNCATED)
        assert sample.input_tokens >= sample.asked_tokens  # llama.cpp's template, and other tokens
    assert any(sample.finish_reason == "stop" for sample in samples)


SEED = 6  # whose first invoice SmolLM2 answers in few enough tokens
