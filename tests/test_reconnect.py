"""A server that closes an idle connection under the next request, as llama.cpp's does."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# In a process of its own: the transport imports gevent.
CHILD = r"""
import json, socket, sys, threading

from loadlib.transport import TapeTransport
from loadlib.wire import Deadlines
import httpx2

plan = json.loads(sys.argv[1])  # per connection, how many requests are answered before it closes
listener = socket.create_server(("127.0.0.1", 0))
seen = []

def serve():
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

threading.Thread(target=serve, daemon=True).start()
transport = TapeTransport(Deadlines())
client = httpx2.Client(transport=transport, trust_env=False)
outcomes = []
for _ in range(int(sys.argv[2])):
    request = client.build_request("POST", f"http://127.0.0.1:{listener.getsockname()[1]}/")
    try:
        client.send(request)
        tape = request.extensions["loadlib.tape"]
        assert tape.sent_ns <= tape.flushed_ns <= tape.first_byte_ns <= tape.end_ns
        outcomes.append("resent" if tape.resent else "reused" if tape.conn_reused else "new")
    except httpx2.TransportError as error:
        outcomes.append(type(error).__name__)
print(json.dumps([outcomes, seen]))
"""


@pytest.mark.parametrize(
    ("plan", "outcomes", "seen"),
    [
        # kept alive: nothing is ever sent twice
        ([3], ["new", "reused", "reused"], [0, 0, 0]),
        # closed under the second and the third request: each goes out again on a new connection
        ([1, 1, 1], ["new", "resent", "resent"], [0, 0, 1, 1, 2]),
        # a new connection that is closed without an answer is a failure, not a reason to repeat
        ([0, 1], ["ReadError", "new"], [0, 1]),
        # … also when it is the second try
        ([1, 0, 1], ["new", "ReadError", "new"], [0, 0, 1, 2]),
    ],
)
def test_a_request_is_sent_again_only_when_its_idle_connection_was_closed(
    plan: list[int], outcomes: list[str], seen: list[int]
) -> None:
    child = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(plan), str(len(outcomes))],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    assert json.loads(child.stdout) == [outcomes, seen]
