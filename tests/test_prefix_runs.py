"""Whole runs: what a server's prefix cache finds is what `prefix` promises, and a server that
counts tokens otherwise is said to."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest
from commandline import WITH_PAGE, loadlib, scenario

from loadlib import rows

pytestmark = pytest.mark.slow

BLOCK = 16
PROFILE = f"""
default: {{step_ms: 1, step_us_per_prefill_token: 1, token_budget: 8192, max_running: 8,
          kv_blocks: 20000, block_tokens: {BLOCK}, prefix_cache: true, context_window: 32768}}
models:
  foreign: {{encoding: cl100k_base, context_window: 32768}}
"""
CHINESE = "请只根据下面的文件回答问题，不要使用任何其他的知识，也不要解释你的答案。" * 6
LONG = {"kind": "long_context", "prompt_tokens": 4_000, "output_tokens": 16}


@pytest.fixture(scope="module")
def run(simulators, tmp_path_factory):
    """One run: three kinds of prefix against one model, a foreign tokenizer behind another."""
    folder = tmp_path_factory.mktemp("prefix")
    (folder / "profile.yaml").write_text(PROFILE)
    url = simulators("--profile", str(folder / "profile.yaml"), fresh=True).base_url
    own = {"base_url": url, "context_window": 32_768}
    replica = {**LONG, "models": ["replica"]}
    path = scenario(
        folder,
        models=[{"name": "replica", **own}, {"name": "foreign", **own}],
        workloads={
            "unique": replica,
            "third": {**replica, "prefix": {"shared": "30 %"}},
            "shared": {**replica, "prefix": "shared"},
            "warm": {**replica, "prefix": "warm", "documents": 3},
            "drawn": {**replica, "prompt_tokens": {"uniform": ["1k", "4k"]},
                      "output_tokens": {"uniform": [14, 40]}, "needles": 2},
            "zh": {"kind": "long_context", "prompt_tokens": 700, "output_tokens": 16,
                   "system": CHINESE, "models": ["foreign"]},
        },
        load=[{"phase": "measure", "requests": 40, "arrival": "closed", "users": 1}],
        slo=["all: quality >= 99%"],
        target=None,
    )  # fmt: skip
    done = loadlib("run", path, "--out", folder / "out", "--allow-unhealthy", **WITH_PAGE)
    assert done.code in (0, 7), done.err
    (made,) = (one for one in (folder / "out").iterdir() if one.is_dir() and not one.is_symlink())
    summary = json.loads((made / "summary.json").read_text())
    samples = list(rows.read(made / "requests.jsonl.gz"))
    return SimpleNamespace(done=done, folder=made, summary=summary, samples=samples)


def of(run, workload):
    found = sorted((s for s in run.samples if s.workload == workload), key=lambda s: s.intended_ns)
    assert len(found) >= 6
    assert all(one.outcome == "ok" and one.quality for one in found)
    return found


def test_nothing_of_unique_documents_was_there_before(run):
    assert {one.cached_tokens for one in of(run, "unique")} == {0}
    assert {one.cached_tokens for one in of(run, "drawn")} == {0}


def test_a_shared_part_is_found_again_and_no_more(run):
    first, *others = of(run, "third")
    assert first.cached_tokens == 0
    assert all(abs(one.cached_tokens - 0.3 * one.input_tokens) <= BLOCK for one in others)


def test_a_shared_document_is_found_again_up_to_its_end(run):
    first, *others = of(run, "shared")
    assert first.cached_tokens == 0
    assert all(one.input_tokens - one.cached_tokens <= 40 + BLOCK for one in others)


def test_warm_documents_are_cold_the_first_time_only(run):
    cold = [one for one in of(run, "warm") if one.variant.endswith("cold")]
    warm = [one for one in of(run, "warm") if one.variant.endswith("warm")]
    assert len(cold) == 3
    assert {one.cached_tokens for one in cold} == {0}
    assert all(one.input_tokens - one.cached_tokens <= 40 + BLOCK for one in warm)


def test_drawn_lengths_were_delivered_and_needles_counted(run):
    drawn = of(run, "drawn")
    assert all(one.input_tokens == one.asked_tokens for one in drawn)
    assert all(1_000 <= one.input_tokens <= 4_000 for one in drawn)
    assert len({one.input_tokens for one in drawn}) == len(drawn)
    (group,) = (one for one in run.summary["groups"] if one["workload"] == "drawn")
    assert group["quality"]["score"] == 1.0
    assert all(
        re.fullmatch(r"(512|\d+Ki)-\d+Ki 2 needles", name) for name in group["quality"]["variants"]
    )


def test_a_server_that_counts_otherwise_is_said_to_on_every_page(run):
    (group,) = (one for one in run.summary["groups"] if one["workload"] == "zh")
    missed = group["delivered_tokens"] / group["cut_tokens"] - 1
    assert missed > 0.05
    said = f"prompt tokens asked for (+{100 * missed:.1f} %)"
    for page in (run.done.out + run.done.err, (run.folder / "summary.md").read_text(),
                 (run.folder / "report.html").read_text()):  # fmt: skip
        text = re.sub(r"\s+", " ", page).replace("\\", "")
        assert text.count(said) == 1
        assert f"delivered {group['delivered_tokens']:,} of {group['cut_tokens']:,}" in text
        assert "the server's tokenizer" in text.replace("&#39;", "'")
