"""Real conversations on llama.cpp's own server: what `make demo-real` does, with fewer of them."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import demo_real
import pytest
import real_server
from commandline import loadlib
from commandline import scenario as write_scenario

from loadlib import run as runs
from loadlib.catalog import Model, resolve
from loadlib.errors import ExitCode
from loadlib.json_check import problems
from loadlib.quality import Flaw
from loadlib.sample import Outcome
from loadlib.scenario_spec import ModelSpec
from loadlib.workloads import build
from loadlib.workloads.extract import ExtractSpec
from loadlib.workloads.receipts import SCHEMA

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(real_server.missing()),
        reason=f"not installed: {', '.join(real_server.missing())} (`make demo-real` does)",
    ),
]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with demo_real.serving() as base_url:
        yield base_url


def test_conversations_are_replayed_and_tokens_equal_the_servers_own_counters(
    server: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = demo_real.chosen_data({})
    run = demo_real.replay(server, tmp_path, data=data, count=6)

    assert run.faults() == []
    assert run.exit_code == ExitCode.PASS
    (group,) = run.summary["groups"]
    assert group["requests"]["ok"] == group["requests"]["scheduled"]
    assert group["requests"]["ok"] == demo_real.requests_of(data, 6)
    # two turns of one conversation and more: history was sent, and asked for as recorded
    assert run.ours.prompt > 20 * group["requests"]["ok"]
    assert 0 < group["metrics"]["sent_ttft"]["p50"] <= group["metrics"]["ttft"]["max"]
    assert group["metrics"]["tpot"]["p50"] > 1, "a real engine takes milliseconds a token"
    assert (run.folder / "report.html").stat().st_size > 10_000
    assert "Traceback" not in capfd.readouterr().err

    (metrics,) = run.summary["servers"]
    assert (metrics["kind"], metrics["failed"], metrics["restarts"]) == ("llama.cpp", 0, 0)
    assert metrics["output_tokens"] == metrics["ours_output_tokens"] == run.server.output
    (phase,) = metrics["phases"]
    assert phase["scrapes"] >= 2
    assert 1 <= phase["running"]["max"] <= real_server.SLOTS
    assert phase["kv_usage"] == {"mean": None, "max": None}, "it does not say"
    assert phase["cached_share"] == 0, "asked not to use its cache"

    demo_real.report(run)
    said = capfd.readouterr().out
    assert f"{run.ours.prompt:,} in summary.json, {run.server.prompt:,} in the server's" in said


def test_early_ends_and_refused_prompts_count_as_the_server_counts_them(
    server: str, tmp_path: Path
) -> None:
    questions = [
        "Say hi.",
        # Within the window the scenario claims, beyond the one the server gives a slot.
        "word " * (real_server.CONTEXT_PER_SLOT + 500),
        "What is the capital of France? Answer in one word.",
    ]
    data = tmp_path / "questions.jsonl"
    data.write_text(
        "".join(
            json.dumps({"messages": [{"role": "user", "content": question}]}) + "\n"
            for question in questions
        )
    )
    run = demo_real.replay(
        server,
        tmp_path,
        data=data,
        changes=(
            f"models.0.context_window={real_server.CONTEXT}",
            "workloads.chat.output_tokens=100",
            "workloads.chat.extra_body.temperature=0",
        ),
    )

    samples = sorted(runs.load(run.folder).samples(), key=lambda sample: sample.index)
    assert [sample.outcome for sample in samples] == [Outcome.OK, Outcome.REJECTED, Outcome.OK]
    assert samples[1].cause == "exceed_context_size_error"
    assert "exceeds the available context size" in (samples[1].error or "")
    for sample in (samples[0], samples[2]):
        assert sample.finish_reason == "stop"
        assert sample.output_tokens is not None
        assert 1 <= sample.output_tokens < 100
    assert run.faults() == []
    assert run.exit_code == ExitCode.SLO_FAILED, "one rejected request in three is no pass"
    page = (run.folder / "report.html").read_text()
    assert "rejected" in page
    assert "exceeds the available context size" in page


def test_translations_and_puzzles_are_judged(server: str, tmp_path: Path) -> None:
    """Of a model this small most answers are not right; what is tested is that they are judged."""
    workloads = {
        "translate": {"kind": "translate", "pairs": ["es-en", "en-fr"], "length": "short"},
        "reason": {"kind": "reason", "families": ["decimals", "choice"]},
    }
    made = {name: {**spec, "output_tokens": 24} for name, spec in workloads.items()}
    path = write_scenario(
        tmp_path,
        server,
        models=[{"name": real_server.MODEL, "base_url": server}],
        workloads=made,
        load=[{"phase": "measure", "requests": 4, "arrival": "closed", "users": 2}],
        slo=["all: error_rate < 1%"],
    )
    done = loadlib("run", path, "--out", tmp_path / "reports")
    assert done.code == ExitCode.PASS, done.err
    samples = list(runs.load((tmp_path / "reports" / "latest").resolve()).samples())
    assert [sample.outcome for sample in samples] == [Outcome.OK] * 4
    assert {sample.variant for sample in samples} == {"es-en", "en-fr", "decimals", "choice"}
    for sample in samples:
        assert sample.quality is not None
        assert (sample.flaw is None) == sample.quality
        assert sample.tokens_source == "server"
    assert not all(sample.quality for sample in samples)


TRACE = """\
TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.0,70,6
2023-11-16 18:17:03.4,90,9
2023-11-16 18:17:03.9,60,3
"""


def test_documents_traces_and_own_conversations_reach_a_real_server(
    server: str, tmp_path: Path
) -> None:
    (tmp_path / "trace.csv").write_text(TRACE)
    talk = [{"role": role, "content": "Hello, who are you?"} for role in ("user", "assistant") * 2]
    (tmp_path / "talk.jsonl").write_text(json.dumps({"messages": talk}) + "\n")
    path = write_scenario(
        tmp_path,
        server,
        models=[{"name": real_server.MODEL, "base_url": server, "context_window": 2000}],
        workloads={
            "long": {"kind": "long_context", "prompt_tokens": 250, "output_tokens": 12},
            "replay": {"kind": "replay", "data": "trace.csv", "extra_body": {"ignore_eos": True}},
            "talk": {"kind": "chat", "data": "talk.jsonl", "history": "own", "output_tokens": 8},
        },
        load=[{"phase": "measure", "requests": 6, "arrival": "closed", "users": 1}],
        slo=["all: error_rate < 1%"],
    )  # fmt: skip
    done = loadlib("run", path, "--out", tmp_path / "out", "--allow-unhealthy")
    assert done.code == ExitCode.PASS, done.err
    (folder,) = (one for one in (tmp_path / "out").iterdir() if not one.is_symlink())
    samples = list(runs.load(folder).samples())
    of = {name: [s for s in samples if s.workload == name] for name in ("long", "replay", "talk")}
    assert {name: len(found) for name, found in of.items()} == {"long": 2, "replay": 2, "talk": 4}
    assert all(sample.outcome is Outcome.OK for sample in samples)
    assert all(sample.tokens_source == "server" for sample in samples)
    assert {s.output_tokens for s in of["replay"]} <= {3, 6, 9}, "as long as was recorded"
    assert all(s.quality is not None and s.variant for s in of["long"])
    for index in {sample.index for sample in of["talk"]}:
        first, second = sorted(
            (s for s in of["talk"] if s.index == index), key=lambda sample: sample.turn
        )
        assert (first.turn, second.turn) == (1, 2)
        assert second.input_tokens > first.input_tokens + first.output_tokens
    # Its own tokenizer counts otherwise than the estimate: every page says so.
    assert "prompt tokens" in (folder / "summary.md").read_text()


def test_counts_that_differ_are_said_aloud(tmp_path: Path) -> None:
    group = {"tokens": {"input": 30, "cached": 10, "output": 5, "source": "mixed"}}
    run = demo_real.Replay(
        folder=tmp_path,
        exit_code=0,
        wall_s=1.0,
        summary={"groups": [group]},
        server=demo_real.Tokens(prompt=20, cached=0, output=6),
    )
    assert run.faults() == [
        "cached prompt tokens differ: summary.json 10, the server's /metrics 0",
        "output tokens differ: summary.json 5, the server's /metrics 6",
        "token counts come from {'mixed'}, not from the server",
    ]


PAPERS = {"kind": "extract", "papers": "invoice", "locales": "en-US", "output_tokens": 40}


def test_papers_are_read_by_the_schema(server: str, tmp_path: Path) -> None:
    """llama.cpp makes a grammar of `response_format`: SmolLM2 reads badly, and in good form."""
    model = {"name": real_server.MODEL, "base_url": server, "context_window": 2048}
    path = write_scenario(
        tmp_path,
        target="live",
        models=[model],
        workloads={"extract": PAPERS},
        load=[{"phase": "measure", "requests": 2, "arrival": "closed", "users": 1}],
        slo=["all: error_rate < 1%"],
    )
    done = loadlib("run", path, "--allow-unhealthy", "--out", tmp_path / "reports")
    assert done.code == 0, done.err
    for sample in runs.load((tmp_path / "reports" / "latest").resolve()).samples():
        assert sample.outcome is Outcome.OK
        assert sample.flaw == Flaw.TRUNCATED  # by a cap that no invoice fits in
        assert sample.input_tokens >= sample.asked_tokens  # its own template, other tokens
    answer = asked(server, resolve(ModelSpec(**model)))
    assert problems(json.loads(closed(answer)), SCHEMA) == []


def asked(base_url: str, model: Model) -> str:
    """What the server answers to the first prompt, as far as 140 tokens go."""
    prompt = build("extract", ExtractSpec(**PAPERS), 42).prompt(model, 0)
    body = {"model": model.wire, "messages": prompt.messages, "max_tokens": 140, "temperature": 0}
    request = urllib.request.Request(
        f"{base_url}/chat/completions",
        json.dumps({**body, **prompt.extra_body}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return str(json.load(response)["choices"][0]["message"]["content"])


def closed(text: str) -> str:
    """An answer that was cut within its items, with the last of them taken off and an end put on.

    A tiny model goes on listing items for ever; how far it comes depends on the machine.
    """
    if text.rstrip().endswith("}") and text.count("{") == text.count("}"):
        return text  # it ended by itself
    head, items, rest = text.partition('"items"')
    whole = re.findall(r"{[^{}]*}", rest)
    assert items, text
    end = {"net": 0, "tax_percent": 0, "tax": 0, "total": 0}
    return f'{head}"items":[{",".join(whole)}],{json.dumps(end)[1:]}'


def test_timings_count_what_usage_counts(server: str, tmp_path: Path) -> None:
    """Asked for no usage, llama.cpp still says in `timings` what it worked through."""
    models = [
        {"name": name, "model": real_server.MODEL, "base_url": server, "stream_usage": asked}
        for name, asked in (("asked", True), ("not-asked", False))
    ]
    done = loadlib("probe", write_scenario(tmp_path, server, models=models, slo=None), "--json")
    assert done.code == 0, done.err
    asked, not_asked = json.loads(done.out)
    assert (asked["usage_asked"], not_asked["usage_asked"]) == (True, False)
    assert asked["usage_sent"]
    assert not_asked["usage_sent"]
    assert asked["input_tokens"] == not_asked["input_tokens"] > 0
    assert asked["role_chunk_first"]
    assert asked["listed"]
    assert asked["server"] == "llama.cpp"
