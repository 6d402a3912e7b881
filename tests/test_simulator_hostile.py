"""Clients that mean the simulator no good, TLS, and several processes behind one port."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from contextlib import closing, suppress
from pathlib import Path

import pytest
from client_handle import SHORT, Driver
from conftest import Simulator, Simulators
from simulator_client import ask, body, connect, get, post, raw, request_bytes

from loadlib.simulator import tls

pytest_plugins = ("client_fixtures",)


def address(base_url: str) -> tuple[str, int]:
    host, port = base_url.split("/")[2].split(":")
    return host, int(port)


def error_of(received: bytes) -> dict:
    """The error of a raw response, which is in OpenAI's shape."""
    error = json.loads(received.partition(b"\r\n\r\n")[2])["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "Traceback" not in error["message"]
    return error


@pytest.fixture
def quiet(simulators: Simulators):
    """A simulator of the test's own that must not have said a word when the test is over."""
    yield from _quiet(simulators)


@pytest.fixture
def impatient(simulators: Simulators):
    """Such a one, to which a request must come within half a second."""
    yield from _quiet(simulators, "--request-timeout", "0.5")


def _quiet(simulators: Simulators, *flags: str):
    one = simulators("--profile", "instant", *flags, fresh=True)
    yield one.base_url
    assert ask(one.base_url, max_tokens=1), "it still answers"
    assert one.stop() == ("", "")


# --- too much ------------------------------------------------------------------------------------

HEAD = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"

TOO_MUCH = {
    "a body that says it is huge": (HEAD + "content-length: 99999999999\r\n\r\n", 413),
    "a length beyond belief": (HEAD + f"content-length: {'9' * 18}\r\n\r\n", 413),
    "a large header": (HEAD + f"x: {'y' * 200_000}\r\n\r\n", 431),
    "a header without end": (HEAD + "x: " + "y" * 600_000, 431),
    "many headers": (HEAD + "".join(f"x-{n}: y\r\n" for n in range(300)) + "\r\n", 431),
    "a long address": (f"GET /{'y' * 200_000} HTTP/1.1\r\nhost: x\r\n\r\n", 431),
    "no HTTP": ("what is the matter\r\n\r\n", 400),
    "another protocol": ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "two lengths": (HEAD + "content-length: 5\r\ncontent-length: 6\r\n\r\nabcde", 400),
    "no length, no number": (HEAD + "content-length: five\r\n\r\n", 400),
    "a TLS greeting": ("\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", 400),
}


@pytest.mark.parametrize("what", TOO_MUCH)
def test_too_much_and_no_sense_are_refused_in_openais_shape(quiet, what):
    text, status = TOO_MUCH[what]
    received = raw(quiet, text.encode("latin-1"))
    assert received.startswith(b"HTTP/1.1 %d " % status), received[:200]
    assert error_of(received)["message"]


def test_a_chunked_body_without_end_is_refused(quiet):
    with socket.create_connection(address(quiet), timeout=10) as sock:
        sock.sendall(f"{HEAD}transfer-encoding: chunked\r\n\r\n".encode())
        piece = b"%x\r\n%b\r\n" % (2**20, b" " * 2**20)
        with suppress(OSError):  # it may hang up while we send
            for _ in range(80):
                sock.sendall(piece)
        received = b""
        with suppress(OSError):
            while part := sock.recv(65536):
                received += part
    assert received == b"" or received.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("sent", ["POST /v1", HEAD, HEAD + "content-length: 99\r\n\r\n{"])
def test_a_request_that_never_ends_is_given_up(impatient, sent):
    began = time.monotonic()
    with socket.create_connection(address(impatient), timeout=10) as sock:
        sock.sendall(sent.encode())
        received = b""
        with suppress(BrokenPipeError, ConnectionResetError):
            while not received and time.monotonic() - began < 5:
                sock.settimeout(0.1)
                with suppress(TimeoutError):
                    received = sock.recv(65536)
                if not received:
                    sock.sendall(b"x")  # slowly, slowly
    assert received.startswith(b"HTTP/1.1 408 ")
    assert error_of(received)
    assert time.monotonic() - began >= 0.49


def test_an_idle_connection_is_left_alone(impatient):
    with closing(connect(impatient)) as connection:
        for pause_s in (0.0, 0.7):  # longer than a request may take
            time.sleep(pause_s)
            connection.request("POST", "/v1/chat/completions", body(max_tokens=1))
            assert connection.getresponse().read()


def test_a_slow_answer_is_no_slow_request(simulators, tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("default: {output_tok_s: 10}")
    url = simulators("--profile", str(path), "--request-timeout", "0.2").base_url
    assert ask(url, max_tokens=6)["usage"]["completion_tokens"] == 6


def test_thousands_of_pipelined_requests_end_a_connection(quiet):
    slow = request_bytes(body(max_tokens=200_000, stream=True))
    more = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n" * 5000
    with socket.create_connection(address(quiet), timeout=10) as sock, suppress(OSError):
        sock.sendall(slow + more)
        while sock.recv(65536):
            pass


def test_more_connections_than_descriptors(simulators):
    program = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))\n"
        "from loadlib.simulator.__main__ import main\n"
        "sys.exit(main(['--profile', 'instant']))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        url = process.stdout.readline().split()[-1]
        crowd = [socket.create_connection(address(url), timeout=10) for _ in range(60)]
        before = cpu_s(process.pid)
        time.sleep(0.3)
        assert cpu_s(process.pid) - before < 0.2, "it waits, it does not spin"
        for sock in crowd:
            sock.close()
        assert ask(url, max_tokens=1)
    finally:
        process.terminate()
        assert process.communicate(timeout=10) == ("", "")


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- what is in a body ---------------------------------------------------------------------------


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def loop(**more) -> dict:
    """A schema that contains itself, several times over, wherever it is looked at."""
    names = [f"p{n}" for n in range(12)]
    return {"type": "object", "required": names,
            "properties": {name: {"$ref": "#"} for name in names}, **more}  # fmt: skip


def schema(value: object) -> bytes:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": value}}
    return body(response_format=wanted, max_tokens=5)


def message(**fields) -> bytes:
    return body(messages=[{"role": "user", "content": "x", **fields}], max_tokens=5)


BODIES = {
    "nothing": (b"", 400),
    "half of it": (body()[:20], 400),
    "no UTF-8": (b'{"model": "\xff", "messages": []}', 400),
    "a null": (b"null", 400),
    "deep": (nested(100_000), 400),
    "deep messages": (b'{"model":"m","messages":%b}' % nested(100_000), 400),
    "deep content": (
        b'{"model":"m","messages":[{"role":"user","content":%b}]}' % nested(50_000),
        400,
    ),
    "deep beside content": (
        b'{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"x","y":%b}]}'
        % nested(900),
        None,
    ),
    "huge max_tokens": (body(max_tokens=10**9), 400),
    "max_tokens beyond 64 bits": (
        b'{"model":"m","messages":[],"max_tokens":1%b}' % (b"0" * 400),
        400,
    ),
    "max_tokens that is no number": (body(max_tokens="x" * 100_000), 400),
    "a fraction of a token": (body(max_tokens=1.5), 400),
    "many stops": (body(stop=["x"] * 10_000), 400),
    "many tools": (body(tools=[{"function": {"name": "f"}}] * 500), 400),
    "a choice of no tool": (body(tool_choice="x" * 100_000), 400),
    "a schema without bottom": (schema(loop()), 400),
    "a schema with a billion items": (schema({"type": "array", "minItems": 10**9}), 400),
    "a schema with an endless text": (schema({"type": "string", "minLength": 10**9}), 400),
    "a schema of large constants": (
        schema({"type": "array", "minItems": 3000, "items": {"const": "x" * 10_000}}),
        400,
    ),
    "a schema with odd numbers": (
        schema({"type": "integer", "multipleOf": 0, "minimum": 1e308}),
        None,
    ),
    "a schema that divides by nothing": (
        schema({"type": "integer", "multipleOf": 1e-320, "minimum": 1}),
        400,
    ),
    "a reference to nowhere": (schema({"$ref": "#/a/b/c"}), 200),
    "a role of another kind": (message(role=["user"]), 400),
    "a part of another kind": (message(content=[7]), 400),
    "a part of another type": (message(content=[{"type": ["x"]}]), 200),
    "an image of another kind": (message(content=[{"type": "image_url", "image_url": 7}]), 200),
    "an image from nowhere": (
        message(content=[{"type": "image_url", "image_url": {"url": "data:;base64," + "=" * 999}}]),
        200,
    ),
    "a name of another kind": (message(name={"a": [1]}), 200),
    "calls of another kind": (message(tool_calls=[{"type": 7}]), 400),
    "a blank megabyte": (message(content=" " * 2**20), 400),
    "a letter repeated": (message(content="a" * 200_000), 200),
}


@pytest.mark.parametrize("what", BODIES)
def test_a_hostile_body_is_answered_soon_and_in_shape(simulator, what):
    data, status = BODIES[what]
    began = time.monotonic()
    answered, _, text = post(simulator, data=data)
    assert answered == status if status else answered in (200, 400)
    if answered != 200:
        assert set(json.loads(text)["error"]) == {"message", "type", "param", "code"}
        assert len(text) < 5000
    assert time.monotonic() - began < 20


def test_a_long_prompt_does_not_hold_up_the_others(simulator):
    """Tools and calls too are counted beside the event loop."""
    long = " ".join(f"word{n}" for n in range(150_000))
    tools = [{"type": "function", "function": {"name": "f", "description": long}}]
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": long}}]
    for fields in (
        {"messages": [{"role": "user", "content": long}]},
        {"tools": tools, "tool_choice": "none"},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": calls}]},
    ):
        with closing(connect(simulator)) as connection:
            began = time.monotonic()
            connection.request("POST", "/v1/chat/completions", body(max_tokens=1, **fields))
            waits = []
            while len(waits) < 3:
                asked = time.monotonic()
                assert get(simulator, "/health")[0] == 200
                waits.append(time.monotonic() - asked)
            assert connection.getresponse().status == 200
            assert min(waits) < (time.monotonic() - began) / 2


def test_nothing_of_this_is_printed(simulators):
    one = simulators("--profile", "instant", fresh=True)
    for data, _ in BODIES.values():
        post(one.base_url, data=data)
    assert one.stop() == ("", "")


# --- TLS -----------------------------------------------------------------------------------------

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl program")


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = str(folder / "c.pem"), str(folder / "k.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", key, "-out", certificate, "-subj", "/CN=localhost", "-days", "2",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return certificate, key


def tls_post(url: str, context: ssl.SSLContext, **fields) -> bytes:
    request = urllib.request.Request(f"{url}/chat/completions", data=body(**fields))
    with urllib.request.urlopen(request, context=context, timeout=20) as response:
        return response.read()


@needs_openssl
def test_a_certificate_of_ones_own_serves_those_who_trust_it(simulators, pair):
    one = simulators("--profile", "instant", "--tls", *pair, fresh=True)
    assert one.base_url.startswith("https://127.0.0.1:")
    trusting = ssl.create_default_context(cafile=pair[0])
    data = tls_post(one.base_url, trusting, stream=True, max_tokens=20_000)  # more than a buffer
    assert data.endswith(b"data: [DONE]\n\n")
    assert data.count(b'"content":"') == 20_001
    long = [{"role": "user", "content": "rain " * 60_000}]  # … and in many records
    told = json.loads(tls_post(one.base_url, trusting, messages=long, max_tokens=1))
    assert told["usage"]["prompt_tokens"] > 60_000
    with socket.create_connection(address(one.base_url), timeout=10) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")  # not TLS
        with suppress(ConnectionResetError):
            assert b"HTTP/1.1 200" not in sock.recv(1000)
    assert tls_post(one.base_url, trusting, max_tokens=1)
    assert one.stop() == ("", "")


@needs_openssl
@pytest.mark.parametrize("mode", ["tape", "sdk"])
@pytest.mark.parametrize("kind", tls.BAD)
def test_a_bad_certificate_is_refused_by_the_client(
    gevent_child: Driver, simulators: Simulators, kind: str, mode: str
):
    one = simulators("--profile", "instant", "--bad-certificate", kind)
    sample = gevent_child.one(one.base_url, deadlines=SHORT, mode=mode)
    assert (sample["outcome"], sample["cause"]) == ("disconnected", "tls"), sample["error"]


@needs_openssl
@pytest.mark.parametrize("mode", ["tape", "sdk"])
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("self-signed", None),  # there was nothing else to find fault with
        ("wrong-host", "not valid for '127.0.0.1'"),
        ("expired", "certificate has expired"),
    ],
)
def test_who_trusts_a_bad_certificate_sees_what_else_is_wrong(
    gevent_child: Driver, simulators: Simulators, tmp_path: Path, kind: str, said: str, mode: str
):
    one = simulators("--profile", "instant", "--bad-certificate", kind)
    trusted = tmp_path / "certificate.pem"
    trusted.write_text(ssl.get_server_certificate(address(one.base_url)))
    environ = {"SSL_CERT_FILE": str(trusted)}
    sample = gevent_child.one(one.base_url, deadlines=SHORT, mode=mode, environ=environ)
    if said is None:
        assert sample["outcome"] == "ok", sample["error"]
    else:
        assert (sample["outcome"], sample["cause"]) == ("disconnected", "tls")
        assert said in sample["error"]


def test_without_openssl_there_is_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "loadlib.simulator", "--bad-certificate", "self-signed"],
        capture_output=True, text=True, timeout=30, env=os.environ | {"PATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 3
    assert re.fullmatch(r"error: --bad-certificate needs the openssl program.*\n", done.stderr)


@needs_openssl
def test_faults_happen_inside_tls_too(simulators, pair):
    flags = ("--tls", *pair, "--fault", "disconnect-mid-stream,every=2")
    one = simulators("--profile", "instant", *flags)
    trusting = ssl.create_default_context(cafile=pair[0])
    assert tls_post(one.base_url, trusting, stream=True, max_tokens=4)
    with pytest.raises(Exception, match="IncompleteRead"):
        tls_post(one.base_url, trusting, stream=True, max_tokens=4)


# --- several processes ---------------------------------------------------------------------------


@pytest.fixture
def three(simulators: Simulators) -> Simulator:
    return simulators("--profile", "instant", "--processes", "3", fresh=True)


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def reached(base_url: str) -> set[str]:
    """Which processes answer: each connection may reach another."""
    found: set[str] = set()
    for _ in range(200):
        found.add(post(base_url, max_tokens=1)[1]["x-simulator-process"])
        if len(found) == 3:
            break
    return found


def test_several_processes_share_a_port(three):
    assert reached(three.base_url) == {"1/3", "2/3", "3/3"}
    page = get(three.base_url, "/metrics")[2].decode().splitlines()[0]
    assert re.fullmatch(r"# process \d of 3: these are its own numbers only.*", page)
    ids = [ask(three.base_url, max_tokens=1)["id"] for _ in range(30)]
    assert len(set(ids)) == 30
    texts = {ask(three.base_url, max_tokens=9)["choices"][0]["message"]["content"] for _ in ids}
    assert len(texts) == 1, "an answer depends on prompt and seed only"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_all_of_them(three, name):
    pids = children(three.process.pid)
    assert len(pids) == 3
    three.process.send_signal(getattr(signal, name))
    assert three.process.communicate(timeout=20) == ("", "")
    assert three.process.returncode == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_when_one_ends_by_itself_all_do(three):
    pids = children(three.process.pid)
    os.kill(pids[1], signal.SIGKILL)
    out, err = three.process.communicate(timeout=20)
    assert three.process.returncode == 1
    assert (out, err) == ("", "error: process 2 of 3 ended by itself (exit code -9)\n")
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_when_the_parent_is_killed_the_others_end(three):
    pids = children(three.process.pid)
    three.process.kill()
    three.process.communicate(timeout=20)
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_window_opens_for_all_of_them_at_once(simulators):
    rule = "status,status=503,from=400ms"
    flags = ("--processes", "3", "--fault", rule)
    url = simulators("--profile", "instant", *flags, fresh=True).base_url
    assert post(url, max_tokens=1)[0] == 200
    time.sleep(0.5)
    assert {post(url, max_tokens=1)[0] for _ in range(30)} == {503}


def test_a_taken_port_is_one_line_for_several_as_well(simulator):
    port = str(address(simulator)[1])
    done = subprocess.run(
        [sys.executable, "-m", "loadlib.simulator", "--port", port, "--processes", "2"],
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 3
    assert re.fullmatch(r"error: cannot listen on 127.0.0.1:\d+: .*in use\n", done.stderr)
