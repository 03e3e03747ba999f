"""A LangGraph graph with memory, where each call chooses how strongly to contrast.

python examples/langchain_graph.py --model smollm2 --pair smollm2
"""

import argparse
from typing import Any

from langchain_core.runnables import ConfigurableField, RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from acd_integrations.langchain import ChatACD


def build(llm: ChatACD) -> Any:
    """A graph of one node that answers and remembers; `alpha` is set in the config of a call."""
    chat = llm.configurable_fields(alpha=ConfigurableField(id="alpha", name="Strength of the contrast"))

    def talk(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
        return {"messages": [chat.invoke(state["messages"], config)]}

    builder = StateGraph(MessagesState)
    builder.add_node("talk", talk)
    builder.add_edge(START, "talk")
    return builder.compile(checkpointer=InMemorySaver())


def main(model: str = "smollm2", pair: str = "smollm2") -> list[str]:
    graph = build(ChatACD(model=model, pair=pair, max_tokens=80))
    said = []
    for alpha, question in ((0.4, "How do I water a cactus?"), (0.6, "And how often?")):
        config = {"configurable": {"thread_id": "one", "alpha": alpha}}
        state = graph.invoke({"messages": [("human", question)]}, config)
        said.append(str(state["messages"][-1].content))
        print(f"alpha {alpha}: {question}\n  {said[-1]}")
    return said


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--pair", default="smollm2")
    main(**vars(parser.parse_args()))
