"""Token ids in, text pieces out: half characters, hidden tokens, stop texts."""

from __future__ import annotations

import bisect
from collections.abc import Container, Sequence
from typing import Any


class Turn(str):
    """A piece of text at which a gate opened in the reply: what follows is an answer of its own, behind a header."""

    __slots__ = ()


class TextStream:
    """Token ids -> text pieces. Holds back half characters and anything that may be the start of a stop text.

    The pieces add up to the decoded reply, cut before the first stop text. Stop texts are looked for in the text as the
    reader sees it, and in the text with the hidden tokens written out: `<|im_end|>` can be one, or a part of one.
    """

    def __init__(
        self,
        tokenizer: Any,
        stops: Sequence[str] = (),
        hidden_ids: Container[int] = (),
        begun: Sequence[int] = (),
    ) -> None:
        """hidden_ids: tokens whose text is never part of the reply (special tokens, but for tool-call marks).
        begun: the last ids of a text that is being continued; they are context for decoding, not part of the reply."""
        self._tokenizer = tokenizer
        self._stops = tuple(stops)
        self._hidden = hidden_ids
        self._ids: list[int] = [each for each in begun if each not in hidden_ids]
        self._window = 0  # decoding starts here: far enough back for the tokenizer's own context
        self._read = len(self._ids)  # ids before this one are in `_held` or were given out
        self._held = ""  # what may be the start of a stop text, hidden tokens written out
        self._seen: list[int] = []  # the places in `_held` of what the reader will see
        self.stopped_by: str | None = None

    def push(self, token: int) -> str:
        """The text that is certain after `token`: possibly empty, possibly ending the reply (see `stopped_by`)."""
        if token in self._hidden:
            return self._release(self._decode([token]), hidden=True) if self._stops else ""
        self._ids.append(token)
        text = self._new_text(final=False)
        return self._release(text) if text else ""

    def end(self, token: int) -> str:
        """As `push`, for the token that ends the reply: never part of it, but perhaps of a stop text."""
        if not self._stops:
            return ""
        piece = self._release(self._new_text(final=True))
        return piece if self.stopped_by is not None else piece + self._release(self._decode([token]), hidden=True)

    def turn(self) -> Turn:
        """What was held back and a paragraph's end: the tokens that follow begin a text of their own."""
        piece = self.finish()
        self._ids, self._window, self._read = [], 0, 0
        return Turn(piece if self.stopped_by is not None else f"{piece}\n\n")

    def finish(self) -> str:
        """What was held back, once no token will follow."""
        if self.stopped_by is not None:
            return ""
        return self._release(self._new_text(final=True), final=True)

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def _new_text(self, *, final: bool) -> str:
        known = self._decode(self._ids[self._window : self._read])
        text = self._decode(self._ids[self._window :])
        if not final and (text.endswith("\ufffd") or len(text) <= len(known)):
            return ""
        new = text[len(known) :]
        self._window, self._read = self._read, len(self._ids)
        return new

    def _release(self, text: str, *, hidden: bool = False, final: bool = False) -> str:
        """Add `text` and give out what no stop text can take back any more."""
        if not hidden:
            self._seen.extend(range(len(self._held), len(self._held) + len(text)))
        self._held += text
        if not self._stops:
            return self._cut(len(self._held))
        shown = self._shown()
        found = [(self._held.find(stop), stop) for stop in self._stops if stop in self._held]
        if shown != self._held:
            found += [(self._seen[shown.find(stop)], stop) for stop in self._stops if stop in shown]
        if found:
            at, self.stopped_by = min(found)
            piece = self._cut(at)
            self._held, self._seen = "", []
            return piece
        if final:
            return self._cut(len(self._held))
        begun = _overlap(shown, self._stops)
        places = [len(self._held) - _overlap(self._held, self._stops), *self._seen[len(self._seen) - begun :][:1]]
        return self._cut(min(places))

    def _shown(self) -> str:
        """What the reader will see of `_held`."""
        if len(self._seen) == len(self._held):
            return self._held
        return "".join(self._held[at] for at in self._seen)

    def _cut(self, at: int) -> str:
        """Take what the reader sees of the first `at` characters out of `_held`."""
        count = bisect.bisect_left(self._seen, at)
        piece = self._shown()[:count]
        self._held = self._held[at:]
        self._seen = [place - at for place in self._seen[count:]]
        return piece


def _overlap(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of `text` that begins a stop string."""
    longest = 0
    for stop in stops:
        for size in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:size]):
                longest = size
                break
    return longest
