"""ChatACD: any local chat model in LangChain, decoded with Adversarial Contrastive Decoding.

    from acd_integrations.langchain import ChatACD

    llm = ChatACD(model="Qwen/Qwen2.5-7B-Instruct", pair="my-pair")   # was: ChatHuggingFace(...)
    chain = prompt | llm | parser                                      # unchanged

Thin: messages go down to `acd_core.ContrastiveLM` (see messages.py), its events come back as chunks. Every
public way of asking - invoke, stream, batch, their async twins, tools, structured output - takes that one road, so
none of them goes around the contrast.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing, contextmanager
from typing import TYPE_CHECKING, Any, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.exceptions import ContextOverflowError
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.model_profile import ModelProfile
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import get_config_list
from pydantic import ConfigDict, Field, SecretStr, ValidationError

from acd_core.errors import ContextLengthError, TemplateError, UsageError
from acd_core.params import ContrastParams, Event, GenerationParams, shown
from acd_core.reply.policy import Policy
from acd_core.spec import expert_key, pair_key, version
from acd_integrations.langchain import profile as profiles
from acd_integrations.langchain.messages import chunk, conversation, described, result
from acd_integrations.langchain.model import OverModel
from acd_integrations.langchain.structured import binding, tool_choice_of, tools_of, with_raw
from acd_integrations.shared import policy as policies
from acd_integrations.shared.characters import whole, whole_texts
from acd_integrations.shared.holder import Holder
from acd_integrations.shared.settings import (
    check_none_beside,
    checked_settings,
    contrast_of,
    invalid_settings,
    kept_form,
    merged_variables,
    params_of,
    unknown_settings,
)

if TYPE_CHECKING:
    from acd_core.lm import ContrastiveLM

_OPERATOR = ("gate_floor", "generation_defaults")
_SAMPLING = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")
_CONTRAST = ("method", "alpha", "plausibility", "contrast_tokens", "rescale", "gate", "recheck", "graded")
_PER_CALL = frozenset(GenerationParams.model_fields) | frozenset(ContrastParams.model_fields) | {"timeout", "namespace"}
_IN_FLIGHT = 64  # calls of one batch: as many as the engine has rows for, if none is contrasted


class ChatContextLengthError(ContextLengthError, ContextOverflowError):
    """The conversation does not fit; known to LangChain (summarisation middleware waits for it) and to us."""


class ChatACD(OverModel):
    """A local chat model whose decoding contrasts two opposite system prompts.

    Construction is cheap: weights are loaded at the first call, once per process for every ChatACD, ACDLLM or
    ContrastiveLM that names the same model.

    Setup: ``pip install "acd-integrations[langchain]"``

    Instantiate::

        llm = ChatACD(model="reference", pair="reference", max_tokens=200)
        llm = ChatACD.from_lm(ContrastiveLM.from_model(model, tokenizer, pair="my-pair"))

    Invoke, stream, async::

        llm.invoke("How do I sharpen a kitchen knife?").content
        for piece in llm.stream("..."): print(piece.text, end="")
        await llm.ainvoke("...")

    Per call: any setting of `GenerationParams` (``llm.invoke(..., alpha=0.6)``, ``llm.bind(seed=1)``,
    ``llm.configurable_fields(alpha=...)``). Unknown names raise.

    Tools: ``llm.bind_tools([get_weather], tool_choice="any")``. Forced calls are enforced by a grammar.

    Structured output: ``llm.with_structured_output(Schema)``, enforced by a grammar (extra ``structured``). A model
    that refuses raises `acd_core.errors.RefusalError` there; a forced format never takes its words away.

    Usage and metadata: ``message.usage_metadata`` counts what the user sent and got (soft prompts are not counted);
    ``message.response_metadata`` has finish_reason ("stop", "length", "tool_calls", "refusal"), model_name, and
    ``acd``: method, alpha, tokens contrasted, mean divergence of the branches in [0, 1], and ``gate``: whether and
    where it opened, its last reading, its threshold (None where the call had no gate).

    Copies share the model; pickles and `langchain_core.load.dumps` hold names and load anew. A saved chain is read with
    ``loads(text, valid_namespaces=["acd_integrations"], allowed_objects="core",
    additional_import_mappings=ChatACD.saved_as())``.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", protected_namespaces=())

    method: str | None = None
    """A decoding method; None is "acd" with a pair, "safedecoding" with an expert alone, else "none"."""
    alpha: float | None = None
    """Strength of the contrast in [0, 1); None is the pair's own recommendation, 0 switches it off exactly."""
    plausibility: float | None = None
    """Drop tokens whose probability under the kept prompt is below this share of the best; 0 is off, None the method's
    own, else the pair's recommendation."""
    contrast_tokens: int | None = None
    """Contrast the first k tokens only; None takes the method's own, else the pair's recommendation (mostly all)."""
    rescale: bool = True
    """Divide the contrast by 1 - alpha, so that temperature means what was asked for; False is the paper's formula."""
    gate: bool | float | None = None
    """None or True is the pair's gate: the contrast acts only where the model itself reads harm. A number in (0, 1]
    opens it for about that share of harmless requests; False: the contrast acts on every request."""
    graded: bool = False
    """Whether alpha grows with the reading."""

    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float | None = None
    """1 is off; None is what the model's own generation_config asks for."""
    max_tokens: int | None = None
    """New tokens at most; None is what the context holds, at most 1024."""
    stop: list[str] | None = None
    """Texts that end the reply and are not part of it."""
    seed: int | None = None
    """Fixes the draws; None draws afresh each time."""
    timeout: float | None = None
    """Seconds after which a call fails with DeadlineError."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Variables of the model's chat template, {"enable_thinking": False} say. A call's own go over them, key by key."""
    streaming: bool = False
    """Whether `invoke` streams inside (for callbacks)."""

    max_retries: int | None = Field(default=None, exclude=True)
    """Taken so that this class can stand where a remote model stood; a local call has nothing to retry."""
    api_key: SecretStr | None = Field(default=None, exclude=True)
    """Taken for the same reason; never used."""

    def __init__(self, **settings: Any) -> None:
        settings = checked_settings(type(self), settings)
        if isinstance(settings.get("profile"), profiles.WorkedOut):
            del settings["profile"]  # of the object that LangChain makes this one of, with other settings
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise invalid_settings(type(self), error) from None
        self._fix_policy((*_CONTRAST, "chat_template_kwargs"))
        self._params(None, {})  # impossible values raise here, not at the first call

    @classmethod
    def from_lm(cls, lm: ContrastiveLM, **settings: Any) -> ChatACD:
        """Over a ContrastiveLM the caller made; its pair, expert, method, alpha and gate settings are the defaults.
        Raises UsageError for another model, pair, expert, gate_floor or generation_defaults than it has."""
        own = {"model": lm.model_id, "pair": lm.pair, "expert": lm.expert, "lm_holder": Holder(lm)}
        check_none_beside({name: settings[name] for name in own if name in settings})
        llm = cls(**{**own, **policies.settings_from(lm, settings), **settings})
        llm.lm_holder.check(llm._spec())
        return llm

    # -- asking -----------------------------------------------------------------------------------------------------

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        params, held = self._params(stop, kwargs), self._limits(kwargs)
        asked, lm = conversation(messages), self._lm()
        with _as_langchain_errors():
            generation = lm.generate(asked, params, **held)
        return ChatResult(generations=[result(generation, described(lm))])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        params, held = self._params(stop, kwargs), self._limits(kwargs)
        asked, lm = conversation(messages), await self._alm()
        with _as_langchain_errors():
            generation = await lm.agenerate(asked, params, **held)
        return ChatResult(generations=[result(generation, described(lm))])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        params, held = self._params(stop, kwargs), self._limits(kwargs)
        asked, lm = conversation(messages), self._lm()
        known = described(lm)
        with _as_langchain_errors(), closing(_generator(lm.stream(asked, params, **held))) as events:
            for event in events:
                piece = chunk(event, known)
                if run_manager is not None:  # stream() itself passes none and tells the callbacks; see frameworks
                    run_manager.on_llm_new_token(piece.text, chunk=piece)
                yield piece

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        params, held = self._params(stop, kwargs), self._limits(kwargs)
        asked, lm = conversation(messages), await self._alm()
        known = described(lm)
        with _as_langchain_errors():
            async with aclosing(lm.astream(asked, params, **held)) as events:  # type: ignore[type-var]
                async for event in events:
                    piece = chunk(event, known)
                    if run_manager is not None:
                        await run_manager.on_llm_new_token(piece.text, chunk=piece)
                    yield piece

    def _params(self, stop: list[str] | None, kwargs: Mapping[str, Any]) -> GenerationParams:
        """The settings of one call: the fields, and over them what the call itself says. Raises UsageError for a name
        that is not known here: ignoring a setting in silence would be worse than stopping."""
        given = dict(kwargs)
        given.pop("stream", None)  # LangChain's own switch between invoke and stream
        given.pop("namespace", None)  # see _limits
        model = kept_form("model", given.pop("model", self.model))
        if not isinstance(model, str) or model != self.model:
            raise UsageError(
                f"model={shown(model)} was given for one call, but this ChatACD holds {self.model!r}.",
                hint="Make another ChatACD for another model.",
            )
        if unknown := set(given) - _PER_CALL:
            raise unknown_settings(unknown, _PER_CALL, "A call knows no setting")
        settings: dict[str, Any] = {name: getattr(self, name) for name in (*_SAMPLING, *_CONTRAST)}
        settings.update(contrast_of(given))
        settings["stop"] = self.stop if stop is None else stop
        own = {"deadline_s": "timeout"} if "deadline_s" not in given else {}
        settings["deadline_s"] = given.pop("timeout", self.timeout)
        asked = given.pop("chat_template_kwargs", None)
        settings["chat_template_kwargs"] = merged_variables(self.chat_template_kwargs, asked)
        if given.get("tools") is not None:
            given["tools"] = tools_of(given["tools"])
        if "tool_choice" in given:
            names = [tool["function"]["name"] for tool in given.get("tools") or ()]
            given["tool_choice"] = tool_choice_of(given["tool_choice"], names)
        return params_of(whole_texts({**settings, **given}), own)

    def _limits(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """What the operator holds a call to. Raises PolicyError for a copy of which more was changed than may be."""
        name, given = type(self).__name__, kwargs.get("namespace")
        return policies.call_limits(self.policy, self._spec(), name, self.lm_holder, self.namespace, given)

    # -- many calls at once -----------------------------------------------------------------------------------------
    # LangChain's own would let six calls run at a time on two cores, as if each took a core. Here they share forward
    # passes. `abatch` has no such limit.

    def batch(self, inputs: list[Any], config: Any = None, **kwargs: Any) -> list[Any]:
        """`invoke` on many inputs, all in flight at once unless the config sets max_concurrency."""
        return super().batch(inputs, _all_in_flight(config, len(inputs)), **kwargs)

    def batch_as_completed(self, inputs: Sequence[Any], config: Any = None, **kwargs: Any) -> Iterator[Any]:
        """`batch`, each result with its index as soon as it is there."""
        yield from super().batch_as_completed(inputs, _all_in_flight(config, len(inputs)), **kwargs)

    # -- the model below --------------------------------------------------------------------------------------------

    @property
    def _llm_type(self) -> str:
        return "acd-chat"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """Everything that changes the text. It is LangChain's cache key: what is missing here could bring back an
        answer from before a setting was changed."""
        chosen = {
            name: getattr(self, name) for name in (*_SAMPLING, *_CONTRAST, *_OPERATOR, "revision", "dtype", "device")
        }
        # Not as "stop": under that name LangChain puts the stop of the call, and None where there is none. The output
        # version shapes the message that is kept.
        shape: dict[str, Any] = {"stop_field": self.stop, "output_version": self.output_version}
        shape["chat_template_kwargs"] = self.chat_template_kwargs
        shape["namespace"] = self.namespace  # nobody learns from a cache that is shared what others asked, either
        shape["policy"] = Policy.of(self.policy).key
        return {**self._model_identity(), **chosen, **shape}

    def _model_identity(self) -> dict[str, Any]:
        """What stands for the model, pair and expert below, loaded or not."""
        given = self.lm_holder.given
        if given is None:
            return self._spec().identity(self._known())
        from acd_core.identity import identity_in_memory

        made_of = {"model": self.model, "pair": pair_key(self.pair), "expert": expert_key(self.expert)}
        return {**made_of, "version": version(), "lm": identity_in_memory(given)}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return super()._get_ls_params(stop=stop or self.stop or None, **kwargs)

    def _resolve_model_profile(self) -> ModelProfile | None:
        return profiles.profile(self._spec().replace(method=self.method), self._known())

    # -- counting ---------------------------------------------------------------------------------------------------

    def get_token_ids(self, text: str) -> list[int]:
        """Ids of `text` by the model's own tokenizer."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        return self._lm().token_ids(whole(text))

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """Tokens of the conversation as the model's template renders it (tools included, soft prompts not)."""
        if not messages:
            return 0
        lm, asked = self._lm(), conversation(messages)
        try:
            return lm.count_tokens(asked, whole_texts(tools_of(tools or (), strict=False)))
        except (UsageError, TemplateError):
            # trim_messages counts pieces that are no conversation (system text alone, say): about what they add to one.
            parts = [f"{message['role']}\n{message['content']}" for message in asked]
            return sum(lm.count_tokens(part) + 4 for part in parts)

    # -- tools and structured output --------------------------------------------------------------------------------

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | Any],
        *,
        tool_choice: dict[str, Any] | str | bool | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """This model with tools.

        tool_choice: "auto", "none", "any" (or "required", or True), a tool's name, or a provider's dict of those.
        strict: True has a grammar hold also those calls to their schemas that the model makes of its own accord (forced
        ones are held to them in any case); None leaves it to each tool's own "strict". Other keywords are bound as they
        are: `parallel_tool_calls=False` allows one call in a reply.
        Raises UsageError for an unknown tool, TemplateError for a model whose template ignores tools.
        """
        converted = tools_of(tools, strict=strict)
        if isinstance(tool_choice, Mapping) and tool_choice.get("disable_parallel_tool_use"):
            kwargs.setdefault("parallel_tool_calls", False)
        choice = tool_choice_of(tool_choice, [tool["function"]["name"] for tool in converted])
        if converted:
            profiles.check_tools(self._spec(), self._known())
        chosen = {} if choice is None else {"tool_choice": choice}
        return self.bind(tools=converted, **chosen, **kwargs)

    def with_structured_output(
        self,
        schema: Any = None,
        *,
        method: str = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """This model with replies of one form.

        schema: a Pydantic class (instances come back), a TypedDict, JSON schema or OpenAI function (dicts come back).
        method: "json_schema" (the reply is JSON of that schema), "function_calling" (the reply is a call), "json_mode"
        (any JSON object; the schema only parses). strict: taken for LangChain's sake; the form is always enforced.
        include_raw: give {"raw", "parsed", "parsing_error"} and raise nothing.
        Raises, when run, RefusalError where the model refused, and OutputParserException where max_tokens cut it off.
        """
        if kwargs:
            raise UsageError(f"with_structured_output does not know {', '.join(map(repr, sorted(kwargs)))}.")
        bound, parser = binding(schema, method)
        llm = self.bind_tools(bound.pop("tools"), **bound) if "tools" in bound else self.bind(**bound)
        return with_raw(llm, parser) if include_raw else llm | parser


def _all_in_flight(config: Any, count: int) -> list[RunnableConfig]:
    """A config for each of `count` calls, all of which may be in flight at once unless the caller says otherwise."""
    return [
        cast(RunnableConfig, {**each, "max_concurrency": each.get("max_concurrency") or _IN_FLIGHT})
        for each in get_config_list(config, count)
    ]


@contextmanager
def _as_langchain_errors() -> Iterator[None]:
    """Raise the error of a conversation that is too long as one that LangChain knows too."""
    try:
        yield
    except ContextLengthError as error:
        raise ChatContextLengthError(error.message, hint=error.hint) from error


def _generator(events: Iterator[Event]) -> Any:
    """`events` as something that can be closed."""
    return events if hasattr(events, "close") else (event for event in events)
