"""Known weaknesses of the pinned packages: `make audit`.

Exit code 0: every package was looked up and none is known to be weak; 1: some are, and they are
listed; 2: the advisory service could not be asked, which says nothing about any package.
pip-audit itself calls a package that its service does not answer about "skipped", and passes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PINNED = Path(__file__).parents[1] / "constraints.txt"
COULD_NOT = "audit: could not be made: the advisory service does not answer from here"


def verdict(found: dict[str, Any]) -> tuple[int, list[str]]:
    """(exit code, lines for people) of pip-audit's JSON."""
    rows = found.get("dependencies", [])
    skipped = [row["name"] for row in rows if "skip_reason" in row]
    weak = [
        f"{row['name']} {row['version']}: {one['id']}"
        f" (fixed in {', '.join(one['fix_versions']) or 'no version yet'})"
        for row in rows
        for one in row.get("vulns", ())
    ]
    asked = len(rows) - len(skipped)
    if weak:
        return 1, [f"audit: {len(weak)} known weaknesses in {asked} packages", *weak]
    if not asked:
        return 2, [COULD_NOT]
    if skipped:
        return 2, [f"audit: incomplete, nothing is known of {', '.join(sorted(skipped))}"]
    return 0, [f"audit: {asked} packages, no known weakness"]


def main(pip_audit: str) -> int:
    """Run it on the pinned packages."""
    done = subprocess.run(
        [pip_audit, "-r", PINNED, "--no-deps", "--disable-pip", "--progress-spinner", "off",
         "--format", "json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    try:
        code, lines = verdict(json.loads(done.stdout))
    except ValueError:
        why = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        code, lines = 2, [COULD_NOT, *why]
    for line in lines:
        sys.stdout.write(f"{line}\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
