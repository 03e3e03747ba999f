"""Which tokens end a turn: those the model's files name as eos, and the one its chat template writes after a reply.

The two often differ: a fine-tune keeps its base's eos (`<|endoftext|>`) and closes turns with `<|im_end|>`; a tool call
ends with a token of its own (`<|call|>`, `<|eom_id|>`). A reply that is not ended there runs on into a next turn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_MARK = "zqxj"
_NAME = "zqfn"
_TOOL = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "probe",
        "parameters": {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]},
    },
}


@dataclass(frozen=True)
class TurnEnds:
    """stated: ids that the model's files name as eos, with their texts. written: ids that the template alone tells,
    with their texts. note: what the template writes after a reply, in words for `acd doctor`."""

    stated: Mapping[int, str]
    written: Mapping[int, str]
    note: str

    @property
    def ids(self) -> frozenset[int]:
        return frozenset(self.stated) | frozenset(self.written)

    def describe(self) -> str:
        """Return one line for a person."""

        def listed(found: Mapping[int, str]) -> str:
            return ", ".join(f"{text} ({token})" for token, text in sorted(found.items()))

        parts = [listed(self.stated) or "no eos in the model's files"]
        if self.written:
            parts.append(f"{listed(self.written)} as the chat template writes")
        return "; ".join([*parts, self.note] if self.note else parts)


def turn_ends(tokenizer: Any, stated: frozenset[int]) -> TurnEnds:
    """Return what ends a turn of this tokenizer's model. stated: the eos ids of its files.

    The template is rendered with a mark as the reply, and with one in a tool call; neither the tokenizer nor the
    template is changed. A template that cannot render that adds nothing, and the note says so.
    """
    added = _added_tokens(tokenizer)
    written: dict[int, str] = {}
    note = ""
    if getattr(tokenizer, "chat_template", None):
        closing, note = _tokens_after_reply(tokenizer, added)
        ends = stated | {added[token] for token in closing}
        if closing and not stated & {added[token] for token in closing}:
            written[added[closing[0]]] = closing[0]
        for end in _tokens_after_calls(tokenizer, added, ends):
            written[added[end]] = end
    texts = {token: text for text, token in added.items()}
    known = {token: texts.get(token) or _token_text(tokenizer, token) for token in stated}
    return TurnEnds(known, {token: text for token, text in written.items() if token not in stated}, note)


def _tokens_after_reply(tokenizer: Any, added: Mapping[str, int]) -> tuple[list[str], str]:
    """Return the tokens that close a reply, and a note for a person."""
    user, reply = {"role": "user", "content": "a"}, {"role": "assistant", "content": _MARK}
    last = _text_after_reply(tokenizer, [user, reply])
    inside = _text_after_reply(tokenizer, [user, reply, user])
    if last is None and inside is None:
        return [], "the chat template shows no reply's end"
    closing, following = _leading_tokens(last or "", added), _leading_tokens(inside or "", added)
    if not closing and (last or "").strip():
        text = " ".join((last or "").split())[:24]
        return [], f"the chat template closes a reply with the text {text!r}, which is no token: give it as stop"
    if not closing:
        return following[:1], ""  # GLM: what ends a reply is the header of the next turn
    # Several tokens may close a turn, also in mid-conversation: the eos among them ends it (Command R7B).
    both = [token for token, again in zip(closing, following) if token == again]
    return both or closing[:1], ""


def _tokens_after_calls(tokenizer: Any, added: Mapping[str, int], ends: frozenset[int]) -> list[str]:
    """Return tokens that end a reply behind a tool call, where none of `ends` does.

    A mark that closes each of two calls ends a call, not the reply.
    """
    found = []
    for more in ({}, {"builtin_tools": [_NAME]}):  # Llama 3.1 ends a call of a built-in tool by <|eom_id|>
        for as_text in (False, True):
            one = _text_after_call(tokenizer, 1, as_text, more)
            if one is None:
                continue
            two = _text_after_call(tokenizer, 2, as_text, more)
            tokens = _tokens_in(one, added)
            last = tokens[-1] if tokens and one.rstrip().endswith(tokens[-1]) else None
            repeated = two is not None and two.count(last or "") > 1
            if last is not None and not repeated and not any(added[token] in ends for token in tokens):
                found.append(last)
            break
    return found


def _text_after_call(tokenizer: Any, calls: int, as_text: bool, more: Mapping[str, Any]) -> str | None:
    """Return what follows the first mark in a turn of `calls` tool calls."""
    arguments: Any = {"x": _MARK}
    made = [
        {
            "id": f"abcdefgh{index}",
            "type": "function",
            "function": {"name": _NAME, "arguments": json.dumps(arguments) if as_text else arguments},
        }
        for index in range(calls)
    ]
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "", "tool_calls": made},
    ]
    text = _rendered(tokenizer, turns, tools=[_TOOL], **more)
    if text is None or text.count(_MARK) < calls:  # a template that shows the first of several calls only
        return None
    return text.partition(_MARK)[2]


def _text_after_reply(tokenizer: Any, turns: list[dict[str, Any]]) -> str | None:
    text = _rendered(tokenizer, turns)
    return None if text is None or _MARK not in text else text.rpartition(_MARK)[2]


def _rendered(tokenizer: Any, turns: list[dict[str, Any]], **options: Any) -> str | None:
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=False, **options))
    except Exception:  # a template may raise anything; it then tells nothing
        return None


def _added_tokens(tokenizer: Any) -> dict[str, int]:
    """Return tokens that are one id whatever stands around them: text -> id. Whitespace is ordinary text."""
    known = getattr(tokenizer, "added_tokens_decoder", None) or {}
    return {str(token): int(number) for number, token in known.items() if str(token).strip()}


def _leading_tokens(text: str, added: Mapping[str, int]) -> list[str]:
    """Return the tokens `text` begins with, nothing but whitespace before and between them."""
    found: list[str] = []
    while True:
        text = text.lstrip()
        token = max((each for each in added if text.startswith(each)), key=len, default=None)
        if token is None:
            return found
        found.append(token)
        text = text[len(token) :]


def _tokens_in(text: str, added: Mapping[str, int]) -> list[str]:
    """Return all such tokens in `text`, in order; of those that begin at one place the longest."""
    found: list[str] = []
    at = 0
    while at < len(text):
        token = max((each for each in added if text.startswith(each, at)), key=len, default=None)
        if token is not None:
            found.append(token)
        at += len(token) if token is not None else 1
    return found


def _token_text(tokenizer: Any, token: int) -> str:
    try:
        return str(tokenizer.decode([token], skip_special_tokens=False))
    except Exception:
        return "?"
