"""Replayed traces through the public command: what the server counts is what the trace says."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commandline import loadlib

from benchmarks import replayed
from loadlib.errors import ExitCode
from loadlib.workloads import traces

pytestmark = pytest.mark.slow

TRACE = replayed.trace_path()


def scenario(path: Path, base_url: str, workloads: dict[str, Any], **phase: Any) -> Path:
    text = {
        "version": 1,
        "models": [{"name": "gpt-4o-mini", "base_url": base_url, "context_window": 128_000}],
        "workloads": {name: {"kind": "replay", **more} for name, more in workloads.items()},
        "load": [{"phase": "measure", **phase}],
    }
    path.write_text(json.dumps(text))
    return path


@pytest.mark.skipif(not TRACE.exists(), reason="../shared/traces is not there")
def test_a_minute_of_azures_chat_trace(tmp_path: Path, simulators: Callable[..., Any]) -> None:
    """Ten times as fast. `python -m benchmarks --only replay-azure` judges ten minutes, and when
    the requests were sent."""
    server = simulators("--profile", "instant", fresh=True)
    found = replayed.replayed(TRACE, tmp_path, server.base_url, 60, None, speed=10)
    assert found.trace == replayed.Totals(191, 171_999, 44_229)
    assert found.padding == replayed.Totals(1, 7, 0), "two tokens are no message: sent as nine"
    assert found.server == replayed.Totals(191, 171_999 + 7, 44_229)
    intended = np.array(sorted(one.intended_ns for one in found.samples))
    recorded = traces.load(TRACE).instants[:191]
    apart = np.abs((intended - intended[0]) - recorded / 10)
    assert apart.max() <= 1, "each at its recorded instant, to the nanosecond"


def test_a_prefix_cache_is_hit_as_in_production(
    tmp_path: Path, simulators: Callable[..., Any]
) -> None:
    """One after the other, so that what was sent before is there; without ids nothing is."""
    rows = [(1536, [0, 1, 2]), (2048, [0, 1, 2, 3]), (2700, [0, 1, 2, 3, 4, 5]), (900, [0, 6])]
    for name in ("blocks", "plain"):
        lines = [{"timestamp": 0, "input_length": size, "output_length": 2} for size, _ in rows]
        if name == "blocks":
            lines = [{**line, "hash_ids": ids} for line, (_, ids) in zip(lines, rows, strict=True)]
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    server = simulators("--profile", "vllm-replica", fresh=True)
    file = scenario(
        tmp_path / "s.yaml", server.base_url,
        {name: {"data": name, "extra_body": {"ignore_eos": True}} for name in ("blocks", "plain")},
        arrival="closed", users=1, requests=8,
    )  # fmt: skip
    done = loadlib("run", file, "--out", tmp_path / "runs", "--json")
    assert done.code == ExitCode.PASS, done.err
    groups = {one["workload"]: one for one in json.loads(done.out)["groups"]}
    assert [one["tokens"]["input"] for one in groups.values()] == [7184, 7184]
    reusable = 512 * (3 + 4 + 1)
    assert abs(groups["blocks"]["tokens"]["cached"] - reusable) <= 3 * 16, "a block each, of 16"
    assert groups["plain"]["tokens"]["cached"] == 0


def test_a_run_replays_what_a_run_sent(tmp_path: Path, simulator: str) -> None:
    rows = [(0, 50, 3), (120, 70, 4), (150, 60, 5)]
    lines = [f"2026-01-05 09:00:00.{at:03},{size},{out}\n" for at, size, out in rows]
    (tmp_path / "first.csv").write_text(",".join(traces.azure.COLUMNS) + "\n" + "".join(lines))
    folders = []
    for data in ("first.csv", "runs/latest"):
        file = scenario(
            tmp_path / "s.yaml", simulator,
            {"prod": {"data": data, "extra_body": {"ignore_eos": True}}},
            arrival="trace", requests=3,
        )  # fmt: skip
        done = loadlib("run", file, "--out", tmp_path / "runs", "--json")
        assert done.code in (ExitCode.PASS, ExitCode.INCONCLUSIVE), done.err
        folders.append((tmp_path / "runs" / "latest").resolve())
    first, second = map(traces.load, folders)
    assert first.instants.tolist() == second.instants.tolist() == [0, 120_000_000, 150_000_000]
    assert first.prompts.tolist() == second.prompts.tolist() == [50, 70, 60]
    assert first.outputs.tolist() == second.outputs.tolist() == [3, 4, 5]


@contextmanager
def listening() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that notes the bodies it gets and answers each with one word."""
    bodies: list[dict[str, Any]] = []
    chunk = {"choices": [{"index": 0, "delta": {"content": "yes"}, "finish_reason": "stop"}]}
    answer = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1", bodies
        finally:
            server.shutdown()
            thread.join()


def test_requests_of_a_batch_arrive_as_they_are(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    wanted = [
        {"messages": [{"role": "system", "content": "Sei kurz. 🙂"},
                      {"role": "user", "content": [{"type": "text", "text": "Hallo"}]}],
         "max_completion_tokens": 7, "temperature": 0.25, "tools": tools, "n": 1},
        {"messages": [{"role": "user", "content": "Hi"}], "response_format": {"type": "text"}},
    ]  # fmt: skip
    lines = [
        {"custom_id": str(n), "method": "POST", "url": "/v1/chat/completions",
         "body": {"model": "gpt-x", "stream": False, **body}}
        for n, body in enumerate(wanted)
    ]  # fmt: skip
    (tmp_path / "batch.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with listening() as (base_url, bodies):
        file = scenario(tmp_path / "s.yaml", base_url, {"batch": {"data": "batch.jsonl"}},
                        arrival="closed", users=1, requests=2)  # fmt: skip
        done = loadlib("run", file, "--out", tmp_path / "runs")
    assert done.code == ExitCode.PASS, done.err
    ours = {"model": "gpt-4o-mini", "stream": True, "stream_options": {"include_usage": True}}
    wanted[0]["max_tokens"] = wanted[0].pop("max_completion_tokens")
    wanted[1]["max_tokens"] = 256
    assert bodies == [{**body, **ours} for body in wanted]
