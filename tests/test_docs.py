"""Documents that lag behind fail here: every command, option, word and key is written down."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path
from typing import get_args

import click
import pytest

from benchmarks.__main__ import _parser as benchmarks_parser
from loadlib import scenario_server, scenario_spec
from loadlib.catalog import CATALOGUE as MODELS
from loadlib.cli import cli
from loadlib.errors import ExitCode
from loadlib.health import CHECKS, Readings
from loadlib.metrics import CATALOGUE
from loadlib.sample import Outcome, Sample
from loadlib.server_record import COLUMNS
from loadlib.simulator.fault_rules import WHEN
from loadlib.simulator.faults import KINDS as FAULTS
from loadlib.simulator.options import parser as simulator_parser
from loadlib.slo import SCALARS, STATS
from loadlib.workloads import SPECS as SPECS_OF_KINDS
from loadlib.workloads.languages import LANGUAGES
from loadlib.workloads.puzzles import FAMILIES
from loadlib.workloads.reason import Form
from loadlib.workloads.tools import MODES
from loadlib.workloads.translate import Length

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "changelog.d").glob("*.md")]
}


def page(name: str) -> str:
    return PAGES[f"docs/{name}"]


def undocumented(words, text: str) -> list[str]:
    """Those that do not stand in code marks."""
    spans = set(re.findall(r"`([^`\n]+)`", text))
    known = {piece for span in spans for piece in re.split(r"[\s=,{}:]+", span)} | spans
    return [word for word in words if word not in known]


def section(text: str, title: str) -> str:
    """What stands below a heading, up to the next of its level."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


# -- the command line ------------------------------------------------------------------------------


def options(command: click.Command) -> list[str]:
    return [
        option
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for option in parameter.opts
    ]


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_and_option(name):
    text = page("cli.md")
    own = section(text, f"loadlib {name}")
    shared = section(text, "What is run") + section(text, "loadlib run")
    allowed = own + shared if name in ("run", "ui", "validate") else own
    assert undocumented(options(cli.commands[name]), allowed) == []


def test_every_option_of_the_simulator():
    text = section(page("cli.md"), "loadlib simulate")
    flags = [
        flag
        for action in simulator_parser("loadlib simulate")._actions
        if not isinstance(action, argparse._HelpAction)
        for flag in action.option_strings
    ]
    assert undocumented(flags, text) == []


def test_every_kind_of_fault_and_its_options():
    text = section(page("simulator-faults.md"), "Faults")
    rows = {row.split("|")[1].strip(): row for row in text.splitlines() if row.startswith("| `")}
    for kind, known in FAULTS.items():
        assert undocumented(known.options, rows[f"`{kind}`"].split("|")[2]) == [], kind
    assert undocumented(WHEN, text) == []


def test_no_command_is_documented_that_does_not_exist():
    titles = re.findall(r"^## loadlib (\S+)$", page("cli.md"), re.MULTILINE)
    assert sorted(titles) == sorted(cli.commands)


@pytest.mark.parametrize("text", [README, page("cli.md")], ids=["README", "cli.md"])
def test_every_exit_code(text):
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    codes = {int(n) for row in rows for n in re.findall(r"\b\d+\b", row.split("|")[1])}
    assert codes == {int(code) for code in ExitCode}


# -- words -----------------------------------------------------------------------------------------


def test_every_metric_statistic_outcome_and_verdict():
    text = page("glossary.md")
    verdicts = ["pass", "fail", "regressed", "inconclusive", "interrupted", "aborted", "error"]
    words = [*CATALOGUE, *SCALARS, *STATS, *(outcome.value for outcome in Outcome), *verdicts]
    assert undocumented(words, text) == []


def test_every_metric_has_its_unit():
    rows = {
        row.split("|")[1].strip(): row for row in page("glossary.md").splitlines() if "|" in row
    }
    for metric in CATALOGUE.values():
        assert f"| {metric.unit} |" in rows[f"`{metric.name}`"]


def test_every_health_check():
    readings = Readings(
        arrival_lag_p99_ms=1.0, hub_lag_p99_ms=1.0, reader_lag_p99_ms=1.0, cpu_share_max=0.1,
        delivered_share=1.0, ceiling_share=0.0, user_clock_share=0.0, gc_pause_max_ms=1.0,
        hub_lag_max_ms=1.0, cpu_wait_share_p90=0.0, clock_steps=0,
    )  # fmt: skip
    names = [check.name for make in CHECKS if (check := make(readings)) is not None]
    assert len(names) == len(CHECKS)
    assert undocumented(names, page("glossary.md")) == []


def test_every_field_of_a_record():
    fields = section(page("run-folder.md"), "requests.jsonl.gz")
    assert undocumented(Sample.__struct_fields__, fields) == []
    assert undocumented(COLUMNS, section(page("run-folder.md"), "server.csv")) == []


# -- scenarios -------------------------------------------------------------------------------------

SPECS = {
    "At the top": scenario_spec.Scenario,
    "models": scenario_spec.ModelSpec,
    "load": scenario_spec.Phase,
    "budget": scenario_spec.Budget,
    "simulator": scenario_spec.Simulator,
    "server_metrics": scenario_server.ServerSpec,
}


@pytest.mark.parametrize("title", SPECS)
def test_every_scenario_key(title):
    keys = [row.alias or name for name, row in SPECS[title].model_fields.items()]
    assert undocumented(keys, section(page("scenario.md"), title)) == []


@pytest.mark.parametrize("kind", SPECS_OF_KINDS)
def test_every_key_of_a_workload(kind):
    keys = SPECS_OF_KINDS[kind].model_fields
    assert undocumented(keys, section(page("scenario.md"), "workloads")) == []


def test_every_sort_of_call_text_and_task():
    text = section(page("scenario.md"), "workloads")
    sorts = [*MODES, *FAMILIES, *LANGUAGES, *get_args(Form), *get_args(Length)]
    assert undocumented(sorts, text) == []


def test_every_key_below_and_every_choice():
    text = page("scenario.md")
    price = scenario_spec.Price.model_fields
    timeouts = [row.alias for row in scenario_spec.Timeouts.model_fields.values()]
    choices = [
        "simulator",
        "live",
        "model",
        "total",
        "auto",
        "interleaved",
        "sequential",
        "tape",
        "sdk",
        "warmup",
        "measure",
        "closed",
        "constant",
        "poisson",
        "wait",
        "drop",
        "unique",
        "shared",
    ]
    assert undocumented([*price, *timeouts, *choices, *SPECS_OF_KINDS], text) == []
    assert undocumented(MODELS, text) == []


def test_the_example_is_valid():
    from loadlib.scenario import parse

    example = re.search(r"```yaml\n(.*?)```", page("scenario.md"), re.DOTALL)
    assert example is not None
    assert parse(example[1], "scenario.md").name == "chat-and-128k"


# -- examples --------------------------------------------------------------------------------------


def shell_lines() -> list[tuple[str, str]]:
    found = []
    for name, text in PAGES.items():
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
            lines = [line.split("#")[0].split(" > ")[0].strip() for line in block.splitlines()]
            found += [(name, line) for line in lines if line]
    return found


@pytest.mark.parametrize(("where", "line"), shell_lines())
def test_command_lines_of_the_documents_parse(where, line):
    words = shlex.split(line)
    if words[0] == "loadlib":
        parses(words[1:])
    elif words[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert all(re.search(rf"^{re.escape(goal)}:", makefile, re.MULTILINE) for goal in words[1:])
    elif words[:3] == ["python", "-m", "benchmarks"]:
        benchmarks_parser().parse_args(words[3:])
    else:
        assert words[0] in ("locust", "open"), line
    for word in words:
        if word.startswith(("scenarios/", "locustfiles/")):
            assert (ROOT / word).is_file(), f"{where}: {word}"


def parses(words: list[str]) -> None:
    """The arguments are what the command takes; nothing is run."""
    command = cli.commands[words[0]]
    for parameter in command.params:  # run folders in examples need not exist here
        if isinstance(parameter.type, click.Path):
            words = [str(DOCS) if word.startswith("reports/") else word for word in words]
    command.make_context(words[0], words[1:]).close()


def test_every_shipped_scenario_is_named_and_every_named_one_is_shipped():
    shipped = {f"scenarios/{path.name}" for path in (ROOT / "scenarios").glob("*.yaml")}
    named = set(re.findall(r"scenarios/[\w-]+\.yaml", README))
    assert named == shipped


@pytest.mark.parametrize("name", sorted(PAGES))
def test_links_lead_somewhere(name):
    here = (ROOT / name).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[name]):
        if not target.startswith("http"):
            file, _, anchor = target.partition("#")
            assert (here / file).exists(), target
            if anchor:
                titles = re.findall(r"^#+ (.+)$", (here / file).read_text("utf-8"), re.MULTILINE)
                assert anchor in [title.lower().replace(" ", "-") for title in titles]


@pytest.mark.parametrize("name", sorted(PAGES))
def test_no_machine_and_no_registry_is_named(name):
    assert not re.search(r"(?<![\w.])/(?:work|home|root|Users)/", PAGES[name])
    assert not re.search(r"pypi|pythonhosted|files\.python", PAGES[name], re.IGNORECASE)


def test_the_picture_is_small_enough():
    assert (DOCS / "report.png").stat().st_size < 300_000


def test_decisions_are_short_and_complete():
    pages = sorted((DOCS / "decisions").glob("*.md"))
    numbers = [path.name[:4] for path in pages]
    assert len(set(numbers)) == len(numbers)
    for path in pages:
        text = path.read_text(encoding="utf-8")
        assert re.match(r"\d{4}-[a-z0-9-]+\.md$", path.name)
        assert re.match(rf"# ({int(path.name[:4])}\. )?\S", text), path.name
        several = text.count("\n* **") > 1  # small decisions about one matter, on one page
        for part in ("**Context.**", "**Decision.**", "**Consequences.**"):
            assert several or part in text, path.name
        assert len(text) < 4000, path.name


def test_changelog_fragments_are_one_sentence():
    for path in (ROOT / "changelog.d").glob("[0-9]*.md"):
        assert re.fullmatch(r"\d{4}(-[a-z-]+)?\.(feature|fix|change)\.md", path.name)
        text = path.read_text(encoding="utf-8").strip()
        assert "\n" not in text
        assert len(re.findall(r"\.(?:\s|$)", text)) == 1
