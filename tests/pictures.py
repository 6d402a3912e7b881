"""Charts drawn once in a session of tests, by whichever test file needs one first.

Drawing takes most of the time of a page, and several files need the pages of the same runs.
That the same chart makes the same picture is held by the golden page, drawn in a fresh process.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
import vl_convert

DRAW = vl_convert.vegalite_to_svg


@contextmanager
def drawn_once(factory: pytest.TempPathFactory) -> Iterator[None]:
    """Within, what was drawn before by any worker of this session is read instead."""
    base = factory.getbasetemp()
    kept = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "pictures"
    kept.mkdir(exist_ok=True)

    def draw(spec: str, **options: object) -> str:
        path = kept / hashlib.sha256(spec.encode()).hexdigest()
        if path.exists():
            return path.read_text("utf-8")
        svg = DRAW(spec, **options)
        _put(path, svg)
        return svg

    with patch.object(vl_convert, "vegalite_to_svg", draw):
        yield


def _put(path: Path, text: str) -> None:
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(text, "utf-8")
    part.replace(path)
