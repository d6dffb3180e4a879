from __future__ import annotations

import asyncio
import threading
from copy import deepcopy
from dataclasses import fields
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.runnables import ConfigurableField
from langchain_d2llm import D2LLMRetriever
from qdrant_client import QdrantClient, models

from d2llm_vdb import Index, Passage, SearchOptions, Student
from d2llm_vdb.errors import InputError, StoreError
from d2llm_vdb.store.columns import point_id

LAMBDA = "What does a lambda expression create?"
LOOP = "Which statement leaves a loop early?"


def about(topic: str) -> models.Filter:
    match = models.MatchValue(value=topic)
    return models.Filter(must=[models.FieldCondition(key="metadata.topic", match=match)])


@pytest.fixture(scope="module")
def retriever(index: Index) -> D2LLMRetriever:
    return D2LLMRetriever(index, k=4)


def test_documents_are_the_hits_of_the_index_in_its_order(
    retriever: D2LLMRetriever, index: Index
) -> None:
    documents = retriever.invoke(LAMBDA)
    hits = index.search(LAMBDA, 4).hits
    assert documents[0].id == "lambda#0"
    assert [(d.id, d.page_content) for d in documents] == [(h.id, h.text) for h in hits]
    assert [d.metadata["relevance_score"] for d in documents] == [h.score for h in hits]
    assert [d.metadata["recall_score"] for d in documents] == [h.recall_score for h in hits]
    assert [d.metadata["recall_rank"] for d in documents] == [h.recall_rank for h in hits]


def test_the_users_metadata_comes_back_with_the_scores_beside_it(
    retriever: D2LLMRetriever, passages: dict[str, Passage]
) -> None:
    for document in retriever.invoke(LAMBDA):
        assert document.id is not None
        passage = passages[document.id]
        added = {"relevance_score", "recall_score", "recall_rank"}
        added |= {"doc_id", "source", "chunk", "start", "end"}
        assert document.metadata.keys() == passage.metadata.keys() | added
        assert document.metadata.items() >= passage.metadata.items()
        assert document.metadata["doc_id"] == passage.doc_id
        assert document.metadata["source"] == passage.source


def test_keys_of_the_user_survive_except_the_relevance_score(retriever: D2LLMRetriever) -> None:
    document = retriever.invoke("How does the airship travel?", k=1)[0]
    score = document.metadata.pop("relevance_score")
    assert 0 < score < 1
    mine = dict.fromkeys(["recall_score", "recall_rank", "doc_id", "source"], "mine")
    assert document.metadata == {"chunk": 0} | mine


def test_changing_a_document_changes_nothing_stored(retriever: D2LLMRetriever) -> None:
    first = retriever.invoke(LAMBDA, k=1)[0]
    before = deepcopy(first.metadata)
    first.metadata["see"]["also"].append("changed")
    first.metadata.clear()
    assert retriever.invoke(LAMBDA, k=1)[0].metadata == before


def test_a_source_that_is_unknown_is_left_out(index: Index, tmp_path: Any) -> None:
    with Index.open(tmp_path, index.student) as bare:
        bare.add([Passage("1", "A passage from nowhere.")])
        metadata = D2LLMRetriever(bare).invoke("Where from?")[0].metadata
    assert metadata.keys() == {"relevance_score", "recall_score", "recall_rank", "doc_id"}
    assert metadata["doc_id"] == "1"


@pytest.mark.parametrize(
    "options",
    [
        {"k": 2},
        {"k": 2, "rerank": "none"},
        {"k": 3, "rerank": "tokens"},
        {"k": 2, "recall_k": 2},
        {"task": "symmetric"},
        {"score_threshold": 0.5},
        {"filter": about("break")},
        {"filter": {"topic": {"$in": ["break", "while"]}}},
        {"mmr_lambda": 0.1},
        {"group_by": "doc_id", "group_size": 2},
        {"k": 3, "offset": 2},
        {"tenant": "nobody"},
    ],
    ids=lambda options: "-".join(options),
)
async def test_options_hold_for_the_constructor_one_call_and_its_async_twin(
    index: Index, options: dict[str, Any]
) -> None:
    wanted = [(hit.id, hit.score) for hit in index.search(LOOP, **options).hits]
    assert wanted != [(hit.id, hit.score) for hit in index.search(LOOP).hits]

    def found(documents: list[Document]) -> list[tuple[str | None, float]]:
        return [(d.id, d.metadata["relevance_score"]) for d in documents]

    plain = D2LLMRetriever(index)
    assert found(D2LLMRetriever(index, **options).invoke(LOOP)) == wanted
    assert found(plain.invoke(LOOP, **options)) == wanted
    assert found(await plain.ainvoke(LOOP, **options)) == wanted
    assert found(plain.bind(**options).invoke(LOOP)) == wanted
    assert len(plain.invoke(LOOP)) == 10


def test_every_search_option_is_a_field_with_the_same_default(index: Index) -> None:
    retriever = D2LLMRetriever(index)
    for field in fields(SearchOptions):
        assert getattr(retriever, field.name) == field.default


@pytest.mark.parametrize("rerank", ["iem", "none"])
async def test_neighbours_are_there_when_asked_for(
    retriever: D2LLMRetriever, passages: dict[str, Passage], rerank: str
) -> None:
    question = "How are floating point literals written?"
    [document] = retriever.invoke(question, k=1, neighbours=1, rerank=rerank)
    assert document.id is not None
    doc_id, _, chunk = document.id.partition("#")
    for key, place in (("before", int(chunk) - 1), ("after", int(chunk) + 1)):
        beside = passages.get(f"{doc_id}#{place}")
        assert document.metadata.pop(key) == ([] if beside is None else [beside.text])
    [same] = await retriever.ainvoke(question, k=1, rerank=rerank)
    assert document == same


def test_only_neighbours_that_were_asked_for_replace_the_users_keys(student: Student) -> None:
    with Index.open(":memory:", student) as index:
        index.add([Passage("1", "A passage by itself.", {"before": "noon"})])
        retriever = D2LLMRetriever(index)
        assert retriever.invoke("By itself?")[0].metadata["before"] == "noon"
        assert retriever.invoke("By itself?", neighbours=1)[0].metadata["before"] == []


async def test_none_for_one_call_lifts_a_filter_and_a_threshold(index: Index) -> None:
    strict = D2LLMRetriever(index, k=5, filter=about("break"), score_threshold=0.001)
    assert [document.id for document in strict.invoke(LOOP)] == ["break#0"]
    for documents in (
        strict.invoke(LOOP, filter=None, score_threshold=None),
        await strict.ainvoke(LOOP, filter=None, score_threshold=None),
    ):
        assert len(documents) == 5


def test_a_filter_reads_the_users_metadata(retriever: D2LLMRetriever) -> None:
    documents = retriever.invoke(LOOP, filter=about("while"))
    assert documents
    assert {document.metadata["topic"] for document in documents} == {"while"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k=0"),
        ({"k": "many"}, "k='many'"),
        ({"recall_k": -1}, "recall_k=-1"),
        ({"task": "guess"}, "task='guess'"),
        ({"rerank": "magic"}, "rerank='magic'"),
        ({"filter": ["break"]}, "filter is list"),
        ({"filter": {"topic": {"$like": "b"}}}, r"filter\.topic has the operator '\$like'"),
        ({"mmr_lambda": 2}, "mmr_lambda=2"),
        ({"group_by": "topic"}, "group_by='topic'"),
        ({"neighbours": -1}, "neighbours=-1"),
    ],
)
async def test_an_option_that_cannot_be_used_is_refused_by_name(
    index: Index, retriever: D2LLMRetriever, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        D2LLMRetriever(index, **options)
    with pytest.raises(InputError, match=message):
        retriever.invoke(LOOP, **options)
    with pytest.raises(InputError, match=message):
        await retriever.ainvoke(LOOP, **options)


async def test_an_option_that_does_not_exist_is_refused(
    index: Index, retriever: D2LLMRetriever
) -> None:
    unknown: dict[str, Any] = {"top_k": 3}
    message = "has no option 'top_k'; it takes k, recall_k"
    with pytest.raises(InputError, match=message):
        D2LLMRetriever(index, **unknown)
    with pytest.raises(InputError, match=message):
        retriever.invoke(LOOP, **unknown)
    with pytest.raises(InputError, match=message):
        await retriever.ainvoke(LOOP, **unknown)


def test_something_that_is_no_index_is_refused() -> None:
    path: Any = "my-db"
    with pytest.raises(InputError, match=r"index is str, expected .*Index; make"):
        D2LLMRetriever(path)


def test_options_can_be_left_to_the_configuration_of_a_chain(retriever: D2LLMRetriever) -> None:
    chain = retriever.configurable_fields(k=ConfigurableField(id="k"))
    assert len(chain.invoke(LOOP)) == 4
    assert len(chain.invoke(LOOP, {"configurable": {"k": 2}})) == 2


async def test_a_batch_gives_what_single_calls_give(retriever: D2LLMRetriever) -> None:
    questions = [LAMBDA, LOOP, "How is a list written?"]
    ids = [[document.id for document in retriever.invoke(question)] for question in questions]
    for batch in (retriever.batch(questions), await retriever.abatch(questions)):
        assert [[document.id for document in documents] for documents in batch] == ids


async def test_the_event_loop_runs_on_while_searches_do(
    retriever: D2LLMRetriever, loop_ran: threading.Event
) -> None:
    searches = [asyncio.create_task(retriever.ainvoke(LAMBDA)) for _ in range(4)]
    await asyncio.sleep(0.01)
    loop_ran.set()
    answers = await asyncio.gather(*searches)
    assert {documents[0].id for documents in answers} == {"lambda#0"}


async def test_documents_that_could_not_be_reranked_say_so(student: Student) -> None:
    with Index.open(":memory:", student) as index:
        index.add([Passage("whole", "A lambda creates a function."), Passage("part", "A loop.")])
        client: QdrantClient = index.store._client  # type: ignore[attr-defined]
        client.delete_vectors("d2llm", ["segments"], [point_id("part")])
        retriever = D2LLMRetriever(index, allow_degraded=True)
        for documents in (retriever.invoke(LAMBDA), await retriever.ainvoke(LAMBDA)):
            assert {each.id for each in documents} == {"whole", "part"}
            for each in documents:
                assert "1 of 2 candidates have no segments" in each.metadata["degraded"]
        with pytest.raises(StoreError, match="have no segments: 'part'"):
            D2LLMRetriever(index).invoke(LAMBDA)
        index.delete(["part"])
        [document] = D2LLMRetriever(index).invoke(LAMBDA)
        assert "degraded" not in document.metadata
