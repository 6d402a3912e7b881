"""Requests with a fake clock, for the tests of recorder, run folder and judgement."""

import numpy as np

from loadlib.sample import Outcome, Sample

KEY = ("m", "chat", "measure")
MS = 1_000_000


def sample(outcome=Outcome.OK, key=KEY, at=0, ttft=100, tokens=10, **fields):
    """A request due at `at` ms, first token `ttft` ms later, 10 ms a token."""
    start = at * MS
    first, last = start + ttft * MS, start + (ttft + 10 * (tokens - 1)) * MS
    plain = {
        "index": 0,
        "phase": key[2],
        "model": key[0],
        "workload": key[1],
        "outcome": outcome,
        "intended_ns": start,
        "end_ns": last + MS,
    }
    if outcome is not Outcome.DROPPED:
        plain |= {"sent_ns": start + MS, "first_byte_ns": first}
    if outcome is Outcome.OK:
        plain |= {
            "first_token_ns": first,
            "last_token_ns": last,
            "output_tokens": tokens,
            "input_tokens": 7,
            "events": tokens,
        }
    return Sample(**plain | fields)


def events(one):
    return np.linspace(one.first_token_ns, one.last_token_ns, one.events).astype(np.int64)
