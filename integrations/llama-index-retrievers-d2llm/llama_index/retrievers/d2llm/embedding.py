"""The student as a LlamaIndex embedding model."""

from __future__ import annotations

import asyncio
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field

from d2llm_vdb.student import Student

Vector = list[float]


class D2LLMEmbedding(BaseEmbedding):
    """A student's recall vectors: unit length, the same for a text alone or in a batch.

    They are what `Index` recalls by, for components that only know vectors. Reranking needs more
    than them: `D2LLMVectorStore`, or `D2LLMRerank` behind any retriever.

    Args:
        student: encodes; the one that ships with the package where it is left out. Several
            components may share one.
        embed_batch_size: texts a call.

    `model_name` tells students apart by their fingerprint, in traces and in caches.

    Raises:
        ValidationError: a field cannot be used.
    """

    student: Student = Field(default_factory=Student.default, exclude=True)
    embed_batch_size: int = Field(default=256, gt=0, le=2048)

    def model_post_init(self, context: Any, /) -> None:
        """Name the model after the student, unless it was named."""
        super().model_post_init(context)
        if "model_name" not in self.model_fields_set:
            self.model_name = f"d2llm/{self.student.fingerprint}"

    @classmethod
    def class_name(cls) -> str:
        """Name the class in what LlamaIndex writes."""
        return "D2LLMEmbedding"

    def _get_query_embedding(self, query: str) -> Vector:
        vector: Vector = self.student.encode_query(query).tolist()
        return vector

    async def _aget_query_embedding(self, query: str) -> Vector:
        return await asyncio.to_thread(self._get_query_embedding, query)

    def _get_text_embedding(self, text: str) -> Vector:
        vector: Vector = self.student.encode_document(text).tolist()
        return vector

    async def _aget_text_embedding(self, text: str) -> Vector:
        return await asyncio.to_thread(self._get_text_embedding, text)

    def _get_text_embeddings(self, texts: list[str]) -> list[Vector]:
        vectors: list[Vector] = self.student.encode_document(texts).tolist()
        return vectors

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Vector]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)
