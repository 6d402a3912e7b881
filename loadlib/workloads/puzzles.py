"""Short tasks whose right answer is known because it is worked out here, drawn by seed.

None is copied from a benchmark. No text is ever evaluated: what a snippet of code prints is worked
out by the function that writes the snippet (a test runs the snippets).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal

from loadlib.workloads.final_answer import LETTERS, Kind

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True, slots=True)
class Puzzle:
    """A question, its answer as `FinalAnswer` reads it, and how one gets there in few words."""

    question: str
    answer: str
    kind: Kind = "number"
    working: str = ""
    words: Sequence[str] = ()


Family = Callable[[random.Random], Puzzle]


def _plain(value: Decimal | float) -> str:
    """9.90 → 9.9, 12.0 → 12."""
    text = f"{Decimal(str(value)):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


# -- decimals: 9.11 or 9.9 ---------------------------------------------------------------------


def _decimals(luck: random.Random) -> Puzzle:
    """Two numbers of which the one with more decimals looks larger, and is not (mostly)."""
    whole, tenths = luck.randint(1, 40), luck.randint(2, 9)
    long = f"{whole}.{luck.randint(10, 10 * tenths - 1 if luck.random() < 0.75 else 99):02d}"
    if long.endswith("0") or Decimal(long) == Decimal(f"{whole}.{tenths}"):
        long += "1"
    pair = [f"{whole}.{tenths}", long]
    luck.shuffle(pair)
    word, pick = luck.choice((("larger", max), ("smaller", min)))
    answer = pick(pair, key=Decimal)
    gap = abs(Decimal(pair[0]) - Decimal(pair[1]))
    return Puzzle(
        f"Which number is {word}: {pair[0]} or {pair[1]}?",
        answer,
        working=f"They differ by {gap}, and the {word} one is {answer}.",
    )


# -- arithmetic of several steps ---------------------------------------------------------------


def _shopping(luck: random.Random) -> Puzzle:
    boxes, each, price = luck.randint(3, 14), luck.randint(4, 24), luck.randint(2, 19)
    broken = luck.randint(1, each - 1)
    bought, left = boxes * each, boxes * each - broken
    return Puzzle(
        f"A shop buys {boxes} boxes of {each} glasses each. {broken} glasses are broken, and the"
        f" others are sold for {price} euros a piece. How many euros does the shop take?",
        str(left * price),
        working=f"{boxes} * {each} = {bought}\n{bought} - {broken} = {left}\n"
        f"{left} * {price} = {left * price}",
    )


def _tank(luck: random.Random) -> Puzzle:
    start, inflow, minutes = luck.randint(20, 200), luck.randint(5, 30), luck.randint(6, 40)
    outflow = luck.randint(1, inflow - 1)
    gained = (inflow - outflow) * minutes
    return Puzzle(
        f"A tank holds {start} litres. Every minute {inflow} litres flow in and {outflow} litres"
        f" flow out. How many litres does it hold after {minutes} minutes?",
        str(start + gained),
        working=f"({inflow} - {outflow}) * {minutes} = {gained}\n"
        f"{start} + {gained} = {start + gained}",
    )


def _discount(luck: random.Random) -> Puzzle:
    price, share = luck.randint(4, 60) * 20, luck.choice((5, 10, 15, 25, 40))
    count = luck.randint(2, 9)
    off = price * share // 100
    return Puzzle(
        f"A chair costs {price} euros. For {count} chairs there is a discount of {share} percent"
        f" on each. How many euros do {count} chairs cost?",
        str(count * (price - off)),
        working=f"{share}% of {price} = {off}\n{price} - {off} = {price - off}\n"
        f"{count} * {price - off} = {count * (price - off)}",
    )


def _formula(luck: random.Random) -> Puzzle:
    a, b, c, d = (luck.randint(2, 19) for _ in range(4))
    return Puzzle(
        f"What is ({a} + {b}) * {c} - {d} * {a}?",
        str((a + b) * c - d * a),
        working=f"({a} + {b}) * {c} = {(a + b) * c}\n{d} * {a} = {d * a}\n"
        f"{(a + b) * c} - {d * a} = {(a + b) * c - d * a}",
    )


# -- code whose output is known ----------------------------------------------------------------


def _prints(code: str, output: str) -> Puzzle:
    question = f"What does this Python program print?\n\n```python\n{code}\n```"
    return Puzzle(question, output, "output", "The program prints one line.")


def _loop(luck: random.Random) -> Puzzle:
    low, high, step = luck.randint(1, 9), luck.randint(15, 40), luck.randint(2, 5)
    code = (
        f"total = 0\nfor n in range({low}, {high}):\n    if n % {step} == 0:\n        total += n\n"
        "print(total)"
    )
    return _prints(code, str(sum(n for n in range(low, high) if n % step == 0)))


def _slice(luck: random.Random) -> Puzzle:
    word, start, step = luck.choice(_WORDS), luck.randint(0, 2), luck.choice((-1, 2))
    code = f'word = "{word}"\nprint(word[{start}:].upper()[::{step}])'
    return _prints(code, word[start:].upper()[::step])


def _queue(luck: random.Random) -> Puzzle:
    numbers = luck.sample(range(1, 60), 4)
    new, by = luck.randint(60, 99), luck.randint(2, 5)
    code = (
        f"numbers = {numbers}\nnumbers.append({new})\nnumbers.pop(0)\nnumbers.sort(reverse=True)\n"
        f"print([n * {by} for n in numbers])"
    )
    return _prints(code, str([n * by for n in sorted([*numbers[1:], new], reverse=True)]))


def _alias(luck: random.Random) -> Puzzle:
    first = [luck.randint(1, 9) for _ in range(luck.randint(2, 4))]
    copied, new = luck.random() < 0.5, luck.randint(10, 99)
    code = (
        f"a = {first}\nb = {'list(a)' if copied else 'a'}\nb.append({new})\nprint(len(a), sum(b))"
    )
    return _prints(code, f"{len(first) + (not copied)} {sum(first) + new}")


def _floor(luck: random.Random) -> Puzzle:
    a, b = -luck.randint(5, 60), luck.randint(2, 9)
    return _prints(f"print({a} // {b}, {a} % {b})", f"{a // b} {a % b}")


def _while(luck: random.Random) -> Puzzle:
    start = luck.randint(6, 40)
    code = (
        f"n, steps = {start}, 0\nwhile n != 1:\n    n = n // 2 if n % 2 == 0 else 3 * n + 1\n"
        "    steps += 1\nprint(steps)"
    )
    n, steps = start, 0
    while n != 1:
        n, steps = (n // 2 if n % 2 == 0 else 3 * n + 1), steps + 1
    return _prints(code, str(steps))


# -- multiple choice ---------------------------------------------------------------------------


def _choice(luck: random.Random, question: str, right: str, others: Sequence[str]) -> Puzzle:
    options = [right, *others]
    luck.shuffle(options)
    listed = "\n".join(f"{letter}) {one}" for letter, one in zip(LETTERS, options, strict=True))
    letter = LETTERS[options.index(right)]
    return Puzzle(f"{question}\n{listed}", letter, "letter", "Going through all four of them.")


_PRIMES = [n for n in range(11, 120) if all(n % k for k in range(2, 11))]
_ODD_COMPOSITES = [n for n in range(21, 120, 2) if n not in _PRIMES]


def _prime(luck: random.Random) -> Puzzle:
    others = [str(n) for n in luck.sample(_ODD_COMPOSITES, 3)]
    question = "Which of these numbers is a prime number?"
    return _choice(luck, question, str(luck.choice(_PRIMES)), others)


def _fractions(luck: random.Random) -> Puzzle:
    pairs: dict[Decimal, str] = {}
    while len(pairs) < 4:
        below = luck.randint(3, 19)
        above = luck.randint(1, below - 1)
        pairs.setdefault(Decimal(above) / below, f"{above}/{below}")
    best = max(pairs)
    others = [text for value, text in pairs.items() if value != best]
    return _choice(luck, "Which of these fractions is the largest?", pairs[best], others)


def _sequence(luck: random.Random) -> Puzzle:
    start, step, growth = luck.randint(1, 20), luck.randint(2, 9), luck.randint(1, 4)
    terms = [start + n * step + growth * n * (n - 1) // 2 for n in range(6)]
    right, last = terms[5], terms[4] - terms[3]
    question = f"Which number continues the sequence {', '.join(map(str, terms[:5]))}?"
    return _choice(luck, question, str(right), [str(terms[4] + last), str(right + 2 * growth + 1),
                                                str(right - growth - 11)])  # fmt: skip


# -- dates, units, sorting, letters ------------------------------------------------------------


def _day(luck: random.Random) -> date:
    return date(1960, 1, 1) + timedelta(days=luck.randrange(36_500))


def _between(luck: random.Random) -> Puzzle:
    first, days = _day(luck), luck.randint(20, 400)
    last = first + timedelta(days=days)
    question = f"How many days are there from {first} to {last}, the first day not counted?"
    return Puzzle(question, str(days), working="Month by month.")


def _weekday(luck: random.Random) -> Puzzle:
    first, days = _day(luck), luck.randint(8, 200)
    last = first + timedelta(days=days)
    question = f"{first} is a {DAYS[first.weekday()]}. Which day of the week is {last}?"
    return Puzzle(question, DAYS[last.weekday()], "word", f"It is {days} days later.", DAYS)


def _later(luck: random.Random) -> Puzzle:
    first, days = _day(luck), luck.randint(20, 150)
    question = f"Which date is {days} days after {first}?"
    return Puzzle(question, str(first + timedelta(days=days)), "date", "Month by month.")


def _duration(luck: random.Random) -> Puzzle:
    hours, minutes, seconds = luck.randint(1, 9), luck.randint(1, 59), luck.randint(1, 59)
    total = hours * 3600 + minutes * 60 + seconds
    return Puzzle(
        f"How many seconds are {hours} hours, {minutes} minutes and {seconds} seconds?",
        str(total),
        working=f"{hours} * 3600 + {minutes} * 60 + {seconds} = {total}",
    )


def _speed(luck: random.Random) -> Puzzle:
    metres = luck.randint(2, 40)
    kmh = Decimal(metres) * Decimal("3.6")
    return Puzzle(f"How many metres per second are {_plain(kmh)} kilometres per hour?", str(metres),
                  working=f"{_plain(kmh)} / 3.6 = {metres}")  # fmt: skip


_UNITS = (
    ("millilitres", "litres", Decimal(1000)),
    ("centimetres", "metres", Decimal(100)),
    ("grams", "kilograms", Decimal(1000)),
    ("kilobytes of 1,024 bytes", "bytes", 1 / Decimal(1024)),
)


def _metric(luck: random.Random) -> Puzzle:
    small, large, factor = luck.choice(_UNITS)
    value = Decimal(luck.randint(11, 999)) / 100
    if factor < 1:
        value = Decimal(1024 * luck.randint(2, 60))
    result = _plain((value * factor).normalize())
    return Puzzle(f"How many {small} are {_plain(value)} {large}?", result,
                  working=f"That makes {result}.")  # fmt: skip


_WORDS = (
    "strawberry", "parallel", "committee", "banana", "mississippi", "bookkeeper", "assessment",
    "cinnamon", "balloon", "engineering", "coffee", "necessary", "possession", "kangaroo",
    "millennium", "occurrence", "tomorrow", "umbrella", "vacuum", "whisper", "horizon", "lantern",
    "jigsaw", "quartz", "glacier", "dolphin", "fiddle", "yoghurt", "riddle",
)  # fmt: skip


def _sorted_words(luck: random.Random) -> Puzzle:
    words = luck.sample(_WORDS, luck.randint(4, 7))
    question = f"Sort these words alphabetically: {', '.join(words)}"
    return Puzzle(question, ", ".join(sorted(words)), "list", "By the first letter, then the next.")


def _sorted_numbers(luck: random.Random) -> Puzzle:
    numbers = luck.sample([Decimal(n) / 10 for n in range(-150, 300)], luck.randint(4, 7))
    falling = luck.random() < 0.5
    words = "largest first" if falling else "smallest first"
    ordered = ", ".join(_plain(n) for n in sorted(numbers, reverse=falling))
    listed = ", ".join(map(_plain, numbers))
    return Puzzle(f"Sort these numbers, the {words}: {listed}", ordered, "list", "By their size.")


def _count(luck: random.Random) -> Puzzle:
    word = luck.choice(_WORDS)
    letter = luck.choice(sorted({one for one in word if word.count(one) > 1} or set(word)))
    question = f'How often does the letter "{letter}" occur in the word "{word}"?'
    spelt = " ".join(word)
    return Puzzle(question, str(word.count(letter)), working=f"Spelt out: {spelt}.")


FAMILIES: Mapping[str, Sequence[Family]] = {
    "decimals": (_decimals,),
    "arithmetic": (_shopping, _tank, _discount, _formula),
    "code": (_loop, _slice, _queue, _alias, _floor, _while),
    "choice": (_prime, _fractions, _sequence),
    "dates": (_between, _weekday, _later),
    "units": (_duration, _speed, _metric),
    "sorting": (_sorted_words, _sorted_numbers),
    "letters": (_count,),
}
"""Family → the kinds of puzzles in it, each of which draws one."""
