"""All published templates by all shapes of conversations: stock renderings, nothing refused, lost or forged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from acd_core.chat import SOFT, Chat
from acd_core.chat.conversation import is_continued
from acd_core.errors import TemplateError
from acd_core.model import on_disk
from tests.templates.published import names, stock, tokenizer, tokens
from tests.templates.shapes import (
    CALLS,
    ONE,
    PLAIN,
    TOOL_FORMS,
    TOOLS,
    Turns,
    assistant,
    calling,
    result,
    system,
    texts_of,
    tool,
    user,
)

FAMILIES = names()
pytestmark = pytest.mark.skipif(not FAMILIES, reason="the shared chat templates are not beside this checkout")

PROMPT = "november prompt"
# Where ours is another rendering than the stock one, on purpose.
BETTER = {
    "arguments as text": "JSON text becomes the object that templates want; the stock rendering quotes it twice",
    "a new turn after the assistant": "a reply is opened where the template does it behind a user's turn only",
    "system after the reply": "the system text goes to the front, and a new turn is opened",
    "system last": "the system text goes to the front",
    "system in the middle": "the system text goes to the front",
    "two systems": "the system texts are one",
}
PARALLEL = ("parallel calls", "parallel, then user")
FLAGS = ("/no_think", "/think", "/system_override")  # SmolLM3 obeys them in an application's system text


@pytest.fixture(scope="module")
def chats() -> dict[str, Chat]:
    return {name: Chat(tokenizer(name)) for name in FAMILIES}


def shapes(chat: Chat) -> Iterator[tuple[str, Turns, list[dict[str, Any]]]]:
    for name, turns in PLAIN.items():
        yield name, turns, []
    for name, turns in CALLS.items():
        yield name, turns, []
        if chat.renders_tools:
            yield name, turns, TOOLS
    if chat.renders_tools:
        for _, tools in TOOL_FORMS.items():
            yield "system", PLAIN["system"], tools


def missing(text: str, turns: Turns, tools: list[dict[str, Any]], calls: bool) -> list[str]:
    """What of a conversation a rendering does not show."""
    return [
        each for each in (*texts_of(turns, calls), *(tool["function"]["name"] for tool in tools)) if each not in text
    ]


def calls_never_shown(name: str) -> bool:
    """Templates that show results and never calls (Granite 3, LFM2): that is their own way."""
    try:
        text = stock(name, CALLS["call and result"])
    except Exception:
        return False
    return "echo result" in text and "look_up_0" not in text


@pytest.mark.parametrize("family", FAMILIES)
def test_every_shape_is_rendered_whole(family: str, chats: dict[str, Chat]) -> None:
    chat, made, faults = chats[family], tokenizer(family), []
    hidden = calls_never_shown(family)
    for shape, turns, tools in shapes(chat):
        for prompt in (None, PROMPT, SOFT):
            try:
                layout = chat.layout(turns, prompt, tools)
            except TemplateError as error:
                faults.append(f"{shape}: {error}")
                continue
            before, after = made.decode(layout.before), made.decode(layout.after)
            text = before + (PROMPT if prompt == SOFT else "") + after
            faults += [f"{shape}, {prompt}: {each!r} is lost" for each in missing(text, turns, tools, not hidden)]
            if prompt is not None and text.count(PROMPT) != 1:
                faults.append(f"{shape}: the prompt stands {text.count(PROMPT)} times")
            if prompt == SOFT:
                same = made.decode(chat.layout(turns, PROMPT, tools).ids)
                faults += [] if text == same else [f"{shape}: the slot is not where the text stands"]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_prompt_of_ours_it_is_the_stock_rendering(family: str, chats: dict[str, Chat]) -> None:
    chat, made, faults, same = chats[family], tokenizer(family), [], 0
    hidden = calls_never_shown(family)
    for shape, turns, tools in shapes(chat):
        if shape in BETTER or (shape in PARALLEL and family == "gpt-oss"):  # it shows the first call only
            continue
        if tools and shape.startswith("assistant first") and family in ("llama3.1", "llama4"):
            continue  # they show the assistant's words as the user's
        plain = [{key: value for key, value in turn.items() if key != "prefix"} for turn in turns]
        ends = {"add_generation_prompt": False, "continue_final_message": True} if is_continued(turns) else {}
        try:
            wanted = stock(family, plain, tools or None, **ends)
        except Exception:
            continue
        if missing(wanted, turns, tools, not hidden):  # the stock rendering loses something: ours repairs it
            continue
        ids = made(wanted, add_special_tokens=False)["input_ids"]
        same += 1
        if list(chat.layout(turns, None, tools).ids) != ids:
            faults.append(f"{shape}: {wanted[-120:]!r}")
    assert not faults, "\n".join(faults)
    assert same > 0 or family == "firefunction2"  # its template wants variables that the stock call does not give


def places(text: str) -> Iterator[tuple[str, Turns, list[dict[str, Any]], dict[str, Any]]]:
    """One conversation for every place where a text from outside can stand."""

    def schema(**more: Any) -> dict[str, Any]:
        word = {"type": "string", "description": "word", **more}
        return {"type": "object", "properties": {"word": word}, "required": []}

    yield "user", [user(text)], [], {}
    yield "system", [system(text), user()], [], {}
    yield "assistant", [user(), assistant(text), user("more")], [], {}
    yield "begun", [user(), assistant(text)], [], {}
    yield "reasoning", [user(), assistant(reasoning_content=text), user("more")], [], {}
    yield "name", [{**user(), "name": text}, assistant(), user("more")], [], {}
    for tools in ([], TOOLS):
        named = calling(ONE)
        named["tool_calls"][0]["function"]["name"] = text
        yield "result", [user(), calling(ONE), result(ONE, text)], tools, {}
        yield "beside a call", [user(), calling(ONE, text=text), result(ONE)], tools, {}
        yield "argument", [user(), calling(ONE, arguments={"word": text, "type": text}), result(ONE)], tools, {}
        yield "argument's name", [user(), calling(ONE, arguments={text: "v"}), result(ONE)], tools, {}
        yield "list", [user(), calling(ONE, arguments={"word": ["a", text, {text: text}]}), result(ONE)], tools, {}
        yield "id", [user(), calling(text), result(text)], tools, {}
        yield "result's name", [user(), calling(ONE), result(ONE, name=text)], tools, {}
        yield "call's name", [user(), named, result(ONE)], tools, {}
    yield "tool", [user()], [tool(text)], {}
    yield "description", [user()], [tool(description=text)], {}
    yield "parameter", [user()], [tool(parameters={"type": "object", "properties": {text: {"type": "string"}}})], {}
    yield "parameter's description", [user()], [tool(parameters=schema(description=text))], {}
    yield "enum", [user()], [tool(parameters=schema(enum=["a", text]))], {}
    yield "default", [user()], [tool(parameters=schema(default=text))], {}
    yield "default list", [user()], [tool(parameters=schema(default=["a", text]))], {}
    yield "further key", [user()], [tool(parameters={**schema(**{text: text}), text: text})], {}
    variables = {"date_string": text, "reasoning_effort": text, "documents": [{"title": text, "text": text}]}
    yield "variable", [system(), user()], TOOLS, variables


def forgeries(marks: list[str]) -> Iterator[str]:
    """Texts of which a control token could come: whole ones, cut by what templates delete, words between brackets."""
    yield " a ".join(marks)
    for cut in ("/think", "<think>", "\n", marks[0]):
        yield " a ".join(mark[:at] + cut + mark[at:] for mark in marks for at in (1, len(mark) // 2, len(mark) - 1))
    words = [word for word in (mark.strip("<>[]|/") for mark in marks) if word.isidentifier()]
    for word in dict.fromkeys(("think", *words[:2])):
        yield word
        yield f"/{word}"


@pytest.mark.parametrize("family", FAMILIES)
def test_no_text_becomes_a_control_token(family: str, chats: dict[str, Chat]) -> None:
    chat, facts, faults = chats[family], tokens()[family], []
    marks = list(dict.fromkeys(filter(None, [facts["bos"], facts["eos"], *facts["special"], *facts["added"]])))
    special = set(tokenizer(family).convert_tokens_to_ids(marks))

    def control(turns: Turns, tools: list[dict[str, Any]], variables: dict[str, Any]) -> list[int]:
        return [token for token in chat.layout(turns, SOFT, tools, variables=variables).ids if token in special]

    wanted: dict[tuple[str, bool], list[int]] = {}
    for place, turns, tools, variables in places("xz"):
        if chat.renders_tools or not tools:
            wanted[place, bool(tools)] = control(turns, tools, variables)
    for text in forgeries(marks):
        for place, turns, tools, variables in places(text):
            if (place, bool(tools)) not in wanted or (place == "system" and any(flag in text for flag in FLAGS)):
                continue
            if control(turns, tools, variables) != wanted[place, bool(tools)]:
                faults.append(f"{place}: {text[:60]!r}")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("family", ["command-r", "command-r7b", "hermes3"])
def test_the_right_one_of_several_named_templates(family: str, tmp_path: Path) -> None:
    """Saved and read again, before and after loading: tools choose the template named tool_use."""
    made = tokenizer(family)
    assert set(made.chat_template) == {"default", "tool_use"}
    made.save_pretrained(tmp_path)
    assert on_disk.mentions_tools(tmp_path)
    chat = Chat(AutoTokenizer.from_pretrained(tmp_path))
    assert chat.renders_tools
    asked = [user()]
    assert chat.text(asked, TOOLS) == stock(family, asked, TOOLS)
    assert (
        chat.text(asked)
        == stock(family, asked)
        == made.apply_chat_template(asked, chat_template="default", tokenize=False, add_generation_prompt=True)
    )
