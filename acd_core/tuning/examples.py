"""Anchor pairs as token ids, and which of them make up each step."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from acd_core.chat import SOFT, Chat
from acd_core.errors import TuningError
from acd_core.model.backbone import Backbone
from acd_core.tuning.anchors import AnchorPair, AnchorSplit
from acd_core.tuning.dresses import BARE, FAR, by_kind, dress_named
from acd_core.tuning.objectives import Class, TermTable
from acd_core.tuning.turning import TurningPair

NOT_WANTED = -1
"""Among the targets of an example: nothing is wanted at this place."""
WINDOW = 4
"""Steps whose rows are drawn together and then sorted by length, so that a batch is padded little."""


@dataclass(frozen=True)
class EncodedRequest:
    """One request as ids: what follows the soft prompt, and the whole layout without any prompt of ours, whose last
    user turn begins at `start`."""

    after: tuple[int, ...]
    plain: tuple[int, ...]
    start: int = 0


@dataclass(frozen=True)
class Example:
    """A request and the reply tokens to supervise (with the closing token where the reply ended by itself).

    instead: where other tokens are wanted than those of the reply, these, one a place of the reply (or NOT_WANTED).
    """

    request: EncodedRequest
    reply: tuple[int, ...]
    instead: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.request.after) + len(self.reply)

    @property
    def targets(self) -> tuple[int, ...]:
        """What is wanted at each place of the reply."""
        return self.instead or self.reply

    def supervised(self, first: int | None = None) -> int:
        """At how many of the first `first` places (None: all) something is wanted."""
        return sum(token != NOT_WANTED for token in self.targets[:first])


@dataclass(frozen=True)
class Row:
    """One row of a step's batch. `share` is 1 / rows of its class in the whole step."""

    data: Class
    example: Example
    share: float


class Encoder:
    """Requests and pairs as ids of one model. `before` is what every layout has in front of the soft prompt."""

    def __init__(self, backbone: Backbone, chat: Chat) -> None:
        self._chat, self._tokenizer = chat, backbone.tokenizer
        self.before = chat.layout("x", SOFT).before
        self.closing = closing_id(backbone, chat)

    def request(self, text: str, dress: str = "bare", begun: str = "") -> EncodedRequest:
        """The request `text` in a dress, with a reply to it that is under way."""
        messages = dress_named(dress).wear(text)
        if begun:
            messages = [*messages, {"role": "assistant", "content": begun}]
        layout = self._chat.layout(messages, SOFT)
        if layout.before != self.before:
            raise TuningError("The chat template puts other text before the system slot from request to request.")
        plain = self._chat.layout(messages).ids
        return EncodedRequest(layout.after, plain, self._chat.turn_start(messages, (), plain))

    def example(self, pair: AnchorPair, reply_tokens: int, dress: str = BARE.name) -> Example:
        """The first `reply_tokens` tokens of the reply to the pair's request in a dress; the closing token only if the
        reply ended within them. A pair that turns around gives a row of its kind (see `turning.py`)."""
        if isinstance(pair, TurningPair):
            return self._turning(pair, reply_tokens, dress)
        ids = self._chat.encode_text((" " if pair.begun else "") + pair.reply)
        if pair.finish == "stop" and self.closing is not None:
            ids = (*ids, self.closing)
        return Example(self.request(pair.text, dress, pair.begun), ids[:reply_tokens])

    def _turning(self, pair: TurningPair, reply_tokens: int, dress: str) -> Example:
        """One of DeRTa's rows (arXiv 2407.09121; see `turning.py`).

        "begun": k tokens of the harmful reply h stand with the request, where nothing is supervised, and a refusal
        follows; k is uniform in {0..|h|} as in the paper (the authors' code cuts by words, uniform in 1..n-2, and every
        third row at 0). "transition": h itself is the text, and at its places the opening of a refusal is wanted.
        """
        rng = random.Random(pair.draw)
        request = self.request(pair.text, dress)
        said = self._chat.encode_text(pair.reply)[:reply_tokens]
        if pair.turn == "transition":
            kept = [place for place in range(len(said)) if rng.random() < pair.kept] or [rng.randrange(len(said))]
            start = rng.randrange(len(pair.refusals))
            wanted = [NOT_WANTED] * len(said)
            for place in kept:
                refusal = pair.refusals[(start + place) % len(pair.refusals)]
                wanted[place] = self._opening((" " if place else "") + refusal.reply)
            return Example(request, said, tuple(wanted))
        head = said[: rng.randint(0, len(said))]
        refusal = rng.choice(pair.refusals)
        ids = self._chat.encode_text((" " if head else "") + refusal.reply)
        if refusal.finish == "stop" and self.closing is not None:
            ids = (*ids, self.closing)
        behind = EncodedRequest((*request.after, *head), (*request.plain, *head), request.start)
        return Example(behind, ids[:reply_tokens])

    def _opening(self, text: str) -> int:
        """The first token of `text` that is more than white space (some tokenizers split a leading space off)."""
        ids = self._chat.encode_text(text)
        return next((token for token in ids if self._tokenizer.decode([token]).strip()), ids[0])

    def classes(self, split: AnchorSplit, objective: TermTable, reply_tokens: int) -> dict[Class, list[Example]]:
        """The examples of every class the objective learns from."""
        return {name: [self.example(pair, reply_tokens) for pair in split.of(name)] for name in objective.classes}


def closing_id(backbone: Backbone, chat: Chat) -> int | None:
    """The id that ends an assistant turn in the template (of those that end a reply), else the tokenizer's own."""
    mark = "zqxj"
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": mark},
        {"role": "user", "content": "b"},
    ]
    tail = chat.text(turns).partition(mark)[2]
    ids = backbone.tokenizer(tail, add_special_tokens=False)["input_ids"]
    for token in ids[:3]:
        if token in backbone.eos_ids:
            return int(token)
    fallback = getattr(backbone.tokenizer, "eos_token_id", None)
    return int(fallback) if isinstance(fallback, int) else None


class Batches:
    """Which rows step `i` sees: a pure function of (seed, i), so that a resumed run sees what it would have seen.

    The batch is shared out between the classes, equally or by `weights`; each class runs through its examples in
    shuffled epochs. worn: an example by class and number in a dress; two steps of three then wear one, so that all of
    their rows start alike and that start is run once.
    """

    def __init__(
        self,
        classes: Mapping[Class, Sequence[Example]],
        batch: int,
        seed: int,
        weights: Mapping[Class, int] | None = None,
        worn: Callable[[Class, int, str], Example] | None = None,
    ) -> None:
        self._classes = classes
        self._seed = seed
        self._worn = worn
        names = list(classes)
        if weights:
            whole = sum(weights[name] for name in names)
            self._shares = {name: max(1, round(batch * weights[name] / whole)) for name in names}
        else:
            self._shares = {
                name: batch // len(names) + (index < batch % len(names)) for index, name in enumerate(names)
            }

    def rows(self, step: int) -> list[Row]:
        """The rows of step `step` (from 0), class by class."""
        window, slot = divmod(step, WINDOW)
        # One order of slots for all classes: short rows of one meet short rows of another.
        slot = self._shuffled("slots", window, WINDOW)[slot]
        third, place = divmod(step, 3)
        dress = self._dress(2 * third + place - 1) if self._worn is not None and place else BARE.name
        rows: list[Row] = []
        for name, examples in self._classes.items():
            count = self._shares[name]
            drawn = [
                self._pick(name, index, len(examples))
                for index in range(window * WINDOW * count, (window + 1) * WINDOW * count)
            ]
            drawn.sort(key=lambda at: len(examples[at]))
            for at in drawn[slot * count : (slot + 1) * count]:
                worn = None if self._worn is None or dress == BARE.name else self._worn(name, at, dress)
                rows.append(Row(name, worn or examples[at], 1.0 / count))
        return rows

    def _dress(self, turn: int) -> str:
        """The dress of the `turn`-th step that wears one. Kinds take turns, whatever the number of their dresses; those
        that put much between prompt and reply come twice, since a pair holds there last."""
        rng = random.Random(f"{self._seed}/dress/{turn}")
        kinds = [*by_kind(), *FAR]
        epoch, place = divmod(turn, len(kinds))
        return rng.choice(by_kind()[kinds[self._shuffled("kinds", epoch, len(kinds))[place]]]).name

    def _pick(self, name: str, index: int, size: int) -> int:
        epoch, place = divmod(index, size)
        return self._shuffled(name, epoch, size)[place]

    def _shuffled(self, name: str, epoch: int, size: int) -> list[int]:
        order = list(range(size))
        random.Random(f"{self._seed}/{name}/{epoch}").shuffle(order)
        return order


class Epochs:
    """As `Batches` for rows of one class: every example once an epoch, in an order drawn with the seed. The last step
    of an epoch has what is left."""

    def __init__(self, data: Class, examples: Sequence[Example], batch: int, seed: int) -> None:
        self._data, self._examples, self._batch, self._seed = data, examples, batch, seed
        self.steps = math.ceil(len(examples) / batch)
        """Of one epoch."""

    def rows(self, step: int) -> list[Row]:
        """The rows of step `step` (from 0)."""
        epoch, place = divmod(step, self.steps)
        order = list(self._examples)
        random.Random(f"{self._seed}/{epoch}").shuffle(order)
        picked = order[place * self._batch : (place + 1) * self._batch]
        return [Row(self._data, example, 1.0 / len(picked)) for example in picked]
