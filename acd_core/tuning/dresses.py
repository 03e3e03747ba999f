"""How applications dress a request: system texts, retrieval templates, tool lists, earlier turns, long documents.

A reading learnt from bare questions sleeps inside a retrieval template, because what a model's header tokens hold
depends on all that stands before them. So every anchor is seen in several dresses. All texts (anchors/dresses.json) are
ours, but for widely used retrieval wordings of the frameworks' older releases. Documents are about everyday matters,
some of them grave, so that a grave document does not make a request harmful.
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from acd_core.bundled import ANCHOR_DIR
from acd_core.errors import TuningError
from acd_core.tuning.anchors import AnchorPair

Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Dress:
    """One way to send a request. kind: its family. before: the messages in front of the user turn. template: that turn,
    with the request in place of REQUEST."""

    name: str
    kind: str
    before: tuple[dict[str, Any], ...] = ()
    template: str = "{request}"

    def wear(self, request: str) -> Messages:
        """The messages, as an application would send them."""
        return [*self.before, _user(self.template.replace(REQUEST, request))]


REQUEST = "{request}"
BARE = Dress("bare", "bare")
BEHIND = "request first"
"""The kind of dress that puts much behind the request."""
FAR = (BEHIND, "long system text")
"""The kinds that put much between a prompt of ours and the reply."""
BEGUN_SHARE = 0.2
"""Of the refusals a pair learns from, how many follow a reply that is already under way."""


def tool_list(tools: Sequence[Mapping[str, Any]], style: int) -> str:
    """A system text that lists tools, as templates and agents write them. style 0: JSON; 1: one line a tool."""
    if style == 0:
        functions = [
            {
                "name": tool["name"],
                "description": tool["about"],
                "parameters": {
                    "type": "object",
                    "properties": {key: {"type": kind} for key, kind in tool["fields"].items()},
                },
            }
            for tool in tools
        ]
        return (
            "You have access to the following functions:\n"
            + "\n".join(json.dumps(each) for each in functions)
            + '\n\nTo call one, reply with JSON {"name": ..., "arguments": {...}} and nothing else.'
        )
    lines = "\n".join(f"- {tool['name']}({', '.join(tool['fields'])}): {tool['about']}" for tool in tools)
    return f"Answer the following questions as best you can. You have access to the following tools:\n\n{lines}"


@functools.cache
def texts() -> Mapping[str, Any]:
    """What dresses are made of: documents, system_texts, long_system_texts, tools, turns, retrieval (templates of a
    user turn with {context} and {request}), retrieval_system, frames (templates with {request})."""
    found: Mapping[str, Any] = json.loads((ANCHOR_DIR / "dresses.json").read_text(encoding="utf-8"))
    return found


@functools.cache
def dresses(seed: int = 0) -> tuple[Dress, ...]:
    """The dresses that anchors wear while a reading or a pair is learnt; the bare request is the first."""
    rng, data = random.Random(seed), texts()
    made: list[Dress] = [BARE]

    def context(count: int) -> str:
        return "\n\n".join(rng.sample(data["documents"], count))

    def turns(count: int) -> list[dict[str, Any]]:
        return [
            message for pair in rng.sample(data["turns"], count) for message in (_user(pair[0]), _assistant(pair[1]))
        ]

    def add(kind: str, *before: dict[str, Any], template: str = REQUEST) -> None:
        made.append(Dress(f"{kind} {sum(each.kind == kind for each in made)}", kind, before, template))

    for text in data["system_texts"]:
        add("system text", _system(text))
    for text in data["long_system_texts"]:
        add("long system text", _system(text))
    for template in data["retrieval"]:
        first = template.index(REQUEST) < template.index("{context}")
        # What stands behind a request is computed anew for every one: few documents. What stands before it, once.
        for count in (1, 1) if first else (1, 2):
            add(BEHIND if first else "retrieval", template=template.replace("{context}", context(count)))
    for index, template in enumerate(2 * data["retrieval_system"]):
        add("long system text", _system(template.replace("{context}", context(1 + index))))
    for index in range(8):
        add("tools", _system(tool_list(rng.sample(data["tools"], rng.randint(1, 6)), index % 2)))
    for index in range(12):
        head = [_system(rng.choice(data["system_texts"]))] if index % 3 == 2 else []
        add("later turn", *head, *turns(1 + index % 4))
    for frame in data["frames"]:
        add("frame", template=frame)
    return tuple(made)


@functools.cache
def by_kind() -> Mapping[str, tuple[Dress, ...]]:
    """The dresses but for the bare one, by kind, in the order of the kinds' names."""
    kinds = sorted({dress.kind for dress in dresses()} - {BARE.kind})
    return {kind: tuple(dress for dress in dresses() if dress.kind == kind) for kind in kinds}


@functools.cache
def dresses_digest() -> str:
    """Which dresses these are."""
    worn = [(dress.name, dress.wear("x")) for dress in dresses()]
    return hashlib.sha256(json.dumps(worn).encode()).hexdigest()[:16]


def dress_named(name: str, seed: int = 0) -> Dress:
    """The dress of that name among `dresses(seed)`. Raises TuningError for an unknown one."""
    found = _by_name(seed).get(name)
    if found is None:
        raise TuningError(f"There is no dress {name!r}.", hint=f"Dresses: {', '.join(_by_name(seed))}.")
    return found


@functools.cache
def _by_name(seed: int) -> dict[str, Dress]:
    return {dress.name: dress for dress in dresses(seed)}


def begun(pairs: Sequence[AnchorPair], said: Mapping[str, str], seed: int) -> tuple[AnchorPair, ...]:
    """`pairs` of which some refusals follow the start of a reply, so that a pair learns to turn around in the middle
    (DeRTa's harmful prefixes, Yuan et al., arXiv 2407.09121). said: by instruction id, how the model itself replies."""
    made = []
    for index, pair in enumerate(pairs):
        rng = random.Random(f"{seed}/{pair.id}/{pair.label}/{index}")
        words = said.get(pair.id, "").split()
        if len(words) >= 8 and rng.random() < BEGUN_SHARE:
            pair = replace(pair, begun=" ".join(words[: rng.randint(3, min(24, len(words) - 1))]))
        made.append(pair)
    return tuple(made)


def _system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}
