"""One request: its branches, its settings, its reply so far."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, Union

import torch

from acd_core.artifacts.gate import Gate
from acd_core.engine.branch import Branch
from acd_core.engine.text import TextPiece, TextStream
from acd_core.methods.rules import CONTRAST, Rule, Strength
from acd_core.methods.sampling import Sampler
from acd_core.params import GateReport, TokenLogprob

_log = logging.getLogger("acd_core")


class Matcher(Protocol):
    """What the engine needs of a grammar: mask scores [vocab], take the chosen token, know the end."""

    def mask(self, scores: torch.Tensor) -> torch.Tensor: ...
    def consume(self, token_id: int) -> None: ...
    @property
    def finished(self) -> bool: ...


@dataclass
class Gating:
    """A request's gate: what it reads and where, what takes over when it opens, and how it went.

    While it is closed the request is one row of the model alone. branches: the method's own, in force once it is open.
    threshold, again: least readings that open it, at the end of the prompt and in a reply. header: ids that
    are appended to a reply under way to read it there; empty where the template has none. every: reply tokens between
    two readings, 0 for none. start: where the last turn begins in the prompt's ids. appended: the prompt ends inside a
    begun reply or a bare text, so that the first reading too needs the header. graded: alpha grows with the reading.
    context: tokens that the model can hold.
    """

    gate: Gate
    branches: tuple[Branch, ...]
    threshold: float
    again: float
    header: tuple[int, ...]
    every: int
    start: int = 0
    appended: bool = False
    graded: bool = False
    context: int = sys.maxsize
    opened_at: int | None = None
    reading: float | None = None
    prompt: float | None = None  # the first reading
    readings: int = 0
    read_at: int = 0
    begun_read: bool = False
    limit: float | None = None

    @property
    def prompt_unread(self) -> bool:
        """Whether the prompt has not been read yet."""
        return self.readings == 0 and self.opened_at is None

    @property
    def begun_reply_unread(self) -> bool:
        """Whether the prompt was read and left the gate closed, and the reply begun in it is still to be read."""
        return self.appended and self.opened_at is None and not self.begun_read

    def must_read(self, said: int) -> bool:
        """Whether a reply of `said` tokens is to be read, for the first time or again."""
        if self.opened_at is not None:
            return False
        if self.prompt_unread or self.begun_reply_unread:
            return True
        return bool(self.header) and 0 < self.every <= said - self.read_at

    def record(self, reading: float | None, said: int, *, appended: bool) -> None:
        """Take a reading after `said` reply tokens, of the prompt or at an appended header. What is not below the
        threshold opens the gate: also what is not a number, and None, which stands for a row that cannot be read."""
        if appended and reading is not None:
            reading = self.gate.of_reply(self.prompt, reading)
        elif not appended:
            self.prompt = reading
        self.reading, self.read_at = reading, said
        self.limit = self.again if appended else self.threshold
        self.readings += reading is not None
        self.begun_read = self.begun_read or appended
        if reading is None or not reading < self.limit:
            self.opened_at = said

    @property
    def strength(self) -> float:
        """The share of alpha that an open gate leaves: all of it, but for a graded one that opened at the prompt."""
        if not self.graded or self.begun_read or self.reading is None:
            return 1.0
        return self.gate.grade(self.reading, self.threshold)

    @property
    def report(self) -> GateReport:
        limit = self.threshold if self.limit is None else self.limit
        return GateReport(self.opened_at, self.reading, limit, self.readings)


@dataclass(frozen=True)
class Reply:
    """The engine's last word on a request: ids without the end token, why it ended, and its counts."""

    token_ids: tuple[int, ...]
    finish: Literal["stop", "length"]
    cached_tokens: int
    contrasted_tokens: int
    mean_divergence: float
    logprobs: tuple[TokenLogprob, ...] | None
    stopped_by: str | None = None
    alpha: float = 0.0
    gate: GateReport | None = None


Item = Union[TextPiece, Reply, BaseException]
Sink = Callable[[Item], None]


@dataclass(frozen=True)
class Asked:
    """What was asked of a request. Nothing changes it.

    branches: one a stream, the kept one first. weights: of the others, in their mix (`rules.mixed`). alpha, strength,
    rescale, plausibility, contrast_tokens: as in `Method` and `ContrastParams`. method: its name, for messages; the
    rule's stands for it where it is not given. alone: to share no forward with other requests. deadline: by
    time.monotonic's clock. space: who may find its keys and values again. bare_head: whether nothing of the caller's
    stands in front of its soft prompts, so that these are everybody's.
    """

    branches: tuple[Branch, ...]
    max_tokens: int
    eos_ids: frozenset[int]
    rule: Rule = CONTRAST
    weights: tuple[float, ...] = ()
    alpha: float = 0.0
    strength: Strength | None = None
    rescale: bool = True
    plausibility: float = 0.0
    contrast_tokens: int | None = None
    logprobs: int | None = None
    deadline: float | None = None
    alone: bool = False
    method: str | None = None
    space: str | None = None
    bare_head: bool = False


@dataclass
class Request:
    """A request on its way: what was asked, and where it stands.

    sampler, text, matcher, gating: its own, which its tokens change. `sink` gets text pieces, then a Reply or an
    exception, and must not block: it is called on the engine thread. branches, alpha, max_tokens: those asked for until
    a gate opens. speaking: whether the sink is being called at this moment.
    """

    asked: Asked
    sampler: Sampler
    sink: Sink
    text: TextStream
    matcher: Matcher | None = None
    gating: Gating | None = None

    branches: tuple[Branch, ...] = ()
    alpha: float = -1.0
    max_tokens: int = -1
    generated: list[int] = field(default_factory=list)
    moved_tokens: int | None = None  # of `generated`, those that stand in the branches since a gate opened
    token_logprobs: list[TokenLogprob] = field(default_factory=list)
    contrasted: int = 0
    divergences: list[torch.Tensor] = field(default_factory=list)
    cached_tokens: int = 0
    cancelled: bool = False
    done: bool = False
    speaking: bool = False

    def __post_init__(self) -> None:
        self.branches = self.branches or self.asked.branches
        self.alpha = self.asked.alpha if self.alpha < 0.0 else self.alpha
        self.max_tokens = self.asked.max_tokens if self.max_tokens < 0 else self.max_tokens

    def asking(self, asked: Asked) -> Request:
        """A new request for `asked`, with the sampler, text and gating of this one, which must not have begun."""
        return replace(self, asked=asked, branches=(), alpha=-1.0, max_tokens=-1)

    @property
    def kept(self) -> Branch:
        """The branch of the stream that is kept."""
        return self.branches[0]

    @property
    def contrasting(self) -> bool:
        """Whether the next token is contrasted, so that the other streams' rows are needed."""
        if len(self.branches) == 1 or self.alpha == 0.0:
            return False
        opened_at, most = self.gating.opened_at if self.gating is not None else None, self.asked.contrast_tokens
        return most is None or len(self.generated) - (opened_at or 0) < most

    @property
    def rows_needed(self) -> int:
        return len(self.branches) if self.contrasting else 1

    @property
    def longest(self) -> int:
        """Slots the longest row can come to need, also once the gate opens."""
        branches = self.branches[: self.rows_needed]
        if self.gating is not None and self.moved_tokens is None:
            branches = (*branches, *self.gating.branches)
        prompt = max(len(branch.ids) for branch in branches)
        return prompt + self.max_tokens - (self.moved_tokens or 0)

    @property
    def slots(self) -> int:
        """Slots of the cache to reserve: `longest`, and room to read the row at an appended header."""
        gating = self.gating if self.moved_tokens is None else None
        return self.longest + (0 if gating is None or not (gating.every or gating.appended) else 1 + len(gating.header))

    @property
    def opened(self) -> bool:
        """Whether a gate has opened."""
        return self.gating is not None and self.gating.opened_at is not None

    @property
    def opening(self) -> bool:
        """Whether the gate has opened and the rows are still those of the model alone."""
        return self.opened and self.moved_tokens is None

    def open_gate(self) -> None:
        """From now on the method's own branches are in force. The rows of the model alone must be gone.

        A reply under way is closed and the assistant's header put behind it, so that the method answers the request
        anew instead of ending the sentence: mid-sentence few models turn around (real ones: docs/gate.md). Not under a
        grammar, which has to be ended, and not where the context has no room.
        """
        gating = self.gating
        assert gating is not None
        header = gating.header if (self.generated or gating.appended) and self.matcher is None else ()
        longest = max(len(branch.ids) for branch in gating.branches)
        room = gating.context - longest - len(header)
        if header and room <= len(self.generated):
            header = ()
        elif header:
            self.max_tokens = min(self.max_tokens, room)
            self.say(self.text.turn())
        self.moved_tokens = len(self.generated)
        said = (*self.generated, *header)
        self.branches = tuple(branch.followed_by(said) for branch in gating.branches)
        self.alpha *= gating.strength

    def expired(self) -> bool:
        return self.asked.deadline is not None and time.monotonic() > self.asked.deadline

    def accept(self, token: int) -> bool:
        """Take the chosen token; True when the reply has ended (and the Reply was sent)."""
        if self.matcher is not None:
            self.matcher.consume(token)
        if token in self.asked.eos_ids:
            piece = self.text.end(token)
            if piece:
                self.say(TextPiece(piece))
            return self._finish("stop")
        self.generated.append(token)
        piece = self.text.push(token)
        if piece:
            self.say(TextPiece(piece))
        if self.text.stopped_by is not None or (self.matcher is not None and self.matcher.finished):
            return self._finish("stop")
        if len(self.generated) >= self.max_tokens:
            return self._finish("length")
        return False

    def _finish(self, why: Literal["stop", "length"]) -> bool:
        rest = self.text.finish()
        if rest:
            self.say(TextPiece(rest))
        self.done = True
        self.say(
            Reply(
                tuple(self.generated),
                why if self.text.stopped_by is None else "stop",
                self.cached_tokens,
                self.contrasted,
                float(torch.stack(self.divergences).mean()) if self.divergences else 0.0,
                tuple(self.token_logprobs[: len(self.generated)]) if self.asked.logprobs is not None else None,
                self.text.stopped_by,
                self.alpha,
                self.gating.report if self.gating is not None else None,
            )
        )
        return True

    def say(self, item: Item) -> None:
        """Hand `item` to the sink, whose own error is the caller's."""
        self.speaking = True
        try:
            self.sink(item)
        finally:
            self.speaking = False

    def fail(self, error: BaseException) -> None:
        """End the request with `error`, once. A sink that raises at that too is told in the log and harms nobody."""
        if not self.done:
            self.done = True
            try:
                self.say(error)
            except Exception:
                _log.warning(
                    "Nobody could be told that a request failed with %r: its sink raised.", error, exc_info=True
                )
