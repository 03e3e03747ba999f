"""Holds what is measured on: prompts, named sets of them, samples, and the check that nothing tested was tuned on."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from acd_core.errors import UsageError
from acd_core.evaluation.set_files import need_columns

Kind = Literal["harmful", "harmless"]
PROMPT_FIELDS = (
    "prompt", "question", "instruction", "goal", "Goal", "Behavior", "forbidden_prompt", "Question", "query", "text",
)  # fmt: skip
"""What published files call the prompt, in the order tried."""
CATEGORY_FIELDS = ("category", "Category", "SemanticCategory", "type", "topic")


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


# --- rows of a file as items ---


def read_items(
    name: str, rows: Sequence[Any], prompt: str | None = None, category: str | None = None, target: str | None = None
) -> list[Item]:
    """Rows as items: texts, or objects with a prompt in the column `prompt` (None: the first of PROMPT_FIELDS).

    An object may also hold id, category, prefill (what the reply begins with) and messages (a conversation instead of a
    prompt; its last user turn is what judges read). Raises UsageError naming the entry.
    """
    named = [column for column in (prompt, category, target) if column is not None]
    if named:
        need_columns(name, rows, *named)
    found = []
    for number, row in enumerate(rows, start=1):
        item = Item("", row) if isinstance(row, str) else _item(row, prompt, category, target)
        if item is None:
            raise UsageError(
                f"{name}, entry {number}: no prompt found.",
                hint="Entries are texts, or objects with a field 'prompt' (or name the column).",
            )
        found.append(item)
    return found


def _item(row: Any, prompt: str | None, category: str | None, target: str | None) -> Item | None:
    if not isinstance(row, Mapping):
        return None
    messages = _messages(row.get("messages"))
    text = _first(row, (prompt,) if prompt else PROMPT_FIELDS)
    if text is None:
        text = next((str(turn["content"]) for turn in reversed(messages) if turn["role"] == "user"), None)
    if text is None:
        return None
    return Item(
        id=str(row.get("id") or "") if prompt is None else "",
        prompt=text,
        category=_first(row, (category,) if category else CATEGORY_FIELDS) or "",
        messages=messages,
        prefill=str(row.get("prefill") or ""),
        target=_first(row, (target,)) or "" if target else "",
    )


def _first(row: Mapping[str, Any], fields: Sequence[str]) -> str | None:
    return next((row[field] for field in fields if isinstance(row.get(field), str)), None)


def _messages(value: Any) -> tuple[Mapping[str, Any], ...]:
    turns = value if isinstance(value, list) else []
    if not all(isinstance(turn, Mapping) and "role" in turn and isinstance(turn.get("content"), str) for turn in turns):
        return ()
    return tuple({"role": turn["role"], "content": turn["content"]} for turn in turns)
