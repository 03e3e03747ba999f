"""Conversations as data: checked, put into the form that chat templates know, and repaired where one insists on more.

Nothing here knows a tokenizer. `acd_core.chat.template` renders what comes out and tries the repairs.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Union

from acd_core.errors import UsageError
from acd_core.params import MOST_WRITTEN, shown, written_out

Message = Mapping[str, Any]
Conversation = Union[str, Sequence[Message]]
Turns = list[dict[str, Any]]
Tools = list[dict[str, Any]]
Repair = Callable[[Turns, Tools], tuple[Turns, Tools]]

ROLES = ("system", "user", "assistant", "tool", "text")
FIRST_WORDS = "Hello."
"""What stands for the user's words where a conversation begins with the assistant and the template wants a user."""
OURS = "ours"
"""Key of the message in front of whose text a prompt of ours is to stand; no template sees it."""
_TOOL = '{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}'
_DEEPEST = 200  # levels of a message's parts, calls' arguments among them
_ID_LETTERS = 9  # Mistral's templates take ids of nine letters and digits only


def is_continued(messages: Sequence[Message]) -> bool:
    """Return whether the reply continues the last of these (checked) messages instead of being a new turn."""
    last = messages[-1]
    begun = last["role"] == "assistant" and bool(last.get("prefix", True)) and not last.get("tool_calls")
    return begun or last["role"] == "text"


def check_conversation(conversation: Conversation) -> Turns:
    """Return a conversation as a list of plain dicts with string contents, or a UsageError naming what is wrong."""
    if isinstance(conversation, str):
        conversation = [{"role": "user", "content": conversation}]
    if not isinstance(conversation, Sequence):
        raise UsageError(
            f"A conversation is a string or a list of messages, not {type(conversation).__name__}.",
            hint='For example [{"role": "user", "content": "Hello"}].',
        )
    if not conversation:
        raise UsageError("The conversation is empty.", hint='Send at least [{"role": "user", "content": "Hello"}].')
    messages = []
    for index, message in enumerate(conversation):
        if not isinstance(message, Mapping) or "role" not in message:
            raise UsageError(f"Message {index} is not a dict with a role.", hint='{"role": "user", "content": "..."}')
        role, calls = message["role"], message.get("tool_calls")
        if not isinstance(role, str) or role not in ROLES:
            raise UsageError(f"Message {index} has the unknown role {shown(role)}.", hint=f"Roles: {', '.join(ROLES)}.")
        if len(message) > MOST_WRITTEN or any(isinstance(each, (Mapping, list, tuple)) for each in message.values()):
            _check_depth(message, index)
            if written_out(message) > MOST_WRITTEN:
                raise UsageError(f"Message {index} holds more than {MOST_WRITTEN} values when written out.")
        messages.append({**message, "content": _content_text(message.get("content"), index)})
        if message.get("tool_call_id") is not None:
            messages[-1]["tool_call_id"] = str(message["tool_call_id"])
        nothing = calls is None or (isinstance(calls, (str, Mapping)) and not calls)
        if not nothing and not isinstance(calls, (list, tuple)):
            raise UsageError(f"tool_calls of message {index} is {shown(calls)}, not a list.")
        if not isinstance(message.get("prefix"), (bool, type(None))):
            raise UsageError(
                f"prefix of message {index} is {shown(message['prefix'])}.",
                hint="True continues the message, False asks for a new turn after it.",
            )
        if role == "text" and index != len(conversation) - 1:
            raise UsageError(f"Message {index} has the role 'text' and is not the last.", hint="Only the last may.")
        if messages[-1].get("tool_calls"):
            messages[-1]["tool_calls"] = [_tool_call(call, index) for call in messages[-1]["tool_calls"]]
    return messages


def _check_depth(message: Message, index: int) -> None:
    """Raise UsageError for a message whose parts are nested deeper than any reader here goes, or hold themselves."""
    waiting: list[tuple[Any, int]] = [(message, 0)]
    seen: dict[int, int] = {}  # by identity, how deep it was met: what stands in many places is not read as often
    while waiting:
        each, depth = waiting.pop()
        if depth > _DEEPEST:
            raise UsageError(f"Message {index} is nested deeper than {_DEEPEST} levels, or holds itself.")
        if not isinstance(each, (Mapping, list, tuple)) or seen.get(id(each), -1) >= depth:
            continue
        seen[id(each)] = depth
        waiting += [(part, depth + 1) for part in (each.values() if isinstance(each, Mapping) else each)]


def _content_text(content: Any, index: int) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, (list, tuple)):
        parts = []
        for block in content:
            if isinstance(block, str):
                parts.append(block)
            elif isinstance(block, Mapping) and block.get("type", "text") == "text" and "text" in block:
                text = block["text"]
                parts.append("" if text is None else str(text))
            else:
                kind = block.get("type") if isinstance(block, Mapping) else type(block).__name__
                raise UsageError(f"Message {index} holds a block of type {shown(kind)}; this engine reads text only.")
        return "".join(parts)
    raise UsageError(f"The content of message {index} is a {type(content).__name__}, not text.")


def _tool_call(call: Any, index: int) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or "name" not in function:
        raise UsageError(
            f"A tool call of message {index} has no function name.",
            hint='{"id": "...", "type": "function", "function": {"name": "f", "arguments": {...}}}',
        )
    arguments = function.get("arguments")
    if arguments is None or (isinstance(arguments, (str, Mapping, list, tuple, int)) and not arguments):
        arguments = {}
    if isinstance(arguments, str):  # as OpenAI's API has them; templates want the object
        try:
            found = json.loads(arguments)
        except (ValueError, RecursionError):
            found = None
        arguments = found if isinstance(found, dict) else arguments
    named = {**function, "name": str(function["name"]), "arguments": arguments}
    return {**call, "id": None if call.get("id") is None else str(call["id"]), "type": "function", "function": named}


def check_tools(tools: Sequence[Any]) -> Tools:
    """Return OpenAI-style tools as plain dicts, or a UsageError naming what is wrong."""
    for index, tool in enumerate(tools):
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise UsageError(f"Tool {index} has no function with a name.", hint=_TOOL)
        parameters = function.get("parameters")
        properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
        if not isinstance(parameters, (Mapping, type(None))) or not isinstance(properties, (Mapping, type(None))):
            raise UsageError(f"The parameters of the tool {function['name'][:80]!r} are no JSON schema.", hint=_TOOL)
    return [dict(tool) for tool in tools]


# --- the form that templates know ---


def canonical(messages: Turns) -> Turns:
    """Join system texts to one at the front, in order: templates know one, applications send several.

    An empty one stays, because it switches off the text that some templates have of their own. A system text behind a
    last reply asks for a new turn: that reply is not continued.
    """
    if not any(message["role"] != "system" for message in messages):
        raise UsageError("The conversation holds system text only.", hint="Add a user message.")
    system = [message["content"] for message in messages if message["role"] == "system"]
    others = [message for message in messages if message["role"] != "system"]
    if messages[-1]["role"] == "system" and others[-1]["role"] == "assistant":
        others[-1] = {**others[-1], "prefix": False}
    others = _in_order(others)
    return [{"role": "system", "content": "\n\n".join(filter(None, system))}, *others] if system else others


def _in_order(messages: Turns) -> Turns:
    """Put results in the order of their calls: hosts hand them on as they arrive, and many templates show no ids."""
    found: Turns = []
    places: dict[Any, int] = {}
    results: Turns = []
    for message in [*messages, None]:
        if message is not None and message["role"] == "tool":
            results.append(message)
            continue
        if all(each.get("tool_call_id") in places for each in results):
            results.sort(key=lambda each: places[each.get("tool_call_id")])
        found += results
        results = []
        if message is not None:
            places = {call.get("id"): place for place, call in enumerate(message.get("tool_calls") or ())}
            found.append(message)
    return found


def merge_roles(messages: Turns) -> Turns:
    """Join neighbours of one role to one turn, for templates that demand alternation.

    Tool turns stay apart, and so does a text from a call behind it: many templates leave out what stands beside a call.
    """
    merged: Turns = []
    for message in messages:
        last = merged[-1] if merged else None
        joinable = last is not None and last["role"] == message["role"] and message["role"] in ("user", "assistant")
        if last is not None and joinable and not (last.get("tool_calls") or message.get("tool_calls")):
            merged[-1] = {**last, **message, "content": join_texts(last["content"], message["content"])}
        else:
            merged.append(message)
    return merged


def join_texts(first: str, second: str) -> str:
    """Join two texts as paragraphs."""
    return f"{first}\n\n{second}" if first and second else first or second


def wrap_last_user(messages: Turns, frame: str) -> None:
    """Lay `frame`, a text with one "{}", around the last user turn."""
    before, _, after = frame.partition("{}")
    for index in range(len(messages) - 1, -1, -1):
        if messages[index]["role"] in ("user", "text"):
            messages[index] = {**messages[index], "content": f"{before}{messages[index]['content']}{after}"}
            return


# --- repairs: each gives its input back where there is nothing to mend ---


def describe_tools(messages: Turns, tools: Tools) -> tuple[Turns, Tools]:
    """Return a description and parameters for tools and parameters that have none."""

    def described(schema: Any) -> Any:
        if not isinstance(schema, Mapping):
            return schema
        properties = schema.get("properties")
        inner = {name: described(each) for name, each in properties.items()} if isinstance(properties, Mapping) else {}
        more = {"properties": inner} if isinstance(properties, Mapping) else {}
        return {"description": "", "type": "string", **schema, **more}

    found = []
    for tool in tools:
        function = tool.get("function", tool)
        parameters = function.get("parameters") or {}
        filled = {
            "description": "",
            **function,
            "parameters": {
                "type": "object",
                "required": [],
                **parameters,
                "properties": {name: described(each) for name, each in (parameters.get("properties") or {}).items()},
            },
        }
        found.append({**tool, "type": "function", "function": filled} if "function" in tool else filled)
    return messages, found


def short_ids(messages: Turns, tools: Tools) -> tuple[Turns, Tools]:
    """Return ids of calls as nine letters and digits, the same for a call and its result."""

    def short(given: Any) -> str:
        if isinstance(given, str) and re.fullmatch(rf"[A-Za-z0-9]{{{_ID_LETTERS}}}", given):
            return given
        return blake2b(str(given).encode("utf-8", "surrogatepass")).hexdigest()[:_ID_LETTERS]

    found = []
    for message in messages:
        if message.get("tool_calls"):
            calls = [{**call, "id": short(call.get("id"))} for call in message["tool_calls"]]
            message = {**message, "tool_calls": calls}
        if message["role"] == "tool":
            message = {**message, "tool_call_id": short(message.get("tool_call_id"))}
        found.append(message)
    return found, tools


def user_first(messages: Turns, tools: Tools) -> tuple[Turns, Tools]:
    """Return a user turn before an assistant that speaks first, as greetings do."""
    at = 1 if messages[0]["role"] == "system" else 0
    if len(messages) <= at or messages[at]["role"] == "user":
        return messages, tools
    return [*messages[:at], {"role": "user", "content": FIRST_WORDS}, *messages[at:]], tools


def answer_results(messages: Turns, tools: Tools) -> tuple[Turns, Tools]:
    """Put an assistant turn between a tool's result and the user.

    A result that a host returned directly was the assistant's answer.
    """
    found: Turns = []
    for message in messages:
        if found and message["role"] == "user" and found[-1]["role"] == "tool":
            found.append({"role": "assistant", "content": found[-1]["content"] or "Done."})
        found.append(message)
    return found, tools


def named_results(messages: Turns, tools: Tools) -> tuple[Turns, Tools]:
    """Tool results with the name that their call has."""
    names: dict[Any, str] = {}
    found = []
    for message in messages:
        for call in message.get("tool_calls") or ():
            names[call.get("id")] = call["function"]["name"]
        known = names.get(message.get("tool_call_id"))
        if message["role"] == "tool" and not message.get("name") and known:
            message = {**message, "name": known}
        found.append(message)
    return found, tools


def text_into_thought(messages: Turns, tools: Tools) -> tuple[Turns, Tools]:
    """Put text beside a call at the end of the thought before it, for templates that take one of the two (gpt-oss)."""
    found = []
    for message in messages:
        thought = message.get("reasoning_content")
        if message.get("tool_calls") and thought and message["content"]:
            message = {**message, "reasoning_content": join_texts(str(thought), message["content"]), "content": ""}
        found.append(message)
    return found, tools


def no_empty_replies(messages: Turns, tools: Tools) -> tuple[Turns, Tools]:
    """Leave out replies that say and call nothing."""
    found = [
        each
        for each in messages
        if each["role"] != "assistant" or each["content"].strip() or each.get("tool_calls") or not each.get("prefix", 1)
    ]
    return merge_roles(found), tools


def system_in_user(messages: Turns, tools: Tools) -> tuple[Turns, Tools]:
    """Put the system text in front of the last user turn, where Mistral's templates write it, but only if that turn
    is the conversation's last.
    """
    at = max((index for index, each in enumerate(messages) if each["role"] == "user"), default=None)
    if at is None or messages[0]["role"] != "system":
        return messages, tools
    system, turn = messages[0], messages[at]
    both = {**turn, "content": join_texts(system["content"], turn["content"])}
    if OURS in system:
        both[OURS] = system[OURS]
    return [*messages[1:at], both, *messages[at + 1 :]], tools


def one_call_a_turn(messages: Turns, tools: Tools) -> tuple[Turns, Tools]:
    """Write parallel calls as pairs of one call and its result. The text beside them stays with the first."""
    found: Turns = []
    rest = list(messages)
    while rest:
        message = rest.pop(0)
        calls = message.get("tool_calls") or ()
        if len(calls) < 2:
            found.append(message)
            continue
        results: Turns = []
        while rest and rest[0]["role"] == "tool":
            results.append(rest.pop(0))
        for number, call in enumerate(calls):
            text = {} if number == 0 else {"content": ""}
            found.append({**message, **text, "tool_calls": [call]})
            same = next((each for each in results if each.get("tool_call_id") == call.get("id")), None)
            if same is not None:
                results.remove(same)
                found.append(same)
        found += results
    return found, tools


def arguments_as_text(messages: Turns, tools: Tools) -> tuple[Turns, Tools]:
    """Write arguments of calls as JSON text."""
    found = []
    for message in messages:
        if message.get("tool_calls"):
            calls = []
            for call in message["tool_calls"]:
                function = call["function"]
                if not isinstance(function["arguments"], str):
                    function = {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}
                calls.append({**call, "function": function})
            message = {**message, "tool_calls": calls}
        found.append(message)
    return found, tools


def calls_as_text(messages: Turns, tools: Tools) -> tuple[Turns, Tools]:
    """Write calls as text of the assistant and results as text of the user, for templates that show neither."""
    found: Turns = []
    for message in named_results(messages, tools)[0]:
        if message.get("tool_calls"):
            calls = [
                json.dumps({"name": f["name"], "arguments": f["arguments"]}, ensure_ascii=False)
                for f in (call["function"] for call in message["tool_calls"])
            ]
            kept = {key: value for key, value in message.items() if key != "tool_calls"}
            message = {**kept, "content": join_texts(message["content"], "\n".join(calls)), "prefix": False}
        elif message["role"] == "tool":
            name = message.get("name")
            head = f"Result of {name}:" if name else "Result of the tool:"
            message = {"role": "user", "content": f"{head}\n{message['content']}"}
        found.append(message)
    return merge_roles(found), tools


STRUCTURAL: tuple[Repair, ...] = (
    describe_tools, short_ids, arguments_as_text, named_results, one_call_a_turn, text_into_thought, user_first,
    answer_results, no_empty_replies, system_in_user,
)  # fmt: skip
"""Repairs that leave calls and results what they are."""


Way = tuple[str, ...]
"""Names of repairs, in order."""


def ways(
    messages: Turns, tools: Tools, *, known: Way | None = None, natively: bool = True
) -> Iterator[tuple[Way, Turns, Tools]]:
    """Yield the conversation as it is, then repaired: first what changes least, calls as text last.

    A template is to take the first that it renders whole.

    known: repairs that helped a conversation of this kind before, tried at once. natively: False where the template
    shows neither calls nor results, so that they must become text.
    """
    tried: list[tuple[Turns, Tools]] = []

    def repaired(way: Way) -> Iterator[tuple[Way, Turns, Tools]]:
        turns, offered = messages, tools
        for name in way:
            turns, offered = _REPAIRS[name](turns, offered)
        if (turns, offered) not in tried:
            tried.append((turns, offered))
            yield way, turns, offered

    yield from repaired(())
    if known is not None:
        yield from repaired(known)
    every = [each.__name__ for each in STRUCTURAL]  # one may become useful behind another
    gentle = [name for name in every if name not in ("arguments_as_text", "describe_tools")]
    choices: list[tuple[str, ...]] = [chosen for count in (0, 1, 2) for chosen in itertools.combinations(every, count)]
    for last in ((), ("calls_as_text",)):
        if last or natively:
            for chosen in (*choices, tuple(gentle), tuple(every)):
                yield from repaired((*chosen, *last))


_REPAIRS: dict[str, Repair] = {each.__name__: each for each in (*STRUCTURAL, calls_as_text)}
