"""Who may talk to the web UI: the rule as a table, then every route of a real one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SITE = "Sec-Fetch-Site"
NAVIGATE = {"Sec-Fetch-Mode": "navigate"}
HERE = "127.0.0.1:8089"

REFUSALS = [
    ("locust.swarm", {}, HERE, True, True, "a program: no browser says where it comes from"),
    ("locust.swarm", {SITE: "same-origin"}, HERE, True, True, "the page itself"),
    ("locust.index", {SITE: "none", **NAVIGATE}, HERE, True, True, "an address that was typed"),
    ("locust.swarm", {SITE: "cross-site"}, HERE, True, False, "another site starts load"),
    ("locust.swarm", {SITE: "same-site"}, HERE, True, False, "another port of this machine"),
    ("locust.swarm", {SITE: "cross-site", **NAVIGATE}, HERE, True, False, "a form of another site"),
    ("locust.request_stats", {SITE: "cross-site"}, HERE, True, False, "another site reads"),
    ("locust.stop", {SITE: "cross-site", **NAVIGATE}, HERE, True, False, "a link that stops"),
    ("locust.index", {SITE: "cross-site", **NAVIGATE}, HERE, True, True, "a link to the page"),
    ("locust.index", {SITE: "cross-site"}, HERE, True, False, "the page read by another one"),
    ("oauth", {SITE: "cross-site", **NAVIGATE}, "x.test", False, True, "back from a login"),
    ("oauth", {SITE: "cross-site"}, "x.test", False, False, "one's own route, read"),
    ("locust.swarm", {"Origin": f"http://{HERE}"}, HERE, True, True, "an old browser, our page"),
    ("locust.swarm", {"Origin": "http://evil.test"}, HERE, True, False, "… and another's"),
    ("locust.swarm", {"Origin": "null"}, HERE, True, False, "… a file, or a frame in a sandbox"),
    ("locust.swarm", {"Origin": "https://load.test", "X-Forwarded-Host": "load.test"},
     "10.0.0.1:8089", False, True, "behind a proxy"),
    ("locust.index", {}, "evil.test:8089", True, False, "a name that was rebound to loopback"),
    ("locust.index", {SITE: "same-origin"}, "evil.test", True, False, "… is its own origin"),
    ("locust.index", {}, "localhost:8089", True, True, "a name of this machine"),
    ("locust.index", {}, "[::1]:8089", True, True, "the other loopback"),
    ("locust.index", {}, "load.test", False, True, "bound elsewhere, or with a login"),
    ("locust.index", {}, "[oops", True, False, "no host at all"),
]  # fmt: skip


def test_the_rule():
    """Read off the source: this process must not import what imports Locust."""
    path = Path(__file__).parents[1] / "loadlib" / "swarm" / "webguard.py"
    code = (
        "import json, sys, types\n"
        f"module = types.ModuleType('guard'); exec(open({str(path)!r}).read(), module.__dict__)\n"
        "rows = json.load(sys.stdin)\n"
        "print(json.dumps([module.refusal(e, h, host, loopback_only=alone) is None"
        " for e, h, host, alone in rows]))"
    )
    rows = [row[:4] for row in REFUSALS]
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(rows), capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    wrong = [
        row
        for row, allowed in zip(REFUSALS, json.loads(done.stdout), strict=True)
        if row[4] is not allowed
    ]
    assert wrong == []
