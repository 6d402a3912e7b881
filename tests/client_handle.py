"""A handle on a child process that holds the client."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

ANSWER_S = 60.0
SHORT = {"connect_s": 5.0, "first_token_s": 0.3, "idle_s": 0.3, "total_s": 5.0}
CLEAN = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir")


class Driver:
    """One child process (see client_driver.py)."""

    def __init__(self, kind: str) -> None:
        environ = {k: v for k, v in os.environ.items() if k.lower() not in CLEAN}
        environ = {k: v for k, v in environ.items() if not k.startswith("OPENAI_")}
        command = [sys.executable, str(Path(__file__).with_name("client_driver.py")), kind]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            text=True, env=environ,
        )  # fmt: skip

    def do(self, op: str, base_url: str = "", **job: Any) -> dict[str, Any]:
        """Perform a job: {value, samples, raised: [type, message] or None}."""
        if base_url:
            job["model"] = {"base_url": base_url} | job.get("model", {})
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps({"op": op, **job}) + "\n")
        stdin.flush()
        ready, _, _ = select.select([stdout], [], [], ANSWER_S)
        line = stdout.readline() if ready else ""
        if not line:
            self._errors.seek(0)
            pytest.fail(f"the driver did not answer to {op} {job}:\n{self._errors.read()}")
        return json.loads(line)

    def send(self, base_url: str, **job: Any) -> list[dict[str, Any]]:
        """The samples of one or `count` requests."""
        result = self.do("send", base_url, **job)
        assert result["raised"] is None, result["raised"]
        return result["samples"]

    def one(self, base_url: str, **job: Any) -> dict[str, Any]:
        (sample,) = self.send(base_url, **job)
        return sample

    def stop(self) -> str:
        """End it; what it wrote to stderr."""
        if self._process.poll() is None:
            self._process.terminate()
        self._process.communicate(timeout=30)
        self._errors.seek(0)
        with self._errors:
            return self._errors.read()
