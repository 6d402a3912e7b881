"""Translations: the right language, whole, no copy, no number lost; and chrF as published."""

import json
import re

import pytest
from commandline import batch, refused
from commandline import scenario as write_scenario
from spoiling import SHIFTS, spoiled
from workload_stand_ins import Model

from loadlib import tokens
from loadlib.quality import Flaw, Said, judged
from loadlib.workloads import build
from loadlib.workloads.languages import LANGUAGES, PAIRS, chrf, shares, why_not
from loadlib.workloads.translate import DATA, Translated, TranslateSpec, texts

BRIDGE = next(text for text in texts() if "1936" in text.keep)
MARKET = next(text for text in texts() if "3000" in text.keep)


def translate(seed=42, **given):
    return build("t", TranslateSpec(kind="translate", **given), seed)


def check(text, pair):
    source, target = pair.split("-")
    return Translated(text.said[source], text.said[target], (source, target), text.keep)


# -- the built-in texts ----------------------------------------------------------------------------


def test_every_text_is_there_in_every_language_with_its_numbers():
    rows = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
    assert len(texts()) == len(rows) == len({row["id"] for row in rows})
    assert len(LANGUAGES) >= 6
    assert {"zh-en", "en-zh"} <= set(PAIRS)
    for row in rows:
        for code in LANGUAGES:
            assert why_not(row[code], code) is None, (row["id"], code)
            found = re.findall(r"[0-9]+", row[code])
            assert sorted(found) == sorted(row["keep"]), (row["id"], code)
            if "Latin" not in LANGUAGES[code].least:
                # else a spoiled text would still have all that its check looks at
                assert not re.search("[A-Za-z]", row[code]), (row["id"], code)


@pytest.mark.parametrize("target", LANGUAGES)
def test_references_pass_spoiled_ones_and_other_languages_never_do(target):
    for text in texts():
        right = Said(text.said[target])
        wrong = [spoiled(right, shift) for shift in SHIFTS]
        wrong += [Said(said) for code, said in text.said.items() if code != target]
        for source in ("en", "zh") if target not in ("en", "zh") else ("de", "ja"):
            this = check(text, f"{source}-{target}")
            found = judged(this, right)
            assert (found.passed, found.score) == (True, 1.0), found
            for other in wrong:
                assert not judged(this, other).passed, (source, target, other.text)


def test_every_pair_accepts_its_own_references():
    for pair in PAIRS:
        for text in texts():
            found = judged(check(text, pair), Said(text.said[pair[-2:]]))
            assert found.passed, (pair, found.note)


# -- known answers ---------------------------------------------------------------------------------

EN_DE = [
    ("Die Brücke entstand 1936 und ist 850 Meter lang.", None, "other words than ours"),
    ("  Die Brücke wurde 1936 gebaut und ist 850 Meter lang.\n", None, "blanks around it"),
    ("„Die Brücke wurde 1936 gebaut und ist 850 m lang.“", None, "in quotation marks"),
    ("Die Brücke wurde im Jahr 1963 gebaut und ist 850 Meter lang.", Flaw.WRONG, "digits swapped"),
    ("Die Brücke ist 850 Meter lang.", Flaw.WRONG, "half of it, and shorter than could be"),
    ("Die Brücke ist sehr lang und wurde 1936 gebaut, sagt man.", Flaw.WRONG, "a number is lost"),
    ("The bridge was built in 1936 and is 850 metres long.", Flaw.WRONG, "the source again"),
    ("The bridge was built in 1936, and it is 850 metres long.", Flaw.WRONG, "the same, nearly"),
    ("El puente fue construido en 1936 y tiene una longitud de 850 metros.", Flaw.INVALID,
     "another language in the same letters"),
    ("这座桥建于1936年，全长850米。", Flaw.INVALID, "another script"),
    ("Мост был построен в 1936 году, его длина 850 метров.", Flaw.INVALID, "a script of no pair"),
    ("1936 850", Flaw.INVALID, "no letters"),
    ("Brücke Baujahr 1936 Länge 850 Meter Stahl Beton Fluss Stadt", Flaw.INVALID,
     "no language: words and no sentence"),
    ("Sicher! Hier ist die Übersetzung, ich hoffe, dass sie Ihnen gefällt und Sie alles verstehen. "
     + BRIDGE.said["de"], Flaw.WRONG, "talk around it: longer than could be"),
    ("", Flaw.EMPTY, "nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "flaw", "why"), EN_DE)
def test_known_translations(answer, flaw, why):
    found = judged(check(BRIDGE, "en-de"), Said(answer))
    assert (found.passed, found.flaw) == (flaw is None, flaw), (why, found)
    assert found.score is None or 0 <= found.score <= 1


def test_what_a_note_says():
    def note(answer, pair="en-de"):
        return judged(check(BRIDGE, pair), Said(answer)).note

    assert note(BRIDGE.said["en"]) == "it is the source again"
    assert note(BRIDGE.said["es"]) == "it reads like Spanish"
    assert note(BRIDGE.said["zh"]) == "0% of its letters are Latin"
    assert note(BRIDGE.said["ja"], "en-zh").endswith("of its letters are Han")
    assert note(BRIDGE.said["zh"], "en-ja") == "0% of its letters are kana"
    assert note(BRIDGE.said["de"].replace("850", "85")) == "the number 850 is lost"


def test_numbers_count_however_they_are_written():
    for written in ("3000", "3,000", "3.000", "3 000", "3\u202f000", "３０００"):
        said = MARKET.said["en"].replace("3000", written)
        assert judged(check(MARKET, "de-en"), Said(said)).passed, written
    arabic = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")
    assert judged(check(MARKET, "en-ar"), Said(MARKET.said["ar"].translate(arabic))).passed
    lost = MARKET.said["en"].replace("3000", "30000")
    assert not judged(check(MARKET, "de-en"), Said(lost)).passed


CHRF = [  # computed with sacreBLEU's CHRF() (chrF2, six orders, without blanks)
    ("the cat sat", "the cat sat on the mat", 0.49593484099660085, "a beginning"),
    ("会议已改到二楼", "会议已改到二楼的214房间。", 0.43101930811279425, "fewer runs than orders"),
    ("Die Katze", "Der Kater", 0.20039682539682538, "related words"),
    ("abc", "xyz", 0.0, "nothing in common"),
    ("", "x", 0.0, "nothing said"),
    ("A", "a", 0.0, "case counts"),
    ("a b", "ab", 1.0, "blanks do not"),
]


@pytest.mark.parametrize(("text", "reference", "score", "why"), CHRF)
def test_chrf_is_the_published_one(text, reference, score, why):
    assert chrf(text, reference) == pytest.approx(score, abs=1e-9), why


def test_scripts():
    assert shares("12 !") == {}
    assert shares("ab漢カ") == {"Latin": 0.5, "Han": 0.25, "kana": 0.25}
    assert shares("مرحبا") == {"Arabic": 1.0}
    assert shares("привет")["other"] == pytest.approx(1)


# -- prompts ---------------------------------------------------------------------------------------


def test_pairs_lengths_and_texts_go_round():
    workload = translate(pairs=("zh-en", "en-zh"), output_tokens=(64, 128, 256))
    prompts = [workload.prompt(Model(), n) for n in range(100)]
    assert [one.variant for one in prompts[:4]] == ["zh-en", "en-zh"] * 2
    assert [one.max_tokens for one in prompts[:4]] == [64, 128, 256, 64]
    asked = [one.messages[0]["content"] for one in prompts]
    assert asked[0].startswith(
        "Translate the following text from Chinese (Simplified) into English."
    )
    assert len(asked[2]) > len(asked[0]) + 80, "short ones and long ones in turn"
    assert len(set(asked)) == workload.size == 2 * len(texts())
    short = translate(pairs=("de-fr",), length=("short",))
    count = sum(text.length == "short" for text in texts())
    assert len({short.prompt(Model(), n).messages[0]["content"] for n in range(count)}) == count
    assert short.size == count
    every = translate()
    assert {every.prompt(Model(), n).variant for n in range(len(PAIRS))} == set(PAIRS)


def test_prompts_are_the_same_for_the_same_seed_and_counted():
    workload = translate()
    for n in (0, 17, 4_000):
        prompt, again = workload.prompt(Model("a"), n), translate().prompt(Model("b"), n)
        assert (prompt.messages, prompt.right) == (again.messages, again.right)
        assert prompt.tokens == tokens.chat_tokens(prompt.messages, "o200k_base")
        assert (prompt.exact, prompt.asked_tokens, prompt.then) == (True, None, None)
        assert judged(prompt.check, prompt.right).passed
    firsts = {str(translate(seed).prompt(Model(), 0).messages) for seed in range(20)}
    assert len(firsts) > 3
    assert translate(check=False).prompt(Model(), 0).check is None


def test_settings_that_cannot_be_met_are_refused_where_they_stand(tmp_path):
    cases = [
        (
            {"pairs": ["zh-en", "zh-eng"]},
            "workloads.t.pairs",
            "'zh-eng' is not two different of en",
        ),
        ({"pairs": "en-en"}, "workloads.t.pairs", "'en-en'"),
        ({"pairs": []}, "workloads.t.pairs", ""),
        ({"length": "medium"}, "workloads.t.length", "is not one of short, long"),
        ({"prompt_tokens": 100}, "prompt_tokens", "belongs to kind: chat"),
    ]
    paths = []
    for number, (given, *_) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        workloads = {"t": {"kind": "translate", **given}}
        paths.append(["validate", write_scenario(folder, workloads=workloads)])
    for done, (_, *words) in zip(batch(*paths), cases, strict=True):
        assert "small.yaml:" in refused(done, 2, *words)
