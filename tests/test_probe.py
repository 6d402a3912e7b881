"""`loadlib probe`: what one request tells, and what to do about it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commandline import batch, loadlib, refused, scenario
from faulty_server import (
    CHUNKED,
    DONE,
    END,
    KEEP,
    ROLE,
    STOP,
    A,
    B,
    FaultyServer,
    Peer,
    Request,
    chunk,
    completion,
    delta,
    event,
    head,
    problem,
    says,
    sized,
)  # fmt: skip

from loadlib import findings
from loadlib.answer import decode
from loadlib.catalog import Model, resolve
from loadlib.findings import Finding, find
from loadlib.sample import Outcome, Sample
from loadlib.scenario_spec import ModelSpec
from loadlib.tape import Tape

MODEL = replace(resolve(ModelSpec(name="m", base_url="http://127.0.0.1:1/v1")), exact=True)


def found(
    *reads: bytes, model: Model = MODEL, here: int | None = 7,
    listed: tuple[str, ...] | None = None, kind: str = "text/event-stream", **fields: Any,
) -> Finding:  # fmt: skip
    tape = Tape.of(enumerate(reads, 1), status=200, http="1.1", headers={"content-type": kind})
    answer = decode(tape)
    plain = {
        "index": 0, "phase": "p", "model": "m", "workload": "w", "outcome": Outcome.OK,
        "intended_ns": 0, "sent_ns": 0, "end_ns": 9, "status": 200, "events": len(answer.event_ns),
        "coalesced": answer.coalesced,
    }  # fmt: skip
    sample = Sample(**plain | fields)
    return find(model, tape, sample, answer, counted_here=here, listed=listed,
                word=lambda text: None if not text else str(text))  # fmt: skip


USAGE = event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}})
FAR = event({"choices": [], "usage": {"prompt_tokens": 30, "completion_tokens": 2}})
ESTIMATED = replace(MODEL, exact=False)
FOUR = [delta(content=word) for word in "abcd"]


@pytest.mark.parametrize(
    ("finding", "words", "reason"),
    [
        (found(ROLE, A, B, STOP, USAGE, DONE), [], "as it should be"),
        (found(ROLE, A, B, STOP, DONE), ["no token counts came with the stream: counted here"],
         "no usage"),
        (found(A, STOP, DONE, model=replace(ESTIMATED, stream_usage=False)),
         ["nor were asked for: counted here, as an estimate"], "none asked for"),
        (found(completion(prompt_tokens=7, completion_tokens=2), kind="application/json"),
         ["in one piece although a stream was asked for"], "no stream"),
        (found(ROLE + b"".join(FOUR) + STOP, USAGE), ["3 of 4 events shared a read"], "held back"),
        (found(*FOUR, STOP, USAGE), [], "one a read"),
        (found(A + B, STOP, USAGE), [], "too few to tell"),
        (found(A, STOP, FAR), ["counts 30 prompt tokens, 7 were counted here"], "another model?"),
        (found(A, STOP, FAR, model=ESTIMATED), ["the estimate is 7"], "an estimate that is off"),
        (found(A, STOP, FAR, here=29), [], "one token is a template"),
        (found(listed=("n", "mm"), outcome=Outcome.REJECTED, status=404),
         ["GET /models does not list 'm' (did you mean 'mm'?)"], "a misspelt name"),
        (found(A, STOP, USAGE, listed=("n",)), [], "not listed, and served"),
        (found(outcome=Outcome.THROTTLED, status=429, retry_after_ms=8000),
         ["asks to wait 8,000 ms"], "too often"),
    ],
)  # fmt: skip
def test_what_to_do(finding: Finding, words: list[str], reason: str) -> None:
    assert len(finding.remedies) == len(words), (reason, finding.remedies)
    for remedy, word in zip(finding.remedies, words, strict=True):
        assert word in remedy, reason
    assert findings.lines(finding)[0].startswith("\u2713" if finding.answered else "\u2717")


@pytest.mark.parametrize(
    ("first", "role"),
    [(ROLE, True), (delta(role="assistant", content=None), True), (A, False),
     (delta(role="assistant", content="a"), False), (event({"choices": []}), False),
     (event({"choices": [None]}), False), (event([1]) + ROLE, True)],
)  # fmt: skip
def test_whether_an_empty_role_chunk_comes_first(first: bytes, role: bool) -> None:
    assert found(first, A, STOP, DONE).role_chunk_first is role


def test_nothing_a_server_sends_breaks_the_first_look() -> None:
    for body in (
        b"",
        b"data: [",
        b"data: [DONE]\n\n",
        b"\xff",
        b"data: " + b"[" * 10_000 + b"\n\n",
    ):
        for kind in ("text/event-stream", "application/json"):
            tape = Tape.of([(1, body)], status=200, headers={"content-type": kind})
            assert findings.first_chunk(tape) == {}
    tape = Tape.of([(1, b"x")], status=200, headers={"content-encoding": "gzip"})
    assert findings.first_chunk(tape) == {}


def test_the_catalogue_is_printed_and_nothing_is_sent() -> None:
    text, data, nothing = batch(["probe", "--list"], ["probe", "--list", "--json"], ["probe"])
    assert text.code == data.code == 0
    lines = text.out.splitlines()
    assert lines[0].split() == [
        "name", "provider", "window", "in", "$/M", "out", "$/M", "status", "capabilities",
    ]  # fmt: skip
    assert [line.split()[0] for line in lines[1:]] == list(json.loads(data.out))
    mini = json.loads(data.out)["gpt-4o-mini"]
    assert mini["context_window"] == 128_000
    assert "$0.15" in lines[1]
    refused(nothing, 2, "nothing to probe")


LIMITS = ("x-ratelimit-limit-requests: 60", "x-ratelimit-remaining-requests: 59")


def lists(*names: str, then: tuple[bytes, ...]) -> Any:
    """A server that lists its models."""

    def behave(peer: Peer, request: Request) -> object:
        rows = {"object": "list", "data": [{"id": name} for name in names]}
        peer.send(*([sized(json.dumps(rows).encode())] if request.method == "GET" else then))
        return KEEP

    return behave


def stream(*events: bytes, headers: tuple[str, ...] = ()) -> tuple[bytes, ...]:
    return (head("200 OK", CHUNKED, *headers), *map(chunk, events), END)


EVIL = delta(content="a", role="assistant").replace(
    b'{"choices"', b'{"system_fingerprint": "fp\\u001b[2Jx", "service_tier": "flex", "choices"'
)
STOP_FLEX = STOP.replace(b'{"choices"', b'{"service_tier": "flex", "choices"')
NO_FIELD = "Unsupported parameter: 'max_tokens' is not supported with this model. Use another."


@pytest.mark.slow
def test_every_model_is_asked_once(tmp_path: Path) -> None:
    server = FaultyServer()
    server.extra = {
        "fine": lists("fine", "b", then=stream(ROLE, A, B, STOP, USAGE, DONE,
                                               headers=(*LIMITS, "server: uvicorn"))),
        "evil": lists("other", then=stream(EVIL, STOP_FLEX, DONE)),
        "field": says(problem("400 No", NO_FIELD, param="max_tokens")),
        "away": lists("here", then=(problem("404 No", "no such model"),)),
        "slow": says(sized(b"{}", "429 No", "retry-after: 8")),
    }  # fmt: skip
    models: list[dict[str, Any]] = [
        {"name": name, "base_url": server.url(name)} for name in (*server.extra, "401")
    ]
    server.extra["401"] = says(problem("401 No", "wrong key"))
    models.append({"name": "gone", "base_url": "http://127.0.0.1:1/v1"})
    path = scenario(tmp_path, server.url("fine"), models=models, slo=None)
    try:
        done = loadlib("probe", path, "--json")
        text = loadlib("probe", path, "--model", "fine", "--model", "evil")
    finally:
        server.close()
    assert done.code == 3, done.err
    assert text.code == 0, text.err
    rows = {row["model"]: row for row in json.loads(done.out)}
    assert [row["model"] for row in json.loads(done.out)] == [model["name"] for model in models]
    fine = rows["fine"]
    assert (fine["answered"], fine["listed"], fine["http"]) == (True, True, "1.1")
    assert (fine["events"], fine["role_chunk_first"], fine["usage_sent"]) == (2, True, True)
    assert (fine["input_tokens"], fine["output_tokens"]) == (7, 2)
    assert fine["rate_limit"] == {"requests_limit": 60, "requests_remaining": 59}
    assert fine["ttft_ms"] > 0
    assert rows["evil"]["service_tier"] == "flex"
    assert rows["evil"]["listed"] is False
    assert (rows["field"]["answered"], rows["field"]["status"]) == (False, 400)
    assert "`output_cap: max_completion_tokens`" in rows["field"]["error"]
    assert rows["away"]["remedies"] == ["GET /models does not list 'away'"]
    assert rows["slow"]["outcome"] == "throttled/429"
    assert "refuses the key" in rows["401"]["error"]
    assert rows["gone"]["outcome"] == "preflight"
    assert "\x1b" not in text.out + done.out
    assert "\\u001b" not in done.out
    assert "59 of 60 requests left" in text.out
    assert "uvicorn" in text.out
    asked = [r for r in server.log.requests if r.method == "POST" and r.behaviour != "401"]
    assert [r.behaviour for r in asked[:5]] == ["fine", "evil", "field", "away", "slow"]
    assert {r.json["max_tokens"] for r in asked} == {64}


@pytest.mark.slow
def test_manners_and_budget_hold_for_a_probe(tmp_path: Path, simulator: str) -> None:
    refused(loadlib("probe", "--model", "gpt-4o", "--base-url", "https://example.com/v1"), 2,
            "public host")  # fmt: skip
    models = [{"name": "m", "base_url": simulator,
               "price": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 1000}}]  # fmt: skip
    load = [{"phase": "measure", "duration": "1s", "arrival": "closed", "users": 1}]
    path = scenario(tmp_path, simulator, models=models, slo=None, load=load,
                    budget={"max_usd": 0.01})  # fmt: skip
    refused(loadlib("probe", path), 4, "m: budget", "max_usd 0.01")
