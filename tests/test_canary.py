"""A planted key: one distributed run in the web UI against a server that repeats it in every way,
and then nothing anybody can read holds it, nor a few characters of it.

The channel of master and worker is plain text (ZeroMQ without CURVE), so what passes it is seen by
a proxy in between.
"""

from __future__ import annotations

import base64
import gzip
import http.server
import json
import re
import select
import socket
import threading
import urllib.parse
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
from commandline import WITH_PAGE, batch, loadlib, refused
from locust_driver import Driver, Ended, Web, folders, free_port

# Nothing about it looks like a key: only knowing it can keep it out. With what JSON, Python and
# URLs write otherwise, and long enough to be cut.
CANARY = "Quiet.Canary'7f3a91\"Zq\\Xw8" + "".join(f"{i * 7919 % 1000:03d}q" for i in range(60))
OTHER = "Hidden-Canary-of-another-5521"  # in a variable that no model names
PIECE, STEP = 12, 3  # any 14 characters in a row hold such a piece

OWN = """
from locust import constant, task
from loadlib import ChatUser, LLMUser


class Chat(ChatUser):
    pass


class Own(LLMUser):
    @task
    def ask(self):
        hello = [{"role": "user", "content": "Hello"}]
        made = self.openai.chat.completions.create(model=self.model, messages=hello, stream=True)
        list(made)  # what the server says is raised, and Locust logs it
"""


def ways(key: str) -> list[str]:
    """How a server may say a key."""
    coded = base64.b64encode(key.encode()).decode()
    return [
        key,
        key.upper(),
        coded,
        base64.b64encode(b"user:" + key.encode()).decode(),
        urllib.parse.quote(key, safe=""),
        json.dumps(key),
        f"{key[:40]}…{key[-20:]}",
        "x" * 3900 + key,  # cut in its middle where texts are cut
        f"{key} " * 40,
        f"\x1b]52;c;{coded}\x07 \x9b31m{key}",
    ]


class Parrot(http.server.BaseHTTPRequestHandler):
    """Repeats the key in errors, headers, streams and names, each time in another way."""

    protocol_version = "HTTP/1.1"
    turn = 0

    def do_GET(self) -> None:
        key = self.key
        rows = [{"id": way, "owned_by": key} for way in ways(key)]
        self._send(200, json.dumps({"data": rows, key: key}).encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        Parrot.turn += 1
        said = ways(self.key)[Parrot.turn // 6 % len(ways(self.key))]
        getattr(self, f"_answer_{Parrot.turn % 6}")(said)

    @property
    def key(self) -> str:
        return self.headers.get("authorization", "Bearer ").removeprefix("Bearer ")

    def _answer_0(self, said: str) -> None:
        self._send(500, f"<h1>cannot serve {said}</h1>".encode())

    def _answer_1(self, said: str) -> None:
        error = {"error": {"message": f"bad key {said}", "code": said, "type": said}}
        self._send(400, json.dumps(error).encode())

    def _answer_2(self, said: str) -> None:
        self._stream([json.dumps({"error": {"message": f"overloaded by {said}", "code": said}})])

    def _answer_3(self, said: str) -> None:
        self._stream([f"no JSON but {said}"])

    def _answer_4(self, said: str) -> None:
        chunk = {"model": said, "id": said, "system_fingerprint": said, "service_tier": said,
                 "choices": [{"delta": {"content": said}, "finish_reason": said}]}  # fmt: skip
        usage = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3}}
        self._stream([json.dumps(chunk), json.dumps(usage), "[DONE]"])

    def _answer_5(self, said: str) -> None:
        call = {"index": 0, "function": {"name": said, "arguments": said}}
        self._stream([json.dumps({"choices": [{"delta": {"tool_calls": [call]}}]})])

    def _stream(self, events: list[str]) -> None:
        body = "".join(f"data: {event}\n\n" for event in events).encode()
        self._send(200, body, "text/event-stream")

    def _send(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        for name, value in (
            ("content-type", kind), ("content-length", str(len(body))), ("x-request-id", self.key),
            ("server", self.key), ("retry-after", self.key), ("x-ratelimit-limit-tokens", self.key),
            ("x-ratelimit-reset-requests", self.key), ("warning", f"199 - {self.key}"),
        ):  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def parrot():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Parrot) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


class Wire:
    """A TCP proxy that keeps what passes, both ways."""

    def __init__(self, port: int) -> None:
        self._to, self.passed = port, bytearray()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # until it is closed
            while True:
                here, _ = self._listening.accept()
                try:
                    there = socket.create_connection(("127.0.0.1", self._to))
                except OSError:  # the master is not there yet: ZeroMQ comes again
                    here.close()
                    continue
                threading.Thread(target=self._carry, args=(here, there), daemon=True).start()

    def _carry(self, here: socket.socket, there: socket.socket) -> None:
        other = {here: there, there: here}
        with here, there, suppress(OSError):
            while True:
                for ready in select.select([here, there], [], [])[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    self.passed += data
                    other[ready].sendall(data)

    def close(self) -> None:
        self._listening.close()


def leaks(key: str, places: dict[str, bytes]) -> dict[str, str]:
    """Where the key, or a piece of it in any of its spellings, can be read: place → what."""
    coded = base64.b64encode(key.encode()).decode().rstrip("=")
    spellings = (key, json.dumps(key)[1:-1], coded, urllib.parse.quote(key, safe=""))
    pieces = {
        one[i : i + PIECE].lower().encode()
        for one in spellings
        for i in range(0, len(one) - PIECE + 1, STEP)
    }
    found = {}
    for place, data in places.items():
        lower = data.lower()
        for piece in pieces:
            if (at := lower.find(piece)) >= 0:
                found[place] = data[max(0, at - 60) : at + 60].decode("latin-1")
    return found


def unpacked(places: dict[str, bytes]) -> dict[str, bytes]:
    """With what is packed inside of them: rows travel, and lie in shards, as gzip members."""
    found = dict(places)
    for place, data in places.items():
        for number, start in enumerate(re.finditer(b"\x1f\x8b\x08", data)):
            with suppress(zlib.error):
                inside = zlib.decompressobj(wbits=31).decompress(data[start.start() :], 1 << 24)
                found[f"{place}, packed {number}"] = inside
    return found


def artefacts(root: Path) -> dict[str, bytes]:
    """Every file below, unpacked, and their names."""
    found = {}
    for path in sorted(root.rglob("*")):
        found[f"name of {path}"] = path.name.encode()
        if path.is_file():
            data = path.read_bytes()
            found[str(path)] = gzip.decompress(data) if path.suffix == ".gz" else data
    return found


PAGES = (
    "/", "/stats/requests", "/stats/requests/csv", "/stats/failures/csv", "/exceptions",
    "/exceptions/csv", "/logs", "/tasks", "/stats/report", "/worker-count", "/llm/",
    "/llm/live.json", "/llm/report",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(parrot, tmp_path_factory):
    """One distributed run: everything it left behind, by where it was found."""
    driver = Driver(tmp_path_factory.mktemp("canary"), parrot)
    try:
        yield _run(driver, parrot)
    finally:
        driver.close()


def _run(driver: Driver, parrot: str) -> tuple[dict[str, bytes], Ended]:
    driver.write("own.py", OWN)
    name = driver.scenario(
        "[{phase: measure, requests: 120, arrival: constant, rate: 60/s}]",
        models=[{"name": "own", "base_url": parrot, "api_key_env": "MINE"}],
        workloads={
            "chat": {"kind": "chat", "output_tokens": 4},
            "Own": {"kind": "custom"},
        },
    )
    keys = {"MINE": CANARY, "CI_TOKEN": OTHER, **WITH_PAGE}
    port = free_port()
    master = driver.start(
        "loadlib", "ui", name, "--master", "--expect-workers", "1", "--web-port", str(port), "-v",
        "--", "-f", "own.py", "--autostart", "--autoquit", "600", "--loglevel", "DEBUG",
        *("--csv", "reports/stats", "--html", "reports/locust.html"), **keys,
    )  # fmt: skip
    wire = Wire(int(master.env["LOCUST_MASTER_BIND_PORT"]))
    worker = driver.start(
        "loadlib", "run", "--worker", "--master-port", str(wire.port),
        "--", "-f", "own.py", "--loglevel", "DEBUG", **keys,
    )  # fmt: skip
    web = Web(master, port)
    master.until(lambda: [f for f in folders(driver.reports) if (f / "report.html").exists()])
    found = {f"page {page}": (web.get(page) or "").encode() for page in PAGES}
    master.signal(2)
    ended, worked = master.wait(), worker.wait()
    wire.close()
    again = loadlib("report", driver.reports / "latest")
    probed = loadlib("probe", driver.folder / name, **keys)
    for who, done in (("master", ended), ("worker", worked), ("report", again), ("probe", probed)):
        found |= {f"{who} stdout": done.out.encode(), f"{who} stderr": done.err.encode()}
    found["the wire"] = bytes(wire.passed)
    return unpacked(found | artefacts(driver.reports)), ended


@pytest.mark.slow
def test_a_planted_key_is_nowhere(run):
    places, _ = run
    assert leaks(CANARY, places) == {}
    assert leaks(OTHER, places) == {}


@pytest.mark.slow
def test_and_there_was_much_to_find(run):
    """What the other test searches: the run happened, and the server did say it every time."""
    places, ended = run
    wire = places["the wire"]
    assert b"loadlib_" in wire
    assert b"exception" in wire
    rows = b"".join(data for place, data in places.items() if place.startswith("the wire, packed"))
    assert rows.count(b'"prompt_sha"') >= 50  # what a worker reports is among what is searched
    assert any(place.endswith(".shard") for place in places)
    assert b"[redacted]" in wire  # in the exceptions that Locust sends on, at least
    outcomes = {row["outcome"] for row in ended.rows}
    assert {"server_error", "rejected", "malformed", "ok"} <= outcomes
    assert sum(row["error"] is not None for row in ended.rows) > 50
    assert any(b"[redacted]" in places[page] for page in ("page /logs", "page /exceptions"))
    assert b"[redacted]" in places["worker stderr"]
    assert b"[redacted]" in places["probe stdout"]


@pytest.mark.slow
def test_no_terminal_is_steered(run):
    places, _ = run
    for place, data in places.items():
        if "std" in place:
            text = data.decode()
            assert not re.search("[\x1b\x9b\x07\u202e]", text), place


SHORT = CANARY[:40]
PASTED = [
    (["--set", f"name={SHORT}"], "variable MINE"),
    (["--set", f"workloads.chat.system={OTHER}"], "variable CI_TOKEN"),
    (["--set", f"models.0.api_key={SHORT}"], "keys do not belong"),
    (["--base-url", f"http://me:{OTHER}@127.0.0.1:9/v1"], "keys do not belong"),
    (["--set", f"workloads.chat.extra_body.headers.Authorization={SHORT}"], "keys do not belong"),
    (["--set", f"workloads.chat.extra_body.user={OTHER}"], "variable CI_TOKEN"),
]


def test_a_key_on_the_command_line_is_refused_and_not_repeated(tmp_path, monkeypatch):
    monkeypatch.setenv("MINE", SHORT)
    monkeypatch.setenv("CI_TOKEN", OTHER)
    driver = Driver(tmp_path, "http://127.0.0.1:9/v1")
    name = driver.scenario(
        "[{phase: measure, requests: 3, arrival: constant, rate: 60/s}]",
        models=[{"name": "own", "base_url": driver.base_url, "api_key_env": "MINE"}],
    )
    path = tmp_path / name
    said = [*batch(*(["validate", path, *given] for given, _ in PASTED))]
    said += [loadlib("run", path, *PASTED[0][0], "--out", tmp_path / "r")]  # prints a line first
    for (_, words), done in zip([*PASTED, PASTED[0]], said, strict=True):
        refused(done, 2, words)
        heard = {"out": done.out.encode(), "err": done.err.encode()}
        assert leaks(OTHER, heard) == leaks(SHORT, heard) == {}
    assert not (tmp_path / "r").exists()
