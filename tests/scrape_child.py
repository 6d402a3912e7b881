"""Scrapes what stands on stdin ([token, [[url, times, limit_s], …]]), prints what came, as JSON.

In a process of its own: pytest must not import gevent.
"""

# ruff: noqa: T201
from __future__ import annotations

import json
import sys

from loadlib.errors import PreflightError
from loadlib.server_targets import Target
from loadlib.swarm.scrape import Page


def main() -> None:
    """Several in a row on one connection, the last one counts."""
    found = []
    token, asked = json.load(sys.stdin)
    for url, times, limit_s in asked:
        page = Page(Target(name="s", url=url, models=(), api_key_env="T"), {"T": token})
        for _ in range(times):
            scrape = page.scrape(limit_s)
        page.close()
        took_ms = (scrape.after_ns - scrape.before_ns) / 1e6
        found.append([scrape.kind, dict(scrape.values), scrape.error, took_ms])
    try:
        Page(Target(name="s", url=url, models=(), api_key_env="T"), {"T": " "})
    except PreflightError as error:
        found.append(str(error))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
