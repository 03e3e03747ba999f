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
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, cast

from acd_core.engine import Reply, Request, TextPiece
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
from acd_core.reply.free_words import MOST_TOKENS, FreeWords, ThoughtWatch
from acd_core.reply.pieces import Piece, SessionItem, behind, so_far, together
from acd_core.reply.plan import Plan, Reader
from acd_core.toolcalls import ParsedReply


class Step(NamedTuple):
    """What follows from one item. events: for the caller. following: a request to submit now. over: whether the reply
    has ended; the last event is then Done."""

    events: list[Event]
    following: Request | None = None
    over: bool = False


class Session:
    """Drives one Plan. `start` gives the first request; `take` maps each item to events and perhaps a next request.

    Items carry the phase they belong to, because a cancelled first phase may still say something.
    """

    def __init__(self, plan: Plan, put: Callable[[tuple[int, SessionItem]], None]) -> None:
        self._plan = plan
        self._put = put
        self._phase = 0
        self._probing = plan.probes_refusal
        self._refused = False
        self._free_text = ""
        self._call_text = ""  # of calls begun freely
        self._called = False  # whether there was one
        self._free_words = FreeWords(plan.asked)
        self._counted_tokens = 0  # by the last piece
        self._thought_tokens = 0  # by the last piece of a thought
        self._earlier = ParsedReply("")  # what was said before a gate opened in the reply
        self._recent: deque[tuple[int, Piece]] = deque()  # pieces after `_before_text`; with all letters to their ends
        self._letters = 0  # of all free words
        self._before_text: Piece | None = None  # the last piece before the text, or before a call behind a thought
        self._kept_ids: tuple[int, ...] = ()  # of the first request's tokens, those that the reply keeps
        self._kept_logprobs: tuple[Any, ...] = ()
        self._reasoning = ""
        self._in_thought = False  # whether the free words ended within a thought
        self._probe_tokens = 0
        self._cached_tokens: int | None = None
        self._reader: Reader = (
            plan.free_reader("") if self._probing and plan.free_reader is not None else plan.reader("")
        )
        self.current: Request | None = None

    def start(self) -> Request:
        """Make the first request: of the free words before a forced format, else of the reply."""
        plan = self._plan
        if self._probing and plan.speak is not None:
            return self._new_request(plan.speak)
        matcher = plan.matcher(False) if plan.matcher is not None and not self._probing else None
        return self._new_request(lambda sink: plan.make(matcher, sink))

    def _new_request(self, make: Callable[[Callable[[Item], None]], Request]) -> Request:
        phase, plan = self._phase, self._plan
        watch, header = None, ""
        if self._probing and plan.thought_sampler is not None:
            watch = ThoughtWatch(plan.thought_marks, thinking=self._reader.region == "reasoning")
            header = plan.decode(plan.header) if plan.decode is not None else ""

        def sink(item: Item) -> None:  # on the engine's thread, where the count is exact
            if not isinstance(item, TextPiece):
                self._put((phase, item))
                return
            if watch is not None:
                watch.follow(item.text)
                if item.turns:
                    watch.begin_anew(header)
                choose_sampler(watch.thinking)
            self._put((phase, Piece.of(item, request)))

        def choose_sampler(thinking: bool) -> None:
            request.sampler = plan.thought_sampler if thinking and plan.thought_sampler is not None else words

        self.current = request = make(sink)
        words = request.sampler
        if watch is not None:
            choose_sampler(watch.thinking)
        return request

    def take(self, tagged: tuple[int, SessionItem]) -> Step:
        """Take an item with its phase. Raises the engine's error."""
        phase, item = tagged
        if phase != self._phase:
            return Step([])
        if isinstance(item, BaseException):
            raise item
        return self._take_piece(item) if isinstance(item, Piece) else self._take_end(item)

    def _take_piece(self, piece: Piece) -> Step:
        plan = self._plan
        if piece.turns:
            return Step(self._take_turn(piece))
        if not self._probing:
            events = self._without_refused_calls(self._reader.feed(piece.text))
            over = self._refused and piece.tokens >= plan.max_tokens
            return self._end_early(piece, events) if over else Step(events)
        before, earlier = len(self._free_text), self._reasoning
        events = self._store_free_words(self._reader.feed(piece.text))
        region = self._reader.region
        self._called = self._called or region == "call"
        self._note_beginning(piece, before)
        tokens, self._counted_tokens = piece.tokens - self._counted_tokens, piece.tokens
        if region == "reasoning":
            self._free_words.forget_waiting()
            self._thought_tokens = piece.tokens
            if piece.tokens >= plan.max_tokens:  # it took all that the reply may have
                self._probing = False
                if piece.tokens > plan.max_tokens:  # letters and marks of several tokens come with their last one
                    self._reasoning, events = earlier, []
                else:
                    events += self._store_free_words(self._reader.finish()[0])
                return self._end_early(piece, events, text="")
            return Step(events)
        call = region == "call"
        if call:
            self._call_text += piece.text
        self._free_words.add(self._free_text[before:] + (piece.text if call else ""), tokens, call=call)
        assert plan.refuses is not None
        if self._free_words.can_be_judged(plan.refuses) or piece.tokens - self._thought_tokens >= MOST_TOKENS:
            more, following, over = self._decide(piece.tokens, cut=True)
            events += more
            if self._refused and (self._call_text or piece.tokens >= plan.max_tokens):
                return self._end_early(piece, events, text=self._free_text)
            return Step(events, following, over)
        return Step(events)

    def _note_beginning(self, piece: Piece, before: int) -> None:
        """Note the last piece before the text, or before a call. A mark may be recognised only some pieces later.

        before: letters of the text until this piece.
        """
        self._letters += len(piece.text)
        self._recent.append((self._letters, piece))
        if self._free_text[:before].strip() or self._called or self._reader.region != "text":
            return
        begun = self._free_text[before:].lstrip()
        pending = self._reader.pending
        certain = self._letters - len(begun) - len(pending if begun else pending.lstrip())
        while self._recent and self._recent[0][0] <= certain:
            self._before_text = self._recent.popleft()[1]

    def _take_turn(self, piece: Piece) -> list[Event]:
        """End the reader where a gate opened in the reply, and begin another one for the method's own answer."""
        plan = self._plan
        assert plan.decode is not None
        events = self._reader.feed(piece.text.removesuffix("\n\n"))
        last, parsed = self._reader.finish()
        events += last
        if parsed.reasoning:
            events.append(ReasoningDelta("\n"))
        header = plan.decode(plan.header)
        if self._probing:  # the caller has had the thought so far, but none of the words
            events = self._store_free_words(events)
            self._free_text, self._call_text, self._called, self._before_text = "", "", False, None
            self._free_words, self._counted_tokens = FreeWords(plan.asked), piece.tokens
            self._thought_tokens = piece.tokens
            self._recent.clear()
            self._reader = plan.free_reader(header) if plan.free_reader is not None else plan.reader(header)
            return events
        events = self._without_refused_calls(events)
        gap = "\n\n" if parsed.text or not (parsed.reasoning or parsed.tool_calls) else ""
        self._earlier = together(self._earlier, replace(parsed, text=parsed.text + gap))
        self._reader = plan.reader(header)
        return [*events, TextDelta(gap)] if gap else events

    def _without_refused_calls(self, events: list[Event]) -> list[Event]:
        """Return the events for the caller: a refusal makes no calls. Adds up the reasoning in them."""
        self._reasoning += "".join(each.text for each in events if isinstance(each, ReasoningDelta))
        return [each for each in events if not (self._refused and isinstance(each, ToolCallDelta))]

    def _store_free_words(self, events: list[Event]) -> list[Event]:
        """Keep the text of what was spoken freely until the decision. Returns the thought in it, which goes out now."""
        thought = [each for each in events if isinstance(each, ReasoningDelta)]
        self._reasoning += "".join(each.text for each in thought)
        self._free_text += "".join(each.text for each in events if isinstance(each, TextDelta))
        self._called = self._called or any(isinstance(each, ToolCallDelta) for each in events)
        return cast("list[Event]", thought)

    def _decide(self, tokens: int, *, cut: bool) -> Step:
        """Keep a refusal, or start again under the grammar, behind the thought if there is one.

        tokens: how many were spoken until now. cut: whether the model had more to say. What was cut off before there
        were enough words to judge is taken for a refusal: nothing says that it is none.
        """
        plan = self._plan
        assert plan.refuses is not None
        self._probing = False
        too_few = cut and not self._free_words.enough
        if too_few or plan.refuses("\n".join(filter(None, (self._free_text, self._call_text)))):
            self._refused = True
            if not self._free_text.strip():
                self._free_text = self._call_text
            return Step([TextDelta(self._free_text)] if self._free_text else [])
        first = self.current
        assert first is not None
        self._cached_tokens = first.cached_tokens  # the second request also finds what the first computed
        first.cancelled = True  # the engine frees its rows within a step
        at = Piece.of(TextPiece(""), first) if self._in_thought else self._before_text
        self._phase += 1
        if at is None or not self._reader.marked:
            self._probe_tokens = tokens
            self._reader = plan.reader("")
            return Step([], self.start())
        assert plan.decode is not None
        assert plan.matcher is not None
        closing = plan.closing if self._in_thought else ()
        if plan.answer and not self._called and not plan.decode(first.generated[: at.tokens]).endswith(plan.answer[0]):
            closing = (*closing, *plan.answer[1])
        self._kept_ids = tuple(first.generated[: at.tokens])
        self._kept_logprobs = tuple(first.token_logprobs[: at.tokens])
        self._probe_tokens = tokens - at.tokens
        room = min(plan.max_tokens, first.max_tokens) - at.tokens - len(closing)
        if room < 1:  # the thought took all the room there was
            over = max(at.tokens - plan.max_tokens, 0)  # the marks behind it may already be too much
            self._kept_ids = self._kept_ids[: len(self._kept_ids) - over]
            self._kept_logprobs = self._kept_logprobs[: len(self._kept_logprobs) - over]
            self._probe_tokens += over
            spent = replace(so_far(first, at), token_ids=(), logprobs=() if first.asked.logprobs is not None else None)
            return Step([Done(self._generation(spent, ParsedReply("")))], over=True)
        said = self._kept_ids
        if at.moved_tokens is not None:
            said = (*said[: at.moved_tokens], *plan.header, *said[at.moved_tokens :])
        self._reader = plan.reader(plan.decode((*said, *closing)))
        matcher = plan.matcher(True)
        return Step([], self._new_request(lambda sink: behind(plan.make(matcher, sink), first, at, closing, room)))

    def _take_end(self, reply: Reply) -> Step:
        """Take the engine's last word on a request."""
        if not self._probing:
            last, parsed = self._reader.finish()
            done = Done(self._generation(reply, together(self._earlier, parsed)))
            return Step([*self._without_refused_calls(last), done], over=True)
        self._in_thought = self._reader.region == "reasoning"
        last, parsed = self._reader.finish()
        events = self._store_free_words(last)
        if self._in_thought and reply.finish == "length":
            # A thought without an end: nothing was said yet, and nothing may be said unjudged.
            self._probing = False
            return Step([*events, Done(self._generation(reply, ParsedReply("", parsed.reasoning)))], over=True)
        if self._in_thought and not self._free_text:
            self._free_text = self._reasoning  # it ended there: that is its stance
        more, following, over = self._decide(len(reply.token_ids), cut=reply.finish == "length")
        events += more
        if following is not None or over:
            return Step(events, following, over)
        return Step([*events, Done(self._generation(reply, replace(parsed, text=self._free_text)))], over=True)

    def _end_early(self, piece: Piece, events: list[Event], *, text: str | None = None) -> Step:
        """End the reply at `piece`, before the engine knows. text: of the reply, if not what its reader read."""
        first = self.current
        assert first is not None
        first.cancelled = True
        self._phase += 1
        if text is None:
            last, parsed = self._reader.finish()
            events, parsed = [*events, *self._without_refused_calls(last)], together(self._earlier, parsed)
        else:
            parsed = ParsedReply(text)
        reply = so_far(first, piece, sys.maxsize if self._refused else self._plan.max_tokens)
        return Step([*events, Done(self._generation(reply, parsed))], over=True)

    def _generation(self, reply: Reply, parsed: ParsedReply) -> Generation:
        finish: FinishReason = reply.finish
        gate = reply.gate
        if gate is not None and gate.opened_at is not None and self._kept_ids:
            gate = replace(
                gate, opened_at=gate.opened_at + len(self._kept_ids)
            )  # it was counted from the second request
        if self._refused:
            finish, parsed = "refusal", ParsedReply(parsed.text, parsed.reasoning)
        elif parsed.tool_calls:
            finish = "tool_calls"
        return Generation(
            text=parsed.text,
            finish_reason=finish,
            usage=Usage(
                self._plan.prompt_tokens,
                self._probe_tokens + len(self._kept_ids) + len(reply.token_ids),
                reply.cached_tokens if self._cached_tokens is None else self._cached_tokens,
                self._probe_tokens,
            ),
            token_ids=(*self._kept_ids, *reply.token_ids),
            tool_calls=parsed.tool_calls,
            invalid_tool_calls=parsed.invalid_tool_calls,
            reasoning=self._reasoning or None,
            refusal=parsed.text if self._refused else None,
            logprobs=None if reply.logprobs is None else (*self._kept_logprobs, *reply.logprobs),
            report=ContrastReport(self._plan.method, reply.alpha, reply.contrasted_tokens, reply.mean_divergence, gate),
        )
