"""`loadlib probe`: one small request per model, and what it tells."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from loadlib.swarm.target import Simulator  # first: it loads locust, which patches sockets

# isort: split
from loadlib import tokens
from loadlib.catalog import Model
from loadlib.client import Call, Client, current_tape
from loadlib.errors import AbortError, PreflightError
from loadlib.findings import Finding, find
from loadlib.guard import Spending
from loadlib.prompt import Prompt
from loadlib.redact import redact
from loadlib.reserve import most_output, most_usd
from loadlib.schedule import Shard
from loadlib.session import Session
from loadlib.wire import Deadlines

ASK = [{"role": "user", "content": "Count from one to ten, in words."}]
MAX_TOKENS = 64  # enough for the answer; a reasoning model may need all of it to think


def probe(session: Session) -> Iterator[Finding]:
    """One finding per model of the scenario, as they come.

    Raises:
        AbortError: the budget does not allow a request.
    """
    if session.scenario.target == "simulator":
        given = session.scenario.simulator
        simulator = Simulator(() if given is None else given.options)
        try:
            session.redirect(simulator.base_url)
            yield from _probe(session)
        finally:
            simulator.stop()
    else:
        yield from _probe(session)


def _probe(session: Session) -> Iterator[Finding]:
    limits = session.scenario.timeouts
    waits = Deadlines(limits.connect_s, limits.first_token_s, limits.idle_s, limits.total_s)
    delivered: list[Any] = []
    client = Client(
        session.models, waits, lambda *one: delivered.append(one), mode=session.scenario.client
    )
    spending = Spending(**session.budget_share(Shard()))
    try:
        for model in session.models.values():
            yield _one(client, model, spending)
    finally:
        client.close()


def _one(client: Client, model: Model, spending: Spending) -> Finding:
    try:
        client.check(model)
    except PreflightError as problem:
        return Finding(
            model=model.name, wire=model.wire, base_url=model.base_url, answered=False,
            outcome="preflight", error=str(problem),
        )  # fmt: skip
    here = tokens.chat_tokens(ASK, model.encoding)
    prompt = Prompt(model.name, "probe", ASK, MAX_TOKENS, tokens=here, exact=model.exact)
    ticket = spending.reserve(most_usd(model, prompt), most_output(prompt))
    if isinstance(ticket, str):
        raise AbortError(f"{model.name}: {ticket}")
    call = Call(0, "probe", model.name, "probe", time.monotonic_ns())
    sample, answer = client.send(client.prepare(prompt), call)
    spending.settle(ticket, sample)

    def word(text: object) -> str | None:
        return redact(str(text), client.secrets) if text else None

    return find(
        model, current_tape(), sample, answer,
        counted_here=here, listed=client.listed.get(model.name), word=word,
    )  # fmt: skip
