"""`python -m loadlib.simulator`: the simulator as a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from loadlib.errors import LoadlibError
from loadlib.simulator import serve
from loadlib.simulator.options import parse


def main(argv: Sequence[str] | None = None, prog: str = "python -m loadlib.simulator") -> int:
    """Run; returns the exit code. Errors are one line on stderr."""
    try:
        serve(**parse(None if argv is None else list(argv), prog))
    except LoadlibError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
