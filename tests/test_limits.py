"""Open files: raised as far as a plan needs and the system lets, refused beyond it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from warm import BIN

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no limits there")

ASK = """
import json, resource, sys
from loadlib.swarm.limits import allow_files
soft, hard, needed = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
try:
    allow_files(needed)
    said = None
except Exception as error:
    said = [type(error).__name__, str(error)]
print(json.dumps([list(resource.getrlimit(resource.RLIMIT_NOFILE)), said]))
"""

LIMITS = [
    # soft, hard, needed → limits from then on
    (400, 900, 400, (400, 900), "enough is left alone"),
    (400, 900, 401, (802, 900), "room for idle connections, too"),
    (400, 900, 700, (900, 900), "twice the need where the system lets us"),
    (400, 900, 900, (900, 900), "exactly as many as there may be"),
]


@pytest.mark.parametrize(("soft", "hard", "needed", "then", "why"), LIMITS)
def test_the_soft_limit_is_raised_as_far_as_needed(soft, hard, needed, then, why):
    limits, said = ask(soft, hard, needed)
    assert (tuple(limits), said) == (then, None), why


def test_beyond_the_hard_limit_the_number_and_the_remedy_are_named():
    limits, (kind, text) = ask(400, 900, 1128)
    assert limits == [400, 900]
    assert kind == "PreflightError"
    assert "1,000 requests in flight need 1,128 open files in one process, 900 are allowed" in text
    assert "`ulimit -n 1128`" in text
    assert "--processes" in text


def ask(*numbers: int) -> list:
    done = subprocess.run(
        [sys.executable, "-c", ASK, *map(str, numbers)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_run_raises_its_own_limit_and_refuses_what_no_process_can_open(driver):
    def limited(users: int):
        name = driver.sub(str(users)).scenario(
            f"[{{phase: measure, requests: {2 * users}, arrival: closed, users: {users}}}]"
        )
        line = f"ulimit -Sn 100; ulimit -Hn 500; exec {BIN / 'loadlib'} run {users}/{name}"
        return driver.run("sh", "-c", f"{line} --out reports-{users}")

    # 300 connections under a limit of 100; then 500, which no process may open.
    ended = limited(300)
    assert ended.code == 0, ended.err
    refused = limited(500)
    assert refused.code == 3
    assert "error: 500 requests in flight need 628 open files in one process" in refused.err
    assert not (driver.folder / "reports-500").exists()
