"""Patterns of response templates as the parser searches them: in time that grows with the text, not with its square."""

from __future__ import annotations

import logging
import re
from typing import Any

_log = logging.getLogger("acd_core")
_LEADING = re.compile(r"(?:\\s\*)+(?![?+*{])")
# Where the search begins, or at the head of a run of whitespace, and then all of it or none.
_RUN = r"(?:(?:\G|(?<!\s))\s++)?+"
_LONGEST_SEARCH = 5.0  # seconds; a search takes microseconds, unless a tokenizer brings a pattern of its own


def entered_once(pattern: str) -> str:
    """`pattern` of the `regex` module with a leading `\\s*` that is tried once for each run of whitespace.

    As it stands, the search tries it at every space of a long run and runs to the end of it each time. What it finds is
    the same: the leftmost match begins where the run does.
    """
    leading = _LEADING.match(pattern)
    return _RUN + pattern[leading.end() :] if leading else pattern


def watched(pattern: Any) -> Any:
    """`pattern` (compiled by `regex`, or None) with a `search` that remembers."""
    return None if pattern is None else _Watched(pattern)


class _Watched:
    """One pattern of one reply. The parser asks every pattern again after each mark; what lies behind the mark has
    been found already."""

    def __init__(self, pattern: Any) -> None:
        self._pattern = pattern
        self._asked: tuple[str, bool] | None = None
        self._from = 0
        self._found: Any = None
        self._given_up = False

    def search(self, text: str, position: int, partial: bool = False) -> Any:
        """As `regex` does. None from then on, once a search takes longer than it may."""
        if self._given_up:
            return None
        known = self._asked is not None and self._asked[0] is text and self._asked[1] == partial
        if known and position >= self._from and (self._found is None or self._found.start() >= position):
            return self._found
        try:
            self._found = self._pattern.search(text, position, partial=partial, timeout=_LONGEST_SEARCH)
        except TimeoutError:
            self._given_up, self._found = True, None
            _log.warning("A pattern of the response template takes too long and is not looked for: %s", self)
        self._asked, self._from = (text, partial), position
        return self._found

    def __str__(self) -> str:
        return str(self._pattern.pattern)[:200]
