"""Questions about pictures: charts, receipts, timetables and shapes, with one right answer each.

The pictures are drawn before the run, some of each sort, and then come round; which question is
asked about them changes, and no two requests carry the same bytes (see `drawing`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema, model_validator

from loadlib import image_tokens, tokens
from loadlib.image_tokens import Detail
from loadlib.prompt import Prompt
from loadlib.quality import Said
from loadlib.scenario_fields import Count, broken, one_or_many, scalar_or_list, tuple_of
from loadlib.workloads.drawing import Picture, data_url
from loadlib.workloads.filler import filler
from loadlib.workloads.pixels import Album, Details, Size, Sizes, size_text
from loadlib.workloads.scenes import SCENES, Question, Scene, compared
from loadlib.workloads.seeds import digest
from loadlib.workloads.spec import CappedSpec
from loadlib.workloads.windows import Lengths, Target, encoding_of, lacks

MOST_IMAGES = 16
MOST_PIXELS = 17_000_000  # of one prompt: a body of some 2 MB, of which many are built ahead

# The most that a question and the captions of images take, whatever is asked (a test looks).
_QUESTION, _CAPTION = 80, 8

Sort = Literal["chart", "receipt", "timetable", "shapes"]
Sorts = Annotated[
    tuple[Sort, ...],
    BeforeValidator(tuple_of),
    PlainSerializer(scalar_or_list),
    WithJsonSchema(one_or_many({"enum": list(SCENES)})),
    Field(min_length=1),
]


class VisionSpec(CappedSpec):
    """Settings of `kind: vision`."""

    kind: Literal["vision"]
    pictures: Sorts = Field(
        ("chart", "receipt", "timetable", "shapes"),
        description="what is drawn: chart, receipt, timetable, shapes, or a list to go round",
    )
    size: Sizes = Field(((512, 512),), description="pixels, 512x512, or a list to go round")
    detail: Details = Field(("high",), description="low, high, auto, or a list to go round")
    images: Count = Field(1, le=MOST_IMAGES, description="pictures in each prompt")
    text_tokens: Count | None = Field(
        None, description="paragraphs of so many tokens in front of the pictures"
    )

    @model_validator(mode="after")
    def _bounded(self) -> VisionSpec:
        width, height = max(self.size, key=lambda size: size[0] * size[1])
        pixels = self.images * width * height
        if pixels > MOST_PIXELS:
            raise broken(
                f"{self.images} pictures of {width}x{height} are {pixels:,} pixels in a prompt, "
                f"at most {MOST_PIXELS:,} are sent",
                "images",
            )
        return self


@dataclass(frozen=True, slots=True)
class _Manner:
    """How the pictures of a prompt are sent."""

    size: Size
    detail: Detail

    def __str__(self) -> str:
        return f"{size_text(self.size)} at {self.detail} detail"


class Vision:
    """`kind: vision`; request n is a pure function of (seed, workload, model, n).

    Sizes, details and sorts of pictures go round with n, each after a full round of those before.
    """

    kind = "vision"
    size: int | None = None
    requests_per_arrival = 1.0
    invalid_skipped = 0

    def __init__(self, name: str, spec: VisionSpec, seed: int) -> None:
        self.name = name
        self._spec, self._seed = spec, seed
        self._caps = Lengths((), spec.output_tokens, (seed, name))
        self._manners = [_Manner(size, detail) for detail in spec.detail for size in spec.size]
        sorts = [(kind, size) for kind in dict.fromkeys(spec.pictures) for size in set(spec.size)]
        pixels = sum(size[0] * size[1] for _, size in sorts)
        least = min(2, spec.images)  # two at least, where pictures are compared
        self._album: Album[tuple[Sort, Size], Scene] = Album(sorts, pixels, self._scene, least)

    def serves(self, model: Target) -> bool:
        """Whether the model takes images, and its window some of these."""
        return not lacks(model, "vision") and bool(self._kept(model))

    def skipped(self, model: Target) -> tuple[str, ...]:
        """Why the model gets none of the pictures, or which of them do not fit its window."""
        if lacks(model, "vision"):
            return (f"{self.name}: skipped for {model.name} (it takes no images)",)
        kept = self._kept(model)
        why = f"its window is {model.context_window or 0:,} tokens"
        gone = tuple(
            f"{self.name}: {self._spec.images} × {manner} skipped for {model.name} ({why})"
            for manner in self._manners
            if manner not in kept
        )
        return (*gone, *self._cut_short(model, kept))

    def _cut_short(self, model: Target, kept: list[_Manner]) -> Iterator[str]:
        """Which of the output caps that are drawn do not fit beside the pictures."""
        for manner in kept:
            name = self.name if len(kept) == 1 else f"{self.name}: {self._spec.images} × {manner}"
            yield from self._caps.notices(name, model, self._need(model, manner))

    def expected_tokens(self, model: Target) -> tuple[float, float]:
        """Mean prompt tokens, at most, and mean output cap; (0, 0) if nothing is sent."""
        if not self.serves(model):
            return 0.0, 0.0
        needs = [self._need(model, manner) for manner in self._kept(model)]
        caps = [self._caps.caps(model, need) for need in needs]
        means = [sum(some) / len(some) for some in caps]
        return sum(needs) / len(needs), sum(means) / len(means)

    def prompt(self, model: Target, ordinal: int) -> Prompt:
        """Request number `ordinal` (from 0, without end). ValueError unless `serves(model)`."""
        kept = self._kept(model)
        if lacks(model, "vision") or not kept:
            raise ValueError(f"{model.name} takes none of these images")
        turn, at = divmod(ordinal, len(kept))
        manner, sort = kept[at], self._spec.pictures[turn % len(self._spec.pictures)]
        this = digest(self._seed, self.name, model.name, ordinal)
        question, pictures = self._ask(sort, manner.size, random.Random(this))
        encoding, exact = encoding_of(model)
        messages, words = self._messages(question.text, pictures, manner.detail, this, encoding)
        cost = image_tokens.cost(*manner.size, manner.detail, model.wire)
        count = words + len(pictures) * cost.tokens
        return Prompt(
            model=model.name,
            workload=self.name,
            messages=messages,
            max_tokens=self._caps.output(model, ordinal, self._need(model, manner)),
            tokens=count,
            exact=exact and cost.exact and manner.detail != "auto",
            asked_tokens=count,
            check=question.check if self._spec.check else None,
            variant=self._variant(sort, manner),
            right=Said(question.answer),
            extra_body=self._spec.extra_body,
        )

    def _variant(self, sort: Sort, manner: _Manner) -> str:
        """What sets a prompt apart: its sort, and its size and detail where there are several."""
        parts: list[str] = [sort]
        parts += [size_text(manner.size)] if len(self._spec.size) > 1 else []
        parts += [f"detail {manner.detail}"] if len(self._spec.detail) > 1 else []
        return " ".join(parts)

    def _scene(self, sort: tuple[Sort, Size], n: int) -> tuple[Scene, str]:
        kind, size = sort
        scene = SCENES[kind](random.Random(digest(self._seed, self.name, kind, size, n)), size)
        return replace(scene, svg=""), scene.svg  # it is not needed twice

    def _ask(self, sort: Sort, size: Size, luck: random.Random) -> tuple[Question, list[Picture]]:
        """A question, about one picture of several or about which of them it is."""
        n, first = self._spec.images, luck.randrange(self._album.each)
        seen = [self._album.look((sort, size), first + i) for i in range(n)]
        scenes, pictures = [scene for scene, _ in seen], [picture for _, picture in seen]
        question = compared(scenes) if n > 1 and luck.random() < 0.5 else None
        if question is None:
            at = luck.randrange(n)
            question = luck.choice(scenes[at].questions)
            if n > 1:
                question = replace(question, text=f"About image {at + 1}: {question.text}")
        return question, pictures

    def _messages(
        self, question: str, pictures: list[Picture], detail: Detail, this: int, encoding: str
    ) -> tuple[tuple[dict[str, Any], ...], int]:
        """The messages, images before the question, and the tokens of all but the images."""
        parts = list(self._parts(question, pictures, detail, this))
        said = "".join(part["text"] for part in parts if "text" in part)
        messages: tuple[dict[str, Any], ...] = ({"role": "user", "content": said},)
        if self._spec.system:
            messages = ({"role": "system", "content": self._spec.system}, *messages)
        count, padding = tokens.chat_tokens(messages, encoding), self._spec.text_tokens or 0
        if padding:
            text = filler(self._seed, encoding).exactly(padding, this >> 64)
            parts.insert(0, {"type": "text", "text": text})
        return (*messages[:-1], {"role": "user", "content": parts}), count + padding

    def _parts(
        self, question: str, pictures: list[Picture], detail: Detail, this: int
    ) -> Iterator[dict[str, Any]]:
        for n, picture in enumerate(pictures, 1):
            if len(pictures) > 1:
                yield {"type": "text", "text": f"Image {n}:\n"}
            url = data_url(picture.stamped(this + n))
            yield {"type": "image_url", "image_url": {"url": url, "detail": detail}}
        yield {"type": "text", "text": question}

    def _kept(self, model: Target) -> list[_Manner]:
        """How pictures can be sent to a model: its window has room for them and an answer."""
        return [one for one in self._manners if self._caps.serves(model, self._need(model, one))]

    def _need(self, model: Target, manner: _Manner) -> int:
        """The most tokens a prompt has."""
        cost = image_tokens.cost(*manner.size, manner.detail, model.wire).tokens
        system = [{"role": "system", "content": self._spec.system}] if self._spec.system else []
        words = tokens.chat_tokens(system, encoding_of(model)[0]) + (self._spec.text_tokens or 0)
        return words + _QUESTION + self._spec.images * (cost + _CAPTION)
