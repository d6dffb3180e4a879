from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from llama_index.core.instrumentation.events.retrieval import RetrievalEndEvent
from llama_index.core.postprocessor import MetadataReplacementPostProcessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters, VectorStoreQuery
from llama_index.retrievers.d2llm import D2LLMRetriever, D2LLMVectorStore, qdrant_filter
from qdrant_client import QdrantClient, models

from d2llm_vdb import Index, Passage, Student
from d2llm_vdb.errors import InputError, StoreError
from d2llm_vdb.store.columns import point_id

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


def test_an_llm_is_shown_the_users_metadata_and_an_embedding_model_what_was_embedded(
    retriever: D2LLMRetriever, passages: dict[str, Passage]
) -> None:
    node = retriever.with_options(neighbours=1).retrieve(LAMBDA)[0].node
    shown = node.get_metadata_str(MetadataMode.LLM)
    passage = passages[node.node_id]
    assert [line.split(":")[0] for line in shown.splitlines()] == list(passage.metadata)
    assert node.get_content(MetadataMode.EMBED) == passage.text


def test_keys_of_the_user_survive_and_are_shown_as_ever(
    retriever: D2LLMRetriever, passages: dict[str, Passage]
) -> None:
    node = retriever.retrieve(AIRSHIP)[0].node
    assert node.metadata == passages["clash"].metadata
    assert node.excluded_llm_metadata_keys == []
    assert node.get_content(MetadataMode.EMBED) == passages["clash"].text


def test_neighbours_are_the_window_around_a_node_and_before_and_behind_it(
    retriever: D2LLMRetriever, passages: dict[str, Passage]
) -> None:
    long = next(each for each in passages.values() if each.chunks == 2 and each.chunk == 0)
    second = passages[f"{long.doc_id}#1"]
    query = long.text[:200]
    [alone] = retriever.with_options(k=1).retrieve(query)
    assert alone.node_id == long.id
    assert alone.node.next_node is None
    [found] = retriever.with_options(k=1, neighbours=2).retrieve(query)
    assert found.node.prev_node is None
    assert found.node.next_node is not None
    assert found.node.next_node.node_id == second.id
    replaced = MetadataReplacementPostProcessor("window").postprocess_nodes([found])
    assert replaced[0].text == f"{long.text}\n\n{second.text}"


def test_a_passage_without_neighbours_has_no_window(retriever: D2LLMRetriever) -> None:
    node = retriever.with_options(k=1, neighbours=1).retrieve(LAMBDA)[0].node
    assert "window" not in node.metadata
    assert node.prev_node is node.next_node is None


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
        {"hybrid": 0.0},
        {"mmr_lambda": 0.1},
        {"group_by": "doc_id"},
        {"offset": 3},
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


def test_the_options_of_a_retriever_may_be_replaced(index: Index) -> None:
    retriever = D2LLMRetriever(index)
    retriever.options = replace(retriever.options, k=3, rerank="none")
    assert len(retriever.retrieve(LOOP)) == retriever.similarity_top_k == 3
    retriever.similarity_top_k = 2
    assert len(retriever.retrieve(LOOP)) == 2
    assert retriever.options.rerank == "none"
    with pytest.raises(InputError, match="k=0"):
        retriever.similarity_top_k = 0


def test_none_in_a_copy_lifts_a_filter_and_a_threshold(index: Index) -> None:
    strict = D2LLMRetriever(index, k=5, filter=about("break"), score_threshold=0.001)
    assert [node.node_id for node in strict.retrieve(LOOP)] == ["break#0"]
    assert len(strict.with_options(filter=None, score_threshold=None).retrieve(LOOP)) == 5


def test_a_filter_reads_the_users_metadata(retriever: D2LLMRetriever) -> None:
    filters = MetadataFilters(filters=[MetadataFilter(key="topic", value="while")])
    for chosen in (about("while"), {"topic": "while"}, qdrant_filter(filters)):
        nodes = retriever.with_options(filter=chosen).retrieve(LOOP)
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
        ({"filter": ["topic"]}, "filter is list"),
        ({"filter": {"topic": {"$like": "w"}}}, "filter.topic has the operator '\\$like'"),
        ({"mmr_lambda": 2}, "mmr_lambda=2"),
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
    message = "has no option 'similarity_top_k'; it takes k, recall_k"
    with pytest.raises(InputError, match=message):
        D2LLMRetriever(index, **unknown)
    with pytest.raises(InputError, match=message):
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


async def test_a_retrieval_is_told_as_every_retriever_tells_it(
    retriever: D2LLMRetriever, recorder: Any
) -> None:
    nodes = retriever.retrieve(LAMBDA)
    await retriever.aretrieve(LAMBDA)
    assert recorder.names == ["RetrievalStartEvent", "RetrievalEndEvent"] * 2
    told = recorder.events[1]
    assert isinstance(told, RetrievalEndEvent)
    assert found(told.nodes) == found(nodes)
    assert told.span_id is not None
    assert told.span_id.startswith("D2LLMRetriever.retrieve")


async def test_the_event_loop_runs_on_while_searches_do(
    retriever: D2LLMRetriever, overlap: Any
) -> None:
    answers = await overlap("encode_queries", *(retriever.aretrieve(LAMBDA) for _ in range(4)))
    assert {nodes[0].node_id for nodes in answers} == {"lambda#0"}


async def test_nodes_that_could_not_be_reranked_say_so(student: Student) -> None:
    with Index.open(":memory:", student) as index:
        index.add([Passage("whole", "A lambda creates a function."), Passage("part", "A loop.")])
        client: QdrantClient = index.store._client  # type: ignore[attr-defined]
        client.delete_vectors("d2llm", ["segments"], [point_id("part")])
        retriever = D2LLMRetriever(index, allow_degraded=True)
        store = D2LLMVectorStore(index, allow_degraded=True)
        queried = store.query(VectorStoreQuery(query_str=LAMBDA, similarity_top_k=2)).nodes
        for nodes in (retriever.retrieve(LAMBDA), await retriever.aretrieve(LAMBDA), queried):
            assert nodes is not None
            assert {each.node_id for each in nodes} == {"whole", "part"}
            for each in nodes:
                assert "1 of 2 candidates have no segments" in each.metadata["degraded"]
        with pytest.raises(StoreError, match="have no segments: 'part'"):
            D2LLMRetriever(index).retrieve(LAMBDA)
        index.delete(["part"])
        [node] = D2LLMRetriever(index).retrieve(LAMBDA)
        assert "degraded" not in node.metadata
