"""What Locust's own statistics are told of a request."""

from __future__ import annotations

from typing import Any

from loadlib.answer import Answer
from loadlib.client import Call
from loadlib.sample import Outcome, Sample


class RequestFailed(Exception):  # noqa: N818 - what Locust's failures table shows
    """Why a request counts as failed in Locust's own statistics."""


def tell(environment: Any, call: Call, sample: Sample, answer: Answer, failure: str | None) -> None:
    """Exactly one Locust request event per finished call.

    One that the run's end cut off never finished; one that the user's own code read only in part
    did, as it was meant to. `failure` is the user's own verdict on the answer.
    """
    let_go = sample.cause == "let_go"
    if sample.outcome is Outcome.CANCELLED and not let_go:
        return
    error: Exception | None = None
    if failure is not None:
        error = RequestFailed(failure)
    elif sample.outcome is not Outcome.OK and not let_go:
        cause = f" ({sample.cause})" if sample.cause else ""
        error = RequestFailed(f"{sample.outcome.value}{cause}")
    environment.events.request.fire(
        request_type="LLM",
        name=call.name or f"{call.model}/{call.workload}",
        response_time=(sample.end_ns - sample.intended_ns) / 1e6,
        response_length=len(answer.generated),
        exception=error,
        context={"sample": sample},
    )
