"""Waking at instants, building ahead of them, handing out. gevent lives in a child process: all
cases run in one, each in a namespace of its own, and say what they found as JSON."""

from __future__ import annotations

import json
import sys
import textwrap
from functools import cache
from typing import Any

import pytest
from warm import printed

pytestmark = pytest.mark.alone

COMMON = """
import json, os, time
import gevent
from loadlib.swarm import alarm as module
from loadlib.swarm.alarm import Spinner, Timer, alarm
from loadlib.swarm.feed import Feed
from loadlib.swarm.line import Line

def lateness(wait, n, gap_ns=3_100_000):
    late, start_ns, cpu = [], time.monotonic_ns() + gap_ns, time.process_time_ns()
    for i in range(n):
        due_ns = start_ns + i * gap_ns
        wait(due_ns)
        late.append(time.monotonic_ns() - due_ns)
    late.sort()
    cpu_ns = (time.process_time_ns() - cpu) / n
    return {"first": late[0], "median": late[n // 2], "cpu_ns": cpu_ns}

def sleep(due_ns):
    gevent.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)
"""

MEASURED = """
found = {"sleep": lateness(sleep, 120)}
for kind in (Timer, Spinner):
    one = kind()
    found[kind.__name__] = lateness(one.wait_until, 120)
    one.close()
"""

RINGING = """
one, found, far_ns = KIND(), [], time.monotonic_ns() + 3600 * 10**9

def sleeper():
    one.wait_until(far_ns)
    found.append("rung while waiting")
    one.ring()
    one.wait_until(far_ns)
    found.append("rung before")
    soon_ns = time.monotonic_ns() + 20_000_000
    one.wait_until(soon_ns)
    found.append("waited" if time.monotonic_ns() >= soon_ns else "early")

waiting = gevent.spawn(sleeper)
gevent.sleep(0.01)
found.append("nothing yet")
one.ring()
waiting.join()
one.wait_until(0)
"""

CLOSING = """
alarm().close()  # the event loop opens files of its own on first use
gevent.sleep(0.01)  # gevent closes a file when its loop turns
before = len(os.listdir("/proc/self/fd"))
for _ in range(50):
    one = alarm()
    one.wait_until(time.monotonic_ns() + 1000)
    one.close()
    one.close()
    one.ring()
gevent.sleep(0.01)
found = [len(os.listdir("/proc/self/fd")) - before, type(one).__name__]
"""

KILLED_SLEEPER = """
one = alarm()
first = gevent.spawn(one.wait_until, time.monotonic_ns() + 30_000_000)
gevent.sleep(0.001)
first.kill()
due_ns = time.monotonic_ns() + 60_000_000  # the first one's instant lies before it
one.wait_until(due_ns)
found = time.monotonic_ns() >= due_ns
"""

NO_TIMERFD = """
def refuse():
    raise OSError(38, "Function not implemented")

kept, module._create = module._create, refuse
try:
    one = alarm()
finally:
    module._create = kept
due_ns = time.monotonic_ns() + 5_000_000
one.wait_until(due_ns)
found = [type(one).__name__, time.monotonic_ns() >= due_ns]
"""

HALF_LINES = """
built = []
def source():
    for i in range(100):
        built.append(i)
        yield i

feed = Feed({"a": source()}, 8)
feed.start(); feed.start()
feed.ready.wait()
found, taken = [len(built)], feed.items("a")
for _ in range(12):
    next(taken)
    gevent.sleep(0)
    found.append(len(built))
feed.stop()
"""

IN_ORDER = """
def slow(n):
    for i in range(n):
        gevent.sleep(0.001 if i % 5 == 0 else 0)
        yield i

feed = Feed({"a": iter(range(40)), "b": slow(23), "none": iter(())}, AHEAD)
feed.start()
feed.ready.wait()
takers = [gevent.spawn(lambda key=key: list(feed.items(key))) for key in [*feed.keys, "unknown"]]
gevent.joinall(takers)
found = [taker.value for taker in takers]
"""

BROKEN_SOURCE = """
def broken():
    yield 1
    raise LookupError("not a prompt")

hub = gevent.get_hub()
hub.NOT_ERROR += (LookupError,)  # its traceback is not what is looked at
feed = Feed({"a": broken()}, 4)
feed.start()
feed.ready.wait()
found = list(feed.items("a"))
"""

LONG_BUILDING = """
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

watching = gevent.spawn(other)
feed = Feed({"a": long()}, 40)
feed.start()
feed.ready.wait()
watching.kill()
found = len(turns)
"""

USERS = """
line, found = Line(), []

def user(name):
    item = line.get()
    found.append([name, item])

def users(*names):
    waiting = [gevent.spawn(user, name) for name in names]
    gevent.sleep(0)
    return waiting
"""

SERVED = """
waiting = users("a", "b")
for item in range(4):
    line.put(item)
waiting += users("c", "d")
gevent.joinall(waiting, raise_error=True)
"""

KILLED_WHILE_WAITING = """
a, b = users("a", "b")
a.kill()
line.put(1)
b.join()
"""

KILLED_WHEN_SERVED = """
waiting = users("a", "b") if WAITING else users("a")
waiting[0].kill(block=False)  # before anything else gets its turn …
line.put(1)
gevent.sleep(0.01)
if not WAITING:
    waiting += users("b")
line.put(2)
gevent.joinall(waiting)
found.append(line.head)
"""

CLOSED = """
waiting = users("a", "b")
line.put(1)
line.close()
gevent.joinall(waiting)
line.put(2)
gevent.joinall(users("c", "d"))
"""

TAKEN_OUT = """
for item in (1, 2, 3):
    line.put(item)
found.append(line.head)
line.drop()
found.append(line.take())
found.append(line.head)
"""

CROWD = """
def again():
    while line.get() is not None:
        pass

def cost(n):
    waiting = [gevent.spawn(again) for _ in range(n)]
    gevent.sleep(0)
    best = None
    for _ in range(5):
        begin = time.process_time_ns()
        for item in range(400):
            line.put(item)
            gevent.sleep(0)
        used = time.process_time_ns() - begin
        best = used if best is None else min(best, used)
    gevent.killall(waiting)
    return best

found = cost(10_000) / cost(10)
"""

CASES = {
    "measured": MEASURED,
    "ringing Timer": RINGING.replace("KIND", "Timer"),
    "ringing Spinner": RINGING.replace("KIND", "Spinner"),
    "closing": CLOSING,
    "killed sleeper": KILLED_SLEEPER,
    "no timerfd": NO_TIMERFD,
    "half lines": HALF_LINES,
    **{f"ahead {n}": IN_ORDER.replace("AHEAD", str(n)) for n in (1, 2, 7, 64)},
    "broken source": BROKEN_SOURCE,
    "long building": LONG_BUILDING,
    "served": USERS + SERVED,
    "killed while waiting": USERS + KILLED_WHILE_WAITING,
    "killed, others waiting": USERS + KILLED_WHEN_SERVED.replace("WAITING", "True"),
    "killed, others coming": USERS + KILLED_WHEN_SERVED.replace("WAITING", "False"),
    "closed": USERS + CLOSED,
    "taken out": USERS + TAKEN_OUT,
    "crowd": USERS + CROWD,
}


@cache
def outcomes() -> dict[str, Any]:
    """What every case found; one that raised says how instead."""
    code = COMMON + textwrap.dedent(
        f"""
        import traceback
        outcomes = {{}}
        for name, case in {CASES!r}.items():
            space = {{key: value for key, value in globals().items() if key != "found"}}
            try:
                exec(case, space)
                outcomes[name] = space["found"]
            except Exception:
                outcomes[name] = traceback.format_exc()
        print(json.dumps(outcomes))
        """
    )
    return json.loads(printed(code).splitlines()[-1])


# -- waking ----------------------------------------------------------------------------------------

linux = pytest.mark.skipif(sys.platform != "linux", reason="timerfd is Linux's")


@linux
@pytest.mark.parametrize("kind", ["Timer", "Spinner"])
def test_an_alarm_is_never_early(kind):
    assert outcomes()["measured"][kind]["first"] >= 0


@linux
def test_a_timer_wakes_earlier_than_the_loops_own_timers():
    found = outcomes()["measured"]
    assert found["Timer"]["median"] < found["sleep"]["median"] / 2


@linux
def test_a_timer_leaves_the_core_to_others():
    found = outcomes()["measured"]
    assert found["Timer"]["cpu_ns"] < found["Spinner"]["cpu_ns"] / 4


@linux
@pytest.mark.parametrize("kind", ["Timer", "Spinner"])
def test_who_rings_ends_the_wait_or_the_next_one_and_only_one(kind):
    found = outcomes()[f"ringing {kind}"]
    assert found == ["nothing yet", "rung while waiting", "rung before", "waited"]


@linux
def test_an_alarm_gives_its_descriptor_back_and_may_be_closed_twice():
    assert outcomes()["closing"] == [0, "Timer"]


@linux
def test_a_killed_sleeper_leaves_the_alarm_to_the_next():
    assert outcomes()["killed sleeper"] is True


def test_without_timerfd_the_clock_is_looked_at():
    assert outcomes()["no timerfd"] == ["Spinner", True]


# -- building ahead --------------------------------------------------------------------------------


def test_a_line_is_filled_up_when_half_of_it_is_gone():
    # Eight ahead; the fourth taken leaves four, half: filled up to eight again.
    assert outcomes()["half lines"] == [8, 8, 8, 8, 12, 12, 12, 12, 16, 16, 16, 16, 20]


@pytest.mark.parametrize("ahead", [1, 2, 7, 64])
def test_every_item_comes_once_and_in_order_however_many_are_ahead(ahead):
    assert outcomes()[f"ahead {ahead}"] == [list(range(40)), list(range(23)), [], []]


def test_nobody_waits_for_what_failed_to_be_built():
    assert outcomes()["broken source"] == [1]


def test_long_building_gives_way():
    assert outcomes()["long building"] > 10  # of about forty; without giving way, one


# -- handing out -----------------------------------------------------------------------------------


def test_a_line_serves_in_order_on_both_sides():
    assert outcomes()["served"] == [["a", 0], ["b", 1], ["c", 2], ["d", 3]]


def test_who_is_killed_while_waiting_is_passed_over():
    assert outcomes()["killed while waiting"] == [["b", 1]]


@pytest.mark.parametrize("others", ["waiting", "coming"])
def test_what_was_given_to_one_who_was_killed_goes_to_the_next(others):
    given = outcomes()[f"killed, others {others}"]
    assert given == [["b", 1], 2]


def test_a_closed_line_gives_what_it_has_and_sends_the_rest_home():
    assert outcomes()["closed"] == [["a", 1], ["b", None], ["c", 2], ["d", None]]


def test_what_waits_can_be_taken_out():
    assert outcomes()["taken out"] == [1, [2, 3], None]


def test_ten_thousand_users_wait_for_the_price_of_ten():
    """Some cache misses more; looking through all of them would be a hundred times."""
    assert outcomes()["crowd"] < 5
