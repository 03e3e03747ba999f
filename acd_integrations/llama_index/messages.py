"""LlamaIndex's messages, tools and replies <-> the core's. Data in, data out; nothing here talks to a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    ChatResponse,
    CitableBlock,
    CitationBlock,
    CompletionResponse,
    ContentBlock,
    LogProb,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.llms.llm import ToolSelection

from acd_core.errors import RefusalError, UsageError
from acd_core.params import Done, Event, Generation, ReasoningDelta, TextDelta, ToolCall, ToolCallDelta, shown
from acd_integrations.shared.calls import (
    KINDS,
    ForeignCall,
    as_call,
    as_dict,
    continues,
    first_value,
    from_function_call,
    not_yet_known,
    read_call,
)
from acd_integrations.shared.characters import whole, whole_texts
from acd_integrations.shared.report import reported

_ROLES = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.USER: "user",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.TOOL: "tool",
    MessageRole.FUNCTION: "tool",
}


def to_conversation(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """ChatMessages as the core's dicts.

    Text blocks are joined as `ChatMessage.content` joins them; tool calls come from ToolCallBlocks and from the older
    `additional_kwargs["tool_calls"]` and `["function_call"]`, each once; thinking is not sent back to the model.
    `additional_kwargs["prefix"]` False on a last assistant message asks for a new turn, where it would be continued
    otherwise. Halves of characters become U+FFFD. Raises UsageError for an image, audio, video or document block, which
    this text engine would otherwise drop.
    """
    return whole_texts([_message(message, index) for index, message in enumerate(messages)])


def _message(message: ChatMessage, index: int) -> dict[str, Any]:
    if not isinstance(message, ChatMessage):
        raise UsageError(
            f"Message {index} is {shown(message)}, not a ChatMessage.", hint='ChatMessage(role="user", content="...")'
        )
    role = _ROLES[MessageRole(message.role)]
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    for block in message.blocks:
        if isinstance(block, TextBlock):
            texts.append(block.text)
        elif isinstance(block, ToolCallBlock):
            calls.append(as_call(block.tool_call_id, block.tool_name, block.tool_kwargs))
        elif isinstance(block, (CitableBlock, CitationBlock)):
            texts.extend(_cited_texts(block, index))
        elif not isinstance(block, (ThinkingBlock, CachePoint)):
            raise _not_text(block, index)
    more = message.additional_kwargs
    if role == "assistant":
        calls += not_yet_known(_older_calls(more), calls)
        calls += from_function_call(more, calls)
        if broken := _broken_calls(more):
            texts = [*filter(None, texts), *broken]
    result: dict[str, Any] = {"role": role, "content": "\n".join(texts)}
    if calls and role == "assistant":
        result["tool_calls"] = [{**call, "id": call["id"] or f"call_{index}_{at}"} for at, call in enumerate(calls)]
    for name in ("tool_call_id", "name") if role == "tool" else ():
        if (found := first_value(more, name)) is not None:
            if isinstance(found, (Mapping, list, tuple)):
                raise UsageError(f"additional_kwargs[{name!r}] of message {index} is {shown(found)}, not text.")
            result[name] = str(found)
    if role == "assistant" and (prefix := continues(more, f"message {index}")) is not None:
        result["prefix"] = prefix
    return result


def _cited_texts(block: CitableBlock | CitationBlock, index: int) -> list[str]:
    texts = []
    for inner in block.content if isinstance(block, CitableBlock) else [block.cited_content]:
        if not isinstance(inner, TextBlock):
            raise _not_text(inner, index)
        texts.append(inner.text)
    return texts


def _not_text(block: Any, index: int) -> UsageError:
    return UsageError(
        f"Message {index} holds a block of type {getattr(block, 'block_type', type(block).__name__)!r}; "
        "this engine reads text only.",
        hint="Send TextBlocks, or describe the other content in words first.",
    )


def _broken_calls(more: Mapping[str, Any]) -> list[str]:
    """The texts of calls that were malformed, as `ResponseBuilder.final` keeps them: they stay visible as text."""
    broken = [first_value(each, "text") for each in _many(more, "invalid_tool_calls")]
    return [text for text in broken if isinstance(text, str)]


def _many(more: Mapping[str, Any], name: str) -> Sequence[Any]:
    """The list under `name` in additional_kwargs; none where it says nothing. Raises UsageError for another kind."""
    found = first_value(more, name)
    if found is not None and not isinstance(found, (list, tuple)):
        raise UsageError(f"additional_kwargs[{name!r}] is {shown(found)}, not a list.")
    return found or ()


def _older_calls(more: Mapping[str, Any]) -> Iterator[ForeignCall]:
    """The calls in `additional_kwargs["tool_calls"]`, without a provider's own bookkeeping (its thoughts, its tools).
    Raises UsageError for one without a name."""
    for item in _many(more, "tool_calls"):
        kind = first_value(item, "type")
        if isinstance(kind, str) and kind not in KINDS:
            continue
        call = read_call(item)
        if not call.name:
            raise UsageError(
                "A tool call in additional_kwargs['tool_calls'] has no function name.",
                hint="Put calls into the message as ToolCallBlock(tool_name=..., tool_kwargs=...).",
            )
        yield call


def to_tool(tool: Any, *, strict: bool = False) -> dict[str, Any]:
    """A LlamaIndex tool, or an OpenAI-style dict, as an OpenAI-style dict.

    strict: calls keep to the tool's schema by grammar even where the model chooses freely.
    """
    if not isinstance(tool, dict) and not hasattr(tool, "metadata"):
        raise UsageError(f"{shown(tool)} is no tool.", hint="Give a BaseTool, or an OpenAI-style function dict.")
    # The length check guards a limit of one vendor's API.
    described: dict[str, Any] = tool if isinstance(tool, dict) else tool.metadata.to_openai_tool(skip_length_check=True)
    inner = described.get("function")
    if inner is not None and not isinstance(inner, Mapping):
        raise UsageError(f"The function of a tool is {shown(inner)}.", hint='{"name": ..., "parameters": {...}}')
    function = dict(inner or {})
    if not isinstance(tool, dict):
        function["parameters"] = _without_echoes(function["parameters"])
    if strict:
        function["strict"] = True
    return {**described, "function": function} if function else described


def _without_echoes(schema: Any, name: str | None = None) -> Any:
    """`schema` without the titles that pydantic makes of names: they say nothing and mislead small models."""
    if isinstance(schema, list):
        return [_without_echoes(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {}
    for key, value in schema.items():
        if key == "title" and name is not None and value == name.replace("_", " ").title():
            continue
        if key in ("properties", "$defs") and isinstance(value, dict):
            kept[key] = {inner: _without_echoes(part, inner) for inner, part in value.items()}
        else:
            kept[key] = _without_echoes(value)
    return kept


def to_tool_choice(tool_choice: Any, tool_required: bool) -> str | None:
    """None, "auto", "none", "any", "required", a name, or OpenAI's dict -> what GenerationParams takes."""
    given = tool_choice
    if isinstance(tool_choice, Mapping):
        function = tool_choice.get("function")
        name = function.get("name") if isinstance(function, Mapping) else None
        tool_choice = name or tool_choice.get("type")
    if not isinstance(tool_choice, (str, type(None))):
        raise UsageError(f"tool_choice is {shown(given)}.", hint="'auto', 'none', 'any', 'required' or a tool's name.")
    if tool_choice in (None, "auto"):
        return "required" if tool_required else tool_choice
    return "required" if tool_choice == "any" else tool_choice


def response_format(output_cls: Any) -> dict[str, Any]:
    """A pydantic class as the `response_format` of GenerationParams."""
    return {
        "type": "json_schema",
        "json_schema": {"name": output_cls.__name__, "schema": output_cls.model_json_schema()},
    }


class ResponseBuilder:
    """Makes LlamaIndex's responses of one event stream: each holds the text so far and the new part as `delta`.

    model_name: what `raw["model"]` says. token_text turns a token id into its text, for logprobs.
    """

    def __init__(self, model_name: str, token_text: Callable[[int], str]) -> None:
        self._model_name = model_name
        self._token_text = token_text
        self._text = ""
        self._reasoning = ""
        self._calls: list[ToolCall] = []

    def feed(self, event: Event) -> ChatResponse | None:
        """The response to hand on after `event`; None where there is nothing new to show."""
        extra: dict[str, Any] = {}
        if isinstance(event, Done):
            return self.final(event.generation, delta="")
        if isinstance(event, TextDelta):
            self._text += event.text
        elif isinstance(event, ReasoningDelta):
            self._reasoning += event.text
            extra = {"thinking_delta": event.text}
        elif isinstance(event, ToolCallDelta):
            self._calls.append(event.call)
        message = _assistant(self._text, self._reasoning or None, self._calls)
        delta = event.text if isinstance(event, TextDelta) else ""
        return ChatResponse(message=message, delta=delta, additional_kwargs=extra)

    def final(self, generation: Generation, *, delta: str | None = None) -> ChatResponse:
        """The whole reply, with token counts in `additional_kwargs` and a small dict in `raw`."""
        message = _assistant(generation.text, generation.reasoning, generation.tool_calls)
        if generation.refusal is not None:
            message.additional_kwargs["refusal"] = generation.refusal
        if generation.invalid_tool_calls:
            message.additional_kwargs["invalid_tool_calls"] = [
                whole_texts({"id": call.id, "name": call.name, "text": call.text, "error": call.error})
                for call in generation.invalid_tool_calls
            ]
        usage = generation.usage
        counts = {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
        }
        raw = {
            "model": self._model_name,
            "finish_reason": generation.finish_reason,
            "usage": {**counts, "cached_tokens": usage.cached_tokens},
            "contrast": reported(generation.report),
        }
        return ChatResponse(
            message=message, delta=delta, raw=raw, additional_kwargs=counts, logprobs=self._logprobs(generation)
        )

    def _logprobs(self, generation: Generation) -> list[list[LogProb]] | None:
        if generation.logprobs is None:
            return None

        def entry(token_id: int, logprob: float) -> LogProb:
            text = self._token_text(token_id)
            return LogProb(token=text, logprob=logprob, bytes=list(text.encode()))

        return [
            [entry(item.token_id, item.logprob), *(entry(*other) for other in item.top if other[0] != item.token_id)]
            for item in generation.logprobs
        ]


def _assistant(text: str, reasoning: str | None, calls: Sequence[ToolCall]) -> ChatMessage:
    blocks: list[ContentBlock] = []
    if reasoning:
        blocks.append(ThinkingBlock(content=reasoning))
    if text or not calls:
        # An empty block keeps `message.content` a string: callers concatenate it.
        blocks.append(TextBlock(text=text))
    calls = [ToolCall(call.id, whole(call.name), whole_texts(call.arguments)) for call in calls]
    blocks.extend(
        ToolCallBlock(tool_call_id=call.id, tool_name=call.name, tool_kwargs=call.arguments) for call in calls
    )
    message = ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks)
    if calls:
        # LlamaIndex's own streaming programs still look for calls here before they ask for ToolSelections.
        message.additional_kwargs["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
            }
            for call in calls
        ]
    return message


def to_completion(response: ChatResponse) -> CompletionResponse:
    """A chat response as a completion response; nothing of it is lost but the message's blocks."""
    return CompletionResponse(
        text=response.message.content or "",
        delta=response.delta,
        raw=response.raw,
        logprobs=response.logprobs,
        additional_kwargs={**response.message.additional_kwargs, **response.additional_kwargs},
    )


def tool_selections(response: ChatResponse, error_on_no_tool_call: bool) -> list[ToolSelection]:
    """The calls of a reply. Raises RefusalError for a refusal, UsageError without calls, if asked to raise."""
    message = response.message
    calls = [block for block in message.blocks if isinstance(block, ToolCallBlock)]
    if not calls and error_on_no_tool_call:
        if "refusal" in message.additional_kwargs:
            raise RefusalError(message.additional_kwargs["refusal"])
        broken = message.additional_kwargs.get("invalid_tool_calls")
        said = f"an ill-formed call ({broken[0]['error']})" if broken else "words"
        if isinstance(response.raw, Mapping) and response.raw.get("finish_reason") == "length":
            written = response.additional_kwargs.get("completion_tokens")
            raise UsageError(
                f"Expected at least one tool call, but the reply was cut off after {written} tokens, in {said}.",
                hint="Pass a larger max_tokens.",
            )
        raise UsageError(
            f"Expected at least one tool call, but the model answered in {said}.",
            hint="Pass tool_required=True to force a call, or error_on_no_tool_call=False to accept words.",
        )
    return [
        ToolSelection(tool_id=call.tool_call_id or "", tool_name=call.tool_name, tool_kwargs=as_dict(call.tool_kwargs))
        for call in calls
    ]
