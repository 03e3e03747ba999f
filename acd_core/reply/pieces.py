"""Pieces of a reply on their way to the caller, and what can be made of a request as it stood at one of them."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Union

import torch

from acd_core.engine import Branch, Reply, Request, TextPiece
from acd_core.engine.request import Gating
from acd_core.toolcalls import ParsedReply


@dataclass(frozen=True)
class Piece:
    """A piece of a reply's text, and how its request stood when the engine gave it out. The engine goes on meanwhile.

    turns: whether the gate opened behind it, so that an answer of its own follows. tokens: how many the reply had.
    branches: the request's, which a gate may change. turned: how many of the reply's tokens stand in them. gating: a
    copy of what its gate had read.
    """

    text: str
    turns: bool
    tokens: int
    branches: tuple[Branch, ...]
    moved_tokens: int | None
    gating: Gating | None

    @classmethod
    def of(cls, piece: TextPiece, request: Request) -> Piece:
        """Note how `request` stands at `piece`. To be called on the engine's thread."""
        gating = replace(request.gating) if request.gating is not None else None
        return cls(piece.text, piece.turns, len(request.generated), request.branches, request.moved_tokens, gating)


SessionItem = Union[Piece, Reply, BaseException]
"""What a session takes: the engine's items, each text with how its request stood."""


def so_far(request: Request, at: Piece, most: int = sys.maxsize) -> Reply:
    """Return the reply that `request` had given at `at`, of `most` tokens at most. The engine may have gone on."""
    tokens = min(at.tokens, most)
    gate = at.gating.report if at.gating is not None else None
    contrasted = request.divergences[: max(tokens - ((gate.opened_at or 0) if gate is not None else 0), 0)]
    return Reply(
        tuple(request.generated[:tokens]),
        "length",
        request.cached_tokens,
        len(contrasted),
        float(torch.stack(contrasted).mean()) if contrasted else 0.0,
        tuple(request.token_logprobs[:tokens]) if request.asked.logprobs is not None else None,
        None,
        request.alpha,
        gate,
    )


def behind(fresh: Request, first: Request, at: Piece, closing: tuple[int, ...], room: int) -> Request:
    """Return `fresh`, a request of the same reply as `first`, going on behind the tokens `first` had said at `at`.

    What the gate had read and decided by then stays. A contrast of the first tokens only begins anew, unless a gate has
    begun it. closing: ids put behind those tokens. room: new tokens at most.
    """
    said = (*first.generated[at.moved_tokens or 0 : at.tokens], *closing)
    gating = at.gating
    if gating is not None:
        opened, own = gating.opened_at, tuple(branch.followed_by(said) for branch in gating.branches)
        gating = replace(gating, branches=own, read_at=gating.read_at - at.tokens)
        gating.opened_at = None if opened is None else opened - at.tokens
    return replace(
        fresh,
        branches=tuple(branch.followed_by(said) for branch in at.branches),
        max_tokens=min(fresh.max_tokens, room),
        gating=gating,
        moved_tokens=0 if at.moved_tokens is not None else None,
        alpha=first.alpha if at.moved_tokens is not None else fresh.alpha,
    )


def together(earlier: ParsedReply, later: ParsedReply) -> ParsedReply:
    """Join two parts of one reply."""
    return ParsedReply(
        earlier.text + later.text,
        None,  # the session adds up what it gave out
        (*earlier.tool_calls, *later.tool_calls),
        (*earlier.invalid_tool_calls, *later.invalid_tool_calls),
    )
