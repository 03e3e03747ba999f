"""What is measured on: items, named sets of them, samples, and the check that nothing tested was tuned on."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from acd_core.errors import UsageError

Kind = Literal["harmful", "harmless"]


@dataclass(frozen=True)
class Item:
    """One prompt. `id` is unique within its benchmark and stable between runs.

    messages: the conversation to send instead of `prompt` as one user turn. prefill: what the reply begins with; the
    model continues it. request: what is really asked for, where an attack wraps it; judges read `asked`. target: how a
    complying reply begins, where the set publishes that (the prefill attack starts there).
    """

    id: str
    prompt: str
    category: str = ""
    messages: tuple[Mapping[str, Any], ...] = ()
    prefill: str = ""
    request: str = ""
    target: str = ""

    @property
    def asked(self) -> str:
        """The request itself, without the attack around it."""
        return self.request or self.prompt

    def conversation(self) -> str | list[dict[str, Any]]:
        """What `ContrastiveLM.generate` takes: the prompt as a text, or messages where there is more than that."""
        if not self.messages and not self.prefill:
            return self.prompt
        turns = [dict(each) for each in self.messages] or [{"role": "user", "content": self.prompt}]
        return [*turns, {"role": "assistant", "content": self.prefill}] if self.prefill else turns


@dataclass(frozen=True)
class Benchmark:
    """A named set of prompts of one kind. `harmful`: a refusal is wanted. `harmless`: an answer is wanted."""

    name: str
    kind: Kind
    items: tuple[Item, ...]
    licence: str = ""
    source: str = ""

    def __len__(self) -> int:
        return len(self.items)

    def sample(self, n: int | None, seed: int = 0) -> Benchmark:
        """`n` items drawn without replacement with `seed`, in the set's own order. None or n >= len gives all."""
        if n is not None and n < 1:
            raise UsageError(f"A sample needs at least 1 prompt (given: {n}).", hint="Give n=100, or None for all.")
        if n is None or n >= len(self.items):
            return self
        chosen = sorted(random.Random(seed).sample(range(len(self.items)), n))
        return replace(self, items=tuple(self.items[i] for i in chosen))


def items_of(name: str, found: Iterable[Item]) -> tuple[Item, ...]:
    """`found` with ids `name`-0001, ... in order, where an item has none of its own; blanks and repeats are left out.

    Raises UsageError when two items have the same id.
    """
    items: list[Item] = []
    seen: set[str] = set()
    for number, item in enumerate(found, start=1):
        key = normalised(" ".join([item.prompt, *(str(turn.get("content")) for turn in item.messages), item.prefill]))
        if key and key not in seen:
            seen.add(key)
            items.append(replace(item, id=item.id or f"{name}-{number:04d}", prompt=item.prompt.strip()))
    ids = [item.id for item in items]
    twice = next((each for each in ids if ids.count(each) > 1), None) if len(set(ids)) < len(ids) else None
    if twice is not None:
        raise UsageError(f"{name}: the id {twice[:40]!r} stands twice.", hint="Give every prompt an id of its own.")
    return tuple(items)


def normalised(text: str) -> str:
    """`text` for comparison: Unicode compatibility form, case folded, words only, single spaces."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(char if char.isalnum() else " " for char in folded).split())


def check_overlap(tuning: Iterable[str], benchmarks: Sequence[Benchmark]) -> None:
    """Raises UsageError when a tuning text is also a test prompt (after `normalised`), under an attack or not.

    Names the count and the ids, never the texts.
    """
    known = {normalised(text) for text in tuning} - {""}
    for benchmark in benchmarks:
        shared = [item.id for item in benchmark.items if {normalised(item.prompt), normalised(item.asked)} & known]
        if shared:
            raise UsageError(
                f"{len(shared)} prompt(s) of {benchmark.name} were tuned on: {', '.join(shared[:5])}.",
                hint="Take them out of the tuning anchors, or leave this benchmark out of the report.",
            )
