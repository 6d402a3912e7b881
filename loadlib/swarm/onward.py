"""What comes after an attempt: the next turn of a conversation, another attempt, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec

from loadlib.answer import Answer
from loadlib.backoff import Backoff
from loadlib.client import Prepared
from loadlib.prompt import Prompt, Then
from loadlib.sample import Outcome, Sample
from loadlib.swarm.dispatch import Arrival, Dispatcher


def next_turn(prompt: Prompt | None, sample: Sample) -> Then | None:
    """What decides how the conversation goes on, if it may."""
    return None if prompt is None or sample.outcome is not Outcome.OK else prompt.then


@dataclass(frozen=True, slots=True)
class Onward:
    """Frees the place of an arrival whose attempt is over, or gives out what follows it."""

    dispatcher: Dispatcher
    prepare: Callable[[Prompt], Prepared]
    backoff: Backoff | None

    def after(
        self, arrival: Arrival, prompt: Prompt | None, sample: Sample, answer: Answer
    ) -> Sample:
        """The sample, marked where the request is tried again."""
        # What a task said itself goes back to the task, which knows what to do about it.
        own = arrival.prepared is None or arrival.prepared.prompt is not prompt
        then, wait_ns = next_turn(prompt, sample), None if own else self._wait_ns(sample)
        self.dispatcher.finish(arrival, goes_on=then is not None or wait_ns is not None)
        if then is not None:
            self._turn(arrival, then, sample, answer)
        elif wait_ns is not None and self._again(arrival, sample, wait_ns):
            return msgspec.structs.replace(sample, retried=True)
        return sample

    def _turn(self, arrival: Arrival, then: Then, sample: Sample, answer: Answer) -> None:
        following, prepared = None, None
        try:
            following = then(answer.said)
            prepared = None if following is None else self.prepare(following.prompt)
        finally:
            if prepared is None and arrival.stage.phase.closed:
                self.dispatcher.part(arrival)
        if following is None or prepared is None:
            return
        due_ns = sample.end_ns + following.wait_ns
        call = replace(arrival.call, intended_ns=due_ns, turn=following.prompt.turn, attempt=1)
        self.dispatcher.follow(arrival, call, prepared, due_ns)

    def _wait_ns(self, sample: Sample) -> int | None:
        """How long to wait before the next attempt; None: this one is the last."""
        return None if self.backoff is None else self.backoff.wait_ns(sample)

    def _again(self, arrival: Arrival, sample: Sample, wait_ns: int) -> bool:
        assert arrival.prepared is not None
        call, due_ns = arrival.call, sample.end_ns + wait_ns
        if call.attempt == 1 and arrival.stage.phase.closed and sample.sent_ns is not None:
            call = replace(call, intended_ns=sample.sent_ns)
        again = replace(call, attempt=call.attempt + 1)
        return self.dispatcher.follow(arrival, again, arrival.prepared, due_ns)
