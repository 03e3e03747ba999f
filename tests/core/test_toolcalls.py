"""Tool calls and reasoning out of text: every family's format, broken calls, and any way of cutting the text up."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from acd_core.errors import TemplateError
from acd_core.params import ReasoningDelta, TextDelta, ToolCallDelta
from acd_core.toolcalls import (
    ParsedReply,
    ToolCallFormat,
    ToolCallReader,
    kept_special_ids,
    parses_tools,
    response_template_for,
    tool_call_format,
)
from acd_core.toolcalls.python_calls import python_calls
from tests.scripted import HERMES, SPECIALS, make_tokenizer

LLAMA = """{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>

{% if m.tool_calls %}{% if m.tool_calls | length != 1 %}{{ raise_exception("one call at once") }}{% endif -%}
{"name": "{{ m.tool_calls[0].function.name }}", "parameters": {{ m.tool_calls[0].function.arguments | tojson }}}
{%- else %}{{ m.content }}{% endif %}<|eot_id|>{% endfor -%}
{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>

{% endif %}"""
MISTRAL = """{% for m in messages %}{% if m.role == "user" %}[INST] {{ m.content }}[/INST]{% elif m.tool_calls -%}
[TOOL_CALLS] [{% for c in m.tool_calls %}{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson
}}, "id": "{{ c.id }}"}{% if not loop.last %}, {% endif %}{% endfor %}]</s>{% else %}{{ m.content }}</s>{% endif -%}
{% endfor %}"""
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "note": {"type": "string"}}},
        },
    }
]


def read(
    text: str, template: str = HERMES, prefix: str | None = None, tools: Any = TOOLS, pieces: list[str] | None = None
) -> tuple[list[Any], ParsedReply]:
    tokenizer = make_tokenizer(template)
    if prefix is None:
        prefix = str(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
            )
        )
    reader = ToolCallReader(tokenizer, prefix, tools, response_template_for(tokenizer))
    events = [event for piece in (pieces or [text]) for event in reader.feed(piece)]
    last, reply = reader.finish()
    return events + last, reply


CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 3}}\n</tool_call>'


def test_text_without_calls_is_passed_through_to_the_letter() -> None:
    for text in ("", " ", "\n a  b \n\n", "x < y <tool", "<think"):
        events, reply = read(text)
        assert reply == ParsedReply(text)
        assert "".join(event.text for event in events) == text


def test_no_template_is_plain_text() -> None:
    reader = ToolCallReader(make_tokenizer("{{ messages }}"), "", TOOLS, None)
    assert reader.feed(CALL + " ") == [TextDelta(CALL)]
    assert reader.finish() == ([TextDelta(" ")], ParsedReply(CALL + " "))
    assert not reader.needs_special_tokens


def test_calls_text_and_reasoning_are_split() -> None:
    events, reply = read(f"<think>\nLet me see.\n</think>\n\nI add.\n{CALL}\n{CALL}")
    assert (reply.text, reply.reasoning) == ("I add.", "Let me see.")
    assert [(call.name, call.arguments) for call in reply.tool_calls] == [("add", {"a": 3})] * 2
    assert len({call.id for call in reply.tool_calls}) == 2
    assert all(re.fullmatch("[a-zA-Z0-9]{9}", call.id) for call in reply.tool_calls)
    assert [event.index for event in events if isinstance(event, ToolCallDelta)] == [0, 1]


def test_text_on_both_sides_of_a_call_is_joined_by_a_newline() -> None:
    assert read(f"Before \n{CALL}\n\nafter")[1].text == "Before\nafter"


def test_reasoning_opened_by_the_template() -> None:
    _, reply = read("Hmm.\n</think>\n\nYes.", prefix="<|im_start|>assistant\n<think>\n")
    assert (reply.reasoning, reply.text) == ("Hmm.", "Yes.")


def test_arguments_are_cast_by_the_schema() -> None:
    _, reply = read('<tool_call>{"name": "add", "arguments": {"a": "3", "note": "4"}}</tool_call>')
    assert reply.tool_calls[0].arguments == {"a": 3, "note": "4"}


def test_without_tools_markup_is_text() -> None:
    assert read(CALL, tools=()) == ([TextDelta(CALL)], ParsedReply(CALL))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ('{"name": "add", "arguments": {"a": ', "Expecting"),
        ("not json", "Expecting"),
        ('{"arguments": {"a": 3}}', "no name"),
        ('{"name": "", "arguments": {}}', "no name"),
        ('{"name": 7, "arguments": {}}', "no name"),
        ('{"name": "add", "arguments": [1]}', "not an object"),
        ('{"name": "add", "arguments": "{oops"}', "not JSON"),
        ("[3]", "not int"),
        ('"add"', "not str"),
        ("[]", "no call"),
        ("", "Expecting"),
    ],
)
@pytest.mark.parametrize("closing", ["</tool_call>", ""])
def test_a_malformed_call_is_reported_and_the_rest_still_read(body: str, why: str, closing: str) -> None:
    _, reply = read(f"Text. <tool_call>{body}{closing}{CALL if closing else ''}")
    (invalid,) = reply.invalid_tool_calls
    assert invalid.text == body.strip()
    assert why in invalid.error
    assert len(reply.tool_calls) == (1 if closing else 0)
    assert reply.text == "Text."


def test_arguments_given_as_a_json_string_or_left_out() -> None:
    _, reply = read(
        '<tool_call>{"name":"add","arguments":"{\\"a\\": 1}"}</tool_call><tool_call>{"name":"add"}</tool_call>'
    )
    assert [call.arguments for call in reply.tool_calls] == [{"a": 1}, {}]


def test_a_complete_call_without_its_closing_mark_counts() -> None:
    assert read('<tool_call>{"name": "add", "arguments": {}}')[1].tool_calls[0].name == "add"


def test_inline_arguments_cut_off_are_no_call() -> None:
    template = HERMES.replace("...", "<function=f>")
    whole = "<tool_call>\n<function=add>\n<parameter=a>\n3\n</parameter>\n</function>\n</tool_call>"
    assert read(whole, template)[1].tool_calls[0].arguments == {"a": 3}
    for end in range(len("<tool_call>\n<function=add>"), len(whole) - len("</tool_call>")):
        reply = read(whole[:end], template)[1]
        assert not reply.tool_calls
        assert "cut off" in reply.invalid_tool_calls[0].error


def test_llama_bare_json_is_a_call_only_of_an_offered_tool() -> None:
    _, reply = read('{"name": "add", "parameters": {"a": "3"}}', LLAMA)
    assert (reply.text, reply.tool_calls[0].arguments) == ("", {"a": 3})
    for text in ('{"name": "Bob", "parameters": {}}', '{"name": "add"', 'See {"name": "add", "parameters": {}}'):
        assert read(text, LLAMA)[1] == ParsedReply(text)
    assert read('<|python_tag|>{"name": "Bob", "parameters": {}}', LLAMA)[1].tool_calls[0].name == "Bob"


def test_mistral_list_and_named_calls() -> None:
    _, reply = read('[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}}, {"name": "add", "arguments": {}}]', MISTRAL)
    assert [call.arguments for call in reply.tool_calls] == [{"a": 1}, {}]
    _, reply = read('Ok.[TOOL_CALLS]add[ARGS]{"a": 1}[TOOL_CALLS]add[ARGS]{"a": "2"}', MISTRAL)
    assert (reply.text, [call.arguments for call in reply.tool_calls]) == ("Ok.", [{"a": 1}, {"a": 2}])


def test_the_prompt_is_never_read_as_the_reply() -> None:
    for prefix in (CALL, f"<|im_start|>user\n{CALL}<|im_end|>\n<|im_start|>assistant\n", f"{CALL}<think>"):
        assert read("Hello", prefix=prefix)[1] == ParsedReply("Hello")


def test_ids_depend_on_prompt_and_position_only() -> None:
    first, again = read(CALL)[1], read(CALL)[1]
    other = read(CALL, prefix="other")[1]
    assert first == again
    assert first.tool_calls[0].id != other.tool_calls[0].id


def test_only_delimiters_of_the_template_are_kept() -> None:
    tokenizer = make_tokenizer(HERMES)
    kept = kept_special_ids(tokenizer, response_template_for(tokenizer))
    names = set(tokenizer.convert_ids_to_tokens(sorted(kept)))
    assert {"<tool_call>", "</tool_call>", "<|im_end|>"} <= names
    assert not names & {"<pad>", "[TOOL_CALLS]", "<|im_start|>"}
    assert kept_special_ids(tokenizer, None) == frozenset()


def test_the_tokenizers_own_template_comes_first() -> None:
    tokenizer = make_tokenizer(HERMES)
    tokenizer.response_template = {"start_anchor": "x", "fields": {"content": {"content": "text"}}}
    own = response_template_for(tokenizer)
    assert own == tokenizer.response_template
    assert not parses_tools(own)
    assert response_template_for(make_tokenizer("{{ messages }}")) is None


def test_a_bad_template_is_a_template_error() -> None:
    tokenizer = make_tokenizer(HERMES)
    for bad in ({}, {"fields": {"content": 3}}, {"fields": {"content": {"content": "nonsense"}}, "start_anchor": "x"}):
        with pytest.raises(TemplateError):
            ToolCallReader(tokenizer, "", (), bad)


def test_the_format_of_calls_is_found_by_rendering() -> None:
    head = '<tool_call>\n{"name": "'
    hermes = tool_call_format(make_tokenizer(HERMES))
    assert hermes == ToolCallFormat.around("<tool_call>\n", "\n</tool_call>")
    assert hermes == ToolCallFormat(head, '", "arguments": ', "}\n</tool_call>", "}\n</tool_call>\n" + head)
    llama = tool_call_format(make_tokenizer(LLAMA, eos="<|eot_id|>"))
    assert llama == ToolCallFormat('{"name": "', '", "parameters": ', "}", None)
    mistral = tool_call_format(make_tokenizer(MISTRAL, eos="</s>"))
    assert mistral == ToolCallFormat('[TOOL_CALLS] [{"name": "', '", "arguments": ', "}]", '}, {"name": "')
    assert tool_call_format(make_tokenizer("{% for m in messages %}{{ m.content }}{% endfor %}")) is None


def family(
    header: str, end: str, call: str = "", opens: str = "", specials: tuple[str, ...] = ()
) -> PreTrainedTokenizerFast:
    """A tokenizer of a family: `header` before a reply, `opens` only before a new one, calls written as `call`."""
    template = f"""{{% for m in messages %}}{{% if m.role == "user" %}}U:{{{{ m.content }}}}
{{% else %}}{header}{{{{ m.content }}}}{{% for c in m.tool_calls or [] %}}{call}{{% endfor %}}{end}
{{% endif %}}{{% endfor %}}{{% if add_generation_prompt %}}{header}{opens}{{% endif %}}{{# </think> #}}"""
    return make_tokenizer(template, [*SPECIALS, end, *specials], eos=end)


HERMES_CALL = """
<tool_call>
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}
</tool_call>"""
RELATIVES = {
    "exaone4": family("[|assistant|]", "[|endofturn|]", HERMES_CALL, "<think>\n"),
    "granite4": family("<|start_of_role|>assistant<|end_of_role|>", "<|end_of_text|>", HERMES_CALL),
    "falcon3": family("<|assistant|>\n", "<|endoftext|>", HERMES_CALL),
    "nemotron of Llama": family(
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|eot_id|>",
        """{"name": "{{ c.function.name }}", "parameters": {{ c.function.arguments | tojson }}}""",
    ),
}


@pytest.mark.parametrize("name", RELATIVES)
def test_relatives_of_known_families_are_read(name: str) -> None:
    tokenizer = RELATIVES[name]
    template, wire = response_template_for(tokenizer), tool_call_format(tokenizer)
    assert template is not None
    assert wire is not None
    user = [{"role": "user", "content": "hi"}]
    prompt = str(tokenizer.apply_chat_template(user, tokenize=False, add_generation_prompt=True))
    opened = prompt.endswith("<think>\n")
    call = f"{wire.middle.join([wire.head + 'add', json.dumps({'a': 3})])}{wire.tail}"
    thought = "" if opened else "<think>\n"
    for written in (call, f"{thought}Hm.\n</think>\n\n" + call.removeprefix("\n</think>\n\n")):
        reader = ToolCallReader(tokenizer, prompt, TOOLS, template)
        reader.feed(written)
        reply = reader.finish()[1]
        assert [(made.name, made.arguments) for made in reply.tool_calls] == [("add", {"a": 3})]
        assert (reply.text, reply.reasoning) == ("", "Hm." if "Hm." in written else None)
    reader = ToolCallReader(tokenizer, prompt, TOOLS, template)
    reader.feed(f"{thought}Hm.</think>Yes.")
    assert reader.finish()[1] == ParsedReply("Yes.", "Hm.")


def test_a_thought_of_a_model_under_an_unknown_header() -> None:
    tokenizer = family("<assistant>: ", "<end>", opens="<think>")
    template = response_template_for(tokenizer)
    assert template is not None
    assert not parses_tools(template)
    for prompt in ("U:hi\n<assistant>: <think>", "U:<assistant>: no<think>\n<assistant>: <think>"):
        reader = ToolCallReader(tokenizer, prompt, (), template)
        reader.feed("Hm.</think>Yes.")
        assert reader.finish()[1] == ParsedReply("Yes.", "Hm.")
    reader = ToolCallReader(tokenizer, "U:<think>\n<assistant>: ", (), template)
    reader.feed("Yes.")
    assert reader.finish()[1] == ParsedReply("Yes.")


def test_strings_are_cast_only_where_the_schema_asks_for_it() -> None:
    properties = {
        "either": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "there": {"$ref": "#/$defs/Place"},
        "one": {"enum": [1, 2]},
        "many": {"type": "array"},
        "odd": {"anyOf": 7},
    }
    places = {"Place": {"type": "object", "properties": {"x": {"type": "integer"}}}}
    tool = {"name": "add", "parameters": {"type": "object", "properties": properties, "$defs": places}}
    given = {"either": "null", "there": '{"x": 1}', "one": "2", "many": "[1, {'b': True}]", "odd": "5", "else": "6"}
    cast = {"there": {"x": 1}, "one": 2, "many": [1, {"b": True}], "odd": "5", "else": "6"}
    call = f"<tool_call>{json.dumps({'name': 'add', 'arguments': given})}</tool_call>"
    assert read(call, tools=[tool])[1].tool_calls[0].arguments == {"either": "null", **cast}
    inline = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in given.items())
    call = f"<tool_call>\n<function=add>\n{inline}</function>\n</tool_call>"
    template = HERMES.replace("...", "<function=f>")
    assert read(call, template, tools=[tool])[1].tool_calls[0].arguments == {"either": None, **cast}


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        ('{"name": "add", "arguments": {"note": "a\nb"}}', {"note": "a\nb"}),
        ("{'name': 'add', 'arguments': {'a': 1, 'note': None}}", {"a": 1, "note": None}),
        ('{"name": "add", "arguments": {"note": "\ud800"}}', {"note": "\ud800"}),
        ('{"name": "add", "arguments": {"note": "\\ud83c"}}', {"note": "\ud83c"}),
        ('{"name": "add", "arguments": {"note": 4, "a": "four"}}', {"note": 4, "a": "four"}),
        ('{"name": "add", "arguments": {"a": "' + "9" * 5000 + '"}}', {"a": "9" * 5000}),
        ('{"name": "add", "arguments": {"a": "' + "[" * 50_000 + '"}}', {"a": "[" * 50_000}),
    ],
)
def test_careless_json_is_read(body: str, arguments: dict[str, Any]) -> None:
    assert read(f"<tool_call>{body}</tool_call>")[1].tool_calls[0].arguments == arguments


@pytest.mark.parametrize("inner", ["[" * 100_000, '{"name": "add", "arguments": ' + "[" * 100_000, "9" * 5000])
def test_what_is_too_deep_or_too_long_is_no_call(inner: str) -> None:
    reply = read(f"<tool_call>{inner}</tool_call>")[1]
    assert not reply.tool_calls
    assert len(reply.invalid_tool_calls) == 1


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("f()", {}),
        ("[f()]", {}),
        ("f(a='it\\'s', b=\"x\")", {"a": "it's", "b": "x"}),
        ("f(a='it's, isn't it', b=-1.5e3)", {"a": "it's, isn't it", "b": -1500.0}),
        ("f(a='two\nlines\\n', b=True, c=null)", {"a": "two\nlines\n", "b": True, "c": None}),
        ("f(a=[1, (2, 'x')], b={'k': {\"l\": []}, 1: 2},)", {"a": [1, [2, "x"]], "b": {"k": {"l": []}, "1": 2}}),
        ("f(a='\\ud83c\\udf0d', b='\\ud83c', c='')", {"a": "\U0001f30d", "b": "\ud83c", "c": ""}),
        ('f(a="""q "x" """, b=\'g(c=1)\')', {"a": 'q "x" ', "b": "g(c=1)"}),
        ("```python\nf(a=1)\n```", {"a": 1}),
    ],
)
def test_calls_as_python(text: str, arguments: dict[str, Any]) -> None:
    assert python_calls(text) == [{"name": "f", "arguments": arguments}]


@pytest.mark.parametrize(
    "text", ["f(", "f(a=1", "[f(a=1)", "f(1)", "f(a=b)", "f(a=1) x", "f", "f(a='x)", "f(a=" + "[" * 5000, "f(a=1+1)"]
)
def test_what_is_no_call_as_python(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        python_calls(text)


PARTS = st.sampled_from(
    ["Hello", " ", "\n", "<think>", "</think>", "<tool_call>", "</tool_call>", '{"name": "add", "arguments": {}}',
     '{"name":', "<", "</", "|im_end|>", "<|im_end|>", CALL, "[TOOL_CALLS]", '[{"name": "add"}]', "add[ARGS]", "{}"]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    parts=st.lists(PARTS, max_size=8),
    cuts=st.lists(st.integers(0, 80), max_size=10),
    template=st.sampled_from([HERMES, LLAMA, MISTRAL]),
)
def test_any_cut_gives_the_same_reply(parts: list[str], cuts: list[int], template: str) -> None:
    text = "".join(parts)
    bounds = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[a:b] for a, b in itertools.pairwise(bounds)]
    _, whole = read(text, template)
    for cut_up in (pieces, list(text)):
        events, reply = read(text, template, pieces=cut_up)
        assert reply == whole
        assert "".join(e.text for e in events if isinstance(e, TextDelta)) == whole.text
        assert "".join(e.text for e in events if isinstance(e, ReasoningDelta)) == (whole.reasoning or "")
        assert tuple(e.call for e in events if isinstance(e, ToolCallDelta)) == whole.tool_calls


@settings(max_examples=100, deadline=None)
@given(st.text() | st.text(st.characters(categories=["Cs", "Ll", "Ps", "Pe"])))
def test_any_text_is_read_without_an_error(text: str) -> None:
    read(text)
    read("<tool_call>" + text)
