"""Every fault of the simulator, as bytes on a socket and as loadlib's client judges it.

One simulator serves nearly all: each set of rules is for a model of its own.
"""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import struct
import time
from contextlib import closing
from typing import NamedTuple

import pytest
from client_handle import SHORT, Driver
from conftest import Simulators
from simulator_client import ask, body, connect, deltas, events, get, post, request_bytes, stream

from loadlib.simulator.faults import KINDS

pytest_plugins = ("client_fixtures",)

OPTIONS = {"include_usage": True}


# Each kind, and what loadlib's client makes of it: (outcome, cause).
OUTCOMES: dict[str, tuple[str, str | None]] = {
    "slow-start,for=60s": ("timeout", "first_token"),
    "stall-before-headers,for=60s": ("timeout", "first_token"),
    "stall-before-first,for=60s": ("timeout", "first_token"),
    "stall-after-first,for=60s": ("timeout", "idle"),
    "stall-mid-stream,for=60s": ("timeout", "idle"),
    "status,status=401": ("rejected", "auth"),
    "status,status=429": ("throttled", "429"),
    "status,status=429,retry_after=30s": ("throttled", "429"),  # nothing is retried
    "status,status=500": ("server_error", "500"),
    "status,status=502": ("server_error", "502"),
    "status,status=503": ("server_error", "503"),
    "html": ("server_error", "502"),
    "reset-before": ("disconnected", "before_first_token"),
    "close-before": ("disconnected", "before_first_token"),
    "empty-stream": ("truncated", "no_end"),
    "reset-mid-stream": ("disconnected", "after_first_token"),
    "disconnect-mid-stream": ("disconnected", "after_first_token"),
    "half-close": ("disconnected", "after_first_token"),
    "truncated-chunk": ("disconnected", "after_first_token"),
    "truncate": ("truncated", "no_end"),
    "error-in-stream": ("server_error", "in_stream"),
    "malformed": ("malformed", "body"),
    "no-done": ("ok", None),
    "duplicated-usage": ("ok", None),
    "comments,gap=1ms": ("ok", None),
    "wrong-type": ("ok", None),
    "gzip": ("ok", None),
    "split-events,gap=1ms": ("ok", None),
    "one-packet": ("ok", None),
    "drip,gap=0s": ("ok", None),
    "drip": ("timeout", "first_token"),
}
OTHERS = [
    "slow-start,for=400ms", "stall-before-headers,for=300ms", "stall-before-first,for=300ms",
    "stall-after-first,for=300ms", "stall-mid-stream,for=300ms", "html,status=504",
    "status,status=529", "status,status=429,retry_after=7s", "comments,gap=20ms",
    "error-in-stream,code=overloaded_error", "wrong-type,type=application/xml",
    "split-events,size=40,gap=2ms", "drip,gap=1ms",
]  # fmt: skip
TOGETHER = [
    ("stall-after-first,for=150ms", "stall-mid-stream,for=150ms"),
    ("stall-before-first,for=300ms", "comments,gap=20ms"),
    ("comments,gap=20ms", "stall-before-first,for=60s"),
    ("malformed", "no-done", "wrong-type", "stall-before-first,for=200ms"),
    ("status,status=503", "status,status=500"),
    ("status,status=503,every=2", "status,status=500"),
    ("truncate", "reset-mid-stream"),
    ("reset-mid-stream", "html"),
    ("malformed,every=2", "gzip,every=3", "drip,gap=0s,every=4", "no-done,every=5"),
]
SETS = [*((rule,) for rule in [*OUTCOMES, *OTHERS]), *TOGETHER]


class Heard(NamedTuple):
    """What a bare socket received: (seconds since the request, bytes) of each read, and the end:
    `fin`, `reset`, or `open` when the response was complete."""

    reads: list[tuple[float, bytes]]
    end: str

    @property
    def data(self) -> bytes:
        return b"".join(data for _, data in self.reads)

    @property
    def head(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[0]

    @property
    def chunks(self) -> list[bytes]:
        """The HTTP chunks of the body, as far as they are complete."""
        rest, found = self.data.partition(b"\r\n\r\n")[2], []
        while b"\r\n" in rest:
            size, _, rest = rest.partition(b"\r\n")
            found.append(rest[: int(size, 16)])
            rest = rest[int(size, 16) + 2 :]
        return found

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def ended(self) -> bool:
        return self.data.endswith(b"0\r\n\r\n")

    @property
    def tokens(self) -> int:
        return self.body.count(b'"content":"') - 1  # the role's is empty

    def when(self, needle: bytes, nth: int = 1) -> float:
        """Seconds until the n-th occurrence of `needle` was complete."""
        data = b""
        for at, part in self.reads:
            data += part
            if data.count(needle) >= nth:
                return at
        raise AssertionError(f"{needle!r} never came {nth} times: {data!r}")


class Told(NamedTuple):
    """A simulator, and the model that has the faults."""

    url: str
    model: str = "gpt-4o-mini"

    def body(self, **fields) -> bytes:
        return body(model=self.model, **fields)

    def post(self, headers=None, **fields):
        return post(self.url, self.body(**fields), headers)

    def stream(self, **fields) -> list:
        return stream(self.url, model=self.model, **fields)

    def start(self, **fields) -> socket.socket:
        """A connection on which a request has been sent."""
        host, port = self.url.split("/")[2].split(":")
        sock = socket.create_connection((host, int(port)), timeout=10)
        sock.sendall(request_bytes(self.body(**fields)))
        return sock


def hear(told: Told, *, streamed: bool = True, max_tokens: int = 6) -> Heard:
    fields = {"stream": True, "stream_options": OPTIONS} if streamed else {}
    reads: list[tuple[float, bytes]] = []
    began = time.monotonic()
    with told.start(max_tokens=max_tokens, **fields) as sock:
        while True:
            try:
                part = sock.recv(65536)
            except ConnectionResetError:
                return Heard(reads, "reset")
            if not part:
                return Heard(reads, "fin")
            reads.append((time.monotonic() - began, part))
            heard = Heard(reads, "open")
            if heard.ended and b"chunked" in heard.head:
                return heard


# --- on the wire ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared(simulators: Simulators, tmp_path_factory) -> str:
    """A simulator with all of SETS: set number n is for model `set-n`."""
    path = tmp_path_factory.mktemp("faults") / "faults.yaml"
    rules = [
        f"  - {{kind: {rule.replace('=', ': ')}, model: set-{number}}}"
        for number, rules in enumerate(SETS)
        for rule in rules
    ]
    path.write_text("\n".join(["faults:", *rules, ""]))
    return simulators("--profile", "instant", "--faults", str(path)).base_url


@pytest.fixture
def told(shared: str):
    """`told(rule, …)`: a model with these rules, each as `--fault` takes it."""
    return lambda *rules: Told(shared, f"set-{SETS.index(rules)}")


@pytest.fixture
def alone(simulators: Simulators):
    """`alone(rule, …)`: a simulator of its own with these rules for all models."""

    def start(*rules: str, flags: tuple[str, ...] = ()) -> Told:
        flags += tuple(flag for rule in rules for flag in ("--fault", rule))
        return Told(simulators("--profile", "instant", *flags, fresh=True).base_url)

    return start


TEN = b'"content":"'


def test_slow_start_makes_only_the_first_request_of_a_connection_late(told):
    late = told("slow-start,for=400ms")
    with closing(connect(late.url)) as connection:
        took = []
        for _ in range(3):
            began = time.monotonic()
            connection.request("POST", "/v1/chat/completions", late.body(max_tokens=2))
            assert connection.getresponse().read()
            took.append(time.monotonic() - began)
    assert took[0] >= 0.399
    assert min(took[1:]) < 0.399


def test_stall_before_headers_says_nothing_at_all(told):
    heard = hear(told("stall-before-headers,for=300ms"))
    assert heard.reads[0][0] >= 0.299
    assert heard.ended
    assert heard.tokens == 6


def test_stall_before_first_comes_after_headers_and_role(told):
    heard = hear(told("stall-before-first,for=300ms"))
    assert heard.when(TEN, 2) - heard.when(b'"role"') > 0.25
    assert heard.tokens == 6


def test_stall_after_first_and_in_the_middle(told):
    after = hear(told("stall-after-first,for=300ms"))
    assert after.when(TEN, 3) - after.when(TEN, 2) > 0.25
    middle = hear(told("stall-mid-stream,for=300ms"))
    assert middle.when(TEN, 1 + 4) - middle.when(TEN, 1 + 3) > 0.25
    assert after.tokens == middle.tokens == 6


def test_stalls_add_up_for_a_whole_answer_too(told):
    late = told("stall-after-first,for=150ms", "stall-mid-stream,for=150ms")
    began = time.monotonic()
    assert ask(late.url, model=late.model, max_tokens=4)["usage"]["completion_tokens"] == 4
    assert time.monotonic() - began >= 0.299


@pytest.mark.parametrize("streamed", [True, False])
def test_reset_and_close_before_send_no_byte(told, streamed):
    reset = hear(told("reset-before"), streamed=streamed)
    assert (reset.reads, reset.end) == ([], "reset")
    closed = hear(told("close-before"), streamed=streamed)
    assert (closed.reads, closed.end) == ([], "fin")


@pytest.mark.parametrize(
    ("rule", "end"),
    [
        ("reset-mid-stream", "reset"),
        ("disconnect-mid-stream", "fin"),
        ("half-close", "fin"),
        ("truncated-chunk", "fin"),
    ],
)
def test_a_stream_cut_in_the_middle_has_half_its_tokens_and_no_end(told, rule, end):
    heard = hear(told(rule))
    assert heard.end == end
    assert heard.tokens == 3
    assert not heard.ended
    assert b"[DONE]" not in heard.data


def test_a_truncated_chunk_promises_more_than_comes(told):
    last = hear(told("truncated-chunk")).data.rpartition(b"\r\n")
    promised = int(last[0].rpartition(b"\r\n")[2], 16)
    assert promised > len(last[2]) > 0


def test_after_a_half_close_the_server_still_listens(told):
    with told("half-close").start(stream=True, max_tokens=4) as sock:
        while sock.recv(65536):
            pass
        for _ in range(20):  # a closed socket would answer the first of these with RST
            sock.sendall(b"x")
            time.sleep(0.002)
        state = struct.unpack_from("B", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8))[0]
        assert state == 8  # CLOSE_WAIT: it has closed its half, and nobody has reset


@pytest.mark.parametrize("rule", ["reset-mid-stream", "half-close", "truncated-chunk"])
def test_a_whole_answer_is_cut_in_half_as_well(told, rule):
    cut = told(rule)
    with closing(connect(cut.url)) as connection:
        connection.request("POST", "/v1/chat/completions", cut.body(max_tokens=10))
        with pytest.raises((http.client.IncompleteRead, ConnectionResetError)) as caught:
            connection.getresponse().read()
    if isinstance(caught.value, http.client.IncompleteRead):
        assert caught.value.partial.startswith(b'{"id"')
        assert caught.value.expected > 0


def test_an_empty_stream_has_headers_and_an_end(told):
    heard = hear(told("empty-stream"))
    assert (heard.body, heard.ended) == (b"", True)
    assert b"text/event-stream" in heard.head
    assert told("empty-stream").post()[2] == b""


def test_an_html_page_is_html(told):
    status, headers, page = told("html").post(stream=True)
    assert (status, headers["content-type"]) == (502, "text/html; charset=utf-8")
    assert page.startswith(b"<html>")
    assert told("html,status=504").post()[0] == 504


@pytest.mark.parametrize("status", [401, 429, 500, 502, 503, 529])
def test_any_status(told, status):
    answered, headers, data = told(f"status,status={status}").post()
    assert answered == status
    assert set(json.loads(data)["error"]) == {"message", "type", "param", "code"}
    assert headers["retry-after"] is None


def test_retry_after_is_sent_where_it_was_asked_for(told):
    status, headers, _ = told("status,status=429,retry_after=7s").post()
    assert (status, headers["retry-after"]) == (429, "7")


def test_the_code_of_an_error_can_be_chosen(told):
    chunks = told("error-in-stream,code=overloaded_error").stream(max_tokens=4)
    assert chunks[-2]["error"]["code"] == "overloaded_error"


def test_the_type_of_the_content_can_be_wrong(told):
    for wrong, kind in (
        (told("wrong-type"), "text/plain"),
        (told("wrong-type,type=application/xml"), "application/xml"),
    ):
        for streamed in (True, False):
            status, headers, data = wrong.post(stream=streamed, max_tokens=3)
            assert (status, headers["content-type"]) == (200, kind)
            assert b"chat.completion" in data


def test_usage_can_come_twice(told):
    chunks = told("duplicated-usage").stream(max_tokens=3, stream_options=OPTIONS)
    usages = [c["usage"] for c in chunks[:-1] if c.get("usage")]
    assert len(usages) == 2
    assert usages[0] == usages[1]
    assert chunks[-1] == "[DONE]"


def test_comments_keep_a_silent_stream_alive(told):
    heard = hear(told("stall-before-first,for=300ms", "comments,gap=20ms"))
    before = heard.body.partition(TEN)[2].partition(TEN)[0]
    assert before.count(b": keep-alive\n\n") >= 5
    assert heard.tokens == 6
    clean = heard.body.replace(b": keep-alive\n\n", b"")
    assert events(clean)[-1] == "[DONE]"


@pytest.mark.parametrize("streamed", [True, False])
def test_gzip_comes_although_it_was_refused(told, streamed):
    refusing = {"accept-encoding": "identity"}
    status, headers, data = told("gzip").post(refusing, stream=streamed, max_tokens=5)
    assert (status, headers["content-encoding"]) == (200, "gzip")
    plain = gzip.decompress(data)
    if streamed:
        assert len(deltas(events(plain))) == 1 + 5 + 1
    else:
        assert json.loads(plain)["usage"]["completion_tokens"] == 5


def test_one_event_can_be_many_packets(told):
    heard = hear(told("split-events,size=40,gap=2ms"), max_tokens=2)
    plain = hear(told("no-done"), max_tokens=2)
    assert max(map(len, heard.chunks)) == 40 < max(map(len, plain.chunks))
    assert len(heard.reads) > 5 + len(plain.reads)
    assert len(events(heard.body)) == 1 + 2 + 1 + 1 + 1


def test_many_events_can_be_one_packet(simulators, tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("default: {output_tok_s: 200}")
    url = simulators("--profile", str(path), "--fault", "one-packet,size=5").base_url
    heard = hear(Told(url), max_tokens=13)
    counts = [chunk.count(TEN) for chunk in heard.chunks]
    assert counts == [5, 5, 4, 0, 0]  # a role and 13 tokens; the finish is in the third, too
    assert heard.ended


def test_a_byte_at_a_time(told):
    heard = hear(told("drip,gap=1ms"), max_tokens=1)
    assert statistics_of(heard)[0] < 30  # bytes per read, however busy this machine
    assert heard.ended
    assert len(events(heard.body)) == 1 + 1 + 1 + 1 + 1


def test_a_byte_every_100_ms_unless_told_otherwise(told):
    began = time.monotonic()
    with told("drip").start(stream=True, max_tokens=1) as sock:
        received = b""
        while len(received) < 5:
            received += sock.recv(100)
        assert time.monotonic() - began >= 0.35  # the first at once, then four gaps
    assert b"HTTP/1.1 200".startswith(received[:12])


def statistics_of(heard: Heard) -> tuple[float, int]:
    return len(heard.data) / len(heard.reads), max(len(data) for _, data in heard.reads)


# --- several at once, and who gets them ----------------------------------------------------------


def test_different_faults_happen_together(told):
    heard = hear(told("malformed", "no-done", "wrong-type", "stall-before-first,for=200ms"))
    assert heard.when(TEN, 2) >= 0.199
    assert b"text/plain" in heard.head
    chunks = events(heard.body)
    assert [chunk for chunk in chunks if isinstance(chunk, str)] == [chunks[4]]


def test_of_two_that_exclude_each_other_the_first_wins(told):
    assert told("status,status=503", "status,status=500").post()[0] == 503
    assert told("status,status=503,every=2", "status,status=500").post(max_tokens=1)[0] == 500
    assert hear(told("truncate", "reset-mid-stream")).ended
    assert told("reset-mid-stream", "html").post()[0] == 502, "nothing is left to be cut"


def test_an_option_goes_before_the_file_and_flags_before_that(simulators, tmp_path):
    path = tmp_path / "faults.yaml"
    path.write_text("faults:\n  - {kind: status, status: 500}\n  - no-done\n")
    base = ("--profile", "instant", "--faults", str(path))
    assert post(simulators(*base).base_url)[0] == 500
    assert post(simulators(*base, "--status", "429").base_url)[0] == 429
    assert post(simulators(*base, "--fault", "status,status=503").base_url)[0] == 503


def test_a_probability_is_a_share_and_repeats_with_the_seed(alone):
    def statuses(told: Told) -> list[int]:
        with closing(connect(told.url)) as connection:
            found = []
            for _ in range(200):
                connection.request("POST", "/v1/chat/completions", body(max_tokens=1))
                response = connection.getresponse()
                response.read()
                found.append(response.status)
            return found

    rule = "status,status=503,probability=25 %"
    first, again = statuses(alone(rule)), statuses(alone(rule))
    assert first == again
    assert 25 <= first.count(503) <= 80  # 50 on average, 6 sd
    assert statuses(alone(rule, flags=("--seed", "5"))) != first


def test_a_window_opens_and_closes(alone):
    flaky = alone("status,status=503,from=300ms,until=600ms")
    began, seen = time.monotonic(), []
    while not seen or seen[-1][0] < 0.7 + seen[0][1]:
        at = time.monotonic() - began
        status = flaky.post(max_tokens=1)[0]
        seen.append((at, time.monotonic() - began, status))
    # The server counts from the arrival of the first request, somewhere within its time here.
    first_took = seen[0][1]
    faulty = [(sent, done) for sent, done, status in seen if status == 503]
    assert faulty
    assert all(done >= 0.3 and sent <= 0.6 + first_took for sent, done in faulty)
    assert seen[0][2] == seen[-1][2] == 200


def test_a_rule_for_a_model_counts_the_requests_of_that_model(alone):
    url = alone("status,status=503,every=2,model=a", "status,status=500,every=3").url
    models = ["a", "a", "b", "a", "b", "a", "b"]
    statuses = [post(url, model=model, max_tokens=1)[0] for model in models]
    assert statuses == [200, 503, 500, 200, 200, 503, 200]


def test_a_client_that_leaves_a_stalled_stream_frees_its_place(simulators, tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("default: {output_tok_s: 50, max_running: 1}")
    flags = ("--profile", str(path), "--fault", "stall-before-headers,for=60s,every=2")
    url = simulators(*flags, fresh=True).base_url
    assert ask(url, max_tokens=1)
    with closing(connect(url)) as connection:
        connection.request("POST", "/v1/chat/completions", body(stream=True, max_tokens=5000))
    assert ask(url, max_tokens=1), "else it waits for 100 s"


def test_a_connection_outlives_faults_that_leave_it_whole(told):
    odd = told("malformed,every=2", "gzip,every=3", "drip,gap=0s,every=4", "no-done,every=5")
    with closing(connect(odd.url)) as connection:
        connection.connect()
        sock = connection.sock
        for _ in range(8):
            data = odd.body(stream=True, max_tokens=3)
            connection.request("POST", "/v1/chat/completions", data)
            assert connection.getresponse().read()
            assert connection.sock is sock


# --- what loadlib's client makes of it -----------------------------------------------------------


def test_every_kind_has_an_outcome():
    assert {rule.partition(",")[0] for rule in OUTCOMES} == set(KINDS) - {"freeze"}


@pytest.mark.parametrize("mode", ["tape", "sdk"])
@pytest.mark.parametrize("rule", OUTCOMES)
def test_what_the_client_says(gevent_child: Driver, told, rule: str, mode: str):
    if (rule, mode) == ("drip", "sdk"):
        pytest.skip("the SDK's own timeouts start again with every byte: 20 s for the headers")
    faulty = told(rule)
    model = {"wire": faulty.model}
    sample = gevent_child.one(faulty.url, deadlines=SHORT, model=model, mode=mode)
    assert (sample["outcome"], sample["cause"]) == OUTCOMES[rule], sample["error"]
    if sample["outcome"] == "ok":
        assert sample["output_tokens"] == sample["events"] == 16
        assert sample["tokens_source"] == "server"


def test_comments_do_not_pass_for_a_first_token(gevent_child: Driver, told):
    silent = told("comments,gap=20ms", "stall-before-first,for=60s")
    sample = gevent_child.one(silent.url, deadlines=SHORT, model={"wire": silent.model})
    assert (sample["outcome"], sample["cause"]) == ("timeout", "first_token")


def test_other_pages_are_never_faulty(alone):
    url = alone("reset-before").url
    assert get(url, "/v1/models")[0] == get(url, "/health")[0] == 200
