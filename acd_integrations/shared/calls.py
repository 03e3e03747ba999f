"""Calls in a conversation's history as clients and providers write them: the same for both adapters."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from acd_core.errors import UsageError
from acd_core.params import shown

KINDS = ("function", "function_call", "custom_tool_call", "tool_use", "tool_call")
"""Types of items that are calls of the application's tools; those of any other type are the provider's own."""
_EMPTY_AT_TIMES = (str, bytes, int, float, Mapping, list, tuple, set)  # other kinds may not tell (arrays do not)
_IDS = ("call_id", "id", "tool_id", "tool_call_id")  # OpenAI's have two: the call's and the item's
_ARGUMENTS = ("args", "arguments", "input", "tool_kwargs", "partial_json")  # the last is what a stream added up to


class ForeignCall(NamedTuple):
    """A call as some client wrote it. ids: every id it goes by, the call's own first. arguments: None where it says
    nothing of them."""

    name: str
    ids: tuple[str, ...]
    arguments: Any


def checked_tools(tools: Any) -> Iterable[Any]:
    """`tools` if they are many. Raises UsageError for one alone, or for a text, whose letters are no tools."""
    if isinstance(tools, (str, bytes, Mapping)) or not isinstance(tools, Iterable):
        raise UsageError(f"tools is {shown(tools)}, not a list of tools.", hint="Pass tools=[...].")
    return tools


def read_call(call: Any) -> ForeignCall:
    """A call, a dict or an object: Chat Completions', Responses', Anthropic's, Gemini's or a framework's own. Its name
    is "" where it has none."""
    function = first_value(call, "function")
    owner = call if function is None else function
    ids = tuple(word for name in _IDS if (word := _word(first_value(call, name))))
    return ForeignCall(_word(first_value(owner, "name", "tool_name")), ids, first_value(owner, *_ARGUMENTS))


def _word(found: Any) -> str:
    """A name or an id as text; "" for what is none."""
    return "" if found is None or isinstance(found, (Mapping, list, tuple, set)) else str(found)


def first_value(owner: Any, *names: str) -> Any:
    """The first of `names` that `owner`, a dict or an object, holds with a value; None where it holds none."""
    for name in names:
        found = owner.get(name) if isinstance(owner, Mapping) else getattr(owner, name, None)
        if found is not None and (not isinstance(found, _EMPTY_AT_TIMES) or found):
            return found
    return None


def as_call(call_id: Any, name: str, arguments: Any) -> dict[str, Any]:
    """A call in the core's form."""
    return {"id": str(call_id or ""), "type": "function", "function": {"name": name, "arguments": as_dict(arguments)}}


def as_dict(arguments: Any) -> dict[str, Any]:
    """Arguments as the dict that templates want: a text would be quoted a second time. None, null and an empty text are
    a call without arguments. What is no JSON object, as in a call that was cut off, is kept under the name "input"."""
    found = arguments
    if isinstance(arguments, str):
        try:
            found = json.loads(arguments) if arguments.strip() else None
        except (ValueError, RecursionError):
            found = arguments
    if found is None:
        return {}
    return dict(found) if isinstance(found, Mapping) else {"input": found}


def not_yet_known(
    found: Iterable[ForeignCall], known: Sequence[dict[str, Any]], ids: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Those of the calls `found` that are not among `known`, in the core's form: with an id on both sides the ids
    decide, else the same name with the same arguments is the same call. ids: further ones that are known."""
    taken = {str(call["id"]) for call in known if call["id"]} | {str(each) for each in ids if each}
    fresh = []
    for each in found:
        call = as_call(next(iter(each.ids), ""), each.name, each.arguments)
        alike = (other for other in known if not (each.ids and other["id"]))
        if taken.isdisjoint(each.ids) and all(other["function"] != call["function"] for other in alike):
            fresh.append(call)
    return fresh


def from_function_call(more: Mapping[str, Any], known: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The call under `function_call` of an assistant's additional_kwargs, unless `known` has one of its name: it is the
    one call of a turn, from before calls had ids."""
    legacy = read_call(more.get("function_call"))
    if not legacy.name or any(call["function"]["name"] == legacy.name for call in known):
        return []
    return [as_call("", legacy.name, legacy.arguments)]


def continues(more: Mapping[str, Any], whose: str) -> bool | None:
    """`prefix` of an assistant's additional_kwargs: False asks for a new turn behind a last message that would be
    continued otherwise. None where it says nothing. Raises UsageError for anything but True and False."""
    prefix = more.get("prefix")
    if prefix is not None and not isinstance(prefix, bool):
        raise UsageError(
            f"additional_kwargs['prefix'] of {whose} is {shown(prefix)}.",
            hint="True continues the message, False asks for a new turn after it.",
        )
    return prefix
