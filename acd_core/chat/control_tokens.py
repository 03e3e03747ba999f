"""Control tokens: what they are for a tokenizer, and texts from outside dressed so that none can come of them.

Two dresses. *Marked*: marks stand around control tokens that are spelled out in a text, so that they are encoded as
plain text; all else is as it was. *Apart*: every character stands between marks, so that nothing can come of it,
whatever a normaliser makes of characters, and the marks tell afterwards which characters came from outside.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import Any, Literal

from acd_core.chat.conversation import ROLES

START, STOP, OURS, OPEN, CLOSE = "\U000f0000", "\U000f0001", "\U000f0002", "\U000f0003", "\U000f0004"
"""Marks around a control token that is text; a mark of ours; marks around a character from outside. Texts hold none."""
_MARKS = f"{START}{STOP}{OURS}{OPEN}{CLOSE}"
_MARK = re.compile(f"[{_MARKS}]")
_ESCAPED = re.compile(r"\\U000f000([0134])|\\udb80\\udc0([0134])")
_FORGED_ESCAPE = re.compile(r"\\+(?=U000f000|udb80)", re.IGNORECASE)
_MARKED = re.compile(f"{START}[^{START}{STOP}]*{STOP}|[{START}{STOP}]")
OUTSIDE = re.compile(f"(?:{OPEN}[^{OPEN}{CLOSE}]*{CLOSE})+")
"""What came from outside in a rendering of texts apart."""
# Words of JSON schemas and of messages: templates ask for them by name, so they stay what they are.
_OWN_WORDS = frozenset(
    (
        "type", "properties", "description", "required", "items", "enum", "name", "function", "parameters", "default",
        "anyOf", "allOf", "oneOf", "additionalProperties", "$ref", "$defs", "const", "format", "title", "arguments",
        "role", "content", "tool_calls", "tool_call_id", "id", "return", "nullable", "prefix", "tools",
        "reasoning_content", "reasoning", "thinking", "minimum", "maximum", "strict",
    )
)  # fmt: skip
_TYPES = frozenset(
    ("function", "text", "string", "number", "integer", "boolean", "array", "object", "null", "json_schema")
)
_MARK_LIKE = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]|<\|.*|.*\|>")
_HTML = re.compile(
    r"</?(?:a|b|i|u|s|p|em|strong|br|hr|h[1-6]|ul|ol|li|table|caption|thead|tbody|tfoot|tr|th|td|blockquote|pre|code|"
    r"img|sub|sup|div|span)>"
)
_LONGEST_MARK = 64
_CHOSEN = ("arguments", "parameters", "function")
_IDS = ("id", "tool_call_id")

Ids = Literal["kept", "disguised", "apart"]
"""What becomes of the ids of calls, whose form some templates check: as they are, other letters, apart like texts."""


class ControlTokens:
    """Everything that is a control token for one tokenizer, and texts without any.

    more: spellings that are control tokens beside those of `control_tokens`.
    """

    def __init__(self, tokenizer: Any, more: Iterable[str] = ()) -> None:
        self._source = _source(tokenizer)
        self.spelled = control_tokens(tokenizer) | frozenset(more)
        longest_first = sorted(self.spelled, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        firsts = "".join(re.escape(each) for each in sorted({text[0] for text in self.spelled}))
        self._first = re.compile(f"[{firsts}]" if firsts else "(?!)")
        self._all = "\n".join(sorted(self.spelled))
        self._ends = tuple({text[at:] for text in self.spelled for at in range(1, len(text))})

    def mark(self, value: Any) -> Any:
        """Return `value` with marks around control tokens in every string of it, dict keys included."""
        if isinstance(value, Mapping):
            return {self.mark(key): self.mark(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.mark(item) for item in value]
        return self._marked(value) if isinstance(value, str) else value

    def _marked(self, text: str) -> str:
        return self.pattern.sub(f"{START}\\g<0>{STOP}", sanitised(text))

    def apart(self, value: Any, ids: Ids = "kept", key: str = "", inside: str = "") -> Any:
        """Return `value` with every character of its texts between marks, so that no control token can come of them.

        Words by which templates find their way stay whole: keys of messages, roles, types, and the words of tools and
        schemas; what callers choose does not. White space around a text stays bare: templates trim it.
        """
        if isinstance(value, Mapping):
            found = {}
            for name, item in value.items():
                within = inside or (name if name in _CHOSEN else "")
                if inside in ("", "function") and name in ("arguments", "parameters"):
                    within = name
                chosen = inside == "arguments" or (
                    name not in _OWN_WORDS and (inside != "" or not self._asked_for_by_template(name))
                )
                new = self._apart(name) if chosen and isinstance(name, str) else self.mark(name)
                found[new] = self.apart(item, ids, str(name), within)
            return found
        if isinstance(value, (list, tuple)):
            return [self.apart(item, ids, key, inside) for item in value]
        if not isinstance(value, str):
            return value
        if inside != "arguments":
            if (key == "role" and value in ROLES) or (key == "type" and value in _TYPES):
                return self._marked(value)
            if key in _IDS and ids != "apart":
                return self._marked(value) if ids == "kept" else _with_other_letters(value)
        return self._apart(value)

    def _apart(self, text: str) -> str:
        text = sanitised(text)
        core = text.strip()
        if not core:
            return text
        before, after = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
        return f"{before}{OPEN}{(CLOSE + OPEN).join(core)}{CLOSE}{after}"

    def _asked_for_by_template(self, name: Any) -> bool:
        """Return whether the template asks for a key by its name; others it can only list."""
        word = re.escape(str(name))
        return bool(re.search(f"""['"]{word}['"]|[.]{word}\\b""", self._source))

    def may_form_control_token(self, value: Any) -> bool:
        """Return whether a control token could come of these texts as they are spelled: they hold a character that
        begins one, or begin with the end of one, or stand within one, so that what a template writes around them
        completes it.
        """
        if isinstance(value, str):
            text = value.strip()
            return bool(text) and (bool(self._first.search(text)) or text.startswith(self._ends) or text in self._all)
        if isinstance(value, Mapping):
            return any(
                (key not in _OWN_WORDS and self.may_form_control_token(str(key)))
                or (not (key == "role" and each in ROLES) and self.may_form_control_token(each))
                for key, each in value.items()
            )
        return isinstance(value, (list, tuple)) and any(map(self.may_form_control_token, value))

    def spelled_by_template(self, text: str) -> list[str]:
        """Return control tokens that the template spelled out itself, in order."""
        return self.pattern.findall(_MARKED.sub(OURS, text))


def control_tokens(tokenizer: Any) -> frozenset[str]:
    """Return everything that must not come from outside: special tokens, and added tokens that are written like marks,
    such as `<tool_call>`.

    Whitespace and HTML tags, which Gemma and Phi add, are ordinary text.
    """
    texts = _source(tokenizer)

    def is_mark(text: str) -> bool:
        return bool(text.strip()) and (text in texts or _is_written_like_a_mark(text))

    found = tokenizer.added_tokens_decoder.values()
    return frozenset(each.content for each in found if each.content and (each.special or is_mark(each.content)))


def composed_tokens(tokenizer: Any, renderings: Iterable[str], with_tools: Iterable[str] = ()) -> frozenset[str]:
    """Return control tokens that show only in what a template writes: added tokens that it composes, such as `'<' ~
    role ~ '>'`, and marks of its own that are one token of the ordinary vocabulary. with_tools: renderings that hold
    schemas, whose words are no control tokens.
    """
    added = [each.content for each in tokenizer.added_tokens_decoder.values() if each.content.strip()]
    written = "\n".join(renderings)
    found = {each for each in added if each in written and not _HTML.fullmatch(each)}
    for mark in set(_MARK_LIKE.findall("\n".join((written, *with_tools)))):
        if len(mark) < _LONGEST_MARK and _is_written_like_a_mark(mark):
            ids = tokenizer.encode(mark, add_special_tokens=False)
            if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
                found.add(mark)
    return frozenset(found)


def _source(tokenizer: Any) -> str:
    """Return the template's source, or all of them where there are several."""
    template = tokenizer.chat_template
    return "\n".join(template.values()) if isinstance(template, Mapping) else str(template)


def _is_written_like_a_mark(text: str) -> bool:
    return bool(_MARK_LIKE.fullmatch(text)) and not _HTML.fullmatch(text)


def strings_in(value: Any) -> Iterator[str]:
    """Yield every string in a conversation, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (Mapping, list, tuple)):
        for each in value:
            yield from strings_in(each)
            if isinstance(value, Mapping):
                yield from strings_in(value[each])


def marks_from_escapes(text: str) -> str:
    """Return `text` with marks in the place of their escapes, as a template writes them that prints a list."""
    return _ESCAPED.sub(lambda found: _MARKS[int(found[1] or found[2])], text)


def strip_marks(text: str) -> str:
    """Return `text` without any mark."""
    return _MARK.sub("", text)


def join_outside_runs(text: str) -> str:
    """Join neighbouring characters from outside in a rendering of texts apart: each run of them is plain text."""
    return text.replace(CLOSE + OPEN, "")


def sanitised(text: str) -> str:
    """Return a text from outside that can be dressed: no mark of ours in it, nor an escape of one, nor half a
    character.
    """
    return _FORGED_ESCAPE.sub("", _MARK.sub("", _join_surrogates(text)))


def _join_surrogates(text: str) -> str:
    """Return the text with surrogate pairs joined, lone surrogates replaced: PDFs hold them, and no tokenizer takes
    them.
    """
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _with_other_letters(name: str) -> str:
    """Return an id of the same form with other letters, the same ones for the same id; no letter of it is left."""
    letters = blake2b(name.encode("utf-8", "surrogatepass")).hexdigest()
    return "".join(letters[at % 128] if each.isalnum() else "_" if each == "_" else "-" for at, each in enumerate(name))
