"""`summary.md`: verdict, gates and models in GitHub-flavoured markdown, no HTML."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from loadlib import compare
from loadlib.report import format as f
from loadlib.report import health, limits, models, server, tiles, view
from loadlib.summary import Comparison, Summary

LIMIT = 200_000  # bytes
GATES = 200  # rows; the failed ones come first
MODELS = 200

_SPECIAL = re.compile(r"([\\`*_\[\]<|~&$])")
_LINK = re.compile(r"(:)(?=//)|(?<=www)(\.)", re.IGNORECASE)
_START = re.compile(r"^(\d*)([-+#=.)])")


def text(raw: object) -> str:
    """A string from outside, shown as it is: no markup, no link, nobody mentioned."""
    plain = _LINK.sub(r"\\\g<0>", _SPECIAL.sub(r"\\\1", f.line(raw)))
    return _START.sub(r"\1\\\2", plain).replace("@", "@\u2060")


def code(raw: object) -> str:
    """The same as code inside a table cell."""
    return "`" + f.line(raw).replace("`", "'").replace("|", "\\|") + "`"


def render(summary: Summary) -> str:
    """The page, at most `LIMIT` bytes: rows are left out, and it says so."""
    blocks = [
        *_head(summary), *_gates(summary), *_models(summary), *_limits(summary), *_server(summary),
        *_errors(summary),
    ]  # fmt: skip
    page = "\n\n".join(block for block in blocks if block) + "\n"
    if len(page.encode()) <= LIMIT:
        return page
    notice = "\n\n(cut here: the whole is in report.html)\n"
    kept = page.encode()[: LIMIT - len(notice.encode())].decode(errors="ignore")
    return kept.rpartition("\n")[0] + notice


def _head(summary: Summary) -> list[str]:
    head = view.headline(summary)
    name = text(f.name(summary.name or "run"))
    facts = [text(f.instant(summary.started_at)) if summary.started_at else "",
             f.duration(summary.duration_s) if summary.duration_s is not None else "",
             f"exit code {summary.verdict.exit_code}"]  # fmt: skip
    large = [f"{tile.label} **{tile.value}** {text(tile.detail)}" for tile in tiles.tiles(summary)]
    return [
        f"## {head.icon} {head.word}: {name}",
        text(head.sentence),
        "\n".join(f"- {text(reason)}" for reason in head.more),
        " · ".join(filter(None, facts)),
        "\n".join(f"- {tile}" for tile in large),
        "\n".join(f"> {text(banner)}  " for _, banner in view.banners(summary)),
    ]


def _gates(summary: Summary) -> list[str]:
    rows = view.gate_rows(summary)
    if not rows:
        return []
    passed = sum(row.status == "pass" for row in rows)
    table = _table(
        ("", "model · workload", "objective", "observed", "95 % interval", "limit", "n"),
        "lllrrrr",
        (
            (
                f"{row.icon} {row.status}",
                text(row.where),
                code(row.expression) + (f" {text(row.note)}" if row.note else ""),
                row.observed,
                text(row.interval),
                text(row.limit),
                row.n,
            )
            for row in rows[:GATES]
        ),
    )
    return [f"### Objectives: {passed} of {len(rows)} pass", table, _left(rows, GATES)]


def _models(summary: Summary) -> list[str]:
    rows = models.rows(summary)
    if not rows:
        return []
    table = _table(
        ("model", "workload", "ok", "failed", "TTFT p50", "TTFT p99", "sent clock p99",
         "TPOT p50", "tok/s user", "tok/s system", "goodput", "$ per 1k", "quality"),
        "llrrrrrrrrrrr",
        (
            (
                text(row.model),
                text(" ".join(filter(None, (row.workload, row.phase)))),
                row.ok,
                row.failed,
                row.ttft[0][0],
                row.ttft[2][0],
                text(row.ttft[2][1]),
                row.tpot_p50,
                row.user_rate,
                row.system_rate,
                text(row.goodput),
                text(row.cost),
                row.quality,
            )
            for row in rows[:MODELS]
        ),
    )  # fmt: skip
    note = "Latencies from the intended start (lower is better). † too few samples to decide by it."
    return ["### Models", table, _left(rows, MODELS), note, *_brackets(summary)]


def _brackets(summary: Summary) -> list[str]:
    lines = view.bracket_lines(summary)
    return ["### Load ladder", "\n".join(f"- {text(line)}" for line in lines)] if lines else []


def _limits(summary: Summary) -> list[str]:
    """Only the models that came near a limit, or were throttled."""
    rows = limits.telling(summary)
    if not rows:
        return []
    table = _table(
        ("model", *limits.HEADS),
        "l" + "r" * len(limits.HEADS),
        ((text(row.model), *(text(str(cell)) for cell in row.cells)) for row in rows[:MODELS]),
    )
    return ["### Rate limits, in the busiest minute", table, _left(rows, MODELS)]


def _server(summary: Summary) -> list[str]:
    """What the servers said of themselves in the measure phases."""
    rows = [row for row in server.rows(summary) if not row.warmup]
    if not rows:
        return []
    table = _table(
        ("server", "phase", *server.HEADS),
        "ll" + "r" * len(server.HEADS),
        (
            (text(row.server), text(row.phase), *(text(str(cell)) for cell in row.cells))
            for row in rows[:MODELS]
        ),
    )
    return ["### Server, by its own metrics", table, _left(rows, MODELS)]


def _errors(summary: Summary) -> list[str]:
    rows = view.error_examples(summary, limit=5)
    blocks = []
    if rows:
        table = _table(
            ("times", "where", "message, redacted"),
            "rll",
            ((row.number, text(row.place), text(row.text)) for row in rows),
        )
        blocks += ["### Errors", table]
    troubled = health.troubled(summary.health)
    if troubled:
        lines = [f"- {row.icon} {text(row.sentence)}" for row in troubled]
        lead = text(health.lead(summary.health))
        blocks += [f"### Health: {summary.health.status}", lead, "\n".join(lines)]
    return blocks


def comparison(rows: Sequence[Comparison]) -> str:
    """`loadlib compare` as markdown: ratios with both intervals, marked indicative."""
    if not rows:
        return "Nothing to compare: the two runs have no group in common.\n"
    table = _table(
        ("", "model · workload", "metric", "before", "after", "ratio"),
        "lllrrr",
        (
            (
                ARROWS[row.direction],
                text(view.comparison_where(row)),
                code(f"{row.metric}.{row.stat}" if row.stat else row.metric),
                _side(row.before, row.before_ci95, row.unit),
                _side(row.after, row.after_ci95, row.unit),
                f.times(row.ratio),
            )
            for row in rows
        ),
    )
    return f"{table}\n\n{INDICATIVE}\n"


ARROWS = {"better": "▲ better", "worse": "▼ worse", "same": "= same", "unclear": "? unclear"}
INDICATIVE = f"{compare.INDICATIVE[0].upper()}{compare.INDICATIVE[1:]}. Brackets: 95 %."


def _side(value: float | None, ends: tuple[float, float] | None, unit: str) -> str:
    interval = f.interval(ends, unit)
    return text(f"{f.value(value, unit)} {interval}".strip())


def _table(heads: Sequence[str], align: str, rows: Iterable[Sequence[str]]) -> str:
    rule = ["---:" if side == "r" else "---" for side in align]
    lines = [heads, rule, *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _left(rows: Sequence[object], limit: int) -> str:
    return f"and {len(rows) - limit} more in report.html" if len(rows) > limit else ""
