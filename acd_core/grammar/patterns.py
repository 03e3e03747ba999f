"""Regular expressions and string formats of JSON schemas as llguidance reads them.

A schema's `pattern` is JavaScript's; llguidance's regexes are Rust's, which read a few signs otherwise. `format` is a
note by the standard; those that the standard names are enforced here, every other one asks for nothing.
"""

from __future__ import annotations

import re

_SPACE = r"\t-\r \x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}\x{FEFF}"
_LINE_ENDS = r"\n\r\x{2028}\x{2029}"
_NUMBERED = re.compile(r"u\{([0-9A-Fa-f]+)\}|u([0-9A-Fa-f]{4})|x([0-9A-Fa-f]{2})")
_LOW_HALF = re.compile(r"\\u(d[c-f][0-9a-f]{2})", re.IGNORECASE)


def translated(pattern: str) -> str:
    """`pattern` with the same meaning in Rust's syntax, where the two differ: `.`, `\\s`, classes, numbered characters.

    What Rust does not know at all (lookarounds, references to groups) is left for llguidance to refuse.
    """
    out: list[str] = []
    at = 0
    while at < len(pattern):
        if pattern[at] == "[":
            text, at = _class(pattern, at)
        elif pattern[at] == "\\":
            text, at = _escape(pattern, at, in_class=False)
        else:
            text, at = f"[^{_LINE_ENDS}]" if pattern[at] == "." else pattern[at], at + 1
        out.append(text)
    return "".join(out)


def _class(pattern: str, at: int) -> tuple[str, int]:
    """Read the class that opens at `at`. Returns it in Rust's syntax, and where it ends.

    JavaScript knows no classes in classes and no set operations.
    """
    start, at, out = at, at + 1, ["["]
    if pattern[at : at + 1] == "^":
        out.append("^")
        at += 1
    first = True
    while at < len(pattern) and pattern[at] != "]":
        if pattern[at] == "\\":
            whole_class = pattern[at + 1 : at + 2] in "dDwWsSpP"  # no start of a range
            text, at = _escape(pattern, at, in_class=True)
            out.append(text)
            first = whole_class
            continue
        if pattern[at] == "-" and not first and pattern[at + 1 : at + 2] not in ("", "]"):
            # A range; its end is taken along, so that it is not read as the start of another.
            text, at = _escape(pattern, at + 1, in_class=True) if pattern[at + 1] == "\\" else _literal(pattern, at + 1)
            text, first = f"-{text}", True
            out.append(text)
            continue
        else:
            text, at = _literal(pattern, at)
        out.append(text)
        first = False
    if at == len(pattern):
        return pattern[start:], at  # never closed; llguidance says so
    if out == ["[", "^"]:
        return r"(?s:.)", at + 1
    if out == ["["]:  # nothing is in it; Rust would take the bracket that closes it as a sign of the class
        return "[a&&b]", at + 1
    return "".join(out) + "]", at + 1


def _literal(pattern: str, at: int) -> tuple[str, int]:
    return ("\\" + pattern[at] if pattern[at] in "[&~-^" else pattern[at]), at + 1


def _escape(pattern: str, at: int, in_class: bool) -> tuple[str, int]:
    """Read the escape at `at`. Returns it in Rust's syntax, and where it ends."""
    letter = pattern[at + 1 : at + 2]
    if letter == "s":
        return (_SPACE if in_class else f"[{_SPACE}]"), at + 2
    if letter == "S":
        return f"[^{_SPACE}]", at + 2
    if letter == "b" and in_class:
        return r"\x08", at + 2
    if letter == "0" and not pattern[at + 2 : at + 3].isdigit():
        return r"\x00", at + 2
    if letter == "c" and re.match("[A-Za-z]", pattern[at + 2 : at + 3]):
        return rf"\x{{{ord(pattern[at + 2]) % 32:X}}}", at + 3
    numbered = _NUMBERED.match(pattern, at + 1)
    if numbered is None:
        return pattern[at : at + 2], at + 2
    number, end = int(next(filter(None, numbered.groups())), 16), numbered.end()
    low = _LOW_HALF.match(pattern, end) if 0xD800 <= number < 0xDC00 else None
    if low is not None:  # two halves of UTF-16 are one character
        number, end = 0x10000 + (number - 0xD800) * 0x400 + int(low[1], 16) - 0xDC00, low.end()
    return rf"\x{{{number:X}}}", end


_YEAR = r"(?:000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})"
_LEAP_YEAR = r"(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_DAYS = (
    r"(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    r"|02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
_DATE = rf"(?:{_YEAR}-{_DAYS}|{_LEAP_YEAR}-02-29)"
# No leap seconds: whether one is right depends on the offset, and most readers of dates know none.
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]+)?(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_LETTER, _OR_DASH = "[A-Za-z0-9]", "[A-Za-z0-9-]"
# Plain names only: "--" behind two letters marks an encoded one, which no pattern can check.
_LABEL = (
    f"{_LETTER}(?:{_OR_DASH}?{_LETTER})?|{_LETTER}{_OR_DASH}(?:{_LETTER}{_OR_DASH}{{0,59}}{_LETTER}"
    f"|-{_LETTER}(?:{_OR_DASH}{{0,58}}{_LETTER})?)"
)
_POINTER = r"(?:/(?:[^~/]|~[01])*)*"
_BEYOND_ASCII = r"\x{A0}-\x{D7FF}\x{F900}-\x{FDCF}\x{FDF0}-\x{FFEF}\x{10000}-\x{1FFFD}"
_VARIABLE = r"(?:\w|%[0-9A-Fa-f]{2})(?:\.?(?:\w|%[0-9A-Fa-f]{2}))*(?::[1-9][0-9]{0,3}|\*)?"


def _reference(letters: str, relative: bool) -> str:
    """Return a pattern of RFC 3986 (3987 with `letters` beyond ASCII), hosts in brackets left out."""
    plain = rf"A-Za-z0-9\-._~!$&'()*+,;={letters}"
    coded = "%[0-9A-Fa-f]{2}"
    piece = rf"(?:[{plain}:@]|{coded})"
    path = rf"(?:/{piece}*)*"
    host = rf"//(?:(?:[{plain}:]|{coded})*@)?(?:[{plain}]|{coded})*(?::[0-9]*)?{path}"
    absolute = rf"/(?:{piece}+{path})?"
    rest = rf"(?:\?(?:{piece}|[/?])*)?(?:#(?:{piece}|[/?])*)?"
    whole = rf"[A-Za-z][A-Za-z0-9+.\-]*:(?:{host}|{absolute}|{piece}+{path}|){rest}"
    if not relative:
        return whole
    return rf"(?:{whole}|(?:{host}|{absolute}|(?:[{plain}@]|{coded})+{path}|){rest})"


FORMATS = {
    name: rf"^{pattern}$"
    for name, pattern in {
        "date": _DATE,
        "time": _TIME,
        "date-time": rf"{_DATE}[Tt]{_TIME}",
        "idn-hostname": rf"(?:{_LABEL})(?:\.(?:{_LABEL}))*",
        "uuid": r"[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}",
        "json-pointer": _POINTER,
        "relative-json-pointer": rf"(?:0|[1-9][0-9]*)(?:#|{_POINTER})",
        "uri-reference": _reference("", relative=True),
        "iri": _reference(_BEYOND_ASCII, relative=False),
        "iri-reference": _reference(_BEYOND_ASCII, relative=True),
        "uri-template": (
            rf"(?:[!#$&(-;=?-\[\]_a-z~{_BEYOND_ASCII}]|%[0-9A-Fa-f]{{2}}"
            rf"|\{{[+#./;?&=,!@|]?{_VARIABLE}(?:,{_VARIABLE})*\}})*"
        ),
    }.items()
}
"""Formats written here, as patterns in Rust's syntax."""
LLGUIDANCE_FORMATS = frozenset({"duration", "email", "hostname", "ipv4", "ipv6", "uri"})
"""Formats that llguidance enforces by itself."""
NARROWED = {"idn-email": "email"}
"""Formats that are enforced as a narrower one."""
UNENFORCEABLE = frozenset({"regex"})
"""Formats that the standard names and no grammar of ours holds to."""
LONGEST = {"hostname": 253, "idn-hostname": 253}
"""Characters that a format may have at most."""
