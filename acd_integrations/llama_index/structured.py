"""Structured prediction for a LlamaIndex LLM whose `chat` takes a `response_format`.

The schema is enforced by grammar while decoding, not asked for in words. A model that refuses instead raises
RefusalError: a forced format never disables safety.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, closing
from typing import Any

from llama_index.core.base.llms.types import ChatResponse
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.events.llm import LLMStructuredPredictEndEvent, LLMStructuredPredictStartEvent
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.program.utils import process_streaming_objects
from llama_index.core.types import PydanticProgramMode

from acd_core.errors import RefusalError, UsageError
from acd_integrations.llama_index.messages import response_format

dispatcher = get_dispatcher(__name__)


class StructuredPrediction(FunctionCallingLLM):
    """`structured_predict`, its async and its streaming forms; `as_structured_llm` follows from them.

    A `pydantic_program_mode` other than DEFAULT takes LlamaIndex's own way instead.
    """

    @abstractmethod
    async def aload(self) -> Any:
        """Make `metadata` cheap, off the event loop: formatting a prompt reads it."""

    def structured_predict(
        self, output_cls: type[Any], prompt: Any, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> Any:
        """An `output_cls` instance. Raises RefusalError where the model refused, UsageError where max_tokens cut it."""
        if self._in_words:
            return super().structured_predict(output_cls, prompt, llm_kwargs, **prompt_args)
        dispatcher.event(
            LLMStructuredPredictStartEvent(output_cls=output_cls, template=prompt, template_args=prompt_args)
        )
        messages = self._extend_messages(prompt.format_messages(llm=self, **prompt_args))
        result = _finished(self.chat(messages, **_forced(output_cls, llm_kwargs)), output_cls)
        dispatcher.event(LLMStructuredPredictEndEvent(output=result))
        return result

    async def astructured_predict(
        self, output_cls: type[Any], prompt: Any, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> Any:
        """As `structured_predict`, without blocking the event loop."""
        await self.aload()
        if self._in_words:
            return await super().astructured_predict(output_cls, prompt, llm_kwargs, **prompt_args)
        dispatcher.event(
            LLMStructuredPredictStartEvent(output_cls=output_cls, template=prompt, template_args=prompt_args)
        )
        messages = self._extend_messages(prompt.format_messages(llm=self, **prompt_args))
        result = _finished(await self.achat(messages, **_forced(output_cls, llm_kwargs)), output_cls)
        dispatcher.event(LLMStructuredPredictEndEvent(output=result))
        return result

    # The public streaming forms fire the events and call these two.

    def _structured_stream_call(
        self, output_cls: type[Any], prompt: Any, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> Generator[Any, None, None]:
        if self._in_words:
            return super()._structured_stream_call(output_cls, prompt, llm_kwargs, **prompt_args)
        messages = self._extend_messages(prompt.format_messages(llm=self, **prompt_args))
        responses = self.stream_chat(messages, **_forced(output_cls, llm_kwargs))

        def objects() -> Generator[Any, None, None]:
            seen: list[Any] | None = None
            with closing(responses):
                for response in responses:
                    if (found := _so_far(response, output_cls, seen)) is not None:
                        seen = [found]
                        yield found

        return objects()

    async def _structured_astream_call(
        self, output_cls: type[Any], prompt: Any, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> AsyncGenerator[Any, None]:
        await self.aload()
        if self._in_words:
            return await super()._structured_astream_call(output_cls, prompt, llm_kwargs, **prompt_args)
        messages = self._extend_messages(prompt.format_messages(llm=self, **prompt_args))
        responses = await self.astream_chat(messages, **_forced(output_cls, llm_kwargs))

        async def objects() -> AsyncGenerator[Any, None]:
            seen: list[Any] | None = None
            async with aclosing(responses):
                async for response in responses:
                    if (found := _so_far(response, output_cls, seen)) is not None:
                        seen = [found]
                        yield found

        return objects()

    @property
    def _in_words(self) -> bool:
        return self.pydantic_program_mode is not PydanticProgramMode.DEFAULT


def _forced(output_cls: type[Any], llm_kwargs: dict[str, Any] | None) -> dict[str, Any]:
    """Per-call settings that force `output_cls`. Tool settings of LlamaIndex's own programs have no meaning here."""
    kwargs = dict(llm_kwargs or {})
    for name in ("tool_required", "tool_choice", "allow_parallel_tool_calls"):
        kwargs.pop(name, None)
    return {**kwargs, "response_format": response_format(output_cls)}


def _finished(response: ChatResponse, output_cls: type[Any]) -> Any:
    """The finished reply as an instance. Raises RefusalError, UsageError (cut off), pydantic's own ValidationError."""
    if "refusal" in response.message.additional_kwargs:
        raise RefusalError(response.message.additional_kwargs["refusal"])
    if (response.raw or {}).get("finish_reason") == "length":
        raise UsageError(
            f"The JSON of {output_cls.__name__} was cut off after "
            f"{response.additional_kwargs.get('completion_tokens')} tokens.",
            hint='Pass llm_kwargs={"max_tokens": ...} with a larger value.',
        )
    return output_cls.model_validate_json(response.message.content or "")


def _so_far(response: ChatResponse, output_cls: type[Any], seen: list[Any] | None) -> Any | None:
    """What a stream has shown of the object; the instance itself once it is whole. None while it is not JSON."""
    if response.raw is not None:
        return _finished(response, output_cls)
    if not (response.message.content or "").lstrip().startswith("{"):
        return None
    found = process_streaming_objects(response, output_cls, cur_objects=seen)
    return found[0] if isinstance(found, list) else found
