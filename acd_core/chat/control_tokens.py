"""Control tokens: what they are for a tokenizer, and how texts from outside are kept from becoming any.

Texts are marked before a template renders them; `transformers`' `encode_marked_chat` then reads what stands between
marks as plain text. Templates that cut texts, write them between brackets or print lists get past that: for them there
are texts that are broken apart, of which no control token can come.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from transformers.utils.chat_template_utils import mark_control_tokens

START, STOP, OURS = "\U000f0000", "\U000f0001", "\U000f0002"
"""transformers' marks around a control token that is text; the third is ours and can stand in no text either."""
_ESCAPED = re.compile(r"\\U000f000([01])|\\udb80\\udc0([01])")
_FORGED_ESCAPE = re.compile(r"\\+(?=U000f000|udb80)", re.IGNORECASE)
_MARKED = re.compile(f"{START}[^{START}{STOP}]*{STOP}|[{START}{STOP}]")
# Words of JSON schemas and of messages: templates ask for them by name, so they stay what they are.
_OWN_WORDS = frozenset(
    (
        "type", "properties", "description", "required", "items", "enum", "name", "function", "parameters", "default",
        "anyOf", "allOf", "oneOf", "additionalProperties", "$ref", "$defs", "const", "format", "title", "arguments",
        "role", "content", "tool_calls", "tool_call_id", "id", "return", "nullable", "prefix", "tools",
        "reasoning_content", "reasoning", "thinking", "minimum", "maximum", "strict",
    )
)  # fmt: skip
_MARK_LIKE = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]|<\|.*|.*\|>")
_HTML = re.compile(
    r"</?(?:a|b|i|u|s|p|em|strong|br|hr|h[1-6]|ul|ol|li|table|caption|thead|tbody|tfoot|tr|th|td|blockquote|pre|code|"
    r"img|sub|sup|div|span)>"
)
_CHOSEN = ("arguments", "parameters", "function")
_AS_THEY_ARE = ("role", "type", "id", "tool_call_id", "prefix")


class ControlTokens:
    """Everything that is a control token for one tokenizer, and texts without any."""

    def __init__(self, tokenizer: Any) -> None:
        found = control_tokens(tokenizer)
        longest_first = sorted(found, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        firsts = "".join(re.escape(each) for each in sorted({text[0] for text in found}))
        self._first = re.compile(f"[{firsts}]" if firsts else "(?!)")
        self._all = "\n".join(sorted(found))
        self._ends = tuple({text[at:] for text in found for at in range(1, len(text))})

    def mark(self, value: Any) -> Any:
        """`value` with marks around control tokens in every string of it, dict keys included."""
        if isinstance(value, Mapping):
            return {self.mark(key): self.mark(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.mark(item) for item in value]
        return self._marked(value) if isinstance(value, str) else value

    def _marked(self, text: str) -> str:
        return str(mark_control_tokens(_FORGED_ESCAPE.sub("", _whole(text).replace(OURS, "")), self._pattern))

    def broken(self, value: Any, key: str = "", inside: str = "") -> Any:
        """`value` with every text broken where a control token may begin, so that none can come of it.

        Words by which templates find their way stay whole: keys of messages, types, and the words of tools and
        schemas; what callers choose does not.
        """
        if isinstance(value, Mapping):
            found = {}
            for name, item in value.items():
                within = inside or (name if name in _CHOSEN else "")
                chosen = inside == "arguments" or (inside != "" and name not in _OWN_WORDS)
                new = self.broken(name) if chosen and isinstance(name, str) else self.mark(name)
                found[new] = self.broken(item, str(name), within)
            return found
        if isinstance(value, (list, tuple)):
            return [self.broken(item, key, inside) for item in value]
        if not isinstance(value, str):
            return value
        if key in _AS_THEY_ARE and inside != "arguments":
            return self._marked(value)
        text = _FORGED_ESCAPE.sub("", _whole(value).replace(OURS, "").replace(START, "").replace(STOP, ""))
        text = self._first.sub(lambda found: found[0] + START, text)
        return f"{START}{text[:1]}{START}{text[1:]}" if text else text

    def risky(self, value: Any) -> bool:
        """Whether a control token could come of these texts: they hold a character that begins one, or begin with the
        end of one, or stand within one, so that what a template writes around them completes it."""
        if isinstance(value, str):
            text = value.strip()
            return bool(text) and (bool(self._first.search(text)) or text.startswith(self._ends) or text in self._all)
        if isinstance(value, Mapping):
            return any(
                (key not in _OWN_WORDS and self.risky(str(key))) or (key != "role" and self.risky(each))
                for key, each in value.items()
            )
        return isinstance(value, (list, tuple)) and any(map(self.risky, value))

    def written(self, text: str) -> list[str]:
        """Control tokens that the template wrote itself, in order."""
        return self._pattern.findall(_MARKED.sub(OURS, text))


def control_tokens(tokenizer: Any) -> frozenset[str]:
    """Everything that must not come from outside: special tokens, and added tokens that are written like marks, such as
    `<tool_call>`. Whitespace and HTML tags, which Gemma and Phi add, are ordinary text."""
    template = tokenizer.chat_template
    texts = "\n".join(template.values()) if isinstance(template, Mapping) else str(template)

    def is_mark(text: str) -> bool:
        written = bool(_MARK_LIKE.fullmatch(text)) and not _HTML.fullmatch(text)
        return bool(text.strip()) and (text in texts or written)

    found = tokenizer.added_tokens_decoder.values()
    return frozenset(each.content for each in found if each.content and (each.special or is_mark(each.content)))


def with_marks(text: str) -> str:
    """`text` with marks in the place of their escapes, as a template writes them that prints a list."""
    return _ESCAPED.sub(lambda found: START if (found[1] or found[2]) == "0" else STOP, text)


def strip_marks(text: str) -> str:
    """`text` without any mark."""
    return text.replace(START, "").replace(STOP, "").replace(OURS, "")


def _whole(text: str) -> str:
    """Surrogate pairs joined, lone surrogates replaced: PDFs hold them, and no tokenizer takes them."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
