"""Forced formats: whatever a model wants to say, what it can say fits the format."""

from __future__ import annotations

import json
import sys
from typing import Any

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acd_core.errors import EngineError, MissingExtraError, UsageError
from acd_core.grammar.compiled import GrammarSpec
from acd_core.grammar.compiler import Grammar
from acd_core.grammar.schemas import closed
from acd_core.toolcalls import ToolCallFormat, ToolCallReader, response_template_for, special_tokens
from tests.scripted import HERMES, make_tokenizer

TOKENIZER = make_tokenizer(HERMES)
WIDTH = len(TOKENIZER) + 40  # models pad their vocabulary
EOS = (TOKENIZER.convert_tokens_to_ids("<|im_end|>"), TOKENIZER.convert_tokens_to_ids("<|eot_id|>"))
GRAMMAR = Grammar(TOKENIZER, WIDTH, EOS)
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}},
                "required": ["a", "b"],
            },
        },
    },
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "maxItems": 3},
        "boss": {"anyOf": [{"type": "null"}, {"type": "object", "properties": {"ok": {"type": "boolean"}}}]},
    },
    "required": ["name", "age"],
    "$defs": {"tag": {"enum": ["a", "b"]}},
}


def decode(spec: GrammarSpec, seed: int, wish: float = 1.0, limit: int = 400) -> tuple[str, bool]:
    """Random scores under the mask, as an engine would sample them. (text without EOS, ended)."""
    generator = torch.Generator().manual_seed(seed)
    # Random scores never close a string; leaning to the end of things keeps the run short.
    lean = torch.zeros(WIDTH)
    for letter in '"}]':
        lean[TOKENIZER.convert_tokens_to_ids(letter)] = 4.0 * wish
    matcher, ids = spec.matcher(), []
    for _ in range(limit):
        scores = matcher.mask(torch.randn(WIDTH, generator=generator) + lean)
        token = int(torch.multinomial(torch.softmax(scores, -1), 1, generator=generator))
        matcher.consume(token)
        if token in EOS:
            return TOKENIZER.decode(ids), True
        ids.append(token)
        if matcher.finished:
            return TOKENIZER.decode(ids), True
    return TOKENIZER.decode(ids), False


def feed(matcher: Any, text: str) -> None:
    for token in TOKENIZER.encode(text, add_special_tokens=False):
        assert matcher.mask(torch.zeros(WIDTH))[token] == 0, f"{text!r} does not fit"
        matcher.consume(token)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31))
def test_random_scores_give_json_that_fits_the_schema(seed: int) -> None:
    text, ended = decode(GRAMMAR.for_schema(PERSON), seed)
    assert ended
    jsonschema.validate(json.loads(text), closed(PERSON))


JSON_SCHEMAS = st.recursive(
    st.one_of(
        st.just({"type": "boolean"}),
        st.just({"type": "null"}),
        st.builds(lambda n: {"type": "integer", "minimum": n, "maximum": n + 20}, st.integers(-30, 30)),
        st.builds(lambda n: {"type": "string", "maxLength": n}, st.integers(0, 4)),
        st.builds(lambda v: {"enum": v}, st.lists(st.text('ab<"\\é', max_size=4), min_size=1, max_size=3)),
        st.builds(lambda v: {"const": v}, st.one_of(st.integers(-(2**53), 2**53), st.text(max_size=4))),
    ),
    lambda inner: st.one_of(
        st.builds(lambda s: {"type": "array", "items": s, "maxItems": 2}, inner),
        st.builds(lambda a: {"anyOf": a}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(
            lambda p, r: {"type": "object", "properties": p, "required": sorted(p)[:r]},
            st.dictionaries(st.text("abc_ ", min_size=1, max_size=3), inner, max_size=3),
            st.integers(0, 3),
        ),
    ),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None)
@given(JSON_SCHEMAS, st.integers(0, 2**31))
def test_any_schema_is_kept(schema: dict[str, Any], seed: int) -> None:
    text, ended = decode(GRAMMAR.for_schema(schema), seed)
    assert ended
    jsonschema.validate(json.loads(text), closed(schema))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31))
def test_json_object(seed: int) -> None:
    text, ended = decode(GRAMMAR.for_json_object(), seed)
    assert not ended or isinstance(json.loads(text), dict)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["required", "add", "now"]), st.booleans())
def test_forced_calls_are_calls_of_the_tools(seed: int, choice: str, parallel: bool) -> None:
    text, ended = decode(GRAMMAR.for_tools(TOOLS, choice, parallel=parallel), seed)
    assert ended
    reader = ToolCallReader(TOKENIZER, "", TOOLS, response_template_for(TOKENIZER))
    reader.feed(text)
    _, reply = reader.finish()
    assert reply.text == ""
    assert not reply.invalid_tool_calls
    assert len(reply.tool_calls) >= 1 if parallel else len(reply.tool_calls) == 1
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}
    for call in reply.tool_calls:
        assert choice in ("required", call.name)
        jsonschema.validate(call.arguments, closed(schemas[call.name]))


def test_a_single_call_is_finished_with_its_closing_mark() -> None:
    matcher = GRAMMAR.for_tools(TOOLS, "now").matcher()
    feed(matcher, '<tool_call>\n{"name": "now", "arguments": {}}\n')
    assert not matcher.finished
    feed(matcher, "</tool_call>")
    assert matcher.finished


def test_other_ways_of_writing_calls() -> None:
    wire = ToolCallFormat('[TOOL_CALLS] [{"name": "', '", "arguments": ', "}]", '}, {"name": "')
    matcher = GRAMMAR.for_tools(TOOLS, "required", parallel=True, wire=wire).matcher()
    feed(matcher, '[TOOL_CALLS] [{"name": "now", "arguments": {}}, {"name": "add", "arguments": {"a": 1, "b": "x"}}]')
    assert matcher.finished


def test_an_agent_may_call_a_tool_or_answer_in_the_schema() -> None:
    spec = GRAMMAR.for_schema(PERSON, tools=TOOLS)
    answer, calling = spec.matcher(), spec.matcher()
    feed(answer, '{"name": "x", "age": 3}')
    assert answer.finished
    feed(calling, '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>')
    assert calling.finished
    with pytest.raises(UsageError, match=r"JSON schema.*uniqueItems"):
        GRAMMAR.for_schema({"type": "array", "uniqueItems": True}, tools=TOOLS)


def test_auto_is_free_until_a_call_opens_and_after_it_closed() -> None:
    matcher = GRAMMAR.for_tools(TOOLS, "auto", parallel=True).matcher()
    free = torch.randn(WIDTH)
    assert torch.equal(matcher.mask(free), free)
    feed(matcher, "Well: <tool_call>")
    assert int(torch.isfinite(matcher.mask(free)).sum()) < 5
    feed(matcher, '\n{"name": "now", "arguments": {}}\n</tool_call>')
    assert torch.equal(matcher.mask(free), free)
    assert not matcher.finished
    feed(matcher, 'More.<tool_call>\n{"name": "a')
    assert TOKENIZER.decode([int(matcher.mask(free).argmax())]) == "d"


def test_a_value_that_spells_a_control_token_is_written_as_text() -> None:
    matcher = GRAMMAR.for_schema({"const": f"a{TOKENIZER.eos_token}<tool_call>b"}).matcher()
    said: list[int] = []
    while not matcher.finished:
        said.append(int(matcher.mask(torch.zeros(WIDTH)).argmax()))
        matcher.consume(said[-1])
    assert not set(said) & set(special_tokens(TOKENIZER))
    assert json.loads(TOKENIZER.decode(said)) == f"a{TOKENIZER.eos_token}<tool_call>b"


def test_auto_for_one_call_ends_with_it() -> None:
    matcher = GRAMMAR.for_tools(TOOLS, "auto").matcher()
    feed(matcher, 'Well: <tool_call>\n{"name": "now", "arguments": {}}\n')
    assert not matcher.finished
    copy = matcher.deep_copy()
    feed(matcher, "</tool_call>")
    assert matcher.finished
    feed(copy, "</tool_call>")
    assert copy.finished


def test_auto_with_calls_in_a_list() -> None:
    wire = ToolCallFormat('[TOOL_CALLS] [{"name": "', '", "arguments": ', "}]", '}, {"name": "')
    call, free = '{"name": "now", "arguments": {}}', torch.randn(WIDTH)
    matcher = GRAMMAR.for_tools(TOOLS, "auto", parallel=True, wire=wire).matcher()
    feed(matcher, f"Well: [TOOL_CALLS] [{call}, {call}]")
    assert torch.equal(matcher.mask(free), free)
    alone = GRAMMAR.for_tools(TOOLS, "auto", wire=wire).matcher()
    feed(alone, f"[TOOL_CALLS] [{call}")
    assert TOKENIZER.decode([int(alone.mask(free).argmax())]) == "]"


def test_auto_without_a_token_to_wait_for() -> None:
    with pytest.raises(UsageError, match="token of their own"):
        GRAMMAR.for_tools(TOOLS, "auto", wire=ToolCallFormat('{"name": "', '", "parameters": ', "}"))


def test_the_mask_only_removes_and_every_end_token_counts() -> None:
    matcher = GRAMMAR.for_schema({"type": "integer"}).matcher()
    feed(matcher, "12")
    scores = torch.randn(WIDTH, dtype=torch.float32)
    before = scores.clone()
    masked = matcher.mask(scores)
    assert torch.equal(scores, before)
    allowed = torch.isfinite(masked)
    assert torch.equal(masked[allowed], scores[allowed])
    digits = {TOKENIZER.convert_tokens_to_ids(str(n)) for n in range(10)}
    assert set(allowed.nonzero().flatten().tolist()) == {*digits, *EOS}
    assert not matcher.finished
    matcher.consume(EOS[1])
    assert matcher.finished


def test_whitespace_has_one_form() -> None:
    matcher = GRAMMAR.for_schema(PERSON).matcher()
    feed(matcher, '{"name": "x", "age": 3')
    allowed = matcher.mask(torch.zeros(WIDTH))
    assert not torch.isfinite(allowed[TOKENIZER.convert_tokens_to_ids("Ġ")])
    assert not torch.isfinite(allowed[TOKENIZER.convert_tokens_to_ids("Ċ")])


def test_a_copy_goes_its_own_way() -> None:
    matcher = GRAMMAR.for_schema({"enum": ["ab", "ac"]}).matcher()
    feed(matcher, '"a')
    copy = matcher.deep_copy()
    feed(copy, 'b"')
    feed(matcher, 'c"')
    assert copy.finished
    assert matcher.finished


@pytest.mark.parametrize(
    ("schema", "name"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "string"}}, "not"),
        ({"if": {}, "then": {}}, "if, then"),
        ({"type": "object", "properties": {"a": {"type": "array", "contains": {}}}}, "contains"),
        ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
        ({"type": "string", "format": "regex"}, "regex"),
        ({"type": "string", "pattern": "^(?!no)"}, r"pattern.*\(\?!no\).*look-around"),
        ({"type": "string", "pattern": r"(a)\1"}, "pattern.*backreference"),
        ({"type": "word"}, "word"),
        ({"$ref": "#/$defs/nothing"}, "nothing"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "minLength"),
    ],
)
def test_what_cannot_be_enforced_is_refused_by_name(schema: dict[str, Any], name: str) -> None:
    with pytest.raises(UsageError, match=name):
        GRAMMAR.for_schema(schema)
    function = {"name": "f", "parameters": {"type": "object", "properties": {"x": schema}, "required": ["x"]}}
    with pytest.raises(UsageError, match="schema of the tool 'f'"):
        GRAMMAR.for_tools([*TOOLS, {"type": "function", "function": function}])


def fits(schema: dict[str, Any], text: str) -> bool:
    """Whether the grammar of `schema` lets exactly `text` through."""
    matcher = GRAMMAR.for_schema(schema).matcher()
    for token in TOKENIZER.encode(text, add_special_tokens=False):
        if matcher.finished or matcher.mask(torch.zeros(WIDTH))[token] != 0:
            return False
        matcher.consume(token)
    return matcher.finished or bool(matcher.mask(torch.zeros(WIDTH))[EOS[0]] == 0)


OF_TWO = {"type": "object", "required": ["a", "b"], "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
ANY_NAMES = {"type": "object", "additionalProperties": {"type": "integer"}}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "array", "items": {"type": "integer"}, "uniqueItems": False}, [1, 1]),
        ({"type": "array", "uniqueItems": True, "maxItems": 1}, [7]),
        ({"type": "array", "minContains": 2, "maxContains": 3}, []),
        ({"type": "array", "contains": {"type": "null"}, "minContains": 0}, [1]),
        ({"type": "array", "unevaluatedItems": True}, [None]),
        ({"type": "string", "uniqueItems": True, "propertyNames": {"pattern": "x"}}, "no array, no object"),
        ({"type": "string", "format": "nonsense"}, "any text"),
        ({"type": "integer", "format": "regex"}, 5),
        ({"type": "object", "minProperties": 0, "required": []}, {}),
        ({**ANY_NAMES, "propertyNames": {"type": "string"}}, {"x": 1}),
        ({**ANY_NAMES, "dependentRequired": {"a": []}, "dependentSchemas": {"a": True}, "dependencies": {}}, {"a": 1}),
        ({**OF_TWO, "minProperties": 2, "dependentRequired": {"a": ["b"]}}, {"a": 1, "b": 2}),
        ({**OF_TWO, "unevaluatedProperties": False}, {"a": 1, "b": 2}),
        ({"type": "integer", "not": False, "then": {"minimum": 9}, "$comment": "c", "deprecated": True}, 3),
        ({"type": "integer", "readOnly": True, "contentMediaType": "text/html", "x-order": {"not": {}}}, 3),
        ({"type": "integer", "$schema": "https://example.org/a-dialect", "$dynamicAnchor": "here"}, 3),
        ({"type": "integer", "$defs": {"never used": {"not": {}, "oneOf": [{}, {}]}}}, 3),
        ({"type": "array", "minItems": 1.0, "maxItems": 2.0}, [1, 2]),
        ({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a", "b"]}, {"a": 1, "b": "x"}),
    ],
)
def test_what_asks_for_nothing_is_not_refused(schema: dict[str, Any], value: Any) -> None:
    assert fits(schema, json.dumps(value))


CATS: dict[str, Any] = {
    "oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}],
    "discriminator": {"propertyName": "kind"},
    "$defs": {
        "cat": {
            "type": "object",
            "properties": {"kind": {"const": "cat", "default": "cat"}, "friend": {"$ref": "#/$defs/pet"}},
        },
        "dog": {"type": "object", "properties": {"kind": {"const": "dog"}}, "required": ["kind"]},
        "pet": {"oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}], "discriminator": {"propertyName": "kind"}},
    },
}
PARTS = {
    "properties": {"b": {"type": "null"}},
    "$ref": "#/$defs/a",
    "$defs": {"a": {"properties": {"a": {"const": 1}}}},
}
BESIDE = {"properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "null"}}


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"type": "string", "format": "date"}, '"2024-02-29"', '"2023-02-29"'),
        ({"type": "string", "format": "time", "pattern": "Z$"}, '"23:59:59Z"', '"23:59:60Z"'),
        ({"type": "string", "format": "uri-reference"}, '"../a?b#c"', '"a b"'),
        ({"type": "string", "format": "json-pointer"}, '"/a~1b"', '"a"'),
        ({"type": "string", "pattern": "^.$"}, '"x"', '"\\r"'),
        ({"type": "string", "pattern": r"^\S$"}, '"x"', '"\ufeff"'),
        ({"type": "string", "pattern": "^[a&&b[]$"}, '"&"', '"c"'),
        ({"type": "string", "pattern": r"^[\w-.]+[a-c-9]$"}, '"x.-"', '"x.8"'),
        ({"prefixItems": [{"type": "integer"}], "additionalItems": False}, '[1, "x"]', '["x"]'),
        (BESIDE, '{"a": 1, "b": null}', '{"a": 1, "\\u0061": null}'),
        ({**ANY_NAMES, "propertyNames": {"enum": ["x", "y"]}}, '{"y": 1}', '{"z": 1}'),
        ({"propertyNames": {"$ref": "#/$defs/e"}, "$defs": {"e": {"enum": [1, "x"]}}}, '{"x": 2}', '{"1": 2}'),
        ({**ANY_NAMES, "propertyNames": {"pattern": "^x"}}, '{"xy": 1}', '{"y": 1}'),
        ({"oneOf": [{"type": "integer", "maximum": 3}, {"minimum": 5, "type": "number"}]}, "5.5", "4"),
        (CATS, '{"kind": "cat", "friend": {"kind": "dog"}}', '{"friend": {"kind": "dog"}}'),
        (PARTS, '{"b": null, "a": 1}', '{"b": null, "a": 2}'),
        ({"$ref": "#/components/x", "components": {"x": {"properties": {"a": {}}}}}, '{"a": 1}', '{"b": 1}'),
        ({"type": "object", "unevaluatedProperties": {"type": "null"}}, '{"a": null}', '{"a": 1}'),
    ],
)
def test_what_llguidance_reads_otherwise_is_rewritten(schema: dict[str, Any], right: str, wrong: str) -> None:
    assert fits(schema, right)
    assert not fits(schema, wrong)


@pytest.mark.parametrize(
    ("schema", "name"),
    [
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        # Closed, the second branch would exclude the first; as it was given, {"a": 1} fits both.
        ({"oneOf": [{"properties": {"a": {}}, "required": ["a"]}, {"properties": {"b": {}}}]}, "oneOf"),
        ({**ANY_NAMES, "minProperties": 2}, "minProperties 2"),
        ({"allOf": [{"multipleOf": 65537}, {"multipleOf": 65539}]}, "multipleOf"),
        ({"properties": {"default": {"const": 2**53 + 1}}}, "last digit"),
        ({"properties": {"a\x01": {}}, "additionalProperties": True}, "control character"),
        ({"$schema": "http://json-schema.org/draft-03/schema#", "divisibleBy": 2}, "draft-03"),
        ({"prefixItems": [{}], "items": [{"type": "null"}]}, "prefixItems"),
        ({"propertyNames": {"format": "ipv4"}}, "propertyNames"),
    ],
)
def test_what_would_be_loosened_is_refused(schema: dict[str, Any], name: str) -> None:
    with pytest.raises(UsageError, match=name):
        GRAMMAR.for_schema(schema)


def test_arguments_of_a_call_are_an_object() -> None:
    with pytest.raises(UsageError, match=r"schema of the tool 'f' allows no object"):
        GRAMMAR.for_tools([{"function": {"name": "f", "parameters": {"type": "array"}}}])
    matcher = GRAMMAR.for_tools([{"function": {"name": "f", "parameters": {"description": "Anything."}}}]).matcher()
    feed(matcher, '<tool_call>\n{"name": "f", "arguments": {"a": [1]}}\n</tool_call>')
    assert matcher.finished


def test_numbers_that_llguidance_would_round_are_refused() -> None:
    GRAMMAR.for_schema({"type": "integer", "minimum": -(2**40), "default": 2**53 + 1})
    assert fits({"enum": [0.1, -2.5, 1e-7]}, "-2.5")
    for schema in (
        {"const": 2**53 + 1},
        {"properties": {"a": {"enum": ["x", 2**63 - 1]}}},
        {"const": 10**400},
        {"const": {"a": [0.30000000000000004]}},
    ):
        with pytest.raises(UsageError, match="last digit"):
            GRAMMAR.for_schema(schema)


def test_misuse_is_said() -> None:
    with pytest.raises(UsageError, match="no tools"):
        GRAMMAR.for_tools([])
    with pytest.raises(UsageError, match=r"'sub'.*add, now"):
        GRAMMAR.for_tools(TOOLS, "sub")
    with pytest.raises(UsageError, match="tool name"):
        GRAMMAR.for_tools([{"function": {"name": 'x", "arguments": {}}</tool_call>'}}])
    with pytest.raises(UsageError, match="dict"):
        GRAMMAR.for_schema([])  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="scores"):
        GRAMMAR.for_json_object().matcher().mask(torch.zeros(3))
    with pytest.raises(EngineError, match="grammar") as failure:
        GRAMMAR.for_json_object().matcher().consume(TOKENIZER.convert_tokens_to_ids("x"))
    assert "\n" not in str(failure.value)


def test_objects_are_closed_where_that_keeps_the_meaning() -> None:
    one = {"type": "object", "properties": {"a": {}}}
    assert closed(one)["additionalProperties"] is False
    assert closed({**one, "additionalProperties": {"type": "string"}})["additionalProperties"] == {"type": "string"}
    assert "additionalProperties" not in closed({"type": "object"})
    both = {"allOf": [one, {"$ref": "#/$defs/b"}], "$defs": {"b": {"properties": {"b": {}}}, "c": one}}
    shut = closed(both)
    assert "additionalProperties" not in shut["allOf"][0]
    assert "additionalProperties" not in shut["$defs"]["b"]
    assert shut["$defs"]["c"]["additionalProperties"] is False
    assert "additionalProperties" not in one  # the caller's schema is left alone
    assert closed({"properties": {"properties": {"type": "object"}}})["properties"] == {
        "properties": {"type": "object"}
    }


def test_a_vocabulary_is_read_once() -> None:
    assert Grammar(TOKENIZER, WIDTH, reversed(EOS))._ll_tokenizer is GRAMMAR._ll_tokenizer


def test_without_llguidance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance.hf", None)
    with pytest.raises(MissingExtraError, match=r"acd-integrations\[structured\]"):
        Grammar(make_tokenizer(HERMES), WIDTH, EOS)
