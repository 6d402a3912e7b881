"""The simulator's command line → what `serve` takes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn

from loadlib.simulator import fault_rules, tls
from loadlib.simulator.connection import REQUEST_S
from loadlib.simulator.faults import KINDS, Rule
from loadlib.simulator.profiles import BUILT_IN

MAX_PROCESSES = 256
MAX_REASONING = 100_000
DAY_S = 86400

_HALFWAY = (
    ("disconnect-mid-stream", "close the connection after half of the tokens"),
    ("truncate", "end the body properly after half of the tokens"),
    ("no-done", "leave out the closing [DONE]"),
    ("malformed", "send a chunk that is no JSON after half of the tokens"),
    ("error-in-stream", "send an error object after half of the tokens"),
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def parser(prog: str) -> argparse.ArgumentParser:
    """The options of the simulator."""
    about = "The simulator: an OpenAI-compatible server with known speeds, on loopback."
    kinds = f"Kinds of faults: {', '.join(KINDS)}. Their options: docs/simulator-faults.md."
    made = _Parser(prog=prog, description=about, epilog=kinds)
    add = made.add_argument
    add("--port", type=_up_to(0, 65535), default=0, help="0, the default, takes any free port")
    add("--host", default="127.0.0.1", help="a loopback address; any other is refused")
    remote = "--host may be any address of this machine: for a private network only"
    add("--allow-remote", action="store_true", help=remote)
    known = ", ".join(BUILT_IN[1:])
    add("--profile", default="catalogue", help=f"catalogue (default), {known}, or a YAML file")
    add("--limits", action="store_true", help="429 beyond the profile's optional rate limits")
    add("--seed", type=int, default=0, help="of texts, ids, variation and lots")
    add("--require-key", metavar="VAR", help="insist on the bearer token that VAR holds")
    add("--strict-models", action="store_true", help="404 for models the profile does not list")
    add("--exit-with-parent", action="store_true", help="end when the starting process has ended")
    add(
        "--processes",
        type=_up_to(1, MAX_PROCESSES),
        default=1,
        metavar="N",
        help="N servers behind one port; each has its own engines and its own /metrics",
    )
    add(
        "--wrong-rate",
        type=_share,
        default=0.0,
        metavar="P",
        help="make this share of answers wrong, where there is a right one",
    )
    add(
        "--reasoning-tokens",
        type=_up_to(0, MAX_REASONING),
        default=0,
        metavar="N",
        help="think N tokens (reasoning_content) before every answer",
    )
    add(
        "--request-timeout",
        type=_seconds,
        default=REQUEST_S,
        metavar="S",
        dest="request_timeout_s",
        help="408 for a request that takes longer than S seconds to come in (default 30)",
    )
    add("--tls", nargs=2, type=Path, metavar=("CERT", "KEY"), help="speak TLS; files in PEM")
    add("--bad-certificate", choices=tls.BAD, help="speak TLS with a certificate made for now")
    _add_faults(made)
    return made


def _add_faults(made: argparse.ArgumentParser) -> None:
    add = made.add_argument_group("faults of completion requests").add_argument
    add("--faults", metavar="FILE", help="rules of faults in a YAML file")
    add(
        "--fault",
        action="append",
        default=[],
        metavar="RULE",
        help="one such rule: KIND or KIND,key=value,…; may be given again",
    )
    add("--status", type=_up_to(400, 599), help="answer with this HTTP status (400 to 599)")
    add("--error-code", metavar="CODE", help="the `code` of those errors")
    for name, when in (("before", "before the first token"), ("after", "after the first token")):
        flag, text = f"--stall-{name}-first", f"be silent for S seconds {when}"
        add(flag, type=_seconds, metavar="S", dest=f"stall_{name}_first_s", help=text)
    for name, what in _HALFWAY:
        add(f"--{name}", action="store_true", help=what)
    every = "only every N-th request, with the flags from --status on"
    add("--every", type=_up_to(1, 10**9), default=1, metavar="N", help=every)
    at = "stand still once, S seconds after the first completion request …"
    add("--freeze-at", type=_seconds, metavar="S", dest="freeze_at_s", help=at)
    add(
        "--freeze-for",
        type=_seconds,
        default=0.0,
        metavar="S",
        dest="freeze_for_s",
        help="… for S seconds",
    )


def parse(argv: list[str] | None, prog: str) -> dict[str, Any]:
    """The keyword arguments of `serve`. Raises `UsageError`, and `SystemExit` like argparse."""
    given = vars(parser(prog).parse_args(argv))
    rules = [*(fault_rules.parse(text) for text in given.pop("fault")), *_flag_rules(given)]
    file = given.pop("faults")
    if file is not None:
        rules += fault_rules.read(file)
    pair = given.pop("tls")
    return {**given, "rules": tuple(rules), "certificate": tuple(pair) if pair else None}


def _flag_rules(given: dict[str, Any]) -> list[Rule]:
    """The rules behind the short flags, which are taken out of `given`."""
    every, code = given.pop("every"), given.pop("error_code")
    rules = []
    status = given.pop("status")
    if status is not None:
        rules.append(Rule("status", {"status": status, "code": code}, every))
    for when in ("before", "after"):
        pause_s = given.pop(f"stall_{when}_first_s")
        if pause_s:
            rules.append(Rule(f"stall-{when}-first", {"for": pause_s}, every))
    for name, _ in _HALFWAY:
        if given.pop(name.replace("-", "_")):
            rules.append(Rule(name, {"code": code} if name == "error-in-stream" else {}, every))
    at_s, for_s = given.pop("freeze_at_s"), given.pop("freeze_for_s")
    if at_s is not None and for_s > 0:
        rules.append(Rule("freeze", {"for": for_s}, from_s=at_s))
    return rules


def _share(text: str) -> float:
    try:
        return fault_rules.share(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error}") from None


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < DAY_S:
        message = f"{text!r} should be a number of seconds from 0 to less than {DAY_S}"
        raise argparse.ArgumentTypeError(message)
    return value


def _up_to(low: int, high: int) -> Any:
    def whole(text: str) -> int:
        value = int(text) if text.removeprefix("-").isdecimal() else None
        if value is None or not low <= value <= high:
            message = f"{text!r} should be a whole number from {low} to {high}"
            raise argparse.ArgumentTypeError(message)
        return value

    return whole
