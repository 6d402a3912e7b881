"""Right answers made wrong by the simulator itself, for the checks that must notice it."""

from __future__ import annotations

import random

from loadlib.quality import Said
from loadlib.simulator.wished import Wish, spoil

SHIFTS = range(1, 10)


class _Fixed(random.Random):
    def __init__(self, shift: int) -> None:
        super().__init__(0)
        self._shift = shift

    def randint(self, _low: int, _high: int) -> int:
        return self._shift


def spoiled(right: Said, shift: int) -> Said:
    """What the simulator says instead, with `--wrong-rate`, under this draw of its luck."""
    wish = spoil(Wish(right.text, right.calls), _Fixed(shift))
    return Said(wish.text, wish.calls, finish_reason=right.finish_reason)
