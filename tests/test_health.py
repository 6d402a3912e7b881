import pytest

from loadlib.health import Readings, judge


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
        ({"reader_lag_p99_ms": 6.0}, "reader_lag_p99_ms", "warn", "likewise"),
        ({"cpu_share_max": 0.9}, "cpu_share_max", "ok", "busy"),
        ({"cpu_share_max": 0.97}, "cpu_share_max", "warn", "saturated"),
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
    checks = {check.name: check for check in judge(Readings(**readings)).checks}
    found = checks.get(name)
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
