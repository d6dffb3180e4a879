from __future__ import annotations

import asyncio
import threading
from copy import deepcopy
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.runnables import RunnablePassthrough
from langchain_d2llm import D2LLMCrossEncoder, D2LLMRerank, D2LLMRetriever
from pydantic import ValidationError

from d2llm_vdb import Index, Student
from d2llm_vdb.errors import InputError

LOOP = "Which statement leaves a loop early?"


def scores(documents: list[Document]) -> list[float]:
    return [document.metadata["relevance_score"] for document in documents]


@pytest.fixture(scope="module")
def recalled(index: Index) -> list[Document]:
    """What recall finds, in its order, with its scores."""
    return D2LLMRetriever(index, k=12, rerank="none").invoke(LOOP)


@pytest.mark.parametrize("rerank", ["iem", "tokens"])
async def test_documents_come_in_the_order_a_search_gives_them(
    index: Index, student: Student, recalled: list[Document], rerank: Any
) -> None:
    # BM25 knows the whole collection, and a reranker only the texts it is given.
    hits = index.search(LOOP, 12, recall_k=12, rerank=rerank, hybrid=0).hits
    reranker = D2LLMRerank(student=student, top_n=None, rerank=rerank)
    found = reranker.compress_documents(recalled, LOOP)
    assert [document.id for document in found] == [hit.id for hit in hits]
    assert [document.id for document in found] != [document.id for document in recalled]
    assert scores(found) == pytest.approx([hit.score for hit in hits], abs=5e-3)
    assert await reranker.acompress_documents(recalled, LOOP) == found


def test_the_best_are_kept_as_copies(student: Student) -> None:
    given = [
        Document("Bananas are yellow.", id="1", metadata={"deep": ["a"], "relevance_score": 9}),
        Document("The break statement ends the nearest enclosing loop."),
        Document("Loops repeat.", metadata={"page": 3}),
        Document("Rain falls."),
    ]
    before = deepcopy(given)
    found = D2LLMRerank(student=student).compress_documents(given, LOOP)
    assert len(found) == 3
    assert found[0].page_content == given[1].page_content
    assert scores(found) == sorted(scores(found), reverse=True)
    every = D2LLMRerank(student=student, top_n=None).compress_documents(given, LOOP)
    assert every[:3] == found
    for document in every:
        document.metadata.setdefault("deep", []).append("changed")
    assert given == before
    [banana] = (document for document in every if document.id == "1")
    assert 0 < banana.metadata["relevance_score"] < 1
    assert D2LLMRerank(student=student).compress_documents([], LOOP) == []


def test_the_task_reaches_the_student(student: Student) -> None:
    documents = [Document("The break statement ends the nearest enclosing loop.")]
    [answer] = D2LLMRerank(student=student).compress_documents(documents, LOOP)
    [same] = D2LLMRerank(student=student, task="symmetric").compress_documents(documents, LOOP)
    pair = [(LOOP, documents[0].page_content)]
    assert scores([answer]) == student.predict(pair).tolist()
    assert scores([same]) == student.predict(pair, task="symmetric").tolist()
    assert scores([answer]) != scores([same])


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"top_n": 0}, "top_n"),
        ({"top_n": True}, "top_n"),
        ({"rerank": "none"}, "rerank"),
        ({"task": "guess"}, "task"),
        ({"k": 3}, "k"),
    ],
)
def test_a_field_that_cannot_be_used_is_refused_by_name(
    student: Student, fields: dict[str, Any], name: str
) -> None:
    with pytest.raises(ValidationError, match=f"D2LLMRerank\n{name}\n"):
        D2LLMRerank(student=student, **fields)


def test_a_document_without_text_comes_last_and_a_query_without_is_refused(
    student: Student,
) -> None:
    given = [Document(text) for text in (" ", "Rain falls.", "The break statement ends a loop.")]
    found = D2LLMRerank(student=student).compress_documents(given, LOOP)
    assert [document.page_content for document in found[::2]] == [given[2].page_content, " "]
    assert scores(found)[-1] == 0.0
    with pytest.raises(InputError, match="query ' ' must be a string that is not blank"):
        D2LLMRerank(student=student).compress_documents(given, " ")


async def test_it_reranks_in_a_chain_what_another_retriever_found(
    index: Index, student: Student
) -> None:
    retriever = D2LLMRetriever(index, k=12, rerank="none")
    reranker = D2LLMRerank(student=student, top_n=2)

    def rerank(found: dict[str, Any]) -> list[Document]:
        return reranker.compress_documents(found["documents"], found["question"])

    chain = {"documents": retriever, "question": RunnablePassthrough()} | RunnablePassthrough()
    best = (chain | rerank).invoke(LOOP)
    hits = index.search(LOOP, 2, recall_k=12, hybrid=0).hits
    assert [document.id for document in best] == [hit.id for hit in hits]
    assert await (chain | rerank).ainvoke(LOOP) == best


async def test_the_event_loop_runs_on_while_documents_are_reranked(
    student: Student, loop_ran: threading.Event
) -> None:
    reranker = D2LLMRerank(student=student)
    tasks = [
        asyncio.create_task(reranker.acompress_documents([Document(text)], LOOP))
        for text in ("one", "two", "three")
    ]
    await asyncio.sleep(0.01)
    loop_ran.set()
    assert [found[0].page_content for found in await asyncio.gather(*tasks)] == [
        "one",
        "two",
        "three",
    ]


@pytest.mark.parametrize("rerank", ["iem", "tokens"])
def test_a_cross_encoder_scores_pairs_as_the_student_does(student: Student, rerank: Any) -> None:
    pairs = [(LOOP, "The break statement ends the loop."), ("What is rain?", "Bananas are yellow.")]
    found = D2LLMCrossEncoder(student=student, rerank=rerank).score(pairs)
    assert found == student.predict(pairs, rerank=rerank).tolist()
    assert found[0] > found[1]
    assert D2LLMCrossEncoder(student=student, rerank=rerank).score([]) == []
