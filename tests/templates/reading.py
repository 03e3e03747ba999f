"""Replies of the published families, as the engine gives them out, and read: what several tests need."""

from __future__ import annotations

import functools
import json
from typing import Any

from acd_core.params import ReasoningDelta, TextDelta
from acd_core.toolcalls import (
    ParsedReply,
    ToolCallReader,
    kept_special_ids,
    parses_tools,
    render_with_tools,
    response_template_for,
    special_tokens,
)
from tests.templates import published

USER = {"role": "user", "content": "zquser"}
THINK = ("<think>", "</think>")

# family -> the marks of a thought, as the model writes them (gpt-oss stands by itself below)
THOUGHTS = {
    **dict.fromkeys(
        ["deepseek-r1-0528-qwen3", "deepseek-v3.1", "glm4.5", "granite3.3", "lfm2.5", "nemotron-nano-v2"], THINK
    ),
    **dict.fromkeys(["nemotron3-nano", "qwen3", "qwen3-thinking-2507", "qwq", "r1-distill", "smollm3"], THINK),
    **dict.fromkeys(["qwen3-coder", "qwen3-instruct-2507", "kimi-k2", "qwen2.5", "hermes3", "deepseek-v3"], THINK),
    "apertus": ("<|inner_prefix|>", "<|inner_suffix|>"),
    "command-r7b": ("<|START_THINKING|>", "<|END_THINKING|>"),
    "gemma4": ("<|channel>thought\n", "<channel|>"),
    "ministral3-reasoning": ("[THINK]", "[/THINK]"),
    "minicpm3": ("<|thought_start|>\n", "<|thought_end|>\n"),
    "seed-oss": ("<seed:think>", "</seed:think>"),
}
TOLD_NOT_TO_THINK = {
    "deepseek-v3.1": {"thinking": False},
    "gemma4": {"enable_thinking": False},
    "glm4.5": {"enable_thinking": False},
    "nemotron3-nano": {"enable_thinking": False},
    "qwen3": {"enable_thinking": False},
    "seed-oss": {"thinking_budget": 0},
    "smollm3": {"enable_thinking": False},
}

# families whose templates leave the calls of earlier turns out; what their models write stands in SAMPLES
TEMPLATE_WRITES_NO_CALLS = {
    "deepseek-v3": "only for a turn whose content is None, which transformers drops before the template sees it",
    "r1-distill": "only for a turn whose content is None, which transformers drops before the template sees it",
    "glm4": "a call is a turn with metadata, which is no part of the messages that applications have",
    "granite3.3": "a turn is its content and nothing else",
    "lfm2": "a turn is its content and nothing else",
    "phi4-mini": "a turn is its content and nothing else",
    "smollm3": "a turn is its content and nothing else",
}
PARAMETERS = {
    "type": "object",
    "properties": {
        "text": {"type": "string", "description": "x"},
        "count": {"type": "integer", "description": "x"},
        "ratio": {"type": "number", "description": "x"},
        "flag": {"type": "boolean", "description": "x"},
        "items": {"type": "array", "items": {"type": "object"}, "description": "x"},
        "nested": {"type": "object", "properties": {}, "additionalProperties": {"type": "string"}, "description": "x"},
    },
    "required": ["text"],
}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "Does it.", "parameters": PARAMETERS}}
    for name in ("get_weather", "add-2")
]
ARGUMENTS: list[dict[str, Any]] = [
    {"text": "Paris"},
    {},
    {"text": 'it\'s a "quoted", word', "count": 3},
    {"text": "two\nlines\n", "flag": True},
    {"text": "Zürich 東京 🌍", "ratio": -2.5, "flag": False},
    {"text": "3", "count": -1, "items": [{"a": [1, {"b": True, "c": None}]}, {"d": "é"}]},
    {"nested": {"a": {"b": "x, y) = 1"}, "n": 1.5}, "text": ""},
    {"text": "f(x=1), {\"name\": 'y'} <b>&amp;</b> [1]"},
]


@functools.cache
def template_of(name: str) -> dict[str, Any] | None:
    return response_template_for(published.tokenizer(name))


def with_reader() -> list[str]:
    return [name for name in published.names() if parses_tools(template_of(name))]


@functools.cache
def prompt_of(name: str, tools: bool = False, **options: Any) -> str:
    if not tools:
        return published.stock(name, [USER], **options)
    options["add_generation_prompt"] = True
    return next(iter(render_with_tools(published.tokenizer(name), [USER], TOOLS, **options)))


def opened(name: str, prompt: str) -> str:
    """The thought that the prompt leaves open, with the whitespace behind its mark; "" if it opens none."""
    mark = THOUGHTS.get(name, THINK)[0].strip()
    return prompt[prompt.rindex(mark) :] if prompt.rstrip().endswith(mark) else ""


def seen(name: str, written: str) -> str:
    """`written` as the engine gives it out: up to the end of the turn, special tokens dropped unless a mark needs
    them."""
    tokenizer = published.tokenizer(name)
    ends = [published.tokens()[name]["eos"], "<|START_OF_TURN_TOKEN|>", "<|eom_id|>"]
    for end in ends:
        written = written.partition(end)[0]
    hidden = special_tokens(tokenizer).keys() - kept_special_ids(tokenizer, template_of(name))
    ids = tokenizer.encode(written, add_special_tokens=False)
    return str(tokenizer.decode([i for i in ids if i not in hidden], clean_up_tokenization_spaces=False))


def read(name: str, prompt: str, written: str, tools: Any = ()) -> ParsedReply:
    """The reply, read in one piece, letter by letter and in pieces of five; all must agree."""
    text = seen(name, written)
    replies = []
    for size in (len(text) or 1, 1, 5):
        reader = ToolCallReader(published.tokenizer(name), prompt, tools, template_of(name))
        events = [event for at in range(0, len(text), size) for event in reader.feed(text[at : at + size])]
        last, reply = reader.finish()
        events += last
        assert "".join(event.text for event in events if isinstance(event, TextDelta)) == reply.text
        assert "".join(e.text for e in events if isinstance(e, ReasoningDelta)) == (reply.reasoning or "")
        replies.append(reply)
    assert replies[0] == replies[1] == replies[2]
    return replies[0]


def calls_of(reply: ParsedReply) -> list[tuple[str, dict[str, Any]]]:
    return [(call.name, call.arguments) for call in reply.tool_calls]


def rendered(name: str, calls: list[tuple[str, dict[str, Any]]], content: str = "") -> tuple[str, str] | None:
    """(prompt, what the family's template writes behind it) for a turn that makes `calls`; None if it refuses."""
    prompt = prompt_of(name, tools=True, enable_thinking=True)  # Gemma 4 writes an empty thought otherwise
    begun = prompt[: len(prompt) - len(opened(name, prompt))]
    header = begun.rpartition("zquser")[2][-17:]
    for as_text in (False, True):
        made = [
            {
                "id": f"abcdef{n:03d}",
                "type": "function",
                "function": {"name": called, "arguments": json.dumps(given) if as_text else given},
            }
            for n, (called, given) in enumerate(calls)
        ]
        turn = {"role": "assistant", "content": content, "tool_calls": made}
        for text in render_with_tools(published.tokenizer(name), [USER, turn], TOOLS, add_generation_prompt=False):
            if calls[0][0] in text.rpartition("zquser")[2]:
                return begun, text[text.index(header, text.rindex("zquser")) + len(header) :]
    return None
