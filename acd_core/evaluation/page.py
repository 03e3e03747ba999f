"""A page as data: sections of tables, texts, pictures and folded parts, written out as Markdown or as one HTML file."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Union


@dataclass(frozen=True)
class Table:
    """Cells are plain text without line breaks."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Text:
    """One paragraph of plain text."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """Lines of plain text, as a list."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Picture:
    """Where a figure goes; the writer is given the figures by name. `alt` says what it shows."""

    name: str
    alt: str


@dataclass(frozen=True)
class Sample:
    """A prompt and a reply, which may be harmful to read: only HTML shows them, and folded away. Markdown, which gets
    copied into repositories and logs, shows the label alone."""

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


STYLE = """
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
"""


def to_html(title: str, sections: Sequence[Section], figures: Mapping[str, str]) -> str:
    """The page as one HTML file without scripts or outside addresses. figures: name -> SVG text, embedded."""
    links = "".join(f'<a href="#{section.name}">{_text(section.title)}</a>\n' for section in sections)
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_text(title)}</title>",
        f"<style>{STYLE}</style>",
        "</head>",
        "<body>",
        f"<h1>{_text(title)}</h1>",
        f"<nav>{links}</nav>",
    ]
    for section in sections:
        parts += [f'<section id="{section.name}">', f"<h2>{_text(section.title)}</h2>"]
        parts += [_element(block, figures) for block in section.blocks]
        parts.append("</section>")
    return "\n".join([*parts, "</body>", "</html>", ""])


def _element(block: Block, figures: Mapping[str, str]) -> str:
    if isinstance(block, Table):
        head = "".join(f"<th>{_text(cell)}</th>" for cell in block.head)
        rows = "\n".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in block.rows)
        opened = f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n'
        return f"{opened}<tbody>\n{rows}\n</tbody></table></div>"
    if isinstance(block, Text):
        return f"<p>{_text(block.text)}</p>"
    if isinstance(block, Bullets):
        return "<ul>\n" + "\n".join(f"<li>{_text(line)}</li>" for line in block.lines) + "\n</ul>"
    if isinstance(block, Picture):
        if block.name not in figures:
            return ""
        data = base64.b64encode(figures[block.name].encode()).decode()
        return f'<figure><img alt="{_text(block.alt)}" src="data:image/svg+xml;base64,{data}"></figure>'
    return (
        f"<details><summary>{_text(block.label)} (may be harmful to read)</summary>\n"
        f"<p>Prompt</p>\n<pre>{_text(block.prompt)}</pre>\n<p>Reply</p>\n<pre>{_text(block.reply)}</pre>\n</details>"
    )


def _text(text: str) -> str:
    # A lone surrogate or a control character in a reply must not break the file.
    clean = "".join(char if char in "\n\t" or char.isprintable() else "\ufffd" for char in text)
    return html.escape(clean.encode("utf-8", "replace").decode("utf-8"), quote=True)
