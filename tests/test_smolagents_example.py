"""An adapter for a framework that is no dependency: its own agent loop runs over a model whose words are known."""

from __future__ import annotations

import pytest

from acd_core import ContrastiveLM, Policy, PromptPair
from acd_core.errors import PolicyError
from tests import examples
from tests.scripted import ADVERSARIAL, SAFE, ScriptedModel, make_tokenizer

pytest.importorskip("smolagents", reason="pip install smolagents")


def said(prompt: str) -> str:
    name, arguments = "get_weather", '{"city": "Oslo"}'
    if "It is sunny in Oslo." in prompt:
        name, arguments = "final_answer", '{"answer": "sunny"}'
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def test_its_agent_calls_the_tool_and_answers() -> None:
    example = examples.example("smolagents_model")
    tokenizer = make_tokenizer()
    with ContrastiveLM.from_model(
        ScriptedModel(tokenizer, said, lure="Nothing."), tokenizer, PromptPair.from_texts(SAFE, ADVERSARIAL)
    ) as lm:
        model = example.ACDModel(lm, Policy(min_alpha=0.1), max_tokens=200)
        agent = example.ToolCallingAgent([example.get_weather], model, instructions="Be brief.", max_steps=3)
        assert agent.run("What is the weather in Oslo?") == "sunny"
        steps = [step for step in agent.memory.steps if getattr(step, "tool_calls", None)]
        assert [step.tool_calls[0].name for step in steps] == ["get_weather", "final_answer"]
        assert all(step.model_output_message.raw.report.contrasted_tokens > 0 for step in steps)
        with pytest.raises(PolicyError):
            model.generate([example.ChatMessage("user", [{"type": "text", "text": "Hello"}])], alpha=0.0)
