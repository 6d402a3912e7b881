"""A phase of load in a scenario: how requests arrive, and what ends it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from loadlib.rates import Points, mean, shown
from loadlib.scenario_fields import (
    Count,
    Duration,
    Name,
    RateOrPoints,
    Shape,
    Spec,
    Speed,
    broken,
)
from loadlib.schedule import expected_requests
from loadlib.units import format_duration

NEEDS: dict[str, dict[str, str]] = {
    "closed": {"users": "arrival: closed needs users"},
    "constant": {"rate": "arrival: constant needs a rate, such as 5/s"},
    "poisson": {"rate": "arrival: poisson needs a rate, such as 5/s"},
    "gamma": {
        "rate": "arrival: gamma needs a rate, such as 5/s",
        "shape": "arrival: gamma needs a shape: below 1 is bursty, 1 poisson, above 1 regular",
    },
    "trace": {},
}
"""What each kind of arrival cannot do without, and what is said where it is missing."""

_MEANS_NOTHING: dict[tuple[str, str], str] = {
    ("rate", "trace"): "the trace has its own instants: speed makes them faster or slower",
    ("shape", "constant"): "arrival: gamma has a shape",
    ("shape", "poisson"): "arrival: gamma has a shape, 1 is poisson",
    ("speed", "constant"): "arrival: trace has a speed, here rate says it",
    ("speed", "poisson"): "arrival: trace has a speed, here rate says it",
    ("speed", "gamma"): "arrival: trace has a speed, here rate says it",
}


class Phase(Spec):
    """A stretch of load: how requests arrive, and what ends it."""

    kind: Literal["warmup", "measure"] = Field(alias="phase")
    name: Name | None = Field(
        None, description="unique; default: the kind, then measure-2 and so on"
    )
    duration_ns: Duration | None = Field(None, alias="duration")
    requests: Count | None = Field(None, description="per model with per: model")
    arrival: Literal["closed", "constant", "poisson", "gamma", "trace"]
    users: Count | None = Field(None, description="closed loop: users at once")
    rate: RateOrPoints | None = Field(
        None, description="open loop: arrivals per second, or points [[0s, 2/s], [60s, 20/s]]"
    )
    shape: Shape | None = Field(
        None, description="gamma: below 1 is bursty, 1 is poisson, above 1 regular"
    )
    speed: Speed = Field(1.0, description="trace: how many times as fast as it was recorded")
    max_in_flight: Count = Field(100, description="open loop: requests at once, at most")
    when_full: Literal["wait", "drop"] = Field(
        "wait", description="an arrival at the ceiling waits (up to first_token), or is dropped"
    )

    @model_validator(mode="after")
    def _complete(self) -> Phase:
        if (self.duration_ns is None) == (self.requests is None):
            raise broken("a phase ends by duration or by requests: give exactly one of them")
        for key in sorted(self.model_fields_set & self.foreign):
            if getattr(self, key) is not None:
                why = _MEANS_NOTHING.get((key, self.arrival))
                hint = f" ({why})" if why else ""
                raise broken(f"{key} means nothing with arrival: {self.arrival}{hint}", key)
        for key, message in NEEDS[self.arrival].items():
            if getattr(self, key) is None:
                raise broken(message)
        if isinstance(self.rate, tuple):
            self._check_points(self.rate)
        expected = expected_requests(self)
        if expected is not None and expected < 1:
            raise broken("plans no request at all: rate × duration is below 1")
        return self

    def _check_points(self, points: Points) -> None:
        for at, (instant, _) in enumerate(points):
            if self.duration_ns is not None and instant > self.duration_ns:
                raise broken(
                    f"the point at {format_duration(instant)} lies beyond the duration of "
                    f"{format_duration(self.duration_ns)}: lengthen the phase or take it out",
                    *("rate", at),
                )
        if self.requests is not None and points[-1][1] == 0:
            reason = "the rate ends at 0/s, so the requests may never be complete"
            raise broken(f"{reason}: end the phase by duration", "rate", len(points) - 1)

    @property
    def foreign(self) -> frozenset[str]:
        """Keys that mean nothing with this kind of arrival."""
        mine = {"speed"} if self.arrival == "trace" else NEEDS[self.arrival].keys()
        ceiling = {"max_in_flight", "when_full"} if self.closed else set[str]()
        return frozenset(({"users", "rate", "shape", "speed"} - mine) | ceiling)

    @property
    def closed(self) -> bool:
        """Whether a new request waits for an answer, so that queueing stays invisible."""
        return self.arrival == "closed"

    @property
    def varying(self) -> bool:
        """Whether the rate changes within the phase, so that it is no rung of a ladder."""
        return self.arrival == "trace" or (isinstance(self.rate, tuple) and len(self.rate) > 1)

    @property
    def mean_rate(self) -> float | None:
        """Arrivals per second over the whole phase; None in a closed loop and with a trace."""
        if self.rate is None:
            return None
        return mean(self.rate, duration_ns=self.duration_ns, requests=self.requests)

    @property
    def title(self) -> str:
        """Its name; unnamed only before it became part of a scenario."""
        return self.name or self.kind

    @property
    def label(self) -> str:
        """`poisson 5/s`, `gamma 2/s to 20/s, shape 0.5`, `trace ×2` or `closed, 10 users`."""
        if self.closed:
            return f"closed, {self.users} user{'s' if self.users != 1 else ''}"
        if self.rate is None:
            return f"trace ×{self.speed:g}"
        shape = "" if self.shape is None else f", shape {self.shape:g}"
        return f"{self.arrival} {shown(self.rate)}{shape}"

    def tidied(self, written: dict[str, Any]) -> dict[str, Any]:
        """`written` (this phase as plain data) without the defaults that mean nothing here."""
        return {key: value for key, value in written.items() if key not in self.foreign}
