"""What workloads read of a model, without one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    name: str = "m"
    encoding: str | None = "o200k_base"
    exact: bool = True
    context_window: int | None = None
