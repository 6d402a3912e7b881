"""How large pictures are asked for, and an album of them that is drawn before the run."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from loadlib.image_tokens import Detail
from loadlib.scenario_fields import one_or_many, scalar_or_list, tuple_of
from loadlib.workloads.drawing import Picture, draw

Size = tuple[int, int]
T = TypeVar("T")
K = TypeVar("K")

SIDES = 128, 2048  # no provider looks at more: all shrink larger images to 2048 or below
LONGER = 3  # times the other side
ALL_PIXELS = 4_500_000  # of all sizes together: a million take some 45 ms to be drawn
MOST_PICTURES = 12

_SIZE = re.compile(r"\s*(\d{1,6})\s*[x×]\s*(\d{1,6})\s*")
_SIZE_SCHEMA = {"type": "string", "pattern": r"^\s*[0-9]+\s*[x×]\s*[0-9]+\s*$",
                "examples": ["512x512", "1024x768"]}  # fmt: skip


def _size(value: object) -> Size:
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if found is not None:
        width, height = int(found[1]), int(found[2])
    elif isinstance(value, tuple) and len(value) == 2:  # a Python caller's
        width, height = value
    else:
        raise ValueError("should be width x height in pixels, such as 512x512, or a list of these")
    least, most = SIDES
    if not (least <= min(width, height) and max(width, height) <= most):
        raise ValueError(f"{width}x{height}: a side has {least} to {most} pixels")
    if max(width, height) > LONGER * min(width, height):
        raise ValueError(f"{width}x{height}: one side is at most {LONGER} times the other")
    return width, height


def _sizes(value: object) -> tuple[Size, ...]:
    many = value if isinstance(value, (list, tuple)) else [value]
    if not many:
        raise ValueError("should not be an empty list")
    sizes = tuple(map(_size, many))
    total = sum(width * height for width, height in sizes)
    if total > ALL_PIXELS:
        raise ValueError(
            f"all sizes together have at most {ALL_PIXELS:,} pixels, these have {total:,}: "
            "pictures are drawn before the start"
        )
    return sizes


def size_text(size: Size) -> str:
    """As people write it: 512x512."""
    return f"{size[0]}x{size[1]}"


def _written(sizes: Sequence[Size]) -> Any:
    return scalar_or_list([size_text(size) for size in sizes])


Sizes = Annotated[
    tuple[Size, ...],
    BeforeValidator(_sizes),
    PlainSerializer(_written),
    WithJsonSchema(one_or_many(_SIZE_SCHEMA)),
]
Details = Annotated[
    tuple[Detail, ...],
    BeforeValidator(tuple_of),
    PlainSerializer(scalar_or_list),
    WithJsonSchema(one_or_many({"enum": ["low", "high", "auto"]})),
    Field(min_length=1),
]


class Album(Generic[K, T]):
    """Some pictures of each sort, drawn when it is first opened: in a run before its start.

    `make(sort, n)` gives what is known of the n-th picture of a sort, and its SVG. `pixels` are
    those of one picture of each sort together.
    """

    def __init__(
        self,
        sorts: Sequence[K],
        pixels: int,
        make: Callable[[K, int], tuple[T, str]],
        least: int = 1,
    ) -> None:
        fit = min(MOST_PICTURES // len(sorts), ALL_PIXELS // pixels)
        self.each = max(least, fit)
        self._sorts, self._make = sorts, make
        self._drawn: dict[tuple[K, int], tuple[T, Picture]] = {}

    def open(self) -> None:
        """Draw all of it, if that was not done yet."""
        if not self._drawn:
            drawn = {}
            for sort in self._sorts:
                for n in range(self.each):
                    known, svg = self._make(sort, n)
                    drawn[sort, n] = known, draw(svg)
            self._drawn = drawn  # all at once: someone else may look in from another thread

    def look(self, sort: K, n: int) -> tuple[T, Picture]:
        """The n-th picture of a sort; after the last the first again."""
        self.open()
        return self._drawn[sort, n % self.each]
