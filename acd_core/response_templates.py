"""How model families write tool calls and reasoning: data for transformers' response parser.

Used only for tokenizers that carry no `response_template` of their own. A row applies when every string of `marks`
occurs in the tokenizer's chat template (what the template renders is what the model was trained to write), and, if
`model_types` is given, when the config's model type is one of them. The first row that applies wins.

Two things beyond transformers' format: fields whose name starts with `tool_calls` all give tool calls (a family may
have two ways of writing them), and a call may be {"function": {...}}, or {"name", "arguments"}, or {"name",
"parameters"}, or a list of those, without a transform.

The rows for Qwen and Gemma 4 follow the fallbacks in transformers 5.23 (cli/serving/utils.py, Apache-2.0); the others
were written from the families' chat templates.
"""

from __future__ import annotations

from typing import Any, TypedDict


class TemplateRow(TypedDict, total=False):
    """One row: when it applies, and the template."""

    marks: tuple[str, ...]
    model_types: tuple[str, ...]
    template: dict[str, Any]


_THINK = {"open": "<think>", "close": "</think>", "content": "text"}
# A leading \s* swallows the newline between two calls, which would otherwise be a piece of content.
_HERMES_CALL = {"open_pattern": r"\s*<tool_call>", "close": "</tool_call>", "repeats": True, "content": "json"}

ROWS: tuple[TemplateRow, ...] = (
    {  # Qwen 3.5, Qwen3-Coder: <tool_call><function=name><parameter=key>value</parameter></function></tool_call>
        "marks": ("<tool_call>", "<function=", "<|im_start|>"),
        "template": {
            "start_anchor": "<|im_start|>assistant\n",
            "fields": {
                "reasoning_content": _THINK,
                "tool_calls": {
                    "open_pattern": r"\s*<tool_call>\s*<function=(?P<name>[^>\n]+)>",
                    "close_pattern": r"</function>\s*</tool_call>",
                    "repeats": True,
                    "content": "xml-inline",
                    "content_args": {
                        "tag_pattern": r"<parameter=(?P<key>[^>\n]+)>\s*(?P<value>.*?)\s*</parameter>",
                    },
                    "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
                },
                "content": {"close_pattern": r"\s*(?:<\|im_end\|>|<\|endoftext\|>)", "content": "text"},
            },
        },
    },
    {  # Qwen 2.5 and 3, Hermes, SmolLM and other ChatML models: <tool_call>{"name": ..., "arguments": ...}</tool_call>
        "marks": ("<tool_call>", "<|im_start|>"),
        "template": {
            "start_anchor": "<|im_start|>assistant\n",
            "fields": {
                "reasoning_content": _THINK,
                "tool_calls": _HERMES_CALL,
                "content": {"close_pattern": r"\s*(?:<\|im_end\|>|<\|endoftext\|>|<\|eot_id\|>)", "content": "text"},
            },
        },
    },
    {  # Hermes style calls under Llama 3's headers
        "marks": ("<tool_call>", "<|start_header_id|>"),
        "template": {
            "start_anchor": "<|start_header_id|>assistant<|end_header_id|>\n\n",
            "fields": {
                "reasoning_content": _THINK,
                "tool_calls": _HERMES_CALL,
                "content": {"close_pattern": r"\s*<\|eot_id\|>", "content": "text"},
            },
        },
    },
    {  # Llama 3.1 to 3.3: the whole reply is {"name": ..., "parameters": ...}, at times after <|python_tag|>
        "marks": ("<|start_header_id|>", '"parameters": '),
        "template": {
            "start_anchor": "<|start_header_id|>assistant<|end_header_id|>\n\n",
            "fields": {
                "tool_calls": {
                    "open_pattern": r'\A\s*(?:<\|python_tag\|>)?\s*(?=\{\s*"(?:name|type)")',
                    "close_pattern": r"<\|eom_id\|>|<\|eot_id\|>",
                    "repeats": True,
                    "content": "json",
                },
                "content": {"close_pattern": r"<\|eom_id\|>|<\|eot_id\|>", "content": "text"},
            },
        },
    },
    {  # Mistral: [TOOL_CALLS] [{"name": ..., "arguments": ...}], newer: [TOOL_CALLS]name[ARGS]{...}
        "marks": ("[TOOL_CALLS]", "[INST]"),
        "template": {
            "start_anchor_pattern": r"\[/(?:INST|TOOL_RESULTS|AVAILABLE_TOOLS)\]",
            "fields": {
                "reasoning_content": {"open": "[THINK]", "close": "[/THINK]", "content": "text"},
                "tool_calls": {
                    "open_pattern": r"\s*\[TOOL_CALLS\]\s*(?=\[)",
                    "close": "</s>",
                    "repeats": True,
                    "content": "json",
                },
                "tool_calls_named": {
                    "open_pattern": r"\s*\[TOOL_CALLS\]\s*(?P<name>[\w.-]+)(?:\[CALL_ID\]\w*)?\[ARGS\]",
                    "close_pattern": r"(?=\[TOOL_CALLS\])|</s>",
                    "repeats": True,
                    "content": "json",
                    "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
                },
                "content": {"close": "</s>", "content": "text"},
            },
        },
    },
    {  # Phi-4-mini: functools[{...}] or <|tool_call|>[{...}]<|/tool_call|>
        "marks": ("<|tool|>", "<|assistant|>"),
        "template": {
            "start_anchor": "<|assistant|>",
            "fields": {
                "tool_calls": {
                    "open_pattern": r"\s*(?:<\|tool_call\|>\s*|functools\s*)(?=\[)",
                    "close_pattern": r"<\|/tool_call\|>|<\|end\|>",
                    "repeats": True,
                    "content": "json",
                },
                "content": {"close_pattern": r"<\|end\|>", "content": "text"},
            },
        },
    },
    {  # Gemma 4
        "marks": ("<|tool_call>", "<|turn>"),
        "template": {
            "start_anchor": ["<|turn>model\n", "<tool_response|>"],
            "fields": {
                "reasoning_content": {"open": "<|channel>thought\n", "close": "<channel|>", "content": "text"},
                "tool_calls": {
                    "open_pattern": r"<\|tool_call>call:(?P<name>\w+)",
                    "close": "<tool_call|>",
                    "repeats": True,
                    "content": "json",
                    "content_args": {"unquoted_keys": True, "string_delims": [['<|"|>', '<|"|>']]},
                    "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
                },
                "content": {"close": ["<turn|>", "<|tool_response>", "<eos>"], "content": "text"},
            },
        },
    },
    {  # FunctionGemma
        "marks": ("<start_function_call>", "<start_of_turn>"),
        "template": {
            "start_anchor": "<start_of_turn>model\n",
            "fields": {
                "tool_calls": {
                    "open_pattern": r"\s*<start_function_call>call:(?P<name>[\w.-]+)",
                    "close": "<end_function_call>",
                    "repeats": True,
                    "content": "json",
                    "content_args": {"unquoted_keys": True, "string_delims": [["<escape>", "<escape>"]]},
                    "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
                },
                "content": {"close": ["<end_of_turn>", "<start_function_response>"], "content": "text"},
            },
        },
    },
    {  # Models that mark their reasoning and have no tools (DeepSeek-R1 distillates and the like)
        "marks": ("</think>", "<|im_start|>"),
        "template": {
            "start_anchor": "<|im_start|>assistant\n",
            "fields": {
                "reasoning_content": _THINK,
                "content": {"close_pattern": r"\s*<\|im_end\|>", "content": "text"},
            },
        },
    },
)
