"""The prefix cache: which KV blocks prompts share, and which idle ones are given up first.

A block is named by a hash that covers everything before it too (a chain), as in vLLM's automatic
prefix caching: equal names mean equal content. A block is *held* while a running sequence uses
it, *idle* after that, until its space is needed; the one idle longest goes first, and of one
sequence's blocks the last, which the fewest prompts can share.
"""

from __future__ import annotations

from collections.abc import Sequence


class PrefixCache:
    """Shared blocks by hash; counts blocks, knows nothing of tokens."""

    def __init__(self) -> None:
        self._holders: dict[int, int] = {}
        self.idle: dict[int, None] = {}  # in the order they became idle; to be read only

    def hits(self, chain: Sequence[int], most: int) -> int:
        """How many leading blocks of `chain`, at most `most`, are there."""
        holders, idle = self._holders, self.idle
        count = 0
        for block in chain[:most]:
            if block not in holders and block not in idle:
                break
            count += 1
        return count

    def needs(self, chain: Sequence[int]) -> int:
        """How many blocks would become held (hence less space) if `chain` were held."""
        holders = self._holders
        return sum(block not in holders for block in chain)

    def hold(self, chain: Sequence[int]) -> None:
        """Hold every block of `chain`, new ones included."""
        holders, idle = self._holders, self.idle
        for block in chain:
            count = holders.get(block, 0)
            if not count:
                idle.pop(block, None)
            holders[block] = count + 1

    def release(self, chain: Sequence[int], *, computed: bool) -> int:
        """Let go of every block of `chain`; how many nobody holds any more.

        `computed`: whether they hold what they promise, so that they may stay as idle blocks.
        """
        holders, idle = self._holders, self.idle
        freed = 0
        for block in reversed(chain):
            count = holders[block] - 1
            if count:
                holders[block] = count
                continue
            del holders[block]
            freed += 1
            if computed:
                idle[block] = None
        return freed

    def fit(self, space: int) -> None:
        """Give up idle blocks, the oldest first, until they fit in `space` blocks."""
        idle = self.idle
        while len(idle) > space:
            del idle[next(iter(idle))]
