"""A key never reaches an artefact or a log, whatever the server says."""

from __future__ import annotations

import gzip
import http.server
import json
import threading
from pathlib import Path

import pytest
from commandline import WITH_PAGE, Done, loadlib, scenario

# Nothing about it looks like a key: only knowing it can keep it out.
CANARY = "Quiet.Canary-7f3a91"
LIKE_A_KEY = "sk-" + "abcdefghij1234567890ABCDEF"


class Echo(http.server.BaseHTTPRequestHandler):
    """Repeats the Authorization header wherever a server can put words."""

    protocol_version = "HTTP/1.1"
    turn = 0

    def do_GET(self) -> None:
        self._send(200, b'{"data": []}')

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        key = self.headers["authorization"]
        Echo.turn += 1
        kind = Echo.turn % 6
        if kind == 0:
            self._send(500, f"<h1>cannot serve {key}</h1>".encode())
        elif kind == 1:
            error = {"error": {"message": f"bad key {key}", "code": key, "type": key}}
            self._send(400, json.dumps(error).encode())
        elif kind == 2:
            self._send(429, json.dumps({"error": {"message": f"{key} is too fast"}}).encode())
        elif kind == 3:
            event = {"error": {"message": f"overloaded while serving {key}"}}
            self._stream([json.dumps(event)])
        elif kind == 4:
            self._stream([f"no JSON but {key}"])
        else:
            chunk = {"choices": [{"delta": {"content": key}, "finish_reason": key}]}
            usage = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3}}
            self._stream([json.dumps(chunk), json.dumps(usage), "[DONE]"])

    def _stream(self, events: list[str]) -> None:
        body = "".join(f"data: {event}\n\n" for event in events).encode()
        self._send(200, body, "text/event-stream")

    def _send(self, status: int, body: bytes, kind: str = "application/json") -> None:
        key = self.headers.get("authorization", "")
        self.send_response(status)
        for name, value in (("content-type", kind), ("content-length", str(len(body))),
                            ("x-request-id", key), ("server", key)):  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def echo():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def contents(folder: Path):
    """(name, bytes) of every artefact, unpacked; the tree's names as well."""
    for path in sorted(folder.rglob("*")):
        yield f"name of {path}", path.name.encode()
        if path.is_file():
            data = path.read_bytes()
            yield str(path), gzip.decompress(data) if path.suffix == ".gz" else data


def assert_nowhere(secret: str, done: Done, out: Path) -> None:
    assert secret not in done.out
    assert secret not in done.err
    found = [name for name, data in contents(out) if secret.encode() in data]
    assert not found


@pytest.mark.parametrize(("client", "key"), [("tape", CANARY), ("sdk", LIKE_A_KEY)])
def test_a_server_that_repeats_the_key_gets_it_into_no_artefact(tmp_path, echo, client, key):
    model = {"name": "own", "base_url": echo, "api_key_env": "MINE"}
    path = scenario(tmp_path, echo, models=[model], slo=["all: error_rate < 1%"], client=client)
    out = tmp_path / "reports"
    done = loadlib("run", path, "--out", out, "-v", MINE=key, **WITH_PAGE)
    assert done.code == 5, done.err
    rows = dict(contents(out))[str((out / "latest").resolve() / "requests.jsonl.gz")]
    samples = [json.loads(line) for line in rows.splitlines()]
    assert len(samples) == 12
    assert len({sample["outcome"] for sample in samples}) >= 4  # every way of saying it happened
    assert_nowhere(key, done, out)
    again = loadlib("report", out / "latest")  # without the variable: nothing knows the key now
    assert again.code == 0
    assert_nowhere(key, again, out)


def test_a_right_key_is_used_and_not_kept(tmp_path, simulators, monkeypatch):
    monkeypatch.setenv("CANARY", CANARY)
    base_url = simulators("--profile", "instant", "--require-key", "CANARY").base_url
    model = {"name": "own", "base_url": base_url, "api_key_env": "MINE"}
    path = scenario(tmp_path, base_url, models=[model])
    out = tmp_path / "reports"
    done = loadlib("run", path, "--out", out, "--json", MINE=CANARY, **WITH_PAGE)
    assert done.code == 0, done.err
    assert_nowhere(CANARY, done, out)
    assert b"MINE" in b"".join(data for _, data in contents(out))  # the variable's name is


def test_a_key_in_the_text_of_a_prompt_is_not_kept_either(tmp_path, simulator):
    """`requests.jsonl.gz` holds hashes and lengths, no text."""
    marker = "violet hippopotamus"
    line = {"messages": [{"role": "user", "content": f"say {marker}"}]}
    (tmp_path / "talk.jsonl").write_text(json.dumps(line))
    chat = {"kind": "chat", "output_tokens": 8, "data": "talk.jsonl", "system": f"a {marker}"}
    path = scenario(tmp_path, simulator, workloads={"chat": chat})
    out = tmp_path / "reports"
    done = loadlib("run", path, "--out", out)
    assert done.code == 0, done.err
    rows = dict(contents(out))[str((out / "latest").resolve() / "requests.jsonl.gz")]
    assert marker.encode() not in rows
    assert b"prompt_sha" in rows
