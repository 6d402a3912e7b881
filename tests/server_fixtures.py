"""Scrapes of pretend servers beside a pretend run: queues that grow with the load, and a gap."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from loadlib.recorder import NS, SECOND_FIELDS, Key
from loadlib.server_record import Scrape
from loadlib.server_summary import Seconds, summarise_servers
from loadlib.server_targets import Target
from loadlib.summarise import Window

PLACES = 24  # a server works on at once


def flying(second: int) -> int:
    """In flight at the end of a second: a slow wave that grows."""
    return max(0, round(second / 3 + (second / 6) * math.sin(second / 9)))


def with_servers(run: Any, targets: tuple[Target, ...], kind: str, gap: range = range(0)) -> Any:
    """Let the rows of `run` say that `flying` requests were in flight, all of which its `targets`
    hold in equal parts; the last of them does not answer in the seconds of `gap`."""
    start = min(row["second"] for row in run.rows)
    first = {}
    for row in run.rows:
        row["sent"] = row["ended"] = 0
        first.setdefault(row["second"], row)
    before = 0
    for second in sorted(first):
        now = flying(second - start)
        first[second] |= {"sent": 10 + max(0, now - before), "ended": 10 + max(0, before - now)}
        before = now
    tokens = 0
    run.scrapes = []
    for second in range(start, max(first) + 2):
        held = flying(second - 1 - start) / len(targets) if second > start else 0.0
        tokens += sum(r["output_tokens"] for r in run.rows if r["second"] == second - 1)
        for target in targets:
            here = {"running": min(held, PLACES), "waiting": max(0.0, held - PLACES)}
            here |= {"kv_usage": min(1.0, held / (PLACES * 1.1)), "input_tokens": 40.0 * tokens}
            here |= {"output_tokens": tokens / len(targets), "preemptions": max(0.0, held - 30)}
            stamps = {"before_ns": second * NS, "after_ns": second * NS + 1_400_000}
            failed = target is targets[-1] and second - start in gap
            told = {"error": "connection refused"} if failed else {"kind": kind, "values": here}
            run.scrapes.append(Scrape(server=target.name, **stamps, **told))
    servers = summarise_servers(targets, run.scrapes, windows_of(run), seconds_of(run))
    run.summary = msgspec.structs.replace(run.summary, servers=servers)
    return run


def seconds_of(run: Any) -> Seconds:
    """The rows as `Totals.seconds` has them."""
    found: dict[tuple[int, Key], list[int]] = {}
    for row in run.rows:
        key = (row["model"], row["workload"], row["phase"])
        found[row["second"], key] = [row.get(field, 0) for field in SECOND_FIELDS]
    return found


def windows_of(run: Any) -> list[Window]:
    """When each phase was, by its rows in which something was scheduled."""
    found = []
    for phase in dict.fromkeys(row["phase"] for row in run.rows):
        mine = [r["second"] for r in run.rows if r["phase"] == phase and r["scheduled"]]
        kind = "warmup" if phase == "warmup" else "measure"
        found.append(Window(phase=phase, start_ns=min(mine) * NS, end_ns=(max(mine) + 1) * NS,
                            kind=kind))  # fmt: skip
    return found
