"""Scenario files: YAML → frozen, validated values; every mistake is an error at `file:line`.

`load` and `parse` read, `quick` builds one from a command line, `to_yaml` writes one back:
`parse(to_yaml(s)) == s`. The values themselves are in `scenario_spec`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from loadlib import catalog
from loadlib import scenario_yaml as yaml
from loadlib.errors import ScenarioError, UsageError, nearest
from loadlib.redact import redact
from loadlib.scenario_fields import FROM_YAML, Spec
from loadlib.scenario_phase import Phase
from loadlib.scenario_server import ServerSpec
from loadlib.scenario_spec import (
    Budget,
    Endpoint,
    Group,
    ModelLimits,
    ModelSpec,
    OnThrottle,
    Price,
    Reach,
    Scenario,
    Simulator,
    Timeouts,
)
from loadlib.workloads import SPECS, WorkloadSpec

__all__ = [
    "Budget",
    "Endpoint",
    "Group",
    "ModelSpec",
    "Phase",
    "Price",
    "Reach",
    "Scenario",
    "Simulator",
    "Timeouts",
    "WorkloadSpec",
    "json_schema",
    "load",
    "parse",
    "quick",
    "to_yaml",
    "with_measure",
    "with_models",
]

Overrides = Sequence[tuple[str, str]]
"""`--set` as (dotted key, YAML value), applied in order."""


def load(path: Path, overrides: Overrides = ()) -> Scenario:
    """Read a scenario file. Raises `ScenarioError`."""
    try:
        if path.stat().st_size > yaml.MAX_BYTES:
            raise ScenarioError("is larger than 256 KiB: that is not a scenario", file=str(path))
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        raise ScenarioError(f"cannot read the scenario: {reason}", file=str(path)) from None
    except UnicodeDecodeError as error:
        raise ScenarioError(f"is not UTF-8 (byte {error.start})", file=str(path)) from None
    return parse(text, str(path), overrides)


def parse(text: str, file: str = "<scenario>", overrides: Overrides = ()) -> Scenario:
    """Read a scenario from text; `file` is what errors call it, and where data is looked for.

    Raises `ScenarioError` for the first mistake, with the number of further ones.
    """
    document = yaml.read(text, file)
    if not isinstance(document.data, dict):
        what = "is empty" if document.data is None else "should be a mapping (key: value)"
        raise document.error(f"{what}; a scenario begins with version: 1")
    for key, value in overrides:
        document.override(key, value, f"--set {redact(key, limit=100)}")
    document.data.setdefault("name", _default_name(file))
    _find_data(document.data, Path(file).parent)
    return _validated(document)


def _default_name(file: str) -> str:
    return "scenario" if file.startswith("<") else Path(file).stem or "scenario"


def _find_data(data: dict[str, Any], folder: Path) -> None:
    """Data files are meant relative to the scenario file, else to the working directory."""
    workloads = data.get("workloads")
    for workload in workloads.values() if isinstance(workloads, dict) else ():
        name = workload.get("data") if isinstance(workload, dict) else None
        if isinstance(name, str) and name and "\0" not in name and (folder / name).exists():
            workload["data"] = str(folder / name)
    simulator = data.get("simulator")
    if not isinstance(simulator, dict):
        return
    profile = simulator.get("profile")
    if isinstance(profile, str) and "\0" not in profile and (folder / profile).is_file():
        simulator["profile"] = str(folder / profile)


def _validated(document: yaml.Document) -> Scenario:
    _check_models(document)
    try:
        return Scenario.model_validate(
            document.data, context=FROM_YAML, by_alias=True, by_name=False
        )
    except ValidationError as error:
        raise _first(document, error) from None


def _check_models(document: yaml.Document) -> None:
    """Names nobody knows, before the scopes and subsets that a misspelt model would break."""
    models = document.data.get("models")
    for position, model in enumerate(models if isinstance(models, list) else ()):
        try:
            catalog.resolve(ModelSpec.model_validate(model, context=FROM_YAML))
        except ValidationError:
            continue  # its turn comes with the rest of the file
        except UsageError as error:
            raise document.error(str(error), ("models", position)) from None


def _first(document: yaml.Document, error: ValidationError) -> ScenarioError:
    """The mistake that stands first in the file, and how many others there are."""
    found = [_explained(document.data, detail) for detail in error.errors(include_url=False)]
    message, path = min(found, key=lambda item: document.line(item[1]))
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return document.error(message + more, path)


def _explained(data: Any, detail: ErrorDetails) -> tuple[str, yaml.Path]:
    """One sentence for a pydantic error, and where it stands."""
    path = _place(tuple(detail["loc"]))
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "scenario":
        path = (*path, *context["path"])
        return _at(data, path, context["message"]), path
    if kind == "extra_forbidden":
        return _unknown_key(data, path), path
    if kind == "union_tag_not_found":
        return f"{_dotted((*path, 'kind'))} is missing", path
    if kind == "union_tag_invalid":
        path = (*path, "kind")
        return _not_one_of(path, context["tag"], context["expected_tags"]), path
    if kind == "missing":
        return f"{_dotted(path)} is missing", path[:-1]
    if kind == "literal_error":
        return _not_one_of(path, detail["input"], context["expected"]), path
    if kind == "value_error":
        return _at(data, path, str(context["error"])), path
    template = _SHOULD.get(kind)
    text = template.format(**context) if template else redact(detail["msg"])
    return _at(data, path, text), path


def _place(loc: yaml.Path) -> yaml.Path:
    """Where an error stands in the file: pydantic names the kind of a workload as a step, too."""
    tagged = len(loc) > 2 and loc[0] == "workloads" and loc[2] in SPECS
    return (*loc[:2], *loc[3:]) if tagged else loc


_SHOULD: dict[str, str] = {
    "string_type": "should be text",
    "int_type": "should be a whole number",
    "float_type": "should be a number",
    "bool_type": "should be true or false",
    "tuple_type": "should be a list",
    "dict_type": "should be a mapping (name: …)",
    "model_type": "should be a mapping (key: value)",
    "model_attributes_type": "should be a mapping (key: value)",
    "greater_than": "should be more than {gt:g}",
    "greater_than_equal": "should be {ge:g} or more",
    "less_than": "should be less than {lt:g}",
    "less_than_equal": "should be {le:g} or less",
    "finite_number": "should be a finite number",
    "too_short": "should not be empty",
    "string_too_short": "should not be empty",
}


def _at(data: Any, path: yaml.Path, message: str) -> str:
    """`message` behind the dotted place; a whole document or list needs no place."""
    return f"{_dotted(path)}: {message}" if path and data is not None else message


def _dotted(path: yaml.Path) -> str:
    return ".".join(redact(str(step), limit=80) for step in path if step != "[key]")


def _not_one_of(path: yaml.Path, given: object, expected: str) -> str:
    text = redact(str(given), limit=40)
    choices = [choice.strip("'") for choice in expected.replace(" or ", ", ").split(", ")]
    return f"{_dotted(path)}: {text!r} is not one of {', '.join(choices)}{nearest(text, choices)}"


_BELOW: dict[str, tuple[int, type[Spec]]] = {
    "models": (2, ModelSpec),
    "workloads": (2, WorkloadSpec),
    "load": (2, Phase),
    "budget": (1, Budget),
    "timeouts": (1, Timeouts),
    "on_throttle": (1, OnThrottle),
    "simulator": (1, Simulator),
    "server_metrics": (2, ServerSpec),
}
"""Top-level key → (steps to a mapping below it, what that mapping is)."""


def _unknown_key(data: Any, path: yaml.Path) -> str:
    """Misspelt, or in the wrong place: say which."""
    key, spec = str(path[-1]), _owner(data, path[:-1])
    if issubclass(spec, WorkloadSpec) and (reason := _of_other_kinds(key, spec)):
        return f"{_dotted(path)}: {key} {reason}"
    homes: dict[str, type[Spec]] = {name: below for name, (_, below) in _BELOW.items()}
    home = next((name for name, other in homes.items() if key in _keys(other)), None)
    if key in _keys(Scenario):
        guess = " (it belongs at the top)"
    else:
        guess = f" (it belongs in {home})" if home else nearest(key, _keys(spec))
    return f"unknown key {redact(key, limit=80)!r}{_inside(path)}{guess}"


def _of_other_kinds(key: str, spec: type[WorkloadSpec]) -> str:
    """Why a workload of this kind has no such key where others have one; else empty."""
    if key in spec.INSTEAD:
        return spec.INSTEAD[key]
    kinds = [kind for kind, other in SPECS.items() if key in _keys(other)]
    this = next((kind for kind, other in SPECS.items() if other is spec), "this")
    return f"belongs to kind: {' or '.join(kinds)}, not {this}" if kinds else ""


def _inside(path: yaml.Path) -> str:
    return f" in {_dotted(path[:-1])}" if path[:-1] else ""


def _owner(data: Any, path: yaml.Path) -> type[Spec]:
    if not path:
        return Scenario
    depth, spec = _BELOW[str(path[0])]
    if path[0] == "workloads":
        return SPECS[data["workloads"][path[1]]["kind"]]
    if len(path) <= depth:
        return spec
    return ModelLimits if path[2] == "limits" else Price


def _keys(spec: type[Spec]) -> list[str]:
    return [row.alias or name for name, row in spec.model_fields.items()]


def to_yaml(scenario: Scenario) -> str:
    """The effective scenario as a file that `parse` reads back to an equal value."""
    return yaml.write(scenario.effective())


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a scenario file, for editors and `validate --schema`."""
    schema = Scenario.model_json_schema(by_alias=True)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "loadlib scenario",
    }


def _rebuilt(data: dict[str, Any], flags: str) -> Scenario:
    """Changed settings are checked as if they stood in a file; errors name the `flags`."""
    document = yaml.Document(data, flags)
    yaml.scan(document)
    return _validated(document)


def quick(
    base_url: str | None,
    model: str | Sequence[str],
    *,
    rate: str | None = None,
    users: int | None = None,
    requests: int | None = None,
    duration: str | None = None,
    overrides: Overrides = (),
) -> Scenario:
    """A scenario without a file: built-in chats to the models, one measure phase.

    Values as on the command line (`rate="5/s"`, `duration="30s"`). Without `rate` it is a closed
    loop of `users` (default 1); without `requests` and `duration` it lasts 60 s. `base_url` None
    means catalogue models at their providers. Raises `ScenarioError`.
    """
    names = [model] if isinstance(model, str) else list(model)
    if rate is not None and users is not None:
        raise UsageError("--rate and --users exclude each other: an open loop has no users")
    if duration is not None and requests is not None:
        raise UsageError("--duration and --requests exclude each other")
    phase: dict[str, Any] = {"phase": "measure"}
    phase |= {"requests": requests} if requests is not None else {"duration": duration or "60s"}
    if rate is not None:
        phase |= {"arrival": "poisson", "rate": rate}
    else:
        phase |= {"arrival": "closed", "users": users if users is not None else 1}
    endpoint = {"base_url": base_url} if base_url is not None else {}
    data = {
        "version": 1,
        "name": "quick",
        "models": [{"name": name, **endpoint} for name in names],
        "workloads": {"chat": {"kind": "chat"}},
        "load": [phase],
    }
    document = yaml.Document(data, "command line")
    for key, value in overrides:
        document.override(key, value, f"--set {redact(key, limit=100)}")
    yaml.scan(document)
    return _validated(document)


def with_measure(
    scenario: Scenario,
    *,
    rate: str | None = None,
    users: int | None = None,
    duration: str | None = None,
    requests: int | None = None,
) -> Scenario:
    """`--rate`, `--users`, `--duration`, `--requests`: the one measure phase, changed.

    `users` makes it a closed loop and `rate` an open one (Poisson if it was closed);
    `duration` and `requests` replace each other. Raises `UsageError` where several phases
    measure, or where two of the options contradict each other.
    """
    given = {"rate": rate, "users": users, "duration": duration, "requests": requests}
    flags = [f"--{name}" for name, value in given.items() if value is not None]
    if not flags:
        return scenario
    for pair in (("rate", "users"), ("duration", "requests")):
        if all(given[name] is not None for name in pair):
            raise UsageError(f"--{pair[0]} and --{pair[1]} exclude each other")
    measures = [i for i, phase in enumerate(scenario.load) if phase.kind == "measure"]
    if len(measures) != 1:
        raise UsageError(
            f"{', '.join(flags)}: {scenario.name!r} has {len(measures)} measure phases, "
            f"say which: --set load.{measures[0]}.{flags[0][2:]}=…"
        )
    data = scenario.effective()
    _change_phase(data["load"][measures[0]], given)
    return _rebuilt(data, ", ".join(flags))


def _change_phase(phase: dict[str, Any], given: Mapping[str, Any]) -> None:
    if given["users"] is not None:
        for key in ("rate", "shape", "speed", "max_in_flight", "when_full"):
            phase.pop(key, None)
        phase |= {"arrival": "closed", "users": given["users"]}
    if given["rate"] is not None:
        phase.pop("users", None)
        arrival = "poisson" if phase["arrival"] == "closed" else phase["arrival"]
        phase |= {"arrival": arrival, "rate": given["rate"]}
    for key, other in (("duration", "requests"), ("requests", "duration")):
        if given[key] is not None:
            phase.pop(other, None)
            phase[key] = given[key]


def with_models(
    scenario: Scenario, names: Sequence[str] = (), *, base_url: str | None = None
) -> Scenario:
    """`--model` and `--base-url`: only these models, served there.

    A declared name keeps its settings; any other is taken as a catalogue name or, with
    `base_url`, as a model of that endpoint. What was said about models left out (SLO lines,
    `models` of workloads) goes with them. `base_url` ends `target: simulator`: there is a server
    now. Raises `ScenarioError`.
    """
    data = scenario.effective()
    declared = {model["name"]: model for model in data["models"]}
    wanted = list(dict.fromkeys(names)) or list(declared)
    data["models"] = [dict(declared.get(name, {"name": name})) for name in wanted]
    for model in data["models"] if base_url is not None else ():
        model["base_url"] = base_url
        for key in ("api_version", "auth"):  # of the endpoint it had
            model.pop(key, None)
    if base_url is not None and scenario.target == "simulator":
        del data["target"]
        data.pop("simulator", None)
    gone = set(declared) - set(wanted)
    empty = _drop_models(data["workloads"], gone)
    data["server_metrics"] = _serving(data["server_metrics"], gone)
    pairs = {f"{m}/{w}" for m, w in scenario.groups if m in gone or w in empty}
    moot = gone | empty | pairs
    data["slo"] = [line for line in data["slo"] if line.rpartition(": ")[0].strip() not in moot]
    flags = [flag for flag, used in (("--model", names), ("--base-url", base_url)) if used]
    return _rebuilt(data, ", ".join(flags))


def _serving(servers: list[dict[str, Any]], gone: set[str]) -> list[dict[str, Any]]:
    """The servers that still serve a model, with those they serve."""
    kept = []
    for server in servers:
        models = [model for model in server.get("models", ()) if model not in gone]
        if models or "models" not in server:
            kept.append({**server, **({"models": models} if models else {})})
    return kept


def _drop_models(workloads: dict[str, Any], gone: set[str]) -> set[str]:
    """Take models out of workloads; the names of workloads that nothing is left of."""
    empty = set()
    for name, workload in list(workloads.items()):
        if "models" in workload:
            workload["models"] = [model for model in workload["models"] if model not in gone]
            if not workload["models"]:
                del workloads[name]
                empty.add(name)
    return empty
