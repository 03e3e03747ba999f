"""A reply still to be made: how to make its request, how to read its text, what to report of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from acd_core.engine import Matcher, Request
from acd_core.engine.request import Item
from acd_core.methods.sampling import Sampler
from acd_core.params import Event, TextDelta
from acd_core.toolcalls import ParsedReply


class Reader(Protocol):
    """Takes a reply's text apart (toolcalls.ToolCallReader)."""

    @property
    def region(self) -> str: ...
    @property
    def marked(self) -> bool: ...
    @property
    def pending(self) -> str: ...
    def feed(self, text_delta: str) -> list[Event]: ...
    def finish(self) -> tuple[list[Event], ParsedReply]: ...


class PlainReader:
    """For models without any markup: text is text."""

    region, marked, pending = "text", False, ""

    def __init__(self) -> None:
        self._text = ""

    def feed(self, text_delta: str) -> list[Event]:
        self._text += text_delta
        return [TextDelta(text_delta)] if text_delta else []

    def finish(self) -> tuple[list[Event], ParsedReply]:
        return [], ParsedReply(self._text)


@dataclass(frozen=True)
class Plan:
    """A reply still to be made.

    make: (matcher, sink) -> Request. reader: the text that a reply begins with -> a fresh reader of what follows it.
    decode: ids as text, control tokens included. max_tokens: of the reply; the free words are not counted. method,
    alpha, prompt_tokens: to be reported. header: ids behind which a gate that opens has the method answer anew.

    Where a grammar holds the reply to a form. matcher: whether a thought stands before it -> a fresh matcher.
    probes_refusal: whether the model speaks freely first, because the grammar leaves it no words to refuse with.
    speak: sink -> the Request of those free words. free_reader: as reader, of the free words. refuses: whether a text
    is a refusal. asked: the last thing the user said.

    Where the model thinks first. thought_marks: what opens and closes a thought. thought_sampler: for a thought among
    the free words; None where it is drawn as they are. closing: ids that end a thought. answer: what opens the words
    behind a thought, its text and its ids, where a family has such a mark and a document is to follow.
    """

    make: Callable[[Matcher | None, Callable[[Item], None]], Request]
    reader: Callable[[str], Reader]
    method: str
    alpha: float
    prompt_tokens: int
    matcher: Callable[[bool], Matcher] | None = None
    probes_refusal: bool = False
    free_reader: Callable[[str], Reader] | None = None
    refuses: Callable[[str], bool] | None = None
    decode: Callable[[Sequence[int]], str] | None = None
    closing: tuple[int, ...] = ()
    header: tuple[int, ...] = ()
    answer: tuple[str, tuple[int, ...]] | None = None
    speak: Callable[[Callable[[Item], None]], Request] | None = None
    max_tokens: int = sys.maxsize
    asked: str = ""
    thought_marks: tuple[tuple[str, str], ...] = ()
    thought_sampler: Sampler | None = None


def demonstrated(messages: Sequence[dict[str, Any]], turns: tuple[str, str]) -> list[dict[str, Any]]:
    """Return `messages` with a demonstration (user turn, assistant turn) behind the system text.

    A system text behind a last reply moves to the front, and still asks for a new turn.
    """
    system = [message for message in messages if message["role"] == "system"]
    others = [message for message in messages if message["role"] != "system"]
    if others and messages[-1]["role"] == "system" and others[-1]["role"] == "assistant":
        others[-1] = {**others[-1], "prefix": False}
    shown = [{"role": "user", "content": turns[0]}, {"role": "assistant", "content": turns[1]}]
    return [*system, *shown, *others]
