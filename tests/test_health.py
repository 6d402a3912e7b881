import pytest

from loadlib.health import (
    RESPONSE_CLOCK,
    SENT_CLOCK,
    STAMPED,
    Offered,
    Readings,
    judge,
    more_processes,
    why_late,
)


def checks(**readings):
    return {check.name: check for check in judge(Readings(**readings)).checks}


KERNEL = {"merged_share": 0.0, "user_clock_share": 0.0}


@pytest.mark.parametrize(
    ("readings", "name", "status", "why"),
    [
        ({"arrival_lag_p99_ms": 5.0}, "arrival_lag_p99_ms", "ok", "at the limit is within it"),
        ({"arrival_lag_p99_ms": 5.1}, "arrival_lag_p99_ms", "warn", "late, but it is in ttft"),
        (
            {"arrival_lag_p99_ms": 900.0, "closed_loop": True},
            "arrival_lag_p99_ms",
            None,
            "a closed loop has no time at which a request was due",
        ),
        ({}, "arrival_lag_p99_ms", None, "not measured is not fine, it is not there"),
        ({"hub_lag_p99_ms": 50.0}, "hub_lag_p99_ms", "warn", "lags only warn"),
        ({"hub_lag_max_ms": 100.0}, "hub_lag_max_ms", "ok", "one stall spoils no percentile"),
        ({"hub_lag_max_ms": 101.0}, "hub_lag_max_ms", "warn", "a long one is worth looking for"),
        ({"reader_lag_p99_ms": 6.0}, "reader_lag_p99_ms", "warn", "likewise"),
        (
            {"reader_lag_p99_ms": 6.0, "merged_share": 0.009},
            "reader_lag_p99_ms",
            "ok",
            "what waits alone keeps its kernel time, however long",
        ),
        ({"reader_lag_p99_ms": 6.0, "merged_share": 0.02}, "reader_lag_p99_ms", "warn", "merged"),
        ({"reader_lag_p99_ms": 2.0, "merged_share": 0.5}, "reader_lag_p99_ms", "ok", "in time"),
        ({"user_clock_share": 1.0}, "user_clock_share", "ok", "a fact, no fault: hub lag warns"),
        ({}, "user_clock_share", None, "nobody told"),
        ({"gc_pause_max_ms": 10.0}, "gc_pause_max_ms", "ok", "a short stop"),
        ({"gc_pause_max_ms": 11.0}, "gc_pause_max_ms", "warn", "a long one"),
        ({"cpu_share_max": 0.9}, "cpu_share_max", "ok", "busy"),
        ({"cpu_share_max": 0.97}, "cpu_share_max", "warn", "saturated"),
        ({"cpu_wait_share_p90": 0.02}, "cpu_wait_share_p90", "ok", "some waiting is normal"),
        ({"cpu_wait_share_p90": 0.5}, "cpu_wait_share_p90", "warn", "a burner on our core"),
        ({}, "cpu_wait_share_p90", None, "not Linux: unknown, not fine"),
        ({"clock_steps": 0}, "clock_steps", "ok", "nobody set it"),
        ({"clock_steps": 1}, "clock_steps", "warn", "stamps moved with it"),
        ({"ceiling_share": 0.2}, "ceiling_share", "warn", "the schedule did not hold"),
        ({"delivered_share": 0.95}, "delivered_share", "ok", "at the limit is enough"),
        ({"delivered_share": 0.9499}, "delivered_share", "bad", "what was not sent, not tested"),
        ({}, "delivered_share", None, "a closed loop offers nothing"),
        ({}, "lost_samples", "ok", "always counted"),
        ({"lost": 1}, "lost_samples", "bad", "one is enough: it may be the slowest"),
        ({"overflow": 1}, "histogram_overflow", "bad", "a latency beyond an hour"),
        ({"recorder_errors": 1}, "recorder_errors", "bad", "measured and not recorded"),
        ({"sequence_gaps": 1}, "sequence_gaps", "bad", "a second of a worker is missing"),
    ],
)
def test_checks(readings, name, status, why):
    found = checks(**readings).get(name)
    assert (None if found is None else found.status) == status, why
    if found is not None:
        assert bool(found.remedy) == (status != "ok"), "a remedy where one is needed"


@pytest.mark.parametrize(
    ("readings", "status"),
    [
        ({}, "ok"),
        ({"hub_lag_p99_ms": 50.0}, "warn"),
        ({"hub_lag_p99_ms": 50.0, "lost": 1}, "bad"),
    ],
)
def test_the_worst_check_is_the_health(readings, status):
    assert judge(Readings(**readings)).status == status


RESPONSE = ("ttfb", "ttft", "ttfo", "ttfc", "e2e")


@pytest.mark.parametrize(
    ("readings", "name", "bound_ms", "applies_to", "direction", "why"),
    [
        ({"arrival_lag_p99_ms": 3}, "arrival_lag_p99_ms", 3, RESPONSE, "longer", "never shorter"),
        ({"hub_lag_p99_ms": 3}, "hub_lag_p99_ms", 3, STAMPED, "either", "it is what stamps"),
        ({"hub_lag_p99_ms": 3} | KERNEL, "hub_lag_p99_ms", None, (), "", "the kernel stamps"),
        (
            {"reader_lag_p99_ms": 3, "merged_share": 0.0},
            "reader_lag_p99_ms",
            0,
            RESPONSE_CLOCK + SENT_CLOCK,
            "either",
            "the kernel kept every time; gaps beside merged ones are judged by their gate",
        ),
        (
            {"reader_lag_p99_ms": 3, "merged_share": 0.1},
            "reader_lag_p99_ms",
            3,
            STAMPED,
            "either",
            "but only the last of those that waited together",
        ),
        (
            {"hub_lag_p99_ms": 7, "user_clock_share": 1.0},
            "user_clock_share",
            7,
            STAMPED,
            "either",
            "its stamps are as late as the event loop",
        ),
        ({"user_clock_share": 1.0}, "user_clock_share", None, (), "", "how late is not known"),
        ({"cpu_share_max": 1.0}, "cpu_share_max", None, (), "", "bounds come through the lags"),
    ],
)
def test_what_a_check_bounds(readings, name, bound_ms, applies_to, direction, why):
    found = checks(**readings)[name]
    assert (found.bound_ms, found.applies_to, found.direction) == (bound_ms, applies_to, direction)
    assert why


@pytest.mark.parametrize(
    ("readings", "said", "why"),
    [
        ({"cpu_share_p90": 0.97}, "1 more process (--processes 2)", "1.39 processes at 70 %"),
        ({"cpu_share_p90": 1.0, "processes": 4}, "2 more processes (--processes 6)", "5.7"),
        (
            {"cpu_share_p90": 0.98, "delivered_share": 0.6},
            "2 more processes (--processes 3)",
            "the 40 % that was not sent would have cost CPU, too: 2.3",
        ),
        ({"cpu_share_p90": 0.7, "processes": 2}, "1 more process (--processes 3)", "asked for"),
        (
            {"cpu_share_p90": 0.97, "cpus": 1},
            "a larger machine, or a lower rate: 2 processes are needed, this machine has 1 core",
            "a process more than cores takes CPU from the others",
        ),
        ({"cpu_share_p90": 0.97, "cpus": 2}, "1 more process (--processes 2)", "room for one"),
    ],
)
def test_how_many_processes_more(readings, said, why):
    assert more_processes(Readings(**readings)) == said, why


@pytest.mark.parametrize(
    ("readings", "cause", "remedy", "why"),
    [
        ({"cpu_share_p90": 0.97}, "out of CPU (97 % of a core", "1 more process", "saturated"),
        (
            {"cpu_share_p90": 0.5, "cpu_wait_share_p90": 0.48},
            "something else had the load generator's core 48 % of the time",
            "end other programs",
            "a burner: more processes would not help",
        ),
        (
            {"cpu_share_p90": 0.92, "cpu_wait_share_p90": 0.06},
            "out of CPU",
            "1 more process",
            "it had nearly all there was",
        ),
        (
            {"cpu_share_p90": 0.5, "cpu_wait_share_p90": 0.5, "processes": 4, "cpus": 2},
            "4 load-generating processes waited for 2 cores 50 % of the time",
            "fewer processes (--processes 2)",
            "we are the others",
        ),
        (
            {"cpu_share_p90": 0.3, "gc_pause_max_ms": 43.0},
            "garbage collection stopped everything for 43 ms",
            "gc.freeze()",
            "nothing else explains it",
        ),
        ({}, "", "less work in tasks", "no reading explains it: no cause is made up"),
    ],
)
def test_why_it_was_late(readings, cause, remedy, why):
    said, help_ = why_late(Readings(**readings))
    assert cause in said, why
    assert bool(said) == bool(cause)
    assert remedy in help_, why


SENT = "sent 81 % of the offered 120/s to gpt-4o in measure: "
OFFERED = Offered(model="gpt-4o", phase="measure", rps=120.0, at_ceiling=0.9, e2e_s=2.1)


@pytest.mark.parametrize(
    ("readings", "cause", "remedy", "why"),
    [
        (
            {"ceiling_share": 0.4, "offered": OFFERED},
            SENT + "the ceiling max_in_flight was reached 40 % of the time",
            "raise max_in_flight (at 2.1 s each some 252 are in flight) or lower the rate",
            "Little's law says how much is needed",
        ),
        (
            {"ceiling_share": 0.4, "offered": OFFERED, "cpu_share_p90": 1.0},
            SENT + "the load generator was out of CPU (100 % of a core a process)",
            "1 more process (--processes 2)",
            "who cannot read answers in time fills its own ceiling",
        ),
        (
            {"ceiling_share": 0.957, "offered": OFFERED, "cpu_wait_share_p90": 0.065},
            SENT + "the ceiling max_in_flight was reached 95.7 % of the time",
            "raise max_in_flight (at 2.1 s each some 252 are in flight) or lower the rate",
            "a little waiting for the core does not keep the ceiling full",
        ),
        (
            {"ceiling_share": 0.957, "offered": OFFERED, "cpu_wait_share_p90": 0.5},
            SENT + "something else had the load generator's core 50 % of the time",
            "end other programs, or give the load generator a core of its own",
            "a lot does",
        ),
        (
            {"offered": OFFERED, "cpu_wait_share_p90": 0.5},
            SENT + "something else had the load generator's core 50 % of the time",
            "end other programs, or give the load generator a core of its own",
            "someone else's doing",
        ),
        (
            {},
            "sent 81 % of the offered load: requests left too late",
            "less work in tasks and listeners, more processes (--processes), or a lower rate",
            "nothing known but that",
        ),
    ],
)
def test_why_not_all_was_sent(readings, cause, remedy, why):
    found = checks(delivered_share=0.81, **readings)["delivered_share"]
    assert (found.status, found.cause, found.remedy) == ("bad", cause, remedy), why


def test_one_peak_of_cpu_asks_for_no_processes():
    found = checks(cpu_share_max=1.0, cpu_share_p90=0.2)["cpu_share_max"]
    assert found.status == "warn"
    assert "peak" in found.cause
    assert "process" not in found.remedy


def test_an_override_is_kept():
    assert judge(Readings(lost=1), overridden=True).overridden
    assert not judge(Readings(lost=1)).overridden
