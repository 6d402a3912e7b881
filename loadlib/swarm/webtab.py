"""The LLM tab of Locust's web UI: a plain live table through Locust's own extension points."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loadlib.swarm.plugin import Plugin

KEY = "llm"
COLUMNS: tuple[tuple[str, str], ...] = (
    ("model", "Model"),
    ("workload", "Workload"),
    ("phase", "Phase"),
    ("in_flight", "In flight"),
    ("ok", "OK"),
    ("failed", "Errors"),
    ("ttft_p50", "TTFT p50 (ms)"),
    ("ttft_p99", "TTFT p99 (ms)"),
    ("tok_s", "Tokens/s"),
)


def install(plugin: Plugin, web_ui: Any) -> None:
    """Add the tab; its rows ride on `/stats/requests`, which the page polls while running."""
    arguments = web_ui.template_args
    arguments.setdefault("extended_tabs", []).append({"title": "LLM", "key": KEY})
    structure = [{"key": key, "title": title} for key, title in COLUMNS]
    arguments.setdefault("extended_tables", []).append({"key": KEY, "structure": structure})

    @web_ui.app.after_request  # type: ignore[untyped-decorator]
    def add_rows(response: Any) -> Any:
        from flask import request

        if request.path.endswith("/stats/requests") and response.status_code == 200:
            stats = json.loads(response.get_data())
            # Locust keeps its answer for two seconds: ours may be in it already.
            others = [tab for tab in stats.get("extended_stats", []) if tab["key"] != KEY]
            stats["extended_stats"] = [*others, {"key": KEY, "data": rows(plugin)}]
            response.set_data(json.dumps(stats))
        return response


def rows(plugin: Plugin) -> list[dict[str, Any]]:
    """One row per model, workload and phase; `–` where nothing is known yet."""
    if plugin.coordinator is None:
        return []
    return [
        {
            "model": row.model,
            "workload": row.workload,
            "phase": row.phase,
            "in_flight": row.in_flight,
            "ok": row.ok,
            "failed": row.failed,
            "ttft_p50": _shown(row.ttft_lately.p50),
            "ttft_p99": _shown(row.ttft_lately.p99),
            "tok_s": _shown(row.tok_s),
        }
        for row in plugin.coordinator.run.board.rows()
    ]


def _shown(value: float | None) -> float | str:
    return "–" if value is None else round(value, 1)
