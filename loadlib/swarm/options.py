"""What loadlib adds to Locust's command line, and changes in it."""

from __future__ import annotations

from argparse import SUPPRESS
from dataclasses import dataclass
from typing import Any

from loadlib import scenario as scenarios
from loadlib.errors import UsageError
from loadlib.scenario import Scenario
from loadlib.session import Choice, override_pairs

OPTIONS: dict[str, dict[str, Any]] = {
    "--scenario": {"env_var": "LOADLIB_SCENARIO", "help": "scenario file; its phases are the load"},
    "--set": {"action": "append", "help": "KEY=VALUE in the scenario: load.0.duration=10s"},
    "--model": {"action": "append", "help": "only this model (repeatable)"},
    "--base-url": {"help": "OpenAI-compatible endpoint for all models"},
    "--rate": {"help": "arrivals per second of the measure phase: 5/s"},
    "--closed-users": {"type": int, "help": "users of the measure phase (closed loop)"},
    "--duration": {"help": "length of the measure phase: 30s"},
    "--requests": {"type": int, "help": "requests of the measure phase"},
    "--seed": {"type": int, "help": "seed of the whole run"},
    "--out": {"default": "reports", "help": "folder in which run folders are made"},
    "--allow-unhealthy": {"action": "store_true", "help": "judge even an unhealthy measurement"},
    "--no-report": {
        "action": "store_true",
        "env_var": "LOADLIB_NO_REPORT",
        "help": "no report.html; `loadlib report` makes it later",
    },
}


PREFIX = "loadlib_"
"""Of the names our options have in Locust's: what its start form posts cannot change them."""

LOOPBACK = "127.0.0.1"  # Locust's own default is every interface


def add_options(parser: Any) -> None:
    """Locust's `init_command_line_parser`."""
    parser.set_defaults(web_host=LOOPBACK)
    for flag, settings in OPTIONS.items():
        dest = PREFIX + flag[2:].replace("-", "_")
        parser.add_argument(flag, dest=dest, include_in_web_ui=False, **settings)
    # Set by `loadlib run`: its own command line for the manifest, and who prints what.
    parser.add_argument("--loadlib-argv", include_in_web_ui=False, help=SUPPRESS)
    parser.add_argument(
        "--loadlib-json", action="store_true", include_in_web_ui=False, help=SUPPRESS
    )


def choice_of(options: Any) -> Choice:
    """The scenario that Locust's command line chooses.

    `--base-url` alone chooses none: it says where a plain locustfile's models are.
    """
    base_url = options.loadlib_base_url
    choice = Choice(
        file=options.loadlib_scenario or None,
        overrides=override_pairs(options.loadlib_set or ()),
        models=tuple(options.loadlib_model or ()),
        base_url=base_url,
        rate=options.loadlib_rate,
        users=options.loadlib_closed_users,
        duration=options.loadlib_duration,
        requests=options.loadlib_requests,
        seed=options.loadlib_seed,
    )
    return Choice() if choice == Choice(base_url=base_url) else choice


def refuse_locusts_load(options: Any) -> None:
    """A scenario's phases are the load; Locust's own options for it beside one are a mistake.

    Raises:
        UsageError: -u, -r or -t was given, on the command line, by environment or in a file.
    """
    given = (("-u", options.num_users), ("-r", options.spawn_rate), ("-t", options.run_time))
    for flag, value in given:
        if value is not None:
            raise UsageError(
                f"{flag} beside a scenario: its phases are the load; "
                "change them with --set, --rate, --closed-users or --duration"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Received(Choice):
    """The master's scenario as text: a worker has neither its options nor, perhaps, its file."""

    text: str = ""

    @property
    def free(self) -> bool:
        """Never: what is free was decided by the master."""
        return False

    def scenario(self) -> Scenario:
        """Raises UsageError, as for a file."""
        return scenarios.parse(self.text, "<master>")
