"""Whatever a model writes, and however long, its reply is read in time that grows with it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from acd_core.toolcalls import ToolCallReader
from acd_core.toolcalls.reply_parser import entered_once
from acd_core.toolcalls.response_templates import ROWS
from tests.scripted import HERMES, make_tokenizer

LENGTH = 20_000
SIGNS = (" ", "\n", "[", "{", "(", '"', "'", "\\", "<", "`", "a", "0", ",", ":", "=")
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"properties": {"a": {"type": "integer"}}}}}


def marks_of(row: Any) -> list[str]:
    """Literal pieces of the patterns of a row."""
    found = set()
    for field in row["template"]["fields"].values():
        for key in ("open", "open_pattern", "close", "close_pattern"):
            for piece in re.findall(r"(?:\\[|.\[\]]|[<>\w/=:｜▁-])+", field.get(key) or ""):
                found.add(re.sub(r"\\(.)", r"\1", piece))
    return sorted(mark for mark in found if len(mark) > 3)


def texts_of(row: Any) -> Iterator[str]:
    yield from (sign * LENGTH for sign in SIGNS)
    for mark in marks_of(row):
        yield from (mark + sign * LENGTH for sign in (" ", "a", "[", '"'))
        yield (mark + " ") * (LENGTH // len(mark))


BODIES = {  # what stands open within a call that is closed
    ("<tool_call>", "<arg_key>"): (
        "<tool_call>add", ("<arg_key>", "<arg_key> ", "<arg_key>a</arg_key><arg_value>"), "</tool_call>",
    ),
    ("<tool_call>", "<function=", "<|im_start|>"): (
        "<tool_call><function=add>", ("<parameter=a>", "<parameter=a>\n", "<parameter="), "</function></tool_call>",
    ),
    ("<|tool_call_start|>", "<|thought_start|>"): (
        "<|tool_call_start|>", ("[add(a='", "[add(a=", "```python\n", "```"), "<|tool_call_end|>",
    ),
    ("<|tool_call>", "<|turn>"): ("<|tool_call>call:add", ("", "{", "{a:"), "<tool_call|>"),
}  # fmt: skip


def bodies_of(row: Any) -> Iterator[str]:
    before, begun, after = BODIES.get(row["marks"], ("", (), ""))
    for opening in begun:
        yield before + opening * (LENGTH // max(len(opening), 1)) + after
        yield from (before + opening + sign * LENGTH + after for sign in SIGNS)


def read_row(index: int) -> None:
    """All texts of one row, whole and in pieces."""
    row, tokenizer = ROWS[index], make_tokenizer(HERMES)
    template = row["template"]
    if "start_anchor_pattern" not in template:
        template = {**template, "start_anchor": "<|im_start|>assistant\n"}
    for text in (*texts_of(row), *bodies_of(row)):
        for size in (LENGTH * 2, 200):
            reader = ToolCallReader(tokenizer, "", [TOOL], template)
            for start in range(0, len(text), size):
                reader.feed(text[start : start + size])
            reader.finish()


def test_every_row_reads_every_sign_and_mark_repeated() -> None:
    """The limit is far beyond what a slow machine takes (seconds), and far below the square or the cube of the length
    (hours: 2,000 spaces took 31 seconds in gpt-oss's row)."""
    code = "from tests.core.test_reply_limits import ROWS, read_row; [read_row(index) for index in range(len(ROWS))]"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)


def test_a_pattern_that_a_tokenizer_brings_is_given_up_in_time() -> None:
    """Exponential in the text: without a limit this test would not end."""
    template = {
        "start_anchor": "<|im_start|>assistant\n",
        "fields": {
            "tool_calls": {"open_pattern": r"(?:(?:a|a)+)+b<x>", "close": "</x>", "content": "json", "repeats": True},
            "content": {"close": "<|im_end|>", "content": "text"},
        },
    }
    reader = ToolCallReader(make_tokenizer(HERMES), "", [TOOL], template)
    reader.feed("a" * 60 + "!")
    assert reader.finish()[1].text == "a" * 60 + "!"


@pytest.mark.parametrize("text", ["a  <x>", "  <x>", "a\n\n b <x>  <x>", "<x>", "a<x", "   "])
def test_whitespace_entered_once_finds_the_same(text: str) -> None:
    regex = pytest.importorskip("regex")  # transformers' own

    plain, once = regex.compile(r"\s*<x>"), regex.compile(entered_once(r"\s*<x>"))
    for start in range(len(text)):
        for partial in (False, True):
            found = [each.search(text, start, partial=partial) for each in (plain, once)]
            assert [m and (m.span(), m.partial) for m in found][:1] * 2 == [m and (m.span(), m.partial) for m in found]
    assert entered_once(r"\s*?<x>") == r"\s*?<x>"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("[" * 10_000 + "]" * 10_000, "nested too deeply"),
        ('{"a": ' + "[" * 10_000 + "]" * 10_000 + "}", "nested too deeply"),
        ('{"a": ' + "[" * 100 + "]" * 100 + "}", "nested too deeply"),
        ('{"a": ' * 80 + "1" + "}" * 80, "nested too deeply"),
        ('{"a": NaN}', "nan"),
        ('{"a": -Infinity}', "inf"),
        ('{"a": 1e999}', "inf"),
        ('{"a": ' + "9" * 2000 + "}", "1000 digits"),
        ('{"a": ' + "9" * 9000 + "}", ""),
    ],
)
def test_arguments_that_are_no_json_make_an_invalid_call(arguments: str, said: str) -> None:
    hermes = next(row["template"] for row in ROWS if row["marks"] == ("<tool_call>", "<|im_start|>"))
    reader = ToolCallReader(make_tokenizer(HERMES), "", [TOOL], hermes)
    reader.feed('<tool_call>{"name": "add", "arguments": ' + arguments + "}</tool_call>")
    reply = reader.finish()[1]
    assert reply.tool_calls == ()
    assert len(reply.invalid_tool_calls) == 1
    assert re.search(said, reply.invalid_tool_calls[0].error, re.IGNORECASE)


def test_of_a_key_that_is_written_twice_the_last_counts() -> None:
    hermes = next(row["template"] for row in ROWS if row["marks"] == ("<tool_call>", "<|im_start|>"))
    reader = ToolCallReader(make_tokenizer(HERMES), "", [TOOL], hermes)
    reader.feed('<tool_call>{"name": "add", "arguments": {"a": 1, "a": 2}}</tool_call>')
    assert [json.dumps(call.arguments) for call in reader.finish()[1].tool_calls] == ['{"a": 2}']
