"""`report.html`: one self-contained page, complete without scripts, interactive with its own."""

from __future__ import annotations

import gc
import io
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup
from ruamel.yaml import YAML

from loadlib.charts import Figure, Key, RunLike, figures
from loadlib.report import (
    failed,
    health,
    limits,
    models,
    quality,
    samples,
    scripts,
    server,
    svg,
    tiles,
    view,
    words,
)
from loadlib.report import format as f
from loadlib.summary import Group, Summary

SECTIONS = {
    "ttft-histogram": "latency",
    "ttft-percentiles": "latency",
    "token-percentiles": "latency",
    "stalls": "latency",
    "tpot-by-load": "latency",
    "ttft-by-length": "latency",
    "prefill-by-length": "latency",
    "user-rate-histogram": "throughput",
    "user-rate-percentiles": "throughput",
    "system-throughput": "throughput",
    "timeline": "timeline",
    "load-ladder": "ladder",
    "pareto": "ladder",
    "quality-by-load": "quality",
    "needle-recall": "quality",
    "server-load": "server",
}
"""Which section of the page a chart stands in."""

ARTEFACTS = (
    ("summary.json", "every figure on this page"),
    ("requests.jsonl.gz", "one line per attempt"),
    ("timeseries.csv", "counters of every second"),
    ("server.csv", "what servers said of themselves, a line per scrape"),
    ("scenario.yaml", "the effective scenario"),
    ("manifest.json", "how the run was made, with hashes of all files"),
    ("summary.md", "verdict, gates and models as markdown"),
    ("junit.xml", "gates as test cases"),
)
PAGES = ("summary.md", "junit.xml")  # made after this page, so it cannot know their hashes
SOMETIMES = ("server.csv",)  # not every run has it


def render(run: RunLike, *, static: bool = False, picked: Sequence[samples.Picked] = ()) -> str:
    """The page. `run.manifest`, where there is one, adds the command line and file hashes.

    `static` leaves out all scripts; `picked` are single requests to show.
    """
    with _uncollected():
        return _rendered(run, static=static, picked=picked)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without cyclic garbage collection: it finds nothing in what a page is made of, and takes a
    quarter of the time."""
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collected:
            gc.enable()


def _rendered(run: RunLike, *, static: bool, picked: Sequence[samples.Picked]) -> str:
    summary = run.summary
    drawn = figures(run)
    sections: dict[str, list[tuple[Figure, Markup]]] = {}
    for figure in drawn:
        sections.setdefault(SECTIONS[figure.id], []).append((figure, svg.draw(figure)))
    manifest: Mapping[str, Any] = getattr(run, "manifest", None) or {}
    return _template().render(
        f=f,
        view=view,
        health=health,
        limits=limits,
        quality=quality,
        failed=failed,
        models=models,
        server=server,
        icons=words.STATUS_ICONS,
        summary=summary,
        groups=view.shown(summary),
        places=view.numbers(summary),
        warmups=[group for group in summary.groups if group.kind == "warmup"],
        head=view.headline(summary, so_far=getattr(run, "so_far", False)),
        facts=facts(summary),
        tiles=tiles.tiles(summary),
        sections=sections,
        swatch=swatch,
        prices=price_rows(summary),
        costs=cost_rows(summary),
        scenario=scenario_yaml(summary),
        environment=list(f.flat(summary.environment)),
        resolved=[(f.name(name), list(f.flat(row))) for name, row in summary.models.items()],
        command=shlex.join(f.line(word) for word in manifest.get("argv", ())),
        files=file_rows(manifest),
        glossary=words.glossary(),
        picked=picked,
        kinds=samples.KINDS,
        script=None if static else scripts.script(summary, drawn),
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("loadlib.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2")


def facts(summary: Summary) -> list[tuple[str, str]]:
    """The line under the title: when, how long, how much of what."""
    groups = view.measured(summary)
    models = len({g.model for g in groups})
    workloads = len({g.workload for g in groups})
    phases = len({g.phase for g in groups})
    loads = list(dict.fromkeys(f.line(g.load) for g in groups if g.load))
    found = [
        ("started", f.instant(summary.started_at) if summary.started_at else ""),
        ("took", f.duration(summary.duration_s) if summary.duration_s is not None else ""),
        ("models", f"{models}" if models else ""),
        ("workloads", f"{workloads}" if workloads else ""),
        ("measure phases", f"{phases}" if phases > 1 else ""),
        ("load per model", loads[0] if len(loads) == 1 else ""),
        ("target", f.name(summary.scenario.get("target") or "")),
        ("exit code", f"{summary.verdict.exit_code}"),
    ]
    return [(name, text) for name, text in found if text]


def swatch(key: Key) -> Markup:
    """The sample of colour and stroke that stands beside a legend's text."""
    paint = "currentColor" if key.series is None else f"var(--s{key.series % 7 + 1})"
    shapes = {
        "solid": '<path d="M1 6H25" stroke="{p}" stroke-width="2"/>',
        "dashed": '<path d="M1 6H25" stroke="{p}" stroke-width="2" stroke-dasharray="5 3"/>',
        "dotted": '<path d="M1 6H25" stroke="{p}" stroke-width="2" stroke-dasharray="1 3"/>',
        "area": '<rect x="1" y="1.5" width="24" height="9" rx="1.5" fill="{p}" fill-opacity=".45" '
        'stroke="{p}"/>',
        "span": '<rect x="5" y="0" width="16" height="12" fill="var(--bad)" fill-opacity=".2"/>',
        "dot": '<circle cx="13" cy="6" r="3.6" fill="{p}"/>',
        "diamond": '<path d="M13 1.4 17 6 13 10.6 9 6Z" fill="{p}"/>',
        "bar": '<path d="M5 6H21" stroke="{p}" stroke-width="3.5"/>',
        "cross": '<path d="m9.5 2.5 7 7m0-7-7 7" stroke="{p}" stroke-width="1.6"/>',
    }
    # Markup of our own: the paint is one of a handful of constants above.
    drawn = shapes[key.stroke].format(p=paint)
    return Markup(f'<svg class="swatch" viewBox="0 0 26 12" aria-hidden="true">{drawn}</svg>')  # noqa: S704


def price_rows(summary: Summary) -> list[tuple[str, str, str, str]]:
    """(model, input, output, source) at list price, per million tokens."""
    rows = []
    for name, model in summary.models.items():
        price = model.get("price")
        own = price if isinstance(price, Mapping) else {}
        costs = [own.get("input_usd_per_mtok"), own.get("output_usd_per_mtok")]
        source = f.line(own.get("source") or model.get("price_source") or "")
        texts = [f.usd(c) if isinstance(c, int | float) else f.UNKNOWN for c in costs]
        rows.append((f.name(name), texts[0], texts[1], source or f.UNKNOWN))
    return rows


def cost_rows(summary: Summary) -> list[tuple[str, ...]]:
    """(group, input tokens, output tokens, counted by, total, per 1k, per 1k good)."""
    return [
        (
            view.where(summary, group),
            f.count(group.tokens.input),
            f.count(group.tokens.output),
            f.name(group.tokens.source or f.UNKNOWN),
            _priced(group, group.cost_usd.total),
            _priced(group, group.cost_usd.per_1k_requests),
            _priced(group, group.cost_usd.per_1k_good_requests),
        )
        for group in view.shown(summary)
    ]


def _priced(group: Group, amount: float | None) -> str:
    return "unpriced" if group.cost_usd.total is None else f.usd(amount)


def scenario_yaml(summary: Summary) -> str:
    """The effective scenario as YAML, its texts made fit for a page."""
    if not summary.scenario:
        return ""
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    setattr(writer, "sort_base_mapping_type_on_output", False)  # noqa: B010 — typed as None
    writer.width = 100
    writer.allow_unicode = True
    out = io.StringIO()
    writer.dump(_clean(summary.scenario), out)
    return out.getvalue()[:60_000]


def _clean(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {f.name(key): _clean(item) for key, item in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_clean(item) for item in tree]
    return f.line(tree, 1000) if isinstance(tree, str) else tree


def file_rows(manifest: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(file, what it is, first digits of its SHA-256) of the files beside the page."""
    hashes = manifest.get("files")
    known = hashes if isinstance(hashes, Mapping) else {}
    rows = []
    for name, what in ARTEFACTS:
        if name in SOMETIMES and name not in known:
            continue
        found = "" if name in PAGES else known.get(name, "")
        digest = found.get("sha256", "") if isinstance(found, Mapping) else found
        rows.append((name, what, f.line(digest)[:16]))
    return rows
