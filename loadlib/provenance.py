"""Where a run came from: versions, git, machine. Read once, when a run folder is made."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("loadlib", "locust", "openai", "httpx2", "httptools", "gevent", "hdrhistogram", "numpy")


def environment(extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`versions`, `git` (None outside a work tree) and `environment` of this machine."""
    machine = {
        "host": platform.node(),
        "os": platform.system(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpus": _cpus(),
        "cpu_model": _cpu_model(),
        "ci": os.environ.get("CI", "").lower() in ("1", "true"),
    }
    return {
        "versions": {"python": platform.python_version()} | _versions(),
        "git": _git(),
        "environment": machine | dict(extra or {}),
    }


def processor() -> tuple[str | None, int | None]:
    """Model of the CPU, and how many this process may use."""
    return _cpu_model(), _cpus()


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpus() -> int | None:
    """CPUs this process may use, which in a container is less than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _cpu_model() -> str | None:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or None
    named = (line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line)
    return next(named, None)


def _git() -> dict[str, str | None] | None:
    """Commit and branch of the folder loadlib was started in, if it is a git work tree."""
    commit = _ask_git("rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "branch": _ask_git("symbolic-ref", "--short", "HEAD")}


def _ask_git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 — fixed words, no shell
            ["git", *arguments],  # noqa: S607 — whichever git the user has
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
