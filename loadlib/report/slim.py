"""Vega's SVG in fewer bytes, the picture unchanged: a page holds a dozen of them.

Vega draws every tick as an element of its own, every mark in groups of its own and every point of a
line with absolute coordinates. Here numbers keep a tenth of a pixel, paths are written relative,
lines that differ in their place only become one path, groups that say nothing are dissolved, what
all texts of a group share is said once, and what cannot be seen is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import combinations, groupby
from xml.etree import ElementTree as ET

from markupsafe import escape

_SVG = "{http://www.w3.org/2000/svg}"
_IDLE = {"class", "pointer-events", "role", "aria-hidden", "aria-roledescription", "aria-label"}
_ONE = {"opacity", "stroke-opacity", "fill-opacity"}  # idle where they are 1
_DEFAULT = {("font-weight", "normal"), ("font-size", "11px"), ("stroke-width", "1"),
            ("stroke-miterlimit", "10"), ("text-anchor", "start")}  # fmt: skip
_TRANSLATE = re.compile(r"translate\(\s*(-?[\d.]+)\s*,\s*(-?[\d.]+)\s*\)")
_PLACED = re.compile(rf"\A{_TRANSLATE.pattern}\Z")
_PIECE = re.compile(r"([A-Za-z])([^A-Za-z]*)")
_NUMBER = re.compile(r"-?\d*\.?\d+(?:e-?\d+)?")
_CIRCLE = re.compile(r"\AM([\d.]+),0A\1,\1,0,1,1,-\1,0A\1,\1,0,1,1,\1,0\Z")
_RECTANGLE = re.compile(
    r"\AM(-?[\d.]+),?(-?[\d.]+)h(-?[\d.]+)v(-?[\d.]+)h-?[\d.]+z\Z"
)  # fmt: skip
_CLIP = re.compile(r"\bclip\d+")
_PLACES = {"x", "y", "x1", "y1", "x2", "y2", "r", "width", "height"}


def slim(svg: str, prefix: str) -> tuple[str, str]:
    """(viewBox, everything inside) of `svg`; ids in it begin with `prefix`.

    Clip ids count per process in Vega; here they count per picture, so that the same picture is
    always the same text. Raises `xml.etree.ElementTree.ParseError` for what is no XML.
    """
    root = ET.fromstring(svg)  # noqa: S314 — from our own renderer, which writes no entities
    families = {node.get("font-family") for node in root.iter(f"{_SVG}text")}
    names: dict[str, str] = {}
    for node in root.iter():
        for name in ("id", "clip-path"):
            if (value := node.get(name)) is not None:
                node.set(name, _CLIP.sub(lambda m: _named(m[0], names, prefix), value))
    body = _joined([kept for child in root for kept in _slimmed(child, painted=False)])
    text = "".join(_written(node) for node in body)
    family = next(iter(families), None)
    head = f' font-family="{escape(family)}"' if family else ""
    return root.get("viewBox", ""), f'<g{head} font-size="11px">{text}</g>'


def _named(clip: str, names: dict[str, str], prefix: str) -> str:
    return names.setdefault(clip, f"{prefix}-clip{len(names)}")


def _slimmed(node: ET.Element, *, painted: bool) -> list[ET.Element]:
    """What is left of `node`: nothing, itself, or its children in its place.

    `painted`: within a clip path, where shapes count that have no paint.
    """
    node.tag = node.tag.removeprefix(_SVG)
    painted = painted or node.tag == "clipPath"
    node.attrib = _attributes(node)
    children = [kept for child in node for kept in _slimmed(child, painted=painted)]
    node[:] = []
    if node.tag in ("text", "tspan"):  # one of several lines is a tspan each
        node.extend(children)
        placed = None if children else _PLACED.match(node.get("transform", ""))
        if placed is not None:
            del node.attrib["transform"]
            node.attrib = {"x": placed[1], "y": placed[2], **node.attrib}
        return [node] if node.text or children else []
    if node.tag in ("path", "line", "rect") and not painted and _invisible(node):
        return []
    if node.tag == "path":
        return [_path(node)]
    if node.tag != "g":
        node.extend(children)
        return [node]
    return _group(node, _joined(children))


def _attributes(node: ET.Element) -> dict[str, str]:
    found = {}
    for name, value in node.items():
        idle = name in _IDLE or (name in _ONE and value == "1")
        if idle or (name, value) in _DEFAULT or name == "font-family":
            continue
        if name == "transform":
            value = _TRANSLATE.sub(lambda m: f"translate({_short(m[1])},{_short(m[2])})", value)
            if value == "translate(0,0)":
                continue
        elif name in _PLACES:
            value = _short(value)
        found[name] = value
    if found.get("stroke-opacity") == "0":
        found = {name: value for name, value in found.items() if not name.startswith("stroke")}
    return found


def _invisible(node: ET.Element) -> bool:
    nothing = {None, "none", "transparent"}
    filled = node.get("fill") not in nothing and node.get("fill-opacity") != "0"
    drawn = node.get("stroke") not in nothing
    if node.get("opacity") == "0" or not (filled or drawn):
        return True
    if node.tag == "path":
        return node.get("d") in (None, "", "M0,0h0v0h0Z")
    return False


def _path(node: ET.Element) -> ET.Element:
    """A circle as one, and any other path relative."""
    text = node.get("d", "")
    circle, place = _CIRCLE.match(text), node.get("transform", "")
    placed = _PLACED.match(place) if place else None
    if circle is None or (place and placed is None):
        node.set("d", relative(text))
        return node
    kept = {name: value for name, value in node.items() if name not in ("d", "transform")}
    x, y = (placed[1], placed[2]) if placed else ("0", "0")
    return ET.Element("circle", {"cx": x, "cy": y, "r": _short(circle[1]), **kept})


def relative(path: str) -> str:
    """The same path with relative, shortest commands, as far as it is made of straight lines."""
    pieces = _PIECE.findall(path)
    if not {letter for letter, _ in pieces} <= set("MLHVhvlZ"):
        return _NUMBER.sub(lambda m: _short(m[0]), path)
    out: list[str] = []
    at, start = (0, 0), (0, 0)  # tenths of a pixel, as written so far: nothing adds up
    exact, begun = (0.0, 0.0), (0.0, 0.0)
    for letter, numbers in pieces:
        if letter == "Z":
            out.append("z")
            at, exact = start, begun
            continue
        values = [float(number) for number in _NUMBER.findall(numbers)]
        for x, y in _corners(letter, values, exact):
            exact, to = (x, y), (round(x * 10), round(y * 10))
            if letter == "M":
                out.append(f"M{_tenths(to[0])}{_after(to[1])}")
                start, begun = to, exact
            else:
                _step(out, to[0] - at[0], to[1] - at[1])
            at = to
    return "".join(out)


def _corners(
    letter: str, values: Sequence[float], at: tuple[float, float]
) -> Iterable[tuple[float, float]]:
    x, y = at
    if letter in "ML":
        yield from zip(values[::2], values[1::2], strict=True)
    elif letter == "l":
        for dx, dy in zip(values[::2], values[1::2], strict=True):
            x, y = x + dx, y + dy
            yield x, y
    else:
        for value in values:
            x = value if letter == "H" else x + value if letter == "h" else x
            y = value if letter == "V" else y + value if letter == "v" else y
            yield x, y


def _step(out: list[str], dx: int, dy: int) -> None:
    """Append a line; one that goes on in the direction of the last makes that longer."""
    if not dx and not dy:
        return
    if dx and dy:
        out.append(f"l{_tenths(dx)}{_after(dy)}")
        return
    letter, size = ("h", dx) if dx else ("v", dy)
    last = out[-1] if out else ""
    if last[:1] == letter:
        before = round(float(last[1:]) * 10)
        if (before > 0) == (size > 0):
            out[-1] = f"{letter}{_tenths(before + size)}"
            return
    out.append(f"{letter}{_tenths(size)}")


def _group(node: ET.Element, children: list[ET.Element]) -> list[ET.Element]:
    if not children:
        return []
    if not node.attrib:
        return children
    node.extend(children)
    if len(children) == 1 and children[0].tag == "g":
        inner = children[0]
        places = [_PLACED.match(g.get("transform", "")) for g in (node, inner)]
        if set(node.attrib) == set(inner.attrib) == {"transform"} and all(places):
            x, y = (sum(float(place[i]) for place in places if place) for i in (1, 2))
            inner.set("transform", f"translate({_short(str(x))},{_short(str(y))})")
            return [inner]
    return [node]


def _joined(nodes: list[ET.Element]) -> list[ET.Element]:
    """Runs of lines of one look as one path, and runs of texts in a group that says the look."""
    found: list[ET.Element] = []
    for (tag, _), run in groupby(nodes, lambda node: (node.tag, _look(node))):
        same = list(run)
        if tag == "line":
            found.append(_lines(same))
        elif tag == "text" and len(same) > 1:
            found.append(_texts(same))
        elif tag == "path" and len(same) > 1 and _apart(same):
            whole = "".join(node.get("d", "") for node in same)
            found.append(ET.Element("path", {"d": whole, **dict(_look(same[0]))}))
        else:
            found += same
    return found


def _apart(nodes: Sequence[ET.Element]) -> bool:
    """Whether all are upright rectangles that do not cover each other: then one path draws them
    as they were."""
    boxes = []
    for node in nodes:
        match = _RECTANGLE.match(node.get("d", ""))
        if match is None or node.get("transform"):
            return False
        x, y, width, height = map(float, match.groups())
        boxes.append((min(x, x + width), max(x, x + width), min(y, y + height), max(y, y + height)))
    return not any(
        a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]
        for a, b in combinations(boxes, 2)
    )


def _look(node: ET.Element) -> tuple[tuple[str, str], ...]:
    places = _PLACES | {"transform", "d"}
    return tuple((name, value) for name, value in node.items() if name not in places)


def _lines(nodes: list[ET.Element]) -> ET.Element:
    out: list[str] = []
    for node in nodes:
        placed = _PLACED.match(node.get("transform", "translate(0,0)"))
        x, y = (float(placed[1]), float(placed[2])) if placed else (0.0, 0.0)
        ends = [float(node.get(name, "0")) for name in ("x1", "y1", "x2", "y2")]
        out.append(f"M{x + ends[0]:.1f},{y + ends[1]:.1f}L{x + ends[2]:.1f},{y + ends[3]:.1f}")
    return ET.Element("path", {"d": relative("".join(out)), **dict(_look(nodes[0]))})


def _texts(nodes: list[ET.Element]) -> ET.Element:
    group = ET.Element("g", dict(_look(nodes[0])))
    for node in nodes:
        places = {name: node.get(name, "") for name in ("x", "y", "transform")}
        bare = ET.SubElement(group, "text", places)
        bare.text = node.text
        bare.extend(node)
    return group


def _written(node: ET.Element) -> str:
    head = "".join(f' {name}="{escape(value)}"' for name, value in node.items() if value != "")
    inside = str(escape(node.text or "")) + "".join(_written(child) for child in node)
    return f"<{node.tag}{head}>{inside}</{node.tag}>" if inside else f"<{node.tag}{head}/>"


def _short(number: str) -> str:
    return _tenths(round(float(number) * 10)) if _NUMBER.fullmatch(number) else number


def _tenths(value: int) -> str:
    sign, whole, tenth = "-" if value < 0 else "", abs(value) // 10, abs(value) % 10
    if not tenth:
        return f"{sign}{whole}"
    return f"{sign}{whole or ''}.{tenth}"


def _after(value: int) -> str:
    """A second number: a minus is separator enough."""
    text = _tenths(value)
    return text if text.startswith("-") else f",{text}"
