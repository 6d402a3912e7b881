"""The wire against real sockets: every way a response can end, and connections kept or not."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import Any

import pytest
from client_handle import SHORT, Driver
from faulty_server import FaultyServer

pytest_plugins = ("client_fixtures",)

KEY = {"api_key_env": "K"}
KEYS = {"K": "sekret-Key_0123456789"}


# -- how it ended -------------------------------------------------------------------------------

# behaviour → (outcome, cause). The cause of a timeout is the claim, never how long it took.
OUTCOMES: dict[str, tuple[str, str | None]] = {
    "ok": ("ok", None),
    "one-write": ("ok", None),
    "bytewise": ("ok", None),
    "until-close": ("ok", None),
    "http-1.0": ("ok", None),
    "connection-close": ("ok", None),
    "lying-trailers": ("ok", None),
    "continue": ("ok", None),
    "continue-at-once": ("ok", None),
    "no-done": ("ok", None),
    "done-then-silence": ("ok", None),
    "done-then-reset": ("ok", None),
    "json": ("ok", None),
    "text-plain": ("ok", None),
    "accents": ("ok", None),
    "gzip": ("ok", None),
    "gzip-json": ("ok", None),
    "answers-twice": ("ok", None),
    "until-close-cut": ("truncated", "no_end"),
    "no-end": ("truncated", "no_end"),
    "empty": ("truncated", "no_end"),
    "until-reset": ("disconnected", "after_first_token"),
    "close-before": ("disconnected", "before_first_token"),
    "reset-before": ("disconnected", "before_first_token"),
    "reset-after-headers": ("disconnected", "before_first_token"),
    "reset-after-token": ("disconnected", "after_first_token"),
    "close-after-token": ("disconnected", "after_first_token"),
    "half-close": ("disconnected", "after_first_token"),
    "truncated-chunk": ("disconnected", "after_first_token"),
    "short-body": ("disconnected", "after_first_token"),
    "half-headers": ("disconnected", "before_first_token"),
    "garbage": ("malformed", "http"),
    "bad-chunk": ("malformed", "http"),
    "two-lengths": ("malformed", "http"),
    "endless-headers": ("malformed", "http"),
    "endless-header": ("malformed", "http"),
    "switch": ("malformed", "http"),
    "bad-event": ("malformed", "body"),
    "bad-utf8": ("malformed", "body"),
    "deep": ("malformed", "body"),
    "html": ("malformed", "body"),
    "gzip-bomb": ("malformed", "body"),
    "brotli": ("malformed", "body"),
    "204": ("malformed", "body"),
    "huge": ("malformed", "too_large"),
    "huge-json": ("malformed", "too_large"),
    "error-in-stream": ("server_error", "in_stream"),
    "500": ("server_error", "500"),
    "500-cut": ("server_error", "500"),
    "stall-after-error": ("server_error", "500"),
    "accents-500": ("server_error", "500"),
    "503": ("server_error", "503"),
    "429": ("throttled", "429"),
    "429-quota": ("throttled", "quota"),
    "429-quota-type": ("throttled", "quota"),
    "529": ("throttled", "529"),
    "400": ("rejected", "context_length_exceeded"),
    "401": ("rejected", "auth"),
    "403": ("rejected", "auth"),
    "404": ("rejected", "t"),
    "418-html": ("rejected", "418"),
    "gzip-broken-400": ("rejected", "400"),
    "stall-before-headers": ("timeout", "first_token"),
    "stall-after-headers": ("timeout", "first_token"),
    "stall-after-role": ("timeout", "first_token"),
    "continue-then-silence": ("timeout", "first_token"),
    "comments-only": ("timeout", "first_token"),
    "stall-after-token": ("timeout", "idle"),
}
ONLY_OURS: dict[str, tuple[str, str | None]] = {
    "drips-headers": ("timeout", "first_token"),  # the SDK's stack limits each read, not the wait
    "endless-interim": ("malformed", "http"),  # it waits for the end of these for ever
    "endless-trailers": ("ok", None),  # the answer was over; the total timeout ended the rest
    "tokens-forever": ("timeout", "total"),
}
DEADLINES = SHORT | {"total_s": 1.0}
# 64 MB of something else than a token: what is judged is the size, not how long it takes.
HUGE = SHORT | {"first_token_s": 30.0, "total_s": 60.0}


def deadlines(behaviour: str) -> dict[str, float]:
    return HUGE if "huge" in behaviour or "bomb" in behaviour else DEADLINES


WITH_ANSWER = {"ok", "one-write", "bytewise", "until-close", "http-1.0", "connection-close",
               "lying-trailers", "continue", "continue-at-once", "no-done", "done-then-silence",
               "done-then-reset", "json", "text-plain", "accents", "gzip", "gzip-json",
               "answers-twice"}  # fmt: skip


def check(sample: dict[str, Any], behaviour: str, expected: tuple[str, str | None]) -> None:
    assert (sample["outcome"], sample["cause"]) == expected, sample["error"]
    assert (sample["error"] is None) == (expected[0] == "ok")
    assert sample["sent_ns"] >= sample["intended_ns"]
    assert sample["end_ns"] >= sample["sent_ns"]
    if behaviour in WITH_ANSWER:
        assert sample["text"] == "ab"
        assert (sample["input_tokens"], sample["output_tokens"]) == (7, 2)
        assert sample["tokens_source"] == "server"
        assert sample["events"] == (0 if "json" in behaviour else 2)
        assert sample["finish_reason"] == "stop"


@pytest.mark.parametrize("behaviour", [*OUTCOMES, *ONLY_OURS])
def test_outcome(child: Driver, faulty: FaultyServer, behaviour: str) -> None:
    sample = child.one(faulty.url(behaviour), deadlines=deadlines(behaviour))
    check(sample, behaviour, (OUTCOMES | ONLY_OURS)[behaviour])
    assert len(faulty.requests(behaviour)) == 1, "one attempt, no retries"


@pytest.mark.parametrize("behaviour", OUTCOMES)
def test_outcome_on_the_transport_of_the_sdk(
    gevent_child: Driver, faulty: FaultyServer, behaviour: str
) -> None:
    """`client: sdk` is the cross-check: it must say the same of every server."""
    limits = deadlines(behaviour)
    sample = gevent_child.one(faulty.url(behaviour), deadlines=limits, mode="sdk")
    check(sample, behaviour, OUTCOMES[behaviour])
    assert len(faulty.requests(behaviour)) == 1


def test_a_total_timeout_before_the_first_token(child: Driver, faulty: FaultyServer) -> None:
    limits = SHORT | {"total_s": 0.2, "first_token_s": 60}
    for behaviour in ("stall-before-headers", "stall-after-token", "comments-only"):
        sample = child.one(faulty.url(behaviour), deadlines=limits | {"idle_s": 60})
        assert (sample["outcome"], sample["cause"]) == ("timeout", "total"), behaviour


def test_the_sdk_transport_knows_the_total_timeout_too(
    gevent_child: Driver, faulty: FaultyServer
) -> None:
    limits = {"connect_s": 5, "total_s": 0.3, "first_token_s": 60, "idle_s": 60}
    for behaviour in ("stall-before-headers", "stall-after-token", "tokens-forever"):
        sample = gevent_child.one(faulty.url(behaviour), deadlines=limits, mode="sdk")
        assert (sample["outcome"], sample["cause"]) == ("timeout", "total"), behaviour


def test_a_slow_first_token_is_not_idleness(child: Driver, faulty: FaultyServer) -> None:
    """The idle limit begins to count at the first token."""
    limits = SHORT | {"first_token_s": 0.6, "idle_s": 0.05}
    sample = child.one(faulty.url("stall-after-role"), deadlines=limits)
    assert (sample["outcome"], sample["cause"]) == ("timeout", "first_token")


def test_an_answer_that_ends_the_connection_late_has_the_end_of_its_last_byte(
    child: Driver, faulty: FaultyServer
) -> None:
    sample = child.one(faulty.url("done-then-silence"), deadlines=SHORT)
    assert sample["end_ns"] - sample["last_token_ns"] < 0.3e9, "the wait is not part of it"


def test_instants_are_in_order(child: Driver, faulty: FaultyServer) -> None:
    sample = child.one(faulty.url("ok"))
    names = ("intended_ns", "sent_ns", "flushed_ns", "first_byte_ns", "first_token_ns",
             "second_token_ns", "last_token_ns", "end_ns")  # fmt: skip
    instants = [sample[name] for name in names]
    assert instants == sorted(instants)
    assert sample["first_output_ns"] == sample["first_token_ns"]


def test_interim_responses_are_not_the_response(child: Driver, faulty: FaultyServer) -> None:
    sample = child.one(faulty.url("continue"))
    assert sample["status"] == 200
    assert sample["first_byte_ns"] > sample["sent_ns"]


def test_several_events_in_one_read_are_counted(child: Driver, faulty: FaultyServer) -> None:
    sample = child.one(faulty.url("one-write"))
    assert (sample["events"], sample["coalesced"]) == (2, 1)
    assert sample["first_token_ns"] == sample["last_token_ns"]
    assert sample["metrics"]["output_tok_s_user"] == [], "no rate out of nothing"


# -- what cannot be connected to ----------------------------------------------------------------


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.mark.parametrize("mode", ["tape", "sdk"])
def test_nobody_there(gevent_child: Driver, closed_port: int, mode: str) -> None:
    sample = gevent_child.one(f"http://127.0.0.1:{closed_port}/v1", mode=mode)
    assert (sample["outcome"], sample["cause"]) == ("disconnected", "connect")
    assert sample["sent_ns"] is None
    assert sample["status"] is None


@pytest.mark.parametrize("mode", ["tape", "sdk"])
def test_nobody_answers(gevent_child: Driver, mode: str) -> None:
    """A listener whose queue is full drops what else knocks."""
    limits = SHORT | {"connect_s": 0.2}
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            knocking = stack.enter_context(socket.socket())
            knocking.setblocking(False)
            knocking.connect_ex(listener.getsockname())
        sample = gevent_child.one(
            f"http://127.0.0.1:{listener.getsockname()[1]}/v1", deadlines=limits, mode=mode
        )
    assert (sample["outcome"], sample["cause"]) == ("timeout", "connect")
    assert sample["sent_ns"] is None


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 70 + ".example"])
def test_a_name_that_cannot_be_resolved(plain_child: Driver, host: str) -> None:
    sample = plain_child.one(f"http://{host}/v1")
    assert (sample["outcome"], sample["cause"]) == ("disconnected", "dns")


# -- connections --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["tape", "sdk"])
@pytest.mark.parametrize("behaviour", ["ok", "one-write", "no-done", "json", "400", "500"])
def test_many_requests_one_connection(
    gevent_child: Driver, faulty: FaultyServer, behaviour: str, mode: str
) -> None:
    samples = gevent_child.send(faulty.url(behaviour), count=5, mode=mode)
    assert [s["conn_reused"] for s in samples] == [False, True, True, True, True]
    assert [s["connect_ns"] is None for s in samples] == [False, True, True, True, True]
    assert faulty.accepted == 1


def test_without_gevent_too(plain_child: Driver, faulty: FaultyServer) -> None:
    plain_child.send(faulty.url("ok"), count=5)
    assert faulty.accepted == 1


def test_as_many_connections_as_requests_in_flight(
    gevent_child: Driver, faulty: FaultyServer
) -> None:
    first = gevent_child.send(faulty.url("ok"), parallel=10, client="many")
    assert sum(not s["conn_reused"] for s in first) == faulty.accepted <= 10
    again = gevent_child.send(faulty.url("ok"), count=10, client="many")
    assert all(s["conn_reused"] for s in again)


@pytest.mark.parametrize(
    "behaviour", ["closes-afterwards", "mumbles-afterwards", "answers-twice",
                  "answers-one-and-a-half", "connection-close", "http-1.0", "until-close"],
)  # fmt: skip
def test_a_connection_that_is_over_or_out_of_step_is_not_used_again(
    child: Driver, faulty: FaultyServer, behaviour: str
) -> None:
    name = f"again {behaviour}"
    for _ in range(3):
        (sample,) = child.send(faulty.url(behaviour), client=name)
        assert sample["outcome"] == "ok", sample["error"]
        assert sample["conn_reused"] is False
        assert sample["text"] == "ab"
        if behaviour == "closes-afterwards":
            faulty.wait_until_closed()
    assert faulty.accepted == 3


def test_failures_close_their_connection(child: Driver, faulty: FaultyServer) -> None:
    for behaviour in ("stall-after-token", "tokens-forever", "huge", "bad-chunk"):
        child.one(faulty.url(behaviour), deadlines=SHORT | {"total_s": 0.5}, client="held")
    faulty.wait_until_closed()


# -- writing ------------------------------------------------------------------------------------


def test_a_refusal_before_the_body_was_read_is_heard(child: Driver, faulty: FaultyServer) -> None:
    """The connection breaks under the body, but the server had said why."""
    sample = child.one(faulty.url("refuses-unread"), prompt={"size": 20_000_000})
    assert (sample["outcome"], sample["status"]) == ("rejected", 413), sample["error"]
    assert sample["conn_reused"] is False


def test_a_server_that_does_not_read_is_a_timeout(child: Driver, faulty: FaultyServer) -> None:
    sample = child.one(faulty.url("never-reads"), prompt={"size": 20_000_000}, deadlines=SHORT)
    assert (sample["outcome"], sample["cause"]) == ("timeout", "first_token")
    assert sample["sent_ns"] is not None
    assert sample["flushed_ns"] is None


# -- redirects ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["tape", "sdk"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(
    gevent_child: Driver, faulty: FaultyServer, status: int, mode: str
) -> None:
    other = FaultyServer()
    try:
        for there in (other.url("ok"), faulty.url("ok")):
            line = f"HTTP/1.1 {status} Go\r\nlocation: {there}/chat/completions\r\n"
            answer = f"{line}content-length: 0\r\n\r\n".encode()
            faulty.extra["away"] = lambda peer, _request, answer=answer: peer.send(answer)
            sample = gevent_child.one(faulty.url("away"), model=KEY, keys=KEYS, mode=mode)
            assert (sample["outcome"], sample["cause"]) == ("rejected", "redirect")
        assert other.accepted == 0
        assert not faulty.requests("ok")
    finally:
        other.close()


def test_the_live_sdk_follows_none_either(gevent_child: Driver, faulty: FaultyServer) -> None:
    other = FaultyServer()
    try:
        answer = f"HTTP/1.1 307 Go\r\nlocation: {other.url('ok')}\r\ncontent-length: 0\r\n\r\n"
        faulty.extra["away"] = lambda peer, _request: peer.send(answer.encode())
        result = gevent_child.do("live", faulty.url("away"), script="stream", model=KEY, keys=KEYS)
        assert [s["cause"] for s in result["samples"]] == ["redirect"]
        assert other.accepted == 0
    finally:
        other.close()
