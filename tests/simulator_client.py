"""A client for the simulator's tests: the standard library, and nothing it hides."""

from __future__ import annotations

import http.client
import json
import socket
import time
from contextlib import closing
from itertools import pairwise

USER = [{"role": "user", "content": "Where is my order?"}]


def connect(base_url: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(base_url.split("/")[2], timeout=30)


def body(**fields) -> bytes:
    return json.dumps({"model": "gpt-4o-mini", "messages": USER, **fields}).encode()


def post(base_url: str, data: bytes | None = None, headers=None, **fields):
    """(status, headers, body bytes) of one completion request."""
    with closing(connect(base_url)) as connection:
        connection.request(
            "POST", "/v1/chat/completions", body(**fields) if data is None else data, headers or {}
        )
        response = connection.getresponse()
        return response.status, response.headers, response.read()


def get(base_url: str, path: str, headers=None):
    with closing(connect(base_url)) as connection:
        connection.request("GET", path, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()


def ask(base_url: str, **fields) -> dict:
    status, _, data = post(base_url, **fields)
    assert status == 200, data
    return json.loads(data)


def events(data: bytes) -> list:
    """The events of a stream: objects, or the text of what is no JSON."""
    parsed = []
    for block in data.decode().split("\n\n")[:-1]:
        assert block.startswith("data: ")
        text = block.removeprefix("data: ")
        try:
            parsed.append(json.loads(text))
        except ValueError:
            parsed.append(text)
    return parsed


def stream(base_url: str, **fields) -> list:
    status, headers, data = post(base_url, stream=True, **fields)
    assert status == 200, data
    assert headers["content-type"].startswith("text/event-stream")
    return events(data)


def deltas(chunks: list) -> list[dict]:
    return [c["choices"][0]["delta"] for c in chunks if isinstance(c, dict) and c.get("choices")]


def content(chunks: list) -> str:
    return "".join(delta.get("content") or "" for delta in deltas(chunks))


def counters(base_url: str) -> dict[str, float]:
    """`/metrics` as {sample name with labels: value}."""
    _, _, page = get(base_url, "/metrics")
    lines = [line for line in page.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def counter(base_url: str, name: str, model: str, **labels: str) -> float:
    more = "".join(f',{key}="{value}"' for key, value in labels.items())
    return counters(base_url)[f'vllm:{name}{{engine="0",model_name="{model}"{more}}}']


def timed_stream(base_url: str, **fields) -> tuple[float, list[float]]:
    """(seconds from send to first token, gaps between tokens), as user space sees them."""
    with closing(connect(base_url)) as connection:
        sent = time.monotonic()
        connection.request("POST", "/v1/chat/completions", body(stream=True, **fields))
        response = connection.getresponse()
        at = [
            time.monotonic()
            for line in response
            if b'"content":"' in line and b'"content":""' not in line
        ]
    return at[0] - sent, [b - a for a, b in pairwise(at)]


def raw(base_url: str, data: bytes, *, until_close: bool = True) -> bytes:
    host, port = base_url.split("/")[2].split(":")
    with socket.create_connection((host, int(port)), timeout=30) as sock:
        sock.sendall(data)
        received = b""
        while part := sock.recv(65536):
            received += part
            if not until_close:
                break
    return received


def request_bytes(data: bytes, *headers: str, version: str = "1.1") -> bytes:
    lines = [f"POST /v1/chat/completions HTTP/{version}", "host: x", *headers]
    return "\r\n".join([*lines, f"content-length: {len(data)}", "", ""]).encode() + data
