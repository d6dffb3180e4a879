from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_d2llm import D2LLMEmbeddings
from pydantic import ValidationError

from d2llm_vdb import Index, Passage, Student
from d2llm_vdb.errors import InputError

QUESTION = "What does a lambda expression create?"


@pytest.fixture(scope="module")
def embeddings(student: Student) -> D2LLMEmbeddings:
    return D2LLMEmbeddings(student=student)


def test_the_vectors_are_the_students_recall_vectors(
    embeddings: D2LLMEmbeddings, student: Student
) -> None:
    [query] = student.encode_queries([QUESTION])
    assert embeddings.embed_query(QUESTION) == pytest.approx(query.recall[0].tolist(), abs=1e-6)
    texts = ["A passage.", "Another passage, of more words than the first one."]
    [passages] = student.encode_passages(texts)
    for vector, recall in zip(embeddings.embed_documents(texts), passages.recall, strict=True):
        assert vector == pytest.approx(recall.tolist(), abs=1e-6)
    assert embeddings.embed_documents([]) == []


def test_another_vector_store_recalls_by_them_as_the_index_does(
    embeddings: D2LLMEmbeddings, index: Index, passages: dict[str, Passage]
) -> None:
    other = InMemoryVectorStore(embeddings)
    other.add_texts([each.text for each in passages.values()], ids=list(passages))
    found = other.similarity_search_with_score(QUESTION, k=3)
    hits = index.search(QUESTION, 3, rerank="none").hits
    assert [document.id for document, _ in found] == [hit.id for hit in hits]
    assert [score for _, score in found] == pytest.approx([hit.score for hit in hits], abs=1e-2)


def test_what_cannot_be_embedded_is_refused(embeddings: D2LLMEmbeddings) -> None:
    with pytest.raises(InputError, match="text 1 is blank"):
        embeddings.embed_documents(["one", ""])
    wrong: dict[str, Any] = {"student": "minilm", "model": "minilm"}
    with pytest.raises(ValidationError, match="instance of Student") as refused:
        D2LLMEmbeddings(**wrong)
    assert refused.value.error_count() == 2


async def test_the_event_loop_runs_on_while_texts_are_embedded(
    embeddings: D2LLMEmbeddings, loop_ran: threading.Event
) -> None:
    queries = [asyncio.create_task(embeddings.aembed_query(QUESTION)) for _ in range(3)]
    passages = asyncio.create_task(embeddings.aembed_documents([QUESTION]))
    await asyncio.sleep(0.01)
    loop_ran.set()
    vectors = await asyncio.gather(*queries)
    assert vectors == [embeddings.embed_query(QUESTION)] * 3
    assert len((await passages)[0]) == len(vectors[0])


def test_one_string_is_no_list_of_texts(student: Student) -> None:
    one: Any = "abc"
    with pytest.raises(InputError, match="texts='abc' is one string; wrap it in a list"):
        D2LLMEmbeddings(student=student).embed_documents(one)
