"""What a chat template makes of the conversations that applications and agents send: for `acd doctor`."""

from __future__ import annotations

from typing import Any

from acd_core.chat.conversation import Turns
from acd_core.chat.layout import Chat
from acd_core.chat.probes import PROBE_TOOL
from acd_core.errors import TemplateError

_ID, _OTHER = "call00001", "call00002"
_LONG = "call_0123456789abcdefghijklmn"


def _user(text: str = "Hello") -> dict[str, Any]:
    return {"role": "user", "content": text}


def _call(*ids: str, text: str = "") -> dict[str, Any]:
    function = {"name": "probe_tool_name", "arguments": {"x": "y"}}
    return {
        "role": "assistant",
        "content": text,
        "tool_calls": [{"id": each, "type": "function", "function": function} for each in ids],
    }


def _result(name: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": name, "content": "Done"}


_REPLY = {"role": "assistant", "content": "Hi"}
_SYSTEM = {"role": "system", "content": "Be kind"}
PLAIN: dict[str, Turns] = {
    "a system text": [_SYSTEM, _user()],
    "several turns": [_user(), _REPLY, _user("More")],
    "user turns in a row": [_user(), _user("More")],
    "an assistant that speaks first": [_REPLY, _user()],
    "a begun reply": [_SYSTEM, _user(), _REPLY],
    "a new turn behind a reply": [_user(), {**_REPLY, "prefix": False}],
}
CALLS: dict[str, Turns] = {
    "a call and its result": [_SYSTEM, _user(), _call(_ID), _result(_ID)],
    "parallel calls": [_user(), _call(_ID, _OTHER), _result(_ID), _result(_OTHER)],
    "a user turn behind a result": [_user(), _call(_ID), _result(_ID), _user("More")],
    "text beside a call": [_user(), _call(_ID, text="Let me see"), _result(_ID)],
    "ids as long as OpenAI's": [_user(), _call(_LONG), _result(_LONG)],
}


def survey(chat: Chat) -> dict[str, str]:
    """Return, by kind of conversation, what is done before the template renders it whole, or why it is refused.

    Kinds that are rendered as they are do not appear.
    """
    found: dict[str, str] = {}
    tools = [PROBE_TOOL] if chat.renders_tools else []
    for kind, turns in {**PLAIN, **CALLS}.items():
        try:
            repairs = chat.repairs(turns, tools if kind in CALLS else [])
        except TemplateError as error:
            found[kind] = f"refused: {error.message}"
            continue
        if repairs:
            found[kind] = ", ".join(each.replace("_", " ") for each in repairs)
    return found
