"""smolagents on a protected model: an adapter for a framework that this package does not depend on.

    pip install smolagents
    python examples/smolagents_model.py

What every adapter does: hand messages and settings down, hand the reply up in the host's words, say what was refused.
"""

from __future__ import annotations

from typing import Any

from smolagents import ChatMessage, MessageRole, Model, TokenUsage, ToolCallingAgent, tool
from smolagents.models import ChatMessageToolCall, ChatMessageToolCallFunction

from acd_core import ContrastiveLM, Policy
from acd_core.params import ToolCall


class ACDModel(Model):
    """A smolagents model over a `ContrastiveLM`. settings: those of GenerationParams, for every call."""

    def __init__(self, lm: ContrastiveLM, policy: Policy | None = None, **settings: Any) -> None:
        super().__init__(flatten_messages_as_text=True, model_id=lm.model_id, **settings)
        self.lm, self.policy = lm, policy

    def generate(
        self,
        messages: list[ChatMessage],
        stop_sequences: list[str] | None = None,
        response_format: dict[str, str] | None = None,
        tools_to_call_from: list[Any] | None = None,
        **kwargs: Any,
    ) -> ChatMessage:
        asked = self._prepare_completion_kwargs(messages, None, response_format, tools_to_call_from, **kwargs)
        turns = [{**turn, "role": str(getattr(turn["role"], "value", turn["role"]))} for turn in asked.pop("messages")]
        made = self.lm.generate(turns, policy=self.policy, stop=stop_sequences or (), **asked)
        calls = [ChatMessageToolCall(function=_function(call), id=call.id, type="function") for call in made.tool_calls]
        usage = TokenUsage(made.usage.prompt_tokens, made.usage.completion_tokens)
        text = made.refusal or made.text
        return ChatMessage(MessageRole.ASSISTANT, text, calls or None, raw=made, token_usage=usage)


def _function(call: ToolCall) -> ChatMessageToolCallFunction:
    return ChatMessageToolCallFunction(name=call.name, arguments=call.arguments)


@tool
def get_weather(city: str) -> str:
    """Get the current weather in a city.

    Args:
        city: its name
    """
    return f"It is sunny in {city}."


def main(model: str = "reference", pair: str = "reference", question: str = "What is the weather in Oslo?") -> str:
    with ContrastiveLM.from_pretrained(model, pair) as lm:
        agent = ToolCallingAgent([get_weather], ACDModel(lm, max_tokens=200), instructions="Be brief.", max_steps=3)
        return str(agent.run(question))


if __name__ == "__main__":
    print(main())
