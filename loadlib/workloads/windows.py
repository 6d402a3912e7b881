"""What fits a model's context window: which lengths are sent, which are cut, which are skipped."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import lcm
from typing import Protocol

# Unknown tokenizers are estimated with the newest published one; the Prompt then says exact=False.
ESTIMATE = "o200k_base"


class Target(Protocol):
    """What a workload needs to know of a model (`catalog.Model` is one)."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def encoding(self) -> str | None: ...  # noqa: D102
    @property
    def exact(self) -> bool: ...  # noqa: D102
    @property
    def context_window(self) -> int | None: ...  # noqa: D102
    @property
    def wire(self) -> str: ...  # noqa: D102
    @property
    def capabilities(self) -> Collection[str]: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Fit:
    """A prompt length asked for, the length sent, and the output cap; tokens as billed."""

    asked: int
    tokens: int
    output: int

    @property
    def cut(self) -> int | None:
        """The length sent where it is not the one asked for."""
        return self.tokens if self.tokens != self.asked else None


def encoding_of(target: Target) -> tuple[str, bool]:
    """The encoding to count with, and whether it is the model's own."""
    if target.encoding is None:
        return ESTIMATE, False
    return target.encoding, target.exact


def lacks(target: Target, capability: str) -> bool:
    """Whether the catalogue knows that a model cannot do this; of no other anything is assumed."""
    return bool(target.capabilities) and capability not in target.capabilities


def room(target: Target, output: int) -> int | None:
    """The longest prompt that leaves the window room for the answer; None without a limit."""
    return None if target.context_window is None else target.context_window - output


@dataclass(frozen=True, slots=True)
class Lengths:
    """The `prompt_tokens` and `output_tokens` of a workload, both lists to go round.

    A length beyond the window is skipped; one that the window holds only without the answer is cut
    to what the answer leaves (the template is part of the length: it is the prompt as billed). One
    that this would cut to less than `floor` is skipped as well.
    """

    asked: tuple[int, ...]
    outputs: tuple[int, ...]

    def kept(self, target: Target, floor: int) -> tuple[int, ...]:
        """The lengths that are sent to `target`."""
        window = target.context_window
        if window is None:
            return self.asked
        if window - max(self.outputs) < floor:
            return ()
        return tuple(asked for asked in self.asked if asked <= window)

    def fit(self, target: Target, ordinal: int, floor: int) -> Fit:
        """What request `ordinal` gets. Raises ValueError when every length is skipped."""
        kept = self.kept(target, floor)
        if not kept:
            raise ValueError(f"no prompt length fits the window of {target.name}")
        asked, output = kept[ordinal % len(kept)], self.outputs[ordinal % len(self.outputs)]
        limit = room(target, output)
        return Fit(asked, asked if limit is None else min(asked, limit), output)

    def mean(self, target: Target, floor: int) -> tuple[float, float]:
        """Mean prompt length and mean output cap over one whole round; (0, 0) if none is sent."""
        kept = self.kept(target, floor)
        if not kept:
            return 0.0, 0.0
        fits = [self.fit(target, i, floor) for i in range(lcm(len(kept), len(self.outputs)))]
        return (
            sum(one.tokens for one in fits) / len(fits),
            sum(one.output for one in fits) / len(fits),
        )

    def notices(self, workload: str, target: Target, floor: int) -> tuple[str, ...]:
        """One line for people per length that is not sent as asked."""
        window = target.context_window
        if window is None:
            return ()
        kept = self.kept(target, floor)
        lines = []
        for asked in dict.fromkeys(self.asked):
            where = f"{workload}: {asked:,} prompt tokens"
            if asked not in kept:
                why = f"its window is {window:,} tokens"
                lines.append(f"{where} skipped for {target.name} ({why})")
                continue
            for output in dict.fromkeys(self.outputs):
                limit = window - output
                if asked > limit:
                    why = f"window {window:,} − {output:,} for the answer"
                    lines.append(f"{where} cut to {limit:,} for {target.name} ({why})")
        return tuple(lines)
