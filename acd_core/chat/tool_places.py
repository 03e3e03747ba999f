"""Where chat templates look for tools, and a tool to ask them with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from acd_core.chat.conversation import Tools, Turns


@dataclass(frozen=True)
class ToolPlace:
    """Where a template looks for tools: a variable of its own, or a key of the system message; a list, or JSON text."""

    variable: str = ""
    key: str = ""
    as_text: bool = False

    @property
    def told(self) -> str:
        """Where that is, for people."""
        where = f"in the variable {self.variable!r}" if self.variable else f"under {self.key!r} of the system message"
        return f"{where}, as JSON text" if self.as_text else where

    def put(self, messages: Turns, tools: Tools) -> tuple[Turns, dict[str, Any]]:
        """`messages` and the variables of a rendering that shows `tools`."""
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
