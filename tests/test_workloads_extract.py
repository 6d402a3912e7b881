"""Receipts and invoices: their sums are right, their texts say it all, and answers are judged."""

from __future__ import annotations

import base64
import json
import random
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from statistics import mean

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from workload_stand_ins import Model, says

from loadlib import image_tokens, scenario, tokens
from loadlib.catalog import resolve
from loadlib.errors import ScenarioError
from loadlib.json_check import problems, unknown_keywords
from loadlib.lengths import TABLES, Uniform
from loadlib.quality import Flaw, Said, judged
from loadlib.scenario_spec import ModelSpec
from loadlib.simulator import images
from loadlib.simulator.answers import Author
from loadlib.simulator.chat import parse
from loadlib.simulator.prompts import Counter
from loadlib.simulator.wished import Wish
from loadlib.workloads import build, receipts
from loadlib.workloads.extract import _WORDS, ITEMS, Extract, ExtractSpec, FieldsRight
from loadlib.workloads.reading import read
from loadlib.workloads.receipt_drawing import picture
from loadlib.workloads.receipts import SCHEMA

SMALL = ((128, 192),)


def extract(seed=42, name="extract", **given) -> Extract:
    small = {} if given.get("form", "text") == "text" else {"size": SMALL}
    made = build(name, ExtractSpec(kind="extract", **{**small, **given}), seed)
    assert isinstance(made, Extract)
    return made


@cache
def mixed() -> Extract:
    return extract(form="mixed")


def some(n=40):
    """Papers of every kind and country, in turn."""
    luck, places = random.Random(3), list(receipts.locales().values())
    for i in range(n):
        kind = ("receipt", "invoice")[i // len(places) % 2]
        yield receipts.make(luck, places[i % len(places)], kind, ITEMS)


# -- papers ----------------------------------------------------------------------------------------


def test_sums_are_right_to_the_cent():
    for paper in some(200):
        sold = sum(item.quantity * item.price for item in paper.items)
        assert paper.net + paper.tax == paper.total
        assert sold == (paper.net if paper.added else paper.total)
        share = Decimal(str(paper.locale.tax_percent)) / 100
        tax = sold * share if paper.added else sold * share / (1 + share)
        assert paper.tax == tax.quantize(Decimal(1), ROUND_HALF_UP)
        assert len({item.name for item in paper.items}) == len(paper.items)


def test_everything_that_is_asked_for_stands_on_the_paper():
    for paper in some(80):
        svg = picture(paper, (512, 768), random.Random(1))
        for said in (paper.text(), svg.replace("&amp;", "&")):
            for value in (paper.merchant, paper.number, paper.printed_date, paper.locale.tax_name):
                assert value in said
            for item in paper.items:
                assert item.name in said
                assert paper.locale.amount(item.price) in said
                assert paper.locale.amount(item.amount) in said
            for _, much in paper.sums():
                assert much in said


@pytest.mark.parametrize("tag", receipts.locales())
@given(hundredths=st.integers(0, 10**9))
def test_amounts_are_written_as_the_country_does_and_can_be_read(tag, hundredths):
    locale = receipts.locales()[tag]
    assert Decimal(hundredths) / 100 in read(locale.amount(hundredths))
    assert locale.amount(hundredths) in locale.price(hundredths)


WRITTEN = [
    ("en-US", "$1,234,567.05", "Sales tax 8.25 %", "03/04/2024"),
    ("en-GB", "£1,234,567.05", "VAT 20 %", "04/03/2024"),
    ("de-DE", "1.234.567,05 €", "MwSt 19 %", "04.03.2024"),
    ("de-CH", "CHF 1’234’567.05", "MWST 8.1 %", "04.03.2024"),
    ("fr-FR", "1\u202f234\u202f567,05 €", "TVA 20 %", "04/03/2024"),
    ("sv-SE", "1\u00a0234\u00a0567,05 kr", "Moms 25 %", "2024-03-04"),
    ("it-IT", "€ 1.234.567,05", "IVA 22 %", "04/03/2024"),
]


@pytest.mark.parametrize(("tag", "price", "tax", "day"), WRITTEN)
def test_a_country_writes_its_own_way(tag, price, tax, day):
    locale = receipts.locales()[tag]
    assert locale.price(123_456_705) == price
    assert locale.tax_name == tax
    assert date(2024, 3, 4).strftime(locale.date) == day


def test_the_facts_fit_the_schema_and_the_schema_is_strict():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert unknown_keywords(SCHEMA) == []
    for paper in some():
        assert problems(paper.facts(), SCHEMA) == []
        jsonschema.validate(paper.facts(), SCHEMA)

    def objects(schema):
        if schema["type"] == "object":
            yield schema
            for one in schema["properties"].values():
                yield from objects(one)
        elif schema["type"] == "array":
            yield from objects(schema["items"])

    for one in objects(SCHEMA):  # what OpenAI asks of `strict`
        assert one["additionalProperties"] is False
        assert one["required"] == list(one["properties"])


# -- the check -------------------------------------------------------------------------------------

FACTS = {
    "merchant": "Café de l’Écluse",
    "number": "A-10293",
    "date": "2024-03-04",
    "currency": "EUR",
    "items": [
        {"description": "Jus d’orange", "quantity": 2, "unit_price": 3.5, "amount": 7.0},
        {"description": "Baguette", "quantity": 1, "unit_price": 1.2, "amount": 1.2},
    ],
    "net": 6.83,
    "tax_percent": 20,
    "tax": 1.37,
    "total": 8.2,
}
LEAVES = 16
CHECK = FieldsRight(FACTS, "04/03/2024")


def changed(**fields):
    return json.dumps({**FACTS, **fields}, ensure_ascii=False)


def item(n, **fields):
    items = [dict(one) for one in FACTS["items"]]
    items[n].update(fields)
    return changed(items=items)


def without(name):
    return json.dumps({key: value for key, value in FACTS.items() if key != name})


ANSWERS = [  # name, answer, flaw, fields of 16 that are right
    ("as it is", changed(), None, 16),
    ("pretty", json.dumps(FACTS, indent=2), None, 16),
    ("fields in another order", json.dumps(dict(reversed(FACTS.items()))), None, 16),
    ("fenced", f"```json\n{changed()}\n```", None, 16),
    ("fenced without a language", f"\n```\n{changed()}\n```\n", None, 16),
    ("a whole number", changed(total=8.20, tax_percent=20.0), None, 16),
    ("other case and spaces", changed(merchant="CAFÉ  DE L'ÉCLUSE "), None, 16),
    ("spaces within a number", changed(number="a - 10293"), None, 16),
    ("a date with a time", changed(date="2024-03-04T00:00:00"), None, 16),
    ("the date as printed", changed(date="04/03/2024"), None, 16),
    ("less than a cent off", changed(net=6.8301), None, 16),
    ("a cent off", changed(net=6.84), Flaw.WRONG, 15),
    ("the wrong day", changed(date="2024-04-03"), Flaw.WRONG, 15),
    ("month and day swapped", changed(date="03/04/2024"), Flaw.WRONG, 15),
    ("another shop", changed(merchant="Café"), Flaw.WRONG, 15),
    ("the symbol instead of the code", changed(currency="€"), Flaw.WRONG, 15),
    ("one amount", item(0, amount=7.5), Flaw.WRONG, 15),
    ("a missing item", changed(items=FACTS["items"][:1]), Flaw.WRONG, 12),
    ("items swapped", changed(items=FACTS["items"][::-1]), Flaw.WRONG, 8),
    ("no items", changed(items=[]), Flaw.WRONG, 8),
    ("nothing right", json.dumps({**FACTS, "merchant": "", "number": "", "date": "", "currency": "",
     "items": [], "net": 0, "tax_percent": 0, "tax": 0, "total": 0}), Flaw.WRONG, 0),
    ("infinitely wrong", changed(total=8.2).replace("8.2", "1e999"), Flaw.WRONG, 15),
    ("words around it", f"Here it is: {changed()}", Flaw.INVALID, None),
    ("words behind a fence", f"```json\n{changed()}\n```\nDone.", Flaw.INVALID, None),
    ("cut", changed()[:90], Flaw.INVALID, None),
    ("a number as text", changed(total="8.20"), Flaw.INVALID, None),
    ("a decimal comma", changed().replace("8.2", "8,2"), Flaw.INVALID, None),
    ("NaN", changed(total=float("nan")), Flaw.INVALID, None),
    ("null", changed(tax=None), Flaw.INVALID, None),
    ("half an item", item(0, quantity=0.5), Flaw.INVALID, None),
    ("a field too many", changed(note="x"), Flaw.INVALID, None),
    ("a field missing", without("tax"), Flaw.INVALID, None),
    ("a list", f"[{changed()}]", Flaw.INVALID, None),
    ("true for a number", changed(tax=True), Flaw.INVALID, None),
    ("no JSON", "The total is 8.20.", Flaw.INVALID, None),
    ("nested without end", "[" * 100_000, Flaw.INVALID, None),
    ("a number without end", changed(total=1).replace("1}", "1" * 9_999 + "}"), Flaw.INVALID, None),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "flaw", "right"), [row[1:] for row in ANSWERS],
                         ids=[row[0] for row in ANSWERS])  # fmt: skip
def test_answers(answer, flaw, right):
    found = CHECK(Said(answer))
    assert (found.passed, found.flaw) == (flaw is None, flaw), found
    assert found.score == (None if right is None else pytest.approx(right / LEAVES))
    assert found.passed or found.note


def test_an_item_too_many_counts_its_fields():
    more = changed(items=[*FACTS["items"], FACTS["items"][0]])
    found = CHECK(Said(more))
    assert found.score == pytest.approx(16 / 20)
    assert found.note == "items[2].description: one too many"


def test_what_is_told_of_the_first_field_that_is_wrong():
    assert CHECK(Said(item(1, unit_price=1.3))).note == "items[1].unit_price: not 1.2"
    assert CHECK(Said(without("tax"))).note == "not by the schema: tax: is missing"


def test_a_share_of_the_fields_can_be_enough():
    check = FieldsRight(FACTS, "04/03/2024", 0.9)
    passed = check(Said(changed(net=1)))
    assert (passed.passed, passed.score) == (True, pytest.approx(15 / 16))
    failed = check(Said(changed(net=1, tax=1)))
    assert (failed.passed, failed.flaw) == (False, Flaw.WRONG)


def test_a_cut_answer_is_truncated_and_a_refusal_refused():
    for said, flaw in (
        (Said(changed()[:90], finish_reason="length"), Flaw.TRUNCATED),
        (Said("", finish_reason="stop"), Flaw.EMPTY),
        (Said("", refusal="I cannot read receipts."), Flaw.REFUSED),
    ):
        assert judged(CHECK, said).flaw is flaw


@given(st.text(max_size=200))
def test_any_text_is_judged(text):
    assert CHECK(Said(text)).flaw is Flaw.INVALID


# -- prompts ---------------------------------------------------------------------------------------


def shown(prompt):
    """The text and the image of a prompt."""
    content = prompt.messages[-1]["content"]
    if isinstance(content, str):
        return content, None
    image, words = content
    url = image["image_url"]["url"]
    return words["text"], base64.b64decode(url.removeprefix("data:image/png;base64,"))


def test_forms_and_papers_go_round():
    made = [mixed().prompt(Model(), n) for n in range(8)]
    assert [prompt.variant for prompt in made] == [
        "receipt text", "receipt image", "invoice text", "invoice image",
    ] * 2  # fmt: skip
    for prompt in made:
        text, png = shown(prompt)
        assert (png is not None) == prompt.variant.endswith("image")
        assert png is None or images.size_of(png) == (128, 192)
        facts = json.loads(prompt.right.text)
        assert (facts["merchant"] in text) == (png is None)
        assert says(prompt, prompt.right.text)
        assert not says(prompt, prompt.right.text.replace(facts["date"], "1999-01-01"))


def test_the_schema_travels_in_the_body():
    asked = extract(extra_body={"temperature": 0}).prompt(Model(), 0).extra_body
    assert asked["temperature"] == 0
    assert asked["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "receipt", "strict": True, "schema": SCHEMA},
    }
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **asked}
    parse(json.dumps(body).encode())  # as the simulator takes it


def test_texts_are_never_the_same_and_pictures_differ_in_bytes():
    texts = [shown(extract().prompt(Model(), n))[0] for n in range(100)]
    assert len(set(texts)) == 100
    pngs = [shown(mixed().prompt(Model(), 2 * n + 1))[1] for n in range(60)]
    assert len(set(pngs)) == 60
    countries = {json.loads(extract().prompt(Model(), n).right.text)["currency"] for n in range(99)}
    assert countries == {locale.currency for locale in receipts.locales().values()}


def test_the_same_seed_makes_the_same_requests_in_any_order():
    expected = [mixed().prompt(Model(), n) for n in range(6)]
    again = extract(form="mixed")
    assert [again.prompt(Model(), n) for n in (5, 0, 3)] == [expected[n] for n in (5, 0, 3)]
    assert extract(7).prompt(Model(), 0) != extract(8).prompt(Model(), 0)


@pytest.mark.parametrize("name", ["gpt-4o-mini", "gpt-4", "gemini-1.5-flash", "claude-3-haiku"])
def test_the_simulator_counts_the_same_prompt(name):
    model = resolve(ModelSpec(name=name))
    for n in range(4):
        prompt = mixed().prompt(model, n)
        messages = [dict(message) for message in prompt.messages]
        count = Counter().count(messages, model.encoding, model=model.wire)
        assert prompt.tokens == prompt.asked_tokens == count
        # no one publishes how a schema is written into a prompt
        assert prompt.exact is (name == "gpt-4")


def test_a_plan_is_never_cheaper_than_its_requests():
    for name in ("gpt-4", "gpt-4o"):
        model = resolve(ModelSpec(name=name))
        workload = extract(system="Be exact. " * 9)
        spelled = tokens.count(json.dumps(SCHEMA, separators=(",", ":")), model.encoding)
        most, cap = workload.expected_tokens(model)
        counts = [workload.prompt(model, n).tokens for n in range(200)]
        assert max(counts) <= most
        assert max(counts) > most - spelled - _WORDS + 150
        assert cap == 1024
    pictured, _ = extract(form="image").expected_tokens(Model("gpt-4o"))
    texts, _ = extract().expected_tokens(Model("gpt-4o"))
    assert pictured - texts == image_tokens.cost(128, 192, "high", "gpt-4o").tokens


def test_answers_fit_their_default_cap():
    for paper in some(300):
        facts = json.dumps(paper.facts(), indent=2, ensure_ascii=False)
        assert tokens.count(facts, "cl100k_base") < 1024


def test_caps_go_round_or_are_drawn():
    round_ = extract(output_tokens=(500, 600))
    assert [round_.prompt(Model(), n).max_tokens for n in range(3)] == [500, 600, 500]
    drawn = extract(output_tokens=Uniform(500, 900))
    caps = [drawn.prompt(Model(), n).max_tokens for n in range(200)]
    assert 500 <= min(caps) < 520
    assert 880 < max(caps) <= 900
    assert drawn.expected_tokens(Model())[1] == pytest.approx(700, abs=1)


def test_a_small_window_gets_the_caps_that_fit():
    """As in every other workload: one that is drawn and does not fit is drawn again shorter."""
    workload, model = extract(output_tokens=TABLES["servegen-r1"][1]), Model(context_window=1_600)
    most, cap = workload.expected_tokens(model)
    prompts = [workload.prompt(model, n) for n in range(200)]
    assert max(prompt.max_tokens for prompt in prompts) <= 1_600 - most
    assert len({prompt.max_tokens for prompt in prompts}) > 50
    assert cap == pytest.approx(mean(prompt.max_tokens for prompt in prompts), rel=0.1)
    (line,) = workload.skipped(model)
    assert line.endswith("% of the output caps skipped for m (its window is 1,600 tokens)")
    assert workload.skipped(Model(context_window=200_000)) == ()
    assert not workload.serves(Model(context_window=round(most))), "no room for any answer"


# -- models ----------------------------------------------------------------------------------------


def test_a_model_without_schemas_gets_it_in_the_prompt():
    model = resolve(ModelSpec(name="claude-3-haiku"))
    prompt = extract().prompt(model, 0)
    assert "response_format" not in prompt.extra_body
    assert json.dumps(SCHEMA, separators=(",", ":")) in shown(prompt)[0]
    why = "it takes no response_format: json_schema"
    line = f"extract: the schema is in the prompt for claude-3-haiku ({why})"
    assert extract().skipped(model) == (line,)


def test_a_model_that_sees_nothing_gets_the_texts_alone():
    model = resolve(ModelSpec(name="gpt-3.5-turbo"))
    assert mixed().skipped(model)[0] == (
        "extract: pictures skipped for gpt-3.5-turbo (it takes no images)"
    )
    assert {mixed().prompt(model, n).variant for n in range(4)} == {"receipt text", "invoice text"}
    pictures = extract(form="image")
    assert not pictures.serves(model)
    assert pictures.skipped(model) == ("extract: skipped for gpt-3.5-turbo (it takes no images)",)
    assert pictures.expected_tokens(model) == (0, 0)
    with pytest.raises(ValueError, match="takes none"):
        pictures.prompt(model, 0)


def test_a_window_without_room_is_skipped_and_said_so():
    model = Model(context_window=1_500)
    assert not extract().serves(model)
    assert extract().skipped(model) == ("extract: skipped for m (its window is 1,500 tokens)",)
    assert extract(output_tokens=(300,)).serves(model)


# -- against the simulator -------------------------------------------------------------------------


def test_wrong_answers_fail_every_check():
    """`--wrong-rate` of the simulator: what its Author makes of the right answers."""
    author = Author(1)
    for n in range(20):
        prompt = extract().prompt(Model(), n)
        body = {"model": "m", "messages": prompt.messages, "max_tokens": 1024, **prompt.extra_body}
        request, messages = parse(json.dumps(body).encode())
        for luck, passes in ((None, True), (random.Random(n), False)):
            wish = Wish(prompt.right.text)
            answer = author.answer(request, messages, "o200k_base", n, None, wish, luck)
            found = judged(prompt.check, Said(answer.text, finish_reason=answer.finish))
            assert found.passed is passes, found
            assert passes or found.flaw in (Flaw.WRONG, Flaw.INVALID)


def test_an_answer_by_the_schema_alone_is_wrong_and_not_invalid():
    """What the simulator says to other clients: the form is right, the content is not."""
    prompt = extract().prompt(Model(), 0)
    body = {"model": "m", "messages": prompt.messages, "max_tokens": 1024, **prompt.extra_body}
    request, messages = parse(json.dumps(body).encode())
    answer = Author(1).answer(request, messages, "o200k_base", 5, None)
    found = judged(prompt.check, Said(answer.text, finish_reason=answer.finish))
    assert (found.passed, found.flaw) == (False, Flaw.WRONG)
    assert found.score is not None
    assert found.score < 0.2


# -- settings --------------------------------------------------------------------------------------

SCENARIO = """
version: 1
target: simulator
models: [gpt-4o]
workloads: {{x: {{kind: extract, {0}}}}}
load: [{{phase: measure, requests: 1, arrival: closed, users: 1}}]
"""

HOSTILE = [
    ("form: pdf", "form"),
    ("papers: []", "papers"),
    ("papers: cheque", "is not one of receipt, invoice"),
    ("locales: xx-XX", "'xx-XX' is none of en-US, en-GB"),
    ("locales: [de-DE, 7]", "'7' is none of"),
    ("locales: {a: b}", "is none of"),
    ("pass_score: 0", "pass_score"),
    ("pass_score: 1.5", "pass_score"),
    ("size: 9000x9000", "a side has 128 to 2048 pixels"),
    ("size: 512x512", "size: is about pictures: needs form: image or mixed"),
    ("form: text, detail: low", "detail: is about pictures: needs form: image or mixed"),
    ("extra_body: {response_format: {type: text}}", "response_format is set by kind: extract"),
]


@pytest.mark.parametrize(("setting", "message"), HOSTILE, ids=[row[0] for row in HOSTILE])
def test_hostile_settings_are_one_clear_line(setting, message):
    with pytest.raises(ScenarioError) as caught:
        scenario.parse(SCENARIO.format(setting), "s.yaml")
    said = str(caught.value)
    assert "s.yaml:5" in said
    assert message in said
    assert "\n" not in said


def test_settings_survive_being_written_and_read():
    plan = scenario.parse(SCENARIO.format("locales: [de-DE, fr-FR], papers: receipt, form: mixed"))
    assert plan.workloads["x"].locales == ("de-DE", "fr-FR")
    assert scenario.parse(scenario.to_yaml(plan)) == plan
    assert plan.effective()["workloads"]["x"]["size"] == "768x1024"
    texts = scenario.parse(SCENARIO.format("form: text"))
    assert not {"size", "detail"} & texts.effective()["workloads"]["x"].keys()
    assert scenario.parse(scenario.to_yaml(texts)) == texts


def test_days_are_spread_over_years():
    days = [paper.day for paper in some(300)]
    assert max(days) - min(days) > timedelta(days=900)
