"""One reply from the engine's items to the caller's events, in one place for sync and async.

A plain reply is one request. A forced format (a JSON schema, a required tool call) is two: the contrasted model first
speaks freely for a few tokens, and if it refuses, the reply is that refusal; else it starts again under the grammar.
A grammar alone would leave the model no words to refuse with.

A model that thinks first is free until it has said something after its thought: a thought is neither a refusal nor a
reply. The thought is kept, and the grammar begins behind it.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

from acd_core.engine import Branch, Matcher, Reply, Request
from acd_core.engine.request import Gating, Item
from acd_core.engine.text import Turn
from acd_core.params import (
    ContrastReport,
    Done,
    Event,
    FinishReason,
    Generation,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from acd_core.toolcalls import ParsedReply

PROBE_TOKENS = 24
"""How many tokens the model speaks freely before a forced format, unless it is refusing: then to the end."""
LONGEST_PROBE = 64
"""How many at most, where a sentence that may be a refusal is not at its end by then."""
_LAST_SENTENCE = re.compile(r"[^.!?\n]*\Z")
_DOUBTFUL = re.compile(
    r"(?:\b(?:sorry|apologi[sz]e|unfortunately|unable|cannot|can['\u2019]?t|won['\u2019]?t|(?:not|n['\u2019]t) (?:be )?"
    r"(?:able|allowed|permitted|going|comfortable))\b)[^.!?\n]*\Z",
    re.IGNORECASE,
)


class Piece(str):
    """Text of a reply; with what was true of its request when the engine gave it out, while the engine goes on.

    tokens: how many the reply had. kept, other: the request's branches, which a gate may change; turned: how much of
    the reply stands in them. gating: a copy of what its gate had read. turns: whether the gate opened here, so that an
    answer of its own follows.
    """

    __slots__ = ("gating", "kept", "other", "tokens", "turned", "turns")
    tokens: int
    kept: Branch
    other: Branch | None
    turned: int | None
    gating: Gating | None
    turns: bool

    @classmethod
    def of(cls, text: str, request: Request) -> Piece:
        """Called on the engine's thread."""
        piece = cls(text)
        piece.tokens, piece.turns = len(request.generated), isinstance(text, Turn)
        piece.kept, piece.other, piece.turned = request.kept, request.other, request.turned
        piece.gating = replace(request.gating) if request.gating is not None else None
        return piece


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
    """A reply still to be made: how to make its request, how to read it, what to report.

    make: (matcher, sink) -> Request. reader: a fresh reader of what follows the text given to it, the reply's first
    part. matcher: a fresh matcher, where a grammar is to hold the reply to something; of what may follow a thought, if
    told that there was one. probes_refusal: whether the model first speaks without it, because it leaves no words to
    refuse. free: a reader of what is spoken then, as reader. refuses: whether a text is a refusal. decode: ids as text,
    control tokens included. closing: ids that end a thought. header: ids behind which a gate that opens has the method
    answer anew. answer: what opens the words of a reply behind a thought, its text and its ids, where a family has
    such a mark and a document is to follow.
    """

    make: Callable[[Matcher | None, Callable[[Item], None]], Request]
    reader: Callable[[str], Reader]
    method: str
    alpha: float
    prompt_tokens: int
    matcher: Callable[[bool], Matcher] | None = None
    probes_refusal: bool = False
    free: Callable[[str], Reader] | None = None
    refuses: Callable[[str], bool] | None = None
    decode: Callable[[Sequence[int]], str] | None = None
    closing: tuple[int, ...] = ()
    header: tuple[int, ...] = ()
    answer: tuple[str, tuple[int, ...]] | None = None


class Session:
    """Drives one Plan. `start` gives the first request; `take` maps each item to events and perhaps a next request.

    Items carry the phase they belong to, because a cancelled first phase may still say something.
    """

    def __init__(self, plan: Plan, put: Callable[[tuple[int, Item]], None]) -> None:
        self._plan = plan
        self._put = put
        self._phase = 0
        self._probing = plan.probes_refusal
        self._refused = False
        self._free_text = ""
        self._called = False  # whether a call was begun freely
        self._earlier = ParsedReply("")  # what was said before a gate opened in the reply
        self._since: deque[tuple[int, Piece]] = deque()  # pieces after `_begins`, with all letters until their ends
        self._heard_letters = 0
        self._begins: Piece | None = None  # the last piece before the text, or before a call that follows a thought
        self._kept: tuple[int, ...] = ()  # of the first request's tokens, those that the reply keeps
        self._kept_logprobs: tuple[Any, ...] = ()
        self._reasoning = ""
        self._unfinished = False  # whether the free words ended within a thought
        self._probe_tokens = 0
        self._cached_tokens: int | None = None
        self._reader: Reader = plan.free("") if self._probing and plan.free is not None else plan.reader("")
        self.current: Request | None = None

    def start(self) -> Request:
        plan = self._plan
        matcher = plan.matcher(False) if plan.matcher is not None and not self._probing else None
        return self._submit(lambda sink: plan.make(matcher, sink))

    def _submit(self, make: Callable[[Callable[[Item], None]], Request]) -> Request:
        phase = self._phase

        def sink(item: Item) -> None:  # on the engine's thread, where the count is exact
            if isinstance(item, str):
                item = Piece.of(item, request)
            self._put((phase, item))

        self.current = request = make(sink)
        return request

    def take(self, tagged: tuple[int, Item]) -> tuple[list[Event], Request | None, bool]:
        """-> (events for the caller, a request to submit now, whether the reply is over). Raises the engine's error."""
        phase, item = tagged
        if phase != self._phase:
            return [], None, False
        if isinstance(item, BaseException):
            raise item
        if isinstance(item, str):
            return self._text(cast(Piece, item))
        return self._end(item)

    def _text(self, piece: Piece) -> tuple[list[Event], Request | None, bool]:
        if piece.turns:
            return self._turn(piece), None, False
        if not self._probing:
            return self._shown(self._reader.feed(piece)), None, False
        before = len(self._free_text)
        events = self._heard(self._reader.feed(piece))
        self._called = self._called or self._reader.region == "call"
        self._find_start(piece, before)
        start = self._begins.tokens if self._begins is not None and self._reader.marked else 0
        spoken = piece.tokens - start
        said = self._called or self._free_text.strip()
        if said and spoken >= PROBE_TOKENS and (self._called or self._clear(spoken)):
            more, following, over = self._decide(piece.tokens)
            return [*events, *more], following, over
        return events, None, False

    def _find_start(self, piece: Piece, before: int) -> None:
        """Note the last piece before the text, or before a call. A mark may be told only some pieces later.

        before: letters of the text until this piece.
        """
        self._heard_letters += len(piece)
        self._since.append((self._heard_letters, piece))
        if self._free_text[:before].strip() or self._called or self._reader.region != "text":
            return
        begun = self._free_text[before:].lstrip()
        pending = self._reader.pending
        certain = self._heard_letters - len(begun) - len(pending if begun else pending.lstrip())
        while self._since and self._since[0][0] <= certain:
            self._begins = self._since.popleft()[1]

    def _turn(self, piece: Piece) -> list[Event]:
        """A gate opened in the reply: its reader comes to an end, and another one reads the method's own answer."""
        plan = self._plan
        assert plan.decode is not None
        events = self._reader.feed(piece.removesuffix("\n\n"))
        last, parsed = self._reader.finish()
        events += last
        if parsed.reasoning:
            events.append(ReasoningDelta("\n"))
        header = plan.decode(plan.header)
        if self._probing:  # the words so far were heard by nobody, the thought was
            events = self._heard(events)
            self._free_text, self._called, self._begins = "", False, None
            self._since.clear()
            self._reader = plan.free(header) if plan.free is not None else plan.reader(header)
            return events
        events = self._shown(events)
        gap = "\n\n" if parsed.text or not (parsed.reasoning or parsed.tool_calls) else ""
        self._earlier = _together(self._earlier, replace(parsed, text=parsed.text + gap))
        self._reader = plan.reader(header)
        return [*events, TextDelta(gap)] if gap else events

    def _shown(self, events: list[Event]) -> list[Event]:
        """Events for the caller: a refusal makes no calls."""
        self._reasoning += "".join(each.text for each in events if isinstance(each, ReasoningDelta))
        return [each for each in events if not (self._refused and isinstance(each, ToolCallDelta))]

    def _clear(self, spoken: int) -> bool:
        """Whether the words so far can be judged. Half a sentence that may become a refusal or an answer, such as "I am
        unable to find the", is heard to its end."""
        assert self._plan.refuses is not None
        last = _LAST_SENTENCE.search(self._free_text)
        open_sentence = last is not None and bool(last[0].strip())
        doubtful = open_sentence and (self._plan.refuses(self._free_text) or bool(_DOUBTFUL.search(self._free_text)))
        return spoken >= LONGEST_PROBE or not doubtful

    def _heard(self, events: list[Event]) -> list[Event]:
        """Of what was spoken freely, the thought goes out at once; the text waits for the decision."""
        thought = [each for each in events if isinstance(each, ReasoningDelta)]
        self._reasoning += "".join(each.text for each in thought)
        self._free_text += "".join(each.text for each in events if isinstance(each, TextDelta))
        self._called = self._called or any(isinstance(each, ToolCallDelta) for each in events)
        return cast("list[Event]", thought)

    def _decide(self, tokens: int) -> tuple[list[Event], Request | None, bool]:
        """Enough was said freely: keep a refusal, or start again under the grammar, behind the thought if there is one.

        tokens: how many were spoken until now.
        """
        plan = self._plan
        assert plan.refuses is not None
        self._probing = False
        if plan.refuses(self._free_text):
            self._refused = True
            return ([TextDelta(self._free_text)] if self._free_text else []), None, False
        first = self.current
        assert first is not None
        self._cached_tokens = first.cached_tokens  # the second request also finds what the first computed
        first.cancelled = True  # the engine frees its rows within a step
        at = Piece.of("", first) if self._unfinished else self._begins
        self._phase += 1
        if at is None or not self._reader.marked:
            self._probe_tokens = tokens
            self._reader = plan.reader("")
            return [], self.start(), False
        assert plan.decode is not None
        assert plan.matcher is not None
        closing = plan.closing if self._unfinished else ()
        if plan.answer and not self._called and not plan.decode(first.generated[: at.tokens]).endswith(plan.answer[0]):
            closing = (*closing, *plan.answer[1])
        self._kept = tuple(first.generated[: at.tokens])
        self._kept_logprobs = tuple(first.token_logprobs[: at.tokens])
        self._probe_tokens = tokens - at.tokens
        room = first.max_tokens - at.tokens - len(closing)
        if room < 1:
            return [], None, True
        behind = self._kept if at.turned is None else (*self._kept[: at.turned], *plan.header, *self._kept[at.turned :])
        self._reader = plan.reader(plan.decode((*behind, *closing)))
        matcher = plan.matcher(True)
        return [], self._submit(lambda sink: _behind(plan.make(matcher, sink), first, at, closing, room)), False

    def _end(self, reply: Reply) -> tuple[list[Event], Request | None, bool]:
        if not self._probing:
            last, parsed = self._reader.finish()
            return [*self._shown(last), Done(self._generation(reply, _together(self._earlier, parsed)))], None, True
        self._unfinished = self._reader.region == "reasoning"
        last, parsed = self._reader.finish()
        events = self._heard(last)
        if self._unfinished and reply.finish == "length":
            # A thought without an end: nothing was said yet, and nothing may be said unjudged.
            self._probing = False
            return [*events, Done(self._generation(reply, ParsedReply("", parsed.reasoning)))], None, True
        if self._unfinished and not self._free_text:
            self._free_text = self._reasoning  # it ended there: that is its stance
        more, following, full = self._decide(len(reply.token_ids))
        events += more
        if following is not None:
            return events, following, False
        if full:  # the thought took all the room there was
            reply = replace(reply, token_ids=(), logprobs=() if reply.logprobs is not None else None, finish="length")
            return [*events, Done(self._generation(reply, ParsedReply("")))], None, True
        return [*events, Done(self._generation(reply, replace(parsed, text=self._free_text)))], None, True

    def _generation(self, reply: Reply, parsed: ParsedReply) -> Generation:
        finish: FinishReason = reply.finish
        gate = reply.gate
        if gate is not None and gate.opened_at is not None and self._kept:
            gate = replace(gate, opened_at=gate.opened_at + len(self._kept))  # it was counted from the second request
        if self._refused:
            finish, parsed = "refusal", ParsedReply(parsed.text, parsed.reasoning)
        elif parsed.tool_calls:
            finish = "tool_calls"
        return Generation(
            text=parsed.text,
            finish_reason=finish,
            usage=Usage(
                self._plan.prompt_tokens,
                self._probe_tokens + len(self._kept) + len(reply.token_ids),
                reply.cached_tokens if self._cached_tokens is None else self._cached_tokens,
                self._probe_tokens,
            ),
            token_ids=(*self._kept, *reply.token_ids),
            tool_calls=parsed.tool_calls,
            invalid_tool_calls=parsed.invalid_tool_calls,
            reasoning=self._reasoning or None,
            refusal=parsed.text if self._refused else None,
            logprobs=None if reply.logprobs is None else (*self._kept_logprobs, *reply.logprobs),
            report=ContrastReport(self._plan.method, reply.alpha, reply.contrasted_tokens, reply.mean_divergence, gate),
        )


def _behind(fresh: Request, first: Request, at: Piece, closing: tuple[int, ...], room: int) -> Request:
    """`fresh`, a request of the same reply as `first`, made to go on behind the tokens that `first` had said at `at`.

    What the gate had read and decided by then stays; a contrast of the first tokens only begins anew, unless a gate
    has begun it. room: new tokens at most.
    """
    said = (*first.generated[at.turned or 0 : at.tokens], *closing)

    def longer(branch: Branch | None) -> Branch | None:
        return branch and replace(branch, ids=(*branch.ids, *said))

    gating = at.gating
    if gating is not None:
        method, opened = cast(Branch, longer(gating.kept)), gating.opened_at
        gating = replace(gating, kept=method, other=longer(gating.other), read_at=gating.read_at - at.tokens)
        gating.opened_at = None if opened is None else opened - at.tokens
    return replace(
        fresh,
        kept=cast(Branch, longer(at.kept)),
        other=longer(at.other),
        max_tokens=min(fresh.max_tokens, room),
        gating=gating,
        turned=0 if at.turned is not None else None,
        alpha=first.alpha if at.turned is not None else fresh.alpha,
    )


def _together(earlier: ParsedReply, later: ParsedReply) -> ParsedReply:
    """Two parts of one reply as one."""
    return ParsedReply(
        earlier.text + later.text,
        None,  # the session adds up what it gave out
        (*earlier.tool_calls, *later.tool_calls),
        (*earlier.invalid_tool_calls, *later.invalid_tool_calls),
    )


def demonstrated(messages: Sequence[dict[str, Any]], turns: tuple[str, str]) -> list[dict[str, Any]]:
    """`messages` with a demonstration (user turn, assistant turn) behind the system text."""
    system = [message for message in messages if message["role"] == "system"]
    others = [message for message in messages if message["role"] != "system"]
    shown = [{"role": "user", "content": turns[0]}, {"role": "assistant", "content": turns[1]}]
    return [*system, *shown, *others]
