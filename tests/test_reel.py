"""Who says when a token came: the kernel, however late the reader is; and what if it does not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_client import make_certificate

CHILD = Path(__file__).with_name("reel_child.py")
linux = pytest.mark.skipif(sys.platform != "linux", reason="kernel receive times are Linux's")


def run(name: str, *arguments: object) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(CHILD), name, *map(str, arguments)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return json.loads(done.stdout)


def check_late_reader(seen: dict[str, Any]) -> None:
    # The token waited 200 ms to be read; a reader's own clock would have been wrong by that.
    assert seen["kernel"]
    assert seen["lag_ms"] > 150
    assert 0 <= seen["errors_ms"][0] < seen["lag_ms"] / 10
    assert seen["in_order"]


@linux
def test_a_late_reader_does_not_make_a_token_late() -> None:
    check_late_reader(run("late_reader"))


@linux
def test_nor_does_it_under_tls(tmp_path: Path) -> None:
    check_late_reader(run("late_reader_over_tls", *make_certificate(tmp_path, "IP:127.0.0.1")))


@linux
def test_what_waits_together_has_the_time_of_the_last() -> None:
    """The limit of kernel times, and why merged reads are counted."""
    seen = run("merged")
    assert seen["reads"] == 1
    first, second, last = seen["errors_ms"]
    assert first > second > 10 * abs(last)


def test_code_that_reads_slowly_does_not_make_tokens_late() -> None:
    seen = run("slow_consumer")
    assert max(seen["errors_ms"]) < seen["took_ms"] / 10


def test_without_kernel_times_each_event_is_read_at_once_and_counted() -> None:
    seen = run("user_clock")
    assert not seen["kernel"]
    assert seen["reads"] == 10, "no two tokens in one read"
    assert min(seen["errors_ms"]) >= 0
    assert seen["lags"] == 0, "how late a read was is not known"
    assert seen["user_clock_reads"] >= 10


def test_a_kernel_that_promises_times_and_gives_none() -> None:
    seen = run("broken_promise")
    assert seen["user_clock_reads"] >= 40
    assert seen["watched"] == 1, "read at once from then on"
    assert min(seen["errors_ms"]) >= 0


@linux
def test_a_step_of_the_wall_clock_is_noticed_and_does_no_harm() -> None:
    seen = run("clock_step")
    assert seen["steps"] == 1
    assert seen["in_order"]
    assert all(0 <= error < 3_600_000 / 1000 for error in seen["errors_ms"])


def test_an_idle_connection_stays_with_the_reel_until_it_is_closed() -> None:
    seen = run("idle_connections")
    assert [reused for reused, _ in seen["kept"]] == [False, True, True]
    assert len({watched for _, watched in seen["kept"]}) == 1
    assert seen["left"] == 0


@linux
def test_the_tick_follows_the_gaps_between_reads() -> None:
    seen = run("tick")
    assert seen["steady"] == 4, "a few short gaps at the end of each stream do not count"
    assert seen["fast"] <= 2 / 3, "several looks per gap"
    assert seen["faster"] == 0.5, "no shorter than this"
    assert seen["back"] > seen["fast"]
