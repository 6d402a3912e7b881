"""What goes into an engine and comes out of it: `Work`, `Sequence`, and the speeds of a model."""

from __future__ import annotations

import math
from dataclasses import dataclass

NS_PER_S = 1_000_000_000
FS_PER_NS = 1_000_000  # the batch counts femtoseconds, so that its sums are exact integers


@dataclass(frozen=True, slots=True)
class Step:
    """What one step of a batched engine costs, and what limits the batch.

    The length of a step in nanoseconds, rounded per term to the femtosecond, is

        base_ns + prefill_token_ns · (prompt tokens computed in the step)
                + sequence_ns      · (sequences in the step)
                + context_token_ns · (tokens those sequences hold when the step begins)

    `token_budget`: tokens computed in one step, prompt and output together; longer prompts are
    cut into chunks. `kv_blocks` × `block_tokens`: how many tokens the KV cache holds.
    `prefix_cache`: prompts that begin alike share blocks. `None`: no limit.
    Raises `ValueError` where a number makes no sense.
    """

    base_ns: float = 0.0
    prefill_token_ns: float = 0.0
    sequence_ns: float = 0.0
    context_token_ns: float = 0.0
    token_budget: int | None = None
    kv_blocks: int | None = None
    block_tokens: int = 16
    prefix_cache: bool = False

    def __post_init__(self) -> None:
        for name in ("base_ns", "prefill_token_ns", "sequence_ns", "context_token_ns"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a number that is not negative")
        for name in ("token_budget", "kv_blocks", "block_tokens"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.prefix_cache and self.kv_blocks is None:
            raise ValueError("prefix_cache needs kv_blocks: what it may keep")


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast one model is served. Infinite rates and `None` limits mean: no limit.

    Without `step` every sequence has a pace of its own (see `loadlib.engine.steady`):
    `prefill_tok_s` is the rate of *one* of `prefill_lanes` lanes, in prompt tokens per second,
    `output_tok_s` the rate of one sequence. With `step` all sequences move together
    (`loadlib.engine.batch`) and the three must be left alone. `max_running` limits the sequences
    that are admitted at once; `first_token_delay_ns` is spent before or after the queue, outside
    the engine proper. Raises `ValueError` where a number makes no sense.
    """

    first_token_delay_ns: int = 0
    prefill_tok_s: float = math.inf
    output_tok_s: float = math.inf
    prefill_lanes: int | None = None
    max_running: int | None = None
    step: Step | None = None

    def __post_init__(self) -> None:
        if self.first_token_delay_ns < 0:
            raise ValueError("first_token_delay_ns must not be negative")
        for name in ("prefill_tok_s", "output_tok_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be greater than zero")
        for name in ("prefill_lanes", "max_running"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.step is not None:
            self._check_step(self.step)

    def _check_step(self, step: Step) -> None:
        own = (self.prefill_tok_s, self.output_tok_s, self.prefill_lanes)
        if own != (math.inf, math.inf, None):
            raise ValueError(
                "prefill_tok_s, output_tok_s and prefill_lanes belong to a pace of a sequence's "
                "own; with step the batch sets the pace"
            )
        if step.token_budget is not None and step.token_budget < (self.max_running or math.inf):
            raise ValueError("token_budget must be at least max_running, which must be given")


class Work:
    """What one request asks of the engine. Immutable by convention, and cheap to make.

    `delay_factor` and `pace_factor` are the request's own luck (1.0: none), drawn by the caller
    so that the engine stays a function: they stretch the first-token delay, and the gap between
    tokens where a sequence has a pace of its own. `prefix`: one hash per full KV block of the
    prompt, each covering all that stands before it too (a chain), for the prefix cache.
    """

    __slots__ = ("delay_factor", "output_tokens", "pace_factor", "prefix", "prompt_tokens")

    def __init__(
        self,
        prompt_tokens: int,
        output_tokens: int,
        delay_factor: float = 1.0,
        pace_factor: float = 1.0,
        prefix: tuple[int, ...] = (),
    ) -> None:
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.delay_factor = delay_factor
        self.pace_factor = pace_factor
        self.prefix = prefix

    def __repr__(self) -> str:
        return f"Work({self.prompt_tokens}, {self.output_tokens})"


class Sequence:
    """A request inside an engine; instants are None as long as they have not been reached.

    `arrival_ns`: handed in. `admitted_ns`: got its place (the first time, if it lost it again).
    `first_ns`, `last_ns`: its first and last token; with a pace of its own both are known, and
    may lie ahead, from admission on. `done`: tokens it had when it last lost its place, or left.
    `cached`: prompt tokens the prefix cache saved it at its first admission.
    """

    __slots__ = (
        "admitted_ns",
        "arrival_ns",
        "base_step",
        "blocks",
        "cached",
        "done",
        "end_step",
        "first_ns",
        "gap_ns",
        "last_ns",
        "left",
        "order",
        "output_tokens",
        "state",
        "work",
    )

    def __init__(self, work: Work, arrival_ns: int, order: int, state: int) -> None:
        self.work = work
        self.arrival_ns = arrival_ns
        self.order = order
        self.state = state
        self.output_tokens = work.output_tokens or 1  # a prompt without an answer takes a step too
        self.admitted_ns: int | None = None
        self.first_ns: int | None = None
        self.last_ns: int | None = None
        self.gap_ns = 0.0
        self.done = 0
        self.cached = 0
        self.base_step = 0  # decoding: tokens so far = the engine's step number − this
        self.end_step = -1  # decoding: the step number at which it will be complete
        self.blocks = 0  # KV blocks reserved at admission
        self.left = 0  # prompt tokens not computed yet

    @property
    def finished(self) -> bool:
        """Whether it has left the engine with all its tokens."""
        return self.state == FINISHED

    @property
    def cancelled(self) -> bool:
        """Whether it has left, or is about to, because the caller said so."""
        return self.state == CANCELLED


# Where a sequence is. Plain integers: they are compared millions of times.
COMING, WAITING, RUNNING, FINISHED, CANCELLED = range(5)


@dataclass(frozen=True, slots=True)
class Load:
    """What an engine holds at an instant, and what it has counted since its start.

    `kv_usage` is a share from 0 to 1, None without a limit; prefix figures are in tokens.
    """

    running: int
    waiting: int
    kv_usage: float | None = None
    preemptions: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
