"""Renderings to token ids. No lock is taken and nothing is changed in the tokenizer: any number of threads may encode.

A rendering holds marks: what stands between some is encoded as plain text, in which no added token is matched. Which
ids came out where is told as well, so that `acd_core.chat.template` can check ids and not spellings: a normaliser may
make a control token of other letters, and a vocabulary may hold one that merges reach.
"""

from __future__ import annotations

import copy
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerFast

from acd_core.chat.control_tokens import (
    CLOSE,
    OPEN,
    OURS,
    OUTSIDE,
    START,
    STOP,
    ControlTokens,
    join_outside_runs,
    sanitised,
    strip_marks,
)

SLOT, END = f"{OURS}slot{OURS}", f"{OURS}end{OURS}"
"""Where soft vectors go, and where a reply already begun ends, in a rendering."""
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_CHUNK = 1 << 16
_SHORT = 1 << 14  # characters that are encoded in some milliseconds
_SEEN = 8  # characters at the end of a text of which one at least is left by any normaliser


class Encoded(NamedTuple):
    """Ids before and after the slot; the control tokens among them in order, and where in the unmarked text each
    stands. Without a slot all ids are in `before`."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    controls: list[int]
    places: list[tuple[int, int]]


class Encoder:
    """Encodes renderings for one tokenizer, which belongs to the caller alone and is never changed.

    known: the control tokens whose ids are protected. renderings: what the template writes of harmless conversations.
    """

    def __init__(self, tokenizer: Any, known: ControlTokens, renderings: Iterable[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._backend = _backend(tokenizer)
        self._known = known
        self._pieces = re.compile(
            f"{START}({known.pattern.pattern}){STOP}|{OPEN}([^{OPEN}{CLOSE}]*){CLOSE}|[{START}{STOP}{OURS}{OPEN}{CLOSE}]"
        )
        self._ids = {text: tokenizer.convert_tokens_to_ids(text) for text in known.spelled}
        self.protected = (
            frozenset(self._ids.values()) - _special_ids_of_ordinary_text(tokenizer, tuple(renderings)) - {None}
        )
        self.literal = self._is_literal()
        """Whether control tokens are found in a text as they are spelled, before any normaliser and any merge."""
        self._stands_alone = self._backend is not None and any(
            each.single_word for number, each in tokenizer.added_tokens_decoder.items() if number in self.protected
        )
        self._newline = self._tokenize("\n")[0]
        self._fillers = tuple(self._choose_filler(each) for each in ("qxjkvwz0ж", ".,;:-~·"))

    def encode(self, text: str) -> Encoded:
        """Return ids of a rendering, cut at the slot if it has one."""
        head, slot, tail = text.partition(SLOT)
        before, found, places, size = self._encode_part(head, 0, start=True)
        after: list[int] = []
        if slot:
            after, more, further, _ = self._encode_part(tail, size, start=False)
            found, places = found + more, places + further
        return Encoded(tuple(before), tuple(after), found, places)

    def with_fillers(self, text: str) -> str:
        """Return a rendering of texts apart, with a harmless letter for the first and the last character of each, so
        that the control tokens in it are the template's own.

        One that must stand alone looks at its neighbours: a word's character stands for a word's, another for any
        other.
        """

        def fill(found: re.Match[str]) -> str:
            run = strip_marks(found[0])
            begins, ends = self._first_character_seen(run), self._last_character_seen(run)
            return "".join(self._fillers[0 if _is_word_character(each) else 1] for each in (begins, ends)[: len(run)])

        return OUTSIDE.sub(fill, text)

    def encode_apart(self, text: str) -> Encoded:
        """Return ids of a rendering whose texts stand apart: these as plain text, and the template's own control tokens
        as they are beside harmless texts. (One that must stand alone is none beside a letter, in any rendering.)
        """
        if not self._stands_alone:
            return self.encode(text)
        own = self.encode(self.with_fillers(text))
        rest = list(zip(own.controls, own.places))
        parts: list[tuple[int, ...]] = []
        at = 0
        for part in text.partition(SLOT)[::2]:
            ids: list[int] = []
            for number, (piece, outside) in enumerate(self._split_at_marks(part)):
                if outside:
                    ids += self._encode_as_plain_text(piece, False)
                    at += min(len(piece), 2) if outside == OPEN else len(piece)
                    continue
                done = 0
                while rest and rest[0][1][0] < at + len(piece):
                    token, (start, end) = rest.pop(0)
                    ids += self._encode_template_text(piece[done : start - at], not parts and number == 0 and done == 0)
                    ids.append(token)
                    done = max(done, end - at)
                ids += self._encode_template_text(piece[done:], not parts and number == 0 and done == 0)
                at += len(piece)
            parts.append(tuple(ids))
        return Encoded(parts[0], parts[1], own.controls, [])

    def _choose_filler(self, choice: str) -> str:
        """Return the first of some characters that is in no control token, and that no normaliser touches; else the
        last.
        """
        folded = "".join(self._known.spelled).casefold()
        free = [
            each for each in choice if each not in folded and f"a{each}{each}a" in self._normalised(f"a{each}{each}a")
        ]
        return (free or [choice[-1]])[0]

    def _normalised(self, text: str) -> str:
        normaliser = None if self.literal or self._backend is None else self._backend.normalizer
        return text if normaliser is None else str(normaliser.normalize_str(text))

    def _first_character_seen(self, run: str) -> str:
        """Return the first character of a text as a control token before it sees it."""
        return self._normalised("x" + run[:_SEEN]).partition("x")[2][:1]

    def _last_character_seen(self, run: str) -> str:
        """Return the last character of a text as a control token behind it sees it."""
        return self._normalised(run[-_SEEN:] + "x").rpartition("x")[0][-1:]

    def _encode_template_text(self, text: str, begins: bool) -> list[int]:
        """Return ids of what a template wrote between control tokens."""
        if not text:
            return []
        ids = self._tokenize(text)[0] if begins else self._tokenize_continuation(text)[0]
        return ids if self.protected.isdisjoint(ids) else self._encode_as_plain_text(text, begins)

    def encode_tail(self, text: str) -> tuple[int, ...]:
        """Return ids of a text that does not begin a sequence, so that SentencePiece puts no space before it."""
        return tuple(self._encode_part(text, 0, start=False)[0])

    def encode_outside(self, text: str, *, start: bool = True) -> tuple[int, ...]:
        """Return ids of a text from outside: no control token, whatever the tokenizer makes of it.

        start: whether the text begins a sequence (see `encode_tail`).
        """
        ids, found, _, _ = self._encode_part(self._known.mark(text), 0, start=start)
        return tuple(ids) if not found else tuple(self._encode_as_plain_text(sanitised(text), start))

    def makes_control_token(self, text: str) -> bool:
        """Return whether a text, or what is left of it without the control tokens spelled out in it, becomes a control
        token, or begins with what a normaliser joins to the character before it.
        """
        if unicodedata.category(text.lstrip()[:1] or "x").startswith("M"):
            return True
        tries = (self._known.mark(text), self._known.pattern.sub("", sanitised(text)))
        return any(self._encode_part(each, 0, start=True)[1] for each in tries)

    def spelled_ids(self, rendering: str) -> list[int]:
        """Return ids of the control tokens that a template spelled out in a rendering, in order."""
        return [
            found for text in self._known.spelled_by_template(rendering) if (found := self._ids[text]) in self.protected
        ]

    def outside_flags(self, rendering: str) -> bytearray:
        """Mark each character of the unmarked `rendering`, whose texts stand apart: 1 for one from outside, else 0."""
        found = bytearray()
        for piece, plain in self._split_at_marks(join_outside_runs(rendering.replace(SLOT, ""))):
            found += (b"\1" if plain else b"\0") * len(piece)
        return found

    def exceeds(self, texts: Iterable[str], most: int) -> bool:
        """Return whether these texts surely take more than `most` tokens, found by encoding no more of them than
        needed.

        They are encoded in chunks, white space around them left out, by the tokenizer itself, so whatever its
        normaliser drops or joins counts as it is. A chunk's cut can move a few tokens; twice `most` must be reached.
        """
        taken = 0
        for text in texts:
            core = text.strip()
            for at in range(0, len(core), _CHUNK):
                taken += len(self._tokenize(sanitised(core[at : at + _CHUNK]))[0])
                if taken > 2 * most:
                    return True
        return False

    # -- pieces -----------------------------------------------------------------------------------------------------

    def _encode_part(
        self, text: str, at: int, *, start: bool
    ) -> tuple[list[int], list[int], list[tuple[int, int]], int]:
        """Return ids, control tokens among them, their places counted from `at`, and where the unmarked text ends."""
        ids: list[int] = []
        found: list[int] = []
        places: list[tuple[int, int]] = []
        for number, (piece, plain) in enumerate(self._split_at_marks(text)):
            begins = start and number == 0
            if plain:
                ids += self._encode_as_plain_text(piece, begins)
            elif piece:
                new, spans = self._tokenize(piece) if begins else self._tokenize_continuation(piece)
                for place, token in enumerate(new):
                    if token in self.protected:
                        found.append(token)
                        span = spans[place] if spans is not None else (0, 0)
                        places.append((at + span[0], at + span[1]))
                ids += new
            at += len(piece)
        return ids, found, places, at

    def _split_at_marks(self, text: str) -> Iterator[tuple[str, str]]:
        """Yield pieces between marks, and the mark before each that is plain text; "" for the template's own text.

        The first piece is never plain, and may be empty.
        """
        at = 0
        for mark in self._pieces.finditer(text):
            yield text[at : mark.start()], ""
            at = mark.end()
            piece = mark[1] if mark[1] is not None else mark[2]
            if piece:
                yield piece, mark[0][0]
        yield text[at:], ""

    def _tokenize(self, text: str) -> tuple[list[int], list[tuple[int, int]] | None]:
        """Return what the tokenizer makes of a text, and the place of each token where it tells."""
        if self._backend is None:
            return list(self._tokenizer.encode(text, add_special_tokens=False)), None
        # Only batches let other threads run meanwhile, but they queue for a pool of threads, one behind another: what
        # is short is done at once.
        made = (
            self._backend.encode(text, add_special_tokens=False)
            if len(text) < _SHORT
            else self._backend.encode_batch([text], add_special_tokens=False)[0]
        )
        return made.ids, None if self.literal and not self._stands_alone else made.offsets

    def _tokenize_continuation(self, text: str) -> tuple[list[int], list[tuple[int, int]] | None]:
        """Tokenize a text in the middle of a sequence: behind a newline, which is taken off again."""
        ids, spans = self._tokenize("\n" + text)
        size = len(self._newline)
        if ids[:size] != self._newline:
            return self._tokenize(text)
        return ids[size:], spans and [(max(0, a - 1), max(0, b - 1)) for a, b in spans[size:]]

    def _encode_as_plain_text(self, text: str, begins: bool) -> list[int]:
        """Return ids of a text in which no added token is matched, and none of which is a control token."""
        ids, size = ([] if begins else self._without_added("\n" + text)), len(self._newline)
        ids = ids[size:] if not begins and ids[:size] == self._newline else self._without_added(text)
        if self.protected.isdisjoint(ids):
            return ids
        if len(text) > 1:  # merges reach one: what they join is cut until they do not
            half = len(text) // 2
            return self._encode_as_plain_text(text[:half], begins) + self._encode_as_plain_text(text[half:], False)
        return [each for each in ids if each not in self.protected]

    def _without_added(self, text: str) -> list[int]:
        return list(self._tokenizer._encode_without_added_tokens(text))

    def _is_literal(self) -> bool:
        if self._backend is None:  # it tells no places
            return True
        added, bare = self._backend.get_added_tokens_decoder(), self._backend.normalizer is None
        return all(number in added and (bare or not added[number].normalized) for number in self.protected)


def private_copy(tokenizer: Any) -> Any:
    """Return a copy that many threads may encode with: what truncation and padding the owner set, or sets, does not
    reach it, so that nothing in it ever changes.
    """
    made = copy.deepcopy(tokenizer)
    backend = getattr(made, "backend_tokenizer", None)
    if backend is not None:
        backend.no_truncation()
        backend.no_padding()
    # It would warn about every long text that is only counted; what does not fit raises ContextLengthError.
    made.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    return made


def _backend(tokenizer: Any) -> Any:
    """Return the tokenizer's Rust side, if encoding is all its own; else None."""
    kind = type(tokenizer)
    own = isinstance(tokenizer, PreTrainedTokenizerFast) and all(
        getattr(kind, name) is getattr(PreTrainedTokenizerFast, name) for name in ("_encode_plus", "encode")
    )
    return tokenizer.backend_tokenizer if own else None


def _special_ids_of_ordinary_text(tokenizer: Any, renderings: tuple[str, ...]) -> set[int]:
    """Return ids that text from outside may have although their tokens are special: single bytes, and what stands for
    unknown characters, unless the template writes it or it ends or begins sequences.
    """
    found = {number for number, each in tokenizer.added_tokens_decoder.items() if _BYTE.fullmatch(each.content)}
    backend = _backend(tokenizer)
    unknown = {tokenizer.unk_token, getattr(backend.model, "unk_token", None) if backend is not None else None}
    for text in unknown - {None, tokenizer.bos_token, tokenizer.eos_token}:
        if not any(text in each for each in renderings):
            found.add(tokenizer.convert_tokens_to_ids(text))
    return found


def _is_word_character(character: str) -> bool:
    """Return whether a character counts as a part of a word: a letter, a digit, or what hangs on one."""
    if not character:
        return False
    hangs = unicodedata.category(character) in ("Mn", "Mc", "Me", "Pc")
    return character.isalnum() or character in "\u200c\u200d" or hangs
