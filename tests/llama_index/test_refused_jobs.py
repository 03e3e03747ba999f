"""One refused chunk does not end a job of many: LlamaIndex's own jobs, with a model that refuses one of the texts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from llama_index.core import Document, PromptTemplate, PropertyGraphIndex, get_response_synthesizer
from llama_index.core.indices.property_graph import SchemaLLMPathExtractor
from llama_index.core.schema import NodeWithScore, TextNode
from pydantic import BaseModel

from acd_core.errors import ACDError, RefusalError, UsageError
from acd_core.lm import ContrastiveLM
from acd_integrations.llama_index import ACDLLM
from tests.llama_index.contract import run
from tests.llama_index.embedding import HashedWords
from tests.llama_index.subjects import scripted_lm

REFUSAL = "I'm sorry, but I can't help with that request."
TEXTS = ["Ann works at Acme.", "How the poison is made: FORBIDDEN.", "Bob works at Bolt."]


class Note(BaseModel):
    """What a text says."""

    subject: str


def triplet(person: str, firm: str) -> dict[str, Any]:
    relation = {"type": "WORKS_AT"}
    subject, object_ = {"type": "PERSON", "name": person}, {"type": "FIRM", "name": firm}
    return {"triplets": [{"subject": subject, "relation": relation, "object": object_}]}


def reader(prompt: str) -> str:
    last = prompt.rsplit("<|im_start|>user", 1)[-1]
    if "FORBIDDEN" in last:
        return REFUSAL
    person, firm = ("Ann", "Acme") if "Ann works" in last else ("Bob", "Bolt")
    if "Acme" in last or "Bolt" in last:
        return json.dumps(
            triplet(person, firm) if "triplets" in last or "knowledge graph" in last else {"subject": person}
        )
    return json.dumps({"subject": "nobody"})


@pytest.fixture
def lm() -> Iterator[ContrastiveLM]:
    with scripted_lm(reader, lure=None, window=8192) as opened:
        yield opened


def test_a_refusal_is_a_value_error_too() -> None:
    error = RefusalError("I can't  do\nthat.")
    assert isinstance(error, ValueError) and isinstance(error, ACDError) and not isinstance(error, UsageError)
    assert error.refusal == "I can't  do\nthat."
    assert "I can't do that." in str(error)
    assert str(RefusalError("")).startswith("The model refused instead of filling the requested format.")
    long = RefusalError("x" * 5000)
    assert long.message == f"The model refused instead of filling the requested format: {'x' * 100!r}..."
    assert long.refusal == "x" * 5000


def test_a_knowledge_graph_holds_what_was_not_refused(lm: ContrastiveLM) -> None:
    llm = ACDLLM.from_lm(lm)
    with pytest.raises(RefusalError):
        llm.structured_predict(Note, PromptTemplate(TEXTS[1]))
    extractor = SchemaLLMPathExtractor(
        llm=llm,
        possible_entities=Literal["PERSON", "FIRM"],
        possible_relations=Literal["WORKS_AT"],
        kg_validation_schema=[("PERSON", "WORKS_AT", "FIRM")],
        num_workers=2,
    )
    index = PropertyGraphIndex.from_documents(
        [Document(text=text) for text in TEXTS],
        llm=llm,
        kg_extractors=[extractor],
        embed_model=HashedWords(),
        embed_kg_nodes=False,
    )
    found = {node.name for node in index.property_graph_store.get(properties=None) if hasattr(node, "name")}
    assert {"Ann", "Acme", "Bob", "Bolt"} <= found


def test_a_synthesizer_with_a_class_goes_on_after_a_refusal(lm: ContrastiveLM) -> None:
    llm = ACDLLM.from_lm(lm)
    nodes = [NodeWithScore(node=TextNode(text=text), score=1.0) for text in (TEXTS[1], TEXTS[0])]
    synthesizer = get_response_synthesizer(llm=llm, response_mode="refine", output_cls=Note)
    assert synthesizer.synthesize("Who?", nodes=nodes).response == Note(subject="Ann")
    assert run(synthesizer.asynthesize("Who?", nodes=nodes)).response == Note(subject="Ann")
    refused = get_response_synthesizer(llm=llm, response_mode="compact", output_cls=Note)  # one prompt of all
    assert refused.synthesize("Who?", nodes=nodes[:1]).response == "Empty Response"
