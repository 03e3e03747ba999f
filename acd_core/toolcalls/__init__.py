"""Tool calls and reasoning out of a model's text, and how its family writes them."""

from acd_core.toolcalls.call_formats import (
    ToolCallFormat,
    answering,
    chat_template_text,
    render_with_tools,
    reopening,
    response_template_for,
    special_tokens,
    thought_marks,
    tool_call_format,
)
from acd_core.toolcalls.reader import ParsedReply, ToolCallReader, kept_special_ids, parses_thoughts, parses_tools

__all__ = [
    "ParsedReply",
    "ToolCallFormat",
    "ToolCallReader",
    "answering",
    "chat_template_text",
    "kept_special_ids",
    "parses_thoughts",
    "parses_tools",
    "render_with_tools",
    "reopening",
    "response_template_for",
    "special_tokens",
    "thought_marks",
    "tool_call_format",
]
