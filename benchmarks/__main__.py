"""`python -m benchmarks`: print the table of bars; `--write` puts it into docs/measurement.md."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import processes, table
from benchmarks.bars import BARS, Bench
from benchmarks.lab import Lab
from benchmarks.processes import MeasurementError
from benchmarks.programs import BuildError
from benchmarks.table import Row
from loadlib.errors import LoadlibError

PAGE = processes.ROOT / "docs" / "measurement.md"
RESULTS = processes.ROOT / "benchmarks" / "results.json"  # what the page shows, bar by bar


def main(argv: Sequence[str]) -> int:
    """Exit code 0: every bar is met, 1: one is not, 2: it could not be measured."""
    options = _parser().parse_args(argv)
    try:
        with tempfile.TemporaryDirectory(prefix="loadlib-bench-") as folder:
            processes.prepare()
            lab = Lab(processes.two_cores(), Path(folder), options.quick)
            if lab.floor_program is None:
                _say("no C compiler: the Python truth server, and no floor client to compare with")
            rows = list(_measured(Bench(lab), options.only or list(BARS)))
    except (MeasurementError, BuildError, LoadlibError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    command = " ".join(["python -m benchmarks", *argv])
    if options.json:
        print(json.dumps({**table.machine(), "command": command,
                          "rows": [row.as_json() for row in rows]}, indent=1))  # fmt: skip
    else:
        print("\n".join([*table.about(command), "", table.as_text(rows)]))
    if options.write:
        _write(rows, table.about(command))
    return 0 if all(row.met is not False for row in rows) else 1


def _write(rows: Sequence[Row], about: list[str]) -> None:
    """Bars measured now replace their rows; the others stay, with what they were measured on."""
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for bar in dict.fromkeys(row.bar for row in rows):
        mine = [row.as_json() for row in rows if row.bar == bar]
        known[bar] = {"about": " ".join(about), "rows": mine}
    known = {bar: known[bar] for bar in BARS if bar in known}
    RESULTS.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(table.insert(page, table.of_results(known)), encoding="utf-8")


def _measured(bench: Bench, names: Sequence[str]) -> Iterator[Row]:
    for name in names:
        _say(f"{name} …")
        for row in BARS[name](bench):
            _say("  " + "  ".join(filter(None, row.cells())))
            yield row


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="shorter runs, fewer of them: proves that it works")
    add("--only", nargs="+", choices=list(BARS), metavar="BAR", help=f"of {', '.join(BARS)}")
    add("--json", action="store_true", help="print JSON instead of the table")
    add("--write", action="store_true", help=f"put the rows into docs/{PAGE.name}")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
