"""One reply from the engine's items to the caller's events, in one place for sync and async.

A plain reply is one request. A forced format (a JSON schema, a required tool call) is two: the contrasted model first
speaks freely for a few tokens (free_words.py), and if it refuses, the reply is that refusal; else it starts again under
the grammar. A grammar alone would leave the model no words to refuse with.

A model that thinks first is free until it has said something after its thought: a thought is neither a refusal nor a
reply. The thought is kept, and the grammar begins behind it. It is the caller's, so max_tokens bounds it.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

from acd_core.engine import Matcher, Reply, Request
from acd_core.engine.request import Item
from acd_core.engine.text import Turn
from acd_core.methods.sampling import Sampler
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
from acd_core.reply.free_words import MOST_TOKENS, Hearing, ThoughtEar
from acd_core.reply.pieces import Piece, behind, so_far, together
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
    """A reply still to be made: how to make its request, how to read it, what to report.

    make: (matcher, sink) -> Request. speak: sink -> the Request of the free words before a forced format. reader: a
    fresh reader of what follows the text given to it, the reply's first part. matcher: a fresh matcher, where a grammar
    is to hold the reply to something; of what may follow a thought, if told that there was one. probes_refusal: whether
    the model first speaks without it, because it leaves no words to refuse. free: a reader of what is spoken then, as
    reader. refuses: whether a text is a refusal. decode: ids as text, control tokens included. closing: ids that end a
    thought. header: ids behind which a gate that opens has the method answer anew. answer: what opens the words of a
    reply behind a thought, its text and its ids, where a family has such a mark and a document is to follow.
    max_tokens: of the reply, the free words not among them. asked: the last thing the user said. thoughts, thought:
    what opens and closes a thought, and a sampler for one among the free words; None where they are drawn as the words
    are.
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
    speak: Callable[[Callable[[Item], None]], Request] | None = None
    max_tokens: int = sys.maxsize
    asked: str = ""
    thoughts: tuple[tuple[str, str], ...] = ()
    thought: Sampler | None = None


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
        self._call_text = ""  # of calls begun freely
        self._called = False  # whether there was one
        self._hearing = Hearing(plan.asked)
        self._heard_tokens = 0  # by the last piece
        self._thought_tokens = 0  # by the last piece of a thought
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
        if self._probing and plan.speak is not None:
            return self._submit(plan.speak)
        matcher = plan.matcher(False) if plan.matcher is not None and not self._probing else None
        return self._submit(lambda sink: plan.make(matcher, sink))

    def _submit(self, make: Callable[[Callable[[Item], None]], Request]) -> Request:
        phase, plan = self._phase, self._plan
        ear, header = None, ""
        if self._probing and plan.thought is not None:
            ear = ThoughtEar(plan.thoughts, thinking=self._reader.region == "reasoning")
            header = plan.decode(plan.header) if plan.decode is not None else ""

        def sink(item: Item) -> None:  # on the engine's thread, where the count is exact
            if isinstance(item, str):
                if ear is not None:
                    ear.hear(item)
                    if isinstance(item, Turn):
                        ear.turn(header)
                    draw(ear.thinking)
                item = Piece.of(item, request)
            self._put((phase, item))

        def draw(thinking: bool) -> None:
            request.sampler = plan.thought if thinking and plan.thought is not None else words

        self.current = request = make(sink)
        words = request.sampler
        if ear is not None:
            draw(ear.thinking)
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
        plan = self._plan
        if piece.turns:
            return self._turn(piece), None, False
        if not self._probing:
            events = self._shown(self._reader.feed(piece))
            return (
                self._cut(piece, events) if self._refused and piece.tokens >= plan.max_tokens else (events, None, False)
            )
        before, earlier = len(self._free_text), self._reasoning
        events = self._heard(self._reader.feed(piece))
        region = self._reader.region
        self._called = self._called or region == "call"
        self._find_start(piece, before)
        tokens, self._heard_tokens = piece.tokens - self._heard_tokens, piece.tokens
        if region == "reasoning":
            self._hearing.forget_thought()
            self._thought_tokens = piece.tokens
            if piece.tokens >= plan.max_tokens:  # it took all that the reply may have
                self._probing = False
                if piece.tokens > plan.max_tokens:  # letters and marks of several tokens come with their last one
                    self._reasoning, events = earlier, []
                else:
                    events += self._heard(self._reader.finish()[0])
                return self._cut(piece, events, text="")
            return events, None, False
        if region == "call":
            self._call_text += piece
        call = region == "call"
        self._hearing.hear(self._free_text[before:] + (piece if call else ""), tokens, call=call)
        assert plan.refuses is not None
        if self._hearing.settled(plan.refuses) or piece.tokens - self._thought_tokens >= MOST_TOKENS:
            more, following, over = self._decide(piece.tokens, cut=True)
            events += more
            if self._refused and (self._call_text or piece.tokens >= plan.max_tokens):
                return self._cut(piece, events, text=self._free_text)
            return events, following, over
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
            self._free_text, self._call_text, self._called, self._begins = "", "", False, None
            self._hearing, self._heard_tokens = Hearing(plan.asked), piece.tokens
            self._thought_tokens = piece.tokens
            self._since.clear()
            self._reader = plan.free(header) if plan.free is not None else plan.reader(header)
            return events
        events = self._shown(events)
        gap = "\n\n" if parsed.text or not (parsed.reasoning or parsed.tool_calls) else ""
        self._earlier = together(self._earlier, replace(parsed, text=parsed.text + gap))
        self._reader = plan.reader(header)
        return [*events, TextDelta(gap)] if gap else events

    def _shown(self, events: list[Event]) -> list[Event]:
        """Events for the caller: a refusal makes no calls."""
        self._reasoning += "".join(each.text for each in events if isinstance(each, ReasoningDelta))
        return [each for each in events if not (self._refused and isinstance(each, ToolCallDelta))]

    def _heard(self, events: list[Event]) -> list[Event]:
        """Of what was spoken freely, the thought goes out at once; the text waits for the decision."""
        thought = [each for each in events if isinstance(each, ReasoningDelta)]
        self._reasoning += "".join(each.text for each in thought)
        self._free_text += "".join(each.text for each in events if isinstance(each, TextDelta))
        self._called = self._called or any(isinstance(each, ToolCallDelta) for each in events)
        return cast("list[Event]", thought)

    def _decide(self, tokens: int, *, cut: bool) -> tuple[list[Event], Request | None, bool]:
        """Enough was said freely: keep a refusal, or start again under the grammar, behind the thought if there is one.

        tokens: how many were spoken until now. cut: whether the model had more to say. What was cut off before there
        were enough words to judge is taken for a refusal: nothing says that it is none.
        """
        plan = self._plan
        assert plan.refuses is not None
        self._probing = False
        unheard = cut and not self._hearing.heard
        if unheard or plan.refuses("\n".join(filter(None, (self._free_text, self._call_text)))):
            self._refused = True
            if not self._free_text.strip():
                self._free_text = self._call_text
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
        room = min(plan.max_tokens, first.max_tokens) - at.tokens - len(closing)
        if room < 1:  # the thought took all the room there was
            over = max(at.tokens - plan.max_tokens, 0)  # the marks behind it may already be too much
            self._kept, self._kept_logprobs = (each[: len(each) - over] for each in (self._kept, self._kept_logprobs))
            self._probe_tokens += over
            spent = replace(so_far(first, at), token_ids=(), logprobs=() if first.logprobs is not None else None)
            return [Done(self._generation(spent, ParsedReply("")))], None, True
        said = self._kept if at.turned is None else (*self._kept[: at.turned], *plan.header, *self._kept[at.turned :])
        self._reader = plan.reader(plan.decode((*said, *closing)))
        matcher = plan.matcher(True)
        return [], self._submit(lambda sink: behind(plan.make(matcher, sink), first, at, closing, room)), False

    def _end(self, reply: Reply) -> tuple[list[Event], Request | None, bool]:
        if not self._probing:
            last, parsed = self._reader.finish()
            return [*self._shown(last), Done(self._generation(reply, together(self._earlier, parsed)))], None, True
        self._unfinished = self._reader.region == "reasoning"
        last, parsed = self._reader.finish()
        events = self._heard(last)
        if self._unfinished and reply.finish == "length":
            # A thought without an end: nothing was said yet, and nothing may be said unjudged.
            self._probing = False
            return [*events, Done(self._generation(reply, ParsedReply("", parsed.reasoning)))], None, True
        if self._unfinished and not self._free_text:
            self._free_text = self._reasoning  # it ended there: that is its stance
        more, following, over = self._decide(len(reply.token_ids), cut=reply.finish == "length")
        events += more
        if following is not None or over:
            return events, following, over
        return [*events, Done(self._generation(reply, replace(parsed, text=self._free_text)))], None, True

    def _cut(
        self, piece: Piece, events: list[Event], *, text: str | None = None
    ) -> tuple[list[Event], Request | None, bool]:
        """The reply ends here, before the engine knows. text: of the reply, if not what its reader read."""
        first = self.current
        assert first is not None
        first.cancelled = True
        self._phase += 1
        if text is None:
            last, parsed = self._reader.finish()
            events, parsed = [*events, *self._shown(last)], together(self._earlier, parsed)
        else:
            parsed = ParsedReply(text)
        reply = so_far(first, piece, sys.maxsize if self._refused else self._plan.max_tokens)
        return [*events, Done(self._generation(reply, parsed))], None, True

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


def demonstrated(messages: Sequence[dict[str, Any]], turns: tuple[str, str]) -> list[dict[str, Any]]:
    """`messages` with a demonstration (user turn, assistant turn) behind the system text. A system text behind a last
    reply, which moves to the front, still asks for a new turn."""
    system = [message for message in messages if message["role"] == "system"]
    others = [message for message in messages if message["role"] != "system"]
    if others and messages[-1]["role"] == "system" and others[-1]["role"] == "assistant":
        others[-1] = {**others[-1], "prefix": False}
    shown = [{"role": "user", "content": turns[0]}, {"role": "assistant", "content": turns[1]}]
    return [*system, *shown, *others]
