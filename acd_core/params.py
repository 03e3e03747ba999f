"""What a caller may ask of one generation, and what comes back. Data only; no torch, no model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Union

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from acd_core.errors import UsageError

OWN_TEMPLATE_VARIABLES = frozenset(
    (
        "messages", "conversation", "tools", "add_generation_prompt", "continue_final_message", "chat_template",
        "tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict", "tokenizer_kwargs",
        "return_assistant_tokens_mask", "bos_token", "eos_token",
    )
)  # fmt: skip
"""Names that `chat_template_kwargs` may not hold: what is rendered, and how, follows from the request."""

MOST_WRITTEN = 500_000
"""Values of one setting or message, written out. More is no request but an attack on whoever writes it out."""
_LONGEST_SHOWN = 40  # letters of a value in an error
FinishReason = Literal["stop", "length", "tool_calls", "refusal"]


def default_method(pair: object | None, expert: object | None) -> str:
    """The method of a model with this pair and this expert where none is named."""
    if pair is not None:
        return "acd"
    return "none" if expert is None else "safedecoding"


class ContrastParams(BaseModel):
    """How strongly, and for how long, the streams that are not kept are subtracted.

    alpha: strength in [0, 1). None takes the pair's (or the method's) recommended value; 0 is exactly the model alone
        with the kept prompt.
    plausibility: beta in [0, 1). Tokens with p_safe < beta * max p_safe are dropped while the contrast lasts
        (Contrastive Decoding's head, Li et al. 2023); 0 switches it off. None takes the method's own
        (adacd has one), else the pair's recommendation, else 0.
    contrast_tokens: contrast only the first k tokens, then free the other rows. None takes the method's own (adacd
        and safedecoding have one), else the pair's recommendation, else every token; a number larger than any reply
        means every token whatever the pair recommends.
    rescale: divide the contrast by (1 - alpha), so that temperature means what was asked for when the branches agree.
        False gives the formula of ACD's paper. Greedy is the same either way.
    gate: None takes the pair's gate where it has one, True insists on one: the method acts only on requests that the
        model itself reads as harmful, every other reply is the model's alone. A number in (0, 1] opens it for about
        that share of harmless requests (more is safer). False: no gate, the method acts on every request.
    recheck: reply tokens between two further readings while the gate is closed; 0 switches them off, None is 32. Where
        the gate opens in a reply, that ends there and the method answers anew, in a paragraph of its own.
    graded: alpha grows with the reading, from 0 at the threshold to its full value at a typical harmful request.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    alpha: float | None = Field(default=None, ge=0.0, lt=1.0, allow_inf_nan=False)
    plausibility: float | None = Field(default=None, ge=0.0, lt=1.0, allow_inf_nan=False)
    contrast_tokens: int | None = Field(default=None, ge=0)
    rescale: bool = True
    gate: bool | float | None = None
    recheck: int | None = Field(default=None, ge=0)
    graded: bool = False

    @field_validator("gate")
    @classmethod
    def _a_share(cls, value: bool | float | None) -> bool | float | None:
        if value is not None and not isinstance(value, bool) and not 0.0 < value <= 1.0:
            raise ValueError("a number is a share of harmless requests in (0, 1]; True or False switch the gate")
        return value


class GenerationParams(BaseModel):
    """Settings of one request. Unknown names and impossible values raise; nothing is ignored in silence.

    method: a name from `acd_core.methods.table.METHODS`; None takes the ContrastiveLM's own.
    max_tokens: new tokens at most; None means as many as the context holds (at most 1024).
    temperature: 0 is greedy. top_p in (0, 1], top_k 0 = off, min_p in [0, 1].
    repetition_penalty: 1 = off, None = what the model's own generation_config asks for; sees the prompt's and the
        reply's token ids, never the soft vectors.
    stop: strings that end the reply and are stripped from it.
    seed: fixes the draws of this request, whatever else is in the batch. None draws a fresh one.
    logprobs: None, or how many alternatives to report per token, from the joined distribution.
    tools: OpenAI-style function tools. tool_choice: "auto", "none", "required" or a tool's name. A forced call keeps
        its schema in any case; under "auto" a grammar holds calls of functions with `"strict": true` to theirs.
    parallel_tool_calls: whether one reply may hold several calls. False: the first call is the only one.
    response_format: {"type": "json_schema", "json_schema": {"name", "schema"}} or {"type": "json_object"}.
    deadline_s: seconds from submission after which the request fails with DeadlineError.
    chat_template_kwargs: variables of the model's chat template, such as {"enable_thinking": False} or
        {"reasoning_effort": "low"}. Texts in them cannot become control tokens either.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=0.0, ge=0.0, le=100.0, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int = Field(default=0, ge=0)
    min_p: float = Field(default=0.0, ge=0.0, le=1.0)
    repetition_penalty: float | None = Field(default=None, gt=0.0, allow_inf_nan=False)
    stop: tuple[str, ...] = ()
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    logprobs: int | None = Field(default=None, ge=0, le=100)
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: str | None = None
    parallel_tool_calls: bool = True
    response_format: dict[str, Any] | None = None
    deadline_s: float | None = Field(default=None, gt=0.0)
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    contrast: ContrastParams = ContrastParams()

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop_is_a_list_of_one(cls, value: Any) -> Any:
        if value is None:
            return ()
        return (value,) if isinstance(value, str) else value

    @field_validator("stop")
    @classmethod
    def _stops_are_not_empty(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(not text for text in value):
            raise ValueError("a stop string is empty; it would end every reply before its first token")
        return value

    @field_validator("tools", "response_format", "chat_template_kwargs", mode="before")
    @classmethod
    def _can_be_written_out(cls, value: Any) -> Any:
        if written_out(value) > MOST_WRITTEN:
            raise ValueError(f"it holds more than {MOST_WRITTEN} values when written out")
        return value

    @field_validator("chat_template_kwargs", mode="before")
    @classmethod
    def _variables_of_the_template_only(cls, value: Any) -> Any:
        taken = sorted(OWN_TEMPLATE_VARIABLES & set(value)) if isinstance(value, Mapping) else []
        if taken:
            raise ValueError(f"{taken[0]!r} is set by the conversation itself")
        return {} if value is None else value

    @field_validator("tools", mode="before")
    @classmethod
    def _no_tools_is_none(cls, value: Any) -> Any:
        return () if value is None else value

    def __hash__(self) -> int:
        """Of what is asked for, with the dicts in it."""
        return hash(self.model_dump_json(fallback=repr))

    @classmethod
    def of(cls, params: GenerationParams | None = None, **overrides: Any) -> GenerationParams:
        """`params` with `overrides` laid over it, checked again.

        The contrast settings may be given flat: `alpha`, `plausibility`, `contrast_tokens`, `rescale`.
        Raises UsageError naming the field, the offending value and the allowed range.
        """
        if params is not None and not isinstance(params, GenerationParams):
            raise UsageError(
                f"params is {shown(params)}, not GenerationParams.",
                hint="generate(messages, max_tokens=64, alpha=0.4), or generate(messages, GenerationParams(...)).",
            )
        merged = params.model_dump() if params is not None else {}
        contrast = dict(merged.pop("contrast", {}))
        given = overrides.pop("contrast", None)
        if given is not None and not isinstance(given, (ContrastParams, Mapping)):
            raise UsageError(f"contrast is {shown(given)}.", hint="contrast=ContrastParams(alpha=0.5), or alpha=0.5.")
        if isinstance(given, Mapping) and not all(isinstance(name, str) for name in given):
            raise UsageError("contrast has a name that is no text.", hint='For example contrast={"alpha": 0.5}.')
        if given is not None:
            contrast.update(given.model_dump() if isinstance(given, ContrastParams) else given)
        contrast.update({name: overrides.pop(name) for name in list(overrides) if name in ContrastParams.model_fields})
        merged.update(overrides)
        try:
            return cls(**merged, contrast=ContrastParams(**contrast))
        except ValidationError as error:
            raise usage_error(error) from None


def usage_error(error: ValidationError) -> UsageError:
    """A pydantic error as one of ours: every field, what was given, what is allowed."""
    return UsageError(
        f"Invalid generation settings. {complaints(error)}",
        hint="Settings and ranges: python -c 'import acd_core; help(acd_core.GenerationParams)'",
    )


def complaints(error: ValidationError) -> str:
    """What a pydantic error says of every field, on one line."""
    lines = []
    for item in error.errors(include_url=False):
        name = ".".join(str(part) for part in item["loc"]) or "value"
        given = "" if item["type"] in ("extra_forbidden", "missing") else f" (given: {shown(item.get('input'))})"
        lines.append(f"{name}: {item['msg']}{given}")
    return "; ".join(lines)


def written_out(value: Any) -> int:
    """How many values `value` has once each is written in every place where it stands; what holds itself counts once.

    Sixty lists, each twice within the next, are more than any writer of JSON ends with. Takes time by the objects.
    """
    sizes: dict[int, int] = {}
    held: list[Any] = []  # so that no id is used again
    waiting: list[tuple[Any, list[Any] | None]] = [(value, None)]
    while waiting:
        each, parts = waiting.pop()
        if parts is not None:
            sizes[id(each)] = 1 + sum(sizes.get(id(part), 1) for part in parts)
        elif isinstance(each, (Mapping, list, tuple)) and id(each) not in sizes:
            parts = list(each.values() if isinstance(each, Mapping) else each)
            held += [each, parts]
            sizes[id(each)] = 1
            waiting.append((each, parts))
            waiting += [(part, None) for part in parts if isinstance(part, (Mapping, list, tuple))]
    return sizes.get(id(value), 1)


def shown(value: Any) -> str:
    """A value for an error's text: numbers and short words as they are, of anything else only what it is. A setting
    that was mixed up with another may hold a prompt, and errors end in logs."""
    if value is None or isinstance(value, (bool, float)) or (isinstance(value, int) and abs(value) < 2**64):
        return repr(value)
    if isinstance(value, str) and len(value) <= _LONGEST_SHOWN and not any(map(str.isspace, value)):
        return repr(value)
    size = f" of {len(value)}" if isinstance(value, (str, list, tuple, Mapping)) else ""
    return f"a {type(value).__name__}{size}"


@dataclass(frozen=True)
class Usage:
    """Token counts. `prompt_tokens` is what the user sent (rendered by the template, kept branch, without the soft
    prompt's vectors); `cached_tokens` of those were known before the call. `completion_tokens` is all that was written
    for the reply; `probe_tokens` of those were spoken freely before a forced format, to see whether the model refuses,
    and are no part of its text (max_tokens bounds the others; a refusal is told whole, whatever max_tokens says)."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    probe_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class ToolCall:
    """One parsed call. `arguments` is a dict, cast by the tool's schema."""

    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class InvalidToolCall:
    """A call the model began but did not finish or form well: the raw text and why it was not accepted."""

    id: str
    text: str
    error: str
    name: str | None = None


@dataclass(frozen=True)
class TokenLogprob:
    """Log-probability of the chosen token under the joined distribution (before temperature), and the best others."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class GateReport:
    """What the gate did. opened_at: how many reply tokens the model alone had said when it opened (0: none, at the
    prompt), None where it stayed closed. reading: the last reading, a log odds of harm; NaN where the hidden states
    were not finite, which opens the gate; None where the template left nothing to read, which opens it too.
    threshold: what that reading was held against. readings: how often it was read; 1 for a long reply says that its
    template leaves nothing to read again."""

    opened_at: int | None
    reading: float | None
    threshold: float
    readings: int

    @property
    def opened(self) -> bool:
        """Whether the method acted at all."""
        return self.opened_at is not None


@dataclass(frozen=True)
class ContrastReport:
    """What the contrast did: method, alpha, how many tokens were contrasted, and the mean total-variation distance
    in [0, 1] between the kept stream and the others over those tokens. gate: None where the request had none."""

    method: str = "none"
    alpha: float = 0.0
    contrasted_tokens: int = 0
    mean_divergence: float = 0.0
    gate: GateReport | None = None


@dataclass(frozen=True)
class Generation:
    """A finished reply. `text` is what the user reads (no tool-call markup, no reasoning, no stop text)."""

    text: str
    finish_reason: FinishReason
    usage: Usage = Usage()
    token_ids: tuple[int, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    invalid_tool_calls: tuple[InvalidToolCall, ...] = ()
    reasoning: str | None = None
    refusal: str | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None
    report: ContrastReport = field(default_factory=ContrastReport)


@dataclass(frozen=True)
class TextDelta:
    """New text of the reply."""

    text: str


@dataclass(frozen=True)
class ReasoningDelta:
    """New text of the model's reasoning, for models that mark it."""

    text: str


@dataclass(frozen=True)
class ToolCallDelta:
    """A complete call, sent once its closing mark was read. `index` counts calls within the reply from 0."""

    index: int
    call: ToolCall


@dataclass(frozen=True)
class Done:
    """The last event of every stream."""

    generation: Generation


Event = Union[TextDelta, ReasoningDelta, ToolCallDelta, Done]
