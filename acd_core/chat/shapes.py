"""The shape of a conversation, and one of marks in the same shape: it shows what a template leaves out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from acd_core.chat.conversation import Message, Turns

A_CALL = "a tool call"


def shape_of(turns: Sequence[Message]) -> tuple[Any, ...]:
    """What a template can tell of a conversation without reading its texts."""
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


def of_marks(shape: tuple[Any, ...]) -> tuple[Turns, dict[str, str]]:
    """A conversation of a shape, its texts marks; and what each mark stands for that must not be left out."""
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
