"""`make audit` tells "nobody knows of a weakness" from "nobody was asked"."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from audit import verdict

ROOT = Path(__file__).parents[1]
FINE = {"name": "a", "version": "1", "vulns": []}
WEAK = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}
UNKNOWN = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("rows", "code", "words"),
    [
        ([FINE], 0, "1 packages, no known weakness"),
        ([FINE, WEAK], 1, "b 2: PYSEC-1 (fixed in 3)"),
        ([WEAK, UNKNOWN], 1, "1 known weaknesses"),
        ([FINE, UNKNOWN], 2, "nothing is known of c"),
        ([UNKNOWN], 2, "could not be made"),
        ([], 2, "could not be made"),
    ],
)
def test_what_an_audit_says(rows, code, words):
    found, lines = verdict({"dependencies": rows})
    assert found == code
    assert words in "\n".join(lines)


def names(texts: list[str]) -> set[str]:
    return {re.split(r"[<>=\[; ]", text)[0].lower().replace("_", "-") for text in texts}


def test_every_direct_dependency_is_pinned_and_has_its_row_in_the_threat_model():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    runtime = names(project["dependencies"])
    pinned = names((ROOT / "constraints.txt").read_text().split())
    assert runtime | names(project["optional-dependencies"]["dev"]) <= pinned
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    rows = page.partition("## Dependencies")[2].partition("\n## ")[0]
    assert {name for name in runtime if f"`{name}`" not in rows} == set()


def test_every_test_that_the_threat_model_names_is_there():
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    cited = re.findall(r"`(test_\w+)(?:::([\w…]+))?`", page)
    assert len(cited) > 30
    for file, name in cited:
        text = (ROOT / "tests" / f"{file}.py").read_text(encoding="utf-8")
        parts = [part for part in name.split("…") if part]
        names = re.findall(r"def (test_\w+)", text)
        assert not parts or any(all(part in one for part in parts) for one in names), (file, name)
