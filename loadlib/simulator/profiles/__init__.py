"""How fast each model is: a built-in profile, or a YAML file of the user's own."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from loadlib import scenario_yaml, units
from loadlib.engine import Limits, Speed, Step
from loadlib.errors import ScenarioError, UsageError, nearest

Encoding = Literal["o200k_base", "cl100k_base"]
BUILT_IN = ("catalogue", "instant", "vllm-replica", "llamacpp-cpu")
_ENCODINGS = ("o200k_base", "cl100k_base")
_HERE = Path(__file__).parent
# `gpt-4o-mini-2024-07-18`, `claude-3-haiku-20240307`, `gpt-4-0613`, `…-latest`, `…-001`
_VERSION = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8}|\d{4}|\d{3}|latest)$")


@dataclass(frozen=True, slots=True)
class ModelProfile:
    """One served model. `context_window` counts tokens, prompt and output together; `limits` are
    those of one account.
    """

    speed: Speed
    limits: Limits = field(default_factory=Limits)
    variation: float = 0.0
    context_window: int | None = None
    encoding: Encoding = "o200k_base"


@dataclass(frozen=True, slots=True)
class Profile:
    """All models of one simulator; `default` serves any other name, None refuses it."""

    name: str
    models: Mapping[str, ModelProfile]
    default: ModelProfile | None

    def of(self, model: str) -> ModelProfile | None:
        """The profile behind a name on the wire, dated or with a provider in front."""
        plain = model.rsplit("/", 1)[-1]
        for name in (model, plain, _VERSION.sub("", plain)):
            if name in self.models:
                return self.models[name]
        return self.default


def load(profile: str, *, limited: bool = False) -> Profile:
    """Read a built-in profile by name, or a YAML file; `limited`: with its optional limits.

    Raises `UsageError` for a name that is neither, or a profile that has no such limits, and
    `ScenarioError` (with its line) for a file that is wrong.
    """
    path = _HERE / f"{profile}.yaml" if profile in BUILT_IN else Path(profile)
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        known = ", ".join(BUILT_IN)
        raise UsageError(
            f"no profile {profile!r}: neither {known} nor a file{nearest(profile, BUILT_IN)}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read profile {profile!r}: {error}") from error
    reader = _Reader(scenario_yaml.read(text, str(path)), limited)
    made = reader.profile(profile)
    if limited and not reader.found_limits:
        raise UsageError(f"--limits: no model of profile {profile!r} has optional_limits")
    return made


class _Reader:
    """Turns a YAML document into a `Profile`, naming the line of what is wrong."""

    def __init__(self, document: scenario_yaml.Document, limited: bool) -> None:
        self._document, self._limited = document, limited
        self.found_limits = False

    def profile(self, name: str) -> Profile:
        fields = self._mapping(self._document.data, (), ("models", "default"))
        models = self._mapping(fields.get("models"), ("models",), None)
        for key in models:
            if not key.strip():
                raise self._document.error("the name of a model is empty", ("models", key))
        default = None
        if "default" in fields:
            default = self._model(fields["default"], ("default",))
        if not models and default is None:
            raise self._document.error("a profile needs models, or a default")
        return Profile(
            name, {key: self._model(models[key], ("models", key)) for key in models}, default
        )

    def _model(self, data: Any, path: scenario_yaml.Path) -> ModelProfile:
        fields = self._mapping(data, path, (*_FIELDS, "encoding", "prefix_cache", _OPTIONAL))
        values = {k: self._value(v, (*path, k)) for k, v in fields.items() if k != _OPTIONAL}
        limits = _take(values, _LIMITS) | self._optional_limits(fields, (*path, _OPTIONAL))
        delay_ns = round(values.pop("first_token_delay_ms", 0) * 1e6)
        speed = _take(values, _SPEED)
        step = {
            name: values.pop(key) * ns for key, (name, ns) in _STEP_COSTS.items() if key in values
        }
        step |= _take(values, _STEP_LIMITS)
        try:
            model = ModelProfile(
                speed=Speed(first_token_delay_ns=delay_ns, step=_step(step), **speed),
                limits=Limits(**limits),
                **values,
            )
        except ValueError as error:
            raise self._wrong(str(error), path) from None
        self._check_window(model, path)
        return model

    def _optional_limits(
        self, model: Mapping[str, Any], path: scenario_yaml.Path
    ) -> dict[str, Any]:
        """Those that hold when they are asked for; checked even when they are not."""
        fields = self._mapping(model.get(_OPTIONAL), path, _LIMITS)
        values = {key: self._value(value, (*path, key)) for key, value in fields.items()}
        self.found_limits |= bool(values)
        return values if self._limited else {}

    def _check_window(self, model: ModelProfile, path: scenario_yaml.Path) -> None:
        step = model.speed.step
        if step is None or step.kv_blocks is None:
            return
        capacity = step.kv_blocks * step.block_tokens
        if model.context_window is None or model.context_window > capacity:
            message = f"kv_blocks hold {capacity} tokens: needs a context_window of at most that"
            raise self._wrong(message, path)

    def _value(self, value: Any, path: scenario_yaml.Path) -> Any:
        key = str(path[-1])
        if key == "prefix_cache":
            if not isinstance(value, bool):
                raise self._wrong(f"should be true or false, not {value!r}", path)
            return value
        if key == "encoding":
            if value not in _ENCODINGS:
                raise self._wrong(f"{value!r} is not {' or '.join(_ENCODINGS)}", path)
            return value
        whole, low, high = _FIELDS[key]
        number = self._number(value, path)
        if key in _RATES and number <= 0:
            raise self._wrong(f"should be greater than 0, not {value}", path)
        if number < low:
            raise self._wrong(f"should be at least {low:g}, not {value}", path)
        if number > high:
            raise self._wrong(f"should be at most {high:,.0f}", path)
        if whole and number != int(number):
            raise self._wrong(f"should be a whole number, not {value}", path)
        return int(number) if whole else number

    def _number(self, value: Any, path: scenario_yaml.Path) -> float:
        if isinstance(value, float) and math.isfinite(value):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        try:
            return units.count(value)
        except ValueError as error:
            raise self._wrong(str(error), path) from None

    def _mapping(
        self, data: Any, path: scenario_yaml.Path, known: tuple[str, ...] | None
    ) -> Mapping[str, Any]:
        if data is None:
            return {}
        if not isinstance(data, dict):
            raise self._wrong("should be a mapping", path)
        for key in data:
            if known is not None and key not in known:
                message = f"unknown key {key!r}{nearest(key, known)}"
                raise self._document.error(message, (*path, key))
        return data

    def _wrong(self, message: str, path: scenario_yaml.Path) -> ScenarioError:
        where = f"{'.'.join(str(step) for step in path)}: " if path else ""
        return self._document.error(f"{where}{message}", path)


def _step(values: dict[str, Any]) -> Step | None:
    return Step(**values) if values else None


def _take(values: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """Those of `values`, which lose them."""
    return {key: values.pop(key) for key in keys if key in values}


_DAY_MS = 86_400_000
# key → (whole number?, lowest, highest value): generous, and nothing overflows or fills the memory.
_FIELDS: dict[str, tuple[bool, float, float]] = {
    "first_token_delay_ms": (False, 0, _DAY_MS),
    "prefill_tok_s": (False, 0.001, 1e12),
    "prefill_lanes": (True, 1, 1e5),
    "output_tok_s": (False, 0.001, 1e12),
    "max_running": (True, 1, 1e9),
    "step_ms": (False, 0, _DAY_MS),
    "step_us_per_prefill_token": (False, 0, 1e9),
    "step_us_per_sequence": (False, 0, 1e9),
    "step_ns_per_context_token": (False, 0, 1e12),
    "token_budget": (True, 1, 1e9),
    "kv_blocks": (True, 1, 1e9),
    "block_tokens": (True, 1, 65536),
    "requests_per_minute": (True, 1, 1e12),
    "tokens_per_minute": (True, 1, 1e12),
    "variation": (False, 0, 3),
    "context_window": (True, 2, 1e9),
}
_RATES = ("prefill_tok_s", "output_tok_s")
_SPEED = ("prefill_tok_s", "prefill_lanes", "output_tok_s", "max_running")
# key → the engine's name for it, and how many ns its unit has
_STEP_COSTS = {
    "step_ms": ("base_ns", 1e6),
    "step_us_per_prefill_token": ("prefill_token_ns", 1e3),
    "step_us_per_sequence": ("sequence_ns", 1e3),
    "step_ns_per_context_token": ("context_token_ns", 1),
}
_STEP_LIMITS = ("token_budget", "kv_blocks", "block_tokens", "prefix_cache")
_LIMITS = ("requests_per_minute", "tokens_per_minute")
_OPTIONAL = "optional_limits"  # a mapping of such limits
