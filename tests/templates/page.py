"""docs/templates.md out of the templates themselves: `python -m tests.templates.page`."""

from __future__ import annotations

from pathlib import Path

from acd_core.chat import Chat
from acd_core.chat.survey import survey
from acd_core.toolcalls import parses_thoughts, parses_tools, tool_call_format
from tests.templates import published
from tests.templates.reading import template_of

HEAD = """# Chat templates

Every published template in the shared data, by every shape of conversation in `tests/templates/shapes.py`, is rendered
as `apply_chat_template` renders it. What systems, users and tools say is never left out, nor is a reply without calls.
As in the stock rendering, templates that show results and no calls leave earlier calls out (Granite 3, LFM2), and many
leave out a text beside a call and the thoughts of earlier turns. Where a template refuses a conversation, or leaves
anything else out, the least repair is made that helps:

| repair | what it does |
| --- | --- |
| user first | a user turn ("Hello.") before an assistant that speaks first |
| answer results | an assistant turn with the result's text between a tool's result and the user |
| short ids | ids of calls as nine letters and digits |
| one call a turn | parallel calls as pairs of a call and its result |
| named results | results with their tool's name |
| describe tools | a description for tools and parameters without one |
| arguments as text | arguments of calls as JSON text |
| no empty replies | replies that say nothing left out |
| system in user | the system text in front of the last user turn |
| calls as text | calls and results as text of the assistant and the user |

System texts in the middle or at the end go to the front. Where no repair helps, the call is an error that says what
would be lost; no family here comes to that. Text from outside never becomes a control token, also where a template
deletes text, writes words between brackets or prints lists. `acd doctor --model M` says the same of a model at hand.

| family | tools shown | calls read | calls forced | thoughts read | repairs for what agents send |
| --- | --- | --- | --- | --- | --- |
"""


def page() -> str:
    """The page as Markdown."""
    lines = []
    for name in published.names():
        tokenizer = published.tokenizer(name)
        chat, template = Chat(tokenizer), template_of(name)
        shows, reads = chat.renders_tools, parses_tools(template)
        cells = [shows, shows and reads, shows and reads and tool_call_format(tokenizer) is not None]
        cells.append(parses_thoughts(template))
        repairs = sorted({each for done in survey(chat).values() for each in done.split(", ")})
        told = ["yes" if each else "no" for each in cells]
        lines.append(f"| {name} | {' | '.join(told)} | {', '.join(repairs) or 'none'} |")
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    (Path(__file__).parents[2] / "docs" / "templates.md").write_text(page(), encoding="utf-8")
