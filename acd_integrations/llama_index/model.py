"""The model behind an ACDLLM: which one, loaded when it is needed, and kept by every copy of the object."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field, PrivateAttr, field_serializer

from acd_core.errors import UsageError
from acd_core.spec import LMSpec
from acd_integrations.llama_index.prompts import OwnPrompts
from acd_integrations.shared import policy as policies
from acd_integrations.shared.holder import Holder, spec_of
from acd_integrations.shared.settings import (
    checked_assignment,
    checked_settings,
    copied_settings,
    in_memory,
    name_for_json,
)

if TYPE_CHECKING:
    from typing_extensions import Self

    from acd_core.lm import ContrastiveLM
    from acd_core.reply.facts import ModelFacts


class OverModel(OwnPrompts):
    """Holds a ContrastiveLM by names, or the one the caller made, through copies, pickles and changes of fields."""

    model: str = Field(description='A local folder, a hub id, or "reference" for the bundled model.')
    pair: Any = Field(default=None, description='A PromptPair, its folder or hub id, or "reference". None: no pair.')
    expert: Any = Field(default=None, description="A LoRA expert, steering, or the folder of either.")
    method: str | None = Field(
        default=None, description='A method. None: "acd" with a pair, "safedecoding" with an expert alone, else "none".'
    )
    gate_floor: float | None = Field(
        default=None, gt=0.0, le=1.0, description="The operator's: the least share that a call may ask for as gate."
    )
    recheck: int | None = Field(
        default=None, description="Reply tokens between two readings while the gate is closed. 0: none. None: 32."
    )
    dtype: str = Field(default="auto", description='"auto", "float32", "bfloat16" or "float16".')
    device: str = Field(default="auto", description='"auto", any torch device, or "map" for several.')
    revision: str | None = Field(default=None, description="Revision of a hub model.")

    policy: policies.PolicyField = Field(
        default=None,
        repr=False,
        description="The operator's bounds on what a call may ask (`acd_core.Policy`, or its fields as a dict), fixed "
        "at construction. Unless it says otherwise: no replies begun by the caller, no text without a chat format.",
    )
    namespace: str | None = Field(
        default=None,
        description="Keys and values of conversations are found again within one namespace only. None: that of this "
        "object and its copies; objects that name the same share them. A call's own lies within it.",
    )
    generation_defaults: bool = Field(
        default=True,
        description="Whether the model's own generation_config counts (repetition penalty, suppressed tokens, ...).",
    )
    deterministic: bool = Field(
        default=False,
        description="Whether each request is computed alone, so that low-precision rounding cannot depend on its "
        "neighbours.",
    )
    options: dict[str, Any] | None = Field(
        default=None,
        description="Limits of the engine: an `acd_core.engine.EngineOptions`, or its fields as a dict. One engine "
        "serves all objects over the same weights, so they must agree.",
    )

    _holder: Holder = PrivateAttr(default_factory=Holder)
    _facts: Any = PrivateAttr(default=None)

    @property
    def lm(self) -> ContrastiveLM:
        """The ContrastiveLM behind this class, loaded on first use and shared with every class over the same model."""
        return self._holder.get(self._spec(), self)

    def load(self) -> Self:
        """Load the model now. Returns itself."""
        _ = self.lm
        return self

    async def aload(self) -> Self:
        """Load the model now, off the event loop. Returns itself."""
        await self._holder.aget(self._spec(), self)
        return self

    def _spec(self) -> LMSpec:
        """What the loaded model depends on; a changed field means another model."""
        return spec_of(self, self.method)

    def _known_facts(self) -> ModelFacts:
        spec = self._spec()
        lm = self._holder.known(spec)
        if lm is not None:
            return lm.facts_for(self.method or lm.method)
        known = self._facts
        if known is None or known[0] != spec:
            known = self._facts = (spec, spec.facts())
        found: ModelFacts = known[1]
        return found

    # -- copies -----------------------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        policies.check_unchanged([name], type(self).__name__)
        super().__setattr__(name, checked_assignment(type(self), name, value))

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with some settings changed, over the same model where that can be. Raises UsageError for names that
        this class does not have."""
        policies.check_unchanged(update or {}, type(self).__name__)
        return super().model_copy(update=checked_settings(type(self), update or {}), deep=deep)

    def __copy__(self) -> Self:
        """Every copy counts among those whose model is kept, also before its first call."""
        copied = super().__copy__()
        for each in (self, copied):
            self._holder.join(each._spec(), each)
        return copied

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Copies share the model: weights and the engine's thread are never copied."""
        return self.model_copy(update=copied_settings(self, ("stop", "chat_template_kwargs")))

    def __getstate__(self) -> dict[Any, Any]:
        self._holder.check_sent()
        for name, kind, held in (("pair", "prompt pair", self.pair), ("expert", "expert", self.expert)):
            if held is not None and not isinstance(held, str):
                raise UsageError(
                    f"An {self.class_name()} over a {kind} held in memory cannot be pickled.",
                    hint=f"Save the {name} with {name}.save(folder) and build one with (model=..., {name}=folder).",
                )
        # The base class takes out what cannot be pickled, of this very object too, and says so in a log only.
        own, private = dict(self.__dict__), dict(self.__pydantic_private__ or {})
        taken = super().__getstate__()
        state = {**taken, "__dict__": dict(taken["__dict__"])}
        self.__dict__.update(own)
        object.__setattr__(self, "__pydantic_private__", private)
        if lost := sorted(set(own) - set(state["__dict__"]) - {"callback_manager"}):
            raise UsageError(
                f"The {self.class_name()} cannot be pickled, because {lost[0]}={own[lost[0]]!r} cannot.",
                hint="Use a function that a module defines, in the place of a lambda.",
            )
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state["__dict__"])  # type: ignore[misc]

    def _fix_policy(self, own: Iterable[str]) -> None:
        """Fill into the policy what this object is made with: what it locks is locked for every copy."""
        settings = {name: getattr(self, name) for name in own}
        self.__dict__["policy"] = policies.fixed_policy(self.policy, settings, self._spec())

    @field_serializer("pair", "expert")
    def _as_name(self, held: Any) -> str | None:
        return name_for_json(held)

    @field_serializer("model")
    def _as_model(self, model: str) -> str:
        return model if self._holder.given is None else in_memory(model)
