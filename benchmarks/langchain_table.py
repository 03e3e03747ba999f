"""The same 30 calls on the stock local adapter and on ChatACD, over the same weights: what each returns or raises.

    pip install --target out/stock --no-deps langchain-huggingface==1.2.3       # its pins need not hold for the rest
    PYTHONPATH=out/stock python benchmarks/langchain_table.py --out benchmarks/results/langchain_table.md

Both sides hold the bundled model's weights, in float32, greedy; ChatACD with the method "none", so that both have the
same text to give. The stock side is ChatHuggingFace over a HuggingFacePipeline as its documentation builds it, with
return_full_text=False (by default every reply begins with the whole prompt) and a tokenizer without a response template
(with one, pipelines leave the end-of-turn token in every reply). A tick means that the call gave what the row asks for;
every row is checked by one piece of code for both sides. Where the model must decide something (whether to call a tool
without being forced), a cross may be the model's.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import logging
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel, Field
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from acd_core import ContrastiveLM
from acd_core.bundled import REFERENCE_MODEL_DIR
from acd_core.evaluation.page import table
from acd_core.evaluation.report import machine
from acd_core.toolcalls import special_tokens
from acd_integrations.langchain import ChatACD

QUESTION = "How do I fold a shirt?"
WIDTH, TAIL = 90, 22


@tool
def get_weather(location: Annotated[str, Field(max_length=40)]) -> str:
    """Get the current weather in a location."""
    return f"It is sunny in {location}."


@tool
def get_time() -> str:
    """Returns the current time."""
    return "It is noon."


class Joke(BaseModel):
    """A joke to tell the user."""

    setup: str = Field(max_length=40)  # a small model may never end a text of its own accord
    punchline: str = Field(max_length=40)


class Side:
    """One adapter under test, and what a right answer looks like for these weights."""

    def __init__(self, name: str, llm: Any, tokenizer: Any, model: Any, solo: str) -> None:
        self.name, self.llm, self.tokenizer, self.model, self.solo = name, llm, tokenizer, model, solo
        self.ids: list[list[int]] = []
        model.get_input_embeddings().register_forward_hook(self._note)

    def _note(self, module: Any, args: Any, output: Any) -> None:
        self.ids.extend(args[0].tolist() if args[0].ndim == 2 else [args[0].tolist()])

    def prompt_ids(self, ask: Callable[[], Any]) -> list[int]:
        """The ids of the longest forward that `ask` causes: the prompt."""
        self.ids.clear()
        ask()
        return max(self.ids, key=len)


def added(pieces: Sequence[Any]) -> Any:
    return functools.reduce(lambda one, other: one + other, pieces)


def ran(work: Any) -> Any:
    return asyncio.run(work)


async def gathered(pieces: Any) -> list[Any]:
    return [piece async for piece in pieces]


def text(message: Any) -> str:
    return str(message.content)


def calls(message: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(call["name"], call["args"]) for call in message.tool_calls]


def streamed(side: Side, **settings: Any) -> Any:
    return added(list(side.llm.stream(QUESTION, **settings)))


def ending(message: Any) -> tuple[Any, Any]:
    return message.usage_metadata, message.response_metadata.get("finish_reason")


def invoked(side: Side, asked: Any = QUESTION, **settings: Any) -> str:
    return text(side.llm.invoke(asked, **settings))


def history() -> list[Any]:
    made = {"name": "get_time", "args": {}, "id": "abcdefghi", "type": "tool_call"}
    result = ToolMessage("noon", tool_call_id="abcdefghi")
    return [HumanMessage("What time is it?"), AIMessage("", tool_calls=[made]), result]


def forgery(side: Side) -> tuple[int, int]:
    """Control tokens in a prompt whose user text spells three of them, and in one that spells none."""
    special = set(special_tokens(side.tokenizer))
    eos = side.tokenizer.eos_token
    counts = []
    for asked in (f"Hi {eos}{eos}{eos} there", "Hi there"):
        ids = side.prompt_ids(lambda asked=asked: side.llm.invoke(asked))  # type: ignore[misc]
        counts.append(sum(token in special for token in ids))
    return counts[0], counts[1]


def offline_count(side: Side) -> int:
    """Tokens of a message, with the network shut."""
    connect = socket.socket.connect
    socket.socket.connect = functools.partialmethod(_no_network)  # type: ignore[assignment,method-assign]
    try:
        return int(side.llm.get_num_tokens_from_messages([HumanMessage(QUESTION)]))
    finally:
        socket.socket.connect = connect  # type: ignore[method-assign]


def _no_network(*_: Any, **__: Any) -> None:
    raise OSError("no network")


def count_of(side: Side) -> int:
    rendered = side.tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], tokenize=False, add_generation_prompt=True
    )
    return len(side.tokenizer.encode(rendered, add_special_tokens=False))


def long_question(side: Side) -> str:
    return "word " * (side.model.config.max_position_embeddings + 10)


def agent(side: Side) -> Any:
    found = create_agent(side.llm, [get_weather, get_time]).invoke(
        {"messages": [HumanMessage("What time is it?")]}, {"recursion_limit": 6}
    )
    return [message.type for message in found["messages"]]


# What is asked, how, and whether what came back is right.
Row = tuple[str, Callable[[Side], Any], Callable[[Side, Any], bool]]
ROWS: tuple[Row, ...] = (
    ("invoke gives the reply and nothing else", invoked, lambda s, r: r == s.solo),
    ("invoke with a system text", lambda s: invoked(s, [SystemMessage("Be brief."), HumanMessage(QUESTION)]),
     lambda s, r: bool(r) and QUESTION not in r),
    ("usage_metadata", lambda s: s.llm.invoke(QUESTION).usage_metadata,
     lambda s, r: r is not None and r["input_tokens"] == count_of(s)),
    ("finish_reason and model_name",
     lambda s: {k: s.llm.invoke(QUESTION).response_metadata.get(k) for k in ("finish_reason", "model_name")},
     lambda s, r: all(r.values())),
    ("stream: the pieces add up to the reply", lambda s: text(streamed(s)),
     lambda s, r: r == s.solo),
    ("stream: usage and finish_reason",
     lambda s: ending(streamed(s)),
     lambda s, r: r[0] is not None and r[1] == "stop"),
    ("ainvoke", lambda s: text(ran(s.llm.ainvoke(QUESTION))), lambda s, r: r == s.solo),
    ("astream", lambda s: text(added(ran(gathered(s.llm.astream(QUESTION))))), lambda s, r: r == s.solo),
    ("batch of four", lambda s: [text(m) for m in s.llm.batch([QUESTION] * 4)], lambda s, r: r == [s.solo] * 4),
    ("abatch of four", lambda s: [text(m) for m in ran(s.llm.abatch([QUESTION] * 4))],
     lambda s, r: r == [s.solo] * 4),
    ("max_tokens=3 for one call", lambda s: invoked(s, max_tokens=3),
     lambda s, r: 0 < len(s.tokenizer.encode(r, add_special_tokens=False)) <= 4 and s.solo.startswith(r)),
    ("stop of several tokens, invoke", lambda s: invoked(s, stop=[s.solo[12:20]]), lambda s, r: r == s.solo[:12]),
    ("stop of several tokens, stream", lambda s: text(streamed(s, stop=[s.solo[12:20]])),
     lambda s, r: r == s.solo[:12]),
    ("temperature and seed for one call: two seeds differ",
     lambda s: len({invoked(s, temperature=3.0, seed=seed, max_tokens=12) for seed in (1, 2)}), lambda s, r: r == 2),
    ("an unknown setting raises", lambda s: invoked(s, temprature=0.5), lambda s, r: isinstance(r, Exception)),
    ("bind_tools: the tools reach the prompt",
     lambda s: "get_weather" in s.tokenizer.decode(
         s.prompt_ids(lambda: s.llm.bind_tools([get_weather]).invoke("What is the weather in Lisbon?"))),
     lambda s, r: r is True),
    ("bind_tools: the model's call comes back parsed",
     lambda s: calls(s.llm.bind_tools([get_time]).invoke("What time is it?")), lambda s, r: r == [("get_time", {})]),
    ('tool_choice="any", two tools',
     lambda s: calls(s.llm.bind_tools([get_weather, get_time], tool_choice="any").invoke("Hello!")),
     lambda s, r: len(r) >= 1),
    ("tool_choice by name, two tools",
     lambda s: calls(s.llm.bind_tools([get_weather, get_time], tool_choice="get_weather").invoke("Hello!")),
     lambda s, r: [name for name, _ in r][:1] == ["get_weather"]),
    ("a history that ends with a tool result", lambda s: text(s.llm.bind_tools([get_time]).invoke(history())),
     lambda s, r: bool(r) and "get_time" not in r),
    ("a conversation that ends with the assistant's turn",
     lambda s: invoked(s, [HumanMessage(QUESTION), AIMessage(s.solo[:12])]), lambda s, r: isinstance(r, str)),
    ("two system, two human messages in a row",
     lambda s: invoked(s, [SystemMessage("a"), SystemMessage("b"), HumanMessage("Hi."), HumanMessage(QUESTION)]),
     lambda s, r: bool(r) and QUESTION not in r),
    ("create_agent with two tools", agent, lambda s, r: r[:3] == ["human", "ai", "tool"]),
    ("with_structured_output(Pydantic)", lambda s: s.llm.with_structured_output(Joke).invoke("A joke."),
     lambda s, r: isinstance(r, Joke)),
    ("with_structured_output(JSON schema)",
     lambda s: s.llm.with_structured_output(Joke.model_json_schema(), method="json_schema").invoke("A joke."),
     lambda s, r: isinstance(r, dict) and set(r) == {"setup", "punchline"}),
    ('with_structured_output(method="function_calling")',
     lambda s: s.llm.with_structured_output(Joke.model_json_schema(), method="function_calling").invoke("A joke."),
     lambda s, r: isinstance(r, dict) and set(r) == {"setup", "punchline"}),
    ("token count without a network, as the template renders", offline_count, lambda s, r: r == count_of(s)),
    ("an image is refused by name",
     lambda s: invoked(s, [HumanMessage([{"type": "image", "base64": "AA==", "mime_type": "image/png"}])]),
     lambda s, r: isinstance(r, Exception) and "image" in str(r)),
    ("a conversation longer than the context raises", lambda s: invoked(s, long_question(s)),
     lambda s, r: isinstance(r, Exception) and "context" in str(r).lower()),
    ("control tokens spelled in a message stay text (count with, without)", forgery, lambda s, r: r[0] == r[1]),
)  # fmt: skip


def shown(result: Any) -> str:
    """A result or an error, in one short table cell."""
    kind = f"raises {type(result).__name__}: " if isinstance(result, BaseException) else ""
    words = " ".join(f"{kind}{result if kind or isinstance(result, str) else repr(result)}".split())
    words = words if len(words) <= WIDTH else f"{words[: WIDTH - TAIL]} … {words[-TAIL:]}"
    return "`" + words.replace("`", "'").replace("|", "\\|") + "`" if words else "(nothing)"


def outcome(side: Side, row: Row) -> tuple[bool, str]:
    """Whether the row's call gave what it should, and what it gave."""
    _, ask, right = row
    try:
        result = ask(side)
    except Exception as error:
        result = error
    try:
        good = right(side, result)
    except Exception:  # an error where a value was due
        good = False
    return good, shown(result)


def sides(model_name: str) -> list[Side]:
    """The stock adapter and ours, each over weights of its own loading, so that hooks stay apart."""
    from langchain_huggingface import ChatHuggingFace, HuggingFacePipeline

    def loaded() -> tuple[Any, Any]:
        model = AutoModelForCausalLM.from_pretrained(model_name, dtype=torch.float32).eval()
        return model, AutoTokenizer.from_pretrained(model_name)

    model, tokenizer = loaded()
    known = "reference" if Path(model_name) == REFERENCE_MODEL_DIR else Path(model_name).name
    lm = ContrastiveLM.from_model(model, tokenizer, model_id=known)
    solo = lm.generate(QUESTION, max_tokens=60).text
    ours = Side("ChatACD", ChatACD.from_lm(lm, max_tokens=60), tokenizer, model, solo)

    model, tokenizer = loaded()
    tokenizer.response_template = None
    maker = pipeline(
        "text-generation", model=model, tokenizer=tokenizer, max_new_tokens=60, do_sample=False, return_full_text=False
    )
    stock = Side("ChatHuggingFace", ChatHuggingFace(llm=HuggingFacePipeline(pipeline=maker)), tokenizer, model, solo)
    return [stock, ours]


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(REFERENCE_MODEL_DIR))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/langchain_table.md"))
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    try:
        stock, ours = sides(chosen.model)
    except ImportError as error:
        print(f"{error}\nInstall langchain-huggingface beside the project; see the top of this file.", file=sys.stderr)
        return 1
    rows: list[list[str]] = []
    score = {stock.name: 0, ours.name: 0}
    for number, row in enumerate(ROWS, 1):
        cells = [str(number), row[0]]
        for side in (stock, ours):
            start = time.perf_counter()
            good, said = outcome(side, row)
            score[side.name] += good
            cells.append(f"{'✓' if good else '✗'} {said}")
            print(f"{number:2} {side.name:16} {good!s:5} {time.perf_counter() - start:6.1f} s  {said}", file=sys.stderr)
        rows.append(cells)
    facts = {**machine(), **{name: installed(name) for name in ("langchain-core", "langchain-huggingface")}}
    header = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    model = "the bundled model" if Path(chosen.model) == REFERENCE_MODEL_DIR else chosen.model
    total = ", ".join(f"{name} {count} of {len(ROWS)}" for name, count in score.items())
    text = (
        f"# The same {len(ROWS)} calls on ChatHuggingFace (local pipeline) and ChatACD\n\n"
        f'Same weights ({model}, float32, greedy, method "none"). The stock side has return_full_text=False and a '
        f"tokenizer without a response template, which suits it best. As asked for: {total}. Written by "
        f"`benchmarks/langchain_table.py`, where every call and its check stand.\n\n{header}\n\n"
        f"{table(['', 'call', stock.name, ours.name], rows)}\n"
    )
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(text, encoding="utf-8")
    print(total)
    return 0


if __name__ == "__main__":
    sys.exit(main())
