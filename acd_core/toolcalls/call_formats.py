"""What is known of how a model writes its replies, from its tokenizer: the response template, and the form of a call.

The form of a call is found by rendering some with the model's own chat template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from acd_core.toolcalls.response_parts import TemplateRow, thought
from acd_core.toolcalls.response_templates import ROWS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TOOL = {
    "type": "function",
    "function": {
        "name": "zqtool",
        "description": "x",
        "parameters": {
            "type": "object",
            "properties": {"zqargument": {"type": "string", "description": "x"}},
            "required": ["zqargument"],
        },
    },
}
_USER = {"role": "user", "content": "zquser"}


@dataclass(frozen=True)
class ToolCallFormat:
    """How a model writes calls, as text around the name and the JSON of the arguments:
    `head name middle arguments tail`, and with several calls `separator` between arguments and the next name."""

    head: str
    middle: str
    tail: str
    separator: str | None = None

    @classmethod
    def around(cls, open_text: str, close_text: str) -> ToolCallFormat:
        """Make the format `open_text {"name": name, "arguments": arguments} close_text`, repeated with a newline
        between."""
        head, tail = open_text + '{"name": "', "}" + close_text
        return cls(head, '", "arguments": ', tail, tail + "\n" + head)


def chat_template_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the tokenizer's chat template as one string (several named ones joined); "" without."""
    template = getattr(tokenizer, "chat_template", None) or ""
    return "\n".join(template.values()) if isinstance(template, dict) else str(template)


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Return every special token by its id.

    Those are the named ones (BOS, EOS, ...) and those the vocabulary marks (Llama 3's `<|python_tag|>`, say), which
    `all_special_ids` leaves out.
    """
    named = zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
    marked = ((i, token.content) for i, token in tokenizer.added_tokens_decoder.items() if token.special)
    return {int(i): str(text) for i, text in (*named, *marked)}


def response_template_for(tokenizer: PreTrainedTokenizerBase, model_type: str | None = None) -> dict[str, Any] | None:
    """Return the tokenizer's own response template, else the first row of our table that applies, else None.

    model_type: the config's; a row that lists model types applies to those only.
    """
    own = getattr(tokenizer, "response_template", None)
    if own is not None:
        return dict(own)
    found = _matching_row(tokenizer, model_type)
    return found[1] if found else None


def reopening(tokenizer: PreTrainedTokenizerBase, model_type: str | None = None) -> str:
    """Return what a model writes behind a thought before anything else, where the thought ends its turn (gpt-oss)."""
    found = _matching_row(tokenizer, model_type)
    return found[0].get("reopens", "") if found else ""


def answering(tokenizer: PreTrainedTokenizerBase, model_type: str | None = None) -> str:
    """Return what a model writes at the head of its words, where they have a mark of their own (gpt-oss)."""
    found = _matching_row(tokenizer, model_type)
    return found[0].get("answers", "") if found else ""


def _matching_row(
    tokenizer: PreTrainedTokenizerBase, model_type: str | None
) -> tuple[TemplateRow, dict[str, Any]] | None:
    """Return the first row that applies, and its template with an anchor."""
    chat = chat_template_text(tokenizer)
    for row in ROWS:
        if row.get("model_types") and model_type not in row["model_types"]:
            continue
        if not chat or not all(mark in chat for mark in row["marks"]):
            continue
        template = _with_thought(row["template"], chat)
        if "start_anchor_pattern" in template or "start_anchor" in template:
            return row, template
        header = _header(tokenizer, template)
        if header:
            return row, {**template, "start_anchor": header}
    return None


def _with_thought(template: dict[str, Any], chat: str) -> dict[str, Any]:
    """Return `template` reading the thoughts of `chat`, which may have been changed for a model that was taught to
    think."""
    fields = template["fields"]
    if "</think>" not in chat or any(open_mark == "<think>" for open_mark, _ in thought_marks(template)):
        return template
    added = {f"{name.partition('_')[0]}_think": field for name, field in thought().items()}
    return {**template, "fields": {**added, **fields}}


def thought_marks(template: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    """Give (opening mark, closing mark) of every kind of thought whose marks are plain."""
    for name, field in (template or {}).get("fields", {}).items():
        if not name.startswith(("reasoning", "thinking")) or not isinstance(field, Mapping):
            continue
        close = field.get("close")
        if close is None and isinstance(field.get("close_pattern"), str):
            close = re.sub(r"\\(.)", r"\1", field["close_pattern"].partition("|(?=")[0])
        if isinstance(field.get("open"), str) and isinstance(close, str):
            yield field["open"], close


def _header(tokenizer: PreTrainedTokenizerBase, template: Mapping[str, Any]) -> str:
    """Return what the chat template puts before a reply; "" if it cannot be told.

    A thought that it opens or leaves out is no part of that.
    """
    try:
        plain = str(tokenizer.apply_chat_template([_USER], tokenize=False, add_generation_prompt=False))
        prompt = str(tokenizer.apply_chat_template([_USER], tokenize=False, add_generation_prompt=True))
    except Exception:  # a template may refuse anything
        return ""
    header = prompt[len(plain) :] if prompt.startswith(plain) else ""
    for opening, _ in thought_marks(template):
        header = header.partition(opening)[0]
    return header


def render_with_tools(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    **options: Any,
) -> Iterator[str]:
    """Give the conversation with `tools` shown, in every way that templates take tools.

    That is as `tools`, under other names (SmolLM3, Firefunction), and in the system message (GLM-4, Phi-4-mini). What a
    template refuses is left out.
    """
    shown, text = list(tools), json.dumps(list(tools))
    named: dict[str, Any] = {"tools": shown, "xml_tools": shown, "functions": text, "datetime": "today"}
    ways: list[tuple[list[Any], dict[str, Any]]] = [
        (list(messages), {"tools": shown}),
        (list(messages), {}),
        (list(messages), named),
        *(([{"role": "system", "content": "", "tools": form}, *messages], {}) for form in (shown, text)),
    ]
    for conversation, variables in ways:
        try:
            yield str(tokenizer.apply_chat_template(conversation, tokenize=False, **variables, **options))
        except Exception:  # a template may refuse anything: no tools, no calls, no system text, ids of its own form
            continue


def tool_call_format(
    tokenizer: PreTrainedTokenizerBase, eos_ids: Iterable[int] = (), variables: Mapping[str, Any] | None = None
) -> ToolCallFormat | None:
    """Find out how the model writes calls: as its own chat template renders them, else as is known of its family.

    A thought that the generation prompt opens is closed at the head. eos_ids: ids that end a turn, beside the
    tokenizer's own EOS; what the template writes from there on is no part of a call. variables: of the chat template,
    where a request sets some.

    Returns None when neither says, or arguments are not written as JSON (then a call can be read but not forced).
    """
    found = _matching_row(tokenizer, None)
    own = response_template_for(tokenizer)
    options = dict(variables or {})
    ends = {tokenizer.eos_token, *tokenizer.convert_ids_to_tokens(sorted(eos_ids))} - {None}
    prompts = list(render_with_tools(tokenizer, [_USER], [_TOOL], **{**options, "add_generation_prompt": True}))
    for as_text in (False, True):  # DeepSeek's templates want arguments as JSON text
        written = _Written(tokenizer, as_text, options)
        rendered = written.format(prompts, own, ends)
        if rendered is not None:
            return rendered
        if written.in_another_way():
            return None
    if found is None or "call_format" not in found[0] or found[1] != own or not prompts:
        return None
    head, middle, tail, separator = found[0]["call_format"]
    return ToolCallFormat(
        _with_thought_closed(_after_anchor(prompts[0], own), own) + head, middle, tail, separator or None
    )


class _Written:
    """Calls as a chat template writes them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, as_text: bool, options: dict[str, Any]) -> None:
        self._tokenizer = tokenizer
        self._as_text = as_text
        self._options = options

    def format(
        self, prompts: Sequence[str], template: Mapping[str, Any] | None, ends: Iterable[str]
    ) -> ToolCallFormat | None:
        one = self._split(1)
        if one is None:
            return None
        heads = [_head(prompt, one[0], template) for prompt in prompts]
        head = next((each for each in heads if each is not None), None)
        if head is None:
            return None
        middle, tail = one[1], _up_to_turn_end(one[2], ends, template)
        if "zq" in head + middle + tail:
            return None
        two = self._split(2)  # Llama 3's templates refuse several calls in one reply
        same = two is not None and two[0] == one[0] and two[1] == middle and two[3] == middle
        separator = two[2] if two is not None and same and "zq" not in two[2] else None
        bare = self._without_empty_marks(head, one[0])
        if separator is not None and separator.startswith(tail) and bare != head:
            separator = separator.replace(head, bare)
        return ToolCallFormat(bare, middle, tail, separator or None)

    def _split(self, count: int, content: str = "") -> list[str] | None:
        """Return [head, middle, tail] of one call, [head, middle, between, middle, tail] of two.

        None where the template refuses them, leaves them out, or writes the arguments in another way than JSON.
        """
        pattern = "(.*)"
        for n in range(count):
            pattern += rf'zqname{n}(.*?)\{{\s*"zqkey{n}"\s*:\s*"zqvalue{n}"\s*\}}(.*{"?" if n + 1 < count else ""})'
        turn = {"role": "assistant", "content": content, "tool_calls": [self._call(n) for n in range(count)]}
        for text in self._rendered(turn):
            match = re.fullmatch(pattern, _without_ids(text), re.DOTALL)
            if match:
                return list(match.groups())
        return None

    def in_another_way(self) -> bool:
        """Whether the template writes a call, and its arguments neither as JSON nor as they come (as Python prints
        them, where it expects JSON text)."""
        turn = {"role": "assistant", "content": "", "tool_calls": [self._call(0)]}
        written = [text for text in self._rendered(turn) if "zqname0" in text]
        return any(not re.search(r"""\{\s*["']zqkey0["']\s*:\s*["']zqvalue0["']\s*\}""", text) for text in written)

    def _rendered(self, turn: dict[str, Any]) -> Iterator[str]:
        options = {**self._options, "add_generation_prompt": False}
        return render_with_tools(self._tokenizer, [_USER, turn], [_TOOL], **options)

    def _call(self, n: int) -> dict[str, Any]:
        arguments = {f"zqkey{n}": f"zqvalue{n}"}
        function = {"name": f"zqname{n}", "arguments": json.dumps(arguments) if self._as_text else arguments}
        return {"id": f"zqcall{n:03d}", "type": "function", "function": function}

    def _without_empty_marks(self, head: str, written: str) -> str:
        """Return `head` without a pair of special tokens that holds the text of the turn (Llama 4), of which there is
        none."""
        split = self._split(1, "zqtext")
        if split is None or split[0].count("zqtext") != 1 or split[0].replace("zqtext", "") != written:
            return head
        before, _, after = split[0].partition("zqtext")
        special = special_tokens(self._tokenizer).values()
        opens = max((token for token in special if before.endswith(token)), key=len, default="")
        closes = max((token for token in special if after.startswith(token)), key=len, default="")
        return head.replace(opens + closes, "", 1) if opens and closes else head


def _without_ids(text: str) -> str:
    """Return `text` without the ids of calls: no reader needs them, and a grammar cannot make them up."""
    return re.sub(r',\s*"id":\s*"zqcall\d+"|"id":\s*"zqcall\d+",\s*|\[CALL_ID\]zqcall\d+', "", text)


def _head(prompt: str, written: str, template: Mapping[str, Any] | None) -> str | None:
    """Return what the model writes between `prompt` and the first call's name. written: what the template wrote before
    that.

    Templates may put things after the conversation (Command-R) or open a thought only for a new reply (QwQ).
    """
    if written.startswith(prompt):
        return _with_thought_closed(_after_anchor(prompt, template), template, written[len(prompt) :])
    begun, turn = _after_anchor(prompt, template), _after_anchor(written, template)
    if begun is None or turn is None or "zquser" in turn:
        return None
    if turn.startswith(begun):
        return _with_thought_closed(begun, template, turn[len(begun) :])
    closing = _with_thought_closed(begun, template)
    return closing + turn if closing else None


def _with_thought_closed(begun: str | None, template: Mapping[str, Any] | None, head: str = "") -> str:
    """Return `head`, behind the end of a thought that `begun`, the reply's beginning, leaves open and `head` does not
    end."""
    for opening, close in thought_marks(template) if begun else ():
        if begun and opening in begun and close not in begun[begun.rindex(opening) :] and close not in head:
            gap = "" if begun.endswith("\n\n") else "\n" if begun.endswith("\n") else ""
            return f"{gap}{close}\n\n{head}"
    return head


def _after_anchor(text: str, template: Mapping[str, Any] | None) -> str | None:
    """Return what stands behind the last beginning of a reply in `text`; None where there is none."""
    pattern = _anchor(template)
    found = list(pattern.finditer(text)) if pattern else []
    return text[found[-1].end() :] if found else None


def _anchor(template: Mapping[str, Any] | None) -> re.Pattern[str] | None:
    if template is None:
        return None
    literal = template.get("start_anchor", ())
    literals = [literal] if isinstance(literal, str) else list(literal)
    return _compiled(template.get("start_anchor_pattern") or "|".join(map(re.escape, literals)))


def _compiled(pattern: Any) -> re.Pattern[str] | None:
    """Compile a `pattern` of a response template; None for one that only the `regex` module understands."""
    try:
        return re.compile(pattern, re.DOTALL) if isinstance(pattern, str) else None
    except re.error:
        return None


def _up_to_turn_end(tail: str, ends: Iterable[str], template: Mapping[str, Any] | None) -> str:
    """Return `tail` up to the end of the turn."""
    found = [tail.find(end) for end in ends if end in tail]
    content = (template or {}).get("fields", {}).get("content", {})
    pattern = _compiled(content.get("close_pattern")) if isinstance(content, Mapping) else None
    match = pattern.search(tail) if pattern else None
    if match:
        found.append(match.start())
    return tail[: min(found)] if found else tail.rstrip()
