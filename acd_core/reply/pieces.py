"""Pieces of a reply on their way to the caller, and what can be made of a request as it stood at one of them."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import cast

import torch

from acd_core.engine import Branch, Reply, Request
from acd_core.engine.request import Gating
from acd_core.engine.text import Turn
from acd_core.toolcalls import ParsedReply


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


def so_far(request: Request, at: Piece, most: int = sys.maxsize) -> Reply:
    """The reply that `request` had given at `at`, while the engine may have gone on; of `most` tokens at most."""
    tokens = min(at.tokens, most)
    gate = at.gating.report if at.gating is not None else None
    contrasted = request.divergences[: max(tokens - ((gate.opened_at or 0) if gate is not None else 0), 0)]
    return Reply(
        tuple(request.generated[:tokens]),
        "length",
        request.cached_tokens,
        len(contrasted),
        float(torch.stack(contrasted).mean()) if contrasted else 0.0,
        tuple(request.token_logprobs[:tokens]) if request.logprobs is not None else None,
        None,
        request.alpha,
        gate,
    )


def behind(fresh: Request, first: Request, at: Piece, closing: tuple[int, ...], room: int) -> Request:
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


def together(earlier: ParsedReply, later: ParsedReply) -> ParsedReply:
    """Two parts of one reply as one."""
    return ParsedReply(
        earlier.text + later.text,
        None,  # the session adds up what it gave out
        (*earlier.tool_calls, *later.tool_calls),
        (*earlier.invalid_tool_calls, *later.invalid_tool_calls),
    )
