"""Two agents over one model: FunctionAgent, which calls tools in the model's own format, and ReActAgent, in words.

    python examples/llama_index_agents.py

ReActAgent needs a model that follows its format of thoughts and actions; the bundled one is too small for that and says
so by failing, which the example reports.
"""

import asyncio

from llama_index.core.agent.workflow import AgentStream, FunctionAgent, ReActAgent, ToolCallResult
from llama_index.core.workflow.errors import WorkflowRuntimeError
from llama_index_shared import model_of_command_line


def get_weather(location: str) -> str:
    """Get the current weather in a location."""
    return f"It is sunny in {location}."


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def ask(agent: FunctionAgent | ReActAgent, question: str) -> None:
    print(f"you: {question}")
    handler = agent.run(question, max_iterations=4)
    async for event in handler.stream_events():
        if isinstance(event, ToolCallResult):
            print(f"  {event.tool_name}({event.tool_kwargs}) -> {event.tool_output.content}")
        elif isinstance(event, AgentStream) and event.delta:
            print(event.delta, end="", flush=True)
    await handler
    print()


async def main() -> None:
    llm = await model_of_command_line(__doc__, "reference", max_tokens=96).aload()
    agent = FunctionAgent(tools=[get_weather, add], llm=llm)
    for question in ("What is the weather in Fenmoor?", "Add 12 and 30."):
        await ask(agent, question)
    try:
        await ask(ReActAgent(tools=[get_weather], llm=llm), "What is the weather in Saltby?")
    except (WorkflowRuntimeError, ValueError) as error:
        print(f"\nReActAgent gave up: {str(error)[:100]}")


if __name__ == "__main__":
    asyncio.run(main())
