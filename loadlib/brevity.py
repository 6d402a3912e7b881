"""Faster but shorter: answers that came sooner because there was less in them. Pure.

An overloaded service may cut answers short, and a new version of a model may say less; either
way latencies to the end of an answer fall, and nothing has become faster.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from loadlib.summary import Group

SHORTER = 0.10  # of the mean length: below it answers differ by themselves
ENOUGH = 20  # answers on each side


def between(before: Group, after: Group) -> str | None:
    """A sentence where `after` ended its answers sooner than `before` and said less in them."""
    old, new = before.tokens.mean_answer, after.tokens.mean_answer
    if old is None or new is None or not old or new >= old * (1 - SHORTER):
        return None
    if min(before.requests.ok, after.requests.ok) < ENOUGH:
        return None
    was, now = (group.metrics.get("e2e") for group in (before, after))
    if was is None or now is None or was.p50 is None or now.p50 is None or now.p50 >= was.p50:
        return None
    return (
        f"faster but shorter: answers have {new:,.0f} tokens instead of {old:,.0f} "
        f"({new / old - 1:+.0%}), so e2e says less than it seems to; compare tpot"
    ).replace("-", "−", 1)


def across_phases(groups: Sequence[Group]) -> Iterator[str]:
    """The same within one run, from its first measure phase to each later one."""
    first: dict[tuple[str, str], Group] = {}
    for group in groups:
        if group.kind != "measure":
            continue
        before = first.setdefault((group.model, group.workload), group)
        if before is not group and (said := between(before, group)) is not None:
            yield f"{group.model}/{group.workload} {group.phase} against {before.phase}: {said}"


def across_runs(before: Iterable[Group], after: Iterable[Group]) -> Iterator[str]:
    """The same between two runs, for every measure group that both have."""
    old = {_key(group): group for group in before if group.kind == "measure"}
    for group in after:
        known = old.get(_key(group))
        if known is not None and (said := between(known, group)) is not None:
            yield f"{group.model}/{group.workload} {group.phase}: {said}"


def _key(group: Group) -> tuple[str, str, str]:
    return group.model, group.workload, group.phase
