"""Pictures with something to be read off them: charts, receipts, timetables, shapes.

A scene knows its drawing, the questions that can be asked about it with their answers, and one
number by which scenes of a kind can be compared.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import cos, pi, sin

from loadlib.quality import Check
from loadlib.workloads import receipt_drawing, receipts
from loadlib.workloads.drawing import circle, line, polygon, rect, sheet, text
from loadlib.workloads.reading import IsLetter, IsName, IsNumber

Size = tuple[int, int]

NUMBER, NAME, LETTER = (f"Reply with the {what} only." for what in ("number", "name", "letter"))
_UNITS = 480  # the shorter side of a drawing, whatever its pixels


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a picture, its answer, and whether another answer is as good."""

    text: str
    answer: str
    check: Check


@dataclass(frozen=True, slots=True)
class Scene:
    """`svg`, what can be asked about it, and `measure`, by which one picture of several is the
    one that `superlative` names."""

    svg: str
    questions: tuple[Question, ...]
    superlative: str
    measure: int


def about_number(question: str, number: Decimal | int) -> Question:
    """A question whose answer is a number."""
    return Question(f"{question} {NUMBER}", str(number), IsNumber(Decimal(number)))


def about_name(question: str, name: str, names: Sequence[str]) -> Question:
    """A question whose answer is one of some names."""
    others = tuple(one for one in names if one != name)
    return Question(f"{question} {NAME}", name, IsName(name, others))


def about_choice(question: str, name: str, choices: Sequence[str]) -> Question:
    """A question with choices to pick from by letter."""
    letters = [chr(ord("A") + i) for i in range(len(choices))]
    listed = " ".join(f"{letter}) {one}" for letter, one in zip(letters, choices, strict=True))
    right = letters[choices.index(name)]
    return Question(f"{question} {listed}. {LETTER}", right, IsLetter(right, tuple(choices)))


def compared(scenes: Sequence[Scene]) -> Question | None:
    """Which of several scenes of one kind it is; None where two of them are level."""
    most = max(scene.measure for scene in scenes)
    if sum(scene.measure == most for scene in scenes) > 1:
        return None
    number = 1 + [scene.measure for scene in scenes].index(most)
    return about_number(f"Which image shows {scenes[0].superlative}?", number)


def _canvas(size: Size) -> tuple[float, float, float]:
    """Width and height in drawing units, and pixels per unit."""
    zoom = min(size) / _UNITS
    return size[0] / zoom, size[1] / zoom, zoom


# -- charts ---------------------------------------------------------------------------------------

_THEMES = (
    ("Fruit sold this week", "crates", "fruit",
     ("Apples", "Pears", "Plums", "Cherries", "Grapes", "Lemons")),
    ("Letters delivered", "thousands", "city",
     ("Oslo", "Lima", "Cairo", "Delhi", "Quito", "Perth")),
    ("Requests by team", "open", "team",
     ("Sales", "Support", "Design", "Legal", "Finance", "Press")),
    ("Lessons given", "per month", "instrument",
     ("Flute", "Cello", "Piano", "Drums", "Harp", "Violin")),
    ("Animals counted", "in the park", "animal",
     ("Owls", "Foxes", "Hares", "Deer", "Otters", "Swans")),
)  # fmt: skip
_COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2")


def chart(luck: random.Random, size: Size) -> Scene:
    """Bars with their values, upright or lying."""
    title, unit, noun, known = luck.choice(_THEMES)
    names = luck.sample(known, luck.randint(4, 6))
    values = luck.sample(range(12, 100), len(names))
    bars = dict(zip(names, values, strict=True))
    draw = luck.choice((_upright, _lying))
    one, other = luck.sample(names, 2)
    big, small = sorted((one, other), key=lambda name: -bars[name])
    top, bottom = max(names, key=bars.__getitem__), min(names, key=bars.__getitem__)
    choices = [top, *luck.sample([name for name in names if name != top], 3)]
    luck.shuffle(choices)
    questions = (
        *(about_number(f"What is the value of {name} in the chart?", bars[name]) for name in names),
        about_name(f"Which {noun} has the highest value in the chart?", top, names),
        about_name(f"Which {noun} has the lowest value in the chart?", bottom, names),
        about_number(
            f"By how much does {big} exceed {small} in the chart?", bars[big] - bars[small]
        ),
        about_choice(f"Which {noun} has the highest value?", top, choices),
    )
    inside = draw(f"{title}", unit, bars, luck.randrange(len(_COLOURS)), size)
    return Scene(
        sheet(*size, "#ffffff", inside, min(size) / _UNITS),
        questions,
        "the chart with the highest single value",
        max(values),
    )


def _heading(title: str, unit: str) -> str:
    return text((28, 42), title, 21, "#22262e", bold=True) + text((28, 63), unit, 13, "#6b7280")


def _upright(title: str, unit: str, bars: dict[str, int], first: int, size: Size) -> str:
    width, height, _ = _canvas(size)
    left, right, top, bottom = 58.0, width - 24, 92.0, height - 54
    out = [_heading(title, unit)]
    for tick in range(0, 101, 20):
        y = bottom - (bottom - top) * tick / 100
        out.append(line((left, y), (right, y), "#e3e6eb" if tick else "#8a909c"))
        out.append(text((left - 8, y + 4), tick, 12, "#6b7280", anchor="end"))
    step = (right - left) / len(bars)
    for i, (name, value) in enumerate(bars.items()):
        x, tall = left + step * (i + 0.5), (bottom - top) * value / 100
        wide = min(step * 0.62, 90)
        colour = _COLOURS[(first + i) % len(_COLOURS)]
        out += [
            rect(x - wide / 2, bottom - tall, wide, tall, colour, round_=2),
            text((x, bottom - tall - 7), value, 14, "#22262e", anchor="middle", bold=True),
            text((x, bottom + 20), name, 13.5, "#22262e", anchor="middle"),
        ]
    return "".join(out)


def _lying(title: str, unit: str, bars: dict[str, int], first: int, size: Size) -> str:
    width, height, _ = _canvas(size)
    left, right, top, bottom = 96.0, width - 56, 84.0, height - 46
    out = [_heading(title, unit)]
    for tick in range(0, 101, 20):
        x = left + (right - left) * tick / 100
        out.append(line((x, top), (x, bottom), "#e3e6eb" if tick else "#8a909c"))
        out.append(text((x, bottom + 19), tick, 12, "#6b7280", anchor="middle"))
    step = (bottom - top) / len(bars)
    colour = _COLOURS[first]
    for i, (name, value) in enumerate(bars.items()):
        y, long = top + step * (i + 0.5), (right - left) * value / 100
        wide = min(step * 0.62, 60)
        out += [
            rect(left, y - wide / 2, long, wide, colour, round_=2),
            text((left + long + 7, y + 5), value, 14, "#22262e", bold=True),
            text((left - 9, y + 5), name, 13.5, "#22262e", anchor="end"),
        ]
    return "".join(out)


# -- receipts -------------------------------------------------------------------------------------


def receipt(luck: random.Random, size: Size) -> Scene:
    """A till roll."""
    locale = luck.choice(list(receipts.locales().values()))
    paper = receipts.make(luck, locale, "receipt", (2, 5))
    item = luck.choice(paper.items)
    questions = (
        about_number("What is the total on the receipt?", _hundredths(paper.total)),
        about_number("How much tax is in the total on the receipt?", _hundredths(paper.tax)),
        about_number("What is the sum before tax on the receipt?", _hundredths(paper.net)),
        about_number(f"What does one “{item.name}” cost?", _hundredths(item.price)),
        about_number("How many different items are on the receipt?", len(paper.items)),
    )
    svg = receipt_drawing.picture(paper, size, luck)
    superlative = "the receipt with the highest total, whatever its currency"
    return Scene(svg, questions, superlative, paper.total)


def _hundredths(amount: int) -> Decimal:
    return Decimal(amount).scaleb(-2)


# -- timetables -----------------------------------------------------------------------------------

_CITIES = (
    "Basel",
    "Leiden",
    "Nantes",
    "Porto",
    "Genoa",
    "Malmö",
    "Graz",
    "Turku",
    "Gdynia",
    "Brno",
)
_TRAINS = ("IC", "RE", "EC", "RB")


def timetable(luck: random.Random, size: Size) -> Scene:
    """A board of departures."""
    rows = 6
    cities, platforms = luck.sample(_CITIES, rows), luck.sample(range(1, 20), rows)
    minutes = sorted(luck.sample(range(300, 1_400), rows))
    times = [f"{minute // 60:02d}:{minute % 60:02d}" for minute in minutes]
    trains = [f"{luck.choice(_TRAINS)} {luck.randint(100, 999)}" for _ in range(rows)]
    questions: list[Question] = []
    for city, platform, at in zip(cities, platforms, times, strict=True):
        about = f"does the train to {city} leave?"
        questions += [
            about_number(f"From which platform {about}", platform),
            Question(
                f"At what time {about} Reply with the time only.",
                at,
                IsName(at, tuple(other for other in times if other != at)),
            ),
            about_name(f"Where does the train from platform {platform} go?", city, cities),
        ]
    board = _board(list(zip(times, cities, trains, platforms, strict=True)), size)
    superlative = "the board whose first train leaves latest"
    return Scene(board, tuple(questions), superlative, minutes[0])


def _board(rows: Sequence[tuple[str, str, str, int]], size: Size) -> str:
    width, height, zoom = _canvas(size)
    ground, head, bright, pale = "#14213d", "#fca311", "#f4f6fb", "#a9b4cc"
    places = (32.0, 0.27 * width, 0.58 * width, width - 32)
    out = [text((32, 56), "Departures", 28, bright, bold=True)]
    top, bottom = 92.0, height - 24
    step = (bottom - top) / (len(rows) + 1)
    ends = ("start", "start", "start", "end")
    heads = zip(places, ("Time", "Destination", "Train", "Platform"), ends, strict=True)
    out += [
        text((x, top + step * 0.62), name, 14.5, head, anchor=end, bold=True)
        for x, name, end in heads
    ]
    for i, row in enumerate(rows):
        y = top + step * (i + 1)
        out.append(line((28, y), (width - 28, y), "#2c3b5f"))
        for x, cell, end, fill in zip(
            places, row, ends, (bright, bright, pale, bright), strict=True
        ):
            out.append(text((x, y + step * 0.5 + 6), cell, 17, fill, anchor=end))
    return sheet(*size, ground, "".join(out), zoom)


# -- shapes ---------------------------------------------------------------------------------------

_PAINTS = {"red": "#d7263d", "blue": "#1b6ca8", "green": "#2e933c", "yellow": "#f2b705"}
_FORMS: dict[str, Callable[[float, float, float, str], str]] = {
    "circles": lambda x, y, r, fill: circle((x, y), r, fill),
    "squares": lambda x, y, r, fill: rect(x - 0.9 * r, y - 0.9 * r, 1.8 * r, 1.8 * r, fill),
    "triangles": lambda x, y, r, fill: polygon(
        _corners(x, y + 0.15 * r, 1.15 * r, (1.0,), 3), fill
    ),
    "stars": lambda x, y, r, fill: polygon(_corners(x, y, 1.15 * r, (1.0, 0.42), 10), fill),
}


def _corners(
    x: float, y: float, r: float, reach: Sequence[float], n: int
) -> list[tuple[float, float]]:
    """Corners around a point from the top on, at these shares of `r` in turn."""
    turned = [(i * 2 * pi / n - pi / 2, r * reach[i % len(reach)]) for i in range(n)]
    return [(x + far * cos(angle), y + far * sin(angle)) for angle, far in turned]


def shapes(luck: random.Random, size: Size) -> Scene:
    """Scattered shapes of four colours to be counted."""
    width, height, zoom = _canvas(size)
    across = 4 if width < 1.5 * height else 6
    down = 4 if height < 1.5 * width else 6
    places = [(i, j) for i in range(across) for j in range(down)]
    picked = luck.sample(places, luck.randint(6, 13))
    cell_w, cell_h = (width - 40) / across, (height - 40) / down
    out: list[str] = []
    counts: Counter[tuple[str, str]] = Counter()
    for i, j in picked:
        colour, form = luck.choice(list(_PAINTS)), luck.choice(list(_FORMS))
        counts[colour, form] += 1
        r = min(cell_w, cell_h) * luck.uniform(0.24, 0.38)
        x = 20 + cell_w * (i + 0.5) + luck.uniform(-0.1, 0.1) * cell_w
        y = 20 + cell_h * (j + 0.5) + luck.uniform(-0.1, 0.1) * cell_h
        out.append(_FORMS[form](x, y, r, _PAINTS[colour]))
    return Scene(
        sheet(*size, "#f3efe6", "".join(out), zoom),
        _counting(counts),
        "the most shapes",
        len(picked),
    )


def _counting(counts: Counter[tuple[str, str]]) -> tuple[Question, ...]:
    forms, colours = Counter[str](), Counter[str]()
    for (colour, form), n in counts.items():
        forms[form] += n
        colours[colour] += n
    asked = {f"{colour} {form}": n for (colour, form), n in counts.items()}
    asked |= dict(forms) | {f"{colour} shapes": n for colour, n in colours.items()}
    asked["shapes of any kind"] = counts.total()
    return tuple(about_number(f"How many {what} are in the image?", n) for what, n in asked.items())


SCENES: dict[str, Callable[[random.Random, Size], Scene]] = {
    "chart": chart,
    "receipt": receipt,
    "timetable": timetable,
    "shapes": shapes,
}
