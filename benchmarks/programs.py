"""The two C programs: built with the system's compiler, once per source, never committed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
FLAGS = ("-O2", "-Wall", "-Wextra", "-Werror")
HEADER = "kernel_time.h"


class BuildError(Exception):
    """The compiler is there and refuses."""


def compiler() -> str | None:
    """The system's C compiler (`CC`, else `cc`); None where there is none or this is not Linux."""
    if not hasattr(os, "sched_setaffinity"):  # the programs need Linux too
        return None
    return shutil.which(os.environ.get("CC") or "cc")


def build(name: str) -> Path | None:
    """The program of `<name>.c`, compiled unless this very source was before.

    None without a compiler; `BuildError` with its words if it refuses.
    """
    cc = compiler()
    if cc is None:
        return None
    source = HERE / f"{name}.c"
    digest = hashlib.sha256(cc.encode())
    for path in (source, HERE / HEADER):
        digest.update(path.read_bytes())
    program = _cache() / f"{name}-{digest.hexdigest()[:16]}"
    if program.exists():
        return program
    with tempfile.TemporaryDirectory(dir=program.parent) as folder:
        fresh = Path(folder) / name
        command = [cc, *FLAGS, "-o", str(fresh), str(source), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise BuildError(f"{' '.join(command)}\n{done.stderr}")
        fresh.replace(program)  # at once: another process may be building it too
    return program


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(root) / "loadlib" / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
