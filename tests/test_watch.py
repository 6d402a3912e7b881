"""A process that watches itself: what it notes, in a child (pytest never imports gevent)."""

import json
import sys

import pytest
from warm import printed


def child(code: str) -> dict:
    """What a process of its own with loadlib's gevent prints as JSON."""
    return json.loads(printed(code).splitlines()[-1])


PARTS = """
import json, os, tempfile
from loadlib.swarm.watch import LAG_EVERY_NS, Pauses, Waiting, lateness

pauses = Pauses(clock=iter([100, 350, 400, 1400]).__next__)
pauses("stop", {})           # began before anyone looked: its length is not known
pauses("start", {}); pauses("stop", {})
pauses("start", {})          # still going on
early = pauses.take()
pauses("stop", {})
found = {"early": early, "late": pauses.take(), "none": pauses.take()}

def total(content):
    with tempfile.NamedTemporaryFile("w", delete=False) as file:
        file.write(content)
    try:
        with Waiting(file.name) as waiting:
            return [waiting.total_ns(), waiting.total_ns()]
    finally:
        os.unlink(file.name)

found["lateness"] = [list(lateness(n)) for n in (0, 5, LAG_EVERY_NS, 50_000_000)]
found["read"] = total("9000 1234 5\\n")
found["short"] = total("9000\\n")
found["empty"] = total("")
with Waiting("/nowhere/schedstat") as waiting:
    found["absent"] = waiting.total_ns()
closed = Waiting()
with closed:
    pass
found["closed"] = closed.total_ns()
print(json.dumps(found))
"""


def test_pauses_and_waiting_are_read_and_unknown_stays_unknown():
    found = child(PARTS)
    assert (found["early"], found["late"], found["none"]) == ([250], [1000], [])
    assert found["lateness"] == [[0], [5], [20_000_000], [50_000_000, 30_000_000, 10_000_000]], (
        "50 ms late: the looks due 20 and 40 ms into it would have been late, too"
    )
    assert found["read"] == [1234, 1234], "read again from the start each time"
    assert (found["short"], found["empty"]) == ([None, None], [None, None])
    assert (found["absent"], found["closed"]) == (None, None)


WATCHED = """
import gc, json, time, gevent
from gevent.event import Event
from loadlib.recorder import Recorder, Totals
from loadlib.swarm import watch

watch.CPU_EVERY_NS = 50_000_000  # a second, in short
recorder, finished = Recorder(0), Event()
greenlet = gevent.spawn(watch.watch, recorder, finished)
gevent.sleep(0.03)
gc.collect()
until = time.process_time() + 0.2
while time.process_time() < until:  # holds the event loop, and a core
    pass
gevent.sleep(0.03)
finished.set()
greenlet.join()
totals = Totals()
totals.merge(recorder.drain(time.monotonic_ns()))
print(json.dumps({
    "notes": {name: [hist.n, hist.max] for name, hist in totals.notes.items()},
    "callbacks": sum(isinstance(c, watch.Pauses) for c in gc.callbacks),
    "alive": not greenlet.ready(),
}))
"""


def test_a_held_event_loop_a_collection_and_a_busy_core_are_noted():
    found = child(WATCHED)
    notes = found["notes"]
    assert notes["hub_lag"][1] >= 150_000, "0.2 s of CPU kept it from waking"
    assert notes["gc_pause"][0] >= 1
    assert notes["cpu_permille"][1] > 0
    assert (found["callbacks"], found["alive"]) == (0, False), "nothing stays behind"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how long a process waited")
def test_waiting_for_the_core_is_noted_on_linux():
    assert "cpu_wait_permille" in child(WATCHED)["notes"]
