"""What the published model families write, read back: reasoning and calls.

Every family's own template writes the calls of an earlier turn, which must come back as they were; where a template
does not, samples written by hand stand for the model.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acd_core.chat import Chat
from acd_core.toolcalls import ParsedReply, ToolCallReader, chat_template_text, parses_tools, tool_call_format
from tests.templates import published
from tests.templates.reading import (
    ARGUMENTS,
    TEMPLATE_WRITES_NO_CALLS,
    THOUGHTS,
    TOLD_NOT_TO_THINK,
    TOOLS,
    calls_of,
    opened,
    prompt_of,
    read,
    rendered,
    template_of,
    with_reader,
)

pytestmark = pytest.mark.skipif(not published.names(), reason=published.ABSENT)


def test_every_family_that_thinks_is_tested() -> None:
    thinking = {name for name, facts in published.tokens().items() if facts["thinks"]} - {"gpt-oss"}
    assert thinking <= set(THOUGHTS)
    assert set(TOLD_NOT_TO_THINK) <= set(THOUGHTS)


@pytest.mark.parametrize("name", sorted(THOUGHTS))
@pytest.mark.parametrize("tools", [False, True])
def test_a_thought_is_told_from_the_answer(name: str, tools: bool) -> None:
    for options in ({}, {"thinking": True, "enable_thinking": True}):
        prompt = prompt_of(name, tools, **options)
        open_mark, close_mark = THOUGHTS[name]
        begin = "" if opened(name, prompt) else open_mark
        offered = TOOLS if tools else ()
        for written in (f"{begin}Let me think.{close_mark}Paris.", f"{begin}\nLet me think.\n{close_mark}\n\nParis."):
            assert read(name, prompt, written, offered) == ParsedReply("Paris.", "Let me think.")
        assert read(name, prompt, f"{begin}\nLet me thi", offered) == ParsedReply("", "Let me thi")
        assert read(name, prompt, f"{begin}\n\n{close_mark}\n\nParis.", offered) == ParsedReply("Paris.")
        assert read(name, prompt, f"{begin}{close_mark}", offered) == ParsedReply("")
        # a closing mark that nothing opened: what came before was given out as text, the mark itself never is
        if begin:
            assert read(name, prompt, f"Hm.{close_mark}Paris.", offered).text == "Hm.\nParis."
            assert read(name, prompt, "Paris.", offered) == ParsedReply("Paris.")


@pytest.mark.parametrize("name", sorted(TOLD_NOT_TO_THINK))
def test_a_model_told_not_to_think_answers_at_once(name: str) -> None:
    prompt = prompt_of(name, **TOLD_NOT_TO_THINK[name])
    assert not opened(name, prompt)
    assert read(name, prompt, "Paris.") == ParsedReply("Paris.")


def test_marks_around_an_answer_are_left_out() -> None:
    thought = "<think>Let me think.</think>"
    wanted = ParsedReply("Paris.", "Let me think.")
    prompt = prompt_of("granite3.3", thinking=True)
    assert read("granite3.3", prompt, f"{thought}<response>Paris.</response>") == wanted
    thought = "<|START_THINKING|>Let me think.<|END_THINKING|>"
    prompt = prompt_of("command-r7b", True)
    assert read("command-r7b", prompt, f"{thought}<|START_RESPONSE|>Paris.<|END_RESPONSE|>", TOOLS) == wanted
    prompt = prompt_of("command-r7b")
    assert prompt.endswith("<|START_RESPONSE|>")
    assert read("command-r7b", prompt, "Paris.<|END_RESPONSE|>") == ParsedReply("Paris.")


@pytest.mark.parametrize("tools", [False, True])
def test_the_channels_of_gpt_oss(tools: bool) -> None:
    name, prompt, offered = "gpt-oss", prompt_of("gpt-oss", tools), TOOLS if tools else ()
    thought = "<|channel|>analysis<|message|>Let me think.<|end|>"
    final = "<|start|>assistant<|channel|>final<|message|>Paris.<|return|>"
    assert read(name, prompt, thought + final, offered) == ParsedReply("Paris.", "Let me think.")
    assert read(name, prompt, "<|channel|>final<|message|>Paris.<|return|>", offered) == ParsedReply("Paris.")
    assert read(name, prompt, "<|channel|>analysis<|message|>Let me thi", offered) == ParsedReply("", "Let me thi")
    assert read(name, prompt, "Paris.", offered) == ParsedReply("Paris.")
    preamble = "<|start|>assistant<|channel|>commentary<|message|>I look it up.<|end|>"
    assert read(name, prompt, thought + preamble + final, offered) == ParsedReply(
        "I look it up.\nParis.", "Let me think."
    )
    strict = "<|channel|>final <|constrain|>json<|message|>{}<|return|>"
    assert read(name, prompt, strict, offered) == ParsedReply("{}")


@pytest.mark.parametrize(
    "header",
    [
        " to=functions.get_weather<|channel|>commentary json<|message|>",
        " to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>",
        "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>",
        "<|channel|>commentary to=functions.get_weather<|constrain|>json<|message|>",
        "<|channel|>commentary to=functions.get_weather<|message|>",
        "<|channel|>analysis to=functions.get_weather code<|message|>",
    ],
)
def test_calls_of_gpt_oss(header: str) -> None:
    name, prompt = "gpt-oss", prompt_of("gpt-oss", True)
    call = header + '{"text": "Paris", "count": 2}<|call|>'
    wanted = [("get_weather", {"text": "Paris", "count": 2})]
    assert calls_of(read(name, prompt, call, TOOLS)) == wanted
    thought = "<|channel|>analysis<|message|>Let me think.<|end|><|start|>assistant"
    reply = read(name, prompt, thought + call, TOOLS)
    assert (reply.reasoning, reply.text, calls_of(reply)) == ("Let me think.", "", wanted)
    preamble = "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant"
    reply = read(name, prompt, preamble + call, TOOLS)
    assert (reply.reasoning, reply.text, calls_of(reply)) == (None, "I look.", wanted)


def test_every_family_that_knows_tools_is_read() -> None:
    mentioning = {n for n in published.names() if "tool" in chat_template_text(published.tokenizer(n))}
    assert set(with_reader()) == mentioning
    assert set(TEMPLATE_WRITES_NO_CALLS) <= mentioning


@pytest.mark.parametrize("name", published.names())
def test_what_a_template_writes_is_read_back(name: str) -> None:
    if not parses_tools(template_of(name)):
        pytest.skip("this family has no tools")
    if name in TEMPLATE_WRITES_NO_CALLS:
        assert rendered(name, [("get_weather", {"text": "Paris"})]) is None
        return
    several = 0
    for arguments in ARGUMENTS:
        for calls in ([("get_weather", arguments)], [("get_weather", arguments), ("add-2", {"count": 7, "text": "a"})]):
            found = rendered(name, calls)
            if found is None:
                assert len(calls) == 2, "a template that takes calls takes one"
                continue
            several += len(calls) == 2
            reply = read(name, *found, TOOLS)
            wanted = calls[:1] if name == "gpt-oss" else calls  # its template writes the first only
            assert calls_of(reply) == wanted
            assert (reply.text, reply.reasoning, reply.invalid_tool_calls) == ("", None, ())
    assert several == (0 if name == "llama3.1" else len(ARGUMENTS))


@pytest.mark.parametrize("name", published.names())
def test_text_beside_a_call_is_kept(name: str) -> None:
    if not parses_tools(template_of(name)) or name in TEMPLATE_WRITES_NO_CALLS:
        pytest.skip("this family's template writes no calls")
    found = rendered(name, [("get_weather", {"text": "Paris"})], "I look it up.")
    assert found is not None
    if name == "nemotron-nano-v2":  # its template makes two turns of it
        assert "I look it up.\n<SPECIAL_12>" in found[1]
        return
    reply = read(name, *found, TOOLS)
    assert calls_of(reply) == [("get_weather", {"text": "Paris"})]
    shown = "I look it up." if "I look it up." in found[1] else ""
    assert (reply.reasoning if name == "gpt-oss" else reply.text.strip()) == shown


CALL = '{"name": "get_weather", "arguments": {"text": "Paris"}}'
SAMPLES: list[tuple[str, str]] = [
    ("apertus", '<|tools_prefix|>[{"get_weather": {"text": "Paris"}}]<|tools_suffix|>'),
    ("apertus", '<|inner_prefix|>Hm.<|tools_prefix|>[{"get_weather": {"text": "Paris"}}]<|tools_suffix|>'),
    ("command-r", 'Action: ```json\n[{"tool_name": "get_weather", "parameters": {"text": "Paris"}}]\n```'),
    ("command-r", 'Action:```json\n[\n  {"tool_name": "get_weather", "parameters": {"text": "Paris"}}\n]```\n'),
    (
        "command-r7b",
        "<|START_THINKING|>Hm.<|END_THINKING|><|START_ACTION|>[\n"
        '    {"tool_call_id": "0", "tool_name": "get_weather", "parameters": {"text": "Paris"}}\n]<|END_ACTION|>',
    ),
    *(
        (
            name,
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
            '{"text": "Paris"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        )
        for name in ("deepseek-v3", "deepseek-r1-0528-qwen3")
    ),
    (
        "r1-distill",
        "Hm.\n</think>\n\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
        '{"text": "Paris"}\n```<｜tool▁call▁end｜>',
    ),
    ("deepseek-v3.1", '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"text": "Paris"}'),
    ("firefunction2", f"functools[{CALL}]"),
    ("functionary3.1", '<function=get_weather>{"text": "Paris"}</function>'),
    ("glm4", 'get_weather\n{"text": "Paris"}'),
    ("glm4", '\nget_weather\n{\n  "text": "Paris"\n}\n'),
    (
        "glm4.5",
        "<think>Hm.</think>\n<tool_call>get_weather\n<arg_key>text</arg_key>\n<arg_value>Paris</arg_value>\n</tool_call>",
    ),
    ("glm4.5", "<tool_call>get_weather<arg_key>text</arg_key><arg_value>Paris</arg_value></tool_call>"),
    ("granite3.3", f"<|tool_call|>[{CALL}]"),
    ("granite3.3", f"<tool_call>[{CALL}]"),
    ("jamba", f" <tool_calls>[\n  {CALL}\n]</tool_calls>"),
    (
        "kimi-k2",
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:12<|tool_call_argument_begin|>"
        '{"text": "Paris"}<|tool_call_end|><|tool_calls_section_end|>',
    ),
    ("lfm2", '<|tool_call_start|>[get_weather(text="Paris")]<|tool_call_end|>'),
    ("lfm2", f"<|tool_call_start|>[{CALL}]<|tool_call_end|>"),
    ("lfm2.5", "<think>Hm.</think><|tool_call_start|>[get_weather(text='Paris')]<|tool_call_end|>"),
    ("llama3.1", '{"type": "function", "name": "get_weather", "parameters": {"text": "Paris"}}'),
    ("llama3.1", '<|python_tag|>{"name": "get_weather", "parameters": {"text": "Paris"}}'),
    ("llama3.1", '[get_weather(text="Paris")]'),
    ("llama4", '{"name": "get_weather", "parameters": {"text": "Paris"}}'),
    ("llama4", '<|python_start|>{"name": "get_weather", "parameters": {"text": "Paris"}}<|python_end|>'),
    ("llama4", "<|python_start|>[get_weather(text='Paris')]<|python_end|>"),
    ("llama4", "[get_weather(text='Paris')]"),
    (
        "minicpm3",
        "<|thought_start|>\nHm.\n<|thought_end|>\n<|tool_call_start|>\n```python\n"
        'get_weather(text="Paris")\n```\n<|tool_call_end|>',
    ),
    ("ministral3-reasoning", '[THINK]Hm.[/THINK][TOOL_CALLS]get_weather[ARGS]{"text": "Paris"}'),
    ("mistral-v0.3", f"[TOOL_CALLS] [{CALL}]"),
    ("mistral-v0.3", '[TOOL_CALLS]get_weather{"text": "Paris"}'),
    ("nemotron-nano-v2", f"Hm.\n</think>\n\n<TOOLCALL>[{CALL}]</TOOLCALL>"),
    (
        "nemotron3-nano",
        "Hm.\n</think>\n\n<tool_call>\n<function=get_weather>\n<parameter=text>\nParis\n</parameter>\n</function>\n</tool_call>",
    ),
    ("olmo3", "<function_calls>\nget_weather(text='Paris')\n</function_calls>"),
    ("phi4-mini", f"<|tool_call|>[{CALL}]<|/tool_call|>"),
    ("phi4-mini", f"functools[{CALL}]"),
    ("qwen3", f"<think>\nHm.\n</think>\n\n<tool_call>\n{CALL}\n</tool_call>"),
    ("qwen3-thinking-2507", f"Hm.\n</think>\n\n<tool_call>\n{CALL}\n</tool_call>"),
    ("qwq", f"Hm.\n</think>\n\n<tool_call>\n{CALL}\n</tool_call>"),
    (
        "seed-oss",
        "<seed:think>Hm.</seed:think>\n<seed:tool_call>\n<function=get_weather>\n<parameter=text>Paris</parameter>\n"
        "</function>\n</seed:tool_call>",
    ),
    ("smollm3", f"<think>Hm.</think><tool_call>\n{CALL}\n</tool_call>"),
]


@pytest.mark.parametrize(("name", "written"), SAMPLES)
def test_what_a_model_writes_is_read(name: str, written: str) -> None:
    reply = read(name, prompt_of(name, True), written, TOOLS)
    assert calls_of(reply) == [("get_weather", {"text": "Paris"})]
    assert (reply.text, reply.invalid_tool_calls) == ("", ())
    assert reply.reasoning == ("Hm." if "Hm." in written else None)


def test_samples_cover_what_templates_leave_out() -> None:
    assert set(TEMPLATE_WRITES_NO_CALLS) <= {name for name, _ in SAMPLES}


PIECES = [
    "<think>",
    "</think>",
    "get_weather",
    "\n",
    "{",
    "}",
    '{"name": 7}',
    '{"text": 3}',
    "[",
    "]",
    "(",
    ")",
    "\ud800",
]


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_nothing_a_model_writes_raises(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(with_reader()))
    wire = tool_call_format(published.tokenizer(name))
    marks = [sample for of, sample in SAMPLES if of == name]
    cut = [mark[: data.draw(st.integers(0, len(mark)))] for mark in marks]
    own = [wire.head, wire.middle, wire.tail] if wire else []
    parts = data.draw(st.lists(st.sampled_from([*PIECES, *marks, *cut, *own]) | st.text(max_size=4), max_size=8))
    text = "".join(parts)
    replies = []
    for size in (len(text) or 1, 1, 3):
        reader = ToolCallReader(published.tokenizer(name), prompt_of(name, True), TOOLS, template_of(name))
        for at in range(0, len(text), size):
            reader.feed(text[at : at + size])
        replies.append(reader.finish()[1])
    assert replies[0] == replies[1] == replies[2]


@pytest.mark.parametrize("name", published.names())
def test_a_begun_reply_keeps_its_leading_space(name: str) -> None:
    chat = Chat(published.tokenizer(name))
    prompt = chat.text([{"role": "user", "content": "x"}, {"role": "assistant", "content": "Sure, here"}])
    reader = ToolCallReader(chat.tokenizer, prompt, [], template_of(name), begun=True)
    events = reader.feed(" is a list")
    assert "".join(each.text for each in [*events, *reader.finish()[0]]) == " is a list"  # type: ignore[union-attr]
