"""How many users there are and on which worker: enough of every class for every worker's part.

Under a scenario users only pull arrivals, so there must be as many as may be in flight at once.
Locust deals users out in turn, which can put all users of one class on one worker and all of
another on the next; arrivals that nobody there takes would be dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from locust.dispatch import UsersDispatcher

from loadlib.scenario import Phase, Scenario
from loadlib.schedule import Shard, share


class EvenDispatcher(UsersDispatcher):
    """Locust's dispatcher, with every class spread evenly over the workers that take part."""

    def __init__(self, *args: Any, taking_part: Callable[[], Sequence[str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._taking_part = taking_part

    def __next__(self) -> dict[str, dict[str, int]]:
        dealt: dict[str, dict[str, int]] = super().__next__()
        active = [name for name in self._taking_part() if name in dealt] or sorted(dealt)
        totals: dict[str, int] = {}
        for users in dealt.values():
            for name, count in users.items():
                totals[name] = totals.get(name, 0) + count
        nobody = dict.fromkeys(totals, 0)
        return {worker: nobody.copy() for worker in dealt} | {
            worker: {
                name: share(count, Shard(index, len(active))) for name, count in totals.items()
            }
            for index, worker in enumerate(active)
        }


def ceiling(phase: Phase) -> int:
    """The most requests of one stream (a model, or all of them) in flight at once."""
    return (phase.users if phase.closed else phase.max_in_flight) or 1


def part(phase: Phase, shard: Shard) -> Shard | None:
    """A process's share of a phase; None where others fill the ceiling by themselves.

    One user of a closed loop cannot be divided among two workers: the second sits it out.
    """
    count = min(shard.count, ceiling(phase))
    return Shard(shard.index, count) if shard.index < count else None


def most_in_flight(scenario: Scenario, workers: int) -> int:
    """As many requests as the phases can ever have in flight on one of so many processes."""
    streams = len(scenario.models) if scenario.per == "model" else 1
    return streams * -(-max(map(ceiling, scenario.load)) // workers)


def users_of_a_class(scenario: Scenario, workers: int) -> int:
    """As many users of one class as the phases can ever need at once, on `workers` processes."""
    return workers * most_in_flight(scenario, workers)
