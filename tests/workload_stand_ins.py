"""What workloads read of a model, without one."""

from __future__ import annotations

from dataclasses import dataclass

from loadlib.prompt import Prompt
from loadlib.quality import Said, judged


@dataclass(frozen=True)
class Model:
    name: str = "m"
    encoding: str | None = "o200k_base"
    exact: bool = True
    context_window: int | None = None
    capabilities: frozenset[str] = frozenset()  # nothing is known of them

    @property
    def wire(self) -> str:
        return self.name


def says(prompt: Prompt, text: str) -> bool:
    """Whether the prompt's check is content with this answer."""
    return judged(prompt.check, Said(text)).passed
