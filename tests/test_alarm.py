"""Waking at instants, and building ahead of them. gevent lives in child processes."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from functools import cache
from typing import Any

import pytest

BOTH = """
import json, os, time
import gevent
from loadlib.swarm import alarm as module
from loadlib.swarm.alarm import Spinner, Timer, alarm

def lateness(wait, n, gap_ns=3_100_000):
    found, start_ns, cpu = [], time.monotonic_ns() + gap_ns, time.process_time_ns()
    for i in range(n):
        due_ns = start_ns + i * gap_ns
        wait(due_ns)
        found.append(time.monotonic_ns() - due_ns)
    return sorted(found), (time.process_time_ns() - cpu) / n

def sleep(due_ns):
    gevent.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)
"""


def child(code: str) -> Any:
    """What the last line printed by `code` says, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", BOTH + textwrap.dedent(code)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@cache
def measured() -> dict[str, Any]:
    return child(
        """
        found = {}
        for kind in (Timer, Spinner):
            one = kind()
            late, cpu_ns = lateness(one.wait_until, 120)
            found[kind.__name__] = {"first": late[0], "median": late[60], "cpu_ns": cpu_ns}
            one.close()
        found["sleep"] = {"median": lateness(sleep, 120)[0][60]}
        print(json.dumps(found))
        """
    )


linux = pytest.mark.skipif(sys.platform != "linux", reason="timerfd is Linux's")


@linux
@pytest.mark.parametrize("kind", ["Timer", "Spinner"])
def test_an_alarm_is_never_early(kind):
    assert measured()[kind]["first"] >= 0


@linux
def test_a_timer_is_later_than_looking_and_earlier_than_the_loops_own_timers():
    assert measured()["Timer"]["median"] < measured()["sleep"]["median"] / 2


@linux
def test_a_timer_leaves_the_core_to_others():
    assert measured()["Timer"]["cpu_ns"] < measured()["Spinner"]["cpu_ns"] / 4


@linux
@pytest.mark.parametrize("kind", ["Timer", "Spinner"])
def test_who_rings_ends_the_wait_or_the_next_one_and_only_one(kind):
    found = child(
        f"""
        one, log, far_ns = {kind}(), [], time.monotonic_ns() + 3600 * 10**9

        def sleeper():
            one.wait_until(far_ns)
            log.append("rung while waiting")
            one.ring()
            one.wait_until(far_ns)
            log.append("rung before")
            soon_ns = time.monotonic_ns() + 20_000_000
            one.wait_until(soon_ns)
            log.append("waited" if time.monotonic_ns() >= soon_ns else "early")

        waiting = gevent.spawn(sleeper)
        gevent.sleep(0.01)
        log.append("nothing yet")
        one.ring()
        waiting.join()
        one.wait_until(0)
        print(json.dumps(log))
        """
    )
    assert found == ["nothing yet", "rung while waiting", "rung before", "waited"]


@linux
def test_an_alarm_gives_its_descriptor_back_and_may_be_closed_twice():
    found = child(
        """
        alarm().close()  # the event loop opens files of its own on first use
        before = os.listdir("/proc/self/fd")
        for _ in range(50):
            one = alarm()
            one.wait_until(time.monotonic_ns() + 1000)
            one.close()
            one.close()
            one.ring()
        print(json.dumps([len(before), len(os.listdir("/proc/self/fd")), type(one).__name__]))
        """
    )
    assert found[0] == found[1]
    assert found[2] == "Timer"


@linux
def test_a_killed_sleeper_leaves_an_alarm_for_the_next():
    found = child(
        """
        one = alarm()
        first = gevent.spawn(one.wait_until, time.monotonic_ns() + 30_000_000)
        gevent.sleep(0.001)
        first.kill()
        due_ns = time.monotonic_ns() + 60_000_000  # the first one's instant lies before it
        one.wait_until(due_ns)
        print(json.dumps(time.monotonic_ns() >= due_ns))
        """
    )
    assert found is True


def test_without_timerfd_the_clock_is_looked_at():
    found = child(
        """
        def refuse():
            raise OSError(38, "Function not implemented")

        module._create = refuse
        one = alarm()
        due_ns = time.monotonic_ns() + 5_000_000
        one.wait_until(due_ns)
        print(json.dumps([type(one).__name__, time.monotonic_ns() >= due_ns]))
        """
    )
    assert found == ["Spinner", True]


# -- building ahead --------------------------------------------------------------------------------

FEED = """
from loadlib.swarm.feed import Feed
built = []
def source(n):
    for i in range(n):
        built.append(i)
        yield i
"""


def feed(code: str) -> Any:
    return child(FEED + textwrap.dedent(code))


def test_a_line_is_filled_up_when_half_of_it_is_gone():
    found = feed(
        """
        line = Feed({"a": source(100)}, 8)
        line.start(); line.start()
        line.ready.wait()
        log, taken = [len(built)], line.items("a")
        for _ in range(12):
            next(taken)
            gevent.sleep(0)
            log.append(len(built))
        line.stop()
        print(json.dumps(log))
        """
    )
    # Eight ahead; the fourth taken leaves four, half: filled up to eight again.
    assert found == [8, 8, 8, 8, 12, 12, 12, 12, 16, 16, 16, 16, 20]


@pytest.mark.parametrize("ahead", [1, 2, 7, 64])
def test_every_item_comes_once_and_in_order_however_it_is_taken(ahead):
    found = feed(
        f"""
        def slow(n):
            for i in range(n):
                gevent.sleep(0.001 if i % 5 == 0 else 0)
                yield i

        line = Feed({{"a": source(40), "b": slow(23), "none": iter(())}}, {ahead})
        line.start()
        line.ready.wait()
        keys = [*line.keys, "unknown"]
        takers = [gevent.spawn(lambda key=key: list(line.items(key))) for key in keys]
        gevent.joinall(takers)
        print(json.dumps([taker.value for taker in takers]))
        """
    )
    assert found == [list(range(40)), list(range(23)), [], []]


def test_nobody_waits_for_what_failed_to_be_built():
    found = feed(
        """
        def broken():
            yield 1
            raise ValueError("not a prompt")

        gevent.get_hub().NOT_ERROR += (ValueError,)  # its traceback is not what is looked at
        line = Feed({"a": broken()}, 4)
        line.start()
        line.ready.wait()
        print(json.dumps(list(line.items("a"))))
        """
    )
    assert found == [1]


def test_long_building_gives_way():
    found = feed(
        """
        def long():
            for i in range(40):
                end_ns = time.monotonic_ns() + 1_000_000
                while time.monotonic_ns() < end_ns:
                    pass
                yield i

        turns = []
        def other():
            while True:
                turns.append(1)
                gevent.sleep(0.001)

        gevent.spawn(other)
        line = Feed({"a": long()}, 40)
        line.start()
        line.ready.wait()
        print(json.dumps(len(turns)))
        """
    )
    assert found > 10  # of about forty; without giving way, one
