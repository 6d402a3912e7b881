"""A figure's specification drawn as SVG fit to stand inside a page."""

from __future__ import annotations

import json
import re

import vl_convert
from markupsafe import Markup

from loadlib.charts import Figure

_ROOT = re.compile(r"<svg[^>]*?viewBox=\"([^\"]+)\"[^>]*>")
_TAG = re.compile(r"<[^>]*>")
_CLIP = re.compile(r"\bclip\d+")
_EMPTY = re.compile(
    r"<path[^>]* d=\"(?:M0,0h0v0h0Z)?\"[^>]*/>|<rect[^>]* fill=\"transparent\"[^>]*/>"
)
_IDLE = re.compile(
    r" (?:class|pointer-events|role|aria-hidden|aria-roledescription)=\"[^\"]*\""
    r"| (?:opacity|stroke-opacity|fill-opacity)=\"1\""
)
_PLACE = re.compile(r" (?:d|transform|x|y|x1|y1|x2|y2)=\"[^\"]*\"")
_LONG = re.compile(r"(\d\.\d)\d+")


def draw(figure: Figure) -> Markup:
    """`figure` as one accessible, scalable `<svg>` without fixed size or background.

    Numbers keep a tenth of a pixel. Clip ids count per process in vl-convert; here they count
    per figure, so the same run always makes the same page.
    """
    raw = vl_convert.vegalite_to_svg(json.dumps(figure.spec), allowed_base_urls=[])
    head = _ROOT.search(raw)
    if head is None:
        raise ValueError(f"vl-convert drew no SVG for {figure.id}")
    body = raw[head.end() :]
    clips: dict[str, str] = {}

    def slim(tag: re.Match[str]) -> str:
        text = _IDLE.sub("", tag[0])
        text = _PLACE.sub(lambda place: _LONG.sub(r"\1", place[0]), text)
        return _CLIP.sub(lambda m: clips.setdefault(m[0], f"{figure.id}-clip{len(clips)}"), text)

    body = _TAG.sub(slim, _EMPTY.sub("", body))
    _, _, width, height = head[1].split()
    opening = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}" '
        'role="img" aria-labelledby="{i}-t {i}-d">'
        '<title id="{i}-t">{title}</title><desc id="{i}-d">{desc}</desc>'
    ).format(w=width, h=height, i=figure.id, title=figure.title, desc=figure.takeaway)
    return opening + Markup(body)  # noqa: S704 — vl-convert escapes the texts it draws
