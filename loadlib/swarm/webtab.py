"""The LLM tab of Locust's web UI, and what stands behind it.

The tab itself is a plain table through Locust's own extension points, and works by itself. A
script of ours, which the stock page loads, shows in its place what `llm/live.json` says; `llm/` is
the same view without Locust around it. Everything is guarded and prefixed as Locust's own pages
are (and by `webguard`), and says nothing but names and figures.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec
import psutil  # type: ignore[import-untyped]
from gevent.lock import BoundedSemaphore

from loadlib.errors import LoadlibError
from loadlib.snapshot import NOTHING, Row, Seen, ServerRow, Snapshot
from loadlib.swarm.options import PREFIX
from loadlib.swarm.yielding import Turns

if TYPE_CHECKING:
    from loadlib.swarm.coordinator import Coordinator
    from loadlib.swarm.form import StartForm
    from loadlib.swarm.plugin import Plugin

KEY = "llm"
COLUMNS: tuple[tuple[str, str], ...] = (
    ("model", "Model"),
    ("workload", "Workload"),
    ("phase", "Phase"),
    ("in_flight", "In flight"),
    ("ok", "OK"),
    ("failed", "Errors"),
    ("throttled", "429"),
    ("ttft_p50", "TTFT p50 (ms)"),
    ("ttft_p99", "TTFT p99 (ms)"),
    ("tok_s", "Tokens/s"),
)
MOST_ROWS = 100  # of the plain table
LIGHTS_EVERY_S = 2.0
LIGHTS_SHARE = 0.05  # of the time: lights that take long are judged less often
MADE_WITHIN_S = 300.0  # a report
NICENESS = 5  # of the process that makes it: load comes first
ASSETS = {"live.js": "text/javascript", "live.css": "text/css", "page.html": "text/html"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
REPORT_POLICY = (  # the page's own names its two scripts by their hashes: both hold
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "sandbox allow-scripts allow-downloads"  # it is a page, and no part of the web UI
)
_SEEN = re.compile(r"(.{1,200})\.(\d{1,12})\.(\d{1,6})\.(\d{1,6})")


def install(plugin: Plugin, web_ui: Any, form: StartForm | None) -> None:
    """Add the tab, its data, its page and the start form to Locust's web UI."""
    tab = Tab(plugin)
    # The form's fields come in their order, not by the alphabet.
    web_ui.app.jinja_env.policies["json.dumps_kwargs"] = {"sort_keys": False}
    _add_table(plugin, web_ui)
    _add_pages(tab, web_ui)
    _add_form(plugin, form, web_ui)


# -- Locust's own extension points -----------------------------------------------------------------


def _add_table(plugin: Plugin, web_ui: Any) -> None:
    """The plain tab; its rows ride on `/stats/requests`, which the page polls while running."""
    arguments = web_ui.template_args
    arguments.setdefault("extended_tabs", []).append({"title": "LLM", "key": KEY})
    structure = [{"key": key, "title": title} for key, title in COLUMNS]
    arguments.setdefault("extended_tables", []).append({"key": KEY, "structure": structure})
    arguments.setdefault("extended_csv_files", []).append(
        {"href": "./llm/report?download=1", "title": "Download LLM report, as it is now"}
    )
    script = asset("tag.html")

    @web_ui.app.after_request  # type: ignore[untyped-decorator]
    def add(response: Any) -> Any:
        from flask import request

        if response.status_code != 200:
            return response
        if request.endpoint == "locust.request_stats":
            stats = json.loads(response.get_data())
            # Locust keeps its answer for two seconds: ours may be in it already.
            others = [tab for tab in stats.get("extended_stats", []) if tab["key"] != KEY]
            stats["extended_stats"] = [*others, {"key": KEY, "data": rows(plugin)}]
            response.set_data(json.dumps(stats))
        elif request.endpoint == "locust.index":
            response.set_data(response.get_data() + script)
        return response


def rows(plugin: Plugin) -> list[dict[str, Any]]:
    """One row per model, workload and phase, the newest first; `–` where nothing is known yet."""
    if plugin.coordinator is None:
        return []
    found = plugin.coordinator.run.board.rows(pause=Turns().give)
    return [_plain(row) for row in found[-MOST_ROWS:]]


def _plain(row: Row) -> dict[str, Any]:
    return {
        "model": row.model,
        "workload": row.workload,
        "phase": row.phase,
        "in_flight": row.in_flight,
        "ok": row.ok,
        "failed": row.failed,
        "throttled": row.throttled,
        "ttft_p50": _shown(row.ttft_lately.p50),
        "ttft_p99": _shown(row.ttft_lately.p99),
        "tok_s": _shown(row.tok_s),
    }


def _shown(value: float | None) -> float | str:
    return "–" if value is None else round(value, 1)


def _add_form(plugin: Plugin, form: StartForm | None, web_ui: Any) -> None:
    """Take our fields before Locust's own Start reads the rest; none, where there is no scenario.

    Locust takes every option it is posted, shown in the form or not: not ours.
    """
    from flask import jsonify, request
    from werkzeug.datastructures import ImmutableMultiDict, MultiDict

    start = web_ui.app.view_functions["locust.swarm"]

    def swarm() -> Any:
        items = request.form.items(multi=True)
        posted = MultiDict((name, value) for name, value in items if not name.startswith(PREFIX))
        try:
            plugin.check_start()
            changed = {} if form is None else form.take(posted)
        except LoadlibError as error:
            return jsonify({"success": False, "message": str(error)})
        for name, value in changed.items():
            posted.setlist(name, [value])
        request.form = ImmutableMultiDict(posted)
        return start()

    web_ui.app.view_functions["locust.swarm"] = web_ui.auth_required_if_enabled(swarm)


# -- pages of our own ------------------------------------------------------------------------------


def asset(name: str) -> bytes:
    """A file of the page."""
    return (files("loadlib.swarm") / "web" / name).read_bytes()


def _add_pages(tab: Tab, web_ui: Any) -> None:
    from flask import Blueprint

    base = web_ui.environment.parsed_options.web_base_path or ""
    pages = Blueprint("loadlib", __name__, url_prefix=f"{base}/llm")
    guarded = web_ui.auth_required_if_enabled
    for rule, view in (
        ("/", tab.page),
        ("/live.json", tab.live),
        ("/live.js", tab.script),
        ("/live.css", tab.style),
        ("/report", tab.report),
    ):
        pages.add_url_rule(rule, view.__name__, guarded(view))

    @pages.after_request
    def ours(response: Any) -> Any:
        response.headers.setdefault("Cache-Control", "private, no-cache")
        return response

    web_ui.app.register_blueprint(pages)


class Tab:
    """What the routes below `llm/` answer."""

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin
        self._looking, self._making = BoundedSemaphore(), BoundedSemaphore()
        self._lights_at = 0.0  # monotonic: not judged again before

    def page(self) -> Any:
        """The view without Locust around it."""
        response = self._asset("page.html")
        response.headers["Content-Security-Policy"] = POLICY
        return response

    def script(self) -> Any:
        """Of the page, and of Locust's."""
        return self._asset("live.js")

    def style(self) -> Any:
        """Of both."""
        return self._asset("live.css")

    @staticmethod
    def _asset(name: str) -> Any:
        from flask import Response

        return Response(asset(name), mimetype=ASSETS[name])

    # -- live.json -----------------------------------------------------------------------------

    def live(self) -> Any:
        """`snapshot.Snapshot` as JSON. `?seen=RUN.REVISION.GENERATION.POINTS`: what is there."""
        from flask import Response, request

        asked = request.args.get("seen", "")
        coordinator = self._plugin.coordinator
        if coordinator is None:
            name, tag, found = "", "idle", NOTHING
        else:
            name, revision = coordinator.run.folder.name, coordinator.run.board.revision
            tag = f"{name}.{revision}.{coordinator.stopping:d}/{quote(asked[:240])}"
        if request.if_none_match.contains(tag):
            return Response(status=304)
        if coordinator is not None:
            found = self._snapshot(coordinator, _seen(asked, name))
        found = msgspec.structs.replace(found, run=name, links=self._links())
        response = Response(msgspec.json.encode(found), mimetype="application/json")
        response.set_etag(tag)
        return response

    def _snapshot(self, coordinator: Coordinator, seen: Seen | None) -> Snapshot:
        with self._looking:  # two readers at once would only wait for each other
            before, turns, lights = time.monotonic(), _Work(), time.monotonic() >= self._lights_at
            found = coordinator.run.board.snapshot(
                time.time_ns(),
                seen=seen,
                lights=lights,
                stopping=coordinator.stopping,
                pause=turns.give,
            )
            found = msgspec.structs.replace(found, servers=_servers(coordinator))
            if lights:
                self._lights_at = before + max(LIGHTS_EVERY_S, turns.spent_s / LIGHTS_SHARE)
        return found

    def _links(self) -> dict[str, Any]:
        """The latest report, and that of each run that is over."""
        plugin = self._plugin
        over = list(plugin.runs) if plugin.may_start else list(plugin.runs)[:-1]
        runs = [{"run": name, "href": f"report?run={quote(name)}"} for name in over[-20:]]
        return {"report": "report" if plugin.runs else None, "runs": runs}

    # -- the report ----------------------------------------------------------------------------

    def report(self) -> Any:
        """The page of a run of this process, as it is now; of the latest, where none is named."""
        from flask import Response, make_response, request

        runs = self._plugin.runs
        name = request.args.get("run") or next(reversed(runs), "")
        folder = runs.get(name)  # one that we made, whatever is asked for
        if folder is None:
            return make_response("no such run: nothing has been started yet, or not here", 404)
        finished = folder / "report.html"
        page = finished.read_bytes() if finished.is_file() else self._made(folder)
        if page is None:
            return make_response("the report could not be made; see loadlib's log", 503)
        response = Response(page, mimetype="text/html")
        response.headers["Content-Security-Policy"] = REPORT_POLICY
        if request.args.get("download"):
            response.headers["Content-Disposition"] = f"attachment; filename={name}.html"
        return response

    def _made(self, folder: Path) -> bytes | None:
        """Made by another process, so that this one can go on receiving what is measured."""
        command = [sys.executable, "-m", "loadlib", "report", "--so-far", str(folder)]
        with self._making:
            child = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
            )
            try:
                psutil.Process(child.pid).nice(NICENESS)
                page, _ = child.communicate(timeout=MADE_WITHIN_S)
            except (subprocess.TimeoutExpired, psutil.Error):
                child.kill()
                child.communicate()
                return None
        return page if child.returncode == 0 else None


def _servers(coordinator: Coordinator) -> tuple[ServerRow, ...]:
    return tuple(
        ServerRow(
            name=name,
            kind=last.kind,
            running=last.values.get("running"),
            waiting=last.values.get("waiting"),
            kv_usage=last.values.get("kv_usage"),
            error=last.error,
        )
        for name, last in coordinator.run.servers.items()
    )


class _Work:
    """Turns that count what was worked between them, the others' turns left out."""

    def __init__(self) -> None:
        self.spent_s = 0.0
        self._turns, self._since_s = Turns(), time.perf_counter()

    def give(self) -> None:
        """Between two pieces."""
        self.spent_s += time.perf_counter() - self._since_s
        self._turns.give()
        self._since_s = time.perf_counter()


def _seen(text: str, run: str) -> Seen | None:
    """What the reader has; None of another run, and of what cannot be understood."""
    found = _SEEN.fullmatch(text)
    if found is None or found[1] != run:
        return None
    revision, generation, points = (int(found[i]) for i in (2, 3, 4))
    return Seen(revision=revision, generation=generation, points=points)
