"""The public command in a process of its own, as a shell would call it."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import warm

NO_CACHE = str(Path(tempfile.gettempdir()) / "loadlib-cache-of-tests")
WITH_PAGE = {"LOADLIB_NO_REPORT": "no"}  # `environment` leaves it out: it is half of a short run
_SILENT = ("= locust ", "! ")  # the equal Locust line, and remarks: neither is an error


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def remarks(self) -> list[str]:
        return [line[2:] for line in self.err.splitlines() if line.startswith("! ")]


def environment(**variables: str) -> dict[str, str]:
    """This one without keys, proxies and what a CI adds, so that every machine is alike."""
    unwanted = ("_PROXY", "_API_KEY", "LOADLIB_SCENARIO", "GITHUB_STEP_SUMMARY", "NO_COLOR")
    kept = {name: text for name, text in os.environ.items() if not name.upper().endswith(unwanted)}
    # Nor is it to matter what this machine was calibrated to.
    ours = {"COLUMNS": "200", "XDG_CACHE_HOME": NO_CACHE, "LOADLIB_NO_REPORT": "yes"}
    return {**kept, **ours, **variables}


def start(
    *arguments: object, cwd: Path | None = None, cold: bool = False, **variables: str
) -> warm.Process:
    words = map(str, arguments)
    return warm.start("loadlib", *words, cwd=cwd, cold=cold, env=environment(**variables))


def loadlib(
    *arguments: object,
    cwd: Path | None = None,
    cold: bool = False,
    limit_s: float = 90.0,
    **variables: str,
) -> Done:
    """Run it to its end; further keywords are environment variables."""
    process = start(*arguments, cwd=cwd, cold=cold, **variables)
    try:
        out, err = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"loadlib {arguments} did not end:\n{err[-3000:]}") from None
    return Done(process.returncode, out, err)


def batch(*commands: Sequence[object]) -> list[Done]:
    """Several commands, one after the other."""
    return [loadlib(*command) for command in commands]


def refused(done: Done, code: int, *words: str) -> str:
    """`done` is one `error: …` line with these words, this exit code, and nothing else."""
    said = [line for line in done.err.splitlines() if line and not line.startswith(_SILENT)]
    assert len(said) == 1, done.err
    assert said[0].startswith("error: "), done.err
    assert done.code == code, done.err
    assert done.out == ""
    missing = [word for word in words if word not in said[0]]
    assert not missing, f"{missing} not in {said[0]!r}"
    return said[0]


def scenario(folder: Path, base_url: str | None = None, **replaced: object) -> Path:
    """A small valid scenario, top-level keys replaced; `None` leaves one out."""
    model: object = "gpt-4o-mini"
    if base_url is not None:
        model = {"name": "gpt-4o-mini", "base_url": base_url}
    data = {
        "version": 1,
        "name": "small",
        "target": "simulator" if base_url is None else None,
        "models": [model],
        "workloads": {"chat": {"kind": "chat", "output_tokens": 8}},
        "load": [{"phase": "measure", "requests": 12, "arrival": "constant", "rate": "40/s"}],
        "slo": ["all: ttft.p50 < 5s"],
        **replaced,
    }
    path = folder / "small.yaml"
    kept = {key: value for key, value in data.items() if value is not None}
    path.write_text(json.dumps(kept, ensure_ascii=False, indent=1), encoding="utf-8")
    return path
