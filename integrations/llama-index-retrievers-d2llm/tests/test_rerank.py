from __future__ import annotations

from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode
from llama_index.retrievers.d2llm import D2LLMRerank, D2LLMRetriever
from pydantic import ValidationError

from d2llm_vdb import Index, Student
from d2llm_vdb.errors import InputError

QUERY = "Which statement leaves a loop early?"


@pytest.fixture
def nodes(index: Index) -> list[NodeWithScore]:
    return D2LLMRetriever(index, k=8, rerank="none").retrieve(QUERY)


@pytest.mark.parametrize(
    "options", [{}, {"task": "symmetric"}, {"rerank": "tokens"}], ids=lambda options: str(options)
)
async def test_nodes_of_a_recall_get_the_scores_of_a_search_that_reranks_without_bm25(
    student: Student, index: Index, nodes: list[NodeWithScore], options: dict[str, Any]
) -> None:
    reranker = D2LLMRerank(student=student, top_n=8, **options)
    hits = index.search(QUERY, 8, recall_k=8, hybrid=0, **options).hits
    for best in (
        reranker.postprocess_nodes(nodes, query_str=QUERY),
        await reranker.apostprocess_nodes(nodes, query_str=QUERY),
    ):
        assert [node.node_id for node in best] == [hit.id for hit in hits]
        assert [node.score for node in best] == pytest.approx(
            [hit.score for hit in hits], rel=5e-3, abs=1e-5
        )


def test_the_best_are_kept_and_the_nodes_given_stay_as_they_are(
    student: Student, nodes: list[NodeWithScore]
) -> None:
    before = [node.model_copy(deep=True) for node in nodes]
    best = D2LLMRerank(student=student, top_n=3, keep_retrieval_score=True).postprocess_nodes(
        nodes, query_str=QUERY
    )
    assert len(best) == 3
    assert nodes == before
    came_with = {node.node_id: node.score for node in before}
    for node in best:
        assert node.metadata["retrieval_score"] == came_with[node.node_id]
        for mode in (MetadataMode.LLM, MetadataMode.EMBED):
            assert "retrieval_score" not in node.node.get_content(mode)


def test_nodes_from_elsewhere_are_read_as_embedding_models_read_them(student: Student) -> None:
    texts = {"loop": "It ends the nearest enclosing loop.", "fish": "A cod lives in the sea."}
    nodes = [NodeWithScore(node=TextNode(id_=key, text=text)) for key, text in texts.items()]
    titled = TextNode(id_="titled", text="It does so.", metadata={"title": "Leaving a loop early"})
    scored = {
        node.node_id: node.score or 0
        for node in D2LLMRerank(student=student).postprocess_nodes(
            [*nodes, NodeWithScore(node=titled)], query_str=QUERY
        )
    }
    assert scored["loop"] > scored["fish"]
    [expected] = student.predict([(QUERY, titled.get_content(MetadataMode.EMBED))])
    assert scored["titled"] == pytest.approx(float(expected), rel=1e-3)
    assert "title: Leaving" in titled.get_content(MetadataMode.EMBED)


def test_a_node_without_text_comes_last(student: Student) -> None:
    nodes = [NodeWithScore(node=TextNode(id_=text, text=text)) for text in (" ", "break", "cod")]
    best = D2LLMRerank(student=student).postprocess_nodes(nodes, query_str=QUERY)
    assert (best[-1].node_id, best[-1].score) == (" ", 0.0)
    assert D2LLMRerank(student=student).postprocess_nodes([], query_str=QUERY) == []


async def test_a_reranking_is_told_as_llamaindexs_own_rerankers_tell_it(
    student: Student, nodes: list[NodeWithScore], recorder: Any
) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    reranker = D2LLMRerank(student=student, top_n=2, callback_manager=CallbackManager([debug]))
    best = await reranker.apostprocess_nodes(nodes, query_str=QUERY)
    start, end = recorder.events
    assert isinstance(start, ReRankStartEvent)
    assert isinstance(end, ReRankEndEvent)
    assert (start.top_n, len(start.nodes)) == (2, 8)
    assert start.model_name == f"d2llm/{student.fingerprint}"
    assert [node.node_id for node in end.nodes] == [node.node_id for node in best]
    assert len(debug.get_event_pairs(CBEventType.RERANKING)) == 1


def test_what_cannot_be_used_is_refused_by_name(
    student: Student, nodes: list[NodeWithScore]
) -> None:
    wrong: dict[str, Any]
    for wrong in ({"top_n": 0}, {"rerank": "none"}, {"task": "guess"}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            D2LLMRerank(student=student, **wrong)
    with pytest.raises(InputError, match="query_bundle is None"):
        D2LLMRerank(student=student).postprocess_nodes(nodes)


def test_it_is_written_without_its_student(student: Student) -> None:
    written = D2LLMRerank(student=student, top_n=4).to_dict()
    assert "student" not in written
    assert (written["class_name"], written["top_n"]) == ("D2LLMRerank", 4)


async def test_the_event_loop_runs_on_while_nodes_are_scored(
    student: Student, nodes: list[NodeWithScore], overlap: Any
) -> None:
    reranker = D2LLMRerank(student=student, top_n=1)
    several = await overlap(
        "encode_passages",
        *(reranker.apostprocess_nodes(nodes, query_str=QUERY) for _ in range(3)),
    )
    assert len({best[0].node_id for best in several}) == 1
