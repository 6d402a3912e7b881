"""What a response says about rate limits, in OpenAI's headers."""

from __future__ import annotations

from collections.abc import Mapping

from loadlib.engine import Quota, RateLimiter
from loadlib.simulator.chat import Refusal

_MS = 1_000_000
_S = 1_000 * _MS


def headers(requests: Quota | None, tokens: Quota | None) -> dict[str, str]:
    """`x-ratelimit-*` of the limits that exist."""
    found: dict[str, str] = {}
    for what, quota in (("requests", requests), ("tokens", tokens)):
        if quota is not None:
            found[f"x-ratelimit-limit-{what}"] = str(quota.limit)
            found[f"x-ratelimit-remaining-{what}"] = str(max(0, quota.remaining))
            found[f"x-ratelimit-reset-{what}"] = duration(quota.reset_ns)
    return found


def admit(limiter: RateLimiter, model: str, tokens: int, now_ns: int) -> dict[str, str]:
    """Let a request of so many tokens pass; its headers. Raises `Refusal` with theirs."""
    permit = limiter.take(tokens, now_ns)
    found = headers(permit.requests, permit.tokens)
    if permit.refused_by is None:
        return found
    quota = permit.tokens if permit.refused_by == "tokens" else permit.requests
    limit = quota.limit if quota else 0
    unit = "tokens per min (TPM)" if permit.refused_by == "tokens" else "requests per min (RPM)"
    message = f"Rate limit reached for {model} on {unit}: Limit {limit}, Requested {tokens} tokens."
    if permit.retry_after_ns is None:
        message = f"Request too large for {model} on {unit}: Limit {limit}, Requested {tokens}."
    else:
        message += f" Please try again in {duration(permit.retry_after_ns)}."
    raise Refusal(
        429,
        message,
        kind=permit.refused_by,
        code="rate_limit_exceeded",
        headers={**found, **retry_after(permit.retry_after_ns)},
    )


def retry_after(wait_ns: int | None) -> Mapping[str, str]:
    """`Retry-After` in whole seconds, rounded up, and in ms; nothing where waiting is in vain."""
    if wait_ns is None:
        return {}
    return {
        "retry-after": str(-(-wait_ns // _S)),
        "retry-after-ms": str(-(-wait_ns // _MS)),
    }


def duration(ns: int) -> str:
    """As OpenAI writes it, rounded up to ms: `17ms`, `1s`, `1.5s`, `6m0s`, `1h0m0s`."""
    ms = -(-max(0, ns) // _MS)
    if 0 < ms < 1000:
        return f"{ms}ms"
    minutes, ms = divmod(ms, 60_000)
    seconds = f"{ms / 1000:g}s"
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds
