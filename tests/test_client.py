"""The client: what it sends, what it says of what came back, and what it keeps to itself."""

from __future__ import annotations

import base64
import json
import re
import shutil
import ssl
import statistics
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from client_handle import SHORT, Driver
from conftest import Simulator, Simulators
from faulty_server import FaultyServer

pytest_plugins = ("client_fixtures",)

SECRET = "sekret-Key_0123456789"
KEY = {"api_key_env": "K"}
KEYS = {"K": SECRET}


# -- what is sent -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["tape", "sdk"])
def test_what_every_request_holds(gevent_child: Driver, faulty: FaultyServer, mode: str) -> None:
    gevent_child.one(faulty.url("ok"), model=KEY, keys=KEYS, mode=mode)
    (request,) = faulty.requests("ok")
    assert (request.method, request.target) == ("POST", "/ok/v1/chat/completions")
    assert request.json == {
        "model": "m",
        "messages": [{"role": "user", "content": "Where is my order?"}],
        "max_tokens": 16,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert request.headers["authorization"] == f"Bearer {SECRET}"
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["host"] == f"127.0.0.1:{faulty.port}"


@pytest.mark.parametrize("model", [{}, KEY])
def test_without_a_key_a_placeholder_is_sent(
    plain_child: Driver, faulty: FaultyServer, model: dict[str, str]
) -> None:
    """Not the key of another endpoint that happens to be in the environment."""
    environ = {"OPENAI_API_KEY": SECRET, "OPENAI_ADMIN_KEY": SECRET + "-admin"}
    plain_child.one(faulty.url("ok"), model=model, environ=environ)
    (request,) = faulty.requests("ok")
    assert request.key == "none"
    assert SECRET not in str(request)


@pytest.mark.parametrize(
    ("provider", "wire", "field"),
    [
        ("openai", "gpt-4o-mini", "max_tokens"),
        ("openai", "gpt-4", "max_tokens"),
        ("openai", "o1-mini", "max_completion_tokens"),
        ("openai", "o4-mini", "max_completion_tokens"),
        ("openai", "gpt-5-nano", "max_completion_tokens"),
        ("openai", "gpt-5.6-terra", "max_completion_tokens"),
        ("openai", "gpt-6-luna", "max_completion_tokens"),
        ("anthropic", "claude-3-haiku", "max_tokens"),
        (None, "o1-of-my-own", "max_tokens"),
    ],
)
def test_an_output_cap_is_always_sent_as_the_model_takes_it(
    plain_child: Driver, provider: str | None, wire: str, field: str
) -> None:
    model = {"provider": provider, "wire": wire}
    body = plain_child.do("prepare", "http://127.0.0.1:1/v1", model=model)["value"]["body"]
    caps = {name: body[name] for name in body if name.startswith("max_")}
    assert caps == {field: 16}
    assert body["model"] == wire


def test_extra_body_goes_in_as_it_is_but_never_instead_of_ours(plain_child: Driver) -> None:
    extra = {"temperature": 0, "vendor": {"nested": [1, None, "ü"]}}
    prompt = {"extra_body": extra}
    body = plain_child.do("prepare", prompt=prompt)["value"]["body"]
    assert {name: body[name] for name in extra} == extra
    for name in ("max_tokens", "max_completion_tokens", "stream", "stream_options", "model"):
        result = plain_child.do("prepare", prompt={"extra_body": {name: None}})
        assert result["raised"][0] == "UsageError"
        assert name in result["raised"][1]


MESSAGES = [
    {"role": "system", "content": "Sé breve. \u2028 \U0001f600 \" \\ \u0000 </script>"},
    {"role": "user", "content": [{"type": "text", "text": "看"}, {"type": "image_url",
     "image_url": {"url": "data:image/png;base64,AAAA"}}]},
    {"role": "assistant", "content": None, "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
]  # fmt: skip


LONG = [{"role": "user", "content": "long " * 100_000}]


@pytest.mark.parametrize("extra", [{}, {"seed": 7, "stop": ["a\n"], "logit_bias": {"50256": -100}}])
@pytest.mark.parametrize("messages", [MESSAGES, LONG], ids=["odd", "long"])
def test_a_prepared_request_is_the_one_the_sdk_sends_byte_for_byte(
    gevent_child: Driver, faulty: FaultyServer, messages: list[object], extra: dict[str, object]
) -> None:
    prompt = {"messages": messages, "extra_body": extra}
    result = gevent_child.do(
        "same_as_sdk", faulty.url("ok"), prompt=prompt, model={"api_key_env": "K"}, keys=KEYS
    )
    assert result["raised"] is None
    ours, checked, theirs = (request.raw for request in faulty.requests("ok"))
    assert ours == checked, "`client: sdk` is the same request"
    # The one difference is meant: a compressed stream would hide when its events arrived.
    assert ours == re.sub(rb"(?i)(accept-encoding: )[^\r]*", rb"\1identity", theirs, count=1)
    assert KEYS["K"].encode() in ours


# -- what is said of what came back ------------------------------------------------------------


def test_a_good_sample_in_full(child: Driver, faulty: FaultyServer) -> None:
    price = {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 10.0}
    prompt = {"tokens": 99, "asked_tokens": 100, "cut_tokens": 90, "check": "ab"}
    sample = child.one(faulty.url("ok"), model={"price": price}, prompt=prompt)
    assert {
        name: sample[name]
        for name in ("index", "phase", "model", "workload", "outcome", "cause", "error", "status",
                     "finish_reason", "input_tokens", "output_tokens", "cached_tokens",
                     "reasoning_tokens", "tokens_source", "asked_tokens", "cut_tokens", "events",
                     "attempt", "quality")
    } == {
        "index": 0, "phase": "p", "model": "m", "workload": "w", "outcome": "ok", "cause": None,
        "error": None, "status": 200, "finish_reason": "stop", "input_tokens": 7,
        "output_tokens": 2, "cached_tokens": 3, "reasoning_tokens": None,
        "tokens_source": "server", "asked_tokens": 100, "cut_tokens": 90, "events": 2,
        "attempt": 1, "quality": True,
    }  # fmt: skip
    assert sample["cost_usd"] == pytest.approx((7 * 1.0 + 2 * 10.0) / 1e6)
    assert sample["prompt_bytes"] == len(faulty.requests("ok")[0].body)
    assert len(sample["prompt_sha"]) == 16


def test_the_check_says_quality(child: Driver, faulty: FaultyServer) -> None:
    assert child.one(faulty.url("ok"))["quality"] is None, "nobody asked"
    wrong = child.one(faulty.url("echo-finish"), prompt={"check": "ab"})
    assert (wrong["outcome"], wrong["quality"]) == ("ok", False)
    failed = child.one(faulty.url("500"), prompt={"check": "ab"})
    assert failed["quality"] is None, "there was no answer to check"
    broken = child.one(faulty.url("ok"), prompt={"check": "raises"})
    assert (broken["outcome"], broken["quality"]) == ("ok", False)
    assert "ZeroDivisionError: oops" in broken["error"]
    half = child.one(faulty.url("ok"), prompt={"check": "half", "variant": "zh-en"})
    assert (half["quality"], half["flaw"], half["score"]) == (False, "invalid", 0.5)
    assert (half["error"], half["variant"], half["turn"]) == ("half of it", "zh-en", 1)


def test_headers_of_a_prompt_go_out_as_they_are(child: Driver, faulty: FaultyServer) -> None:
    child.one(faulty.url("ok"), prompt={"headers": {"X-Session-ID": "a1"}})
    assert b"\r\nX-Session-ID: a1\r\n" in faulty.requests("ok")[0].raw
    split = {"headers": {"X-Session-ID": "a\r\nEvil: 1"}}
    result = child.do("send", faulty.url("ok"), prompt=split)
    assert result["raised"] is not None, "a header is one line"
    assert len(faulty.requests("ok")) == 1


def test_only_a_simulator_is_told_the_right_answer(child: Driver, faulty: FaultyServer) -> None:
    prompt = {"right": {"text": "42", "calls": []}}
    child.one(faulty.url("ok"), prompt=prompt)
    child.one(faulty.url("ok"), prompt=prompt, simulated=True)
    real, simulated = (request.raw for request in faulty.requests("ok"))
    assert b"X-Simulate-Answer" not in real
    wish = re.search(rb"X-Simulate-Answer: ([^\r]+)", simulated)
    assert wish is not None
    assert json.loads(base64.b64decode(wish[1])) == {"content": "42"}


IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]


@pytest.mark.parametrize("behaviour", ["no-usage", "json-no-usage"])
@pytest.mark.parametrize(
    ("model", "prompt", "counts"),
    [
        ({}, {"tokens": 42}, (42, 1, "local")),
        ({"exact": False}, {"tokens": 42}, (42, 1, "estimate")),
        ({}, {}, (12, 1, "local")),
        ({}, {"messages": IMAGE}, (None, 1, "local")),
    ],
    ids=["known", "estimate", "counted", "image"],
)
def test_local_counts_where_the_server_sends_none(
    plain_child: Driver, faulty: FaultyServer, behaviour: str, model: Any, prompt: Any, counts: Any
) -> None:
    sample = plain_child.one(faulty.url(behaviour), model=model, prompt=prompt)
    assert sample["outcome"] == "ok"
    found = (sample["input_tokens"], sample["output_tokens"], sample["tokens_source"])
    assert found == counts


def test_counts_of_an_answer_without_end_are_unknown(child: Driver, faulty: FaultyServer) -> None:
    for behaviour in ("no-end", "reset-after-token", "500"):
        sample = child.one(faulty.url(behaviour), prompt={"tokens": 42})
        assert sample["output_tokens"] is None
        assert sample["tokens_source"] is None
        assert sample["cost_usd"] is None


def test_text_no_tokenizer_can_count_has_no_count(
    plain_child: Driver, faulty: FaultyServer
) -> None:
    text = {"choices": [{"message": {"content": " " * 3_000_000}, "finish_reason": "stop"}]}
    data = json.dumps(text).encode()
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(data) + data
    faulty.extra["blank"] = lambda peer, _request: peer.send(answer)
    sample = plain_child.one(faulty.url("blank"), prompt={"tokens": 5})
    assert (sample["outcome"], sample["input_tokens"]) == ("ok", 5)
    assert sample["output_tokens"] is None


def test_numbers_beyond_belief_are_unknown(plain_child: Driver, faulty: FaultyServer) -> None:
    usage = {"prompt_tokens": 10**400, "completion_tokens": -5}
    data = json.dumps({"choices": [{"message": {"content": "a"}}], "usage": usage}).encode()
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(data) + data
    faulty.extra["numbers"] = lambda peer, _request: peer.send(answer)
    price = {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 1.0}
    sample = plain_child.one(faulty.url("numbers"), model={"price": price}, prompt={"tokens": 5})
    found = (sample["input_tokens"], sample["output_tokens"], sample["tokens_source"])
    assert found == (5, 1, "local")


# -- keys ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["tape", "sdk"])
@pytest.mark.parametrize("behaviour", ["echo", "echo-error", "echo-malformed", "echo-finish"])
@pytest.mark.parametrize("key", [SECRET, "k3y" * 40, "sk-proj-" + "Ab1" * 20])
def test_a_key_that_the_server_says_back_is_in_no_sample(
    gevent_child: Driver, faulty: FaultyServer, behaviour: str, key: str, mode: str
) -> None:
    """Nor is the half of it that stands before a cut."""
    sample = gevent_child.one(faulty.url(behaviour), model=KEY, keys={"K": key}, mode=mode)
    assert faulty.requests(behaviour)[0].key == key
    words = json.dumps({k: v for k, v in sample.items() if k not in ("text", "generated")})
    assert key[:4] not in words, words
    if behaviour != "echo-finish":
        assert len(sample["error"]) <= 200


def test_the_live_sdk_keeps_it_too(gevent_child: Driver, faulty: FaultyServer) -> None:
    for behaviour in ("echo", "echo-error", "echo-malformed"):
        result = gevent_child.do(
            "live", faulty.url(behaviour), script="stream", model=KEY, keys=KEYS
        )
        (sample,) = result["samples"]
        assert sample["error"]
        assert SECRET[:6] not in json.dumps({k: v for k, v in sample.items() if k != "text"})


# -- preflight ----------------------------------------------------------------------------------


@pytest.mark.parametrize("behaviour", ["ok", "404", "405", "html", "json"])
def test_preflight_passes_whatever_lists_its_models_or_does_not(
    child: Driver, faulty: FaultyServer, behaviour: str
) -> None:
    result = child.do("check", faulty.url(behaviour), model=KEY, keys=KEYS)
    assert (result["raised"], result["value"]) == (None, None)
    (request,) = faulty.requests(behaviour)
    assert (request.method, request.target) == ("GET", f"/{behaviour}/v1/models")
    assert request.key == SECRET
    assert result["samples"] == [], "it is not part of the run"


@pytest.mark.parametrize("behaviour", ["429", "500", "503"])
def test_preflight_remarks_on_other_answers(
    child: Driver, faulty: FaultyServer, behaviour: str
) -> None:
    remark = child.do("check", faulty.url(behaviour))["value"]
    assert remark == f"m: GET /models answered HTTP {behaviour}"


@pytest.mark.parametrize("mode", ["tape", "sdk"])
@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("401", "refuses the key in K (HTTP 401)"),
        ("403", "refuses the key in K (HTTP 403)"),
        ("close-before", ""),
        ("reset-before", ""),
        ("garbage", "not HTTP"),
        ("stall-before-headers", "timeout"),
    ],
)
def test_preflight_refuses_in_one_line(
    gevent_child: Driver, faulty: FaultyServer, behaviour: str, words: str, mode: str
) -> None:
    limits = SHORT | {"total_s": 0.3}
    job = {"model": KEY, "keys": KEYS, "mode": mode, "deadlines": limits}
    kind, message = gevent_child.do("check", faulty.url(behaviour), **job)["raised"]
    assert kind == "PreflightError"
    assert message.startswith("m: ")
    assert words in message
    assert "\n" not in message
    assert SECRET not in message


@pytest.mark.parametrize("key", ["", "  ", None])
def test_preflight_wants_a_key_where_one_is_named(
    plain_child: Driver, faulty: FaultyServer, key: str | None
) -> None:
    keys = {} if key is None else {"K": key}
    raised = plain_child.do("check", faulty.url("ok"), model=KEY, keys=keys)["raised"]
    assert raised == ["PreflightError", "m: environment variable K is not set or empty"]
    assert faulty.accepted == 0


@pytest.mark.parametrize("key", ["sk-1\r\nx-evil: 1", "sk 1", "“sk-1”", "ключ-1234", "a\x00b"])
def test_preflight_refuses_what_cannot_be_a_key_and_does_not_repeat_it(
    plain_child: Driver, faulty: FaultyServer, key: str
) -> None:
    kind, message = plain_child.do("check", faulty.url("ok"), model=KEY, keys={"K": key})["raised"]
    assert kind == "PreflightError"
    assert "environment variable K" in message
    assert "sk" not in message
    assert faulty.accepted == 0


def test_a_line_break_in_a_key_never_reaches_the_wire(
    plain_child: Driver, faulty: FaultyServer
) -> None:
    plain_child.do("send", faulty.url("ok"), model=KEY, keys={"K": "sk-1\r\nx-evil: 1"})
    assert not faulty.requests("ok")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://no-such-host.invalid/v1", "cannot resolve no-such-host.invalid"),
        ("http://127.0.0.1:1/v1", "cannot connect to 127.0.0.1:1"),
    ],
)
def test_preflight_names_who_cannot_be_reached(plain_child: Driver, url: str, words: str) -> None:
    kind, message = plain_child.do("check", url)["raised"]
    assert kind == "PreflightError"
    assert words in message


# -- TLS ----------------------------------------------------------------------------------------


def make_certificate(folder: Path, names: str) -> tuple[Path, Path]:
    """A self-signed certificate for `names`, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl binary to make a certificate with")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
         f"subjectAltName={names}", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return cert, key


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"), "IP:127.0.0.1,DNS:localhost")


def serving(certificate: tuple[Path, Path]) -> FaultyServer:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return FaultyServer(context)


@pytest.fixture
def secure(certificate: tuple[Path, Path]) -> Iterator[FaultyServer]:
    server = serving(certificate)
    yield server
    server.close()


def test_a_certificate_nobody_vouches_for(child: Driver, secure: FaultyServer) -> None:
    for mode in ("tape", "sdk"):
        sample = child.one(secure.url("ok"), mode=mode, model=KEY, keys=KEYS)
        assert (sample["outcome"], sample["cause"]) == ("disconnected", "tls"), sample["error"]
        kind, message = child.do("check", secure.url("ok"), mode=mode)["raised"]
        assert kind == "PreflightError"
        assert "self" in message
        assert "signed" in message
        assert "\n" not in message
    assert not secure.log.requests, "the key was not sent"


def test_a_certificate_the_user_vouches_for(
    child: Driver, secure: FaultyServer, certificate: tuple[Path, Path]
) -> None:
    environ = {"SSL_CERT_FILE": str(certificate[0])}
    for mode in ("tape", "sdk"):
        samples = child.send(secure.url("ok"), environ=environ, mode=mode, count=3)
        assert [s["outcome"] for s in samples] == ["ok"] * 3, samples[0]["error"]
        assert [s["conn_reused"] for s in samples] == [False, True, True]
        assert samples[0]["tls_ns"] > 0
        assert samples[1]["tls_ns"] is None
    assert secure.accepted == 2


def test_a_certificate_for_another_name(child: Driver, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path, "DNS:api.example")
    server = serving(certificate)
    try:
        for mode in ("tape", "sdk"):
            environ = {"SSL_CERT_FILE": str(certificate[0])}
            sample = child.one(server.url("ok"), environ=environ, mode=mode)
            assert (sample["outcome"], sample["cause"]) == ("disconnected", "tls")
            assert "127.0.0.1" in sample["error"]
        assert not server.log.requests
    finally:
        server.close()


def test_a_trust_file_that_is_not_there(plain_child: Driver, secure: FaultyServer) -> None:
    environ = {"SSL_CERT_FILE": "/nonexistent/roots.pem"}
    for mode in ("tape", "sdk"):
        raised = plain_child.do("check", secure.url("ok"), environ=environ, mode=mode)["raised"]
        assert raised[0] == "PreflightError"
        assert "No such file" in raised[1]


def test_tls_faults_are_faults_of_the_connection(child: Driver, faulty: FaultyServer) -> None:
    url = faulty.url("ok").replace("http:", "https:")
    sample = child.one(url, deadlines=SHORT | {"connect_s": 0.3})
    assert sample["outcome"] in ("disconnected", "timeout")
    assert sample["cause"] in ("tls", "connect")
    assert sample["sent_ns"] is None


def test_streams_over_tls_end_as_they_do_without(
    child: Driver, secure: FaultyServer, certificate: tuple[Path, Path]
) -> None:
    environ = {"SSL_CERT_FILE": str(certificate[0])}
    for behaviour, cause in (
        ("stall-after-role", "first_token"),
        ("stall-after-token", "idle"),
        ("close-after-token", "after_first_token"),
        ("close-before", "before_first_token"),
        ("until-close", None),
    ):
        sample = child.one(secure.url(behaviour), environ=environ, deadlines=SHORT)
        assert sample["cause"] == cause, behaviour


# -- proxies ------------------------------------------------------------------------------------


@pytest.fixture
def proxy() -> Iterator[FaultyServer]:
    server = FaultyServer()
    yield server
    server.close()


def test_a_proxy_that_applies_is_used_and_said(child: Driver, proxy: FaultyServer) -> None:
    url = "http://api.invalid/ok/v1"  # nobody but the proxy could know it
    environ = {"HTTP_PROXY": f"http://127.0.0.1:{proxy.port}"}
    sample = child.one(url, environ=environ, model=KEY, keys=KEYS)
    assert (sample["outcome"], sample["text"]) == ("ok", "ab"), sample["error"]
    (request,) = proxy.requests("ok")
    assert request.target == "http://api.invalid/ok/v1/chat/completions"
    assert child.do("notices", url, environ=environ)["value"] == [
        "m: through a proxy, on the SDK's own transport"
    ]
    seen = child.do("live", url, environ=environ, script="stream")
    assert seen["value"] == ["ab"]
    assert [s["outcome"] for s in seen["samples"]] == ["ok"]


def test_no_proxy_is_respected(child: Driver, faulty: FaultyServer, proxy: FaultyServer) -> None:
    for exempt in ("127.0.0.1", "*", f"example.com,127.0.0.1:{faulty.port}"):
        environ = {"http_proxy": f"http://127.0.0.1:{proxy.port}", "no_proxy": exempt}
        assert child.one(faulty.url("ok"), environ=environ)["outcome"] == "ok"
        assert child.do("notices", faulty.url("ok"), environ=environ)["value"] == []
    assert proxy.accepted == 0


def test_a_tunnel_for_https(
    child: Driver, secure: FaultyServer, proxy: FaultyServer, certificate: tuple[Path, Path]
) -> None:
    environ = {
        "HTTPS_PROXY": f"127.0.0.1:{proxy.port}",  # without a scheme, as many are
        "SSL_CERT_FILE": str(certificate[0]),
    }
    samples = child.send(secure.url("ok"), environ=environ, model=KEY, keys=KEYS, count=2)
    assert [s["outcome"] for s in samples] == ["ok", "ok"], samples[0]["error"]
    assert [r.method for r in proxy.log.requests] == ["CONNECT"]
    assert SECRET not in str(proxy.log.requests)
    assert [s["conn_reused"] for s in samples] == [False, True]


@pytest.mark.parametrize("proxy_url", ["gopher://user:pass-word@127.0.0.1:1", "http://[oops"])
def test_a_proxy_that_cannot_be_used_is_a_preflight_error(
    plain_child: Driver, proxy_url: str
) -> None:
    environ = {"ALL_PROXY": proxy_url}
    kind, message = plain_child.do("check", "http://api.invalid/v1", environ=environ)["raised"]
    assert kind == "PreflightError"
    assert "proxy" in message
    assert "pass-word" not in message


def test_a_proxy_that_is_not_there_is_a_connection_that_failed(plain_child: Driver) -> None:
    environ = {"HTTP_PROXY": "http://127.0.0.1:1"}
    sample = plain_child.one("http://api.invalid/v1", environ=environ)
    assert (sample["outcome"], sample["cause"]) == ("disconnected", "connect")


# -- killed -------------------------------------------------------------------------------------


def test_killed_in_the_middle_of_a_stream(gevent_child: Driver, faulty: FaultyServer) -> None:
    """Exactly one sample, with what was on the tape; the connection is closed."""
    result = gevent_child.do("kill", faulty.url("stall-after-token"))
    (sample,) = result["samples"]
    assert (sample["outcome"], sample["cause"]) == ("cancelled", "cancelled")
    assert sample["status"] == 200
    assert (sample["events"], sample["text"]) == (1, "a")
    assert sample["first_token_ns"] > sample["sent_ns"]
    assert sample["end_ns"] >= sample["first_token_ns"]
    faulty.wait_until_closed()


def test_killed_before_the_first_byte(gevent_child: Driver, faulty: FaultyServer) -> None:
    (sample,) = gevent_child.do("kill", faulty.url("stall-before-headers"), at="_park")["samples"]
    assert (sample["outcome"], sample["status"]) == ("cancelled", None)
    assert sample["flushed_ns"] >= sample["sent_ns"]
    assert sample["first_token_ns"] is None
    faulty.wait_until_closed()


def test_killed_in_the_users_own_code(gevent_child: Driver, faulty: FaultyServer) -> None:
    (sample,) = gevent_child.do(
        "kill", faulty.url("stall-after-token"), script="stream"
    )["samples"]  # fmt: skip
    assert (sample["outcome"], sample["events"]) == ("cancelled", 1)
    faulty.wait_until_closed()


# -- the user's own code ------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["tape", "sdk"])
@pytest.mark.parametrize("script", ["stream", "with"])
def test_the_sdk_reads_streams_on_one_connection(
    gevent_child: Driver, faulty: FaultyServer, script: str, mode: str
) -> None:
    """The SDK closes at [DONE], unread: without draining each stream would cost a connection."""
    result = gevent_child.do("live", faulty.url("ok"), script=script, count=5, mode=mode)
    assert result["value"] == ["ab"] * 5
    assert [s["outcome"] for s in result["samples"]] == ["ok"] * 5
    assert [s["output_tokens"] for s in result["samples"]] == [2] * 5
    assert faulty.accepted == 1


def test_bytes_come_as_they_come(child: Driver, faulty: FaultyServer) -> None:
    result = child.do("live", faulty.url("stall-after-token"), script="stop-early", deadlines=SHORT)
    assert result["value"] == ["a"], "the code had its token although the stream never ended"


@pytest.mark.parametrize("script", ["stop-early", "raise"])
def test_stopping_early_when_the_rest_is_small_keeps_the_connection(
    child: Driver, faulty: FaultyServer, script: str
) -> None:
    result = child.do("live", faulty.url("one-write"), script=script, count=3)
    assert [s["outcome"] for s in result["samples"]] == ["ok"] * 3
    assert [s["conn_reused"] for s in result["samples"]] == [False, True, True]


@pytest.mark.parametrize("behaviour", ["stall-after-token", "tokens-forever"])
def test_stopping_early_when_the_rest_does_not_come_is_a_use_of_the_stream(
    child: Driver, faulty: FaultyServer, behaviour: str
) -> None:
    result = child.do("live", faulty.url(behaviour), script="stop-early", count=2)
    assert result["value"] == ["a", "a"]
    assert [(s["outcome"], s["cause"]) for s in result["samples"]] == [("ok", "let_go")] * 2
    assert [s["conn_reused"] for s in result["samples"]] == [False, False]
    assert all(s["first_token_ns"] for s in result["samples"])


@pytest.mark.parametrize("behaviour", ["stall-after-token", "one-write"])
def test_a_stream_that_is_held_is_let_go_at_the_end_of_the_task(
    child: Driver, faulty: FaultyServer, behaviour: str
) -> None:
    """And once: not again when it is collected."""
    result = child.do("live", faulty.url(behaviour), script="keep")
    assert [s["outcome"] for s in result["samples"]] == ["ok"]
    assert result["samples"][0]["first_token_ns"] is not None


def test_a_stream_left_to_the_garbage_collector_is_closed_without_a_wait(
    child: Driver, faulty: FaultyServer
) -> None:
    result = child.do("live", faulty.url("stall-after-token"), script="cycle")
    assert result["value"] == [""]
    assert [(s["outcome"], s["cause"]) for s in result["samples"]] == [("ok", "let_go")]
    faulty.wait_until_closed()


def test_what_is_drained_is_bounded(child: Driver, faulty: FaultyServer) -> None:
    """A flood ends by its size, not only by its time."""
    faulty.extra["flood"] = lambda peer, _request: flood(peer)

    def flood(peer: Any) -> None:
        from faulty_server import OPEN, A, chunk

        peer.send(OPEN)
        while True:
            peer.send(chunk(A * 1000))

    result = child.do("live", faulty.url("flood"), script="stop-early")
    (sample,) = result["samples"]
    assert (sample["outcome"], sample["cause"]) == ("ok", "let_go")
    assert sample["events"] * 80 < 2**20


@pytest.mark.parametrize(
    ("behaviour", "error", "outcome"),
    [
        ("400", "openai.BadRequestError", ("rejected", "context_length_exceeded")),
        ("401", "openai.AuthenticationError", ("rejected", "auth")),
        ("404", "openai.NotFoundError", ("rejected", "t")),
        ("429", "openai.RateLimitError", ("throttled", "429")),
        ("429-quota", "openai.RateLimitError", ("throttled", "quota")),
        ("500", "openai.InternalServerError", ("server_error", "500")),
        ("close-before", "openai.APIConnectionError", ("disconnected", "before_first_token")),
        ("garbage", "openai.APIConnectionError", ("malformed", "http")),
        ("stall-before-headers", "openai.APITimeoutError", ("timeout", "first_token")),
        ("stall-after-token", "openai.APITimeoutError", ("timeout", "idle")),
        ("reset-after-token", "openai.APIConnectionError", ("disconnected", "after_first_token")),
        ("error-in-stream", "openai.APIError", ("server_error", "in_stream")),
        ("bad-event", "json.decoder.JSONDecodeError", ("malformed", "body")),
    ],
)
@pytest.mark.parametrize("mode", ["tape", "sdk"])
def test_errors_are_the_sdks_own_and_one_sample_each(
    gevent_child: Driver,
    faulty: FaultyServer,
    behaviour: str,
    error: str,
    outcome: tuple[str, str],
    mode: str,
) -> None:
    result = gevent_child.do(
        "live", faulty.url(behaviour), script="stream", deadlines=SHORT, mode=mode
    )
    assert result["value"] == [error]
    assert [(s["outcome"], s["cause"]) for s in result["samples"]] == [outcome]


def test_a_retry_of_the_users_is_a_sample_of_its_own(child: Driver, faulty: FaultyServer) -> None:
    result = child.do("live", faulty.url("503"), script="retries", deadlines=SHORT)
    assert [s["outcome"] for s in result["samples"]] == ["server_error"] * 2
    assert [s["index"] for s in result["samples"]] == [0, 1]


def test_requests_that_do_not_stream(child: Driver, faulty: FaultyServer) -> None:
    result = child.do("live", faulty.url("json"), script="whole", count=2)
    assert result["value"] == ["ab", "ab"]
    assert [s["output_tokens"] for s in result["samples"]] == [2, 2]
    assert [s["first_token_ns"] for s in result["samples"]] == [None, None]
    assert faulty.accepted == 1


def test_requests_for_something_else_are_counted_and_not_decoded(
    child: Driver, simulator: str
) -> None:
    result = child.do("live", simulator, script="models")
    assert "gpt-4o-mini" in result["value"][0]
    (sample,) = result["samples"]
    assert sample["outcome"] == "ok"
    assert (sample["output_tokens"], sample["tokens_source"]) == (None, None)


CAPS = [  # provider, the user's own words, what the server gets of caps
    (None, {}, {"max_tokens": 256}),
    ("openai", {"model": "gpt-4o"}, {"max_tokens": 256}),
    ("openai", {"model": "o4-mini"}, {"max_completion_tokens": 256}),
    (None, {"max_tokens": None}, {"max_tokens": 256}),
    (None, {"max_tokens": -1}, {"max_tokens": 256}),
    (None, {"max_tokens": 7}, {"max_tokens": 7}),
    (None, {"max_completion_tokens": 9, "n": 2}, {"max_completion_tokens": 9}),
]


@pytest.mark.parametrize("mode", ["tape", "sdk"])
@pytest.mark.parametrize(("provider", "words", "caps"), CAPS)
def test_own_code_that_sets_no_output_cap_gets_one(
    gevent_child: Driver, faulty: FaultyServer, provider: str, words: Any, caps: Any, mode: str
) -> None:
    ask = {"max_tokens": "unset", "temperature": 0.1, **words}
    result = gevent_child.do(
        "live", faulty.url("ok"), script="stream", model={"provider": provider}, ask=ask, mode=mode
    )
    assert result["value"] == ["ab"]
    (request,) = faulty.requests("ok")
    found = request.json
    assert {key: found.pop(key) for key in list(found) if key.startswith("max_")} == caps
    # Nothing else is touched: the code may not expect a chunk that holds usage.
    rest = {key: value for key, value in words.items() if not key.startswith("max_")}
    hello = [{"role": "user", "content": "Where is my order?"}]
    assert found == {
        "model": "m", "messages": hello, "stream": True, "temperature": 0.1, **rest
    }  # fmt: skip
    assert request.headers["content-length"] == str(len(request.body))
    (sample,) = result["samples"]
    assert sample["prompt_bytes"] == len(request.body)


def test_own_code_that_asks_for_no_usage_is_counted_locally(
    child: Driver, faulty: FaultyServer
) -> None:
    price = {"input_usd_per_mtok": 1, "output_usd_per_mtok": 10}
    result = child.do("live", faulty.url("no-usage"), script="stream", model={"price": price})
    (sample,) = result["samples"]
    assert (sample["input_tokens"], sample["output_tokens"]) == (12, 1)
    assert sample["tokens_source"] == "local"
    assert sample["cost_usd"] == pytest.approx(22e-6)


def test_a_request_whose_turn_does_not_come_is_not_sent(
    child: Driver, faulty: FaultyServer
) -> None:
    """What `begin` raises (Locust's StopUser) passes through the SDK as it is."""
    result = child.do("live", faulty.url("ok"), script="stream", refuse=True)
    assert result["value"] == ["__main__.NotNow"]
    assert result["samples"] == []
    assert faulty.accepted == 0


# -- against the simulator ----------------------------------------------------------------------


def test_warming_up_touches_no_network_and_delivers_nothing(child: Driver) -> None:
    result = child.do("warm", "http://no-such-host.invalid/v1")
    assert result["raised"] is None
    assert result["samples"] == []


@pytest.mark.parametrize("mode", ["tape", "sdk"])
def test_many_streams_of_the_simulator_one_connection(
    gevent_child: Driver, simulator: str, mode: str
) -> None:
    samples = gevent_child.send(simulator, count=20, mode=mode, model={"wire": "gpt-4o-mini"})
    assert [s["outcome"] for s in samples] == ["ok"] * 20
    assert [s["conn_reused"] for s in samples] == [False] + [True] * 19
    assert {s["output_tokens"] for s in samples} == {16}
    assert {s["tokens_source"] for s in samples} == {"server"}


def test_both_transports_read_the_same_answer(gevent_child: Driver, simulator: str) -> None:
    job = {"model": {"wire": "gpt-4o-mini"}, "count": 3}
    tape = gevent_child.send(simulator, mode="tape", **job)
    sdk = gevent_child.send(simulator, mode="sdk", **job)
    for name in ("outcome", "generated", "events", "input_tokens", "output_tokens", "prompt_sha"):
        assert [s[name] for s in tape] == [s[name] for s in sdk], name


@pytest.mark.parametrize(
    ("flags", "outcome"),
    [
        (("--status", "429"), ("throttled", "429")),
        (("--status", "429", "--error-code", "insufficient_quota"), ("throttled", "quota")),
        (("--status", "503"), ("server_error", "503")),
        (("--disconnect-mid-stream",), ("disconnected", "after_first_token")),
        (("--truncate",), ("truncated", "no_end")),
        (("--no-done",), ("ok", None)),
        (("--malformed",), ("malformed", "body")),
        (("--error-in-stream",), ("server_error", "in_stream")),
        (("--stall-before-first", "60"), ("timeout", "first_token")),
        (("--stall-after-first", "60"), ("timeout", "idle")),
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", ["tape", "sdk"])
def test_faults_of_the_simulator(
    gevent_child: Driver,
    simulators: Simulators,
    flags: tuple[str, ...],
    outcome: tuple[str, str | None],
    mode: str,
) -> None:
    simulator = simulators("--profile", "instant", *flags)
    model = {"wire": "gpt-4o-mini"}
    sample = gevent_child.one(simulator.base_url, deadlines=SHORT, model=model, mode=mode)
    assert (sample["outcome"], sample["cause"]) == outcome, sample["error"]


REQUESTS = 30


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize("mode", ["tape", "sdk"])
def test_known_truth(gevent_child: Driver, constant: Simulator, mode: str) -> None:
    """60 ms + prompt / 1000 tok/s to the first token, then 200 tok/s: within 2 ms or 2 %."""
    samples = gevent_child.send(
        constant.base_url, count=REQUESTS, mode=mode, model={"wire": "steady"},
        prompt={"max_tokens": 24},
    )  # fmt: skip
    assert [s["outcome"] for s in samples] == ["ok"] * REQUESTS
    truth_ms = {"sent_ttft": 60 + samples[0]["input_tokens"], "tpot": 5.0}
    for name, truth in truth_ms.items():
        p50 = statistics.median(s["metrics"][name][0] for s in samples) / 1000
        assert abs(p50 - truth) <= max(2.0, 0.02 * truth), name
