"""The words of the page, defined once; metrics define themselves in their catalogue."""

from __future__ import annotations

from loadlib.metrics import CATALOGUE

STATUS_ICONS = {
    "pass": "✓", "ok": "✓", "fail": "✗", "bad": "✗", "regressed": "▼", "inconclusive": "?",
    "warn": "!", "interrupted": "◼", "aborted": "◼", "error": "✗",
}  # fmt: skip
"""A shape for every status, so that colour is never the only sign."""

OUTCOMES: dict[str, str] = {
    "throttled": "HTTP 429 or 529: a rate limit",
    "rejected": "any other 4xx, or a redirect",
    "server_error": "5xx, or an error inside the stream",
    "timeout": "a limit of the scenario's timeouts was reached",
    "disconnected": "the connection failed or broke",
    "malformed": "not HTTP, not SSE, not JSON, or without end",
    "truncated": "the body ended properly, the answer did not",
}
"""How a request can fail, as the glossary of the documentation has it."""

WORDS: dict[str, str] = {
    "intended start": "the instant the schedule says the request begins",
    "sent": "the first byte of the request was handed to the kernel",
    "response clock": "latency counted from the intended start: what a user of an open system "
    "feels, waiting included",
    "sent clock": "latency counted from sent: what the server is answerable for",
    "open and closed loop": "an open loop sends when the schedule says so, however slow the "
    "answers; a closed loop waits for an answer before it asks again, so queueing is not visible",
    "first token": "the first generated token of any kind, never the empty role chunk",
    "goodput": "share and rate of requests that met every per-request objective, over all "
    "arrivals, dropped and failed included",
    "offered, achieved": "requests scheduled and sent per second of the measure phase",
    "dropped": "never sent: the ceiling of requests in flight was reached for too long",
    "lost": "sent, and nobody knows what became of it; any lost request makes the run inconclusive",
    "error rate": "(failed + lost) / sent; failed includes throttled",
    "counting": "scheduled = sent + dropped; sent = ok + failed + cancelled + lost",
    "percentile": "nearest rank ⌈p·n⌉, read off HDR histograms of three digits; its interval is "
    "the binomial order-statistic interval at 95 %",
    "†": "too few samples for this percentile to decide by itself (floors: 10 for p50, 50 for "
    "p90, 100 for p95, 500 for p99, 5,000 for p99.9)",
    "gate": "an SLO expression applied to one group; a failed or dropped request counts as over "
    "a latency limit",
    "health": "whether the instrument can be believed; an unhealthy measurement beats a pass",
}


def glossary() -> list[tuple[str, str, str]]:
    """(term, unit, definition): the words above, then every metric with its formula."""
    rows = [(term, "", text) for term, text in WORDS.items()]
    rows += [
        (row.name, row.unit, f"{row.title}: {row.formula}; {row.better} is better")
        for row in CATALOGUE.values()
    ]
    return rows
