"""The parts that response templates are made of (acd_core.toolcalls.response_templates)."""

from __future__ import annotations

import re
from typing import Any, TypedDict

Fields = dict[str, dict[str, Any]]


class TemplateRow(TypedDict, total=False):
    """One row: when it applies, the template, (head, middle, tail, separator) of a call as JSON, what opens the
    reply again behind a thought, where a thought is a turn of its own, and what stands at the head of its words."""

    marks: tuple[str, ...]
    model_types: tuple[str, ...]
    template: dict[str, Any]
    call_format: tuple[str, str, str, str]
    reopens: str
    answers: str


LETTERS = r"[\w.:/-]{1,256}"  # of a name; without an end, a reply of letters would be held back and read again for each
NAME = rf"(?P<name>{LETTERS})"
_NAMED = {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}}


def thought(open_mark: str = "<think>", close_mark: str = "</think>", *, until: str = "") -> Fields:
    """Make the fields of reasoning between two marks. until: a pattern that ends it too.

    A closing mark without the opening one is left out: what stood before it has been given out as text already.
    """
    end: dict[str, Any] = {"close": close_mark}
    if until:
        end = {"close_pattern": f"{re.escape(close_mark)}|{until}"}
    return {
        "reasoning_content": {"open": open_mark, **end, "content": "text"},
        "void_thought": {"open": close_mark, "close_pattern": "", "content": "text"},
    }


def calls(open_pattern: str, close_pattern: str, content: str = "json", **more: Any) -> dict[str, Any]:
    """Calls that may be repeated. A leading \\s* in the pattern swallows the whitespace between two, which would
    otherwise be a piece of content."""
    named = {"transform": _NAMED} if "(?P<name>" in open_pattern else {}
    return {
        "open_pattern": open_pattern,
        "close_pattern": close_pattern,
        "repeats": True,
        "content": content,
        **named,
        **more,
    }


def void(pattern: str) -> dict[str, Any]:
    """Make the field of a mark that is left out of the text."""
    return {"open_pattern": pattern, "close_pattern": "", "content": "text"}


def template(anchor: str | None, end: str, *fields: Fields, **regions: dict[str, Any]) -> dict[str, Any]:
    """Make a response template.

    anchor: a pattern of what opens the reply, None for the tokenizer's own generation prompt. end: a pattern of what
    ends it. regions: further fields by name.
    """
    found: Fields = {}
    for group in fields:
        found |= group
    made: dict[str, Any] = {"fields": {**found, **regions, "content": {"close_pattern": end, "content": "text"}}}
    return {"start_anchor_pattern": anchor, **made} if anchor else made
