"""What schemas ask for at their edges: bounds, branches that exclude each other, circles, and what is no JSON."""

from __future__ import annotations

import json
import random
from decimal import Decimal
from typing import Any

import jsonschema
import pytest

from acd_core import ContrastiveLM, PromptPair
from acd_core.errors import UsageError
from benchmarks.json_schema_coverage import Bytes
from tests.scripted import ADVERSARIAL, SAFE, ScriptedModel, make_tokenizer

pytest.importorskip("llguidance")
BYTES = Bytes()


def fits(schema: dict[str, Any], text: str) -> bool:
    """Whether the grammar of `schema` lets exactly `text` through."""
    return BYTES.takes(BYTES.grammar.for_schema(schema), text)


HALF_OPEN = {"type": "object", "properties": {"lr": {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}}}


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        (HALF_OPEN, ['{"lr": 0.5}', '{"lr": 0.001}', '{"lr": 0.0000000001}'], ['{"lr": 0}', '{"lr": 0.0}']),
        ({"type": "number", "exclusiveMinimum": 1, "exclusiveMaximum": 1.5}, ["1.000001", "1.25"], ["1", "1.0", "1.5"]),
        ({"exclusiveMinimum": 10, "maximum": 10.5}, ["10.5", "10.1"], ["10", "10.0", "9", "11"]),
        ({"minimum": -1.5, "exclusiveMaximum": -1}, ["-1.5", "-1.25"], ["-1", "-1.0", "-2"]),
        ({"minimum": -0.5, "exclusiveMaximum": 0}, ["-0.5", "-0.1"], ["0", "-0", "-0.0"]),
        ({"minimum": 1, "exclusiveMinimum": True, "maximum": 1.5}, ["1.5"], ["1"]),  # draft 4
        ({"minimum": 1, "exclusiveMinimum": False, "maximum": 1.5}, ["1", "1.5"], ["2"]),
        ({"allOf": [{"exclusiveMinimum": 0}, {"$ref": "#/$defs/m"}], "$defs": {"m": {"maximum": 0.5}}}, ["0.1"], ["0"]),
        ({"allOf": [{"type": "integer"}, {"exclusiveMinimum": 0}, {"maximum": 2}]}, ["1", "2"], ["0", "3"]),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}], "exclusiveMinimum": 0}, ["1", "null"], ["0"]),
        ({"type": "integer", "exclusiveMinimum": 2**53}, [str(2**53 + 2)], [str(2**53)]),
        ({"type": "integer", "minimum": 0, "exclusiveMaximum": 2**64}, ["0", str(2**62)], ["-1"]),
        # llguidance reads the first of these as 0.30000000000000010, and the second as it is.
        ({"type": "number", "minimum": 0, "maximum": 0.30000000000000004}, ["0.3"], ["0.3000000000000001", "1"]),
        ({"type": "number", "exclusiveMinimum": 1e-45}, ["0.1", "5"], ["0", f"{Decimal('1e-45'):f}"]),
    ],
)
def test_bounds_are_held_exactly(schema: dict[str, Any], right: list[str], wrong: list[str]) -> None:
    assert [text for text in right if fits(schema, text)] == right
    assert [text for text in wrong if fits(schema, text)] == []


def test_random_bounds_let_no_number_through_that_the_schema_does_not() -> None:
    drawn = random.Random(11)
    for _ in range(100):
        low = drawn.choice([-10, -2, -1.5, -1, -0.25, 0, 0.05, 0.5, 1, 1.25, 3, 9.99, 10])
        high = round(low + drawn.choice([0.01, 0.05, 0.25, 0.5, 0.75, 1, 1.5, 9]), 2)
        high = int(high) if high == int(high) else high
        lower = drawn.choice([{"minimum": low}, {"exclusiveMinimum": low}, {"minimum": -3, "exclusiveMinimum": low}])
        upper = drawn.choice([{}, {"maximum": high}, {"exclusiveMaximum": high}])
        schema = {"type": drawn.choice(["number", "number", "integer"]), **lower, **upper}
        if drawn.random() < 0.3:
            schema = {"allOf": [{"$ref": "#/$defs/low"}, {"type": schema["type"], **upper}], "$defs": {"low": lower}}
        near = {Decimal(str(edge)) + Decimal(step) for edge in (low, high, 0) for step in ("0", "0.01", "-0.01", "1")}
        oracle = jsonschema.Draft202012Validator(schema)
        try:
            spec = BYTES.grammar.for_schema(schema)
        except UsageError:  # nothing between, and that is said
            assert not any(oracle.is_valid(float(number)) for number in near)
            continue
        for number in near:
            plain = f"{number.normalize():f}"
            spelled = {plain, f"{plain}0" if "." in plain else f"{plain}.0", "-0" if not number else plain}
            for text in spelled:
                assert not BYTES.takes(spec, text) or oracle.is_valid(json.loads(text)), (schema, text)
            if number == number.to_integral_value() and number:
                assert BYTES.takes(spec, plain) == oracle.is_valid(int(number)), (schema, plain)


KIND = {"propertyName": "kind"}
CAT = {"type": "object", "properties": {"kind": {"const": "cat"}}}
DOG = {"type": "object", "properties": {"kind": {"const": "dog"}, "y": {"type": "integer"}}}
BLACK = {"type": "object", "properties": {"kind": {"const": "cat"}, "color": {"const": "black"}}}
WHITE = {"type": "object", "properties": {"kind": {"const": "cat"}, "color": {"const": "white"}}}
CAT_OR_DOG = {"oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}]}


@pytest.mark.parametrize(
    "schema",
    [
        {"oneOf": [{"type": "string"}, {"const": ""}]},
        {"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 0}]},
        {"oneOf": [{"type": "array", "items": {"type": "boolean"}}, {"const": []}]},
        {"oneOf": [{"type": "array", "items": {"type": "boolean"}}, {"type": "array", "maxItems": 0}]},
        # A tag that one branch does not know tells nothing apart: {} and {"x": 1} fit both.
        {
            "oneOf": [CAT, {"properties": {"x": {"type": "integer"}}, "additionalProperties": False}],
            "discriminator": KIND,
        },
        {"oneOf": [CAT, CAT], "discriminator": KIND},
        # The tag of one union is not the tag of another that has none.
        {
            "properties": {"u": {**CAT_OR_DOG, "discriminator": KIND}, "v": CAT_OR_DOG},
            "$defs": {"cat": CAT, "dog": DOG},
        },
        {
            "oneOf": ({"properties": {"a": {}}, "required": ["a"]}, {"properties": {"b": {}}})
        },  # no list, the same choice
    ],
)
def test_branches_that_may_both_fit_are_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"oneOf \(branches 0 and 1 may both fit\)"):
        BYTES.grammar.for_schema(schema)


def test_empty_values_tell_branches_apart() -> None:
    words = {"oneOf": [{"type": "string", "minLength": 1, "maxLength": 3}, {"const": ""}]}
    assert [fits(words, text) for text in ('""', '"a"', '"abcd"')] == [True, True, False]
    lists = {"oneOf": [{"type": "array", "items": {"type": "boolean"}, "minItems": 1}, {"const": []}]}
    assert [fits(lists, text) for text in ("[]", "[true]", "[1]")] == [True, True, False]
    zero = {"oneOf": [{"type": "number", "exclusiveMinimum": 0}, {"const": 0}]}
    assert [fits(zero, text) for text in ("0", "0.5", "-1")] == [True, True, False]


def test_a_tag_is_required_in_its_union_only() -> None:
    both = {
        "properties": {"u": {**CAT_OR_DOG, "discriminator": KIND}, "v": {"$ref": "#/$defs/cat"}},
        "$defs": {"cat": CAT, "dog": DOG},
    }
    assert fits(both, '{"u": {"kind": "dog", "y": 1}, "v": {}}')
    assert not fits(both, '{"u": {}, "v": {}}')


@pytest.mark.parametrize("named", [False, True])
def test_a_tagged_union_within_a_tagged_union(named: bool) -> None:
    cats = {"oneOf": [{"$ref": "#/$defs/black"}, {"$ref": "#/$defs/white"}], "discriminator": {"propertyName": "color"}}
    schema = {
        "oneOf": [{"$ref": "#/$defs/cats"} if named else cats, {"$ref": "#/$defs/dog"}],
        "discriminator": KIND,
        "$defs": {"black": BLACK, "white": WHITE, "dog": DOG, "cats": cats},
    }
    assert fits(schema, '{"kind": "cat", "color": "white"}')
    assert fits(schema, '{"kind": "dog"}')
    for text in ("{}", '{"kind": "cat"}', '{"color": "white"}', '{"kind": "dog", "color": "white"}'):
        assert not fits(schema, text)


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"$ref": "#"}, "refers to itself"),
        ({"allOf": [{"$ref": "#"}]}, "refers to itself"),
        ({"anyOf": [{"type": "null"}, {"$ref": "#"}]}, "refers to itself"),
        ({"properties": {"a": {"$ref": "#/properties/a"}}}, r"refers to itself.*#/properties/a"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, "refers to itself"),
        ({"$anchor": "here", "items": {"$ref": "#there", "$anchor": "there"}}, "refers to itself"),
        ({"$dynamicAnchor": "here", "$dynamicRef": "#here"}, "refers to itself"),
        ({"$id": "https://x.org/y", "items": {"$id": "z", "$ref": "https://x.org/z"}}, "refers to itself"),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "without end"),
        ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "without end"),
        ({"prefixItems": [{}, {"$ref": "#"}], "minItems": 2, "type": "array"}, "without end"),
    ],
)
def test_circles_that_no_reply_comes_out_of_are_refused(schema: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        BYTES.grammar.for_schema(schema)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "array", "items": {"$ref": "#"}}, "[[], [[]]]"),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}}, '{"a": {"a": {}}}'),
        ({"prefixItems": [{}, {"$ref": "#"}], "minItems": 1, "type": "array"}, "[1, [2]]"),
        (
            {"type": "object", "properties": {"a": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["a"]},
            '{"a": {"a": null}}',
        ),
    ],
)
def test_circles_with_a_way_out_are_kept(schema: dict[str, Any], text: str) -> None:
    assert fits(schema, text)


def test_empty_classes_of_patterns() -> None:
    either = {"type": "string", "pattern": "^(?:[]|b[^])$"}
    assert [fits(either, text) for text in ('"b]"', '"bx"', '"b\\n"', '"]"', '"b"')] == [True, True, True, False, False]
    for nothing in ("^[]a]$", "^[]$", "a[]"):
        with pytest.raises(UsageError, match="empty"):
            BYTES.grammar.for_schema({"type": "string", "pattern": nothing})


@pytest.mark.parametrize(
    "schema",
    [{"enum": {1, 2}}, {"const": float("nan")}, {"const": {"a": object()}}, {"default": b"x"}, {"maximum": 1j}],
)
def test_a_schema_that_is_no_json(schema: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="cannot be written as JSON"):
        BYTES.grammar.for_schema(schema)
    with pytest.raises(UsageError, match="cannot be written as JSON"):
        BYTES.grammar.for_tools([{"function": {"name": "f", "parameters": {"properties": {"x": schema}}}}])


def test_what_is_no_json_is_said_at_the_front_door() -> None:
    tokenizer = make_tokenizer()
    model = ScriptedModel(tokenizer, lambda _: "Well.")
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"x": {"enum": {1, 2}}}}}}
    strict = {**tool, "function": {**tool["function"], "strict": True}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": {1, 2}}}}
    with ContrastiveLM.from_model(model, tokenizer, PromptPair.from_texts(SAFE, ADVERSARIAL)) as lm:
        asked: list[dict[str, Any]] = [
            {"response_format": form},
            {"response_format": {"type": "json_object"}, "tools": [tool]},
            {"tools": [tool]},
            {"tools": [strict]},
            {"tools": [tool], "tool_choice": "required"},
        ]
        for settings in asked:
            with pytest.raises(UsageError, match="cannot be written as JSON"):
                lm.generate("x", **settings)
        # Variables of a template are no JSON by need, and may name things by other than strings.
        choice = {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"}
        lm.generate("x", **choice, chat_template_kwargs={"of": {1: 2, "a": 3}}, max_tokens=1)
