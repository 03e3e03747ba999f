"""The examples run: here on a scripted model, and on the bundled model where that is built (marked slow)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

import acd_core
from acd_integrations import langchain as adapter
from tests.langchain.conftest import MakeChat
from tests.langchain.standard_script import call, offered, turns

EXAMPLES = Path(__file__).parents[2] / "examples"
REFERENCE = Path(acd_core.__file__).parent / "reference"
NAMES = ("langchain_chain", "langchain_agent", "langchain_graph", "langchain_batch")


def example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def reply(prompt: str) -> str:
    role, text = turns(prompt)[-1]
    if role == "user" and "get_weather" in offered(prompt):
        return call("get_weather", {"city": "Oslo"})
    return f"About that: {text}"


@pytest.mark.parametrize("name", NAMES)
def test_on_a_scripted_model(name: str, make_chat: MakeChat, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = make_chat(reply)
    module = example(name)
    monkeypatch.setattr(module, "ChatACD", lambda model, pair, **settings: adapter.ChatACD.from_lm(llm.lm, **settings))
    said = module.main()
    assert "About that" in str(said)
    if name == "langchain_agent":
        assert "It is sunny in Oslo." in str(said)


@pytest.mark.slow
@pytest.mark.skipif(not (REFERENCE / "pair" / "pair.json").is_file(), reason="the bundled pair is not built")
@pytest.mark.parametrize("name", NAMES)
def test_on_the_bundled_model(name: str) -> None:
    assert example(name).main()
