"""Receipts and invoices to be read into JSON: as text, or as pictures.

What is asked for is a JSON schema in `response_format`, `strict`; a model of which the catalogue
knows that it takes none gets the schema in the prompt. The answer is held against the schema, and
field by field against what stands on the paper.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    model_serializer,
    model_validator,
)

from loadlib import image_tokens, tokens
from loadlib.image_tokens import Detail
from loadlib.json_check import problems
from loadlib.prompt import Prompt
from loadlib.quality import Judged, Said, invalid, wrong
from loadlib.scenario_fields import Counts, broken, one_or_many, scalar_or_list, tuple_of
from loadlib.workloads import receipt_drawing, receipts
from loadlib.workloads.drawing import Picture, data_url
from loadlib.workloads.pixels import Album, Details, Size, Sizes
from loadlib.workloads.reading import plain
from loadlib.workloads.receipts import SCHEMA, Receipt
from loadlib.workloads.seeds import digest
from loadlib.workloads.spec import CappedSpec
from loadlib.workloads.windows import Lengths, Target, encoding_of, lacks

TASK = "Read this {} and reply with its data as JSON, nothing else. Copy names as they are written."
SPELLED_OUT = " The JSON has exactly the fields of this schema:\n"
ITEMS = 2, 7  # on a paper

# The most a prompt takes beside images and schema; the longest receipt is some 450 (a test looks).
_WORDS = 600
_CENT = 0.005
_FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*)\n[ \t]*```", re.DOTALL)

Form = Literal["text", "image"]
Papers = Annotated[
    tuple[receipts.Kind, ...],
    BeforeValidator(tuple_of),
    PlainSerializer(scalar_or_list),
    WithJsonSchema(one_or_many({"enum": ["receipt", "invoice"]})),
    Field(min_length=1),
]


def _known(value: object) -> object:
    tags = tuple_of(value)
    assert isinstance(tags, tuple)
    for tag in tags:
        if not isinstance(tag, str) or tag not in receipts.locales():
            raise ValueError(f"{str(tag)[:20]!r} is none of {', '.join(receipts.locales())}")
    return tags


Locales = Annotated[
    tuple[str, ...],
    BeforeValidator(_known),
    PlainSerializer(scalar_or_list),
    WithJsonSchema(one_or_many({"enum": list(receipts.locales())})),
    Field(min_length=1),
]


_OF_PICTURES = {"size", "detail"}


class ExtractSpec(CappedSpec):
    """Settings of `kind: extract`."""

    kind: Literal["extract"]
    output_tokens: Counts = Field(
        (1024,), description="cap: a number, a list to go round, or a distribution"
    )
    form: Literal["text", "image", "mixed"] = Field(
        "text", description="the paper as text, as a picture, or in turn"
    )
    papers: Papers = Field(
        ("receipt", "invoice"), description="receipt, invoice, or a list to go round"
    )
    locales: Locales = Field(
        tuple(receipts.locales()), description="whose papers: en-US, de-DE, …; a list to go round"
    )
    size: Sizes = Field(((768, 1024),), description="of pictures: pixels, or a list to go round")
    detail: Details = Field(("high",), description="of pictures: low, high, auto, or a list")
    pass_score: float = Field(
        1.0, gt=0, le=1, description="the least share of fields that must be right"
    )

    @model_validator(mode="after")
    def _free(self) -> ExtractSpec:
        if "response_format" in self.extra_body:
            raise broken("response_format is set by kind: extract", "extra_body")
        return self

    @model_validator(mode="after")
    def _pictured(self) -> ExtractSpec:
        given = self.model_fields_set & _OF_PICTURES
        if self.form == "text" and given:
            raise broken("is about pictures: needs form: image or mixed", min(given))
        return self

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As a file that is read back: without what form: text refuses."""
        row: dict[str, Any] = handler(self)
        unused = _OF_PICTURES if self.form == "text" else set()
        return {key: value for key, value in row.items() if key not in unused}


class Extract:
    """`kind: extract`; request n is a pure function of (seed, workload, model, n).

    A text is another one in each request; pictures are drawn before the run and come round, each
    time with other bytes. Forms, kinds of paper, sizes and details go round with n, in this order.
    """

    kind = "extract"
    size: int | None = None
    requests_per_arrival = 1.0
    invalid_skipped = 0

    def __init__(self, name: str, spec: ExtractSpec, seed: int) -> None:
        self.name = name
        self._spec, self._seed = spec, seed
        self._caps = Lengths((), spec.output_tokens, (seed, name))
        self._words: dict[str, int] = {}
        sorts = [(paper, size) for paper in dict.fromkeys(spec.papers) for size in set(spec.size)]
        pixels = sum(size[0] * size[1] for _, size in sorts)
        self._album: Album[tuple[receipts.Kind, Size], Receipt] = Album(sorts, pixels, self._drawn)

    def serves(self, model: Target) -> bool:
        """Whether the model takes the paper in any of the forms, and its window has the room."""
        return bool(self._forms(model)) and self._caps.serves(model, self._most(model))

    def skipped(self, model: Target) -> tuple[str, ...]:
        """What the model does not get, or gets in another way."""
        if not self._forms(model):
            return (f"{self.name}: skipped for {model.name} (it takes no images)",)
        if not self.serves(model):
            why = f"its window is {model.context_window:,} tokens"
            return (f"{self.name}: skipped for {model.name} ({why})",)
        lines = []
        if len(self._forms(model)) < len(self._wanted):
            lines.append(f"{self.name}: pictures skipped for {model.name} (it takes no images)")
        if lacks(model, "json_schema"):
            why = "it takes no response_format: json_schema"
            lines.append(f"{self.name}: the schema is in the prompt for {model.name} ({why})")
        return (*lines, *self._caps.notices(self.name, model, self._most(model)))

    def expected_tokens(self, model: Target) -> tuple[float, float]:
        """Mean prompt tokens, at most, and mean output cap; (0, 0) if nothing is sent."""
        if not self.serves(model):
            return 0.0, 0.0
        needs = [self._need(model, form) for form in self._forms(model)]
        caps = self._caps.caps(model, max(needs))
        return sum(needs) / len(needs), sum(caps) / len(caps)

    def prompt(self, model: Target, ordinal: int) -> Prompt:
        """Request number `ordinal` (from 0, without end). ValueError unless `serves(model)`."""
        if not self.serves(model):
            raise ValueError(f"{model.name} takes none of these papers")
        forms, papers = self._forms(model), self._spec.papers
        if "image" in forms:
            self._album.open()  # now, and not when the first picture's turn comes
        turn, at = divmod(ordinal, len(forms))
        form, paper = forms[at], papers[turn % len(papers)]
        this = digest(self._seed, self.name, model.name, ordinal)
        image, cost = None, image_tokens.Cost(0, exact=True)
        if form == "text":
            receipt = self._receipt(paper, random.Random(this))
        else:
            size, detail = self._manner(turn // len(papers))
            receipt, picture = self._album.look((paper, size), this % self._album.each)
            image, cost = _image(picture, this, detail), _cost(size, detail, model)
        messages, words = self._messages(model, receipt, image)
        facts = receipt.facts()
        check = FieldsRight(facts, receipt.printed_date, self._spec.pass_score)
        form_asked = _response_format(model)
        return Prompt(
            model=model.name,
            workload=self.name,
            messages=messages,
            max_tokens=self._caps.output(model, ordinal, self._most(model)),
            tokens=words + cost.tokens,
            # how a provider writes a schema into the prompt is not published, and not counted
            exact=encoding_of(model)[1] and cost.exact and not form_asked,
            asked_tokens=words + cost.tokens,
            check=check if self._spec.check else None,
            variant=f"{paper} {form}",
            right=Said(json.dumps(facts, ensure_ascii=False, separators=(",", ":"))),
            extra_body={**form_asked, **self._spec.extra_body},
        )

    @property
    def _wanted(self) -> tuple[Form, ...]:
        form = self._spec.form
        return ("text", "image") if form == "mixed" else (form,)

    def _forms(self, model: Target) -> tuple[Form, ...]:
        """The forms that a model takes, in turn."""
        blind = lacks(model, "vision")
        return tuple(form for form in self._wanted if form == "text" or not blind)

    def _manner(self, turn: int) -> tuple[Size, Detail]:
        """Size and detail of a picture."""
        sizes, details = self._spec.size, self._spec.detail
        return sizes[turn % len(sizes)], details[turn // len(sizes) % len(details)]

    def _receipt(self, paper: receipts.Kind, luck: random.Random) -> Receipt:
        locale = receipts.locales()[luck.choice(self._spec.locales)]
        return receipts.make(luck, locale, paper, ITEMS)

    def _drawn(self, sort: tuple[receipts.Kind, Size], n: int) -> tuple[Receipt, str]:
        paper, size = sort
        luck = random.Random(digest(self._seed, self.name, paper, size, n))
        receipt = self._receipt(paper, luck)
        return receipt, receipt_drawing.picture(receipt, size, luck)

    def _messages(
        self, model: Target, receipt: Receipt, image: dict[str, Any] | None
    ) -> tuple[list[dict[str, Any]], int]:
        """The messages, and the tokens of all but the image."""
        task = TASK.format(receipt.kind)
        if lacks(model, "json_schema"):
            task += SPELLED_OUT + _SPELLED
        if image is None:
            task += f"\n\n{receipt.text()}"
        head = [{"role": "system", "content": self._spec.system}] if self._spec.system else []
        asked: dict[str, Any] = {"role": "user", "content": task}
        count = tokens.chat_tokens([*head, asked], encoding_of(model)[0])
        if image is not None:
            asked = {"role": "user", "content": [image, {"type": "text", "text": task}]}
        return [*head, asked], count

    def _most(self, model: Target) -> int:
        """The most tokens a prompt has in any of the forms; of all of them caps are alike."""
        return max((self._need(model, form) for form in self._forms(model)), default=0)

    def _need(self, model: Target, form: Form) -> int:
        """The most tokens a prompt of a form has, its schema included."""
        encoding = encoding_of(model)[0]
        if encoding not in self._words:
            system = [{"role": "system", "content": self._spec.system}] if self._spec.system else []
            counted = tokens.chat_tokens(system, encoding) + tokens.count(_SPELLED, encoding)
            self._words[encoding] = counted + _WORDS
        words = self._words[encoding]
        if form == "text":
            return words
        manners = [(size, detail) for size in self._spec.size for detail in self._spec.detail]
        return words + max(_cost(*manner, model).tokens for manner in manners)


def _cost(size: Size, detail: Detail, model: Target) -> image_tokens.Cost:
    cost = image_tokens.cost(*size, detail, model.wire)
    return replace(cost, exact=cost.exact and detail != "auto")


def _image(picture: Picture, this: int, detail: Detail) -> dict[str, Any]:
    url = data_url(picture.stamped(this))
    return {"type": "image_url", "image_url": {"url": url, "detail": detail}}


def _response_format(model: Target) -> dict[str, Any]:
    """What asks for the schema in the body of a request."""
    if lacks(model, "json_schema"):
        return {}
    asked = {"name": "receipt", "strict": True, "schema": SCHEMA}
    return {"response_format": {"type": "json_schema", "json_schema": asked}}


_SPELLED = json.dumps(SCHEMA, separators=(",", ":"))


# -- the check ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FieldsRight:
    """How many of the fields of a paper an answer has right.

    Numbers are compared by value, to half a cent; dates however they are written, if the day is
    clear; texts without regard to case, spaces and kinds of quotation marks. Items stand in the
    order of the paper; one too many counts as wrong fields, too. JSON inside one pair of ``` is
    taken as JSON, since those who ask for it have to unpack it anyway; with words around it, not.
    """

    facts: Mapping[str, Any]
    printed_date: str
    pass_score: float = 1.0

    def __call__(self, said: Said) -> Judged:  # noqa: D102
        try:
            value = json.loads(_unfenced(said.text), parse_constant=_refuse)
        except (ValueError, RecursionError):
            return invalid("no JSON")
        found = problems(value, SCHEMA)
        if found:
            return invalid(f"not by the schema: {found[0]}")
        return self._compared(value)

    def _compared(self, value: Mapping[str, Any]) -> Judged:
        mine, other = dict(_leaves(self.facts)), dict(_leaves(value))
        off = [at for at in mine if at not in other or not self._same(at, mine[at], other[at])]
        off += [at for at in other if at not in mine]
        score = 1 - len(off) / len(mine | other)
        if not off:
            return Judged(passed=True, score=1.0)
        note = f"{off[0]}: not {mine[off[0]]}" if off[0] in mine else f"{off[0]}: one too many"
        if score >= self.pass_score:
            return Judged(passed=True, score=score, note=note)
        return wrong(note, score)

    def _same(self, at: str, mine: Any, other: Any) -> bool:
        if not isinstance(mine, str):
            return bool(abs(mine - other) < _CENT)
        if at == "date":
            return _day(other) == mine or plain(other) == plain(self.printed_date)
        return _solid(mine) == _solid(other)


def _leaves(value: object, at: str = "") -> Iterator[tuple[str, Any]]:
    """Every field that is no object, by its place: `items[0].amount`."""
    if isinstance(value, Mapping):
        for name, one in value.items():
            yield from _leaves(one, f"{at}.{name}" if at else name)
    elif isinstance(value, list):
        for i, one in enumerate(value):
            yield from _leaves(one, f"{at}[{i}]")
    else:
        yield at, value


def _unfenced(text: str) -> str:
    found = _FENCED.fullmatch(text.strip())
    return found[1] if found else text


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is no JSON")


def _day(text: str) -> str | None:
    """ISO 8601, with or without a time behind it; None for anything else."""
    try:
        return datetime.fromisoformat(text.strip()).date().isoformat()
    except ValueError:
        return None


def _solid(text: str) -> str:
    """What is left of a text when case and spaces do not matter."""
    return plain(text).replace(" ", "")
