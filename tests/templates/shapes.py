"""Shapes of conversations that applications and agents send, with marks for texts."""

from __future__ import annotations

from typing import Any

Turns = list[dict[str, Any]]


def user(text: str = "alpha question") -> dict[str, Any]:
    return {"role": "user", "content": text}


def system(text: str = "bravo rules") -> dict[str, Any]:
    return {"role": "system", "content": text}


def assistant(text: str = "charlie answer", **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def calling(*ids: str, text: str = "", arguments: Any = None) -> dict[str, Any]:
    """An assistant's turn with one call for each id."""
    calls = [
        {
            "id": each,
            "type": "function",
            "function": {"name": f"look_up_{n}", "arguments": arguments or {"word": f"delta {n}"}},
        }
        for n, each in enumerate(ids)
    ]
    return assistant(text, tool_calls=calls)


def result(call: str, text: str = "echo result", **more: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call, "content": text, **more}


def tool(name: str = "look_up_0", **more: Any) -> dict[str, Any]:
    word = {"type": "string", "description": "the word"}
    parameters = {"type": "object", "properties": {"word": word}, "required": ["word"]}
    function = {"name": name, "description": "Look a word up", "parameters": parameters, **more}
    return {"type": "function", "function": {key: value for key, value in function.items() if value is not None}}


ONE, TWO, LONG = "call00001", "call00002", "call_0123456789abcdefghijklmnopqrstuvwx"
TOOLS = [tool(), tool("look_up_1")]

PLAIN: dict[str, Turns] = {
    "user only": [user()],
    "system": [system(), user()],
    "several turns": [system(), user(), assistant(), user("foxtrot question")],
    "consecutive users": [user(), user("foxtrot question")],
    "consecutive assistants": [user(), assistant(), assistant("golf answer"), user("foxtrot question")],
    "two systems": [system(), system("hotel rules"), user()],
    "system in the middle": [system(), user(), assistant(), system("hotel rules"), user("foxtrot question")],
    "system last": [user(), system("hotel rules")],
    "system after the reply": [user(), assistant(), system("hotel rules")],
    "assistant first": [assistant(), user()],
    "system, assistant first": [system(), assistant(), user()],
    "ends with assistant": [system(), user(), assistant()],
    "a new turn after the assistant": [user(), assistant(prefix=False)],
    "reasoning in history": [user(), assistant(reasoning_content="india thought"), user("foxtrot question")],
    "empty user": [user("")],
    "empty assistant": [user(), assistant(""), user("foxtrot question")],
    "empty system": [system(""), user()],
    "content as parts": [
        {"role": "system", "content": [{"type": "text", "text": "bravo rules"}]},
        {"role": "user", "content": [{"type": "text", "text": "alpha "}, {"type": "text", "text": "question"}]},
    ],
    "named user": [{**user(), "name": "kilo"}, assistant(), user("foxtrot question")],
}
CALLS: dict[str, Turns] = {
    "call and result": [user(), calling(ONE), result(ONE)],
    "system, call and result": [system(), user(), calling(ONE), result(ONE)],
    "parallel calls": [user(), calling(ONE, TWO), result(ONE), result(TWO, "lima result")],
    "result, then user": [user(), calling(ONE), result(ONE), user("foxtrot question")],
    "result, reply, user": [user(), calling(ONE), result(ONE), assistant(), user("foxtrot question")],
    "content and calls": [user(), calling(ONE, text="mike says"), result(ONE)],
    "two rounds": [user(), calling(ONE), result(ONE), calling(TWO), result(TWO, "lima result")],
    "long ids": [user(), calling(LONG), result(LONG)],
    "arguments as text": [user(), calling(ONE, arguments='{"word": "delta 0"}'), result(ONE)],
    "no arguments": [user(), calling(ONE, arguments={"nothing": None}), result(ONE)],
    "named result": [user(), calling(ONE), result(ONE, name="look_up_0")],
    "empty result": [user(), calling(ONE), result(ONE, "")],
    "a result of nothing": [user(), result(ONE), user("foxtrot question")],
    "a call without a result": [user(), calling(ONE), user("foxtrot question")],
    "assistant first, call": [assistant(), user(), calling(ONE), result(ONE)],
    "parallel, then user": [
        user(), calling(ONE, TWO), result(ONE), result(TWO, "lima result"), user("foxtrot question")
    ],
}  # fmt: skip
TOOL_FORMS: dict[str, list[dict[str, Any]]] = {
    "tools": TOOLS,
    "no parameters": [tool(parameters=None)],
    "no description": [tool(description=None)],
    "empty parameters": [tool(parameters={"type": "object", "properties": {}})],
    "undescribed parameter": [tool(parameters={"type": "object", "properties": {"word": {"type": "string"}}})],
    "nested parameter": [
        tool(
            parameters={
                "type": "object",
                "properties": {
                    "words": {"type": "array", "items": {"type": "string"}, "description": "words"},
                    "how": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
                    "mode": {"enum": ["fast", "slow"], "type": "string"},
                },
                "required": ["words"],
            }
        )
    ],
}


def texts_of(turns: Turns, calls: bool = True) -> list[str]:
    """What no rendering may leave out: what system, users and tools say, replies without calls, and names of calls."""
    found = []
    for turn in turns:
        said = turn["content"]
        text = said if isinstance(said, str) else "".join(part["text"] for part in said)
        if text and not turn.get("tool_calls"):
            found.append(text)
        found += [call["function"]["name"] for call in turn.get("tool_calls") or () if calls]
    return found
