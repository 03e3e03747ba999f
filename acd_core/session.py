"""One reply from the engine's items to the caller's events, in one place for sync and async.

A plain reply is one request. A forced format (a JSON schema, a required tool call) is two: the contrasted model first
speaks freely for a few tokens, and if it refuses, the reply is that refusal; else it starts again under the grammar.
A grammar alone would leave the model no words to refuse with.

A model that thinks first is free until it has said something after its thought: a thought is neither a refusal nor a
reply. The thought is kept, and the grammar begins behind it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

from acd_core.engine import Branch, Matcher, Reply, Request
from acd_core.engine.request import Item
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
    """Text of a reply; with the number of tokens the reply had when the engine gave it out, and the request's branches
    at that moment, which a gate may change: kept, other, and how much of the reply stands in them."""

    __slots__ = ("branches", "tokens")
    tokens: int
    branches: tuple[Branch, Branch | None, int | None]


class Reader(Protocol):
    """Takes a reply's text apart (toolcalls.ToolCallReader)."""

    @property
    def region(self) -> str: ...
    @property
    def marked(self) -> bool: ...
    def feed(self, text_delta: str) -> list[Event]: ...
    def finish(self) -> tuple[list[Event], ParsedReply]: ...


class PlainReader:
    """For models without any markup: text is text."""

    region, marked = "text", False

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
    refuse. free: a reader of what is spoken then. refuses: whether a text is a refusal. decode: ids as text, control
    tokens included. closing: ids that end a thought.
    """

    make: Callable[[Matcher | None, Callable[[Item], None]], Request]
    reader: Callable[[str], Reader]
    method: str
    alpha: float
    prompt_tokens: int
    matcher: Callable[[bool], Matcher] | None = None
    probes_refusal: bool = False
    free: Callable[[], Reader] | None = None
    refuses: Callable[[str], bool] | None = None
    decode: Callable[[Sequence[int]], str] | None = None
    closing: tuple[int, ...] = ()


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
        self._begins: Piece | None = None  # the last piece before the text, or before a call that follows a thought
        self._kept: tuple[int, ...] = ()  # of the first request's tokens, those that the reply keeps
        self._kept_logprobs: tuple[Any, ...] = ()
        self._reasoning = ""
        self._unfinished = False  # whether the free words ended within a thought
        self._probe_tokens = 0
        self._cached_tokens: int | None = None
        self._reader: Reader = plan.free() if self._probing and plan.free is not None else plan.reader("")
        self.current: Request | None = None

    def start(self) -> Request:
        plan = self._plan
        matcher = plan.matcher(False) if plan.matcher is not None and not self._probing else None
        return self._submit(lambda sink: plan.make(matcher, sink))

    def _submit(self, make: Callable[[Callable[[Item], None]], Request]) -> Request:
        phase = self._phase

        def sink(item: Item) -> None:  # on the engine's thread, where the count is exact
            if isinstance(item, str):
                item = Piece(item)
                item.tokens, item.branches = len(request.generated), (request.kept, request.other, request.turned)
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
        if not self._probing:
            return self._reader.feed(piece), None, False
        events = self._heard(self._reader.feed(piece))
        called = self._reader.region == "call"
        if not self._free_text.strip() and not called:
            self._begins = piece
        start = self._begins.tokens if self._begins is not None and self._reader.marked else 0
        spoken = piece.tokens - start
        if (called or self._free_text.strip()) and spoken >= PROBE_TOKENS and (called or self._clear(spoken)):
            more, following, over = self._decide(piece.tokens, piece)
            return [*events, *more], following, over
        return events, None, False

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
        if any(isinstance(each, ToolCallDelta) for each in events):
            self._free_text += " "
        return cast("list[Event]", thought)

    def _decide(self, tokens: int, last: Piece | None) -> tuple[list[Event], Request | None, bool]:
        """Enough was said freely: keep a refusal, or start again under the grammar, behind the thought if there is one.

        last: the piece at which the decision fell; None at the end of the free words.
        """
        plan = self._plan
        assert plan.refuses is not None
        self._probing = False
        if plan.refuses(self._free_text):
            self._refused = True
            return ([TextDelta(self._free_text)] if self._free_text else []), None, False
        first = self.current
        if first is not None:
            self._cached_tokens = first.cached_tokens  # the second request also finds what the first computed
            first.cancelled = True  # the engine frees its rows within a step
        self._phase += 1
        if first is None or not self._reader.marked:
            self._probe_tokens = tokens
            self._reader = plan.reader("")
            return [], self.start(), False
        unfinished = self._unfinished
        at = last if unfinished and last is not None else self._begins
        kept = tokens if at is None or unfinished else at.tokens
        branches = at.branches if at is not None else (first.kept, first.other, first.turned)
        closing = plan.closing if unfinished else ()
        self._kept = (*first.generated[:kept], *closing)
        self._kept_logprobs = tuple(first.token_logprobs[:kept])
        self._probe_tokens = tokens - kept
        assert plan.decode is not None
        assert plan.matcher is not None
        self._reader = plan.reader(plan.decode(self._kept))
        matcher = plan.matcher(True)
        again = self._submit(lambda sink: _behind(plan.make(matcher, sink), first, kept, branches, closing))
        return [], again, False

    def _end(self, reply: Reply) -> tuple[list[Event], Request | None, bool]:
        events: list[Event] = []
        if self._probing:
            self._unfinished = self._reader.region == "reasoning"
            last, parsed = self._reader.finish()
            events += self._heard(last)
            if self._unfinished and reply.finish == "length":
                # A thought without an end: nothing was said yet, and nothing may be said unjudged.
                self._probing = False
                return [*events, Done(self._generation(reply, replace(parsed, text="")))], None, True
            if self._unfinished and not self._free_text:
                self._free_text = self._reasoning  # it ended there: that is its stance
            more, following, _ = self._decide(len(reply.token_ids), None)
            events += more
            if following is None:
                parsed = replace(parsed, text=self._free_text)
                return [*events, Done(self._generation(reply, parsed))], None, True
            return events, following, False
        last, parsed = self._reader.finish()
        events += last
        return [*events, Done(self._generation(reply, parsed))], None, True

    def _generation(self, reply: Reply, parsed: ParsedReply) -> Generation:
        finish: FinishReason = reply.finish
        if self._refused:
            finish = "refusal"
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
            reasoning=self._reasoning + (parsed.reasoning or "") if self._kept else parsed.reasoning,
            refusal=parsed.text if self._refused else None,
            logprobs=None if reply.logprobs is None else (*self._kept_logprobs, *reply.logprobs),
            report=ContrastReport(
                self._plan.method, reply.alpha, reply.contrasted_tokens, reply.mean_divergence, reply.gate
            ),
        )


def _behind(
    fresh: Request,
    first: Request,
    kept: int,
    branches: tuple[Branch, Branch | None, int | None],
    closing: tuple[int, ...],
) -> Request:
    """`fresh`, a request of the same reply as `first`, made to go on behind the first `kept` tokens of `first`.

    branches: those of `first` at that moment. What the gate has read and decided stays; a contrast of the first tokens
    only begins anew.
    """
    row, other, turned = branches
    said = (*first.generated[turned or 0 : kept], *closing)

    def longer(branch: Branch | None) -> Branch | None:
        return branch and replace(branch, ids=(*branch.ids, *said))

    gating = first.gating
    if gating is not None:
        method = cast(Branch, longer(gating.kept))
        read = gating.read_at - kept
        gating = replace(gating, kept=method, other=longer(gating.other), read_at=read)
    return replace(
        fresh,
        kept=cast(Branch, longer(row)),
        other=longer(other),
        max_tokens=max(fresh.max_tokens - kept, 1),
        gating=gating,
        turned=0 if turned is not None else None,
        alpha=first.alpha if turned is not None else fresh.alpha,
    )


def demonstrated(messages: Sequence[dict[str, Any]], turns: tuple[str, str]) -> list[dict[str, Any]]:
    """`messages` with a demonstration (user turn, assistant turn) behind the system text."""
    system = [message for message in messages if message["role"] == "system"]
    others = [message for message in messages if message["role"] != "system"]
    shown = [{"role": "user", "content": turns[0]}, {"role": "assistant", "content": turns[1]}]
    return [*system, *shown, *others]
