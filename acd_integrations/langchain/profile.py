"""What ChatACD tells LangChain of its model, loaded or not: its profile, and whether it can be shown tools."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from langchain_core.language_models.model_profile import ModelProfile

from acd_core.errors import ACDError, TemplateError
from acd_core.spec import LMSpec

if TYPE_CHECKING:
    from acd_core.lm import ContrastiveLM


def profile(spec: LMSpec, lm: ContrastiveLM | None = None) -> ModelProfile | None:
    """What LangChain may know of the model, from its files alone; None for one that is not here yet. lm: the model,
    where it is loaded.

    `max_input_tokens` is that of calls by the method of `spec`, exact for the conversation and its reply together:
    `ModelFacts.max_input_tokens`. How much a method's prompts take only the tokenizer can tell, so before the model is
    loaded the figure is worked out when somebody reads it.
    """
    structured = importlib.util.find_spec("llguidance") is not None
    later: LMSpec | None = None
    found = ModelProfile(
        text_inputs=True,
        text_outputs=True,
        image_inputs=False,
        image_url_inputs=False,
        audio_inputs=False,
        video_inputs=False,
        pdf_inputs=False,
        temperature=True,
        structured_output=structured,
        mid_conversation_system_messages=False,  # templates know one system text, at the front
    )
    if lm is not None:
        found["max_input_tokens"] = lm.facts_for(spec.method or lm.method).max_input_tokens
        tools = lm.supports_tools
    else:
        files = spec.file_facts()
        if files is None:
            return None
        if files.context_length is not None:
            found["max_input_tokens"] = files.context_length
            if spec.method_name not in ("none", "safedecoding"):  # those two add no prompt
                found["max_input_tokens"] -= spec.pair_length()
                later = spec
        tools = files.mentions_tools is not False
    found["tool_calling"] = tools
    found["tool_call_streaming"] = tools
    found["tool_choice"] = tools and structured
    return cast(ModelProfile, WorkedOut(found, later))


class WorkedOut(dict[str, Any]):
    """A profile that was worked out here, not written by a user.

    spec: of the model whose `max_input_tokens` is worked out at the first reading of it: that takes the tokenizer, and
    making a ChatACD must not. Until then it is the context less the pair's vectors; it stays that where the model
    cannot be read, which its first call says with the reason.
    """

    def __init__(self, known: Mapping[str, Any], spec: LMSpec | None) -> None:
        super().__init__(known)
        self._spec = spec

    def _work_out(self) -> None:
        spec, self._spec = self._spec, None
        if spec is not None:
            with contextlib.suppress(ACDError):
                self["max_input_tokens"] = spec.facts().max_input_tokens

    def __getitem__(self, key: str) -> Any:
        if key == "max_input_tokens":
            self._work_out()
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        if key == "max_input_tokens":
            self._work_out()
        return super().get(key, default)

    def __iter__(self) -> Iterator[str]:  # its being here keeps dict(p) and {**p} from reading past __getitem__
        return super().__iter__()

    def items(self) -> Any:
        self._work_out()
        return super().items()

    def values(self) -> Any:
        self._work_out()
        return super().values()

    def copy(self) -> dict[str, Any]:
        return dict(self.items())

    def __eq__(self, other: object) -> bool:
        self._work_out()
        return super().__eq__(other)

    __hash__ = None

    def __repr__(self) -> str:
        self._work_out()
        return super().__repr__()

    def __reduce__(self) -> tuple[Any, ...]:
        return (WorkedOut, (dict(super().items()), self._spec))


def check_tools(spec: LMSpec, lm: ContrastiveLM | None) -> None:
    """Raise TemplateError if it is plain already that the model's template ignores tools. Loads nothing; the call
    itself checks again, by rendering. lm: the model, where it is loaded."""
    files = spec.file_facts() if lm is None else None
    ignored = not lm.renders_tools if lm is not None else files is not None and files.mentions_tools is False
    if ignored:
        raise TemplateError(
            f"The chat template of {spec.model!r} ignores tools, so the model would never see them.",
            hint=f"Use a model whose template renders tools (acd doctor --model {spec.model} says so).",
        )
