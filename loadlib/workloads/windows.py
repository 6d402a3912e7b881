"""What fits a model's context window: which lengths are sent, which are cut, which are skipped."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import product
from math import lcm
from typing import Protocol

from loadlib import lengths
from loadlib.lengths import Length

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
    """The `prompt_tokens` and `output_tokens` of a workload: lists to go round, or distributions.

    A length beyond the window is skipped: left out of a round; of a distribution the draws are
    those that fit. One that the window holds only without the answer is cut to what the answer
    leaves (the template is part of the length: it is the prompt as billed). `floor` is the shortest
    prompt that can be made: a window without room for it beside an answer is not served, and a
    draw below it is sent as long as that. Prompt and answer are drawn independently of each other
    (docs/decisions/0080).
    """

    asked: Length
    outputs: Length
    key: tuple[object, ...] = ()
    """What draws depend on beside model and ordinal: seed and workload."""

    @property
    def shortest(self) -> int:
        """What `floor` may not exceed: the shortest of a list, the longest of a distribution."""
        return min(self.asked) if isinstance(self.asked, tuple) else lengths.most(self.asked)

    def serves(self, target: Target, floor: int) -> bool:
        """Whether any length is sent to `target`; without lengths, whether any prompt fits."""
        has_room = bool(self.caps(target, floor))
        return has_room and (not self.asked or bool(_kept(self.asked, target.context_window)))

    def round(self, target: Target) -> int:
        """How many lengths go round for `target`; 1 where they are drawn."""
        kept = _kept(self.asked, target.context_window)
        return len(kept) if isinstance(self.asked, tuple) else 1

    def output(self, target: Target, ordinal: int, floor: int) -> int:
        """The output cap of request `ordinal`. ValueError where no answer leaves `floor`."""
        if not self.caps(target, floor):
            raise ValueError(f"no prompt fits the window of {target.name}")
        return self._drawn(self.outputs, room(target, floor), "output", target, ordinal)

    def caps(self, target: Target, floor: int) -> tuple[int, ...]:
        """Output caps of equal weight that stand for all of `target`; empty if none leaves room."""
        limit = room(target, floor)
        if isinstance(self.outputs, tuple) and limit is not None and max(self.outputs) > limit:
            return ()
        return _kept(self.outputs, limit, _CAPS)

    def fit(self, target: Target, ordinal: int, floor: int) -> Fit:
        """What request `ordinal` gets. Raises ValueError when every length is skipped."""
        if not self.serves(target, floor):
            raise ValueError(f"no prompt length fits the window of {target.name}")
        output = self.output(target, ordinal, floor)
        asked = self._drawn(self.asked, target.context_window, "prompt", target, ordinal)
        return Fit(asked, self._sent(asked, output, target, floor), output)

    def _drawn(
        self, length: Length, limit: int | None, what: str, target: Target, ordinal: int
    ) -> int:
        if isinstance(length, tuple):
            kept = _kept(length, limit)
            return kept[ordinal % len(kept)]
        upto = 1.0 if limit is None else lengths.share_upto(length, limit)
        return length.at(upto * lengths.chance(*self.key, target.name, what, ordinal))

    def _sent(self, asked: int, output: int, target: Target, floor: int) -> int:
        least = asked if isinstance(self.asked, tuple) else max(asked, floor)
        limit = room(target, output)
        return least if limit is None else min(least, limit)

    def mean(self, target: Target, floor: int) -> tuple[float, float]:
        """Mean prompt length and mean output cap of all requests; (0, 0) if none is sent."""
        if not self.serves(target, floor):
            return 0.0, 0.0
        pairs = list(self._pairs(target, floor))
        sent = sum(self._sent(asked, output, target, floor) for asked, output in pairs)
        return sent / len(pairs), sum(output for _, output in pairs) / len(pairs)

    def _pairs(self, target: Target, floor: int) -> Iterable[tuple[int, int]]:
        """(asked, output) of equal weight that stand for all requests: of two lists a whole round,
        of anything else each length with each cap."""
        kept, caps = _kept(self.asked, target.context_window), self.caps(target, floor)
        if isinstance(self.asked, tuple) and isinstance(self.outputs, tuple):
            turns = range(lcm(len(kept), len(caps)))
            return ((kept[i % len(kept)], caps[i % len(caps)]) for i in turns)
        return product(kept, caps)

    def notices(self, workload: str, target: Target, floor: int) -> tuple[str, ...]:
        """Lines for people: one per length of a list that is not sent as asked, and of a
        distribution the share of such."""
        lines: list[str] = []
        if self.serves(target, floor):
            lines += self._cut(target, floor)
            lines += self._padded(target, floor)
        lines += self._skipped(target, floor)
        return tuple(f"{workload}: {line}" for line in lines)

    def _skipped(self, target: Target, floor: int) -> Iterable[str]:
        window = target.context_window
        if window is None:
            return
        why = f"skipped for {target.name} (its window is {window:,} tokens)"
        if isinstance(self.asked, tuple):
            sent = set(_kept(self.asked, window)) if self.serves(target, floor) else set()
            gone = (one for one in dict.fromkeys(self.asked) if one not in sent)
            yield from (f"{asked:,} prompt tokens {why}" for asked in gone)
        elif share := 1 - lengths.share_upto(self.asked, window):
            yield f"{percent(share)} of the prompt lengths {why}"
        if isinstance(self.outputs, tuple):
            return
        if share := 1 - lengths.share_upto(self.outputs, window - floor):
            yield f"{percent(share)} of the output caps {why}"

    def _cut(self, target: Target, floor: int) -> Iterable[str]:
        window = target.context_window
        if window is None:
            return
        if isinstance(self.asked, tuple) and isinstance(self.outputs, tuple):
            for asked in dict.fromkeys(_kept(self.asked, window)):
                for output in dict.fromkeys(self.outputs):
                    if asked > window - output:
                        why = f"window {window:,} − {output:,} for the answer"
                        left = f"{window - output:,} for {target.name} ({why})"
                        yield f"{asked:,} prompt tokens cut to {left}"
            return
        pairs = list(self._pairs(target, floor))
        cut = sum(max(asked, floor) > window - output for asked, output in pairs)
        if cut:
            left = f"what their answers leave (its window is {window:,} tokens)"
            yield f"{percent(cut / len(pairs))} of the prompts cut for {target.name} to {left}"

    def _padded(self, target: Target, floor: int) -> Iterable[str]:
        if isinstance(self.asked, tuple):
            return
        if share := lengths.share_upto(self.asked, floor - 1):
            why = f"the shortest prompt for {target.name}: sent with {floor}"
            yield f"{percent(share)} of the prompt lengths are below {why}"


_CAPS = 40  # output caps that stand for a distribution, where every prompt is looked at with each


def _kept(length: Length, limit: int | None, cells: int = 500) -> tuple[int, ...]:
    """The lengths up to `limit`; of a distribution as many that stand for them; or none."""
    if isinstance(length, tuple):
        return length if limit is None else tuple(one for one in length if one <= limit)
    upto = 1.0 if limit is None else lengths.share_upto(length, limit)
    return lengths.grid(length, upto, cells) if upto else ()


def percent(share: float) -> str:
    """`3.2 %`, of little `< 0.1 %`, never 0."""
    return "< 0.1 %" if share < 0.001 else f"{100 * share:.1f} %"
