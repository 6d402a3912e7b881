import pytest
from test_gates import group

from loadlib import gates
from loadlib.errors import AbortError, PreflightError, UsageError
from loadlib.summary import Gate, Health, HealthCheck, Requests, Throughput

OK = Health(status="ok")
WARN = Health(status="warn", checks=(HealthCheck(name="hub", value=9, limit=5, status="warn"),))
BAD = Health(
    status="bad",
    checks=(
        HealthCheck(name="lost_samples", value=2, limit=0, status="bad", remedy="see the log"),
        HealthCheck(name="cpu", value=1, limit=0.9, status="warn"),
    ),
)


def gate(status="pass", observed=900.0, limit=800.0, expression="ttft.p99 < 800ms", **fields):
    plain = {
        "scope": "all",
        "model": "m",
        "workload": "chat",
        "phase": "measure",
        "unit": "ms",
        "n": 674,
    }
    return Gate(
        expression=expression, observed=observed, limit=limit, status=status, **plain | fields
    )


FAIL, UNSURE = gate("fail"), gate("inconclusive", reason="p99 needs 500 samples, has 99")
SENT = (group(ok=10),)


@pytest.mark.parametrize(
    ("found", "health", "kwargs", "status", "code", "why"),
    [
        ([gate()], OK, {}, "pass", 0, "all is well"),
        ([], OK, {}, "pass", 0, "no gates, but requests and good health"),
        ([gate()], WARN, {}, "pass", 0, "a warning decides nothing"),
        ([gate(), UNSURE], OK, {}, "inconclusive", 7, "too few samples"),
        ([UNSURE], OK, {"regressions": ["slower"]}, "regressed", 6, "6 before 7 (too few)"),
        ([FAIL, UNSURE], OK, {"regressions": ["slower"]}, "fail", 5, "5 before 6"),
        ([FAIL], BAD, {}, "inconclusive", 7, "7 (unhealthy) before 5"),
        ([gate()], BAD, {}, "inconclusive", 7, "an invalid measurement beats a pass"),
        ([FAIL], BAD, {"allow_unhealthy": True}, "fail", 5, "unless allowed"),
        ([FAIL], BAD, {"signal": 2}, "interrupted", 130, "130 before 7 and 5"),
        ([gate()], OK, {"signal": 15}, "interrupted", 143, "SIGTERM"),
        ([gate()], OK, {"signal": 143}, "interrupted", 143, "as an exit code"),
        ([FAIL], BAD, {"signal": 2, "stopped": True}, "interrupted", 130, "who, if it is known"),
        ([gate()], OK, {"stopped": True}, "inconclusive", 7, "half of the plan proves nothing"),
        ([FAIL], OK, {"stopped": True}, "inconclusive", 7, "neither way"),
        ([FAIL], BAD, {"signal": 2, "aborted": "budget"}, "aborted", 4, "4 before 130"),
        ([gate()], OK, {"error": AbortError("gone")}, "aborted", 4, "the same, raised"),
        ([], OK, {"error": PreflightError("401"), "signal": 2}, "error", 3, "3 before 4"),
        ([], OK, {"error": UsageError("what?"), "aborted": "x"}, "error", 2, "2 before 3"),
        ([], OK, {"error": ZeroDivisionError("x")}, "error", 1, "a bug before everything"),
    ],
)
def test_the_worst_wins(found, health, kwargs, status, code, why):
    verdict = gates.verdict(found, health, SENT, **kwargs)
    assert (verdict.status, verdict.exit_code) == (status, code), why
    assert bool(verdict.reasons) == (status != "pass"), "a reason for everything but a pass"


@pytest.mark.parametrize(
    "groups", [(), (group(dropped=5),), (group(ok=5, kind="warmup"),), (group(),)]
)
def test_zero_requests_never_pass(groups):
    verdict = gates.verdict([gate()], OK, groups)
    assert (verdict.status, verdict.exit_code) == ("inconclusive", 7)
    assert verdict.reasons == ("no request was sent in a measure phase",)


def test_a_group_that_got_nothing_is_not_passed_over():
    verdict = gates.verdict([gate()], OK, (group(ok=5), group("n", "long")))
    assert verdict.exit_code == 7
    assert verdict.reasons == ("n/long measure: no request was sent",)


def test_reasons_come_worst_first_and_then_what_else_is_wrong():
    found = [
        gate("fail", 810.0),
        UNSURE,
        gate("fail", None, reason="9 of 9 requests gave no value", n=9),
        gate("fail", 1600.0, model="n"),
        gate("fail", 0.5, 0.95, "goodput >= 95%", unit="share"),
    ]
    verdict = gates.verdict(found, BAD, SENT, signal=2)
    assert verdict.reasons == (
        "stopped by SIGINT before its end",
        "measurement not valid: lost samples is 2 (limit 0); see the log",
        "m/chat measure: ttft.p99 < 800ms (n 9); 9 of 9 requests gave no value",
        "n/chat measure: ttft.p99 < 800ms, observed 1,600.0 ms (n 674)",
        "m/chat measure: goodput >= 95%, observed 50.00 % (n 674)",
        "m/chat measure: ttft.p99 < 800ms, observed 810.0 ms (n 674)",
        (
            "m/chat measure: ttft.p99 < 800ms, observed 900.0 ms (n 674); "
            "p99 needs 500 samples, has 99"
        ),
    )


def test_reasons_hold_no_key():
    error = RuntimeError("key sk-" + "abcdef1234567 \x1b[31mrefused")
    (reason,) = gates.verdict([], OK, SENT, error=error).reasons
    assert reason == "internal error: RuntimeError: key [redacted] refused"


@pytest.mark.parametrize(
    ("observed", "limit", "expression", "margin", "why"),
    [
        (1200.0, 800.0, "ttft.p99 < 800ms", 0.5, "half over"),
        (400.0, 800.0, "ttft.p99 < 800ms", -0.5, "half under"),
        (10.0, 20.0, "output_tok_s > 20", 1.0, "half the speed is twice the limit"),
        (0.0, 20.0, "output_tok_s > 20", float("inf"), "nothing at all"),
        (0.1, 0.0, "error_rate <= 0%", float("inf"), "any is too many"),
        (0.0, 0.0, "error_rate <= 0%", 0.0, "none is just right"),
    ],
)
def test_margins(observed, limit, expression, margin, why):
    assert gates.margin(gate("pass", observed, limit, expression)) == margin, why


def rung(rate, phase, model="m", workload="chat", **fields):
    return group(model, workload, phase, ok=10, rate_rps=rate, **fields)


def ladder(*statuses, model="m"):
    """A rung per status, at 1, 2, 3 … requests a second, with one gate each."""
    groups = [rung(float(n), f"r{n}", model) for n in range(1, len(statuses) + 1)]
    found = [
        gate(status, phase=f"r{n}", model=model, observed=800.0 + n)
        for n, status in enumerate(statuses, 1)
    ]
    return groups, found


@pytest.mark.parametrize(
    ("statuses", "last_pass", "first_fail", "why"),
    [
        (["pass", "pass", "fail"], 2, 3, "between 2 and 3"),
        (["pass", "fail", "pass"], 1, 2, "what passes beyond a failure is luck"),
        (["fail", "fail"], None, 1, "less than one a second"),
        (["pass", "pass"], 2, None, "two and more"),
        (["pass", "inconclusive", "fail"], 1, 3, "who knows of two"),
        (["inconclusive", "inconclusive"], None, None, "nobody knows"),
    ],
)
def test_brackets(statuses, last_pass, first_fail, why):
    (bracket,) = gates.brackets(*ladder(*statuses))
    assert (bracket.last_pass_rps, bracket.first_fail_rps) == (last_pass, first_fail), why
    assert (bracket.limited_by is None) == (first_fail is None)


def test_a_bracket_needs_two_rates_of_an_open_loop():
    assert gates.brackets(*ladder("pass")) == ()
    groups = [rung(1.0, "a"), rung(1.0, "b"), rung(None, "c"), rung(5.0, "d", closed_loop=True)]
    groups.append(rung(7.0, "e", varying=True))  # the mean of a ramp is no rung
    assert gates.brackets(groups, [gate(phase=p) for p in "abcde"]) == ()


def test_each_model_has_its_own_bracket_over_all_its_workloads():
    groups, found = ladder("pass", "pass")
    others, more = ladder("pass", "fail", model="n")
    groups.append(rung(2.0, "r2", "m", "long"))
    found.append(gate("fail", phase="r2", workload="long", expression="e2e.p50 < 9s"))
    m, n = gates.brackets([*groups, *others], [*found, *more])
    assert (m.model, m.last_pass_rps, m.first_fail_rps) == ("m", 1, 2)
    assert m.limited_by == "long: e2e.p50 < 9s"
    assert (n.model, n.first_fail_rps) == ("n", 2)


def test_throughput_does_not_make_a_rung():
    assert gates.brackets([group(ok=1, throughput=Throughput(offered_rps=3.0))], []) == ()
    assert Requests().error_rate is None
