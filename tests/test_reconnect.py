"""A server that closes an idle connection under the next request, as llama.cpp's does."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache

import pytest

# In a process of its own: the transport imports gevent.
CHILD = r"""
import json, socket, sys, threading

from loadlib.transport import TapeTransport
from loadlib.wire import Deadlines
import httpx2

def serve(listener, plan, seen):
    for number, answers in enumerate(plan):
        connection, _ = listener.accept()
        with connection:
            while True:
                request = connection.recv(65536)
                if not request:
                    break
                seen.append(number)
                if not answers:
                    break  # closed without an answer
                answers -= 1
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

def sent(plan, requests):
    listener, seen, outcomes = socket.create_server(("127.0.0.1", 0)), [], []
    threading.Thread(target=serve, args=(listener, plan, seen), daemon=True).start()
    client = httpx2.Client(transport=TapeTransport(Deadlines()), trust_env=False)
    for _ in range(requests):
        request = client.build_request("POST", f"http://127.0.0.1:{listener.getsockname()[1]}/")
        try:
            client.send(request)
            tape = request.extensions["loadlib.tape"]
            assert tape.sent_ns <= tape.flushed_ns <= tape.first_byte_ns <= tape.end_ns
            outcomes.append("resent" if tape.resent else "reused" if tape.conn_reused else "new")
        except httpx2.TransportError as error:
            outcomes.append(type(error).__name__)
    return outcomes, seen

# Of each plan: per connection, how many requests are answered before it closes; all requests.
print(json.dumps([sent(*plan) for plan in json.loads(sys.argv[1])]))
"""


PLANS = [
    # kept alive: nothing is ever sent twice
    ([3], ["new", "reused", "reused"], [0, 0, 0]),
    # closed under the second and the third request: each goes out again on a new connection
    ([1, 1, 1], ["new", "resent", "resent"], [0, 0, 1, 1, 2]),
    # a new connection that is closed without an answer is a failure, not a reason to repeat
    ([0, 1], ["ReadError", "new"], [0, 1]),
    # … also when it is the second try
    ([1, 0, 1], ["new", "ReadError", "new"], [0, 0, 1, 2]),
]


@pytest.mark.parametrize("number", range(len(PLANS)))
def test_a_request_is_sent_again_only_when_its_idle_connection_was_closed(number: int) -> None:
    _, outcomes, seen = PLANS[number]
    assert found()[number] == [outcomes, seen]


@cache
def found() -> list[list[list[object]]]:
    """What became of the requests of each plan, and which connections saw them."""
    plans = [(plan, len(outcomes)) for plan, outcomes, _ in PLANS]
    child = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(plans)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)
