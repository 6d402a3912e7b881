"""Runs Locust and loadlib as child processes, and waits for what they do.

The pytest process itself never imports locust, gevent or openai.
"""

from __future__ import annotations

import gzip
import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import warm

LIMIT_S = 60.0
QUIET = {"NO_COLOR": "1", "COLUMNS": "160", "LOADLIB_NO_REPORT": "yes"}

# No delays but the tokens': answers of a chosen length in time, seen by whoever looks.
PROFILE = """
models:
  fast: {output_tok_s: 2000}
  steady: {first_token_delay_ms: 20, output_tok_s: 200}
  slow: {first_token_delay_ms: 20, output_tok_s: 10}
  watched: {first_token_delay_ms: 20, output_tok_s: 10}
"""


@dataclass
class Ended:
    """A child process that has ended."""

    code: int
    out: str
    err: str
    root: Path

    @property
    def folders(self) -> list[Path]:
        """Its run folders, oldest first."""
        return folders(self.root)

    @property
    def folder(self) -> Path:
        """Its only run folder."""
        (folder,) = self.folders
        return folder

    @property
    def summary(self) -> dict[str, Any]:
        return read(self.folder)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return rows(self.folder)

    def requests(self, **where: str) -> dict[str, int]:
        """The counts of the groups that match, added up."""
        total: dict[str, int] = {}
        for group in self.summary["groups"]:
            if all(group[name] == value for name, value in where.items()):
                for name, count in group["requests"].items():
                    total[name] = total.get(name, 0) + count
        return total


def folders(root: Path) -> list[Path]:
    return sorted(
        (path for path in root.glob("*") if path.is_dir() and not path.is_symlink()),
        key=lambda path: path.stat().st_ctime_ns,
    )


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def rows(folder: Path) -> list[dict[str, Any]]:
    path = folder / "requests.jsonl.gz"
    if not path.exists():
        return []
    with gzip.open(path) as file:
        return [json.loads(line) for line in file]


class Child:
    """A running process in a group of its own; `wait` ends it at the latest."""

    def __init__(
        self, command: Sequence[str], cwd: Path, env: Mapping[str, str], *, cold: bool = False
    ) -> None:
        self.cwd = cwd
        self._log = cwd / f"log-{time.monotonic_ns()}"
        self._out = self._log.with_suffix(".out").open("w+")
        self._err = self._log.with_suffix(".err").open("w+")
        self.env = own_port()
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("LOCUST", "LOADLIB"))}
        self.process = warm.start(
            *command,
            cwd=cwd,
            env={**clean, **self.env, **QUIET, **env},
            stdout=self._out,
            stderr=self._err,
            session=True,
            cold=cold,
        )

    @property
    def err(self) -> str:
        return Path(self._err.name).read_text()

    def until(self, condition: Callable[[], Any], limit_s: float = LIMIT_S) -> Any:
        """Poll; fails with the child's words where it does not come true."""

        def alive() -> Any:
            found = condition()
            if not found and self.process.poll() is not None:
                raise AssertionError(f"ended with {self.process.returncode}:\n{self.err}")
            return found

        try:
            return until(alive, limit_s)
        except TimeoutError:
            raise AssertionError(f"waited in vain:\n{self.err}") from None

    def signal(self, number: int, *, group: bool = False) -> None:
        """To the process, or as a terminal does, to all of its group."""
        (os.killpg if group else os.kill)(self.process.pid, number)

    def wait(self, limit_s: float = LIMIT_S) -> Ended:
        try:
            code = self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still running after {limit_s} s:\n{self.err}") from None
        return Ended(code, Path(self._out.name).read_text(), self.err, self.cwd / "reports")

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._out.close()
        self._err.close()


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def own_port() -> dict[str, str]:
    """A master's port of its own for every child: others test here too."""
    port = str(free_port())
    return {"LOCUST_MASTER_NODE_PORT": port, "LOCUST_MASTER_BIND_PORT": port}


def until(condition: Callable[[], Any], limit_s: float = LIMIT_S) -> Any:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        select.select([], [], [], 0.05)
    raise TimeoutError


class Driver:
    """Starts children in one folder and ends what a test leaves behind."""

    def __init__(self, folder: Path, base_url: str) -> None:
        self.folder, self.base_url = folder, base_url
        self.reports = folder / "reports"
        self._children: list[Child] = []

    def sub(self, name: str) -> Driver:
        """Another one in a folder below, for a child that runs at the same time."""
        folder = self.folder / name
        folder.mkdir()
        found = Driver(folder, self.base_url)
        found._children = self._children
        return found

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def scenario(self, load: str, **settings: Any) -> str:
        """A scenario file on the simulator's models; `load` is the YAML list of phases.

        `settings` are further keys, as JSON-able values. Returns its name.
        """
        whole: dict[str, Any] = {
            "version": 1,
            "name": "test",
            "models": ["fast"],
            "workloads": {"chat": {"kind": "chat", "output_tokens": 4}},
            "slo": ["all: error_rate < 50%"],
            **settings,
        }
        whole["models"] = [
            {"name": m, "base_url": self.base_url} if isinstance(m, str) else m
            for m in whole["models"]
        ]
        text = "\n".join(f"{key}: {json.dumps(value)}" for key, value in whole.items())
        return self.write("scenario.yaml", f"{text}\nload: {load}\n").name

    def start(self, *command: str, cold: bool = False, **env: str) -> Child:
        child = Child(command, self.folder, env, cold=cold)
        self._children.append(child)
        return child

    def run(self, *command: str, limit_s: float = LIMIT_S, **env: str) -> Ended:
        return self.start(*command, **env).wait(limit_s)

    def locust(self, file: str, *flags: str, **env: str) -> Ended:
        """Headless `locust -f FILE`."""
        return self.begin_locust(file, *flags, **env).wait()

    def loadlib(self, scenario: str, *flags: str, **env: str) -> Ended:
        return self.run("loadlib", "run", scenario, *flags, **env)

    @contextmanager
    def web(self, *command: str, base: str = "", **env: str) -> Iterator[Web]:
        """A web UI on a free port of loopback, where nobody asks for another address."""
        port, place = free_port(), 2 if command[0] == "loadlib" else 1
        flags = ("--web-port", str(port))
        child = self.start(*command[:place], *flags, *command[place:], **env)
        web = Web(child, port, base)
        yield web
        if child.process.poll() is None:
            child.kill()

    def live_rows(self) -> list[dict[str, Any]]:
        """What the newest run folder holds while the run lasts."""
        found = folders(self.reports) if self.reports.exists() else []
        try:
            return rows(found[-1]) if found else []
        except (EOFError, OSError):
            return []

    def begin_locust(self, file: str, *flags: str, cold: bool = False, **env: str) -> Child:
        """Headless `locust -f FILE`, not waited for."""
        command = "locust", "-f", file, "--headless", "--only-summary", *flags
        return self.start(*command, cold=cold, **env)

    def close(self) -> None:
        for child in self._children:
            child.kill()


class Web:
    """Locust's web UI, through HTTP."""

    def __init__(self, child: Child, port: int, base: str = "") -> None:
        self.child, self.port, self.base = child, port, base
        child.until(lambda: port in listening(child.process.pid))
        child.until(lambda: self.get("/") is not None)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.base}"

    def get(self, path: str) -> str | None:
        found = self.ask("GET", path)
        return None if found is None else found.body

    def post(self, path: str, **form: Any) -> dict[str, Any]:
        body = urllib.parse.urlencode(form, doseq=True)
        answer = self.ask("POST", path, body)
        assert answer is not None, self.child.err
        return json.loads(answer.body)

    def start(self, users: int = 1, rate: float = 100, **form: Any) -> dict[str, Any]:
        found = self.post("/swarm", user_count=users, spawn_rate=rate, **form)
        assert found["success"], found
        return found

    def stop(self) -> None:
        assert self.post("/stop") or True

    @property
    def stats(self) -> dict[str, Any]:
        return json.loads(self.get("/stats/requests") or "{}")

    @property
    def live(self) -> dict[str, Any]:
        """What the LLM tab is drawn from."""
        return json.loads(self.get("/llm/live.json") or "{}")

    @property
    def llm(self) -> list[dict[str, Any]]:
        """The rows of the LLM tab."""
        tabs = [tab for tab in self.stats["extended_stats"] if tab["key"] == "llm"]
        (tab,) = tabs
        return tab["data"]

    def ask(
        self, method: str, path: str, body: str | None = None, **headers: str
    ) -> Answered | None:
        """None where nobody listens (yet, or any more)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        kind = {"Content-Type": "application/x-www-form-urlencoded"} if body is not None else {}
        kind |= {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, self.base + path, body, kind)
            found = connection.getresponse()
            return Answered(found.status, dict(found.getheaders()), found.read().decode())
        except OSError:
            return None
        finally:
            connection.close()


@dataclass
class Answered:
    """A response of the web UI."""

    status: int
    headers: dict[str, str]
    body: str


def listening(pid: int) -> set[int]:
    """The TCP ports that a process listens on, on 127.0.0.1 alone."""
    wanted, found = set(), set()
    for fd in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            link = re.match(r"socket:\[(\d+)\]", str(fd.readlink()))
        except OSError:
            continue
        if link:
            wanted.add(link[1])
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        host, port = fields[1].split(":")
        if fields[3] == "0A" and host == "0100007F" and fields[9] in wanted:
            found.add(int(port, 16))
    return found


def served(counters: dict[str, float], name: str) -> dict[str, float]:
    """Model → a counter of the simulator's /metrics."""
    pattern = re.compile(rf'^vllm:{name}\{{.*model_name="([^"]+)".*\}}$')
    total: dict[str, float] = {}
    for sample, value in counters.items():
        match = pattern.match(sample)
        if match:
            total[match[1]] = total.get(match[1], 0.0) + value
    return total


def workers_of(child: Child) -> list[int]:
    """The worker processes that `--processes` forked."""
    parent = child.process.pid
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            line = (path / "cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == parent and b"loadlib.simulator" not in line:
            found.append(int(path.name))
    return sorted(found)


def in_group(group: int) -> list[int]:
    """The processes of a group that are left."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(path.name))
    return found
