"""Vega, Vega-Lite and Vega-Embed as one script, packed, made once per machine and version.

vl-convert holds the sources and bundles them in about 2 s of CPU, each time anew; so the result is
kept in the cache folder. Where that cannot be written, it is made again.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import zlib
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import vl_convert

from loadlib.folder import cache_home, write_atomically

SNIPPET = "window.vegaEmbed = vegaEmbed;"
NOTICE = (
    "Contains Vega, Vega-Lite and Vega-Embed (University of Washington Interactive Data Lab, "
    "BSD 3-Clause), D3 and TopoJSON (Mike Bostock, ISC), and what they need under MIT and ISC."
)


@dataclass(frozen=True, slots=True)
class Bundle:
    """The script: gzipped and in base64, and its SHA-256 as a Content-Security-Policy names it."""

    packed: str
    sha256: str


@cache
def bundle(home: Path | None = None) -> Bundle:
    """The script of the installed vl-convert; read from `home` (the cache) where it is there."""
    path = _path(home)
    packed = _kept(path)
    if packed is None:
        packed = gzip.compress(vl_convert.javascript_bundle(SNIPPET).encode(), 9, mtime=0)
        _keep(path, packed)
    digest = hashlib.sha256(gzip.decompress(packed)).digest()
    return Bundle(base64.b64encode(packed).decode(), base64.b64encode(digest).decode())


def _path(home: Path | None) -> Path | None:
    try:
        return (home or cache_home()) / f"vega-{version('vl-convert-python')}.js.gz"
    except RuntimeError:  # nobody has a home
        return None


def _kept(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        packed = path.read_bytes()
        gzip.decompress(packed)
    except (OSError, EOFError, zlib.error):  # none, or damaged
        return None
    return packed


def _keep(path: Path | None, packed: bytes) -> None:
    if path is not None:
        with suppress(OSError):  # it is a cache
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, packed)
