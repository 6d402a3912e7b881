"""Gates and health → one word and an exit code; a ladder of phases → a bracket. Pure.

Worst wins: 1 internal > 2 usage > 3 preflight > 4 aborted > 130/143 interrupted >
7 stopped or unhealthy > 5 SLO failed > 6 regressed > 7 too few samples. Zero requests never pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import groupby

from loadlib.errors import AbortError, ExitCode, LoadlibError
from loadlib.redact import redact
from loadlib.summary import Bracket, Gate, Group, Health, HealthCheck, Verdict, VerdictStatus

STOPPED = "stopped before its plan was over"
_SIGNALS = {2: ExitCode.SIGINT, 130: ExitCode.SIGINT, 15: ExitCode.SIGTERM, 143: ExitCode.SIGTERM}

_Case = tuple[VerdictStatus, ExitCode, tuple[str, ...]]


def verdict(
    gates: Sequence[Gate],
    health: Health,
    groups: Sequence[Group],
    *,
    error: BaseException | None = None,
    aborted: str | None = None,
    signal: int | None = None,
    stopped: bool = False,
    regressions: Sequence[str] = (),
    allow_unhealthy: bool = False,
) -> Verdict:
    """The worst thing that can be said of a run, and after it everything else.

    `error` ended it, `aborted` says why it stopped itself, `signal` (2 or 15) who stopped it;
    `stopped` was it otherwise, before its plan was over (the web UI, Locust without workers).
    `regressions` what got worse than the baseline. `allow_unhealthy` lets the gates of a run
    with bad health decide.
    """
    cases = [
        _stopped(error, aborted),
        _interrupted(signal),
        _case("inconclusive", ExitCode.INCONCLUSIVE, (STOPPED,) if stopped else ()),
        None if allow_unhealthy else _unhealthy(health),
        _failed(gates),
        _case("regressed", ExitCode.REGRESSED, tuple(regressions)),
        _undecided(gates, groups),
    ]
    found = [case for case in cases if case is not None]
    if not found:
        return Verdict(status="pass", exit_code=int(ExitCode.PASS))
    status, code, _ = found[0]
    reasons = tuple(reason for _, _, reasons in found for reason in reasons)
    return Verdict(status=status, reasons=reasons, exit_code=int(code))


def _case(status: VerdictStatus, code: ExitCode, reasons: tuple[str, ...]) -> _Case | None:
    return (status, code, reasons) if reasons else None


def _stopped(error: BaseException | None, aborted: str | None) -> _Case | None:
    if error is not None and not isinstance(error, AbortError):
        known = isinstance(error, LoadlibError)
        code = error.exit_code if isinstance(error, LoadlibError) else ExitCode.INTERNAL
        text = redact(str(error))
        return (
            "error",
            code,
            (text if known else f"internal error: {type(error).__name__}: {text}",),
        )
    reason = aborted if error is None else redact(str(error))
    return _case("aborted", ExitCode.ABORTED, () if reason is None else (reason,))


def _interrupted(signal: int | None) -> _Case | None:
    if signal is None:
        return None
    code = _SIGNALS.get(signal, ExitCode.SIGTERM)
    return "interrupted", code, (f"stopped by {code.name} before its end",)


def _unhealthy(health: Health) -> _Case | None:
    if health.status != "bad":
        return None
    bad = [check for check in health.checks if check.status == "bad"]
    reasons = tuple(map(_health_reason, bad)) or ("the instrument reports bad health",)
    return "inconclusive", ExitCode.INCONCLUSIVE, reasons


def _health_reason(check: HealthCheck) -> str:
    name = check.name.removesuffix("_ms").removesuffix("_share").replace("_", " ")
    limit = "" if check.limit is None else f" (limit {_health_value(check.name, check.limit)})"
    value = "unknown" if check.value is None else _health_value(check.name, check.value)
    cause = f": {check.cause}" if check.cause else ""
    remedy = f"; {check.remedy}" if check.remedy else ""
    return f"measurement not valid: {name} is {value}{limit}{cause}{remedy}"


def _health_value(name: str, amount: float) -> str:
    """In the unit that the name of the check ends with."""
    if name.endswith("_ms"):
        return f"{amount:g} ms"
    return f"{amount * 100:.3g} %" if "share" in name else f"{amount:g}"


def _failed(gates: Sequence[Gate]) -> _Case | None:
    failed = sorted(_with(gates, "fail"), key=margin, reverse=True)
    return _case("fail", ExitCode.SLO_FAILED, tuple(map(describe, failed)))


def _undecided(gates: Sequence[Gate], groups: Sequence[Group]) -> _Case | None:
    measured = [group for group in groups if group.kind == "measure"]
    reasons = []
    if not any(group.requests.sent for group in measured):
        reasons.append("no request was sent in a measure phase")
    else:
        reasons += [
            f"{group.model}/{group.workload} {group.phase}: no request was sent"
            for group in measured
            if not group.requests.sent
        ]
    reasons += [describe(gate) for gate in _with(gates, "inconclusive")]
    return _case("inconclusive", ExitCode.INCONCLUSIVE, tuple(reasons))


def _with(gates: Iterable[Gate], status: str) -> list[Gate]:
    return [gate for gate in gates if gate.status == status]


def margin(gate: Gate) -> float:
    """By which share of its limit a gate is violated; negative when it is met."""
    observed, limit = gate.observed, gate.limit
    if observed is None:
        return math.inf if gate.status == "fail" else -math.inf
    over, under = (observed, limit) if "<" in gate.expression else (limit, observed)
    if under == 0:
        return math.inf if over > 0 else 0.0
    return over / under - 1.0


def describe(gate: Gate) -> str:
    """`gpt-4o/chat measure: ttft.p99 < 800ms, observed 912.3 ms (n 674)`."""
    where = f"{gate.model}/{gate.workload} {gate.phase}" if gate.model else gate.scope
    seen = "" if gate.observed is None else f", observed {shown(gate.observed, gate.unit)}"
    note = f"; {gate.reason}" if gate.reason else ""
    return f"{where}: {gate.expression}{seen} (n {gate.n}){note}"


def shown(value: float, unit: str) -> str:
    """A gate's value with its unit, as in a sentence."""
    match unit:
        case "share":
            return f"{100 * value:.2f} %"
        case "ms":
            return f"{value:,.1f} ms"
        case "usd":
            return f"${value:.4f}"
    return f"{value:,.2f} {unit}"


def brackets(groups: Sequence[Group], gates: Sequence[Gate]) -> tuple[Bracket, ...]:
    """Per model: the highest rate that met all its gates below the lowest that failed one.

    Only for models measured at two steady rates or more in an open loop. A rate with inconclusive
    gates neither passes nor fails; `limited_by` is the gate most violated at the first failure.
    """
    ladder = [
        group
        for group in groups
        if group.kind == "measure" and group.rate_rps is not None
        if not (group.closed_loop or group.varying)
    ]
    models = dict.fromkeys(group.model for group in ladder)
    found = (_bracket(m, [g for g in ladder if g.model == m], gates) for m in models)
    return tuple(bracket for bracket in found if bracket is not None)


def _bracket(model: str, rungs: list[Group], gates: Sequence[Gate]) -> Bracket | None:
    rungs.sort(key=_rate)
    by_rate = {
        rate: [gate for gate in gates if gate.model == model and gate.phase in phases]
        for rate, same in groupby(rungs, key=_rate)
        for phases in ({group.phase for group in same},)
    }
    if len(by_rate) < 2:
        return None
    fails = {rate: failed for rate, mine in by_rate.items() if (failed := _with(mine, "fail"))}
    first_fail = min(fails, default=None)
    passed = [
        rate
        for rate, mine in by_rate.items()
        if mine
        and all(gate.status == "pass" for gate in mine)
        and (first_fail is None or rate < first_fail)
    ]
    worst = None if first_fail is None else max(fails[first_fail], key=margin)
    return Bracket(
        model=model,
        last_pass_rps=max(passed, default=None),
        first_fail_rps=first_fail,
        limited_by=None if worst is None else f"{worst.workload}: {worst.expression}",
    )


def _rate(group: Group) -> float:
    assert group.rate_rps is not None
    return group.rate_rps
