"""A child process that holds the client, so that pytest imports neither openai nor gevent.

`python client_driver.py gevent|plain`: one JSON job per line in, one JSON result per line out.
"""

from __future__ import annotations

import gc
import json
import os
import sys

if sys.argv[1] == "gevent":
    import loadlib.swarm  # noqa: F401 - before anything that imports ssl

import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import msgspec
import openai

from loadlib import transport, wire
from loadlib.catalog import Model
from loadlib.client import Call, Client, Prepared
from loadlib.metrics import CATALOGUE
from loadlib.prompt import Prompt
from loadlib.quality import Check, Said, invalid, of_text
from loadlib.scenario_spec import Price
from loadlib.wire import Deadlines

MESSAGES = [{"role": "user", "content": "Where is my order?"}]
clients: dict[str, Held] = {}


class Held:
    """A client and everything it delivered."""

    def __init__(self, job: dict[str, Any]) -> None:
        model: dict[str, Any] = {
            "name": "m",
            "wire": "m",
            "provider": None,
            "base_url": "http://127.0.0.1:1/v1",
            "api_key_env": None,
            "context_window": None,
            "encoding": "o200k_base",
            "exact": True,
            "capabilities": frozenset(),
        }
        model |= job.get("model", {})
        if "price" in model:
            model["price"] = Price(**model["price"])
        self.model = Model(**model)
        self.delivered: list[tuple[Call, Any, Any]] = []
        self.client = Client(
            {self.model.name: self.model},
            Deadlines(**job.get("deadlines", {})),
            lambda *one: self.delivered.append(one),
            mode=job.get("mode", "tape"),
            simulated=job.get("simulated", False),
            environ=job.get("keys", {}),
        )
        self.calls = 0
        self.asked: list[list[int]] = []  # of own code: [cap, messages]

    def call(self) -> Call:
        self.calls += 1
        self.last = Call(self.calls - 1, "p", self.model.name, "w", time.monotonic_ns())
        return self.last

    def prompt(self, job: dict[str, Any]) -> Prompt:
        fields = {"messages": MESSAGES, "max_tokens": 16} | job.get("prompt", {})
        if "size" in fields:
            fields["messages"] = [{"role": "user", "content": "x" * fields.pop("size")}]
        if "check" in fields:
            fields["check"] = CHECKS[fields["check"]]
        if "right" in fields:
            fields["right"] = Said(**fields["right"])
        return Prompt(self.model.name, "w", **fields)

    def results(self) -> list[dict[str, Any]]:
        return [
            {
                **json.loads(msgspec.json.encode(sample)),
                "text": answer.text,
                "generated": answer.generated,
                "metrics": {
                    row.name: list(map(int, row.read(sample, answer.event_ns)))
                    for row in CATALOGUE.values()
                    if row.read is not None
                },
            }
            for _, sample, answer in self.delivered
        ]


def _raises(_text: str) -> bool:
    raise ZeroDivisionError("oops")


CHECKS: dict[str, Check] = {
    "ab": of_text(lambda text: text == "ab"),
    "raises": of_text(_raises),
    "half": lambda _said: invalid("half of it", score=0.5),
}


def op_send(held: Held, job: dict[str, Any]) -> object:
    prepared = held.client.prepare(held.prompt(job))
    if "parallel" in job:
        import gevent

        sends = [
            gevent.spawn(held.client.send, prepared, held.call()) for _ in range(job["parallel"])
        ]
        gevent.joinall(sends, raise_error=True)
        return None
    for _ in range(job.get("count", 1)):
        held.client.send(prepared, held.call())
    return None


def op_check(held: Held, _job: dict[str, Any]) -> object:
    return held.client.check(held.model)


def op_notices(held: Held, _job: dict[str, Any]) -> object:
    return list(held.client.notices())


def op_warm(held: Held, _job: dict[str, Any]) -> object:
    held.client.warm()


def op_prepare(held: Held, job: dict[str, Any]) -> object:
    prepared = held.client.prepare(held.prompt(job))
    return {"body": json.loads(prepared.body), "sha": prepared.sha}


def op_proxy_for(_held: Held, job: dict[str, Any]) -> object:
    return transport.proxy_for(job["url"])


def op_kill(held: Held, job: dict[str, Any]) -> object:
    """Kill the greenlet that sends once it has read something (or has connected)."""
    import gevent
    from gevent.event import Event

    seen = Event()
    where = job.get("at", "on_body")
    original = getattr(wire.Exchange, where)

    def noticed(self: wire.Exchange, *args: object) -> object:
        if where == "on_body":
            result = original(self, *args)
            if self.tape.pieces:
                seen.set()
            return result
        seen.set()
        return original(self, *args)

    setattr(wire.Exchange, where, noticed)
    try:
        run = (lambda: op_live(held, job)) if "script" in job else (lambda: op_send(held, job))
        greenlet = gevent.spawn(run)
        assert seen.wait(30)
        gevent.sleep(0)
        greenlet.kill()
    finally:
        setattr(wire.Exchange, where, original)
    return type(greenlet.value).__name__


class NotNow(Exception):  # noqa: N818
    """What Locust's StopUser is to the transport."""


def op_live(held: Held, job: dict[str, Any]) -> object:
    """A user's own code on the SDK; what it saw of each request."""

    def begin(prepared: Prepared | None) -> Call:
        if job.get("refuse"):
            raise NotNow
        if prepared is not None:
            held.asked.append([prepared.prompt.max_tokens, len(prepared.prompt.messages)])
        return held.call()

    sdk = held.client.live(held.model, begin)
    ask = {"model": "m", "messages": MESSAGES, "max_tokens": 5} | job.get("ask", {})
    ask = {key: value for key, value in ask.items() if value != "unset"}
    seen = []
    for _ in range(job.get("count", 1)):
        try:
            seen.append(SCRIPTS[job["script"]](sdk, ask))
        except Exception as error:  # noqa: BLE001
            seen.append(f"{type(error).__module__}.{type(error).__name__}")
        if kept:
            assert not held.delivered
            held.client.let_go(held.last)
            kept.clear()
    return seen


def _text(chunks: Any) -> str:
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


def _stop_early(sdk: openai.OpenAI, ask: dict[str, Any]) -> str:
    for chunk in sdk.chat.completions.create(**ask, stream=True):
        if chunk.choices and chunk.choices[0].delta.content:
            return chunk.choices[0].delta.content
    return ""


kept: list[Any] = []


def _keep(sdk: openai.OpenAI, ask: dict[str, Any]) -> str:
    """Read a little of a stream and hold on to it."""
    kept.append(sdk.chat.completions.create(**ask, stream=True))
    return _text(next(kept[-1]) for _ in range(2))


def _cycle(sdk: openai.OpenAI, ask: dict[str, Any]) -> str:
    """Leave a stream to the garbage collector."""
    _keep(sdk, ask)
    loop: list[Any] = [kept.pop()]
    loop.append(loop)
    del loop
    gc.collect()
    return ""


def _raise(sdk: openai.OpenAI, ask: dict[str, Any]) -> str:
    for _ in sdk.chat.completions.create(**ask, stream=True):
        raise LookupError
    return ""


def _with(sdk: openai.OpenAI, ask: dict[str, Any]) -> str:
    with sdk.chat.completions.create(**ask, stream=True) as stream:
        return _text(stream)


SCRIPTS: dict[str, Callable[[openai.OpenAI, dict[str, Any]], str]] = {
    "stream": lambda sdk, ask: _text(sdk.chat.completions.create(**ask, stream=True)),
    "with": _with,
    "whole": lambda sdk, ask: sdk.chat.completions.create(**ask).choices[0].message.content or "",
    "stop-early": _stop_early,
    "raise": _raise,
    "keep": _keep,
    "cycle": _cycle,
    "models": lambda sdk, _: str(sdk.models.list().data),
    "retries": lambda sdk, ask: _text(
        sdk.with_options(max_retries=1).chat.completions.create(**ask, stream=True)
    ),
}


def op_same_as_sdk(held: Held, job: dict[str, Any]) -> object:
    """Send a prompt three ways: prepared, through the SDK's transport, and by the SDK alone."""
    prompt = held.prompt(job)
    held.client.send(held.client.prepare(prompt), held.call())
    check = Client({"m": held.model}, Deadlines(), lambda *_: None, mode="sdk", environ=job["keys"])
    check.send(check.prepare(prompt), held.call())
    with openai.OpenAI(api_key=job["keys"]["K"], base_url=held.model.base_url) as sdk:
        list(sdk.chat.completions.create(
            model=held.model.wire, messages=prompt.messages, max_tokens=prompt.max_tokens,
            stream=True, stream_options={"include_usage": True}, extra_body=prompt.extra_body,
        ))  # fmt: skip
    return None


@contextmanager
def environment(changes: dict[str, str | None]) -> Any:
    before = {name: os.environ.get(name) for name in changes}
    _set_environment(changes)
    transport.tls_context.cache_clear()
    try:
        yield
    finally:
        _set_environment(before)


def _set_environment(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


def perform(job: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {"raised": None, "value": None, "samples": []}
    with environment(job.get("environ", {})):
        held = None
        try:
            held = clients.get(job.get("client", "")) or Held(job)
            if "client" in job:
                clients[job["client"]] = held
            if "deadlines" in job:
                held.client._deadlines = replace(held.client._deadlines, **job["deadlines"])
            result["value"] = globals()[f"op_{job['op']}"](held, job)
        except Exception as error:  # noqa: BLE001 - the test decides
            result["raised"] = [type(error).__name__, str(error)]
        if held is not None:
            result["samples"] = held.results()
            held.delivered.clear()
            if "client" not in job:
                held.client.close()
    return result


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(perform(json.loads(line))), flush=True)  # noqa: T201
