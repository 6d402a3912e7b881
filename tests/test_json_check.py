"""Our schema check against known answers, and against the reference implementation."""

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadlib.json_check import MAX_PROBLEMS, problems, unknown_keywords

ORDER = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "pattern": "^A-[0-9]{3}$"},
        "items": {
            "type": "array",
            "minItems": 1,
            "maxItems": 3,
            "uniqueItems": True,
            "items": {"$ref": "#/$defs/item"},
        },
        "due": {"type": ["string", "null"], "format": "date"},
    },
    "required": ["id", "items"],
    "additionalProperties": False,
    "$defs": {
        "item": {
            "type": "object",
            "properties": {
                "sku": {"type": "string", "minLength": 1},
                "count": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["sku"],
        }
    },
}

TREE = {"type": "array", "items": {"$ref": "#"}}

KNOWN = [
    ({"id": "A-123", "items": [{"sku": "x", "count": 2}]}, ORDER, [], "fits"),
    ({"id": "A-123", "items": [{"sku": "x"}], "due": None}, ORDER, [], "null where it may be"),
    ([], ORDER, ["value: [] is not of type object"], "another type"),
    ({"id": "A-123"}, ORDER, ["items: is missing"], "required"),
    (
        {"id": "B-123", "items": [{"sku": "x"}]},
        ORDER,
        ['id: "B-123" does not match ^A-[0-9]{3}$'],
        "pattern",
    ),
    (
        {"id": "A-123", "items": [{"sku": "", "count": 10}]},
        ORDER,
        ['items[0].sku: "" is less than 1 long', "items[0].count: 10 is more than 9"],
        "deep inside, through a reference",
    ),
    (
        {"id": "A-123", "items": [{"sku": "x"}], "hint\x1b[31m": 1},
        ORDER,
        ['"hint\\u001b[31m": no such field'],
        "an invented field, harmless to a terminal",
    ),
    ({"id": "A-123", "items": []}, ORDER, ["items: [] is less than 1 long"], "too few"),
    (
        {"id": "A-123", "items": [{"sku": "x"}, {"sku": "x"}]},
        ORDER,
        ['items: {"sku": "x"} is there twice'],
        "unique",
    ),
    (
        {"id": "A-123", "items": [{"sku": "x"}], "due": "2026-02-30"},
        ORDER,
        ['due: "2026-02-30" is no date'],
        "February has 28 days",
    ),
    (True, {"type": "integer"}, ["value: true is not of type integer"], "true is no number"),
    (2.0, {"type": "integer"}, [], "2.0 is an integer, says the standard"),
    (1, {"enum": [True, "a"]}, ['value: 1 is none of true, "a"'], "1 is not true"),
    (0.07, {"multipleOf": 0.01}, [], "as people count, not as binary fractions do"),
    (0.075, {"multipleOf": 0.01}, ["value: 0.075 is no multiple of 0.01"], "half a cent"),
    (3, {"exclusiveMaximum": 3}, ["value: 3 is not less than 3"], "exclusive"),
    ("x", {"anyOf": [{"type": "integer"}, {"const": "y"}]},
     ["value: fits none of 2 choices, not one"], "no choice fits"),
    (4, {"oneOf": [{"minimum": 1}, {"maximum": 9}]},
     ["value: fits 2 of 2 choices, not exactly one"], "both fit"),
    ({"a": 1}, {"additionalProperties": {"type": "string"}},
     ["a: 1 is not of type string"], "further fields have a schema"),
    ("2026-07-01T09:30:00Z", {"format": "date-time"}, [], "UTC"),
    ("2026-07-01T09:30", {"format": "date-time"},
     ['value: "2026-07-01T09:30" is no date-time'], "RFC 3339 wants seconds and a zone"),
    ("a@b", {"format": "email"}, [], "as much as can be said of an address"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "schema", "expected", "why"), KNOWN)
def test_known_answers(value, schema, expected, why):
    assert problems(value, schema) == expected, why
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    judge = jsonschema.Draft202012Validator(schema, format_checker=checker)
    if "format" not in schema and "multipleOf" not in schema:  # optional parts of the standard
        assert judge.is_valid(value) == (not expected), why


def test_what_a_model_may_send_ends():
    deep = []
    for _ in range(500):
        deep = [deep]
    assert "nested too deeply" in problems(deep, TREE)[0]
    knot = {"anyOf": [{"$ref": "#"}, {"allOf": [{"$ref": "#"}, {"$ref": "#"}]}]}
    assert problems(1, knot) != []
    many = problems(["x"] * 1000, {"items": {"type": "integer"}})
    assert len(many) == MAX_PROBLEMS
    assert len(problems("y" * 10**6, {"const": "x"})[0]) < 100
    assert problems(10**400, {"multipleOf": 0.5}) != []


def test_a_schema_that_asks_for_more_is_refused_by_name():
    wanted = {"properties": {"a": {"items": {"contains": 1}}}, "format": "hostname", "not": {}}
    assert unknown_keywords(wanted) == ["contains", "format: hostname", "not"]
    assert unknown_keywords({"type": "text"}) == ["type: text"]
    assert unknown_keywords(ORDER) == []
    with pytest.raises(ValueError, match="contains"):
        problems([1], {"contains": {}})
    with pytest.raises(ValueError, match=r"#/\$defs/gone"):
        problems([1], {"$ref": "#/$defs/gone"})


numbers = st.integers(-5, 5) | st.sampled_from([0.5, 2.0])
texts = st.text("ab1", max_size=4)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
leaves = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(
            ["object", "array", "string", "number", "integer", "boolean", "null", ["null", "array"]]
        ),
        "enum": st.lists(values, min_size=1, max_size=3),
        "minimum": numbers,
        "exclusiveMaximum": numbers,
        "minLength": st.integers(0, 3),
        "maxItems": st.integers(0, 2),
        "uniqueItems": st.booleans(),
        "pattern": st.sampled_from(["^a", "1", "b$"]),
    },
)
schemas = st.recursive(
    leaves,
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "properties": st.dictionaries(texts, inner, max_size=3),
            "required": st.lists(texts, max_size=2, unique=True),
            "additionalProperties": inner | st.booleans(),
            "items": inner,
            "anyOf": st.lists(inner, min_size=1, max_size=2),
            "oneOf": st.lists(inner, min_size=1, max_size=2),
            "allOf": st.lists(inner, min_size=1, max_size=2),
        },
    ),
    max_leaves=5,
)


@settings(max_examples=120, deadline=None)
@given(value=values, schema=schemas)
def test_agrees_with_the_reference_implementation(value, schema):
    assert (problems(value, schema) == []) == jsonschema.Draft202012Validator(schema).is_valid(
        value
    )
