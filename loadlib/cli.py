"""The command line: arguments and exit codes, no logic.

`run` and `ui` become a Locust command line and call Locust's own `main`: one code path.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
import msgspec

from loadlib import __version__
from loadlib.errors import ExitCode, LoadlibError, UsageError
from loadlib.session import Choice, estimate_usd, open_session, override_pairs

F = TypeVar("F", bound=Callable[..., Any])

LOCUSTFILE = Path(__file__).with_name("swarm") / "locustfile.py"
PASSED_ON = (
    ("overrides", "--set"), ("models", "--model"), ("base_url", "--base-url"), ("rate", "--rate"),
    ("users", "--closed-users"), ("duration", "--duration"), ("requests", "--requests"),
    ("seed", "--seed"),
)  # fmt: skip
"""Our options that Locust's command line takes under its own name."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with the code that says how it went."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = cli.main(arguments, prog_name="loadlib", standalone_mode=False)
    except click.ClickException as problem:
        problem.show()
        code = ExitCode.USAGE
    except click.Abort:
        code = ExitCode.SIGINT
    except LoadlibError as problem:
        click.echo(f"error: {problem}", err=True)
        code = problem.exit_code
    except BrokenPipeError:
        # `loadlib … | head`: the reader has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = ExitCode.PASS
    sys.exit(int(code or 0))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="loadlib")
def cli() -> None:
    """Load and latency testing for LLM APIs, on Locust."""


def _choosing(command: F) -> F:
    """The options that choose a scenario and change it; shared by run, ui and validate."""
    options = (
        click.argument("scenario", required=False, type=click.Path(dir_okay=False)),
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE",
                     help="Override any key: --set load.1.duration=10s."),
        click.option("--model", "models", multiple=True, help="Only this model (repeatable)."),
        click.option("--base-url", help="OpenAI-compatible endpoint for all models."),
        click.option("--rate", help="Arrivals per second of the measure phase: 5/s."),
        click.option("--users", type=click.IntRange(1), help="Closed loop of so many users."),
        click.option("--duration", help="Length of the measure phase: 30s."),
        click.option("--requests", type=click.IntRange(1), help="Requests of the measure phase."),
        click.option("--seed", type=click.IntRange(0), help="Seed of the whole run."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@cli.command(context_settings={"ignore_unknown_options": False})
@_choosing
@click.option("--out", default="reports", show_default=True, help="Folder for run folders.")
@click.option("--processes", type=click.IntRange(-1), help="Worker processes; -1: one per core.")
@click.option("--baseline", type=click.Path(exists=True), help="Run folder to compare with.")
@click.option("--allow-unhealthy", is_flag=True, help="Judge even an unhealthy measurement.")
@click.option("--json", "as_json", is_flag=True, help="Print only summary.json to stdout.")
@click.option("-v", "--verbose", is_flag=True, help="Locust's own log.")
@click.argument("locust", nargs=-1, type=click.UNPROCESSED, metavar="[-- LOCUST FLAGS]")
def run(**given: Any) -> int:
    """Run a scenario headless, judge it, write its run folder."""
    return _locust(["--headless"], given)


@cli.command()
@_choosing
@click.option("--out", default="reports", show_default=True, help="Folder for run folders.")
@click.option("--processes", type=click.IntRange(-1), help="Worker processes; -1: one per core.")
@click.option("--web-host", default="127.0.0.1", show_default=True, help="Address to bind.")
@click.option("--web-port", default=8089, show_default=True, help="Port to bind.")
@click.option("--allow-unhealthy", is_flag=True, help="Judge even an unhealthy measurement.")
@click.option("-v", "--verbose", is_flag=True, help="Locust's own log.")
@click.argument("locust", nargs=-1, type=click.UNPROCESSED, metavar="[-- LOCUST FLAGS]")
def ui(web_host: str, web_port: int, **given: Any) -> int:
    """Open Locust's web UI on a scenario; each Start…Stop is one run folder."""
    click.echo(f"web UI on http://{web_host}:{web_port}", err=True)
    return _locust(["--web-host", web_host, "--web-port", str(web_port)], given)


def _locust(flags: list[str], given: dict[str, Any]) -> int:
    """Call Locust's own `main` with our arguments; returns its exit code."""
    scenario, rest = given["scenario"], list(given["locust"])
    if scenario is not None and scenario.startswith("-"):  # `loadlib run -- --flag`
        scenario, rest = None, [scenario, *rest]
    if scenario is None and not given["models"]:
        raise UsageError("nothing to run: give a scenario file, or --model with --base-url")
    line = [*flags, *_as_locust(scenario, given), *rest]
    shown = shlex.join(["locust", "-f", os.path.relpath(LOCUSTFILE), *line])
    click.echo(f"= {shown}", err=True)
    quiet = ["--loglevel", "INFO" if given["verbose"] else "WARNING"]
    ours = ["--loadlib-argv", "\0".join(["loadlib", *sys.argv[1:]])]
    if given.get("as_json"):
        ours.append("--loadlib-json")
    from loadlib.swarm import plugin  # first of all network modules: it patches sockets

    code = plugin.run_locust(["-f", str(LOCUSTFILE), *quiet, *ours, *line])
    folder = plugin.last_folder()
    if folder is not None and given.get("as_json"):
        click.echo((folder / "summary.json").read_text(encoding="utf-8"))
    if folder is not None and given.get("baseline"):
        _show_comparison(Path(given["baseline"]), folder, err=bool(given.get("as_json")))
    return code


def _as_locust(scenario: str | None, given: dict[str, Any]) -> list[str]:
    line = ["--scenario", scenario] if scenario else []
    for name, flag in PASSED_ON:
        value = given[name]
        for item in value if isinstance(value, tuple) else (value,):
            line += [flag, str(item)] if item is not None else []
    line += ["--out", given["out"]]
    if given["processes"] is not None:
        line += ["--processes", str(given["processes"])]
    return [*line, "--allow-unhealthy"] if given["allow_unhealthy"] else line


@cli.command()
@_choosing
@click.option("--schema", is_flag=True, help="Print the JSON Schema of scenario files.")
def validate(*, schema: bool, scenario: str | None, **given: Any) -> int:
    """Check a scenario; show what it means, plans and can cost. Sends nothing."""
    from loadlib import gates
    from loadlib import scenario as scenarios

    if schema:
        click.echo(msgspec.json.format(msgspec.json.encode(scenarios.json_schema())).decode())
        return ExitCode.PASS
    if scenario is None and not given["models"]:
        raise UsageError("nothing to validate: give a scenario file")
    session = open_session(_choice(scenario, given))
    click.echo(scenarios.to_yaml(session.scenario).rstrip())
    plan = gates.planned(session.scenario, session.serves)
    click.echo()
    for item in plan:
        n = "as many as the server answers" if item.requests is None else f"{item.requests:,.0f}"
        click.echo(f"# {item.model}/{item.workload} {item.phase}: {n} requests")
    estimate = estimate_usd(session)
    cost = "unknown" if estimate is None else f"up to {estimate:.4f} USD at list prices"
    click.echo(f"# cost: {cost}")
    short = gates.remedies(session.scenario.objectives, plan)
    for line in (*session.skipped, *session.notices, *short):
        click.echo(f"# ! {line}")
    return ExitCode.PASS


def _choice(scenario: str | None, given: dict[str, Any]) -> Choice:
    pairs = override_pairs(given.pop("overrides"))
    return Choice(file=scenario, overrides=pairs, **given)


@cli.command()
@click.argument("run_folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def report(run_folder: Path) -> int:
    """Make the pages of a run folder again; also of one that was killed."""
    from loadlib import report as pages

    for path in pages.write(run_folder):
        click.echo(path)
    return ExitCode.PASS


@cli.command()
@click.argument("before", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("after", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def compare(before: Path, after: Path, *, as_json: bool) -> int:
    """Compare two run folders: ratios with both intervals; indicative, one run a side."""
    if as_json:
        from loadlib import compare as comparing
        from loadlib import run as runs

        rows = comparing.compare(runs.load(before), runs.load(after))
        click.echo(msgspec.json.format(msgspec.json.encode(rows)).decode())
    else:
        _show_comparison(before, after, err=False)
    return ExitCode.PASS


def _show_comparison(before: Path, after: Path, *, err: bool) -> None:
    from rich.console import Console

    from loadlib import compare as comparing
    from loadlib import run as runs
    from loadlib.report import terminal

    old, new = runs.load(before), runs.load(after)
    terminal.print_comparison(comparing.compare(old, new), Console(stderr=err, highlight=False))
    for line in comparing.unmatched(old, new):
        click.echo(f"  {line}", err=err)


@cli.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def simulate(arguments: tuple[str, ...]) -> int:
    """Start the simulator: an OpenAI-compatible server with known speeds, on loopback."""
    from loadlib.simulator.__main__ import main as simulator

    return int(simulator(list(arguments)) or 0)
