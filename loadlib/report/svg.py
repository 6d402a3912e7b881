"""A figure's specification drawn as SVG fit to stand inside a page."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator

import vl_convert
from markupsafe import Markup, escape

from loadlib.charts import Figure

_NAMESPACE = re.compile(r' xmlns(?::\w+)?="[^"]*"')
_CLIP = re.compile(r"\bclip\d+")
_IDLE = frozenset(("class", "pointer-events", "role", "aria-hidden", "aria-roledescription"))
_PLACE = frozenset(("transform", "x", "y", "x1", "y1", "x2", "y2", "width", "height"))
_LONG = re.compile(r"(\d\.\d)\d+")
_ZERO = re.compile(r"(\d)\.0\b")
_STEPS = re.compile(r"[ML]-?[\d.]+(?:e-\d+)?,-?[\d.]+(?:e-\d+)?(?:Z(?=M|$))?")
_DEFAULTS = {"opacity": "1", "stroke-opacity": "1", "fill-opacity": "1", "font-weight": "normal"}
_INHERITED = (
    "font-family", "font-size", "font-weight", "fill", "fill-opacity", "stroke", "stroke-opacity",
    "stroke-width", "stroke-dasharray", "text-anchor",
)  # fmt: skip


def draw(figure: Figure) -> Markup:
    """`figure` as one accessible, scalable `<svg>` without fixed size or background.

    The picture is vl-convert's, a third of its size: numbers keep a tenth of a pixel, steps are
    relative, what neighbours share is said once. Clip ids count per process in vl-convert; here
    they count per figure, so the same run always makes the same page.
    """
    raw = vl_convert.vegalite_to_svg(json.dumps(figure.spec), allowed_base_urls=[])
    root = ET.fromstring(_NAMESPACE.sub("", raw, count=2))  # noqa: S314 — drawn here
    _tidy(root)
    _, _, width, height = root.get("viewBox", "").split()
    body = "".join(map(_text, root))
    clips: dict[str, str] = {}
    body = _CLIP.sub(lambda m: clips.setdefault(m[0], f"{figure.id}-clip{len(clips)}"), body)
    family = next((e.get("font-family") for e in root.iter() if e.get("font-family")), "")
    opening = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}" '
        'role="img" aria-labelledby="{i}-t {i}-d"{family}>'
        '<title id="{i}-t">{title}</title><desc id="{i}-d">{desc}</desc>'
    ).format(
        w=width, h=height, i=figure.id, title=figure.title, desc=figure.takeaway,
        family=Markup(' font-family="{}"').format(family) if family else "",
    )  # fmt: skip
    return opening + Markup(body) + Markup("</svg>")  # noqa: S704 — `_text` escapes


# — what is left out —————————————————————————————————————————————————————————————


def _tidy(parent: ET.Element) -> None:
    """Leave out what cannot be seen, below `parent`, and say once what its children share."""
    for child in list(parent):
        _slim(child)
        _tidy(child)
        if _unseen(child):
            parent.remove(child)
    while len(parent) == 1 and parent[0].tag == "g" and not parent[0].attrib and not parent.text:
        inner = parent[0]
        parent.remove(inner)
        parent.extend(inner)
    if parent.tag == "g" and len(parent) > 1:
        _share(parent)


def _slim(element: ET.Element) -> None:
    for name in list(element.attrib):
        value = element.attrib[name]
        if name in _IDLE or _DEFAULTS.get(name) == value:
            del element.attrib[name]
        elif name in _PLACE:
            element.set(name, _ZERO.sub(r"\1", _LONG.sub(r"\1", value)))
        elif name == "d":
            element.set(name, relative(value))
    if element.get("stroke-opacity") == "0" or element.get("stroke") == "none":
        for name in ("stroke", "stroke-width", "stroke-opacity"):
            element.attrib.pop(name, None)


def _unseen(element: ET.Element) -> bool:
    tag, get = element.tag, element.get
    if tag == "g":
        return not len(element)
    if tag == "rect":
        return get("fill") == "transparent"
    return get("opacity") == "0" or (tag == "path" and get("d") in (None, "", "M0,0h0v0h0Z"))


def _share(group: ET.Element) -> None:
    """Give the group what most of its children say and inherit."""
    for name in _INHERITED:
        if name in group.attrib:
            continue
        found = Counter(child.get(name) for child in group)
        value, number = found.most_common(1)[0]
        if value is None or number != len(group):
            continue
        group.set(name, value)
        for child in group:
            del child.attrib[name]


# — text ————————————————————————————————————————————————————————————————————————


def _text(element: ET.Element) -> str:
    said = [
        f' {name}="{_safe(value)}"'
        for name, value in element.attrib.items()
        if name != "font-family"
    ]
    inside = _safe(element.text) + "".join(map(_text, element))
    end = f">{inside}</{element.tag}>" if inside else "/>"
    return f"<{element.tag}{''.join(said)}{end}{_safe(element.tail)}"


def _safe(text: str | None) -> str:
    return str(escape(text or ""))


def relative(path: str) -> str:
    """A path of straight lines with its steps relative, in tenths; any other as it is, rounded.

    `M0,9L3.51,9L3.51,4` becomes `M0,9h3.5v-5`: half the bytes, the same picture.
    """
    pieces = _STEPS.findall(path)
    if "".join(pieces) != path or not pieces:
        return _ZERO.sub(r"\1", _LONG.sub(r"\1", path))
    return "".join(_steps(pieces))


def _steps(pieces: list[str]) -> Iterator[str]:
    x = y = 0
    start = (0, 0)
    for piece in pieces:
        closed = piece.endswith("Z")
        to_x, to_y = (round(float(n) * 10) for n in piece[1:].rstrip("Z").split(","))
        if piece[0] == "M":
            start = (to_x, to_y)
            yield f"M{_number(to_x)},{_number(to_y)}"
        elif to_y == y:
            yield f"h{_number(to_x - x)}" if to_x != x else ""
        elif to_x == x:
            yield f"v{_number(to_y - y)}"
        else:
            yield f"l{_number(to_x - x)},{_number(to_y - y)}"
        x, y = to_x, to_y
        if closed:
            x, y = start
            yield "Z"


def _number(tenths: int) -> str:
    whole, rest = divmod(abs(tenths), 10)
    sign = "-" if tenths < 0 else ""
    digits = f"{whole or ''}.{rest}" if rest else str(whole)
    return f"{sign}{digits}"
