from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from llama_index.core.base.embeddings.base import SimilarityMode
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index.retrievers.d2llm import D2LLMEmbedding

from d2llm_vdb import Student
from d2llm_vdb.errors import InputError

TEXTS = ["Qdrant is a vector database.", "A cod lives in the sea.", "Loops end with break."]


@pytest.fixture
def model(student: Student) -> D2LLMEmbedding:
    return D2LLMEmbedding(student=student, embed_batch_size=2)


async def test_embeddings_are_the_students_recall_vectors(
    student: Student, model: D2LLMEmbedding
) -> None:
    wanted = student.encode_document(TEXTS)
    for vectors in (
        model.get_text_embedding_batch(TEXTS),
        await model.aget_text_embedding_batch(TEXTS),
        [model.get_text_embedding(text) for text in TEXTS],
        [await model.aget_text_embedding(text) for text in TEXTS],
    ):
        assert isinstance(vectors[0][0], float)
        np.testing.assert_allclose(vectors, wanted, atol=5e-3)
    query = student.encode_query("What is Qdrant?")
    np.testing.assert_allclose(model.get_query_embedding("What is Qdrant?"), query, atol=5e-3)
    vector = await model.aget_query_embedding("What is Qdrant?")
    cosines = [model.similarity(vector, other, SimilarityMode.DEFAULT) for other in wanted.tolist()]
    assert np.argmax(cosines) == 0


async def test_embedding_is_told_batch_by_batch(model: D2LLMEmbedding, recorder: Any) -> None:
    model.get_text_embedding_batch(TEXTS)
    assert recorder.names == ["EmbeddingStartEvent", "EmbeddingEndEvent"] * 2
    told = recorder.events[1]
    assert isinstance(told, EmbeddingEndEvent)
    assert told.chunks == TEXTS[:2]


def test_a_cache_of_llamaindex_is_asked_first(student: Student, monkeypatch: Any) -> None:
    model = D2LLMEmbedding(student=student, embeddings_cache=SimpleKVStore())
    first = model.get_text_embedding_batch(TEXTS)
    monkeypatch.setattr(student, "encode_document", None)
    assert model.get_text_embedding_batch(TEXTS) == first


def test_students_are_told_apart_by_name_and_are_not_written(
    student: Student, model: D2LLMEmbedding
) -> None:
    assert student.fingerprint in model.model_name
    assert "student" not in model.to_dict()


def test_a_blank_text_is_refused(model: D2LLMEmbedding) -> None:
    with pytest.raises(InputError, match="blank"):
        model.get_text_embedding_batch(["fine", " "])


async def test_the_event_loop_runs_on_while_texts_are_encoded(
    model: D2LLMEmbedding, overlap: Any
) -> None:
    several = await overlap(
        "encode_document", *(model.aget_text_embedding_batch(TEXTS) for _ in range(3))
    )
    assert all(len(vectors) == len(TEXTS) for vectors in several)
    assert len(await asyncio.gather(model.aget_query_embedding("What?"))) == 1
