"""How the published model families are held to a call: as their templates write one, read back, taken by a grammar."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from acd_core.toolcalls import parses_tools, tool_call_format
from tests.templates import published
from tests.templates.reading import (
    ARGUMENTS,
    TEMPLATE_WRITES_NO_CALLS,
    THOUGHTS,
    TOOLS,
    calls_of,
    opened,
    prompt_of,
    read,
    rendered,
    template_of,
)

pytestmark = pytest.mark.skipif(not published.names(), reason=published.ABSENT)

# families whose calls can be read but not forced
NOT_JSON = {
    "gemma4": 'writes arguments in its own notation, strings between <|"|>',
    "glm4.5": "writes arguments as <arg_key> and <arg_value>",
    "lfm2": "writes Python",
    "lfm2.5": "writes Python",
    "minicpm3": "writes Python",
    "nemotron3-nano": "writes arguments as <parameter=...>",
    "olmo3": "writes Python",
    "qwen3-coder": "writes arguments as <parameter=...>",
    "seed-oss": "writes arguments as <parameter=...>",
}


@pytest.mark.parametrize("name", published.names())
def test_a_forced_call_is_read_back(name: str) -> None:
    wire = tool_call_format(published.tokenizer(name))
    if not parses_tools(template_of(name)) or name in NOT_JSON:
        assert wire is None
        thinking = {"enable_thinking": True, "thinking": True}
        assert tool_call_format(published.tokenizer(name), variables=thinking) is None
        return
    assert wire is not None, "every family that writes arguments as JSON can be held to a call"
    prompt = prompt_of(name, True)
    calls: list[tuple[str, dict[str, Any]]] = [("get_weather", each) for each in ARGUMENTS[:2]]
    for wanted in itertools.chain(([call] for call in calls), [calls] if wire.separator else []):
        bodies = (f"{called}{wire.middle}{json.dumps(given)}" for called, given in wanted)
        reply = read(name, prompt, wire.head + (wire.separator or "").join(bodies) + wire.tail, TOOLS)
        assert calls_of(reply) == wanted
        assert (reply.text, reply.reasoning, reply.invalid_tool_calls) == ("", None, ())


@pytest.mark.parametrize("name", published.names())
def test_a_forced_call_is_what_the_template_writes(name: str) -> None:
    wire = tool_call_format(published.tokenizer(name))
    if wire is None or name in TEMPLATE_WRITES_NO_CALLS:
        pytest.skip("this family's template writes no JSON")
    found = rendered(name, [("get_weather", {"text": "Paris"})])
    assert found is not None
    prompt, written = prompt_of(name, True), found[1]
    thought = opened(name, prompt)
    if name == "deepseek-v3.1":  # its prompt holds the empty thought already
        assert prompt.endswith("<think></think>")
        written = written.removeprefix("<think></think>")
    head = wire.head
    if thought and not written.startswith(thought):  # the template leaves the thought of an earlier turn out
        assert head.lstrip().startswith(THOUGHTS[name][1])
        head = head.partition(THOUGHTS[name][1])[2].lstrip("\n")
    elif thought:
        written = written[len(thought) :]
    if name == "llama4":  # nothing stands between these, and nothing would be written
        written = written.replace("<|python_start|><|python_end|>", "")
    assert written.startswith(head + "get_weather" + wire.middle)


def test_a_thought_opened_on_request_is_closed_by_a_forced_call() -> None:
    tokenizer = published.tokenizer("deepseek-v3.1")
    wire = tool_call_format(tokenizer, variables={"thinking": True})
    assert wire is not None
    assert wire.head == "</think><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>"


def test_ids_that_a_template_asks_for_are_no_part_of_a_forced_call() -> None:
    template = """{% for m in messages %}{% if m.role == "user" %}[INST]{{ m.content }}[/INST]{% else -%}
{% for c in m.tool_calls %}{% if c.id | length != 9 %}{{ raise_exception("nine") }}{% endif -%}
[TOOL_CALLS]{{ c.function.name }}[CALL_ID]{{ c.id }}[ARGS]{{ c.function.arguments | tojson }}{% endfor %}</s>
{%- endif %}{% endfor %}"""
    changed = published.tokenizer.__wrapped__("mistral-v0.3")
    changed.chat_template = template
    wire = tool_call_format(changed)
    assert wire is not None
    assert (wire.head, wire.middle, wire.tail, wire.separator) == ("[TOOL_CALLS]", "[ARGS]", "", "[TOOL_CALLS]")


@pytest.mark.parametrize("name", published.names())
def test_a_grammar_takes_what_the_format_says(name: str) -> None:
    pytest.importorskip("llguidance")
    from acd_core.grammar.compiler import Grammar

    tokenizer = published.tokenizer(name)
    wire = tool_call_format(tokenizer)
    if wire is None:
        pytest.skip("this family's calls cannot be forced")
    grammar = Grammar(tokenizer, len(tokenizer), [int(tokenizer.eos_token_id)])
    matcher = grammar.for_tools(TOOLS, "required", wire=wire).matcher()
    text = f'{wire.head}get_weather{wire.middle}{{"text": "Paris", "count": 2}}{wire.tail}'
    for token in tokenizer.encode(text, add_special_tokens=False):
        matcher.consume(token)
    reply = read(name, prompt_of(name, True), text, TOOLS)
    assert calls_of(reply) == [("get_weather", {"text": "Paris", "count": 2})]
