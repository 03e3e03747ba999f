"""What the operator of a model lets its callers ask for: one frozen object, held against what a call comes to.

A caller who may send any setting can switch safety off: the method "none", alpha 0, a head so narrow that nothing is
left to contrast, a reply begun with "Here is". What an operator locks here no call loosens, by whichever way it comes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from acd_core.errors import PolicyError, UsageError
from acd_core.methods.table import METHODS
from acd_core.params import ContrastParams, GenerationParams, complaints

_CONTRAST = ("method", *ContrastParams.model_fields)
_LEAVE_OUT = "Leave it out of the call: what was set by the operator counts."


@dataclass(frozen=True)
class Effective:
    """What a call's settings come to, once the model's, the pair's and the method's own values have filled the gaps.
    own_method: the model's own. alpha, most_alpha: bounds of a token's strength, 0 where nothing is contrasted; they
    differ for a method that makes it anew for each. contrast_tokens: None for every token."""

    method: str
    own_method: str
    alpha: float
    plausibility: float
    contrast_tokens: int | None
    most_alpha: float


class Policy(BaseModel):
    """Bounds on what one call may ask; a call beyond them raises PolicyError before anything is computed.

    Frozen. Held by a ContrastiveLM or an adapter from its construction on, or given with one call
    (`lm.generate(..., policy=...)`, one of a tenant, say), which then keeps both.

    as_served: calls may change nothing of the contrast (method, alpha, plausibility, contrast_tokens, rescale, gate,
        recheck, graded), nor the template's variables but those named below. The shortest way to lock all of it. Copies
        of an adapter keep its model, pair, expert, method and gate_floor with it, as under every bound on the contrast.
    methods: names calls may use. min_alpha: least strength, in [0, 1); a method without a contrast has none, and
        `graded` goes below any. max_plausibility: widest cut of the head, in [0, 1). min_contrast_tokens: fewest tokens
        contrasted. gate_floor: least share of harmless requests the gate may be open for, in (0, 1]; without the gate
        the method acts on all, which is always allowed. max_recheck: most reply tokens between two readings. Wherever
        one of these bounds the contrast, the method "none" is allowed only to a model whose own it is.
    begun_replies: whether a conversation may end with the beginning of the reply. None: a ContrastiveLM allows it, an
        adapter does not. Where it is not allowed, a last assistant message is a turn that is over, as for most
        services; one that insists (`"prefix": True`) is refused.
    raw_text: whether text may be continued without any chat format (a message of the role "text"). None: as above.
    logprobs: whether calls may have log-probabilities.
    template_variables: names of `chat_template_kwargs` that calls may set; None: any, or none under `as_served`.
    max_temperature: highest temperature; without `rescale` that of the contrast counts, temperature / (1 - alpha).
    repetition_penalty: (least, most).
    max_stops, max_stop_characters: of all stop strings of a call. max_schema_characters: of tools and response_format.
    max_prompt_bytes: of all texts of a conversation, in UTF-8; None: what the context holds.
    served: the contrast's settings of the adapter that holds the policy, which fills them in.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    as_served: bool = False
    methods: tuple[str, ...] | None = None
    min_alpha: float | None = Field(default=None, ge=0.0, lt=1.0, allow_inf_nan=False)
    max_plausibility: float | None = Field(default=None, ge=0.0, lt=1.0, allow_inf_nan=False)
    min_contrast_tokens: int | None = Field(default=None, ge=1)
    gate_floor: float | None = Field(default=None, gt=0.0, le=1.0)
    max_recheck: int | None = Field(default=None, ge=1)
    begun_replies: bool | None = None
    raw_text: bool | None = None
    logprobs: bool = True
    template_variables: tuple[str, ...] | None = None
    max_temperature: float | None = Field(default=None, ge=0.0, allow_inf_nan=False)
    repetition_penalty: tuple[float, float] | None = None
    max_stops: int = Field(default=128, ge=0)
    max_stop_characters: int = Field(default=8192, ge=0)
    max_schema_characters: int = Field(default=2**20, ge=0)
    max_prompt_bytes: int | None = Field(default=None, ge=1)
    served: dict[str, Any] | None = Field(default=None, repr=False)

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            raise UsageError(
                f"Invalid policy. {complaints(error)}",
                hint="Bounds and ranges: python -c 'import acd_core; help(acd_core.Policy)'",
            ) from None

    @field_validator("methods", "template_variables", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = (value,)
        return tuple(sorted(value)) if isinstance(value, (set, frozenset, list, tuple)) else value

    @model_validator(mode="after")
    def _possible(self) -> Policy:
        unknown = sorted(set(self.methods or ()) - set(METHODS))
        if unknown:
            raise ValueError(f"there is no method {unknown[0]!r}; methods: {', '.join(METHODS)}")
        if self.repetition_penalty is not None and not 0.0 < self.repetition_penalty[0] <= self.repetition_penalty[1]:
            raise ValueError("repetition_penalty is (least, most), both above 0")
        return self

    def __hash__(self) -> int:
        return hash(self.model_dump_json(fallback=repr))

    @classmethod
    def of(cls, given: Policy | Mapping[str, Any] | None) -> Policy:
        """A policy as it is, from its fields, or the one that bounds sizes only. Raises UsageError."""
        if given is None or isinstance(given, Policy):
            return given or _SIZES
        if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
            raise UsageError(f"policy is a {type(given).__name__}.", hint="For example Policy(as_served=True).")
        return cls(**given)

    def serving(self, own: Mapping[str, Any], *, begun_replies: bool = False, raw_text: bool = False) -> Policy:
        """This policy for an adapter whose own settings are `own`. It stays what it is once it has been filled in, so
        that a copy of the adapter with other settings is held to the first one's. The two others: what None means."""
        if self.served is not None:
            return self
        return self.model_copy(
            update={
                "served": dict(own),
                "begun_replies": begun_replies if self.begun_replies is None else self.begun_replies,
                "raw_text": raw_text if self.raw_text is None else self.raw_text,
            }
        )

    @property
    def key(self) -> dict[str, Any]:
        """What decides whether a call is allowed, as JSON, for keys of caches."""
        held = self.as_served or self.template_variables is not None
        return self.model_dump(mode="json", exclude=None if held else {"served"})

    # -- held against a call ------------------------------------------------------------------------------------------

    @property
    def bounds_contrast(self) -> bool:
        """Whether anything here keeps callers from weakening the contrast."""
        limits = (self.min_alpha, self.max_plausibility, self.min_contrast_tokens, self.gate_floor, self.max_recheck)
        return self.as_served or any(each is not None for each in limits)

    def check(self, asked: GenerationParams, effective: Effective) -> None:
        """Raise PolicyError where a call asks for more than it may."""
        self._check_served(asked, effective)
        self._check_contrast(asked, effective)
        self._check_sampling(asked, effective)
        self._check_sizes(asked)

    def turns(self, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Checked messages as this policy has them: where no reply may be begun, the last assistant message is over.
        Raises PolicyError for raw text, for a reply that insists on being continued, for too many bytes."""
        found = list(messages)
        last = found[-1]
        if self.max_prompt_bytes is not None:
            size = _bytes_of(found, self.max_prompt_bytes)
            if size > self.max_prompt_bytes:
                raise _beyond("the conversation", f"{size} bytes long", f"{self.max_prompt_bytes} bytes", "Shorten it.")
        if last["role"] == "text" and self.raw_text is False:
            raise PolicyError(
                "The operator's policy allows no text without a chat format (the role 'text').",
                hint="Send a user message, or have the operator set Policy(raw_text=True).",
            )
        if self.begun_replies is not False:
            return found
        if last["role"] == "assistant" and last.get("prefix"):
            raise PolicyError(
                "The operator's policy allows no reply that the caller has begun ('prefix': True).",
                hint="Leave the beginning out, or have the operator set Policy(begun_replies=True).",
            )
        # System texts move to the front, so that what stands before them comes to be the last.
        at = max((at for at, each in enumerate(found) if each["role"] != "system"), default=-1)
        if at >= 0 and found[at]["role"] == "assistant":
            found[at] = {**found[at], "prefix": False}
        return found

    def _check_served(self, asked: GenerationParams, effective: Effective) -> None:
        own = self.served or {}
        variables, free = own.get("chat_template_kwargs") or {}, self.template_variables
        if self.as_served:
            kept = GenerationParams.of(**{name: value for name, value in own.items() if name in _CONTRAST})
            if asked.method != kept.method and not (kept.method is None and asked.method == effective.own_method):
                raise _beyond("method", asked.method, kept.method or effective.own_method, _LEAVE_OUT)
            for name in ContrastParams.model_fields:
                given, served = getattr(asked.contrast, name), getattr(kept.contrast, name)
                if given != served or type(given) is not type(served):  # gate=True is not gate=1.0
                    raise _beyond(name, given, "its own" if served is None else served, _LEAVE_OUT)
            free = free or ()
        if free is None:
            return
        given = asked.chat_template_kwargs
        # One that was left out counts as changed, and so does 0 for False: templates tell them apart.
        for name in (*given, *(name for name in variables if name not in given)):
            if name not in free and not (name in given and name in variables and _same(given[name], variables[name])):
                raise PolicyError(
                    f"The operator's policy does not let a call set the template variable {name!r}.", hint=_LEAVE_OUT
                )

    def _check_contrast(self, asked: GenerationParams, effective: Effective) -> None:
        name, tokens = effective.method, effective.contrast_tokens
        if self.methods is not None and name not in self.methods:
            raise _beyond("method", name, " or ".join(self.methods) or "none at all", _LEAVE_OUT)
        if self.bounds_contrast and name == "none" and effective.own_method != "none":
            raise PolicyError(
                "The operator's policy allows no call without a method.",
                hint=f"Leave method out: {effective.own_method!r}.",
            )
        if self.min_alpha is not None:
            if effective.alpha < self.min_alpha:
                raise _beyond("alpha", f"{effective.alpha:g}", f"at least {self.min_alpha:g}", _LEAVE_OUT)
            if asked.contrast.graded:
                raise _beyond("graded", True, "a full alpha in every reply", _LEAVE_OUT)
        if self.max_plausibility is not None and effective.plausibility > self.max_plausibility:
            raise _beyond(
                "plausibility", f"{effective.plausibility:g}", f"at most {self.max_plausibility:g}", _LEAVE_OUT
            )
        least = self.min_contrast_tokens
        if least is not None and effective.alpha == 0.0:
            raise _beyond("alpha", 0.0, "a contrast", _LEAVE_OUT)
        if least is not None and tokens is not None and tokens < least:
            raise _beyond("contrast_tokens", tokens, f"at least {least}", _LEAVE_OUT)

    def _check_sampling(self, asked: GenerationParams, effective: Effective) -> None:
        temperature = asked.temperature / (1.0 if asked.contrast.rescale else 1.0 - effective.most_alpha)
        if self.max_temperature is not None and temperature > self.max_temperature:
            raise _beyond("temperature", f"{temperature:g}", f"at most {self.max_temperature:g}", "Lower it.")
        penalty, allowed = asked.repetition_penalty, self.repetition_penalty
        if penalty is not None and allowed is not None and not allowed[0] <= penalty <= allowed[1]:
            raise _beyond("repetition_penalty", f"{penalty:g}", f"{allowed[0]:g} to {allowed[1]:g}", _LEAVE_OUT)
        if asked.logprobs is not None and not self.logprobs:
            raise PolicyError("The operator's policy allows no log-probabilities.", hint="Leave logprobs out.")

    def _check_sizes(self, asked: GenerationParams) -> None:
        count, letters = len(asked.stop), sum(map(len, asked.stop))
        if count > self.max_stops:
            raise _beyond("the number of stop strings", count, self.max_stops, "Send fewer.")
        if letters > self.max_stop_characters:
            raise _beyond("the stop strings", f"{letters} letters", self.max_stop_characters, "Send fewer.")
        if not _within([asked.tools, asked.response_format], self.max_schema_characters):
            limit = f"{self.max_schema_characters} letters of JSON"
            raise _beyond("the size of tools and response_format", "larger", limit, "Send fewer tools or less schema.")


_SIZES = Policy()


def _beyond(what: str, given: Any, allowed: Any, hint: str) -> PolicyError:
    return PolicyError(f"{what} is {given}; the operator's policy allows {allowed}.", hint=hint)


def _bytes_of(messages: Sequence[Mapping[str, Any]], limit: int) -> int:
    """Bytes of all texts in checked messages, in UTF-8: contents, then thoughts, calls and names, of which no more is
    read than takes it beyond `limit`. Ends also for what holds itself."""
    size = sum(len(str(each["content"]).encode(errors="replace")) for each in messages)
    more = [each[name] for each in messages for name in each if name not in ("role", "content", "prefix")]
    for item in _values_in(more):
        if size > limit:
            break
        size += len(item.encode(errors="replace")) if isinstance(item, str) else 1
    return size


def _same(first: Any, second: Any) -> bool:
    """Whether two values are one to a template: equal, and of the same kinds throughout."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return list(first) == list(second) and all(_same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(_same, first, second))
    return type(first) is type(second) and bool(first == second)


def _within(document: Any, limit: int) -> bool:
    """Whether JSON of `document` has at most about `limit` letters. Ends in time also for what holds itself."""
    left = limit
    for item in _values_in([document]):
        left -= 1 + (len(item) if isinstance(item, (str, Mapping, list, tuple)) else 0)
        if left < 0:
            return False
    return True


def _values_in(waiting: list[Any]) -> Iterator[Any]:
    """Every value in `waiting`, keys too, however deep; a container before its parts. Endless for what holds itself."""
    while waiting:
        item = waiting.pop()
        yield item
        if isinstance(item, Mapping):
            waiting += [part for pair in item.items() for part in pair]
        elif isinstance(item, (list, tuple)):
            waiting += item
