"""What `acd demo` shows of the frameworks: a LangChain chain and a LlamaIndex query engine over one model.

Registered in pyproject.toml as the entry point `frameworks` of the group `acd.demo`; `acd_core` never names it.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from acd_core.cli.demo import DemoReply
from acd_core.errors import missing_extra

try:
    from langchain_core.callbacks import BaseCallbackHandler
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import ChatPromptTemplate
except ImportError as error:  # pragma: no cover - depends on the installation
    raise missing_extra("langchain-core", "langchain") from error
try:
    from llama_index.core import PromptHelper, get_response_synthesizer
    from llama_index.core.query_engine import RetrieverQueryEngine
    from llama_index.core.retrievers import BaseRetriever
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
except ImportError as error:  # pragma: no cover - depends on the installation
    raise missing_extra("llama-index-core", "llama-index") from error

from acd_integrations.langchain import ChatACD
from acd_integrations.llama_index import ACDLLM

if TYPE_CHECKING:
    from acd_core.lm import ContrastiveLM

CONCURRENCY = 32
"""Requests in flight at a time. They share forward passes."""


class _Frameworks:
    """See `acd_core.cli.demo.Side`."""

    def __init__(self, lm: ContrastiveLM, documents: Mapping[str, str], max_tokens: int) -> None:
        chat_model = ChatACD.from_lm(lm, max_tokens=max_tokens)
        self._chain = ChatPromptTemplate.from_messages([("user", "{request}")]) | chat_model | StrOutputParser()

        llm = ACDLLM.from_lm(lm, max_tokens=max_tokens)
        self._count = llm.token_ids
        helper = PromptHelper.from_llm_metadata(llm.metadata, tokenizer=llm.token_ids)
        self._engine = RetrieverQueryEngine(
            retriever=WordOverlap(documents),
            response_synthesizer=get_response_synthesizer(llm=llm, prompt_helper=helper),
        )

    def answer(self, requests: Sequence[str], questions: Sequence[str], done: Callable[[int], None]) -> list[DemoReply]:
        return [*self._chat(requests, done), *self._query(questions)]

    def _chat(self, requests: Sequence[str], done: Callable[[int], None]) -> list[DemoReply]:
        counters = [_Tokens() for _ in requests]
        configs: Any = [{"callbacks": [counter], "max_concurrency": CONCURRENCY} for counter in counters]
        texts: dict[int, str] = {}
        for index, text in self._chain.batch_as_completed([{"request": text} for text in requests], configs):
            texts[index] = str(text)
            done(len(texts))
        return [DemoReply(texts[index], counter.tokens) for index, counter in enumerate(counters)]

    def _query(self, questions: Sequence[str]) -> list[DemoReply]:
        async def all_of_them() -> list[Any]:
            return await asyncio.gather(*(self._engine.aquery(question) for question in questions))

        answers = asyncio.run(all_of_them())
        return [
            DemoReply(str(answer), len(self._count(str(answer))), answer.source_nodes[0].node.metadata["name"])
            for answer in answers
        ]


def build(lm: ContrastiveLM, documents: Mapping[str, str], *, max_tokens: int) -> _Frameworks:
    """Both frameworks over `lm`, which stays the caller's to close. documents: texts by name."""
    return _Frameworks(lm, documents, max_tokens)


class _Tokens(BaseCallbackHandler):
    """How many tokens one call of the model took, as LangChain reports usage."""

    tokens = 0

    def on_llm_end(self, response: Any, **kwargs: Any) -> None:
        self.tokens += response.generations[0][0].message.usage_metadata["output_tokens"]


class WordOverlap(BaseRetriever):
    """The paragraph that shares the rarest words with the question: deterministic, and without an embedding model.

    Good enough for a handful of demo documents and for nothing else; a real application brings its own index.
    """

    def __init__(self, documents: Mapping[str, str], top: int = 1) -> None:
        super().__init__()
        self._top = top
        self._nodes = [
            TextNode(text=paragraph.strip(), metadata={"name": name}, excluded_llm_metadata_keys=["name"])
            for name, text in documents.items()
            for paragraph in text.split("\n\n")
            if paragraph.strip()
        ]
        self._words = [_words(node.text) for node in self._nodes]
        self._spread = Counter(word for words in self._words for word in words)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        wanted = _words(query_bundle.query_str)
        scores = [
            sum(math.log(1 + len(self._nodes) / self._spread[word]) for word in wanted & words) for words in self._words
        ]
        best = sorted(range(len(scores)), key=lambda index: -scores[index])[: self._top]
        return [NodeWithScore(node=self._nodes[index], score=scores[index]) for index in best]


def _words(text: str) -> set[str]:
    """Words of four letters and more, without a plural s."""
    return {word.removesuffix("s") for word in re.findall(r"[a-z0-9]{4,}", text.lower())}
