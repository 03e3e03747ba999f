"""An embedding for tests: words hashed into buckets, no model, no download, the same vectors everywhere."""

from __future__ import annotations

import hashlib
import math
import re
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding

_STOP = frozenset("the a an of at in on is are was does do did how what when who which to for with by and it".split())


class HashedWords(BaseEmbedding):
    """Bag of words over `width` buckets, unit length."""

    width: int = 512

    def _vector(self, text: str) -> list[float]:
        vector = [0.0] * self.width
        for word in re.findall(r"[a-z0-9]+", text.lower()):
            if word not in _STOP:
                vector[int(hashlib.md5(word.rstrip("s").encode()).hexdigest(), 16) % self.width] += 1.0
        length = math.sqrt(sum(value * value for value in vector)) or 1.0
        return [value / length for value in vector]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._vector(text)

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._vector(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._vector(query)

    @classmethod
    def class_name(cls) -> str:
        return "HashedWords"

    def __init__(self, **data: Any) -> None:
        super().__init__(model_name="hashed-words", **data)
