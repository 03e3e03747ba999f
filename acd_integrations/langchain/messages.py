"""LangChain messages to conversations, and events of the core back to LangChain's messages and chunks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    InvalidToolCall,
    SystemMessage,
    ToolCall,
    ToolMessage,
)
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk

from acd_core.errors import UsageError
from acd_core.params import Event, Generation, ReasoningDelta, TextDelta, ToolCallDelta
from acd_integrations.langchain.blocks import broken_calls, calls_of, text_of, thoughts_of
from acd_integrations.shared.calls import continues, first_value
from acd_integrations.shared.characters import whole, whole_texts
from acd_integrations.shared.report import reported

if TYPE_CHECKING:
    from acd_core.lm import ContrastiveLM

_ROLES = {"developer": "system", "human": "user", "ai": "assistant", "model": "assistant", "function": "tool"}


def conversation(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """OpenAI-style dicts, in order, of whole characters. Raises UsageError for what a text model cannot read (images,
    audio, files)."""
    return whole_texts([out for message in messages for out in _messages(message)])


def _messages(message: BaseMessage) -> list[dict[str, Any]]:
    """One message, or several: Anthropic's tool results are blocks of a human turn, and turns of their own here."""
    if isinstance(message.content, str) or not (
        isinstance(message, HumanMessage) and any(map(_is_tool_result, message.content))
    ):  # a text's letters are no blocks, and may be millions
        return [_message(message)]
    parts: list[BaseMessage] = []
    for block in message.content:
        if isinstance(block, Mapping) and _is_tool_result(block):
            status = "error" if block.get("is_error") else "success"
            content = first_value(block, "content")
            content = "" if content is None else content
            parts.append(ToolMessage(content, tool_call_id=str(block.get("tool_use_id", "")), status=status))
        elif parts and isinstance(parts[-1], HumanMessage) and isinstance(parts[-1].content, list):
            parts[-1].content.append(block)
        else:
            parts.append(HumanMessage([block], name=message.name))
    return [_message(part) for part in parts]


def _is_tool_result(block: Any) -> bool:
    return isinstance(block, Mapping) and block.get("type") == "tool_result"


def _message(message: BaseMessage) -> dict[str, Any]:
    if isinstance(message, ToolMessage):
        text = text_of(message)
        if message.status == "error" and not text.lower().startswith("error"):
            text = f"Error: {text}"  # templates have no place for the status
        return _named({"role": "tool", "content": text, "tool_call_id": message.tool_call_id}, message)
    if isinstance(message, FunctionMessage):
        return {"role": "tool", "content": text_of(message), "name": message.name}
    if isinstance(message, AIMessage):
        return _assistant(message)
    if isinstance(message, HumanMessage):
        return _named({"role": "user", "content": text_of(message)}, message)
    if isinstance(message, SystemMessage):
        return {"role": "system", "content": text_of(message)}
    if isinstance(message, ChatMessage):
        role = _ROLES.get(message.role, message.role)
        if role == "assistant":
            return _named(_assistant(AIMessage(message.content, additional_kwargs=message.additional_kwargs)), message)
        return _named({"role": role, "content": text_of(message)}, message)
    raise UsageError(f"A message of type {type(message).__name__} cannot be sent to a model.")


def _named(out: dict[str, Any], message: BaseMessage) -> dict[str, Any]:
    if message.name:
        out["name"] = message.name
    return out


def _assistant(message: BaseMessage) -> dict[str, Any]:
    """An assistant turn. A call that was malformed stays visible as the text it was. `additional_kwargs["prefix"]`
    False on the last one asks for a new turn, where it would be continued otherwise."""
    out: dict[str, Any] = {"role": "assistant", "content": text_of(message, assistant=True)}
    if calls := calls_of(message):
        out["tool_calls"] = calls
    out["content"] = "\n".join([part for part in (out["content"], *broken_calls(message)) if part])
    if thoughts := thoughts_of(message):
        out["reasoning_content"] = thoughts
    prefix = continues(message.additional_kwargs, "an assistant message")
    if prefix is not None:
        out["prefix"] = prefix
    return out


# -- replies ----------------------------------------------------------------------------------------------------------


def described(lm: ContrastiveLM) -> dict[str, Any]:
    """What a reply's metadata need of the model: its name, and its tokenizer's count and decode."""
    tokenizer = lm.backbone.tokenizer
    return {
        "model_name": lm.model_id,
        "count": lambda text: len(lm.token_ids(text)),
        "decode": lambda ids: tokenizer.decode(ids),
    }


def result(generation: Generation, model: Mapping[str, Any]) -> ChatGeneration:
    """A whole reply. model: as `described` has it."""
    message = AIMessage(
        content=generation.text,
        additional_kwargs=_extras(generation, whole=True),
        tool_calls=[
            ToolCall(name=whole(c.name), args=whole_texts(c.arguments), id=c.id, type="tool_call")
            for c in generation.tool_calls
        ],
        invalid_tool_calls=[
            InvalidToolCall(
                name=whole_texts(c.name), args=_quoted(c.text), id=c.id, error=whole(c.error), type="invalid_tool_call"
            )
            for c in generation.invalid_tool_calls
        ],
        usage_metadata=_usage(generation, model),
        response_metadata=_metadata(generation, model),
    )
    return ChatGeneration(message=message, generation_info={"finish_reason": generation.finish_reason})


def chunk(event: Event, model: Mapping[str, Any]) -> ChatGenerationChunk:
    """One event as a chunk. Counts, finish reason and report come with the last one only: chunks are added up."""
    if isinstance(event, TextDelta):
        return ChatGenerationChunk(message=AIMessageChunk(content=event.text))
    if isinstance(event, ReasoningDelta):
        return ChatGenerationChunk(
            message=AIMessageChunk(content="", additional_kwargs={"reasoning_content": event.text})
        )
    if isinstance(event, ToolCallDelta):
        call = event.call
        arguments = json.dumps(whole_texts(call.arguments))
        piece = tool_call_chunk(name=whole(call.name), args=arguments, id=call.id, index=event.index)
        return ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[piece]))
    generation = event.generation
    broken = [
        tool_call_chunk(
            name=whole_texts(call.name), args=_quoted(call.text), id=call.id, index=len(generation.tool_calls) + place
        )
        for place, call in enumerate(generation.invalid_tool_calls)
    ]
    message = AIMessageChunk(
        content="",
        additional_kwargs=_extras(generation, whole=False),
        tool_call_chunks=broken,
        usage_metadata=_usage(generation, model),
        response_metadata=_metadata(generation, model),
        chunk_position="last",
    )
    return ChatGenerationChunk(message=message, generation_info={"finish_reason": generation.finish_reason})


def _quoted(text: str) -> str:
    """The text of a malformed call as a JSON string. LangChain completes partial JSON when it adds chunks up: a call
    that was cut off would come out as a valid one, with arguments missing."""
    return json.dumps(whole(text), ensure_ascii=False)


def _extras(generation: Generation, *, whole: bool) -> dict[str, Any]:
    extras: dict[str, Any] = {}
    if generation.refusal is not None:
        extras["refusal"] = generation.refusal
    if whole and generation.reasoning is not None:
        extras["reasoning_content"] = generation.reasoning
    return extras


def _usage(generation: Generation, model: Mapping[str, Any]) -> UsageMetadata:
    usage = generation.usage
    counts = UsageMetadata(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
        input_token_details=InputTokenDetails(cache_read=usage.cached_tokens),
    )
    details: dict[str, int] = {}
    if generation.reasoning is not None:
        details["reasoning"] = model["count"](generation.reasoning)
    if usage.probe_tokens:
        details["probe"] = usage.probe_tokens
    if details:
        counts["output_token_details"] = cast(OutputTokenDetails, details)
    return counts


def _metadata(generation: Generation, model: Mapping[str, Any]) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "finish_reason": generation.finish_reason,
        "model_name": model["model_name"],
        "model_provider": "acd",
        "acd": reported(generation.report),
    }
    if generation.logprobs is not None:
        metadata["logprobs"] = {"content": _logprobs(generation, model)}
    return metadata


def _logprobs(generation: Generation, model: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Log-probabilities in OpenAI's shape."""

    def entry(token: int, logprob: float) -> dict[str, Any]:
        text = model["decode"]([token])
        return {"token": text, "bytes": list(text.encode()), "logprob": logprob}

    def entries(pairs: Iterable[tuple[int, float]]) -> list[dict[str, Any]]:
        return [entry(token, logprob) for token, logprob in pairs]

    return [
        {**entry(item.token_id, item.logprob), "top_logprobs": entries(item.top)} for item in generation.logprobs or ()
    ]
