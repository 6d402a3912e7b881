"""A serving engine as a discrete-event model: when each token of each request is due.

Pure: no clock, no I/O, no randomness. Instants are integer nanoseconds on any one clock, handed
in by the caller, so the simulator runs the model in real time and planning in virtual time: one
model, two clocks. `docs/simulator.md` derives the equations and says what they leave out.

An engine is one replica. Around it, not in it, belong rate limits (`RateLimiter`), and whatever
routes requests to several replicas or starts more of them: all they need is `submit`, `cancel`,
`advance`, `next_ns` and `load`.
"""

from __future__ import annotations

from loadlib.engine.batch import Batch
from loadlib.engine.limits import Limits, Permit, Quota, RateLimiter
from loadlib.engine.steady import Steady
from loadlib.engine.virtual import simulate
from loadlib.engine.words import NS_PER_S, Load, Sequence, Speed, Step, Work

__all__ = [
    "NS_PER_S",
    "Batch",
    "Engine",
    "Limits",
    "Load",
    "Permit",
    "Quota",
    "RateLimiter",
    "Sequence",
    "Speed",
    "Steady",
    "Step",
    "Work",
    "replica",
    "simulate",
]

Engine = Batch | Steady


def replica(speed: Speed) -> Engine:
    """One engine of that speed, empty."""
    return Steady(speed) if speed.step is None else Batch(speed, speed.step)
