"""Writes a page of tables, texts, pictures and folded parts as Markdown or as one HTML file."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Union

import jinja2


@dataclass(frozen=True)
class Table:
    """Cells are plain text without line breaks."""

    kind: ClassVar[str] = "table"
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Text:
    """One paragraph of plain text."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Bullets:
    """Lines of plain text, as a list."""

    kind: ClassVar[str] = "bullets"
    lines: Sequence[str]


@dataclass(frozen=True)
class Picture:
    """Where a figure goes; the writer is given the figures by name. `alt` says what it shows."""

    kind: ClassVar[str] = "picture"
    name: str
    alt: str


@dataclass(frozen=True)
class Sample:
    """A prompt and a reply, which may be harmful to read: only HTML shows them, and folded away. Markdown, which gets
    copied into repositories and logs, shows the label alone."""

    kind: ClassVar[str] = "sample"
    label: str
    prompt: str
    reply: str


Block = Union[Table, Text, Bullets, Picture, Sample]


@dataclass(frozen=True)
class Section:
    """One part of the page. `name` is its anchor."""

    name: str
    title: str
    blocks: tuple[Block, ...]

    @property
    def body(self) -> str:
        """As Markdown, pictures left out."""
        return _blocks(self.blocks, {})


def markdown(title: str, sections: Sequence[Section], pictures: Mapping[str, str]) -> str:
    """The page as Markdown. pictures: name -> address of the file; those without one are left out."""
    parts = [f"# {title}"]
    for section in sections:
        parts += [f"## {section.title}", _blocks(section.blocks, pictures)]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; cells must hold no line breaks. Bars in cells are escaped."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(head), "|" + " --- |" * len(head), *map(line, rows)])


def _blocks(blocks: Sequence[Block], pictures: Mapping[str, str]) -> str:
    parts = []
    for block in blocks:
        if isinstance(block, Table):
            parts.append(table(block.head, block.rows))
        elif isinstance(block, Text):
            parts.append(block.text)
        elif isinstance(block, Bullets):
            parts.append("\n".join(f"- {line}" for line in block.lines))
        elif isinstance(block, Picture) and block.name in pictures:
            parts.append(f"![{block.alt}]({pictures[block.name]})")
        elif isinstance(block, Sample):
            parts.append(f"- {block.label}")
    return "\n\n".join(parts)


# --- HTML ---

# Everything between {{ }} is escaped: texts of models and users stand there.
_TEMPLATE = """
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
nav a { margin-right: 1rem; white-space: nowrap; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tbody tr:hover { background: var(--soft); }
figure { margin: 1rem 0; background: #fff; display: inline-block; padding: .5rem; border: 1px solid var(--line); }
figure img { max-width: 100%; height: auto; display: block; }
details { margin: .5rem 0; padding: .25rem .75rem; border-left: 3px solid var(--line); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--soft); padding: .5rem; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<nav>
{% for section in sections %}
<a href="#{{ section.name }}">{{ section.title }}</a>
{% endfor %}
</nav>
{% for section in sections %}
<section id="{{ section.name }}">
<h2>{{ section.title }}</h2>
{% for block in section.blocks %}
{% if block.kind == "table" %}
<div class="wide"><table>
<thead><tr>{% for cell in block.head %}<th>{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in block.rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% elif block.kind == "text" %}
<p>{{ block.text }}</p>
{% elif block.kind == "bullets" %}
<ul>
{% for line in block.lines %}
<li>{{ line }}</li>
{% endfor %}
</ul>
{% elif block.kind == "picture" and block.name in pictures %}
<figure><img alt="{{ block.alt }}" src="data:image/svg+xml;base64,{{ pictures[block.name] }}"></figure>
{% elif block.kind == "sample" %}
<details><summary>{{ block.label }} (may be harmful to read)</summary>
<p>Prompt</p>
<pre>{{ block.prompt }}</pre>
<p>Reply</p>
<pre>{{ block.reply }}</pre>
</details>
{% endif %}
{% endfor %}
</section>
{% endfor %}
</body>
</html>
"""


def _printable(value: Any) -> str:
    """`value` as text without what breaks a file: lone surrogates and control characters."""
    clean = "".join(char if char in "\n\t" or char.isprintable() else "\ufffd" for char in str(value))
    return clean.encode("utf-8", "replace").decode("utf-8")


_PAGE = jinja2.Environment(
    autoescape=True, finalize=_printable, undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True
).from_string(_TEMPLATE.lstrip())


def to_html(title: str, sections: Sequence[Section], figures: Mapping[str, str]) -> str:
    """The page as one HTML file without scripts or outside addresses. figures: name -> SVG text, embedded."""
    pictures = {name: base64.b64encode(svg.encode()).decode() for name, svg in figures.items()}
    return _PAGE.render(title=title, sections=sections, pictures=pictures)
