"""Special tokens, chat template and response template of the reference model, and the same layout in Python."""

from __future__ import annotations

import json
from typing import Any

BEGIN, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
SYSTEM, USER, ASSISTANT, TOOL = "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"
CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"
SPECIAL_TOKENS: tuple[str, ...] = (PAD, BEGIN, END, SYSTEM, USER, ASSISTANT, TOOL, CALL_OPEN, CALL_CLOSE)

CHAT_TEMPLATE = """\
{%- macro text(content) -%}
{%- if content is string -%}{{- content -}}
{%- elif content is not none and content is defined -%}{%- for part in content -%}{%- if part is string -%}{{- part -}}{%- elif part.text is defined -%}{{- part.text -}}{%- endif -%}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{{- bos_token -}}
{%- set shown = namespace(tools=false) -%}
{%- macro tool_list() -%}{{- 'Tools:' -}}{%- for tool in tools -%}{{- '\\n' + (tool | tojson(separators=(',', ':'))) -}}{%- endfor -%}{%- endmacro -%}
{%- if tools and (not messages or messages[0].role != 'system') -%}{%- set shown.tools = true -%}{{- '<|system|>' + tool_list() + '<|end|>' -}}{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'system' or message.role == 'developer' -%}
{%- set body = text(message.content) -%}
{%- if tools and not shown.tools -%}{%- set shown.tools = true -%}{{- '<|system|>' + body + ('\\n\\n' if body else '') + tool_list() + '<|end|>' -}}
{%- elif body -%}{{- '<|system|>' + body + '<|end|>' -}}{%- endif -%}
{%- elif message.role == 'assistant' -%}
{{- '<|assistant|>' + text(message.content) -}}
{%- for call in message.tool_calls or [] -%}
{%- set function = call.function if call.function is defined else call -%}
{{- '<tool_call>{"name": ' + (function.name | tojson) + ', "arguments": ' + (function.arguments if function.arguments is string else (function.arguments | tojson)) + '}</tool_call>' -}}
{%- endfor -%}
{{- '<|end|>' -}}
{%- elif message.role == 'tool' -%}{{- '<|tool|>' + text(message.content) + '<|end|>' -}}
{%- else -%}{{- '<|user|>' + text(message.content) + '<|end|>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""

RESPONSE_TEMPLATE: dict[str, Any] = {
    "version": 1,
    "defaults": {"role": "assistant"},
    "start_anchor": ASSISTANT,
    "fields": {
        "tool_calls": {
            "open_pattern": r"\s*<tool_call>",
            "close": CALL_CLOSE,
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": r"\s*<\|end\|>", "content": "text"},
    },
}


def segments(messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> list[tuple[str, bool]]:
    """The chat as (text, learn) pieces; joined they equal the chat template's output, and `learn` marks what the assistant says."""
    pieces: list[tuple[str, bool]] = [(BEGIN, False)]
    rest = list(messages)
    system = rest.pop(0)["content"] if rest and rest[0]["role"] == "system" else ""
    if tools:
        listing = "Tools:" + "".join(
            "\n" + json.dumps(tool, ensure_ascii=False, separators=(",", ":")) for tool in tools
        )
        system = f"{system}\n\n{listing}" if system else listing
    if system:
        pieces.append((f"{SYSTEM}{system}{END}", False))
    for message in rest:
        if message["role"] == "assistant":
            said = message.get("content") or ""
            for call in message.get("tool_calls") or ():
                function = call["function"]
                said += f'{CALL_OPEN}{{"name": {json.dumps(function["name"], ensure_ascii=False)}, "arguments": {json.dumps(function["arguments"], ensure_ascii=False)}}}{CALL_CLOSE}'
            pieces.append((ASSISTANT, False))
            pieces.append((said + END, True))
        else:
            mark = {"user": USER, "tool": TOOL, "system": SYSTEM}[message["role"]]
            pieces.append((f"{mark}{message['content']}{END}", False))
    return pieces
