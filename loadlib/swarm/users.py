"""The user classes a locustfile builds on. This file is the whole face towards Locust's users.

`self.llm` records a tape and decodes it at the end; `self.openai` is the SDK itself on the same
transport, for code that exists already. Under a scenario each request waits for its arrival.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar

import gevent
from locust import User, task
from locust.exception import StopUser

from loadlib.answer import Answer
from loadlib.client import DEFAULT_MAX_TOKENS, Call, Prepared, Sdk
from loadlib.prompt import Message, Prompt
from loadlib.quality import of_text
from loadlib.sample import Outcome, Sample
from loadlib.swarm.dispatch import Arrival, Closed
from loadlib.swarm.onward import next_turn
from loadlib.swarm.worker import Ticket, Worker

if TYPE_CHECKING:
    from loadlib.swarm.plugin import Plugin

_turn = itertools.count()
_sender: ContextVar[LLMMixin] = ContextVar("user")  # whose code asked for the SDK, per greenlet


class Reply:
    """What came back. Truthy when the request succeeded; `fail` marks the answer as wrong."""

    def __init__(self, sample: Sample, answer: Answer, commit: Callable[[str | None], None]):
        self.sample, self._answer, self._commit = sample, answer, commit

    def __bool__(self) -> bool:
        return self.ok

    @property
    def ok(self) -> bool:
        """Whether the request succeeded."""
        return self.sample.outcome is Outcome.OK

    @property
    def outcome(self) -> Outcome:
        """How it ended."""
        return self.sample.outcome

    @property
    def text(self) -> str:
        """The answer proper; empty where there is none."""
        return self._answer.text

    @property
    def finish_reason(self) -> str | None:
        """The server's own word for why it stopped."""
        return self._answer.finish_reason

    @property
    def tool_calls(self) -> list[tuple[str, str]]:
        """(name, arguments as JSON text) of each tool call."""
        return [(name, arguments) for name, arguments in self._answer.tool_calls.values()]

    @property
    def ttft_ms(self) -> float | None:
        """Time to first token from the intended start."""
        first = self.sample.first_token_ns
        return None if first is None else (first - self.sample.intended_ns) / 1e6

    def fail(self, reason: str) -> None:
        """The answer is not what was asked for: a failure in Locust, `quality` false here."""
        self._commit(reason)


class LLM:
    """`self.llm` of a user: one request at a time, measured on the tape."""

    def __init__(self, user: LLMMixin) -> None:
        self._user = user
        self._open: Ticket | None = None  # a reply the task may still fail
        self._turn: Prompt | None = None  # without a scenario: what follows the last answer

    def chat(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        name: str | None = None,
        check: Callable[[str], bool] | None = None,
        **extra_body: Any,
    ) -> Reply:
        """Send `messages` and wait for the whole answer; further keywords go into the body."""
        self.flush()
        user = self._user

        def build(model: str, _workload: str) -> Prompt:
            return Prompt(
                model, type(user).__name__, messages, max_tokens, name=name,
                check=of_text(check) if check is not None else None,
                extra_body=extra_body,
            )  # fmt: skip

        return self._send(self._user.take_arrival(), None, build, hold=True)

    def next(self) -> Reply:
        """Send the next prompt of this user's workload: the next turn, where one follows."""
        self.flush()
        user = self._user
        arrival = user.take_arrival()
        ahead = arrival.prepared if arrival else None
        turn, self._turn = self._turn, None
        build = user.worker.next_prompt if turn is None else lambda _model, _workload: turn
        return self._send(arrival, ahead, build, hold=False)

    def flush(self) -> None:
        """The task did not fail its last reply: it stands as it is."""
        if self._open is not None:
            ticket, self._open = self._open, None
            self._user.worker.commit(ticket)

    def _send(
        self,
        arrival: Arrival | None,
        ahead: Prepared | None,
        build: Callable[[str, str], Prompt],
        *,
        hold: bool,
    ) -> Reply:
        worker = self._user.worker
        try:
            ticket, prepared = self._ticket(arrival, ahead, build, hold=hold)
        except Closed:
            raise StopUser from None
        except BaseException:
            # The task's own mistake (or its end): the arrival's place must not stay taken.
            if arrival is not None:
                worker.give_back(arrival)
            raise
        sample, answer = worker.send(ticket, prepared)
        if arrival is None and (then := next_turn(ticket.prompt, sample)) is not None:
            following = then(answer.said)
            self._turn = None if following is None else following.prompt
        if hold:
            self._open = ticket

        def commit(failure: str | None) -> None:
            if self._open is ticket:
                self._open = None
            worker.commit(ticket, failure)

        return Reply(sample, answer, commit)

    def _ticket(
        self,
        arrival: Arrival | None,
        prepared: Prepared | None,
        build: Callable[[str, str], Prompt],
        *,
        hold: bool,
    ) -> tuple[Ticket, Prepared]:
        """Everything that must be there before the request is sent."""
        user, worker = self._user, self._user.worker
        if prepared is None:
            model = arrival.call.model if arrival else user.model
            workload = arrival.call.workload if arrival else type(user).__name__
            prepared = worker.client.prepare(build(model, workload))
        prompt = prepared.prompt
        ticket = worker.begin(
            arrival, prompt.model, prompt.workload, prompt, hold=hold, written=len(prepared.body)
        )
        return ticket, prepared


class LLMMixin:
    """For users that are something else as well: `class Shop(LLMMixin, HttpUser)`."""

    models: ClassVar[Sequence[str]] = ()
    """Names from the catalogue or the scenario; default: the scenario's."""

    kind: ClassVar[str | None] = None
    """The kind of workload whose arrivals this class takes; None: tasks say what to send."""

    workload: ClassVar[Mapping[str, Any]] = {}
    """Settings of that workload where no scenario has them (`{"output_tokens": 64}`)."""

    worker: Worker
    _own_model: str

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)  # type: ignore[call-arg]
        while not hasattr(environment, "loadlib"):
            gevent.sleep(0.01)  # a worker whose master was faster than its own `init`
        self._plugin: Plugin = environment.loadlib
        self._joined = False
        self.llm = LLM(self)
        self._arrival: Arrival | None = None
        self._own_calls: list[Call] = []  # of this task, through the SDK
        if self._plugin.has_part.is_set():
            self._join()
        think = self.wait_time  # type: ignore[has-type]

        def wait_time() -> float:
            self._task_over()
            paced = self._joined and self.worker.dispatcher is not None
            return 0.0 if paced else float(think())

        self.wait_time = wait_time

    def _join(self) -> None:
        self._joined, self.worker = True, self._plugin.worker
        known = list(self.worker.session.models)
        mine = [name for name in self.models if name in known] or known
        self._own_model = mine[next(_turn) % len(mine)]

    @property
    def model(self) -> str:
        """The model this user talks to next; under a scenario its arrival says which."""
        self._arrival = self.take_arrival()
        return self._own_model if self._arrival is None else self._arrival.call.model

    @property
    def openai(self) -> Sdk:
        """The SDK, measured as it is used; bytes are handed on as they come."""
        model = self.model
        _sender.set(self)
        return self.worker.live(model, _begin)

    def take_arrival(self) -> Arrival | None:
        """Wait for this user's turn; None where Locust decides the load."""
        held, self._arrival = self._arrival, None
        if held is not None:
            return held
        if not self._joined:
            self._plugin.has_part.wait()  # a process without a part in the run: until its end
            self._join()
        try:
            return self.worker.take(type(self).__name__)
        except Closed:
            raise StopUser from None

    def begin_own(self, prepared: Prepared | None) -> Call:
        """A request of the user's own code is about to be sent."""
        self.llm.flush()
        arrival = self.take_arrival()
        model = arrival.call.model if arrival else self._own_model
        try:
            prompt, written = (prepared.prompt, len(prepared.body)) if prepared else (None, 0)
            ticket = self.worker.begin(arrival, model, type(self).__name__, prompt, written=written)
        except Closed:
            raise StopUser from None
        self._own_calls.append(ticket.call)
        return ticket.call

    def _task_over(self) -> None:
        """Replies stand as they are; streams that the task left open are let go."""
        self.llm.flush()
        calls, self._own_calls = self._own_calls, []
        for call in calls:
            self.worker.let_go(call)

    def on_stop(self) -> None:
        """Locust stops this user: what it held goes back."""
        self._task_over()
        if self._arrival is not None:
            self.worker.give_back(self._arrival)
            self._arrival = None


def _begin(prepared: Prepared | None) -> Call:
    return _sender.get().begin_own(prepared)


class LLMUser(LLMMixin, User):  # type: ignore[misc]
    """A plain Locust user that talks to models."""

    abstract = True


class ChatUser(LLMUser):
    """Replays conversations with growing history."""

    abstract = True
    kind = "chat"

    @task
    def converse(self) -> None:
        """Send the next turn of a conversation."""
        self.llm.next()


class LongContextUser(LLMUser):
    """Asks for a fact planted in a long document."""

    abstract = True
    kind = "long_context"

    @task
    def read(self) -> None:
        """Send the next document with its question."""
        self.llm.next()


class ReplayUser(LLMUser):
    """Sends requests of the lengths of a recorded trace."""

    abstract = True
    kind = "replay"

    @task
    def replay(self) -> None:
        """Send the next request of the trace."""
        self.llm.next()


class ToolsUser(LLMUser):
    """Asks for function calls, and sends their results back."""

    abstract = True
    kind = "tools"

    @task
    def call(self) -> None:
        """Send the next request, or the result of the last call."""
        self.llm.next()


class TranslateUser(LLMUser):
    """Asks for translations."""

    abstract = True
    kind = "translate"

    @task
    def translate(self) -> None:
        """Send the next text."""
        self.llm.next()


class ReasonUser(LLMUser):
    """Poses short tasks that have one right answer."""

    abstract = True
    kind = "reason"

    @task
    def solve(self) -> None:
        """Send the next task."""
        self.llm.next()


class VisionUser(LLMUser):
    """Asks about pictures."""

    abstract = True
    kind = "vision"

    @task
    def look(self) -> None:
        """Send the next pictures with a question."""
        self.llm.next()


class ExtractUser(LLMUser):
    """Has receipts and invoices read into JSON."""

    abstract = True
    kind = "extract"

    @task
    def extract(self) -> None:
        """Send the next paper."""
        self.llm.next()
