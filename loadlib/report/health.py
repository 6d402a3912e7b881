"""What the pages say of the instrument: each check, what it bounds, why, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from loadlib.health import BETWEEN
from loadlib.report import format as f
from loadlib.report.words import STATUS_ICONS
from loadlib.summary import Health, HealthCheck, Summary


@dataclass(frozen=True, slots=True)
class HealthRow:
    """A check as text; `bounds` and `advice` are empty where there is nothing to say."""

    status: str
    icon: str
    name: str
    value: str
    limit: str
    bounds: str
    advice: str

    @property
    def sentence(self) -> str:
        """All of it in one line."""
        limit = "" if self.limit == f.UNKNOWN else f", limit {self.limit}"
        tail = "; ".join(part for part in (self.bounds, self.advice) if part)
        return f"{self.name} {self.value}{limit}" + (f": {tail}" if tail else "")


def rows(health: Health) -> list[HealthRow]:
    """All checks, in the order they were made."""
    return [_row(check) for check in health.checks]


def troubled(health: Health) -> list[HealthRow]:
    """The checks that are not ok, the bad ones first; what was said once is not said again."""
    found = sorted(rows(health), key=lambda row: row.status != "bad")
    said: set[str] = set()
    kept = []
    for row in found:
        if row.status != "ok":
            parts = [part for part in row.advice.split("; ") if part not in said]
            said.update(parts)
            kept.append(replace(row, advice="; ".join(parts)))
    return kept


def _row(check: HealthCheck) -> HealthRow:
    return HealthRow(
        status=check.status,
        icon=STATUS_ICONS[check.status],
        name=f.check_name(check.name),
        value=f.check_value(check.name, check.value),
        limit=f.check_value(check.name, check.limit),
        bounds=bounds(check),
        advice="; ".join(f.line(text) for text in (check.cause, check.remedy) if text),
    )


def bounds(check: HealthCheck) -> str:
    """`ttfb, ttft, ttfo, ttfc, e2e at most 3.10 ms too long`."""
    if check.bound_ms is None or not check.applies_to:
        return ""
    if not check.bound_ms:
        return "stamps exact"
    most = f"at most {f.ms(check.bound_ms)}"
    if check.direction != "either":
        side = "too long" if check.direction == "longer" else "too short"
        return f"{', '.join(map(f.name, check.applies_to))} {most} {side}"
    if set(BETWEEN) < set(check.applies_to):
        return f"latencies {most} too long, gaps and speeds either way"
    return f"{', '.join(map(f.name, check.applies_to))} {most} off, either way"


_LEAD = {
    "ok": "The instrument kept up: the figures of this page can be believed.",
    "warn": "The figures of this page stand within the bounds below; a gate that they could flip "
    "is inconclusive.",
    "bad": "The instrument did not keep up: nothing here decides a gate.",
}
_OVERRIDDEN = {
    "ok": "The instrument kept up; --allow-unhealthy changed nothing.",
    "warn": "The bounds below were left aside: --allow-unhealthy let the gates decide as if there "
    "were none.",
    "bad": "The instrument did not keep up; --allow-unhealthy let the gates decide nevertheless.",
}


def lead(health: Health) -> str:
    """What the checks together mean for the figures."""
    return (_OVERRIDDEN if health.overridden else _LEAD)[health.status]


def banners(health: Health) -> Iterator[tuple[str, str]]:
    """(kind, sentence): what must be known of the instrument before any figure is read."""
    if health.overridden:
        yield "warn", lead(health)
    elif health.status == "bad":
        yield "warn", "The instrument was not healthy: no figure here decides a gate."


ARRIVALS = "scheduled {scheduled} = sent {sent} + dropped {dropped}"
ENDINGS = (
    "sent {sent} = ok {ok} + failed {failed} (of them throttled {throttled}) + cancelled "
    "{cancelled} + lost {lost}"
)


ATTEMPTS = "{attempts} attempts were made of {sent} requests, {throttled_attempts} throttled"


def counting(summary: Summary) -> list[tuple[bool, str]]:
    """The two counting identities with this run's numbers, and whether each holds.

    A third where requests were tried again: throttled requests ⊂ throttled attempts ⊂ attempts.
    """
    total = dict.fromkeys(
        (
            "scheduled",
            "sent",
            "ok",
            "failed",
            "cancelled",
            "dropped",
            "lost",
            "throttled",
            "attempts",
            "throttled_attempts",
        ),
        0,
    )
    for group in summary.groups:
        for name in total:
            total[name] += getattr(group.requests, name)
    first = total["scheduled"] == total["sent"] + total["dropped"]
    second = total["sent"] == sum(total[k] for k in ("ok", "failed", "cancelled", "lost"))
    say = {name: f.count(number) for name, number in total.items()}
    found = [(first, ARRIVALS.format(**say)), (second, ENDINGS.format(**say))]
    if total["attempts"] > total["sent"]:  # some were tried again
        # Not all of them need be throttled: a 503 that says when to come back is tried again, too.
        third = total["throttled"] <= total["throttled_attempts"] <= total["attempts"]
        found.append((third, ATTEMPTS.format(**say)))
    return found
