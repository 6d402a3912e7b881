"""What to send: one file per kind of workload, and this registry of them.

A workload is a pure function: request n of a model is the same for the same seed, whoever asks,
in whichever order and process. That is what lets workers share a run without talking.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, get_args

from loadlib.prompt import Prompt
from loadlib.workloads.chat import Chat, ChatSpec
from loadlib.workloads.extract import Extract, ExtractSpec
from loadlib.workloads.long_context import LongContext, LongContextSpec
from loadlib.workloads.reason import Reason, ReasonSpec
from loadlib.workloads.replay import Replay, ReplaySpec, Stream
from loadlib.workloads.spec import CappedSpec, CustomSpec, PromptSpec, WorkloadSpec
from loadlib.workloads.tools import Tools, ToolsSpec
from loadlib.workloads.translate import Translate, TranslateSpec
from loadlib.workloads.vision import Vision, VisionSpec
from loadlib.workloads.windows import Target

__all__ = [
    "KINDS",
    "SPECS",
    "AnySpec",
    "CappedSpec",
    "PromptSpec",
    "Replay",
    "Stream",
    "Target",
    "Workload",
    "WorkloadSpec",
    "build",
]


class Workload(Protocol):
    """An endless row of prompts per model, with random access."""

    name: str
    kind: str
    size: int | None
    """How many distinct prompts there are before they repeat; None: they never do."""
    requests_per_arrival: float
    """Their mean number: more than one where an arrival is a conversation."""
    invalid_skipped: int
    """Broken records of the data file that were left out (`skip_invalid`)."""

    def serves(self, model: Target) -> bool:
        """Whether there is anything to send to `model`; if not, `skipped` says why."""

    def skipped(self, model: Target) -> tuple[str, ...]:
        """Lines for people: which prompts are skipped or cut for `model`, and why."""

    def expected_tokens(self, model: Target) -> tuple[float, float]:
        """Mean prompt tokens and mean output cap of a request, for estimates of cost."""

    def prompt(self, model: Target, ordinal: int) -> Prompt:
        """Request `ordinal` (0, 1, …) of `model`. Raises ValueError unless `serves(model)`."""


KINDS: dict[str, Callable[[str, Any, int], Workload]] = {
    "chat": Chat,
    "long_context": LongContext,
    "reason": Reason,
    "replay": Replay,
    "tools": Tools,
    "translate": Translate,
    "vision": Vision,
    "extract": Extract,
}

AnySpec = (
    ChatSpec
    | ExtractSpec
    | LongContextSpec
    | ReasonSpec
    | ReplaySpec
    | ToolsSpec
    | TranslateSpec
    | VisionSpec
    | CustomSpec
)
"""The settings of a workload of any kind, told apart by `kind`."""

SPECS: dict[str, type[WorkloadSpec]] = {
    spec.model_fields["kind"].annotation.__args__[0]: spec for spec in get_args(AnySpec)
}
"""Kind → what its settings are."""


def build(name: str, spec: WorkloadSpec, seed: int) -> Workload:
    """The workload `name` of a scenario; data files are read here.

    Raises DataError (file, line) for a data file that cannot be used, ScenarioError for settings
    that no request can meet.
    """
    return KINDS[spec.kind](name, spec, seed)
