"""The benchmark's own instruments: both truth servers, the floor client, and the arithmetic."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks import processes, table
from benchmarks.arithmetic import Shape, Spread, Usage, delivered, overlap, rate_per_s, slope
from benchmarks.bars import BARS
from benchmarks.lab import Lab
from benchmarks.processes import Cores
from benchmarks.programs import build, compiler
from benchmarks.table import Row
from loadlib.calibrate.protocol import Pace
from loadlib.calibrate.truth import Served, parse

ROOT = Path(__file__).parent.parent
NO_COMPILER = "no C compiler: the benchmark uses the Python truth server and has no floor client"
TTFT_MS, GAP_MS, TOKENS = 30, 3, 12
BODY = b'{"model":"truth","stream":true,"messages":[{"role":"user","content":"hello"}]}'

# -- the truth servers, in C and in Python: the same protocol --------------------------------------


@contextmanager
def server(kind: str, **options: object):
    """A running truth server; its port."""
    if kind == "c" and compiler() is None:
        pytest.skip(NO_COMPILER)
    program = [build("truth_server")] if kind == "c" else [sys.executable, *PYTHON_SERVER]
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    with processes.started([*program, "--port", 0, *flags], None, until='{"port"') as (_, line):
        yield json.loads(line)["port"]


PYTHON_SERVER = ("-m", "loadlib.calibrate.server")
both = pytest.mark.parametrize("kind", ["c", "python"])


@pytest.fixture(scope="module")
def paced():
    """`paced(kind)`: the port of a server with a pace, started when first asked for."""
    with ExitStack() as running:
        known = {}

        def get(kind):
            if kind not in known:
                pace = {"ttft-ms": TTFT_MS, "gap-ms": GAP_MS, "tokens": TOKENS}
                known[kind] = running.enter_context(server(kind, **pace))
            truth(known[kind])  # what other tests left
            return known[kind]

        yield get


def truth(port: int):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with closing(connection):
        connection.request("GET", "/truth")
        response = connection.getresponse()
        assert response.getheader("content-type") == "application/x-ndjson"
        return parse(response.read())


def connect(port: int, **buffers: int) -> socket.socket:
    """A connection; `buffers` (SO_SNDBUF=…) are set before it is made."""
    sock = socket.socket()
    for name, size in buffers.items():
        sock.setsockopt(socket.SOL_SOCKET, getattr(socket, name), size)
    sock.settimeout(30)
    sock.connect(("127.0.0.1", port))
    return sock


def request(body: bytes = BODY, length: int | None = None) -> bytes:
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: truth\r\nAuthorization: Bearer none\r\n"
        f"Content-Length: {length or len(body)}\r\n\r\n"
    )
    return head.encode() + body


@dataclass
class Answer:
    headers: dict[str, str]
    chunks: list[bytes]  # of HTTP, without framing

    @property
    def events(self) -> list[str]:
        """What follows `data: `, one per SSE event."""
        return b"".join(self.chunks).decode().removeprefix("data: ").split("\n\ndata: ")

    @property
    def values(self) -> list[dict]:
        return [json.loads(event) for event in self.events[:-1]]

    @property
    def contents(self) -> list[str]:
        deltas = [value["choices"][0]["delta"] for value in self.values if value["choices"]]
        return [delta["content"] for delta in deltas if delta.get("content")]


def answer(sock: socket.socket) -> Answer:
    """Read one response, exactly to its end."""
    with sock.makefile("rb") as file:
        assert file.readline() == b"HTTP/1.1 200 OK\r\n"
        pairs = iter(file.readline, b"\r\n")
        headers = {k.lower(): v.strip() for k, v in (p.decode().split(":", 1) for p in pairs)}
        chunks = []
        while size := int(file.readline(), 16):
            chunks.append(file.read(size))
            assert file.read(2) == b"\r\n"
        assert file.read(2) == b"\r\n"
    return Answer(headers, chunks)


@both
def test_a_stream_is_what_openai_sends(kind, paced):
    with closing(connect(paced(kind))) as sock:
        sock.sendall(request())
        got = answer(sock)
    number = re.fullmatch(r"t-(\d+)", got.headers["x-request-id"])
    assert number
    assert got.headers["content-type"] == "text/event-stream"
    assert got.headers["transfer-encoding"] == "chunked"
    role, *tokens, stop, usage = got.values
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [token["choices"][0]["delta"] for token in tokens] == [{"content": " tok"}] * TOKENS
    assert stop["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "stop"}
    assert usage["choices"] == []
    assert usage["usage"] == {
        "prompt_tokens": 10, "completion_tokens": TOKENS, "total_tokens": 10 + TOKENS,
    }  # fmt: skip
    assert got.events[-1].strip() == "[DONE]"
    assert {value["id"] for value in got.values} == {f"chatcmpl-{number[0]}"}
    assert len(got.chunks) == 1 + TOKENS + 3  # one event each
    assert all(150 < len(chunk) < 300 for chunk in got.chunks[:-2])


@both
def test_the_truth_of_two_requests_on_one_connection(kind, paced):
    port = paced(kind)
    with closing(connect(port)) as sock:
        ids = []
        for _ in range(2):
            begun_ns = time.monotonic_ns()
            sock.sendall(request())
            ids.append(answer(sock).headers["x-request-id"])
    found = truth(port)
    assert [served.id for served in found.requests] == ids
    assert len(set(ids)) == 2
    for served in found.requests:
        assert served.events == TOKENS
        assert served.arrival_ns == served.received_ns  # one segment
        due_ns = served.arrival_ns + TTFT_MS * 1_000_000
        assert served.first_ns >= due_ns
        assert served.last_ns >= due_ns + (TOKENS - 1) * GAP_MS * 1_000_000
    first, second = found.requests
    # The end of an answer is due a gap after its last token; a token that is late moves neither.
    end_due_ns = first.arrival_ns + (TTFT_MS + TOKENS * GAP_MS) * 1_000_000
    assert max(end_due_ns, first.last_ns) <= begun_ns <= second.arrival_ns
    assert found.events == 2 * TOKENS
    assert sum(count for _, count in found.gaps) == 2 * (TOKENS - 1)
    mean_us = sum(us * count for us, count in found.gaps) / (2 * (TOKENS - 1))
    spans = [served.last_ns - served.first_ns for served in found.requests]
    assert mean_us == pytest.approx(sum(spans) / 1000 / (2 * (TOKENS - 1)), abs=0.6)
    assert found.late_us_p99 is not None


@both
def test_the_truth_is_told_once(kind, paced):
    port = paced(kind)
    with closing(connect(port)) as sock:
        sock.sendall(request())
        answer(sock)
    assert len(truth(port).requests) == 1
    again = truth(port)
    assert (again.requests, again.gaps, again.events) == ((), (), 0)


@both
def test_a_large_body_has_a_first_and_a_last_segment(kind, paced):
    """The small buffer lets the first part end only when most of it has been read."""
    port, body = paced(kind), b"x" * 500_000
    with closing(connect(port, SO_SNDBUF=32_768)) as sock:
        before_ns = time.monotonic_ns()
        sock.sendall(request(body[:499_000], length=len(body)))
        between_ns = time.monotonic_ns()
        sock.sendall(body[499_000:])
        assert len(answer(sock).contents) == TOKENS
        sock.sendall(request())  # the connection is where it should be
        assert len(answer(sock).contents) == TOKENS
    served = truth(port).requests[0]
    assert before_ns - 50_000 < served.arrival_ns < between_ns < served.received_ns + 50_000


@both
def test_headers_and_role_come_at_once_and_who_hangs_up_is_no_request(kind):
    with server(kind, **{"ttft-ms": 600_000}) as port:
        with closing(connect(port)) as sock:
            sock.sendall(request())
            text = sock.recv(65_536)  # ten minutes before the first token
            assert b'"role":"assistant"' in text
            assert b" tok" not in text
        assert truth(port).requests == ()


@both
def test_without_a_gap_a_slow_reader_gets_everything(kind):
    """More than the socket takes at once: the server must wait for room and go on."""
    tokens = 8_000
    with server(kind, **{"ttft-ms": 0, "gap-ms": 0, "tokens": tokens}) as port:
        with closing(connect(port, SO_RCVBUF=4096)) as sock:
            for _ in range(2):
                sock.sendall(request())
                assert len(answer(sock).contents) == tokens
        found = truth(port)
    assert [served.events for served in found.requests] == [tokens, tokens]
    assert found.events == 2 * tokens
    assert sum(count for _, count in found.gaps) == 2 * (tokens - 1)


@both
def test_spread_follows_the_request_number(kind):
    pace = Pace(ttft_ns=50_000_000, gap_ns=1_000_000, tokens=2, spread=0.9)
    with server(kind, **{"ttft-ms": 50, "gap-ms": 1, "tokens": 2, "spread": 0.9}) as port:
        with ExitStack() as stack:
            socks = [stack.enter_context(closing(connect(port))) for _ in range(8)]
            for sock in socks:
                sock.sendall(request())
            for sock in socks:
                answer(sock)
        found = {int(served.id[2:]): served.ttft_ns for served in truth(port).requests}
    asked = {number: pace.first_ns(number) for number in found}
    assert len(asked) == 8
    assert all(found[number] >= asked[number] - 1000 for number in found)
    assert min(found.values()) < max(asked.values())


@both
def test_models_are_listed_and_nothing_else_is_known(kind, paced):
    connection = http.client.HTTPConnection("127.0.0.1", paced(kind), timeout=30)
    with closing(connection):
        connection.request("GET", "/v1/models")
        response = connection.getresponse()
        assert response.status == 200
        assert json.loads(response.read())["data"][0]["id"] == "truth"
        connection.request("GET", "/other")  # on the same connection
        assert connection.getresponse().status == 404


# -- the floor client ------------------------------------------------------------------------------


@pytest.fixture
def lab(tmp_path):
    if compiler() is None:
        pytest.skip(NO_COMPILER)
    cores = sorted(os.sched_getaffinity(0))
    return Lab(Cores(cores[0], cores[-1]), tmp_path, quick=True)


@pytest.mark.parametrize("body_bytes", [400, 500_000])
def test_the_floor_clients_figures_are_the_servers(lab, body_bytes):
    shape = Shape(streams=4, ttft_ms=30, gap_ms=10, tokens=10)
    with lab.serve(shape) as running:
        floor = lab.floor(running, shape, requests=12, body_bytes=body_bytes)
    assert floor is not None
    assert floor.figures["requests"] == len(floor.rows) == 12
    assert floor.figures["events"] == 12 * shape.tokens
    assert floor.figures["unstamped"] == 0
    served = {request.id: request for request in floor.truth.requests}
    assert served.keys() == {row.id for row in floor.rows}
    for row in floor.rows:  # sent before it arrived, read after it was sent: 50 µs for the clocks
        assert row.sent_ns - 50_000 < served[row.id].arrival_ns
        assert row.first_ns + 50_000 > served[row.id].first_ns
        assert row.last_ns + 50_000 > served[row.id].last_ns
        assert row.events == served[row.id].events == shape.tokens
    assert abs(floor.ttft_error_ms(0.5)) < shape.gap_ms / 2
    icl_error_ms = floor.icl_error_ms(0.5)
    assert icl_error_ms is not None
    assert abs(icl_error_ms) < shape.gap_ms / 2


def test_a_server_that_does_not_answer_well_is_named(lab, tmp_path):
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        command = [lab.floor_program, "--port", listener.getsockname()[1], "--requests", 1]
        child = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
        sock, _ = listener.accept()
        with sock:
            sock.recv(65_536)
            sock.sendall(b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n")
            _, said = child.communicate(timeout=30)
    assert child.returncode == 1
    assert said == "error: the server does not answer with 200\n"


# -- processes -------------------------------------------------------------------------------------

ORPHAN = """
import os, time
if not os.fork():
    while time.process_time() < 0.3: pass
"""


def test_the_cost_of_a_command_is_that_of_all_its_descendants(tmp_path):
    """Also of those that nobody waited for: CPU time is that of the loop, not of the clock."""
    code = f"""
from pathlib import Path
import sys
from benchmarks import processes
processes.prepare()
cost = processes.run([sys.executable, "-c", {ORPHAN!r}], None, Path({str(tmp_path)!r}))
assert cost.code == 0, cost
assert cost.cpu_s >= 0.3, cost
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_a_command_that_does_not_end_is_ended(tmp_path):
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    with pytest.raises(processes.MeasurementError, match="did not end within"):
        processes.run(command, None, tmp_path, within_s=0.1)


# -- arithmetic ------------------------------------------------------------------------------------

MS = 1_000_000


def test_what_a_shape_offers():
    shape = Shape(400)  # 200 ms + 100 × 20 ms, the last gap before the end of the answer
    assert shape.cycle_s == pytest.approx(2.2)
    assert shape.events_per_s == pytest.approx(400 * 100 / 2.2)


def test_a_slope_leaves_out_what_every_run_costs():
    start_s = 1.7
    short, long = Usage(start_s + 0.5, 50_000), Usage(start_s + 2.0, 200_000)
    assert slope(short, long, 100_000) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="50000 done in the long run"):
        slope(short, short)


def served(arrival_ms: int, *, ttft_ms: int = 100, events: int = 4) -> Served:
    first_ns = (arrival_ms + ttft_ms) * MS
    return Served(id=f"t-{arrival_ms}", arrival_ns=arrival_ms * MS, received_ns=arrival_ms * MS,
                  first_ns=first_ns, last_ns=first_ns + 300 * MS, events=events)  # fmt: skip


@pytest.mark.parametrize(
    ("arrivals_ms", "received", "share", "why"),
    [
        ([0, 0, 500, 500, 1000, 1000], 24, 1.0, "two streams ask at once again, every 500 ms"),
        ([0, 0, 500, 500, 1000, 1000], 18, 0.75, "a quarter of the events was lost"),
        ([0, 0, 1000, 1000], 16, 0.5, "each stream waits 500 ms before it asks again"),
        ([0, 500, 500, 1000, 1000], 20, 1.0, "the start is left out: one stream was not yet there"),
        ([0, 0, 500, 1000], 16, 0.75, "one stream asks no more after its first answer, from 500"),
        ([0, 0], 8, None, "no stream asked twice: there is no window"),
    ],
)
def test_delivered_of_offered(arrivals_ms, received, share, why):
    shape = Shape(2, ttft_ms=100, gap_ms=100, tokens=4)
    found = delivered([served(at) for at in arrivals_ms], shape, received)
    assert found == (None if share is None else pytest.approx(share)), why


def test_a_server_held_back_by_its_client_delivers_less():
    """What goes out later than scheduled, because nobody reads, is time without a token due."""
    shape = Shape(1, ttft_ms=100, gap_ms=100, tokens=4)
    slow = [served(0), served(700), served(1400)]  # 500 ms each by schedule
    assert delivered(slow, shape, 12) == pytest.approx(500 / 700)


@pytest.mark.parametrize(
    ("span", "window", "length"),
    [((0, 10), (5, 20), 5), ((5, 8), (0, 10), 3), ((0, 3), (5, 9), 0), ((0, 20), (5, 9), 4)],
)
def test_overlap(span, window, length):
    assert overlap(*span, *window) == length


def test_a_rate_is_over_the_whole_time():
    assert rate_per_s([(0, 500 * MS, 10), (1500 * MS, 2000 * MS, 30)]) == pytest.approx(20)


def test_a_figure_measured_several_times():
    assert Spread((3.0, 1.0, 2.0)).middle == 2.0
    assert Spread((3.0, 1.0, 2.0)).range == (1.0, 3.0)
    assert Spread((3.0,)).range is None


# -- the table -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "limit", "at_least", "met"),
    [
        (0.2, 0.3, False, True),
        (0.3, 0.3, False, True),
        (0.31, 0.3, False, False),
        (-0.31, 0.3, False, False),  # an error of a sign is an error
        (99.0, 99.0, True, True),
        (98.9, 99.0, True, False),
        (None, 1.0, False, False),  # unknown meets nothing
        (5.0, None, False, None),
    ],
)
def test_a_bar_is_met(value, limit, at_least, met):
    row = Row(bar="b", what="w", unit="ms", value=value, limit=limit, at_least=at_least)
    assert row.met is met


def test_only_figures_that_compare_have_a_ratio_to_the_floor():
    row = {"bar": "b", "what": "w", "unit": "s", "floor": 0.5}
    assert Row(**row, value=1.5, relative=True).ratio == 3.0
    assert Row(**row, value=1.5).ratio is None
    assert Row(**row, value=None, relative=True).ratio is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "?"), (0.0, "0"), (0.0123, "0.012"), (-0.25, "−0.25"), (1.5, "1.5"), (12.34, "12.3"),
        (99.96, "100"), (456.7, "457"), (123456.7, "123,457"), (1.0, "1"), (100.0, "100"),
    ],
)  # fmt: skip
def test_numbers(value, text):
    assert table.number(value) == text


def test_a_page_of_saved_rows_says_which_were_measured_on_what():
    old = Row(bar="memory", what="peak", unit="×", value=1.02, limit=1.1, range=(1.0, 1.1))
    new = Row(bar="burner", what="error", unit="ms", value=0.01, limit=1)
    known = {
        row.bar: json.loads(json.dumps({"about": about, "rows": [row.as_json()]}))
        for row, about in ((old, "2026-01-01 `a`"), (new, "2026-02-02 `b`"))
    }
    text = table.of_results(known)
    assert "* `memory`: 2026-01-01 `a`" in text
    assert "* `burner`: 2026-02-02 `b`" in text
    for row in (old, new):
        assert Row.of_json(row.as_json()) == row
        assert " | ".join(row.cells()) in text


def test_the_table_replaces_what_stands_between_its_markers():
    page = f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n"
    rows = [Row(bar="b", what="a | b", unit="ms", value=0.5, limit=0.3, range=(0.4, 0.6))]
    new = table.insert(page, table.as_markdown(rows, ["where", "`command`"]))
    assert new.startswith("before\n")
    assert new.endswith("after\n")
    assert "old" not in new
    assert r"| a \| b | 0.5 (0.4 … 0.6) | ms | ≤ 0.3 | NO |" in new
    assert table.insert(new, "x") == page.replace("old", "x")
    with pytest.raises(ValueError, match="the page has no"):
        table.insert("nothing", "x")


# -- what is written about it ----------------------------------------------------------------------


def test_the_page_names_every_bar_and_has_a_place_for_the_table():
    page = (ROOT / "docs" / "measurement.md").read_text(encoding="utf-8")
    assert [name for name in BARS if f"`{name}`" not in page] == []
    table.insert(page, "")


SOURCES = [
    path for ending in ("py", "c", "h") for path in (ROOT / "benchmarks").glob(f"*.{ending}")
]


@pytest.mark.parametrize("path", sorted(SOURCES), ids=lambda path: path.name)
def test_files_stay_small(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500
