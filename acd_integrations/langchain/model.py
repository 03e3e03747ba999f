"""The model behind a ChatACD: which one, loaded when it is needed, and kept by every copy of the object."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from langchain_core.language_models import BaseChatModel
from pydantic import Field, field_serializer

from acd_core.spec import LMSpec
from acd_integrations.langchain import profile as profiles
from acd_integrations.shared import policy as policies
from acd_integrations.shared.holder import Holder, spec_of
from acd_integrations.shared.settings import (
    checked_assignment,
    checked_settings,
    copied_settings,
    in_memory,
    name_for_json,
    why_not_by_names,
)

if TYPE_CHECKING:
    from langchain_core.load.serializable import SerializedConstructor, SerializedNotImplemented
    from langchain_core.runnables.base import RunnableSerializable
    from typing_extensions import Self

    from acd_core.lm import ContrastiveLM

_IN_PROFILE = frozenset(("model", "pair", "method", "expert", "revision"))  # what a profile is made of
_CHANGEABLE = ("stop", "chat_template_kwargs", "tags", "metadata")


class OverModel(BaseChatModel):
    """Holds a ContrastiveLM by names, or the one the caller made, through copies, pickles and changes of fields."""

    model: str = "reference"
    """A folder, a hub id, or "reference" for the bundled model."""
    pair: Any = None
    """The prompt pair: a folder, a hub id, "reference", a PromptPair, or None for a method that needs none."""
    expert: Any = None
    """A LoRA expert or steering: its folder, or the object (`acd_core.artifacts.learnt`)."""
    revision: str | None = None
    """Revision of a model from the hub."""
    dtype: str = "auto"
    """"auto", "float32", "bfloat16" or "float16"."""
    device: str = "auto"
    """"auto", "cpu", "cuda", "cuda:1", "mps", or "map" for several devices."""

    gate_floor: float | None = Field(default=None, gt=0.0, le=1.0)
    """The operator's: no call may ask for a smaller share, or read replies less often. Not to be changed per call."""
    recheck: int | None = None
    """Reply tokens between two readings while the gate is closed; 0 is none, None 32."""

    policy: policies.PolicyField = Field(default=None, repr=False)
    """The operator's bounds on what a call may ask (`acd_core.Policy`, or its fields as a dict). Fixed at construction,
    for copies, bound settings and configurable fields too. Unless it says otherwise: no replies begun by the caller, no
    text without a chat format."""
    namespace: str | None = None
    """Keys and values of conversations are found again within one namespace only. None: that of this object and its
    copies; objects that name the same share them. A call's own lies within it (a tenant's id, say)."""
    generation_defaults: bool = True
    """Whether the model's own generation_config counts (repetition penalty, suppressed tokens, ...)."""
    deterministic: bool = False
    """Whether each request is computed alone, so that low-precision rounding cannot depend on its neighbours."""
    options: dict[str, Any] | None = None
    """Limits of the engine: an `acd_core.engine.EngineOptions`, or its fields as a dict. One engine serves all objects
    over the same weights, so they must agree."""

    lm_holder: Holder = Field(default_factory=Holder, exclude=True, repr=False)
    """The loaded model, shared by reference with every copy of this object."""

    def _lm(self) -> ContrastiveLM:
        return self.lm_holder.get(self._spec(), self)

    async def _alm(self) -> ContrastiveLM:
        return await self.lm_holder.aget(self._spec(), self)

    def _known(self) -> ContrastiveLM | None:
        """The ContrastiveLM below, where it is loaded already."""
        return self.lm_holder.known(self._spec())

    def _spec(self) -> LMSpec:
        """What the ContrastiveLM below depends on. Every other setting goes with each call."""
        return spec_of(self)

    @property
    def lm(self) -> ContrastiveLM:
        """The ContrastiveLM below, loaded if it was not yet."""
        return self._lm()

    # -- copies -----------------------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        policies.check_unchanged([name], type(self).__name__)
        super().__setattr__(name, checked_assignment(type(self), name, value))
        if name in _IN_PROFILE:
            self._describe_again()

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with some settings changed, over the same model where that can be. Raises UsageError for names that
        this class does not have."""
        policies.check_unchanged(update or {}, type(self).__name__)
        copied = super().model_copy(update=checked_settings(type(self), update or {}), deep=deep)
        if not _IN_PROFILE.isdisjoint(update or {}):
            copied._describe_again()
        return copied

    def __copy__(self) -> Self:
        """Every copy counts among those whose model is kept, also before its first call."""
        copied = super().__copy__()
        for each in (self, copied):
            self.lm_holder.join(each._spec(), each)
        return copied

    def _describe_again(self) -> None:
        """The profile of what the fields name now, unless the user wrote one."""
        if self.profile is None or isinstance(self.profile, profiles.WorkedOut):
            self.profile = None
            with contextlib.suppress(Exception):  # as LangChain's own does when an object is made
                self.profile = self._resolve_model_profile()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Copies share the model, the pair and what the host has put in (cache, callbacks, rate limiter)."""
        return self.model_copy(update=copied_settings(self, _CHANGEABLE))

    def configurable_fields(self, **kwargs: Any) -> RunnableSerializable[Any, Any]:
        """As LangChain's. Raises UsageError for `policy`, which no call may choose."""
        policies.check_unchanged(kwargs, type(self).__name__)
        return super().configurable_fields(**kwargs)

    def _fix_policy(self, own: Iterable[str]) -> None:
        """Fill into the policy what this object is made with: what it locks is locked for every copy."""
        settings = {name: getattr(self, name) for name in own}
        self.__dict__["policy"] = policies.fixed_policy(self.policy, settings, self._spec())

    def __getstate__(self) -> dict[Any, Any]:
        """What a pickle holds: no key, which is of no use here and may be of one elsewhere."""
        state = super().__getstate__()
        return {**state, "__dict__": {**state["__dict__"], "api_key": None}}

    @field_serializer("pair", "expert")
    def _as_name(self, held: Any) -> str | None:
        return name_for_json(held)

    @field_serializer("model")
    def _as_model(self, model: str) -> str:
        return model if self.lm_holder.given is None else in_memory(model)

    # -- saved chains -----------------------------------------------------------------------------------------------
    # `is_lc_serializable` stays False: LangChain would take this description, which holds no digests of what is in the
    # files of a pair, for the key of its cache.

    @classmethod
    def saved_as(cls) -> dict[tuple[str, ...], tuple[str, ...]]:
        """For `langchain_core.load.loads`, as `additional_import_mappings`: what this class is saved as."""
        return {tuple(cls.lc_id()): tuple(cls.lc_id())}

    def to_json(self) -> SerializedConstructor | SerializedNotImplemented:
        """The settings that are not the default's, for `langchain_core.load.dumps`; where they hold something without
        a name, words that say what to do instead."""
        fields = type(self).model_fields
        given = {
            name: getattr(self, name)
            for name, field in fields.items()
            if name in self.model_fields_set and not field.exclude and name != "profile"
        }
        if self.policy is not None and "policy" in given:
            given["policy"] = self.policy.model_dump(mode="json")
        reason = why_not_by_names(type(self), given, held=self.lm_holder.given is not None)
        if reason is not None:
            return {"lc": 1, "type": "not_implemented", "id": self.lc_id(), "repr": reason}
        return {"lc": 1, "type": "constructor", "id": self.lc_id(), "kwargs": given}
