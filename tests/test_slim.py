"""SVG in fewer bytes: the same picture, read back by rules of its own."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET

import pytest
import vl_convert
from altair.utils.schemapi import debug_mode
from hypothesis import given
from hypothesis import strategies as st
from report_fixtures import FIXTURES

from loadlib.charts import figures
from loadlib.report.slim import relative, slim

PLACE = st.floats(-2000, 2000, allow_nan=False).map(lambda v: round(v, 3))


def corners(path: str) -> list[tuple[float, float]]:
    """Where a path of M, L, h, v, l and z goes, written without this module's help."""
    at, start, found = (0.0, 0.0), (0.0, 0.0), []
    for letter, text in re.findall(r"([MLlhvz])([^MLlhvz]*)", path):
        values = [float(v) for v in re.findall(r"-?\d*\.?\d+", text)]
        if letter == "z":
            at = start
            continue
        if letter in "hv":
            (size,) = values
            step = (size, 0.0) if letter == "h" else (0.0, size)
        else:
            step = (values[0], values[1])
        at = step if letter in "ML" else (at[0] + step[0], at[1] + step[1])
        if letter == "M":
            start = at
        found.append(at)
    return found


@given(st.lists(st.tuples(PLACE, PLACE), min_size=1, max_size=60))
def test_a_relative_path_ends_where_the_absolute_one_does(points):
    written = relative("M" + "L".join(f"{x},{y}" for x, y in points))
    found = corners(written)
    assert found[0] == pytest.approx(points[0], abs=0.0501)
    assert found[-1] == pytest.approx(points[-1], abs=0.051)  # rounding does not add up


@pytest.mark.parametrize(
    ("path", "short"),
    [
        ("M0,187.13L3.6,187.1L3.6,171.8", "M0,187.1h3.6v-15.3"),  # stairs
        ("M0,0L1,0L2,0L5,0", "M0,0h5"),  # one direction is one line
        ("M0,0L5,0L2,0", "M0,0h5h-3"),  # … and back again another
        ("M0.04,0L0.02,0.01", "M0,0"),  # less than a tenth of a pixel
        ("M0,0h328v190h-328Z", "M0,0h328v190h-328z"),
        ("M1,1L2,3M5,5L6,6", "M1,1l1,2M5,5l1,1"),
        ("M0,-0.55A2.72,2.7,0,1,1,2,0", "M0,-.6A2.7,2.7,0,1,1,2,0"),  # arcs: shorter numbers only
    ],
)
def test_paths_known(path, short):
    assert relative(path) == short


def svg(body: str) -> str:
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 20">{body}</svg>'


LINE = '<line transform="translate({x},0)" x2="0" y2="190" stroke="red" stroke-width="1"/>'


@pytest.mark.parametrize(
    ("body", "left"),
    [
        (f"<g>{LINE.format(x=1.04)}{LINE.format(x=41)}</g>",
         '<path d="M1,0v190M41,0v190" stroke="red"/>'),
        (('<g role="x"><g transform="translate(0,0)"><g transform="translate(2,3)">'
         '<rect width="5" height="6" fill="red" opacity="1"/></g></g></g>'),
         '<g transform="translate(2,3)"><rect width="5" height="6" fill="red"/></g>'),
        (('<path d="M2.72,0A2.72,2.72,0,1,1,-2.72,0A2.72,2.72,0,1,1,2.72,0" fill="red"'
         ' stroke="blue" stroke-opacity="0" transform="translate(7,8)"/>'),
         '<circle cx="7" cy="8" r="2.7" fill="red"/>'),
        ('<path d="M0,0h9v9h-9Z"/><path d="M1,1L2,2" stroke="red" opacity="0"/>', ""),
        (('<text font-size="11px" fill="red" transform="translate(1,2)">a</text>'
         '<text font-size="11px" fill="red" transform="translate(3,4)">b</text>'),
         '<g fill="red"><text x="1" y="2">a</text><text x="3" y="4">b</text></g>'),
        (('<g><path fill="red" d="M0,0h5v5h-5Z"/><path fill="red" d="M5,0h5v-5h-5Z"/></g>'),
         '<path d="M0,0h5v5h-5zM5,0h5v-5h-5z" fill="red"/>'),  # side by side
        (('<g><path fill="red" d="M0,0h5v5h-5Z"/><path fill="red" d="M4,0h5v5h-5Z"/></g>'),
         ('<path fill="red" d="M0,0h5v5h-5z"/>'  # one upon the other: twice as dark
          '<path fill="red" d="M4,0h5v5h-5z"/>')),
        (('<clipPath id="clip77"><rect width="9" height="9"/></clipPath>'
         '<g clip-path="url(#clip77)"><rect width="1" height="1" fill="red"/></g>'),
         ('<clipPath id="c-clip0"><rect width="9" height="9"/></clipPath>'
         '<g clip-path="url(#c-clip0)"><rect width="1" height="1" fill="red"/></g>')),
        ("<text>a &lt;b&gt; &amp; &quot;</text>", "<text>a &lt;b&gt; &amp; &#34;</text>"),
        ("<text></text>", ""),
        (
            ('<g><text fill="red">a</text><text fill="red"><tspan>b,</tspan>'
            '<tspan x="0" dy="13">c</tspan></text></g>'),
            ('<g fill="red"><text>a</text>'
             '<text><tspan>b,</tspan><tspan x="0" dy="13">c</tspan></text></g>'),
        ),
        ("<text>clip7</text>", "<text>clip7</text>"),  # a name is no id
    ],
)  # fmt: skip
def test_what_is_left_of_a_picture(body, left):
    assert slim(svg(body), "c") == ("0 0 10 20", f'<g font-size="11px">{left}</g>')


def test_one_family_for_all_texts():
    body = '<text font-family="A, &quot;B&quot;">x</text>'
    assert slim(svg(body), "c")[1] == (
        '<g font-family="A, &#34;B&#34;" font-size="11px"><text>x</text></g>'
    )


def test_no_word_of_a_chart_is_lost():
    with debug_mode(False):
        drawn = figures(FIXTURES["steps"]())
    for figure in drawn:
        raw = vl_convert.vegalite_to_svg(json.dumps(figure.spec), allowed_base_urls=[])
        before, after = (words(text) for text in (raw, f"<svg>{slim(raw, figure.id)[1]}</svg>"))
        assert before == after, figure.id


def words(text: str) -> list[str]:
    return sorted("".join(node.itertext()) for node in ET.fromstring(text).iter()
                  if node.tag.endswith("text") and "".join(node.itertext()))  # fmt: skip
