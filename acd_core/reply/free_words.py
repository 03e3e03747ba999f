"""What a model says before a forced format: how it is made to speak, and how long.

These words are ours, not the caller's: no setting of a call shortens them, ends them or turns them into noise. They are
greedy, and as long as it takes to judge them (stance.py): `PROBE_TOKENS` of a direct answer; more while they only lead
up to one, stand in the middle of a sentence that may refuse, or hold no word at all. What cannot be judged when they
are cut off counts as a refusal; a model that ends its turn by itself has said all it had to say. But it may not end
before it has said anything: silence is no answer to the question whether it refuses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

import torch
from transformers import LogitsProcessor

from acd_core.params import GenerationParams
from acd_core.reply.stance import letters_of, only_leads_up, open_sentence, size, spoken_units

PROBE_TOKENS = 24
"""Tokens that the model speaks freely before a forced format, unless it is refusing: then to the end."""
LONGEST_PROBE = 96
"""Tokens at most, where it has not come to the point, or is within a sentence that may be a refusal."""
MOST_TOKENS = 4 * LONGEST_PROBE
"""Tokens at most with those that say little counted too: blank lines, rules of dashes, parts of words or letters."""
_LONGEST_LETTERS = 300  # LONGEST_PROBE tokens have as many where a token is a word
_SANE_MIN_P = 0.05
_MARK_TOKENS = 16  # more than a mark has
_DOUBTFUL = re.compile(
    r"(?:\b(?:sorry|apologi[sz]e|unfortunately|regret(?:tably)?|afraid|unable|cannot|can['\u2019]?t|won['\u2019]?t|"
    r"(?:not|n['\u2019]t) (?:be )?(?:able|allowed|permitted|going|comfortable)|declin\w*|refus\w*)\b"
    r"|(?:\A|[.!?\n])[\s*_]*(?:however|but|yet|that (?:being )?said|having said (?:that|this)|nevertheless|"
    r"nonetheless|still|"
    r"with that said|even so|despite (?:this|that)|at the same time|on the other hand)\b"
    r")[^.!?\n\u3002\uff01\uff1f]*\Z",
    re.IGNORECASE,
)


def thought_settings(asked: GenerationParams) -> GenerationParams:
    """Return how a thought before a forced format is drawn: as the caller asks, but never into noise.

    A thought is part of the reply, and models loop in greedy ones; but what follows from it is judged.
    """
    return GenerationParams(
        temperature=min(asked.temperature, 1.0),
        top_p=asked.top_p,
        top_k=asked.top_k,
        min_p=max(asked.min_p, _SANE_MIN_P),
        seed=asked.seed,
    )


class NoSilence(LogitsProcessor):
    """Forbids the tokens `ends` until something was said. Begins anew behind a thought, and where a gate opens.

    decode: ids of a reply as text, control tokens included. marks: what opens and closes a thought. unsaid: texts that
    say nothing, the control tokens. turned: how many tokens were said when a gate opened in the reply, if one has.
    """

    def __init__(
        self,
        ends: Iterable[int],
        decode: Callable[[list[int]], str],
        marks: Sequence[tuple[str, str]] = (),
        unsaid: Iterable[str] = (),
        turned: Callable[[], int] = lambda: 0,
    ) -> None:
        self._ends = sorted(ends)
        self._decode, self._turned = decode, turned
        self._closing = [close.strip() for _, close in marks]
        self._unsaid = sorted(
            {*(each.strip() for pair in marks for each in pair), *unsaid} - {""}, key=len, reverse=True
        )
        self._begins = 0  # of the reply's tokens, where what counts begins
        self._said = False

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """input_ids: [1, n] of the reply alone. scores: [1, vocab]."""
        ids = input_ids[0].tolist()
        if self._turned() > self._begins:
            self._begins, self._said = self._turned(), False
        recent = self._decode(ids[max(self._begins, len(ids) - _MARK_TOKENS) :])
        if any(close in recent for close in self._closing):
            self._begins, self._said = len(ids), False
        self._said = self._said or self._says(ids[self._begins :])
        if self._said:
            return scores
        held = scores.clone()
        held[:, self._ends] = -torch.inf
        return held  # type: ignore[return-value]

    def _says(self, ids: list[int]) -> bool:
        text = self._decode(ids)
        for each in self._unsaid:
            text = text.replace(each, "")
        return bool(text.strip())


class ThoughtWatch:
    """Follows a reply's text, piece by piece: whether it stands in a thought. marks: what opens and closes one."""

    def __init__(self, marks: Sequence[tuple[str, str]], *, thinking: bool) -> None:
        self.thinking = thinking
        self._marks = [(opening.strip(), close.strip()) for opening, close in marks]
        self._longest = max((len(mark) for pair in self._marks for mark in pair), default=1)
        self._tail = ""

    def follow(self, text: str) -> bool:
        """Take the next `text`. Returns whether the reply stands in a thought behind it."""
        self._tail += text
        while True:
            wanted = [pair[self.thinking] for pair in self._marks]
            ends = [self._tail.find(mark) + len(mark) for mark in wanted if mark in self._tail]
            if not ends:
                break
            self._tail = self._tail[min(ends) :]
            self.thinking = not self.thinking
        self._tail = self._tail[max(len(self._tail) - self._longest + 1, 0) :]
        return self.thinking

    def begin_anew(self, header: str) -> None:
        """Begin again for an answer of its own behind `header`."""
        self.thinking, self._tail = False, ""
        self.follow(header)


class FreeWords:
    """The words spoken freely so far. asked: the last thing the user said."""

    def __init__(self, asked: str = "") -> None:
        self.text = ""
        self.spoken = 0
        """Tokens that said something: at most one a letter, and one for all that stands between two words."""
        self._asked = letters_of(asked)
        self._waiting = 0  # tokens whose text is not here yet
        self._in_gap = True

    def add(self, text: str, tokens: int, *, call: bool = False) -> None:
        """Add what was given out next. tokens: how many more were spoken by then. call: whether `text` is a part of a
        call, of which every token says something."""
        self._waiting += tokens
        if not text:
            return
        self.text += text
        units, self._in_gap = spoken_units(text, self._in_gap)
        self.spoken += self._waiting if call else min(self._waiting, units)
        self._waiting = 0

    def forget_waiting(self) -> None:
        """Leave out the tokens whose text is not here: they were a thought, or a mark around it."""
        self._waiting = 0

    @property
    def enough(self) -> bool:
        """Whether there are enough words to judge at all."""
        return self.spoken >= PROBE_TOKENS

    def can_be_judged(self, refuses: Callable[[str], bool]) -> bool:
        """Whether the words so far can be judged.

        Not while they are a preamble, nor in half a sentence that may become a refusal or an answer, such as "I am
        unable to find the".
        """
        if not self.enough:
            return False
        if self.spoken >= LONGEST_PROBE and size(self.text) >= _LONGEST_LETTERS:
            return True
        is_open = bool(open_sentence(self.text).strip())
        if is_open and _DOUBTFUL.search(self.text):
            return False
        # Judging takes milliseconds, at every token of a long preamble: only where the verdict decides.
        if only_leads_up(self._asked, self.text):
            return not is_open and refuses(self.text)
        return not (is_open and refuses(self.text))
