"""Pictures drawn by code: shapes and text as SVG, and from it PNGs of which no two are alike.

`vl-convert` turns SVG into pixels and brings its own font, so every machine draws the same. That
takes 10 to 100 ms, far too long once a clock runs; so a picture is drawn once, and each request
gets it with a last row of pixels of its own, for some 30 µs. No cache of images, whether by bytes
or by pixels, can know it from before, and nobody sees the difference.

How that works: a PNG is one zlib stream of rows, cut into chunks as one likes. All rows but the
last are compressed once, up to a byte boundary; the last one follows uncompressed, in a chunk of
its own, and the checksum of the whole stream goes on from where the first part left it.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape  # xml.sax would load the network

FONT = "Liberation Sans"  # inside vl-convert; regular and bold

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {2: 3, 6: 4}  # by colour type: RGB, RGBA
_STAMP_BITS = 64
_LEVEL = 6  # 9 takes three times as long for 2 % less

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG without its last row of pixels."""

    width: int
    height: int
    _head: bytes  # file signature, header, and a chunk with all other rows
    _sum: int  # Adler-32 of these rows
    _ground: bytes  # one pixel of the last row

    def stamped(self, number: int) -> bytes:
        """The whole PNG; the last 64 bits of `number` are faintly visible in its last row."""
        bits = number % (1 << _STAMP_BITS)
        faint = bytes([max(0, value - 6) for value in self._ground[:3]]) + self._ground[3:]
        stamp = [faint if bits >> i & 1 else self._ground for i in range(_STAMP_BITS)]
        row = b"\0" + b"".join(stamp[: self.width]) + self._ground * (self.width - _STAMP_BITS)
        length = struct.pack("<H", len(row))
        stored = b"\x01" + length + bytes(byte ^ 0xFF for byte in length) + row
        data = stored + struct.pack(">I", zlib.adler32(row, self._sum))
        return self._head + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def draw(svg: str) -> Picture:
    """The picture of an SVG whose last row of pixels is all of one colour, from 64 pixels wide."""
    import vl_convert

    return _unfinished(vl_convert.svg_to_png(svg, 1.0))


def _unfinished(png: bytes) -> Picture:
    header, data = b"", b""
    for kind, content in _chunks(png):
        header = content if kind == b"IHDR" else header
        data += content if kind == b"IDAT" else b""
    width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", header)
    assert (depth, rest) == (8, [0, 0, 0]), "8 bits a channel, not interlaced"
    rows = zlib.decompress(data)
    length = 1 + width * _CHANNELS[colour]
    # the first pixel of a row is there as it is only where no row above it is referred to
    last = rows[-length:]
    assert last[0] in (0, 1), "no filter, or the one that refers to the left"
    ground = last[1 : 1 + _CHANNELS[colour]]
    packer = zlib.compressobj(_LEVEL)
    packed = packer.compress(rows[:-length]) + packer.flush(zlib.Z_FULL_FLUSH)
    head = _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", packed)
    return Picture(width, height, head, zlib.adler32(rows[:-length]), ground)


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(_SIGNATURE)
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        yield png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        at += 12 + length


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def data_url(png: bytes) -> str:
    """How an image travels in a message."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


# -- SVG ------------------------------------------------------------------------------------------


def sheet(width: int, height: int, ground: str, inside: str, zoom: float = 1.0) -> str:
    """A whole SVG of width × height pixels; `inside` is in units of `zoom` pixels."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">'
        f'{rect(0, 0, width, height, ground)}<g transform="scale({zoom:.4f})">{inside}</g></svg>'
    )


def text(
    at: Point,
    said: object,
    size: float,
    fill: str = "#222",
    *,
    anchor: str = "start",
    bold: bool = False,
) -> str:
    """A line of text whose baseline starts, ends or is centred at a point."""
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{at[0]:.1f}" y="{at[1]:.1f}" font-family="{FONT}" font-size="{size:.1f}"'
        f'{weight} text-anchor="{anchor}" fill="{fill}">{escape(str(said))}</text>'
    )


def rect(
    x: float, y: float, width: float, height: float, fill: str, *,
    round_: float = 0, opacity: float = 1,
) -> str:  # fmt: skip
    """A filled rectangle."""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{round_}"'
        f' fill="{fill}" fill-opacity="{opacity}"/>'
    )


def line(a: Point, b: Point, stroke: str, width: float = 1, dash: str = "") -> str:
    """A straight line."""
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{a[0]:.1f}" y1="{a[1]:.1f}" x2="{b[0]:.1f}" y2="{b[1]:.1f}"'
        f' stroke="{stroke}" stroke-width="{width}"{dashed}/>'
    )


def polygon(points: Sequence[Point], fill: str) -> str:
    """A filled polygon."""
    listed = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polygon points="{listed}" fill="{fill}"/>'


def circle(at: Point, radius: float, fill: str) -> str:
    """A filled circle."""
    return f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="{radius:.1f}" fill="{fill}"/>'
