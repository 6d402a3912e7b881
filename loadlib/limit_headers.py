"""What a response says about rate limits, in the headers of OpenAI, Azure, Claude and others. Pure.

A server can write anything: names that are not known are not kept, nor numbers beyond belief. What
is left is a handful of whole numbers, fit for a record of every request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

MOST = 10**12  # of requests or tokens
LONGEST_MS = 31 * 24 * 3600 * 1000  # some quotas are full again next month

# x-ratelimit-limit-requests, and -req-minute, -tokens-minute as Mistral and Cerebras write them
_OPENAI = re.compile(r"x-ratelimit-(limit|remaining|reset)-(requests|req|tokens)(-minute)?")
# anthropic-ratelimit-input-tokens-remaining
_CLAUDE = re.compile(
    r"anthropic-ratelimit-(requests|(?:input-|output-)?tokens)-(limit|remaining|reset)"
)
_PART = re.compile(r"(\d{1,9}(?:\.\d{1,12})?)(ms|[dhms])")
_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_PREFIXES = ("x-ratelimit-", "anthropic-ratelimit-")


def read(headers: Mapping[str, str]) -> dict[str, int] | None:
    """`{"requests_limit": 500, "requests_remaining": 499, "requests_reset_ms": 120, …}`.

    What is limited is `requests`, `tokens`, `input_tokens` or `output_tokens`. None where the
    headers (names in lower case) say nothing of it.
    """
    found: dict[str, int] = {}
    for name, value in headers.items():
        if not name.startswith(_PREFIXES):
            continue
        what, which = _named(name)
        if which == "reset":
            number, which = _reset_ms(value, headers), "reset_ms"
        else:
            number = _number(value)
        if what and number is not None:
            found[f"{what}_{which}"] = number
    return found or None


def _named(name: str) -> tuple[str, str]:
    if (match := _OPENAI.fullmatch(name)) is not None:
        what = "requests" if match[2] == "req" else match[2]
        return what, match[1]
    if (match := _CLAUDE.fullmatch(name)) is not None:
        return match[1].replace("-", "_"), match[2]
    return "", ""


def retry_after_ms(headers: Mapping[str, str], said: Mapping[str, Any] | None = None) -> int | None:
    """How long a server asks to wait: `retry-after-ms`, `Retry-After` (seconds or a date), or what
    Google's error object (`said`) asks for. None: it does not say."""
    value = _bounded(_decimal(headers.get("retry-after-ms", ""), 1))
    if value is None and (text := headers.get("retry-after", "").strip()):
        value = _bounded(_decimal(text, 1000))
        if value is None:
            value = _until(_http_date(text), headers)
    return _retry_info_ms(said or {}) if value is None else value


def _retry_info_ms(said: Mapping[str, Any]) -> int | None:
    details = said.get("details")
    for detail in details[:10] if isinstance(details, list) else ():
        if isinstance(detail, dict) and isinstance(delay := detail.get("retryDelay"), str):
            return _duration_ms(delay)
    return None


def _number(text: str) -> int | None:
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 13):
        return None
    return value if (value := int(text)) <= MOST else None


def _reset_ms(text: str, headers: Mapping[str, str]) -> int | None:
    """A duration (`6m0s`, `17ms`, `59.7`), or an instant in RFC 3339 beside the `date` header."""
    text = text.strip()
    if text[:1].isdigit() and "T" not in text[:40]:
        found = _duration_ms(text)
        return _bounded(_decimal(text, 1000)) if found is None else found
    try:
        return _until(datetime.fromisoformat(text[:40]), headers)
    except ValueError:
        return None


def _duration_ms(text: str) -> int | None:
    if len(text) > 40 or not text or _PART.sub("", text):
        return None
    return _bounded(sum(float(n) * _UNIT_MS[unit] for n, unit in _PART.findall(text)))


def _decimal(text: str, ms: int) -> float | None:
    text = text.strip()
    return float(text) * ms if re.fullmatch(r"\d{1,12}(\.\d{1,12})?", text) else None


def _bounded(ms: float | None) -> int | None:
    return round(ms) if ms is not None and 0 <= ms <= LONGEST_MS else None


def _http_date(text: str) -> datetime | None:
    try:
        return parsedate_to_datetime(text[:60])
    except (ValueError, OverflowError, IndexError):
        return None


def _until(instant: datetime | None, headers: Mapping[str, str]) -> int | None:
    """From the response's own `date` to `instant`: the server's clock, both times."""
    now = _http_date(headers.get("date", ""))
    if instant is None or now is None:
        return None
    aware = [one if one.tzinfo is not None else one.replace(tzinfo=UTC) for one in (instant, now)]
    return _bounded(max(0.0, (aware[0] - aware[1]).total_seconds() * 1000))
