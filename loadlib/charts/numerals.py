"""Numbers as text, once: the pages, the terminal and the charts' sentences all call these.

Three significant digits, thousands separated, `–` for what is unknown. Arguments carry the
units of `summary`: milliseconds, tokens/s, requests/s, shares in 0…1, US dollars.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

UNKNOWN = "–"


def number(value: float | None, digits: int = 3) -> str:
    """`value` with `digits` significant digits, never in scientific notation."""
    if value is None or math.isnan(value):
        return UNKNOWN
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{min(decimals, 9)}f}"
    if "." in text and float(text.replace(",", "")).is_integer() and float(value).is_integer():
        text = text.split(".")[0]
    return text.replace("-", "−")


def count(value: int | None) -> str:
    """A count of things, thousands separated."""
    return UNKNOWN if value is None else f"{value:,}"


def ms(value: float | None) -> str:
    """Milliseconds below ten seconds, seconds from there on."""
    if value is None or not math.isfinite(value):
        return number(value)
    if abs(value) < 10_000:
        return f"{number(value)} ms"
    return f"{number(value / 1000)} s"


def sum_ms(value: float | None, added: float | None) -> str:
    """A latency and what came on top of it, one unit for both: `164 +1.6 ms`."""
    if value is None or added is None:
        return ms(value)
    scale, unit = (1000, "s") if abs(value) >= 10_000 else (1, "ms")
    decimals = 3 if scale == 1000 else 1 if abs(added) < 100 else 0
    more = f"{added / scale:+,.{decimals}f}".replace("-", "−")
    return f"{number(value / scale)} {more} {unit}"


def share(value: float | None) -> str:
    """A share as a percentage; only exactly nothing reads 0 % and only all of it 100 %."""
    if value is None:
        return UNKNOWN
    if 0 < value < 0.0005:
        return "<0.1 %"
    if 0.9995 <= value < 1:
        return ">99.9 %"
    text = f"{value * 100:.1f}"
    return f"{text.removesuffix('.0')} %"


def usd(value: float | None) -> str:
    """US dollars: cents where there are dollars, three digits where there are none."""
    if value is None:
        return UNKNOWN
    if value == 0 or abs(value) >= 1:
        return f"${value:,.2f}"
    whole, _, cents = number(value).partition(".")
    return f"${whole}.{cents.rstrip('0').ljust(2, '0')}"


def tok_s(value: float | None) -> str:
    """Tokens per second."""
    return UNKNOWN if value is None else f"{number(value)} tok/s"


def rps(value: float | None) -> str:
    """Requests per second."""
    return UNKNOWN if value is None else f"{_trimmed(number(value))}/s"


def _trimmed(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def times(value: float | None) -> str:
    """A ratio: `1.08×`."""
    return UNKNOWN if value is None else f"{number(value)}×"


def duration(seconds: float | None) -> str:
    """A stretch of time as people say it: `45.2 s`, `2 min 05 s`, `1 h 02 min`."""
    if seconds is None:
        return UNKNOWN
    if seconds < 99.5:
        return f"{number(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


_SHARES = {"share", "%", "ratio"}
_RATES = {"requests/s", "req/s", "rps", "/s"}
_MONEY = {"usd", "$"}


def value(amount: float | None, unit: str) -> str:
    """`amount` of a `unit` of `summary` (`Stats.unit`, `Gate.unit`)."""
    lowered = unit.lower()
    if lowered == "ms":
        return ms(amount)
    if lowered in _SHARES:
        return share(amount)
    if lowered in _RATES:
        return rps(amount)
    if lowered in _MONEY:
        return usd(amount)
    if amount is None:
        return UNKNOWN
    return f"{number(amount)} {unit}".rstrip()


def interval(ends: Sequence[float] | None, unit: str) -> str:
    """`[low, high]`, in the unit that the higher end takes; empty where there is none."""
    if ends is None:
        return ""
    low, high = ends
    if unit == "ms" and math.isfinite(high):
        scale, name = (1000, "s") if high >= 10_000 else (1, "ms")
        return f"[{number(low / scale)}, {number(high / scale)}] {name}"
    if unit.lower() in _SHARES | _RATES | _MONEY:
        return f"[{value(low, unit)}, {value(high, unit)}]"
    return f"[{number(low)}, {number(high)}] {unit}".rstrip()


def tokens(amount: float) -> str:
    """A token count as the scenario writes it: `512`, `8k`, `1.5k`, `131k`."""
    if amount < 1000:
        return f"{amount:.0f}"
    return f"{_trimmed(number(amount / 1000))}k"
