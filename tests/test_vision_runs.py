"""Pictures and papers through the public command, against the simulator."""

from __future__ import annotations

import json

import pytest
from commandline import loadlib, scenario

from loadlib import run as runs
from loadlib.sample import Outcome


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
