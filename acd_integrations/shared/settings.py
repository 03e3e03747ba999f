"""Settings as people write them: paths, "~", one stop string, near misses of names. The same for both adapters."""

from __future__ import annotations

import copy
import difflib
import os
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from acd_core.errors import UsageError
from acd_core.params import ContrastParams, GenerationParams, complaints
from acd_core.spec import option_fields

_PLACES = ("model", "pair", "expert")
_IN_MEMORY = "held in memory: "
# Names of the same thing in other libraries, which spelling alone does not lead to.
_ELSEWHERE = {
    "model_name": "model",
    "model_id": "model",
    "model_path": "model",
    "model_name_or_path": "model",
    "max_new_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "num_predict": "max_tokens",
    "stop_sequences": "stop",
    "stop_strings": "stop",
    "request_timeout": "timeout",
    "deadline_s": "timeout",
    "torch_dtype": "dtype",
    "device_map": "device",
    "adapter": "expert",
    "repeat_penalty": "repetition_penalty",
}


def kept_form(name: str, value: Any) -> Any:
    """The value of the setting `name` in the form it is kept in: a path as text with "~" written out, one stop string
    as a list, engine options as a dict.

    Raises UsageError for the words that `name_for_json` puts in the place of something without a name.
    """
    if name in _PLACES:
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if isinstance(value, str):
            if value.startswith(_IN_MEMORY):
                raise UsageError(
                    f"This description of an object cannot be made an object again: its {name} was {value!r}.",
                    hint=f"Give {name} as a folder or a hub id (save a pair or an expert first), or use from_lm.",
                )
            value = os.path.expanduser(value)
    elif name == "options":
        value = option_fields(value)
    elif name == "stop" and isinstance(value, str):
        value = [value]
    return value


def name_for_json(held: Any) -> str | None:
    """A pair or an expert as a name for JSON; one held in memory as words that `kept_form` knows and refuses."""
    return held if held is None or isinstance(held, str) else in_memory(getattr(held, "id", held))


def in_memory(name: Any) -> str:
    """Words for something that is held in memory, and that only looks like `name`."""
    return f"{_IN_MEMORY}{name}"


def checked_settings(owner: type[BaseModel], given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings for `owner`, in the form they are kept in. Raises UsageError for names it does not have."""
    fields = owner.model_fields
    known = {*fields, *(field.alias for field in fields.values() if field.alias)}
    unknown = [name for name in given if name not in known]
    if unknown:
        raise unknown_settings(unknown, known, f"{owner.__name__} has no setting")
    return {name: kept_form(name, value) for name, value in given.items()}


def checked_assignment(owner: type[BaseModel], name: str, value: Any) -> Any:
    """The value of an attribute about to be set. Raises UsageError for a setting that `owner` does not have."""
    if name in owner.model_fields:
        return kept_form(name, value)
    if not name.startswith("_") and not hasattr(owner, name):
        raise unknown_settings([name], owner.model_fields, f"{owner.__name__} has no setting")
    return value


def copied_settings(held: BaseModel, names: Iterable[str]) -> dict[str, Any]:
    """Copies of the settings of `held` that can be changed in place, for a copy of its own."""
    return {name: copy.deepcopy(getattr(held, name)) for name in names}


def why_not_by_names(owner: type[BaseModel], given: Mapping[str, Any], *, held: bool) -> str | None:
    """Say why an object with these settings cannot be saved as names, and what to do; None where it can.

    held: whether it was made from a ContrastiveLM.
    """
    name = owner.__name__
    if held:
        return (
            f"This {name} was made from a ContrastiveLM that is held in memory (from_lm), which no file can tell of. "
            f"Build the chain in code, or make it with {name}(model=..., pair=...) before it is saved."
        )
    for setting, value in given.items():
        if not _is_plain(value):
            return (
                f"{setting} of this {name} is held in memory ({type(value).__name__}), which no file can tell of. "
                f"Give it by name before the chain is saved (a pair or an expert: save it first, {setting}=folder)."
            )
    return None


def _is_plain(value: Any) -> bool:
    """Whether JSON can hold `value`."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (str, bool, int, float))


def check_none_beside(given: Mapping[str, Any]) -> None:
    """Raise UsageError where there is one of these settings, which stand beside a ContrastiveLM that has its own."""
    for name in sorted(given):
        raise UsageError(
            f"{name}={given[name]!r} was given beside a ContrastiveLM, which has its own.",
            hint="Leave it out, or make a ContrastiveLM with it.",
        )


def unknown_settings(unknown: Iterable[str], known: Collection[str], complaint: str) -> UsageError:
    """The error for names that nothing here knows, with the name that was meant, as far as that can be guessed."""
    parts, hints = [], []
    for name in sorted(unknown):
        parts.append(repr(name))
        meant = _ELSEWHERE.get(name)
        near = [meant] if meant in known else difflib.get_close_matches(name, sorted(known), 1, 0.6)
        hints += [f"{each!r} instead of {name!r}" for each in near]
    guess = f"Did you mean {', '.join(hints)}? " if hints else ""
    return UsageError(f"{complaint} {', '.join(parts)}.", hint=f"{guess}Known: {', '.join(sorted(known))}.")


def invalid_settings(owner: type[BaseModel], error: ValidationError) -> UsageError:
    """A pydantic error of the constructor of `owner` as one of ours."""
    where = f"{owner.__module__}.{owner.__name__}"
    return UsageError(
        f"Invalid settings of {owner.__name__}. {complaints(error)}",
        hint=f"Settings and what they take: python -c 'import {owner.__module__}; help({where})'",
    )


def params_of(settings: Mapping[str, Any], names: Mapping[str, str]) -> GenerationParams:
    """The settings of one call, checked. names: core's name of a setting -> the one it was given under here, so that an
    error speaks of what the caller wrote."""
    try:
        return GenerationParams.of(**settings)
    except UsageError as error:
        message = error.message
        for inner, outer in names.items():
            message = message.replace(f" {inner}: ", f" {outer}: ")
        if message == error.message:
            raise
        raise UsageError(message, hint=error.hint) from None


def contrast_of(given: dict[str, Any]) -> dict[str, Any]:
    """Takes `contrast` out of a call's settings: what it says, flat. Raises UsageError for another kind of thing."""
    found = given.pop("contrast", None)
    if isinstance(found, ContrastParams):
        return {name: getattr(found, name) for name in found.model_fields_set}
    if found is not None and not isinstance(found, Mapping):
        raise UsageError(
            f"contrast is a {type(found).__name__}.", hint="contrast=ContrastParams(alpha=0.5), or alpha=0.5 alone."
        )
    if unknown := set(found or {}) - set(ContrastParams.model_fields):
        raise unknown_settings(map(str, unknown), ContrastParams.model_fields, "contrast has no setting")
    return dict(found or {})


def merged_variables(own: Mapping[str, Any] | None, given: Any) -> Any:
    """Template variables of one call: what it gives over the object's own, key by key."""
    if given is None or (isinstance(given, Mapping) and not given):
        return dict(own or {})
    return {**(own or {}), **given} if isinstance(given, Mapping) else given  # of the wrong kind: the core says so
