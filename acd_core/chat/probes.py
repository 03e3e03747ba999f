"""What chat templates are asked with: a tool, at the places where they look for tools; a conversation of marks in the
shape of another, which shows what a template leaves out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from acd_core.chat.conversation import Message, Tools, Turns

A_CALL = "a tool call"


def shape_of(turns: Sequence[Message]) -> tuple[Any, ...]:
    """Return what a template can tell of a conversation without reading its texts."""
    return tuple(
        (
            message["role"],
            bool(message["content"].strip()),
            len(message.get("tool_calls") or ()),
            bool(message.get("prefix", True)),
            tuple(sorted(key for key in message if key not in ("role", "content", "tool_calls", "prefix"))),
            isinstance((message.get("tool_calls") or [{}])[0].get("function", {}).get("arguments"), str),
        )
        for message in turns
    )


def conversation_of_marks(shape: tuple[Any, ...]) -> tuple[Turns, dict[str, str]]:
    """Return a conversation of a shape, its texts marks, and what each mark stands for that must not be left out."""
    turns: Turns = []
    wanted: dict[str, str] = {}
    asked: list[str] = []
    for number, (role, said, calls, prefix, keys, as_text) in enumerate(shape):
        text = f"zqtext{number}x" if said else ""
        turn: dict[str, Any] = {"role": role, "content": text, "prefix": prefix}
        for key in keys:
            turn[key] = f"zq{key}{number}x"
        if calls:
            arguments: Any = {"zqkey": "zqvalue"}
            asked = [f"zqcall{number:02d}{n}" for n in range(calls)]
            turn["tool_calls"] = [
                {
                    "id": each,
                    "type": "function",
                    "function": {
                        "name": f"zqname{number}x{n}x",
                        "arguments": json.dumps(arguments) if as_text else dict(arguments),
                    },
                }
                for n, each in enumerate(asked)
            ]
            wanted.update({f"zqname{number}x{n}x": A_CALL for n in range(calls)})
        if role == "tool":
            turn["tool_call_id"] = asked.pop(0) if asked else "zqcall000"
            if "name" in keys:
                turn["name"] = "zqname"
        if said and not calls:  # what stands beside a call many templates leave out
            wanted[text] = {"tool": "a tool's result", "system": "the system text"}.get(role, f"a text of the {role}")
        turns.append(turn)
    return turns, wanted


@dataclass(frozen=True)
class ToolPlace:
    """Where a template looks for tools: a variable of its own, or a key of the system message; a list, or JSON text."""

    variable: str = ""
    key: str = ""
    as_text: bool = False

    @property
    def described(self) -> str:
        """Say where that is, for people."""
        where = f"in the variable {self.variable!r}" if self.variable else f"under {self.key!r} of the system message"
        return f"{where}, as JSON text" if self.as_text else where

    def with_tools(self, messages: Turns, tools: Tools) -> tuple[Turns, dict[str, Any]]:
        """Return `messages` and the variables of a rendering that shows `tools`."""
        given: Any = json.dumps(tools, ensure_ascii=False) if self.as_text else tools
        if self.variable:
            return messages, {self.variable: given}
        if messages[0]["role"] == "system":
            return [{**messages[0], self.key: given}, *messages[1:]], {}
        return [{"role": "system", "content": "", self.key: given}, *messages], {}


PLACES = (
    ToolPlace("tools"),
    ToolPlace("xml_tools"),  # SmolLM3
    ToolPlace("functions", as_text=True),  # Firefunction 2
    ToolPlace(key="tools", as_text=True),  # Phi-4-mini
    ToolPlace(key="tools"),  # GLM-4
)
PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": "probe_tool_name",
        "description": "probe",
        "parameters": {
            "type": "object",
            "properties": {"x": {"type": "string", "description": "probe"}},
            "required": ["x"],
        },
    },
}
