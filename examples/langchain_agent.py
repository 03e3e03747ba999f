"""An agent with two tools, its tokens and calls streamed.

    python examples/langchain_agent.py --model Qwen/Qwen2.5-1.5B-Instruct --pair my-pair

SmolLM2's template knows no tools, so the default is the bundled test model: it writes well-formed calls and decides
badly.
"""

from __future__ import annotations

import argparse
from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessageChunk, ToolMessage
from langchain_core.tools import tool

from acd_integrations.langchain import ChatACD


@tool
def get_weather(city: str) -> str:
    """Get the current weather in a city."""
    return f"It is sunny in {city}."


@tool
def get_time(city: str) -> str:
    """Get the current time in a city."""
    return f"It is noon in {city}."


def main(model: str = "reference", pair: str = "reference", question: str = "What is the weather in Oslo?") -> str:
    agent: Any = create_agent(ChatACD(model=model, pair=pair, max_tokens=200), [get_weather, get_time])
    said = ""
    for message, _ in agent.stream({"messages": [("human", question)]}, {"recursion_limit": 8}, stream_mode="messages"):
        if isinstance(message, AIMessageChunk):
            print(message.text, end="", flush=True)
            for call in message.tool_call_chunks:
                print(f"\n[calls {call['name']} with {call['args']}]")
        elif isinstance(message, ToolMessage):
            print(f"[{message.name} says: {message.text}]")
        said += message.text
    print()
    return said


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="reference")
    parser.add_argument("--pair", default="reference")
    parser.add_argument("--question", default="What is the weather in Oslo?")
    main(**vars(parser.parse_args()))
