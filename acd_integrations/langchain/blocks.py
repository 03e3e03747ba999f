"""What the blocks of LangChain messages hold, in every provider's shape: text, calls, thoughts, or bookkeeping.

A thread that was begun with another provider goes on with this model. What that provider kept for itself in an
assistant's turn (encrypted thoughts, its own tools' calls and results, signatures, citations) says nothing to a text
model and is left out; the text, the calls and the thoughts stay. In everybody else's turn a block that is no text is
something the sender wants read, and raises.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from acd_core.errors import UsageError
from acd_core.params import shown
from acd_integrations.shared.calls import KINDS, as_call, from_function_call, not_yet_known, read_call

_TEXT = ("text", "text-plain", "input_text", "output_text")
_THOUGHTS = ("reasoning", "thinking", "redacted_thinking", "reasoning_content", "thought")
# What a person would miss if it were left out of an assistant's turn: it cannot be told to a text model.
_MEDIA = ("image", "image_url", "input_image", "output_image", "audio", "input_audio", "output_audio", "video", "media",
          "file", "input_file", "document")  # fmt: skip


def text_of(message: BaseMessage, *, assistant: bool = False) -> str:
    """The text of a message, its text blocks joined. Raises UsageError naming a block that is not text; of an
    assistant's turn only for images, sound and files."""
    if isinstance(message.content, str):
        return message.content or (_transcript(message) if assistant else "")
    parts: list[str] = []
    for block in _pieces(message):
        if isinstance(block, str):
            parts.append(block)
            continue
        if not isinstance(block, Mapping):
            raise UsageError(f"A {message.type} message holds {shown(block)} where a text or a block should stand.")
        kind = _kind(block)
        if assistant and (kind in _THOUGHTS or block.get("thought") is True):
            continue
        if kind in _TEXT and isinstance(block.get("text"), str):
            parts.append(block["text"])
        elif kind == "refusal":
            parts.append(refusal if isinstance(refusal := block.get("refusal"), str) else "")
        elif isinstance(message, ToolMessage) and kind == "json":
            parts.append(json.dumps(block.get("json"), ensure_ascii=False))
        elif not assistant or kind in _MEDIA:
            raise UsageError(
                f"A {message.type} message holds a block of type {shown(kind)}; this model reads text only.",
                hint="Send text, or turn the block into text first (a caption, a transcript, the text of the file).",
            )
    return "".join(parts)


def thoughts_of(message: BaseMessage) -> str:
    """What an assistant thought before it spoke, as far as its provider shows it."""
    more = message.additional_kwargs
    for known in (more.get("reasoning_content"), more.get("reasoning")):
        if found := _readable(known):
            return found
    return "".join(
        _readable(block) for block in blocks(message) if _kind(block) in _THOUGHTS or block.get("thought") is True
    )


def calls_of(message: BaseMessage) -> list[dict[str, Any]]:
    """The calls of an assistant's turn, each once, in the core's form: those LangChain has parsed, then those that only
    a block or the legacy `function_call` holds."""
    parsed = message.tool_calls if isinstance(message, AIMessage) else []
    broken = message.invalid_tool_calls if isinstance(message, AIMessage) else []
    calls = [as_call(call["id"], call["name"], call["args"]) for call in parsed]
    found = [read_call(block) for block in blocks(message) if _kind(block) in KINDS]
    calls += not_yet_known((each for each in found if each.name), calls, [str(call.get("id") or "") for call in broken])
    return calls + from_function_call(message.additional_kwargs, calls)


def broken_calls(message: BaseMessage) -> list[str]:
    """The texts of calls that were malformed: they stay visible as what they were."""
    broken = message.invalid_tool_calls if isinstance(message, AIMessage) else []
    found = [str(call["args"]) for call in broken if call.get("args")]
    known = [call.get("id") for call in broken]
    for block in blocks(message):
        nameless = _kind(block) in KINDS and not read_call(block).name
        text = read_call(block).arguments
        said = nameless or _kind(block) == "invalid_tool_call"
        if said and text is not None and not any(block.get("id") == other for other in known):
            found.append(text if isinstance(text, str) else _as_json(text))
    return found


def _as_json(arguments: Any) -> str:
    """The arguments of a call as JSON. Raises UsageError for what has none."""
    try:
        return json.dumps(arguments, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"A call in an assistant message holds {shown(arguments)}, which is no JSON.") from error


def blocks(message: BaseMessage) -> list[Mapping[str, Any]]:
    """The blocks of a message that are dicts; none where the content is a text."""
    return [block for block in _pieces(message) if isinstance(block, Mapping)]


def _pieces(message: BaseMessage) -> Iterator[Any]:
    """The texts and blocks of a message whose content is a list, those inside an item of OpenAI's output included."""
    for block in message.content if isinstance(message.content, list) else ():
        inside = block.get("content") if isinstance(block, Mapping) and block.get("type") == "message" else None
        yield from inside if isinstance(inside, list) else (block,)


def _kind(block: Mapping[str, Any]) -> str | None:
    kind = block.get("type", "text" if "text" in block else None)
    return None if kind is None else kind if isinstance(kind, str) else type(kind).__name__


def _readable(thought: Any, depth: int = 16) -> str:
    """The words in a thought of any provider: a text, or dicts and lists of them. Signatures and ciphers are none."""
    if isinstance(thought, str):
        return thought
    if isinstance(thought, Mapping):
        for key in ("reasoning", "thinking", "reasoning_content", "text", "content", "summary"):
            if depth and (found := _readable(thought.get(key), depth - 1)):
                return found
        return ""
    if isinstance(thought, (list, tuple)) and depth:
        return "\n\n".join(found for each in thought if (found := _readable(each, depth - 1)))
    return ""


def _transcript(message: BaseMessage) -> str:
    """The transcript of a reply in sound, whose content is empty."""
    sound = message.additional_kwargs.get("audio")
    return str(sound.get("transcript") or "") if isinstance(sound, Mapping) else ""
