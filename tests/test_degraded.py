"""Searches whose reranking cannot read what it needs: an error, or recall's order that says so."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from conftest import hit_ids
from fault_proxy import Fault, FaultProxy, Line
from qdrant_client import QdrantClient
from test_cli import d2llm

from d2llm_vdb import Index, Passage, SearchResult, Student
from d2llm_vdb.errors import InputError, StoreError
from d2llm_vdb.search import SearchOptions
from d2llm_vdb.serve.answers import Found
from d2llm_vdb.store.columns import point_id

QUERY = "What does the assert statement do?"
DROP = Fault("drop")


def losing_the_second_request(proxy: FaultProxy) -> None:
    """Of the requests of a search: candidates are found, and not scored."""
    proxy.meet(None, DROP)


@pytest.fixture
def index(line: Line, student: Student, passages: list[Passage]) -> Any:
    with line.index(student, tokens="raw", retry_seconds=0) as index:
        index.add(passages[:12])
        index.search(QUERY)  # counts the passages
        yield index


@pytest.mark.parametrize("rerank", ["iem", "tokens"])
@pytest.mark.parametrize("awaited", [False, True])
def test_a_search_without_its_reranking_is_recalls_and_says_so(
    rerank: str,
    awaited: bool,
    index: Index,
    line: Line,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def search(**options: Any) -> SearchResult:
        if awaited:
            return asyncio.run(index.asearch(QUERY, 5, **options))
        return index.search(QUERY, 5, **options)

    asked: dict[str, Any] = {"rerank": rerank, "score_threshold": 0.4, "mmr_lambda": 0.5}
    recalled = search(rerank="none", hybrid=1.0)
    whole = search(rerank=rerank, allow_degraded=True)
    assert whole.degraded is None
    assert [(hit.id, hit.degraded) for hit in whole.hits] == [
        (hit.id, None) for hit in search(rerank=rerank).hits
    ]
    losing_the_second_request(line.proxy)
    result = search(**asked, allow_degraded=True)
    assert result.degraded is not None
    assert "no answer from Qdrant" in result.degraded
    assert {hit.degraded for hit in result.hits} == {result.degraded}
    assert result.score_kind == "rrf"
    assert [(hit.id, hit.score) for hit in result.hits] == [
        (hit.id, hit.score) for hit in recalled.hits
    ]
    assert [hit.recall_score for hit in result.hits] == pytest.approx(
        [hit.recall_score for hit in recalled.hits]
    )
    assert result.hits[0].explain().score_kind == "rrf"
    assert "not reranked: no answer" in caplog.text
    told = Found.of(result)
    assert told.degraded == json.loads(json.dumps(result.to_dict()))["degraded"] == result.degraded
    assert told.text().startswith("Not reranked, in the order of recall: no answer")


def test_unless_it_is_allowed_that_is_an_error(index: Index, line: Line) -> None:
    losing_the_second_request(line.proxy)
    with pytest.raises(StoreError, match="no answer from Qdrant"):
        index.search(QUERY)
    with pytest.raises(InputError, match="allow_degraded='yes' must be True or False"):
        SearchOptions(allow_degraded="yes")  # type: ignore[arg-type]


def test_groups_and_neighbours_are_those_of_recall(index: Index, line: Line) -> None:
    asked: dict[str, Any] = {"group_by": "metadata.initial", "neighbours": 1}
    expected = index.search(QUERY, 3, rerank="none", hybrid=0.0, **asked)
    losing_the_second_request(line.proxy)
    result = index.search(QUERY, 3, hybrid=0.0, allow_degraded=True, **asked)
    assert hit_ids(result) == hit_ids(expected)
    assert result.score_kind == "cosine"
    assert result.degraded is not None


@pytest.mark.parametrize("rerank", ["iem", "tokens"])
def test_a_candidate_without_its_vectors_is_told_from_one_that_is_gone(
    rerank: Any, student: Student, passages: list[Passage]
) -> None:
    with Index.open(":memory:", student, tokens="raw") as index:
        index.add(passages[:12])
        client: QdrantClient = index.store._client  # type: ignore[attr-defined]
        expected = index.search(QUERY, 12, rerank="none", hybrid=1.0)
        lost = expected.hits[3].id
        client.delete_vectors("d2llm", ["segments"], [point_id(lost)])
        assert lost not in hit_ids(index.search(QUERY, 12, rerank=rerank))
        result = index.search(QUERY, 12, rerank=rerank, allow_degraded=True)
        assert "1 of 12 candidates lack one of " in (result.degraded or "")
        assert hit_ids(result) == hit_ids(expected)

        find = index.store.query

        def gone_after_recall(queries: Any) -> Any:
            answers = find(queries)
            index.store.delete([lost])
            return answers

        index.store.query = gone_after_recall  # type: ignore[method-assign]
        result = index.search(QUERY, 12, rerank=rerank, allow_degraded=True)
        assert result.degraded is None
        assert len(result.hits) == 11


def test_on_the_command_line_it_is_said_above_the_times(index: Index, line: Line) -> None:
    given = ["--url", line.proxy.url, "-c", line.collection, "--retry-seconds", 0]
    given += ["--grpc-port", line.proxy.port] if line.proxy.http2 else ["--rest"]
    command = ["search", QUERY, *given]
    # Version, aliases, whether it exists, what it is, how many it has, candidates, scores.
    line.proxy.meet(None, None, None, None, None, None, DROP)
    assert d2llm(*command).exit_code == 1
    line.proxy.meet(None, None, None, None, None, None, DROP)
    shown = d2llm(*command, "--allow-degraded")
    assert shown.exit_code == 0, shown.stderr
    assert "not reranked, in the order of recall: no answer from Qdrant" in shown.stdout
    assert "score: rrf" in shown.stdout
