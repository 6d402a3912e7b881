"""What a run is about, decided before its first request."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadlib.errors import ScenarioError, UsageError
from loadlib.session import Choice, estimate_usd, open_session

LIVE = """
version: 1
{target}
models: [{{name: own, base_url: "http://127.0.0.1:1/v1", price: {{input_usd_per_mtok: 10,
           output_usd_per_mtok: 100}}}}]
workloads: {{chat: {{kind: chat, prompt_tokens: 100, output_tokens: 10}}}}
load:
  - {{phase: warmup, duration: 1s, arrival: closed, users: 1}}
  - {{phase: measure, requests: 1000, arrival: poisson, rate: 5/s}}
{more}
"""
PLANNED_USD = 1000 * (100 * 10 + 10 * 100) / 1e6  # 2 USD


def opened(tmp_path: Path, more: str = "", target: str = ""):
    file = tmp_path / "s.yaml"
    file.write_text(LIVE.format(more=more, target=target))
    return open_session(Choice(file=str(file)))


def test_what_is_known_is_estimated_though_a_closed_warmup_is_not(tmp_path):
    estimate = estimate_usd(opened(tmp_path))
    assert estimate.usd == pytest.approx(PLANNED_USD)
    assert estimate.open_ended == ("warmup",)
    assert str(estimate) == (
        "up to 2.0000 USD at list price, and what warmup sends "
        "(a closed loop by duration, or tasks of custom workloads)"
    )


def test_what_tasks_send_themselves_is_named_and_not_counted(tmp_path):
    file = tmp_path / "s.yaml"
    text = LIVE.format(more="", target="").replace("duration: 1s", "requests: 5")
    file.write_text(text.replace("{chat: {", "{mine: {kind: custom}, chat: {"))
    estimate = estimate_usd(open_session(Choice(file=str(file))))
    assert estimate.open_ended == ("warmup", "measure"), "a part of either is custom"
    assert estimate.usd == pytest.approx(PLANNED_USD * 1005 / 1000 / 2), "the chats' half"


def test_a_plan_beyond_the_budget_is_refused_before_anything_is_sent(tmp_path):
    with pytest.raises(UsageError, match=r"can cost up to 2\.00 USD, the budget is 1\.99"):
        opened(tmp_path, "budget: {max_usd: 1.99}")
    assert opened(tmp_path, "budget: {max_usd: 2.01}").limits.max_usd == 2.01


def test_a_model_without_a_price_is_named(tmp_path):
    file = tmp_path / "s.yaml"
    text = LIVE.format(more="", target="").replace("price: {input_usd_per_mtok: 10,", "")
    file.write_text(text.replace("output_usd_per_mtok: 100}", ""))
    assert str(estimate_usd(open_session(Choice(file=str(file))))) == "unknown: no price for own"


def test_one_schedule_cannot_take_turns(tmp_path):
    with pytest.raises(ScenarioError, match="per: total is one schedule"):
        opened(tmp_path, "per: total\norder: sequential")


def test_several_answers_to_a_prompt_cost_as_much_as_they_are(tmp_path):
    file = tmp_path / "s.yaml"
    five = "output_tokens: 10, extra_body: {{n: 5}}}}}}"
    file.write_text(LIVE.replace("output_tokens: 10}}}}", five).format(more="", target=""))
    estimate = estimate_usd(open_session(Choice(file=str(file))))
    assert estimate.usd == pytest.approx(1000 * (100 * 10 + 5 * 10 * 100) / 1e6)


def test_tools_beside_the_prompts_are_estimated_with_them(tmp_path):
    file = tmp_path / "s.yaml"
    beside = f"output_tokens: 10, extra_body: {{{{tools: [{'x' * 296}]}}}}"  # 300 bytes
    file.write_text(LIVE.replace("output_tokens: 10", beside).format(more="", target=""))
    estimate = estimate_usd(open_session(Choice(file=str(file))))
    assert estimate.usd == pytest.approx(1000 * ((100 + 100) * 10 + 10 * 100) / 1e6)
