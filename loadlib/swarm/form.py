"""What Locust's start form asks for us: scenario, models, rate, duration, budget.

Locust renders the arguments of its command line parser that are marked for the web UI, and posts
their values with Start. Ours are on that parser only while the form is rendered, and what comes
back is taken here, before Locust sees it: checked, and applied to the next run or refused with a
sentence. An empty field is the command line's own choice. There is no field for a key.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gevent.lock import BoundedSemaphore

from loadlib.errors import LoadlibError, UsageError, nearest
from loadlib.redact import redact
from loadlib.scenario import Scenario
from loadlib.session import Choice
from loadlib.units import format_duration

if TYPE_CHECKING:
    from werkzeug.datastructures import MultiDict

    from loadlib.swarm.plugin import Plugin

    Posted = MultiDict[str, str]

FIELDS = ("scenario", "model", "rate", "duration", "max_usd")
MOST_FILES = 50
MOST_BYTES = 1 << 18  # of a scenario file
_SCENARIO = re.compile(rb"^(?=.*^load:)(?=.*^models:)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Field:
    """One field as it is shown."""

    help: str
    default: Any = ""
    choices: Sequence[str] | None = None


class StartForm:
    """Of one process that coordinates runs under a scenario."""

    def __init__(self, plugin: Plugin) -> None:
        self._plugin, self._base = plugin, plugin.opened.choice
        self._lock = BoundedSemaphore()
        self._values: dict[str, str] = {}  # of the last Start: the page comes back with them

    # -- what it shows -------------------------------------------------------------------------

    def fields(self) -> dict[str, Field]:
        """In their order."""
        opened, values, found = self._plugin.opened, self._values, dict[str, Field]()
        shown = opened.session.scenario
        try:
            own = self._own(opened.choice.file)
        except LoadlibError:  # spoilt since it was opened: Start will say so
            own = shown
        files = self._files()
        names = {path: name for name, path in files.items()}
        if opened.choice.file in names:
            found["scenario"] = Field("of this folder", names[opened.choice.file], list(files))
        models, chosen = [m.name for m in own.models], [m.name for m in shown.models]
        found["model"] = Field("all, or some", chosen, models)
        measures = [phase for phase in own.load if phase.kind == "measure"]
        if len(measures) == 1:
            (phase,) = measures
            lasts = f"{phase.requests} requests"
            if phase.duration_ns is not None:
                lasts = format_duration(phase.duration_ns)
            found["rate"] = Field(f"such as 5/s; empty: {phase.label}", values.get("rate", ""))
            found["duration"] = Field(f"such as 60s; empty: {lasts}", values.get("duration", ""))
        limit = None if own.budget is None else own.budget.max_usd
        default = "the default" if limit is None else f"{limit:g}"
        found["max_usd"] = Field(f"budget; empty: {default}", values.get("max_usd", ""))
        return found

    def _own(self, file: str | None) -> Scenario:
        """What the command line makes of a scenario file."""
        return replace(self._base, file=file).scenario()

    def add_to(self, parser: Any) -> None:
        """Put the fields on the parser that Locust renders its form from."""
        for name, field in self.fields().items():
            parser.add_argument(
                f"--start-form-{name}",
                dest=name,
                default=field.default,
                choices=field.choices,
                help=field.help,
                include_in_web_ui=True,
                is_multiple=name == "model",
            )

    # -- what it says --------------------------------------------------------------------------

    def take(self, posted: Posted) -> Mapping[str, str]:
        """Apply what was posted to the next Start; what Locust is to read otherwise than posted.

        Raises:
            LoadlibError: a value is wrong, or what it chooses cannot be run.
        """
        if _is_nobody(posted.get("user_count", "")):
            raise UsageError(
                "number of users: at least 1, for nothing is sent without; Stop ends a run"
            )
        with self._lock:
            plugin, said = self._plugin, self._said(posted)
            models = [name for name in posted.getlist("model") if name]
            choice = self._choice(said, models)
            if not plugin.may_start:  # an Edit, which posts the whole form again
                if (said or models) and choice != plugin.opened.choice:
                    raise UsageError(
                        f"{', '.join(FIELDS)} change with the next Start: stop this run first"
                    )
                return {}
            filled_in, host = str(plugin.opening.needed), plugin.opening.host
            if host is not None and posted.get("host", host) != host:
                raise UsageError(
                    f"host: the scenario says where its models are ({host});"
                    " begin with --base-url to have them elsewhere"
                )
            if choice != plugin.opened.choice:
                opened = plugin.opening.open(choice)
                if choice != self._base:
                    opened.session.notices.append(self._notice(choice))
                plugin.stand_on(opened)
            self._values = said
            changed = {"host": plugin.opening.host} if plugin.opening.host is not None else {}
            if posted.get("user_count") == filled_in:  # nobody chose another number
                changed["user_count"] = changed["spawn_rate"] = str(plugin.opening.needed)
            return changed

    def _said(self, posted: Posted) -> dict[str, str]:
        return {name: text for name in FIELDS if (text := posted.get(name, "").strip())}

    def _choice(self, said: Mapping[str, str], models: Sequence[str]) -> Choice:
        base = self._base
        choice = replace(base, file=self._file(said.get("scenario")))
        choice = replace(choice, models=self._chosen(choice, models))
        if "rate" in said:
            choice = replace(choice, rate=said["rate"], users=None)
        if "duration" in said:
            choice = replace(choice, duration=said["duration"], requests=None)
        if "max_usd" in said:
            limit = ("budget.max_usd", _usd(said["max_usd"]))
            choice = replace(choice, overrides=(*base.overrides, limit))
        return choice

    def _file(self, name: str | None) -> str | None:
        if name is None:
            return self._base.file
        files = self._files()  # a name out of this list, never a path
        if name not in files:
            known = f"there are {', '.join(files)}" if files else "none can be chosen here"
            raise UsageError(
                f"no scenario {redact(name, limit=80)!r}{nearest(name, list(files))}: {known}"
            )
        return files[name]

    def _files(self) -> dict[str, str]:
        """Name → path of the scenarios in the folder of the one that was begun with."""
        if self._base.file is None:
            return {}
        begun = Path(self._base.file)
        found = {begun.name: self._base.file}
        for path in sorted(begun.parent.glob("*.y*ml")):
            if len(found) < MOST_FILES and path.name != begun.name and _is_scenario(path):
                found[path.name] = str(path)
        return dict(sorted(found.items()))

    def _chosen(self, choice: Choice, names: Sequence[str]) -> Sequence[str]:
        """Some of the scenario's models; all of them, or none marked: as the command line says."""
        if not names:
            return self._base.models
        own, shown = self._names(choice.file), self._plugin.opened.choice.file
        if set(names) == set(own):
            return self._base.models
        if choice.file != shown and set(names) == set(self._names(shown)):
            return self._base.models  # all that the page knew, of the scenario it showed
        for name in names:
            if name not in own:
                raise UsageError(
                    f"this scenario has no model {redact(name, limit=80)!r}"
                    f"{nearest(name, own)}: it has {', '.join(own)}"
                )
        return tuple(names)

    def _names(self, file: str | None) -> list[str]:
        return [model.name for model in self._own(file).models]

    def _notice(self, choice: Choice) -> str:
        base, words = self._base, list[str]()
        if choice.file is not None and choice.file != base.file:
            words.append(f"scenario {Path(choice.file).name}")
        if choice.models != base.models:
            words.append(f"model {', '.join(choice.models)}")
        if choice.rate != base.rate:
            words.append(f"rate {choice.rate}")
        if choice.duration != base.duration:
            words.append(f"duration {choice.duration}")
        if choice.overrides != base.overrides:
            words.append(f"max_usd {choice.overrides[-1][1]}")
        return redact(f"chosen in the web UI: {'; '.join(words)}", limit=400)


def _is_scenario(path: Path) -> bool:
    """Whether a file looks like one; what is wrong with it is said when it is chosen."""
    try:
        return (
            path.is_file()
            and path.stat().st_size <= MOST_BYTES
            and _SCENARIO.search(path.read_bytes()) is not None
        )
    except OSError:
        return False


def _is_nobody(users: str) -> bool:
    """Whether Locust would take it for a number of users, and arrivals wait for ever."""
    try:
        return int(users) <= 0
    except ValueError:
        return False  # Locust says what is wrong with it


def _usd(text: str) -> str:
    try:
        value = float(text.removeprefix("$"))
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise UsageError(
            f"max_usd {redact(text, limit=40)!r}: a budget is a number above 0, such as 0.50"
        )
    return f"{value:.10g}"
