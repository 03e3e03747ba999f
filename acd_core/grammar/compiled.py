"""A compiled format, and the state of one request within it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from acd_core.errors import EngineError
from acd_core.locks import ForkSafeLock

if TYPE_CHECKING:
    from llguidance import LLMatcher

UNTRIED_BYTES = 2 * 1024 * 1024
"""Bytes that a grammar takes which was not worth a trial, about."""


class GrammarSpec:
    """A compiled format. `matcher()` gives each request its own state; any thread may ask. size: in bytes, about."""

    def __init__(
        self, compiled: LLMatcher, n_vocab: int, trigger: int | None, once: bool = False, size: int = UNTRIED_BYTES
    ) -> None:
        self.size = size
        self._compiled = compiled
        self._n_vocab = n_vocab
        self._trigger = trigger
        self._once = once
        self._lock = ForkSafeLock()

    def matcher(self) -> Matcher:
        """Return a fresh matcher at the start of the format."""
        return Matcher(self._fresh, self._n_vocab, self._trigger, self._once)

    def _fresh(self) -> LLMatcher:
        with self._lock:
            return self._compiled.deep_copy()


class Matcher:
    """State of one request within a format. Use from one thread at a time.

    With a trigger ("auto" tools) nothing is masked until that token is chosen; after the call's end again nothing, or
    with `once` nothing may follow.
    """

    def __init__(self, fresh: Callable[[], LLMatcher], n_vocab: int, trigger: int | None, once: bool = False) -> None:
        self._fresh = fresh
        self._n_vocab = n_vocab
        self._trigger = trigger
        self._once = once
        self._state: LLMatcher | None = None if trigger is not None else fresh()
        self._finished = False

    @property
    def finished(self) -> bool:
        """Whether the format is complete and nothing can follow. Never true where free text may follow ("auto", unless
        one call is all)."""
        return self._finished

    def mask(self, scores: torch.Tensor) -> torch.Tensor:
        """Return a copy of `scores` [n_vocab] (any float dtype and device) with every token that does not fit set to
        -inf.

        Raises EngineError where nothing fits (the format is over, or was left).
        """
        if scores.shape != (self._n_vocab,):
            raise EngineError(f"The grammar was made for {self._n_vocab} scores, not for {tuple(scores.shape)}.")
        if self._state is None:
            return scores
        bits = torch.frombuffer(bytearray(self._state.compute_bitmask()), dtype=torch.uint8)
        self._check()
        # llguidance.torch's own kernel is torch.compile'd: 25 s for the first token on a CPU.
        allowed = (bits.unsqueeze(1) >> torch.arange(8, dtype=torch.uint8)).bitwise_and_(1).flatten()[: self._n_vocab]
        if not bool(allowed.any()):
            raise EngineError("The grammar allows no further token.")
        return scores.masked_fill(allowed.to(scores.device) == 0, float("-inf"))

    def consume(self, token_id: int) -> None:
        """Take the chosen token. Raises EngineError for one that does not fit."""
        if self._state is None:
            if token_id == self._trigger:
                self._state = self._fresh()
            return
        if self._finished:
            return
        self._state.consume_token(token_id)
        self._check()
        if self._state.is_stopped() or self._only_the_end_is_left():
            if self._trigger is None or self._once:
                self._finished = True
            else:
                self._state = None

    def deep_copy(self) -> Matcher:
        """Return an independent matcher in the same state."""
        other = Matcher(self._fresh, self._n_vocab, self._trigger, self._once)
        other._state = self._state.deep_copy() if self._state is not None else None
        other._finished = self._finished
        return other

    def _only_the_end_is_left(self) -> bool:
        """Whether the format is at its end. llguidance notices an end behind a token of its own (`</tool_call>`) only
        with the next mask."""
        assert self._state is not None
        if not self._state.is_accepting():
            return False
        self._state.compute_bitmask()
        return bool(self._state.is_stopped())

    def _check(self) -> None:
        if self._state is not None and self._state.is_error():
            # Only the first line: the others repeat what the model wrote.
            raise EngineError(f"The grammar failed: {self._state.get_error().splitlines()[0][:200]}")
