"""The front door: a frozen chat model, a method, and safer replies. Everything above talks to this."""

from __future__ import annotations

import asyncio
import os
import queue
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast, overload

from acd_core.backbone import Backbone
from acd_core.chat import Conversation, Message
from acd_core.decoding.model_defaults import ModelDefaults
from acd_core.engine import EngineOptions
from acd_core.engine.request import Item
from acd_core.errors import EngineClosedError
from acd_core.experts import Expert
from acd_core.facts import ModelFacts, facts_of
from acd_core.gate import EVERY, GateRules
from acd_core.pair import PromptPair
from acd_core.params import Done, Event, Generation, GenerationParams
from acd_core.planning import Planner, runnable
from acd_core.scoring import Continuation, LogLikelihood, Scorer
from acd_core.session import Plan, Session
from acd_core.sharing import backbone_of, defaults_of, registry, shared_by

if TYPE_CHECKING:
    import torch

DEFAULT_MAX_TOKENS = 1024


class ContrastiveLM:
    """A local chat model that decodes with a named method. Thread-safe; concurrent calls share forward passes.

    Build one with `from_pretrained` or `from_model`. `method` is a name of `acd_core.decoding.methods.METHODS`; None is
    "acd" with a pair, "safedecoding" with an expert alone, else "none". alpha None takes the pair's recommendation.
    `gate`, `recheck`: as in `ContrastParams`, for calls that say nothing; a pair's gate is used unless `gate` is False.
    `gate_floor`: the operator's; no call may have the gate open for a smaller share of harmless requests.
    `expert` is a LoRA expert or its folder. `deterministic=True` serves each request alone, so that low-precision
    rounding cannot depend on neighbours. `generation_defaults=False` leaves the model's own generation_config out of
    account (repetition penalty, suppressed tokens, ...: see decoding/model_defaults.py; `acd doctor` shows it).
    `allow_adversarial=True` unlocks decoding under the adversarial prompt alone, for the ablation only.
    """

    def __init__(
        self,
        backbone: Backbone,
        pair: PromptPair | None = None,
        method: str | None = None,
        *,
        expert: str | os.PathLike[str] | Expert | None = None,
        alpha: float | None = None,
        gate: bool | float | None = None,
        gate_floor: float | None = None,
        recheck: int = EVERY,
        options: EngineOptions | None = None,
        deterministic: bool = False,
        generation_defaults: bool = True,
        allow_adversarial: bool = False,
    ) -> None:
        self.backbone = backbone
        self.pair = pair
        self.expert = Expert.of(expert, backbone)
        self.allow_adversarial = allow_adversarial
        alone = "safedecoding" if expert is not None else "none"
        self.method = method if method is not None else ("acd" if pair is not None else alone)
        self.alpha = GenerationParams.of(alpha=alpha).contrast.alpha
        self.deterministic = deterministic
        self.generation_defaults = generation_defaults
        self.defaults = defaults_of(backbone) if generation_defaults else ModelDefaults()
        if pair is not None:
            pair.check(backbone)
        self.gate_rules = GateRules(pair.gate if pair is not None else None, gate, gate_floor, recheck)
        runnable(self.method, pair, self.expert, backbone, allow_adversarial=allow_adversarial)
        shared = shared_by(backbone, options)
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
        self._shared = shared
        self._closed = False
        shared.holders.add(self)

    @classmethod
    def from_pretrained(
        cls,
        model: str,
        pair: str | os.PathLike[str] | PromptPair | None = None,
        method: str | None = None,
        *,
        expert: str | os.PathLike[str] | Expert | None = None,
        alpha: float | None = None,
        gate: bool | float | None = None,
        gate_floor: float | None = None,
        recheck: int = EVERY,
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
        expert: str | os.PathLike[str] | Expert | None = None,
        alpha: float | None = None,
        gate: bool | float | None = None,
        gate_floor: float | None = None,
        recheck: int = EVERY,
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
        settings = GenerationParams.of(params, **overrides)
        if not is_batch(messages):
            return next(self._collect([messages], settings))
        return list(self._collect(list(messages), settings))

    def generate_each(
        self, conversations: Sequence[Conversation], params: GenerationParams | None = None, **overrides: Any
    ) -> Iterator[tuple[int, Generation]]:
        """Replies to many conversations as they finish, each with its place in `conversations`: for progress bars."""
        settings = GenerationParams.of(params, **overrides)
        yield from self._race(list(conversations), settings)

    def stream(
        self, messages: str | Sequence[Message], params: GenerationParams | None = None, **overrides: Any
    ) -> Iterator[Event]:
        """Events of one reply as they come; the last is Done. Closing the iterator frees its rows."""
        plan = self._plan(messages, GenerationParams.of(params, **overrides))
        return self._stream(plan)

    async def agenerate(self, messages: Any, params: GenerationParams | None = None, **overrides: Any) -> Any:
        """`generate` without blocking the event loop."""
        settings = GenerationParams.of(params, **overrides)
        if is_batch(messages):
            return list(await asyncio.gather(*(self._acollect(item, settings) for item in messages)))
        return await self._acollect(messages, settings)

    async def astream(
        self, messages: str | Sequence[Message], params: GenerationParams | None = None, **overrides: Any
    ) -> AsyncIterator[Event]:
        """`stream` without blocking the event loop."""
        settings = GenerationParams.of(params, **overrides)
        plan = await asyncio.to_thread(self._plan, messages, settings)
        async for event in self._astream(plan):
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
        return list(self._scorer.score(pairs, GenerationParams.of(params, **overrides), self.method))

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
        return self._scorer.distributions(pairs, GenerationParams.of(params, **overrides), self.method)

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
        with registry:
            self._shared.holders.discard(self)
            last = not self._shared.holders
        if last:
            self.engine.close()

    def __enter__(self) -> ContrastiveLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- driving sessions -------------------------------------------------------------------------------------------

    def _plan(self, conversation: Conversation, settings: GenerationParams) -> Plan:
        if self._closed:
            raise EngineClosedError("This ContrastiveLM is closed.", hint="Make a new one.")
        return self._planner.plan(conversation, settings, self.method)

    def _stream(self, plan: Plan) -> Iterator[Event]:
        items: queue.SimpleQueue[tuple[int, Item]] = queue.SimpleQueue()
        session = Session(plan, items.put)
        self.engine.submit(session.start())
        over = False
        try:
            while not over:
                events, following, over = session.take(items.get())
                if following is not None:
                    self.engine.submit(following)
                yield from events
        finally:
            if session.current is not None:
                self.engine.cancel(session.current)

    def _collect(self, conversations: list[Conversation], settings: GenerationParams) -> Iterator[Generation]:
        replies = dict(self._race(conversations, settings))
        for index in range(len(conversations)):
            yield replies[index]

    def _race(self, conversations: list[Conversation], settings: GenerationParams) -> Iterator[tuple[int, Generation]]:
        """All conversations at once, a window ahead of the engine; an error cancels the rest and is raised."""
        items: queue.SimpleQueue[tuple[int, tuple[int, Item]]] = queue.SimpleQueue()
        sessions: dict[int, Session] = {}
        pending = iter(enumerate(conversations))
        window = max(2 * self.engine.options.max_rows, 1)

        def fill() -> None:
            while len(sessions) < window:
                following = next(pending, None)
                if following is None:
                    return
                index, conversation = following
                plan = self._plan(conversation, settings)
                session = Session(plan, lambda item, index=index: items.put((index, item)))  # type: ignore[misc]
                sessions[index] = session
                self.engine.submit(session.start())

        try:
            fill()
            while sessions:
                index, item = items.get()
                session = sessions.get(index)
                if session is None:
                    continue
                events, request, over = session.take(item)
                if request is not None:
                    self.engine.submit(request)
                if over:
                    del sessions[index]
                    fill()
                    yield index, cast(Done, events[-1]).generation
        finally:
            for session in sessions.values():
                if session.current is not None:
                    self.engine.cancel(session.current)

    async def _acollect(self, conversation: Conversation, settings: GenerationParams) -> Generation:
        plan = await asyncio.to_thread(self._plan, conversation, settings)
        last: Event | None = None
        async for event in self._astream(plan):
            last = event
        return cast(Done, last).generation

    async def _astream(self, plan: Plan) -> AsyncIterator[Event]:
        loop = asyncio.get_running_loop()
        items: asyncio.Queue[tuple[int, Item]] = asyncio.Queue()

        def put(item: tuple[int, Item]) -> None:
            try:
                loop.call_soon_threadsafe(items.put_nowait, item)
            except RuntimeError:  # the caller's loop is gone: nobody listens any more
                if session.current is not None:
                    session.current.cancelled = True

        session = Session(plan, put)
        self.engine.submit(session.start())
        over = False
        try:
            while not over:
                events, following, over = session.take(await items.get())
                if following is not None:
                    self.engine.submit(following)
                for event in events:
                    yield event
        finally:
            if session.current is not None:
                self.engine.cancel(session.current)


def is_batch(messages: Any) -> bool:
    """Whether `messages` is a list of conversations rather than one: a list of strings or of lists."""
    return (
        isinstance(messages, (list, tuple))
        and bool(messages)
        and all(isinstance(item, (str, list, tuple)) for item in messages)
    )
