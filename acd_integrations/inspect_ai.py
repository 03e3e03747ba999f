"""Inspect measures a model under any decoding method: the provider "acd", found through this package's entry point.

    inspect eval task.py --model acd/my-pair                      the pair says which model it was made for
    inspect eval task.py --model acd/Qwen/Qwen2.5-7B-Instruct -M pair=my-pair -M alpha=0.3
    inspect eval task.py --model acd/Qwen/Qwen2.5-7B-Instruct -M pair=null -M method=rose

Samples run concurrently and share forward passes: each is a `ContrastiveLM.agenerate`, and the engine joins them.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

from acd_core.errors import ContextLengthError, UsageError, missing_extra
from acd_core.params import Generation, GenerationParams
from acd_core.spec import LMSpec
from acd_integrations.shared.report import reported
from acd_integrations.shared.settings import check_none_beside

try:
    from inspect_ai import model as host
    from inspect_ai.tool import ToolCall, ToolChoice, ToolFunction, ToolInfo
except ImportError as error:  # pragma: no cover - depends on the installation
    raise missing_extra("inspect-ai", "inspect") from error

if TYPE_CHECKING:
    from acd_core.lm import ContrastiveLM

_SAME_NAME = ("max_tokens", "temperature", "top_p", "top_k", "seed")
_UNKNOWN = ("frequency_penalty", "presence_penalty", "logit_bias", "best_of", "prompt_logprobs", "modalities")
_STOP: dict[str, host.StopReason] = {"length": "max_tokens", "tool_calls": "tool_calls"}
_UNSET: Any = object()


class ContrastiveAPI(host.ModelAPI):
    """`acd/<pair>`, or `acd/<model>` with `-M pair=...` (`pair=null`: none). Loads at the first reply.

    Other `-M` settings: model (where the pair's base model lies, if not where the pair says), the others of
    `acd_core.spec.LMSpec`, and every field of GenerationParams (method, ...) and ContrastParams as a default; from
    Python also lm, for a ContrastiveLM that is there already. Raises UsageError for an unknown setting, for one of a
    spec beside lm, and for a GenerateConfig field that would change the replies and does not exist here (logit_bias,
    ...). `extra_body={"acd": {"alpha": 0.2}}` changes the contrast of one call. What the contrast and the gate did is
    in the output's metadata, under "acd".
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: host.GenerateConfig = host.GenerateConfig(),
        *,
        pair: Any = _UNSET,
        model: str | None = None,
        lm: ContrastiveLM | None = None,
        dtype: str = "auto",
        device: str = "auto",
        revision: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        own, for_calls = LMSpec.split(settings)
        if lm is not None:
            check_none_beside(own)
        self._model: str | None = model if pair is _UNSET else model or model_name
        self._defaults = GenerationParams.of(None, **for_calls)
        # "" stands for the pair's base model, which is known when the pair is read.
        self._spec = LMSpec(
            self._model or "",
            model_name if pair is _UNSET else pair,
            self._defaults.method,
            **{"dtype": dtype, "device": device, "revision": revision, **own},
        )
        self._lm = lm
        self._loading = threading.Lock()

    def load(self) -> ContrastiveLM:
        """The model behind it. Raises UsageError for a pair that fits every model where none is named."""
        with self._loading:
            if self._lm is None:
                spec = self._spec.with_artifacts()
                base = getattr(spec.pair, "base_model", None)
                if self._model is None and base is None:
                    raise UsageError(
                        f"The pair {self.model_name!r} fits every model, so it does not say which one to load.",
                        hint=f"inspect eval ... --model acd/{self.model_name} -M model=<folder or hub id>",
                    )
                self._lm = spec.replace(model=self._model or base).load()
            return self._lm

    async def generate(
        self, input: list[host.ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: host.GenerateConfig
    ) -> host.ModelOutput:
        began = time.monotonic()
        conversation = [_message(message) for message in input]
        params = self._params(tools, tool_choice, config)
        draws = [
            {} if params.seed is None else {"seed": params.seed + number} for number in range(config.num_choices or 1)
        ]
        lm = await asyncio.to_thread(self.load)
        try:
            replies = await asyncio.gather(*(lm.agenerate(conversation, params, **draw) for draw in draws))
        except ContextLengthError as error:
            return host.ModelOutput.from_content(self.model_name, error.message, "model_length", str(error))
        return host.ModelOutput(
            model=self.model_name,
            choices=[self._choice(lm, reply, config) for reply in replies],
            usage=sum(map(_usage, replies), host.ModelUsage()),
            time=time.monotonic() - began,
            metadata={"acd": reported(replies[0].report)},
        )

    async def count_text_tokens(self, text: str) -> int:
        return len(await self.tokenize(text))

    async def tokenize(self, text: str) -> list[int]:
        return (await asyncio.to_thread(self.load)).token_ids(text)

    def connection_key(self) -> str:
        return f"{self._model}:{self.model_name}"

    def close(self) -> None:
        if self._lm is not None:
            self._lm.close()
            self._lm = None

    def _params(self, tools: list[ToolInfo], choice: ToolChoice, config: host.GenerateConfig) -> GenerationParams:
        for name in _UNKNOWN:
            if getattr(config, name):  # a penalty of 0 asks for nothing
                raise UsageError(
                    f"{name}={getattr(config, name)!r} is not supported.", hint=f"Leave {name} out of GenerateConfig."
                )
        given: dict[str, Any] = {name: getattr(config, name) for name in _SAME_NAME}
        given["stop"] = config.stop_seqs
        given["logprobs"] = (config.top_logprobs or 0) if config.logprobs else None
        if config.response_schema is not None:
            schema = config.response_schema.json_schema.model_dump(exclude_none=True)
            form = {"name": config.response_schema.name, "schema": schema}
            given["response_format"] = {"type": "json_schema", "json_schema": form}
        if tools:
            functions = [tool.model_dump(exclude_none=True, exclude={"options"}) for tool in tools]
            given["tools"] = [{"type": "function", "function": function} for function in functions]
            named = choice.name if isinstance(choice, ToolFunction) else choice
            given["tool_choice"] = "required" if named == "any" else named
        given = {name: value for name, value in given.items() if value is not None}
        return GenerationParams.of(self._defaults, **given, **(config.extra_body or {}).get("acd", {}))

    def _choice(self, lm: ContrastiveLM, reply: Generation, config: host.GenerateConfig) -> host.ChatCompletionChoice:
        calls = [ToolCall(call.id, call.name, call.arguments) for call in reply.tool_calls]
        calls += [ToolCall(bad.id, bad.name or "unknown", {}, bad.error) for bad in reply.invalid_tool_calls]
        thought = [host.ContentReasoning(reasoning=reply.reasoning)] if reply.reasoning else []
        message = host.ChatMessageAssistant(
            content=[*thought, host.ContentText(text=reply.text)] if thought else reply.text,
            tool_calls=(calls[:1] if config.parallel_tool_calls is False else calls) or None,
            model=self.model_name,
            source="generate",
        )
        text = lm.backbone.tokenizer.decode
        marks = [
            host.Logprob(
                token=text([entry.token_id]),
                logprob=entry.logprob,
                top_logprobs=[host.TopLogprob(token=text([token]), logprob=value) for token, value in entry.top],
            )
            for entry in reply.logprobs or ()
        ]
        return host.ChatCompletionChoice(
            message=message,
            stop_reason=_STOP.get(reply.finish_reason, "stop"),
            logprobs=host.Logprobs(content=marks) if marks else None,
        )


def _message(message: host.ChatMessage) -> dict[str, Any]:
    """One of Inspect's messages as one of ours. Raises UsageError for anything but text."""
    blocks = [host.ContentText(text=message.content)] if isinstance(message.content, str) else message.content
    for block in blocks:
        if block.type not in ("text", "reasoning"):
            raise UsageError(f"A {message.role} message holds a block of type {block.type!r}; this model reads text.")
    out: dict[str, Any] = {"role": message.role, "content": message.text}
    thoughts = [block.reasoning for block in blocks if isinstance(block, host.ContentReasoning)]
    if thoughts:
        out["reasoning_content"] = "\n".join(thoughts)
    if isinstance(message, host.ChatMessageAssistant) and message.tool_calls:
        out["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.function, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if isinstance(message, host.ChatMessageTool):
        out["tool_call_id"] = message.tool_call_id
        out["content"] = f"Error: {message.error.message}" if message.error is not None else message.text
    return out


def _usage(reply: Generation) -> host.ModelUsage:
    usage = reply.usage
    return host.ModelUsage(
        input_tokens=usage.prompt_tokens - usage.cached_tokens,  # Inspect counts cached ones apart
        output_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
        input_tokens_cache_read=usage.cached_tokens,
    )


acd = host.modelapi(name="acd")(ContrastiveAPI)
