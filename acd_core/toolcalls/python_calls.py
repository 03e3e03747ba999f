"""Calls and literals that a model writes as Python, `f(a='x', b=[1, 2])`, read without running anything.

More lenient than Python, because chat templates are: JSON's true, false and null are known, names of tools may hold
dots and hyphens, and a string may hold its own quote unescaped (LFM2.5 and OLMo 3 write `'it's'`) as long as what
follows its end looks like one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

MAX_DEPTH = 64
"""How deep lists and objects may stand in each other. Deeper ones are no arguments of a tool."""

_WORDS = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}
_NAME = re.compile(r"[\w.:/-]+(?=\s*\()")
_KEY = re.compile(r"\s*([^\s=,()\[\]{}'\"]+)\s*=(?!=)")
_BARE_KEY = re.compile(r"[^\s:,{}\[\]'\"<>]+(?=\s*:)")
_NUMBER = re.compile(r"[+-]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][+-]?\d+)?")
_WORD = re.compile(r"\w+")
_FENCE = re.compile(r"```\w*[ \t]*\n")
_BETWEEN_CALLS = re.compile(r"[\s,;]*")
_ENDS_ARGUMENT = re.compile(r"\s*(?:\)|,\s*\)|,\s*[^\s=,()\[\]{}'\"]+\s*=(?!=))")
_ENDS_ITEM = re.compile(r"\s*(?:[,\]}:)]|\Z)")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|x([0-9a-fA-F]{2})|([\\'\"abfnrtv/\n]))", re.DOTALL)
_ESCAPED = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\n": ""}


def python_calls(text: str) -> list[dict[str, Any]]:
    """Read the calls in `text`, [{"name", "arguments"}, ...]: a list of calls, or calls that follow each other.

    Raises ValueError for anything else: a call that is cut off, an argument without a name, one that is no literal.
    """
    text = text.strip()
    fence = _FENCE.match(text)
    if fence:
        text = text[fence.end() :].removesuffix("```").strip()
    reader = _Reader(text)
    listed = reader.take("[")
    calls = []
    while True:
        reader.skip(_BETWEEN_CALLS)
        if reader.at_end or (listed and reader.take("]")):
            break
        calls.append(reader.call())
    reader.skip(_BETWEEN_CALLS)
    if not reader.at_end or (listed and not reader.text.endswith("]")):
        raise ValueError("the list of calls was cut off" if reader.at_end else f"not a call: {reader.rest()}")
    return calls


def python_literal(text: str, quotes: Sequence[str] = ()) -> Any:
    """Read the literal (string, number, list, object, true, false, null) in `text`.

    quotes: marks that stand on both sides of a string, within which nothing is escaped; keys may stand without any.
    Raises ValueError for no literal.
    """
    reader = _Reader(text.strip(), quotes)
    value = reader.value(_ENDS_ITEM, 0)
    if not reader.at_end:
        raise ValueError(f"not a literal: {reader.rest()}")
    return value


class _Reader:
    def __init__(self, text: str, quotes: Sequence[str] = ()) -> None:
        self.text = text
        self.quotes = quotes
        self.position = 0

    @property
    def at_end(self) -> bool:
        return self.position >= len(self.text)

    def rest(self) -> str:
        return repr(self.text[self.position : self.position + 40])

    def skip(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self.text, self.position)
        if match:
            self.position = match.end()
        return match

    def take(self, mark: str) -> bool:
        """Whether `mark` comes next, after whitespace; then it is taken."""
        start = self.position
        while start < len(self.text) and self.text[start].isspace():
            start += 1
        if not self.text.startswith(mark, start):
            return False
        self.position = start + len(mark)
        return True

    def call(self) -> dict[str, Any]:
        name = self.skip(_NAME)
        if name is None:
            raise ValueError(f"not a call: {self.rest()}" if not self.at_end else "the call was cut off")
        self.take("(")
        arguments: dict[str, Any] = {}
        while not self.take(")"):
            key = self.skip(_KEY)
            if key is None:
                raise ValueError(f"an argument of {name.group()} has no name: {self.rest()}")
            arguments[key.group(1)] = self.value(_ENDS_ARGUMENT, 0)
            if not self.take(",") and not self.text.startswith(")", self._next()):
                raise ValueError(f"the arguments of {name.group()} do not end: {self.rest()}")
        return {"name": name.group(), "arguments": arguments}

    def _next(self) -> int:
        position = self.position
        while position < len(self.text) and self.text[position].isspace():
            position += 1
        return position

    def value(self, ends: re.Pattern[str], depth: int) -> Any:
        """Read one literal. ends: what must follow the end of a string here."""
        if depth > MAX_DEPTH:
            raise ValueError("the arguments are nested too deeply")
        self.position = self._next()
        for quote in self.quotes:
            if self.text.startswith(quote, self.position):
                return self._between(quote)
        letter = self.text[self.position : self.position + 1]
        if letter in ("'", '"'):
            return self._string(ends)
        if letter in ("[", "("):
            self.position += 1
            return self._items("]" if letter == "[" else ")", depth)
        if letter == "{":
            self.position += 1
            return self._object(depth)
        number = self.skip(_NUMBER)
        if number is not None:
            digits = number.group().replace("_", "")
            return int(digits) if re.fullmatch(r"[+-]?\d+", digits) else float(digits)
        word = self.skip(_WORD)
        if word is None or word.group() not in _WORDS:
            raise ValueError(f"not a literal: {word.group() if word else self.rest()}")
        return _WORDS[word.group()]

    def _items(self, close: str, depth: int) -> list[Any]:
        items: list[Any] = []
        while not self.take(close):
            items.append(self.value(_ENDS_ITEM, depth + 1))
            if not self.take(",") and not self.text.startswith(close, self._next()):
                raise ValueError(f"a list does not end: {self.rest()}")
        return items

    def _object(self, depth: int) -> dict[str, Any]:
        members: dict[str, Any] = {}
        while not self.take("}"):
            self.position = self._next()
            bare = self.skip(_BARE_KEY) if self.quotes else None
            key = bare.group() if bare else self.value(_ENDS_ITEM, depth + 1)
            if not self.take(":"):
                raise ValueError(f"a key without a value: {self.rest()}")
            members[key if isinstance(key, str) else str(key)] = self.value(_ENDS_ITEM, depth + 1)
            if not self.take(",") and not self.text.startswith("}", self._next()):
                raise ValueError(f"an object does not end: {self.rest()}")
        return members

    def _between(self, quote: str) -> str:
        start = self.position + len(quote)
        end = self.text.find(quote, start)
        if end < 0:
            raise ValueError("a string was cut off")
        self.position = end + len(quote)
        return self.text[start:end]

    def _string(self, ends: re.Pattern[str]) -> str:
        letter = self.text[self.position]
        quote = letter * 3 if self.text.startswith(letter * 3, self.position) else letter
        if quote != letter and ends.match(self.text, self.position + 2):
            quote = letter  # an empty string, closed by what looks like the third quote's end
        start = here = self.position + len(quote)
        while here < len(self.text):
            if self.text[here] == "\\":
                here += 2
            elif self.text.startswith(quote, here) and ends.match(self.text, here + len(quote)):
                self.position = here + len(quote)
                return _unescaped(self.text[start:here])
            else:
                here += 1
        raise ValueError("a string was cut off")


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text

    def letter(match: re.Match[str]) -> str:
        code = match.group(1) or match.group(2) or match.group(3)
        if code is None:
            return _ESCAPED.get(match.group(4), match.group(4))
        return chr(int(code, 16)) if int(code, 16) < 0x110000 else match.group()

    # JSON writes letters beyond the first plane as two escapes; a half without its other one stays what it is.
    found = _ESCAPE.sub(letter, text)
    return found.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
