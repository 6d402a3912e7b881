"""A figure's specification drawn as SVG fit to stand inside a page."""

from __future__ import annotations

import json
from xml.etree.ElementTree import ParseError

import vl_convert
from markupsafe import Markup

from loadlib.charts import Figure
from loadlib.report.slim import slim


def draw(figure: Figure) -> Markup:
    """`figure` as one accessible, scalable `<svg>` without fixed size or background."""
    raw = vl_convert.vegalite_to_svg(json.dumps(figure.spec), allowed_base_urls=[])
    try:
        box, body = slim(raw, figure.id)
    except ParseError as error:
        raise ValueError(f"vl-convert drew no SVG for {figure.id}") from error
    _, _, width, height = box.split()
    opening = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}" '
        'role="img" aria-labelledby="{i}-t {i}-d">'
        '<title id="{i}-t">{title}</title><desc id="{i}-d">{desc}</desc>'
    ).format(w=width, h=height, i=figure.id, title=figure.title, desc=figure.takeaway)
    return opening + Markup(f"{body}</svg>")  # noqa: S704 — `slim` escapes every text again
