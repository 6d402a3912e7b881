"""The command line: arguments and exit codes, no logic.

`run` and `ui` become a Locust command line and call Locust's own `main`: one code path.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click
import msgspec
from click.core import ParameterSource

from loadlib import __version__, launch
from loadlib.errors import ExitCode, LoadlibError, UsageError, nearest
from loadlib.redact import printable_json, redact

if TYPE_CHECKING:
    from loadlib.run import Run
    from loadlib.session import Session

F = TypeVar("F", bound=Callable[..., Any])

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with the code that says how it went."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        # Not `cli.main`: that would turn a closed pipe into exit code 1.
        with cli.make_context("loadlib", arguments) as context:
            code = cli.invoke(context)
    except click.exceptions.Exit as end:  # --help, --version
        code = end.exit_code
    except click.exceptions.NoArgsIsHelpError as problem:
        problem.show()
        code = ExitCode.USAGE
    except click.ClickException as problem:
        code = _refuse(redact(problem.format_message(), limit=500), ExitCode.USAGE)
    except LoadlibError as problem:
        code = _refuse(str(problem), problem.exit_code)
    except BrokenPipeError:
        _nobody_reads()
        code = ExitCode.PASS
    except OSError as problem:
        place = f"{problem.filename or 'cannot read or write'}: "
        why = redact(place + (problem.strerror or str(problem)), limit=500)
        code = _refuse(why, ExitCode.PREFLIGHT)
    except (click.Abort, KeyboardInterrupt):
        _say("! SIGINT: stopped", err=True)
        code = ExitCode.SIGINT
    sys.exit(int(code or 0))


def _refuse(why: str, code: ExitCode) -> ExitCode:
    click.echo(f"error: {why}", err=True)
    return code


def _say(text: object = "", *, err: bool = False) -> None:
    """Print a line. `loadlib … | head` ends the reading, which changes no exit code."""
    try:
        click.echo(text, err=err)
    except BrokenPipeError:
        _nobody_reads()


def _say_aside(text: str) -> None:
    _say(text, err=True)


def _nobody_reads() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Commands(click.Group):
    """A group that names the nearest command."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command `args` begin with."""
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            known = self.list_commands(ctx)
            raise UsageError(
                f"no command {redact(args[0], limit=80)!r}{nearest(args[0], known)}:"
                f" there are {', '.join(known)}"
            )
        return super().resolve_command(ctx, args)


def _processes(_ctx: click.Context, _parameter: click.Parameter, value: int | None) -> int | None:
    if value == 0:
        raise click.BadParameter("1 or more, or -1 for one per core")
    return value


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="loadlib")
def cli() -> None:
    """Load and latency testing for LLM APIs, on Locust."""


def _choosing(command: F) -> F:
    """The options that choose a scenario and change it; shared by run, ui and validate."""
    options = (
        click.argument("scenario", required=False),
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


def _as_master(command: F) -> F:
    """The options of a process that others, on other machines perhaps, work for."""
    port = click.IntRange(1, 65535)
    options = (
        click.option("--master", is_flag=True,
                     help="Send nothing: workers do, on any machine (loadlib run --worker)."),
        click.option("--expect-workers", type=click.IntRange(1), metavar="N",
                     help="Begin when N workers are there; default 1."),
        click.option("--master-bind-host", metavar="HOST",
                     help="Address at which workers reach the master; default: any."),
        click.option("--master-bind-port", type=port, help="Port for it; default 5557."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@cli.command(context_settings={"ignore_unknown_options": False})
@_choosing
@click.option("--out", default="reports", show_default=True, help="Folder for run folders.")
@click.option("--processes", type=click.IntRange(-1), callback=_processes,
              help="Worker processes; -1: one per core.")  # fmt: skip
@_as_master
@click.option("--worker", is_flag=True, help="Work for a master, which has the scenario.")
@click.option("--master-host", metavar="HOST", help="Where it is; default 127.0.0.1.")
@click.option("--master-port", type=click.IntRange(1, 65535), help="Its port; default 5557.")
@click.option("--baseline", type=FOLDER, help="Run folder to compare with, after the run.")
@click.option("--allow-unhealthy", is_flag=True, help="Judge even an unhealthy measurement.")
@click.option("--no-report", is_flag=True, help="No report.html; `loadlib report` makes it later.")
@click.option("--json", "as_json", is_flag=True, help="Print only summary.json to stdout.")
@click.option("-v", "--verbose", is_flag=True, help="Locust's own log.")
@click.argument("locust", nargs=-1, type=click.UNPROCESSED, metavar="[-- LOCUST FLAGS]")
def run(**given: Any) -> int:
    """Run a scenario headless, judge it, write its run folder."""
    _check_roles(given)
    return _locust(["--headless"], given)


@cli.command()
@_choosing
@click.option("--out", default="reports", show_default=True, help="Folder for run folders.")
@click.option("--processes", type=click.IntRange(-1), callback=_processes,
              help="Worker processes; -1: one per core.")  # fmt: skip
@_as_master
@click.option("--web-host", default="127.0.0.1", show_default=True, help="Address to bind.")
@click.option(
    "--web-port",
    type=click.IntRange(1, 65_535),
    default=8089,
    show_default=True,
    help="Port to bind.",
)
@click.option("--allow-unhealthy", is_flag=True, help="Judge even an unhealthy measurement.")
@click.option("--no-report", is_flag=True, help="No report.html; `loadlib report` makes it later.")
@click.option("-v", "--verbose", is_flag=True, help="Locust's own log.")
@click.argument("locust", nargs=-1, type=click.UNPROCESSED, metavar="[-- LOCUST FLAGS]")
def ui(web_host: str, web_port: int, **given: Any) -> int:
    """Open Locust's web UI on a scenario; each Start…Stop is one run folder."""
    _check_roles(given)
    _, flags = launch.scenario_and_flags(given)
    if not any(flag.startswith(("--web-host", "--web-port", "-P")) for flag in flags):
        launch.check_address(web_host, web_port)
        _say(f"web UI on http://{web_host}:{web_port}", err=True)
    return _locust(["--web-host", web_host, "--web-port", str(web_port)], given)


def _locust(flags: list[str], given: dict[str, Any]) -> int:
    """Call Locust's own `main` with our arguments; returns its exit code."""
    if given.get("worker"):
        return launch.call(launch.as_worker(given), given, _say_aside)
    line = launch.as_locust(given, flags)
    baseline = given.get("baseline")
    if baseline is not None:
        baseline = baseline.resolve()  # `reports/latest` is about to point to the new run
        _run_of(baseline)  # before the load, not after it
    code = launch.call(line, given, _say_aside)
    from loadlib.swarm import plugin

    folder = plugin.last_folder()
    if folder is not None and given.get("as_json") and (folder / "summary.json").is_file():
        _say(printable_json((folder / "summary.json").read_text(encoding="utf-8").rstrip()))
    if folder is not None and baseline is not None:
        _show_comparison(baseline, folder, err=bool(given.get("as_json")))
    return code


def _check_roles(given: dict[str, Any]) -> None:
    source = click.get_current_context().get_parameter_source
    typed = [name for name in given if source(name) is ParameterSource.COMMANDLINE]
    launch.check_roles(given, typed)


def _run_of(folder: Path) -> Run:
    from loadlib import run as runs

    return runs.load(folder)


@cli.command()
@_choosing
@click.option("--schema", is_flag=True, help="Print the JSON Schema of scenario files.")
def validate(*, schema: bool, scenario: str | None, **given: Any) -> int:
    """Check a scenario; show what it means, plans and can cost. Sends nothing."""
    from loadlib import calibration, gates
    from loadlib import scenario as scenarios
    from loadlib.session import estimate_usd

    if schema:
        _print(scenarios.json_schema(), [], as_json=True)
        return ExitCode.PASS
    if scenario is None and not given["models"]:
        raise UsageError("nothing to validate: give a scenario file")
    session = _open(scenario, given)
    if session.scenario.simulator is not None:
        from loadlib.simulator import check

        check(session.scenario.simulator.options)
    _say(scenarios.to_yaml(session.scenario).rstrip())
    plan = gates.planned(session.scenario, session.reach)
    _say()
    for item in plan:
        n = "as many as the server answers" if item.requests is None else f"{item.requests:,.0f}"
        _say(f"# {item.model}/{item.workload} {item.phase}: {n} requests")
    for line in session.destinations:
        _say(f"# sends to {line}")
    for line in session.scenario.distributions():
        _say(f"# {line}")
    _say(f"# cost: {estimate_usd(session)}")
    short = gates.remedies(session.scenario.objectives, plan)
    beyond = calibration.notices(session.stages, session.scenario, None, session.serves)
    for line in (*session.skipped, *session.notices, *short, *beyond):
        _say(f"# ! {line}")
    return ExitCode.PASS


@cli.command()
@click.argument("scenario", required=False)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE",
              help="Override any key: --set target=live.")  # fmt: skip
@click.option("--model", "models", multiple=True, help="Only this model (repeatable).")
@click.option("--base-url", help="OpenAI-compatible endpoint for all models.")
@click.option("--list", "listing", is_flag=True, help="Print the catalogue; send nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def probe(*, scenario: str | None, listing: bool, as_json: bool, **given: Any) -> int:
    """Send one small request per model and print what it tells."""
    from loadlib import findings

    if listing:
        from loadlib import catalog

        rows = {name: catalog.described(name) for name in catalog.names()}
        _print(rows, findings.catalogue_lines(rows), as_json=as_json)
        return ExitCode.PASS
    if scenario is None and not given["models"]:
        raise UsageError("nothing to probe: give a scenario file, or --model with --base-url")
    from loadlib.probe import probe as probing

    found = []
    for one in probing(_open(scenario, given)):
        found.append(one)
        if not as_json:
            _print(None, [*findings.lines(one), ""], as_json=False)
    if as_json:
        _print(found, [], as_json=True)
    return ExitCode.PASS if all(one.answered for one in found) else ExitCode.PREFLIGHT


def _print(data: object, lines: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        _say(printable_json(msgspec.json.format(msgspec.json.encode(data)).decode()))
    for line in () if as_json else lines:
        _say(line)


def _open(scenario: str | None, given: dict[str, Any]) -> Session:
    from loadlib.session import Choice, open_session, override_pairs  # half a second, with pydantic

    pairs = override_pairs(given.pop("overrides"))
    return open_session(Choice(file=scenario, overrides=pairs, **given))


@cli.command()
@click.argument("folders", nargs=-1, required=True, metavar="RUN_FOLDER",
                type=click.Path(exists=True, path_type=Path))  # fmt: skip
@click.option("--from-shards", is_flag=True,
              help="Merge the shard files of workers into a new run folder.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path),
              help="With --from-shards: the folder for it.")  # fmt: skip
@click.option("--static", is_flag=True, help="Leave out all scripts: a page to read, not to use.")
@click.option("--embed-samples", "embed", type=click.IntRange(0, 10), default=0, metavar="N",
              help="Show N single requests of each kind and group.")  # fmt: skip
@click.option("--so-far", is_flag=True,
              help="Print the page of a run that goes on; write nothing.")  # fmt: skip
def report(
    *, folders: Sequence[Path], from_shards: bool, out: Path | None, so_far: bool, **page: Any
) -> int:
    """Make the pages of a run folder again; also of one that was killed."""
    from loadlib import report as pages

    if from_shards:
        from loadlib.gather import gather

        found = gather(folders, out)
        _say(f"= {found.workers} workers, {found.requests:,} requests", err=True)
        for line in found.missing:
            _say(f"! {line}", err=True)
        folders = (found.folder,)
    elif len(folders) > 1 or out is not None:
        raise UsageError("one run folder, and no --out, without --from-shards")
    if so_far:
        _say(pages.so_far(folders[0], **page))
        return ExitCode.PASS
    for path in pages.write(folders[0], **page):
        _say(path)
    return ExitCode.PASS


@cli.command()
@click.argument("before", type=FOLDER)
@click.argument("after", type=FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def compare(before: Path, after: Path, *, as_json: bool) -> int:
    """Compare two run folders: ratios with both intervals; indicative, one run a side."""
    if as_json:
        from loadlib import compare as comparing

        rows = comparing.compare(_run_of(before), _run_of(after))
        _print(rows, [], as_json=True)
    else:
        _show_comparison(before, after, err=False)
    return ExitCode.PASS


def _show_comparison(before: Path, after: Path, *, err: bool) -> None:
    from loadlib import compare as comparing
    from loadlib.brevity import across_runs
    from loadlib.report import terminal

    old, new = _run_of(before), _run_of(after)
    terminal.print_comparison(comparing.compare(old, new), terminal.Screen(err=err))
    shorter = across_runs(old.summary.groups, new.summary.groups)
    for line in (*comparing.unmatched(old, new), *shorter):
        _say(f"  {redact(line, limit=500)}", err=err)


@cli.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def simulate(arguments: tuple[str, ...]) -> int:
    """Start the simulator: an OpenAI-compatible server with known speeds, on loopback."""
    from loadlib.simulator.__main__ import main as simulator

    return simulator(list(arguments), "loadlib simulate")


def _streams(
    _ctx: click.Context, _parameter: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        found = tuple(int(word) for word in value.split(","))
    except ValueError:
        raise click.BadParameter("whole numbers with commas between: 25,100,400") from None
    if found[0] < 1 or any(below >= above for below, above in pairwise(found)):
        raise click.BadParameter("numbers from 1 up, each larger than the one before")
    return found


@cli.command()
@click.option("--streams", callback=_streams, metavar="N,N…",
              help="Streams of each step, rising.")  # fmt: skip
@click.option("--quick", is_flag=True, help="Fewer and shorter steps.")
@click.option("--processes", type=click.IntRange(-1), callback=_processes,
              help="Worker processes of the runs; -1: one per core.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print only JSON to stdout.")
@click.option("--no-save", is_flag=True, help="Do not keep it for warnings before runs.")
def calibrate(
    *, streams: tuple[int, ...] | None, quick: bool, processes: int | None, as_json: bool,
    no_save: bool,
) -> int:  # fmt: skip
    """Measure up to which load this machine's figures can be believed."""
    from loadlib import calibration
    from loadlib.calibrate import ladder, show
    from loadlib.report.terminal import Screen

    plan = ladder.Ladder(
        streams=streams or (ladder.QUICK_STREAMS if quick else ladder.STREAMS),
        measure_s=ladder.QUICK_MEASURE_S if quick else ladder.MEASURE_S,
        processes=processes,
    )
    found = ladder.calibrate(plan, lambda what: _say(f"= {what}", err=True))
    if as_json:
        _say(printable_json(msgspec.json.format(show.as_json(found)).decode()))
    else:
        show.show(found, Screen())
    if not no_save:
        try:
            calibration.save(found)
        except OSError as problem:
            _say(f"! not kept: {problem.filename}: {problem.strerror}", err=True)
    return ExitCode.PASS if found.believed is not None else ExitCode.INCONCLUSIVE
