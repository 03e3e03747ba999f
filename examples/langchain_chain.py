"""The one-line swap: a LangChain chain over a local model, plain and with ACD.

python examples/langchain_chain.py --model smollm2 --pair smollm2
"""

from __future__ import annotations

import argparse

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from acd_integrations.langchain import ChatACD


def main(model: str = "smollm2", pair: str = "smollm2", question: str = "How do I sharpen a kitchen knife?") -> str:
    llm = ChatACD(model=model, pair=pair, max_tokens=120)  # was: ChatHuggingFace(...)

    prompt = ChatPromptTemplate.from_messages([("system", "Answer briefly."), ("human", "{question}")])
    chain = prompt | llm | StrOutputParser()

    for piece in chain.stream({"question": question}):
        print(piece, end="", flush=True)
    print()
    plain = (prompt | llm.bind(method="none") | StrOutputParser()).invoke({"question": question})
    print("without ACD:", plain)
    return chain.invoke({"question": question})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--pair", default="smollm2")
    parser.add_argument("--question", default="How do I sharpen a kitchen knife?")
    main(**vars(parser.parse_args()))
