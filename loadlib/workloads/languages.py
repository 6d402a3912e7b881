"""Which language a text is in, as far as translations are told apart; and how alike two texts are.

Scripts tell Chinese, Japanese and Arabic; of languages in Latin letters the most frequent words do
(function words make up a third of running text). Nothing is learnt and nothing is downloaded.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

CHRF_ORDER = 6
CHRF_BETA = 2

_LEAST_WORDS = 0.15
"""The share of frequent words below which a text is in none of the languages."""

_LETTER = re.compile(r"[^\W\d_]+")

# First and last letter of the blocks of each script, Unicode 15.
_SCRIPTS: Mapping[str, tuple[tuple[int, int], ...]] = {
    "Latin": ((0x41, 0x24F), (0x1E00, 0x1EFF), (0xFF21, 0xFF5A)),
    "Han": ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF),
            (0x3005, 0x3007)),
    "kana": ((0x3041, 0x309F), (0x30A0, 0x30FF), (0xFF66, 0xFF9D)),
    "Arabic": ((0x600, 0x6FF), (0x750, 0x77F), (0xFB50, 0xFDFF), (0xFE70, 0xFEFC)),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Language:
    """A language: its name, how many characters it takes for one of English, its frequent words.

    `least` are scripts whose letters make up at least that share of all, `most` at most. `size` was
    measured on data/parallel.jsonl.
    """

    name: str
    size: float
    least: Mapping[str, float]
    most: Mapping[str, float]
    words: frozenset[str] = frozenset()


def _latin(name: str, size: float, words: str) -> Language:
    return Language(name, size, {"Latin": 0.9}, {}, frozenset(words.split()))


# Words of one letter are left out: they are words of several languages, and of none.
LANGUAGES: Mapping[str, Language] = {
    "en": _latin("English", 1.0,
        "the of and to in is was it that for on with as are be this by from at not have has you we"
        " our your will can they which who or if but do my me him her their there been its all out"
        " up about when what please more than still over could would into only no his she he had"),
    "zh": Language("Chinese (Simplified)", 0.31, {"Han": 0.7}, {"kana": 0.05}),
    "es": _latin("Spanish", 1.06,
        "el la los las de del que en un una por con no se su sus para es al lo como más pero ya"
        " está muy fue sin sobre también entre cuando hasta donde desde todo todos toda todas nos"
        " porque esta este ha han haya le les si mi otra vez tiene son hay qué cada antes nuestro"
        " él ella durante será puede menos podría quiso"),
    "fr": _latin("French", 1.16,
        "le la les de des du que qui en un une et est dans pour par pas ne se sur au aux avec ce"
        " cette il elle nous vous plus mais ou où sont été ont son sa ses leur leurs votre notre"
        " comme si tout toute tous être fait quand depuis je ma mon moins peut soit cela"),
    "de": _latin("German", 1.12,
        "der die das und ist in den von zu mit sich des auf für nicht ein eine einen einem einer"
        " dem im es sie er wir ihr auch als an nach wie aus bei noch nur so wird wurde werden wenn"
        " aber oder uns ihnen mir mich ich kann können bitte dass am um über sind hat haben seit"
        " schon zum zur meine tut mehr mein meinem"),
    "ja": Language("Japanese", 0.44, {"kana": 0.15}, {"Latin": 0.3, "Arabic": 0.05}),
    "ar": Language("Arabic", 0.84, {"Arabic": 0.7}, {}),
    "pt": _latin("Portuguese", 1.05,
        "os as de do da dos das que em um uma no na nos nas para por com não se mais como mas foi"
        " ao aos ele ela seu sua sus ou ser quando muito há já está eu também só pelo pela até isso"
        " entre era depois sem mesmo ter seus minha minhas são tem nós nosso nossa vai foram pode"
        " dele dela todos todas esta este me será fora"),
}  # fmt: skip

PAIRS: tuple[str, ...] = tuple(
    f"{source}-{target}" for source in LANGUAGES for target in LANGUAGES if source != target
)


def shares(text: str) -> dict[str, float]:
    """The share of each script in the letters of a text; empty where it has none."""
    letters = Counter("".join(_LETTER.findall(text)))
    found: dict[str, float] = {}
    for letter, count in letters.items():
        script = _script(letter)
        found[script] = found.get(script, 0) + count / letters.total()
    return found


@lru_cache(4096)
def _script(letter: str) -> str:
    code = ord(letter)
    for script, blocks in _SCRIPTS.items():
        if any(first <= code <= last for first, last in blocks):
            return script
    return "other"


def why_not(text: str, code: str) -> str | None:
    """Why a text is not in this language, for people; None where it is."""
    wanted, found = LANGUAGES[code], shares(text)
    if not found:
        return "it holds no letters"
    for script, least in wanted.least.items():
        if found.get(script, 0) < least:
            return f"{found.get(script, 0):.0%} of its letters are {script}"
    for script, most in wanted.most.items():
        if found.get(script, 0) > most:
            return f"{found[script]:.0%} of its letters are {script}"
    return _other_words(text, code) if wanted.words else None


def _other_words(text: str, code: str) -> str | None:
    """Whether the frequent words of a text are those of another language, or none."""
    words = [word.casefold() for word in _LETTER.findall(unicodedata.normalize("NFC", text))]
    hits = {
        name: sum(word in one.words for word in words)
        for name, one in LANGUAGES.items()
        if one.words
    }
    best = max(hits, key=lambda name: (hits[name], name == code))
    if hits[best] < _LEAST_WORDS * len(words):
        return f"it does not read like {LANGUAGES[code].name}"
    return None if best == code else f"it reads like {LANGUAGES[best].name}"


def chrf(text: str, reference: str) -> float:
    """How alike two texts are, 0…1: chrF2, the F-score of character n-grams.

    M. Popović, "chrF: character n-gram F-score for automatic MT evaluation" (WMT 2015), with n = 1
    to 6, blanks left out, precision and recall averaged over n, and β = 2, as in sacreBLEU.
    """
    precisions, recalls = [], []
    for mine, theirs in zip(_grams(text), _of_reference(reference), strict=True):
        if not mine or not theirs:
            continue
        same = sum(min(count, theirs[run]) for run, count in mine.items() if run in theirs)
        precisions.append(same / mine.total())
        recalls.append(same / theirs.total())
    if not precisions or not any(precisions):
        return 0.0
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    weight = CHRF_BETA**2
    return (1 + weight) * precision * recall / (weight * precision + recall)


_Runs = Counter[tuple[str, ...]]


def _grams(text: str) -> Iterator[_Runs]:
    """How often each run of n characters occurs, for n = 1 to 6."""
    text = "".join(text.split())
    for n in range(1, CHRF_ORDER + 1):
        yield Counter(zip(*(text[at:] for at in range(n)), strict=False))


@lru_cache(256)
def _of_reference(text: str) -> tuple[_Runs, ...]:
    """The same, kept: references come again."""
    return tuple(_grams(text))
