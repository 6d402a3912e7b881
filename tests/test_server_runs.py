"""Servers' metrics in runs of the public command, and metrics servers that mean ill."""

from __future__ import annotations

import contextlib
import gzip
import json
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commandline import WITH_PAGE, Done, environment, loadlib
from commandline import scenario as write_scenario

from loadlib import run as runs
from loadlib.charts.server import server_load
from loadlib.errors import ExitCode

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
TOKEN = "Quiet.Canary-5d2b17"  # nothing about it looks like a key
PAGE = b"# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running 3\n"


def whole(body: bytes, *heads: bytes, status: bytes = b"200 OK") -> bytes:
    kind = b"" if any(h.lower().startswith(b"content-type") for h in heads) else b"text/plain"
    lines = [b"HTTP/1.1 " + status, *heads, b"Content-Length: %d" % len(body)]
    lines += [b"Content-Type: " + kind] if kind else []
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


ANSWERS = {
    "/ok": whole(PAGE),
    "/openmetrics": whole(PAGE, b"Content-Type: application/openmetrics-text; version=1.0.0"),
    "/leaves": whole(PAGE),  # and closes without a word: the next one needs a new connection
    "/html": whole(b"<html>", b"Content-Type: text/html"),
    "/bomb": whole(gzip.compress(PAGE + b" " * 10**7), b"Content-Encoding: gzip"),
    "/moved": whole(b"", b"Location: /followed", status=b"302 Found"),
    "/none": whole(b"no", status=b"404 Not Found"),
    "/off": whole(b"no", status=b"501 Not Implemented"),
    "/short": whole(PAGE).replace(b"Content-Length: 67", b"Content-Length: 670"),
    "/noise": b"\x16\x03\x01 this is no HTTP\r\n\r\n",
    "/nothing": b"",
    "/other": whole(b"process_cpu_seconds_total 1\n"),
    "/heads": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n",
    "/line": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
}
SAID = [
    # path, times, → error (None: 3 are running)
    ("/ok", 3, None),
    ("/openmetrics", 1, None),
    ("/leaves", 3, None),
    ("/html", 1, "no metrics but text/html"),
    ("/bomb", 1, "packed with gzip, which was not asked for"),
    ("/moved", 1, "HTTP 302: a redirect, which is not followed"),
    ("/none", 1, "HTTP 404: no metrics there (SGLang needs --enable-metrics)"),
    ("/off", 1, "HTTP 501: llama.cpp needs --metrics"),
    ("/key", 1, "HTTP 401"),
    ("/short", 1, "the answer broke off"),
    ("/noise", 1, "the answer is not HTTP"),
    ("/nothing", 1, "the answer broke off"),
    ("/other", 1, "none of the metrics of vLLM, SGLang, llama.cpp, loadlib simulator"),
    ("/heads", 1, "the answer is not HTTP"),
    ("/line", 1, "the answer is not HTTP"),
    ("/endless", 1, "the page is larger than 4 MiB"),
    ("/trickle", 1, "no answer within 0.5 s"),
    ("/silent", 1, "no answer within 0.5 s"),
    (None, 1, "connection refused"),
]


class Evil(socketserver.StreamRequestHandler):
    """Answers by path; keeps the connection where it does not say otherwise."""

    asked: list[str] = []  # noqa: RUF012

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while (line := self.rfile.readline()).startswith(b"GET "):
                path = line.split()[1].decode()
                heads = b"".join(iter(self.rfile.readline, b"\r\n"))
                self.asked.append(path)
                self._answer(path, heads)
                if path not in ("/ok", "/openmetrics"):
                    return

    def _answer(self, path: str, heads: bytes) -> None:
        if path == "/key":  # repeats what it was sent
            self.wfile.write(whole(heads, b"X-Key: k", status=b"401 " + heads.split(b"\r\n")[0]))
        elif path == "/endless":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                self.wfile.write(b"10000\r\n" + b"vllm:x 1\n" * 7281 + b"abcdefg\r\n")
        elif path == "/trickle":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while True:
                self.wfile.write(b"#")
                time.sleep(0.05)
        elif path == "/silent":
            self.rfile.readline()
        else:
            self.wfile.write(ANSWERS[path])


@contextlib.contextmanager
def serving(handler: type[socketserver.BaseRequestHandler]) -> Iterator[Any]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def scraped() -> dict[str | None, list[Any]]:
    """Every path of SAID, scraped in one process."""
    with socket.socket() as closed, serving(Evil) as server:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        ports = {None: closed.getsockname()[1]}
        asked = [
            [f"http://127.0.0.1:{ports.get(path, server.server_address[1])}{path or '/ok'}", times,
             0.5 if path in ("/trickle", "/silent") else 5.0]
            for path, times, _ in SAID
        ]  # fmt: skip
        done = subprocess.run(
            [sys.executable, str(HERE / "scrape_child.py")], input=json.dumps([TOKEN, asked]),
            text=True, capture_output=True, timeout=60, env=environment(), check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    *found, unset = json.loads(done.stdout)
    assert unset == "server metrics of s: environment variable T is not set or empty"
    return dict(zip([path for path, _, _ in SAID], found, strict=True))


@pytest.mark.parametrize(("path", "times", "error"), SAID)
def test_what_a_scrape_says(scraped, path, times, error):
    kind, values, said, took_ms = scraped[path]
    if error is None:
        assert (kind, values, said) == ("vLLM", {"running": 3}, None)
    else:
        assert said is not None
        assert said.startswith(error)
        assert (kind, values) == (None, {})
    assert took_ms < 4000, "no server keeps us longer than the limit"


def test_no_redirect_is_followed_and_a_connection_is_kept(scraped):
    assert scraped
    assert "/followed" not in Evil.asked
    assert Evil.asked.count("/ok") == 3
    assert Evil.asked.count("/leaves") == 3


# -- a run -----------------------------------------------------------------------------------------

PROFILE = "models: {m: {first_token_delay_ms: 20, output_tok_s: 40, max_running: 3}}\n"
EVERY = "200ms"
ANSWERED = 9  # then the far server is gone


class Far(socketserver.StreamRequestHandler):
    """The metrics of a server behind another door, which needs a key, until it is shut."""

    page = ""
    answered = 0

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while self.rfile.readline().startswith(b"GET /deep/metrics "):
                heads = b"".join(iter(self.rfile.readline, b"\r\n"))
                if b"Bearer " + TOKEN.encode() not in heads:
                    self.wfile.write(whole(heads, status=b"401 Unauthorized"))
                    continue
                with urllib.request.urlopen(Far.page, timeout=5) as answer:
                    self.wfile.write(whole(answer.read()))
                Far.answered += 1
                if Far.answered == ANSWERED:
                    self.server.server_close()
                    return


@pytest.fixture(scope="module")
def run(simulators, tmp_path_factory) -> tuple[Done, runs.Run]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "profile.yaml").write_text(PROFILE)
    base_url = simulators("--profile", str(folder / "profile.yaml")).base_url
    Far.page = f"{base_url.removesuffix('/v1')}/metrics"
    with serving(Far) as far, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        servers = [
            {"every": EVERY},
            {"url": f"http://127.0.0.1:{far.server_address[1]}/deep/metrics", "name": "far",
             "every": EVERY, "api_key_env": "FAR_TOKEN"},
            {"url": f"http://127.0.0.1:{closed.getsockname()[1]}", "name": "nowhere"},
        ]  # fmt: skip
        path = write_scenario(
            folder,
            models=[{"name": "m", "base_url": base_url}],
            target=None,
            workloads={"chat": {"kind": "chat", "output_tokens": 24}},
            load=[{"phase": "measure", "duration": "4s", "arrival": "closed", "users": 5}],
            slo=["all: error_rate < 1%"],
            server_metrics=servers,
        )
        done = loadlib("run", path, "--out", folder / "out", FAR_TOKEN=TOKEN, **WITH_PAGE)
    assert done.code == ExitCode.PASS, done.err
    return done, runs.load(folder / "out" / "latest")


def test_the_server_and_the_client_agree(run):
    near = run[1].summary.servers[0]
    (phase,) = near.phases
    assert (near.kind, near.failed, near.restarts) == ("loadlib simulator", 0, 0)
    assert near.output_tokens == near.ours_output_tokens > 300, "to the token"
    assert phase.scrapes >= 15
    assert phase.running.max == 3
    assert phase.running.mean + phase.waiting.mean == pytest.approx(5, rel=0.1)
    assert phase.in_flight.max == pytest.approx(5, abs=0.5)
    # Ours is known by the second: within the first one it seems to rise.
    assert phase.in_flight.mean == pytest.approx(5, rel=0.2)
    assert phase.output_tok_s == pytest.approx(phase.ours_output_tok_s, rel=0.05)
    assert phase.output_ratio is None, "one of those with the same models says nothing"


def test_a_metrics_server_that_goes_away_is_a_gap_and_a_notice(run):
    done, loaded = run
    far, nowhere = loaded.summary.servers[1:]
    assert (far.name, far.kind, far.scrapes - far.failed) == ("far", "loadlib simulator", 8)
    assert far.failed > 5
    assert set(far.failures) <= {"connection refused", "the answer broke off"}
    assert far.phases[0].running.max == 3, "what was seen before stands"
    assert nowhere.failures == {"connection refused": nowhere.scrapes}
    assert nowhere.phases[0].running.mean is None
    notices = [line for line in loaded.summary.notices if line.startswith("server metrics of")]
    assert f"server metrics of far: {far.failed} of {far.scrapes} scrapes failed" in notices[0]
    assert "server metrics of nowhere" in notices[1]
    assert len(notices) == 2, "no word of other clients"
    assert any(line.startswith("server metrics of nowhere (http") for line in done.remarks)
    figure = server_load(loaded)
    assert figure is not None
    assert {row[0] for row in figure.rows} == {far.name, loaded.summary.servers[0].name}


def test_the_record_is_whole_and_without_the_key(run):
    done, loaded = run
    scrapes = loaded.server()
    assert len(scrapes) == sum(server.scrapes for server in loaded.summary.servers)
    assert all(scrape.before_ns < scrape.after_ns for scrape in scrapes)
    first = min(sample.sent_ns for sample in loaded.samples())
    last = max(sample.end_ns for sample in loaded.samples())
    near = [scrape for scrape in scrapes if scrape.server == loaded.summary.servers[0].name]
    assert near[0].at_ns < first, "before the first request"
    assert near[-1].at_ns > last, "after the last answer"
    period_ns = 200_000_000
    on_time = [s for s in near[1:-1] if (s.before_ns % period_ns) < period_ns / 2]
    assert len(on_time) > len(near) / 2, "at whole periods of the clock"
    everything = b"".join(p.read_bytes() for p in loaded.path.rglob("*") if p.is_file())
    assert TOKEN.encode() not in everything + (done.out + done.err).encode()
    assert b"FAR_TOKEN" in everything
    page = (loaded.path / "report.html").read_text()
    assert 'id="server"' in page
    assert 'href="server.csv"' in page


def test_a_killed_run_has_its_servers_too(run, tmp_path):
    """Everything is a function of the folder, a torn line at its end included."""
    _, loaded = run
    left = tmp_path / "killed"
    shutil.copytree(loaded.path, left)
    (left / "summary.json").unlink()
    with (left / "server.csv").open("a") as file:
        file.write("far,17958473")
    again = runs.load(left).summary.servers
    assert [(s.name, s.scrapes, s.failures, s.models) for s in again] == [
        (s.name, s.scrapes, s.failures, s.models) for s in loaded.summary.servers
    ]
    assert again[0].output_tokens == loaded.summary.servers[0].output_tokens
    assert again[0].phases[0].running.max == 3
