"""One reply from the engine's items to the caller's events, in one place for sync and async.

A plain reply is one request. A forced format (a JSON schema, a required tool call) is two: the contrasted model first
speaks freely for a few tokens, and if it refuses, the reply is that refusal; else it starts again under the grammar.
A grammar alone would leave the model no words to refuse with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from acd_core.engine import Matcher, Reply, Request
from acd_core.engine.request import Item
from acd_core.params import ContrastReport, Done, Event, FinishReason, Generation, TextDelta, Usage
from acd_core.toolcalls import ParsedReply

PROBE_TOKENS = 24
"""How many tokens the model speaks freely before a forced format, unless it is refusing: then to the end."""


class Piece(str):
    """Text of a reply, with the number of tokens the reply had when the engine gave it out."""

    __slots__ = ("tokens",)
    tokens: int


class Reader(Protocol):
    """Takes a reply's text apart (toolcalls.ToolCallReader)."""

    def feed(self, text_delta: str) -> list[Event]: ...
    def finish(self) -> tuple[list[Event], ParsedReply]: ...


class PlainReader:
    """For models without any markup: text is text."""

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

    make: (matcher, sink) -> Request. reader: a fresh reader. matcher: a fresh matcher, where a grammar is to hold the
    reply to something. probes_refusal: whether the model first speaks without it, because it leaves no words to refuse.
    refuses: whether a text is a refusal.
    """

    make: Callable[[Matcher | None, Callable[[Item], None]], Request]
    reader: Callable[[], Reader]
    method: str
    alpha: float
    prompt_tokens: int
    matcher: Callable[[], Matcher] | None = None
    probes_refusal: bool = False
    refuses: Callable[[str], bool] | None = None


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
        self._probe_tokens = 0
        self._cached_tokens: int | None = None
        self._reader: Reader = PlainReader() if self._probing else plan.reader()
        self.current: Request | None = None

    def start(self) -> Request:
        plan, phase = self._plan, self._phase
        matcher = plan.matcher() if plan.matcher is not None and not self._probing else None

        def sink(item: Item) -> None:  # on the engine's thread, where the count is exact
            if isinstance(item, str):
                item = Piece(item)
                item.tokens = len(request.generated)
            self._put((phase, item))

        self.current = request = plan.make(matcher, sink)
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
        self._free_text += piece
        if piece.tokens < PROBE_TOKENS:
            return [], None, False
        return self._decide(piece.tokens)

    def _decide(self, tokens: int) -> tuple[list[Event], Request | None, bool]:
        """Enough was said freely: keep a refusal, or start again under the grammar."""
        assert self._plan.refuses is not None
        self._probing = False
        if self._plan.refuses(self._free_text):
            self._refused = True
            return self._reader.feed(self._free_text), None, False
        self._probe_tokens = tokens
        if self.current is not None:
            self._cached_tokens = self.current.cached_tokens  # the second request also finds what the first computed
            self.current.cancelled = True  # the engine frees its rows within a step
        self._phase += 1
        self._reader = self._plan.reader()
        return [], self.start(), False

    def _end(self, reply: Reply) -> tuple[list[Event], Request | None, bool]:
        events: list[Event] = []
        if self._probing:
            events, following, _ = self._decide(len(reply.token_ids))
            if following is not None:
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
                self._probe_tokens + len(reply.token_ids),
                reply.cached_tokens if self._cached_tokens is None else self._cached_tokens,
                self._probe_tokens,
            ),
            token_ids=reply.token_ids,
            tool_calls=parsed.tool_calls,
            invalid_tool_calls=parsed.invalid_tool_calls,
            reasoning=parsed.reasoning,
            refusal=parsed.text if self._refused else None,
            logprobs=reply.logprobs,
            report=ContrastReport(
                self._plan.method, reply.alpha, reply.contrasted_tokens, reply.mean_divergence, reply.gate
            ),
        )


def demonstrated(messages: Sequence[dict[str, Any]], turns: tuple[str, str]) -> list[dict[str, Any]]:
    """`messages` with a demonstration (user turn, assistant turn) behind the system text."""
    system = [message for message in messages if message["role"] == "system"]
    others = [message for message in messages if message["role"] != "system"]
    shown = [{"role": "user", "content": turns[0]}, {"role": "assistant", "content": turns[1]}]
    return [*system, *shown, *others]
