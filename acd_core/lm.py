"""The front door: a frozen chat model, a method, and safer replies. Everything above talks to this."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NamedTuple, overload
from uuid import uuid4

from acd_core.artifacts import learnt
from acd_core.artifacts.gate import EVERY, GateRules
from acd_core.artifacts.learnt import LearntForModel
from acd_core.artifacts.learnt_files import method_for
from acd_core.artifacts.pair import PromptPair
from acd_core.chat import Conversation, Message
from acd_core.engine import EngineOptions
from acd_core.errors import EngineClosedError, UsageError
from acd_core.model.backbone import Backbone
from acd_core.model.model_defaults import ModelDefaults
from acd_core.params import Event, Generation, GenerationParams, shown
from acd_core.reply import driving
from acd_core.reply.facts import ModelFacts, facts_of
from acd_core.reply.plan import Plan
from acd_core.reply.planning import Planner, runnable
from acd_core.reply.policy import Policy
from acd_core.reply.scoring import Continuation, LogLikelihood, Scorer
from acd_core.reply.sharing import backbone_of, defaults_of, join, leave

if TYPE_CHECKING:
    import torch


_NO_END = 1e9  # seconds, some thirty years: more than clocks and locks can be asked to wait for


class CallSettings(NamedTuple):
    """One call: its settings, the method where they name none, the policies that hold, and its namespace."""

    settings: GenerationParams
    method: str
    policies: tuple[Policy, ...]
    space: str


class ContrastiveLM:
    """A local chat model that decodes with a named method. Thread-safe; concurrent calls share forward passes.

    Build one with `from_pretrained` or `from_model`. `method` is a name of `acd_core.methods.table.METHODS`; None is
    "acd" with a pair, else with an expert alone "safedecoding" ("scans", "alphasteer" with steering), else "none".
    alpha None takes the pair's recommendation.
    `gate`, `recheck`: as in `ContrastParams`, for calls that say nothing; a pair's gate is used unless `gate` is False.
    `gate_floor`: the operator's; no call may have the gate open for a smaller share of harmless requests.
    `policy`: what else calls may not ask (a `Policy`). Every call also takes `policy=`, one more that holds beside it.
    `namespace`: keys and values of conversations are found again within one only, so that nobody learns from cached
    tokens what others asked; None: this object's own. A call's `namespace=` takes its place (a tenant's, say).
    `expert` is a LoRA expert, steering, or the folder of either. `deterministic=True` serves each request alone, so
    that low-precision rounding cannot depend on neighbours. `generation_defaults=False` leaves the model's own
    generation_config out of account (repetition penalty, ...: see model/model_defaults.py; `acd doctor` shows it).
    `allow_adversarial=True` unlocks decoding under the adversarial prompt alone, for the ablation only.
    """

    def __init__(
        self,
        backbone: Backbone,
        pair: PromptPair | None = None,
        method: str | None = None,
        *,
        expert: str | os.PathLike[str] | LearntForModel | None = None,
        alpha: float | None = None,
        gate: bool | float | None = None,
        gate_floor: float | None = None,
        recheck: int = EVERY,
        policy: Policy | None = None,
        namespace: str | None = None,
        options: EngineOptions | None = None,
        deterministic: bool = False,
        generation_defaults: bool = True,
        allow_adversarial: bool = False,
    ) -> None:
        self.backbone = backbone
        self.pair = pair
        self.expert = learnt.given(expert, backbone)
        self.allow_adversarial = allow_adversarial
        self.method = method if method is not None else method_for(pair, self.expert)
        self.alpha = GenerationParams.of(alpha=alpha).contrast.alpha
        self.policy = Policy.of(policy)
        self.namespace = namespace or uuid4().hex
        self.deterministic = deterministic
        self.generation_defaults = generation_defaults
        self.defaults = defaults_of(backbone) if generation_defaults else ModelDefaults()
        if pair is not None:
            pair.check(backbone)
        self.gate_rules = GateRules(pair.gate if pair is not None else None, gate, gate_floor, recheck)
        runnable(self.method, pair, self.expert, backbone, allow_adversarial=allow_adversarial)
        self._shared = shared = join(backbone, options, self)
        self.engine, self.chat, self.formats = shared.engine, shared.chat, shared.formats
        self._planner = Planner(
            backbone,
            shared.chat,
            shared.formats,
            shared.decoder,
            pair,
            self.expert,
            alpha=self.alpha,
            gate=self.gate_rules,
            defaults=self.defaults,
            deterministic=deterministic,
            allow_adversarial=allow_adversarial,
        )
        self._facts: dict[str, ModelFacts] = {}
        self._scorer = Scorer(backbone, shared.chat, self._planner)
        self._closed = False

    @classmethod
    def from_pretrained(
        cls,
        model: str,
        pair: str | os.PathLike[str] | PromptPair | None = None,
        method: str | None = None,
        *,
        expert: str | os.PathLike[str] | LearntForModel | None = None,
        alpha: float | None = None,
        gate: bool | float | None = None,
        gate_floor: float | None = None,
        recheck: int = EVERY,
        policy: Policy | None = None,
        namespace: str | None = None,
        dtype: str = "auto",
        device: str = "auto",
        revision: str | None = None,
        options: EngineOptions | None = None,
        deterministic: bool = False,
        generation_defaults: bool = True,
        allow_adversarial: bool = False,
    ) -> ContrastiveLM:
        """Load a model by folder, hub id or "reference", a pair by folder, hub id, "reference" or object, and an expert
        by folder or object.

        Weights and engine are shared by everything in the process that names the same model, revision, dtype and
        device. Raises ModelError, PairError, ExpertError or UsageError, each naming the next command.
        """
        backbone = Backbone.load(model, revision=revision, dtype=dtype, device=device)
        loaded = pair if isinstance(pair, PromptPair) or pair is None else PromptPair.load(pair, backbone=backbone)
        return cls(
            backbone,
            loaded,
            method,
            expert=expert,
            alpha=alpha,
            gate=gate,
            gate_floor=gate_floor,
            recheck=recheck,
            policy=policy,
            namespace=namespace,
            options=options,
            deterministic=deterministic,
            generation_defaults=generation_defaults,
            allow_adversarial=allow_adversarial,
        )

    @classmethod
    def from_model(
        cls,
        model: Any,
        tokenizer: Any,
        pair: str | os.PathLike[str] | PromptPair | None = None,
        method: str | None = None,
        *,
        model_id: str | None = None,
        expert: str | os.PathLike[str] | LearntForModel | None = None,
        alpha: float | None = None,
        gate: bool | float | None = None,
        gate_floor: float | None = None,
        recheck: int = EVERY,
        policy: Policy | None = None,
        namespace: str | None = None,
        options: EngineOptions | None = None,
        deterministic: bool = False,
        generation_defaults: bool = True,
        allow_adversarial: bool = False,
    ) -> ContrastiveLM:
        """Use a model and tokenizer the caller loaded (any dtype, quantised, device-mapped); neither is changed."""
        backbone = backbone_of(model, tokenizer, model_id)
        loaded = pair if isinstance(pair, PromptPair) or pair is None else PromptPair.load(pair, backbone=backbone)
        return cls(
            backbone,
            loaded,
            method,
            expert=expert,
            alpha=alpha,
            gate=gate,
            gate_floor=gate_floor,
            recheck=recheck,
            policy=policy,
            namespace=namespace,
            options=options,
            deterministic=deterministic,
            generation_defaults=generation_defaults,
            allow_adversarial=allow_adversarial,
        )

    # -- replies ----------------------------------------------------------------------------------------------------

    @overload
    def generate(
        self, messages: str | Sequence[Message], params: GenerationParams | None = None, **overrides: Any
    ) -> Generation: ...
    @overload
    def generate(
        self, messages: Sequence[Conversation], params: GenerationParams | None = None, **overrides: Any
    ) -> list[Generation]: ...
    def generate(
        self, messages: Any, params: GenerationParams | None = None, **overrides: Any
    ) -> Generation | list[Generation]:
        """The reply to one conversation, or the list of replies to a list of conversations (decoded together).

        Settings come from `params` and flat `overrides` (`max_tokens=64, alpha=0.4, method="rose", ...`).
        """
        asked = self._asked(params, overrides)
        many = is_batch(messages)
        found = dict(self._race(list(messages) if many else [messages], asked))
        return [found[index] for index in range(len(found))] if many else found[0]

    def generate_each(
        self, conversations: Sequence[Conversation], params: GenerationParams | None = None, **overrides: Any
    ) -> Iterator[tuple[int, Generation]]:
        """Replies to many conversations as they finish, each with its place in `conversations`: for progress bars."""
        asked = self._asked(params, overrides)
        yield from self._race(list(conversations), asked)

    def stream(
        self, messages: str | Sequence[Message], params: GenerationParams | None = None, **overrides: Any
    ) -> Iterator[Event]:
        """Events of one reply as they come; the last is Done. Closing the iterator frees its rows."""
        return driving.stream(self.engine, self._plan(messages, self._asked(params, overrides)))

    async def agenerate(self, messages: Any, params: GenerationParams | None = None, **overrides: Any) -> Any:
        """`generate` without blocking the event loop."""
        asked = self._asked(params, overrides)
        many = is_batch(messages)
        conversations = list(messages) if many else [messages]
        replies = driving.arace(self.engine, lambda each: self._aplan(each, asked), conversations)
        async with aclosing(replies):
            found = {index: reply async for index, reply in replies}
        return [found[index] for index in range(len(found))] if many else found[0]

    async def astream(
        self, messages: str | Sequence[Message], params: GenerationParams | None = None, **overrides: Any
    ) -> AsyncIterator[Event]:
        """`stream` without blocking the event loop."""
        asked = self._asked(params, overrides)
        plan = await self._aplan(messages, asked)
        async with aclosing(driving.astream(self.engine, plan)) as events:
            async for event in events:
                yield event

    # -- likelihoods ------------------------------------------------------------------------------------------------

    def loglikelihood(
        self,
        messages: Conversation,
        continuation: Continuation,
        params: GenerationParams | None = None,
        **overrides: Any,
    ) -> LogLikelihood:
        """How likely `continuation` (text or token ids) is as the reply to `messages`, under the joined distribution.

        One teacher-forced forward. Equals the sum of `Generation.logprobs` when the reply is the engine's own; alpha 0
        is the model alone. `Scorer.score` says which settings enter. Raises UsageError and ContextLengthError.
        """
        return self.loglikelihoods([(messages, continuation)], params, **overrides)[0]

    def loglikelihoods(
        self,
        pairs: Sequence[tuple[Conversation, Continuation]],
        params: GenerationParams | None = None,
        **overrides: Any,
    ) -> list[LogLikelihood]:
        """`loglikelihood` of many (messages, continuation) pairs, several in one forward."""
        if self._closed:
            raise EngineClosedError("This ContrastiveLM is closed.", hint="Make a new one.")
        return list(self._scorer.score(pairs, *self._asked(params, overrides)[:3]))

    def distributions(
        self,
        pairs: Sequence[tuple[Conversation, Continuation]],
        params: GenerationParams | None = None,
        **overrides: Any,
    ) -> Iterator[torch.Tensor]:
        """What a method bends: for each (messages, continuation), float32 [tokens, vocabulary] log-probabilities before
        every token of the continuation, under the joined distribution. As `loglikelihood` in all else."""
        if self._closed:
            raise EngineClosedError("This ContrastiveLM is closed.", hint="Make a new one.")
        return self._scorer.distributions(pairs, *self._asked(params, overrides)[:3])

    # -- counting and facts -----------------------------------------------------------------------------------------

    def count_tokens(self, messages: Conversation, tools: Sequence[Mapping[str, Any]] = ()) -> int:
        """Tokens of a plain text, or of a conversation as the template renders it (without the pair's own length)."""
        if isinstance(messages, str):
            return len(self.token_ids(messages))
        return len(self.chat.layout(messages, None, tools))

    def token_ids(self, text: str) -> list[int]:
        """Ids of plain text, as the model would read it inside a message."""
        return list(self.chat.encode_text(text))

    @property
    def closed(self) -> bool:
        """Whether this LM was given up; every call on it raises EngineClosedError."""
        return self._closed

    @property
    def model_id(self) -> str:
        return self.backbone.model_id

    @property
    def context_length(self) -> int:
        """Positions of the model, prompts of ours included."""
        return self.backbone.context_length

    @property
    def facts(self) -> ModelFacts:
        """What adapters tell their hosts of this model, pair and method; `read_facts` says the same before loading."""
        return self.facts_for(self.method)

    def facts_for(self, method: str) -> ModelFacts:
        """`facts` of calls that name this method. Raises UsageError for one that this model cannot run."""
        known = self._facts.get(method)
        if known is None:
            parses, planner = self.formats.parses_tools, self._planner
            chosen = runnable(method, self.pair, self.expert, self.backbone, allow_adversarial=self.allow_adversarial)
            contrasts, gated = planner.contrasts(chosen), planner.gated(chosen)
            known = self._facts[method] = facts_of(
                self.chat, self.context_length, self.pair, chosen, parses, contrasts=contrasts, gated=gated
            )
        return known

    @property
    def max_input_tokens(self) -> int:
        """Tokens of a conversation and its reply together: the context less what the method's prompts take."""
        return self.facts.max_input_tokens

    @property
    def supports_system_role(self) -> bool:
        return self.chat.supports_system_role

    @property
    def renders_tools(self) -> bool:
        """Whether the model's template shows tools to the model."""
        return self.chat.renders_tools

    @property
    def supports_tools(self) -> bool:
        """Whether tools are rendered and calls can be read back."""
        return self.chat.renders_tools and self.formats.parses_tools

    def close(self) -> None:
        """Give up this LM. The shared engine ends with its last LM; requests of others are not touched."""
        if self._closed:
            return
        self._closed = True
        leave(self.backbone, self._shared, self)

    def __enter__(self) -> ContrastiveLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- driving sessions -------------------------------------------------------------------------------------------

    def _asked(self, params: GenerationParams | None, overrides: dict[str, Any]) -> CallSettings:
        further, space = overrides.pop("policy", None), overrides.pop("namespace", None)
        policies = (self.policy,) if further is None else (self.policy, Policy.of(further))
        if space is not None and not isinstance(space, str):
            raise UsageError(f"namespace is {shown(space)}.", hint="Give a text, a tenant's id say.")
        return CallSettings(GenerationParams.of(params, **overrides), self.method, policies, space or self.namespace)

    def _plan(self, conversation: Conversation, asked: CallSettings) -> Plan:
        deadline = deadline_of(asked.settings)
        return self._shared.planning.within(lambda: self._plan_now(conversation, asked, deadline), deadline)

    async def _aplan(self, conversation: Conversation, asked: CallSettings) -> Plan:
        deadline = deadline_of(asked.settings)
        return await self._shared.planning.awithin(lambda: self._plan_now(conversation, asked, deadline), deadline)

    def _plan_now(self, conversation: Conversation, asked: CallSettings, deadline: float | None) -> Plan:
        if self._closed:
            raise EngineClosedError("This ContrastiveLM is closed.", hint="Make a new one.")
        return self._planner.plan(conversation, *asked[:3], space=asked.space, deadline=deadline)

    def _race(self, conversations: list[Conversation], asked: CallSettings) -> Iterator[tuple[int, Generation]]:
        return driving.race(self.engine, lambda each: self._plan(each, asked), conversations)


def deadline_of(settings: GenerationParams) -> float | None:
    """When a reply that is asked for now must be there, by time.monotonic's clock."""
    return None if settings.deadline_s is None else time.monotonic() + min(settings.deadline_s, _NO_END)


def is_batch(messages: Any) -> bool:
    """Whether `messages` is a list of conversations rather than one: a list of strings or of lists."""
    return (
        isinstance(messages, (list, tuple))
        and bool(messages)
        and all(isinstance(item, (str, list, tuple)) for item in messages)
    )
