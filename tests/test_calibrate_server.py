"""The Python truth server: its protocol, and that its record is what it did."""

from __future__ import annotations

import http.client
import json
import select
import socket
import subprocess
import sys
import time

import pytest

from loadlib.calibrate import protocol, truth
from loadlib.calibrate.protocol import NS_PER_MS, Pace
from loadlib.calibrate.server import Connection, main

FAST = ("--ttft-ms", "8", "--gap-ms", "2", "--tokens", "5")


class Started:
    def __init__(self, *flags):
        command = [sys.executable, "-m", "loadlib.calibrate.server", "--exit-with-parent", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        ready, _, _ = select.select([self.process.stdout], [], [], 30)
        assert ready, "no first line"
        self.port = json.loads(self.process.stdout.readline())["port"]
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def stop(self):
        self.process.terminate()
        self.process.communicate(timeout=30)
        return self.process.returncode


@pytest.fixture(scope="module")
def server():
    started = Started(*FAST)
    yield started
    started.stop()


@pytest.fixture(autouse=True)
def nothing_left(request):
    """What an earlier test did is not in this one's record."""
    if "server" in request.fixturenames:
        truth.fetch(request.getfixturevalue("server").url)


def post(body=b"{}", **headers):
    lines = ["POST /v1/chat/completions HTTP/1.1", "host: x", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def ask(connection):
    """One request through the standard client: (status, headers, body)."""
    connection.request("POST", "/v1/chat/completions", b'{"stream":true}')
    response = connection.getresponse()
    return response.status, dict(response.getheaders()), response.read()


def chunks(body):
    lines = [line for line in body.decode().split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_a_stream_is_what_the_protocol_says_and_the_connection_is_kept(server):
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    ids = []
    for _ in range(2):
        status, headers, body = ask(client)
        assert (status, headers["content-type"]) == (200, "text/event-stream")
        assert headers["transfer-encoding"] == "chunked"
        ids.append(headers["x-request-id"])
        role, *tokens, stop, usage = chunks(body)
        assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert [token["choices"][0]["delta"] for token in tokens] == [{"content": " tok"}] * 5
        assert stop["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "stop"}
        assert usage["choices"] == []
        assert usage["usage"] == {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        assert {chunk["id"] for chunk in (role, *tokens, stop, usage)} == {f"chatcmpl-{ids[-1]}"}
    first = int(ids[0].removeprefix("t-"))
    assert ids == [f"t-{first}", f"t-{first + 1}"], "numbered, over one connection"
    client.request("GET", "/v1/models")
    models = json.loads(client.getresponse().read())
    assert [model["id"] for model in models["data"]] == ["truth"]
    client.request("GET", "/elsewhere")
    assert client.getresponse().status == 404
    client.close()
    found = truth.fetch(server.url)
    assert [served.id for served in found.requests] == ids


def test_instants_are_absolute_and_never_early(server):
    before = time.monotonic_ns()
    for _ in range(3):
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        assert ask(client)[0] == 200
        client.close()
    found = truth.fetch(server.url)
    after = time.monotonic_ns()
    for served in found.requests:
        assert before < served.arrival_ns <= served.received_ns < served.first_ns < after
        assert served.ttft_ns >= 8 * NS_PER_MS
        assert served.last_ns >= served.arrival_ns + (8 + 4 * 2) * NS_PER_MS
        assert served.events == 5
    assert found.events == 15
    assert sum(count for _, count in found.gaps) == 12, "four between five tokens"
    spans = sum(served.last_ns - served.first_ns for served in found.requests)
    assert abs(sum(gap * count for gap, count in found.gaps) - spans / 1000) <= 12, "rounded µs"
    assert found.late_us_p99 is not None


def test_the_record_is_drained(server):
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    ask(client)
    client.close()
    assert len(truth.fetch(server.url).requests) == 1
    again = truth.fetch(server.url)
    assert (again.requests, again.gaps, again.events, again.late_us_p99) == ((), (), 0, None)


def test_a_large_body_arrives_with_its_first_segment(server):
    """500 kB in two parts, and the server has read the first before the second is sent."""
    body = b"x" * 500_000
    request = post(body)
    with server.connect() as sock, server.connect() as other:
        before = time.monotonic_ns()
        sock.sendall(request[:20])
        sent_first = time.monotonic_ns()
        # One loop, first come first served: its answer here means that it has looked there.
        other.sendall(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n")
        assert other.recv(1 << 16).startswith(b"HTTP/1.1 200")
        between = time.monotonic_ns()
        sock.sendall(request[20:-1])
        before_last = time.monotonic_ns()
        sock.sendall(request[-1:])
        with sock.makefile("rb") as file:
            while file.readline() != b"0\r\n":
                pass
    (served,) = truth.fetch(server.url).requests
    slack = 100_000  # between the two clocks
    assert before - slack <= served.arrival_ns <= sent_first + slack
    assert served.received_ns >= before_last - slack > between - slack


def test_headers_and_role_chunk_come_with_the_arrival_in_one_write():
    started = Started("--ttft-ms", "60000", "--tokens", "1")
    with started.connect() as sock:
        sock.sendall(post())
        data = sock.recv(1 << 16)
    assert started.stop() == 0, "SIGTERM is how it ends"
    head, _, rest = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b'"role":"assistant"' in rest, "a minute before the first token"
    assert b" tok" not in rest


def test_without_pace_events_come_as_fast_as_they_are_read():
    started = Started("--gap-ms", "0", "--ttft-ms", "0", "--tokens", "40000")
    client = http.client.HTTPConnection("127.0.0.1", started.port, timeout=30)
    _, _, body = ask(client)  # 8 MB: far more than a socket has room for
    assert len(chunks(body)) == 40_000 + 3
    found = truth.fetch(started.url)
    client.close()
    started.stop()
    assert (found.events, found.requests[0].events) == (40_000, 40_000)
    assert sum(count for _, count in found.gaps) == 39_999


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"hello\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: many\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        post() + post(),
        b"x" * (1 << 17),
    ],
    ids=["not HTTP", "chunked", "no number", "negative", "pipelined", "headers without end"],
)
def test_what_it_does_not_understand_is_refused_and_the_server_lives(server, request_bytes):
    with server.connect() as sock:
        sock.sendall(request_bytes)
        assert sock.recv(1 << 12).startswith(b"HTTP/1.1 400 ")
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    assert ask(client)[0] == 200
    client.close()


def test_a_client_that_leaves_is_forgotten(server):
    with server.connect() as sock:
        sock.sendall(post())
        assert sock.recv(1 << 12).startswith(b"HTTP/1.1 200")
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    _, headers, _ = ask(client)
    client.close()
    assert [served.id for served in truth.fetch(server.url).requests] == [headers["x-request-id"]]


def test_it_ends_with_the_process_that_started_it():
    flags = ["-m", "loadlib.calibrate.server", "--exit-with-parent"]
    code = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, *{flags}], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    parent = subprocess.Popen([sys.executable, "-c", code], **pipes)
    assert parent.stdout.readline().strip().isdigit()
    parent.kill()
    _, said = parent.communicate(timeout=30)  # stderr ends with the last process that has it
    assert said == ""


# -- without a process -----------------------------------------------------------------------------


def test_the_spread_is_known_and_fills_its_range():
    pace = Pace(ttft_ns=200 * NS_PER_MS, spread=0.5)
    values = [pace.first_ns(n) for n in range(1, 1001)]
    assert values == [pace.first_ns(n) for n in range(1, 1001)], "by number alone"
    assert 100 * NS_PER_MS <= min(values) < 101 * NS_PER_MS
    assert 299 * NS_PER_MS < max(values) <= 300 * NS_PER_MS
    assert sum(values) / 1000 == pytest.approx(200 * NS_PER_MS, rel=0.01)
    assert len(set(values)) == 1000
    assert Pace().first_ns(7) == 200 * NS_PER_MS, "no spread, no variation"


def test_one_event_is_one_chunk_of_the_size_of_real_ones():
    chunk = protocol.token("t-12345")
    size, _, rest = chunk.partition(b"\r\n")
    assert int(size, 16) == len(rest) - 2
    assert 150 <= len(rest) <= 250


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
def test_a_request_may_come_in_any_pieces(step):
    connection, request = Connection(None), post(b"0123456789")
    pieces = [request[at : at + step] for at in range(0, len(request), step)]
    complete = [connection.feed(piece, at) for at, piece in enumerate(pieces, 100)]
    assert complete == [False] * (len(pieces) - 1) + [True]
    assert (connection.arrival_ns, connection.received_ns) == (100, 99 + len(pieces))
    assert connection.line == b"POST /v1/chat/completions"


@pytest.mark.parametrize(
    "flags",
    [("--tokens", "0"), ("--gap-ms", "-1"), ("--spread", "1"), ("--ttft-ms", "soon"), ("--what",)],
)
def test_impossible_options_are_refused(flags, capsys):
    with pytest.raises(SystemExit) as ended:
        main(flags)
    assert ended.value.code == 2
    assert "error" in capsys.readouterr().err
