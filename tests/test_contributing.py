"""The recipes of CONTRIBUTING.md, followed: each block runs as it stands, and the adapter it shows is a whole one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from acd_core import ContrastiveLM, Policy, PromptPair
from acd_core.errors import PolicyError
from tests.core.waiting import quiet
from tests.examples import example
from tests.scripted import ADVERSARIAL, SAFE, ScriptedModel, make_tokenizer

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
RECIPES = re.findall(r"^### (.+?)\n(.*?)(?=^##|\Z)", TEXT, re.S | re.M)
BLOCKS = {title: re.findall(r"^```python\n(.*?)^```", text, re.S | re.M) for title, text in RECIPES}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


@pytest.mark.parametrize("title", [title for title, blocks in BLOCKS.items() if blocks])
def test_a_recipe_runs(title: str, tmp_path: Path) -> None:
    env = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    for block in BLOCKS[title]:
        done = subprocess.run(
            [sys.executable, "-c", block], capture_output=True, text=True, cwd=tmp_path, env=env, timeout=240
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() or "print" not in block


def reply(prompt: str) -> str:
    if "9 C" in prompt and '"city": "Århus"' in prompt:
        return "9 degrees in Århus."
    if "weather" not in prompt:
        return "It is sunny, so to say."
    return '<tool_call>\n{"name": "weather", "arguments": {"city": "Århus"}}\n</tool_call>'


@pytest.fixture(scope="module")
def lm() -> Iterator[ContrastiveLM]:
    tokenizer = make_tokenizer()
    model = ScriptedModel(tokenizer, reply, lure="Something else.", step_s=0.01)
    with ContrastiveLM.from_model(model, tokenizer, PromptPair.from_texts(SAFE, ADVERSARIAL)) as made:
        yield made


@pytest.fixture(scope="module")
def adapter() -> Any:
    return example("openai_shaped").OpenAIShaped


USER = {"role": "user", "content": "How is it outside?"}


def test_the_third_adapter_streams_what_it_returns(lm: ContrastiveLM, adapter: Any) -> None:
    whole = adapter(lm).create([USER])
    (choice,) = whole["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("It is sunny, so to say.", "stop")
    assert whole["usage"]["total_tokens"] == whole["usage"]["prompt_tokens"] + whole["usage"]["completion_tokens"]
    chunks = [chunk["choices"][0] for chunk in adapter(lm).stream([USER])]
    assert "".join(chunk["delta"].get("content", "") for chunk in chunks) == choice["message"]["content"]
    assert [chunk["finish_reason"] for chunk in chunks if chunk["finish_reason"]] == ["stop"]


def test_the_third_adapter_brings_calls_and_takes_them_back(lm: ContrastiveLM, adapter: Any) -> None:
    (choice,) = adapter(lm).create([USER], tools=[TOOL])["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Århus"}
    streamed = [
        each
        for chunk in adapter(lm).stream([USER], tools=[TOOL])
        for each in chunk["choices"][0]["delta"].get("tool_calls", ())
    ]
    assert [each["function"] for each in streamed] == [call["function"]]
    result = {"role": "tool", "tool_call_id": call["id"], "content": "9 C"}
    history = [USER, {**choice["message"], "content": ""}, result]
    assert adapter(lm).create(history)["choices"][0]["message"]["content"] == "9 degrees in Århus."


def test_the_third_adapter_stops_decoding_and_keeps_the_policy(lm: ContrastiveLM, adapter: Any) -> None:
    chunks = adapter(lm).stream([USER])
    next(chunks)
    chunks.close()
    quiet(lm)
    held = adapter(lm, Policy(as_served=True))
    with pytest.raises(PolicyError):
        held.create([USER], alpha=0.0)
