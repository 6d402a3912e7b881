"""`python -m loadlib.simulator`: the simulator as a process of its own."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import NoReturn

from loadlib.errors import LoadlibError
from loadlib.simulator import Faults, serve


def main(argv: Sequence[str] | None = None, prog: str = "python -m loadlib.simulator") -> int:
    """Run; returns the exit code. Errors are one line on stderr."""
    options = vars(_parser(prog).parse_args(argv))
    faults = Faults(**{field.name: options.pop(field.name) for field in fields(Faults)})
    try:
        serve(**options, faults=faults)
    except LoadlibError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def _parser(prog: str) -> argparse.ArgumentParser:
    about = "The simulator: an OpenAI-compatible server with known speeds, on loopback."
    parser = _Parser(prog=prog, description=about)
    add = parser.add_argument
    add("--port", type=int, default=0, help="0, the default, takes any free port")
    add("--host", default="127.0.0.1", help="a loopback address; any other is refused")
    add("--profile", default="catalogue", help="catalogue, instant, or a YAML file")
    add("--seed", type=int, default=0, help="of texts, ids and variation")
    add("--require-key", metavar="VAR", help="insist on the bearer token that VAR holds")
    add("--strict-models", action="store_true", help="404 for models the profile does not list")
    add("--exit-with-parent", action="store_true", help="end when the starting process has ended")
    faults = parser.add_argument_group("faults of completion requests").add_argument
    faults("--status", type=_status, help="answer with this HTTP status (400 to 599)")
    faults("--error-code", metavar="CODE", help="the `code` of those errors")
    for name, when in (("before", "before the first token"), ("after", "after the first token")):
        flag = f"--stall-{name}-first"
        faults(
            flag,
            type=_seconds,
            default=0.0,
            metavar="S",
            dest=f"stall_{name}_first_s",
            help=f"be silent for S seconds {when}",
        )
    for flag, what in (
        ("--disconnect-mid-stream", "close the connection after half of the tokens"),
        ("--truncate", "end the body properly after half of the tokens"),
        ("--no-done", "leave out the closing [DONE]"),
        ("--malformed", "send a chunk that is no JSON after half of the tokens"),
        ("--error-in-stream", "send an error object after half of the tokens"),
    ):
        faults(flag, action="store_true", help=what)
    faults("--every", type=_ordinal, default=1, metavar="N", help="only every N-th request")
    faults(
        "--freeze-at",
        type=_seconds,
        metavar="S",
        dest="freeze_at_s",
        help="stand still once, S seconds after the first completion request …",
    )
    faults(
        "--freeze-for",
        type=_seconds,
        default=0.0,
        metavar="S",
        dest="freeze_for_s",
        help="… for S seconds",
    )
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < 86400:
        raise ValueError(text)
    return value


def _status(text: str) -> int:
    value = int(text)
    if not 400 <= value < 600:
        raise ValueError(text)
    return value


def _ordinal(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


if __name__ == "__main__":
    sys.exit(main())
