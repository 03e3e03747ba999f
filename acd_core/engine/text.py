"""Token ids in, text out piece by piece: half characters, hidden tokens, stop texts.

Not by tokenizers' DecodeStream (0.23): it has no end, so that it loses the half character a reply is cut off in, and it
raises on byte tokens that become valid only together ("Invalid prefix encountered").
"""

from __future__ import annotations

import bisect
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TextPiece:
    """A piece of a reply's text. turns: whether a gate opened behind it, so that an answer of its own follows."""

    text: str
    turns: bool = False


class TextStream:
    """Turns token ids into text. Holds back half characters and anything that may be the start of a stop text.

    The texts add up to the decoded reply, cut before the first stop text. Stop texts are looked for in the text as the
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
        self._decoded = len(self._ids)  # the text of the ids before this one is in `_held` or was given out
        self._held = ""  # what may be the start of a stop text, hidden tokens written out
        self._visible_at: list[int] = []  # the places in `_held` of what the reader will see
        self.stopped_by: str | None = None

    def push(self, token: int) -> str:
        """Take `token` and give the text that is certain by then, perhaps "". It may end the reply: `stopped_by`."""
        if token in self._hidden:
            return self._release(self._decode([token]), hidden=True) if self._stops else ""
        self._ids.append(token)
        text = self._new_text(final=False)
        return self._release(text) if text else ""

    def end(self, token: int) -> str:
        """Take the token that ends the reply. It is no part of the reply, but may be a part of a stop text."""
        if not self._stops:
            return ""
        piece = self._release(self._new_text(final=True))
        return piece if self.stopped_by is not None else piece + self._release(self._decode([token]), hidden=True)

    def turn(self) -> TextPiece:
        """Give what was held back and the end of a paragraph. The tokens that follow begin a text of their own."""
        text = self.finish()
        self._ids, self._window, self._decoded = [], 0, 0
        return TextPiece(text if self.stopped_by is not None else f"{text}\n\n", turns=True)

    def finish(self) -> str:
        """Give what was held back, once no token will follow."""
        if self.stopped_by is not None:
            return ""
        return self._release(self._new_text(final=True), final=True)

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def _new_text(self, *, final: bool) -> str:
        known = self._decode(self._ids[self._window : self._decoded])
        text = self._decode(self._ids[self._window :])
        if not final and (text.endswith("\ufffd") or len(text) <= len(known)):
            return ""
        new = text[len(known) :]
        self._window, self._decoded = self._decoded, len(self._ids)
        return new

    def _release(self, text: str, *, hidden: bool = False, final: bool = False) -> str:
        """Add `text` and give out what no stop text can take back any more."""
        if not hidden:
            self._visible_at.extend(range(len(self._held), len(self._held) + len(text)))
        self._held += text
        if not self._stops:
            return self._take(len(self._held))
        visible = self._visible()
        found = [(self._held.find(stop), stop) for stop in self._stops if stop in self._held]
        if visible != self._held:
            found += [(self._visible_at[visible.find(stop)], stop) for stop in self._stops if stop in visible]
        if found:
            at, self.stopped_by = min(found)
            piece = self._take(at)
            self._held, self._visible_at = "", []
            return piece
        if final:
            return self._take(len(self._held))
        begun = _begun_length(visible, self._stops)
        places = [
            len(self._held) - _begun_length(self._held, self._stops),
            *self._visible_at[len(self._visible_at) - begun :][:1],
        ]
        return self._take(min(places))

    def _visible(self) -> str:
        """Return what the reader will see of `_held`."""
        if len(self._visible_at) == len(self._held):
            return self._held
        return "".join(self._held[at] for at in self._visible_at)

    def _take(self, at: int) -> str:
        """Take what the reader sees of the first `at` characters out of `_held`."""
        count = bisect.bisect_left(self._visible_at, at)
        piece = self._visible()[:count]
        self._held = self._held[at:]
        self._visible_at = [place - at for place in self._visible_at[count:]]
        return piece


def _begun_length(text: str, stops: Sequence[str]) -> int:
    """Return the length of the longest end of `text` that begins a stop text."""
    longest = 0
    for stop in stops:
        for size in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:size]):
                longest = size
                break
    return longest
