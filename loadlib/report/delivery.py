"""Whether prompts were as long as was asked for, by the server's own count."""

from __future__ import annotations

from loadlib.charts import parts
from loadlib.report import format as f
from loadlib.summary import Group, Summary

MISSED = 0.02  # share by which the server's count may differ from the one that was meant
UNCHECKED = (
    "whether prompts were as long as asked for could not be checked: the server counted only some "
    "of them."
)


def misses(summary: Summary) -> list[tuple[Group, str]]:
    """Measured groups whose prompts came out longer or shorter, and by how much, in words.

    Only where a length was asked for (`prompt_tokens`, a trace), and the server's `usage` says
    what came; where it says so of some prompts only, that this is not known. What is compared are
    sums: a short length that misses does not show beside long ones. A prompt that was cut to the
    window was meant to be as long as it was cut to.
    """
    asked = {
        name
        for name, settings in summary.scenario.get("workloads", {}).items()
        if "prompt_tokens" in settings or settings.get("kind") == "replay"
    }
    found = []
    for group in parts.measured(summary):
        meant, came = group.cut_tokens, group.delivered_tokens
        if group.workload not in asked or not meant or came is None:
            continue
        if group.tokens.source == "server" and abs(came - meant) > MISSED * meant:
            found.append((group, _sentence(came, meant)))
        elif group.tokens.source == "mixed":
            found.append((group, UNCHECKED))
    return found


def _sentence(came: int, meant: int) -> str:
    missed = came / meant - 1
    sign = "−" if missed < 0 else "+"
    return (
        f"delivered {f.count(came)} of {f.count(meant)} prompt tokens asked for "
        f"({sign}{abs(missed) * 100:.1f} %): the server's tokenizer or template is not the one "
        "that lengths were counted with."
    )
