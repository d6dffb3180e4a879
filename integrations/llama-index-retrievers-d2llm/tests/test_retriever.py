from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
from llama_index.core.base.response.schema import Response
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
from llama_index.retrievers.d2llm import D2LLMRetriever
from qdrant_client import models

from d2llm_vdb import Index, Passage
from d2llm_vdb.errors import InputError
from d2llm_vdb.student import QueryVectors

LAMBDA = "What does a lambda expression create?"
LOOP = "Which statement leaves a loop early?"
AIRSHIP = "How does the airship travel?"


def about(topic: str) -> models.Filter:
    match = models.MatchValue(value=topic)
    return models.Filter(must=[models.FieldCondition(key="metadata.topic", match=match)])


def found(nodes: list[NodeWithScore]) -> list[tuple[str, float | None]]:
    return [(node.node_id, node.score) for node in nodes]


@pytest.fixture(scope="module")
def retriever(index: Index) -> D2LLMRetriever:
    return D2LLMRetriever(index, k=4)


def test_nodes_are_the_hits_of_the_index_in_its_order(
    retriever: D2LLMRetriever, index: Index
) -> None:
    nodes = retriever.retrieve(LAMBDA)
    hits = index.search(LAMBDA, 4).hits
    assert nodes[0].node_id == "lambda#0"
    assert found(nodes) == [(hit.id, hit.score) for hit in hits]
    assert [node.text for node in nodes] == [hit.text for hit in hits]
    assert [node.metadata["recall_score"] for node in nodes] == [hit.recall_score for hit in hits]
    assert [node.metadata["recall_rank"] for node in nodes] == [hit.recall_rank for hit in hits]


def test_a_node_knows_its_document_and_its_place_in_it(
    retriever: D2LLMRetriever, passages: dict[str, Passage]
) -> None:
    nodes = [result.node for result in retriever.retrieve(LAMBDA)]
    for node in nodes:
        assert isinstance(node, TextNode)
        passage = passages[node.node_id]
        assert node.ref_doc_id == passage.doc_id
        assert node.source_node is not None
        assert (node.start_char_idx, node.end_char_idx) == (passage.start, passage.end)
        assert node.metadata["source"] == passage.source


def test_offsets_and_source_that_are_unknown_are_left_out(index: Index, tmp_path: Any) -> None:
    with Index.open(tmp_path, index.student) as bare:
        bare.add([Passage("1", "A passage from nowhere.")])
        node = D2LLMRetriever(bare).retrieve("Where from?")[0].node
    assert isinstance(node, TextNode)
    assert (node.start_char_idx, node.end_char_idx) == (None, None)
    assert node.metadata.keys() == {"recall_score", "recall_rank"}
    assert node.ref_doc_id == "1"


@pytest.mark.parametrize("mode", [MetadataMode.LLM, MetadataMode.EMBED])
def test_models_are_shown_the_users_metadata_and_nothing_else(
    retriever: D2LLMRetriever, passages: dict[str, Passage], mode: MetadataMode
) -> None:
    node = retriever.retrieve(LAMBDA)[0].node
    shown = node.get_metadata_str(mode)
    assert [line.split(":")[0] for line in shown.splitlines()] == list(
        passages[node.node_id].metadata
    )


def test_keys_of_the_user_survive_and_are_shown_as_ever(
    retriever: D2LLMRetriever, passages: dict[str, Passage]
) -> None:
    node = retriever.retrieve(AIRSHIP)[0].node
    assert node.metadata == passages["clash"].metadata
    assert node.excluded_llm_metadata_keys == node.excluded_embed_metadata_keys == []


def test_changing_a_node_changes_nothing_stored(retriever: D2LLMRetriever) -> None:
    first = retriever.retrieve(LAMBDA)[0].node
    before = deepcopy(first.metadata)
    first.metadata["see"]["also"].append("changed")
    first.metadata.clear()
    assert retriever.retrieve(LAMBDA)[0].node.metadata == before


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
    ],
    ids=lambda options: "-".join(options),
)
async def test_options_hold_for_the_constructor_and_for_a_copy(
    index: Index, options: dict[str, Any]
) -> None:
    wanted = [(hit.id, hit.score) for hit in index.search(LOOP, **options).hits]
    assert wanted != [(hit.id, hit.score) for hit in index.search(LOOP).hits]
    plain = D2LLMRetriever(index)
    assert found(D2LLMRetriever(index, **options).retrieve(LOOP)) == wanted
    assert found(plain.with_options(**options).retrieve(LOOP)) == wanted
    assert found(await plain.with_options(**options).aretrieve(LOOP)) == wanted
    assert len(plain.retrieve(LOOP)) == 10


def test_an_option_may_be_set_on_the_retriever_too(index: Index) -> None:
    retriever = D2LLMRetriever(index)
    retriever.k = 3
    assert len(retriever.retrieve(LOOP)) == 3
    retriever.k = 0
    with pytest.raises(InputError, match="k=0"):
        retriever.retrieve(LOOP)


def test_none_in_a_copy_lifts_a_filter_and_a_threshold(index: Index) -> None:
    strict = D2LLMRetriever(index, k=5, filter=about("break"), score_threshold=0.01)
    assert [node.node_id for node in strict.retrieve(LOOP)] == ["break#0"]
    assert len(strict.with_options(filter=None, score_threshold=None).retrieve(LOOP)) == 5


def test_a_filter_reads_the_users_metadata(retriever: D2LLMRetriever) -> None:
    nodes = retriever.with_options(filter=about("while")).retrieve(LOOP)
    assert nodes
    assert {node.metadata["topic"] for node in nodes} == {"while"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k=0"),
        ({"k": "many"}, "k='many'"),
        ({"recall_k": -1}, "recall_k=-1"),
        ({"task": "guess"}, "task='guess'"),
        ({"rerank": "magic"}, "rerank='magic'"),
        ({"filter": {"must": []}}, "filter is dict"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused_by_name(
    index: Index, retriever: D2LLMRetriever, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        D2LLMRetriever(index, **options)
    with pytest.raises(InputError, match=message):
        retriever.with_options(**options)


def test_an_option_that_does_not_exist_is_refused(index: Index, retriever: D2LLMRetriever) -> None:
    unknown: dict[str, Any] = {"similarity_top_k": 3}
    with pytest.raises(TypeError, match="similarity_top_k"):
        D2LLMRetriever(index, **unknown)
    with pytest.raises(InputError, match="no search option 'similarity_top_k'; use k, recall_k"):
        retriever.with_options(**unknown)


def test_something_that_is_no_index_is_refused() -> None:
    path: Any = "my-db"
    with pytest.raises(InputError, match="index is str"):
        D2LLMRetriever(path)


async def test_a_query_bundle_is_searched_by_its_text(retriever: D2LLMRetriever) -> None:
    bundle = QueryBundle(LAMBDA, embedding=[1.0, 0.0])
    wanted = found(retriever.retrieve(LAMBDA))
    assert found(retriever.retrieve(bundle)) == wanted
    assert found(await retriever.aretrieve(bundle)) == wanted


@pytest.mark.parametrize("asynchronous", [False, True], ids=["query", "aquery"])
async def test_a_query_engine_answers_from_what_was_retrieved(
    retriever: D2LLMRetriever, passages: dict[str, Passage], asynchronous: bool
) -> None:
    # The mock LLM answers with its prompt, so the answer shows what an LLM would have read.
    engine = RetrieverQueryEngine.from_args(retriever.with_options(k=2), llm=MockLLM())
    response = await engine.aquery(LAMBDA) if asynchronous else engine.query(LAMBDA)
    assert isinstance(response, Response)
    answer = str(response)
    assert len(response.source_nodes) == 2
    assert LAMBDA in answer
    for result in response.source_nodes:
        assert passages[result.node_id].text.strip() in answer
        assert f"topic: {result.metadata['topic']}" in answer
    assert "recall_" not in answer
    assert "pydoc:" not in answer


async def test_the_event_loop_runs_on_while_searches_do(
    retriever: D2LLMRetriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every search waits, before it encodes, for what only a running event loop does.
    loop_ran = threading.Event()
    student = retriever.index.student
    encode = student.encode_queries

    def wait_then_encode(texts: list[str]) -> Iterator[QueryVectors]:
        assert loop_ran.wait(3), "the event loop stood still"
        return encode(texts)

    monkeypatch.setattr(student, "encode_queries", wait_then_encode)
    searches = [asyncio.create_task(retriever.aretrieve(LAMBDA)) for _ in range(4)]
    await asyncio.sleep(0.01)
    loop_ran.set()
    answers = await asyncio.gather(*searches)
    assert {nodes[0].node_id for nodes in answers} == {"lambda#0"}
