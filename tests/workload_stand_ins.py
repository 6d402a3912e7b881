"""What workloads read of a scenario and of a model, without either."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Spec:
    kind: str
    data: str | None = None
    prompt_tokens: tuple[int, ...] | None = None
    output_tokens: tuple[int, ...] = (128,)
    turns: int | None = None
    system: str | None = None
    check: bool | None = None
    extra_body: dict = field(default_factory=dict)
    skip_invalid: bool = False
    depth: tuple[float, ...] | None = None
    prefix: str = "unique"


@dataclass(frozen=True)
class Model:
    name: str = "m"
    encoding: str | None = "o200k_base"
    exact: bool = True
    context_window: int | None = None
