"""What the scripted model answers to the prompts of langchain-tests: it reads the rendered prompt, as a model would."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

from acd_core import ContrastiveLM, PromptPair
from acd_integrations.shared.holder import Holder
from tests.scripted import ADVERSARIAL, SAFE, ScriptedModel, make_tokenizer

JOKE = {"setup": "Why do cats sit on keyboards?", "punchline": "To keep an eye on the mouse."}
LURE = "Sure! Here is something else entirely."
CALLS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    (r"magic_function_no_args\(\)", "magic_function_no_args", {}),
    (r"magic_function\((?P<input>-?\d+)\)", "magic_function", {}),
    (r"Pirate greeting", "greeting_generator", {"answer_style": "Pirate"}),
    (r"^Hello!$", "magic_function", {"input": 1}),
    (r"What is (?P<a>\d+) \+ (?P<b>\d+)", "my_adder_tool", {}),
    (r"weather in (?P<location>[\w ,]+)\?", "get_weather", {}),
    (r"customer named '(?P<customer_name>[^']+)'", "unicode_customer", {"description": "A company."}),
    (r"joke", "Joke", JOKE),
    (r"joke", "JokeDict", JOKE),
)


def turns(prompt: str) -> list[tuple[str, str]]:
    """(role, text) of every finished turn of a rendered prompt."""
    return re.findall(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", prompt, re.DOTALL)


def offered(prompt: str) -> list[str]:
    """Names of the tools a rendered prompt offers."""
    lines = [line for line in prompt.splitlines() if line.startswith('{"type": "function"')]
    return [json.loads(line)["function"]["name"] for line in lines]


def call(name: str, arguments: dict[str, Any]) -> str:
    body = json.dumps(arguments, ensure_ascii=False)
    return f'<tool_call>\n{{"name": "{name}", "arguments": {body}}}\n</tool_call>'


def reply(prompt: str) -> str:
    """Tool results are told; a fitting tool is called; a joke is JSON; anything else is greeted."""
    role, text = turns(prompt)[-1]
    if role == "tool":
        return f"The result is {text}"
    tools = offered(prompt)
    for pattern, name, fixed in CALLS:
        found = re.search(pattern, text)
        if found and name in tools:
            caught = {
                key: int(value) if re.fullmatch(r"-?\d+", value) else value for key, value in found.groupdict().items()
            }
            return call(name, {**caught, **fixed})
    if "joke" in text:
        return json.dumps(JOKE)
    return f"Hello there, you said: {text[:20]}"


@functools.cache
def scripted_lm() -> ContrastiveLM:
    """The scripted model behind the real engine, with a textual pair: without the contrast it would say LURE."""
    corpus = [call(name, fixed) for _, name, fixed in CALLS] + [json.dumps(JOKE), LURE, SAFE, ADVERSARIAL]
    tokenizer = make_tokenizer(corpus=corpus)
    model = ScriptedModel(tokenizer, reply, lure=LURE)
    return ContrastiveLM.from_model(model, tokenizer, PromptPair.from_texts(SAFE, ADVERSARIAL))


def scripted_params() -> dict[str, Any]:
    """What makes a ChatACD over the scripted model."""
    lm = scripted_lm()
    return {"model": lm.model_id, "pair": lm.pair, "lm_holder": Holder(lm)}
