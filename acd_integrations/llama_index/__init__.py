"""ACDLLM: safer decoding for any local chat model as a LlamaIndex LLM.

    from acd_integrations.llama_index import ACDLLM
    Settings.llm = ACDLLM(model="Qwen/Qwen2.5-7B-Instruct", pair="my-pair")

Chat is the primitive and complete is derived from it. Every method goes through `acd_core.ContrastiveLM`, so plain and
streamed, sync and async replies, tool calls and structured values are all decoded under the same contrast. Weights are
loaded by the first call, not by a look at `metadata`; a server calls `await llm.aload()` at its start.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, Field, ValidationError

from acd_core.errors import UsageError, missing_extra
from acd_core.params import ContrastParams, GenerationParams

try:
    from llama_index.core.base.llms.types import (
        ChatMessage,
        ChatResponse,
        ChatResponseAsyncGen,
        ChatResponseGen,
        CompletionResponse,
        CompletionResponseAsyncGen,
        CompletionResponseGen,
        LLMMetadata,
        MessageRole,
    )
    from llama_index.core.constants import DEFAULT_NUM_OUTPUTS
    from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
    from llama_index.core.llms.llm import ToolSelection
except ImportError as error:  # pragma: no cover - depends on the installation
    raise missing_extra("llama-index-core", "llama-index") from error

from acd_integrations.llama_index.messages import (
    ResponseBuilder,
    to_completion,
    to_conversation,
    to_tool,
    to_tool_choice,
    tool_selections,
)
from acd_integrations.llama_index.model import OverModel
from acd_integrations.shared import policy as policies
from acd_integrations.shared.calls import checked_tools
from acd_integrations.shared.characters import whole, whole_texts
from acd_integrations.shared.holder import Holder
from acd_integrations.shared.settings import (
    check_none_beside,
    checked_settings,
    contrast_of,
    invalid_settings,
    merged_variables,
    params_of,
    unknown_settings,
)

if TYPE_CHECKING:
    from acd_core.lm import ContrastiveLM

_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "stop", "seed")
_CONTRAST = ("alpha", "plausibility", "contrast_tokens", "rescale", "gate", "recheck", "graded")
_PER_CALL = frozenset(GenerationParams.model_fields) | frozenset(ContrastParams.model_fields) | {"timeout"}


class ACDLLM(OverModel):
    """A local chat model under Adversarial Contrastive Decoding (or another method), as a LlamaIndex LLM.

    Setup:
        pip install "acd-integrations[llama-index]"

    Instantiate:
        llm = ACDLLM(model="reference", pair="reference", max_tokens=128)
        llm = ACDLLM.from_lm(lm)                       # over a ContrastiveLM that is already there

    Use, as any LlamaIndex LLM:
        llm.complete("...")  llm.chat([...])  llm.stream_chat([...])  await llm.achat([...])
        index.as_query_engine(llm=llm)   FunctionAgent(tools=[...], llm=llm)   llm.structured_predict(Class, prompt)

    Settings can be changed per call: `llm.chat(messages, temperature=0.7, max_tokens=64, alpha=0.2)`. Unknown ones
    raise UsageError. Replies carry token counts in `additional_kwargs` and `raw["usage"]`, the end in
    `raw["finish_reason"]`, and what the contrast and the gate did in `raw["contrast"]`; a refusal where a tool call was
    forced stands in `message.additional_kwargs["refusal"]`, and `structured_predict` raises RefusalError with it.

    For exact packing of retrieved text, let LlamaIndex count as the model does: `Settings.tokenizer = llm.token_ids`.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    alpha: float | None = Field(default=None, description="Contrast strength in [0, 1). None: the pair's own.")
    plausibility: float | None = Field(
        default=None, description="Drop tokens below this share of the best one's probability. None: as recommended."
    )
    contrast_tokens: int | None = Field(default=None, description="Contrast so many tokens. None: as recommended.")
    rescale: bool = Field(
        default=True,
        description="Divide the contrast by 1 - alpha, so that temperature means what was asked for. "
        "False: the paper's formula.",
    )
    gate: bool | float | None = Field(
        default=None,
        description="None or True: the pair's gate, so that the contrast acts only where the model reads harm. "
        "A number in (0, 1]: open it for that share of harmless requests. False: act on every request.",
    )
    graded: bool = Field(default=False, description="Whether alpha grows with the gate's reading.")
    temperature: float = Field(default=0.0, description="0 is greedy.")
    top_p: float = Field(default=1.0, description="In (0, 1]; 1 is off.")
    top_k: int = Field(default=0, description="0 is off.")
    min_p: float = Field(default=0.0, description="In [0, 1]; 0 is off.")
    repetition_penalty: float | None = Field(
        default=None, description="1 is off. None: what the model's own generation_config asks for."
    )
    max_tokens: int | None = Field(default=None, description="New tokens at most. None: what the context holds.")
    stop: list[str] | None = Field(default=None, description="Strings that end the reply and are cut off it.")
    seed: int | None = Field(default=None, description="Fixes the draws of each call.")
    timeout: float | None = Field(default=None, description="Seconds after which a call fails with DeadlineError.")
    chat_template_kwargs: dict[str, Any] | None = Field(
        default=None,
        description='Variables of the model\'s chat template, such as {"enable_thinking": False}. '
        "A call's own go over them, key by key.",
    )

    def __init__(self, **data: Any) -> None:
        """Checks the settings; loads nothing. Raises UsageError for an unknown or impossible one."""
        data = checked_settings(type(self), data)
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise invalid_settings(type(self), error) from None
        self._fix_policy(("method", *_CONTRAST, "chat_template_kwargs"))
        self._params({})

    @classmethod
    def from_lm(cls, lm: ContrastiveLM, **settings: Any) -> ACDLLM:
        """Over a ContrastiveLM that exists already: same engine, same weights. `settings` are fields of this class.
        Raises UsageError for another model, pair, expert, gate_floor or generation_defaults than it has."""
        own = {"model": lm.model_id, "pair": lm.pair, "expert": lm.expert}
        check_none_beside({name: settings[name] for name in own if name in settings})
        llm = cls(**{**own, **policies.settings_from(lm, settings), "method": lm.method, **settings})
        llm._holder = Holder(lm)
        llm._holder.check(llm._spec())
        return llm

    @classmethod
    def class_name(cls) -> str:
        return "ACDLLM"

    # -- what hosts ask of the model ----------------------------------------------------------------------------------

    def token_ids(self, text: str) -> list[int]:
        """Ids of `text` in the model's own vocabulary, for `Settings.tokenizer = llm.token_ids`."""
        return list(self.lm.token_ids(whole(text)))

    def count_tokens(self, messages: str | Sequence[ChatMessage]) -> int:
        """Tokens of a text, or of a conversation as the model's template renders it."""
        return self.lm.count_tokens(whole(messages) if isinstance(messages, str) else to_conversation(messages))

    @property
    def metadata(self) -> LLMMetadata:
        """What LlamaIndex packs prompts and picks routes by, without loading weights: config and template say it.

        `context_window` is what is left for texts: the model's context without what the pair (or the method's own text)
        and the template's marks around a system and a user turn take.
        """
        facts = self._known_facts()
        window = max(facts.max_input_tokens - facts.frame_tokens, 1)
        return LLMMetadata(
            context_window=window,
            num_output=min(self.max_tokens or min(DEFAULT_NUM_OUTPUTS, window // 4), window),
            is_chat_model=True,
            is_function_calling_model=facts.supports_tools,
            model_name=_display_name(self.model),
            # Models without a system role get system text at the start of the first user turn; callers need not know.
            system_role=MessageRole.SYSTEM,
        )

    def to_payload(self) -> dict[str, Any]:
        """What instrumentation may see: settings and names, never a path. Loads nothing: it runs on the event loop."""
        pair = self.pair if self.pair is None or isinstance(self.pair, str) else getattr(self.pair, "id", "")[:16]
        payload = {
            "class_name": self.class_name(),
            "model_name": _display_name(self.model),
            "pair": _display_name(pair) if pair else None,
            "method": self.method,
            **{name: getattr(self, name) for name in (*_CONTRAST, "gate_floor", *_SAMPLING, "chat_template_kwargs")},
        }
        loaded = self._holder.known(self._spec()) is not None
        return {**payload, **self.metadata.model_dump(mode="json")} if loaded else payload

    # -- the eight methods ------------------------------------------------------------------------------------------

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return self._chat(messages, kwargs)

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        return self._stream_chat(messages, kwargs)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return await self._achat(messages, kwargs)

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        return await self._astream_chat(messages, kwargs)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return to_completion(self._chat(self._completion(prompt, formatted), kwargs, formatted))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        responses = self._stream_chat(self._completion(prompt, formatted), kwargs, formatted)

        def completions() -> CompletionResponseGen:
            with closing(responses):
                for response in responses:
                    yield to_completion(response)

        return completions()

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return to_completion(await self._achat(self._completion(prompt, formatted), kwargs, formatted))

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        responses = await self._astream_chat(self._completion(prompt, formatted), kwargs, formatted)

        async def completions() -> CompletionResponseAsyncGen:
            async with aclosing(responses):
                async for response in responses:
                    yield to_completion(response)

        return completions()

    # The undecorated four: complete calls these, so that one call fires one pair of events and is counted once.

    def _chat(self, messages: Sequence[ChatMessage], given: dict[str, Any], formatted: bool = False) -> ChatResponse:
        conversation, params, held = self._request(messages, given, formatted)
        lm = self.lm
        return self._reply(lm).final(lm.generate(conversation, params, **held))

    def _stream_chat(
        self, messages: Sequence[ChatMessage], given: dict[str, Any], formatted: bool = False
    ) -> ChatResponseGen:
        conversation, params, held = self._request(messages, given, formatted)
        lm = self.lm
        reply = self._reply(lm)

        def responses() -> ChatResponseGen:
            with _closing(lm.stream(conversation, params, **held)) as events:
                for event in events:
                    if (response := reply.feed(event)) is not None:
                        yield response

        return responses()

    async def _achat(
        self, messages: Sequence[ChatMessage], given: dict[str, Any], formatted: bool = False
    ) -> ChatResponse:
        conversation, params, held = self._request(messages, given, formatted)
        lm = (await self.aload()).lm
        return self._reply(lm).final(await lm.agenerate(conversation, params, **held))

    async def _astream_chat(
        self, messages: Sequence[ChatMessage], given: dict[str, Any], formatted: bool = False
    ) -> ChatResponseAsyncGen:
        conversation, params, held = self._request(messages, given, formatted)
        lm = (await self.aload()).lm
        reply = self._reply(lm)

        async def responses() -> ChatResponseAsyncGen:
            async with _aclosing(lm.astream(conversation, params, **held)) as events:
                async for event in events:
                    if (response := reply.feed(event)) is not None:
                        yield response

        return responses()

    def _reply(self, lm: ContrastiveLM) -> ResponseBuilder:
        return ResponseBuilder(_display_name(self.model), lambda token: lm.backbone.tokenizer.decode([token]))

    # -- prompts and settings of one call ---------------------------------------------------------------------------

    def _params(self, overrides: dict[str, Any]) -> GenerationParams:
        """The settings of one call. Raises UsageError for unknown names and impossible values."""
        if unknown := set(overrides) - _PER_CALL:
            raise unknown_settings(unknown, _PER_CALL, "A call knows no setting")
        given = dict(overrides)
        own = {name: getattr(self, name) for name in ("method", *_SAMPLING, *_CONTRAST)}
        names = {"deadline_s": "timeout"} if "deadline_s" not in given else {}
        own["deadline_s"] = given.pop("timeout", self.timeout)
        own.update(contrast_of(given))
        asked = given.pop("chat_template_kwargs", None)
        own["chat_template_kwargs"] = merged_variables(self.chat_template_kwargs, asked)
        return params_of(whole_texts({**own, **given}), names)

    def _request(
        self, messages: Sequence[ChatMessage], given: dict[str, Any], formatted: bool
    ) -> tuple[list[dict[str, Any]], GenerationParams, dict[str, Any]]:
        """Conversation, settings, and what the operator holds the call to. Checks everything before anything runs."""
        kwargs = dict(given)
        within, name = kwargs.pop("namespace", None), type(self).__name__
        held = policies.call_limits(self.policy, self._spec(), name, self._holder, self.namespace, within)
        if "allow_parallel_tool_calls" in kwargs:  # LlamaIndex's name of the core's setting
            kwargs["parallel_tool_calls"] = bool(kwargs.pop("allow_parallel_tool_calls"))
        if kwargs.get("tools") is not None:
            kwargs["tools"] = [to_tool(tool) for tool in checked_tools(kwargs["tools"])]
        if "tool_choice" in kwargs:
            kwargs["tool_choice"] = to_tool_choice(kwargs["tool_choice"], tool_required=False)
        params = self._params(kwargs)
        prepared = list(messages) if formatted else self._with_own_prompts(messages)
        return to_conversation(prepared), params, held

    # -- tools ------------------------------------------------------------------------------------------------------

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[Any],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        tool_choice: Any = None,
        strict: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        messages = list(chat_history or [])
        if user_msg is not None:
            messages.append(user_msg if isinstance(user_msg, ChatMessage) else ChatMessage(content=user_msg))
        prepared: dict[str, Any] = {"messages": messages, **kwargs}
        tools = [] if tools is None else list(checked_tools(tools))
        if tools:
            prepared["tools"] = [to_tool(tool, strict=strict) for tool in tools]
            prepared["tool_choice"] = to_tool_choice(tool_choice, tool_required)
            prepared["allow_parallel_tool_calls"] = allow_parallel_tool_calls
        elif tool_required or tool_choice not in (None, "auto", "none"):
            raise UsageError("A tool call is required, but there are no tools.", hint="Pass tools=[...].")
        return prepared

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """The tool calls of a reply.

        Raises, if asked to: RefusalError where the model refused, UsageError where it answered in words.
        """
        return tool_selections(response, error_on_no_tool_call)


def _display_name(name: str) -> str:
    """The name without its folders, where it is a path; a hub id stays whole."""
    looks_local = name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1 or name[1:2] == ":"
    if looks_local or Path(name).exists():
        return re.split(r"[/\\]", name.rstrip("/\\"))[-1] or name
    return name


def _closing(events: Iterator[Any]) -> Any:
    return closing(events)


def _aclosing(events: AsyncIterator[Any]) -> Any:
    return aclosing(events)
