"""Bad input gets one clear line, the right exit code and no traceback: through the command."""

from __future__ import annotations

import http.server
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from contextlib import suppress

import pytest
from commandline import WITH_PAGE, batch, loadlib, refused, scenario, start

SCENARIO = """\
version: 1
name: small
target: simulator
models: [gpt-4o-mini]
workloads:
  chat: {kind: chat, output_tokens: 8}
load:
  - {phase: measure, requests: 12, arrival: constant, rate: 40/s}
slo:
  - "all: ttft.p50 < 5s"
"""

# (what is replaced, by what, exit code, words of the message)
MISTAKES = {
    "unknown key": ("target:", "tarjet:", ":3:", "'tarjet'", "did you mean 'target'?"),
    "unknown nested key": ("requests:", "reqests:", ":8:", "'reqests'", "'requests'"),
    "unknown model": ("gpt-4o-mini", "gpt-4o-mimi", ":4:", "'gpt-4o-mimi'", "'gpt-4o-mini'"),
    "unknown metric": ("ttft.p50", "tfft.p50", ":10:", "'tfft'", "did you mean 'ttft'?"),
    "unknown scope": ("all: ", "caht: ", ":10:", "'caht'", "did you mean 'chat'?"),
    "duplicate key": ("name: small", "name: a\nname: b", ":3:", "duplicate key 'name'"),
    "negative duration": ("requests: 12", "duration: -5s", ":8:", "cannot be negative"),
    "unitless duration": ("requests: 12", "duration: 5", ":8:", "needs a unit: write 5s"),
    "unitless rate": ("40/s", "40", ":8:", "needs a unit: write 40/s"),
    "zero requests": ("requests: 12", "requests: 0", ":8:", "1 or more"),
    "less than one request": ("requests: 12", "duration: 1ms", ":8:", "plans no request"),
    "nothing measured": ("phase: measure", "phase: warmup", ":7:", "zero requests"),
    "weight zero": ("kind: chat,", "kind: chat, weight: 0,", "zero requests"),
    "unknown policy": ("name: small", "name: small\non_throttle: retry", ":3:", "record, backoff"),
    "undecidable goodput": ("ttft.p50 < 5s", "goodput >= 95%", ":10:", "goodput"),
    "YAML": ("models: [", "models: [[", ":5:", "not YAML"),
}


@pytest.fixture(scope="module")
def mistaken(tmp_path_factory):
    """What `validate` says of each mistake, and the file it stands in."""
    folder = tmp_path_factory.mktemp("mistakes")
    paths = {}
    for name, (old, new, *_words) in MISTAKES.items():
        assert old in SCENARIO
        paths[name] = folder / f"{name.replace(' ', '-')}.yaml"
        paths[name].write_text(SCENARIO.replace(old, new))
    said = batch(*(["validate", path] for path in paths.values()))
    return {name: (done, paths[name]) for name, done in zip(paths, said, strict=True)}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_in_a_scenario_are_named_with_their_line(mistaken, name):
    done, path = mistaken[name]
    refused(done, 2, f"{path}:", *MISTAKES[name][2:])


def test_run_and_ui_refuse_what_validate_refuses(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(SCENARIO.replace("target:", "tarjet:"))
    words = (f"{path}:3: unknown key 'tarjet'", "'target'")
    refused(loadlib("run", path, "--out", tmp_path / "r"), 2, *words)
    done = loadlib("ui", path, "--web-port", "8999", "--out", tmp_path / "r")
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith(f"error: {words[0]}")
    assert not (tmp_path / "r").exists()


NO_SCENARIOS = {
    "empty": (b"", "is empty"),
    "binary": (b"\x80\xfe\x00garbage\xff" * 40, "is not UTF-8"),
    "a list": (b"- 1\n", "mapping"),
    "NUL": (b"version: 1\x00\n", "not YAML"),
    "a loop": (b"a: &a [*a]\n", ""),
    "large": (b"x" * 300_000, "larger than 256 KiB"),
}


def test_files_that_are_no_scenario(tmp_path):
    for name, (content, _word) in NO_SCENARIOS.items():
        (tmp_path / name).write_bytes(content)
    said = batch(*(["validate", tmp_path / name] for name in NO_SCENARIOS))
    for (name, (_content, word)), done in zip(NO_SCENARIOS.items(), said, strict=True):
        refused(done, 2, str(tmp_path / name), word)


def test_no_such_scenario_and_a_folder_instead_of_one(tmp_path):
    refused(loadlib("run", tmp_path / "nope.yaml"), 2, "nope.yaml", "no such file")
    folder, nothing = batch(["validate", tmp_path], ["run"])
    refused(folder, 2, str(tmp_path), "is a directory")
    refused(nothing, 2, "nothing to run", "--model")


WRONG = [
    (["--set", "load"], ["--set load", "KEY=VALUE"]),
    (["--set", "load.7.rate=3/s"], ["--set load.7.rate", "'7' is not a position"]),
    (["--set", "lod.0.rate=3/s"], ["'lod'", "did you mean 'load'?"]),
    (["--set", "load.0.rate=fast"], ["'fast' is not a rate"]),
    (["--rate", "5"], ["--rate", "needs a unit: write 5/s"]),
    (["--rate", "5/s", "--users", "3"], ["--rate and --users exclude each other"]),
    (["--requests", "0"], ["--requests", "0 is not in the range"]),
    (["--users", "-1"], ["--users"]),
    (["--model", "gpt-4o-mimi"], ["'gpt-4o-mimi'", "did you mean 'gpt-4o-mini'?"]),
    (["--base-url", "127.0.0.1:8080"], ["--base-url", "should be a URL"]),
    (["--durration", "5s"], ["No such option '--durration'", "--duration"]),
]


def test_wrong_options(tmp_path):
    path = scenario(tmp_path)
    said = batch(*(["validate", path, *flags] for flags, _words in WRONG))
    for (_flags, words), done in zip(WRONG, said, strict=True):
        refused(done, 2, *words)


def test_wrong_options_of_a_run(tmp_path):
    path = scenario(tmp_path)
    processes, baseline, locustfile, command = batch(
        ["run", path, "--processes", "0"],
        ["run", path, "--baseline", tmp_path],
        ["run", path, "--", "-f", "nope.py"],
        ["compair"],
    )
    refused(processes, 2, "--processes", "-1 for one per core")
    refused(baseline, 2, "is not a run folder")
    refused(locustfile, 2, "no locustfile 'nope.py'")
    refused(command, 2, "'compair'", "did you mean 'compare'?")
    refused(loadlib("run", path, "--", "-u", "5"), 2, "-u beside a scenario")


def test_a_flag_that_locust_does_not_know(tmp_path):
    done = loadlib("run", scenario(tmp_path), "--", "--no-such-flag")
    assert done.code == 2
    assert done.err.splitlines()[-1] == "locust: error: unrecognized arguments: --no-such-flag"


# -- targets ---------------------------------------------------------------------------------------


def test_a_live_target_needs_its_key(tmp_path):
    live = scenario(tmp_path, target="live")
    done = loadlib("run", live, OPENAI_API_KEY="  ")
    refused(done, 3, "gpt-4o-mini", "OPENAI_API_KEY", "not set or empty")


def test_a_key_that_no_header_can_carry(tmp_path, simulator):
    key = "clé\nünï"
    model = {"name": "own", "base_url": simulator, "api_key_env": "MINE"}
    path = scenario(tmp_path, simulator, models=[model])
    assert key not in refused(loadlib("run", path, MINE=key), 3, "MINE")


def test_a_public_host_must_be_written(tmp_path):
    """Before DNS: no test of ours may depend on a name server, and nor may this refusal."""
    words = ("api.openai.com", "public host", "target: live")
    refused(loadlib("run", scenario(tmp_path, target=None), OPENAI_API_KEY="x"), 2, *words)
    quick = ["--model", "m", "--base-url", "https://example.invalid/v1", "--requests", "3"]
    (done,) = batch(["validate", *quick])
    refused(done, 2, "example.invalid", "public host", "--set target=live")


def test_a_model_that_is_shut_down_is_refused_live_with_its_replacement(tmp_path):
    path = scenario(tmp_path, target="live", models=["gemini-1.5-flash"])
    done = loadlib("run", path, GEMINI_API_KEY="x")
    refused(done, 3, "gemini-1.5-flash was shut down", "2025", "; use gemini-")
    assert loadlib("validate", scenario(tmp_path, models=["gemini-1.5-flash"])).code == 0


def quick_run(base_url, tmp_path, **variables):
    flags = ["--model", "m", "--base-url", base_url, "--requests", "3"]
    return loadlib("run", *flags, "--out", tmp_path / "reports", **variables)


def test_an_unreachable_host(tmp_path, unused_port):
    base_url = f"http://127.0.0.1:{unused_port}/v1"
    refused(quick_run(base_url, tmp_path), 3, base_url, "Connection refused")
    assert not (tmp_path / "reports").exists()


def test_a_name_that_does_not_resolve(tmp_path):
    refused(quick_run("http://nobody.localhost:9/v1", tmp_path), 3, "nobody.localhost")


def test_tls_failures(tmp_path, https, simulator):
    refused(quick_run(https, tmp_path), 3, "TLS with 127.0.0.1 failed", "self-signed certificate")
    plain = simulator.replace("http://", "https://")
    refused(quick_run(plain, tmp_path), 3, "TLS with 127.0.0.1 failed")


def test_a_refused_key(tmp_path, simulators, monkeypatch):
    monkeypatch.setenv("SIMULATOR_KEY", "open-sesame")
    base_url = simulators("--profile", "instant", "--require-key", "SIMULATOR_KEY").base_url
    refused(quick_run(base_url, tmp_path), 3, "refuses the key", "HTTP 401")
    model = {"name": "own", "base_url": base_url, "api_key_env": "MINE"}
    path = scenario(tmp_path, base_url, models=[model])
    message = refused(loadlib("run", path, MINE="open-barley"), 3, "refuses the key in MINE")
    assert "barley" not in message
    good = loadlib("run", path, "--out", tmp_path / "r", MINE="open-sesame")
    assert good.code == 0, good.err


@pytest.fixture
def unused_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        yield listening.getsockname()[1]  # bound, not listening: refused


@pytest.fixture(scope="module")
def https(tmp_path_factory):
    """A server whose certificate nobody vouches for."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key,
         "-out", certificate, "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"https://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


class Quiet(http.server.BaseHTTPRequestHandler):
    def handle(self) -> None:
        with suppress(OSError):
            super().handle()

    def log_message(self, *args: object) -> None:
        pass


# -- keys and data ---------------------------------------------------------------------------------

KEY = "sk-" + "abcdefghij1234567890"


def test_a_key_pasted_into_a_scenario_is_refused_and_not_repeated(tmp_path):
    url = f"http://x:{KEY}@h/v1"
    places = [{"api_key": KEY}, {"api_key_env": KEY}, {"model": KEY}, {"base_url": url}]
    paths = []
    for number, place in enumerate(places):
        folder = tmp_path / str(number)
        folder.mkdir()
        own = {"name": "own", "base_url": "http://127.0.0.1:9/v1", **place}
        paths.append(scenario(folder, target=None, models=[own]))
    for path, done in zip(paths, batch(*(["validate", path] for path in paths)), strict=True):
        message = refused(done, 2, str(path), "keys do not belong in a scenario")
        assert KEY[3:] not in message


def test_a_key_pasted_into_the_command_line_is_not_repeated(tmp_path):
    done = loadlib("run", scenario(tmp_path), "--set", f"models.0.api_key={KEY}")
    assert KEY[3:] not in done.err + done.out  # not in the Locust line either
    assert done.code == 2


GOOD = '{"messages": [{"role": "user", "content": "hello"}]}'
LINES = f'{GOOD}\n{{"messages": oops\n{GOOD}\n{{"messages": []}}\n'


def test_broken_lines_of_a_conversation_file(tmp_path):
    data = tmp_path / "talk.jsonl"
    data.write_text(LINES)
    chat = {"kind": "chat", "output_tokens": 8, "data": "talk.jsonl"}
    path = scenario(tmp_path, workloads={"chat": chat})
    refused(loadlib("run", path, "--out", tmp_path / "r"), 3, f"{data}:2:", "not JSON")
    kept = scenario(tmp_path, workloads={"chat": {**chat, "skip_invalid": True}})
    done = loadlib("validate", kept)
    assert done.code == 0
    assert "workload chat: 2 invalid lines skipped" in done.out


@pytest.mark.parametrize(
    ("name", "said"),
    [("nope.jsonl", "nope.jsonl: cannot be read: No such file"), (".", "cannot be read: Is a dir")],
)
def test_a_conversation_file_that_cannot_be_read(tmp_path, name, said):
    chat = {"kind": "chat", "output_tokens": 8, "data": name}
    refused(loadlib("validate", scenario(tmp_path, workloads={"chat": chat})), 3, said)


# -- the place where results go --------------------------------------------------------------------


def test_an_out_that_cannot_be_a_folder(tmp_path):
    path = scenario(tmp_path)
    refused(loadlib("run", path, "--out", path), 3, "cannot write a run folder", str(path))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_an_out_without_permission(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    done = loadlib("run", scenario(tmp_path), "--out", closed)
    refused(done, 3, "cannot write a run folder", "Permission denied")


@pytest.fixture
def disk(tmp_path):
    """A factory of file systems of so many KiB."""
    place = tmp_path / "disk"
    place.mkdir()

    def make(kib: int):
        options = f"size={kib}k"
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place],
            capture_output=True, check=False,
        )  # fmt: skip
        if made.returncode != 0:
            pytest.skip("needs the right to mount a small tmpfs")
        return place

    if shutil.which("mount") is None:
        pytest.skip("needs mount")
    yield make
    subprocess.run(["umount", place], capture_output=True, check=False)


def test_a_disk_that_is_full_before_the_run(tmp_path, disk):
    done = loadlib("run", scenario(tmp_path), "--out", disk(4))
    refused(done, 3, "cannot write a run folder", "No space left on device")


def test_a_disk_that_is_full_during_the_run_is_never_a_pass(tmp_path, disk):
    out = disk(64)
    done = loadlib("run", scenario(tmp_path), "--out", out, **WITH_PAGE)
    assert "Traceback" not in done.err
    assert "No space left on device" in done.err
    assert f"error: cannot write the report in {out}" in done.err
    assert done.code in (1, 7)
    refused(loadlib("report", out / "latest"), 3, "No space left on device")


@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root has real full disks")
def test_a_file_size_limit_is_a_full_disk_too(tmp_path):
    """Works without root: 8 KiB are too little for a report, and enough for the records."""
    limited = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192));"
        "from loadlib.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", limited, "run", scenario(tmp_path), "--out", tmp_path / "r"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert re.search(r"error: .*File too large", done.stderr)
    assert done.returncode in (1, 7)


# -- folders that are no runs ----------------------------------------------------------------------


def test_report_and_compare_of_what_is_no_run(tmp_path):
    refused(loadlib("report", tmp_path), 2, "is not a run folder")
    refused(loadlib("report", tmp_path / "nope"), 2, "does not exist")
    refused(loadlib("compare", tmp_path, tmp_path), 2, "is not a run folder")
    (tmp_path / "manifest.json").write_text("{")
    refused(loadlib("report", tmp_path), 3, "manifest.json")


def test_the_simulator_refuses_in_one_line(tmp_path):
    refused(loadlib("simulate", "--port", "many"), 2, "--port", "'many'")
    refused(loadlib("simulate", "--profile", "warp"), 2, "'warp'")
    refused(loadlib("simulate", "--host", "0.0.0.0"), 2, "loopback")


def test_ctrl_c_before_anything_has_begun(tmp_path):
    process = start("simulate", "--port", "0")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert "Traceback" not in err
