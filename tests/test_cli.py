"""What the command prints, writes and returns when all is well, or a run ends early."""

from __future__ import annotations

import json
import os
import shutil
import time
import urllib.request
from pathlib import Path

import jsonschema
import pytest
import warm
from commandline import WITH_PAGE, batch, environment, loadlib, scenario, start
from ruamel.yaml import YAML

import loadlib as package
from loadlib import run as runs
from loadlib.summary import json_schema

ROOT = Path(__file__).parent.parent
SCENARIOS = sorted((ROOT / "scenarios").glob("*.yaml"))
ARTEFACTS = {"manifest.json", "scenario.yaml", "summary.json", "report.html", "summary.md",
             "junit.xml", "hdr", "requests.jsonl.gz", "timeseries.csv"}  # fmt: skip
NAME = "Zürich 漢字 🚀"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(what the command said, its run folder): names that are not ASCII, everything passes."""
    place = tmp_path_factory.mktemp("лад")
    path = scenario(
        place,
        name=NAME,
        workloads={"чат/ x": {"kind": "chat", "output_tokens": 8}},
        slo=["чат/ x: ttft.p50 < 5s"],
    )
    done = loadlib(
        "run", path, "--json", "--out", place / "отчёты", cold=True,
        GITHUB_STEP_SUMMARY=str(place / "step.md"), **WITH_PAGE,
    )  # fmt: skip
    assert done.code == 0, done.err
    return done, (place / "отчёты" / "latest").resolve()


@pytest.fixture(scope="module")
def folder(finished):
    return finished[1]


def test_json_prints_the_summary_and_nothing_else(finished):
    done, folder = finished
    summary = json.loads(done.out)
    jsonschema.validate(summary, json_schema())
    assert summary == json.loads((folder / "summary.json").read_bytes())
    assert summary["verdict"] == {"status": "pass", "reasons": [], "exit_code": 0}
    assert "PASS" in done.err


def test_the_shipped_schema_is_the_one_that_holds():
    shipped = json.loads((ROOT / "loadlib" / "schemas" / "summary.schema.json").read_bytes())
    assert shipped == json.loads(json.dumps(json_schema()))
    jsonschema.Draft202012Validator.check_schema(shipped)


def test_a_run_folder_is_complete(finished):
    _, folder = finished
    assert {path.name for path in folder.iterdir()} == ARTEFACTS
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert manifest["state"] == "complete"
    assert manifest["argv"][:2] == ["loadlib", "run"]
    assert (folder.parent / "latest").resolve() == folder


def test_names_survive_in_every_artefact(finished):
    _, folder = finished
    assert NAME in (folder / "report.html").read_text(encoding="utf-8")
    assert "чат/ x" in (folder / "summary.md").read_text(encoding="utf-8")
    assert {sample.workload for sample in runs.load(folder).samples()} == {"чат/ x"}
    assert folder.name.isascii()


def test_a_step_summary_of_ci_is_appended_to(finished):
    _, folder = finished
    step = (folder.parent.parent / "step.md").read_text(encoding="utf-8")
    assert NAME in step
    assert "PASS" in step


def test_report_makes_the_pages_again(folder):
    pages = [folder / name for name in ("report.html", "summary.md", "junit.xml")]
    before = [page.read_bytes() for page in pages]
    for page in pages:
        page.unlink()
    done = loadlib("report", folder)
    assert done.code == 0, done.err
    assert done.out.split("\n")[:-1] == [str(page) for page in pages]
    assert [page.read_bytes() for page in pages][1:] == before[1:]


def test_a_static_report_has_no_script_and_single_requests_are_shown_where_asked(folder):
    page = folder / "report.html"
    assert b"<script" in page.read_bytes()
    done = loadlib("report", folder, "--static", "--embed-samples", "2")
    assert done.code == 0, done.err
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "script-src" not in text
    assert 'id="requests"' in text
    assert "typical" in text
    refused = loadlib("report", folder, "--embed-samples", "11")
    assert refused.code == 2
    assert "11" in refused.err


def test_a_failed_gate_is_5_and_the_baseline_is_shown_beside(tmp_path, folder, constant):
    steady = [{"name": "steady", "base_url": constant.base_url}]  # whose first token takes 60 ms
    path = scenario(tmp_path, models=steady, target=None,
                    slo=["all: ttft.p50 < 1ms", "all: error_rate < 5%"])  # fmt: skip
    done = loadlib("run", path, "--json", "--out", tmp_path / "r", "--baseline", folder)
    assert done.code == 5
    summary = json.loads(done.out)
    assert summary["verdict"]["status"] == "fail"
    assert "no group in common" in done.err  # workloads differ
    junit = (tmp_path / "r" / "latest" / "junit.xml").read_text(encoding="utf-8")
    assert "<failure" in junit


def test_one_request_proves_nothing_about_a_percentile(tmp_path, simulator):
    done = loadlib("run", scenario(tmp_path, simulator), "--requests", "1", "--out", tmp_path / "r")
    assert done.code == 7
    assert "needs 10, plans 1" in " ".join(done.remarks)
    assert "INCONCLUSIVE" in done.out
    assert "\x1b" not in done.out + done.err


def test_a_budget_that_is_spent_is_4_and_leaves_a_record(tmp_path, simulator):
    path = scenario(tmp_path, simulator, budget={"max_requests": 3})
    done = loadlib("run", path, "--out", tmp_path / "r")
    assert done.code == 4
    assert "Traceback" not in done.err
    run = runs.load(tmp_path / "r" / "latest")
    assert run.summary.verdict.status == "aborted"
    assert "max_requests 3" in run.summary.verdict.reasons[0]
    assert sum(group.requests.sent for group in run.summary.groups) == 3


def test_a_killed_run_can_still_be_reported(tmp_path):
    load = [{"phase": "measure", "duration": "60s", "arrival": "constant", "rate": "40/s"}]
    process = start("run", scenario(tmp_path, load=load), "--out", tmp_path / "r")
    latest = tmp_path / "r" / "latest"
    deadline = time.monotonic() + 60
    records = latest / "requests.jsonl.gz"
    while not (records.is_file() and records.stat().st_size > 2000):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert not (latest / "report.html").exists()

    done = loadlib("report", latest)
    assert done.code == 0, done.err
    page = (latest / "report.html").read_text(encoding="utf-8")
    assert "INTERRUPTED" in page.upper()
    summary = runs.load(latest).summary
    assert summary.state == "interrupted"
    assert summary.groups[0].requests.ok > 0


def test_compare(tmp_path, folder):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    done = loadlib("compare", folder, other)
    assert done.code == 0, done.err
    assert "ttft.p50" in done.out
    assert "ndicative" in done.out
    assert "\x1b" not in done.out + done.err
    rows = json.loads(loadlib("compare", folder, other, "--json").out)
    ttft = next(row for row in rows if (row["metric"], row["stat"]) == ("ttft", "p50"))
    assert ttft["ratio"] == 1
    assert ttft["before"] == ttft["after"]


def test_compare_of_unlike_runs_says_so(tmp_path, folder, simulator):
    done = loadlib("run", scenario(tmp_path, simulator, slo=None), "--out", tmp_path / "r")
    assert done.code == 0, done.err
    unlike = loadlib("compare", folder, tmp_path / "r" / "latest")
    assert unlike.code == 0
    assert "no group in common" in unlike.out
    assert "only in the first run" in unlike.out
    assert "only in the second run" in unlike.out


def test_colours_only_where_they_are_wanted(folder):
    coloured = loadlib("compare", folder, folder, FORCE_COLOR="1")
    assert "\x1b[3" in coloured.out or "\x1b[1;3" in coloured.out or "\x1b[2" in coloured.out
    plain = loadlib("compare", folder, folder, FORCE_COLOR="1", NO_COLOR="1")
    assert not any(f"\x1b[{colour}m" in plain.out for colour in range(30, 38))


@pytest.mark.parametrize("command", ["validate", "run", "compare", "schema"])
def test_a_reader_that_walks_away_changes_no_exit_code(tmp_path, folder, simulator, command):
    """`loadlib … | head`: the pipe is closed before the first line."""
    path = scenario(tmp_path, simulator)
    arguments = {
        "validate": ["validate", path],
        "run": ["run", path, "--out", tmp_path / "r"],
        "compare": ["compare", folder, folder],
        "schema": ["validate", "--schema"],
    }[command]
    reading, writing = os.pipe()
    os.close(reading)
    words = map(str, arguments)
    cold = command == "validate"  # which ends as Python does
    process = warm.start("loadlib", *words, env=environment(), stdout=writing, cold=cold)
    os.close(writing)
    _, err = process.communicate(60)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert "BrokenPipe" not in err
    if command == "run":
        written = {file.name for file in (tmp_path / "r" / "latest").iterdir()}
        assert written == ARTEFACTS - {"report.html"}


def test_the_schema_of_scenarios_accepts_what_is_shipped_and_refuses_mistakes():
    done = loadlib("validate", "--schema")
    schema = json.loads(done.out)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for path in SCENARIOS:
        document = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
        validator.validate(document)
        document["tarjet"] = "simulator"
        assert not validator.is_valid(document)


def test_shipped_scenarios_are_valid_and_decidable():
    for done in batch(*(["validate", path] for path in SCENARIOS)):
        assert done.code == 0, done.err
        remarks = [line for line in done.out.splitlines() if line.startswith("# !")]
        assert not any(" needs " in remark for remark in remarks)


def test_validate_says_what_distributions_come_to(tmp_path):
    long = {"kind": "long_context", "prompt_tokens": {"table": "azure-conv"},
            "output_tokens": {"lognormal": {"p50": 64, "p99": 256}}}  # fmt: skip
    (done,) = batch(["validate", scenario(tmp_path, workloads={"long": long})])
    assert done.code == 0
    assert (
        "# long: prompt_tokens table azure-conv: mean 1,163, p50 1,020, p90 2,734, p99 4,142, "
        "at most 14,050\n"
        "# long: output_tokens lognormal {p50: 64, p99: 256}: mean 76, p50 64, p90 137, p99 256, "
        "at most 587\n"
    ) in done.out
    assert "# ! long: 1.9 % of the prompt lengths are below the shortest prompt" in done.out


def test_what_validate_prints_is_the_same_scenario(tmp_path):
    first = loadlib("validate", scenario(tmp_path), "--rate", "20/s", "--seed", "7")
    again = tmp_path / "again.yaml"
    again.write_text(first.out, encoding="utf-8")
    assert "rate: 20/s" in first.out
    assert loadlib("validate", again).out == first.out


def test_simulate_serves_until_it_is_asked_to_stop():
    process = start("simulate", "--port", "0", "--profile", "instant")
    assert process.stdout is not None
    base_url = process.stdout.readline().split()[-1]
    with urllib.request.urlopen(f"{base_url}/models", timeout=10) as response:
        assert response.status == 200
    process.terminate()
    _, err = process.communicate(timeout=20)
    assert err == ""


def test_version_and_help():
    assert loadlib("--version", cold=True).out.strip().endswith(package.__version__)
    done = loadlib()
    assert done.code == 2
    assert "Commands:" in done.out + done.err
    commands = ("run", "ui", "validate", "report", "compare")
    for page in batch(*([command, "--help"] for command in commands)):
        assert page.code == 0
        assert page.out.startswith("Usage: loadlib")
    assert loadlib("simulate", "--help").out.startswith("usage: loadlib simulate")
