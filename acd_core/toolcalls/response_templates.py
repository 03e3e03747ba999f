r"""How model families write tool calls and reasoning: data for transformers' response parser.

Used only for tokenizers that carry no `response_template` of their own. A row applies when every string of `marks`
occurs in the tokenizer's chat template (what the template renders is what the model was trained to write), and, if
`model_types` is given, when the config's model type is one of them. The first row that applies wins: rows of one family
come first, those of a way of writing that many families share come last.

Beyond transformers' format:
- Fields whose name starts with `tool_calls` all give tool calls (a family may have several ways of writing them), and
  a call may be {"function": {...}}, or {"name" or "tool_name", "arguments" or "parameters"}, or a list of those,
  without a transform. `tool_calls_bare...` opens with no mark of its own: text, unless it is a call of a tool that was
  offered.
- Fields whose name starts with `void` hold nothing: their opening is left out of the text (a header, a stray
  `</think>`); `void_calls...` only where tools are offered.
- Kinds of content: `python` (calls as Python), `json-values` (JSON values one after another), `json-named`
  ([{name: arguments}, ...]), `notation` (Gemma's: {key:value}, strings between `quotes`). See `reply_parser`.
- A leading \s* costs nothing (`reply_parser`). Two \s* that may stand next to each other cost the square of the
  whitespace.
- A pattern must not end in something optional: in a stream it would match before that has come.
- A row without `start_anchor` gets the tokenizer's own generation prompt for it.
- `call_format` says how a call is written where the template does not render calls.

The rows for Qwen and Gemma 4 follow the fallbacks in transformers 5.23 (cli/serving/utils.py, Apache-2.0); the others
were written from the families' chat templates and model cards.
"""

from __future__ import annotations

from acd_core.toolcalls.response_parts import NAME, TemplateRow, calls, template, thought, void

_CHATML, _CHATML_END = r"<\|im_start\|>assistant\n", r"\s*(?:<\|im_end\|>|<\|endoftext\|>|<\|eot_id\|>)"
_LLAMA, _LLAMA_END = r"<\|start_header_id\|>assistant<\|end_header_id\|>\n\n", r"\s*(?:<\|eom_id\|>|<\|eot_id\|>)"
_COHERE, _COHERE_END = r"<\|CHATBOT_TOKEN\|>", r"<\|END_RESPONSE\|>|<\|END_OF_TURN_TOKEN\|>|<\|START_OF_TURN_TOKEN\|>"
_GRANITE, _GRANITE_END = r"<\|start_of_role\|>assistant[^<]*<\|end_of_role\|>", r"<\|end_of_text\|>"
_DEEPSEEK, _DEEPSEEK_END = "<｜Assistant｜>", "<｜end▁of▁sentence｜>"
_GLM_END = r"<\|user\|>|<\|observation\|>|<\|endoftext\|>"

_HERMES = calls(r"\s*<tool_call>", r"</tool_call>")
_HERMES_FORMAT = (
    '<tool_call>\n{"name": "',
    '", "arguments": ',
    "}\n</tool_call>",
    '}\n</tool_call>\n<tool_call>\n{"name": "',
)
# <function=name><parameter=key>value</parameter></function>; around a value one newline each belongs to the format.
_PARAMETERS = {"tag_pattern": r"<parameter=(?P<key>[^>\n]+)>\n?(?P<value>.*?)\n?</parameter>"}
_AT_START = r"(?:\A|(?<=</think>))\s*+"  # of the reply, or of what follows a thought
_BARE_JSON = r'(?=\{\s*"(?:name|type|function)")'
_BARE_PYTHON = r"(?=\[\s*[\w.:/-]+\()"
_DEEPSEEK_CALL_END = "<｜tool▁call▁end｜>|(?=<｜end▁of▁sentence｜>)"
_DEEPSEEK_CALLS = {"void_calls": void(r"\s*<｜tool▁calls▁end｜>")}
# Models call from within a thought that they forget to close.
_HERMES_THOUGHT = thought(until=r"(?=<tool_call>\s*[{<])")
_DEEPSEEK_THOUGHT = thought(until=r"(?=<｜tool▁calls?▁begin｜>)")

ROWS: tuple[TemplateRow, ...] = (
    {  # GLM-4.5 and later: <tool_call>name\n<arg_key>key</arg_key>\n<arg_value>value</arg_value>\n</tool_call>
        "marks": ("<tool_call>", "<arg_key>"),
        "template": template(
            r"<\|assistant\|>",
            _GLM_END,
            thought(),
            tool_calls=calls(
                rf"\s*<tool_call>\s*{NAME}\s*(?=<arg_key>|</tool_call>)",
                "</tool_call>",
                "xml-inline",
                content_args={
                    "tag_pattern": r"<arg_key>\s*(?P<key>(?!</arg_key>)\S(?:(?:(?!</?arg_key>).)*\S)?)\s*</arg_key>"
                    r"\s*<arg_value>(?P<value>.*?)</arg_value>"
                },
            ),
        ),
    },
    {  # Seed-OSS: <function=name><parameter=key>value</parameter></function>
        "marks": ("<seed:tool_call>", "<seed:think>"),
        "template": template(
            "<seed:bos>assistant\n?",
            "<seed:eos>",
            thought("<seed:think>", "</seed:think>", until=r"(?=<seed:tool_call>\s*<function=)"),
            tool_calls=calls(
                r"\s*<seed:tool_call>\s*<function=(?P<name>[^>\n]{1,256})>",
                r"</function>\s*</seed:tool_call>",
                "xml-inline",
                content_args={"tag_pattern": r"<parameter=(?P<key>[^>\n]+)>(?P<value>.*?)</parameter>"},
            ),
        ),
    },
    {  # Qwen 3.5, Qwen3-Coder, Nemotron 3: the same between <tool_call> and </tool_call>
        "marks": ("<tool_call>", "<function=", "<|im_start|>"),
        "template": template(
            _CHATML,
            r"\s*(?:<\|im_end\|>|<\|endoftext\|>)",
            _HERMES_THOUGHT,
            tool_calls=calls(
                r"\s*<tool_call>\s*<function=(?P<name>[^>\n]{1,256})>",
                r"</function>\s*</tool_call>",
                "xml-inline",
                content_args=_PARAMETERS,
            ),
        ),
    },
    {  # MiniCPM3: a fence of Python
        "marks": ("<|tool_call_start|>", "<|thought_start|>"),
        "template": template(
            _CHATML,
            _CHATML_END,
            thought("<|thought_start|>", "<|thought_end|>", until=r"(?=<\|tool_call_start\|>)"),
            tool_calls=calls(r"\s*<\|tool_call_start\|>", r"<\|tool_call_end\|>", "python"),
        ),
    },
    *(
        TemplateRow(  # LFM2 and 2.5: <|tool_call_start|>[name(key='value')]<|tool_call_end|>
            marks=(mark, "<|im_start|>"),
            template=template(
                _CHATML,
                _CHATML_END,
                thought(until=r"(?=<\|tool_call_start\|>)"),
                tool_calls=calls(r"\s*<\|tool_call_start\|>", r"<\|tool_call_end\|>", "python"),
            ),
        )
        for mark in ("<|tool_list_start|>", "<|tool_call_start|>")
    ),
    {  # OLMo 3
        "marks": ("<function_calls>", "<|im_start|>"),
        "template": template(
            _CHATML,
            _CHATML_END,
            thought(),
            tool_calls=calls(r"\s*<function_calls>", "</function_calls>", "python"),
        ),
    },
    {  # InternLM 2.5 with tools
        "marks": ("<|action_start|>", "<|plugin|>"),
        "template": template(
            _CHATML,
            _CHATML_END,
            tool_calls=calls(r"\s*<\|action_start\|>\s*<\|plugin\|>", r"<\|action_end\|>|(?=<\|im_end\|>)"),
        ),
    },
    {  # Qwen 2.5 and 3, Hermes, SmolLM and other ChatML models: <tool_call>{"name": ..., "arguments": ...}</tool_call>
        "marks": ("<tool_call>", "<|im_start|>"),
        "template": template(_CHATML, _CHATML_END, _HERMES_THOUGHT, tool_calls=_HERMES),
        "call_format": _HERMES_FORMAT,
    },
    {  # Hermes style calls under Llama 3's headers
        "marks": ("<tool_call>", "<|start_header_id|>"),
        "template": template(_LLAMA, _LLAMA_END, _HERMES_THOUGHT, tool_calls=_HERMES),
    },
    {  # Firefunction 2: functools[{"name": ..., "arguments": ...}]
        "marks": ("functools[", "<|start_header_id|>"),
        "template": template(
            _LLAMA, _LLAMA_END, tool_calls=calls(r"\s*functools\s*(?=\[)", r"(?=<\|eom_id\|>|<\|eot_id\|>)")
        ),
    },
    {  # Functionary 3.1: <function=name>{...}</function>; its tool named python is called by <|python_tag|>
        "marks": ("<function=", "<|start_header_id|>"),
        "template": template(
            _LLAMA,
            _LLAMA_END,
            tool_calls=calls(rf"\s*<function={NAME}>", r"</function>|(?=<\|eom_id\|>|<\|eot_id\|>)"),
            tool_calls_python=calls(
                r"\s*<\|python_tag\|>\s*(?=\{)",
                r"(?=<\|eom_id\|>|<\|eot_id\|>)",
                transform={"type": "function", "function": {"name": "python", "arguments": "{content}"}},
            ),
        ),
    },
    {  # Llama 3.1 to 3.3: the whole reply is {"name": ..., "parameters": ...}, at times after <|python_tag|>, or Python
        "marks": ("<|start_header_id|>", '"parameters": '),
        "template": template(
            _LLAMA,
            r"<\|eom_id\|>|<\|eot_id\|>",
            tool_calls=calls(
                rf"{_AT_START}(?:<\|python_tag\|>\s*+)?{_BARE_JSON}", r"<\|eom_id\|>|<\|eot_id\|>", "json-values"
            ),
            tool_calls_python=calls(
                rf"{_AT_START}(?:<\|python_tag\|>\s*+)?{_BARE_PYTHON}", r"<\|eom_id\|>|<\|eot_id\|>", "python"
            ),
        ),
    },
    {  # Llama 4: the same; its template puts text before a call between <|python_start|> and <|python_end|>
        "marks": ("<|header_start|>", "<|python_start|>"),
        "template": template(
            r"<\|header_start\|>assistant<\|header_end\|>\n\n",
            r"<\|eom\|>|<\|eot\|>",
            {"void_python": void(r"<\|python_start\|>|<\|python_end\|>")},
            tool_calls=calls(
                rf"(?:\A|<\|python_start\|>|<\|python_end\|>)\s*+{_BARE_JSON}",
                r"<\|python_end\|>|(?=<\|eom\|>|<\|eot\|>)",
                "json-values",
            ),
            tool_calls_python=calls(
                rf"(?:\A|<\|python_start\|>)\s*+{_BARE_PYTHON}", r"<\|python_end\|>|(?=<\|eom\|>|<\|eot\|>)", "python"
            ),
        ),
    },
    {  # Mistral: [TOOL_CALLS] [{"name": ..., "arguments": ...}], newer: [TOOL_CALLS]name[ARGS]{...}
        "marks": ("[TOOL_CALLS]", "[INST]"),
        "template": template(
            r"\[/(?:INST|TOOL_RESULTS|AVAILABLE_TOOLS)\]",
            "</s>",
            thought("[THINK]", "[/THINK]"),
            tool_calls=calls(r"\s*\[TOOL_CALLS\]\s*(?=\[)", "</s>"),
            tool_calls_named=calls(
                r"\s*\[TOOL_CALLS\]\s*(?P<name>[\w.:/-]{1,256})\s*(?:\[CALL_ID\]\w*)?(?:\[ARGS\]|(?=\{))",
                r"(?=\[TOOL_CALLS\])|</s>",
            ),
        ),
    },
    {  # Phi-4-mini: functools[{...}] or <|tool_call|>[{...}]<|/tool_call|>
        "marks": ("<|tool|>", "<|assistant|>"),
        "template": template(
            r"<\|assistant\|>",
            r"<\|end\|>",
            thought(),
            tool_calls=calls(r"\s*(?:<\|tool_call\|>\s*|functools\s*)(?=\[)", r"<\|/tool_call\|>|(?=<\|end\|>)"),
        ),
        "call_format": (
            '<|tool_call|>[{"name": "',
            '", "arguments": ',
            "}]<|/tool_call|>",
            '}, {"name": "',
        ),
    },
    {  # Gemma 4
        "marks": ("<|tool_call>", "<|turn>"),
        "template": template(
            r"<\|turn>model\n|<tool_response\|>",
            r"<turn\|>|<\|tool_response>|<eos>",
            thought("<|channel>thought\n", "<channel|>"),
            tool_calls=calls(
                rf"\s*<\|tool_call>call:{NAME}",
                r"<tool_call\|>",
                "notation",
                content_args={"quotes": ['<|"|>']},
            ),
        ),
    },
    {  # FunctionGemma
        "marks": ("<start_function_call>", "<start_of_turn>"),
        "template": template(
            "<start_of_turn>model\n",
            "<end_of_turn>|<start_function_response>",
            tool_calls=calls(
                rf"\s*<start_function_call>call:{NAME}",
                "<end_function_call>",
                "notation",
                content_args={"quotes": ["<escape>"]},
            ),
        ),
    },
    {  # gpt-oss: <|channel|>analysis|commentary|final<|message|>...; calls say to=functions.name beside the channel
        "marks": ("<|channel|>", "<|message|>", "<|start|>"),
        "reopens": "<|start|>assistant",
        "answers": "<|channel|>final<|message|>",
        "template": template(
            r"<\|start\|>assistant",
            r"<\|end\|>|<\|return\|>",
            {
                "reasoning_content": {
                    "open_pattern": r"\s*(?:<\|start\|>\s*assistant\s*)?<\|channel\|>\s*analysis(?:(?!to=)[^<]){0,256}"
                    r"<\|message\|>",
                    "close_pattern": r"<\|end\|>|<\|return\|>|(?=<\|start\|>|<\|channel\|>)",
                    "content": "text",
                },
                "void_channel": void(
                    r"\s*(?:<\|start\|>\s*assistant\s*)?<\|channel\|>\s*(?:final|commentary)(?:(?!to=)[^<]){0,256}"
                    r"(?:<\|constrain\|>[^<]{0,256})?<\|message\|>"
                ),
            },
            tool_calls=calls(
                r"\s*(?:<\|start\|>\s*assistant\s*)?(?:to=(?:functions\.)?(?P<name>[\w.:/-]{1,256})\s*<\|channel\|>[^<]{0,256}"
                r"|<\|channel\|>\s*\w+\s+to=(?:functions\.)?(?P<name>[\w.:/-]{1,256}+)[^<]{0,256}+)(?:<\|constrain\|>[^<]{0,256})?"
                r"<\|message\|>",
                r"<\|call\|>|<\|end\|>|<\|return\|>|(?=<\|start\|>|<\|channel\|>)",
            ),
        ),
    },
    {  # Apertus: <|tools_prefix|>[{"name": {...}}]<|tools_suffix|>
        "marks": ("<|tools_prefix|>", "<|assistant_start|>"),
        "template": template(
            r"<\|assistant_start\|>",
            r"<\|assistant_end\|>",
            thought("<|inner_prefix|>", "<|inner_suffix|>", until=r"(?=<\|tools_prefix\|>|<\|assistant_end\|>)"),
            tool_calls=calls(r"\s*<\|tools_prefix\|>", r"<\|tools_suffix\|>|(?=<\|assistant_end\|>)", "json-named"),
        ),
    },
    {  # Command-R7B, Command A
        "marks": ("<|START_ACTION|>", "<|CHATBOT_TOKEN|>"),
        "template": template(
            _COHERE,
            _COHERE_END,
            thought("<|START_THINKING|>", "<|END_THINKING|>", until=r"(?=<\|START_ACTION\|>)"),
            {"void_response": void(r"<\|START_RESPONSE\|>")},
            tool_calls=calls(r"\s*<\|START_ACTION\|>", r"<\|END_ACTION\|>|(?=<\|END_OF_TURN_TOKEN\|>)"),
        ),
    },
    {  # Command-R: Action: and a fence of JSON
        "marks": ("Action:", "```json", "<|CHATBOT_TOKEN|>"),
        "template": template(
            _COHERE,
            _COHERE_END,
            tool_calls=calls(r"\s*Action:\s*```(?:json)?\s*(?=\[)", r"(?<=\])\s*```|(?=<\|END_OF_TURN_TOKEN\|>)"),
        ),
    },
    {  # DeepSeek V3, R1 and its distillates: the type, the name and a fence of JSON
        "marks": ("<｜tool▁sep｜>", "```json"),
        "template": template(
            _DEEPSEEK,
            _DEEPSEEK_END,
            _DEEPSEEK_THOUGHT,
            _DEEPSEEK_CALLS,
            tool_calls=calls(
                rf"\s*(?:<｜tool▁calls▁begin｜>\s*)?<｜tool▁call▁begin｜>\s*\w+\s*<｜tool▁sep｜>\s*{NAME}"
                r"\s*```json\s*",
                rf"\s*```\s*(?:{_DEEPSEEK_CALL_END})",
            ),
        ),
        "call_format": (
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>",
            "\n```json\n",
            "\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            "\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
        ),
    },
    {  # DeepSeek V3.1 and later: the name and JSON
        "marks": ("<｜tool▁sep｜>",),
        "template": template(
            _DEEPSEEK,
            _DEEPSEEK_END,
            _DEEPSEEK_THOUGHT,
            _DEEPSEEK_CALLS,
            tool_calls=calls(
                rf"\s*(?:<｜tool▁calls▁begin｜>\s*)?<｜tool▁call▁begin｜>\s*{NAME}\s*<｜tool▁sep｜>",
                _DEEPSEEK_CALL_END,
            ),
        ),
    },
    {  # Kimi K2: functions.name:0 and JSON
        "marks": ("<|tool_call_begin|>", "<|tool_call_argument_begin|>"),
        "template": template(
            r"<\|im_assistant\|>assistant<\|im_middle\|>",
            r"<\|im_end\|>",
            thought(until=r"(?=<\|tool_calls_section_begin\|>)"),
            {"void_calls": void(r"\s*<\|tool_calls_section_end\|>")},
            tool_calls=calls(
                r"\s*(?:<\|tool_calls_section_begin\|>\s*)?<\|tool_call_begin\|>\s*(?:functions\.)?"
                r"(?P<name>[\w.:/-]{1,256}?)(?::\d+)?\s*<\|tool_call_argument_begin\|>",
                r"<\|tool_call_end\|>|(?=<\|im_end\|>)",
            ),
        ),
        "call_format": (
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.",
            ":0<|tool_call_argument_begin|>",
            "<|tool_call_end|><|tool_calls_section_end|>",
            "",
        ),
    },
    {  # Jamba
        "marks": ("<tool_calls>", "<|bom|>"),
        "template": template(
            r"<\|bom\|><\|assistant\|>",
            r"<\|eom\|>",
            tool_calls=calls(r"\s*<tool_calls>", r"</tool_calls>|(?=<\|eom\|>)"),
        ),
    },
    {  # Nemotron Nano 2
        "marks": ("<TOOLCALL>", "<SPECIAL_11>"),
        "template": template(
            "<SPECIAL_11>Assistant\n",
            r"\s*(?:<SPECIAL_12>|<SPECIAL_11>)",
            thought(),
            tool_calls=calls(r"\s*<TOOLCALL>", r"</TOOLCALL>|(?=<SPECIAL_12>)"),
        ),
    },
    {  # MiniMax M2: <minimax:tool_call><invoke name="name"><parameter name="key">value</parameter></invoke>...
        "marks": ("<minimax:tool_call>", "<invoke name="),
        "template": template(
            None,
            r"\[e~\[",
            thought(),
            {"void_calls": void(r"\s*</minimax:tool_call>")},
            tool_calls=calls(
                r'\s*(?:<minimax:tool_call>\s*)?<invoke name="?(?P<name>[^">\n]{1,256})"?>',
                "</invoke>",
                "xml-inline",
                content_args={"tag_pattern": r'<parameter name="?(?P<key>[^">\n]+)"?>\n?(?P<value>.*?)\n?</parameter>'},
            ),
        ),
    },
    {  # Granite 3: <|tool_call|>[{...}], and thoughts with <response> when asked to think
        "marks": ("<|tool_call|>", "<|start_of_role|>"),
        "template": template(
            _GRANITE,
            _GRANITE_END,
            thought(),
            {"void_response": void("</?response>")},
            tool_calls=calls(r"\s*(?:<\|tool_call\|>|<tool_call>)\s*(?=\[)", r"(?=<\|end_of_text\|>)"),
        ),
        "call_format": ('<|tool_call|>[{"name": "', '", "arguments": ', "}]", '}, {"name": "'),
    },
    {  # GLM-4: the name, a newline and JSON; the model then waits for <|observation|>
        "marks": ("[gMASK]", "<|assistant|>"),
        "template": template(
            r"<\|assistant\|>",
            _GLM_END,
            tool_calls_bare=calls(rf"{_AT_START}{NAME}[ \t]*\n\s*(?=\{{)", _GLM_END),
        ),
        "call_format": ("", "\n", "", ""),
    },
    {  # Hermes style calls under any other header (EXAONE 4, Granite 4, Falcon 3, ...)
        "marks": ("<tool_call>", "</tool_call>"),
        "template": template(
            None,
            r"\s*(?:<\|im_end\|>|<\|end_of_text\|>|\[\|endofturn\|\]|<\|endoftext\|>|<\|end\|>)",
            thought(),
            tool_calls=_HERMES,
        ),
        "call_format": _HERMES_FORMAT,
    },
    {  # EXAONE Deep
        "marks": ("<thought>", "[|assistant|]"),
        "template": template(r"\[\|assistant\|\]", r"\s*\[\|endofturn\|\]", thought("<thought>", "</thought>")),
    },
    {  # Models that mark their reasoning and show no tools
        "marks": ("</think>",),
        "template": template(
            None, r"\s*(?:<\|im_end\|>|<\|end_of_text\|>|\[\|endofturn\|\]|<\|endoftext\|>|<\|end\|>)", thought()
        ),
    },
)
