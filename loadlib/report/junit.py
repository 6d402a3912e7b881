"""`junit.xml`: every gate a test case, in the subset that CI systems agree on.

Facts stand in the name and in the failure's body: GitLab shows nothing else.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from loadlib.report import format as f
from loadlib.report import health, view
from loadlib.summary import Gate, Summary

# XML 1.0 allows no other characters, not even escaped.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
RUN_LEVEL = ("aborted", "error", "interrupted", "regressed")


def render(summary: Summary) -> str:
    """The document, XML declaration included."""
    suite = ET.Element("testsuite", name=_safe(f"loadlib {f.name(summary.name or 'run')}"))
    for gate in sorted(summary.gates, key=view.rank):
        suite.append(_gate(summary, gate))
    run = _run(summary)
    if run is not None:
        suite.append(run)
    if not len(suite):
        suite.append(ET.Element("testcase", classname="loadlib.run", name="run", time="0"))
    counts = {
        "tests": len(suite),
        "failures": len(suite.findall("testcase/failure")),
        "errors": len(suite.findall("testcase/error")),
        "skipped": len(suite.findall("testcase/skipped")),
    }
    time = f"{summary.duration_s or 0:.3f}"
    for name, number in counts.items():
        suite.set(name, str(number))
    suite.set("time", time)
    if summary.started_at:
        suite.set("timestamp", _safe(f.line(summary.started_at)).replace("+00:00", "Z"))
    root = ET.Element("testsuites", name="loadlib", time=time)
    for name, number in counts.items():
        root.set(name, str(number))
    root.append(suite)
    ET.indent(root)
    body = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'


def _gate(summary: Summary, gate: Gate) -> ET.Element:
    phase = f" [{f.name(gate.phase)}]" if view.several_phases(summary) else ""
    case = ET.Element(
        "testcase",
        classname=_safe(".".join(["loadlib", *_place(gate)])),
        name=_safe(f"{f.line(gate.expression)}{phase}"),
        time="0",
    )
    fact = _fact(gate)
    if gate.status == "fail":
        failure = ET.SubElement(case, "failure", type="slo", message=_safe(fact))
        failure.text = _safe(fact)
    elif gate.status == "inconclusive":
        ET.SubElement(case, "skipped", message=_safe(fact))
    else:
        ET.SubElement(case, "system-out").text = _safe(fact)
    return case


def _place(gate: Gate) -> list[str]:
    """Model and workload; the scope where it matched nothing."""
    return [f.name(part) for part in (gate.model, gate.workload) if part] or [f.name(gate.scope)]


def _fact(gate: Gate) -> str:
    """Observed, interval, limit and n in one line."""
    sign = "≥" if view.lower_bound(gate) else "<"
    parts = [f"observed {f.value(gate.observed, gate.unit)}"]
    if gate.ci95 is not None:
        parts.append(f"95 % interval {f.interval(gate.ci95, gate.unit)}")
    parts += [f"limit {sign} {f.value(gate.limit, gate.unit)}", f"n={f.count(gate.n)}"]
    if gate.reason:
        parts.append(f.line(gate.reason))
    if gate.default:
        parts.append("default gate")
    return ", ".join(parts)


def _run(summary: Summary) -> ET.Element | None:
    """A case for the run itself where something other than a gate decided."""
    status = summary.verdict.status
    unhealthy = summary.health.status == "bad" and not summary.health.overridden
    undecided = status == "inconclusive" and not any(g.status != "pass" for g in summary.gates)
    if status not in RUN_LEVEL and not unhealthy and not undecided:
        return None
    case = ET.Element("testcase", classname="loadlib.run", name=_safe(f"run is {status}"), time="0")
    lines = [f.line(reason) for reason in summary.verdict.reasons] or [f"verdict {status}"]
    lines += [row.sentence for row in health.troubled(summary.health) if row.status == "bad"]
    tag = "failure" if status == "regressed" else "error"
    found = ET.SubElement(case, tag, type=status, message=_safe(lines[0]))
    found.text = _safe("\n".join(lines))
    return case


def _safe(text: str) -> str:
    return _FORBIDDEN.sub("", text)
