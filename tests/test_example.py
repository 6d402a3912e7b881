"""The checked-in example: whole, small, of its scenario, and without a trace of the machine."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

from loadlib import scenario

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "reports" / "example"
FILES = {path.name: path for path in EXAMPLE.iterdir()}
OUR_FOLDERS = re.compile(r"(?<![\w.:/])/(?:work|home|root|tmp|Users|var|opt)/")
KEY = re.compile(r"\bsk-[\w-]{8,}|\bBearer \S|\bAIza[\w-]{8,}")


def text(name: str) -> str:
    data = FILES[name].read_bytes()
    return (gzip.decompress(data) if name.endswith(".gz") else data).decode()


def test_every_file_the_page_links_to_is_there():
    linked = set(re.findall(r'<a href="([\w.]+)">', text("report.html")))
    assert linked
    assert linked <= set(FILES)
    assert sum(path.stat().st_size for path in FILES.values()) < 2_500_000


def test_nothing_names_a_folder_of_a_machine_or_a_key():
    for name in FILES:
        found = text(name)
        assert not OUR_FOLDERS.search(found), name
        if name != "report.html":  # which holds packed charts: any four letters are in there
            assert not KEY.search(found), name


def test_it_is_of_the_scenario_that_is_shipped_and_fails_as_it_says():
    summary = json.loads(text("summary.json"))
    assert summary["verdict"]["exit_code"] == 5
    assert summary["health"]["status"] != "bad"
    shipped = scenario.load(ROOT / "scenarios" / "example.yaml")
    assert {group["model"] for group in summary["groups"]} == {m.name for m in shipped.models}
    failed = {gate["model"] for gate in summary["gates"] if gate["status"] == "fail"}
    assert failed == {"gpt-4o"}
